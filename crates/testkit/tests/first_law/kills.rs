//! brant, killed with SIGKILL at random instants of an operation.
//!
//! An instant is drawn uniformly over the operation's duration as it was measured just before, and a tenth beyond. The
//! clock starts when the process has become brant. What is drawn depends on the seed, the operation and the kill's
//! number alone: a failure prints all three, and `BRANT_SEED=… BRANT_KILL=NUMBER` draws that one again.

use std::process::Child;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brant_testkit::{Outcome, Sandbox, is_full, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::witness::{has_ended, states};

/// Of each operation where nothing else is asked for; `BRANT_KILLS` says how many CI wants.
const KILLS_SHORT: u32 = 12;
/// In the short run, of operations under many conditions.
const FEWER_BY: u64 = 4;
/// Some kills come when the operation is over: they do not count, and there must not be too many of them.
const ATTEMPTS_PER_KILL_MAX: u32 = 3;
/// After so many kills the operation is done whole, and measured again.
const MEASURED_EVERY: u32 = 25;
/// How long brant may take to be executed, to do its work, and to be gone when it was killed.
const BEGIN_TIMEOUT_S: u64 = 30;
const END_TIMEOUT_S: u64 = 120;
/// Between two looks whether brant has ended before its instant.
const SLICE: Duration = Duration::from_millis(2);

/// An operation of brant with the program that it is done to.
pub(crate) trait Operation {
    /// For messages, and to draw other instants than the next operation.
    const NAME: &'static str;

    fn sandbox(&self) -> &Sandbox;

    /// How brant may end when nobody kills it.
    fn codes(&self) -> &[i32] {
        &[0, 128 + 9]
    }

    /// Starts brant.
    fn start(&mut self, kill: &Kill) -> (Child, u32);

    /// Whether what is measured has been done: brant has ended, unless an operation says otherwise.
    fn is_over(&mut self, brant: &mut Child, _number: u32) -> bool {
        brant.try_wait().expect("our own child can be waited for").is_some()
    }

    /// Who is killed: brant itself, unless an operation has further processes that the law speaks of.
    fn victims(&self, brant: i32, _kill: &Kill) -> Vec<i32> {
        vec![brant]
    }

    /// What must hold when brant was killed, or had ended before.
    fn judge(&mut self, kill: &Kill, outcome: &Outcome);
}

/// One drawn instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    pub(crate) number: u32,
    /// The instant as a part of the operation's duration.
    pub(crate) part: f64,
    /// For whatever else is drawn.
    pub(crate) dice: u64,
}

/// Kills `operation` as often as is asked for, and judges each time.
pub(crate) fn at_random_instants<O: Operation>(operation: &mut O) {
    kill_often(operation, 1);
}

/// Kills `operation` at few instants; as often as is asked for where the counts are to be the long ones.
pub(crate) fn at_few_instants<O: Operation>(operation: &mut O) {
    kill_often(operation, if is_full() { 1 } else { FEWER_BY });
}

/// Kills `operation` a part as often as is asked for.
fn kill_often<O: Operation>(operation: &mut O, part: u64) {
    let (seed, only) = (seed(), from_environment("BRANT_KILL"));
    let asked = from_environment("BRANT_KILLS").unwrap_or(KILLS_SHORT.into());
    let wanted = if only.is_some() { 1 } else { asked.div_ceil(part) };
    let (mut killed, mut late, mut span) = (0, 0, Duration::ZERO);
    let begun = Instant::now();
    for number in 0.. {
        if killed == wanted {
            break;
        }
        assert!(
            u64::from(number) < wanted * u64::from(ATTEMPTS_PER_KILL_MAX),
            "{}: too many came late",
            O::NAME
        );
        let kill = draw(seed, O::NAME, only.map_or(number, |only| only as u32));
        let _told = Told(format!(
            "{} (kill {} of seed {seed}, at {:.3} of {span:?}); again with:\n  BRANT_SEED={seed} BRANT_KILL={} cargo test -p brant-testkit --test first_law {}",
            O::NAME,
            kill.number,
            kill.part,
            kill.number,
            O::NAME.replace(' ', "_"),
        ));
        if number % MEASURED_EVERY == 0 {
            span = measure(operation, &kill);
        }
        match once(operation, &kill, span) {
            None => killed += 1,
            // What else the machine does changes: this is how long it takes now.
            Some(duration) => (late, span) = (late + 1, duration),
        }
    }
    eprintln!(
        "{}: {killed} killed at random instants, {late} had ended before; seed {seed}, {:.0} s",
        O::NAME,
        begun.elapsed().as_secs_f64()
    );
}

