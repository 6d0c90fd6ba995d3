//! Which descriptors are one open file description. The kernel answers by an order of its own, so those that might be
//! the same (same link, position and flags) are kept sorted by it.

use std::cmp::Ordering;
use std::collections::HashMap;

use brant_image::model::OpenFileId;
use brant_kernel::descriptor::{Described, Kcmp, kcmp};
use brant_kernel::proc::FdInfo;

use super::{Description, Place, What};

/// All descriptions, by id.
#[derive(Default)]
pub(crate) struct Descriptions {
    all: Vec<Description>,
    /// Those that might be the same, in the kernel's order.
    alike: HashMap<(Vec<u8>, i64, u32), Vec<usize>>,
}

impl Descriptions {
    /// The description at `place`: a known one, or a new one.
    pub(super) fn add(&mut self, place: Place, described: Described, info: FdInfo) -> OpenFileId {
        let key = (described.path.clone(), info.position, info.flags & !(libc::O_CLOEXEC as u32));
        let alike = self.alike.entry(key).or_default();
        let compare = |index: &usize| {
            let known = self.all[*index].place;
            let what = Kcmp::File(known.number, place.number);
            // An error means that one of them was closed just now: then it is another one.
            kcmp(known.holder, place.holder, what).unwrap_or(Ordering::Less)
        };
        match alike.binary_search_by(compare) {
            Ok(at) => self.all[alike[at]].id,
            Err(at) => {
                let index = self.all.len();
                alike.insert(at, index);
                let id = OpenFileId(index as u32 + 1);
                let holders = Vec::new();
                self.all.push(Description { id, place, holders, described, info, what: What::Unknown });
                id
            }
        }
    }

    pub(crate) fn all(&self) -> &[Description] {
        &self.all
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// # Panics
    /// Where `id` was not given out here.
    pub(crate) fn get(&self, id: OpenFileId) -> &Description {
        &self.all[id.0 as usize - 1]
    }

    pub(super) fn get_mut(&mut self, id: OpenFileId) -> &mut Description {
        &mut self.all[id.0 as usize - 1]
    }

    /// The ids of those that `wanted` says yes to, in order.
    pub(super) fn ids(&self, wanted: impl Fn(&Description) -> bool) -> Vec<OpenFileId> {
        self.all.iter().filter(|description| wanted(description)).map(|description| description.id).collect()
    }
}
