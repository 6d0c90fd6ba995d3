//! Windows programs.

use brant_base::{Addr, PageRange};
use prost::Message;

use super::{Malformed, list, malformed, parse};
use crate::model;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Windows {
    #[prost(uint32, tag = "1")]
    pid: u32,
    #[prost(string, tag = "2")]
    release: String,
    #[prost(string, tag = "3")]
    program: String,
    #[prost(string, tag = "4")]
    command_line: String,
    #[prost(string, tag = "5")]
    directory: String,
    #[prost(string, repeated, tag = "6")]
    environment: Vec<String>,
    #[prost(uint32, tag = "7")]
    state_version: u32,
    #[prost(uint64, tag = "8")]
    state: u64,
    #[prost(message, repeated, tag = "9")]
    modules: Vec<WindowsModule>,
    #[prost(message, repeated, tag = "10")]
    regions: Vec<WindowsRegion>,
    #[prost(message, repeated, tag = "11")]
    threads: Vec<WindowsThread>,
    #[prost(message, repeated, tag = "12")]
    handles: Vec<WindowsHandle>,
    #[prost(message, repeated, tag = "13")]
    heaps: Vec<WindowsHeap>,
}

impl From<&model::Windows> for Windows {
    fn from(from: &model::Windows) -> Windows {
        Windows {
            pid: from.pid,
            release: from.release.clone(),
            program: from.program.clone(),
            command_line: from.command_line.clone(),
            directory: from.directory.clone(),
            environment: from.environment.clone(),
            state_version: from.state_version,
            state: from.state.0,
            modules: list(&from.modules),
            regions: list(&from.regions),
            threads: list(&from.threads),
            handles: list(&from.handles),
            heaps: list(&from.heaps),
        }
    }
}

impl TryFrom<Windows> for model::Windows {
    type Error = Malformed;

    fn try_from(from: Windows) -> Result<model::Windows, Malformed> {
        Ok(model::Windows {
            pid: from.pid,
            release: from.release,
            program: from.program,
            command_line: from.command_line,
            directory: from.directory,
            environment: from.environment,
            state_version: from.state_version,
            state: Addr(from.state),
            modules: parse(from.modules)?,
            regions: parse(from.regions)?,
            threads: parse(from.threads)?,
            handles: parse(from.handles)?,
            heaps: parse(from.heaps)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct WindowsModule {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint64, tag = "2")]
    start: u64,
    #[prost(uint64, tag = "3")]
    end: u64,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
}

impl From<&model::WindowsModule> for WindowsModule {
    fn from(from: &model::WindowsModule) -> WindowsModule {
        let (start, end) = (from.range.start().0, from.range.end().0);
        WindowsModule { path: from.path.clone(), start, end, digest: from.digest.to_vec() }
    }
}

impl TryFrom<WindowsModule> for model::WindowsModule {
    type Error = Malformed;

    fn try_from(from: WindowsModule) -> Result<model::WindowsModule, Malformed> {
        let range = range("WindowsModule", from.start, from.end)?;
        Ok(model::WindowsModule { path: from.path, range, digest: super::array("digest", from.digest)? })
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WindowsRegion {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    end: u64,
    #[prost(uint32, tag = "3")]
    protection: u32,
}

impl From<&model::WindowsRegion> for WindowsRegion {
    fn from(from: &model::WindowsRegion) -> WindowsRegion {
        let (start, end) = (from.range.start().0, from.range.end().0);
        WindowsRegion { start, end, protection: from.protection }
    }
}

impl TryFrom<WindowsRegion> for model::WindowsRegion {
    type Error = Malformed;

    fn try_from(from: WindowsRegion) -> Result<model::WindowsRegion, Malformed> {
        let range = range("WindowsRegion", from.start, from.end)?;
        Ok(model::WindowsRegion { range, protection: from.protection })
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct WindowsHeap {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    end: u64,
}

impl From<&PageRange> for WindowsHeap {
    fn from(from: &PageRange) -> WindowsHeap {
        WindowsHeap { start: from.start().0, end: from.end().0 }
    }
}

impl TryFrom<WindowsHeap> for PageRange {
    type Error = Malformed;

    fn try_from(from: WindowsHeap) -> Result<PageRange, Malformed> {
        range("WindowsHeap", from.start, from.end)
    }
}

#[derive(Clone, PartialEq, Message)]
struct WindowsThread {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(string, tag = "2")]
    function: String,
}

impl From<&model::WindowsThread> for WindowsThread {
    fn from(from: &model::WindowsThread) -> WindowsThread {
        WindowsThread { number: from.number, function: from.function.clone() }
    }
}

impl From<WindowsThread> for model::WindowsThread {
    fn from(from: WindowsThread) -> model::WindowsThread {
        model::WindowsThread { number: from.number, function: from.function }
    }
}

#[derive(Clone, PartialEq, Message)]
struct WindowsHandle {
    #[prost(uint64, tag = "1")]
    value: u64,
    #[prost(string, tag = "2")]
    what: String,
}

impl From<&model::WindowsHandle> for WindowsHandle {
    fn from(from: &model::WindowsHandle) -> WindowsHandle {
        WindowsHandle { value: from.value, what: from.what.clone() }
    }
}

impl From<WindowsHandle> for model::WindowsHandle {
    fn from(from: WindowsHandle) -> model::WindowsHandle {
        model::WindowsHandle { value: from.value, what: from.what }
    }
}

fn range(field: &'static str, start: u64, end: u64) -> Result<PageRange, Malformed> {
    PageRange::new(start, end).or_else(|error| malformed(field, error.to_string()))
}
