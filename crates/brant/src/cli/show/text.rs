//! A record for people: sections of aligned lines, only those that have something in them.

use brant_image::inspect::{readable, size};
use brant_record::{
    Address, Begin, Child, Descriptor, Display, Mapped, Outside, Record, SocketState, Text, What,
};

use super::gather::{Shown, State};
use crate::report::{Style, command_line, signal_name, table};

const O_ACCMODE: u32 = 3;

/// Everything of one process.
pub(super) fn process(shown: &Shown, all: bool, style: Style) -> String {
    let command = if shown.command.is_empty() { shown.name.clone() } else { command_line(&shown.command) };
    let to_itself = shown.state.as_ref().map(|state| state.inner_pid).filter(|inner| *inner != shown.pid.0);
    let to_itself = to_itself.map_or(String::new(), |inner| format!(" ({inner} to itself)"));
    let head = format!("process {}", shown.pid);
    let mut lines = vec![format!("{}{to_itself}  {command}", style.bold(&head))];
    let Some(state) = &shown.state else {
        lines.push("  not recorded".to_string());
        return lines.join("\n");
    };
    let page = Page { state, now_ns: shown.now_ns, all };
    lines.push(format!("  {}", page.since()));
    lines.extend(page.warnings().into_iter().map(|line| format!("  {} {line}", style.bad("note:"))));
    let sections = [
        page.standard(),
        page.files(),
        page.connections(),
        page.displays(),
        page.devices(),
        page.others(),
        page.closed(),
        page.processes(),
        page.threads(),
        page.heap(),
        page.regions(),
        page.sleeps(),
    ];
    for section in sections.into_iter().flatten() {
        lines.push(format!("  {}{}", style.bold(section.name), section.about));
        lines.extend(
            table(&section.rows).lines().filter(|line| !line.is_empty()).map(|line| format!("    {line}")),
        );
    }
    lines.join("\n")
}

struct Section {
    name: &'static str,
    about: String,
    rows: Vec<Vec<String>>,
}

struct Page<'a> {
    state: &'a State,
    now_ns: u64,
    all: bool,
}

