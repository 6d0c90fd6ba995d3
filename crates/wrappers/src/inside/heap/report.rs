//! What the wrapper tells: counts, sizes and callers of what is live. One report stands for itself; several follow each other.

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::maps::Maps;
use super::memory::Scratch;
use super::sites::Frames;
use super::{Counts, LIVE_BYTES, OTHERS, PEAK_BYTES, THREADS, blocks, sites};
use crate::inside::line::Line;
use crate::inside::system::{self, Once};
use crate::inside::{journal, weak};
use crate::options::PATH_BYTES_MAX;

/// How many callers are shown where nothing is said.
const TOP_UNSAID: usize = 30;
/// Sizes by powers of two.
const CLASSES: usize = 48;

struct Settings {
    path: [u8; PATH_BYTES_MAX + 1],
    is_json: bool,
    top: usize,
}

static SETTINGS: Once<Settings> = Once::new();
static EVERY_NS: AtomicU64 = AtomicU64::new(0);
static NEXT_NS: AtomicU64 = AtomicU64::new(0);
/// The process that is writing; 0: none. In the child of a fork the parent's number means none, too.
static WRITER: AtomicUsize = AtomicUsize::new(0);
static IS_GLIBC: AtomicBool = AtomicBool::new(false);
/// Where the C library's code is.
static LIBC_START: AtomicUsize = AtomicUsize::new(0);
static LIBC_END: AtomicUsize = AtomicUsize::new(0);

pub(super) fn prepare(
    path: &str,
    is_json: bool,
    top: Option<u64>,
    every_s: Option<u64>,
) -> Result<(), &'static str> {
    let mut bytes = [0; PATH_BYTES_MAX + 1];
    bytes.get_mut(..path.len()).ok_or("the path of its file is too long")?.copy_from_slice(path.as_bytes());
    bytes[PATH_BYTES_MAX] = 0;
    journal::can_write(&bytes)?;
    let top = match top {
        None => TOP_UNSAID,
        Some(0) => usize::MAX,
        Some(top) => top as usize,
    };
    SETTINGS.set(Settings { path: bytes, is_json, top });
    if let Some(every_s) = every_s.filter(|every_s| *every_s > 0) {
        let every_ns = every_s.saturating_mul(1_000_000_000);
        EVERY_NS.store(every_ns, Ordering::Relaxed);
        NEXT_NS.store(system::monotonic_ns().saturating_add(every_ns), Ordering::Relaxed);
    }
    Ok(())
}

/// The program's malloc must be that of the C library, which the definition names.
pub(super) fn look_at_allocator() -> Result<(), &'static str> {
    IS_GLIBC.store(weak::gnu_get_libc_version() != 0, Ordering::Relaxed);
    let Some(mut maps) = Maps::read() else { return Ok(()) };
    if let Some((start, end)) = maps.code_around(system::errno_location()) {
        LIBC_START.store(start, Ordering::Relaxed);
        LIBC_END.store(end, Ordering::Relaxed);
    }
    let name_of = |maps: &mut Maps, address: usize| {
        let mut name = [0u8; 256];
        let (path, _) = maps.find(address)?;
        let path = &path[path.len().saturating_sub(name.len())..];
        name[..path.len()].copy_from_slice(path);
        Some(name)
    };
    let own = name_of(&mut maps, system::errno_location());
    let found = name_of(&mut maps, weak::malloc());
    if own.is_none() || found.is_none() || own == found {
        return Ok(());
    }
    // A program that takes the address of malloc and is not position independent has a jump of its own under that name.
    let mut code = [0u8; 12];
    let is_jump =
        system::read_bytes(weak::malloc(), &mut code) && code.windows(2).any(|two| two == [0xff, 0x25]);
    if is_jump {
        return Ok(());
    }
    Err("the program's malloc is not that of its C library: name the library that has it in a definition of \
         your own (docs/wrappers.md, heap)")
}

