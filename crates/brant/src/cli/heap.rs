//! `brant heap`.

use std::path::{Path, PathBuf};

use brant_heap::{Difference, Error, Holding, Image, ImageHeap, Piece};
use brant_image::inspect::{size, utc};
use clap::Subcommand;
use serde_json::{Value, json};

use super::Done;
use crate::failure::{Failure, exit};
use crate::report::{Report, table};

/// How many cells the picture of a heap has.
const PICTURE_CELLS: usize = 4 * 64;
const PICTURE_COLUMNS: usize = 64;

/// Show, compare and verify images of heaps that a program saved (docs/heaps.md)
#[derive(Debug, clap::Args)]
pub(super) struct Heaps {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what is in an image: heaps, roots, blocks by size, and a picture of how full each heap is
    Inspect {
        /// The image's path
        image: PathBuf,
    },
    /// Show how the heaps of two images differ: blocks that came, went or changed, and roots
    Diff {
        /// The earlier image's path
        before: PathBuf,
        /// The later one's
        after: PathBuf,
    },
    /// Read a whole image: every checksum, and every structure of every heap
    Verify {
        /// The image's path
        image: PathBuf,
    },
}

impl Heaps {
    pub(super) fn run(self, report: &Report) -> Done {
        match self.verb {
            Verb::Inspect { image } => inspect(&image, report),
            Verb::Diff { before, after } => diff(&before, &after, report),
            Verb::Verify { image } => verify(&image, report),
        }
    }
}

fn failed(path: &Path, error: &Error) -> Failure {
    let code = error.code();
    let exit = match code {
        "B-1221" | "B-1222" => exit::INCOMPATIBLE,
        "B-1223" => exit::CORRUPT,
        _ => exit::STORE,
    };
    let what = format!("the image of heaps {} cannot be shown", path.display());
    Failure::new(code, exit, what).why(error).next(format!("brant explain {code}"))
}

fn open(path: &Path) -> Result<Image, Failure> {
    Image::open(path).map_err(|error| failed(path, &error))
}

/// Blocks of one size.
struct Class {
    block_bytes: usize,
    live: usize,
    room: usize,
}

/// What the pieces of a heap come to.
struct Sums {
    classes: Vec<Class>,
    large: (usize, usize),
    regions: (usize, usize),
    free: (usize, usize),
    longest_free: usize,
    live_bytes: usize,
    all_bytes: usize,
}

fn sums(pieces: &[Piece]) -> Sums {
    let mut classes = std::collections::BTreeMap::<usize, Class>::new();
    let mut sums = Sums {
        classes: Vec::new(),
        large: (0, 0),
        regions: (0, 0),
        free: (0, 0),
        longest_free: 0,
        live_bytes: 0,
        all_bytes: pieces.iter().map(|piece| piece.bytes).sum(),
    };
    for piece in pieces {
        sums.live_bytes += live_bytes(piece);
        match piece.holding {
            Holding::Free => {
                sums.free = (sums.free.0 + 1, sums.free.1 + piece.bytes);
                sums.longest_free = sums.longest_free.max(piece.bytes);
            }
            Holding::Large { asked } => sums.large = (sums.large.0 + 1, sums.large.1 + asked),
            Holding::Region => sums.regions = (sums.regions.0 + 1, sums.regions.1 + piece.bytes),
            Holding::Span { block_bytes, live, room } => {
                let class = classes.entry(block_bytes).or_insert(Class { block_bytes, live: 0, room: 0 });
                class.live += live;
                class.room += room;
            }
        }
    }
    sums.classes = classes.into_values().collect();
    sums
}

fn live_bytes(piece: &Piece) -> usize {
    match piece.holding {
        Holding::Free => 0,
        Holding::Region => piece.bytes,
        Holding::Large { asked } => asked,
        Holding::Span { block_bytes, live, .. } => block_bytes * live,
    }
}

