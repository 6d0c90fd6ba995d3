//! What of the chores the documentation site's tool needs too.
#![forbid(unsafe_code)]

pub mod sections;
