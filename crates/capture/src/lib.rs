//! The only producer of images: discovers a process tree, finds what stands in the way, freezes it, writes it down and
//! lets it go on.
//!
//! State of the target: whatever fails, in every phase, the tree runs on as it was; so it does when brant is killed
//! (see `freeze` and `brant_kernel::remote::Hand`). It ends only by [`Captured::end`].
#![forbid(unsafe_code)]

mod beholder;
mod collect;
mod copies;
mod error;
mod files;
mod freeze;
mod headroom;
mod mounts;
mod preflight;
mod refusals;
mod sleep;
mod support;
mod tables;
mod tree;

use std::io::Write;
use std::time::{Duration, Instant};

use brant_base::{Pid, Refusals, fault};
use brant_image::model::{Carried, Checkpoint, PageOwner, Process};
use brant_image::{Codec, Summary, Writer};
use brant_kernel::facts::HostFacts;
use brant_kernel::proc;
use brant_kernel::remote::Memory;

pub use beholder::{Beheld, Beholder, Nobody};
pub use copies::CopiedStanding;
pub use error::Error;
pub use refusals::EXPLANATIONS;
pub use support::{Area, SUPPORT, Support, Verdict};
pub use tables::Carry;
pub use tree::Member;

use beholder::Said;
use collect::memory::Part;
use copies::Copies;
use freeze::Frozen;
use tables::Tables;

/// How often a tree that runs is looked at before a blocker is believed, and the pause between.
const CHECK_ROUNDS: usize = 4;
const CHECK_PAUSE: Duration = Duration::from_millis(5);
/// How long a look waits for a vfork in progress to be over.
const VFORK_WAIT: Duration = Duration::from_secs(1);
/// How long all is tried anew because somebody is just changing a process, or for a better moment, and the pause between.
const CHANGE_WAIT: Duration = Duration::from_secs(20);
const CHANGE_PAUSE: Duration = Duration::from_millis(20);
/// How often a better moment is looked for in a tree that stands, and for how long threads run for it each time: on a busy
/// machine they need long to get a processor.
const SETTLE_ROUNDS: u32 = 16;
const SETTLE_PAUSE: Duration = Duration::from_micros(100);
const SETTLE_PAUSE_MAX: Duration = Duration::from_millis(20);
const SETTLE_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How a checkpoint is taken.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the tree may take to come to a stop.
    pub freeze_timeout: Duration,
    /// The tree stays frozen until it is ended or dropped.
    pub stop: bool,
    /// Where the tree runs on, private memory is written from copies, while it does.
    pub copy: bool,
    pub codec: Codec,
    /// Which files that have their names travel in the image.
    pub carry: Carry,
    /// The job's name, for the image.
    pub job: Option<String>,
    /// What could not be brought back anywhere, of a tree whose state is known: asked before anything is written.
    pub never_restored: fn(&Checkpoint) -> Refusals,
    /// Looks at the tree while it stands still.
    pub beholder: &'static dyn Beholder,
}

/// A written image whose tree is still held, where that was asked for. Dropping it lets the tree go on.
pub struct Captured<W> {
    pub sink: W,
    pub summary: Summary,
    /// For how long the tree stood still; up to now where it is still held.
    pub pause: Duration,
    pub processes: usize,
    pub threads: usize,
    /// Processes that were to run on while their memory was written, and stood still.
    pub copied_standing: Vec<CopiedStanding>,
    frozen: Option<Frozen>,
}

impl<W> Captured<W> {
    /// Ends the tree: the image is safe. Without `stop` in the options it does nothing.
    pub fn end(self) -> Result<W, Error> {
        if let Some(frozen) = self.frozen {
            frozen.end()?;
        }
        Ok(self.sink)
    }
}

/// Every blocker of a checkpoint of the tree under `roots`, without touching it.
///
/// The tree runs meanwhile: a child that is born between two glances looks like a stranger who holds its pipes. Only
/// what stands in the way in every round is one; the look after the freeze, when nothing moves, decides.
pub fn check(roots: &[Pid], facts: &HostFacts, beholder: &dyn Beholder) -> Result<Refusals, Error> {
    check_carrying(roots, facts, &Carry::default(), beholder)
}

