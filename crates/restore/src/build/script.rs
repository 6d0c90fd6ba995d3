//! A list of system calls for one task, made in as few runs as possible.

use brant_base::{PAGE_SIZE, Pid};
use brant_kernel::remote::{Call, Puppet};

use crate::Error;

/// What a call's failure means.
#[derive(Debug, Clone, Copy)]
enum Demand {
    Must,
    /// A setting that this user may lack the right for: said, not fatal.
    May,
    /// Its result is not looked at.
    Any,
}

/// Calls with the data that they point to.
pub(crate) struct Script {
    room: u64,
    room_bytes: usize,
    data: Vec<u8>,
    calls: Vec<(Call, &'static str, Demand)>,
}

/// A page at the start of the argument area is left to single calls.
const RESERVED_BYTES: u64 = PAGE_SIZE;

impl Script {
    pub(crate) fn new(puppet: &Puppet) -> Script {
        let room = puppet.arguments();
        Script {
            room: room.start().0 + RESERVED_BYTES,
            room_bytes: (room.bytes() - RESERVED_BYTES) as usize,
            data: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// Puts `bytes` where the task can read them, and returns their address there.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = self.room + self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        assert!(self.data.len() <= self.room_bytes, "a script is run before its data area is full");
        at
    }

    /// Whether `bytes` more may be put.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.data.len() + 8 + bytes <= self.room_bytes
    }

    /// A call that must succeed.
    pub(crate) fn must(&mut self, what: &'static str, number: i64, arguments: &[u64]) {
        self.calls.push((Call::new(number, arguments), what, Demand::Must));
    }

    /// A call whose failure becomes a warning.
    pub(crate) fn may(&mut self, what: &'static str, number: i64, arguments: &[u64]) {
        self.calls.push((Call::new(number, arguments), what, Demand::May));
    }

    /// A call whose result does not matter.
    pub(crate) fn any(&mut self, what: &'static str, number: i64, arguments: &[u64]) {
        self.calls.push((Call::new(number, arguments), what, Demand::Any));
    }

    /// Makes the calls, and returns the kernel's raw results.
    pub(crate) fn run(
        self,
        puppet: &mut Puppet,
        pid: Pid,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<u64>, Error> {
        if self.calls.is_empty() {
            return Ok(Vec::new());
        }
        let calls: Vec<Call> = self.calls.iter().map(|(call, ..)| *call).collect();
        puppet
            .write_memory(brant_base::Addr(self.room), &self.data)
            .map_err(Error::remote(pid, "writing arguments"))?;
        let results = puppet.batch(&calls).map_err(Error::remote(pid, self.calls[0].1))?;
        for ((call, what, demand), result) in self.calls.iter().zip(&results) {
            let errno = match *result as i64 {
                value @ -4095..=-1 => -value as i32,
                _ => continue,
            };
            let error = std::io::Error::from_raw_os_error(errno);
            match demand {
                Demand::Must => {
                    return Err(Error::Call { pid, what, number: call.number, error });
                }
                Demand::May => {
                    let warning = format!("process {pid}: {what} failed: {error}");
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
                Demand::Any => {}
            }
        }
        Ok(results)
    }
}
