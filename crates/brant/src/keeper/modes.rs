//! Which modes of the terminal the program has switched on, read from what it writes.
//!
//! A client that attaches later needs them (a full-screen program draws on the alternate screen), and one
//! that leaves must take them back, or the user's shell inherits a mouse that types and no cursor.
//! Facts: xterm's private modes, `CSI ? Pm h` sets and `CSI ? Pm l` resets.

/// The modes that are followed, with what they are when no program has touched them.
const FOLLOWED: [(u16, bool); 13] = [
    (1, false),    // cursor keys send application codes
    (7, true),     // wrap at the right border
    (25, true),    // cursor shown
    (47, false),   // alternate screen, three ways
    (1047, false), // ..
    (1049, false), // ..
    (1000, false), // mouse: clicks
    (1002, false), // mouse: drags
    (1003, false), // mouse: all moves
    (1004, false), // focus events
    (1005, false), // mouse coordinates as UTF-8
    (1006, false), // mouse coordinates as decimals
    (2004, false), // bracketed paste
];

/// How many digits and separators one sequence may have before it is taken for something else.
const PARAMETERS_MAX: usize = 32;

/// Follows a stream of output.
#[derive(Debug, Clone, Default)]
pub(crate) struct Modes {
    changed: [bool; FOLLOWED.len()],
    keypad: bool,
    place: Place,
    parameters: Vec<u8>,
}

/// Where in a sequence the stream stands.
#[derive(Debug, Clone, Copy, Default)]
enum Place {
    #[default]
    Text,
    Escape,
    Bracket,
    Parameters,
}

impl Modes {
    /// Takes the next bytes of the stream, cut anywhere.
    pub(crate) fn scan(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.place = match (self.place, byte) {
                (_, 0x1b) => Place::Escape,
                (Place::Escape, b'[') => Place::Bracket,
                (Place::Escape, b'=' | b'>') => {
                    self.keypad = byte == b'=';
                    Place::Text
                }
                (Place::Escape, b'c') => {
                    *self = Modes::default();
                    Place::Text
                }
                (Place::Bracket, b'?') => {
                    self.parameters.clear();
                    Place::Parameters
                }
                (Place::Parameters, b'0'..=b'9' | b';') if self.parameters.len() < PARAMETERS_MAX => {
                    self.parameters.push(byte);
                    Place::Parameters
                }
                (Place::Parameters, b'h' | b'l') => {
                    self.set(byte == b'h');
                    Place::Text
                }
                _ => Place::Text,
            };
        }
    }

    fn set(&mut self, on: bool) {
        for number in self.parameters.split(|&byte| byte == b';') {
            let number: Option<u16> = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
            if let Some(index) = FOLLOWED.iter().position(|(mode, _)| Some(*mode) == number) {
                self.changed[index] = on != FOLLOWED[index].1;
            }
        }
    }

    /// What puts a fresh terminal into the program's modes.
    pub(crate) fn enter(&self) -> Vec<u8> {
        self.sequence(false)
    }

    /// What takes a terminal out of the program's modes again.
    pub(crate) fn leave(&self) -> Vec<u8> {
        let mut bytes = self.sequence(true);
        if !bytes.is_empty() {
            bytes.extend_from_slice(b"\x1b[m");
        }
        bytes
    }

    fn sequence(&self, back: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((mode, normal), _) in FOLLOWED.iter().zip(self.changed).filter(|(_, changed)| *changed) {
            let on = if back { *normal } else { !*normal };
            bytes.extend_from_slice(format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).as_bytes());
        }
        if self.keypad {
            bytes.extend_from_slice(if back { b"\x1b>" } else { b"\x1b=" });
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_modes_cut_anywhere() {
        let stream = b"text\x1b[?1049h\x1b[22;0;0t\x1b[?1;2004h\x1b=\x1b[?25l\x1b[?9999h\x1b[31mred";
        for step in 1..stream.len() {
            let mut modes = Modes::default();
            stream.chunks(step).for_each(|piece| modes.scan(piece));
            assert_eq!(modes.enter(), b"\x1b[?1h\x1b[?25l\x1b[?1049h\x1b[?2004h\x1b=");
            assert_eq!(modes.leave(), b"\x1b[?1l\x1b[?25h\x1b[?1049l\x1b[?2004l\x1b>\x1b[m");
            modes.scan(b"\x1b[?1049l\x1b[?1;2004l\x1b>\x1b[?25h");
            assert_eq!(modes.leave(), b"");
        }
    }
}
