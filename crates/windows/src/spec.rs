//! A wrapper as it is asked of the agent: a definition, and where its functions' arguments are on Windows.
//!
//! There every argument has a slot of eight bytes: the first four in rcx, rdx, r8, r9 or xmm0 to xmm3, for which the caller
//! leaves room below the others. So one array is all that is to be moved. `size` counts 4 for each argument, as in the
//! 32-bit programs that the notation comes from: a definition of those holds unchanged.

use brant_definition::{Convention, Kind, Library, Signature, Type, Wrap, Wrapper};
use serde::{Deserialize, Serialize};

use crate::{Code, Refused};

/// Slots that are moved where a definition says nothing: four registers and 128 bytes of stack.
const SLOTS_UNSAID: u16 = 20;
const SLOTS_MAX: u32 = 256;
/// Stands before the name of an implementation that the agent has in itself.
const SHIPPED: &str = "brant:";

/// Whose calls are mediated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Callers {
    /// Those of the program, its libraries, and the C and C++ libraries: not those that Windows's own libraries make of each other.
    #[default]
    Program,
    /// All.
    All,
}

/// A wrapper that is to be put on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    /// An absolute path, or `brant:NAME` for what the agent has in itself.
    pub implementation: String,
    pub options: String,
    pub callers: Callers,
    pub functions: Vec<SpecFunction>,
}

/// One `wrap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecFunction {
    pub function: String,
    pub library: String,
    pub mediator: String,
    /// Arguments, the pointer to a result included.
    pub slots: u16,
    /// Whether the first slot is a pointer to room for the result.
    pub is_sret: bool,
    /// Whether the fourth slot is a floating-point number, in xmm3.
    pub is_fourth_vector: bool,
    /// The signature in C, and in letters; may be empty.
    pub prototype: String,
    pub kinds: String,
}

impl Spec {
    /// What a definition's wrapper asks for. `implementation` is the path that its own leads to.
    pub fn of(
        wrapper: &Wrapper,
        implementation: String,
        options: &str,
        callers: Callers,
    ) -> Result<Spec, Refused> {
        let functions = wrapper.wraps.iter().map(SpecFunction::of).collect::<Result<_, _>>()?;
        Ok(Spec {
            name: wrapper.name.as_str().to_owned(),
            implementation,
            options: options.to_owned(),
            callers,
            functions,
        })
    }

    /// What the agent has in itself under the name behind `brant:`. Not every Windows has every function of such a wrapper.
    pub fn shipped(&self) -> Option<&str> {
        self.implementation.strip_prefix(SHIPPED)
    }
}

impl SpecFunction {
    /// One line of a definition, with where its arguments are on Windows; what Windows has no such thing for is refused.
    fn of(wrap: &Wrap) -> Result<SpecFunction, Refused> {
        let name = wrap.function.as_str();
        let not_here = |why: &str| {
            Refused::new(Code::NotHere, format!("{name} cannot be wrapped as its definition says")).why(why)
        };
        let library = match &wrap.library {
            Library::Kernel => {
                return Err(not_here("there are no system calls to wrap on Windows")
                    .next("name the function of ntdll: wrap NtCreateFile in ntdll with ..."));
            }
            Library::Short(name) | Library::Soname(name) => name.as_str(),
            Library::Path(path) => path.as_str(),
        };
        if wrap.version.is_some() {
            return Err(not_here("functions have no versions on Windows"));
        }
        if wrap.native {
            return Err(not_here("native mediators are not served on Windows"));
        }
        let is_sret = wrap.sret || wrap.signature.as_ref().is_some_and(has_hidden_result);
        let slots = slots(wrap, is_sret).map_err(|why| not_here(&why))?;
        let fourth = wrap.signature.as_ref().and_then(|signature| {
            signature.parameters.get(3 - usize::from(is_sret)).map(|parameter| is_vector(&parameter.kind))
        });
        Ok(SpecFunction {
            function: name.to_owned(),
            library: library.to_owned(),
            mediator: wrap.mediator.as_str().to_owned(),
            slots,
            is_sret,
            is_fourth_vector: fourth.unwrap_or(false),
            prototype: wrap.signature.as_ref().map_or(String::new(), Signature::to_string),
            kinds: wrap
                .signature
                .as_ref()
                .map_or(String::new(), |signature| signature.kinds().into_iter().map(char::from).collect()),
        })
    }
}

