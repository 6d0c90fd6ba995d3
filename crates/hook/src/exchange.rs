//! What brant and its runtime in a program say to each other: one request and one reply, in the program's memory.
//!
//! Both sides are of the same build: brant asks only a runtime whose [`VERSION`] is its own.

use alloc::vec::Vec;

use crate::Refusal;

/// Raised with every change of what is said here or of how the runtime lies in memory.
pub const VERSION: u32 = 4;
/// The beginning of the runtime's head.
pub const MAGIC: [u8; 8] = *b"BRANTRT\0";
/// The name of the runtime's memory file, which /proc/PID/maps shows.
pub const RUNTIME_NAME: &str = "brant-runtime";
/// The kind of a program header that brant adds to those of programs which are linked statically: where functions begin and end, two
/// words each.
pub const FUNCTIONS_SEGMENT: u32 = 0x6272_616e;
/// What a runtime says of an implementation that does not want to know events.
pub const NO_EVENTS: &[u8] = b"\0";
/// What the name of a variable begins with that holds a native mediator's inner function.
pub const INNER_PREFIX: &[u8] = b"brant_inner_";
/// The longest request or reply, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// How a function takes its arguments, and how its mediator does, which has `icall` before them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// General registers that carry arguments: 6 where that is not known.
    pub registers: u8,
    /// Vector registers carry arguments.
    pub has_vectors: bool,
    /// The address of room for the result comes first.
    pub is_sret: bool,
    /// Bytes above the return address that a call of the original repeats; a multiple of 16.
    pub stack_bytes: u32,
    /// The words of the mediator's own stack arguments.
    pub words: Vec<Word>,
}

/// Where a word of the mediator's stack arguments comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// General argument register of this number.
    Register(u8),
    /// Word of this number above the return address.
    Stack(u16),
}

/// One `wrap` of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mediation {
    pub function: Vec<u8>,
    /// Empty for every version.
    pub version: Vec<u8>,
    pub library: Vec<u8>,
    pub mediator: Vec<u8>,
    /// The number of the system call that it is for, in the place of a function; `library` is "kernel" then.
    pub call: Option<u32>,
    /// The mediator has the function's own prototype.
    pub is_native: bool,
    /// The function's signature, for mediators that ask; empty where the definition has none.
    pub prototype: Vec<u8>,
    /// The same in letters: see `brant/mediator.h`.
    pub kinds: Vec<u8>,
    pub shape: Shape,
}

/// What brant asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Plan a wrapper whose implementation was loaded.
    Wrap {
        name: Vec<u8>,
        path: Vec<u8>,
        /// What dlopen gave.
        handle: u64,
        /// The program's dl_iterate_phdr.
        iterate: u64,
        /// `struct r_debug` of its loader.
        debug: u64,
        /// Calls of mediators are not kept from their own wrapper.
        is_unguarded: bool,
        /// For the implementation, which [`Request::Tell`] gives them to.
        options: Vec<u8>,
        mediations: Vec<Mediation>,
    },
    /// Plan it again: something has changed before the plan was carried out. Libraries that are loaded wait now for it.
    Replan { wrapper: u32 },
    /// Tell a wrapper's implementation what happens to it, where it wants to know.
    Tell { wrapper: u32, event: Event },
    /// Plan to take a wrapper off. Libraries that are loaded wait for that where `holds`.
    Unwrap { wrapper: u32, holds: bool },
    /// The implementation of a wrapper that was taken off was unloaded (or it stays, dormant).
    Settle { wrapper: u32, is_unloaded: bool },
    /// What there is.
    List,
}

/// What happens to a wrapper. The numbers are those of `brant/mediator.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its mediators are about to stand before their functions. It may decline.
    Load = 1,
    /// No new call reaches it; some may be under way.
    Off = 2,
    /// No call is under way. It is unloaded next.
    Unload = 3,
    /// The program is about to be checkpointed: what waits in buffers is to be written.
    Save = 4,
    /// A library has been loaded.
    Library = 5,
    /// A library has been unloaded.
    LibraryGone = 6,
}

impl Event {
    fn of(number: u8) -> Option<Event> {
        [Event::Load, Event::Off, Event::Unload, Event::Save].into_iter().find(|event| *event as u8 == number)
    }
}

