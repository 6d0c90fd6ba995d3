//! The container: what is written is read back.

use std::io::{Seek, Write};

use brant_base::{PageRange, Pid, Tid};
use brant_image::model::*;
use brant_image::{Codec, Head, Image, ImageError, PageContent, PageSource, SourceRun, Writer};

fn tiny() -> Checkpoint {
    let mapping = Mapping {
        range: PageRange::new(0x10000, 0x10000 + (4 << 20)).unwrap(),
        protection: Protection { read: true, write: true, execute: false },
        sharing: Sharing::Private,
        backing: Backing::Anonymous,
        flags: MappingFlags::default(),
        name: None,
    };
    let body = ProcessBody {
        cwd: b"/".to_vec(),
        root: b"/".to_vec(),
        limits: vec![Limit::default(); 16],
        actions: vec![SignalAction::default(); 64],
        memory: AddressSpace { mappings: vec![mapping], ..Default::default() },
        threads: vec![Thread { tid: Tid(5), ..Default::default() }],
        ..Default::default()
    };
    let process = Process {
        pid: Pid(5),
        ppid: Pid(1),
        pgid: Pid(5),
        sid: Pid(5),
        body: Some(body),
        ..Default::default()
    };
    let executable = DiskFile { path: b"/bin/true".to_vec(), ..Default::default() };
    Checkpoint { root: Pid(5), processes: vec![process], disk_files: vec![executable], ..Default::default() }
}

/// Three packs of pages that compress, with a hole and a zero run.
fn write(codec: Codec) -> std::fs::File {
    let owner = PageOwner::Process(Pid(5));
    let file = tempfile();
    let mut writer = Writer::create(&file, &tiny(), codec).unwrap();
    let bytes: Vec<u8> = (0..600u32 * 4096).map(|at| (at / 4096 % 251) as u8).collect();
    writer.pages(owner, 0x10, &bytes).unwrap();
    writer.zero_pages(owner, 0x10 + 700, 5).unwrap();
    writer.pages(owner, 0x10 + 705, &bytes[..8192]).unwrap();
    let (_, summary) = writer.finish().unwrap();
    assert_eq!((summary.pages, summary.zero_pages), (602, 5));
    assert_eq!(summary.bytes, file.metadata().unwrap().len());
    file
}

