//! The statements of a definition file.
//!
//! Everything wrong in a file is reported in one go: after an error the parser goes on at the next word `wrap` or
//! `wrapper`, which are no names. An error is reported where it is; what only follows from it is not.

use std::collections::HashMap;

use crate::abi;
use crate::lexer::{KEYWORDS, Lexer, Token, is_keyword};
use crate::model::{Definition, Library, Name, NameError, PathText, Wrap, Wrapper};
use crate::problem::Problem;
use crate::report::{Errors, Hint, Sink, shown};
use crate::signature::{self, Signature, Type};
use crate::span::{Lines, Span};
use crate::suggest::closest;
use crate::{ARGUMENT_BYTES_MAX, Convention, FILE_BYTES_MAX};

/// Reads a definition file, wholly or not at all.
pub fn parse(source: &[u8], convention: Convention) -> Result<Definition, Errors> {
    let mut sink = Sink::default();
    let nothing = Definition { wrappers: Vec::new() };
    if source.len() > FILE_BYTES_MAX {
        let problem = Problem::Limit { what: "the file is too long in bytes", max: FILE_BYTES_MAX as u64 };
        sink.report(problem, Span::new(FILE_BYTES_MAX, source.len()), Hint::NONE);
        return sink.into_result(nothing, source);
    }
    let text = match std::str::from_utf8(source) {
        Ok(text) => text,
        Err(error) => {
            let start = error.valid_up_to();
            let length = error.error_len().unwrap_or(source.len() - start);
            sink.report(Problem::NotText, Span::new(start, start + length), Hint::NONE);
            return sink.into_result(nothing, source);
        }
    };
    let mut parser = Parser::new(text, convention, sink);
    parser.file();
    let Parser { wrappers, sink, .. } = parser;
    let made = |head: Head| Wrapper {
        name: head.name,
        implementation: head.implementation,
        wraps: head.wraps,
        span: head.span,
    };
    sink.into_result(Definition { wrappers: wrappers.into_iter().map(made).collect() }, source)
}

impl Signature {
    /// Reads a signature that stands alone, as it stands between the quotes behind `sig`. A function's name in it is
    /// ignored.
    pub fn parse(text: &str) -> Result<Signature, Errors> {
        let mut sink = Sink::default();
        let nothing = Signature { result: None, parameters: Vec::new(), is_variadic: false };
        if text.len() > FILE_BYTES_MAX {
            let problem =
                Problem::Limit { what: "the signature is too long in bytes", max: FILE_BYTES_MAX as u64 };
            sink.report(problem, Span::new(FILE_BYTES_MAX, text.len()), Hint::NONE);
            return sink.into_result(nothing, text.as_bytes());
        }
        let parsed = signature::parse(text, 0, &mut sink);
        sink.into_result(parsed.map_or(nothing, |parsed| parsed.signature), text.as_bytes())
    }
}

const STATEMENTS: [&str; 2] = ["wrapper", "wrap"];
const SYSTEM_CALL_ARGUMENTS_MAX: usize = 6;

/// Where the options of a `wrap` stand.
#[derive(Default)]
pub(crate) struct OptionSpans {
    pub(crate) size: Option<Span>,
    pub(crate) stack: Option<Span>,
    pub(crate) sret: Option<Span>,
    pub(crate) signature: Option<Span>,
    native: Option<Span>,
}

/// What the options of a `wrap` say.
#[derive(Default)]
struct Options {
    size: Option<u32>,
    stack: Option<u32>,
    signature: Option<Signature>,
    spans: OptionSpans,
}

/// A wrapper that is being read.
struct Head {
    name: Name,
    implementation: PathText,
    wraps: Vec<Wrap>,
    span: Span,
}

/// Where the wraps of one function in one library stand.
#[derive(Default)]
struct Wrapped {
    first: Option<Span>,
    every_version: Option<Span>,
    versions: HashMap<Name, Span>,
}

/// An error was reported, and the statement cannot be read on.
struct Stop;

