//! Starting a program together with its keeper.
//!
//! The client forks the keeper, the keeper forks the program. From the keeper's fork on, the client may be
//! killed at any instant. Who is where:
//!
//! - With plain descriptors ([`Io::Inherited`]) the program stays in the client's session and process group,
//!   so that the user's terminal treats it as any foreground program (Ctrl-C, Ctrl-Z, reading). The keeper
//!   stays in the session too, in a group of its own: as parent of the program it keeps the group from being
//!   orphaned when the client dies (setpgid(2): stopped members of an orphaned group get SIGHUP).
//! - Otherwise the keeper and the program each lead a session of their own.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use brant_base::{Pid, fault};
use brant_connect::{Launch, Log, Wrapper};
use brant_kernel::task::{self, Fork, Window};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::termios::{SetArg, Termios, tcsetattr};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

use super::serve::{KeeperConfig, serve};
use crate::failure::{Failure, known_code};
use crate::job::{Meta, Process, Reservation};

/// What the program's descriptors 0 to 2 are.
#[derive(Debug, Clone)]
pub(crate) enum Io {
    /// The client's own.
    Inherited,
    /// /dev/null and a pipe into the job's log.
    Log,
    /// A new pseudo-terminal with these settings (`None`: the kernel's).
    Terminal { settings: Option<Termios>, window: Window },
}

/// What is put on the program before its first instruction.
#[derive(Debug)]
pub(crate) struct Wrapping {
    pub(crate) wrappers: Vec<Wrapper>,
    pub(crate) log: Log,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("the program could not be executed")]
    Exec(#[source] io::Error),
    #[error("its keeper could not be set up")]
    Keeper(#[source] io::Error),
    #[error("it could not be wrapped: {why}")]
    Wrap { code: &'static str, why: String },
}

impl From<io::Error> for LaunchError {
    fn from(error: io::Error) -> LaunchError {
        LaunchError::Keeper(error)
    }
}

impl From<nix::Error> for LaunchError {
    fn from(error: nix::Error) -> LaunchError {
        LaunchError::Keeper(error.into())
    }
}

/// A job that runs.
pub(crate) struct Launched {
    pub(crate) meta: Meta,
    /// A connection to its keeper, on which nothing has been said yet.
    pub(crate) stream: UnixStream,
    /// What is to be said of its wrappers, in lines.
    pub(crate) said: String,
}

/// Starts `command` as the reserved job; `program_mask` is the signal mask that the program gets. On an error nothing of it runs and the reservation is gone.
pub(crate) fn launch(
    mut reservation: Reservation,
    command: &[CString],
    io: &Io,
    program_mask: &SigSet,
    wrapping: Wrapping,
) -> Result<Launched, LaunchError> {
    let (ours, theirs) = UnixStream::pair()?;
    let (ready_read, ready_write) = pipe2(OFlag::O_CLOEXEC)?;
    let client = nix::unistd::getpid();
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))?;
    let forked = task::fork();
    if forked.as_ref().ok() != Some(&Fork::Child) {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
    }
    match forked? {
        Fork::Child => {
            drop((ours, ready_read));
            let mut ready = File::from(ready_write);
            let error = match keep(&mut reservation, command, io, program_mask, wrapping) {
                Ok((mut config, said)) => {
                    config.clients.push(theirs);
                    fault::reach("keeper.ready");
                    let _ = ready.write_all(&report(&Ok(said)));
                    drop(ready);
                    serve(config)
                }
                Err(error) => error,
            };
            if nix::unistd::getppid() != client {
                reservation.remove();
            }
            let _ = ready.write_all(&report(&Err(error)));
            task::exit_now(1)
        }
        Fork::Parent { child } => {
            drop((theirs, ready_write));
            let mut word = [0; 8];
            let mut ready = File::from(ready_read);
            let outcome = match ready.read_exact(&mut word) {
                Ok(()) => read_report(word, &mut ready),
                Err(error) => Err(LaunchError::Keeper(error)),
            };
            let said = match outcome {
                Ok(said) => said,
                Err(error) => {
                    let _ = task::wait_for(child);
                    return Err(error);
                }
            };
            let folder = reservation.folder().to_path_buf();
            let handed = reservation.hand_over();
            let meta = crate::job::Job::read(&folder).map_or(handed, |job| job.meta);
            Ok(Launched { meta, stream: ours, said })
        }
    }
}

