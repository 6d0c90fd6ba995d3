//! docs/format.md names every field that a manifest has, with its number and type.

mod support;

use std::collections::HashMap;

use brant_image::Codec;
use support::generate::Generator;
use support::{forge, image_of};

/// Field number to type name, by message.
type Schema = HashMap<String, HashMap<u64, String>>;

/// Reads the messages of the page.
fn schema() -> Schema {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    let page = std::fs::read_to_string(path).unwrap();
    let text = page.split("```proto").nth(1).unwrap().split("```").next().unwrap();
    let mut schema = Schema::new();
    let mut message = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap().trim();
        let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
        match words.as_slice() {
            ["message", name, "{"] => message = (*name).to_owned(),
            [.., kind, _, "=", number] if *kind != "syntax" => {
                let fields = schema.entry(message.clone()).or_default();
                let repeated = words[0] == "repeated" && *kind != "bytes" && *kind != "string";
                let kind = if repeated { format!("repeated {kind}") } else { (*kind).to_owned() };
                assert!(fields.insert(number.parse().unwrap(), kind).is_none(), "{message}: {number} twice");
            }
            _ => {}
        }
    }
    schema
}

/// Takes a base-128 number off the front.
fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a number without end");
}

/// Checks one message's bytes against the page, and notes which fields occurred.
fn check(schema: &Schema, message: &str, mut bytes: &[u8], seen: &mut HashMap<(String, u64), ()>) {
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (number, wire) = (key >> 3, key & 7);
        let kind =
            schema[message].get(&number).unwrap_or_else(|| panic!("{message} {number} is not described"));
        seen.insert((message.to_owned(), number), ());
        let scalar = kind.trim_start_matches("repeated ");
        let expected = match scalar {
            "int32" | "uint32" | "sint32" | "int64" | "uint64" | "bool" => 0,
            "fixed64" => 1,
            "fixed32" => 5,
            _ => 2,
        };
        let packed = expected != 2 && kind.starts_with("repeated ");
        assert_eq!(wire, if packed { 2 } else { expected }, "{message} {number} is a {kind}");
        let length = match wire {
            0 => {
                varint(&mut bytes);
                0
            }
            1 => 8,
            5 => 4,
            _ => varint(&mut bytes) as usize,
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        if schema.contains_key(scalar) {
            check(schema, scalar, value, seen);
        }
    }
}

#[test]
fn every_field_is_described() {
    let schema = schema();
    let mut seen = HashMap::new();
    for seed in 0..200 {
        let checkpoint = Generator(seed).checkpoint();
        let image = image_of(&checkpoint, &[], Codec::Raw).unwrap();
        check(&schema, "Checkpoint", &image[forge::frames(&image)[0].payload.clone()], &mut seen);
        let image = image_of(&Generator(seed).windows(), &[], Codec::Raw).unwrap();
        check(&schema, "Checkpoint", &image[forge::frames(&image)[0].payload.clone()], &mut seen);
    }
    for (message, fields) in &schema {
        for number in fields.keys() {
            assert!(
                seen.contains_key(&(message.clone(), *number)),
                "{message} {number} is described but never written"
            );
        }
    }
}
