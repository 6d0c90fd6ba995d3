//! Pipes: what is in flight, without taking it (tee(2)).

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{checked, queued_bytes};

/// F_GETPIPE_SZ: room in bytes.
pub fn pipe_capacity_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: takes no further argument.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) }).map(|bytes| bytes as u32)
}

/// The bytes in flight in a pipe or fifo, of which `fd` is a descriptor that can be read from. Nothing is
/// taken. One piece in all, or one a packet where they were written in packet mode (O_DIRECT).
///
/// Exact only while nobody reads or writes. Fails rather than answer a part.
pub fn peek_pipe(fd: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let total = queued_bytes(fd)?;
    if total == 0 {
        return Ok(Vec::new());
    }
    let (mut reader, writer) = io::pipe()?;
    let capacity = pipe_capacity_bytes(fd)?;
    // As many slots as the source has: each may hold as little as one byte. Where a limit of the user's
    // forbids that, the usual size may be enough.
    // SAFETY: plain numbers.
    let sized = checked(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, capacity) });
    // SAFETY: plain numbers.
    let copied =
        unsafe { libc::tee(fd.as_raw_fd(), writer.as_raw_fd(), i32::MAX as usize, libc::SPLICE_F_NONBLOCK) };
    if copied < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(writer);
    let mut pieces = Vec::new();
    let mut left = copied as usize;
    while left > 0 {
        // A read ends early at a packet's end only.
        let mut piece = vec![0; left];
        let count = reader.read(&mut piece)?;
        if count == 0 {
            break;
        }
        piece.truncate(count);
        left -= count;
        pieces.push(piece);
    }
    if copied as usize != total || left != 0 {
        sized?;
        return Err(io::Error::other("a pipe changed, or holds more pieces than can be copied"));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_stay_where_they_are() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        assert!(peek_pipe(reader.as_fd()).unwrap().is_empty());
        writer.write_all(b"first ").unwrap();
        writer.write_all(b"second").unwrap();
        for _ in 0..2 {
            assert_eq!(peek_pipe(reader.as_fd()).unwrap(), [b"first second"]);
        }
        drop(writer);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"first second");
    }

    #[test]
    fn a_full_pipe_is_read_whole() {
        let (reader, writer) = io::pipe().unwrap();
        // SAFETY: plain numbers.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
        let bytes: Vec<u8> = (0..1 << 20).map(|index: u32| (index / 7) as u8).collect();
        (&writer).write_all(&bytes).unwrap();
        assert_eq!(peek_pipe(reader.as_fd()).unwrap(), [bytes]);
        assert_eq!(pipe_capacity_bytes(reader.as_fd()).unwrap(), 1 << 20);
    }

    #[test]
    fn packets_keep_their_bounds() {
        let mut ends = [0i32; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_DIRECT | libc::O_CLOEXEC) }, 0);
        // SAFETY: both are new and nobody else's.
        let [reader, writer] = ends.map(|end| unsafe {
            use std::os::fd::FromRawFd;
            std::fs::File::from_raw_fd(end)
        });
        (&writer).write_all(b"one").unwrap();
        (&writer).write_all(b"fourteen bytes").unwrap();
        assert_eq!(peek_pipe(reader.as_fd()).unwrap(), [&b"one"[..], &b"fourteen bytes"[..]]);
    }
}