/// Whether this is code of the C library that the wrapper stands before.
pub(super) fn is_in_libc(address: usize) -> bool {
    (LIBC_START.load(Ordering::Relaxed)..LIBC_END.load(Ordering::Relaxed)).contains(&address)
}

/// Blocks of this allocator begin at least so far apart, as a power of two.
pub(super) fn spacing_bits() -> u32 {
    if IS_GLIBC.load(Ordering::Relaxed) { 5 } else { 4 }
}

#[cold]
pub(super) fn write_if_due() {
    let every_ns = EVERY_NS.load(Ordering::Relaxed);
    if every_ns == 0 {
        return;
    }
    let now = system::monotonic_ns();
    let due = NEXT_NS.load(Ordering::Relaxed);
    let next = now.saturating_add(every_ns);
    if now >= due && NEXT_NS.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        write("in between", 0);
    }
}

/// Writes a report once the thread that is about another one has done so; `patience` says how long that may take.
pub(super) fn write(when: &str, patience: u32) {
    let Some(settings) = SETTINGS.get() else { return };
    let process = system::process();
    for _ in 0..=patience {
        let writer = WRITER.load(Ordering::Relaxed);
        let is_free = writer != process
            && WRITER.compare_exchange(writer, process, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if is_free {
            write_alone(settings, when);
            return WRITER.store(0, Ordering::Release);
        }
        system::give_way();
    }
}

fn write_alone(settings: &Settings, when: &str) {
    if let Some(mut found) = Found::gather()
        && let Ok(file) = system::open_to_append(&settings.path)
    {
        if let Some(mut out) = Out::to(file) {
            match settings.is_json {
                true => found.put_json(&mut out, settings.top, when),
                false => found.put_text(&mut out, settings.top, when),
            }
            out.flush();
        }
        system::close(file);
    }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    blocks: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.blocks += 1;
        self.bytes += bytes;
    }
}

#[derive(Clone, Copy)]
struct Caller {
    live: Sum,
    site: usize,
}

/// What is live, and what was done.
struct Found {
    live: Sum,
    sizes: [Sum; CLASSES],
    /// Of every caller that has any, the most bytes first.
    callers: Scratch,
    caller_count: usize,
    maps: Option<Maps>,
    peak_bytes: u64,
    got: Sum,
    freed: u64,
    unknown: u64,
    inside: u64,
    replaced: u64,
    unseen: usize,
}

impl Found {
    fn gather() -> Option<Found> {
        let mut live = Sum::default();
        let mut sizes = [Sum::default(); CLASSES];
        let mut callers = Scratch::new(blocks::SITES_MAX * size_of::<Caller>())?;
        // SAFETY: zeros are a valid value.
        let values: &mut [Caller] = unsafe { callers.values() };
        blocks::each(|block| {
            let bytes = block.bytes as u64;
            live.add(bytes);
            sizes[class(bytes)].add(bytes);
            values[block.site].live.add(bytes);
        });
        let mut caller_count = 0;
        for site in 0..blocks::SITES_MAX {
            if values[site].live.blocks > 0 {
                values[caller_count] = Caller { live: values[site].live, site };
                caller_count += 1;
            }
        }
        values[..caller_count].sort_unstable_by_key(|caller| core::cmp::Reverse(caller.live.bytes));
        let mut found = Found {
            live,
            sizes,
            callers,
            caller_count,
            maps: Maps::read(),
            peak_bytes: 0,
            got: Sum::default(),
            freed: 0,
            unknown: 0,
            inside: 0,
            replaced: 0,
            unseen: blocks::UNSEEN.load(Ordering::Relaxed),
        };
        found.add_counts();
        Some(found)
    }

