//! A thread's own state.

use brant_base::{Addr, Redacted, Tid};
use brant_image::model::*;
use brant_kernel::proc;
use brant_kernel::ptrace::{self, Queue, UserRegisters};
use brant_kernel::remote::Hand;
use brant_kernel::thread as attributes;

use super::signals;
use crate::error::Error;
use crate::freeze::FrozenThread;
use crate::sleep;
use crate::tree::Member;

const PR_GET_PDEATHSIG: u64 = 2;
const PR_GET_TID_ADDRESS: u64 = 40;
/// SS_ONSTACK: where the stack pointer is tells that anew.
const SS_ONSTACK: i32 = 1;

/// Thread number `index` of the process that `hand` holds.
pub(crate) fn collect(
    hand: &mut Hand,
    index: usize,
    member: &Member,
    thread: &FrozenThread,
) -> Result<Thread, Error> {
    let tid = thread.host;
    let failed = |operation| move |error| Error::Thread { tid, operation, error };
    let status = proc::status((member.host, tid))?;
    let (registers, interrupted) = sleep::for_image(thread, hand.memory());
    let rseq = ptrace::rseq_configuration(tid).unwrap_or_default();
    let (head, bytes) = attributes::robust_list(tid).map_err(failed("reading its robust list"))?;
    Ok(Thread {
        tid: status.inner_tid(),
        name: proc::comm((member.host, tid))?,
        registers: image_registers(&registers),
        xstate: Redacted(ptrace::xstate(tid).map_err(failed("reading its extended state"))?),
        signal_mask: thread.mask,
        pending: signals::pending(tid, Queue::Thread)?,
        alternate_stack: alternate_stack(hand, index)?,
        rseq: (rseq.area != 0).then_some(Rseq {
            area: Addr(rseq.area),
            bytes: rseq.bytes,
            signature: rseq.signature,
            flags: rseq.flags,
        }),
        robust_list: (head != 0).then_some(RobustList { head: Addr(head), bytes }),
        clear_tid: Addr(prctl_value(hand, index, PR_GET_TID_ADDRESS)?),
        scheduling: scheduling(hand, index, member, tid)?,
        parent_death_signal: prctl_value(hand, index, PR_GET_PDEATHSIG)? as i32,
        interrupted,
    })
}

/// What a remote call left at the start of the data area.
pub(crate) fn read_data<T: zerocopy::FromBytes + zerocopy::IntoBytes>(hand: &Hand) -> Result<T, Error> {
    hand.memory()
        .read_value::<T>(hand.data().start())
        .map_err(|error| Error::Descriptor { what: "reading what a remote call wrote".to_owned(), error })
}

/// A prctl that stores its result where its second argument points. Only as many bytes as it stores are kept.
pub(crate) fn prctl_value(hand: &mut Hand, index: usize, option: u64) -> Result<u64, Error> {
    let data = hand.data().start();
    hand.memory()
        .write_value(data, &0u64)
        .map_err(|error| Error::Descriptor { what: "preparing a remote call".to_owned(), error })?;
    hand.call(index, libc::SYS_prctl, [option, data.0, 0, 0, 0, 0])?;
    read_data(hand)
}

fn alternate_stack(hand: &mut Hand, index: usize) -> Result<AlternateStack, Error> {
    hand.call(index, libc::SYS_sigaltstack, [0, hand.data().start().0, 0, 0, 0, 0])?;
    let [base, flags, bytes] = read_data::<[u64; 3]>(hand)?;
    Ok(AlternateStack { base: Addr(base), flags: flags as i32 & !SS_ONSTACK, bytes })
}

/// Policy, niceness, affinity; the timer slack by a call of its own.
fn scheduling(hand: &mut Hand, index: usize, member: &Member, tid: Tid) -> Result<Scheduling, Error> {
    let failed = |error| Error::Thread { tid, operation: "reading its scheduling", error };
    let stat = proc::stat((member.host, tid))?;
    let policy = attributes::scheduling_policy(tid).map_err(failed)?;
    Ok(Scheduling {
        policy: policy & !(libc::SCHED_RESET_ON_FORK as u32),
        reset_on_fork: policy & libc::SCHED_RESET_ON_FORK as u32 != 0,
        priority: stat.rt_priority,
        nice: stat.nice as i32,
        // A result, not an error, whatever its size; real-time threads have none.
        timer_slack_ns: hand
            .call(index, libc::SYS_prctl, [libc::PR_GET_TIMERSLACK as u64, 0, 0, 0, 0, 0])
            .unwrap_or(0),
        affinity: attributes::affinity(tid).map_err(failed)?,
        io_priority: attributes::io_priority(tid).map_err(failed)?,
    })
}

/// The registers by name: the order of an image is its own, not the kernel's.
fn image_registers(registers: &UserRegisters) -> Registers {
    let UserRegisters {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        rip,
        eflags,
        rsp,
        fs_base,
        gs_base,
        ..
    } = *registers;
    Registers {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        rip,
        eflags,
        rsp,
        fs_base,
        gs_base,
    }
}