fn inspect(path: &Path, report: &Report) -> Done {
    let image = open(path)?;
    let heaps = image.heaps().map_err(|error| failed(path, &error))?;
    let mut shown = Vec::new();
    for heap in &heaps {
        let pieces = image.pieces(heap).map_err(|error| failed(path, &error))?;
        shown.push((heap, pieces));
    }
    let (bytes, stale) = image.bytes();
    if report.json {
        report.json(json!({
            "image": path, "id": image.id().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "generation": image.generation(), "created_unix_ns": image.created_ns(), "saved_unix_ns": image.saved_ns(),
            "bytes": bytes, "stale_bytes": stale, "extents": image.extents(),
            "heaps": shown.iter().map(|(heap, pieces)| heap_json(heap, pieces)).collect::<Vec<Value>>(),
        }));
        return Ok(0);
    }
    report.data(&format!(
        "{}: {} {}, {}, generation {} of {}",
        path.display(),
        heaps.len(),
        if heaps.len() == 1 { "heap" } else { "heaps" },
        size(bytes),
        image.generation(),
        utc(image.saved_ns() as i64)
    ));
    report.data(&format!(
        "{} of earlier generations; a load makes {} mappings",
        size(stale),
        image.extents()
    ));
    for (heap, pieces) in &shown {
        show(report, heap, pieces);
    }
    Ok(0)
}

fn heap_json(heap: &ImageHeap, pieces: &[Piece]) -> Value {
    let sums = sums(pieces);
    json!({
        "name": heap.name, "base": format!("{:#x}", heap.base), "range_bytes": heap.range_bytes, "debug": heap.is_debug,
        "held_bytes": heap.held_bytes, "live_bytes": sums.live_bytes, "spread_bytes": sums.all_bytes,
        "free_runs": sums.free.0, "free_bytes": sums.free.1, "longest_free_bytes": sums.longest_free,
        "large_blocks": sums.large.0, "large_bytes": sums.large.1, "regions": sums.regions.0, "region_bytes": sums.regions.1,
        "classes": sums.classes.iter().map(|class| {
            json!({ "block_bytes": class.block_bytes, "live": class.live, "room": class.room })
        }).collect::<Vec<Value>>(),
        "roots": heap.roots.iter().map(|root| {
            json!({
                "name": root.name, "address": format!("{:#x}", root.address), "bytes": root.bytes,
                "kind": format!("{:#x}", root.kind),
            })
        }).collect::<Vec<Value>>(),
    })
}

fn show(report: &Report, heap: &ImageHeap, pieces: &[Piece]) {
    let sums = sums(pieces);
    let debug = if heap.is_debug { ", in debug mode" } else { "" };
    report.data(&format!(
        "\nheap {} at {:#x}, range {}{debug}: {} live in {}, {} in the file",
        heap.name,
        heap.base,
        size(heap.range_bytes as u64),
        size(sums.live_bytes as u64),
        size(sums.all_bytes as u64),
        size(heap.held_bytes)
    ));
    for root in &heap.roots {
        report.data(&format!("  root {}: {} bytes at {:#x}", root.name, root.bytes, root.address));
    }
    let mut rows = vec![["  BLOCKS OF", "LIVE", "ROOM", "FULL"].map(String::from).to_vec()];
    rows.extend(sums.classes.iter().map(|class| {
        let percent = format!("{} %", class.live * 100 / class.room.max(1));
        vec![format!("  {}", class.block_bytes), class.live.to_string(), class.room.to_string(), percent]
    }));
    report.data(&table(&rows));
    let (large, regions, free) = (sums.large, sums.regions, sums.free);
    report.data(&format!(
        "  {} larger blocks of {}, {} regions of {}; {} free runs of {}, the longest {}",
        large.0,
        size(large.1 as u64),
        regions.0,
        size(regions.1 as u64),
        free.0,
        size(free.1 as u64),
        size(sums.longest_free as u64)
    ));
    for line in picture(pieces) {
        report.data(&format!("  |{line}|"));
    }
    if !pieces.is_empty() {
        report.data("  each sign is one part of the heap: . free, - : = + to a quarter, half, three quarters, nearly full, # full");
    }
}