impl Page<'_> {
    fn record(&self) -> &Record {
        &self.state.record
    }

    fn outside(&self) -> &Outside {
        &self.state.outside
    }

    fn since(&self) -> String {
        let record = self.record();
        let begin = match record.begin {
            Begin::Start => "recorded from its first instruction".to_string(),
            Begin::Wrap => "recorded since the wrapper was put on".to_string(),
            Begin::Fork => format!("recorded since process {} forked it", record.parent),
        };
        let until = record.off_ns.unwrap_or(self.now_ns);
        let span = duration(until.saturating_sub(record.since_ns));
        match record.off_ns {
            None => format!("{begin}, for {span}"),
            Some(_) => format!("{begin}, for {span}; the wrapper has been taken off"),
        }
    }

    /// Where the record is known not to be all.
    fn warnings(&self) -> Vec<String> {
        let record = self.record();
        let mut lines = Vec::new();
        let count = |count: u64, what: &str, lines: &mut Vec<String>| {
            if count > 0 {
                lines.push(format!("{} {what}", number(count)));
            }
        };
        count(record.lost, "events are missing: too much happened at once", &mut lines);
        count(record.torn, "entries were being written and are missing", &mut lines);
        count(
            record.descriptors_not_kept,
            "descriptors more were not kept: their numbers are too high",
            &mut lines,
        );
        count(record.children_not_kept, "children more were not kept", &mut lines);
        count(record.threads_not_kept, "threads more were not kept", &mut lines);
        count(record.regions_not_kept, "regions more were not kept", &mut lines);
        count(record.sleeps.not_kept, "sleeps more were not kept", &mut lines);
        let compared = &self.state.compared;
        let unknown = |what: &str, numbers: Vec<String>, lines: &mut Vec<String>| {
            if !numbers.is_empty() {
                let shown = numbers.iter().take(16).cloned().collect::<Vec<_>>().join(", ");
                let more = if numbers.len() > 16 { ", ..." } else { "" };
                lines.push(format!("{what} that were made in a way that is not recorded: {shown}{more}"));
            }
        };
        let texts = |numbers: &[i32]| numbers.iter().map(ToString::to_string).collect();
        unknown("descriptors", texts(&compared.unknown_descriptors), &mut lines);
        let tids = compared.unknown_threads.iter().map(ToString::to_string).collect();
        unknown("threads", tids, &mut lines);
        unknown("children", texts(&compared.unknown_children), &mut lines);
        if record.pid != self.state.inner_pid {
            lines.push(format!(
                "the record is that of process {}; this one, {}, has done nothing since that is recorded",
                record.pid, self.state.inner_pid
            ));
        }
        lines
    }

    fn standard(&self) -> Option<Section> {
        let names = ["input", "output", "error"];
        let mut rows = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let found = self.record().descriptors.iter().find(|it| it.number == number as i32);
            let what = match found {
                Some(descriptor) if self.outside().has(descriptor) => self.described(descriptor),
                _ => "closed".to_string(),
            };
            let changes = self.record().redirections.iter().filter(|event| event.number == number as i32);
            let last = changes.clone().next_back().map_or(String::new(), |event| {
                let times = match changes.count() {
                    1 => String::new(),
                    count => format!(", {count} times in all"),
                };
                format!("by {} {} ago{times}", event.call, self.ago(event.time_ns))
            });
            rows.push(vec![number.to_string(), (*name).to_string(), what, last]);
        }
        Some(Section { name: "standard handles", about: String::new(), rows })
    }

    /// Open descriptors from 3 on that `fits` tells.
    fn open(&self, fits: impl Fn(&Descriptor) -> bool) -> Vec<&Descriptor> {
        self.record().descriptors.iter().filter(|it| it.number > 2 && fits(it)).collect()
    }

    fn files(&self) -> Option<Section> {
        let is_file = |it: &Descriptor| {
            matches!(it.what, What::File(_) | What::Folder(_)) && it.graphics_device().is_none()
        };
        let found = self.open(is_file);
        let closed = self.record().closed.iter().filter(|it| is_file(it)).count();
        let failed = self.record().open_failed;
        let rows: Vec<Vec<String>> = found.iter().map(|it| self.file_row(it)).collect();
        let failed = if failed > 0 { format!("; {} failed", calls(failed)) } else { String::new() };
        let about = format!("  {} open, {closed} closed{failed}", rows.len());
        (!rows.is_empty() || closed > 0 || !failed.is_empty()).then_some(Section {
            name: "files",
            about,
            rows,
        })
    }

    fn file_row(&self, it: &Descriptor) -> Vec<String> {
        let (What::File(path) | What::Folder(path)) = &it.what else { return Vec::new() };
        let position = self.outside().position(it).filter(|_| matches!(it.what, What::File(_)));
        let access = if matches!(it.what, What::Folder(_)) { "folder".to_string() } else { access(it.flags) };
        vec![
            it.number.to_string(),
            name(path),
            access,
            position.map_or(String::new(), |position| format!("at {position}")),
            self.remarks(it),
        ]
    }

    fn remarks(&self, it: &Descriptor) -> String {
        let mut remarks = Vec::new();
        if !self.outside().has(it) {
            remarks.push("closed in a way that is not recorded");
        }
        if it.is_before {
            remarks.push("before");
        }
        if it.is_inherited {
            remarks.push("inherited");
        }
        remarks.join(", ")
    }

    fn connections(&self) -> Option<Section> {
        let is_socket = |it: &Descriptor| matches!(it.what, What::Socket { .. }) && it.display().is_none();
        let found = self.open(is_socket);
        let closed = self.record().closed.iter().filter(|it| is_socket(it)).count();
        let failed = self.record().connect_failed;
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|it| vec![it.number.to_string(), self.described(it), self.remarks(it)])
            .collect();
        let failed = if failed > 0 { format!("; {} were not made", number(failed)) } else { String::new() };
        let about = format!("  {} open, {closed} closed{failed}", rows.len());
        (!rows.is_empty() || closed > 0 || !failed.is_empty()).then_some(Section {
            name: "connections",
            about,
            rows,
        })
    }

    fn displays(&self) -> Option<Section> {
        let rows: Vec<Vec<String>> = self
            .open(|it| it.display().is_some())
            .iter()
            .map(|it| vec![it.number.to_string(), display(it), self.described(it), self.remarks(it)])
            .collect();
        (!rows.is_empty()).then_some(Section { name: "displays", about: String::new(), rows })
    }

    fn devices(&self) -> Option<Section> {
        let found = self.open(|it| it.graphics_device().is_some());
        let rows: Vec<Vec<String>> = found.iter().map(|it| self.file_row(it)).collect();
        (!rows.is_empty()).then_some(Section { name: "graphics devices", about: String::new(), rows })
    }

    fn others(&self) -> Option<Section> {
        let is_other =
            |it: &Descriptor| !matches!(it.what, What::File(_) | What::Folder(_) | What::Socket { .. });
        let rows: Vec<Vec<String>> = self
            .open(is_other)
            .iter()
            .map(|it| vec![it.number.to_string(), self.described(it), self.remarks(it)])
            .collect();
        (!rows.is_empty()).then_some(Section { name: "other descriptors", about: String::new(), rows })
    }

    fn closed(&self) -> Option<Section> {
        let record = self.record();
        if !self.all || record.closed.is_empty() {
            return None;
        }
        let more = record.closed_count.saturating_sub(record.closed.len() as u64);
        let about = if more > 0 { format!("  {} more are not kept", number(more)) } else { String::new() };
        let rows = record
            .closed
            .iter()
            .map(|it| {
                let when = if it.is_closed_unseen { "unseen" } else { "" };
                vec![
                    it.number.to_string(),
                    self.described(it),
                    format!("by {}", it.call),
                    format!("{} ago {when}", self.ago(it.closed_ns)),
                ]
            })
            .collect();
        Some(Section { name: "closed", about, rows })
    }

    fn processes(&self) -> Option<Section> {
        let record = self.record();
        if record.children.is_empty() && record.exec_failed == 0 {
            return None;
        }
        let has_ended = |child: &&Child| child.ended.is_some() || !self.outside().has_child(child);
        let ended = record.children.iter().filter(has_ended).count();
        let made = number(record.child_count);
        let exec = match record.exec_failed {
            0 => String::new(),
            failed => format!("; {} executions failed", number(failed)),
        };
        let about = format!("  {made} started, {} running{exec}", record.children.len() - ended);
        let rows = record
            .children
            .iter()
            .filter(|child| self.all || !has_ended(child) || record.children.len() <= 8)
            .map(|child| {
                let state = match child.ended {
                    Some((status, _)) => end(status),
                    None if self.outside().has_child(child) => "running".to_string(),
                    None => "ended, not waited for".to_string(),
                };
                vec![child.pid.to_string(), child.call.to_string(), state, name(&child.command)]
            })
            .collect();
        Some(Section { name: "processes", about, rows })
    }

    fn threads(&self) -> Option<Section> {
        let record = self.record();
        let runs = |it: &&brant_record::Task| self.outside().runs(it);
        let running = record.threads.iter().filter(runs).count();
        let about = format!("  {running} running, {} created since", number(record.thread_count));
        let rows = record
            .threads
            .iter()
            .filter(|task| self.all || runs(task) && running <= 16)
            .map(|task| {
                let outside = self.outside().threads.get(&task.tid).filter(|_| task.ended_ns.is_none());
                let name = outside.unwrap_or(&task.name);
                let origin = match (task.is_before, task.creator) {
                    (true, _) => String::new(),
                    (false, by) => format!("created by {by}"),
                };
                let state = if runs(&task) { "" } else { "ended" };
                let tid = if task.tid == 0 { "?".to_string() } else { task.tid.to_string() };
                vec![tid, readable(name), origin, state.to_string()]
            })
            .collect();
        Some(Section { name: "threads", about, rows })
    }

    fn heap(&self) -> Option<Section> {
        let heap = self.record().heap;
        if heap.allocations == 0 && heap.releases == 0 {
            let about =
                "  no call of the C library's own allocator; the program may have another one".to_string();
            return Some(Section { name: "heap", about, rows: Vec::new() });
        }
        let live = heap.allocations as i128 - heap.releases as i128;
        let bytes = heap.bytes.map_or(String::new(), |(bytes_in, bytes_out)| {
            let bytes = bytes_in as i128 - bytes_out as i128;
            let sign = if bytes < 0 { "-" } else { "" };
            format!("{sign}{} in ", size(bytes.unsigned_abs() as u64))
        });
        let failed =
            if heap.failed > 0 { format!(", {} failed", number(heap.failed)) } else { String::new() };
        let allocated = heap.bytes.map_or(String::new(), |(bytes_in, _)| format!(" of {}", size(bytes_in)));
        let about = format!("  {bytes}{live} blocks");
        let row = format!(
            "{} allocations{allocated}, {} releases{failed}",
            number(heap.allocations),
            number(heap.releases)
        );
        Some(Section { name: "heap", about, rows: vec![vec![row]] })
    }

    fn regions(&self) -> Option<Section> {
        const SHOWN: usize = 8;
        let record = self.record();
        let there: Vec<&Mapped> = record.regions.iter().filter(|it| self.outside().maps(it)).collect();
        let (before, since): (Vec<&Mapped>, Vec<&Mapped>) = there.iter().partition(|it| it.is_before);
        let sum = |regions: &[&Mapped]| size(regions.iter().map(|it| it.end.saturating_sub(it.start)).sum());
        let about = format!(
            "  {} ({}) by {} calls; {} ({}) from before",
            since.len(),
            sum(&since),
            number(record.region_count),
            before.len(),
            sum(&before)
        );
        let mut shown = if self.all { there } else { since };
        if !self.all {
            shown.sort_by_key(|it| std::cmp::Reverse(it.end.saturating_sub(it.start)));
        }
        let more = shown.len().saturating_sub(SHOWN);
        let count = if self.all { shown.len() } else { SHOWN };
        let mut rows: Vec<Vec<String>> = shown.iter().take(count).map(|it| region_row(it)).collect();
        if !self.all && more > 0 {
            rows.push(vec![format!("{more} smaller ones: --all")]);
        }
        (!record.regions.is_empty()).then_some(Section { name: "regions", about, rows })
    }

    fn sleeps(&self) -> Option<Section> {
        let sleeps = self.record().sleeps;
        let now: Vec<_> = self.record().sleeping.iter().filter(|it| self.outside().sleeps(it)).collect();
        if sleeps.count == 0 && now.is_empty() {
            return None;
        }
        let cut = match sleeps.cut_short {
            0 => String::new(),
            count => format!(", {} cut short", number(count)),
        };
        let about = format!(
            "  {} done ({}){cut}; {} now",
            number(sleeps.count),
            duration(sleeps.slept_ns),
            now.len()
        );
        let rows = now
            .iter()
            .map(|it| {
                let since = format!("since {}", self.ago(it.since_ns));
                vec![it.tid.to_string(), it.call.to_string(), format!("for {}", duration(it.asked_ns)), since]
            })
            .collect();
        Some(Section { name: "sleeps", about, rows })
    }

    fn ago(&self, then_ns: u64) -> String {
        duration(self.now_ns.saturating_sub(then_ns))
    }

    /// What a descriptor is, in a few words.
    fn described(&self, it: &Descriptor) -> String {
        match &it.what {
            What::File(path) => format!("{}  {}", name(path), access(it.flags)),
            What::Folder(path) => format!("{}  folder", name(path)),
            What::Pipe { is_writing, other, name: text } => {
                let end = if *is_writing { "writing end of a pipe" } else { "reading end of a pipe" };
                let is_pipe = |number: &i32| {
                    let all = &self.record().descriptors;
                    all.iter().any(|it| it.number == *number && matches!(it.what, What::Pipe { .. }))
                };
                let other = other.filter(is_pipe);
                let other = other.map_or(String::new(), |other| format!(", made with {other}"));
                let text = if text.bytes.is_empty() { String::new() } else { format!(" {}", name(text)) };
                format!("{end}{other}{text}")
            }
            What::Socket { .. } => socket(it),
            What::Memory(text) => format!("memory file {}", name(text)),
            What::Event => "event counter".to_string(),
            What::Timer => "timer".to_string(),
            What::Signals => "signals".to_string(),
            What::Epoll => "epoll".to_string(),
            What::Inotify => "inotify".to_string(),
            What::Process(text) => format!("process {}", name(text)),
            What::Other(text) => name(text),
        }
        .trim_end()
        .to_string()
    }
}

