//! A short, seeded fuzz run for CI: damaged streams, cut anywhere. No outcome is wrong but a panic, a frame that is
//! said again as another, or memory beyond what the longest frames need: this process may not take more.
//! `BRANT_FUZZ_COUNT` says how many streams are tried; `fuzz/` has the same for libFuzzer.

mod support;

use brant_migrate::wire::{Greeting, encode, magic_line};
use nix::sys::resource::{Resource, setrlimit};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::{decode, frame};

const COUNT_DEFAULT: u64 = 3000;
const SEED: [u8; 32] = *b"brant: frames of a foreign peer.";
/// More than this process has at the beginning, in bytes.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

#[test]
fn damaged_streams_never_panic() {
    let count = std::env::var("BRANT_FUZZ_COUNT").map_or(COUNT_DEFAULT, |count| count.parse().unwrap());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
    limit_memory();
    let frames = prop::collection::vec(frame(), 1..5);
    let (mut whole, mut refused, mut heard) = (0, 0, 0);
    let mut bytes = Vec::new();
    for number in 0..count {
        if number % 8 == 0 {
            let said = frames.new_tree(&mut runner).unwrap().current();
            bytes = said.iter().flat_map(encode).collect();
        }
        let mut damaged = bytes.clone();
        for _ in 0..=draw(&mut runner, 3) {
            mutate(&mut damaged, &mut runner);
        }
        let cuts = [1 + draw(&mut runner, 9000), 1 + draw(&mut runner, 40)];
        let (arrived, end) = decode(&damaged, &cuts);
        for frame in arrived {
            let (again, end) = decode(&encode(&frame), &[]);
            assert_eq!((again, end), (vec![frame], Ok(0)));
        }
        match end {
            Ok(_) => whole += 1,
            Err(_) => refused += 1,
        }
        heard += u64::from(greet(&damaged, cuts[0], &mut runner));
    }
    // The run must reach both sides of every check.
    let both = whole > 0 && refused > 0 && heard > 0 && heard < count;
    assert!(count < 100 || both, "{whole} whole, {refused} refused, {heard} heard");
}

/// A first line, damaged or not, with the bytes before and behind it.
fn greet(bytes: &[u8], cut: usize, runner: &mut TestRunner) -> bool {
    let mut line = magic_line();
    if draw(runner, 2) == 0 {
        mutate(&mut line, runner);
    }
    let (before, behind) = bytes.split_at(draw(runner, bytes.len() + 1));
    let said = [before, &line, behind].concat();
    let mut greeting = Greeting::default();
    said.chunks(cut).map(|part| greeting.feed(part)).any(|found| matches!(found, Ok(Some(_))))
}

/// Memory that is taken beyond the limit ends this process.
fn limit_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmData:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let bytes = (kib << 10) + MEMORY_BYTES_MAX;
    setrlimit(Resource::RLIMIT_DATA, bytes, bytes).unwrap();
}

fn draw(runner: &mut TestRunner, bound: usize) -> usize {
    runner.rng().random_range(0..bound.max(1))
}

/// Changes one thing: a byte, a length, a stretch of bytes, the end; or lets many small parts come.
fn mutate(bytes: &mut Vec<u8>, runner: &mut TestRunner) {
    if bytes.len() < 2 {
        return;
    }
    let at = draw(runner, bytes.len());
    match draw(runner, 8) {
        0 | 1 => bytes[at] ^= 1 << draw(runner, 8),
        2 => bytes[at] = draw(runner, 256) as u8,
        3 => {
            // The first frame's length and kind.
            let field = draw(runner, bytes.len().min(5));
            bytes[field] = draw(runner, 256) as u8;
        }
        4 => bytes.truncate(at),
        5 => {
            let extra: Vec<u8> = (0..draw(runner, 40)).map(|_| draw(runner, 256) as u8).collect();
            bytes.splice(at..at, extra);
        }
        6 => {
            let end = (at + draw(runner, 40)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let pair = [(draw(runner, 16) as u8) << 3 | 2, 0];
            let body = pair.repeat(1 << draw(runner, 21));
            let length = (body.len() as u32).to_le_bytes();
            // A failure's or an ask's parts, without end.
            let number = [0, 7, 14, 21].map(|shift| (u32::from_le_bytes(length) >> shift) as u8 & 0x7f);
            let number = [number[0] | 128, number[1] | 128, number[2] | 128, number[3]];
            let tag = [(1 + draw(runner, 8) as u8) << 3 | 2];
            let whole = [&(body.len() as u32 + 6).to_le_bytes()[..], &[2], &tag, &number, &body].concat();
            bytes.splice(0..0, whole);
        }
    }
}
