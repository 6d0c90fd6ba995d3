//! Compares `abi` with the C compiler of this machine.
//!
//! A C program calls a stub of assembly through each signature. The stub writes down all registers of arguments and 2 KiB
//! of the stack; this test looks for every argument's bytes where `abi` says that they are. Results are looked for
//! in the same way after a call of a function that returns a known pattern.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/generate.rs"]
mod generate;

use brant_definition::abi::{Call, Layout, Place, Register};
use brant_definition::{Kind, Scalar, Signature, Type};
use compiled::{Answer, MEMORY_BYTES, STACK_BYTES, fill};
use generate::Generator;

/// Each shape that the ABI treats in its own way, by hand.
const TABLE: [&str; 58] = [
    "void()",
    "int(int)",
    "bool(bool, char, short, unsigned char)",
    "long(int, int, int, int, int, int)",
    "long(int, int, int, int, int, int, int, char, long)",
    "float(float)",
    "double(double, float)",
    "double(double, double, double, double, double, double, double, double, double, float)",
    "void*(const char*, void**, struct stat*, FILE*)",
    "int(const char*, int, ...)",
    "double(double, int, ...)",
    "long double(long double)",
    "long double(int, long double, int, long double)",
    "void(int, int, int, int, int, int, char, long double, char)",
    "float _Complex(float _Complex)",
    "double _Complex(double _Complex)",
    "long double _Complex(long double _Complex, int)",
    "void(double, double, double, double, double, double, double, double _Complex, double)",
    "void(float, float, float, float, float, float, float, float _Complex, float _Complex)",
    "struct { char a; }(struct { char a; })",
    "struct { char a[3]; }(struct { char a[3]; })",
    "struct { int a; int b; }(struct { int a; int b; })",
    "struct { int a, b, c; }(struct { int a, b, c; })",
    "struct { long a; long b; }(struct { long a; long b; })",
    "struct { long a; long b; char c; }(struct { long a; long b; char c; })",
    "struct { float a; }(struct { float a; })",
    "struct { float a, b; }(struct { float a, b; })",
    "struct { float a, b, c; }(struct { float a, b, c; })",
    "struct { float a[4]; }(struct { float a[4]; })",
    "struct { float a[5]; }(struct { float a[5]; })",
    "struct { double a, b; }(struct { double a, b; })",
    "struct { double a, b, c; }(struct { double a, b, c; }, int)",
    "struct { double a; int b; }(struct { double a; int b; })",
    "struct { int a; double b; }(struct { int a; double b; })",
    "struct { float a; int b; }(struct { float a; int b; })",
    "struct { float a; int b; double c; }(struct { float a; int b; double c; })",
    "struct { float a, b; int c; float d; }(struct { float a, b; int c; float d; })",
    "struct { long double a; }(struct { long double a; })",
    "struct { char a; long double b; }(struct { char a; long double b; })",
    "struct { struct { long double a; } b; }(char, struct { struct { long double a[1]; } b; })",
    "struct { float _Complex a; }(struct { float _Complex a; })",
    "struct { double _Complex a; }(struct { double _Complex a; })",
    "struct { float _Complex a; float b; }(struct { int b; float _Complex a; })",
    "struct { long double _Complex a; }(struct { long double _Complex a; })",
    "struct { struct { char a; } b; struct { short c; float d; } e; }(struct { struct { char a; } b; struct { short c; float d; } e; })",
    "struct { struct { int a; } b[2]; float c; }(struct { struct { float a; } b[2]; short c[3]; })",
    "struct { void* a; double b; }(struct { void (*a)(void); float b; })",
    "void(int, int, int, int, int, struct { long a, b; }, int, int)",
    "void(int, int, int, int, int, struct { long a; double b; }, struct { double a; long b; }, int)",
    "void(int, int, int, int, int, int, struct { long a; double b; }, double)",
    "void(double, double, double, double, double, double, double, struct { double a, b; }, double, double)",
    "struct { char a[17]; }(int, int, int, int, int, int)",
    "struct { char a[17]; }(int, int, int, int, int, struct { int a; })",
    "struct { long double a; int b; }(double, struct { long double a; int b; }, int)",
    "struct { int a[64]; }(struct { int a[64]; }, int, struct { char a[33]; }, double)",
    "struct { char a[7]; }(struct { char a[15]; }, struct { short a[5]; })",
    "struct { bool a; float b; char c[8]; }(struct { bool a; float b; char c[8]; })",
    "ssize_t(int, off_t, pid_t, socklen_t, mode_t, time_t, wchar_t, uint8_t, int16_t)",
];

