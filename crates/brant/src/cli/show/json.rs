//! A record for machines: all of it.

use brant_image::inspect::readable;
use brant_record::{
    Address, Begin, Child, Descriptor, Mapped, Redirection, Sleeping, SocketState, Task, Text, What,
};
use serde_json::{Map, Value, json};

use super::gather::{Shown, State};
use super::text::{address, display, protection, protocol};

pub(super) fn process(shown: &Shown) -> Value {
    let mut value = json!({
        "pid": shown.pid.0, "name": shown.name, "command": shown.command, "recorded": shown.state.is_some(),
    });
    if let (Some(state), Value::Object(fields)) = (&shown.state, &mut value) {
        fields.extend(record(state));
    }
    value
}

fn record(state: &State) -> Map<String, Value> {
    let record = &state.record;
    let heap = record.heap;
    let value = json!({
        "since": { "begin": begin(record.begin), "time_ns": record.since_ns, "off_ns": record.off_ns },
        "recorded_pid": record.pid,
        "parent": record.parent,
        "missing": {
            "lost": record.lost, "torn": record.torn, "descriptors": record.descriptors_not_kept,
            "children": record.children_not_kept, "threads": record.threads_not_kept,
            "regions": record.regions_not_kept, "sleeps": record.sleeps.not_kept,
        },
        "not_recorded": {
            "descriptors": state.compared.unknown_descriptors, "threads": state.compared.unknown_threads,
            "children": state.compared.unknown_children,
        },
        "opened": record.opened,
        "open_failed": record.open_failed,
        "connect_failed": record.connect_failed,
        "descriptors": list(&record.descriptors, |it| descriptor(it, state)),
        "closed_count": record.closed_count,
        "closed": list(&record.closed, closed),
        "redirection_count": record.redirection_count,
        "redirections": list(&record.redirections, redirection),
        "children_started": record.child_count,
        "exec_failed": record.exec_failed,
        "children": list(&record.children, |it| child(it, state)),
        "threads_created": record.thread_count,
        "threads": list(&record.threads, |it| task(it, state)),
        "heap": {
            "allocations": heap.allocations, "releases": heap.releases, "failed": heap.failed,
            "allocated_bytes": heap.bytes.map(|(bytes, _)| bytes), "released_bytes": heap.bytes.map(|(_, bytes)| bytes),
            "break_calls": heap.break_calls, "break": heap.break_now,
        },
        "regions_made": record.region_count,
        "regions": list(&record.regions, |it| region(it, state)),
        "sleeps": {
            "count": record.sleeps.count, "asked_ns": record.sleeps.asked_ns, "slept_ns": record.sleeps.slept_ns,
            "cut_short": record.sleeps.cut_short,
            "now": list(&record.sleeping, |it| sleeping(it, state)),
        },
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn list<T>(all: &[T], each: impl Fn(&T) -> Value) -> Vec<Value> {
    all.iter().map(each).collect()
}

fn begin(begin: Begin) -> &'static str {
    match begin {
        Begin::Start => "start",
        Begin::Wrap => "wrap",
        Begin::Fork => "fork",
    }
}

fn descriptor(it: &Descriptor, state: &State) -> Value {
    let mut value = closed(it);
    value["open"] = json!(state.outside.has(it));
    value["position"] = json!(state.outside.position(it).filter(|_| matches!(it.what, What::File(_))));
    value
}

/// What does not depend on the kernel's word.
fn closed(it: &Descriptor) -> Value {
    let mut value = json!({
        "number": it.number, "call": it.call, "flags": it.flags, "close_on_exec": it.close_on_exec,
        "before": it.is_before, "inherited": it.is_inherited, "description": it.description,
        "opened_ns": it.opened_ns,
    });
    if it.closed_ns > 0 {
        value["closed_ns"] = json!(it.closed_ns);
        value["closed_unseen"] = json!(it.is_closed_unseen);
    }
    let mut what = |kind: &str, key: &str, text: &Text| {
        value["kind"] = json!(kind);
        value[key] = json!(readable(&text.bytes));
        value["cut"] = json!(text.is_cut);
    };
    match &it.what {
        What::File(path) => what("file", "path", path),
        What::Folder(path) => what("folder", "path", path),
        What::Memory(name) => what("memory", "name", name),
        What::Process(pid) => what("process", "name", pid),
        What::Other(name) => what("other", "name", name),
        What::Pipe { is_writing, other, .. } => {
            value["kind"] = json!("pipe");
            value["writing"] = json!(is_writing);
            value["made_with"] = json!(other);
        }
        What::Socket { .. } => socket(it, &mut value),
        What::Event => value["kind"] = json!("event"),
        What::Timer => value["kind"] = json!("timer"),
        What::Signals => value["kind"] = json!("signals"),
        What::Epoll => value["kind"] = json!("epoll"),
        What::Inotify => value["kind"] = json!("inotify"),
    }
    if it.graphics_device().is_some() {
        value["graphics_device"] = json!(true);
    }
    value
}

fn socket(it: &Descriptor, value: &mut Value) {
    let What::Socket { family, kind, protocol: number, state, own, peer, shut_read, shut_write } = &it.what
    else {
        return;
    };
    let text = |end: &Address| match end {
        Address::None => Value::Null,
        end => json!(address(end)),
    };
    value["kind"] = json!("socket");
    value["protocol"] = json!(protocol(*family, *kind));
    value["family"] = json!(family);
    value["type"] = json!(kind);
    value["protocol_number"] = json!(number);
    value["state"] = json!(match state {
        SocketState::New => "new",
        SocketState::Bound => "bound",
        SocketState::Listening => "listening",
        SocketState::Connecting => "connecting",
        SocketState::Connected => "connected",
        SocketState::Accepted => "accepted",
        SocketState::Pair => "pair",
        SocketState::Failed => "failed",
    });
    value["address"] = text(own);
    value["peer"] = text(peer);
    value["shut_read"] = json!(shut_read);
    value["shut_write"] = json!(shut_write);
    if it.display().is_some() {
        value["display"] = json!(display(it));
    }
}

fn redirection(it: &Redirection) -> Value {
    json!({ "number": it.number, "call": it.call, "time_ns": it.time_ns, "name": readable(&it.name) })
}

fn child(it: &Child, state: &State) -> Value {
    json!({
        "pid": it.pid, "call": it.call, "command": readable(&it.command.bytes), "cut": it.command.is_cut,
        "before": it.is_before, "begun_ns": it.begun_ns, "status": it.ended.map(|(status, _)| status),
        "ended_ns": it.ended.map(|(_, time)| time), "running": state.outside.has_child(it),
    })
}

fn task(it: &Task, state: &State) -> Value {
    let named = state.outside.threads.get(&it.tid).filter(|_| it.ended_ns.is_none()).unwrap_or(&it.name);
    json!({
        "tid": it.tid, "name": readable(named), "call": it.call, "creator": it.creator, "routine": it.routine,
        "before": it.is_before, "begun_ns": it.begun_ns, "ended_ns": it.ended_ns, "running": state.outside.runs(it),
    })
}

fn region(it: &Mapped, state: &State) -> Value {
    json!({
        "start": format!("{:#x}", it.start), "end": format!("{:#x}", it.end), "bytes": it.end.saturating_sub(it.start),
        "protection": protection(it.protection), "flags": it.flags, "name": readable(&it.name.bytes),
        "offset": it.offset, "call": it.call, "before": it.is_before, "since_ns": it.since_ns,
        "mapped": state.outside.maps(it),
    })
}

fn sleeping(it: &Sleeping, state: &State) -> Value {
    json!({
        "tid": it.tid, "call": it.call, "since_ns": it.since_ns, "asked_ns": it.asked_ns,
        "running": state.outside.sleeps(it),
    })
}
