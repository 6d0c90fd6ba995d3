//! B-05xx: images that are damaged. B-06xx: the store and the disk.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-0501",
        title: "this is not an image",
        text: "\
An image begins with the letters BRANTIMG. This file does not, so it was never an image, or its beginning was
overwritten. Look at it with `file`; `brant image ls` lists the images that brant knows.

Exit code 6.",
    },
    Entry {
        code: "B-0502",
        title: "the image has another format version",
        text: "\
The image was written by a brant with a newer file format, or the version in its header is damaged. Read it with
a brant at least as new as the one that wrote it. Nothing was started.

Exit code 6.",
    },
    Entry {
        code: "B-0503",
        title: "the image's header is damaged",
        text: "\
The first 64 bytes do not match their checksum. The file was changed after it was written: take another copy.
Nothing was started.

Exit code 6.",
    },
    Entry {
        code: "B-0504",
        title: "the image is cut short",
        text: "\
The file ends in the middle. brant itself never leaves such a file under an image's name: it gives the name only
when everything is on the disk. A copy or a transfer of it was broken off: copy it again.

Exit code 6.",
    },
    Entry {
        code: "B-0505",
        title: "a section of the image is damaged",
        text: "\
A checksum does not match what it guards: bytes of the file were changed after it was written, by a failing disk
or by hand. Nothing of a damaged section is used. Take another copy; `brant image verify` checks it wholly.

Exit code 6.",
    },
    Entry {
        code: "B-0506",
        title: "the image has a section that must be understood",
        text: "\
The image was written by a newer brant and holds something without which the program would not be what it was.
Restore it with a brant at least as new as the one that wrote it.

Exit code 6.",
    },
    Entry {
        code: "B-0507",
        title: "the image's sections do not fit together",
        text: "\
A section's header is damaged, or sections are missing, repeated, out of order, or followed by other bytes. The
file was changed after it was written: take another copy.

Exit code 6.",
    },
    Entry {
        code: "B-0508",
        title: "a section of the image is too large",
        text: "\
Lengths in an image are bounded, so that a damaged file cannot use up the memory. When an image is read: the file
is damaged or forged. When one is written: the program has more than 256 MiB in flight in its pipes, sockets and
terminals; let its readers catch up and try again.

Exit code 6 when reading.",
    },
    Entry {
        code: "B-0509",
        title: "the manifest cannot be decoded",
        text: "\
The manifest's checksum matches, yet it is no protocol-buffers message: the file was not written by brant.

Exit code 6.",
    },
    Entry {
        code: "B-0510",
        title: "the manifest has a record that this brant does not know",
        text: "\
A record lacks something or has a value without a meaning. A newer brant may have written it: restore the image
with that one. Else it was not written by brant.

Exit code 6.",
    },
    Entry {
        code: "B-0511",
        title: "the manifest contradicts itself",
        text: "\
The image's records do not fit together: one names another that is not there, or a list lacks its order. brant
checks this before it writes an image and after it has read one. When one is read: it was not written by brant.
When one is written: this is a mistake in brant, the program goes on unharmed; please report the message.

Exit code 6 when reading.",
    },
    Entry {
        code: "B-0512",
        title: "pages that nobody has",
        text: "\
The image holds pages outside of what its processes have mapped, or the same page twice. See B-0511.

Exit code 6 when reading.",
    },
    Entry {
        code: "B-0601",
        title: "the image cannot be read",
        text: "\
The operating system reported an error while the file was read: a failing disk, a lost network file system, or
something that is no regular file. The line after the message says which. An image from a pipe is given as `-`.

Exit code 7.",
    },
    Entry {
        code: "B-0602",
        title: "the image cannot be written",
        text: "\
The operating system reported an error while the image was written. Nothing was left under the image's name, and
the program goes on.

Exit code 7.",
    },
    Entry {
        code: "B-0603",
        title: "the disk is full",
        text: "\
There is not enough room for the image, or a quota is used up. Nothing was left under the image's name, and the
program goes on. Make room (`brant image ls`, `brant image rm`), write elsewhere with `-o`, or let the image be
smaller with `--compress zstd`.

Exit code 7.",
    },
    Entry {
        code: "B-0604",
        title: "the file cannot be written",
        text: "\
The folder or the file cannot be written: permissions, a read-only file system, a limit on file sizes. Nothing was
left under the image's name, and the program goes on.

Exit code 7.",
    },
    Entry {
        code: "B-0605",
        title: "the file exists already",
        text: "\
An image never overwrites a file unless `--force` is given. Choose another name with `-o`; with a folder, brant
chooses one.

Exit code 7.",
    },
    Entry {
        code: "B-0606",
        title: "no such image",
        text: "\
IMAGE is a path if it has a slash or exists, else a job's name (its newest image), else the beginning of an id.
Nothing in the store fits. `brant image ls` lists what is there.

Exit code 7.",
    },
    Entry {
        code: "B-0607",
        title: "several images begin so",
        text: "\
The beginning of an id fits more than one image. Give more of it: `brant image ls` shows the ids.

Exit code 7.",
    },
    Entry {
        code: "B-0608",
        title: "the store's folder cannot be used",
        text: "\
The folder for images cannot be made, read or written. It is $XDG_STATE_HOME/brant/images, else
~/.local/state/brant/images. Look at its permissions, or write elsewhere with `-o`.

Exit code 7.",
    },
    Entry {
        code: "B-0609",
        title: "the store belongs to another user",
        text: "\
Images hold a program's secrets, and restoring one runs its code, so brant uses no folder of another user. This
happens where HOME or XDG_STATE_HOME is another user's, as under `sudo` without -H.

Exit code 7.",
    },
    Entry {
        code: "B-0610",
        title: "no place for images",
        text: "\
Neither XDG_STATE_HOME nor HOME is set to an absolute path. Set one, or say where with `-o`.

Exit code 7.",
    },
    Entry {
        code: "B-0611",
        title: "the file cannot be opened",
        text: "\
The path that was given as IMAGE does not exist or may not be read. The line after the message says which.

Exit code 7.",
    },
    Entry {
        code: "B-0612",
        title: "a folder is no image",
        text: "\
IMAGE names a folder. Name the file in it; images end in `.brant`.

Exit code 7.",
    },
];