fn tempfile() -> std::fs::File {
    let path = std::env::temp_dir().join(format!(
        "brant-test-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

#[test]
fn pages_come_back() {
    let owner = PageOwner::Process(Pid(5));
    for codec in [Codec::Raw, Codec::Auto, Codec::Lz4, Codec::Zstd(3)] {
        let image = Image::open(write(codec)).unwrap();
        assert_eq!(image.checkpoint(), &tiny());
        assert_eq!(image.pack_count(), 3);
        let runs: Vec<_> =
            image.runs(owner).map(|run| (run.first_page, run.pages, run.zero, run.pack)).collect();
        let expected = [
            (0x10, 256, false, 0),
            (0x110, 256, false, 1),
            (0x210, 88, false, 2),
            (0x2cc, 5, true, 2),
            (0x2d1, 2, false, 2),
        ];
        assert_eq!(runs, expected);
        for index in 0..3 {
            for run in image.pack(index).unwrap().runs() {
                let PageContent::Bytes(bytes) = run.content else { continue };
                let first = if run.first_page == 0x2d1 { 0 } else { run.first_page - 0x10 };
                for (page, content) in bytes.chunks(4096).enumerate() {
                    assert!(content.iter().all(|&byte| u64::from(byte) == (first + page as u64) % 251));
                }
            }
        }
        assert_eq!(image.verify().unwrap().pages, 602);
    }
}

#[test]
fn a_head_needs_no_end() {
    let file = write(Codec::Raw);
    let head = Head::read(&file).unwrap();
    file.set_len(head.bytes / 2).unwrap();
    assert_eq!(Head::read(&file).unwrap().checkpoint, tiny());
    assert!(matches!(Image::open(file).unwrap_err(), ImageError::Truncated { .. }));
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let mut file = write(Codec::Raw);
    file.seek(std::io::SeekFrom::End(0)).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(Image::open(file).unwrap_err().code(), "B-0507");
}

#[test]
fn pages_nobody_has_are_refused() {
    let owner = PageOwner::Process(Pid(5));
    let mut writer = Writer::create(Vec::new(), &tiny(), Codec::Raw).unwrap();
    let page = [7; 4096];
    assert_eq!(writer.pages(owner, 0xf, &page).unwrap_err().code(), "B-0512");
    assert_eq!(writer.zero_pages(owner, 0x10, 1025).unwrap_err().code(), "B-0512");
    assert_eq!(writer.zero_pages(owner, u64::MAX, 2).unwrap_err().code(), "B-0512");
    assert_eq!(writer.pages(PageOwner::Process(Pid(6)), 0x10, &page).unwrap_err().code(), "B-0512");
    writer.pages(owner, 0x10, &page).unwrap();
    writer.zero_pages(owner, 0x10, 1).unwrap();
    assert_eq!(writer.finish().unwrap_err().code(), "B-0512");
}

/// Every fifth page is zero, every other one its number.
struct Striped {
    /// The page that cannot be read.
    hole: u64,
}

impl PageSource for Striped {
    fn read(&self, first_page: u64, into: &mut [u8]) -> std::io::Result<()> {
        for (page, bytes) in (first_page..).zip(into.chunks_exact_mut(4096)) {
            if page == self.hole {
                return Err(std::io::Error::from_raw_os_error(14));
            }
            bytes.fill(if page.is_multiple_of(5) { 0 } else { page as u8 | 1 });
        }
        Ok(())
    }
}

/// Two runs that share packs: zeros are left out of the first and kept of the second.
const RUNS: [SourceRun; 2] = [
    SourceRun { first_page: 0x10, pages: 700, keep_zeros: false },
    SourceRun { first_page: 0x10 + 701, pages: 300, keep_zeros: true },
];

#[test]
fn pages_come_from_a_source() {
    let owner = PageOwner::Process(Pid(5));
    for codec in [Codec::Raw, Codec::Auto, Codec::Lz4, Codec::Zstd(-7)] {
        let file = tempfile();
        let mut writer = Writer::create(&file, &tiny(), codec).unwrap();
        writer.pages(owner, 0x10 + 1010, &[7; 4096]).unwrap();
        writer.pages_from(owner, &RUNS, &Striped { hole: 0 }).unwrap();
        // What is too little for threads joins the next pack.
        let rest = SourceRun { first_page: 0x10 + 1002, pages: 3, keep_zeros: true };
        writer.pages_from(owner, &[rest], &Striped { hole: 0 }).unwrap();
        let (_, summary) = writer.finish().unwrap();
        let image = Image::open(file).unwrap();
        assert_eq!(image.verify().unwrap(), summary);
        let mut seen = std::collections::BTreeMap::new();
        let visit = |run: brant_image::PackRun<'_>| {
            for page in 0..run.content.pages() {
                let first = match run.content {
                    PageContent::Bytes(bytes) => bytes[(page * 4096) as usize],
                    PageContent::Zero { .. } => 0,
                };
                assert!(seen.insert(run.first_page + page, first).is_none());
            }
            Ok::<(), ImageError>(())
        };
        image.visit_pages(owner, visit).unwrap();
        let content = |page: u64| if page.is_multiple_of(5) { 0 } else { page as u8 | 1 };
        let mut expected: std::collections::BTreeMap<u64, u8> = (0x10..0x10 + 700)
            .filter(|page| !u64::is_multiple_of(*page, 5))
            .map(|page| (page, content(page)))
            .collect();
        expected.extend((0x10 + 701..0x10 + 1001).map(|page| (page, content(page))));
        expected.extend((0x10 + 1002..0x10 + 1005).map(|page| (page, content(page))));
        expected.insert(0x10 + 1010, 7);
        assert_eq!(seen, expected);
        assert_eq!((summary.pages + summary.zero_pages) as usize, expected.len());
    }
}

#[test]
fn a_source_that_fails_ends_the_writing() {
    let owner = PageOwner::Process(Pid(5));
    for hole in [0x10, 0x10 + 300, 0x10 + 1000] {
        let mut writer = Writer::create(std::io::sink(), &tiny(), Codec::Raw).unwrap();
        let error = writer.pages_from(owner, &RUNS, &Striped { hole }).unwrap_err();
        assert!(matches!(error, ImageError::Source { .. }), "{error:?}");
    }
}

#[test]
fn a_full_disk_ends_the_threads() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::create(Full(3 << 20), &tiny(), Codec::Raw).unwrap();
    let error = writer.pages_from(PageOwner::Process(Pid(5)), &RUNS, &Striped { hole: 0 }).unwrap_err();
    assert!(matches!(error, ImageError::Write(_)), "{error:?}");
}

#[test]
fn notes_come_back() {
    for codec in [Codec::Raw, Codec::Auto, Codec::Lz4, Codec::Zstd(3)] {
        let file = tempfile();
        let mut writer = Writer::create(&file, &tiny(), codec).unwrap();
        let long = vec![7; 3 << 20];
        writer.note(Pid(5), "record", b"one").unwrap();
        writer.pages(PageOwner::Process(Pid(5)), 0x10, &[1; 8192]).unwrap();
        writer.note(Pid(5), "other", &long).unwrap();
        writer.note(Pid(9), "record", b"").unwrap();
        let too_long = writer.note(Pid(5), "other", &vec![0; 8 << 20]).unwrap_err();
        assert_eq!(too_long.code(), "B-0508");
        writer.finish().unwrap();
        let image = Image::open(file).unwrap();
        let found: Vec<_> =
            image.notes("record").unwrap().into_iter().map(|note| (note.pid, note.bytes)).collect();
        assert_eq!(found, [(Pid(5), b"one".to_vec()), (Pid(9), Vec::new())]);
        assert_eq!(image.notes("other").unwrap()[0].bytes, long);
        assert!(image.notes("none").unwrap().is_empty());
        assert_eq!(image.verify().unwrap().pages, 2);
    }
}

#[test]
fn a_damaged_note_is_told() {
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, &tiny(), Codec::Raw).unwrap();
    writer.note(Pid(5), "record", b"what is kept").unwrap();
    writer.finish().unwrap();
    let at = bytes.windows(12).position(|window| window == b"what is kept").unwrap();
    bytes[at] ^= 1;
    let mut file = tempfile();
    file.write_all(&bytes).unwrap();
    let image = Image::open(file).unwrap();
    assert_eq!(image.notes("record").unwrap_err().code(), "B-0505");
    assert_eq!(image.verify().unwrap_err().code(), "B-0505");
}