fn name(text: &Text) -> String {
    format!("{}{}", readable(&text.bytes), if text.is_cut { "..." } else { "" })
}

pub(super) fn access(flags: u32) -> String {
    const O_APPEND: u32 = 0o2000;
    const O_NONBLOCK: u32 = 0o4000;
    const O_PATH: u32 = 0o10_000_000;
    let mut words = vec![match flags & O_ACCMODE {
        _ if flags & O_PATH != 0 => "path only",
        0 => "read",
        1 => "write",
        _ => "read write",
    }];
    words.extend((flags & O_APPEND != 0).then_some("append"));
    words.extend((flags & O_NONBLOCK != 0).then_some("nonblocking"));
    words.join(" ")
}

/// "exited (0)" or "killed (SIGTERM)".
fn end(status: i32) -> String {
    match status & 0x7f {
        0 => format!("exited ({})", status >> 8 & 0xff),
        signal => format!("killed ({})", signal_name(signal)),
    }
}

pub(super) fn protocol(family: i32, kind: u16) -> String {
    let family = match family {
        libc::AF_UNIX => "unix",
        libc::AF_INET => "ipv4",
        libc::AF_INET6 => "ipv6",
        libc::AF_NETLINK => "netlink",
        libc::AF_PACKET => "packet",
        other => return format!("family {other} type {kind}"),
    };
    match (family, i32::from(kind)) {
        ("ipv4" | "ipv6", libc::SOCK_STREAM) => "tcp".to_string(),
        ("ipv4" | "ipv6", libc::SOCK_DGRAM) => "udp".to_string(),
        (family, libc::SOCK_STREAM) => family.to_string(),
        (family, libc::SOCK_DGRAM) => format!("{family} datagrams"),
        (family, libc::SOCK_SEQPACKET) => format!("{family} packets"),
        (family, _) => format!("{family} raw"),
    }
}

