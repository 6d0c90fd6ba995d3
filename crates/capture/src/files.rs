//! The survey of descriptors: what every descriptor of every process is, which of them are one open file description
//! (kcmp(2)), and what stands in the way of carrying them.
//!
//! State of the targets: nothing is changed. Duplicates of their descriptors (pidfd_getfd(2)) are held for moments.
//! Before the freeze the answers may be out of date at once, so the survey is made again after it.

mod epoll;
mod identity;
mod inet;
mod inotify;
mod kinds;
mod outside;
mod pipes;
mod terminals;
mod unix;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use brant_base::{Pid, Refusal, Refusals};
use brant_image::model::*;
use brant_kernel::descriptor::{self, Described, DescriptorKind, PidFd};
use brant_kernel::facts::HostFacts;
use brant_kernel::proc::{self, FdInfo, LockEntry};

use crate::refusals;
use crate::tables::Tables;
use crate::tree::{self, Member};

pub(crate) use identity::Descriptions;
pub(crate) use inet::InetFound;
pub(crate) use pipes::PipeFound;
pub(crate) use terminals::{Sessions, TerminalFound};
pub(crate) use unix::{UnixFound, bound_address, sun_path};

/// Where a descriptor can be found: a task of the tree, or ourselves for those in flight, by the number in our pid
/// namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) holder: Pid,
    pub(crate) number: i32,
}

impl Place {
    /// A path that leads to what is open there.
    pub(crate) fn path(self) -> PathBuf {
        format!("/proc/{}/fd/{}", self.holder, self.number).into()
    }

    /// A duplicate of ours.
    pub(crate) fn duplicate(self) -> io::Result<OwnedFd> {
        PidFd::open(self.holder)?.descriptor(self.number)
    }
}

/// An entry of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Index among the members.
    pub(crate) member: usize,
    pub(crate) number: i32,
}

/// An open file description.
pub(crate) struct Description {
    pub(crate) id: OpenFileId,
    pub(crate) place: Place,
    /// In the order of the members; empty for one that is in flight only.
    pub(crate) holders: Vec<Holder>,
    pub(crate) described: Described,
    pub(crate) info: FdInfo,
    pub(crate) what: What,
}

impl Description {
    /// As F_GETFL gives them.
    pub(crate) fn flags(&self) -> u32 {
        self.info.flags & !(libc::O_CLOEXEC as u32)
    }

    pub(crate) fn reads(&self) -> bool {
        self.flags() as i32 & libc::O_ACCMODE != libc::O_WRONLY
    }

    pub(crate) fn writes(&self) -> bool {
        self.flags() as i32 & libc::O_ACCMODE != libc::O_RDONLY
    }

    pub(crate) fn is_path_only(&self) -> bool {
        self.flags() as i32 & libc::O_PATH != 0
    }

    /// The description as people know it: its first descriptor.
    fn refuse(
        &self,
        code: &'static str,
        what: String,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Refusal {
        refusals::descriptor(code, self.place.holder, self.place.number, what, why, hint)
    }
}

/// What a description is, as far as it was found out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// Not looked at yet, or refused.
    Unknown,
    /// Complete as it is.
    Plain(FileKind),
    Pipe(PipeId),
    Unix(UnixSocketId),
    Inet(InetSocketId),
    EventFd,
    TimerFd,
    SignalFd,
    Epoll(Vec<EpollWatch>),
    Inotify(Vec<InotifyWatch>),
    Master(TerminalId),
    Slave(TerminalId),
}

/// A descriptor of a process.
pub(crate) struct TableEntry {
    pub(crate) number: i32,
    pub(crate) file: OpenFileId,
    pub(crate) close_on_exec: bool,
    pub(crate) locks: Vec<LockEntry>,
}

/// What was found. Complete where nothing was refused.
pub(crate) struct Survey {
    pub(crate) members: Vec<Member>,
    pub(crate) descriptions: Descriptions,
    /// One a member, sorted by number.
    pub(crate) descriptors: Vec<Vec<TableEntry>>,
    pub(crate) pipes: Vec<PipeFound>,
    pub(crate) unix: Vec<UnixFound>,
    pub(crate) inet: Vec<InetFound>,
    pub(crate) terminals: Vec<TerminalFound>,
    pub(crate) sessions: Sessions,
    /// Messages with descriptors in flight, by the socket's inode.
    pub(crate) queues: HashMap<u64, Vec<UnixMessage>>,
    /// Duplicates of descriptors in flight, so that their places stay.
    in_flight: Vec<OwnedFd>,
}

