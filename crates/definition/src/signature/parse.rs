//! Reads a signature: a prototype of C, as a man page prints it, with or without names.
//!
//! The first error ends it: what follows in the same text would be guesswork.

use std::num::NonZeroU8;

use super::scalar::{Said, Scalar, type_words};
use super::{Field, Identifier, Parameter, Pointee, Pointer, Signature, Struct, StructError, Tag, Type};
use crate::problem::Problem;
use crate::report::{Hint, Sink, shown};
use crate::span::Span;
use crate::suggest::closest;
use crate::{DEPTH_MAX, FIELDS_MAX, PARAMETERS_MAX};

const POINTERS_TOO_DEEP: &str = "pointers point to pointers more than 8 deep";

/// A signature, and the name of the function where the text has one.
pub(crate) struct Parsed {
    pub(crate) signature: Signature,
    pub(crate) name: Option<(String, Span)>,
}

/// Reads the text that begins at byte `base` of the file. Nothing where an error was reported.
pub(crate) fn parse(text: &str, base: usize, sink: &mut Sink) -> Option<Parsed> {
    let mut reader =
        Reader { text, base, at: 0, token: Token::End, span: Span::new(base, base), end: base, sink };
    reader.advance();
    reader.prototype().ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Number(&'a str),
    /// One of `( ) { } [ ] * , ; :`, or something that stands nowhere.
    Mark(char),
    Dots,
    End,
}

/// An error was reported.
struct Stop;

type Read<T> = Result<T, Stop>;

/// What stands before a declarator.
struct Base {
    pointee: BaseKind,
    is_const: bool,
    span: Span,
}

enum BaseKind {
    Void,
    Scalar(Scalar),
    Named(Identifier),
    Tagged(Tag, Identifier),
    Struct(Struct),
}

/// What stands behind a base: `*path`, `(*start)(void*)`, `fds[2]`.
struct Declarator {
    stars: u8,
    is_function: bool,
    name: Option<Identifier>,
    /// Every dimension of an array; nothing for one that is not told.
    dimensions: Vec<Option<u32>>,
}

struct Reader<'a, 's> {
    text: &'a str,
    /// Where in the file the text begins.
    base: usize,
    at: usize,
    token: Token<'a>,
    span: Span,
    /// Where the token before this one ended.
    end: usize,
    sink: &'s mut Sink,
}

impl<'a> Reader<'a, '_> {
    fn prototype(&mut self) -> Read<Parsed> {
        let result = self.base_type(0)?;
        let stars = self.stars()?;
        let name = match self.token {
            Token::Word(_) => {
                let span = self.span;
                self.declared_name()?.map(|name| (name.as_str().to_owned(), span))
            }
            _ => None,
        };
        if self.token == Token::Mark('(') && self.text[self.at..].trim_start().starts_with('*') {
            return self.refuse("a result that is a pointer to a function", "write void* for it");
        }
        let result = match (&result.pointee, stars) {
            (BaseKind::Void, 0) => None,
            _ => Some(self.by_value(result, stars)?),
        };
        let (parameters, is_variadic) = self.parameters()?;
        if self.token == Token::Mark(';') {
            self.advance();
        }
        if self.token != Token::End {
            return self.expected("the end of the signature");
        }
        Ok(Parsed { signature: Signature { result, parameters, is_variadic }, name })
    }

    /// `(int a, char* b, ...)`; whether it ends with dots is told, too.
    fn parameters(&mut self) -> Read<(Vec<Parameter>, bool)> {
        self.mark('(', "`(` before the parameters")?;
        let mut parameters = Vec::new();
        if self.token == Token::Mark(')') {
            self.advance();
            return Ok((parameters, false));
        }
        loop {
            if self.token == Token::Dots {
                self.advance();
                self.mark(')', "`)` behind `...`")?;
                return Ok((parameters, true));
            }
            if parameters.len() == PARAMETERS_MAX {
                return self.limit("there are more than 127 parameters");
            }
            let begin = self.span;
            let base = self.base_type(0)?;
            if matches!(base.pointee, BaseKind::Void)
                && self.token == Token::Mark(')')
                && parameters.is_empty()
            {
                self.advance();
                return Ok((parameters, false));
            }
            let declarator = self.declarator()?;
            parameters.push(self.parameter(base, declarator, begin)?);
            match self.token {
                Token::Mark(',') => self.advance(),
                Token::Mark(')') => {
                    self.advance();
                    return Ok((parameters, false));
                }
                _ => return self.expected("`,` or `)`"),
            }
        }
    }

    /// An array that is a parameter is a pointer to its elements.
    fn parameter(&mut self, base: Base, declarator: Declarator, begin: Span) -> Read<Parameter> {
        let Declarator { stars, is_function, name, dimensions } = declarator;
        if dimensions.len() > 1 {
            let span = Span { end: self.end as u32, ..begin };
            return self.refuse_at(span, "an array of arrays as a parameter", "write a pointer");
        }
        let stars = stars.saturating_add(dimensions.len() as u8);
        let kind = if is_function {
            self.pointer_to_function(stars, base.span)?
        } else {
            self.by_value(base, stars)?
        };
        Ok(Parameter { kind, name })
    }

    /// The words of a type up to what it declares.
    fn base_type(&mut self, depth: u8) -> Read<Base> {
        let begin = self.span;
        let mut said = Said::default();
        let mut is_const = false;
        let mut found = None;
        while let Token::Word(word) = self.token {
            if word == "const" {
                is_const = true;
            } else if is_qualifier(word) {
            } else if let Some(tag) = tag_of(word) {
                if found.is_some() || !said.is_nothing() {
                    return self.expected("one type");
                }
                self.advance();
                found = Some(self.tagged(tag, depth, begin)?);
                continue;
            } else if found.is_none() && said.count(word) {
            } else if found.is_some() || !said.is_nothing() {
                break;
            } else {
                found = Some(self.type_name(word)?);
            }
            self.advance();
        }
        let span = Span { end: (self.end as u32).max(begin.start), ..begin };
        let pointee = match (found, said.name()) {
            (Some(found), _) => found,
            (None, Some("void")) => BaseKind::Void,
            (None, Some(name)) => {
                BaseKind::Scalar(Scalar::named(name).expect("every name of words is in the table"))
            }
            (None, None) if said.is_nothing() => return self.expected("a type"),
            (None, None) => {
                let text = shown(&self.text[begin.start as usize - self.base..self.end - self.base]);
                return self.fail(Problem::UnknownType { text }, span, "these words make no type of C");
            }
        };
        Ok(Base { pointee, is_const, span })
    }

    /// A type that one name stands for.
    fn type_name(&mut self, word: &str) -> Read<BaseKind> {
        match (Scalar::named(word), Identifier::new(word)) {
            (Some(scalar), _) => Ok(BaseKind::Scalar(scalar)),
            (None, Some(name)) => Ok(BaseKind::Named(name)),
            (None, None) => self.expected("a type"),
        }
    }

    /// What follows `struct`, `union` or `enum`.
    fn tagged(&mut self, tag: Tag, depth: u8, begin: Span) -> Read<BaseKind> {
        let name = match self.token {
            Token::Word(word) => {
                let Some(name) = Identifier::new(word) else { return self.expected("a tag") };
                self.advance();
                Some(name)
            }
            _ => None,
        };
        match (tag, self.token, name) {
            (Tag::Struct, Token::Mark('{'), name) => Ok(BaseKind::Struct(self.fields(name, depth, begin)?)),
            (_, Token::Mark('{'), _) => {
                let hint = "write the type that is passed alike, as int for an enum";
                self.refuse("the fields of a union or an enum", hint)
            }
            (_, _, Some(name)) => Ok(BaseKind::Tagged(tag, name)),
            (_, _, None) => self.expected("a tag or `{`"),
        }
    }

    /// `{ double x, y; char name[16]; }`.
    fn fields(&mut self, tag: Option<Identifier>, depth: u8, begin: Span) -> Read<Struct> {
        if depth >= DEPTH_MAX {
            return self.limit(StructError::Depth.why());
        }
        self.mark('{', "`{`")?;
        let (mut fields, mut total) = (Vec::new(), 0);
        while self.token != Token::Mark('}') {
            let base = self.base_type(depth + 1)?;
            loop {
                let declarator = self.declarator()?;
                if self.token == Token::Mark(':') {
                    return self.refuse("a bit-field", "write the whole integers that hold the bits");
                }
                let field = self.field(&base, declarator)?;
                // Counted before the next copy of an inner struct is made.
                total += field.total();
                if total > FIELDS_MAX {
                    return self.limit(StructError::Fields.why());
                }
                fields.push(field);
                if self.token != Token::Mark(',') {
                    break;
                }
                self.advance();
            }
            self.mark(';', "`;` behind a field")?;
        }
        self.advance();
        let span = Span { end: self.end as u32, ..begin };
        match Struct::new(tag, fields) {
            Ok(made) => Ok(made),
            Err(error) => self.fail(Problem::SignatureLimit { what: error.why() }, span, Hint::NONE),
        }
    }

    fn field(&mut self, base: &Base, declarator: Declarator) -> Read<Field> {
        let Declarator { stars, is_function, name, dimensions } = declarator;
        let kind = if is_function {
            self.pointer_to_function(stars, base.span)?
        } else {
            self.by_value(base.again(), stars)?
        };
        if dimensions.contains(&None) {
            let hint = "write its length as a number";
            return self.refuse_at(base.span, "the size of an array in a struct", hint);
        }
        let count = dimensions.iter().flatten().try_fold(1_u32, |product, count| product.checked_mul(*count));
        match count {
            None => {
                self.fail(Problem::SignatureLimit { what: StructError::Size.why() }, base.span, Hint::NONE)
            }
            Some(count) => Ok(Field { kind, name, count: (!dimensions.is_empty()).then_some(count) }),
        }
    }

    fn declarator(&mut self) -> Read<Declarator> {
        let stars = self.stars()?;
        if self.token == Token::Mark('(') {
            return self.function_pointer();
        }
        let name = self.declared_name()?;
        let dimensions = self.dimensions()?;
        Ok(Declarator { stars, is_function: false, name, dimensions })
    }

    /// `(*start)(void*)`, without the type of its result.
    fn function_pointer(&mut self) -> Read<Declarator> {
        self.advance();
        if self.token != Token::Mark('*') {
            return self.expected("`*`, as in `void (*)(int)`");
        }
        let stars = self.stars()?;
        let name = self.declared_name()?;
        let dimensions = self.dimensions()?;
        self.mark(')', "`)`, as in `void (*)(int)`")?;
        self.skip_parameters()?;
        Ok(Declarator { stars, is_function: true, name, dimensions })
    }

    /// What a pointer's function takes decides nothing. It is skipped up to its closing parenthesis.
    fn skip_parameters(&mut self) -> Read<()> {
        let mut open = 0_u32;
        loop {
            match self.token {
                Token::Mark('(') => open += 1,
                Token::Mark(')') if open > 0 => open -= 1,
                Token::Word(_) | Token::Number(_) | Token::Dots | Token::Mark('*' | ',' | '[' | ']')
                    if open > 0 => {}
                _ if open == 0 => return self.expected("`(` before the parameters"),
                _ => return self.expected("a parameter or `)`"),
            }
            self.advance();
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn declared_name(&mut self) -> Read<Option<Identifier>> {
        let Token::Word(word) = self.token else { return Ok(None) };
        let Some(name) = Identifier::new(word) else { return self.expected("a name") };
        self.advance();
        Ok(Some(name))
    }

    /// `*const *`: how many.
    fn stars(&mut self) -> Read<u8> {
        let mut count = 0;
        loop {
            match self.token {
                Token::Mark('*') if count == DEPTH_MAX => {
                    return self.limit(POINTERS_TOO_DEEP);
                }
                Token::Mark('*') => count += 1,
                Token::Word(word) if count > 0 && (word == "const" || is_qualifier(word)) => {}
                _ => return Ok(count),
            }
            self.advance();
        }
    }

    fn dimensions(&mut self) -> Read<Vec<Option<u32>>> {
        let mut dimensions = Vec::new();
        while self.token == Token::Mark('[') {
            self.advance();
            if dimensions.len() == usize::from(DEPTH_MAX) {
                return self.limit("an array has more than 8 dimensions");
            }
            let count = match self.token {
                Token::Number(digits) => digits.parse().ok(),
                _ => None,
            };
            // A parameter's length may be told by another parameter; it decides nothing there.
            let mut tokens = 0;
            while self.token != Token::Mark(']') && self.token != Token::End {
                tokens += 1;
                self.advance();
            }
            dimensions.push(count.filter(|_| tokens == 1));
            self.mark(']', "`]`")?;
        }
        Ok(dimensions)
    }

    /// The type that a base and stars make, where it can be passed by value.
    fn by_value(&mut self, base: Base, stars: u8) -> Read<Type> {
        let Base { pointee, is_const, span } = base;
        let Some(depth) = NonZeroU8::new(stars) else {
            return match pointee {
                BaseKind::Scalar(scalar) => Ok(Type::Scalar(scalar)),
                BaseKind::Struct(inner) => Ok(Type::Struct(inner)),
                // Whichever of int and unsigned a compiler takes for it, it is passed alike.
                BaseKind::Tagged(Tag::Enum, _) => {
                    Ok(Type::Scalar(Scalar::named("int").expect("in the table")))
                }
                BaseKind::Void => {
                    self.refuse_at(span, "a value of type void", "a pointer to anything is void*")
                }
                BaseKind::Named(name) => {
                    let hint = match closest(name.as_str(), type_words()) {
                        Some(near) => format!("did you mean {near}?"),
                        None => "no header is read: write the type that this one stands for".to_owned(),
                    };
                    self.fail(Problem::UnknownType { text: shown(name.as_str()) }, span, hint)
                }
                BaseKind::Tagged(..) => {
                    let hint = "no header is read: write its fields, as in struct { int a; double b; }";
                    self.refuse_at(span, "a struct or union without its fields", hint)
                }
            };
        };
        self.check_depth(stars, span)?;
        let to = match pointee {
            BaseKind::Void => Pointee::Void,
            BaseKind::Scalar(scalar) => Pointee::Scalar(scalar),
            BaseKind::Named(name) => Pointee::Named(name),
            BaseKind::Tagged(tag, name) => Pointee::Tagged(tag, name),
            BaseKind::Struct(inner) => match inner.tag {
                Some(tag) => Pointee::Tagged(Tag::Struct, tag),
                None => Pointee::Void,
            },
        };
        Ok(Type::Pointer(Pointer { to, is_const, depth }))
    }

    /// A pointer to a function, or to such pointers.
    fn pointer_to_function(&mut self, stars: u8, span: Span) -> Read<Type> {
        self.check_depth(stars, span)?;
        let depth = NonZeroU8::new(stars).unwrap_or(NonZeroU8::MIN);
        Ok(Type::Pointer(Pointer { to: Pointee::Function, is_const: false, depth }))
    }

    fn check_depth(&mut self, stars: u8, span: Span) -> Read<()> {
        if stars <= DEPTH_MAX {
            return Ok(());
        }
        self.fail(Problem::SignatureLimit { what: POINTERS_TOO_DEEP }, span, Hint::NONE)
    }

    /// Takes this mark, and no other.
    fn mark(&mut self, mark: char, expected: &'static str) -> Read<()> {
        if self.token != Token::Mark(mark) {
            return self.expected(expected);
        }
        self.advance();
        Ok(())
    }

    fn expected<T>(&mut self, expected: &'static str) -> Read<T> {
        let found = match self.token {
            Token::Word(word) | Token::Number(word) => format!("`{}`", shown(word)),
            Token::Mark(mark) => format!("`{}`", shown(mark.encode_utf8(&mut [0; 4]))),
            Token::Dots => "`...`".to_owned(),
            Token::End => "its end".to_owned(),
        };
        self.fail(Problem::SignatureSyntax { expected, found }, self.span, Hint::NONE)
    }

    fn refuse<T>(&mut self, what: &'static str, hint: &str) -> Read<T> {
        self.refuse_at(self.span, what, hint)
    }

    fn refuse_at<T>(&mut self, span: Span, what: &'static str, hint: &str) -> Read<T> {
        self.fail(Problem::Unsupported { what }, span, hint)
    }

    fn limit<T>(&mut self, what: &'static str) -> Read<T> {
        self.fail(Problem::SignatureLimit { what }, self.span, Hint::NONE)
    }

    fn fail<T>(&mut self, problem: Problem, span: Span, hint: impl Into<Hint>) -> Read<T> {
        self.sink.report(problem, span, hint);
        Err(Stop)
    }

    fn advance(&mut self) {
        self.end = self.span.end as usize;
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start_matches([' ', '\t']);
        let start = self.at + (rest.len() - trimmed.len());
        let run = |is_part: fn(u8) -> bool| trimmed.bytes().take_while(|byte| is_part(*byte)).count();
        let (token, length) = match trimmed.chars().next() {
            None => (Token::End, 0),
            Some(first) if first.is_ascii_alphabetic() || first == '_' => {
                let length = run(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                (Token::Word(&trimmed[..length]), length)
            }
            Some(first) if first.is_ascii_digit() => {
                let length = run(|byte| byte.is_ascii_alphanumeric());
                (Token::Number(&trimmed[..length]), length)
            }
            Some('.') if trimmed.starts_with("...") => (Token::Dots, 3),
            Some(mark) => (Token::Mark(mark), mark.len_utf8()),
        };
        self.token = token;
        self.span = Span::new(self.base + start, self.base + start + length);
        self.at = start + length;
    }
}

impl Base {
    /// The same base for the next field of a list: `int a, *b`.
    fn again(&self) -> Base {
        let pointee = match &self.pointee {
            BaseKind::Void => BaseKind::Void,
            BaseKind::Scalar(scalar) => BaseKind::Scalar(*scalar),
            BaseKind::Named(name) => BaseKind::Named(name.clone()),
            BaseKind::Tagged(tag, name) => BaseKind::Tagged(*tag, name.clone()),
            BaseKind::Struct(inner) => BaseKind::Struct(inner.clone()),
        };
        Base { pointee, ..*self }
    }
}

/// Words that change nothing about where a value is passed.
fn is_qualifier(word: &str) -> bool {
    matches!(word, "volatile" | "restrict" | "__restrict" | "__restrict__" | "register")
}

fn tag_of(word: &str) -> Option<Tag> {
    match word {
        "struct" => Some(Tag::Struct),
        "union" => Some(Tag::Union),
        "enum" => Some(Tag::Enum),
        _ => None,
    }
}
