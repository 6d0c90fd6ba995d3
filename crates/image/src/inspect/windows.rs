//! A Windows program in words.

use std::fmt;

use brant_base::PageRange;

use super::text::{readable, size};
use crate::model::{Windows, WindowsModule};

/// What a restore needs, each in one sentence.
pub(super) fn needs(windows: &Windows) -> Vec<String> {
    let mut needs = vec!["brant.exe, on Windows or under Wine, x86_64".to_owned()];
    needs.extend(windows.modules.iter().map(module));
    let heap = |range: &PageRange| {
        format!("the addresses {} to {} free, where a heap of the system was", range.start(), range.end())
    };
    needs.extend(windows.heaps.iter().map(heap));
    needs
}

fn module(module: &WindowsModule) -> String {
    let digest: String = module.digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("the file {} (blake3 {digest}), at {}", readable(module.path.as_bytes()), module.range.start())
}

/// A Windows program, for who has told the image's own facts already.
pub(super) struct Told<'a>(pub(super) &'a Windows);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text(f, self.0)
    }
}

pub(super) fn text(f: &mut fmt::Formatter<'_>, windows: &Windows) -> fmt::Result {
    let bytes = windows.regions.iter().map(|region| region.range.bytes()).sum();
    writeln!(f, "\nWindows program {}, {}", windows.pid, readable(windows.program.as_bytes()))?;
    writeln!(
        f,
        "  in {}, {} in {} regions",
        readable(windows.directory.as_bytes()),
        size(bytes),
        windows.regions.len()
    )?;
    writeln!(f, "\nthreads ({})", windows.threads.len())?;
    for thread in &windows.threads {
        let function = readable(thread.function.as_bytes());
        writeln!(
            f,
            "  {:>7} {}",
            thread.number,
            if function.is_empty() { "its own code".into() } else { function }
        )?;
    }
    writeln!(f, "\nhandles ({})", windows.handles.len())?;
    for handle in &windows.handles {
        writeln!(f, "  {:>#9x} {}", handle.value, readable(handle.what.as_bytes()))?;
    }
    Ok(())
}