/// Looks at every descriptor of every member.
pub(crate) fn survey(members: &[Member], tables: &mut Tables, facts: &HostFacts) -> (Survey, Refusals) {
    let mut refusals = Refusals::default();
    let mut survey = Survey {
        members: members.to_vec(),
        descriptions: Descriptions::default(),
        descriptors: members.iter().map(|_| Vec::new()).collect(),
        pipes: Vec::new(),
        unix: Vec::new(),
        inet: Vec::new(),
        terminals: Vec::new(),
        sessions: Sessions::default(),
        queues: HashMap::new(),
        in_flight: Vec::new(),
    };
    if let Some(refusal) = lacking(members, facts) {
        refusals.push(refusal);
        return (survey, refusals);
    }
    for (index, member) in members.iter().enumerate().filter(|(_, member)| !member.zombie) {
        survey.list(index, member, &mut refusals);
    }
    survey.receive_in_flight(&mut refusals);
    survey.sessions = Sessions::of(members);
    kinds::classify(&mut survey, tables, &mut refusals);
    pipes::look(&mut survey, &mut refusals);
    unix::look(&mut survey, &mut refusals);
    inet::look(&mut survey, &mut refusals);
    terminals::look(&mut survey, &mut refusals);
    epoll::look(&mut survey, &mut refusals);
    outside::refuse_shared_memory(&survey, &mut refusals);
    only_in_flight(&survey, &mut refusals);
    (survey, refusals)
}

/// What only the process that has it open can open does not travel in a message that nobody has received yet.
fn only_in_flight(survey: &Survey, refusals: &mut Refusals) {
    for description in survey.descriptions.all().iter().filter(|description| description.holders.is_empty()) {
        let needs_a_holder = match &description.what {
            What::Plain(FileKind::PidFd { .. } | FileKind::Device { major: 5, .. }) => true,
            _ => description.described.path.starts_with(b"/proc/"),
        };
        if needs_a_holder {
            refusals.push(on_its_way(description, "a descriptor in flight", "it was not received yet"));
        }
    }
}

/// What this kernel lacks for a survey.
fn lacking(members: &[Member], facts: &HostFacts) -> Option<Refusal> {
    let needed = [("kcmp", facts.kcmp), ("pidfd_getfd", facts.pidfd_getfd)];
    let (name, ability) = needed.into_iter().find(|(_, ability)| !ability.is_yes())?;
    let why = ability.error().map_or_else(String::new, |error| format!(" ({error})"));
    Some(Refusal {
        code: "B-0348",
        pid: members.first().map(|member| member.host),
        resource: "its descriptors".to_owned(),
        why: format!("this kernel does not offer {name}{why}"),
        hint: "use a kernel from Linux 5.6 on that has CONFIG_KCMP".to_owned(),
    })
}

impl Survey {
    /// The descriptors of one process. One that ends at this moment has none.
    fn list(&mut self, member_index: usize, member: &Member, refusals: &mut Refusals) {
        let holder = tree::living_task(member);
        let numbers = match proc::open_descriptors(holder) {
            Ok(numbers) => numbers,
            Err(error) if error.is_gone() || tree::ends(member.host) => return,
            Err(error) => {
                refusals.push(unseen(holder, "its descriptors", &error));
                return;
            }
        };
        for number in numbers {
            let place = Place { holder, number };
            match look_at(place) {
                Ok(Some((described, info))) => {
                    let close_on_exec = closes_on_exec(place, &described, &info);
                    let locks = info.locks.clone();
                    let id = self.descriptions.add(place, described, info);
                    self.descriptions.get_mut(id).holders.push(Holder { member: member_index, number });
                    self.descriptors[member_index].push(TableEntry {
                        number,
                        file: id,
                        close_on_exec,
                        locks,
                    });
                }
                Ok(None) => {}
                Err(_) if tree::ends(member.host) => return,
                Err(error) => refusals.push(unseen(holder, &format!("descriptor {number}"), &error)),
            }
        }
    }