type Read<T> = Result<T, Stop>;

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    span: Span,
    /// The span of the token before.
    last: Span,
    lines: Lines<'a>,
    convention: Convention,
    sink: Sink,
    wrappers: Vec<Head>,
    names: HashMap<Name, Span>,
    /// What the wrapper that is being read has wrapped.
    wrapped: HashMap<(Name, Library), Wrapped>,
    /// Whether a wrapper has begun, be it a faulty one. A `wrap` without one is reported once.
    has_wrapper: bool,
    /// Whether the wrapper that is being read has a `wrap`, be it a faulty one.
    has_wrap: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, convention: Convention, sink: Sink) -> Parser<'a> {
        let start = Span::new(0, 0);
        let mut parser = Parser {
            lexer: Lexer::new(text),
            token: Token::End,
            span: start,
            last: start,
            lines: Lines::new(text.as_bytes()),
            convention,
            sink,
            wrappers: Vec::new(),
            names: HashMap::new(),
            wrapped: HashMap::new(),
            has_wrapper: false,
            has_wrap: false,
        };
        parser.advance();
        parser
    }

    fn file(&mut self) {
        let mut current = None;
        loop {
            let statement = match self.token {
                Token::End => break,
                Token::Word(word @ ("wrapper" | "wrap")) => word,
                _ => self.not_a_statement(),
            };
            let read = match statement {
                "wrapper" => {
                    self.finish_wrapper(current.take());
                    self.wrapper().map(|head| current = head)
                }
                "wrap" => self.wrap(current.as_mut()),
                _ => {
                    self.advance();
                    Err(Stop)
                }
            };
            if read.is_err() {
                self.recover();
            }
        }
        if !self.has_wrapper && self.sink.is_empty() {
            let what = "there is no wrapper in the file".to_owned();
            let hint = r#"a file begins: wrapper NAME implementation "PATH""#;
            self.sink.report(Problem::Empty { what }, self.span, hint);
        }
        self.finish_wrapper(current);
    }

    /// Reports what stands where a statement begins and is none. One that was probably meant is read as such.
    fn not_a_statement(&mut self) -> &'static str {
        let near = self.misspelt_statement();
        let _ =
            self.expected::<()>("`wrapper` or `wrap`", near.map(|near| format!("did you mean `{near}`?")));
        near.unwrap_or("")
    }

    /// `wrapper NAME implementation "PATH"`. Nothing where it was read wholly but cannot be.
    fn wrapper(&mut self) -> Read<Option<Head>> {
        self.has_wrapper = true;
        self.has_wrap = false;
        self.wrapped.clear();
        let begin = self.span;
        self.advance();
        let named = self.span;
        let name = self.name("a name for the wrapper", "the wrapper's name")?;
        self.keyword("implementation", "`implementation`")?;
        let implementation = self.implementation()?;
        let span = begin.to(self.last);
        if name.as_str().contains(['/', '\\']) {
            let problem = Problem::Name { what: "the wrapper's name", why: "has a `/` or `\\` in it" };
            self.sink.report(problem, named, "a wrapper is looked up as NAME.wrap");
            return Ok(None);
        }
        if let Some(first) = self.names.get(&name) {
            let first_line = self.lines.line_number(first.start);
            let problem = Problem::WrapperTwice { name: shown(name.as_str()), first_line };
            let hint = "one wrapper may wrap functions of several libraries";
            self.sink.report(problem, named, hint);
            return Ok(None);
        }
        self.names.insert(name.clone(), span);
        Ok(Some(Head { name, implementation, wraps: Vec::new(), span }))
    }

    fn implementation(&mut self) -> Read<PathText> {
        let Token::Text { value, .. } = &self.token else {
            let hint = match self.token {
                Token::Word(word) => Some(format!("a path stands in double quotes: \"{}\"", shown(word))),
                _ => None,
            };
            return self.expected("a path in double quotes", hint);
        };
        let path =
            PathText::new(value.as_ref()).map_err(|error| self.bad_name("the implementation's path", error));
        self.advance();
        path
    }

    /// A wrapper without a wrap would do nothing.
    fn finish_wrapper(&mut self, head: Option<Head>) {
        let Some(head) = head else { return };
        if !self.has_wrap && !self.sink.is_full() {
            let what = format!("the wrapper `{}` wraps nothing", shown(head.name.as_str()));
            self.sink.report(Problem::Empty { what }, head.span, "wrap FUNCTION in LIBRARY with MEDIATOR");
        }
        self.wrappers.push(head);
    }

    /// `wrap FUNCTION[@VERSION] in LIBRARY with MEDIATOR` and options.
    fn wrap(&mut self, head: Option<&mut Head>) -> Read<()> {
        let begin = self.span;
        self.has_wrap = true;
        if !self.has_wrapper {
            // Reported once: those that follow belong to the same missing line.
            self.has_wrapper = true;
            let hint = r#"a line must stand before it: wrapper NAME implementation "PATH""#;
            self.sink.report(Problem::NoWrapper, begin, hint);
        }
        self.advance();
        let named = self.span;
        let function = self.name("the name of a function", "the function's name")?;
        let version = self.version()?;
        let named = named.to(self.last);
        self.keyword("in", "`in` and a library")?;
        let library = self.library()?;
        self.keyword("with", "`with` and a mediator")?;
        let mediator = self.name("the name of a mediator", "the mediator's name")?;
        let Options { size, stack, signature, spans } = self.options(&function)?;
        let wrap = Wrap {
            sret: spans.sret.is_some(),
            native: spans.native.is_some(),
            span: begin.to(self.last),
            function,
            version,
            library,
            mediator,
            size,
            stack,
            signature,
        };
        if wrap.library == Library::Kernel {
            check_kernel(&wrap, named, &spans, &mut self.sink);
        }
        if self.convention == Convention::SysV {
            abi::check_wrap(&wrap, &spans, &mut self.sink);
        }
        if self.is_new(&wrap, named)
            && let Some(head) = head
        {
            head.wraps.push(wrap);
        }
        Ok(())
    }

    fn version(&mut self) -> Read<Option<Name>> {
        if self.token != Token::At {
            return Ok(None);
        }
        self.advance();
        self.name("a symbol version", "the symbol version").map(Some)
    }

    fn library(&mut self) -> Read<Library> {
        let library = match &self.token {
            Token::Word("kernel") => Ok(Library::Kernel),
            Token::Word(word) if !is_keyword(word) => Library::named(word),
            Token::Text { value, .. } => Library::named(value),
            _ => return self.expected_name("a library"),
        };
        let library = library.map_err(|error| self.bad_name("the library's name", error));
        self.advance();
        library
    }

    /// `size N`, `stack M`, `sret`, `sig "..."` and `native`, in any order.
    fn options(&mut self, function: &Name) -> Read<Options> {
        let mut options = Options::default();
        loop {
            let begin = self.span;
            match self.token {
                Token::Word("wrap" | "wrapper") | Token::End => return Ok(options),
                _ if self.misspelt_statement().is_some() => return Ok(options),
                Token::Word("size") => {
                    let size = self.number()?;
                    self.once("size", begin, options.spans.size);
                    options.size = options.size.or(size);
                    options.spans.size.get_or_insert(begin.to(self.last));
                }
                Token::Word("stack") => {
                    let stack = self.number()?;
                    self.once("stack", begin, options.spans.stack);
                    options.stack = options.stack.or(stack);
                    options.spans.stack.get_or_insert(begin.to(self.last));
                }
                Token::Word("sret") => {
                    self.advance();
                    self.once("sret", begin, options.spans.sret);
                    options.spans.sret.get_or_insert(begin);
                }
                Token::Word("native") => {
                    self.advance();
                    self.once("native", begin, options.spans.native);
                    options.spans.native.get_or_insert(begin);
                }
                Token::Word("sig") => {
                    let signature = self.signature(function)?;
                    self.once("sig", begin, options.spans.signature);
                    options.signature = options.signature.or(signature);
                    options.spans.signature.get_or_insert(begin.to(self.last));
                }
                _ => self.not_an_option()?,
            }
        }
    }

    /// Reports what is no option.
    fn not_an_option(&mut self) -> Read<()> {
        const OPTIONS: [&str; 5] = ["size", "stack", "sret", "sig", "native"];
        let hint = match self.token {
            Token::Word(word) => Some(match closest(word, OPTIONS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the options are {}", OPTIONS.join(", ")),
            }),
            _ => None,
        };
        self.expected("an option or the next statement", hint)
    }

    /// Reports an option that stood before already.
    fn once(&mut self, option: &'static str, begin: Span, before: Option<Span>) {
        if before.is_some() {
            self.sink.report(Problem::OptionTwice { option }, begin.to(self.last), Hint::NONE);
        }
    }

    /// The number behind a keyword; nothing where it is out of range, which was reported.
    fn number(&mut self) -> Read<Option<u32>> {
        self.advance();
        let word = match self.token {
            Token::Word(word) if !is_keyword(word) => word,
            _ => return self.expected("a number of bytes", None),
        };
        let span = self.span;
        self.advance();
        let hexadecimal = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
        let (digits, radix) = hexadecimal.map_or((word, 10), |digits| (digits, 16));
        // The standard library would take a sign.
        let is_unsigned = digits.starts_with(|first: char| first.is_ascii_hexdigit());
        let number = u32::from_str_radix(digits, radix)
            .ok()
            .filter(|number| is_unsigned && *number <= ARGUMENT_BYTES_MAX);
        if number.is_none() {
            let problem = Problem::Number { text: shown(word), max: ARGUMENT_BYTES_MAX };
            self.sink.report(problem, span, "decimal, or hexadecimal behind 0x");
        }
        Ok(number)
    }

    /// The signature behind `sig`; nothing where there is something wrong in it, which was reported.
    fn signature(&mut self, function: &Name) -> Read<Option<Signature>> {
        self.advance();
        let Token::Text { raw, .. } = self.token else {
            return self.expected(
                "a signature in double quotes",
                Some(r#"as in sig "int(const char*, int)""#.to_owned()),
            );
        };
        // What the signature's reader sees is the text as it stands: there is nothing to escape in one.
        let base = self.span.start as usize + 1;
        let parsed = signature::parse(raw, base, &mut self.sink);
        self.advance();
        let Some(parsed) = parsed else { return Ok(None) };
        if let Some((named, span)) = parsed.name
            && named != function.as_str()
        {
            let problem = Problem::OtherFunction { named: shown(&named), function: shown(function.as_str()) };
            self.sink.report(
                problem,
                span,
                "a signature needs no name: leave it out if it is right otherwise",
            );
        }
        Ok(Some(parsed.signature))
    }

    /// Whether nothing in the wrapper wraps the same function; reports it otherwise.
    fn is_new(&mut self, wrap: &Wrap, named: Span) -> bool {
        let key = (wrap.function.clone(), wrap.library.clone());
        let before = self.wrapped.entry(key).or_default();
        // A wrap without a version is one of every version.
        let clash = match &wrap.version {
            None => before.first,
            Some(version) => before.every_version.or_else(|| before.versions.get(version).copied()),
        };
        before.first.get_or_insert(named);
        let _ = match &wrap.version {
            None => before.every_version.get_or_insert(named),
            Some(version) => before.versions.entry(version.clone()).or_insert(named),
        };
        let Some(first) = clash else { return true };
        let version =
            wrap.version.as_ref().map_or_else(String::new, |version| format!("@{}", shown(version.as_str())));
        let problem = Problem::WrapTwice {
            function: format!("`{}{version}`", shown(wrap.function.as_str())),
            library: shown(&wrap.library.to_string()),
            first_line: self.lines.line_number(first.start),
        };
        let hint = "one mediator a function in a wrapper; a wrap without a version is one of every version";
        self.sink.report(problem, named, hint);
        false
    }

    fn keyword(&mut self, keyword: &str, expected: &'static str) -> Read<()> {
        if self.token == Token::Word(keyword) {
            self.advance();
            return Ok(());
        }
        let near = match self.token {
            Token::Word(word) if !is_keyword(word) => closest(word, KEYWORDS).filter(|near| *near == keyword),
            _ => None,
        };
        self.expected(expected, near.map(|near| format!("did you mean `{near}`?")))
    }

    fn name(&mut self, expected: &'static str, what: &'static str) -> Read<Name> {
        let name = match &self.token {
            Token::Word(word) if !is_keyword(word) => Name::new(*word),
            Token::Text { value, .. } => Name::new(value.as_ref()),
            _ => return self.expected_name(expected),
        };
        let name = name.map_err(|error| self.bad_name(what, error));
        self.advance();
        name
    }

    fn expected_name<T>(&mut self, expected: &'static str) -> Read<T> {
        let hint = match self.token {
            Token::Word(word) => {
                Some(format!("a name that is a word of the language stands in quotes: \"{word}\""))
            }
            _ => None,
        };
        self.expected(expected, hint)
    }

    fn bad_name(&mut self, what: &'static str, error: NameError) -> Stop {
        let hint = match error {
            NameError::Relative => Hint::from("write the whole path, or the name alone: libfoo.so.1"),
            _ => Hint::NONE,
        };
        self.sink.report(Problem::Name { what, why: error.why() }, self.span, hint);
        Stop
    }

    /// Reports the token as not what was due, unless it was reported already.
    fn expected<T>(&mut self, expected: &'static str, hint: Option<String>) -> Read<T> {
        if self.token != Token::Bad && !self.sink.is_full() {
            let found = self.token.describe();
            self.sink.report(Problem::Expected { expected, found }, self.span, hint);
        }
        Err(Stop)
    }

    /// Goes on at the next word that begins a statement, or was probably meant to.
    fn recover(&mut self) {
        let is_statement = |token: &Token<'_>| matches!(token, Token::Word("wrap" | "wrapper") | Token::End);
        while !is_statement(&self.token) && self.misspelt_statement().is_none() {
            self.advance();
        }
    }

    /// The statement that the first word of a line resembles without being one.
    fn misspelt_statement(&self) -> Option<&'static str> {
        let Token::Word(word) = self.token else { return None };
        let is_first = self.last.end == 0
            || self.lines.line_number(self.span.start) > self.lines.line_number(self.last.end);
        if is_first && !is_keyword(word) { closest(word, STATEMENTS) } else { None }
    }

    fn advance(&mut self) {
        self.last = self.span;
        (self.token, self.span) = self.lexer.next(&mut self.sink);
    }
}

