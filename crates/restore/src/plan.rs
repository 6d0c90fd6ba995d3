//! What a restore of an image would do on this host, or every reason why it cannot.

use brant_base::Refusals;
use brant_image::Image;

use crate::Options;

/// What to do about files that are not as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilesPolicy {
    /// Refuse, naming each.
    #[default]
    Strict,
    /// Take them as they are.
    Keep,
    /// Cut files that have only grown to their recorded size.
    Rewind,
}

/// A plan without refusals.
#[derive(Debug, Default)]
pub struct Plan {
    map_paths: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Plan {
    /// Where a path of the image is on this host.
    pub(crate) fn path(&self, path: &[u8]) -> Vec<u8> {
        for (from, to) in &self.map_paths {
            if let Some(rest) = path.strip_prefix(&from[..])
                && (rest.is_empty() || rest.starts_with(b"/") || from.ends_with(b"/"))
            {
                return [to, rest].concat();
            }
        }
        path.to_vec()
    }
}

/// Looks at the image and the host and changes nothing.
pub fn plan(image: &Image, options: &Options) -> Result<Plan, Refusals> {
    let _ = image;
    Ok(Plan { map_paths: options.map_paths.clone() })
}
