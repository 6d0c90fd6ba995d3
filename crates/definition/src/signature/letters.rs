//! A signature in letters: what a mediator of many functions needs to read arguments.

use super::{Kind, Pointee, Signature, Type};

impl Signature {
    /// The result and the parameters as letters, which `brant/mediator.h` lists.
    pub fn kinds(&self) -> Vec<u8> {
        let result = self.result.as_ref().map_or(b'v', letter);
        let parameters = self.parameters.iter().map(|parameter| letter(&parameter.kind));
        let end = self.is_variadic.then_some(b'.');
        [result].into_iter().chain(parameters).chain(end).collect()
    }
}

fn letter(kind: &Type) -> u8 {
    match kind {
        Type::Pointer(pointer) => match &pointer.to {
            Pointee::Scalar(scalar) if scalar.name() == "char" && pointer.depth.get() == 1 => {
                if pointer.is_const { b's' } else { b'S' }
            }
            _ => b'p',
        },
        Type::Scalar(scalar) => match (scalar.kind(), scalar.bytes()) {
            (Kind::Signed, 1) => b'c',
            (Kind::Signed, 2) => b'h',
            (Kind::Signed, 4) => b'i',
            (Kind::Signed, 8) => b'l',
            (Kind::Unsigned, 1) => b'C',
            (Kind::Unsigned, 2) => b'H',
            (Kind::Unsigned, 4) => b'I',
            (Kind::Unsigned, 8) => b'L',
            (Kind::Float, 4) => b'f',
            (Kind::Float, 8) => b'd',
            _ => b'?',
        },
        Type::Struct(_) => b'?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_letters() {
        let of = |text| String::from_utf8(Signature::parse(text).unwrap().kinds()).unwrap();
        assert_eq!(of("int(const char *path, int flags, ...)"), "isi.");
        assert_eq!(of("void(void)"), "v");
        assert_eq!(of("ssize_t(int, void *, size_t, char *, char **)"), "lipLSp");
        assert_eq!(of("double(float, long double, struct { int a; })"), "df??");
    }
}