/// So many signatures more are drawn.
const RANDOM: usize = 400;

#[test]
fn the_compiler_agrees() {
    let mut signatures: Vec<Signature> = TABLE.iter().map(|text| read(text)).collect();
    let mut generator = Generator(0x6272_616e_7401);
    let fits = |kind: &Type| Layout::of(kind).bytes as usize <= MEMORY_BYTES;
    let drawn = std::iter::repeat_with(|| read(&generator.signature()));
    let fitting = drawn.filter(|signature| {
        Call::of(signature).stack_bytes as usize <= STACK_BYTES && signature.result.iter().all(fits)
    });
    signatures.extend(fitting.take(RANDOM));
    let (mut in_registers, mut on_stack, mut through_pointer) = (0, 0, 0);
    let answers = compiled::ask(&signatures);
    assert_eq!(answers.len(), signatures.len());
    for (signature, answer) in signatures.iter().zip(&answers) {
        let call = Call::of(signature);
        check_arguments(signature, &call, answer);
        check_result(signature, &call, answer);
        let is_stack = |place: &&Place| matches!(place, Place::Stack { .. });
        on_stack += call.arguments.iter().filter(is_stack).count();
        in_registers += call.arguments.iter().filter(|place| !is_stack(place)).count();
        through_pointer += usize::from(call.is_sret);
    }
    let reached = [in_registers, on_stack, through_pointer];
    assert!(reached.iter().all(|count| *count > 40), "{reached:?}");
}

#[test]
fn the_compiler_has_the_same_sizes() {
    let kinds: Vec<Type> = Scalar::all().map(Type::Scalar).collect();
    for (kind, (bytes, alignment)) in kinds.iter().zip(compiled::ask_layouts(&kinds)) {
        assert_eq!(Layout::of(kind), Layout { bytes, alignment }, "{kind}");
        let Type::Scalar(scalar) = kind else { unreachable!() };
        assert_eq!(scalar.is_integer(), matches!(scalar.kind(), Kind::Signed | Kind::Unsigned));
    }
}

fn read(text: &str) -> Signature {
    Signature::parse(text).unwrap_or_else(|errors| panic!("{}", errors.render("-", text.as_bytes())))
}

fn check_arguments(signature: &Signature, call: &Call, answer: &Answer) {
    for (index, (parameter, place)) in signature.parameters.iter().zip(&call.arguments).enumerate() {
        let expected = fill(&parameter.kind, index as u8 + 1);
        let found: Vec<u8> = match place {
            Place::Registers(registers) => {
                registers.iter().flat_map(|register| answer.argument(*register)).collect()
            }
            Place::Stack { offset, bytes } => {
                let (from, to) = (*offset as usize, (offset + bytes) as usize);
                assert!(to <= call.stack_bytes as usize && to <= STACK_BYTES, "{signature}");
                answer.stack[from..to].to_vec()
            }
        };
        assert_same(&expected, &found, &format!("{signature}, argument {} in {place:?}", index + 1));
    }
    if signature.is_variadic {
        // al bounds the number of vector registers that are in use.
        assert!(u32::from(answer.rax[0]) >= call.sse_registers, "{signature}");
    }
}

fn check_result(signature: &Signature, call: &Call, answer: &Answer) {
    let floats = call.result.iter().filter(|register| matches!(register, Register::St(_))).count();
    assert_eq!(answer.x87_in_use, floats, "{signature}: x87 registers of the result");
    let Some(result) = &signature.result else {
        assert!(call.result.is_empty());
        return;
    };
    let expected = fill(result, 0);
    let what = format!("{signature}, the result in {:?}", call.result);
    if call.is_sret {
        assert_eq!(call.result, [Register::Rax]);
        assert_eq!(answer.result(Register::Rax), answer.result_room, "{what}");
        return assert_same(&expected, &answer.memory, &what);
    }
    let found: Vec<u8> = call.result.iter().flat_map(|register| answer.result(*register)).collect();
    assert_same(&expected, &found, &what);
}

/// Compares the bytes that are no padding.
fn assert_same(expected: &[Option<u8>], found: &[u8], what: &str) {
    assert!(found.len() >= expected.len(), "{what}: {} bytes of {}", found.len(), expected.len());
    for (at, (byte, found)) in expected.iter().zip(found).enumerate() {
        if let Some(byte) = byte {
            assert_eq!(byte, found, "{what}: byte {at}");
        }
    }
}
