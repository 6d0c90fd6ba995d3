//! Terminals.

use brant_base::{Pid, Redacted};
use prost::Message;

use super::{Malformed, array, malformed};
use crate::model::{self, TerminalId};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Terminal {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, optional, tag = "2")]
    index: Option<u32>,
    #[prost(bool, tag = "3")]
    inside: bool,
    #[prost(bytes = "vec", tag = "4")]
    settings: Vec<u8>,
    #[prost(uint32, repeated, tag = "5")]
    window: Vec<u32>,
    #[prost(int32, tag = "6")]
    session: i32,
    #[prost(int32, tag = "7")]
    foreground: i32,
    #[prost(bytes = "vec", tag = "8")]
    input: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    output: Vec<u8>,
    #[prost(bool, tag = "10")]
    locked: bool,
    #[prost(bool, tag = "11")]
    packet_mode: bool,
    #[prost(bool, tag = "12")]
    exclusive: bool,
}

impl From<&model::Terminal> for Terminal {
    fn from(from: &model::Terminal) -> Terminal {
        Terminal {
            id: from.id.0,
            index: from.index,
            inside: from.inside,
            settings: from.settings.clone(),
            window: from.window.map(u32::from).to_vec(),
            session: from.session.0,
            foreground: from.foreground.0,
            input: from.input.0.clone(),
            output: from.output.0.clone(),
            locked: from.locked,
            packet_mode: from.packet_mode,
            exclusive: from.exclusive,
        }
    }
}

impl TryFrom<Terminal> for model::Terminal {
    type Error = Malformed;

    fn try_from(from: Terminal) -> Result<model::Terminal, Malformed> {
        let window: [u32; 4] = array("terminal.window", from.window)?;
        if window.iter().any(|&value| value > u32::from(u16::MAX)) {
            return malformed("terminal.window", "has a value beyond 65535");
        }
        Ok(model::Terminal {
            id: TerminalId(from.id),
            index: from.index,
            inside: from.inside,
            settings: from.settings,
            window: window.map(|value| value as u16),
            session: Pid(from.session),
            foreground: Pid(from.foreground),
            input: Redacted(from.input),
            output: Redacted(from.output),
            locked: from.locked,
            packet_mode: from.packet_mode,
            exclusive: from.exclusive,
        })
    }
}
