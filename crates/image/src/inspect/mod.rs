//! An image told to people: its process tree, threads, descriptors and memory, and what it needs from a host.
//!
//! Pure: from an open [`Image`] to plain records. They print as text; a program that wants another form reads
//! the fields. Contents of memory, of files and of what is in flight are never shown, only their sizes.

mod describe;
mod map;
mod needs;
mod page;
mod text;
mod windows;

use std::collections::HashMap;

use brant_base::{PAGE_SIZE, Pid, Tid};

use crate::model::*;
use crate::{Image, Summary};

pub use page::page;
pub use text::{readable, size, utc};

/// What [`inspect`] tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    pub summary: Summary,
    pub created_ns: i64,
    pub job: Option<String>,
    /// Readable words of the root process's command line.
    pub command: Vec<String>,
    pub host_name: String,
    pub kernel_release: String,
    pub machine: String,
    /// Parents before their children.
    pub processes: Vec<ProcessLine>,
    pub memory: MemoryLines,
    /// Files whose contents travel.
    pub carried: Vec<CarriedLine>,
    /// A Windows program instead of `processes`.
    pub windows: Option<Windows>,
    /// What a restore needs from its host, each in one sentence.
    pub needs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProcessLine {
    pub pid: Pid,
    pub ppid: Pid,
    pub pgid: Pid,
    pub sid: Pid,
    /// Steps below the root process.
    pub depth: usize,
    pub name: String,
    /// `running`, `stopped by signal 20`, `ended with status 0x100`.
    pub state: String,
    /// Of what is alive.
    pub executable: Option<String>,
    pub cwd: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub threads: Vec<ThreadLine>,
    pub descriptors: Vec<DescriptorLine>,
    pub mappings: usize,
    pub mapped_bytes: u64,
    /// Private memory whose contents are in the image.
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ThreadLine {
    pub tid: Tid,
    pub name: String,
    /// The system call that goes on for its remaining time.
    pub waiting: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DescriptorLine {
    pub number: i32,
    /// `regular file /var/log/x at 17`.
    pub what: String,
    pub close_on_exec: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedLine {
    pub path: String,
    pub bytes: u64,
    /// What a restore does with the contents.
    pub purpose: &'static str,
}

/// Bytes in the image, and those known to be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryLines {
    pub private_bytes: u64,
    pub shared_bytes: u64,
    /// Contents of disk files that travel.
    pub file_bytes: u64,
    pub zero_bytes: u64,
}

/// Tells what is in the image.
pub fn inspect(image: &Image) -> Inspection {
    let checkpoint = image.checkpoint();
    let files = describe::open_files(checkpoint);
    let mut depths: HashMap<Pid, usize> = HashMap::new();
    let mut processes = Vec::new();
    for process in &checkpoint.processes {
        let depth = depths.get(&process.ppid).map_or(0, |depth| depth + 1);
        depths.insert(process.pid, depth);
        processes.push(process_line(image, process, depth, &files));
    }
    Inspection {
        summary: image.summary(),
        created_ns: image.created_ns(),
        job: checkpoint.job.clone(),
        command: checkpoint.command.iter().map(|word| readable(word)).collect(),
        host_name: checkpoint.host.name.clone(),
        kernel_release: checkpoint.host.kernel_release.clone(),
        machine: checkpoint.host.machine.clone(),
        processes,
        memory: memory_lines(image),
        carried: describe::carried(checkpoint),
        windows: checkpoint.windows.clone(),
        needs: match &checkpoint.windows {
            Some(windows) => windows::needs(windows),
            None => needs::needs(checkpoint),
        },
    }
}

fn process_line(
    image: &Image,
    process: &Process,
    depth: usize,
    files: &HashMap<OpenFileId, String>,
) -> ProcessLine {
    let descriptor = |entry: &Descriptor| DescriptorLine {
        number: entry.number,
        what: files[&entry.file].clone(),
        close_on_exec: entry.close_on_exec,
    };
    let checkpoint = image.checkpoint();
    let body = process.body.as_ref();
    let threads = body.map_or(&[][..], |body| &body.threads);
    let descriptors = body.map_or(&[][..], |body| &body.descriptors);
    let mappings = body.map_or(&[][..], |body| &body.memory.mappings);
    let stored = image.runs(PageOwner::Process(process.pid)).filter(|run| !run.zero);
    ProcessLine {
        pid: process.pid,
        ppid: process.ppid,
        pgid: process.pgid,
        sid: process.sid,
        depth,
        name: readable(&process.name),
        state: match process.state {
            ProcessState::Running => "running".into(),
            ProcessState::Stopped { signal, .. } => format!("stopped by signal {signal}"),
            ProcessState::Zombie { status } => format!("ended with status {status:#x}"),
        },
        executable: body.map(|body| describe::disk_path(checkpoint, body.executable)),
        cwd: body.map(|body| readable(&body.cwd)),
        uid: body.map(|body| body.credentials.uids[1]),
        gid: body.map(|body| body.credentials.gids[1]),
        threads: threads.iter().map(thread_line).collect(),
        descriptors: descriptors.iter().map(descriptor).collect(),
        mappings: mappings.len(),
        mapped_bytes: mappings.iter().map(|mapping| mapping.range.bytes()).sum(),
        stored_bytes: stored.map(|run| run.pages * PAGE_SIZE).sum(),
    }
}

fn thread_line(thread: &Thread) -> ThreadLine {
    let waiting = thread
        .interrupted
        .map(|call| format!("system call {} for {:.3} s more", call.number, call.remaining_ns as f64 / 1e9));
    ThreadLine { tid: thread.tid, name: readable(&thread.name), waiting }
}

fn memory_lines(image: &Image) -> MemoryLines {
    let mut lines = MemoryLines::default();
    for owner in image.owners() {
        for run in image.runs(owner) {
            let into = match owner {
                _ if run.zero => &mut lines.zero_bytes,
                PageOwner::Process(_) => &mut lines.private_bytes,
                PageOwner::Shared(_) => &mut lines.shared_bytes,
                PageOwner::File(_) => &mut lines.file_bytes,
            };
            *into += run.pages * PAGE_SIZE;
        }
    }
    lines
}
