//! The types of C that are one value, by name, with what they are on x86-64 Linux (LP64).

/// One row of the table: a type by its name in C. Two are equal where their names are.
#[derive(Debug, Clone, Copy)]
pub struct Scalar(&'static Row);

#[derive(Debug)]
struct Row {
    name: &'static str,
    bytes: u8,
    kind: Kind,
}

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Signed,
    Unsigned,
    Float,
    /// Two floats, real and imaginary part.
    Complex,
}

impl Scalar {
    /// The type of this name: the words of C in their usual order (`unsigned long`), or a well-known type's name.
    pub fn named(name: &str) -> Option<Scalar> {
        ROWS.iter().find(|row| row.name == name).map(Scalar)
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Scalar> {
        ROWS.iter().map(Scalar)
    }

    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Its size on x86-64 Linux.
    pub fn bytes(self) -> u8 {
        self.0.bytes
    }

    pub fn kind(self) -> Kind {
        self.0.kind
    }

    /// Its alignment on x86-64 Linux.
    pub fn alignment_bytes(self) -> u8 {
        if self.0.kind == Kind::Complex { self.0.bytes / 2 } else { self.0.bytes }
    }

    pub fn is_integer(self) -> bool {
        matches!(self.0.kind, Kind::Signed | Kind::Unsigned)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Scalar {}

/// Words that types of C are made of, or that stand beside them; none is the name of a parameter or a header's type.
pub(super) const WORDS: [&str; 47] = [
    "void",
    "bool",
    "_Bool",
    "char",
    "short",
    "int",
    "long",
    "float",
    "double",
    "signed",
    "unsigned",
    "complex",
    "_Complex",
    "struct",
    "union",
    "enum",
    "const",
    "volatile",
    "restrict",
    "__restrict",
    "__restrict__",
    "register",
    "static",
    "extern",
    "inline",
    "_Atomic",
    "typedef",
    // Types that are not known, where they could be taken for a name: `unsigned __int128`.
    "__int128",
    "__int128_t",
    "__uint128_t",
    "__int64",
    "__int32",
    "__int16",
    "__int8",
    "_BitInt",
    "_Float16",
    "_Float32",
    "_Float64",
    "_Float128",
    "_Float32x",
    "_Float64x",
    "__float128",
    "__float80",
    "_Imaginary",
    "__signed__",
    "__attribute__",
    "_Alignas",
];

/// Whether a name can be nothing but (a part of) a type.
pub(super) fn is_reserved(name: &str) -> bool {
    WORDS.contains(&name)
}

/// The names that a type can be given by: for "did you mean".
pub(super) fn type_words() -> impl Iterator<Item = &'static str> {
    ROWS.iter()
        .map(|row| row.name)
        .filter(|name| !name.contains(' '))
        .chain(["unsigned", "signed", "void", "struct"])
}

/// How often each word of C was said. From these the type follows, in whatever order they stood.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Said {
    pub(super) void: u8,
    pub(super) bool: u8,
    pub(super) char: u8,
    pub(super) short: u8,
    pub(super) int: u8,
    pub(super) long: u8,
    pub(super) float: u8,
    pub(super) double: u8,
    pub(super) signed: u8,
    pub(super) unsigned: u8,
    pub(super) complex: u8,
}

impl Said {
    /// Counts a word; false where it is none of these.
    pub(super) fn count(&mut self, word: &str) -> bool {
        let counter = match word {
            "void" => &mut self.void,
            "bool" | "_Bool" => &mut self.bool,
            "char" => &mut self.char,
            "short" => &mut self.short,
            "int" => &mut self.int,
            "long" => &mut self.long,
            "float" => &mut self.float,
            "double" => &mut self.double,
            "signed" => &mut self.signed,
            "unsigned" => &mut self.unsigned,
            "complex" | "_Complex" => &mut self.complex,
            _ => return false,
        };
        *counter = counter.saturating_add(1);
        true
    }

    pub(super) fn is_nothing(self) -> bool {
        self.counts() == [0; 11]
    }

    fn counts(self) -> [u8; 11] {
        let Said { void, bool, char, short, int, long, float, double, signed, unsigned, complex } = self;
        [void, bool, char, short, int, long, float, double, signed, unsigned, complex]
    }

