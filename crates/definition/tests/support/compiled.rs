//! A C program that tells where the compiler of this machine passes things.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use brant_definition::abi::{Layout, Register};
use brant_definition::{Field, Signature, Type};

/// So much of the stack is written down.
pub(crate) const STACK_BYTES: usize = 2048;
/// Results through a hidden pointer are at most this large here.
pub(crate) const MEMORY_BYTES: usize = 1024;

/// What one signature's calls left behind.
pub(crate) struct Answer {
    /// rdi, rsi, rdx, rcx, r8, r9, as they came.
    integers: [[u8; 8]; 6],
    pub(crate) rax: [u8; 8],
    vectors: [[u8; 8]; 8],
    /// What lies above the return address.
    pub(crate) stack: Vec<u8>,
    /// rax, rdx, xmm0, xmm1 behind a call.
    results: [[u8; 8]; 4],
    x87: [[u8; 16]; 2],
    pub(crate) x87_in_use: usize,
    pub(crate) result_room: [u8; 8],
    /// What the result's room holds.
    pub(crate) memory: Vec<u8>,
}

impl Answer {
    /// A register of arguments, as it came into the function.
    pub(crate) fn argument(&self, register: Register) -> [u8; 8] {
        match register {
            Register::Rdi => self.integers[0],
            Register::Rsi => self.integers[1],
            Register::Rdx => self.integers[2],
            Register::Rcx => self.integers[3],
            Register::R8 => self.integers[4],
            Register::R9 => self.integers[5],
            Register::Xmm(number) => self.vectors[usize::from(number)],
            Register::Rax | Register::St(_) => panic!("{register} carries no arguments"),
        }
    }

    /// A register of results, as it came back.
    pub(crate) fn result(&self, register: Register) -> Vec<u8> {
        match register {
            Register::Rax => self.results[0].to_vec(),
            Register::Rdx => self.results[1].to_vec(),
            Register::Xmm(number @ 0..2) => self.results[2 + usize::from(number)].to_vec(),
            Register::St(number) => self.x87[usize::from(number)].to_vec(),
            _ => panic!("{register} carries no results"),
        }
    }
}

/// The byte at `at` of a value; the C program has the same. Every byte has its highest bit set, which makes any
/// long double of them one that x87 registers keep as it is.
fn pattern(seed: u8, at: usize) -> u8 {
    0x80 | seed.wrapping_mul(37).wrapping_add((at as u8).wrapping_mul(11))
}

/// The bytes of a value that the C program makes; nothing for padding.
pub(crate) fn fill(kind: &Type, seed: u8) -> Vec<Option<u8>> {
    if is_bool(kind) {
        return vec![Some(1)];
    }
    let mut bytes = vec![None; Layout::of(kind).bytes as usize];
    cover(kind, 0, &mut |at| bytes[at] = Some(pattern(seed, at)));
    bytes
}

fn is_bool(kind: &Type) -> bool {
    matches!(kind, Type::Scalar(scalar) if scalar.name() == "bool")
}

/// Visits every byte that is no padding.
fn cover(kind: &Type, base: usize, visit: &mut impl FnMut(usize)) {
    let bytes = Layout::of(kind).bytes as usize;
    match kind {
        Type::Scalar(scalar) if scalar.name().starts_with("long double") => {
            (0..bytes).filter(|at| at % 16 < 10).for_each(|at| visit(base + at));
        }
        Type::Scalar(_) | Type::Pointer(_) => (0..bytes).for_each(|at| visit(base + at)),
        Type::Struct(inner) => {
            let mut end = base;
            for Field { kind, count, .. } in inner.fields() {
                let each = Layout::of(kind);
                end = end.next_multiple_of(each.alignment as usize);
                for _ in 0..count.unwrap_or(1) {
                    cover(kind, end, visit);
                    end += each.bytes as usize;
                }
            }
        }
    }
}

