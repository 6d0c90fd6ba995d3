//! Two executions of one program, and one set of heaps: what the first one was told, the second one says.
//!
//! `cargo run -p brant-heap --example two_executions -- IMAGE`, and again.

use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use brant_heap::{Error, Heap};

/// What was said of a heap once; a list, the newest first.
#[repr(C)]
struct Record {
    next: *mut Record,
    bytes: usize,
    more: usize,
    // The text follows.
}

/// The number under which `Record`s are roots.
const RECORDS: u64 = 1;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let image = std::env::args().nth(1).ok_or("usage: two_executions IMAGE")?;
    let image = Path::new(&image);
    if image.exists() && ask(&format!("Load the heaps of {}? [y/n] ", image.display()))? == "y" {
        brant_heap::load(image)?;
        show();
    } else {
        let count = ask_number("How many heaps? ")?;
        for number in 1..=count {
            Heap::create(&format!("heap-{number}"))?;
        }
    }
    for heap in heaps() {
        let text = ask(&format!("Text for {}: ", heap.name()))?;
        let more = ask_number(&format!("Bytes to allocate in {} besides: ", heap.name()))?;
        add(heap, &text, more)?;
    }
    show();
    let saved = brant_heap::save(image, &heaps())?;
    println!("saved {} heaps, generation {}", heaps().len(), saved.generation);
    Ok(())
}

fn ask(question: &str) -> io::Result<String> {
    print!("{question}");
    io::stdout().flush()?;
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim().to_owned()),
    }
}

fn ask_number(question: &str) -> io::Result<usize> {
    loop {
        match ask(question)?.parse() {
            Ok(number) => return Ok(number),
            Err(_) => println!("That is no number."),
        }
    }
}

fn heaps() -> Vec<Heap> {
    let mut heaps = Vec::new();
    Heap::each(|heap| {
        heaps.push(heap);
        true
    });
    heaps
}

fn first(heap: Heap) -> *mut Record {
    heap.root("records", RECORDS).map_or(null_mut(), |(root, _)| root.as_ptr().cast())
}

fn add(heap: Heap, text: &str, more: usize) -> Result<(), Error> {
    let whole = size_of::<Record>() + text.len();
    let no_memory = |bytes| Error::NoMemory { bytes, errno: 12 };
    let block = heap.allocate(whole).ok_or(no_memory(whole))?;
    heap.allocate(more).ok_or(no_memory(more))?;
    let record = Record { next: first(heap), bytes: text.len(), more };
    // SAFETY: the block is fresh and large enough for both.
    unsafe { block.cast::<Record>().write(record) };
    // SAFETY: as above; the text lies behind the record.
    unsafe {
        block.add(size_of::<Record>()).copy_from_nonoverlapping(NonNull::from(text).cast(), text.len())
    };
    heap.set_root("records", block, whole, RECORDS)
}

fn show() {
    let heaps = heaps();
    println!("{} heaps", heaps.len());
    for heap in heaps {
        let mut next = first(heap);
        // SAFETY: the root and every `next` lead to records that `add` made, in this execution or an earlier one.
        while let Some(record) = unsafe { next.as_ref() } {
            // SAFETY: as above; the text lies behind the record.
            let text = unsafe { std::slice::from_raw_parts(next.add(1).cast::<u8>(), record.bytes) };
            println!("{}: \"{}\" and {} bytes", heap.name(), String::from_utf8_lossy(text), record.more);
            next = record.next;
        }
    }
}