/// As [`check`]; reads what is slow to read of files that are to travel.
fn check_carrying(
    roots: &[Pid],
    facts: &HostFacts,
    carry: &Carry,
    beholder: &dyn Beholder,
) -> Result<Refusals, Error> {
    let mut standing = look_once(roots, facts, carry)?;
    let begin = Instant::now();
    // The child of a vfork borrows its parent's memory only until it executes something.
    let may_pass = |refusals: &Refusals| {
        refusals.0.iter().any(|refusal| refusal.code == preflight::SHARED_BY_CLONE)
            && begin.elapsed() < VFORK_WAIT
    };
    let is_changed = || begin.elapsed() < CHANGE_WAIT && is_passing(roots, beholder);
    // Whoever changed something during a look may be done when that is asked for, so what was seen then proves nothing.
    let (mut rounds, mut was_changed) = (1, true);
    while !standing.is_empty()
        && (rounds < CHECK_ROUNDS || may_pass(&standing) || was_changed || is_changed())
    {
        rounds += 1;
        std::thread::sleep(CHECK_PAUSE);
        was_changed = is_changed();
        let again = look_once(roots, facts, carry)?;
        standing.0.retain(|refusal| again.0.contains(refusal));
    }
    Ok(standing)
}

fn is_passing(roots: &[Pid], beholder: &dyn Beholder) -> bool {
    beholder.is_passing(&tree::discover(roots).iter().map(|member| member.host).collect::<Vec<_>>())
}

/// About how many bytes of files that have names would travel. Nothing is touched.
pub fn carried_bytes(roots: &[Pid], facts: &HostFacts, carry: &Carry) -> Result<u64, Error> {
    if !carry.mapped && !carry.opened {
        return Ok(0);
    }
    let members = found(roots)?;
    let mut tables = Tables::new(carry.clone());
    preflight::look(&members, &mut tables, facts)?;
    Ok(tables.carried_bytes())
}

fn look_once(roots: &[Pid], facts: &HostFacts, carry: &Carry) -> Result<Refusals, Error> {
    let members = found(roots)?;
    let mut tables = Tables::new(carry.clone());
    preflight::look(&members, &mut tables, facts).map(|(_, refusals)| refusals)
}

/// Takes a checkpoint of the tree under `roots` (host numbers; the first one gives it its name) and writes it to `sink`.
/// On return the tree runs on, unless `options.stop` keeps it frozen in [`Captured`].
pub fn checkpoint<W: Write>(
    roots: &[Pid],
    facts: &HostFacts,
    options: &Options,
    sink: impl FnOnce() -> Result<W, Error>,
) -> Result<Captured<W>, Error> {
    let refusals = check_carrying(roots, facts, &options.carry, options.beholder)?;
    refusals.into_result(()).map_err(Error::Refused)?;
    let sink = sink()?;
    let Still { frozen, members, said, mut tables, checkpoint, started } = hold_still(roots, facts, options)?;
    fault::reach("capture.described");
    let mut writer = Writer::create(sink, &checkpoint, options.codec)?;
    let copies = match options.copy && !options.stop {
        true => Copies::make(&frozen, &checkpoint)?,
        false => Copies::default(),
    };
    fault::reach("capture.copied");
    tables.write_contents(&mut writer)?;
    write_notes(&members, &said, &mut writer)?;
    write_standing((&members, &said), &checkpoint, &copies, &mut writer)?;
    let threads = frozen.processes.iter().map(|process| process.threads.len()).sum();
    let frozen = if options.stop {
        Some(frozen)
    } else {
        frozen.thaw();
        fault::reach("capture.thawed");
        None
    };
    let pause = started.elapsed();
    write_copied((&members, &said), &checkpoint, &copies, &mut writer)?;
    tables.write_carried(Carried::Copy, &mut writer)?;
    fault::reach("capture.written");
    let copied_standing = copies.standing;
    let (sink, summary) = writer.finish()?;
    Ok(Captured { sink, summary, pause, processes: members.len(), threads, copied_standing, frozen })
}

/// What a checkpoint would describe, without any contents: the tree stands still for a moment and runs on.
pub fn describe_only(roots: &[Pid], facts: &HostFacts, options: &Options) -> Result<Checkpoint, Error> {
    check(roots, facts, options.beholder)?.into_result(()).map_err(Error::Refused)?;
    let Still { frozen, checkpoint, .. } = hold_still(roots, facts, options)?;
    frozen.thaw();
    Ok(checkpoint)
}

