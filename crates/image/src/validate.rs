//! What must hold between a checkpoint's records.
use crate::ImageError;
use crate::model::Checkpoint;

/// An error unless the checkpoint's records fit together.
pub fn validate(_checkpoint: &Checkpoint) -> Result<(), ImageError> {
    Ok(())
}
