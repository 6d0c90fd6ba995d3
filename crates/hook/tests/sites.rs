//! System calls in the libraries of this machine: found exactly where a disassembler finds them, and nearly all can be patched.

mod support;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use brant_hook::symbols;
use brant_hook::{Places, Refusal, find_sites, frames};
use proptest::prelude::*;
use support::Image;

struct Library {
    image: Vec<u8>,
    /// Executable segments.
    code: Vec<Range<usize>>,
    functions: Vec<Range<u64>>,
}

fn load(path: &Path) -> Library {
    let image = Image::load(path);
    let code = image
        .segments
        .iter()
        .filter(|segment| segment.kind == symbols::PT_LOAD && segment.is_executable)
        .map(|s| s.address as usize..(s.address + s.file_bytes) as usize);
    let code = code.collect();
    let header = image.segments.iter().find(|segment| segment.kind == frames::PT_GNU_EH_FRAME);
    let described = header.map_or(Vec::new(), |header| {
        let bytes = image.part(header.address, header.memory_bytes);
        frames::described(bytes, header.address, |at| image.bytes.get(at as usize..))
    });
    let tables = image.tables();
    let named = tables.functions().filter(|s| s.bytes > 0).map(|s| s.value..s.value + s.bytes);
    let functions = frames::merged(described, named.collect::<Vec<_>>().into_iter());
    Library { image: image.bytes, code, functions }
}

/// The addresses of `syscall` instructions by objdump; `None` where there is none.
fn by_objdump(path: &Path) -> Option<Vec<u64>> {
    let output = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_call = |line: &&str| line.split('\t').nth(1).is_some_and(|text| text.trim() == "syscall");
    let address = |line: &str| u64::from_str_radix(line.split(':').next()?.trim(), 16).ok();
    Some(text.lines().filter(is_call).filter_map(address).collect())
}

#[test]
fn system_calls_of_real_libraries_are_found_and_can_be_patched() {
    let libraries = [
        ("/lib/x86_64-linux-gnu/libc.so.6", 500),
        ("/lib64/ld-linux-x86-64.so.2", 20),
        ("/usr/lib/x86_64-linux-musl/libc.so", 450),
        ("/lib/x86_64-linux-gnu/libstdc++.so.6", 0),
        ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 0),
    ];
    for (path, at_least) in libraries {
        let path = PathBuf::from(path);
        if !path.is_file() {
            println!("skipped: there is no {}", path.display());
            continue;
        }
        let library = load(&path);
        let (mut found, mut doubtful, mut refused, mut known) = (vec![], vec![], vec![], 0);
        for range in &library.code {
            let (code, at) = (&library.image[range.clone()], range.start as u64);
            let sites = find_sites(code, at, &library.functions);
            doubtful.extend(sites.doubtful);
            for (index, site) in sites.sites.iter().enumerate() {
                let stub = library.image.len() as u64 + 4096 + index as u64 * 128;
                known += u32::from(site.number.is_some());
                found.push(site.address);
                match site.patch(code, at, Places { stub, flags: 0x1234, record: 0x5678 }) {
                    Ok(patch) => assert_eq!(patch.old, code[(patch.at - at) as usize..][..5]),
                    Err(refusal) => refused.push((site.address, site.number, refusal)),
                }
            }
        }
        println!(
            "{}: {} found, {known} with their numbers, doubtful {doubtful:x?}, refused {refused:x?}",
            path.display(),
            found.len(),
        );
        assert!(found.len() >= at_least, "{}", path.display());
        assert!(refused.len() * 20 <= found.len(), "{}: {refused:x?}", path.display());
        let Some(wanted) = by_objdump(&path) else { continue };
        let wrong: Vec<&u64> = found.iter().filter(|at| !wanted.contains(at)).collect();
        assert!(wrong.is_empty(), "{}: no system calls: {wrong:x?}", path.display());
        let missed: Vec<&u64> =
            wanted.iter().filter(|at| !found.contains(at) && !doubtful.contains(at)).collect();
        // Those that end a handler are left out.
        println!("  of {} by objdump, missed {missed:x?}", wanted.len());
        assert!(at_least == 0 || missed.len() <= 1, "{}: {missed:x?}", path.display());
    }
}

/// Where a jump is put, the stub, and where threads are moved.
type Patched = (u64, Vec<u8>, Vec<(u64, u64)>);

/// One function, in the middle of nothing.
fn patched(code: &[u8]) -> Result<Patched, Refusal> {
    let mut padded = code.to_vec();
    padded.resize(code.len() + 32, 0xcc);
    let function = 0x1000..0x1000 + code.len() as u64;
    let sites = find_sites(&padded, 0x1000, &[function]);
    assert_eq!(sites.doubtful, [0u64; 0]);
    let places = Places { stub: 0x9000, flags: 0x11, record: 0x22 };
    sites.sites[0].patch(&padded, 0x1000, places).map(|patch| (patch.at, patch.stub, patch.moves))
}

