//! What a keeper and its clients say to each other over a unix stream socket.
//!
//! A frame is a length (u32, little-endian, of all that follows), a kind (one byte) and the rest. There is no
//! handshake: both ends are the same user's, and an unknown kind ends the connection. No I/O happens here.

use brant_kernel::task::Window;

/// The longest frame that is taken, in bytes after the length.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Send me the output from now on, and news as for [`Request::Watch`]. A window makes this client's size
    /// the terminal's; with `redraw` the program is made to draw itself anew.
    Attach { window: Option<Window>, redraw: bool },
    /// Bytes typed.
    Input(Vec<u8>),
    /// The client's terminal has another size.
    Resize(Window),
    /// Send a signal to the root process.
    Signal(i32),
    /// Send a signal to the root's process group: what the user's terminal sent to ours.
    Keyboard(i32),
    /// Send me news of the root process: stopped, continued, exited.
    Watch,
    /// End the job: SIGTERM, and SIGKILL to all of it after the grace. Implies [`Request::Watch`].
    Stop { grace_ms: u32 },
    /// SIGKILL to every process of the job. Implies [`Request::Watch`].
    Kill,
}

/// What a keeper tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes that the program wrote.
    Output(Vec<u8>),
    /// Job control stopped the root process.
    Stopped { signal: i32 },
    /// The root process goes on.
    Continued,
    /// The root process ended; `status` as wait(2) gives it. The connection closes when the job has ended.
    Exited { status: i32 },
}

/// The bytes on the wire are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of the wrong form")]
pub(crate) struct BadFrame;

/// A message that travels in a frame.
pub(crate) trait Message: Sized {
    fn kind(&self) -> u8;
    fn put(&self, bytes: &mut Vec<u8>);
    fn take(kind: u8, body: &[u8]) -> Result<Self, BadFrame>;

    /// The whole frame.
    fn frame(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, self.kind()];
        self.put(&mut bytes);
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }
}

impl Message for Request {
    fn kind(&self) -> u8 {
        match self {
            Request::Attach { .. } => 1,
            Request::Input(_) => 2,
            Request::Resize(_) => 3,
            Request::Signal(_) => 4,
            Request::Watch => 5,
            Request::Stop { .. } => 6,
            Request::Kill => 7,
            Request::Keyboard(_) => 8,
        }
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Request::Attach { window, redraw } => {
                bytes.push(u8::from(*redraw));
                if let Some(window) = window {
                    put_window(bytes, *window);
                }
            }
            Request::Input(input) => bytes.extend_from_slice(input),
            Request::Resize(window) => put_window(bytes, *window),
            Request::Signal(signal) | Request::Keyboard(signal) => {
                bytes.extend_from_slice(&signal.to_le_bytes())
            }
            Request::Stop { grace_ms } => bytes.extend_from_slice(&grace_ms.to_le_bytes()),
            Request::Watch | Request::Kill => {}
        }
    }

    fn take(kind: u8, body: &[u8]) -> Result<Request, BadFrame> {
        match (kind, body) {
            (1, [redraw]) => Ok(Request::Attach { window: None, redraw: *redraw != 0 }),
            (1, [redraw, window @ ..]) => {
                Ok(Request::Attach { window: Some(take_window(window)?), redraw: *redraw != 0 })
            }
            (2, input) => Ok(Request::Input(input.to_vec())),
            (3, window) => Ok(Request::Resize(take_window(window)?)),
            (4, signal) => Ok(Request::Signal(i32::from_le_bytes(four(signal)?))),
            (5, []) => Ok(Request::Watch),
            (6, grace) => Ok(Request::Stop { grace_ms: u32::from_le_bytes(four(grace)?) }),
            (7, []) => Ok(Request::Kill),
            (8, signal) => Ok(Request::Keyboard(i32::from_le_bytes(four(signal)?))),
            _ => Err(BadFrame),
        }
    }
}

impl Message for Event {
    fn kind(&self) -> u8 {
        match self {
            Event::Output(_) => 65,
            Event::Stopped { .. } => 66,
            Event::Continued => 67,
            Event::Exited { .. } => 68,
        }
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Event::Output(output) => bytes.extend_from_slice(output),
            Event::Stopped { signal } => bytes.extend_from_slice(&signal.to_le_bytes()),
            Event::Exited { status } => bytes.extend_from_slice(&status.to_le_bytes()),
            Event::Continued => {}
        }
    }

    fn take(kind: u8, body: &[u8]) -> Result<Event, BadFrame> {
        match (kind, body) {
            (65, output) => Ok(Event::Output(output.to_vec())),
            (66, signal) => Ok(Event::Stopped { signal: i32::from_le_bytes(four(signal)?) }),
            (67, []) => Ok(Event::Continued),
            (68, status) => Ok(Event::Exited { status: i32::from_le_bytes(four(status)?) }),
            _ => Err(BadFrame),
        }
    }
}

fn put_window(bytes: &mut Vec<u8>, window: Window) {
    for number in [window.rows, window.columns, window.x_pixels, window.y_pixels] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn take_window(bytes: &[u8]) -> Result<Window, BadFrame> {
    let bytes: [u8; 8] = bytes.try_into().map_err(|_| BadFrame)?;
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    Ok(Window { rows: number(0), columns: number(2), x_pixels: number(4), y_pixels: number(6) })
}

fn four(bytes: &[u8]) -> Result<[u8; 4], BadFrame> {
    bytes.try_into().map_err(|_| BadFrame)
}

/// Cuts a stream of bytes into messages. It holds at most one frame and what was fed last.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Adds bytes as they came.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub(crate) fn next<M: Message>(&mut self) -> Result<Option<M>, BadFrame> {
        let Some(length) = self.pending.get(..4) else { return Ok(None) };
        let length = u32::from_le_bytes(four(length)?) as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(BadFrame);
        }
        let Some(frame) = self.pending.get(4..4 + length) else { return Ok(None) };
        let message = M::take(frame[0], &frame[1..])?;
        self.pending.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_in_any_cut() {
        let window = Window { rows: 24, columns: 80, x_pixels: 1, y_pixels: 2 };
        let requests = [
            Request::Attach { window: None, redraw: true },
            Request::Attach { window: Some(window), redraw: false },
            Request::Input(b"ls\r".to_vec()),
            Request::Resize(window),
            Request::Signal(15),
            Request::Watch,
            Request::Stop { grace_ms: 10_000 },
            Request::Kill,
            Request::Keyboard(2),
        ];
        let bytes: Vec<u8> = requests.iter().flat_map(Message::frame).collect();
        for step in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.feed(piece);
                while let Some(request) = decoder.next::<Request>().unwrap() {
                    seen.push(request);
                }
            }
            assert_eq!(seen, requests);
        }
        for event in [Event::Output(vec![0; 9]), Event::Stopped { signal: 20 }, Event::Exited { status: 9 }] {
            let mut decoder = Decoder::default();
            decoder.feed(&event.frame());
            assert_eq!(decoder.next(), Ok(Some(event)));
        }
    }

    #[test]
    fn wrong_frames_are_errors() {
        for bytes in [&[0, 0, 0, 0][..], &[255, 255, 255, 255], &[1, 0, 0, 0, 99], &[2, 0, 0, 0, 4, 1]] {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            assert_eq!(decoder.next::<Request>(), Err(BadFrame));
        }
    }
}