/// What the compiler does with each signature.
pub(crate) fn ask(signatures: &[Signature]) -> Vec<Answer> {
    let mut text = String::from(PRELUDE);
    let mut main = String::new();
    for (number, signature) in signatures.iter().enumerate() {
        declare(&mut text, number, signature);
        writeln!(main, "    case_{number}();").unwrap();
    }
    write!(
        text,
        "int main(void) {{\n    volatile char above[4096];\n    above[0] = 0;\n{main}    return 0;\n}}\n"
    )
    .unwrap();
    run(&text).lines().map(answer).collect()
}

/// Size and alignment of each type.
pub(crate) fn ask_layouts(kinds: &[Type]) -> Vec<(u32, u32)> {
    let rows: String = kinds
        .iter()
        .map(|kind| format!("    printf(\"%zu %zu\\n\", sizeof({kind}), _Alignof({kind}));\n"))
        .collect();
    let output = run(&format!("{PRELUDE}int main(void) {{\n{rows}    return 0;\n}}\n"));
    let row = |line: &str| {
        let (bytes, alignment) = line.split_once(' ').unwrap();
        (bytes.parse().unwrap(), alignment.parse().unwrap())
    };
    output.lines().map(row).collect()
}

/// The types of one signature, the function that returns its result, and the case that calls both.
fn declare(text: &mut String, number: usize, signature: &Signature) {
    let mut put = |line: String| writeln!(text, "{line}").unwrap();
    let (mut types, mut values, mut fills) = (Vec::new(), Vec::new(), String::new());
    for (index, parameter) in signature.parameters.iter().enumerate() {
        let name = format!("T{number}_{index}");
        put(format!("typedef {};", definition(&parameter.kind, &name)));
        put(format!(
            "_Static_assert(sizeof({name}) == {} && _Alignof({name}) == {}, \"\");",
            Layout::of(&parameter.kind).bytes,
            Layout::of(&parameter.kind).alignment
        ));
        write!(fills, " {name} a{index}; fill(&a{index}, sizeof a{index}, {});", index + 1).unwrap();
        if is_bool(&parameter.kind) {
            write!(fills, " a{index} = 1;").unwrap();
        }
        types.push(name);
        values.push(format!("a{index}"));
    }
    if signature.is_variadic {
        types.push("...".to_owned());
    }
    let types = if types.is_empty() { "void".to_owned() } else { types.join(", ") };
    let result = match &signature.result {
        None => {
            put(format!("static void give_{number}(void) {{}}"));
            "void".to_owned()
        }
        Some(result) => {
            let name = format!("R{number}");
            put(format!("typedef {};", definition(result, &name)));
            let one = if is_bool(result) { " r = 1;" } else { "" };
            put(format!(
                "static {name} give_{number}(void) {{ {name} r; fill(&r, sizeof r, 0);{one} return r; }}"
            ));
            name
        }
    };
    put(format!(
        "static void case_{number}(void) {{\n   {fills}\n    begin();\n    (({result} (*)({types}))record)({});\n    \
         x87_reset();\n    call_and_record((void *)give_{number});\n    tell();\n}}",
        values.join(", ")
    ));
}

/// The type with a name to declare. Any pointer travels alike, and the headers of some are not included.
fn definition(kind: &Type, name: &str) -> String {
    match kind {
        Type::Pointer(_) => format!("void *{name}"),
        _ => format!("{kind} {name}"),
    }
}

fn answer(line: &str) -> Answer {
    let mut parts = line.split(' ').map(bytes_of);
    let mut next = || parts.next().expect("a part is missing");
    let eights = |bytes: Vec<u8>| -> Vec<[u8; 8]> { bytes.as_chunks().0.to_vec() };
    let array = |bytes: Vec<u8>| -> [u8; 8] { bytes.try_into().unwrap() };
    Answer {
        integers: eights(next()).try_into().unwrap(),
        rax: array(next()),
        vectors: eights(next()).try_into().unwrap(),
        stack: next(),
        results: eights(next()).try_into().unwrap(),
        x87: next().as_chunks().0.to_vec().try_into().unwrap(),
        x87_in_use: next()[0].count_ones() as usize,
        result_room: array(next()),
        memory: next(),
    }
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
}

