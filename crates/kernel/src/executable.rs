//! What a file would become if it were executed, by the rules of execve(2).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::make;

/// How many interpreters the kernel follows (`BINPRM_MAX_RECURSION` of fs/exec.c is less).
const INTERPRETERS_MAX: usize = 6;
/// How much of a script's first line the kernel reads (`BINPRM_BUF_SIZE`).
const LINE_BYTES: usize = 256;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2010;

/// Whether a program gets rights by being executed, which it would not get while it is traced: by a bit of its file, or of the
/// interpreter of a script, or by capabilities of the file. Paths of interpreters start at our working folder. An error
/// where the file cannot be looked at.
pub fn gains_rights(file: impl AsFd) -> io::Result<bool> {
    let mut file = file.as_fd().try_clone_to_owned()?;
    for _ in 0..INTERPRETERS_MAX {
        if has_rights(file.as_fd())? {
            return Ok(true);
        }
        match interpreter(&file)? {
            Some(path) => file = make::open(&path, libc::O_PATH)?,
            None => return Ok(false),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn own_path(file: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn has_rights(file: BorrowedFd<'_>) -> io::Result<bool> {
    let path = own_path(file);
    let mode = std::fs::metadata(&path)?.mode();
    if mode & SET_UID != 0 || mode & SET_GID == SET_GID {
        return Ok(true);
    }
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both are live strings with a NUL; nothing is written where the room is 0.
    let bytes =
        unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    match io::Error::last_os_error().raw_os_error() {
        _ if bytes >= 0 => Ok(true),
        Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The interpreter that a script names.
fn interpreter(file: &OwnedFd) -> io::Result<Option<PathBuf>> {
    let mut line = Vec::new();
    File::open(own_path(file.as_fd()))?.take(LINE_BYTES as u64).read_to_end(&mut line)?;
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(None) };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let rest = rest.split(|byte| matches!(byte, b'\n' | 0)).next().unwrap_or_default();
    let word = rest.split(is_blank).find(|word| !word.is_empty()).unwrap_or_default();
    Ok(Some(Path::new(std::ffi::OsStr::from_bytes(word)).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn bits_of_files_and_of_their_interpreters_are_found() {
        let folder = std::env::temp_dir().join(format!("brant-rights-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let write = |name: &str, content: &str, mode: u32| -> PathBuf {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let gains = |path: &Path| gains_rights(make::open(path, libc::O_PATH).unwrap()).ok();
        let plain = write("plain", "", 0o755);
        let of_user = write("of-user", "", 0o4755);
        let of_group = write("of-group", "", 0o2755);
        let locking = write("locking", "", 0o2745);
        assert_eq!(gains(&plain), Some(false));
        assert_eq!(gains(&of_user), Some(true));
        assert_eq!(gains(&of_group), Some(true));
        assert_eq!(gains(&locking), Some(false));
        for (interpreter, wanted) in
            [(&plain, Some(false)), (&of_user, Some(true)), (&folder.join("no"), None)]
        {
            let script = write("script", &format!("#! {} -x\n", interpreter.display()), 0o755);
            assert_eq!(gains(&script), wanted, "{}", interpreter.display());
        }
        let endless = write("endless", &format!("#!{}", folder.join("endless").display()), 0o755);
        assert_eq!(gains(&endless), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