/// Bytes to be written while no thread runs, if the old ones are there. Where both are the same this is only looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub address: u64,
    /// No thread may be behind its first byte, before its end.
    pub is_code: bool,
    pub old: Vec<u8>,
    pub new: Vec<u8>,
}

/// What became of one [`Mediation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// So many functions are mediated.
    Planned(u32),
    NoLibrary,
    NoFunction,
    NoMediator,
    /// Its mediator is native, and there is no variable for its inner function.
    NoInner,
    Refused(Refusal),
    /// Its library is not loaded. The function is mediated as soon as it is.
    Waits,
}

/// A wrapper that is in a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: u32,
    pub name: Vec<u8>,
    pub path: Vec<u8>,
    pub handle: u64,
    /// With what the implementation was loaded.
    pub options: Vec<u8>,
    /// Otherwise no new call reaches it: it is dormant.
    pub is_on: bool,
    /// Libraries that are loaded from now on are mediated too. Not so where the loader's own call of each change could not
    /// be hooked, and in a child of a fork that was made in the middle of a change.
    pub covers_later: bool,
    /// Its functions, outermost layer first where several wrappers mediate one.
    pub functions: Vec<Function>,
    /// Those whose library is not loaded, and those of libraries that have been loaded since which cannot be mediated.
    pub missing: Vec<Missing>,
}

/// What of a wrapper is on no function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// As the definition names it; a library that is loaded by its own name.
    pub library: Vec<u8>,
    pub function: Vec<u8>,
    pub outcome: Outcome,
}

/// A mediated function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub library: Vec<u8>,
    pub name: Vec<u8>,
    pub address: u64,
    /// How many other layers are before this one.
    pub depth: u32,
    /// The version that the definition names; empty for every one.
    pub version: Vec<u8>,
    pub mediator: Vec<u8>,
}

/// What became of the places in the program's modules that make system calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteCounts {
    /// All of them.
    pub found: u32,
    /// Those that can make a mediated call, and are patched.
    pub patched: u32,
    /// Those that may make a mediated call, and cannot be patched.
    pub missed: Vec<MissedSite>,
}

/// A place that may make a mediated system call, and cannot be patched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedSite {
    pub library: Vec<u8>,
    /// The exported function that it is in; empty where it is in none.
    pub function: Vec<u8>,
    /// From the module's base.
    pub offset: u64,
    /// The call's number; `u64::MAX` where that is not known.
    pub number: u64,
    pub refusal: Refusal,
}

/// What the runtime answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Plan {
        wrapper: u32,
        writes: Vec<Write>,
        /// Where threads go on that stand in overwritten bytes.
        moves: Vec<(u64, u64)>,
        /// One for each mediation.
        outcomes: Vec<Outcome>,
        /// Where system calls are mediated.
        sites: SiteCounts,
    },
    Settled,
    /// What the implementation said: nothing where it agrees.
    Told(Vec<u8>),
    List(Vec<Listed>),
    NoWrapper,
    NoMemory,
    /// A library is just being loaded: the plan can be made a moment later.
    Loading {
        wrapper: u32,
    },
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Request::Wrap { name, path, handle, iterate, debug, is_unguarded, options, mediations } => {
                out.push(1);
                put_bytes(&mut out, name);
                put_bytes(&mut out, path);
                put(&mut out, *handle);
                put(&mut out, *iterate);
                put(&mut out, *debug);
                out.push(u8::from(*is_unguarded));
                put_bytes(&mut out, options);
                put(&mut out, mediations.len() as u64);
                mediations.iter().for_each(|mediation| mediation.encode(&mut out));
            }
            Request::Unwrap { wrapper, holds } => {
                out.push(2);
                put(&mut out, u64::from(*wrapper));
                out.push(u8::from(*holds));
            }
            Request::Settle { wrapper, is_unloaded } => {
                out.push(3);
                put(&mut out, u64::from(*wrapper));
                out.push(u8::from(*is_unloaded));
            }
            Request::List => out.push(4),
            Request::Tell { wrapper, event } => {
                out.push(5);
                put(&mut out, u64::from(*wrapper));
                out.push(*event as u8);
            }
            Request::Replan { wrapper } => {
                out.push(6);
                put(&mut out, u64::from(*wrapper));
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Request> {
        let mut from = Reader(bytes);
        Some(match from.byte()? {
            1 => Request::Wrap {
                name: from.bytes()?,
                path: from.bytes()?,
                handle: from.number()?,
                iterate: from.number()?,
                debug: from.number()?,
                is_unguarded: from.byte()? != 0,
                options: from.bytes()?,
                mediations: from.list(Mediation::decode)?,
            },
            2 => Request::Unwrap { wrapper: from.number()? as u32, holds: from.byte()? != 0 },
            3 => Request::Settle { wrapper: from.number()? as u32, is_unloaded: from.byte()? != 0 },
            4 => Request::List,
            5 => Request::Tell { wrapper: from.number()? as u32, event: Event::of(from.byte()?)? },
            6 => Request::Replan { wrapper: from.number()? as u32 },
            _ => return None,
        })
    }
}