    /// The type's usual name; nothing where the words make no type. `void` is one here.
    pub(super) fn name(self) -> Option<&'static str> {
        let Said { long, signed, unsigned, int, .. } = self;
        // Which words stand there beside long, signed, unsigned and int; each of them once.
        let others = [self.void, self.bool, self.char, self.short, self.float, self.double, self.complex];
        if others.iter().any(|count| *count > 1) || signed + unsigned > 1 || int > 1 {
            return None;
        }
        let is_plain = signed + unsigned + int == 0;
        match (others, long) {
            ([1, 0, 0, 0, 0, 0, 0], 0) if is_plain => Some("void"),
            ([0, 1, 0, 0, 0, 0, 0], 0) if is_plain => Some("bool"),
            ([0, 0, 0, 0, 1, 0, 0], 0) if is_plain => Some("float"),
            ([0, 0, 0, 0, 0, 1, 0], 0) if is_plain => Some("double"),
            ([0, 0, 0, 0, 0, 1, 0], 1) if is_plain => Some("long double"),
            ([0, 0, 0, 0, 1, 0, 1], 0) if is_plain => Some("float _Complex"),
            ([0, 0, 0, 0, 0, 1, 1], 0) if is_plain => Some("double _Complex"),
            ([0, 0, 0, 0, 0, 1, 1], 1) if is_plain => Some("long double _Complex"),
            ([0, 0, 1, 0, 0, 0, 0], 0) if int == 0 => Some(match (signed, unsigned) {
                (0, 0) => "char",
                (0, _) => "unsigned char",
                _ => "signed char",
            }),
            ([0, 0, 0, 1, 0, 0, 0], 0) => Some(if unsigned == 1 { "unsigned short" } else { "short" }),
            ([0, 0, 0, 0, 0, 0, 0], 0) if !is_plain => {
                Some(if unsigned == 1 { "unsigned int" } else { "int" })
            }
            ([0, 0, 0, 0, 0, 0, 0], 1) => Some(if unsigned == 1 { "unsigned long" } else { "long" }),
            ([0, 0, 0, 0, 0, 0, 0], 2) => {
                Some(if unsigned == 1 { "unsigned long long" } else { "long long" })
            }
            _ => None,
        }
    }
}

const fn row(name: &'static str, bytes: u8, kind: Kind) -> Row {
    Row { name, bytes, kind }
}

use Kind::{Complex, Float, Signed, Unsigned};

static ROWS: [Row; 75] = [
    row("bool", 1, Unsigned),
    row("char", 1, Signed),
    row("signed char", 1, Signed),
    row("unsigned char", 1, Unsigned),
    row("short", 2, Signed),
    row("unsigned short", 2, Unsigned),
    row("int", 4, Signed),
    row("unsigned int", 4, Unsigned),
    row("long", 8, Signed),
    row("unsigned long", 8, Unsigned),
    row("long long", 8, Signed),
    row("unsigned long long", 8, Unsigned),
    row("float", 4, Float),
    row("double", 8, Float),
    row("long double", 16, Float),
    row("float _Complex", 8, Complex),
    row("double _Complex", 16, Complex),
    row("long double _Complex", 32, Complex),
    // stdint.h, stddef.h, wchar.h, uchar.h
    row("int8_t", 1, Signed),
    row("uint8_t", 1, Unsigned),
    row("int16_t", 2, Signed),
    row("uint16_t", 2, Unsigned),
    row("int32_t", 4, Signed),
    row("uint32_t", 4, Unsigned),
    row("int64_t", 8, Signed),
    row("uint64_t", 8, Unsigned),
    row("intptr_t", 8, Signed),
    row("uintptr_t", 8, Unsigned),
    row("intmax_t", 8, Signed),
    row("uintmax_t", 8, Unsigned),
    row("ptrdiff_t", 8, Signed),
    row("size_t", 8, Unsigned),
    row("ssize_t", 8, Signed),
    row("wchar_t", 4, Signed),
    row("wint_t", 4, Unsigned),
    row("char16_t", 2, Unsigned),
    row("char32_t", 4, Unsigned),
    // POSIX
    row("blkcnt_t", 8, Signed),
    row("blksize_t", 8, Signed),
    row("clock_t", 8, Signed),
    row("clockid_t", 4, Signed),
    row("dev_t", 8, Unsigned),
    row("fsblkcnt_t", 8, Unsigned),
    row("fsfilcnt_t", 8, Unsigned),
    row("gid_t", 4, Unsigned),
    row("id_t", 4, Unsigned),
    row("in_addr_t", 4, Unsigned),
    row("in_port_t", 2, Unsigned),
    row("ino_t", 8, Unsigned),
    row("key_t", 4, Signed),
    row("mode_t", 4, Unsigned),
    row("mqd_t", 4, Signed),
    row("nfds_t", 8, Unsigned),
    row("nlink_t", 8, Unsigned),
    row("off_t", 8, Signed),
    row("pid_t", 4, Signed),
    row("rlim_t", 8, Unsigned),
    row("sa_family_t", 2, Unsigned),
    row("socklen_t", 4, Unsigned),
    row("suseconds_t", 8, Signed),
    row("tcflag_t", 4, Unsigned),
    row("speed_t", 4, Unsigned),
    row("time_t", 8, Signed),
    row("uid_t", 4, Unsigned),
    row("useconds_t", 4, Unsigned),
    // pthread.h, as glibc has them
    row("pthread_key_t", 4, Unsigned),
    row("pthread_once_t", 4, Signed),
    row("pthread_spinlock_t", 4, Signed),
    row("pthread_t", 8, Unsigned),
    // glibc, and stdio.h's own
    row("ino64_t", 8, Unsigned),
    row("loff_t", 8, Signed),
    row("off64_t", 8, Signed),
    row("rlim64_t", 8, Unsigned),
    row("u_int", 4, Unsigned),
    row("u_long", 8, Unsigned),
];
