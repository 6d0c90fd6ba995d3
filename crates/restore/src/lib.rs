//! The only consumer of images: plans a restore, builds the tree stopped, lets it go.
//!
//! - [`plan`](mod@plan): what a restore of this image on this host would do, or every reason why it cannot. Pure.
//! - [`restore`]: performs a plan.
#![forbid(unsafe_code)]

mod build;
mod builder;
mod error;
mod hosting;
mod identities;
mod namespace;
mod numbers;
mod plan;
mod resume;

pub use brant_identity::AddressPair;
pub use builder::{Handoff, Mediate, Options, Restored, go_message, restore};
pub use error::Error;
pub use identities::{Standing, Unmediated};
pub use plan::{FilesPolicy, Plan, Rewind, Way, lacks_namespaces, plan, plan_of, plan_of_running};

/// What no host could bring back: a shape of the tree that no order of forks gives. A checkpoint that is to end its
/// source asks for it before.
pub fn never_restored(checkpoint: &brant_image::model::Checkpoint) -> brant_base::Refusals {
    build::shape::TreeShape::of(checkpoint).err().unwrap_or_default()
}
