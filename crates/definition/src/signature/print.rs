//! The canonical text of a signature.

use std::fmt::{self, Display, Formatter, Write};

use super::{Field, Identifier, Parameter, Pointee, Scalar, Signature, Struct, Tag, Type};

impl Display for Signature {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.result {
            None => f.write_str("void")?,
            Some(result) => write!(f, "{result}")?,
        }
        f.write_char('(')?;
        for (index, parameter) in self.parameters.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            write!(f, "{parameter}")?;
        }
        if self.is_variadic {
            f.write_str(if self.parameters.is_empty() { "..." } else { ", ..." })?;
        }
        f.write_char(')')
    }
}

impl Display for Parameter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        declare(f, &self.kind, self.name.as_ref().map_or("", Identifier::as_str))
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        declare(f, self, "")
    }
}

impl Display for Struct {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("struct ")?;
        if let Some(tag) = &self.tag {
            write!(f, "{tag} ")?;
        }
        f.write_str("{ ")?;
        for Field { kind, name, count } in self.fields.iter() {
            let name = name.as_ref().map_or("", Identifier::as_str);
            let dimension = count.map_or_else(String::new, |count| format!("[{count}]"));
            declare(f, kind, &format!("{name}{dimension}"))?;
            f.write_str("; ")?;
        }
        f.write_char('}')
    }
}

impl Display for Scalar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Display for Identifier {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for Tag {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tag::Struct => "struct",
            Tag::Union => "union",
            Tag::Enum => "enum",
        })
    }
}

/// A type, with what it declares where C puts that: a name, or a name with its dimension, or nothing.
fn declare(f: &mut Formatter<'_>, kind: &Type, declared: &str) -> fmt::Result {
    let space = if declared.is_empty() || declared.starts_with('[') { "" } else { " " };
    let pointer = match kind {
        Type::Scalar(scalar) => return write!(f, "{scalar}{space}{declared}"),
        Type::Struct(inner) => return write!(f, "{inner}{space}{declared}"),
        Type::Pointer(pointer) => pointer,
    };
    if pointer.is_const {
        f.write_str("const ")?;
    }
    let stars = "*".repeat(pointer.depth.get().into());
    match &pointer.to {
        Pointee::Void => write!(f, "void{stars}{space}{declared}"),
        Pointee::Scalar(scalar) => write!(f, "{scalar}{stars}{space}{declared}"),
        Pointee::Named(named) => write!(f, "{named}{stars}{space}{declared}"),
        Pointee::Tagged(tag, named) => write!(f, "{tag} {named}{stars}{space}{declared}"),
        Pointee::Function => write!(f, "void({stars}{declared})()"),
    }
}
