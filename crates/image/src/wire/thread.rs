//! Threads.

use brant_base::{Addr, Redacted, Tid};
use prost::Message;

use super::{Malformed, list, maybe, need, parse, signals};
use crate::model;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Thread {
    #[prost(int32, tag = "1")]
    tid: i32,
    #[prost(bytes = "vec", tag = "2")]
    name: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    registers: Option<Registers>,
    #[prost(bytes = "vec", tag = "4")]
    xstate: Vec<u8>,
    #[prost(fixed64, tag = "5")]
    signal_mask: u64,
    #[prost(message, repeated, tag = "6")]
    pending: Vec<signals::QueuedSignal>,
    #[prost(message, optional, tag = "7")]
    alternate_stack: Option<AlternateStack>,
    #[prost(message, optional, tag = "8")]
    rseq: Option<Rseq>,
    #[prost(message, optional, tag = "9")]
    robust_list: Option<RobustList>,
    #[prost(uint64, tag = "10")]
    clear_tid: u64,
    #[prost(message, optional, tag = "11")]
    scheduling: Option<Scheduling>,
    #[prost(int32, tag = "12")]
    parent_death_signal: i32,
    #[prost(message, optional, tag = "13")]
    interrupted: Option<InterruptedCall>,
}

impl From<&model::Thread> for Thread {
    fn from(from: &model::Thread) -> Thread {
        Thread {
            tid: from.tid.0,
            name: from.name.clone(),
            registers: Some((&from.registers).into()),
            xstate: from.xstate.0.clone(),
            signal_mask: from.signal_mask,
            pending: list(&from.pending),
            alternate_stack: Some((&from.alternate_stack).into()),
            rseq: from.rseq.as_ref().map(Rseq::from),
            robust_list: from.robust_list.as_ref().map(RobustList::from),
            clear_tid: from.clear_tid.0,
            scheduling: Some((&from.scheduling).into()),
            parent_death_signal: from.parent_death_signal,
            interrupted: from.interrupted.as_ref().map(InterruptedCall::from),
        }
    }
}

impl TryFrom<Thread> for model::Thread {
    type Error = Malformed;

    fn try_from(from: Thread) -> Result<model::Thread, Malformed> {
        Ok(model::Thread {
            tid: Tid(from.tid),
            name: from.name,
            registers: need("thread.registers", from.registers)?,
            xstate: Redacted(from.xstate),
            signal_mask: from.signal_mask,
            pending: parse(from.pending)?,
            alternate_stack: need("thread.alternate_stack", from.alternate_stack)?,
            rseq: maybe(from.rseq)?,
            robust_list: maybe(from.robust_list)?,
            clear_tid: Addr(from.clear_tid),
            scheduling: need("thread.scheduling", from.scheduling)?,
            parent_death_signal: from.parent_death_signal,
            interrupted: maybe(from.interrupted)?,
        })
    }
}

