//! Threads: their numbers, what each has registered with the kernel, their registers.

use brant_base::{Addr, Pid};
use brant_image::model::{Credentials, ProcessBody, Registers, Thread, XstateComponent};
use brant_kernel::facts::XstateComponent as HostComponent;
use brant_kernel::ptrace::UserRegisters;
use brant_kernel::remote::{Fork, Puppet};

use super::credentials::{self, Rights};
use super::script::Script;
use crate::Error;
use crate::numbers::Numbers;

/// Makes all threads but the main one, in the order of the image.
pub(crate) fn make(
    main: &mut Puppet,
    pid: Pid,
    body: &ProcessBody,
    numbers: &Numbers,
) -> Result<Vec<Puppet>, Error> {
    let others = body.threads.iter().filter(|thread| thread.tid.0 != pid.0);
    others
        .map(|thread| {
            let made = main.fork(Fork::Thread, numbers.wanted(thread.tid.0));
            let puppet = made.map_err(Error::remote(pid, "making a thread with its number"))?;
            numbers.note(thread.tid.0, puppet.tid());
            Ok(puppet)
        })
        .collect()
}

/// What [`set`] is told besides the thread.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) pid: Pid,
    pub(crate) credentials: &'a Credentials,
    pub(crate) dumpable: i32,
    pub(crate) rights: Rights,
}

/// Sets everything that a thread has registered with the kernel, its name, scheduling and credentials.
pub(crate) fn set(
    puppet: &mut Puppet,
    thread: &Thread,
    setting: Setting<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut script = Script::new(puppet);
    register(&mut script, thread);
    schedule(&mut script, thread);
    credentials::set(&mut script, setting.credentials, setting.rights);
    if thread.parent_death_signal != 0 {
        let arguments = [libc::PR_SET_PDEATHSIG as u64, thread.parent_death_signal as u64, 0, 0, 0];
        script.must("setting its parent death signal", libc::SYS_prctl, &arguments);
    }
    // 2 (readable by root only) is what the kernel sets for processes that changed identity.
    let dumpable = [libc::PR_SET_DUMPABLE as u64, u64::from(setting.dumpable == 1), 0, 0, 0];
    script.must("setting whether it may be dumped", libc::SYS_prctl, &dumpable);
    script.run(puppet, setting.pid, warnings)?;
    const FLAG_ID: u64 = 1 << 21;
    const FLAG_ALWAYS: u64 = 1 << 1;
    if thread.registers.eflags & FLAG_ID != 0 {
        puppet.load_flags(FLAG_ID | FLAG_ALWAYS).map_err(Error::remote(setting.pid, "loading its flags"))?;
    }
    Ok(())
}

/// What a thread has registered with the kernel: robust list, restartable sequences, where its number is cleared,
/// alternate stack.
fn register(script: &mut Script, thread: &Thread) {
    if let Some(list) = thread.robust_list {
        let arguments = [list.head.0, list.bytes];
        script.must("setting a robust list", libc::SYS_set_robust_list, &arguments);
    }
    if let Some(rseq) = thread.rseq {
        let arguments =
            [rseq.area.0, u64::from(rseq.bytes), u64::from(rseq.flags), u64::from(rseq.signature)];
        script.must("registering restartable sequences", libc::SYS_rseq, &arguments);
    }
    script.must("setting the address of its number", libc::SYS_set_tid_address, &[thread.clear_tid.0]);
    let stack = thread.alternate_stack;
    let has_stack = stack.flags & libc::SS_DISABLE == 0 && stack.bytes != 0;
    // Without one of its own it must not keep the one that it has from the builder.
    let words = match has_stack {
        true => [stack.base.0, stack.flags as u64 & 0xffff_ffff, stack.bytes],
        false => [0, libc::SS_DISABLE as u64, 0],
    };
    let at = script.put(&words.map(u64::to_le_bytes).concat());
    script.must("setting its alternate stack", libc::SYS_sigaltstack, &[at, 0]);
    let mut name = thread.name.clone();
    name.push(0);
    let at = script.put(&name);
    script.must("setting its name", libc::SYS_prctl, &[libc::PR_SET_NAME as u64, at, 0, 0, 0]);
}

/// Its scheduling, by sched_setattr(2), and its affinity and priorities.
fn schedule(script: &mut Script, thread: &Thread) {
    const SCHED_ATTRIBUTES_BYTES: u32 = 48;
    const RESET_ON_FORK: u64 = 1;
    const IOPRIO_WHO_PROCESS: u64 = 1;
    const CPUS_MAX: u32 = 8192;
    let scheduling = &thread.scheduling;
    let mut attributes = Vec::with_capacity(SCHED_ATTRIBUTES_BYTES as usize);
    attributes.extend(SCHED_ATTRIBUTES_BYTES.to_le_bytes());
    attributes.extend(scheduling.policy.to_le_bytes());
    attributes.extend((u64::from(scheduling.reset_on_fork) * RESET_ON_FORK).to_le_bytes());
    attributes.extend(scheduling.nice.to_le_bytes());
    attributes.extend(scheduling.priority.to_le_bytes());
    attributes.resize(SCHED_ATTRIBUTES_BYTES as usize, 0);
    let at = script.put(&attributes);
    script.may("setting its scheduling", libc::SYS_sched_setattr, &[0, at, 0]);
    if let Some(last) = scheduling.affinity.iter().copied().filter(|cpu| *cpu < CPUS_MAX).max() {
        let mut bits = vec![0u8; (last as usize / 64 + 1) * 8];
        for cpu in scheduling.affinity.iter().filter(|cpu| **cpu < CPUS_MAX) {
            bits[*cpu as usize / 8] |= 1 << (cpu % 8);
        }
        let at = script.put(&bits);
        script.may("setting its CPUs", libc::SYS_sched_setaffinity, &[0, bits.len() as u64, at]);
    }
    if scheduling.timer_slack_ns != 0 {
        let arguments = [libc::PR_SET_TIMERSLACK as u64, scheduling.timer_slack_ns, 0, 0, 0];
        script.may("setting its timer slack", libc::SYS_prctl, &arguments);
    }
    if scheduling.io_priority != 0 {
        let arguments = [IOPRIO_WHO_PROCESS, 0, u64::from(scheduling.io_priority)];
        script.may("setting its I/O priority", libc::SYS_ioprio_set, &arguments);
    }
}

