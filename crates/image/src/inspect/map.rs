//! The memory of one process, drawn: each mapping as wide as it is long, and below it what of it the image holds.

use std::fmt::Write as _;

use brant_base::{PAGE_SIZE, PageRange};

use super::page::escape;
use super::text::{readable, size};
use super::{describe, text};
use crate::Image;
use crate::model::*;

/// Mappings with less than this between them stand in one row.
const GAP_MAX: u64 = 64 << 20;
const WIDTH: f64 = 1000.0;
const ROW: f64 = 58.0;
/// More mappings than this are not listed one by one.
const LISTED_MAX: usize = 1000;

/// A mapping and what the image has of it.
struct Piece<'a> {
    mapping: &'a Mapping,
    /// Ranges of pages with bytes, and of pages known to be zero.
    stored: Vec<PageRange>,
    zero: Vec<PageRange>,
}

/// The picture and the list below it.
pub(super) fn memory_map(image: &Image, process: &Process, body: &ProcessBody) -> String {
    let pieces = pieces(image, process, body);
    let rows = rows(&pieces);
    let longest = rows.iter().map(|row| span(row)).max().unwrap_or(1).max(1);
    let scale = WIDTH / longest as f64;
    let mut svg = String::new();
    for (number, row) in rows.iter().enumerate() {
        draw(&mut svg, row, number as f64 * ROW, scale);
    }
    let height = rows.len() as f64 * ROW;
    let ruler = size(longest);
    let list: String = pieces.iter().take(LISTED_MAX).map(|piece| line(image.checkpoint(), piece)).collect();
    let left_out = match pieces.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        count => format!("<p>{count} more mappings are not listed.</p>"),
    };
    format!(
        "<p class=\"legend\"><i class=\"m-private\"></i>private <i class=\"m-shared\"></i>shared <i class=\"m-file\"></i>of a file \
         <i class=\"m-kernel\"></i>the kernel's <i class=\"m-stored\"></i>stored in the image <i class=\"m-zero\"></i>known to be zero</p>\
         <div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"memory map\">{svg}</svg></div>\
         <p class=\"faint\">To scale: the longest row is {ruler}. Rows are parted where more than 64 MiB are not mapped. What is not stored \
         comes from its file or is made by the kernel.</p>\
         <details><summary>{} mappings</summary><div class=\"scroll\"><table><tr><th>addresses</th><th>size</th><th></th><th>stored</th>\
         <th>what</th></tr>{list}</table></div>{left_out}</details>",
        pieces.len()
    )
}

fn pieces<'a>(image: &Image, process: &Process, body: &'a ProcessBody) -> Vec<Piece<'a>> {
    let range = |first: u64, pages: u64| {
        let start = first.checked_mul(PAGE_SIZE)?;
        PageRange::new(start, start.checked_add(pages.checked_mul(PAGE_SIZE)?)?).ok()
    };
    let runs: Vec<(PageRange, bool)> = image
        .runs(PageOwner::Process(process.pid))
        .filter_map(|run| Some((range(run.first_page, run.pages)?, run.zero)))
        .collect();
    let within = |mapping: &Mapping, zero: bool| {
        let of_kind = runs.iter().filter(|(_, is_zero)| *is_zero == zero);
        of_kind.filter_map(|(range, _)| range.intersection(mapping.range)).collect()
    };
    let piece =
        |mapping: &'a Mapping| Piece { mapping, stored: within(mapping, false), zero: within(mapping, true) };
    body.memory.mappings.iter().map(piece).collect()
}

/// Mappings that lie near to each other.
fn rows<'a, 'b>(pieces: &'b [Piece<'a>]) -> Vec<&'b [Piece<'a>]> {
    let near = |a: &Piece<'_>, b: &Piece<'_>| {
        b.mapping.range.start().0.saturating_sub(a.mapping.range.end().0) <= GAP_MAX
    };
    pieces.chunk_by(near).collect()
}

fn span(row: &[Piece<'_>]) -> u64 {
    let (Some(first), Some(last)) = (row.first(), row.last()) else { return 0 };
    last.mapping.range.end().0 - first.mapping.range.start().0
}

fn draw(svg: &mut String, row: &[Piece<'_>], y: f64, scale: f64) {
    let Some(first) = row.first() else { return };
    let origin = first.mapping.range.start().0;
    let bar = |svg: &mut String, class: &str, range: PageRange, top: f64, height: f64, title: &str| {
        let x = (range.start().0 - origin) as f64 * scale;
        // What is smaller than a hair is drawn as one.
        let width = (range.bytes() as f64 * scale).max(0.6);
        let title = if title.is_empty() { String::new() } else { format!("<title>{title}</title>") };
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{top:.0}\" width=\"{width:.2}\" height=\"{height}\">{title}</rect>"
        );
    };
    let _ =
        write!(svg, "<text x=\"0\" y=\"{:.0}\">{:#x}, {}</text>", y + 12.0, origin, escape(&size(span(row))));
    for piece in row {
        let title = format!("{} {}", piece.mapping.range, size(piece.mapping.range.bytes()));
        bar(svg, class(piece.mapping), piece.mapping.range, y + 17.0, 18.0, &escape(&title));
        piece.stored.iter().for_each(|range| bar(svg, "m-stored", *range, y + 36.0, 9.0, ""));
        piece.zero.iter().for_each(|range| bar(svg, "m-zero", *range, y + 36.0, 9.0, ""));
    }
}

fn class(mapping: &Mapping) -> &'static str {
    match (&mapping.backing, mapping.sharing) {
        (Backing::Vdso | Backing::Vvar, _) => "m-kernel",
        (Backing::Shared { .. }, _) | (_, Sharing::Shared) => "m-shared",
        (Backing::File { .. }, _) => "m-file",
        (Backing::Anonymous, _) => "m-private",
    }
}

fn line(checkpoint: &Checkpoint, piece: &Piece<'_>) -> String {
    let mapping = piece.mapping;
    let Protection { read, write, execute } = mapping.protection;
    let rights: String = [(read, 'r'), (write, 'w'), (execute, 'x')]
        .iter()
        .map(|(has, c)| if *has { *c } else { '-' })
        .collect();
    let bytes = |ranges: &[PageRange]| ranges.iter().map(|range| range.bytes()).sum::<u64>();
    let stored = match bytes(&piece.stored) {
        0 => String::new(),
        bytes => size(bytes),
    };
    format!(
        "<tr><td><code>{}</code></td><td>{}</td><td><code>{rights}</code></td><td>{stored}</td><td>{}</td></tr>",
        mapping.range,
        text::size(mapping.range.bytes()),
        escape(&behind(checkpoint, mapping))
    )
}

/// What is behind a mapping, in words.
pub(super) fn behind(checkpoint: &Checkpoint, mapping: &Mapping) -> String {
    match &mapping.backing {
        Backing::Anonymous => match &mapping.name {
            Some(name) => format!("memory named {}", readable(name)),
            None => "memory".to_owned(),
        },
        Backing::File { file, .. } => describe::disk_path(checkpoint, *file),
        Backing::Shared { memory, .. } => {
            let found = checkpoint.shared_memory.iter().find(|shared| shared.id == *memory);
            match found.map(|shared| &shared.kind) {
                Some(SharedMemoryKind::Memfd { name, .. }) => format!("memfd {}", readable(name)),
                _ => format!("shared memory {}", memory.0),
            }
        }
        Backing::Vdso => "the kernel's code (vDSO)".to_owned(),
        Backing::Vvar => "the kernel's data (vvar)".to_owned(),
    }
}
