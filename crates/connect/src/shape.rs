//! From what a definition says of a function's arguments to what the runtime must move.
//!
//! A mediator has `icall` before the function's parameters, so that one general register more is taken: what was in the
//! last one goes to the stack. Where a definition says nothing of arguments, all registers and 128 bytes of stack are
//! repeated, which is right for every function that has no more.

use brant_definition::abi::{Call, Place, Register, Replay};
use brant_definition::{Library, Signature, Wrap};
use brant_hook::exchange::{Mediation, Shape, Word};

use crate::error::Error;
use crate::numbers;

/// What is repeated of the stack where nothing is said.
const STACK_BYTES_UNSAID: u32 = 128;

/// The request for one `wrap`.
pub(crate) fn mediation(wrap: &Wrap) -> Result<Mediation, Error> {
    let not_able = |why| Error::NotAble { function: wrap.function.as_str().to_owned(), why };
    let library = match &wrap.library {
        Library::Kernel => return call(wrap),
        Library::Short(name) | Library::Soname(name) => name.as_str(),
        Library::Path(path) => path.as_str(),
    };
    // Nothing is moved for a native mediator.
    let shape = if wrap.native { Some(Shape::default()) } else { shape(wrap) };
    let shape = shape.ok_or_else(|| {
        not_able("an argument comes before another one in registers once `icall` is before both")
    })?;
    Ok(Mediation {
        function: wrap.function.as_str().into(),
        version: wrap.version.as_ref().map_or(Vec::new(), |version| version.as_str().into()),
        library: library.into(),
        mediator: wrap.mediator.as_str().into(),
        call: None,
        is_native: wrap.native,
        prototype: wrap.signature.as_ref().map_or(Vec::new(), |signature| signature.to_string().into()),
        kinds: wrap.signature.as_ref().map_or(Vec::new(), Signature::kinds),
        shape,
    })
}

/// The request for one `wrap` of a system call. All of them take up to six integers and give one.
fn call(wrap: &Wrap) -> Result<Mediation, Error> {
    let name = wrap.function.as_str();
    let not_able = |why| Error::NotAble { function: format!("{name} in kernel"), why };
    let number = numbers::number(name).ok_or_else(|| not_able("there is no system call of this name"))?;
    if let Some(why) = numbers::refusal(name) {
        return Err(not_able(why));
    }
    if wrap.native {
        return Err(not_able("a mediator of a system call cannot be \"native\""));
    }
    // The language has seen that a signature has nothing else.
    let kinds = wrap.signature.as_ref().map_or(Vec::new(), Signature::kinds);
    let has_sixth = kinds.is_empty() || kinds.len() == 7 || kinds.ends_with(b".");
    Ok(Mediation {
        function: name.into(),
        version: Vec::new(),
        library: b"kernel".into(),
        mediator: wrap.mediator.as_str().into(),
        call: Some(number),
        is_native: false,
        prototype: wrap.signature.as_ref().map_or(Vec::new(), |signature| signature.to_string().into()),
        kinds,
        shape: Shape {
            // What a layer of fewer passes on leaves out what the last link needs (`entry` of the runtime).
            registers: 6,
            words: has_sixth.then_some(Word::Register(5)).into_iter().collect(),
            ..Shape::default()
        },
    })
}

fn shape(wrap: &Wrap) -> Option<Shape> {
    let replay = Replay::of(wrap);
    let is_unsaid = wrap.signature.is_none() && wrap.size.is_none() && wrap.stack.is_none();
    let is_variadic = wrap.signature.as_ref().is_some_and(|signature| signature.is_variadic);
    let stack_bytes = match is_unsaid || is_variadic && wrap.stack.is_none() {
        true => replay.stack_bytes.max(STACK_BYTES_UNSAID),
        false => replay.stack_bytes,
    };
    let words = match &wrap.signature {
        Some(signature) if !is_variadic => words_of(signature)?,
        _ => words_by_count(replay.integer_registers, stack_bytes)?,
    };
    Some(Shape {
        registers: u8::try_from(replay.integer_registers).ok()?,
        has_vectors: replay.sse_registers > 0,
        is_sret: replay.is_sret,
        stack_bytes: stack_bytes.next_multiple_of(16),
        words,
    })
}