    /// Descriptors in flight may carry sockets that have some in flight again.
    fn receive_in_flight(&mut self, refusals: &mut Refusals) {
        let own = Pid(std::process::id() as i32);
        let mut next = 0;
        while next < self.descriptions.len() {
            let description = &self.descriptions.all()[next];
            next += 1;
            let DescriptorKind::Socket(inode) = description.described.kind else { continue };
            if description.info.scm_fds.unwrap_or(0) == 0 || self.queues.contains_key(&inode) {
                continue;
            }
            let peeked = description
                .place
                .duplicate()
                .and_then(|fd| descriptor::peek_socket(std::os::fd::AsFd::as_fd(&fd)));
            let messages = match peeked {
                Ok(messages) => messages,
                Err(error) => {
                    refusals.push(on_its_way(description, "descriptors in flight", &error.to_string()));
                    continue;
                }
            };
            let mut queue = Vec::with_capacity(messages.len());
            for message in messages {
                let mut files = Vec::with_capacity(message.files.len());
                for file in message.files {
                    let place = Place { holder: own, number: std::os::fd::AsRawFd::as_raw_fd(&file) };
                    if let Ok(Some((described, info))) = look_at(place) {
                        files.push(self.descriptions.add(place, described, info));
                    }
                    self.in_flight.push(file);
                }
                let sender = unix::sun_path(&message.sender);
                queue.push(UnixMessage { bytes: message.bytes, files, sender });
            }
            self.queues.insert(inode, queue);
        }
    }

    /// The standard stream that takes the place of something whose other end is outside: by the first process that
    /// has one of `descriptions` as one of its descriptors 0 to 2.
    fn standard_stream(
        &self,
        descriptions: &[OpenFileId],
        writes: bool,
        reads: bool,
    ) -> Option<StandardStream> {
        let holders = descriptions.iter().flat_map(|id| &self.descriptions.get(*id).holders);
        let mut standard: Vec<Holder> = holders.copied().filter(|holder| holder.number <= 2).collect();
        let first = standard.iter().map(|holder| holder.member).min()?;
        standard.retain(|holder| holder.member == first);
        let has = |number| standard.iter().any(|holder| holder.number == number);
        let streams = [(1, StandardStream::Output), (2, StandardStream::Error), (0, StandardStream::Input)];
        // What can only be read from is the input; what can be written to must not lose its output.
        if reads && !writes && has(0) {
            return Some(StandardStream::Input);
        }
        streams.into_iter().find(|(number, _)| has(*number)).map(|(_, stream)| stream)
    }

    /// Connects `descriptions`, whose other end is outside, to a standard stream; answers whether that could be.
    fn connect_outside(&mut self, descriptions: &[OpenFileId], text: &str) -> bool {
        for id in descriptions {
            let description = self.descriptions.get(*id);
            let (writes, reads) = (description.writes(), description.reads());
            let own = self.standard_stream(&[*id], writes, reads);
            let Some(stream) = own.or_else(|| self.standard_stream(descriptions, writes, reads)) else {
                return false;
            };
            let kind = FileKind::Outside { stream, description: text.to_owned() };
            self.descriptions.get_mut(*id).what = What::Plain(kind);
        }
        true
    }
}

/// Whether an exec closes the descriptor.
///
/// /proc ors this into the flags of the description, and the slave of a pseudo-terminal keeps an O_CLOEXEC that
/// TIOCGPTPEER was given: then all its duplicates look so, and only convention tells the standard ones apart.
fn closes_on_exec(place: Place, described: &Described, info: &FdInfo) -> bool {
    let shown = info.flags & libc::O_CLOEXEC as u32 != 0;
    let is_standard = (0..=2).contains(&place.number);
    if !shown || !is_standard || !matches!(described.kind, DescriptorKind::CharacterDevice(_)) {
        return shown;
    }
    let own = place.duplicate().and_then(|own| descriptor::status_flags(own.as_fd()));
    own.is_ok_and(|flags| flags & libc::O_CLOEXEC as u32 == 0)
}

/// `None` where it was closed meanwhile.
fn look_at(place: Place) -> Result<Option<(Described, FdInfo)>, proc::ProcError> {
    let looked = descriptor::describe(place.holder, place.number)
        .and_then(|described| Ok((described, proc::fdinfo(place.holder, place.number)?)));
    match looked {
        Ok(both) => Ok(Some(both)),
        Err(proc::ProcError::Absent { .. } | proc::ProcError::Gone(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unseen(pid: Pid, resource: &str, error: &dyn std::error::Error) -> Refusal {
    Refusal {
        code: "B-0349",
        pid: Some(pid),
        resource: resource.to_owned(),
        why: format!("it cannot be looked at: {error}"),
        hint: "run brant as the user that the program belongs to".to_owned(),
    }
}

/// Something that cannot be carried just now.
fn on_its_way(description: &Description, what: &str, why: &str) -> Refusal {
    description.refuse("B-0336", what.to_owned(), why, "try again in a moment")
}
