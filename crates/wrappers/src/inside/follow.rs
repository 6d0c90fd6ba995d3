//! `follow-exec`: before this process executes another program, a brant is there that puts wrappers on that.
//!
//! The process executes its program itself, with its own system call, so that everything about it is as it would be, errors
//! too. Only before that it starts a brant, which seizes it and says so; whatever goes wrong with that, the program is
//! executed all the same, and is not wrapped. That brant is the child of a child that ends at once, so the program has no child
//! of ours; both are made in the way of vfork(2), on the stack of the caller, and execute or end before it goes on.
//!
//! This may run in the child of a vfork, in the memory and on a small stack of its parent, which goes on with that memory when
//! the program is executed. So nothing is allocated or written but on the stack.
//!
//! The two talk by single bytes over a pair of sockets, see [`crate::follow`]. Facts relied upon: a process of `exit_signal` 0
//! shows to its parent by __WALL only; prctl(PR_GET_SECCOMP) is 0 where there is no filter (seccomp(2)); pid_for_children
//! differs from pid where the next child would be process 1 of a new namespace (unshare(2)).

use core::arch::global_asm;
use core::ffi::{CStr, c_char, c_int};

use super::system::{self, Once, call};
use crate::follow::{DONE, GO, NUMBERS_BYTES, OPTION_BRANT, PERMIT, VERB, WAIT_S};
use crate::options::PATH_BYTES_MAX;

const SYS_CLOSE: usize = 3;
const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_SENDTO: usize = 44;
const SYS_RECVFROM: usize = 45;
const SYS_SOCKETPAIR: usize = 53;
const SYS_SETSOCKOPT: usize = 54;
const SYS_WAIT4: usize = 61;
const SYS_READLINK: usize = 89;
const SYS_PRCTL: usize = 157;
const SYS_GETPID: usize = 39;
const SYS_OPENAT: usize = 257;

const EINTR: isize = -4;
const ENOENT: isize = -2;
pub(super) const AT_FDCWD: usize = -100isize as usize;
const AT_EMPTY_PATH: usize = 0x1000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const O_NOFOLLOW: usize = 0o400_000;
const O_PATH_CLOEXEC: usize = 0o10_000_000 | 0o2_000_000;
const AF_UNIX: usize = 1;
const SOCK_STREAM_CLOEXEC: usize = 1 | 0o2_000_000;
const SOL_SOCKET: usize = 1;
const SO_RCVTIMEO: usize = 20;
const MSG_NOSIGNAL: usize = 0x4000;
const WALL: usize = 0x4000_0000;
const SIG_SETMASK: usize = 2;
const PR_GET_SECCOMP: usize = 21;
const PR_GET_CHILD_SUBREAPER: usize = 37;
const PR_SET_PTRACER: usize = 0x5961_6d61;

/// How many brants are started for one execution, where one after the other is killed.
const HELPERS_MAX: u32 = 3;

/// What is set when the library is loaded.
struct Setting {
    /// With a zero byte at the end.
    brant: [u8; PATH_BYTES_MAX + 1],
    /// The options as they are, which brant reads.
    options: &'static CStr,
}

static SETTING: Once<Setting> = Once::new();

pub(super) fn prepare(options: &'static CStr) -> Result<(), &'static str> {
    let lines = options.to_bytes().split(|byte| *byte == b'\n');
    let path = lines.filter_map(|line| line.strip_prefix(OPTION_BRANT.as_bytes())).next();
    let path = path.ok_or("brant does not say where it is")?;
    let mut brant = [0; PATH_BYTES_MAX + 1];
    if path.len() > PATH_BYTES_MAX {
        return Err("the path of brant is too long");
    }
    brant[..path.len()].copy_from_slice(path);
    SETTING.set(Setting { brant, options });
    Ok(())
}

/// The brant that is to be started, and what it is told.
#[derive(Clone, Copy)]
pub(super) struct Helper<'a> {
    /// Its path, with a zero byte at the end.
    pub(super) path: &'a [u8],
    pub(super) options: &'a CStr,
}

