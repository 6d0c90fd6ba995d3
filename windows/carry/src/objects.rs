//! What the program has handles of. It holds virtual ones, whose values never change; the system's own are those of this process.

use std::sync::atomic::Ordering;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};

use crate::state::{OBJECTS_MAX, Object, load, lock, state, store};

/// What a handle is. What `numbers` and `text` are stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// Access, sharing, flags, position when it was captured. Its whole path.
    File = 1,
    /// 1 for one that stays set, whether it was set when it was captured. Its name, as for those below.
    Event = 2,
    /// The owner's index and 1, or [`ABANDONED`]; how often it has it.
    Mutex = 3,
    /// Its count when it was captured, its maximum.
    Semaphore = 4,
    /// 1 for one that stays set, when it is due in our milliseconds and 1 or 0, its period, whether it was set when it was captured.
    Timer = 5,
    /// The thread's index and 1 or 0 once it has ended, its exit code.
    Thread = 6,
    /// 0, 1, 2: input, output, errors of the process.
    Standard = 7,
    /// Its access; CONIN$ or CONOUT$.
    Console = 8,
    /// Something that cannot be carried; what it is.
    Other = 9,
}

impl Kind {
    fn of(number: u32) -> Option<Kind> {
        let all = [
            Kind::File,
            Kind::Event,
            Kind::Mutex,
            Kind::Semaphore,
            Kind::Timer,
            Kind::Thread,
            Kind::Standard,
            Kind::Console,
            Kind::Other,
        ];
        all.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Values of virtual handles. The system's are small multiples of four; and no other number should look like one, as an unknown function's arguments are
/// taken for handles if they do.
const FIRST: u64 = 0x5b1a_4000;

impl Object {
    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::of(self.kind.load(Ordering::Acquire))
    }

    pub(crate) fn real(&self) -> HANDLE {
        load(&self.real) as HANDLE
    }

    pub(crate) fn number(&self, which: usize) -> u64 {
        load(&self.numbers[which])
    }

    pub(crate) fn set_number(&self, which: usize, value: u64) {
        store(&self.numbers[which], value);
    }

    pub(crate) fn index(&self) -> usize {
        (std::ptr::from_ref(self) as usize - state().objects.as_ptr() as usize) / size_of::<Object>()
    }

    pub(crate) fn handle(&self) -> u64 {
        FIRST + 4 * self.index() as u64
    }
}

/// All that there are.
pub(crate) fn all() -> impl Iterator<Item = &'static Object> {
    state().objects.iter().filter(|object| object.kind().is_some())
}

/// What a value stands for. The two low bits of a handle are the program's own.
pub(crate) fn of(handle: u64) -> Option<&'static Object> {
    // A handle has 32 bits, however it was widened.
    let index = (handle & 0xffff_fffc).checked_sub(FIRST)? / 4;
    let object = state().objects.get(index as usize)?;
    object.kind().map(|_| object)
}

/// The system's handle for a value of the program; any other value is given back as it is.
pub(crate) fn real(handle: u64) -> HANDLE {
    of(handle).map_or(handle as HANDLE, Object::real)
}

/// Arguments that stand on a stack.
const ARGUMENTS: usize = 12;

/// Called by `switch` for functions of which nothing is known: those of their arguments that are handles of the program become the system's.
#[unsafe(no_mangle)]
unsafe extern "system" fn brant_carry_translate(arguments: *mut u64) {
    for index in 0..ARGUMENTS {
        // SAFETY: a caller's stack has so many words below its own frame, of which each thread's has enough.
        let argument = unsafe { arguments.add(index).read() };
        if let Some(object) = of(argument).filter(|object| object.handle() == argument) {
            // SAFETY: as above; the arguments are the function's own.
            unsafe { arguments.add(index).write(object.real() as u64) };
        }
    }
}

/// A new handle; 0 where there are too many.
pub(crate) fn add(kind: Kind, real: HANDLE, numbers: [u64; 4], text: &[u16]) -> u64 {
    let held = lock();
    let free = state().objects.iter().position(|object| object.kind().is_none());
    let Some(object) = free.filter(|&index| index < OBJECTS_MAX).map(|index| &state().objects[index]) else {
        return 0;
    };
    let fits = object.text.set(text);
    store(&object.real, real as u64);
    for (which, number) in numbers.into_iter().enumerate() {
        object.set_number(which, number);
    }
    object.group.store(object.index() as u32 + 1, Ordering::Release);
    let kind = if fits { kind } else { Kind::Other };
    object.kind.store(kind as u32, Ordering::Release);
    drop(held);
    object.handle()
}

/// Another handle of the same thing.
pub(crate) fn add_same(object: &Object, real: HANDLE) -> u64 {
    let Some(kind) = object.kind() else { return 0 };
    let numbers = std::array::from_fn(|which| object.number(which));
    let handle = add(kind, real, numbers, object.text.get());
    if let Some(new) = of(handle) {
        new.group.store(object.group.load(Ordering::Acquire), Ordering::Release);
    }
    handle
}

/// All handles of the same thing.
pub(crate) fn same(object: &Object) -> impl Iterator<Item = &'static Object> {
    let group = object.group.load(Ordering::Acquire);
    all().filter(move |other| other.group.load(Ordering::Acquire) == group)
}

pub(crate) fn close(object: &Object) -> bool {
    let held = lock();
    let real = object.real();
    // Those of the process itself stay.
    let is_ours = object.kind() != Some(Kind::Standard);
    object.kind.store(0, Ordering::Release);
    drop(held);
    // SAFETY: the handle is the object's, which is gone.
    !is_ours || real.is_null() || unsafe { CloseHandle(real) } != 0
}

/// In the place of a mutex's owner: it has ended, and the next one who gets the mutex is told.
pub(crate) const ABANDONED: u64 = u64::MAX;

/// The objects of a thread that has ended, and the mutexes that it has left.
pub(crate) fn thread_ended(index: usize, code: u32) {
    let own = index as u64 + 1;
    for object in all().filter(|object| object.number(0) == own) {
        match object.kind() {
            Some(Kind::Thread) => {
                object.set_number(1, u64::from(code));
                object.set_number(0, 0);
            }
            Some(Kind::Mutex) => object.set_number(0, ABANDONED),
            _ => {}
        }
    }
}
