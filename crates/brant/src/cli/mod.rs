//! The command line: one file for each verb. What does not exist yet is absent.

mod attach;
mod build;
mod check;
mod checkpoint;
mod completions;
mod demo;
mod doctor;
mod explain;
mod follow;
mod heap;
mod image;
mod kill;
mod logs;
mod man;
mod mediate;
mod migrate;
mod ps;
#[cfg(test)]
mod quoted;
mod reach;
mod receive;
mod reference;
mod restore;
mod run;
mod saving;
mod show;
mod stop;
mod stream;
mod unwrap;
mod wrap;
mod wrappers;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;
use crate::report::{Color, Report};

/// Freeze a running program, write it down, and bring it back later, as a plain user.
#[derive(Debug, Parser)]
#[command(name = "brant", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed; 2 usage; 3 unsupported resource; 4 no such target or no \
permission; 5 host or files incompatible; 6 image corrupt; 7 disk, store or connection; 8 migrate gave up after it \
had reached the other host. run, attach and restore pass \
the program's own code (128 + signal where it was killed) and use 125 for their own failures, 126 and 127 \
for a program that cannot be executed or found, 76 where it was moved to another host."
)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
struct Shared {
    /// Print data as JSON, with a schema_version
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but data and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Ps(ps::Ps),
    Attach(attach::Attach),
    Logs(logs::Logs),
    Stop(stop::Stop),
    Kill(kill::Kill),
    Checkpoint(checkpoint::Checkpoint),
    Restore(restore::Restore),
    Migrate(migrate::Migrate),
    #[command(hide = true)]
    Receive(receive::Receive),
    Check(check::Check),
    Image(image::Images),
    Heap(heap::Heaps),
    Wrap(wrap::Wrap),
    Unwrap(unwrap::Unwrap),
    Wrappers(wrappers::Wrappers),
    #[command(hide = true, name = "follow-exec")]
    Follow(follow::Follow),
    Show(show::Show),
    Doctor(doctor::Doctor),
    Demo(demo::Demo),
    Explain(explain::Explain),
    Man(man::Man),
    Completions(completions::Completions),
    #[command(hide = true)]
    Reference(reference::Reference),
}

/// A verb's own exit code, or why it failed.
type Done = Result<u8, Failure>;

/// All verbs and options as clap knows them: manual pages, completions and the documentation are made from this.
fn grammar() -> clap::Command {
    let mut grammar = Cli::command();
    grammar.build();
    grammar
}

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let shared = &cli.shared;
    let report = Report::new(shared.json, shared.quiet, shared.verbose, shared.color);
    let done = match cli.verb {
        Verb::Run(verb) => verb.run(&report),
        Verb::Ps(verb) => verb.run(&report),
        Verb::Attach(verb) => verb.run(&report),
        Verb::Logs(verb) => verb.run(&report),
        Verb::Stop(verb) => verb.run(&report),
        Verb::Kill(verb) => verb.run(&report),
        Verb::Checkpoint(verb) => verb.run(&report),
        Verb::Restore(verb) => verb.run(&report),
        Verb::Migrate(verb) => verb.run(&report),
        Verb::Receive(verb) => verb.run(&report),
        Verb::Check(verb) => verb.run(&report),
        Verb::Image(verb) => verb.run(&report),
        Verb::Heap(verb) => verb.run(&report),
        Verb::Wrap(verb) => verb.run(&report),
        Verb::Unwrap(verb) => verb.run(&report),
        Verb::Wrappers(verb) => verb.run(&report),
        Verb::Follow(verb) => verb.run(),
        Verb::Show(verb) => verb.run(&report),
        Verb::Doctor(verb) => verb.run(&report),
        Verb::Demo(verb) => verb.run(&report),
        Verb::Explain(verb) => verb.run(&report),
        Verb::Man(verb) => verb.run(&report),
        Verb::Completions(verb) => verb.run(&report),
        Verb::Reference(verb) => verb.run(&report),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report.failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}
