//! The destination's side: the phases, in order.

use std::os::fd::BorrowedFd;

use crate::wire::{Asked, Body, Failure, Frame, Hello, Planned, Ready, Running, Still};
use crate::{Error, Link, Waited};

/// What a destination does on its own host.
pub trait Destination {
    /// Why a step failed.
    type Failure: From<Error> + Into<Failure>;
    /// A tree that is being built, or stands stopped. Dropped, nothing is left of it.
    type Building;

    /// Something is about to be sent, by the host that `from` names.
    fn begin(&mut self, asked: Asked, from: String) -> Result<(), Self::Failure>;

    /// Takes the image's next bytes. As soon as its head is there, everything that does not fit is an error.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Self::Failure>;

    /// What would be done; only the head has come.
    fn plan(&mut self) -> Result<Planned, Self::Failure>;

    /// Verifies the image, makes it durable, and marks it, durably and before it has a name, as one that must not run
    /// before the source says so. On failure nothing is left.
    fn hold(&mut self) -> Result<(), Self::Failure>;

    /// Begins to build the tree. It is stopped when it stands.
    fn build(&mut self) -> Result<Self::Building, Self::Failure>;

    /// Becomes readable when the tree stands or cannot.
    fn news(building: &Self::Building) -> BorrowedFd<'_>;

    /// The tree stands.
    fn ready(&mut self, building: &mut Self::Building) -> Result<Ready, Self::Failure>;

    /// READY has been sent: from here on the image may be the only copy.
    fn is_ready(&mut self);

    /// The program is ours: marks the image so, durably, and lets the tree go.
    fn run(&mut self, building: Self::Building) -> Result<Running, Self::Failure>;

    /// RUNNING has been said, or could not be: the image is of no more use.
    fn finish(&mut self);

    /// The program certainly runs on at the source: removes the image and its mark.
    fn discard(&mut self);
}

/// How it ended.
#[derive(Debug)]
pub enum Taken {
    /// The program runs here.
    Running(Running),
    /// It was a dry run.
    Planned,
}

/// A failure, and whether the source has heard of it.
type Step<T, D> = Result<T, <D as Destination>::Failure>;

/// Takes a program over. An error has been told to the source, where it could be.
pub fn take_over<D: Destination>(
    link: &Link,
    own: Hello,
    destination: &mut D,
    from: impl FnOnce(&Hello) -> String,
) -> Result<Taken, D::Failure> {
    let done = phases(link, own, destination, from);
    done.map_err(|failure| {
        let said: Failure = failure.into();
        let _ = link.send(Body::Failure(said.clone().bounded()));
        D::Failure::from(Error::Peer(Box::new(said)))
    })
}

/// The phases from the first line to the last message.
fn phases<D: Destination>(
    link: &Link,
    own: Hello,
    destination: &mut D,
    from: impl FnOnce(&Hello) -> String,
) -> Step<Taken, D> {
    link.say_magic()?;
    link.send(Body::Hello(own))?;
    let Body::Hello(theirs) = link.receive_message("HELLO")? else { return unexpected("HELLO") };
    let Body::Asked(asked) = link.receive_message("ASKED")? else { return unexpected("ASKED") };
    let is_dry = asked.dry_run;
    destination.begin(asked, from(&theirs))?;
    take_image(link, destination)?;
    if is_dry {
        let planned = destination.plan()?;
        link.send(Body::Planned(planned.bounded()))?;
        return Ok(Taken::Planned);
    }
    let held = {
        let _alive = link.alive();
        destination.hold()
    };
    held?;
    match stand(link, destination) {
        Ok(building) => go(link, destination, building).map(Taken::Running),
        Err(failure) => {
            // READY has not been said, so the source has not ended anything.
            destination.discard();
            Err(failure)
        }
    }
}

fn unexpected<T, F: From<Error>>(wanted: &'static str) -> Result<T, F> {
    Err(Error::Unexpected { got: "another message", wanted }.into())
}

/// The image, up to its end.
fn take_image<D: Destination>(link: &Link, destination: &mut D) -> Step<(), D> {
    let mut bytes = 0;
    loop {
        match link.receive()? {
            Frame::Image(part) => {
                bytes += part.len() as u64;
                destination.take(&part)?;
            }
            Frame::Message(Body::End(end)) if end.bytes == bytes => return Ok(()),
            Frame::Message(Body::Failure(failure)) => return Err(Error::Peer(Box::new(failure)).into()),
            other => return Err(Error::Unexpected { got: other.name(), wanted: "an image" }.into()),
        }
    }
}

/// Builds the tree and says so.
fn stand<D: Destination>(link: &Link, destination: &mut D) -> Step<D::Building, D> {
    let mut building = destination.build()?;
    match link.receive_or(Some(D::news(&building)))? {
        Waited::Other | Waited::Nothing => {}
        Waited::Frame(Frame::Message(Body::Failure(failure))) => {
            return Err(Error::Peer(Box::new(failure)).into());
        }
        Waited::Frame(other) => {
            return Err(Error::Unexpected { got: other.name(), wanted: "silence" }.into());
        }
    }
    let ready = destination.ready(&mut building)?;
    link.send(Body::Ready(ready.bounded()))?;
    destination.is_ready();
    Ok(building)
}

/// Waits for GO, and answers meanwhile. Without it the tree is dropped, stopped as it is, and the image stays held.
fn go<D: Destination>(link: &Link, destination: &mut D, building: D::Building) -> Step<Running, D> {
    loop {
        match link.receive()? {
            Frame::Message(Body::Go(_)) => break,
            Frame::Message(Body::Still(_)) => link.send(Body::Still(Still {}))?,
            Frame::Message(Body::Failure(failure)) => {
                // The source says itself that the program runs on there.
                drop(building);
                destination.discard();
                return Err(Error::Peer(Box::new(failure)).into());
            }
            other => return Err(Error::Unexpected { got: other.name(), wanted: "GO" }.into()),
        }
    }
    let running = destination.run(building)?;
    let said = link.send(Body::Running(running.clone()));
    destination.finish();
    // The program runs; who does not hear of it finds it with `brant ps`.
    drop(said);
    Ok(running)
}
