//! What an epoll instance watches: a number and the description that it stood for when it was added.

use std::cmp::Ordering;
use std::collections::HashMap;

use brant_base::{Refusal, Refusals};
use brant_image::model::{EpollWatch, OpenFileId};
use brant_kernel::descriptor::{DescriptorKind, Kcmp, kcmp};
use brant_kernel::proc::EpollTarget;

use super::{Description, Survey, What};

pub(super) fn look(survey: &mut Survey, refusals: &mut Refusals) {
    for id in survey.descriptions.ids(|description| description.described.kind == DescriptorKind::Epoll) {
        let description = survey.descriptions.get(id);
        match watches(survey, description) {
            Ok(watches) => survey.descriptions.get_mut(id).what = What::Epoll(watches),
            Err(refusal) => refusals.push(refusal),
        }
    }
}

fn watches(survey: &Survey, epoll: &Description) -> Result<Vec<EpollWatch>, Refusal> {
    // The same number can have been added for several descriptions, one after the other.
    let mut seen: HashMap<i32, u32> = HashMap::new();
    let mut watches = Vec::with_capacity(epoll.info.epoll.len());
    for target in &epoll.info.epoll {
        let offset = seen.entry(target.number).or_default();
        let file = find(survey, epoll, target, *offset).ok_or_else(|| {
            epoll.refuse(
                "B-0338",
                format!("an epoll instance that watches descriptor {}", target.number),
                "no process of the tree has open what it watches",
                "let the program remove it from the epoll instance",
            )
        })?;
        *offset += 1;
        watches.push(EpollWatch { number: target.number, file, events: target.events, data: target.data });
    }
    Ok(watches)
}

fn find(survey: &Survey, epoll: &Description, target: &EpollTarget, offset: u32) -> Option<OpenFileId> {
    let is_it = |candidate: &Description| {
        let what = Kcmp::EpollTarget {
            file: candidate.place.number,
            epoll: epoll.place.number,
            number: target.number as u32,
            offset,
        };
        kcmp(candidate.place.holder, epoll.place.holder, what).is_ok_and(Ordering::is_eq)
    };
    // Mostly it is what has that number now, in one of the processes that have the epoll instance.
    let by_number = epoll.holders.iter().filter_map(|holder| {
        let table = &survey.descriptors[holder.member];
        let at = table.binary_search_by_key(&target.number, |entry| entry.number).ok()?;
        Some(survey.descriptions.get(table[at].file))
    });
    let by_inode = survey
        .descriptions
        .all()
        .iter()
        .filter(|candidate| candidate.id != epoll.id && candidate.described.status.inode == target.inode);
    by_number.chain(by_inode).find(|candidate| is_it(candidate)).map(|found| found.id)
}