/// The registers' message and both conversions, which only repeat twenty names.
macro_rules! registers {
    ($($name:ident = $tag:literal),*) => {
        #[derive(Clone, PartialEq, Message)]
        struct Registers {
            $(#[prost(fixed64, tag = $tag)] $name: u64,)*
        }

        impl From<&model::Registers> for Registers {
            fn from(from: &model::Registers) -> Registers {
                Registers { $($name: from.$name,)* }
            }
        }

        impl From<Registers> for model::Registers {
            fn from(from: Registers) -> model::Registers {
                model::Registers { $($name: from.$name,)* }
            }
        }
    };
}

registers!(
    r15 = "1",
    r14 = "2",
    r13 = "3",
    r12 = "4",
    rbp = "5",
    rbx = "6",
    r11 = "7",
    r10 = "8",
    r9 = "9",
    r8 = "10",
    rax = "11",
    rcx = "12",
    rdx = "13",
    rsi = "14",
    rdi = "15",
    rip = "16",
    eflags = "17",
    rsp = "18",
    fs_base = "19",
    gs_base = "20"
);

#[derive(Clone, PartialEq, Message)]
struct InterruptedCall {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    remaining_ns: u64,
}

impl From<&model::InterruptedCall> for InterruptedCall {
    fn from(from: &model::InterruptedCall) -> InterruptedCall {
        let &model::InterruptedCall { number, remaining_ns } = from;
        InterruptedCall { number, remaining_ns }
    }
}

impl From<InterruptedCall> for model::InterruptedCall {
    fn from(from: InterruptedCall) -> model::InterruptedCall {
        let InterruptedCall { number, remaining_ns } = from;
        model::InterruptedCall { number, remaining_ns }
    }
}

#[derive(Clone, PartialEq, Message)]
struct AlternateStack {
    #[prost(uint64, tag = "1")]
    base: u64,
    #[prost(int32, tag = "2")]
    flags: i32,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

impl From<&model::AlternateStack> for AlternateStack {
    fn from(from: &model::AlternateStack) -> AlternateStack {
        AlternateStack { base: from.base.0, flags: from.flags, bytes: from.bytes }
    }
}

impl From<AlternateStack> for model::AlternateStack {
    fn from(from: AlternateStack) -> model::AlternateStack {
        model::AlternateStack { base: Addr(from.base), flags: from.flags, bytes: from.bytes }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Rseq {
    #[prost(uint64, tag = "1")]
    area: u64,
    #[prost(uint32, tag = "2")]
    bytes: u32,
    #[prost(fixed32, tag = "3")]
    signature: u32,
    #[prost(uint32, tag = "4")]
    flags: u32,
}

impl From<&model::Rseq> for Rseq {
    fn from(from: &model::Rseq) -> Rseq {
        Rseq { area: from.area.0, bytes: from.bytes, signature: from.signature, flags: from.flags }
    }
}

impl From<Rseq> for model::Rseq {
    fn from(from: Rseq) -> model::Rseq {
        model::Rseq { area: Addr(from.area), bytes: from.bytes, signature: from.signature, flags: from.flags }
    }
}

#[derive(Clone, PartialEq, Message)]
struct RobustList {
    #[prost(uint64, tag = "1")]
    head: u64,
    #[prost(uint64, tag = "2")]
    bytes: u64,
}

impl From<&model::RobustList> for RobustList {
    fn from(from: &model::RobustList) -> RobustList {
        RobustList { head: from.head.0, bytes: from.bytes }
    }
}

impl From<RobustList> for model::RobustList {
    fn from(from: RobustList) -> model::RobustList {
        model::RobustList { head: Addr(from.head), bytes: from.bytes }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Scheduling {
    #[prost(uint32, tag = "1")]
    policy: u32,
    #[prost(bool, tag = "2")]
    reset_on_fork: bool,
    #[prost(uint32, tag = "3")]
    priority: u32,
    #[prost(sint32, tag = "4")]
    nice: i32,
    #[prost(uint64, tag = "5")]
    timer_slack_ns: u64,
    #[prost(uint32, repeated, tag = "6")]
    affinity: Vec<u32>,
    #[prost(uint32, tag = "7")]
    io_priority: u32,
}

impl From<&model::Scheduling> for Scheduling {
    fn from(from: &model::Scheduling) -> Scheduling {
        Scheduling {
            policy: from.policy,
            reset_on_fork: from.reset_on_fork,
            priority: from.priority,
            nice: from.nice,
            timer_slack_ns: from.timer_slack_ns,
            affinity: from.affinity.clone(),
            io_priority: from.io_priority,
        }
    }
}

impl From<Scheduling> for model::Scheduling {
    fn from(from: Scheduling) -> model::Scheduling {
        model::Scheduling {
            policy: from.policy,
            reset_on_fork: from.reset_on_fork,
            priority: from.priority,
            nice: from.nice,
            timer_slack_ns: from.timer_slack_ns,
            affinity: from.affinity,
            io_priority: from.io_priority,
        }
    }
}
