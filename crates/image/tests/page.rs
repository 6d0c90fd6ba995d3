//! The page of HTML about an image: all that it should say, nothing that it must not, and text that cannot become markup.

mod golden_model;
mod support;

use std::fs::File;
use std::path::Path;

use brant_base::Redacted;
use brant_image::inspect::{inspect, page};
use brant_image::model::UnixMessage;
use brant_image::{Codec, Image};
use support::image_of;

fn golden() -> Image {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/v1/raw.brant");
    Image::open(File::open(path).unwrap()).unwrap()
}

#[test]
fn it_says_what_inspect_says() {
    let image = golden();
    let (page, inspection) = (page(&image), inspect(&image));
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;")
    };
    for need in &inspection.needs {
        assert!(page.contains(&escaped(need)), "{need}");
    }
    for process in &inspection.processes {
        assert!(page.contains(&format!("id=\"p{}\"", process.pid)));
        for descriptor in &process.descriptors {
            assert!(page.contains(&escaped(&descriptor.what)), "{}", descriptor.what);
        }
    }
    assert!(page.contains("m-stored") && page.contains("m-zero") && page.contains("memory map"));
}

#[test]
fn it_needs_nothing_else_and_runs_nothing() {
    let page = page(&golden());
    for mark in ["<script", "<link", "<img", "src=", "http://", "https://", "@import", "url("] {
        assert!(!page.contains(mark), "{mark}");
    }
}

const SECRET: &[u8] = b"the-password-is-swordfish";

#[test]
fn it_has_no_contents_and_names_are_no_markup() {
    let mut checkpoint = golden_model::checkpoint();
    checkpoint.pipes[0].in_flight = vec![Redacted(SECRET.to_vec())];
    checkpoint.unix_sockets[0].queue =
        vec![UnixMessage { bytes: Redacted(SECRET.to_vec()), ..Default::default() }];
    checkpoint.processes[0].name = b"<script>a".to_vec();
    checkpoint.command = vec![b"<img src=x>".to_vec()];
    checkpoint.job = None;
    let mut pages = golden_model::pages();
    for (_, _, content) in &mut pages {
        if let Some(bytes) = content {
            bytes[..SECRET.len()].copy_from_slice(SECRET);
        }
    }
    let path = std::env::temp_dir().join(format!("brant-page-{}", std::process::id()));
    std::fs::write(&path, image_of(&checkpoint, &pages, Codec::Raw).unwrap()).unwrap();
    let image = Image::open(File::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let page = page(&image.unwrap());
    assert!(!page.contains(std::str::from_utf8(SECRET).unwrap()));
    assert!(page.contains("&lt;script&gt;a") && !page.contains("<script") && !page.contains("<img"));
}