/// A frozen tree, described.
struct Still {
    frozen: Frozen,
    members: Vec<Member>,
    /// By the beholder, of each member.
    said: Vec<Said>,
    tables: Tables,
    checkpoint: Checkpoint,
    started: Instant,
}

/// How often a tree is let go again because something was on its way (B-0336), or traced (B-0301), just then, and for how long: longer
/// and longer, as it may need a processor to fetch it.
const PASSING_ROUNDS: u32 = 10;
const PASSING_PAUSE: Duration = Duration::from_millis(30);
const PASSING_PAUSE_MAX: Duration = Duration::from_millis(250);

/// Freezes the tree and describes it. On failure it runs on.
fn hold_still(roots: &[Pid], facts: &HostFacts, options: &Options) -> Result<Still, Error> {
    let begin = Instant::now();
    let (mut rounds, mut pause) = (1, PASSING_PAUSE);
    loop {
        // A tracer that was not there before, too, may be done already with what it had begun.
        let passes = |refusals: &Refusals| {
            refusals.0.iter().all(|refusal| ["B-0336", "B-0301"].contains(&refusal.code))
        };
        let was_passing = is_passing(roots, options.beholder);
        match hold_still_once(roots, facts, options) {
            Err(Error::Passing(_) | Error::Unsettled(_)) if begin.elapsed() < CHANGE_WAIT => {
                std::thread::sleep(CHANGE_PAUSE)
            }
            Err(Error::Refused(_) | Error::Seize { .. } | Error::DoesNotStop { .. })
                if begin.elapsed() < CHANGE_WAIT && (was_passing || is_passing(roots, options.beholder)) =>
            {
                std::thread::sleep(CHANGE_PAUSE);
            }
            Err(Error::Refused(refusals)) if passes(&refusals) && rounds < PASSING_ROUNDS => {
                rounds += 1;
                std::thread::sleep(pause);
                pause = (pause * 2).min(PASSING_PAUSE_MAX);
            }
            other => return other,
        }
    }
}

/// Freezes the tree and describes it. With an error all of it is let go as it was.
fn hold_still_once(roots: &[Pid], facts: &HostFacts, options: &Options) -> Result<Still, Error> {
    let started = Instant::now();
    let is_passing = || is_passing(roots, options.beholder);
    let frozen = freeze::freeze(roots, options.freeze_timeout, &is_passing)?;
    let (frozen, is_settled) = settle(frozen, roots, options, &is_passing)?;
    fault::reach("capture.frozen");
    let members = frozen.members();
    if options.beholder.is_passing(&frozen.hosts()) {
        return Err(Error::Passing(roots[0]));
    }
    if !is_settled {
        return Err(Error::Unsettled(roots[0]));
    }
    let mut tables = Tables::new(options.carry.clone());
    // What has come into being since is found before anything is changed.
    let (survey, refusals) = preflight::look(&members, &mut tables, facts)?;
    refusals.into_result(()).map_err(Error::Refused)?;
    let mut checkpoint = describe(&frozen, roots, facts, options, &mut tables)?;
    survey.collect(&mut checkpoint)?;
    tables.fill(&mut checkpoint)?;
    let mut never = (options.never_restored)(&checkpoint);
    never.0.iter_mut().for_each(|refusal| refusal.code = "B-0312");
    never.into_result(()).map_err(Error::Refused)?;
    let ask = |(member, process): (&Member, &Process)| match &process.body {
        Some(body) => beholder::ask(options.beholder, member, &body.memory),
        None => Said::default(),
    };
    let said = members.iter().zip(&checkpoint.processes).map(ask).collect();
    Ok(Still { frozen, members, said, tables, checkpoint, started })
}

/// Lets threads that stand at a bad moment go on to a better one while all others stand, as a moment that is good for each of many
/// may never come. Also tells whether all stand well then.
fn settle(
    mut frozen: Frozen,
    roots: &[Pid],
    options: &Options,
    is_passing: &dyn Fn() -> bool,
) -> Result<(Frozen, bool), Error> {
    let mut pause = SETTLE_PAUSE;
    for _ in 0..SETTLE_ROUNDS {
        let unsettled = options.beholder.unsettled(&frozen.hosts());
        if unsettled.is_empty() {
            return Ok((frozen, true));
        }
        if options.beholder.is_passing(&frozen.hosts()) {
            return Err(Error::Passing(roots[0]));
        }
        frozen = match frozen.run_some(roots, &unsettled, pause, SETTLE_STOP_TIMEOUT, is_passing) {
            // It may wait for one that stands: for a child in vfork, or for who hands wrappers on to what that executes.
            Err(Error::DoesNotStop { .. }) => return Err(Error::Unsettled(roots[0])),
            other => other?,
        };
        pause = (pause * 2).min(SETTLE_PAUSE_MAX);
    }
    let is_settled = options.beholder.unsettled(&frozen.hosts()).is_empty();
    Ok((frozen, is_settled))
}