pub(super) fn address(address: &Address) -> String {
    match address {
        Address::None => String::new(),
        Address::Inet(address) => address.to_string(),
        Address::Path(path) => readable(path),
        Address::Abstract(name) => format!("@{}", readable(name)),
        Address::Other(family) => format!("family {family}"),
    }
}

fn socket(it: &Descriptor) -> String {
    let What::Socket { family, kind, state, own, peer, shut_read, shut_write, .. } = &it.what else {
        return String::new();
    };
    let protocol = protocol(*family, *kind);
    let (own, peer) = (address(own), address(peer));
    let ends = match state {
        SocketState::New => "not connected".to_string(),
        SocketState::Bound => format!("{own}  bound"),
        SocketState::Listening => format!("{own}  listening"),
        SocketState::Connecting => format!("{own} -> {peer}  connecting"),
        SocketState::Connected => format!("{own} -> {peer}  connected"),
        SocketState::Accepted => format!("{own} <- {peer}  accepted"),
        SocketState::Pair => "pair".to_string(),
        SocketState::Failed => format!("{own} -> {peer}  not made"),
    };
    let shut = match (shut_read, shut_write) {
        (true, true) => ", shut down",
        (true, false) => ", shut down for reading",
        (false, true) => ", shut down for writing",
        _ => "",
    };
    format!("{protocol}  {}{shut}", ends.trim_start())
}

