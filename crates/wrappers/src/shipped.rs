//! brant's side: which wrappers there are, and whether options are right.

use std::path::{Path, PathBuf};

use brant_identity::AddressPair;

use crate::options;

/// The library with all mediators.
pub static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wrappers.so"));

/// `implementation "brant:NAME"` means [`LIBRARY`] as the wrapper NAME, in definitions of users too.
pub const IMPLEMENTATION: &str = "brant:";

/// The definition of what carries wrappers over to programs that are executed.
pub const FOLLOW: &str = include_str!("../definitions/follow.wrap");

/// What an option's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// There is none.
    Flag,
    /// A file's path; one of brant's own working folder.
    Path,
    /// `A=B`: two absolute paths.
    Pair,
    /// `OLD=NEW`: two internet addresses.
    Addresses,
    /// Any words without a comma.
    Text,
    /// A number up to this.
    Number(u64),
    /// How fast time goes.
    Scale,
    /// How far the time of day is from the real one, and what it is at first.
    Shift,
    Start,
}

/// One option.
#[derive(Debug)]
struct Known {
    key: &'static str,
    kind: Kind,
}

/// Where records go, for every wrapper that writes any.
const OUT: Known = Known { key: "out", kind: Kind::Path };
const JSON: Known = Known { key: "json", kind: Kind::Flag };
const DIRECT: Known = Known { key: "direct", kind: Kind::Flag };
const STRINGS: Known = Known { key: "strings", kind: Kind::Number(options::STRINGS_MAX as u64) };
const MAP: Known = Known { key: "map", kind: Kind::Pair };

const TRACE: &[Known] = &[OUT, JSON, DIRECT, STRINGS];
const NET: &[Known] = &[OUT, JSON, DIRECT];
const VIRTUAL: &[Known] = &[
    Known { key: "table", kind: Kind::Path },
    Known { key: "host", kind: Kind::Text },
    MAP,
    Known { key: "address", kind: Kind::Addresses },
];
const FILES: &[Known] = &[OUT, JSON, DIRECT, MAP];
/// brant itself says whether the program is at its start.
const RECORD: &[Known] = &[];

const HEAP: &[Known] = &[
    OUT,
    JSON,
    Known { key: "frames", kind: Kind::Number(options::FRAMES_MAX as u64) },
    Known { key: "top", kind: Kind::Number(options::TOP_MAX) },
    Known { key: "every", kind: Kind::Number(options::EVERY_S_MAX) },
];

const TIME: &[Known] = &[
    Known { key: "scale", kind: Kind::Scale },
    Known { key: "shift", kind: Kind::Shift },
    Known { key: "start", kind: Kind::Start },
];

impl Kind {
    /// Whether it may be said more than once.
    fn is_many(self) -> bool {
        matches!(self, Kind::Pair | Kind::Addresses)
    }
}

/// A wrapper that ships.
#[derive(Debug)]
pub struct Shipped {
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Its definition file.
    pub definition: &'static str,
    options: &'static [Known],
    /// Every other key is a function: `FUNCTION=N:ERRNO`.
    has_faults: bool,
    /// It must be told where its records go.
    needs_out: bool,
    /// It does what it does without being told anything.
    needs_nothing: bool,
    /// Its mediators call nothing that is mediated. So they need no guard, and are there for signal handlers that interrupt them, too.
    pub calls_nothing: bool,
}

static SHIPPED: [Shipped; 10] = [
    Shipped {
        name: "trace",
        about: "calls with arguments and results: out=FILE[,json][,strings=N][,direct]",
        definition: include_str!("../definitions/trace.wrap"),
        options: TRACE,
        has_faults: false,
        needs_out: true,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "files",
        about: "files that the program opens, and other ones in their place: [out=FILE][,json][,direct][,map=A=B...]",
        definition: include_str!("../definitions/files.wrap"),
        options: FILES,
        has_faults: false,
        needs_out: false,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "net",
        about: "connections made and accepted: out=FILE[,json][,direct]",
        definition: include_str!("../definitions/net.wrap"),
        options: NET,
        has_faults: false,
        needs_out: true,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "procs",
        about: "processes, threads, executed programs and ends: out=FILE[,json][,strings=N][,direct]",
        definition: include_str!("../definitions/procs.wrap"),
        options: TRACE,
        has_faults: false,
        needs_out: true,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "record",
        about: "files, connections, processes, threads, memory and sleeps, for brant show; it takes no options",
        definition: include_str!("../definitions/record.wrap"),
        options: RECORD,
        has_faults: false,
        needs_out: false,
        needs_nothing: true,
        calls_nothing: false,
    },
    Shipped {
        name: "heap",
        about: "memory from the allocator, by size and caller: out=FILE[,json][,frames=N][,top=N][,every=SECONDS]",
        definition: include_str!("../definitions/heap.wrap"),
        options: HEAP,
        has_faults: false,
        needs_out: true,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "time",
        about: "time that goes faster, slower, or is another one: [scale=N][,shift=+3d|-1h|,start=2030-01-01T00:00:00Z]",
        definition: include_str!("../definitions/time.wrap"),
        options: TIME,
        has_faults: false,
        needs_out: false,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "syscalls",
        about: "system calls, as strace shows them: out=FILE[,json][,strings=N][,direct]",
        definition: include_str!("../definitions/syscalls.wrap"),
        options: TRACE,
        has_faults: false,
        needs_out: true,
        needs_nothing: false,
        calls_nothing: false,
    },
    Shipped {
        name: "virtual",
        about: "process numbers and names that a restore may change: [host=NAME][,map=A=B...][,address=OLD=NEW...]",
        definition: include_str!("../definitions/virtual.wrap"),
        options: VIRTUAL,
        has_faults: false,
        needs_out: false,
        needs_nothing: true,
        calls_nothing: true,
    },
    Shipped {
        name: "faults",
        about: "calls that fail: FUNCTION=N:ERRNO, or FUNCTION=N+:ERRNO from the N-th on",
        definition: include_str!("../definitions/faults.wrap"),
        options: &[],
        has_faults: true,
        needs_out: false,
        needs_nothing: false,
        calls_nothing: false,
    },
];

