//! B-115x: records of programs.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-1161",
        title: "nothing is recorded of a program",
        text: "\
`brant show` prints what the wrapper `record` has kept in the program's own memory. Put it on from the program's first
instruction by `brant run --record -- CMD`, or on a running program by `brant wrap record TARGET`: then it tells what was there
before by what the kernel says, and marks it. An image has the record of every process that was recorded when it was taken.",
    },
    Entry {
        code: "B-1162",
        title: "a record was written by another version of brant",
        text: "\
Its tables have another layout than this brant reads. Use the brant that recorded the program, or take the wrapper off and put
this one's on: brant unwrap record TARGET, then brant wrap record TARGET.",
    },
    Entry {
        code: "B-1163",
        title: "a record is damaged",
        text: "\
What stands in the place of a record cannot be what the wrapper wrote: the program has written over it, or somebody has made the
image by hand. Nothing of it is shown. The program and the rest of the image may be as they should.",
    },
];