    fn add_counts(&mut self) {
        let mut live = LIVE_BYTES.load(Ordering::Relaxed);
        for counts in THREADS.iter().chain([&OTHERS]) {
            let Counts { got, got_bytes, freed, unknown, inside, replaced, unsaid, .. } = counts;
            self.got.blocks += got.load(Ordering::Relaxed);
            self.got.bytes += got_bytes.load(Ordering::Relaxed);
            self.freed += freed.load(Ordering::Relaxed);
            self.unknown += unknown.load(Ordering::Relaxed);
            self.inside += inside.load(Ordering::Relaxed);
            self.replaced += replaced.load(Ordering::Relaxed);
            live += unsaid.load(Ordering::Relaxed);
        }
        self.peak_bytes = PEAK_BYTES.load(Ordering::Relaxed).max(live).max(0) as u64;
    }

    /// The callers that are shown, and what the others have.
    fn shown(&mut self, top: usize) -> (&[Caller], Option<&mut Maps>, Sum) {
        // SAFETY: zeros are a valid value.
        let callers: &[Caller] = unsafe { &self.callers.values()[..self.caller_count] };
        let (shown, others) = callers.split_at(top.min(callers.len()));
        let rest = others.iter().fold(Sum::default(), |sum, caller| Sum {
            blocks: sum.blocks + caller.live.blocks,
            bytes: sum.bytes + caller.live.bytes,
        });
        (shown, self.maps.as_mut(), rest)
    }

    fn put_text(&mut self, out: &mut Out, top: usize, when: &str) {
        let Found { live, got, freed, unknown, inside, replaced, unseen, peak_bytes, .. } = *self;
        let _ = writeln!(
            out,
            "# heap of process {}, {when}, at {}",
            system::process(),
            Seconds(system::wall_ns())
        );
        let _ = writeln!(out, "live  {} bytes in {} blocks", live.bytes, live.blocks);
        let _ = writeln!(out, "peak  {peak_bytes} bytes");
        let _ = writeln!(
            out,
            "got   {} bytes in {} blocks; {freed} were freed, {unknown} of these had been there before",
            got.bytes, got.blocks
        );
        if inside > 0 {
            let _ =
                writeln!(out, "      {inside} more that are not known were freed by the C library itself");
        }
        if replaced > 0 || unseen > 0 {
            let _ =
                writeln!(out, "lost  the end of {replaced} blocks was not seen, nor anything of {unseen}");
        }
        let _ = writeln!(out, "\n{:>14} {:>10} {:>14}", "bytes up to", "blocks", "bytes");
        for (class, sum) in self.sizes.iter().enumerate().filter(|(_, sum)| sum.blocks > 0) {
            let _ = writeln!(out, "{:>14} {:>10} {:>14}", largest(class), sum.blocks, sum.bytes);
        }
        let _ = writeln!(out, "\n{:>14} {:>10} {:>10}  caller", "bytes", "blocks", "calls");
        let (callers, mut maps, rest) = self.shown(top);
        for caller in callers {
            let Some(site) = sites::get(caller.site) else { continue };
            let calls = site.calls.load(Ordering::Relaxed);
            let _ = write!(out, "{:>14} {:>10} {calls:>10}  ", caller.live.bytes, caller.live.blocks);
            put_frames(out, &mut maps, caller.site, site.frames(), b" < ", false);
            out.put(b"\n");
        }
        if rest.blocks > 0 {
            let _ = writeln!(out, "{:>14} {:>10} {:>10}  all others", rest.bytes, rest.blocks, "");
        }
        out.put(b"\n");
    }

