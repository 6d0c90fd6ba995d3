//! What can be wrong with a definition file, with stable codes.

/// What is wrong at one place of a file. Texts from the file are shortened and escaped before they get here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the file is not text in UTF-8")]
    NotText,
    #[error("{what}: at most {max} are allowed")]
    Limit { what: &'static str, max: u64 },
    #[error("`{text}` cannot stand here")]
    Character { text: String },
    #[error("the text in quotes is not closed before the line ends")]
    Unclosed,
    #[error("`{text}` is not an escape")]
    Escape { text: String },
    #[error("`{text}` is not a number of bytes from 0 to {max}")]
    Number { text: String, max: u32 },
    #[error("expected {expected}, found {found}")]
    Expected { expected: &'static str, found: String },
    #[error("this `wrap` belongs to no wrapper")]
    NoWrapper,
    #[error("{what}")]
    Empty { what: String },
    #[error("{what} {why}")]
    Name { what: &'static str, why: &'static str },
    #[error("the wrapper `{name}` is defined twice; the first is in line {first_line}")]
    WrapperTwice { name: String, first_line: u32 },
    #[error("{function} in {library} is wrapped twice; the first is in line {first_line}")]
    WrapTwice { function: String, library: String, first_line: u32 },
    #[error("`{option}` is given twice")]
    OptionTwice { option: &'static str },
    #[error("{option} contradicts the signature: {why}")]
    Contradiction { option: String, why: String },
    #[error("{what} is not for system calls: {why}")]
    Kernel { what: &'static str, why: &'static str },
    #[error("{option} does not fit x86-64 Linux: {why}")]
    Convention { option: String, why: &'static str },
    #[error("in the signature: expected {expected}, found {found}")]
    SignatureSyntax { expected: &'static str, found: String },
    #[error("in the signature: `{text}` is not a type that is known by value")]
    UnknownType { text: String },
    #[error("in the signature: {what} cannot be described")]
    Unsupported { what: &'static str },
    #[error("the signature is that of `{named}`, but `{function}` is wrapped")]
    OtherFunction { named: String, function: String },
    #[error("in the signature: {what}")]
    SignatureLimit { what: &'static str },
}

impl Problem {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Problem::NotText => "B-1001",
            Problem::Limit { .. } => "B-1002",
            Problem::Character { .. } => "B-1003",
            Problem::Unclosed => "B-1004",
            Problem::Escape { .. } => "B-1005",
            Problem::Number { .. } => "B-1006",
            Problem::Expected { .. } => "B-1007",
            Problem::NoWrapper => "B-1008",
            Problem::Empty { .. } => "B-1009",
            Problem::Name { .. } => "B-1010",
            Problem::WrapperTwice { .. } => "B-1011",
            Problem::WrapTwice { .. } => "B-1012",
            Problem::OptionTwice { .. } => "B-1013",
            Problem::Contradiction { .. } => "B-1014",
            Problem::Kernel { .. } => "B-1015",
            Problem::Convention { .. } => "B-1016",
            Problem::SignatureSyntax { .. } => "B-1020",
            Problem::UnknownType { .. } => "B-1021",
            Problem::Unsupported { .. } => "B-1022",
            Problem::OtherFunction { .. } => "B-1023",
            Problem::SignatureLimit { .. } => "B-1024",
        }
    }
}
