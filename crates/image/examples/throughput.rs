//! How fast an image is written to and read from a file: `cargo run --release -p brant-image --example throughput
//! [FOLDER [MIB]]`, FOLDER being /dev/shm if not given.

use std::fs::File;
use std::time::Instant;

use brant_base::{PageRange, Pid, Tid};
use brant_image::model::*;
use brant_image::{Codec, Image, Pack, PageSource, SourceRun, Writer};

const START: u64 = 0x1000_0000;

fn main() {
    let mut words = std::env::args().skip(1);
    let folder = words.next().unwrap_or_else(|| "/dev/shm".into());
    let mib: u64 = words.next().map_or(1024, |word| word.parse().expect("a number of MiB"));
    let memory = memory(mib << 20);
    let checkpoint = checkpoint(mib << 20);
    for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(-1), Codec::Zstd(-7), Codec::Zstd(-50)]
    {
        let path = std::path::Path::new(&folder).join(format!("brant-throughput-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let rate = |start: Instant| mib as f64 / 1024.0 / start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut writer = Writer::create(&file, &checkpoint, codec).unwrap();
        let run =
            SourceRun { first_page: START / 4096, pages: memory.len() as u64 / 4096, keep_zeros: false };
        writer.pages_from(PageOwner::Process(Pid(5)), &[run], &Memory(&memory)).unwrap();
        let (_, summary) = writer.finish().unwrap();
        let written = rate(start);

        let start = Instant::now();
        let image = Image::open(file).unwrap();
        let opened = start.elapsed();
        let start = Instant::now();
        let mut pack = Pack::default();
        (0..image.pack_count()).for_each(|index| image.read_pack(index, &mut pack).unwrap());
        let read = rate(start);
        let start = Instant::now();
        image.verify().unwrap();
        let verified = rate(start);
        println!(
            "{codec:?}: {:.2} of the size, write {written:.2} GiB/s, open {opened:?}, read {read:.2} GiB/s on one thread, {verified:.2} on all",
            summary.bytes as f64 / (mib << 20) as f64
        );
    }
}

struct Memory<'a>(&'a [u8]);

impl PageSource for Memory<'_> {
    fn read(&self, first_page: u64, into: &mut [u8]) -> std::io::Result<()> {
        let start = (first_page * 4096 - START) as usize;
        into.copy_from_slice(&self.0[start..start + into.len()]);
        Ok(())
    }
}

/// Half of each page is noise, half repeats.
fn memory(bytes: u64) -> Vec<u8> {
    let mut memory = vec![0x20; bytes as usize];
    let mut state: u64 = 1;
    for page in memory.chunks_exact_mut(4096) {
        for word in page[..2048].chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&(state ^ state >> 33).to_le_bytes());
        }
    }
    memory
}

fn checkpoint(bytes: u64) -> Checkpoint {
    let mapping = Mapping {
        range: PageRange::new(START, START + bytes).unwrap(),
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
    Checkpoint {
        root: Pid(5),
        processes: vec![Process { pid: Pid(5), ppid: Pid(1), body: Some(body), ..Default::default() }],
        disk_files: vec![DiskFile { path: b"/bin/true".to_vec(), ..Default::default() }],
        ..Default::default()
    }
}
