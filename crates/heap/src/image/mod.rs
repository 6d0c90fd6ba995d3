//! Images of heaps: one file that holds a set of them. `docs/heaps.md` has the format; `format` and `index` are its two halves.

#[forbid(unsafe_code)]
mod format;
#[forbid(unsafe_code)]
mod index;
mod load;
#[forbid(unsafe_code)]
mod pagemap;
#[forbid(unsafe_code)]
mod reader;
mod remap;
mod save;
#[forbid(unsafe_code)]
mod target;

pub(crate) use format::{u32_at, u64_at};
pub use load::{Loaded, load};
pub use reader::{BlockList, Difference, Holding, Image, ImageHeap, Piece, RootImage, Verified};
pub use save::{Saved, Saving, save, save_with};
