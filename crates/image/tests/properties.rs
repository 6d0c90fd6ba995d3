//! Any checkpoint comes back as it was written; any damaged image is an error, never a panic, never something else.

mod support;

use std::os::unix::fs::FileExt;

use brant_image::{Codec, Head, Image, ImageError, PageContent, Summary};
use proptest::prelude::*;
use support::generate::Generator;
use support::{Pages, file_of, forge, image_of};

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Raw), Just(Codec::Auto), Just(Codec::Lz4), Just(Codec::Zstd(1))]
}

fn verified(image: &std::fs::File) -> Result<Summary, ImageError> {
    Image::open(image.try_clone().unwrap())?.verify()
}

/// Checks one page or zero run.
fn assert_page(image: &Image, (owner, first_page, content): &Pages) {
    let mut found = None;
    let visit = |run: brant_image::PackRun<'_>| {
        let end = run.first_page + run.content.pages();
        if (run.first_page..end).contains(first_page) {
            let from = (first_page - run.first_page) as usize * 4096;
            found = Some(match run.content {
                PageContent::Bytes(bytes) => Some(bytes[from..from + 4096].to_vec()),
                PageContent::Zero { .. } => None,
            });
        }
        Ok::<(), ImageError>(())
    };
    image.visit_pages(*owner, visit).unwrap();
    assert!(found.as_ref() == Some(content), "page {first_page:#x} of {owner:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn checkpoints_come_back(seed: u64, codec in codec(), is_windows: bool) {
        let mut generator = Generator(seed);
        let checkpoint = if is_windows { generator.windows() } else { generator.checkpoint() };
        let pages = generator.pages(&checkpoint);
        let bytes = image_of(&checkpoint, &pages, codec).unwrap();
        let file = file_of(&bytes);
        prop_assert!(Head::read(&file).unwrap().checkpoint == checkpoint);
        let image = Image::open(file).unwrap();
        prop_assert!(image.checkpoint() == &checkpoint);
        let summary = image.verify().unwrap();
        prop_assert_eq!(summary.bytes, bytes.len() as u64);
        prop_assert_eq!(summary.pages + summary.zero_pages, pages.len() as u64);
        for page in &pages {
            assert_page(&image, page);
        }
    }

    #[test]
    fn damage_is_found(seed: u64, codec in codec(), places: Vec<u64>) {
        let mut generator = Generator(seed);
        let checkpoint = generator.checkpoint();
        let bytes = image_of(&checkpoint, &generator.pages(&checkpoint), codec).unwrap();
        let file = file_of(&bytes);
        for place in places {
            let (at, bit) = ((place >> 3) % bytes.len() as u64, place & 7);
            let byte = bytes[at as usize];
            file.write_all_at(&[byte ^ 1 << bit], at).unwrap();
            prop_assert!(verified(&file).is_err(), "bit {} of byte {} changed nothing", bit, at);
            file.write_all_at(&[byte], at).unwrap();
        }
        prop_assert!(verified(&file).is_ok());
    }
}

/// A small image with every kind of section, two packs' worth of runs in one.
fn small() -> Vec<u8> {
    let mut generator = Generator(0);
    loop {
        let checkpoint = generator.checkpoint();
        let pages = generator.pages(&checkpoint);
        let bytes = image_of(&checkpoint, &pages, Codec::Lz4).unwrap();
        if pages.len() >= 4 && bytes.len() < 6000 {
            return bytes;
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let bytes = small();
    let file = file_of(&bytes);
    for length in (0..bytes.len() as u64).rev() {
        file.set_len(length).unwrap();
        let error = Image::open(file.try_clone().unwrap()).unwrap_err();
        let expected = if length == 0 { "B-0501" } else { "B-0504" };
        assert_eq!(error.code(), expected, "cut to {length} bytes: {error}");
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let bytes = small();
    let file = file_of(&bytes);
    for (at, &byte) in bytes.iter().enumerate() {
        for wrong in [byte ^ 1, byte ^ 0x80, !byte] {
            file.write_all_at(&[wrong], at as u64).unwrap();
            let error = verified(&file).unwrap_err();
            assert!(error.code().starts_with("B-05"), "byte {at}: {error}");
        }
        file.write_all_at(&[byte], at as u64).unwrap();
    }
}

#[test]
fn sections_cannot_be_moved_dropped_or_repeated() {
    let bytes = small();
    let frames = forge::frames(&bytes);
    let section = |index: usize| bytes[frames[index].header.start..frames[index].payload.end].to_vec();
    let all: Vec<_> = (0..frames.len()).map(section).collect();
    let build = |sections: Vec<Vec<u8>>| {
        let whole = [vec![bytes[..forge::HEADER].to_vec()], sections].concat().concat();
        Image::open(file_of(&whole)).map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(build(all.clone()), Ok(()));
    for index in 0..all.len() {
        let mut dropped = all.clone();
        dropped.remove(index);
        assert!(build(dropped).is_err());
        let mut twice = all.clone();
        twice.insert(index, all[index].clone());
        assert!(build(twice).is_err());
        let mut moved = all.clone();
        moved.swap(index, (index + 1) % all.len());
        assert!(build(moved).is_err());
    }
}
