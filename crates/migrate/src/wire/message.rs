//! The messages, as protocol buffers: a newer brant may add fields.

use brant_base::{Pid, Refusal};
use prost::{Message, Oneof};

use super::WireError;

/// As many fields has a message at most. One takes two bytes on the wire and becomes a value of a hundred in memory.
pub const FIELDS_MAX: usize = 32 << 10;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub(super) body: Option<Body>,
}

/// Any message.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// Both: who is there. The destination's comes first.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Source: what is wanted. The image follows.
    #[prost(message, tag = "2")]
    Asked(Asked),
    /// Source: the image is whole, or its head was all.
    #[prost(message, tag = "3")]
    End(End),
    /// Destination: what it would do (for a dry run).
    #[prost(message, tag = "4")]
    Planned(Planned),
    /// Destination: the image is held durably and the tree stands, stopped.
    #[prost(message, tag = "5")]
    Ready(Ready),
    /// Source: the program is gone here; it is yours.
    #[prost(message, tag = "6")]
    Go(Go),
    /// Destination: it runs.
    #[prost(message, tag = "7")]
    Running(Running),
    /// Either: I give up, and why. Before GO the program then runs on at the source and the image is of no more use.
    #[prost(message, tag = "8")]
    Failure(Failure),
    /// Source, after READY: are you still there? Destination: I am.
    #[prost(message, tag = "9")]
    Still(Still),
}

impl Body {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Body::Hello(_) => "HELLO",
            Body::Asked(_) => "ASKED",
            Body::End(_) => "END",
            Body::Planned(_) => "PLANNED",
            Body::Ready(_) => "READY",
            Body::Go(_) => "GO",
            Body::Running(_) => "RUNNING",
            Body::Failure(_) => "FAILURE",
            Body::Still(_) => "STILL",
        }
    }
}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// The version of brant.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The version of the image's frame that it reads and writes.
    #[prost(uint32, tag = "2")]
    pub image_format: u32,
    #[prost(string, tag = "3")]
    pub host: String,
    #[prost(string, tag = "4")]
    pub user: String,
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// As uname(2) says.
    #[prost(string, tag = "6")]
    pub machine: String,
    #[prost(string, tag = "7")]
    pub kernel_release: String,
}

/// What the source wants.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Asked {
    /// The job's name there.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// `strict`, `keep` or `rewind`.
    #[prost(string, tag = "2")]
    pub files: String,
    #[prost(message, repeated, tag = "3")]
    pub map_paths: Vec<MapPath>,
    /// Only the head of an image comes; nothing is to be changed.
    #[prost(bool, tag = "4")]
    pub dry_run: bool,
    /// The connection carries the program's terminal afterwards, where it has one.
    #[prost(bool, tag = "5")]
    pub attach: bool,
    /// About how long the image will be, in bytes; 0 where nobody knows.
    #[prost(uint64, tag = "6")]
    pub expected_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct MapPath {
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
}

/// The image has been sent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct End {
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
}

/// What the destination would do.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Planned {
    #[prost(string, repeated, tag = "1")]
    pub steps: Vec<String>,
}

/// The destination holds everything.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ready {
    /// The image's id in hexadecimal digits, as it is found there.
    #[prost(string, tag = "1")]
    pub image: String,
    #[prost(string, repeated, tag = "2")]
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Go {}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Still {}

/// The program runs at the destination.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Running {
    /// The job's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The root's number on that host, and to itself.
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(int32, tag = "3")]
    pub inside_pid: i32,
    #[prost(int32, tag = "4")]
    pub keeper_pid: i32,
    /// Its terminal comes over this connection from now on.
    #[prost(bool, tag = "5")]
    pub attached: bool,
}

/// Why a side gave up.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failure {
    /// Stable; `brant explain` expands it.
    #[prost(string, tag = "1")]
    pub code: String,
    /// The exit code that it stands for.
    #[prost(uint32, tag = "2")]
    pub exit: u32,
    #[prost(string, tag = "3")]
    pub what: String,
    #[prost(string, tag = "4")]
    pub why: String,
    #[prost(string, tag = "5")]
    pub next: String,
    #[prost(message, repeated, tag = "6")]
    pub refusals: Vec<Refused>,
}

