//! Processes.

use brant_base::Pid;
use prost::Message;

use super::{Malformed, array, files, list, malformed, maybe, memory, need, parse, signals, thread, timers};
use crate::model::{self, DiskFileId, OpenFileId, ProcessState, TerminalId};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Process {
    #[prost(int32, tag = "1")]
    pid: i32,
    #[prost(int32, tag = "2")]
    ppid: i32,
    #[prost(int32, tag = "3")]
    pgid: i32,
    #[prost(int32, tag = "4")]
    sid: i32,
    #[prost(int32, tag = "5")]
    exit_signal: i32,
    #[prost(bytes = "vec", tag = "6")]
    name: Vec<u8>,
    #[prost(uint32, optional, tag = "7")]
    terminal: Option<u32>,
    #[prost(message, optional, tag = "8")]
    body: Option<ProcessBody>,
    /// At most one of the two; neither is a running process.
    #[prost(int32, optional, tag = "9")]
    stopped_signal: Option<i32>,
    #[prost(int32, optional, tag = "10")]
    zombie_status: Option<i32>,
    /// Its parent has not waited for the stop yet.
    #[prost(bool, tag = "11")]
    stop_unannounced: bool,
}

impl From<&model::Process> for Process {
    fn from(from: &model::Process) -> Process {
        let (stopped_signal, zombie_status) = match from.state {
            ProcessState::Running => (None, None),
            ProcessState::Stopped { signal, .. } => (Some(signal), None),
            ProcessState::Zombie { status } => (None, Some(status)),
        };
        Process {
            pid: from.pid.0,
            ppid: from.ppid.0,
            pgid: from.pgid.0,
            sid: from.sid.0,
            exit_signal: from.exit_signal,
            name: from.name.clone(),
            terminal: from.terminal.map(|id| id.0),
            body: from.body.as_ref().map(ProcessBody::from),
            stopped_signal,
            zombie_status,
            stop_unannounced: matches!(from.state, ProcessState::Stopped { announced: false, .. }),
        }
    }
}

impl TryFrom<Process> for model::Process {
    type Error = Malformed;

