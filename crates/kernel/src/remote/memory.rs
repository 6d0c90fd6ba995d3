//! Reading and writing a target's memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use brant_base::{Addr, Pid};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The memory of a process, by its number in our pid namespace. Reads honour no protection (`/proc/PID/mem`
/// forces), so that areas without read permission can be copied; writes force too.
#[derive(Debug)]
pub struct Memory {
    pid: Pid,
    file: File,
}

impl Memory {
    /// Opens `/proc/PID/mem`.
    pub fn open(pid: Pid) -> io::Result<Memory> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Memory { pid, file })
    }

    /// Fills `buffer` from `addr`, by process_vm_readv and, where protection forbids that, by force.
    pub fn read(&self, addr: Addr, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = Addr(addr.0 + done as u64);
            match self.vm_read(at, &mut buffer[done..]) {
                Ok(count) if count > 0 => done += count,
                _ => {
                    // The next page only: what follows may be readable again.
                    let page_rest = (brant_base::PAGE_SIZE - at.0 % brant_base::PAGE_SIZE) as usize;
                    let end = buffer.len().min(done + page_rest);
                    self.file.read_exact_at(&mut buffer[done..end], at.0)?;
                    done = end;
                }
            }
        }
        Ok(())
    }

    /// As [`Memory::read`], and leaves pages shared that the process has in common with another since a fork. To
    /// process_vm_readv such a page is one to be pinned, of which the kernel makes a copy for the process first (Linux 5.19).
    pub fn read_in_common(&self, addr: Addr, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, addr.0)
    }

    fn vm_read(&self, addr: Addr, buffer: &mut [u8]) -> io::Result<usize> {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: addr.0 as *mut _, iov_len: buffer.len() };
        // SAFETY: `local` is a live buffer of that length; the kernel checks the remote side.
        let count = unsafe { libc::process_vm_readv(self.pid.0, &local, 1, &remote, 1, 0) };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }

    /// Writes `bytes` at `addr` where the target itself may write. Fast; from any thread of ours.
    pub fn write(&self, addr: Addr, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let local = libc::iovec { iov_base: rest.as_ptr() as *mut _, iov_len: rest.len() };
            let remote = libc::iovec { iov_base: (addr.0 + done as u64) as *mut _, iov_len: rest.len() };
            // SAFETY: `local` is only read; the kernel checks the remote side.
            let count = unsafe { libc::process_vm_writev(self.pid.0, &local, 1, &remote, 1, 0) };
            if count <= 0 {
                return Err(io::Error::last_os_error());
            }
            done += count as usize;
        }
        Ok(())
    }

    /// Writes `bytes` at `addr` whatever the protection, code included (a private copy is made).
    pub fn write_by_force(&self, addr: Addr, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, addr.0)
    }

    /// Reads one plain value.
    pub fn read_value<T: FromBytes + IntoBytes>(&self, addr: Addr) -> io::Result<T> {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes one plain value where the target may write.
    pub fn write_value<T: IntoBytes + Immutable>(&self, addr: Addr, value: &T) -> io::Result<()> {
        self.write(addr, value.as_bytes())
    }
}