/// Every wrapper that ships.
pub fn all() -> &'static [Shipped] {
    &SHIPPED
}

/// The one of this name.
pub fn find(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|shipped| shipped.name == name)
}

/// Checks options for a wrapper with such functions, and gives them as the wrapper reads them, with paths from `folder` on.
pub fn prepare(
    shipped: &Shipped,
    options: &str,
    functions: &[&str],
    folder: &Path,
) -> Result<String, String> {
    let mut out = format!("as={}", shipped.name);
    let mut said: Vec<&str> = Vec::new();
    for (key, value) in options::each(options) {
        let known = shipped.options.iter().find(|known| known.key == key);
        if said.contains(&key) && known.is_none_or(|known| !known.kind.is_many()) {
            return Err(format!("{key:?} is said twice"));
        }
        said.push(key);
        let value = match known {
            Some(known) => checked(known, value, folder)?,
            None if shipped.has_faults => fault(key, value, functions)?,
            None if shipped.options.is_empty() => {
                return Err(format!("there is no option {key:?}; it takes none"));
            }
            None => {
                let keys: Vec<&str> = shipped.options.iter().map(|known| known.key).collect();
                return Err(format!("there is no option {key:?}; there are {}", keys.join(", ")));
            }
        };
        out.push_str(&format!(",{key}{value}"));
    }
    if shipped.needs_out && !said.contains(&"out") {
        return Err("it must be told where to write: out=FILE".into());
    }
    if said.is_empty() && !shipped.needs_nothing {
        return Err(format!("it must be told what to do: {}", shipped.about));
    }
    if said.contains(&"shift") && said.contains(&"start") {
        return Err("\"shift\" and \"start\" say the same thing in two ways: leave one out".into());
    }
    for many in ["map", "address"] {
        if said.iter().filter(|key| **key == many).count() > options::MAPS_MAX {
            return Err(format!("{many:?} is said more than {} times", options::MAPS_MAX));
        }
    }
    Ok(out)
}

/// Tells a wrapper that records that it is on before the program's first instruction.
pub fn begin_at_start(options: &mut Vec<u8>) {
    if options.split(|byte| *byte == b',').next() == Some(b"as=record") {
        options.extend_from_slice(b",start");
    }
}

fn checked(known: &Known, value: Option<&str>, folder: &Path) -> Result<String, String> {
    let key = known.key;
    let value = match (known.kind, value) {
        (Kind::Flag, None) => return Ok(String::new()),
        (Kind::Flag, Some(_)) => return Err(format!("{key:?} takes no value")),
        (_, None | Some("")) => return Err(format!("{key:?} needs a value: {key}=...")),
        (_, Some(value)) => value,
    };
    let fits = |path: &Path| path.as_os_str().len() < options::PATH_BYTES_MAX;
    match known.kind {
        Kind::Flag => Ok(String::new()),
        Kind::Text => Ok(format!("={value}")),
        Kind::Number(most) => match value.parse::<u64>() {
            Ok(number) if number <= most => Ok(format!("={number}")),
            _ => Err(format!("{key:?} is a number from 0 to {most}, not {value:?}")),
        },
        Kind::Scale if options::scale(value).is_some() => Ok(format!("={value}")),
        Kind::Scale => Err(format!("{key:?} is a number from 0.001 to 100000, as 10 or 0.5, not {value:?}")),
        Kind::Shift if options::shift(value).is_some() => Ok(format!("={value}")),
        Kind::Shift => Err(format!(
            "{key:?} is a span behind a sign, of weeks w, d, h, m and s, as +3d or -1h30m, not {value:?}"
        )),
        Kind::Start if options::date(value).is_some() => Ok(format!("={value}")),
        Kind::Start => Err(format!(
            "{key:?} is a time of UTC from 1970 on, as 2030-01-01T00:00:00Z or 2030-01-01, not {value:?}"
        )),
        Kind::Path => {
            let path: PathBuf = folder.join(value);
            match path.to_str() {
                Some(text) if fits(&path) && !text.contains(',') => Ok(format!("={text}")),
                _ => Err(format!(
                    "{} cannot be given in options: it has a comma, or is too long",
                    path.display()
                )),
            }
        }
        Kind::Addresses if AddressPair::parse(value).is_some() => Ok(format!("={value}")),
        Kind::Addresses => Err(format!(
            "{key:?} takes two addresses of one kind, with a port or without: {key}=10.0.0.1:80=10.0.0.2:80, not {value:?}"
        )),
        Kind::Pair => match value.split_once('=') {
            Some((from, to))
                if [from, to].iter().all(|path| path.starts_with('/') && fits(Path::new(path))) =>
            {
                Ok(format!("={value}"))
            }
            _ => Err(format!("{key:?} takes two absolute paths: {key}=/A=/B, not {value:?}")),
        },
    }
}

