//! The last steps: final registers, commit, release.
