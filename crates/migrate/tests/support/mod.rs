//! Everything that can be said over the wire, as strategies.

use brant_migrate::wire::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    // Letters of one to four bytes.
    vec(any::<char>(), 0..40).prop_map(|letters| letters.into_iter().collect())
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..5)
}

fn hello() -> impl Strategy<Value = Hello> {
    (text(), any::<u32>(), text(), text(), any::<u32>(), text(), text()).prop_map(
        |(version, image_format, host, user, uid, machine, kernel_release)| Hello {
            version,
            image_format,
            host,
            user,
            uid,
            machine,
            kernel_release,
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let path = || vec(any::<u8>(), 0..30);
    let map_path = (path(), path()).prop_map(|(from, to)| MapPath { from, to });
    (option::of(text()), text(), vec(map_path, 0..4), any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |(name, files, map_paths, dry_run, attach, expected_bytes)| Asked {
            name,
            files,
            map_paths,
            dry_run,
            attach,
            expected_bytes,
        },
    )
}

fn running() -> impl Strategy<Value = Running> {
    (text(), any::<i32>(), any::<i32>(), any::<i32>(), any::<bool>()).prop_map(
        |(name, pid, inside_pid, keeper_pid, attached)| Running {
            name,
            pid,
            inside_pid,
            keeper_pid,
            attached,
        },
    )
}

fn failure() -> impl Strategy<Value = Failure> {
    let refused = (text(), option::of(any::<i32>()), text(), text(), text())
        .prop_map(|(code, pid, resource, why, hint)| Refused { code, pid, resource, why, hint });
    (text(), any::<u32>(), text(), text(), text(), vec(refused, 0..5))
        .prop_map(|(code, exit, what, why, next, refusals)| Failure { code, exit, what, why, next, refusals })
}

/// Any message.
fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        hello().prop_map(Body::Hello),
        asked().prop_map(Body::Asked),
        any::<u64>().prop_map(|bytes| Body::End(End { bytes })),
        texts().prop_map(|steps| Body::Planned(Planned { steps })),
        (text(), texts()).prop_map(|(image, warnings)| Body::Ready(Ready { image, warnings })),
        Just(Body::Go(Go {})),
        Just(Body::Still(Still {})),
        running().prop_map(Body::Running),
        failure().prop_map(Body::Failure),
    ]
}

/// Long stretches whose every byte is not worth a choice of its own.
pub(crate) fn many_bytes(length: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<u8>> {
    (any::<u32>(), length).prop_map(|(factor, length)| {
        (0..length as u32).map(|index| (index.wrapping_mul(factor) >> 13) as u8).collect()
    })
}

/// Any frame; those with bytes are short mostly.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    let bytes = || prop_oneof![9 => vec(any::<u8>(), 0..300), 1 => many_bytes(60_000usize..70_000)];
    prop_oneof![
        1 => Just(Frame::Alive),
        4 => body().prop_map(Frame::Message),
        1 => bytes().prop_map(Frame::Image),
        1 => bytes().prop_map(Frame::Relay),
    ]
}

/// Feeds `bytes` cut at `cuts`, over and over, and gives the frames and how it ended.
pub(crate) fn decode(bytes: &[u8], cuts: &[usize]) -> (Vec<Frame>, Result<usize, WireError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let at = cuts.next().map_or(rest.len(), |cut| (*cut).clamp(1, rest.len()));
        let (part, behind) = rest.split_at(at);
        rest = behind;
        decoder.feed(part);
        assert!((1..=DATA_BYTES_MAX + 5).contains(&decoder.wanted_bytes()));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        // What is kept is a frame that is not whole.
        assert!(decoder.held_bytes() < MESSAGE_BYTES_MAX + 5, "{} bytes are held", decoder.held_bytes());
    }
    (frames, Ok(decoder.held_bytes()))
}
