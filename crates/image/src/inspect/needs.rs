//! What a restore of a checkpoint needs from its host.

use std::collections::BTreeSet;

use super::describe::address;
use super::text::readable;
use crate::model::*;

pub(super) fn needs(checkpoint: &Checkpoint) -> Vec<String> {
    let mut needs = vec![format!("CPU and kernel of type {}", checkpoint.host.machine)];
    let xstate_bytes = threads(checkpoint).map(|thread| thread.xstate.0.len()).max().unwrap_or(0);
    if xstate_bytes > 0 {
        let features = checkpoint.host.xstate_features;
        needs.push(format!("CPU state components {features:#x} ({xstate_bytes} bytes a thread)"));
    }
    let tids = threads(checkpoint).map(|thread| thread.tid.0);
    let highest = tids.chain(checkpoint.processes.iter().map(|process| process.pid.0)).max();
    if let Some(highest) = highest {
        needs.push(format!("process numbers up to {highest}"));
    }
    needs.extend(users(checkpoint));
    needs.extend(checkpoint.disk_files.iter().filter(|file| !file.stored).map(disk_file));
    needs.extend(paths(checkpoint));
    for socket in checkpoint.inet_sockets.iter().filter(|socket| socket.listening.is_some()) {
        if let Some(local) = address(&socket.local) {
            needs.push(format!("the address {local} free to listen on"));
        }
    }
    let fresh = checkpoint.terminals.iter().filter(|terminal| !terminal.inside).count();
    match fresh {
        0 => {}
        1 => needs.push("a fresh terminal".into()),
        count => needs.push(format!("{count} fresh terminals")),
    }
    needs
}

fn threads(checkpoint: &Checkpoint) -> impl Iterator<Item = &Thread> {
    checkpoint.processes.iter().flat_map(|process| &process.body).flat_map(|body| &body.threads)
}

fn users(checkpoint: &Checkpoint) -> Option<String> {
    let bodies = checkpoint.processes.iter().flat_map(|process| &process.body);
    let uids: BTreeSet<u32> = bodies.flat_map(|body| body.credentials.uids).collect();
    let uids: Vec<String> = uids.iter().map(u32::to_string).collect();
    match uids.len() {
        0 => None,
        1 => Some(format!("user {} (a user namespace gives it)", uids[0])),
        _ => Some(format!("users {}", uids.join(", "))),
    }
}

fn disk_file(file: &DiskFile) -> String {
    let path = readable(&file.path);
    let sameness = if !file.build_id.is_empty() {
        format!("build id {}", hex(&file.build_id))
    } else if !file.digest.is_empty() {
        format!("{} bytes, blake3 {}", file.size, hex(&file.digest[..8]))
    } else {
        format!("{} bytes", file.size)
    };
    let written = if file.written { ", to be written on" } else { "" };
    format!("the file {path} ({sameness}{written})")
}

/// Directories, fifos and devices that are opened or entered by path.
fn paths(checkpoint: &Checkpoint) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for body in checkpoint.processes.iter().flat_map(|process| &process.body) {
        paths.insert(format!("the directory {}", readable(&body.cwd)));
    }
    for file in &checkpoint.open_files {
        match &file.kind {
            FileKind::Directory { path } => paths.insert(format!("the directory {}", readable(path))),
            FileKind::Device { path, .. } => paths.insert(format!("the device {}", readable(path))),
            FileKind::PathOnly { path } => paths.insert(format!("the path {}", readable(path))),
            _ => false,
        };
    }
    for path in checkpoint.pipes.iter().flat_map(|pipe| &pipe.fifo) {
        paths.insert(format!("the fifo {}", readable(path)));
    }
    paths
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
