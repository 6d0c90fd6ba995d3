//! Golden images of version 1: what an earlier brant wrote is read as what it was, and broken ones are refused
//! with the code that stands in their name.
//!
//! `BRANT_WRITE_GOLDEN=1 cargo test -p brant-image --test golden` writes the files anew. Whole images of a
//! released version are never written anew: a change that makes them unreadable is a mistake.

mod golden_model;
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use brant_image::{Codec, Head, Image, PageContent};
use golden_model::{checkpoint, pages};
use support::{forge, image_of};

const WHOLE: [(&str, Codec); 3] =
    [("raw.brant", Codec::Raw), ("lz4.brant", Codec::Lz4), ("zstd.brant", Codec::Zstd(3))];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/v1")
}

#[test]
fn whole_images_are_read() {
    write_anew();
    let whole = WHOLE.iter().map(|(name, _)| *name).chain(["unknown-section.brant"]);
    for name in whole {
        let image = Image::open(File::open(folder().join(name)).unwrap()).unwrap();
        assert_eq!(image.checkpoint(), &checkpoint(), "{name}");
        assert_eq!(image.id().to_string(), "30313233343536373839616263646566");
        assert_eq!(image.created_ns(), 1_000_000_007);
        let summary = image.verify().unwrap();
        assert_eq!((summary.pages, summary.zero_pages), (5, 2), "{name}");
        for (owner, first_page, content) in pages() {
            let mut seen = false;
            let visit = |run: brant_image::PackRun<'_>| {
                if run.first_page == first_page {
                    seen = match (&content, run.content) {
                        (Some(expected), PageContent::Bytes(bytes)) => bytes == expected,
                        (None, PageContent::Zero { pages }) => pages == 1,
                        _ => false,
                    };
                }
                Ok::<(), brant_image::ImageError>(())
            };
            image.visit_pages(owner, visit).unwrap();
            assert!(seen, "{name}: page {first_page:#x} of {owner:?}");
        }
    }
}

#[test]
fn broken_images_are_refused_by_their_code() {
    write_anew();
    let mut count = 0;
    for item in fs::read_dir(folder().join("broken")).unwrap() {
        let path = item.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let result = Image::open(File::open(&path).unwrap()).and_then(|image| image.verify());
        let error = result.expect_err(&name);
        assert_eq!(error.code(), &name[..6], "{name}: {error}");
        count += 1;
    }
    assert!(count >= 14, "{count} broken images");
}

#[test]
fn a_cut_image_still_has_a_head() {
    write_anew();
    let file = File::open(folder().join("broken/B-0504-cut-before-end.brant")).unwrap();
    assert_eq!(Head::read(&file).unwrap().checkpoint, checkpoint());
}

/// Writes the fixtures where the environment asks for it.
fn write_anew() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if std::env::var_os("BRANT_WRITE_GOLDEN").is_none() {
        return;
    }
    ONCE.call_once(|| {
        fs::create_dir_all(folder().join("broken")).unwrap();
        for (name, codec) in WHOLE {
            fs::write(folder().join(name), image_of(&checkpoint(), &pages(), codec).unwrap()).unwrap();
        }
        let raw = fs::read(folder().join("raw.brant")).unwrap();
        fs::write(folder().join("unknown-section.brant"), with_section(&raw, 0x7001, 0)).unwrap();
        for (name, bytes) in broken(&raw) {
            fs::write(folder().join("broken").join(format!("{name}.brant")), bytes).unwrap();
        }
    });
}

/// A section of this kind put before the closing one, everything sealed.
fn with_section(image: &[u8], kind: u16, flags: u32) -> Vec<u8> {
    let end = forge::frames(image).pop().unwrap().header.start;
    let mut header = [0; forge::SECTION_HEADER];
    header[..2].copy_from_slice(&kind.to_le_bytes());
    header[2] = 1;
    header[4..8].copy_from_slice(&flags.to_le_bytes());
    header[12..16].copy_from_slice(&image[end + 12..end + 16]);
    header[16] = 5;
    header[24] = 5;
    let mut out = [&image[..end], &header, b"hello", &image[end..]].concat();
    out[end + 77 + 12] += 1;
    forge::reseal(&mut out);
    out
}

/// The broken images, each named by the code that it is refused with.
fn broken(raw: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let frames = forge::frames(raw);
    let [manifest, pack, end] = &frames[..] else { panic!("{} sections", frames.len()) };
    let damage = |at: usize| {
        let mut bytes = raw.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let forge = |at: usize, value: u8| {
        let mut bytes = raw.to_vec();
        bytes[at] = value;
        forge::reseal(&mut bytes);
        bytes
    };
    let two_manifests = [&raw[..manifest.payload.end], &raw[manifest.header.start..]].concat();
    vec![
        ("B-0501-empty", Vec::new()),
        ("B-0501-text", b"#!/bin/sh\nexit 0\n".to_vec()),
        ("B-0502-newer-version", forge(8, 2)),
        ("B-0503-header-bit", damage(30)),
        ("B-0503-header-flags", forge(16, 1)),
        ("B-0504-cut-in-header", raw[..40].to_vec()),
        ("B-0504-cut-in-manifest", raw[..manifest.payload.start + 9].to_vec()),
        ("B-0504-cut-in-pack", raw[..pack.payload.start + 4096].to_vec()),
        ("B-0504-cut-before-end", raw[..end.header.start].to_vec()),
        ("B-0505-manifest-bit", damage(manifest.payload.start + 20)),
        ("B-0505-index-bit", damage(pack.payload.start + 20)),
        ("B-0505-page-bit", damage(pack.payload.end - 1)),
        ("B-0505-end-bit", damage(end.payload.start)),
        ("B-0506-unknown-critical", with_section(raw, 0x7001, 1)),
        ("B-0506-newer-manifest", forge(manifest.header.start + 2, 2)),
        ("B-0507-section-header-bit", damage(pack.header.start + 20)),
        ("B-0507-two-manifests", two_manifests),
        ("B-0507-bytes-after-end", [raw, b"x"].concat()),
        ("B-0508-pack-too-large", forge(pack.header.start + 28, 1)),
        ("B-0509-manifest-not-decodable", forge(manifest.payload.start, 0xff)),
        // The root process's number, the fifth field, is the one byte that follows the command and the job.
        ("B-0511-no-root", forge(root_at(raw, manifest), 77)),
        ("B-0512-page-nobody-has", forge(pack.payload.start + 8 + 8 + 6, 1)),
    ]
}

/// Where the manifest's field 5, the root's number, has its value.
fn root_at(raw: &[u8], manifest: &forge::Frame) -> usize {
    let job = b"\x22\x03sim\x28";
    let payload = &raw[manifest.payload.clone()];
    let at = payload.windows(job.len()).position(|window| window == job).unwrap();
    manifest.payload.start + at + job.len()
}

#[test]
fn an_inspection_tells_what_is_there() {
    write_anew();
    let image = Image::open(File::open(folder().join("raw.brant")).unwrap()).unwrap();
    let text = brant_image::inspect::inspect(&image).to_string();
    let path = folder().join("inspect.txt");
    if std::env::var_os("BRANT_WRITE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(path).unwrap());
}