/// The last register, where it carries an argument, and behind it the stack as it was.
fn words_by_count(registers: u32, stack_bytes: u32) -> Option<Vec<Word>> {
    let last = (registers >= 6).then_some(Word::Register(5));
    let stack = (0..stack_bytes.div_ceil(8)).map(|word| u16::try_from(word).map(Word::Stack));
    last.into_iter().map(Ok).chain(stack).collect::<Result<_, _>>().ok()
}

/// Where eight bytes of an argument are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Eight {
    General(u8),
    Vector(u8),
    Stack(u16),
}

/// Word by word, from where the function has each argument to where its mediator has it.
fn words_of(signature: &Signature) -> Option<Vec<Word>> {
    let icall = Signature::parse("void(void *icall)").ok()?.parameters;
    let mut mediator = signature.clone();
    mediator.parameters.splice(0..0, icall);
    let (from, to) = (Call::of(signature), Call::of(&mediator));
    let mut words = vec![Word::Register(0); to.stack_bytes as usize / 8];
    for (from, to) in from.arguments.iter().zip(&to.arguments[1..]) {
        for pair in eights(from)?.into_iter().zip(eights(to)?) {
            match pair {
                (Eight::General(from), Eight::General(to)) if to == from + 1 => {}
                (Eight::Vector(from), Eight::Vector(to)) if to == from => {}
                (Eight::General(from), Eight::Stack(to)) => {
                    *words.get_mut(usize::from(to))? = Word::Register(from)
                }
                (Eight::Stack(from), Eight::Stack(to)) => {
                    *words.get_mut(usize::from(to))? = Word::Stack(from)
                }
                _ => return None,
            }
        }
    }
    Some(words)
}

fn eights(place: &Place) -> Option<Vec<Eight>> {
    match place {
        Place::Registers(registers) => registers.iter().map(eight).collect(),
        Place::Stack { offset, bytes } => (0..bytes.div_ceil(8))
            .map(|word| u16::try_from(offset / 8 + word).ok().map(Eight::Stack))
            .collect(),
    }
}

fn eight(register: &Register) -> Option<Eight> {
    Some(match register {
        Register::Rdi => Eight::General(0),
        Register::Rsi => Eight::General(1),
        Register::Rdx => Eight::General(2),
        Register::Rcx => Eight::General(3),
        Register::R8 => Eight::General(4),
        Register::R9 => Eight::General(5),
        Register::Xmm(number) => Eight::Vector(*number),
        Register::Rax | Register::St(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(signature: &str) -> Option<Vec<Word>> {
        words_of(&Signature::parse(signature).unwrap())
    }

    #[test]
    fn what_a_mediator_has_on_the_stack() {
        assert_eq!(words("int(int, double)"), Some(vec![]));
        let six = "long(long, long, long, long, long, long)";
        assert_eq!(words(six), Some(vec![Word::Register(5)]));
        let eight = "long(long, long, long, long, long, long, long, double, long)";
        assert_eq!(words(eight), Some(vec![Word::Register(5), Word::Stack(0), Word::Stack(1)]));
        // A struct that no longer fits into what is left of the registers, and a word that takes the place.
        let pair = "long(long, long, long, long, struct {long; long;})";
        assert_eq!(words(pair), Some(vec![Word::Register(4), Word::Register(5)]));
        let behind = "long(long, long, long, long, long, struct {long; long;}, long)";
        assert_eq!(words(behind), Some(vec![Word::Stack(0), Word::Stack(1), Word::Register(5)]));
        assert_eq!(words("long(long, long, long, long, struct {long; long;}, long)"), None);
    }
}
