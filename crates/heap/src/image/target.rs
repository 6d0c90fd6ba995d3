//! The file that a save writes: an image that gets more, or a new one under a name of its own.

use super::format::{self, BODY_AT, GROUP_BYTES, Head, Opened, Preamble};
use crate::error::Error;
use crate::layout::PAGE_BYTES;
use crate::system::{self, Buffer, File, Path, Status};

/// How long another process may write the same image.
const LOCK_TIMEOUT_MS: i64 = 30_000;
const LOCK_POLL_MS: i64 = 20;
/// An image of more extents than this is written anew: each is a mapping for who loads it, and the kernel has 65530.
const EXTENTS_MAX: usize = 8192;
/// An image may hold so much that no generation needs, or as much as it holds for the last one.
const STALE_BYTES_MIN: u64 = 16 << 20;
const BATCH_BYTES: usize = 1 << 20;

/// A file at work. Dropped without [`Target::commit`], the image at the path is what it was.
pub(crate) struct Target {
    file: File,
    path: Path,
    /// The name of a file that does not have its own yet.
    temporary: Option<Path>,
    /// What the image held before; its groups need not be written again.
    pub(crate) old: Option<Opened>,
    preamble: Preamble,
    batch: Buffer,
    batched: usize,
    /// Where the batch goes.
    end: u64,
    is_committed: bool,
    pub(crate) written_groups: u64,
}

impl Target {
    pub(crate) fn open(path: &std::path::Path, is_whole: bool) -> Result<Target, Error> {
        let write = |errno| Error::Write { errno };
        let path = Path::new(path).map_err(write)?;
        if let Some((file, opened)) = open_old(&path)? {
            match opened {
                Some(old) if !is_whole && !is_stale(&old) => {
                    let (preamble, end) =
                        (old.preamble, old.head.file_bytes.next_multiple_of(PAGE_BYTES as u64));
                    // What a save that was killed appended must not show through pages that are left out as holes.
                    file.set_length(end).map_err(write)?;
                    return Target::new(file, path, None, Some(old), preamble, end);
                }
                _ => {}
            }
        }
        let (file, temporary) = create(&path)?;
        Target::new(file, path, Some(temporary), None, Preamble::fresh(), BODY_AT)
    }

