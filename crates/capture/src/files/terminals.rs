//! Terminals: which descriptors are on which one, which of them are inside of the tree, and which processes each one
//! controls.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;

use brant_base::{Pid, Refusals};
use brant_image::model::{OpenFileId, TerminalId};
use brant_kernel::descriptor::{self, DescriptorKind};
use brant_kernel::proc::{self, Device};

use super::{Description, Survey, What};
use crate::refusals::text;
use crate::tree::Member;

/// A terminal that descriptors of the tree are on or that controls processes of it.
pub(crate) struct TerminalFound {
    pub(crate) id: TerminalId,
    /// N of /dev/pts/N; `None` for one that is not a pseudo-terminal.
    pub(crate) index: Option<u32>,
    pub(crate) masters: Vec<OpenFileId>,
    pub(crate) slaves: Vec<OpenFileId>,
    /// Indices of the members that it controls.
    pub(crate) controls: Vec<usize>,
}

impl TerminalFound {
    /// The master side is in the tree, too.
    pub(crate) fn is_inside(&self) -> bool {
        !self.masters.is_empty()
    }
}

/// Numbers of sessions and groups, ours and the tree's own.
#[derive(Default)]
pub(crate) struct Sessions {
    /// One a member.
    pub(crate) places: Vec<Option<MemberPlace>>,
    groups_inside: HashMap<i32, Pid>,
}

/// A process's place among sessions and terminals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberPlace {
    /// As the process itself sees it.
    pub(crate) session: Pid,
    terminal: Option<Device>,
    /// In our own pid namespace; -1 for none.
    foreground_host: i32,
}

impl Sessions {
    pub(super) fn of(members: &[Member]) -> Sessions {
        let mut sessions = Sessions::default();
        for member in members {
            sessions.places.push(place(member, &mut sessions.groups_inside));
        }
        sessions
    }

    /// A process group of ours by the number that the tree knows it by, where a process of the tree is in it.
    pub(crate) fn group_inside(&self, group_host: i32) -> Option<Pid> {
        self.groups_inside.get(&group_host).copied()
    }

    /// The foreground group of the terminal that controls `member`, as the tree numbers it; 0 for none, or one that is
    /// in an outer pid namespace.
    pub(crate) fn foreground(&self, member: usize) -> Pid {
        let Some(place) = self.places.get(member).copied().flatten() else { return Pid(0) };
        if let Some(inside) = self.groups_inside.get(&place.foreground_host) {
            return *inside;
        }
        // A group that the tree has no process in: the shell's, say. Its number is ours where the namespaces are the same.
        let same_namespace = self.groups_inside.iter().all(|(host, inside)| *host == inside.0);
        if same_namespace && place.foreground_host > 0 { Pid(place.foreground_host) } else { Pid(0) }
    }
}

fn place(member: &Member, groups_inside: &mut HashMap<i32, Pid>) -> Option<MemberPlace> {
    let stat = proc::stat(member.host).ok()?;
    let status = proc::status(member.host).ok()?;
    groups_inside.insert(stat.pgrp.0, Pid(status.ns_pgid.last().copied().unwrap_or(stat.pgrp.0)));
    let session = Pid(status.ns_sid.last().copied().unwrap_or(stat.session.0));
    Some(MemberPlace { session, terminal: stat.terminal(), foreground_host: stat.tpgid })
}

/// A terminal's identity: the device of the devpts that it is in, and its own.
type Key = (u64, Device);

const PTMX: Device = Device { major: 5, minor: 2 };
const PTS_MAJOR: u32 = 136;
const MINORS_A_MAJOR: u32 = 256;

fn pts_index(device: Device) -> Option<u32> {
    match device.major {
        PTS_MAJOR => Some(device.minor),
        137..=143 => Some((device.major - PTS_MAJOR) * MINORS_A_MAJOR + device.minor),
        _ => None,
    }
}

/// The devpts that a process sees, by the device that its terminal of this number lies on; 0 where it has none.
fn devpts_of(holder: Pid, index: u32) -> u64 {
    std::fs::metadata(format!("/proc/{holder}/root/dev/pts/{index}")).map_or(0, |metadata| metadata.dev())
}

pub(super) fn look(survey: &mut Survey, refusals: &mut Refusals) {
    let mut terminals: BTreeMap<Key, TerminalFound> = BTreeMap::new();
    let fresh = |key: &Key| TerminalFound {
        id: TerminalId(0),
        index: pts_index(key.1),
        masters: Vec::new(),
        slaves: Vec::new(),
        controls: Vec::new(),
    };
    for description in survey.descriptions.all() {
        let DescriptorKind::CharacterDevice(device) = description.described.kind else { continue };
        if description.what != What::Unknown || description.is_path_only() {
            continue;
        }
        if device == PTMX {
            let Some(index) = master_index(description) else { continue };
            let key = (devpts_of(description.place.holder, index), Device { major: PTS_MAJOR, minor: index });
            terminals.entry(key).or_insert_with(|| fresh(&key)).masters.push(description.id);
        } else if let Some(key) = slave_key(description, device) {
            terminals.entry(key).or_insert_with(|| fresh(&key)).slaves.push(description.id);
        }
    }
    for (member, place) in survey.sessions.places.iter().enumerate() {
        let Some(device) = place.and_then(|place| place.terminal) else { continue };
        let instance = pts_index(device).map_or(0, |index| devpts_of(survey.members[member].host, index));
        let device = pts_index(device).map_or(device, |minor| Device { major: PTS_MAJOR, minor });
        let key = (instance, device);
        terminals.entry(key).or_insert_with(|| fresh(&key)).controls.push(member);
    }
    for found in terminals.into_values() {
        one(survey, found, refusals);
    }
}

fn master_index(description: &Description) -> Option<u32> {
    description.info.tty_index.or_else(|| {
        let duplicate = description.place.duplicate().ok()?;
        descriptor::terminal_index(std::os::fd::AsFd::as_fd(&duplicate)).ok()
    })
}

/// Terminals that are not in a devpts are known by their device alone.
fn slave_key(description: &Description, device: Device) -> Option<Key> {
    Some(match pts_index(device) {
        Some(minor) => (description.described.status.device.to_stat(), Device { major: PTS_MAJOR, minor }),
        None => (0, device),
    })
}

fn one(survey: &mut Survey, mut found: TerminalFound, refusals: &mut Refusals) {
    let slaves = found.slaves.clone();
    if !found.is_inside() && found.controls.is_empty() {
        let first = survey.descriptions.get(slaves[0]);
        let what = format!("the terminal {}", text(&first.described.path));
        let refusal = first.refuse(
            "B-0337",
            what.clone(),
            "its other side is outside of the tree, and it does not control the program",
            "let the program close it; it is no obstacle at descriptors 0 to 2",
        );
        if !survey.connect_outside(&slaves, &what) {
            refusals.push(refusal);
        }
        return;
    }
    found.id = TerminalId(survey.terminals.len() as u32 + 1);
    for id in &found.masters {
        survey.descriptions.get_mut(*id).what = What::Master(found.id);
    }
    for id in &slaves {
        survey.descriptions.get_mut(*id).what = What::Slave(found.id);
    }
    survey.terminals.push(found);
}
