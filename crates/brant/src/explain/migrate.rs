//! B-09xx: between two hosts.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-0901",
        title: "the other host's brant did not answer",
        text: "\
`brant migrate` runs ssh (or what -e names) with the host and one command for a shell there. The connection could
not be made, or it ended before brant said its first line; what ssh had to say stands above. Nothing has been
touched and the program runs on. Try the connection by hand: ssh HOST brant --version. Output of a login shell
before brant's first line is tolerated up to 64 KiB. brant waits for that line without a limit of its own, as ssh may
be asking for a password; Ctrl-C ends it.",
    },
    Entry {
        code: "B-0902",
        title: "the other host's brant speaks another version of the protocol",
        text: "\
Both hosts must have a brant that speaks the same version of the hand-over's protocol and of the image's format.
Install the same brant there, name it with --remote-path, or let --copy-brant bring this one along.",
    },
    Entry {
        code: "B-0903",
        title: "the connection was lost",
        text: "\
The connection ended before the hand-over was done. As long as this host has not ended the program, it runs on here;
the message says which it is. If the other host had said that it was ready, it keeps the program's image as `held`
and never runs it by itself: `brant ps` there shows it.",
    },
    Entry {
        code: "B-0904",
        title: "the other host was silent for too long",
        text: "\
Both sides say every five seconds that they live. For 120 seconds nothing was heard, or nothing was taken: the network,
the other host or its disk hangs. The connection was given up, with the same consequences as if it had been lost
(B-0903).",
    },
    Entry {
        code: "B-0905",
        title: "the other side does not keep to the protocol",
        text: "\
What came over the connection are not the messages that were due. Something else writes there (a login shell's script
in the background), or the other side is no brant. Nothing that came is believed: before the program's end here it
runs on here.",
    },
    Entry {
        code: "B-0906",
        title: "the move was interrupted",
        text: "\
brant was told to end by a signal (Ctrl-C). The message says where the program is: as a rule it runs on here, and the
other host has thrown away what it had got. Once that host has said that it is ready the rest takes a moment and is not
broken off; only a wait for its last word, where that does not come, can be.",
    },
    Entry {
        code: "B-0907",
        title: "the other host gave up",
        text: "\
The other host's brant said why it could not go on; its words stand behind its name. Its code is not known to this
brant: ask there, with `brant explain`.",
    },
    Entry {
        code: "B-0908",
        title: "there is no brant on the other host",
        text: "\
brant is neither on the PATH of a command that ssh runs there (often shorter than a login's) nor has it been brought
there before. Name it with --remote-path. A static brant (`cargo xtask dist` makes one) can bring itself along: it asks
on the terminal, or does so at once with --copy-brant, and lies then in ~/.local/state/brant/bin of that account. Delete
that folder to be rid of it.",
    },
    Entry {
        code: "B-0909",
        title: "the destination cannot be used",
        text: "\
The destination is [USER@]HOST as ssh knows it, and does not begin with a dash. -e takes one command with its
arguments; quotes keep words together, and nothing is expanded.",
    },
    Entry {
        code: "B-0910",
        title: "the image is held for a hand-over",
        text: "\
Another host sent this program and lost the connection before it said that it had ended it. So it may still run there,
and a second copy would do everything twice. Look there with `brant ps`. Where it runs there: remove the image here.
Where that host says that it is gone there: `brant restore ID --take-over`.",
    },
    Entry {
        code: "B-0911",
        title: "the program of this image runs already",
        text: "\
The image came by a migration and a job that was made of it runs. A second copy of a program that was moved is hardly
what you want; the image is only left because brant was ended before it could remove it.",
    },
    Entry {
        code: "B-0912",
        title: "the image was being handed to another host",
        text: "\
This host kept its copy of the image because the hand-over was not seen to its end. The message says whether the program
still runs here or was given away. Bring it back here (--take-over) only if it does not run there and is not brought back
there.",
    },
    Entry {
        code: "B-0913",
        title: "ended here, and not told to run there",
        text: "\
The program was ended here because the other host had it built and stopped, but the word that lets it go could not be
given, as this host could not write down that it did. Its image is safe on both hosts. Resume it in one place only: here
with `brant restore`, or there with `brant restore ID --take-over`.",
    },
    Entry {
        code: "B-0914",
        title: "handed over, and not known to run",
        text: "\
The program was ended here and the other host was told to run it, but its answer did not come. Look there with
`brant ps`: either the program runs, or its image is there and `brant restore` brings it back. Where that host is lost for
good, this host's copy of the image brings the program back here: brant restore ID --take-over.",
    },
    Entry {
        code: "B-0915",
        title: "the terminal of a program that was moved was lost",
        text: "\
The program was moved and goes on there; only the connection that carried its terminal ended. `brant attach` on that host
comes back to it.",
    },
];
