//! What a checkpoint is: the model, its wire format, the container that holds it, and its validation.
//!
//! This crate reads and writes bytes; it knows no running process and works on any operating system.
#![forbid(unsafe_code)]

pub mod model;