impl Mediation {
    fn encode(&self, out: &mut Vec<u8>) {
        for text in
            [&self.function, &self.version, &self.library, &self.mediator, &self.prototype, &self.kinds]
        {
            put_bytes(out, text);
        }
        put(out, self.call.map_or(u64::MAX, u64::from));
        out.extend([
            u8::from(self.is_native),
            self.shape.registers,
            u8::from(self.shape.has_vectors),
            u8::from(self.shape.is_sret),
        ]);
        put(out, u64::from(self.shape.stack_bytes));
        put(out, self.shape.words.len() as u64);
        for word in &self.shape.words {
            put(
                out,
                match word {
                    Word::Register(number) => u64::from(*number),
                    Word::Stack(number) => 0x100 + u64::from(*number),
                },
            );
        }
    }

    fn decode(from: &mut Reader<'_>) -> Option<Mediation> {
        Some(Mediation {
            function: from.bytes()?,
            version: from.bytes()?,
            library: from.bytes()?,
            mediator: from.bytes()?,
            prototype: from.bytes()?,
            kinds: from.bytes()?,
            call: u32::try_from(from.number()?).ok(),
            is_native: from.byte()? != 0,
            shape: Shape {
                registers: from.byte()?,
                has_vectors: from.byte()? != 0,
                is_sret: from.byte()? != 0,
                stack_bytes: from.number()? as u32,
                words: from.list(|from| {
                    Some(match from.number()? {
                        number @ 0..=5 => Word::Register(number as u8),
                        number => Word::Stack(u16::try_from(number.checked_sub(0x100)?).ok()?),
                    })
                })?,
            },
        })
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Reply::Plan { wrapper, writes, moves, outcomes, sites } => {
                out.push(1);
                put(&mut out, u64::from(*wrapper));
                put(&mut out, writes.len() as u64);
                for write in writes {
                    put(&mut out, write.address);
                    out.push(u8::from(write.is_code));
                    put_bytes(&mut out, &write.old);
                    put_bytes(&mut out, &write.new);
                }
                put(&mut out, moves.len() as u64);
                for (from, to) in moves {
                    put(&mut out, *from);
                    put(&mut out, *to);
                }
                put(&mut out, outcomes.len() as u64);
                outcomes.iter().for_each(|outcome| put(&mut out, outcome.number()));
                sites.encode(&mut out);
            }
            Reply::Settled => out.push(2),
            Reply::Told(said) => {
                out.push(6);
                put_bytes(&mut out, said);
            }
            Reply::List(wrappers) => {
                out.push(3);
                put(&mut out, wrappers.len() as u64);
                wrappers.iter().for_each(|wrapper| wrapper.encode(&mut out));
            }
            Reply::NoWrapper => out.push(4),
            Reply::NoMemory => out.push(5),
            Reply::Loading { wrapper } => {
                out.push(7);
                put(&mut out, u64::from(*wrapper));
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Reply> {
        let mut from = Reader(bytes);
        Some(match from.byte()? {
            1 => Reply::Plan {
                wrapper: from.number()? as u32,
                writes: from.list(|from| {
                    let (address, is_code) = (from.number()?, from.byte()? != 0);
                    Some(Write { address, is_code, old: from.bytes()?, new: from.bytes()? })
                })?,
                moves: from.list(|from| Some((from.number()?, from.number()?)))?,
                outcomes: from.list(|from| Outcome::from_number(from.number()?))?,
                sites: SiteCounts::decode(&mut from)?,
            },
            2 => Reply::Settled,
            3 => Reply::List(from.list(Listed::decode)?),
            4 => Reply::NoWrapper,
            5 => Reply::NoMemory,
            7 => Reply::Loading { wrapper: from.number()? as u32 },
            6 => Reply::Told(from.bytes()?),
            _ => return None,
        })
    }
}

impl SiteCounts {
    fn encode(&self, out: &mut Vec<u8>) {
        put(out, u64::from(self.found));
        put(out, u64::from(self.patched));
        put(out, self.missed.len() as u64);
        for missed in &self.missed {
            put_bytes(out, &missed.library);
            put_bytes(out, &missed.function);
            put(out, missed.offset);
            put(out, missed.number);
            out.push(missed.refusal as u8);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Option<SiteCounts> {
        Some(SiteCounts {
            found: from.number()? as u32,
            patched: from.number()? as u32,
            missed: from.list(|from| {
                Some(MissedSite {
                    library: from.bytes()?,
                    function: from.bytes()?,
                    offset: from.number()?,
                    number: from.number()?,
                    refusal: Refusal::from_number(from.byte()?)?,
                })
            })?,
        })
    }
}

impl Listed {
    fn encode(&self, out: &mut Vec<u8>) {
        put(out, u64::from(self.id));
        put_bytes(out, &self.name);
        put_bytes(out, &self.path);
        put(out, self.handle);
        put_bytes(out, &self.options);
        out.extend([u8::from(self.is_on), u8::from(self.covers_later)]);
        put(out, self.functions.len() as u64);
        for function in &self.functions {
            put_bytes(out, &function.library);
            put_bytes(out, &function.name);
            put(out, function.address);
            put(out, u64::from(function.depth));
            put_bytes(out, &function.version);
            put_bytes(out, &function.mediator);
        }
        put(out, self.missing.len() as u64);
        for missing in &self.missing {
            put_bytes(out, &missing.library);
            put_bytes(out, &missing.function);
            put(out, missing.outcome.number());
        }
    }

    fn decode(from: &mut Reader<'_>) -> Option<Listed> {
        Some(Listed {
            id: from.number()? as u32,
            name: from.bytes()?,
            path: from.bytes()?,
            handle: from.number()?,
            options: from.bytes()?,
            is_on: from.byte()? != 0,
            covers_later: from.byte()? != 0,
            functions: from.list(|from| {
                Some(Function {
                    library: from.bytes()?,
                    name: from.bytes()?,
                    address: from.number()?,
                    depth: from.number()? as u32,
                    version: from.bytes()?,
                    mediator: from.bytes()?,
                })
            })?,
            missing: from.list(|from| {
                let (library, function) = (from.bytes()?, from.bytes()?);
                Some(Missing { library, function, outcome: Outcome::from_number(from.number()?)? })
            })?,
        })
    }
}

impl Outcome {
    fn number(self) -> u64 {
        match self {
            Outcome::Planned(count) => 0x1000 + u64::from(count),
            Outcome::NoLibrary => 1,
            Outcome::NoFunction => 2,
            Outcome::NoMediator => 3,
            Outcome::Waits => 4,
            Outcome::NoInner => 5,
            Outcome::Refused(refusal) => 0x100 + refusal as u64,
        }
    }

    fn from_number(number: u64) -> Option<Outcome> {
        Some(match number {
            1 => Outcome::NoLibrary,
            2 => Outcome::NoFunction,
            3 => Outcome::NoMediator,
            4 => Outcome::Waits,
            5 => Outcome::NoInner,
            0x100..=0x1ff => Outcome::Refused(Refusal::from_number((number - 0x100) as u8)?),
            _ => Outcome::Planned(u32::try_from(number.checked_sub(0x1000)?).ok()?),
        })
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend(bytes);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.number()?).ok()?;
        let bytes = self.0.get(..length)?;
        self.0 = &self.0[length..];
        Some(bytes.to_vec())
    }

    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        // An element has eight bytes at least.
        if count > self.0.len() as u64 / 8 {
            return None;
        }
        (0..count).map(|_| element(self)).collect()
    }
}
