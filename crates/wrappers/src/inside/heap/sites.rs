//! Call sites: return addresses, the innermost first.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::blocks::SITES_MAX;
use super::memory::reserve;
use crate::inside::system::{self, PAGE};
use crate::options::FRAMES_MAX;

/// Who calls. What is not there is 0.
pub(super) type Frames = [usize; FRAMES_MAX];

#[repr(C)]
pub(super) struct Site {
    /// Of the frames; 0: free.
    key: AtomicU64,
    pub(super) calls: AtomicU64,
    frames: [AtomicUsize; FRAMES_MAX],
}

static SITES: AtomicPtr<Site> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicU32 = AtomicU32::new(0);
static DEPTH: AtomicUsize = AtomicUsize::new(1);

/// The site of all for which there was no room.
pub(super) const OTHERS: usize = 0;
/// Beyond this many the search for a place would take long.
const FULL: u32 = SITES_MAX as u32 / 4 * 3;
/// A frame is not larger.
const FRAME_BYTES_MAX: usize = 1 << 20;

pub(super) fn prepare(depth: usize) -> Result<(), &'static str> {
    let at = reserve(SITES_MAX * size_of::<Site>()).ok_or("there is no memory for its table of callers")?;
    DEPTH.store(depth.clamp(1, FRAMES_MAX), Ordering::Relaxed);
    SITES.store(at.cast(), Ordering::Release);
    Ok(())
}

pub(super) fn get(index: usize) -> Option<&'static Site> {
    let sites = SITES.load(Ordering::Relaxed);
    // SAFETY: mapped with so many, of zeros at first, as long as mediators run.
    (!sites.is_null() && index < SITES_MAX).then(|| unsafe { &*sites.add(index) })
}

impl Site {
    pub(super) fn frames(&self) -> Frames {
        core::array::from_fn(|index| self.frames[index].load(Ordering::Relaxed))
    }
}

/// The number of a caller, which has called once more.
pub(super) fn note((back, frame): (usize, usize)) -> usize {
    let mut frames: Frames = [0; FRAMES_MAX];
    frames[0] = back;
    let depth = DEPTH.load(Ordering::Relaxed);
    if depth > 1 {
        follow(frame, &mut frames[1..depth]);
    }
    let mut key: u64 = 0;
    for frame in &frames[..depth] {
        key = (key ^ *frame as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        key ^= key >> 29;
    }
    let index = find(key | 1, &frames);
    if let Some(site) = get(index) {
        site.calls.fetch_add(1, Ordering::Relaxed);
    }
    index
}

fn find(key: u64, frames: &Frames) -> usize {
    let first = (key >> 32) as usize;
    for step in 0..SITES_MAX {
        let index = (first + step) % SITES_MAX;
        if index == OTHERS {
            continue;
        }
        let Some(site) = get(index) else { return OTHERS };
        let found = site.key.load(Ordering::Relaxed);
        if found == key {
            return index;
        }
        if found != 0 {
            continue;
        }
        if COUNT.load(Ordering::Relaxed) >= FULL {
            return OTHERS;
        }
        match site.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                COUNT.fetch_add(1, Ordering::Relaxed);
                site.frames.iter().zip(frames).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
                return index;
            }
            Err(other) if other == key => return index,
            Err(_) => {}
        }
    }
    OTHERS
}

/// Callers of callers, as long as the code keeps frame pointers. What is no frame is never read from: the kernel is asked
/// for each page of which nothing is known.
fn follow(mut frame: usize, found: &mut [usize]) {
    let mut below = (&raw const frame) as usize;
    let mut known_page = below / PAGE;
    for place in found {
        let is_frame = frame > below && frame - below < FRAME_BYTES_MAX && frame.is_multiple_of(8);
        if !is_frame {
            return;
        }
        let mut words = [0usize; 2];
        if frame / PAGE == known_page && (frame + 15) / PAGE == known_page {
            // SAFETY: on a page of the stack that is mapped; any bytes are valid.
            words = unsafe { (frame as *const [usize; 2]).read() };
        } else {
            // SAFETY: any bytes are valid in them.
            let room = unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), 16) };
            if !system::read_bytes(frame, room) {
                return;
            }
            known_page = (frame + 15) / PAGE;
        }
        // Code never lies on the first pages, nor among the kernel's addresses.
        if words[1] < PAGE || words[1] >> 47 != 0 {
            return;
        }
        *place = words[1];
        below = frame;
        frame = words[0];
    }
}

/// The end: no mediator runs any more.
pub(super) fn forget() {
    let at = SITES.swap(core::ptr::null_mut(), Ordering::AcqRel);
    if !at.is_null() {
        // SAFETY: nobody uses it any more.
        unsafe { system::unmap(at.cast(), SITES_MAX * size_of::<Site>()) };
    }
}
