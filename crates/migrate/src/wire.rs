//! What goes over the connection. No I/O happens here.
//!
//! The destination speaks first, a line: `BRANT-MIGRATE 1` and the end of the line. What comes before it, from a login
//! shell, is tolerated up to [`CHATTER_BYTES_MAX`]. From then on there are frames both ways: a length (u32, little-endian,
//! of all that follows), a kind (one byte), a body. A length is checked before memory is taken for it, and a message's
//! fields are counted before it is decoded; the decoder holds at most one frame and what was fed last.

mod message;

pub use message::{
    Asked, Body, End, FIELDS_MAX, Failure, Go, Hello, MapPath, Planned, Ready, Refused, Running, Still,
};

use prost::Message;

/// The only version of the protocol so far.
pub const PROTOCOL: u32 = 1;
/// What the destination's first line begins with.
pub const MAGIC: &str = "BRANT-MIGRATE ";
/// As much of other output is read before the magic line, in bytes.
pub const CHATTER_BYTES_MAX: usize = 64 << 10;
/// The longest magic line, in bytes.
const MAGIC_LINE_BYTES_MAX: usize = 64;
/// The longest body of a frame with image or relayed bytes.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// The longest body of a message.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

const KIND_ALIVE: u8 = 1;
const KIND_MESSAGE: u8 = 2;
const KIND_IMAGE: u8 = 3;
const KIND_RELAY: u8 = 4;

/// One thing said.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Nothing, but the sender lives.
    Alive,
    Message(Body),
    /// Bytes of the image, in order.
    Image(Vec<u8>),
    /// Bytes between the program's keeper and its client.
    Relay(Vec<u8>),
}

impl Frame {
    /// For messages to people.
    pub fn name(&self) -> &'static str {
        match self {
            Frame::Alive => "a sign of life",
            Frame::Message(body) => body.name(),
            Frame::Image(_) => "a part of an image",
            Frame::Relay(_) => "terminal output",
        }
    }
}

/// What came is not of the protocol's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a frame of {bytes} bytes, where {bytes_max} are the most")]
    TooLong { bytes: u64, bytes_max: usize },
    #[error("a frame of no kind")]
    Empty,
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a message that cannot be decoded")]
    Message(#[source] prost::DecodeError),
    #[error("a message whose parts do not fit into it")]
    Malformed,
    #[error("a message of more than {fields_max} fields")]
    TooMany { fields_max: usize },
    #[error("a message with nothing in it that is known")]
    Unknown,
    #[error("a first line that is damaged")]
    Magic,
    #[error("no first line of brant within {bytes_max} bytes of other output")]
    Chatter { bytes_max: usize },
}

/// The destination's first line.
pub fn magic_line() -> Vec<u8> {
    format!("{MAGIC}{PROTOCOL}\n").into_bytes()
}

/// The head of a frame with image or relayed bytes; the `bytes` follow.
pub(crate) fn data_head(frame: DataKind, bytes: usize) -> [u8; 5] {
    assert!(bytes <= DATA_BYTES_MAX);
    let kind = match frame {
        DataKind::Image => KIND_IMAGE,
        DataKind::Relay => KIND_RELAY,
    };
    head(kind, bytes)
}

/// Which bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    Image,
    Relay,
}

fn head(kind: u8, bytes: usize) -> [u8; 5] {
    let length = (bytes as u32 + 1).to_le_bytes();
    [length[0], length[1], length[2], length[3], kind]
}

/// A whole frame.
///
/// # Panics
/// Where it is longer than its kind may be: who makes messages bounds them.
pub fn encode(frame: &Frame) -> Vec<u8> {
    let whole = |kind, body: &[u8]| [&head(kind, body.len())[..], body].concat();
    match frame {
        Frame::Alive => whole(KIND_ALIVE, &[]),
        Frame::Image(bytes) => [&data_head(DataKind::Image, bytes.len())[..], bytes].concat(),
        Frame::Relay(bytes) => [&data_head(DataKind::Relay, bytes.len())[..], bytes].concat(),
        Frame::Message(body) => {
            let bytes = message::Envelope { body: Some(body.clone()) }.encode_to_vec();
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            whole(KIND_MESSAGE, &bytes)
        }
    }
}

/// Finds the magic line in what came, and the version that it names.
#[derive(Debug, Default)]
pub struct Greeting {
    pending: Vec<u8>,
    /// The magic does not begin before it.
    searched_bytes: usize,
}

impl Greeting {
    /// Adds bytes as they came. `Some`: the version, and what came behind the line.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<(u32, Vec<u8>)>, WireError> {
        self.pending.extend_from_slice(bytes);
        let magic = MAGIC.as_bytes();
        let found = find(&self.pending[self.searched_bytes..], magic).map(|at| self.searched_bytes + at);
        self.searched_bytes = found.unwrap_or((self.pending.len() + 1).saturating_sub(magic.len()));
        if self.searched_bytes > CHATTER_BYTES_MAX {
            return Err(WireError::Chatter { bytes_max: CHATTER_BYTES_MAX });
        }
        let Some(at) = found else { return Ok(None) };
        let line = &self.pending[at + magic.len()..];
        let Some(end) = line.iter().take(MAGIC_LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if line.len() >= MAGIC_LINE_BYTES_MAX { Err(WireError::Magic) } else { Ok(None) };
        };
        let number = std::str::from_utf8(&line[..end]).map_err(|_| WireError::Magic)?;
        // A terminal in between ends lines with two characters.
        let version = number.trim_end_matches('\r').parse().map_err(|_| WireError::Magic)?;
        Ok(Some((version, line[end + 1..].to_vec())))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    /// Before it all has been given out.
    start: usize,
}

impl Decoder {
    /// Adds bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.pending.drain(..self.start);
            self.start = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let bytes = &self.pending[self.start..];
        let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 {
            return Err(WireError::Empty);
        }
        let Some(&kind) = bytes.get(4) else { return Ok(None) };
        let bytes_max = match kind {
            KIND_ALIVE => 0,
            KIND_MESSAGE => MESSAGE_BYTES_MAX,
            KIND_IMAGE | KIND_RELAY => DATA_BYTES_MAX,
            other => return Err(WireError::Kind(other)),
        };
        if length - 1 > bytes_max {
            return Err(WireError::TooLong { bytes: length as u64 - 1, bytes_max });
        }
        let Some(body) = bytes.get(5..4 + length) else { return Ok(None) };
        let frame = match kind {
            KIND_ALIVE => Frame::Alive,
            KIND_IMAGE => Frame::Image(body.to_vec()),
            KIND_RELAY => Frame::Relay(body.to_vec()),
            _ => {
                message::check_fields(body)?;
                let envelope = message::Envelope::decode(body).map_err(WireError::Message)?;
                Frame::Message(envelope.body.ok_or(WireError::Unknown)?)
            }
        };
        self.start += 4 + length;
        Ok(Some(frame))
    }

    /// Bytes that came and were not given out yet.
    pub fn held_bytes(&self) -> usize {
        self.pending.len() - self.start
    }

    /// How many more bytes the frame that has begun wants, as far as is known: what a reader may ask for at once.
    pub fn wanted_bytes(&self) -> usize {
        const USUAL_BYTES: usize = 64 << 10;
        let bytes = &self.pending[self.start..];
        let length = bytes.first_chunk::<4>().map_or(0, |head| u32::from_le_bytes(*head) as usize);
        (length + 4).saturating_sub(bytes.len()).clamp(USUAL_BYTES, DATA_BYTES_MAX + 5)
    }
}