/// The one that options name.
fn helper() -> Option<Helper<'static>> {
    SETTING.get().map(|setting| Helper { path: &setting.brant, options: setting.options })
}

brant_mediator::mediator! {
    fn follow_execve(
        icall,
        path: *const c_char,
        arguments: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int {
        let watch = Watch::begin(helper, AT_FDCWD, path, 0);
        let result = icall.inner();
        watch.failed();
        result
    }

    fn follow_execveat(
        icall,
        folder: c_int,
        path: *const c_char,
        arguments: *const *const c_char,
        environment: *const *const c_char,
        flags: c_int,
    ) -> c_int {
        let watch = Watch::begin(helper, folder as isize as usize, path, flags as usize);
        let result = icall.inner();
        watch.failed();
        result
    }

    fn follow_fexecve(
        icall,
        file: c_int,
        arguments: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int {
        let watch = Watch::begin(helper, file as isize as usize, c"".as_ptr(), AT_EMPTY_PATH);
        let result = icall.inner();
        watch.failed();
        result
    }
}

/// A brant that has seized this thread, or none.
pub(super) struct Watch {
    socket: Option<usize>,
}

/// What has come of starting a brant.
enum Begun {
    Seized(Watch),
    /// There is none, and will be none.
    None,
    /// It has ended without a word.
    Lost,
}

impl Watch {
    pub(super) fn none() -> Watch {
        Watch { socket: None }
    }

    /// Lets a brant seize this thread. Where that does not come about there is none.
    pub(super) fn begin(
        helper: fn() -> Option<Helper<'static>>,
        folder: usize,
        path: *const c_char,
        flags: usize,
    ) -> Watch {
        let none = Watch::none();
        if helper().is_none() || !may_have_children() {
            return none;
        }
        for _ in 0..HELPERS_MAX {
            // Each time anew: the process may have been brought back elsewhere meanwhile.
            let Some(helper) = helper() else { return none };
            match Watch::begin_once(helper, folder, path, flags) {
                Begun::Seized(watch) => return watch,
                Begun::None => return none,
                Begun::Lost => {}
            }
        }
        none
    }

    fn begin_once(helper: Helper<'_>, folder: usize, path: *const c_char, flags: usize) -> Begun {
        let Some((file, is_own)) = open(folder, path, flags) else { return Begun::None };
        let mut ends = [0u32; 2];
        // SAFETY: there is room for two descriptors.
        let made =
            unsafe { call(SYS_SOCKETPAIR, [AF_UNIX, SOCK_STREAM_CLOEXEC, 0, &raw mut ends as usize, 0, 0]) };
        let [ours, theirs] = ends.map(|end| end as usize);
        let started = if made == 0 { spawn(helper, theirs, file) } else { None };
        if is_own {
            close(file);
        }
        if made != 0 {
            return Begun::None;
        }
        close(theirs);
        let watch = Watch { socket: Some(ours) };
        let begun = match started {
            Some(started) => watch.settle(ours, started),
            None => Begun::None,
        };
        if !matches!(begun, Begun::Seized(_)) {
            close(ours);
        }
        begun
    }

    /// Waits until the brant has seized this thread.
    fn settle(self, socket: usize, started: usize) -> Begun {
        let limit = [WAIT_S, 0u64];
        // SAFETY: the kernel reads the time.
        unsafe { call(SYS_SETSOCKOPT, [socket, SOL_SOCKET, SO_RCVTIMEO, &raw const limit as usize, 16, 0]) };
        send_numbers(socket);
        let mut said = receive(socket);
        if said == Said::Byte(PERMIT) {
            // Where Yama asks for it. It is void when that brant has ended.
            // SAFETY: plain numbers.
            unsafe { call(SYS_PRCTL, [PR_SET_PTRACER, started, 0, 0, 0, 0]) };
            send(socket, PERMIT);
            said = receive(socket);
        }
        match said {
            Said::Byte(GO) => Begun::Seized(self),
            Said::End => Begun::Lost,
            _ => Begun::None,
        }
    }

    /// The program could not be executed: lets go of the brant, which ends.
    pub(super) fn failed(&self) {
        let Some(socket) = self.socket else { return };
        send(socket, DONE);
        while matches!(receive(socket), Said::Byte(_)) {}
        close(socket);
    }
}

/// Whether this process may make a child that nobody notices, and that may look at it.
fn may_have_children() -> bool {
    let mut is_reaper = 0u32;
    // SAFETY: plain numbers, and room for one.
    let (filter, asked, own) = unsafe {
        (
            call(SYS_PRCTL, [PR_GET_SECCOMP, 0, 0, 0, 0, 0]),
            call(SYS_PRCTL, [PR_GET_CHILD_SUBREAPER, &raw mut is_reaper as usize, 0, 0, 0, 0]),
            call(SYS_GETPID, [0; 6]),
        )
    };
    // The brant would become its child, where it is the one that takes orphans.
    filter == 0 && asked == 0 && is_reaper == 0 && own != 1 && is_namespace_own()
}

fn is_namespace_own() -> bool {
    let read = |name: &CStr| {
        let mut text = [0u8; 32];
        // SAFETY: writes so many bytes at most.
        let bytes = unsafe {
            call(SYS_READLINK, [name.as_ptr() as usize, text.as_mut_ptr() as usize, text.len(), 0, 0, 0])
        };
        (bytes > 0).then_some(text)
    };
    let own = read(c"/proc/thread-self/ns/pid");
    own.is_some() && own == read(c"/proc/thread-self/ns/pid_for_children")
}

/// The file that is to be executed, and whether the descriptor is ours.
fn open(folder: usize, path: *const c_char, flags: usize) -> Option<(usize, bool)> {
    let no_follow = if flags & AT_SYMLINK_NOFOLLOW != 0 { O_NOFOLLOW } else { 0 };
    // SAFETY: the kernel reads the path, and tells where it cannot.
    match unsafe { call(SYS_OPENAT, [folder, path as usize, O_PATH_CLOEXEC | no_follow, 0, 0, 0]) } {
        file if file >= 0 => Some((file as usize, true)),
        ENOENT if flags & AT_EMPTY_PATH != 0 => Some((folder, false)),
        _ => None,
    }
}

fn close(file: usize) {
    // SAFETY: a descriptor of ours.
    unsafe { call(SYS_CLOSE, [file, 0, 0, 0, 0, 0]) };
}

fn send(socket: usize, byte: u8) {
    // SAFETY: the kernel reads one byte.
    unsafe { call(SYS_SENDTO, [socket, &raw const byte as usize, 1, MSG_NOSIGNAL, 0, 0]) };
}

/// The numbers of this process and thread, as they are now.
fn send_numbers(socket: usize) {
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { call(SYS_GETPID, [0; 6]) } as u32;
    let mut bytes = [0; NUMBERS_BYTES];
    bytes[..4].copy_from_slice(&own.to_le_bytes());
    bytes[4..].copy_from_slice(&system::thread().to_le_bytes());
    // SAFETY: the kernel reads these bytes.
    unsafe { call(SYS_SENDTO, [socket, bytes.as_ptr() as usize, bytes.len(), MSG_NOSIGNAL, 0, 0]) };
}

/// What comes from the other side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Byte(u8),
    /// It has gone.
    End,
    /// Nothing has come in time.
    Nothing,
}

fn receive(socket: usize) -> Said {
    const ECONNRESET: isize = -104;
    let mut byte = 0u8;
    loop {
        // SAFETY: there is room for one byte.
        match unsafe { call(SYS_RECVFROM, [socket, &raw mut byte as usize, 1, 0, 0, 0]) } {
            1 => return Said::Byte(byte),
            EINTR => {}
            // It may have gone before it has read what it was told.
            0 | ECONNRESET => return Said::End,
            _ => return Said::Nothing,
        }
    }
}

/// What `brant_follow_spawn` reads, and where it writes.
#[repr(C)]
struct Spawn {
    path: *const u8,
    arguments: *const *const u8,
    environment: *const *const u8,
    /// Descriptors that the new program keeps.
    socket: usize,
    file: usize,
    /// The number of the process that executes it.
    helper: isize,
}

// A child in the way of vfork, whose child executes the program. Nothing is pushed: all three are on one stack.
global_asm!(
    ".p2align 4",
    ".hidden brant_follow_spawn",
    ".type brant_follow_spawn, @function",
    "brant_follow_spawn:",
    ".cfi_startproc",
    "push rbx",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbx, -16",
    "mov rbx, rdi",
    "call 30f",
    "test rax, rax",
    "jz 10f",
    "pop rbx",
    ".cfi_def_cfa_offset 8",
    "ret",
    ".cfi_def_cfa_offset 16",
    // The child.
    "10:",
    "call 30f",
    "test rax, rax",
    "jz 20f",
    "mov [rbx + 40], rax",
    "11:",
    "xor edi, edi",
    "mov eax, 60",
    "syscall",
    "jmp 11b",
    // Its child.
    "20:",
    "mov rdi, [rbx + 24]",
    "mov esi, 2", // F_SETFD
    "xor edx, edx",
    "mov eax, 72",
    "syscall",
    "mov rdi, [rbx + 32]",
    "mov esi, 2",
    "xor edx, edx",
    "mov eax, 72",
    "syscall",
    "mov rdi, [rbx]",
    "mov rsi, [rbx + 8]",
    "mov rdx, [rbx + 16]",
    "mov eax, 59",
    "syscall",
    "21:",
    "mov edi, 127",
    "mov eax, 60",
    "syscall",
    "jmp 21b",
    // clone(CLONE_VM | CLONE_VFORK), without a signal at its end. The address to return to is in a register: the child, which
    // goes on first, would leave another one at its place on the stack.
    "30:",
    "pop r9",
    "mov edi, 0x4100",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, 56",
    "syscall",
    "jmp r9",
    ".cfi_endproc",
    ".size brant_follow_spawn, . - brant_follow_spawn",
);

unsafe extern "C" {
    fn brant_follow_spawn(spawn: *mut Spawn) -> isize;
}

/// Starts brant; its number.
fn spawn(started: Helper<'_>, socket: usize, file: usize) -> Option<usize> {
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { call(SYS_GETPID, [0; 6]) as usize };
    let mut text = [0u8; 64];
    let mut numbers = Numbers { text: &mut text, used: 0 };
    [own, system::thread() as usize, socket, file].into_iter().for_each(|number| numbers.put(number));
    let arguments = [
        started.path.as_ptr(),
        VERB.as_ptr().cast(),
        text.as_ptr(),
        started.options.as_ptr().cast(),
        core::ptr::null(),
    ];
    let environment = [core::ptr::null()];
    let mut spawn = Spawn {
        path: started.path.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        socket,
        file,
        helper: 0,
    };
    // A handler must not run in these children, in the program's memory.
    let (all, mut mask) = (u64::MAX, 0u64);
    let block = [SIG_SETMASK, &raw const all as usize, &raw mut mask as usize, 8, 0, 0];
    // SAFETY: it reads and writes eight bytes each; the children use memory that outlives them, and end or execute before
    // this returns; the last two wait for what was made here and put back what was there.
    let child = unsafe {
        if call(SYS_RT_SIGPROCMASK, block) != 0 {
            return None;
        }
        let child = brant_follow_spawn(&raw mut spawn);
        if child > 0 {
            while call(SYS_WAIT4, [child as usize, 0, WALL, 0, 0, 0]) == EINTR {}
        }
        call(SYS_RT_SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, 8, 0, 0]);
        child
    };
    (child > 0 && spawn.helper > 0).then_some(spawn.helper as usize)
}

/// Numbers in decimal with spaces between them, and a zero byte at the end.
struct Numbers<'a> {
    text: &'a mut [u8; 64],
    used: usize,
}

impl Numbers<'_> {
    fn put(&mut self, number: usize) {
        let mut digits = [0u8; 20];
        let (mut rest, mut first) = (number, digits.len());
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if self.used > 0 {
            self.text[self.used] = b' ';
            self.used += 1;
        }
        for digit in &digits[first..] {
            // Four numbers that the kernel gives are much shorter.
            if let Some(place) = self.text.get_mut(self.used) {
                *place = *digit;
                self.used += 1;
            }
        }
    }
}
