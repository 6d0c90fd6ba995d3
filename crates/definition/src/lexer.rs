//! The words of a definition file: bare words, texts in double quotes, and `@`.
//!
//! Everything else that is not white space or a comment is reported here and comes back as [`Token::Bad`], so that
//! the parser does not report it again.

use std::borrow::Cow;

use crate::problem::Problem;
use crate::report::{Hint, Sink, shown};
use crate::span::Span;

/// The words that mean something. A name that is one of them stands in quotes.
pub(crate) const KEYWORDS: [&str; 10] =
    ["wrapper", "implementation", "wrap", "in", "with", "size", "stack", "sret", "sig", "native"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A bare word: a keyword, a name, or a number.
    Word(&'a str),
    /// A text in double quotes: as it stands in the file, and with its escapes resolved.
    Text {
        raw: &'a str,
        value: Cow<'a, str>,
    },
    /// `@`, or `@@` as `nm` prints it before a default version.
    At,
    /// Something that was reported.
    Bad,
    End,
}

impl Token<'_> {
    /// How a message calls it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Token::Word(word) if is_keyword(word) => format!("the word `{word}`"),
            Token::Word(word) => format!("`{}`", shown(word)),
            Token::Text { raw, .. } => format!("\"{}\"", shown(raw)),
            Token::At => "`@`".to_owned(),
            Token::Bad => "something else".to_owned(),
            Token::End => "the end of the file".to_owned(),
        }
    }
}

pub(crate) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

/// Whether the text can stand without quotes where a name is due.
pub(crate) fn is_bare(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_word_byte) && !is_keyword(text)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$' | b'+' | b'-')
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        // Editors on Windows put a byte order mark before the text.
        Lexer { text, at: if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 } }
    }

    /// The next token. After enough errors the file is taken to end.
    pub(crate) fn next(&mut self, sink: &mut Sink) -> (Token<'a>, Span) {
        self.skip_blanks();
        let start = self.at;
        let token = match self.peek() {
            None => Token::End,
            Some(b'"') => self.text(sink),
            Some(b'@') => {
                self.at += if self.rest().starts_with("@@") { 2 } else { 1 };
                Token::At
            }
            Some(byte) if is_word_byte(byte) => {
                let length = self.rest().bytes().take_while(|byte| is_word_byte(*byte)).count();
                self.at += length;
                Token::Word(&self.text[start..self.at])
            }
            Some(_) => self.foreign(sink),
        };
        let token = if sink.is_full() { Token::End } else { token };
        (token, Span::new(start, self.at))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// White space and comments.
    fn skip_blanks(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'#') => self.skip_line(),
                Some(b'/') if self.rest().starts_with("//") => self.skip_line(),
                _ => return,
            }
        }
    }

    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    /// A text in quotes, from its first quote on. It ends in the same line.
    fn text(&mut self, sink: &mut Sink) -> Token<'a> {
        let quote = self.at;
        self.at += 1;
        let begin = self.at;
        let mut value = Cow::Borrowed("");
        let mut is_sound = true;
        loop {
            let length = self.rest().find(['"', '\\', '\n']).unwrap_or(self.rest().len());
            value += &self.rest()[..length];
            self.at += length;
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[begin..self.at];
                    self.at += 1;
                    return if is_sound { Token::Text { raw, value } } else { Token::Bad };
                }
                Some(b'\\') => match self.escape(sink) {
                    Some(letter) => value.to_mut().push(letter),
                    None => is_sound = false,
                },
                _ => {
                    let end = quote + self.text[quote..self.at].trim_end().len();
                    sink.report(Problem::Unclosed, Span::new(quote, end), Hint::NONE);
                    return Token::Bad;
                }
            }
        }
    }

    /// One escape, from its backslash on. Nothing for one that was reported, or that the line's end cuts off.
    fn escape(&mut self, sink: &mut Sink) -> Option<char> {
        let begin = self.at;
        self.at += 1;
        let rest = self.rest();
        let letter = rest.chars().next().filter(|letter| *letter != '\n' && !rest.starts_with("\r\n"))?;
        self.at += letter.len_utf8();
        let resolved = match letter {
            '"' | '\\' => Some(letter),
            'n' => Some('\n'),
            't' => Some('\t'),
            'u' => self.unicode_escape(),
            _ => None,
        };
        if resolved.is_none() {
            let text = shown(&self.text[begin..self.at]);
            let hint = r#"there are \" \\ \n \t and \u{HEX}; a backslash itself is written \\"#;
            sink.report(Problem::Escape { text }, Span::new(begin, self.at), hint);
        }
        resolved
    }

    /// `{HEX}` behind `\u`: one to six digits.
    fn unicode_escape(&mut self) -> Option<char> {
        let rest = self.rest().strip_prefix('{')?;
        let length = rest.bytes().take(6).take_while(u8::is_ascii_hexdigit).count();
        let letter = u32::from_str_radix(&rest[..length], 16).ok().and_then(char::from_u32);
        if !rest[length..].starts_with('}') {
            return None;
        }
        self.at += length + 2;
        letter
    }

    /// A character that no token begins with, and what stands next to it: one thing, probably, without its quotes.
    fn foreign(&mut self, sink: &mut Sink) -> Token<'a> {
        let start = self.at;
        let rest = self.rest();
        let is_end = |(index, letter): (usize, char)| {
            matches!(letter, ' ' | '\t' | '\r' | '\n' | '"' | '#')
                || index > 0 && rest[index..].starts_with("//")
        };
        let length = rest.char_indices().find(|found| is_end(*found)).map_or(rest.len(), |(index, _)| index);
        self.at += length;
        let run = &self.text[start..self.at];
        let hint = match run.chars().next() {
            Some(';' | ',') => "a statement ends where the next one begins: leave this out",
            Some('\'' | '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}') => {
                "texts stand in straight double quotes"
            }
            Some('*') => "name one library; each function has a line of its own",
            Some('/' | '\\') => "a path stands in double quotes",
            _ => "a name with other characters than letters, digits and _ . $ + - stands in double quotes",
        };
        sink.report(Problem::Character { text: shown(run) }, Span::new(start, self.at), hint);
        Token::Bad
    }
}