/// One thing that stands in the way.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    #[prost(string, tag = "3")]
    pub resource: String,
    #[prost(string, tag = "4")]
    pub why: String,
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Refused {
        Refused {
            code: refusal.code.to_string(),
            pid: refusal.pid.map(|pid| pid.0),
            resource: refusal.resource.clone(),
            why: refusal.why.clone(),
            hint: refusal.hint.clone(),
        }
    }
}

impl Refused {
    /// As this side's own; `known` finds the code among those that it explains.
    pub fn into_refusal(self, known: impl Fn(&str) -> &'static str) -> Refusal {
        Refusal {
            code: known(&self.code),
            pid: self.pid.map(Pid),
            resource: self.resource,
            why: self.why,
            hint: self.hint,
        }
    }
}

/// Counts the fields of a message before memory is taken for them. Those of the parts of its parts do not add up: each
/// is one number or text.
pub(super) fn check_fields(envelope: &[u8]) -> Result<(), WireError> {
    let mut count = 0;
    let mut rest = envelope;
    while !rest.is_empty() {
        let mut body = take_field(&mut rest)?;
        count += 1;
        while !body.is_empty() {
            take_field(&mut body)?;
            count += 1;
            if count > FIELDS_MAX {
                return Err(WireError::TooMany { fields_max: FIELDS_MAX });
            }
        }
    }
    if count > FIELDS_MAX { Err(WireError::TooMany { fields_max: FIELDS_MAX }) } else { Ok(()) }
}

/// Cuts the next field off; gives what is in it, where it has a length of its own.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let key = take_number(bytes)?;
    let (length, has_parts) = match key & 7 {
        0 => {
            take_number(bytes)?;
            (0, false)
        }
        1 => (8, false),
        2 => (take_number(bytes)?, true),
        5 => (4, false),
        // Groups: no version of the protocol has one.
        _ => return Err(WireError::Malformed),
    };
    let length = usize::try_from(length).map_err(|_| WireError::Malformed)?;
    let (field, rest) = bytes.split_at_checked(length).ok_or(WireError::Malformed)?;
    *bytes = rest;
    Ok(if has_parts { field } else { &[] })
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut number = 0;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(WireError::Malformed)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(WireError::Malformed)
}

/// As many refusals travel at most, as many lines, and as many bytes of each text: together they fit into a message.
const REFUSALS_MAX: usize = 500;
const LINES_MAX: usize = 2000;
const TEXT_BYTES_MAX: usize = 1500;

impl Planned {
    /// Cut to what fits into a message; says where something was left out.
    pub fn bounded(self) -> Planned {
        Planned { steps: bounded(self.steps) }
    }
}

impl Ready {
    /// Cut to what fits into a message; says where something was left out.
    pub fn bounded(self) -> Ready {
        Ready { warnings: bounded(self.warnings), ..self }
    }
}

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let left_out = lines.len().saturating_sub(LINES_MAX);
    lines.truncate(LINES_MAX);
    lines.iter_mut().for_each(cut);
    if left_out > 0 {
        lines.push(format!("{left_out} more are not shown"));
    }
    lines
}

impl Failure {
    /// Cut to what fits into a message; says where something was left out.
    pub fn bounded(mut self) -> Failure {
        let left_out = self.refusals.len().saturating_sub(REFUSALS_MAX);
        self.refusals.truncate(REFUSALS_MAX);
        for text in [&mut self.what, &mut self.why, &mut self.next] {
            cut(text);
        }
        for refusal in &mut self.refusals {
            [&mut refusal.resource, &mut refusal.why, &mut refusal.hint].into_iter().for_each(cut);
        }
        if left_out > 0 {
            self.why.push_str(&format!("\n{left_out} more are not shown"));
        }
        self
    }
}

fn cut(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
}