/// The registers that a thread goes on with, in a task whose segments are `base`'s.
pub(crate) fn final_registers(r: &Registers, base: &UserRegisters) -> UserRegisters {
    UserRegisters {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.rbp,
        rbx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        orig_rax: u64::MAX,
        rip: r.rip,
        eflags: r.eflags,
        rsp: r.rsp,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ..*base
    }
}

/// Where the components in use stand in an extended state.
const XSTATE_FEATURES_AT: usize = 512;

/// The components of an extended state that are in use, as bits of XCR0.
pub(crate) fn xstate_in_use(state: &[u8]) -> u64 {
    let bytes = state.get(XSTATE_FEATURES_AT..XSTATE_FEATURES_AT + 8);
    bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
}

/// The extended state for this host: `image`'s components at their places in `host`, a state that the kernel here gave.
/// Both are in the standard XSAVE layout, in which CPU vendors have given components different places. The plan has
/// seen that all that is in use exists here.
pub(crate) fn adapt_xstate(
    (image, image_layout): (&[u8], &[XstateComponent]),
    (host, host_layout): (&[u8], &[HostComponent]),
) -> Vec<u8> {
    /// x87 and SSE, and what software may use.
    const LEGACY_BYTES: usize = 512;
    const SOFTWARE: std::ops::Range<usize> = 464..512;
    const HEADER_END: usize = 576;
    let mut bytes = vec![0; host.len()];
    let legacy = LEGACY_BYTES.min(image.len()).min(host.len());
    bytes[..legacy].copy_from_slice(&image[..legacy]);
    if host.len() < HEADER_END || image.len() < HEADER_END {
        return bytes;
    }
    bytes[SOFTWARE].copy_from_slice(&host[SOFTWARE]);
    let enabled = u64::from_le_bytes(host[SOFTWARE.start..][..8].try_into().expect("8 bytes"));
    let mut features = xstate_in_use(image) & enabled & 0b11;
    for place in host_layout {
        let bit = 1 << place.number;
        let source = match image_layout.iter().find(|other| other.number == place.number) {
            Some(other) => (other.bytes == place.bytes).then_some(other.offset),
            // An image that does not say comes from a CPU like this one.
            None => image_layout.is_empty().then_some(place.offset),
        };
        let (Some(source), true) = (source, xstate_in_use(image) & enabled & bit != 0) else { continue };
        let (from, to, count) = (source as usize, place.offset as usize, place.bytes as usize);
        if let (Some(part), Some(into)) = (image.get(from..from + count), bytes.get_mut(to..to + count)) {
            into.copy_from_slice(part);
            features |= bit;
        }
    }
    bytes[XSTATE_FEATURES_AT..][..8].copy_from_slice(&features.to_le_bytes());
    bytes
}

/// A `syscall` instruction in the program's own code, for the calls that the stub cannot make.
pub(crate) fn find_call(puppet: &Puppet, body: &ProcessBody) -> Option<Addr> {
    const CHUNK_BYTES: u64 = 1 << 20;
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    for mapping in body.memory.mappings.iter().filter(|mapping| mapping.protection.execute) {
        let length = mapping.range.bytes().min(CHUNK_BYTES);
        let mut code = vec![0; length as usize];
        if puppet.read_memory(mapping.range.start(), &mut code).is_err() {
            continue;
        }
        if let Some(at) = code.windows(2).position(|bytes| bytes == SYSCALL) {
            return mapping.range.start().checked_add(at as u64);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xstate_takes_the_size_features_and_places_of_the_host() {
        // AVX-512 as two vendors place it; the second has no component 5.
        let places = [(2, 576, 256), (5, 1088, 64), (9, 2688, 8)];
        let image_layout = places.map(|(number, offset, bytes)| XstateComponent { number, offset, bytes });
        let host_layout = [(2, 576, 256), (9, 2432, 8)].map(|(number, offset, bytes)| HostComponent {
            number,
            offset,
            bytes,
        });
        let mut image = vec![0u8; 2696];
        image[0] = 7;
        image[512..520].copy_from_slice(&0x227u64.to_le_bytes());
        image[576..832].fill(2);
        image[1088..1152].fill(5);
        image[2688..2696].fill(9);
        let mut host = vec![0u8; 2440];
        host[464..472].copy_from_slice(&0x207u64.to_le_bytes());
        let adapted = adapt_xstate((&image, &image_layout), (&host, &host_layout));
        assert_eq!(adapted.len(), 2440);
        assert_eq!(xstate_in_use(&adapted), 0x207);
        assert_eq!((adapted[0], adapted[575], adapted[576], adapted[831]), (7, 0, 2, 2));
        assert!(adapted[832..2432].iter().all(|byte| *byte == 0));
        assert_eq!(adapted[2432..], [9; 8]);
        // The same layout where the image does not say.
        let same = adapt_xstate((&image[..2440], &[]), (&host, &host_layout));
        assert_eq!((same[576], same[2432]), (2, 0));
    }
}
