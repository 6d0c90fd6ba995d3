//! `brant.exe explain`.

use brant_windows::{EXPLANATIONS, Refused};

use super::usage;

/// Prints what stands behind a code.
pub(crate) fn explain(words: &[String]) -> Result<(), Refused> {
    let [code] = words else { return Err(usage("explain takes one code")) };
    let code = code.to_ascii_uppercase();
    let number = code.strip_prefix("B-").unwrap_or(&code);
    let (code, text) = EXPLANATIONS
        .iter()
        .find(|(code, _)| &code[2..] == number)
        .ok_or_else(|| usage(&format!("{code} is no code of the Windows part")))?;
    println!("{code}: {text}");
    Ok(())
}
