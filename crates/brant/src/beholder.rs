//! What brant keeps of wrapped programs in their images, and what of their memory need not be written: the engine knows
//! nothing of wrappers, and asks here while a tree stands still.

use brant_base::{PageRange, Pid, Tid};
use brant_capture::{Beheld, Beholder};

/// The notes with records.
pub(crate) const NOTE: &str = "record";

/// For every checkpoint that this binary takes.
#[derive(Debug)]
pub(crate) struct Binary;

impl Beholder for Binary {
    /// A record that cannot be read is no reason to have no image; `brant show` of the program says what is wrong with it.
    fn notes(&self, process: &Beheld) -> Vec<(&'static str, Vec<u8>)> {
        let record = brant_record::read(process.task).ok().flatten();
        record.map(|snapshot| (NOTE, snapshot.encode())).into_iter().collect()
    }

    fn unread(&self, process: &Beheld) -> Vec<PageRange> {
        brant_connect::free_memory(process.task)
    }

    /// A program that is being executed with wrappers is seized by another brant, and waits for it.
    fn is_passing(&self, processes: &[Pid]) -> bool {
        brant_connect::follow::is_under_way(processes)
    }

    /// One that translates a number could not go on under other numbers.
    fn unsettled(&self, processes: &[Pid]) -> Vec<Tid> {
        processes.iter().flat_map(|pid| brant_connect::translating(*pid)).collect()
    }
}
