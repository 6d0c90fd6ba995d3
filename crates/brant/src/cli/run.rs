//! `brant run`.

use std::ffi::{CString, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use brant_base::Pid;
use brant_connect::follow;
use brant_kernel::task::Window;
use nix::sys::termios::tcgetattr;
use nix::unistd::{dup2_stdin, dup2_stdout};
use serde_json::json;

use super::Done;
use super::attach::finish;
use crate::client::{Blocked, Foreground, LentTerminal, Link, Outcome, own_window};
use crate::failure::{Failure, exit};
use crate::job::{Meta, Runtime};
use crate::keeper::{Io, LaunchError, Launched, Wrapping, launch};
use crate::report::Report;

/// The wrapper of `--record`.
const RECORD: &str = "record";

/// Run a program as a job: with a name, findable, and independent of this terminal
///
/// In the foreground, brant passes input, output, signals and the exit code, and the program survives brant's
/// own end. With -t, Ctrl-P Ctrl-Q leaves the program alone; `brant attach` comes back to it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("wrapping").multiple(true)))]
pub(super) struct Run {
    /// The job's name; made from the command if left out
    #[arg(short, long)]
    name: Option<String>,
    /// Run in the background, with input from /dev/null and output into the job's log
    #[arg(short, long)]
    detach: bool,
    /// Give the program a terminal of its own
    #[arg(short, long)]
    terminal: bool,
    /// Put a wrapper on the program before its first instruction; may be given several times, the last is the outermost
    #[arg(long, value_name = "WRAPPER", group = "wrapping")]
    wrap: Vec<String>,
    /// With --wrap: programs that it executes get the wrappers too. Those that cannot be wrapped are executed without
    #[arg(short, long, requires = "wrapping")]
    follow_exec: bool,
    /// With --wrap or --record: append a line for each function that is mediated to this file
    #[arg(long, value_name = "FILE", requires = "wrapping")]
    log: Option<PathBuf>,
    /// Record its external state from its first instruction on, for `brant show`; that of programs that it executes too
    #[arg(long, group = "wrapping")]
    record: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self, report: &Report) -> Done {
        let shown: Vec<String> =
            self.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut wrappers = self.wrappers().map_err(|failure| Failure { exit: exit::OWN, ..failure })?;
        let log = super::wrap::open_log(self.log.as_deref()).map_err(Failure::into_own)?;
        // A program that is a script begins with the execution of another one.
        if self.follow_exec || self.record {
            let first = follow::own_path(Pid(std::process::id() as i32))
                .and_then(|brant| follow::wrapper(&brant, &log, &wrappers));
            wrappers.insert(0, first.map_err(|error| not_handed_on(&error))?);
        }
        let wrapping = Wrapping { wrappers, log };
        let reservation = Runtime::open()
            .and_then(|runtime| runtime.reserve(self.name.as_deref(), &shown))
            .map_err(Failure::into_own)?;
        let blocked =
            Blocked::new(self.terminal).map_err(|error| not_started(&shown, &LaunchError::Keeper(error)))?;
        let io = self.io();
        let lent = LentTerminal::remember();
        let command = c_strings(self.command);
        let started = launch(reservation, &command, &io, blocked.before(), wrapping);
        let Launched { meta, stream, said } = started.map_err(|error| not_started(&shown, &error))?;
        said.lines().for_each(|line| report.note(line));
        if self.detach {
            announce(report, &meta);
            return Ok(0);
        }
        let link = Link::new(stream).map_err(|error| not_started(&shown, &LaunchError::Keeper(error)))?;
        let outcome = if self.terminal {
            Foreground::relay(link, blocked).run(true, false)
        } else {
            let root = meta.root.map(|root| root.pid());
            let terminal = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned();
            let foreground = Foreground::waiter(link, blocked, root);
            // The program's ends of pipes must be its alone, or their other ends never see them close.
            if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
                let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
            }
            let outcome = foreground.run(false, false);
            let was_killed = matches!(outcome, Outcome::Exited { status } if status & 0x7f != 0);
            if let (true, Ok(terminal)) = (was_killed, terminal) {
                lent.put_right(terminal);
            }
            outcome
        };
        finish(report, &meta, outcome)
    }

    /// The record is next to the functions, so that it tells what is really opened where another wrapper gives something
    /// else in its place.
    fn wrappers(&self) -> Result<Vec<brant_connect::Wrapper>, Failure> {
        let is_named = self.wrap.iter().any(|name| name == RECORD);
        let record = (self.record && !is_named).then_some(RECORD);
        let names = record.into_iter().chain(self.wrap.iter().map(String::as_str));
        let mut wrappers = names.map(super::wrap::defined).collect::<Result<Vec<_>, _>>()?;
        wrappers.iter_mut().for_each(|wrapper| brant_wrappers::begin_at_start(&mut wrapper.options));
        Ok(wrappers)
    }

    fn io(&self) -> Io {
        if self.terminal {
            let settings = io::stdin().is_terminal().then(|| tcgetattr(io::stdin()).ok()).flatten();
            let window = own_window().filter(|window| window.rows > 0 && window.columns > 0);
            let usual = Window { rows: 24, columns: 80, x_pixels: 0, y_pixels: 0 };
            Io::Terminal { settings, window: window.unwrap_or(usual) }
        } else if self.detach {
            Io::Log
        } else {
            Io::Inherited
        }
    }
}

/// Arguments from the command line hold no zero bytes: the kernel ended them there.
fn c_strings(words: Vec<OsString>) -> Vec<CString> {
    words.into_iter().map(|word| CString::new(word.into_vec()).unwrap_or_default()).collect()
}

/// Says how the job is called.
fn announce(report: &Report, meta: &Meta) {
    if report.json {
        let pid = meta.root.map(|root| root.pid);
        report.json(json!({ "name": meta.name, "pid": pid, "keeper_pid": meta.keeper.pid }));
    } else {
        report.data(&meta.name);
    }
}

fn not_handed_on(error: &brant_connect::Error) -> Failure {
    Failure::of_error(error.code(), "the program was not started", error).into_own()
}

fn not_started(command: &[String], error: &LaunchError) -> Failure {
    let program = command.first().map_or("", String::as_str).escape_debug();
    match error {
        LaunchError::Exec(error) if error.kind() == io::ErrorKind::NotFound => {
            Failure::new("B-0101", exit::NOT_FOUND, format!("there is no program \"{program}\""))
                .why("it is neither a path to a file nor in any folder of PATH")
                .next("type the program's full path: brant run -- /path/to/program")
        }
        LaunchError::Exec(error) => {
            Failure::new("B-0102", exit::CANNOT_EXECUTE, format!("\"{program}\" cannot be executed"))
                .why(error)
                .next(format!("ls -l {program}"))
        }
        LaunchError::Wrap { code, why } => Failure::new(
            code,
            exit::OWN,
            format!("\"{program}\" was not started, as it could not be wrapped"),
        )
        .why(why)
        .next(format!("brant explain {code}")),
        LaunchError::Keeper(error) => Failure::new("B-0106", exit::OWN, "the job could not be started")
            .why(format!("setting up the process that keeps it failed: {error}"))
            .next("brant doctor"),
    }
}
