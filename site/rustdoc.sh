#!/bin/sh
# rustdoc with options that are not stable yet. The variable is for rustdoc alone: set for all of cargo, it would make
# crates that look at it be built anew.
RUSTC_BOOTSTRAP=1 exec rustdoc "$@"
