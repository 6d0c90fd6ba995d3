//! The program's terminal, through the connection: the ordinary foreground, whose keeper is on another host.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use brant_migrate::wire::{Body, DataKind, Frame, Running};
use brant_migrate::{Link as Wire, Waited};

use super::transport::Connection;
use crate::cli::Done;
use crate::client::{Blocked, Foreground, Link, Outcome};
use crate::failure::{Failure, exit};
use crate::report::{Report, wait_status};

/// Stays until the program ends or the user leaves it alone.
pub(super) fn stay(report: &Report, connection: Connection, running: &Running, host: &str) -> Done {
    let broken = |error: std::io::Error| lost(running, host).why(error);
    let (ours, theirs) = UnixStream::pair().map_err(broken)?;
    let blocked = Blocked::new(true).map_err(broken)?;
    let link = Link::new(ours).map_err(broken)?;
    connection.link.interrupt_by(None);
    let wire = connection.link.clone().without_silence_limit();
    let bridge = std::thread::Builder::new().name("brant-bridge".into()).spawn(move || carry(&wire, theirs));
    bridge.map_err(broken)?;
    let outcome = Foreground::relay(link, blocked).run(true, true);
    match outcome {
        Outcome::Exited { status } => {
            connection.end();
            Ok(wait_status(status))
        }
        Outcome::Detached => {
            report.note(&format!(
                "\ndetached; {} goes on. Back to it, on {host}: brant attach {}",
                running.name, running.name
            ));
            Ok(0)
        }
        Outcome::HungUp => Ok(128 + libc::SIGHUP as u8),
        Outcome::Lost => Err(lost(running, host)),
    }
}

fn lost(running: &Running, host: &str) -> Failure {
    Failure::new("B-0915", exit::GAVE_UP, format!("the terminal of \"{}\" on {host} was lost", running.name))
        .why("the connection ended; the program was moved and goes on there")
        .next(format!("on {host}: brant attach {}", running.name))
}

/// Carries bytes both ways between the connection and a keeper or its client, until either end closes.
pub(in crate::cli) fn carry(wire: &Wire, local: UnixStream) {
    let mut buffer = [0; 32 * 1024];
    loop {
        match wire.receive_or(Some(local.as_fd())) {
            Ok(Waited::Frame(Frame::Relay(bytes))) => {
                if (&local).write_all(&bytes).is_err() {
                    break;
                }
            }
            Ok(Waited::Frame(Frame::Message(Body::End(_))) | Waited::Frame(Frame::Message(_))) | Err(_) => {
                break;
            }
            Ok(Waited::Frame(_) | Waited::Nothing) => {}
            Ok(Waited::Other) => match (&local).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if wire.send_data(DataKind::Relay, &buffer[..count]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            },
        }
    }
    let _ = local.shutdown(std::net::Shutdown::Both);
}