fn fault(key: &str, value: Option<&str>, functions: &[&str]) -> Result<String, String> {
    if !functions.contains(&key) {
        return Err(format!("{key:?} is no function of its definition; there are {}", functions.join(", ")));
    }
    match (options::fault(key, value), value) {
        (Some(_), Some(value)) => Ok(format!("={value}")),
        _ => Err(format!("{key:?} takes the number of a call and an error: {key}=3:EIO, or {key}=3+:EIO")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(name: &str, options: &str) -> Result<String, String> {
        prepare(find(name).unwrap(), options, &["open", "read"], Path::new("/here"))
    }

    #[test]
    fn options_are_checked_and_made_absolute() {
        assert_eq!(prepared("trace", "out=t,json").unwrap(), "as=trace,out=/here/t,json");
        assert_eq!(prepared("trace", "out=/t,strings=9").unwrap(), "as=trace,out=/t,strings=9");
        assert_eq!(prepared("files", "map=/a=/b,map=/c=/d").unwrap(), "as=files,map=/a=/b,map=/c=/d");
        assert_eq!(prepared("heap", "out=h,every=5").unwrap(), "as=heap,out=/here/h,every=5");
        assert_eq!(prepared("time", "scale=0.5,shift=-1h").unwrap(), "as=time,scale=0.5,shift=-1h");
        assert_eq!(
            prepared("faults", "open=3:EIO,read=1+:EINTR").unwrap(),
            "as=faults,open=3:EIO,read=1+:EINTR"
        );
        assert_eq!(prepared("record", "").unwrap(), "as=record");
        assert_eq!(
            prepared("virtual", "address=1.1.1.1=1.1.1.2,address=[::1]:1=[::1]:2").unwrap(),
            "as=virtual,address=1.1.1.1=1.1.1.2,address=[::1]:1=[::1]:2"
        );
        let mut options = b"as=record".to_vec();
        begin_at_start(&mut options);
        assert_eq!(options, b"as=record,start");
        let mut others = b"as=recorder,x".to_vec();
        begin_at_start(&mut others);
        assert_eq!(others, b"as=recorder,x");
        for (name, options, why) in [
            ("trace", "", "out=FILE"),
            ("trace", "json", "out=FILE"),
            ("trace", "out", "needs a value"),
            ("trace", "out=a,out=b", "said twice"),
            ("virtual", "address=1.1.1.1=::1", "two addresses"),
            ("trace", "out=a,jsn", "no option \"jsn\""),
            ("trace", "out=a,json=1", "no value"),
            ("trace", "out=a,strings=257", "0 to 256"),
            ("files", "", "what to do"),
            ("files", "map=/a", "two absolute paths"),
            ("files", "map=a=/b", "two absolute paths"),
            ("heap", "json", "out=FILE"),
            ("heap", "out=a,frames=9", "0 to 8"),
            ("time", "", "what to do"),
            ("time", "scale=0", "0.001 to 100000"),
            ("time", "shift=3d", "behind a sign"),
            ("time", "start=2030-02-30", "a time of UTC"),
            ("time", "shift=+3d,start=2030-01-01", "leave one out"),
            ("faults", "close=1:EIO", "no function"),
            ("faults", "open=0:EIO", "number of a call"),
            ("faults", "open=1:EFOO", "number of a call"),
            ("faults", "open", "number of a call"),
            ("record", "out=a", "it takes none"),
            ("record", "start", "it takes none"),
        ] {
            let said = prepared(name, options).unwrap_err();
            assert!(said.contains(why), "{name}:{options}: {said}");
        }
    }
}