    fn try_from(from: Process) -> Result<model::Process, Malformed> {
        let state = match (from.stopped_signal, from.zombie_status) {
            (None, None) => ProcessState::Running,
            (Some(signal), None) => ProcessState::Stopped { signal, announced: !from.stop_unannounced },
            (None, Some(status)) => ProcessState::Zombie { status },
            (Some(_), Some(_)) => return malformed("process.state", "is both stopped and ended"),
        };
        Ok(model::Process {
            pid: Pid(from.pid),
            ppid: Pid(from.ppid),
            pgid: Pid(from.pgid),
            sid: Pid(from.sid),
            exit_signal: from.exit_signal,
            state,
            terminal: from.terminal.map(TerminalId),
            body: maybe(from.body)?,
            name: from.name,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct ProcessBody {
    #[prost(uint32, tag = "1")]
    executable: u32,
    #[prost(bytes = "vec", tag = "2")]
    cwd: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    root: Vec<u8>,
    #[prost(uint32, tag = "4")]
    umask: u32,
    #[prost(message, optional, tag = "5")]
    credentials: Option<Credentials>,
    #[prost(message, repeated, tag = "6")]
    limits: Vec<Limit>,
    #[prost(message, optional, tag = "7")]
    memory: Option<memory::AddressSpace>,
    #[prost(message, repeated, tag = "8")]
    descriptors: Vec<Descriptor>,
    #[prost(message, repeated, tag = "9")]
    actions: Vec<signals::SignalAction>,
    #[prost(message, repeated, tag = "10")]
    pending: Vec<signals::QueuedSignal>,
    #[prost(message, repeated, tag = "11")]
    interval_timers: Vec<timers::IntervalTimer>,
    #[prost(message, repeated, tag = "12")]
    posix_timers: Vec<timers::PosixTimer>,
    #[prost(message, repeated, tag = "13")]
    record_locks: Vec<files::RecordLock>,
    #[prost(message, repeated, tag = "14")]
    threads: Vec<thread::Thread>,
    #[prost(bool, tag = "15")]
    leader_exited: bool,
    #[prost(uint64, tag = "16")]
    personality: u64,
    #[prost(int32, tag = "17")]
    dumpable: i32,
    #[prost(bool, tag = "18")]
    child_subreaper: bool,
    #[prost(int32, tag = "19")]
    oom_score_adj: i32,
    #[prost(bool, tag = "20")]
    thp_disabled: bool,
    #[prost(uint64, tag = "21")]
    membarrier_registrations: u64,
}

impl From<&model::ProcessBody> for ProcessBody {
    fn from(from: &model::ProcessBody) -> ProcessBody {
        ProcessBody {
            executable: from.executable.0,
            cwd: from.cwd.clone(),
            root: from.root.clone(),
            umask: from.umask,
            credentials: Some((&from.credentials).into()),
            limits: list(&from.limits),
            memory: Some((&from.memory).into()),
            descriptors: list(&from.descriptors),
            actions: list(&from.actions),
            pending: list(&from.pending),
            interval_timers: list(&from.interval_timers),
            posix_timers: list(&from.posix_timers),
            record_locks: list(&from.record_locks),
            threads: list(&from.threads),
            leader_exited: from.leader_exited,
            personality: from.personality,
            dumpable: from.dumpable,
            child_subreaper: from.child_subreaper,
            oom_score_adj: from.oom_score_adj,
            thp_disabled: from.thp_disabled,
            membarrier_registrations: from.membarrier_registrations,
        }
    }
}

impl TryFrom<ProcessBody> for model::ProcessBody {
    type Error = Malformed;

    fn try_from(from: ProcessBody) -> Result<model::ProcessBody, Malformed> {
        Ok(model::ProcessBody {
            executable: DiskFileId(from.executable),
            cwd: from.cwd,
            root: from.root,
            umask: from.umask,
            credentials: need("process.credentials", from.credentials)?,
            limits: parse(from.limits)?,
            memory: need("process.memory", from.memory)?,
            descriptors: parse(from.descriptors)?,
            actions: parse(from.actions)?,
            pending: parse(from.pending)?,
            interval_timers: array("process.interval_timers", parse(from.interval_timers)?)?,
            posix_timers: parse(from.posix_timers)?,
            record_locks: parse(from.record_locks)?,
            threads: parse(from.threads)?,
            leader_exited: from.leader_exited,
            personality: from.personality,
            dumpable: from.dumpable,
            child_subreaper: from.child_subreaper,
            oom_score_adj: from.oom_score_adj,
            thp_disabled: from.thp_disabled,
            membarrier_registrations: from.membarrier_registrations,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct Credentials {
    #[prost(uint32, repeated, tag = "1")]
    uids: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    gids: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    groups: Vec<u32>,
    #[prost(fixed64, repeated, tag = "4")]
    capabilities: Vec<u64>,
    #[prost(uint32, tag = "5")]
    securebits: u32,
    #[prost(bool, tag = "6")]
    no_new_privs: bool,
}

impl From<&model::Credentials> for Credentials {
    fn from(from: &model::Credentials) -> Credentials {
        Credentials {
            uids: from.uids.to_vec(),
            gids: from.gids.to_vec(),
            groups: from.groups.clone(),
            capabilities: from.capabilities.to_vec(),
            securebits: from.securebits,
            no_new_privs: from.no_new_privs,
        }
    }
}

impl TryFrom<Credentials> for model::Credentials {
    type Error = Malformed;

    fn try_from(from: Credentials) -> Result<model::Credentials, Malformed> {
        Ok(model::Credentials {
            uids: array("credentials.uids", from.uids)?,
            gids: array("credentials.gids", from.gids)?,
            groups: from.groups,
            capabilities: array("credentials.capabilities", from.capabilities)?,
            securebits: from.securebits,
            no_new_privs: from.no_new_privs,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct Limit {
    #[prost(uint64, tag = "1")]
    soft: u64,
    #[prost(uint64, tag = "2")]
    hard: u64,
}

impl From<&model::Limit> for Limit {
    fn from(from: &model::Limit) -> Limit {
        Limit { soft: from.soft, hard: from.hard }
    }
}

impl From<Limit> for model::Limit {
    fn from(from: Limit) -> model::Limit {
        model::Limit { soft: from.soft, hard: from.hard }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(int32, tag = "1")]
    number: i32,
    #[prost(uint32, tag = "2")]
    file: u32,
    #[prost(bool, tag = "3")]
    close_on_exec: bool,
}

impl From<&model::Descriptor> for Descriptor {
    fn from(from: &model::Descriptor) -> Descriptor {
        Descriptor { number: from.number, file: from.file.0, close_on_exec: from.close_on_exec }
    }
}

impl From<Descriptor> for model::Descriptor {
    fn from(from: Descriptor) -> model::Descriptor {
        model::Descriptor {
            number: from.number,
            file: OpenFileId(from.file),
            close_on_exec: from.close_on_exec,
        }
    }
}
