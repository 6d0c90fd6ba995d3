//! The manifest's encoding: protocol buffers that mirror the model, one file for each kind.
//!
//! Conversions are written by hand and check what a single record can tell; what holds between records is
//! `validate`'s matter. Unknown fields are skipped, so a newer brant may add what an older
//! one can do without; what it cannot do without raises the manifest's section version. Numbers, flags and
//! alternatives that are not known are errors: nothing is dropped in silence.

mod checkpoint;
mod file_kinds;
mod files;
mod memory;
mod process;
mod signals;
mod sockets;
mod terminals;
mod thread;
mod timers;
mod windows;

use std::convert::Infallible;

use prost::Message;

use crate::ImageError;
use crate::model::Checkpoint;

/// Bytes of a manifest.
pub(crate) fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    checkpoint::Checkpoint::from(checkpoint).encode_to_vec()
}

/// The checkpoint that a manifest holds. Its cross references are not yet validated.
pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, ImageError> {
    let wire = checkpoint::Checkpoint::decode(bytes).map_err(ImageError::Manifest)?;
    Checkpoint::try_from(wire).map_err(|Malformed { field, why }| ImageError::Malformed { field, why })
}

/// A record that no brant of this version writes.
#[derive(Debug)]
struct Malformed {
    field: &'static str,
    why: String,
}

impl From<Infallible> for Malformed {
    fn from(never: Infallible) -> Malformed {
        match never {}
    }
}

fn malformed<T>(field: &'static str, why: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed { field, why: why.into() })
}

/// Model records as wire records.
fn list<'a, Model, Wire: From<&'a Model>>(items: &'a [Model]) -> Vec<Wire> {
    items.iter().map(Wire::from).collect()
}

/// Wire records as model records.
fn parse<Wire, Model: TryFrom<Wire>>(items: Vec<Wire>) -> Result<Vec<Model>, Malformed>
where
    Malformed: From<Model::Error>,
{
    items.into_iter().map(|item| Model::try_from(item).map_err(Malformed::from)).collect()
}

/// A record that must be there.
fn need<Wire, Model: TryFrom<Wire>>(field: &'static str, item: Option<Wire>) -> Result<Model, Malformed>
where
    Malformed: From<Model::Error>,
{
    match item {
        Some(item) => Ok(Model::try_from(item)?),
        None => malformed(field, "is missing"),
    }
}

/// A record that may be absent.
fn maybe<Wire, Model: TryFrom<Wire>>(item: Option<Wire>) -> Result<Option<Model>, Malformed>
where
    Malformed: From<Model::Error>,
{
    Ok(item.map(Model::try_from).transpose()?)
}

/// A list of exactly `N`.
fn array<T, const N: usize>(field: &'static str, items: Vec<T>) -> Result<[T; N], Malformed> {
    let length = items.len();
    items.try_into().or_else(|_| malformed(field, format!("has {length} entries instead of {N}")))
}

/// Booleans as bits, first one lowest.
fn bits(flags: &[bool]) -> u32 {
    flags.iter().enumerate().fold(0, |sum, (index, &flag)| sum | u32::from(flag) << index)
}

/// The other way round; a bit beyond the last is an error.
fn flags<const N: usize>(field: &'static str, bits: u32) -> Result<[bool; N], Malformed> {
    if bits >> N != 0 {
        return malformed(field, format!("has unknown bits: {bits:#x}"));
    }
    Ok(std::array::from_fn(|index| bits & 1 << index != 0))
}