#[test]
fn a_jump_is_put_before_a_call_or_over_it() {
    let nops = [0x0f, 0x1f, 0x44, 0, 0, 0x0f, 0x1f, 0x44, 0, 0];
    // mov eax, 39; syscall; ret.
    let code = [&nops[..], &[0xb8, 39, 0, 0, 0, 0x0f, 5, 0xc3]].concat();
    let (at, stub, moves) = patched(&code).unwrap();
    assert_eq!((at, moves), (0x100a, vec![]));
    assert_eq!(stub[..5], [0xb8, 39, 0, 0, 0]);
    assert_eq!(stub[5 + 33..], [0xe9, 0xe4, 0x7f, 0xff, 0xff]);
    // The same at the beginning of a function belongs to who hooks that.
    let (at, stub, moves) = patched(&[0xb8, 39, 0, 0, 0, 0x0f, 5, 0xc3]).unwrap();
    assert_eq!((at, &moves[..]), (0x1005, &[(0x1007, 0x9000 + 33 + 2)][..]));
    assert_eq!(stub[33..], [0x0f, 5, 0xc3]);
    // Two instructions before it: mov rdi, rsi; xor eax, eax.
    let code = [&nops[..], &[0x48, 0x89, 0xf7, 0x31, 0xc0, 0x0f, 5, 0xc3]].concat();
    let (at, stub, moves) = patched(&code).unwrap();
    assert_eq!((at, &moves[..]), (0x100a, &[(0x100d, 0x9003)][..]));
    assert_eq!(stub[..5], [0x48, 0x89, 0xf7, 0x31, 0xc0]);
    // je to the call; mov eax, 1; syscall; cmp rax, -4096; ret.
    let code =
        [&nops[..], &[0x74, 5, 0xb8, 1, 0, 0, 0, 0x0f, 5, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0xc3]].concat();
    let (at, _, moves) = patched(&code).unwrap();
    assert_eq!((at, moves.len()), (0x1011, 1));
    // je behind the call: neither will do.
    let code =
        [&nops[..], &[0x74, 5, 0x74, 5, 0x89, 0xc7, 0x0f, 5, 0x90, 0x31, 0xff, 0x90, 0x90, 0xc3]].concat();
    assert_eq!(patched(&code), Err(Refusal::BranchInto));
}

#[test]
fn numbers_are_known_where_no_branch_changes_them() {
    let number = |code: &[u8]| {
        let mut padded = code.to_vec();
        padded.resize(code.len() + 32, 0xcc);
        let function = 0x1000..0x1000 + code.len() as u64;
        find_sites(&padded, 0x1000, std::slice::from_ref(&function)).sites[0].number
    };
    assert_eq!(number(&[0xb8, 2, 1, 0, 0, 0x89, 0xd6, 0x0f, 5, 0xc3]), Some(0x102));
    assert_eq!(number(&[0x31, 0xc0, 0x0f, 5, 0xc3]), Some(0));
    assert_eq!(number(&[0x48, 0xc7, 0xc0, 17, 0, 0, 0, 0x0f, 5, 0xc3]), Some(17));
    // mov rax, rdi.
    assert_eq!(number(&[0x48, 0x89, 0xf8, 0x0f, 5, 0xc3]), None);
    // mov eax, 1; mov al, 2.
    assert_eq!(number(&[0xb8, 1, 0, 0, 0, 0xb0, 2, 0x0f, 5, 0xc3]), None);
    // mov edx, 60; xor edi, edi; mov eax, edx; syscall; jmp to the xor.
    let again = [0xba, 60, 0, 0, 0, 0x31, 0xff, 0x89, 0xd0, 0x0f, 5, 0xeb, 0xf8];
    assert_eq!(number(&again), Some(60));
    // mov eax, 60; xor edi, edi; syscall; jmp to the xor: with another number then.
    assert_eq!(number(&[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 5, 0xeb, 0xfa]), None);
    // je to the call.
    assert_eq!(number(&[0x74, 5, 0xb8, 1, 0, 0, 0, 0x0f, 5, 0xc3]), None);
}

#[test]
fn bytes_inside_of_instructions_are_no_calls() {
    // mov eax, 0x50f, over and over.
    let code: Vec<u8> = [0xb8, 0x0f, 0x05, 0, 0].repeat(40);
    let function = 0x1000..0x1000 + 200;
    let whole = find_sites(&code, 0x1000, std::slice::from_ref(&function));
    assert_eq!((whole.sites, whole.doubtful), (vec![], vec![]));
    assert_eq!(find_sites(&code, 0x1000, &[]).sites, []);
    // A table of numbers.
    let table: Vec<u8> = (0u32..200).flat_map(|number| (0x0500 + number).to_le_bytes()).collect();
    assert_eq!(find_sites(&table, 0x1000, &[]).sites, []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes are: threads are moved into the stub, and what is written fits.
    #[test]
    fn any_bytes_give_sites_or_none(
        code in proptest::collection::vec(any::<u8>(), 0..300), cut in 0u64..300, calls in proptest::collection::vec(0usize..300, 0..6),
    ) {
        let mut code = code;
        for at in calls {
            if at + 2 <= code.len() {
                code[at..at + 2].copy_from_slice(&[0x0f, 5]);
            }
        }
        let functions = [0x1000..0x1000 + cut, 0x1000 + cut..0x1000 + cut + 40];
        for site in find_sites(&code, 0x1000, &functions).sites {
            let at = (site.address - 0x1000) as usize;
            prop_assert_eq!(&code[at..at + 2], &[0x0f, 5]);
            let Ok(patch) = site.patch(&code, 0x1000, Places { stub: 0x9000, flags: 1, record: 2 }) else { continue };
            prop_assert!(patch.stub.len() <= brant_hook::STUB_BYTES_MAX);
            prop_assert!(patch.at == site.address || patch.at + 5 <= site.address);
            for (from, to) in patch.moves {
                prop_assert!(patch.at < from && from < patch.at + 5);
                prop_assert!(0x9000 <= to && to < 0x9000 + patch.stub.len() as u64);
            }
        }
    }
}
