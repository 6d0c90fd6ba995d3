//! Memory for paths of a child of vfork, whose stack may be too small for them: musl's posix_spawn gives its child 5 KiB, below which
//! its parent's stack goes on.
//!
//! Such a child shares its parent's memory, in which nothing that it takes could be given back once it has executed a program. So
//! there are a few places for good, and the kernel itself gives one back: a task that leaves memory which others still use,
//! by executing a program or by its end, gets zero written where set_tid_address(2) has said (mm_release in kernel/fork.c).
//! Children of vfork have no such place of their own.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use super::system::{self, call};

const SYS_GETPID: usize = 39;
const SYS_GETPPID: usize = 110;
const SYS_PRCTL: usize = 157;
const SYS_SET_TID_ADDRESS: usize = 218;
const SYS_KCMP: usize = 312;
const KCMP_VM: usize = 1;
const PR_GET_TID_ADDRESS: usize = 40;

/// The kernel takes no longer path.
pub(super) const PATH_BYTES: usize = 4096;

/// A path.
pub(super) type Room = [u8; PATH_BYTES];

/// How many children of vfork may make calls with such paths at the same time, twice.
const PLACES: usize = 16;

/// Two rooms for whoever has written its number into it.
struct Place {
    owner: AtomicU32,
    rooms: UnsafeCell<[Room; 2]>,
}

// SAFETY: only the owner looks at the rooms.
unsafe impl Sync for Place {}

static ALL: [Place; PLACES] =
    [const { Place { owner: AtomicU32::new(0), rooms: UnsafeCell::new([[0; PATH_BYTES]; 2]) } }; PLACES];

/// Whether this process uses the memory of its parent.
pub(super) fn is_borrower() -> bool {
    // SAFETY: plain numbers; what is refused or not known to the kernel gives an error.
    unsafe {
        let (own, parent) = (call(SYS_GETPID, [0; 6]), call(SYS_GETPPID, [0; 6]));
        parent > 0 && call(SYS_KCMP, [parent as usize, own as usize, KCMP_VM, 0, 0, 0]) == 0
    }
}

/// Calls with two rooms, which are given back although this executes a program. `None` where there are no more.
pub(super) fn with_rooms(inner: impl FnOnce(&mut Room, &mut Room) -> isize) -> Option<isize> {
    let own = system::thread();
    let is_taken =
        |place: &&Place| place.owner.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let place = ALL.iter().find(is_taken)?;
    let mut before = 0usize;
    // SAFETY: there is room for the address; the kernel writes four bytes to the other one, which is there for good.
    unsafe {
        call(SYS_PRCTL, [PR_GET_TID_ADDRESS, &raw mut before as usize, 0, 0, 0, 0]);
        call(SYS_SET_TID_ADDRESS, [place.owner.as_ptr() as usize, 0, 0, 0, 0, 0]);
    }
    // SAFETY: they are the caller's as long as its number stands there.
    let [given, led] = unsafe { &mut *place.rooms.get() };
    let result = inner(given, led);
    // SAFETY: as it was before.
    unsafe { call(SYS_SET_TID_ADDRESS, [before, 0, 0, 0, 0, 0]) };
    place.owner.store(0, Ordering::Release);
    Some(result)
}