/// The outcome as 8 bytes: who failed, and an errno; behind them a code and words, or what is to be said, where there is any.
fn report(outcome: &Result<String, LaunchError>) -> Vec<u8> {
    let (who, error) = match outcome {
        Ok(_) => (0i32, 0),
        Err(LaunchError::Exec(error)) => (1, error.raw_os_error().unwrap_or(libc::EIO)),
        Err(LaunchError::Keeper(error)) => (2, error.raw_os_error().unwrap_or(libc::EIO)),
        Err(LaunchError::Wrap { .. }) => (3, libc::EIO),
    };
    let mut said = Vec::new();
    said.extend(who.to_le_bytes());
    said.extend(error.to_le_bytes());
    match outcome {
        Err(LaunchError::Wrap { code, why }) => said.extend(format!("{code} {why}").into_bytes()),
        Ok(lines) => said.extend(lines.as_bytes()),
        Err(_) => {}
    }
    said
}

/// What the keeper said of the start, by its first byte: the program runs, could not be executed, or could not be
/// wrapped.
fn read_report(word: [u8; 8], rest: &mut File) -> Result<String, LaunchError> {
    let error = io::Error::from_raw_os_error(i32::from_le_bytes([word[4], word[5], word[6], word[7]]));
    match word[0] {
        0 => {
            let mut said = String::new();
            let _ = rest.read_to_string(&mut said);
            Ok(said)
        }
        1 => Err(LaunchError::Exec(error)),
        3 => {
            let mut said = String::new();
            let _ = rest.read_to_string(&mut said);
            let (code, why) = said.split_once(' ').unwrap_or_default();
            Err(LaunchError::Wrap { code: known_code(code), why: why.to_owned() })
        }
        _ => Err(LaunchError::Keeper(error)),
    }
}

/// In the keeper: sets itself up and starts the program.
fn keep(
    reservation: &mut Reservation,
    command: &[CString],
    io: &Io,
    program_mask: &SigSet,
    wrapping: Wrapping,
) -> Result<(KeeperConfig, String), LaunchError> {
    fault::reach("keeper.forked");
    let shares_session = matches!(io, Io::Inherited);
    if !shares_session {
        nix::unistd::setsid()?;
    }
    task::become_subreaper()?;
    let own =
        Process::now(Pid(nix::unistd::getpid().as_raw())).ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
    let meta = reservation.meta_mut();
    meta.keeper = own;
    meta.terminal = matches!(io, Io::Terminal { .. });
    meta.logged = !shares_session;
    reservation.publish().map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;

    fault::reach("keeper.published");

    let mut ends = Ends::open(io)?;
    // What may fail comes before the program.
    let listener = reservation.listener().map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (exec_read, exec_write) = pipe2(OFlag::O_CLOEXEC)?;
    let (held_read, held_write) = pipe2(OFlag::O_CLOEXEC)?;
    let root = match task::fork()? {
        Fork::Child => {
            drop(held_write);
            if !wrapping.wrappers.is_empty() {
                // Until the keeper holds this process.
                if File::from(held_read).read(&mut [0]).ok() != Some(1) {
                    task::exit_now(127);
                }
            }
            let error = become_program(&ends, io, command, program_mask);
            let _ =
                File::from(exec_write).write_all(&error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes());
            task::exit_now(127)
        }
        Fork::Parent { child } => child,
    };
    fault::reach("keeper.program-forked");
    drop(exec_write);
    let launch = match wrapping.wrappers.as_slice() {
        [] => None,
        _ => Some(Launch::hold(root).map_err(|error| not_wrapped(root, &error))?),
    };
    File::from(held_write).write_all(&[1])?;
    let mut errno = [0; 4];
    if File::from(exec_read).read_exact(&mut errno).is_ok() {
        let _ = task::wait_for(root);
        return Err(LaunchError::Exec(io::Error::from_raw_os_error(i32::from_le_bytes(errno))));
    }
    let wrapped = launch.map(|launch| launch.wrap(&wrapping.wrappers, &wrapping.log)).transpose();
    let wrapped = wrapped.map_err(|error| not_wrapped(root, &error))?.unwrap_or_default();
    let waiting = wrapped.iter().flat_map(|wrapped| &wrapped.waiting);
    let waiting = waiting.map(|function| format!("waits: {function}\n"));
    let both = wrapped.iter().zip(&wrapping.wrappers);
    let gaps = both.flat_map(|(wrapped, wrapper)| wrapped.gaps(wrapper));
    let said = waiting.chain(gaps.map(|gap| format!("not mediated: {}\n", gap.escape_debug()))).collect();
    let meta = reservation.meta_mut();
    meta.root = Process::now(root);
    meta.inside_pid = Some(root.0);
    let _ = reservation.publish();
    if shares_session {
        let _ = nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0));
    }
    if let Err(error) = stand_aside(&null, &reservation.meta_mut().name) {
        end_program(root);
        return Err(error.into());
    }
    let config = KeeperConfig {
        folder: reservation.folder().to_path_buf(),
        listener,
        terminals: ends.master.take().into_iter().collect(),
        outputs: ends.output.take().into_iter().collect(),
        clients: Vec::new(),
        root,
        status_pipe: None,
        go: None,
        end_with_root: false,
    };
    Ok((config, said))
}