/// Does the operation whole; gives its duration.
fn measure<O: Operation>(operation: &mut O, kill: &Kill) -> Duration {
    let (mut brant, number) = operation.start(kill);
    expect_begun(operation.sandbox(), &mut brant, number);
    let begun = Instant::now();
    let mut duration = None;
    // More often than `wait_until` looks: some operations fail soon.
    while duration.is_none() && begun.elapsed() < Duration::from_secs(END_TIMEOUT_S) {
        std::thread::sleep(SLICE / 20);
        duration = operation.is_over(&mut brant, number).then(|| begun.elapsed());
    }
    let _ = brant.kill();
    let status = brant.wait().expect("our own child can be waited for");
    let outcome = operation.sandbox().outcome(number, status);
    let duration = duration.unwrap_or_else(|| panic!("{} did not come to its end: {outcome:?}", O::NAME));
    let is_usual = operation.codes().contains(&outcome.code);
    assert!(is_usual, "{} ends without any kill with {outcome:?}", O::NAME);
    operation.judge(kill, &outcome);
    duration
}

/// Kills brant at the drawn instant; gives its duration if it had ended before.
fn once<O: Operation>(operation: &mut O, drawn: &Kill, span: Duration) -> Option<Duration> {
    let (mut brant, number) = operation.start(drawn);
    expect_begun(operation.sandbox(), &mut brant, number);
    let (begun, instant) = (Instant::now(), span.mul_f64(drawn.part));
    let is_done = |brant: &mut Child| brant.try_wait().expect("our own child can be waited for").is_some();
    while begun.elapsed() < instant && !is_done(&mut brant) {
        std::thread::sleep(instant.saturating_sub(begun.elapsed()).min(SLICE));
    }
    let duration = is_done(&mut brant).then(|| begun.elapsed());
    let victims = operation.victims(brant.id() as i32, drawn);
    for victim in &victims {
        let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
    }
    let mut status = None;
    let are_gone = wait_until(END_TIMEOUT_S, || {
        status = status.or_else(|| brant.try_wait().expect("our own child can be waited for"));
        status.is_some() && victims.iter().all(|victim| has_ended(*victim))
    });
    assert!(are_gone, "a killed brant is still there\n{}", states(operation.sandbox()));
    let outcome = operation.sandbox().outcome(number, status.expect("it was waited for"));
    operation.judge(drawn, &outcome);
    // It may have ended between the last look and the kill.
    if outcome.code == 128 + 9 { None } else { Some(duration.unwrap_or(instant)) }
}

/// Waits until the commands before it (user, descriptors) have executed brant, or it has ended already.
fn expect_begun(sandbox: &Sandbox, brant: &mut Child, number: u32) {
    let name = format!("/proc/{}/comm", brant.id());
    let deadline = Instant::now() + Duration::from_secs(BEGIN_TIMEOUT_S);
    while std::fs::read_to_string(&name).is_ok_and(|name| name.trim() != "brant") {
        let has_ended = brant.try_wait().expect("our own child can be waited for").is_some();
        if has_ended {
            return;
        }
        let err = || sandbox.text(&format!("brant-{number}.err"));
        assert!(Instant::now() < deadline, "brant was not executed: {}", err());
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn draw(seed: u64, name: &str, number: u32) -> Kill {
    let mut state = seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        state = scrambled(state ^ u64::from(byte));
    }
    let (instant, dice) = (scrambled(state), scrambled(state ^ 1));
    Kill { number, part: (instant >> 11) as f64 / (1_u64 << 53) as f64 * 1.1, dice }
}

/// One step of splitmix64.
fn scrambled(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Another one each time, unless `BRANT_SEED` names one.
fn seed() -> u64 {
    from_environment("BRANT_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        scrambled(now.as_nanos() as u64) >> 32
    })
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Says what was done when a check fails.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at: {}", self.0);
        }
    }
}