/// How many slots are to be moved.
fn slots(wrap: &Wrap, is_sret: bool) -> Result<u16, String> {
    let hidden = u32::from(is_sret);
    let of_size = match wrap.size {
        Some(bytes) if bytes % 4 != 0 => {
            return Err(format!("size {bytes} is no multiple of 4: there it counts 4 for each argument"));
        }
        Some(bytes) => Some(bytes / 4),
        None => None,
    };
    let of_stack = match wrap.stack {
        Some(bytes) if bytes % 8 != 0 => return Err(format!("stack {bytes} is no multiple of 8")),
        Some(bytes) => Some(4 + bytes / 8),
        None => None,
    };
    let said = of_size.map(|size| size + hidden).max(of_stack);
    let slots = match &wrap.signature {
        Some(signature) => {
            let count = signature.parameters.len() as u32;
            if let Some(size) = of_size.filter(|size| *size != count && !signature.is_variadic) {
                return Err(format!("size says {size} arguments, the signature has {count}"));
            }
            let least = count + hidden;
            if signature.is_variadic { said.unwrap_or(u32::from(SLOTS_UNSAID)).max(least) } else { least }
        }
        None => said.unwrap_or(u32::from(SLOTS_UNSAID)),
    };
    if slots > SLOTS_MAX {
        return Err(format!("{slots} arguments are more than {SLOTS_MAX}"));
    }
    Ok(slots as u16)
}

fn has_hidden_result(signature: &Signature) -> bool {
    match &signature.result {
        Some(Type::Struct(result)) => !matches!(result.layout().bytes, 1 | 2 | 4 | 8),
        Some(Type::Scalar(scalar)) => scalar.bytes() > 8,
        Some(Type::Pointer(_)) | None => false,
    }
}

fn is_vector(kind: &Type) -> bool {
    matches!(kind, Type::Scalar(scalar) if scalar.kind() == Kind::Float && scalar.bytes() <= 8)
}

/// Reads a definition and takes the wrapper that is meant: the only one, or the one that is called `stem`.
pub fn choose(source: &[u8], shown: &str, stem: &str) -> Result<Wrapper, Refused> {
    let definition = brant_definition::parse(source, Convention::Any).map_err(|errors| Refused {
        of_definition: errors.iter().next().map(|first| first.code().to_owned()),
        ..Refused::new(Code::NoDefinition, format!("the definition {shown} has errors"))
            .why(errors.render(shown, source))
    })?;
    let names: Vec<&str> = definition.wrappers.iter().map(|wrapper| wrapper.name.as_str()).collect();
    let several = Refused::new(Code::SeveralWrappers, format!("{shown} defines several wrappers"))
        .why(format!("they are {}, and none is called {stem}", names.join(", ")));
    match definition.wrappers.as_slice() {
        [only] => Ok(only.clone()),
        wrappers => wrappers.iter().find(|wrapper| wrapper.name.as_str() == stem).cloned().ok_or(several),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wrap: &str) -> Result<SpecFunction, String> {
        let text = format!("wrapper w implementation \"w.dll\"\nwrap {wrap}");
        let wrapper = choose(text.as_bytes(), "w.wrap", "w").map_err(|refused| refused.to_string())?;
        let spec = Spec::of(&wrapper, "w.dll".into(), "", Callers::Program);
        spec.map(|spec| spec.functions[0].clone()).map_err(|refused| refused.to_string())
    }

    fn slots_of(wrap: &str) -> u16 {
        of(wrap).unwrap().slots
    }

    #[test]
    fn size_counts_four_for_each_argument() {
        assert_eq!(slots_of("CreateProcessW in kernel32 with My_CreateProcess size 40"), 10);
        assert_eq!(slots_of("f in x with m size 0"), 0);
        assert_eq!(slots_of("f in x with m size 8 sret"), 3);
        assert_eq!(slots_of("f in x with m stack 16"), 6);
        assert_eq!(slots_of("f in x with m"), SLOTS_UNSAID);
        assert!(of("f in x with m size 6").unwrap_err().contains("no multiple of 4"));
        assert!(of("f in x with m size 2000").unwrap_err().contains("more than 256"));
    }

    #[test]
    fn a_signature_tells_all() {
        let function = of("f in x with m sig \"struct { long long a, b; } f(int, float, double)\"").unwrap();
        assert_eq!((function.slots, function.is_sret, function.is_fourth_vector), (4, true, true));
        let function = of("f in x with m sig \"double(int, double, int, double)\"").unwrap();
        assert_eq!((function.slots, function.is_sret, function.is_fourth_vector), (4, false, true));
        assert_eq!(function.kinds, "didid");
        assert_eq!(slots_of("f in x with m sig \"int(const char *format, ...)\""), SLOTS_UNSAID);
        assert_eq!(slots_of("f in x with m sig \"struct { int a; }(int)\""), 1);
        assert!(of("f in x with m size 12 sig \"int(int)\"").unwrap_err().contains("size says 3"));
    }

    #[test]
    fn what_there_is_not_is_refused() {
        assert!(of("openat in kernel with m").unwrap_err().contains("ntdll"));
        assert!(of("f@V1 in x with m").unwrap_err().contains("versions"));
        assert!(of("f in x with m native").unwrap_err().contains("native"));
        assert!(of("f in").unwrap_err().starts_with("B-1007"));
    }
}