/// The program was killed: nothing of it is to run.
fn not_wrapped(root: Pid, error: &brant_connect::Error) -> LaunchError {
    end_program(root);
    let failure = Failure::of_error(error.code(), "", error);
    let lines = match error {
        brant_connect::Error::Unhookable(functions) => {
            functions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        _ => failure.why,
    };
    LaunchError::Wrap { code: error.code(), why: lines }
}

/// It has begun, and must not go on without a keeper.
fn end_program(root: Pid) {
    let _ = brant_kernel::thread::kill(root);
    let _ = task::wait_for(root);
}

/// Lets go of everything that was the client's: descriptors, folder, name.
fn stand_aside(null: &File, name: &str) -> io::Result<()> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(null)?;
    task::close_inherited()?;
    let _ = std::env::set_current_dir("/");
    task::set_name(&format!("brant:{name}"));
    Ok(())
}

/// The keeper's ends of what the program reads and writes, and the program's.
struct Ends {
    master: Option<OwnedFd>,
    output: Option<OwnedFd>,
    program: Option<OwnedFd>,
}

impl Ends {
    /// The ends that a job's program and its keeper hold: none of their own, a pipe into the log, or a terminal.
    fn open(io: &Io) -> Result<Ends, LaunchError> {
        match io {
            Io::Inherited => Ok(Ends { master: None, output: None, program: None }),
            Io::Log => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                Ok(Ends { master: None, output: Some(read), program: Some(write) })
            }
            Io::Terminal { settings, window } => {
                let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
                grantpt(&master)?;
                unlockpt(&master)?;
                let slave = task::open_slave(&master)?;
                if let Some(settings) = settings {
                    tcsetattr(&slave, SetArg::TCSANOW, settings)?;
                }
                task::set_window(&slave, *window)?;
                Ok(Ends { master: Some(master.into()), output: None, program: Some(slave) })
            }
        }
    }
}

/// In the program's process: takes its place in the world and executes it. Returns only where that failed.
fn become_program(ends: &Ends, io: &Io, command: &[CString], mask: &SigSet) -> io::Error {
    let prepare = || -> io::Result<()> {
        if let Some(end) = &ends.program {
            let has_terminal = matches!(io, Io::Terminal { .. });
            task::lead_session(has_terminal.then_some(end.as_fd()))?;
            if has_terminal {
                dup2_stdin(end)?;
            } else {
                dup2_stdin(File::open("/dev/null")?)?;
            }
            dup2_stdout(end)?;
            dup2_stderr(end)?;
            (1..=64).for_each(task::default_signal);
            // What a shell left open by accident is no business of a program in the background.
            task::close_inherited()?;
        }
        // Rust's runtime ignores it; who started brant hardly did.
        task::default_signal(libc::SIGPIPE);
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?)
    };
    match prepare() {
        Ok(()) => task::exec(command),
        Err(error) => error,
    }
}
