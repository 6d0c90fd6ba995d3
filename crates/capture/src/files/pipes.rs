//! Pipes and fifos: where their two ends are.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;

use brant_base::Refusals;
use brant_image::model::{OpenFileId, PipeId};
use brant_kernel::descriptor::DescriptorKind;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::outside::Outsiders;
use super::{Description, Survey, What};
use crate::refusals::text;

/// A pipe of which every end that is open is in the tree.
pub(crate) struct PipeFound {
    pub(crate) id: PipeId,
    pub(crate) descriptions: Vec<OpenFileId>,
    /// The fifo's path.
    pub(crate) fifo: Option<Vec<u8>>,
}

pub(super) fn look(survey: &mut Survey, refusals: &mut Refusals) {
    let mut pipes: BTreeMap<(u64, u64), Vec<OpenFileId>> = BTreeMap::new();
    let mut links = HashSet::new();
    for description in survey.descriptions.all() {
        let kind = &description.described.kind;
        if description.is_path_only() || !matches!(kind, DescriptorKind::Pipe(_) | DescriptorKind::Fifo) {
            continue;
        }
        let status = &description.described.status;
        pipes.entry((status.device.to_stat(), status.inode)).or_default().push(description.id);
        links.insert(description.described.path.clone());
    }
    let outsiders = Outsiders::find(survey, &links);
    for descriptions in pipes.into_values() {
        one(survey, descriptions, &outsiders, refusals);
    }
}

fn one(survey: &mut Survey, descriptions: Vec<OpenFileId>, outsiders: &Outsiders, refusals: &mut Refusals) {
    let of = |id: &OpenFileId| survey.descriptions.get(*id);
    let first = of(&descriptions[0]);
    let is_fifo = first.described.kind == DescriptorKind::Fifo;
    let reads = descriptions.iter().any(|id| of(id).reads());
    let writes = descriptions.iter().any(|id| of(id).writes());
    let others = outsiders.of(&first.described.path);
    let name =
        if is_fifo { format!("the fifo {}", text(&first.described.path)) } else { "a pipe".to_owned() };
    let peer = others.iter().find(|other| {
        let (other_reads, other_writes) = other.access();
        (other_reads && !reads) || (other_writes && !writes)
    });
    let whole = reads && writes;
    let outside = !whole && (peer.is_some() || (!is_fifo && has_unseen_peer(first)));
    if outside {
        let who = peer.map_or_else(|| "a process that is not visible here".to_owned(), |other| other.name());
        let end = if reads { "which writes to it" } else { "which reads from it" };
        let refusal = first.refuse(
            "B-0332",
            name.clone(),
            format!("its other end is held by {who}, {end}"),
            "let the program close it or use a file instead; it is no obstacle at descriptors 0 to 2",
        );
        if !survey.connect_outside(&descriptions, &name) {
            refusals.push(refusal);
        }
        return;
    }
    if let Some(other) = others.first() {
        refusals.push(first.refuse(
            "B-0346",
            name,
            format!("{} holds it too", other.name()),
            "checkpoint a tree that has all who hold it",
        ));
        return;
    }
    // A fifo whose name is gone is as good as a pipe: nobody can open it any more.
    let fifo = (is_fifo && !first.described.deleted).then(|| first.described.path.clone());
    let id = PipeId(survey.pipes.len() as u32 + 1);
    for description in &descriptions {
        survey.descriptions.get_mut(*description).what = What::Pipe(id);
    }
    survey.pipes.push(PipeFound { id, descriptions, fifo });
}

/// Whether somebody has the other end of a pipe open whom we may not look at: the kernel tells when nobody has
/// (pipe(7): POLLHUP, POLLERR).
fn has_unseen_peer(description: &Description) -> bool {
    let Ok(end) = description.place.duplicate() else { return true };
    let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::ZERO).is_err() {
        return true;
    }
    let ended = if description.reads() { PollFlags::POLLHUP } else { PollFlags::POLLERR };
    !polled[0].revents().is_some_and(|events| events.contains(ended))
}