    fn new(
        file: File,
        path: Path,
        temporary: Option<Path>,
        old: Option<Opened>,
        preamble: Preamble,
        end: u64,
    ) -> Result<Target, Error> {
        let batch = Buffer::new(BATCH_BYTES)?;
        Ok(Target {
            file,
            path,
            temporary,
            old,
            preamble,
            batch,
            batched: 0,
            end,
            is_committed: false,
            written_groups: 0,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The image's identity and the generation that its groups are of, before this save.
    pub(crate) fn identity(&self) -> ([u8; 16], u64) {
        (self.preamble.id, self.old.as_ref().map_or(0, |old| old.head.generation))
    }

    /// Room for the next group; [`Target::keep`] takes what was put there.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.batch[self.batched..self.batched + GROUP_BYTES]
    }

    /// Takes the group in [`Target::room`]; gives its place in the file.
    pub(crate) fn keep(&mut self) -> Result<u64, Error> {
        let offset = self.end + self.batched as u64;
        self.batched += GROUP_BYTES;
        self.written_groups += 1;
        if self.batched == BATCH_BYTES {
            self.flush()?;
        }
        Ok(offset)
    }

    /// Pages that are zero stay holes.
    fn flush(&mut self) -> Result<(), Error> {
        let zero = [0; PAGE_BYTES];
        let pages = self.batched / PAGE_BYTES;
        let is_zero = |page: usize| self.batch[page * PAGE_BYTES..(page + 1) * PAGE_BYTES] == zero;
        let mut page = 0;
        while page < pages {
            let begin = page;
            while page < pages && !is_zero(page) {
                page += 1;
            }
            let bytes = &self.batch[begin * PAGE_BYTES..page * PAGE_BYTES];
            self.file
                .write_at(bytes, self.end + (begin * PAGE_BYTES) as u64)
                .map_err(|errno| Error::Write { errno })?;
            while page < pages && is_zero(page) {
                page += 1;
            }
        }
        self.end += self.batched as u64;
        self.batched = 0;
        Ok(())
    }

    /// Writes the index, makes all of it durable, and gives the image its new generation. Nothing is written where nothing changed.
    pub(crate) fn commit(&mut self, index: &[u8]) -> Result<([u8; 16], u64, u64), Error> {
        let write = |errno| Error::Write { errno };
        let (id, generation) = self.identity();
        if let Some(old) = &self.old
            && old.index.as_bytes() == index
        {
            let bytes = old.head.file_bytes;
            self.is_committed = true;
            return Ok((id, generation, bytes));
        }
        self.flush()?;
        let index_at = self.end;
        self.file.write_at(index, index_at).map_err(write)?;
        let file_bytes = (index_at + index.len() as u64).next_multiple_of(PAGE_BYTES as u64);
        self.file.set_length(file_bytes).map_err(write)?;
        let head = Head {
            generation: generation + 1,
            index_at,
            index_bytes: index.len() as u64,
            index_hash: *blake3::hash(index).as_bytes(),
            file_bytes,
            saved_ns: system::now_ns(),
        };
        if self.temporary.is_some() {
            self.file.write_at(&self.preamble.encode(), 0).map_err(write)?;
        }
        self.file.sync().map_err(write)?;
        self.file.write_at(&head.encode(), Head::place(head.generation)).map_err(write)?;
        self.file.sync().map_err(write)?;
        self.is_committed = true;
        if let Some(temporary) = &self.temporary {
            if let Err(errno) = system::rename(temporary, &self.path) {
                self.is_committed = false;
                return Err(Error::Write { errno });
            }
            system::sync_folder(&self.path.folder()).map_err(write)?;
        }
        Ok((id, head.generation, file_bytes))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        match (&self.temporary, &self.old) {
            (Some(temporary), _) => system::unlink(temporary),
            // What was appended means nothing. Where this fails, it is only longer than it need be.
            (None, Some(old)) => {
                let _ = self.file.set_length(old.head.file_bytes);
            }
            (None, None) => {}
        }
    }
}

/// The image at a path, locked, and what is in it; without contents where those are damaged. `None` where there is no file, or an empty one.
fn open_old(path: &Path) -> Result<Option<(File, Option<Opened>)>, Error> {
    let write = |errno| Error::Write { errno };
    let mut waited_ms = 0;
    loop {
        let file = match File::open_for_writing(path) {
            Err(libc::ENOENT) => return Ok(None),
            Err(libc::EISDIR | libc::ENXIO) => return Err(Error::InTheWay),
            opened => opened.map_err(write)?,
        };
        let status = file.status().map_err(write)?;
        if !status.is_regular {
            return Err(Error::InTheWay);
        }
        if file.try_lock().is_err() {
            if waited_ms >= LOCK_TIMEOUT_MS {
                return Err(Error::Busy);
            }
            system::sleep_ms(LOCK_POLL_MS);
            waited_ms += LOCK_POLL_MS;
            continue;
        }
        // Another save may have put another file there while this one waited.
        if !is_still_at(path, &status) {
            continue;
        }
        if status.bytes == 0 {
            return Ok(None);
        }
        return match format::open(&file) {
            Ok(opened) => Ok(Some((file, Some(opened)))),
            Err(Error::NotAnImage) => Err(Error::InTheWay),
            Err(Error::Damaged { .. }) => Ok(Some((file, None))),
            Err(error) => Err(error),
        };
    }
}

fn is_still_at(path: &Path, status: &Status) -> bool {
    let now = File::open_for_reading(path).and_then(|file| file.status());
    now.is_ok_and(|now| (now.device, now.inode) == (status.device, status.inode))
}

/// Whether it is better written anew.
fn is_stale(old: &Opened) -> bool {
    let live = old.index.groups_total() * GROUP_BYTES as u64;
    let stale = old.head.file_bytes.saturating_sub(live + old.head.index_bytes + BODY_AT);
    old.index.extents_total() > EXTENTS_MAX || stale > live.max(STALE_BYTES_MIN)
}

/// A file beside the path, which its owner alone may read.
fn create(path: &Path) -> Result<(File, Path), Error> {
    let write = |errno| Error::Write { errno };
    let mut name = [0; 32];
    for attempt in 0..100u32 {
        let number = u64::from(system::process_id()) << 8 | u64::from(attempt);
        name[..5].copy_from_slice(b".new-");
        for (place, byte) in name[5..21].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15];
        }
        let temporary = path.clone().with(&name[..21]).map_err(write)?;
        match File::create(&temporary) {
            Err(libc::EEXIST) => {}
            created => return Ok((created.map_err(write)?, temporary)),
        }
    }
    Err(Error::Write { errno: libc::EEXIST })
}