/// How full each part of a heap is, in lines of signs.
fn picture(pieces: &[Piece]) -> Vec<String> {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Vec::new() };
    let whole = last.address + last.bytes - first.address;
    // A slice of 64 KiB is the least that is worth a sign.
    let cells = PICTURE_CELLS.min(whole >> 16).max(1);
    let cell_bytes = whole.div_ceil(cells);
    let mut live = vec![0usize; cells];
    for piece in pieces {
        let (begin, end) = (piece.address - first.address, piece.address - first.address + piece.bytes);
        let mut at = begin;
        while at < end {
            let cell = at / cell_bytes;
            let until = end.min((cell + 1) * cell_bytes);
            // What is live in it is taken to be spread evenly: products of bytes need more than 64 bits.
            live[cell] += (live_bytes(piece) as u128 * (until - at) as u128 / piece.bytes as u128) as usize;
            at = until;
        }
    }
    let sign = |live: &usize| match live * 100 / cell_bytes {
        0 if *live == 0 => '.',
        0..=24 => '-',
        25..=49 => ':',
        50..=74 => '=',
        75..=94 => '+',
        _ => '#',
    };
    let signs: Vec<char> = live.iter().map(sign).collect();
    signs.chunks(PICTURE_COLUMNS).map(|line| line.iter().collect()).collect()
}

fn diff(before: &Path, after: &Path, report: &Report) -> Done {
    let (one, two) = (open(before)?, open(after)?);
    let differences = two.differences(&one).map_err(|error| failed(after, &error))?;
    if report.json {
        let heaps: Vec<Value> = differences.iter().map(difference_json).collect();
        report.json(json!({ "before": before, "after": after, "heaps": heaps }));
        return Ok(0);
    }
    for heap in &differences {
        let state = match heap.is_in {
            (true, false) => " (only in the first)",
            (false, true) => " (only in the second)",
            _ => "",
        };
        let blocks =
            |what: &str, (count, bytes): (u64, u64)| format!("{count} blocks of {} {what}", size(bytes));
        report.data(&format!(
            "heap {}{state}: {}, {}, {}; {} in groups that differ",
            heap.name,
            blocks("came", heap.allocated),
            blocks("went", heap.freed),
            blocks("changed", heap.changed),
            size(heap.changed_groups << 16)
        ));
        if !heap.roots.is_empty() {
            report.data(&format!("  roots that came, went or lead elsewhere: {}", heap.roots.join(", ")));
        }
    }
    Ok(0)
}

fn difference_json(heap: &Difference) -> Value {
    let blocks = |(count, bytes): (u64, u64)| json!({ "blocks": count, "bytes": bytes });
    json!({
        "name": heap.name, "in_first": heap.is_in.0, "in_second": heap.is_in.1, "changed_groups": heap.changed_groups,
        "allocated": blocks(heap.allocated), "freed": blocks(heap.freed), "changed": blocks(heap.changed), "roots": heap.roots,
    })
}

fn verify(path: &Path, report: &Report) -> Done {
    let verified = open(path)?.verify().map_err(|error| {
        let what = format!("the image of heaps {} is damaged", path.display());
        Failure { what, ..failed(path, &error) }
    })?;
    if report.json {
        report.json(json!({
            "image": path, "groups": verified.groups, "bytes": verified.bytes, "blocks": verified.blocks,
            "live_bytes": verified.live_bytes,
        }));
    } else {
        report.data(&format!(
            "{}: whole, {} blocks of {} in {}",
            path.display(),
            verified.blocks,
            size(verified.live_bytes),
            size(verified.bytes)
        ));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_where_a_heap_is_full() {
        let slice = 1 << 16;
        let span = |live| Holding::Span { block_bytes: slice / 8, live, room: 8 };
        let holdings = [span(8), span(4), Holding::Free, Holding::Large { asked: 50_000 }, span(1)];
        let pieces: Vec<Piece> = holdings
            .iter()
            .enumerate()
            .map(|(number, holding)| Piece { address: number * slice, bytes: slice, holding: *holding })
            .collect();
        assert_eq!(picture(&pieces), ["#=.+-"]);
        let sums = sums(&pieces);
        assert_eq!((sums.free, sums.longest_free, sums.large), ((1, slice), slice, (1, 50_000)));
        assert_eq!((sums.classes[0].live, sums.classes[0].room), (13, 24));
        let long = [Piece { address: 0, bytes: 1 << 40, holding: Holding::Region }];
        assert_eq!(picture(&long).len(), 4);
        assert!(picture(&long).iter().all(|line| *line == "#".repeat(64)));
        assert!(picture(&[]).is_empty());
    }
}