/// Compiles and runs; both must succeed.
fn run(text: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("abi-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (source, program) = (folder.join("ask.c"), folder.join("ask"));
    std::fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O0", "-w", "-o"]).arg(&program).arg(&source);
    let compiled = compiler.output().expect("this test needs a C compiler by the name of cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).output().unwrap();
    assert!(ran.status.success(), "{}: {}", ran.status, String::from_utf8_lossy(&ran.stderr));
    std::fs::remove_dir_all(&folder).unwrap();
    String::from_utf8(ran.stdout).unwrap()
}

const PRELUDE: &str = r#"
#define _GNU_SOURCE
#include <complex.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <termios.h>
#include <time.h>
#include <uchar.h>
#include <unistd.h>
#include <wchar.h>

struct state {
    unsigned char integers[48], rax[8], stack[2048], results[16];
    unsigned char unused[8];
    unsigned char arguments_fx[512] __attribute__((aligned(16)));
    unsigned char results_fx[512] __attribute__((aligned(16)));
};
struct state state;
unsigned char memory[1024] __attribute__((aligned(16)));
_Static_assert(offsetof(struct state, rax) == 48 && offsetof(struct state, stack) == 56, "");
_Static_assert(offsetof(struct state, results) == 2104, "");
_Static_assert(offsetof(struct state, arguments_fx) == 2128 && offsetof(struct state, results_fx) == 2640, "");

/* record: writes down what came, and gives the address of the room back, for those who asked for that. */
void record(void);
void call_and_record(void *function);
void x87_reset(void);
__asm__(
    ".text\n"
    "record:\n"
    "  mov %rax, 48+state(%rip)\n"
    "  lea state(%rip), %rax\n"
    "  mov %rdi, (%rax)\n  mov %rsi, 8(%rax)\n  mov %rdx, 16(%rax)\n"
    "  mov %rcx, 24(%rax)\n  mov %r8, 32(%rax)\n  mov %r9, 40(%rax)\n"
    "  fxsave64 2128(%rax)\n"
    "  lea 8(%rsp), %rsi\n  lea 56(%rax), %rdi\n  mov $2048, %ecx\n  cld\n  rep movsb\n"
    "  mov (%rax), %rax\n"
    "  ret\n"
    "call_and_record:\n"
    "  sub $8, %rsp\n"
    "  mov %rdi, %rax\n"
    "  lea memory(%rip), %rdi\n"
    "  call *%rax\n"
    "  mov %rax, 2104+state(%rip)\n  mov %rdx, 2112+state(%rip)\n"
    "  lea state(%rip), %rax\n"
    "  fxsave64 2640(%rax)\n"
    "  fninit\n"
    "  add $8, %rsp\n"
    "  ret\n"
    "x87_reset:\n"
    "  fninit\n"
    "  ret\n");

/* As `pattern` of the test. */
static void fill(void *value, size_t bytes, unsigned seed) {
    unsigned char *at = value;
    for (size_t i = 0; i < bytes; i++) at[i] = 0x80 | (unsigned char)(seed * 37 + i * 11);
}

static void begin(void) {
    memset(&state, 0, sizeof state);
    memset(memory, 0, sizeof memory);
}

static void hex(const void *from, size_t bytes, char end) {
    const unsigned char *at = from;
    while (bytes--) printf("%02x", *at++);
    putchar(end);
}

static void tell(void) {
    unsigned char vectors[64], results[32];
    for (int i = 0; i < 8; i++) memcpy(vectors + 8 * i, state.arguments_fx + 160 + 16 * i, 8);
    memcpy(results, state.results, 16);
    memcpy(results + 16, state.results_fx + 160, 8);
    memcpy(results + 24, state.results_fx + 176, 8);
    unsigned char *room = memory;
    hex(state.integers, 48, ' ');
    hex(state.rax, 8, ' ');
    hex(vectors, 64, ' ');
    hex(state.stack, sizeof state.stack, ' ');
    hex(results, 32, ' ');
    hex(state.results_fx + 32, 32, ' ');
    hex(state.results_fx + 4, 1, ' ');
    hex(&room, 8, ' ');
    hex(memory, sizeof memory, '\n');
}
"#;