/// Reports what cannot be said of a system call.
fn check_kernel(wrap: &Wrap, named: Span, spans: &OptionSpans, sink: &mut Sink) {
    let mut refuse = |what, span, why, hint: Hint| sink.report(Problem::Kernel { what, why }, span, hint);
    if wrap.version.is_some() {
        refuse("a symbol version", named, "they are no symbols", Hint::NONE);
    }
    if let Some(span) = spans.stack {
        refuse("`stack`", span, "all of their arguments travel in registers", Hint::NONE);
    }
    if let Some(span) = spans.sret {
        refuse("`sret`", span, "they give one integer", Hint::NONE);
    }
    let (Some(signature), Some(span)) = (&wrap.signature, spans.signature) else { return };
    let is_integer = |kind: &Type| match kind {
        Type::Scalar(scalar) => scalar.is_integer(),
        Type::Pointer(_) => true,
        Type::Struct(_) => false,
    };
    let Signature { result, parameters, is_variadic } = signature;
    if *is_variadic {
        let hint = "write the parameters behind the dots, too: sig \"int(int, const char*, int, mode_t)\"";
        refuse("`...`", span, "their number of arguments is fixed", hint.into());
    } else if parameters.len() > SYSTEM_CALL_ARGUMENTS_MAX {
        refuse("this signature", span, "they take at most six arguments", Hint::NONE);
    } else if !parameters.iter().map(|parameter| &parameter.kind).chain(result).all(is_integer) {
        refuse("this signature", span, "they take and give integers and pointers only", Hint::NONE);
    }
}
