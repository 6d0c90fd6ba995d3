//! An image's inspection for machines. Its text is the inspection's own `Display`.

use brant_image::inspect::{DescriptorLine, Inspection, ProcessLine, ThreadLine};
use serde_json::{Value, json};

/// What `brant image inspect --json` prints; the caller adds `schema_version`.
#[expect(dead_code, reason = "the image verb prints it")]
pub(crate) fn inspection(from: &Inspection) -> Value {
    let memory = &from.memory;
    json!({
        "id": from.summary.id.to_string(),
        "created_ns": from.created_ns,
        "bytes": from.summary.bytes,
        "digest": hex(&from.summary.digest),
        "job": from.job,
        "command": from.command,
        "host": { "name": from.host_name, "kernel_release": from.kernel_release, "machine": from.machine },
        "processes": from.processes.iter().map(process).collect::<Vec<Value>>(),
        "memory": {
            "private_bytes": memory.private_bytes,
            "shared_bytes": memory.shared_bytes,
            "file_bytes": memory.file_bytes,
            "zero_bytes": memory.zero_bytes,
        },
        "needs": from.needs,
    })
}

fn process(from: &ProcessLine) -> Value {
    json!({
        "pid": from.pid.0,
        "ppid": from.ppid.0,
        "pgid": from.pgid.0,
        "sid": from.sid.0,
        "name": from.name,
        "state": from.state,
        "executable": from.executable,
        "cwd": from.cwd,
        "uid": from.uid,
        "gid": from.gid,
        "threads": from.threads.iter().map(thread).collect::<Vec<Value>>(),
        "descriptors": from.descriptors.iter().map(descriptor).collect::<Vec<Value>>(),
        "mappings": from.mappings,
        "mapped_bytes": from.mapped_bytes,
        "stored_bytes": from.stored_bytes,
    })
}

fn thread(from: &ThreadLine) -> Value {
    json!({ "tid": from.tid.0, "name": from.name, "waiting": from.waiting })
}

fn descriptor(from: &DescriptorLine) -> Value {
    json!({ "number": from.number, "what": from.what, "close_on_exec": from.close_on_exec })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
