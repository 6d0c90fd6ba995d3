//! `virtual`: programs that are executed have the table too, if a restore has said where brant is: that hands a copy of it on, as
//! `follow-exec` hands on other wrappers.
//!
//! The path of a program may have numbers in it, or be one that leads elsewhere. It is translated anew for the call, as the process
//! may have been brought back under other numbers while it waited for brant.

use core::ffi::c_char;

use super::follow::{AT_FDCWD, Helper, Watch};
use super::virtual_files::with_path;
use super::virtual_table::table;

fn helper() -> Option<Helper<'static>> {
    table().brant().map(|path| Helper { path, options: c"" })
}

fn watch(folder: usize, path: usize, flags: usize) -> Watch {
    let mut watch = Watch::none();
    if helper().is_none() {
        return watch;
    }
    with_path(path, |path| {
        watch = Watch::begin(helper, folder, path as *const c_char, flags);
        0
    });
    watch
}

brant_mediator::mediator! {
    fn virtual_execve(call, path: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        let watch = watch(AT_FDCWD, path, 0);
        // SAFETY: as the program called it, with another path.
        let result = with_path(path, |path| unsafe { call.inner_fn()(path, b, c, d, e, f) });
        watch.failed();
        result
    }

    fn virtual_execveat(call, folder: usize, path: usize, c: usize, d: usize, flags: usize, f: usize) -> isize {
        let watch = watch(folder, path, flags);
        // SAFETY: as the program called it, with another path.
        let result = with_path(path, |path| unsafe { call.inner_fn()(folder, path, c, d, flags, f) });
        watch.failed();
        result
    }
}
