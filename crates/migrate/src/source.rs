//! The source's side: the phases, in order.

use std::time::{Duration, Instant};

use crate::wire::{Asked, Body, End, Go, Hello, Planned, Ready, Running, Still};
use crate::{Error, ImageStream, Interruption, Link};

/// What a source does on its own host. Each step says in what state it leaves the program.
pub trait Source {
    /// Why a step failed.
    type Failure: From<Error>;
    /// A program that is held still, written down.
    type Captured;

    /// Told where we are, before each phase.
    fn enters(&mut self, phase: Phase);

    /// Freezes the program and writes its image to `stream` and to a place of its own. The program stays frozen; on
    /// failure it runs on.
    fn capture(&mut self, stream: ImageStream) -> Result<(Self::Captured, u64), Self::Failure>;

    /// Makes the own copy of the image durable, and writes down, durably, that the program is about to be ended here.
    /// The program stays frozen; on failure it runs on.
    fn record(&mut self, captured: &mut Self::Captured, ready: &Ready) -> Result<(), Self::Failure>;

    /// Ends the program. On failure it runs on, whole.
    fn end(&mut self, captured: Self::Captured) -> Result<(), Self::Failure>;

    /// Writes down, durably, that the program is gone here and may be told to go there. The program is gone.
    fn given(&mut self) -> Result<(), Self::Failure>;

    /// The program runs there: removes what was written down, and the own copy of the image.
    fn finish(&mut self, running: &Running) -> Result<(), Self::Failure>;

    /// Whatever failed before the end: removes what was written down, as the program runs on.
    fn forget(&mut self);
}

/// Where the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Send,
    Build,
    Record,
    End,
    Given,
    Go,
    Finish,
}

/// Where the program is after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It runs on here. `is_held_there`: the destination may hold an image of it, which then is of no use.
    RunsHere { is_held_there: bool },
    /// It is gone here, and the destination was not told to run it: its image is held there, and here.
    Ended,
    /// It is gone here and the destination was told to run it; whether it does is not known.
    Given,
}

/// A hand-over that failed.
#[derive(Debug)]
pub struct GaveUp<F> {
    pub phase: Phase,
    pub standing: Standing,
    pub cause: F,
}

/// A hand-over that was done.
#[derive(Debug)]
pub struct Outcome<F> {
    pub running: Running,
    /// The image's length, in bytes.
    pub bytes: u64,
    /// What could not be tidied up.
    pub untidy: Option<F>,
}

/// The first phase: who is at the other end. Nothing has been touched.
pub fn greet(link: &Link, own: Hello) -> Result<Hello, Error> {
    link.await_magic()?;
    let Body::Hello(theirs) = link.receive_message("HELLO")? else {
        return Err(Error::Unexpected { got: "another message", wanted: "HELLO" });
    };
    link.send(Body::Hello(own))?;
    Ok(theirs)
}

/// What the destination would do, of an image's head that `send` writes.
pub fn compare<F: From<Error>>(
    link: &Link,
    asked: Asked,
    send: impl FnOnce(ImageStream) -> Result<u64, F>,
) -> Result<Planned, F> {
    link.send(Body::Asked(asked))?;
    let bytes = send(link.image_stream()).map_err(|failure| of_stream(link, failure))?;
    link.send(Body::End(End { bytes })).map_err(|error| link.last_words(error))?;
    match link.receive_message("PLANNED")? {
        Body::Planned(planned) => Ok(planned),
        _ => Err(Error::Unexpected { got: "another message", wanted: "PLANNED" }.into()),
    }
}

/// Hands the program over to a destination that has been greeted.
pub fn hand_over<S: Source>(
    link: &Link,
    asked: Asked,
    source: &mut S,
) -> Result<Outcome<S::Failure>, GaveUp<S::Failure>> {
    source.enters(Phase::Send);
    let (mut captured, bytes) =
        send(link, asked, source).map_err(|cause| runs_on(link, source, Phase::Send, cause, Held::No))?;

    source.enters(Phase::Build);
    let ready = match await_ready(link, bytes) {
        Ok(ready) => ready,
        Err(error) => {
            drop(captured);
            let held = if matches!(error, Error::Peer(_)) { Held::No } else { Held::UnlessItSaysNo };
            return Err(runs_on(link, source, Phase::Build, error.into(), held));
        }
    };

    // What interrupts us from here on is not obeyed: the rest takes a moment.
    let interruption = link.interrupt_by(None);
    source.enters(Phase::Record);
    if let Err(cause) = record(link, source, &mut captured, &ready) {
        drop(captured);
        return Err(runs_on(link, source, Phase::Record, cause, Held::UnlessItSaysNo));
    }
    source.enters(Phase::End);
    if let Err(cause) = source.end(captured) {
        return Err(runs_on(link, source, Phase::End, cause, Held::UnlessItSaysNo));
    }
    source.enters(Phase::Given);
    if let Err(cause) = source.given() {
        return Err(GaveUp { phase: Phase::Given, standing: Standing::Ended, cause });
    }

    source.enters(Phase::Go);
    let running = go(link, interruption).map_err(|error| GaveUp {
        phase: Phase::Go,
        standing: Standing::Given,
        cause: error.into(),
    })?;
    source.enters(Phase::Finish);
    let untidy = source.finish(&running).err();
    Ok(Outcome { running, bytes, untidy })
}

