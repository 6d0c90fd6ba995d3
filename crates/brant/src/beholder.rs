//! What brant keeps of wrapped programs in their images, and what of their memory need not be written: the engine knows
//! nothing of wrappers, and asks here while a tree stands still.

use brant_capture::Beholder;

/// For every checkpoint that this binary takes.
#[derive(Debug)]
pub(crate) struct Binary;

impl Beholder for Binary {}