fn found(roots: &[Pid]) -> Result<Vec<Member>, Error> {
    let members = tree::discover(roots);
    if members.iter().any(|member| member.host == Pid(std::process::id() as i32)) {
        return Err(Error::OwnTree(roots[0]));
    }
    // The others are processes that the tree has left behind, which may end at any time.
    match members.iter().any(|member| member.host == roots[0]) {
        true => Ok(members),
        false => Err(Error::NoTarget(roots[0])),
    }
}

/// The tree's own state: everything but descriptors.
fn describe(
    frozen: &Frozen,
    roots: &[Pid],
    facts: &HostFacts,
    options: &Options,
    tables: &mut Tables,
) -> Result<Checkpoint, Error> {
    let mut processes = Vec::with_capacity(frozen.processes.len());
    for process in &frozen.processes {
        processes.push(collect::process::collect(frozen, process, tables)?);
    }
    let root = frozen
        .processes
        .iter()
        .find(|process| process.member.host == roots[0])
        .ok_or(Error::Ended { pid: roots[0] })?;
    Ok(Checkpoint {
        host: collect::host::collect(facts, &root.member)?,
        clocks: tables.clocks.unwrap_or_default(),
        command: proc::cmdline(root.member.host)?,
        job: options.job.clone(),
        root: root.member.pid,
        processes,
        ..Checkpoint::default()
    })
}

/// Writes what others keep.
fn write_notes<W: Write>(members: &[Member], said: &[Said], writer: &mut Writer<W>) -> Result<(), Error> {
    for (member, said) in members.iter().zip(said) {
        for (name, bytes) in &said.notes {
            writer.note(member.pid, name, bytes)?;
        }
    }
    Ok(())
}

/// Writes what is not to be read from copies, of a tree that stands still.
fn write_standing<W: Write>(
    (members, said): (&[Member], &[Said]),
    checkpoint: &Checkpoint,
    copies: &Copies,
    writer: &mut Writer<W>,
) -> Result<(), Error> {
    for (index, (member, process)) in members.iter().zip(&checkpoint.processes).enumerate() {
        let Some(body) = &process.body else { continue };
        let memory =
            Memory::open(member.task()).map_err(|error| Error::Memory { pid: member.host, error })?;
        let part = if copies.of(index).is_some() { Part::NotForked } else { Part::All };
        let unread = &said[index].unread;
        let source = (member.task(), &memory);
        collect::memory::write_private((member, &body.memory), unread, source, part, writer)?;
    }
    Ok(())
}

/// Writes the memory of a tree that runs on. Each copy ends when it has been written.
fn write_copied<W: Write>(
    (members, said): (&[Member], &[Said]),
    checkpoint: &Checkpoint,
    copies: &Copies,
    writer: &mut Writer<W>,
) -> Result<(), Error> {
    for (index, (member, process)) in members.iter().zip(&checkpoint.processes).enumerate() {
        let (Some(body), Some(copy)) = (&process.body, copies.of(index)) else { continue };
        let source = (copy.pid(), copy.memory());
        let unread = &said[index].unread;
        let written =
            collect::memory::write_private((member, &body.memory), unread, source, Part::Forked, writer);
        match written {
            Err(Error::Image(error)) => return Err(error.into()),
            // A copy that was killed can be read no more.
            Err(_) if !copy.stands() => return Err(copies.lost(member.host)),
            other => other?,
        }
        copies.finish(index, member.host)?;
    }
    Ok(())
}

/// Contents that belong to no process: shared memory and files that travel.
pub(crate) fn write_file<W: Write>(
    owner: PageOwner,
    file: &std::fs::File,
    writer: &mut Writer<W>,
) -> Result<(), Error> {
    collect::memory::write_extents(owner, file, writer)
}