/// How long a destination may take to answer where it has nothing else to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

fn send<S: Source>(link: &Link, asked: Asked, source: &mut S) -> Result<(S::Captured, u64), S::Failure> {
    link.send(Body::Asked(asked)).map_err(|error| link.last_words(error))?;
    let _alive = link.alive();
    source.capture(link.image_stream()).map_err(|failure| of_stream(link, failure))
}

/// Writes down that the program is about to be ended, and makes sure that the destination still listens: one that was
/// lost after READY is found out while the program can go on here.
fn record<S: Source>(
    link: &Link,
    source: &mut S,
    captured: &mut S::Captured,
    ready: &Ready,
) -> Result<(), S::Failure> {
    link.send(Body::Still(Still {})).map_err(|error| link.last_words(error))?;
    source.record(captured, ready)?;
    match link.receive_message_within(ANSWER_TIMEOUT, "STILL")? {
        Some(Body::Still(_)) => Ok(()),
        Some(_) => Err(Error::Unexpected { got: "another message", wanted: "STILL" }.into()),
        None => Err(Error::Silent(ANSWER_TIMEOUT).into()),
    }
}

/// Whether the destination may keep an image.
enum Held {
    No,
    UnlessItSaysNo,
}

/// The program goes on already. Removes what was written down, here and there.
fn runs_on<S: Source>(
    link: &Link,
    source: &mut S,
    phase: Phase,
    cause: S::Failure,
    held: Held,
) -> GaveUp<S::Failure> {
    source.forget();
    link.interrupt_by(None);
    let is_told = cancel(link).is_ok();
    let is_held_there = match held {
        Held::No => false,
        Held::UnlessItSaysNo => !(is_told && has_thrown_away(link)),
    };
    GaveUp { phase, standing: Standing::RunsHere { is_held_there }, cause }
}

/// Tells the destination, where it still listens, that the program runs on here and the image is of no use.
fn cancel(link: &Link) -> Result<(), Error> {
    let failure = crate::wire::Failure { what: "the source gave up".to_string(), ..Default::default() };
    link.send(Body::Failure(failure))
}

/// Whether the destination says so. What it said before it had heard comes first.
fn has_thrown_away(link: &Link) -> bool {
    let until = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match link.receive_message_within(left, "FAILURE") {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(error) => return matches!(error, Error::Peer(_)),
        }
    }
}

/// What the stream met is the cause of what a capture says.
fn of_stream<F: From<Error>>(link: &Link, failure: F) -> F {
    link.take_failure().map_or(failure, F::from)
}

fn await_ready(link: &Link, bytes: u64) -> Result<Ready, Error> {
    link.send(Body::End(End { bytes })).map_err(|error| link.last_words(error))?;
    match link.receive_message("READY")? {
        Body::Ready(ready) => Ok(ready),
        _ => Err(Error::Unexpected { got: "another message", wanted: "READY" }),
    }
}

/// Says GO and waits for RUNNING. From here on the program is not ours any more, whatever comes back.
fn go(link: &Link, interruption: Option<Interruption>) -> Result<Running, Error> {
    link.send(Body::Go(Go {})).map_err(|error| link.last_words(error))?;
    let answer = match link.receive_message_within(ANSWER_TIMEOUT, "RUNNING")? {
        Some(answer) => answer,
        None => {
            // It hangs: now who does not want to wait for it need not.
            link.interrupt_by(interruption);
            link.receive_message("RUNNING")?
        }
    };
    match answer {
        Body::Running(running) => Ok(running),
        _ => Err(Error::Unexpected { got: "another message", wanted: "RUNNING" }),
    }
}
