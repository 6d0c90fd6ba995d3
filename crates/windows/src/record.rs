//! What a recorded program has to do with the world: the answer to `brant.exe show`, and how it is printed.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Version of what `show --json` prints.
pub const SHOW_VERSION: u32 = 1;
/// Regions that are printed unless all are asked for.
const REGIONS_SHOWN: usize = 20;

/// The external state of a process since its record began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub pid: u32,
    pub program: String,
    /// How long it has been recorded.
    pub recorded_ms: u64,
    /// Events that were not kept, as another thread held the record too long.
    pub lost: u64,
    pub standard: Vec<Standard>,
    /// Files, events and their like: what CloseHandle closes.
    pub handles: Vec<Object>,
    pub closed: u64,
    pub failed: u64,
    pub processes: Vec<Process>,
    pub threads: Vec<Thread>,
    pub heaps: Vec<Heap>,
    pub regions: Vec<Region>,
    pub sockets: Vec<Socket>,
    /// Windows, menus, device contexts, and drawing objects.
    pub gui: Vec<Object>,
    pub waits: Vec<Wait>,
    pub waits_done: u64,
    pub waited_ms: u64,
    /// How often each function was called, where it was.
    pub calls: Vec<(String, u64)>,
}

/// What a standard handle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standard {
    pub name: String,
    pub handle: u64,
    pub kind: String,
    /// How often the program has set it.
    pub sets: u64,
}

/// Something that is known by a handle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub handle: u64,
    pub kind: String,
    /// Its path, name or title; may be empty.
    pub name: String,
    /// How it was asked for: access, size; may be empty.
    pub detail: String,
    /// The function that gave it.
    pub by: String,
    pub position: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub command: String,
    pub by: String,
    /// Nothing while it runs, and where that cannot be told.
    pub exit_code: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    pub id: u32,
    /// Where it began; 0 where it was there before.
    pub start: u64,
    /// The thread that made it; 0 where it was there before.
    pub creator: u32,
    pub is_running: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    pub handle: u64,
    /// "process" for the one that every process has.
    pub kind: String,
    pub allocations: u64,
    pub allocated_bytes: u64,
    pub releases: u64,
    pub released_bytes: u64,
    pub is_destroyed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    pub at: u64,
    pub bytes: u64,
    pub detail: String,
    pub by: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    pub handle: u64,
    /// tcp, udp, or its numbers.
    pub kind: String,
    pub state: String,
    pub local: String,
    pub peer: String,
}

/// A thread that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub thread: u32,
    pub function: String,
    /// Nothing: for ever.
    pub limit_ms: Option<u64>,
    pub since_ms: u64,
}

