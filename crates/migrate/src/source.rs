//! The source's side: the phases, in order.

use crate::wire::{Asked, Body, End, Go, Hello, Planned, Ready, Running};
use crate::{Error, ImageStream, Link};

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
    let gave_up =
        |phase, is_held_there, cause| GaveUp { phase, standing: Standing::RunsHere { is_held_there }, cause };

    source.enters(Phase::Send);
    let (mut captured, bytes) =
        send(link, asked, source).map_err(|cause| gave_up(Phase::Send, false, cause))?;

    source.enters(Phase::Build);
    let ready = await_ready(link, bytes).map_err(|error| {
        // Dropping the capture lets the program go on.
        source.forget();
        let is_held_there = !matches!(error, Error::Peer(_));
        cancel(link, &error);
        gave_up(Phase::Build, is_held_there, error.into())
    })?;

    // What interrupts us from here on is not obeyed: the rest takes a moment.
    link.interrupt_by(None);
    source.enters(Phase::Record);
    if let Err(cause) = source.record(&mut captured, &ready) {
        source.forget();
        cancel(link, &Error::Lost);
        return Err(gave_up(Phase::Record, true, cause));
    }
    source.enters(Phase::End);
    if let Err(cause) = source.end(captured) {
        source.forget();
        cancel(link, &Error::Lost);
        return Err(gave_up(Phase::End, true, cause));
    }
    source.enters(Phase::Given);
    if let Err(cause) = source.given() {
        return Err(GaveUp { phase: Phase::Given, standing: Standing::Ended, cause });
    }

    source.enters(Phase::Go);
    let running = go(link).map_err(|error| GaveUp {
        phase: Phase::Go,
        standing: Standing::Given,
        cause: error.into(),
    })?;
    source.enters(Phase::Finish);
    let untidy = source.finish(&running).err();
    Ok(Outcome { running, bytes, untidy })
}

fn send<S: Source>(link: &Link, asked: Asked, source: &mut S) -> Result<(S::Captured, u64), S::Failure> {
    link.send(Body::Asked(asked)).map_err(|error| link.last_words(error))?;
    let alive = link.alive();
    let captured = source.capture(link.image_stream()).map_err(|failure| of_stream(link, failure));
    drop(alive);
    if captured.is_err() {
        source.forget();
        cancel(link, &Error::Lost);
    }
    captured
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

fn go(link: &Link) -> Result<Running, Error> {
    link.send(Body::Go(Go {})).map_err(|error| link.last_words(error))?;
    match link.receive_message("RUNNING")? {
        Body::Running(running) => Ok(running),
        _ => Err(Error::Unexpected { got: "another message", wanted: "RUNNING" }),
    }
}

/// Tells the destination, where it still listens, that the program runs on here and the image is of no use.
fn cancel(link: &Link, cause: &Error) {
    if matches!(cause, Error::Peer(_)) {
        return;
    }
    let failure = crate::wire::Failure { what: "the source gave up".to_string(), ..Default::default() };
    let _ = link.send(Body::Failure(failure));
}
