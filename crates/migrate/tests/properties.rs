//! Whatever is said arrives as it was said, however the bytes are cut; whatever else comes is an error with a type.

mod support;

use brant_migrate::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{decode, frame, many_bytes};

/// A frame's head.
fn head(length: u32, kind: u8) -> Vec<u8> {
    [&length.to_le_bytes()[..], &[kind]].concat()
}

/// A frame that says it is a message.
fn message(body: &[u8]) -> Vec<u8> {
    [head(body.len() as u32 + 1, 2), body.to_vec()].concat()
}

fn greet(bytes: &[u8], cut: usize) -> Result<Option<(u32, Vec<u8>)>, WireError> {
    let mut greeting = Greeting::default();
    let mut parts = bytes.chunks(cut.max(1));
    let mut found = greeting.feed(parts.next().unwrap_or_default())?;
    for part in parts {
        match &mut found {
            Some((_, rest)) => rest.extend_from_slice(part),
            None => found = greeting.feed(part)?,
        }
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_said_arrives(frames in vec(frame(), 0..6), cuts in vec(1usize..5000, 1..6)) {
        let bytes: Vec<u8> = frames.iter().flat_map(encode).collect();
        let (arrived, end) = decode(&bytes, &cuts);
        prop_assert_eq!(end, Ok(0));
        prop_assert_eq!(arrived, frames);
    }

    #[test]
    fn a_part_of_a_frame_is_waited_for(frame in frame(), cut: prop::sample::Index) {
        let bytes = encode(&frame);
        let length = cut.index(bytes.len());
        let (arrived, end) = decode(&bytes[..length], &[7]);
        prop_assert_eq!((arrived.len(), end), (0, Ok(length)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2000), cuts in vec(1usize..300, 1..6)) {
        let (frames, _) = decode(&bytes, &cuts);
        for frame in frames {
            let (again, end) = decode(&encode(&frame), &[]);
            prop_assert_eq!((again, end), (vec![frame], Ok(0)));
        }
        let _ = greet(&bytes, cuts[0]);
    }

    #[test]
    fn arbitrary_messages_never_panic(bytes in vec(any::<u8>(), 0..300), tag in 1u8..10) {
        // As the body of each message there is.
        let mut wrapped = vec![tag << 3 | 2];
        wrapped.extend(if bytes.len() < 128 { vec![bytes.len() as u8] } else { vec![bytes.len() as u8 | 128, (bytes.len() >> 7) as u8] });
        wrapped.extend(bytes);
        let (frames, _) = decode(&message(&wrapped), &[]);
        for frame in frames {
            let (again, end) = decode(&encode(&frame), &[]);
            prop_assert_eq!((again, end), (vec![frame], Ok(0)));
        }
    }

    #[test]
    fn a_length_is_judged_before_its_bytes_come(length: u32, kind: u8) {
        let bytes_max = match kind {
            1 => 0,
            2 => MESSAGE_BYTES_MAX,
            3 | 4 => DATA_BYTES_MAX,
            _ => usize::MAX,
        };
        let (frames, end) = decode(&head(length, kind), &[]);
        let expected = match (length, bytes_max) {
            (0, _) => Err(WireError::Empty),
            (_, usize::MAX) => Err(WireError::Kind(kind)),
            (length, bytes_max) if length as usize - 1 > bytes_max => {
                Err(WireError::TooLong { bytes: u64::from(length) - 1, bytes_max })
            }
            _ if kind == 1 => Ok(0),
            _ if length == 1 => return Ok(()),
            _ => Ok(5),
        };
        prop_assert_eq!(end, expected);
        prop_assert_eq!(frames.len(), usize::from(kind == 1 && length == 1));
    }

    #[test]
    fn a_login_may_say_something_first(
        chatter in prop_oneof![vec(any::<u8>(), 0..300), many_bytes(CHATTER_BYTES_MAX - 20..=CHATTER_BYTES_MAX)],
        rest in vec(any::<u8>(), 0..50),
        cut in 1usize..9000,
    ) {
        let said = [&chatter[..], &magic_line(), &rest].concat();
        prop_assert_eq!(greet(&said, cut), Ok(Some((PROTOCOL, rest))));
    }

    #[test]
    fn chatter_has_a_limit(beyond in 1usize..100_000, cut in 1usize..9000) {
        let said = [vec![b'x'; CHATTER_BYTES_MAX + beyond], magic_line()].concat();
        prop_assert_eq!(greet(&said, cut), Err(WireError::Chatter { bytes_max: CHATTER_BYTES_MAX }));
    }

    #[test]
    fn failures_fit_into_a_message(count in 400usize..1200, text_bytes in 0usize..1500) {
        let mut failure = Failure::default();
        let text = "ß".repeat(text_bytes);
        let refused = Refused { resource: text.clone(), why: text.clone(), hint: text.clone(), ..Default::default() };
        failure.what = text;
        failure.refusals = vec![refused; count];
        let frame = Frame::Message(Body::Failure(failure.bounded()));
        let (arrived, end) = decode(&encode(&frame), &[]);
        prop_assert_eq!((arrived, end), (vec![frame], Ok(0)));
    }
}

#[test]
fn lines_fit_into_a_message() {
    let many = vec!["ß".repeat(1000); 5000];
    let planned = Planned { steps: many.clone() }.bounded();
    assert!(planned.steps.last().unwrap().contains("3000 more"));
    let ready = Ready { image: "0".to_string(), warnings: many }.bounded();
    for body in [Body::Planned(planned), Body::Ready(ready)] {
        let frame = Frame::Message(body);
        assert_eq!(decode(&encode(&frame), &[]), (vec![frame], Ok(0)));
    }
}

#[test]
fn a_first_line_is_judged() {
    let said = |text: &str| greet(text.as_bytes(), 3).map(|found| found.map(|(version, _)| version));
    assert_eq!(said("BRANT-MIGRATE 7\r\n"), Ok(Some(7)));
    assert_eq!(said("x\nBRANT-MIGRATE 7"), Ok(None));
    assert_eq!(said("BRANT-MIGRATE \n"), Err(WireError::Magic));
    assert_eq!(said("BRANT-MIGRATE 99999999999\n"), Err(WireError::Magic));
    assert_eq!(said(&format!("BRANT-MIGRATE {}", "1".repeat(100))), Err(WireError::Magic));
}

#[test]
fn messages_of_no_form_are_told_apart() {
    let end = |body: &[u8]| decode(&message(body), &[]).1;
    // Nothing, or a message of a later version.
    assert_eq!(end(&[]), Err(WireError::Unknown));
    assert_eq!(end(&[0x7a, 0]), Err(WireError::Unknown));
    // A part that is longer than the whole; a number without an end; a group.
    assert_eq!(end(&[0x0a, 5, 1]), Err(WireError::Malformed));
    assert_eq!(end(&[0xff; 12]), Err(WireError::Malformed));
    assert_eq!(end(&[0x0b, 0x0c]), Err(WireError::Malformed));
    // Text that is none.
    assert!(matches!(end(&[0x0a, 3, 0x0a, 1, 0xff]), Err(WireError::Message(_))));
    // Two bytes each that would become a hundred.
    let many = [0x32, 0].repeat(FIELDS_MAX);
    let length = [many.len() as u8 | 128, (many.len() >> 7) as u8 | 128, (many.len() >> 14) as u8];
    let bomb = [&[0x42][..], &length, &many].concat();
    assert_eq!(end(&bomb), Err(WireError::TooMany { fields_max: FIELDS_MAX }));
}