impl Shown {
    /// As people read it. `all`: every region too.
    pub fn text(&self, all: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, all);
        text
    }

    fn write(&self, out: &mut String, all: bool) -> std::fmt::Result {
        writeln!(out, "process {}  {}", self.pid, self.program)?;
        writeln!(out, "  recorded for {}", span(self.recorded_ms))?;
        if self.lost > 0 {
            writeln!(out, "  {} events were not kept", self.lost)?;
        }
        writeln!(out, "  standard handles")?;
        for Standard { name, handle, kind, sets } in &self.standard {
            let set = if *sets == 0 { String::new() } else { format!("  set {sets} times") };
            writeln!(out, "    {name:<7} {handle:#x}  {kind}{set}")?;
        }
        writeln!(
            out,
            "  handles  {} open, {} closed; {} calls failed",
            self.handles.len(),
            self.closed,
            self.failed
        )?;
        self.handles.iter().try_for_each(|object| object.write(out))?;
        self.write_threads(out)?;
        self.write_memory(out, all)?;
        if !self.sockets.is_empty() {
            writeln!(out, "  connections  {} open", self.sockets.len())?;
        }
        for Socket { handle, kind, state, local, peer } in &self.sockets {
            let peer = if peer.is_empty() { String::new() } else { format!(" -> {peer}") };
            writeln!(out, "    {handle:#x}  {kind}  {local}{peer}  {state}")?;
        }
        if !self.gui.is_empty() {
            writeln!(out, "  windows, menus and drawing  {} there", self.gui.len())?;
        }
        self.gui.iter().try_for_each(|object| object.write(out))?;
        writeln!(
            out,
            "  waits  {} done ({}); {} now",
            self.waits_done,
            span(self.waited_ms),
            self.waits.len()
        )?;
        for Wait { thread, function, limit_ms, since_ms } in &self.waits {
            let limit = limit_ms.map_or("for ever".to_owned(), |limit| format!("for {}", span(limit)));
            writeln!(out, "    {thread}  {function}  {limit}  since {}", span(*since_ms))?;
        }
        writeln!(out, "  calls")?;
        for (function, count) in &self.calls {
            writeln!(out, "    {function}  {count}")?;
        }
        Ok(())
    }

    fn write_threads(&self, out: &mut String) -> std::fmt::Result {
        if !self.processes.is_empty() {
            writeln!(out, "  processes  {} started", self.processes.len())?;
        }
        for Process { pid, command, by, exit_code } in &self.processes {
            let end = exit_code.map_or("running".to_owned(), |code| format!("exited ({code})"));
            writeln!(out, "    {pid}  {by}  {end}  {command}")?;
        }
        let running = self.threads.iter().filter(|thread| thread.is_running).count();
        let created = self.threads.iter().filter(|thread| thread.creator != 0).count();
        writeln!(out, "  threads  {running} running, {created} created since")?;
        for Thread { id, start, creator, is_running } in &self.threads {
            let state = if *is_running { "" } else { "  ended" };
            let origin =
                if *creator == 0 { String::new() } else { format!("  at {start:#x}  created by {creator}") };
            writeln!(out, "    {id}{origin}{state}")?;
        }
        Ok(())
    }

    fn write_memory(&self, out: &mut String, all: bool) -> std::fmt::Result {
        let there = self.heaps.iter().filter(|heap| !heap.is_destroyed).count();
        writeln!(out, "  heaps  {there} there, {} destroyed", self.heaps.len() - there)?;
        for heap in &self.heaps {
            let state = if heap.is_destroyed { "  destroyed" } else { "" };
            writeln!(
                out,
                "    {:#x}  {}  {} allocations of {}, {} releases of {}{state}",
                heap.handle,
                heap.kind,
                heap.allocations,
                size(heap.allocated_bytes),
                heap.releases,
                size(heap.released_bytes)
            )?;
        }
        let bytes: u64 = self.regions.iter().map(|region| region.bytes).sum();
        writeln!(out, "  regions  {} of {}", self.regions.len(), size(bytes))?;
        let shown = if all { self.regions.len() } else { REGIONS_SHOWN };
        for Region { at, bytes, detail, by } in self.regions.iter().take(shown) {
            writeln!(out, "    {at:#x}  {}  {by}  {detail}", size(*bytes))?;
        }
        if self.regions.len() > shown {
            writeln!(out, "    and {} more (--all)", self.regions.len() - shown)?;
        }
        Ok(())
    }
}

impl Object {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Object { handle, kind, name, detail, by, position } = self;
        write!(out, "    {handle:#x}  {kind}")?;
        for part in [name, detail].into_iter().filter(|part| !part.is_empty()) {
            // What a program calls things must not command the terminal.
            let part: String = part.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            write!(out, "  {part}")?;
        }
        if let Some(position) = position {
            write!(out, "  at {position}")?;
        }
        writeln!(out, "  by {by}")
    }
}

fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1000),
        _ => format!("{} min", ms / 60_000),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_printed_by_its_parts() {
        let object = |kind: &str, name: &str| Object {
            handle: 0x40,
            kind: kind.into(),
            name: name.into(),
            by: "CreateFileW".into(),
            position: Some(7),
            ..Object::default()
        };
        let shown = Shown {
            pid: 5,
            program: "a.exe".into(),
            recorded_ms: 12_000,
            handles: vec![object("file", "x\u{1b}.txt")],
            gui: vec![object("menu", "")],
            regions: (0..22)
                .map(|at| Region { at, bytes: 4096, detail: "read".into(), by: "VirtualAlloc".into() })
                .collect(),
            waits: vec![Wait { thread: 9, function: "Sleep".into(), limit_ms: None, since_ms: 3 }],
            ..Shown::default()
        };
        let text = shown.text(false);
        assert!(text.starts_with("process 5  a.exe\n  recorded for 12 s\n"), "{text}");
        assert!(text.contains("    0x40  file  x?.txt  at 7  by CreateFileW\n"), "{text}");
        assert!(text.contains("  regions  22 of 88 KiB\n") && text.contains("and 2 more (--all)"), "{text}");
        assert!(text.contains("    9  Sleep  for ever  since 3 ms\n"), "{text}");
        assert!(text.contains("windows, menus and drawing  1 there"), "{text}");
        assert!(!shown.text(true).contains("--all"));
    }
}
