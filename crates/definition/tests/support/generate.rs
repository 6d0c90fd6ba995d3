//! Signatures and definition files from a seed, as texts.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use brant_definition::Scalar;

/// A source of numbers and texts. The same seed gives the same.
pub(crate) struct Generator(pub(crate) u64);

impl Generator {
    /// splitmix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len())]
    }

    /// A signature that is C too: every field has a name.
    pub(crate) fn signature(&mut self) -> String {
        let result = if self.below(6) == 0 { "void".to_owned() } else { self.value(0, "") };
        let count = self.below(10);
        let mut parameters: Vec<String> = (0..count).map(|_| self.value(0, "")).collect();
        if count > 0 && self.below(8) == 0 {
            parameters.push("...".to_owned());
        }
        format!("{result}({})", parameters.join(", "))
    }

    /// A type that declares `name`.
    fn value(&mut self, depth: usize, name: &str) -> String {
        match self.below(8) {
            0..2 => format!("{} {name}", self.one_of(&["float", "double"])),
            2..4 if depth < 3 => {
                let count = 1 + self.below(3);
                let fields: String = (0..count).map(|index| self.field(depth + 1, index)).collect();
                format!("struct {{ {fields}}} {name}")
            }
            4 => format!("{} *{name}", self.one_of(&["void", "const char", "struct tm", "FILE"])),
            _ => {
                let all: Vec<&str> = Scalar::all().map(Scalar::name).collect();
                format!("{} {name}", self.one_of(&all))
            }
        }
    }

    fn field(&mut self, depth: usize, index: usize) -> String {
        let array = if self.below(4) == 0 { format!("[{}]", 1 + self.below(4)) } else { String::new() };
        self.value(depth, &format!("f{index}{array}")) + "; "
    }
}

impl Generator {
    /// A definition file with one to three wrappers, most of them sound.
    pub(crate) fn definition(&mut self) -> String {
        let count = 1 + self.below(3);
        (0..count).map(|number| self.wrapper(number)).collect()
    }

    fn wrapper(&mut self, number: usize) -> String {
        let path = self.one_of(&["libtrace.so", "/opt/a b/lib.so", "C:\\\\lib.dll", "\\u{e9}\\n"]);
        let mut text = format!("wrapper w{number} implementation \"{path}\"{}", self.blank());
        for index in 0..1 + self.below(4) {
            let (function, version) =
                (self.one_of(FUNCTIONS), self.one_of(&["", "", "", "@V1", "@@\"V 2\""]));
            let (library, mediator) =
                (self.one_of(LIBRARIES), self.one_of(&["my_f", "\"wrap\"", "$m", "_ZN1aC2Ev"]));
            // Most signatures are none of a system call.
            let options = if library == "kernel" { "size 0x18".to_owned() } else { self.options() };
            let blank = self.blank();
            text += &format!(
                "wrap {function}{index}{version} in {library}{blank}with {mediator} {options}{blank}"
            );
        }
        text
    }

    fn options(&mut self) -> String {
        let signature = self.signature();
        match self.below(6) {
            0 => String::new(),
            1 => format!("size {} stack {:#x}", 8 * self.below(7), 8 * self.below(9)),
            2 => format!("native sret size {}", 8 * self.below(6)),
            3 => format!("stack {} native", 8 * self.below(8192)),
            _ => format!("sig \"{signature}\""),
        }
    }

    fn blank(&mut self) -> &'static str {
        ["\n", " ", "\t", "\r\n", "# wrap\n", "// \"\n"][self.below(6)]
    }
}

const FUNCTIONS: &[&str] =
    &["open", "malloc", "_ZN3foo3barEv", "main.cold.", "a$", "x-y+", "wrap_", "CreateProcessW"];
const LIBRARIES: &[&str] =
    &["libc", "libc.so.6", "libstdc++", "kernel", "kernel32", "\"kernel\"", "\"/lib/x y.so\"", "\"ä\""];
