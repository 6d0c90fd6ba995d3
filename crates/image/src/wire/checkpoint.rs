//! The whole, the host, the clocks.

use brant_base::Pid;
use prost::Message;

use super::{Malformed, files, list, maybe, memory, need, parse, process, sockets, terminals, windows};
use crate::model;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Checkpoint {
    #[prost(message, optional, tag = "1")]
    host: Option<Host>,
    #[prost(message, optional, tag = "2")]
    clocks: Option<Clocks>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    command: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "4")]
    job: Option<String>,
    #[prost(int32, tag = "5")]
    root: i32,
    #[prost(message, repeated, tag = "6")]
    processes: Vec<process::Process>,
    #[prost(message, repeated, tag = "7")]
    open_files: Vec<files::OpenFile>,
    #[prost(message, repeated, tag = "8")]
    disk_files: Vec<files::DiskFile>,
    #[prost(message, repeated, tag = "9")]
    shared_memory: Vec<memory::SharedMemory>,
    #[prost(message, repeated, tag = "10")]
    pipes: Vec<files::Pipe>,
    #[prost(message, repeated, tag = "11")]
    unix_sockets: Vec<sockets::UnixSocket>,
    #[prost(message, repeated, tag = "12")]
    inet_sockets: Vec<sockets::InetSocket>,
    #[prost(message, repeated, tag = "13")]
    terminals: Vec<terminals::Terminal>,
    #[prost(message, optional, tag = "14")]
    windows: Option<windows::Windows>,
}

impl From<&model::Checkpoint> for Checkpoint {
    fn from(from: &model::Checkpoint) -> Checkpoint {
        Checkpoint {
            host: Some((&from.host).into()),
            clocks: Some((&from.clocks).into()),
            command: from.command.clone(),
            job: from.job.clone(),
            root: from.root.0,
            processes: list(&from.processes),
            open_files: list(&from.open_files),
            disk_files: list(&from.disk_files),
            shared_memory: list(&from.shared_memory),
            pipes: list(&from.pipes),
            unix_sockets: list(&from.unix_sockets),
            inet_sockets: list(&from.inet_sockets),
            terminals: list(&from.terminals),
            windows: from.windows.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<Checkpoint> for model::Checkpoint {
    type Error = Malformed;

    fn try_from(from: Checkpoint) -> Result<model::Checkpoint, Malformed> {
        Ok(model::Checkpoint {
            host: need("host", from.host)?,
            clocks: need("clocks", from.clocks)?,
            command: from.command,
            job: from.job,
            root: Pid(from.root),
            processes: parse(from.processes)?,
            open_files: parse(from.open_files)?,
            disk_files: parse(from.disk_files)?,
            shared_memory: parse(from.shared_memory)?,
            pipes: parse(from.pipes)?,
            unix_sockets: parse(from.unix_sockets)?,
            inet_sockets: parse(from.inet_sockets)?,
            terminals: parse(from.terminals)?,
            windows: maybe(from.windows)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct Host {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    kernel_release: String,
    #[prost(string, tag = "3")]
    machine: String,
    #[prost(uint64, tag = "4")]
    xstate_features: u64,
    #[prost(string, repeated, tag = "5")]
    cpu_flags: Vec<String>,
    #[prost(bytes = "vec", tag = "6")]
    vdso: Vec<u8>,
    #[prost(message, repeated, tag = "7")]
    xstate_layout: Vec<XstateComponent>,
}

impl From<&model::Host> for Host {
    fn from(from: &model::Host) -> Host {
        Host {
            name: from.name.clone(),
            kernel_release: from.kernel_release.clone(),
            machine: from.machine.clone(),
            xstate_features: from.xstate_features,
            cpu_flags: from.cpu_flags.clone(),
            vdso: from.vdso.clone(),
            xstate_layout: list(&from.xstate_layout),
        }
    }
}

impl From<Host> for model::Host {
    fn from(from: Host) -> model::Host {
        let Host { name, kernel_release, machine, xstate_features, cpu_flags, vdso, xstate_layout } = from;
        let xstate_layout = xstate_layout.into_iter().map(Into::into).collect();
        model::Host { name, kernel_release, machine, xstate_features, xstate_layout, cpu_flags, vdso }
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct XstateComponent {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(uint32, tag = "2")]
    offset: u32,
    #[prost(uint32, tag = "3")]
    bytes: u32,
}

impl From<&model::XstateComponent> for XstateComponent {
    fn from(from: &model::XstateComponent) -> XstateComponent {
        let &model::XstateComponent { number, offset, bytes } = from;
        XstateComponent { number, offset, bytes }
    }
}

impl From<XstateComponent> for model::XstateComponent {
    fn from(from: XstateComponent) -> model::XstateComponent {
        let XstateComponent { number, offset, bytes } = from;
        model::XstateComponent { number, offset, bytes }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Clocks {
    #[prost(int64, tag = "1")]
    realtime_ns: i64,
    #[prost(int64, tag = "2")]
    monotonic_ns: i64,
    #[prost(int64, tag = "3")]
    boottime_ns: i64,
}

impl From<&model::Clocks> for Clocks {
    fn from(from: &model::Clocks) -> Clocks {
        let &model::Clocks { realtime_ns, monotonic_ns, boottime_ns } = from;
        Clocks { realtime_ns, monotonic_ns, boottime_ns }
    }
}

impl From<Clocks> for model::Clocks {
    fn from(from: Clocks) -> model::Clocks {
        let Clocks { realtime_ns, monotonic_ns, boottime_ns } = from;
        model::Clocks { realtime_ns, monotonic_ns, boottime_ns }
    }
}
