//! Sizes and alignments on x86-64 Linux.

use crate::signature::{Field, Type};

/// Of a pointer.
const POINTER: Layout = Layout { bytes: 8, alignment: 8 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub bytes: u32,
    /// A power of two.
    pub alignment: u32,
}

impl Layout {
    pub fn of(kind: &Type) -> Layout {
        match kind {
            Type::Scalar(scalar) => {
                Layout { bytes: scalar.bytes().into(), alignment: scalar.alignment_bytes().into() }
            }
            Type::Pointer(_) => POINTER,
            Type::Struct(inner) => inner.layout(),
        }
    }

    /// That of a struct of these; nothing where it does not fit into 32 bits.
    pub(crate) fn of_fields(fields: &[Field]) -> Option<Layout> {
        let mut whole = Layout { bytes: 0, alignment: 1 };
        for (offset, field) in offsets(fields) {
            let each = Layout::of(&field.kind);
            let bytes = each.bytes.checked_mul(field.count.unwrap_or(1))?;
            whole.bytes = offset?.checked_add(bytes)?;
            whole.alignment = whole.alignment.max(each.alignment);
        }
        whole.bytes = whole.bytes.checked_next_multiple_of(whole.alignment)?;
        Some(whole)
    }
}

/// Where each field begins; nothing for one that lies beyond 32 bits.
pub(crate) fn offsets(fields: &[Field]) -> impl Iterator<Item = (Option<u32>, &Field)> {
    let mut end = Some(0_u32);
    fields.iter().map(move |field| {
        let Layout { bytes, alignment } = Layout::of(&field.kind);
        let offset = end.and_then(|end| end.checked_next_multiple_of(alignment));
        let all = bytes.checked_mul(field.count.unwrap_or(1));
        end = offset.zip(all).and_then(|(offset, all)| offset.checked_add(all));
        (offset, field)
    })
}
