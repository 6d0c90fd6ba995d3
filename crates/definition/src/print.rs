//! The canonical text of a definition: parsed again it is the same.

use std::fmt::{self, Display, Formatter, Write};

use crate::lexer::is_bare;
use crate::model::{Definition, Library, Name, PathText, Wrap, Wrapper};

impl Display for Definition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, wrapper) in self.wrappers.iter().enumerate() {
            f.write_str(if index > 0 { "\n" } else { "" })?;
            write!(f, "{wrapper}")?;
        }
        Ok(())
    }
}

/// One line for the wrapper and one for each wrap, each with its line end.
impl Display for Wrapper {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "wrapper {} implementation {}", self.name, self.implementation)?;
        self.wraps.iter().try_for_each(|wrap| writeln!(f, "{wrap}"))
    }
}

impl Display for Wrap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "wrap {}", self.function)?;
        if let Some(version) = &self.version {
            write!(f, "@{version}")?;
        }
        write!(f, " in {} with {}", self.library, self.mediator)?;
        if let Some(size) = self.size {
            write!(f, " size {size}")?;
        }
        if let Some(stack) = self.stack {
            write!(f, " stack {stack}")?;
        }
        f.write_str(if self.sret { " sret" } else { "" })?;
        if let Some(signature) = &self.signature {
            write!(f, " sig \"{signature}\"")?;
        }
        f.write_str(if self.native { " native" } else { "" })
    }
}

impl Display for Library {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Library::Kernel => f.write_str("kernel"),
            // A library of that name is none of the system's.
            Library::Short(name) if name.as_str() == "kernel" => quote(f, "kernel"),
            Library::Short(name) | Library::Soname(name) => write!(f, "{name}"),
            Library::Path(path) => write!(f, "{path}"),
        }
    }
}

/// Without quotes where that is possible.
impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if is_bare(self.as_str()) { f.write_str(self.as_str()) } else { quote(f, self.as_str()) }
    }
}

impl Display for PathText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        quote(f, self.as_str())
    }
}

fn quote(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            letter if crate::report::is_plain(letter) => f.write_char(letter)?,
            letter => write!(f, "\\u{{{:x}}}", letter as u32)?,
        }
    }
    f.write_char('"')
}