    fn put_json(&mut self, out: &mut Out, top: usize, when: &str) {
        let Found { live, got, freed, unknown, inside, replaced, unseen, peak_bytes, .. } = *self;
        let _ = write!(
            out,
            "{{\"time\":{},\"pid\":{},\"when\":\"{when}\",\"live_bytes\":{},\"live_blocks\":{},\"peak_bytes\":{peak_bytes},",
            Seconds(system::wall_ns()),
            system::process(),
            live.bytes,
            live.blocks
        );
        let _ = write!(
            out,
            "\"got_bytes\":{},\"got_blocks\":{},\"freed_blocks\":{freed},\"freed_from_before\":{unknown},\"freed_inside\":{inside},\"end_unseen\":{replaced},\"unseen\":{unseen},\"sizes\":[",
            got.bytes, got.blocks
        );
        let mut separator = "";
        for (class, sum) in self.sizes.iter().enumerate().filter(|(_, sum)| sum.blocks > 0) {
            let (blocks, bytes) = (sum.blocks, sum.bytes);
            let _ = write!(
                out,
                "{separator}{{\"up_to\":{},\"blocks\":{blocks},\"bytes\":{bytes}}}",
                largest(class)
            );
            separator = ",";
        }
        let (callers, mut maps, rest) = self.shown(top);
        let _ =
            write!(out, "],\"others\":{{\"blocks\":{},\"bytes\":{}}},\"callers\":[", rest.blocks, rest.bytes);
        separator = "";
        for caller in callers {
            let Some(site) = sites::get(caller.site) else { continue };
            let calls = site.calls.load(Ordering::Relaxed);
            let Sum { blocks, bytes } = caller.live;
            let _ = write!(
                out,
                "{separator}{{\"bytes\":{bytes},\"blocks\":{blocks},\"calls\":{calls},\"frames\":["
            );
            put_frames(out, &mut maps, caller.site, site.frames(), b",", true);
            out.put(b"]}");
            separator = ",";
        }
        out.put(b"]}\n");
    }
}

/// Each frame as the file of its code and the place in it.
fn put_frames(
    out: &mut Out,
    maps: &mut Option<&mut Maps>,
    site: usize,
    frames: Frames,
    between: &[u8],
    is_json: bool,
) {
    if site == sites::OTHERS {
        return out.put(if is_json { b"" } else { b"callers for whom there was no room" });
    }
    for (index, frame) in frames.iter().take_while(|frame| **frame != 0).enumerate() {
        if index > 0 {
            out.put(between);
        }
        let mut line = core::mem::MaybeUninit::uninit();
        let line = Line::begin(&mut line);
        match maps.as_mut().and_then(|maps| maps.find(*frame)) {
            Some((path, offset)) => {
                line.put(&path[path.len().saturating_sub(PATH_BYTES_MAX)..]);
                line.put(b"+");
                line.hex(offset as u64);
            }
            None => line.hex(*frame as u64),
        }
        if is_json {
            let mut quoted = core::mem::MaybeUninit::uninit();
            let quoted = Line::begin(&mut quoted);
            quoted.quoted(line.bytes(), true);
            out.put(quoted.bytes());
        } else {
            out.put(line.bytes());
        }
    }
}

fn class(bytes: u64) -> usize {
    let bits = u64::BITS - bytes.saturating_sub(1).leading_zeros();
    (bits as usize).saturating_sub(3).min(CLASSES - 1)
}

/// The largest size of a class.
fn largest(class: usize) -> u64 {
    8 << class
}

struct Seconds(u64);

impl core::fmt::Display for Seconds {
    fn fmt(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(to, "{}.{:06}", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

/// Text on its way into the file.
struct Out {
    file: usize,
    used: usize,
    room: Scratch,
}

const OUT_BYTES: usize = 64 << 10;

impl Out {
    fn to(file: usize) -> Option<Out> {
        Some(Out { file, used: 0, room: Scratch::new(OUT_BYTES)? })
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.used + bytes.len() > OUT_BYTES {
            self.flush();
        }
        // No piece is as long as the room.
        let bytes = &bytes[..bytes.len().min(OUT_BYTES)];
        self.room.bytes()[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    fn flush(&mut self) {
        let used = core::mem::take(&mut self.used);
        system::write_all(self.file, &self.room.bytes()[..used]);
    }
}

impl Write for Out {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}