pub(super) fn display(it: &Descriptor) -> String {
    match it.display() {
        Some(Display::X11(number)) => format!("X11 :{number}"),
        Some(Display::Wayland(name)) => format!("Wayland {}", readable(&name)),
        None => String::new(),
    }
}

pub(super) fn protection(bits: u32) -> String {
    let letter = |bit: u32, letter: char| if bits & bit != 0 { letter } else { '-' };
    [letter(1, 'r'), letter(2, 'w'), letter(4, 'x')].iter().collect()
}

fn region_row(it: &Mapped) -> Vec<String> {
    const MAP_SHARED: u32 = 1;
    let sharing = if it.flags & MAP_SHARED != 0 { "shared" } else { "private" };
    let what = if it.name.bytes.is_empty() { "memory".to_string() } else { name(&it.name) };
    vec![
        format!("{:x}-{:x}", it.start, it.end),
        size(it.end.saturating_sub(it.start)),
        protection(it.protection),
        sharing.to_string(),
        it.call.to_string(),
        what,
    ]
}

fn calls(count: u64) -> String {
    format!("{} call{}", number(count), if count == 1 { "" } else { "s" })
}

/// Digits in groups of three.
fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn duration(ns: u64) -> String {
    match ns / 1_000_000_000 {
        0 if ns < 1_000_000 => format!("{} us", ns / 1000),
        0 => format!("{} ms", ns / 1_000_000),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
