//! A Windows program's records.

use brant_base::PageRange;

use super::require;
use crate::ImageError;
use crate::model::*;

/// What there is no room for beside a Windows program.
pub(super) fn check(checkpoint: &Checkpoint, windows: &Windows) -> Result<(), ImageError> {
    let rest = Checkpoint {
        host: checkpoint.host.clone(),
        clocks: checkpoint.clocks,
        command: checkpoint.command.clone(),
        job: checkpoint.job.clone(),
        root: checkpoint.root,
        windows: checkpoint.windows.clone(),
        ..Checkpoint::default()
    };
    require(*checkpoint == rest, || "a Windows program is among records of Linux programs".into())?;
    require(i64::from(checkpoint.root.0) == i64::from(windows.pid) && windows.pid != 0, || {
        "the root process is not the Windows program".into()
    })?;
    let first = windows.modules.first();
    require(first.is_some_and(|module| module.path == windows.program), || {
        "the first module is not the program".into()
    })?;
    require(!windows.threads.is_empty(), || "the program has no thread".into())?;
    let texts = [&windows.program, &windows.command_line, &windows.directory];
    let paths = windows.modules.iter().map(|module| &module.path);
    require(
        !texts.into_iter().chain(paths).chain(&windows.environment).any(|text| text.contains('\0')),
        || "a text has a NUL".into(),
    )?;
    let regions: Vec<PageRange> = windows.regions.iter().map(|region| region.range).collect();
    require(regions.iter().all(|range| range.pages() > 0), || "a region is empty".into())?;
    require(regions.windows(2).all(|pair| pair[0].end() <= pair[1].start()), || {
        "regions are not sorted or overlap".into()
    })?;
    require(regions.iter().any(|range| range.contains(windows.state)), || {
        "the agent's own pages are in no region".into()
    })?;
    require(windows.heaps.iter().all(|range| range.pages() > 0), || "a heap is empty".into())?;
    require(windows.heaps.windows(2).all(|pair| pair[0].end() <= pair[1].start()), || {
        "heaps are not sorted or overlap".into()
    })
}
