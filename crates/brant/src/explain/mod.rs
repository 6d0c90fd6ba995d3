//! Every error code with its long explanation, in one table for each family.

mod images;
mod jobs;

/// An error code's page.
pub(crate) struct Entry {
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    /// Paragraphs of plain text.
    pub(crate) text: &'static str,
}

/// All codes in ascending order.
pub(crate) static TABLE: std::sync::LazyLock<Vec<&'static Entry>> =
    std::sync::LazyLock::new(|| [jobs::ENTRIES, images::ENTRIES].into_iter().flatten().collect());

/// The entry of `code`, in any case, with or without its "B-".
pub(crate) fn find(code: &str) -> Option<&'static Entry> {
    let code = code.to_ascii_uppercase();
    let number = code.strip_prefix("B-").unwrap_or(&code);
    TABLE.iter().find(|entry| &entry.code[2..] == number).copied()
}
