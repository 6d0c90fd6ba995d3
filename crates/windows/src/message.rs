//! What is asked of the agent in a program, and what it answers.
//!
//! A request is JSON behind a [`Block`] in the program's memory. A thread that is made in the program for it runs
//! [`AGENT_ENTRY`] with the block's address, and ends when it is done: whoever asked may have ended meanwhile.

use serde::{Deserialize, Serialize};

use crate::record::Shown;
use crate::{Refused, Spec};

/// Another number for each change of what is here.
pub const PROTOCOL: u32 = 4;
/// The agent's file, beside brant.exe.
pub const AGENT_FILE: &str = "brant_agent.dll";
/// What the agent exports for requests: a thread's function.
pub const AGENT_ENTRY: &str = "brant_agent_serve";

/// The beginning of a request in the program's memory; its words follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Block {
    pub protocol: u32,
    pub request_bytes: u32,
    /// Where the answer is, memory of VirtualAlloc that who asked gives back; 0 until there is one.
    pub reply: u64,
    pub reply_bytes: u64,
    /// The agent counts its steps here: who asked waits as long as it goes on.
    pub steps: u64,
    /// Not 0: who asked does not wait any more. What has not been done by then is not done.
    pub is_withdrawn: u64,
}

impl Block {
    pub const BYTES: usize = 40;
    /// Where [`Block::steps`] is.
    pub const STEPS: usize = std::mem::offset_of!(Block, steps);
    /// Where [`Block::is_withdrawn`] is.
    pub const IS_WITHDRAWN: usize = std::mem::offset_of!(Block, is_withdrawn);

    pub fn to_bytes(self) -> [u8; Block::BYTES] {
        let mut bytes = [0; Block::BYTES];
        bytes[..4].copy_from_slice(&self.protocol.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.request_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.reply.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.reply_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.steps.to_le_bytes());
        bytes[32..].copy_from_slice(&self.is_withdrawn.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; Block::BYTES]) -> Block {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Block {
            protocol: word(0),
            request_bytes: word(4),
            reply: long(8),
            reply_bytes: long(16),
            steps: long(24),
            is_withdrawn: long(32),
        }
    }
}

const _: () = assert!(size_of::<Block>() == Block::BYTES);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Whether there is anybody.
    Hello,
    Wrap(Spec),
    Unwrap {
        name: String,
    },
    Wrappers,
    /// What the wrapper `record` has kept.
    Show,
    /// The virtual handles; with `renew` they stand for new real ones afterwards.
    Handles {
        renew: bool,
    },
    /// Prepare a program that has not begun for being captured.
    Carry {
        /// Its heaps are the system's own, and are brought back at their addresses or not at all.
        raw_heaps: bool,
    },
    /// Write an image to this path, which is absolute.
    Checkpoint {
        path: String,
        stop: bool,
    },
    /// Become the program of the image at this path.
    Restore {
        path: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Hello,
    Wrapped(Wrapped),
    Unwrapped {
        interceptions: Vec<Interception>,
        left: Left,
    },
    Wrappers(Vec<Listed>),
    Shown(Box<Shown>),
    Handles(Vec<VirtualHandle>),
    /// Of Carry and Restore.
    Prepared,
    /// Of Checkpoint.
    Written {
        bytes: u64,
    },
    Refused(Refused),
}

/// A wrapper that has been put on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    /// The wrapper's own name.
    pub name: String,
    pub interceptions: Vec<Interception>,
    pub missing: Vec<Missing>,
}

/// One function with a mediator before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interception {
    pub function: String,
    /// The library that the definition names.
    pub library: String,
    pub address: u64,
    pub mediator: String,
    /// How many mediators are called before this one.
    pub depth: u32,
}

/// One function of a definition without a mediator before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub function: String,
    pub library: String,
    /// Why it cannot be mediated; nothing where its library is not loaded yet.
    pub why: Option<String>,
}

/// What the program holds, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualHandle {
    pub handle: u64,
    pub real: u64,
    pub kind: String,
}

/// What is left of a wrapper that was taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Left {
    /// Its implementation is unloaded.
    Nothing,
    /// A call is still under way in it after some seconds, so it stays loaded.
    Dormant,
}

/// A wrapper that a process has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub implementation: String,
    /// Whether it is on; else it was taken off while calls were under way.
    pub is_on: bool,
    pub interceptions: Vec<Interception>,
    pub missing: Vec<Missing>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_as_it_is_written() {
        let block = Block {
            protocol: 1,
            request_bytes: 0x0102_0304,
            reply: 0x1122_3344_5566_7788,
            reply_bytes: 9,
            steps: 10,
            is_withdrawn: 11,
        };
        let again = Block::from_bytes(block.to_bytes());
        assert_eq!((again.protocol, again.request_bytes), (1, 0x0102_0304));
        assert_eq!((again.reply, again.reply_bytes), (0x1122_3344_5566_7788, 9));
        assert_eq!((again.steps, again.is_withdrawn), (10, 11));
        assert_eq!(block.to_bytes()[4..8], [4, 3, 2, 1]);
        assert_eq!((block.to_bytes()[Block::STEPS], block.to_bytes()[Block::IS_WITHDRAWN]), (10, 11));
    }
}
