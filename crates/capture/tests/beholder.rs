//! What a beholder says of a process that stands still is in its image.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use brant_base::{PageRange, Pid};
use brant_capture::{Beheld, Beholder, Options};
use brant_image::model::*;
use brant_image::{Codec, Image};
use brant_kernel::facts::HostFacts;
use brant_kernel::proc::{self, MapKind};

#[derive(Debug)]
struct Heap;

impl Beholder for Heap {
    fn notes(&self, process: &Beheld) -> Vec<(&'static str, Vec<u8>)> {
        let state = proc::stat(process.task).unwrap().state;
        vec![("state", vec![state]), ("too-long", vec![0; 9 << 20])]
    }

    fn unread(&self, process: &Beheld) -> Vec<PageRange> {
        let maps = proc::maps(process.task).unwrap();
        maps.iter().filter(|entry| entry.kind == MapKind::Heap).map(|entry| entry.range).collect()
    }
}

fn capture(pid: Pid, beholder: &'static dyn Beholder) -> Image {
    let options = Options {
        freeze_timeout: Duration::from_secs(10),
        stop: false,
        copy: true,
        codec: Codec::Raw,
        carry: brant_capture::Carry::default(),
        job: None,
        never_restored: |_| brant_base::Refusals::default(),
        beholder,
    };
    let path = std::env::temp_dir().join(format!("brant-beholder-{}-{pid}", std::process::id()));
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let sink = || Ok(file.try_clone().unwrap());
    brant_capture::checkpoint(&[pid], &HostFacts::probe().unwrap(), &options, sink).unwrap();
    Image::open(file).unwrap()
}

/// Whoever runs the tests may leave descriptors open that a program would inherit.
const WAITING: &str = r#"for fd in /proc/self/fd/*; do n=${fd##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done
echo ready; read line"#;

#[test]
fn notes_travel_and_unread_memory_does_not() {
    let mut command = Command::new("bash");
    command.args(["-c", WAITING]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid(child.id() as i32);
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let heap = proc::maps(pid).unwrap().into_iter().find(|entry| entry.kind == MapKind::Heap).unwrap().range;
    let pages_in_heap = |image: &Image| -> u64 {
        let in_heap = |run: &brant_image::Run| {
            let run = PageRange::new(run.first_page << 12, (run.first_page + run.pages) << 12).unwrap();
            run.intersection(heap).map_or(0, PageRange::pages)
        };
        image.runs(PageOwner::Process(pid)).map(|run| in_heap(&run)).sum()
    };

    let plain = capture(pid, &brant_capture::Nobody);
    let beheld = capture(pid, &Heap);
    let _ = child.kill();
    child.wait().unwrap();
    assert!(pages_in_heap(&plain) > 0);
    assert_eq!(pages_in_heap(&beheld), 0);
    assert!(beheld.runs(PageOwner::Process(pid)).count() > 0);
    beheld.verify().unwrap();
    assert!(plain.notes("state").unwrap().is_empty());
    let notes = beheld.notes("state").unwrap();
    assert_eq!((notes.len(), notes[0].pid, &notes[0].bytes[..]), (1, pid, &b"t"[..]));
    // What an image cannot hold is left out.
    assert!(beheld.notes("too-long").unwrap().is_empty());
}
