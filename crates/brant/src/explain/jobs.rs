//! B-01xx: usage, jobs, keepers. B-02xx: targets.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-0101",
        title: "the program was not found",
        text: "\
`brant run` looks for a program as a shell does: a name with a slash is a path, any other name is searched
for in the folders of PATH. Nothing of that name was found, so nothing was started. Shell built-ins, aliases
and functions are no programs: run them with `brant run -- bash -c '...'`.

Exit code 127, as with env and docker.",
    },
    Entry {
        code: "B-0102",
        title: "the program cannot be executed",
        text: "\
The file is there but the kernel would not execute it: it has no x permission, its file system is mounted
noexec, it is built for another machine, or the interpreter that its first line names is missing.

Exit code 126, as with env and docker.",
    },
    Entry {
        code: "B-0103",
        title: "a job of that name runs",
        text: "\
Names of running jobs are unique for each user. Take another name with -n, let brant choose one by leaving
-n out, or end the other job first. The name of a job that has ended is free again.",
    },
    Entry {
        code: "B-0104",
        title: "not a name for a job",
        text: "\
A job's name has 1 to 64 letters, digits, '.', '_', '-' or '+', starts with a letter or digit, and is not a
number: a number on the command line is always a pid.",
    },
    Entry {
        code: "B-0105",
        title: "the runtime folder is not usable",
        text: "\
Sockets of jobs lie in $XDG_RUNTIME_DIR/brant, or /tmp/brant-UID where that variable is not set. Who can
reach a job's socket can type into it and end it, so the folder must belong to you and have mode 0700.
Somebody else may have made a folder of that name under /tmp first; brant does not use it then. Set
XDG_RUNTIME_DIR to a folder of your own, or have the folder removed.",
    },
    Entry {
        code: "B-0106",
        title: "the job's keeper could not be set up",
        text: "\
Each job has one small process that keeps it (see `brant run --help`). Setting it up failed before the
program was started; the reason is given. Usual ones: no processes left (ulimit -u, a pids limit of the
container), no descriptors left (ulimit -n), no pseudo-terminals left, or a full disk under the runtime
folder.",
    },
    Entry {
        code: "B-0107",
        title: "the job's keeper is gone or cannot be reached",
        text: "\
The process that keeps the job was ended by somebody, or its socket was taken out of the runtime folder. Where the program
still runs, `brant ps` shows it as \"running, keeper lost\"; stop, kill and checkpoint still work on it, but
nobody keeps its terminal, output or exit status any more.",
    },
    Entry {
        code: "B-0108",
        title: "the job has no log",
        text: "\
Only a job that was started with -d or -t writes through its keeper, which keeps the last 4 to 8 MiB. A job
in the foreground without -t has the descriptors of the shell that started it, so its output went there.",
    },
    Entry {
        code: "B-0109",
        title: "no such signal",
        text: "A signal is given by name, with or without SIG (TERM, SIGUSR1), or by number from 1 to 64.",
    },
    Entry {
        code: "B-0110",
        title: "the job does not run",
        text: "\
The job is known, but all of it has ended. `brant ps -a` shows how. A job that ended can be asked for its
exit status for a day. If there is a checkpoint of it, `brant restore NAME` brings it back.",
    },
    Entry {
        code: "B-0111",
        title: "the target has not ended in time",
        text: "\
SIGKILL was sent, but a process of the target is still there. A process in an uninterruptible system call
(state D in ps), usually on a file server that does not answer, ends only when that call returns.",
    },
    Entry {
        code: "B-0112",
        title: "no such error code",
        text: "`brant explain` without a code lists them all.",
    },
    Entry {
        code: "B-0113",
        title: "the pid file was not written",
        text: "\
The program was restored and runs, but the file of --pid-file could not be written. `brant ps` shows its pid.",
    },
    Entry {
        code: "B-0114",
        title: "the demo failed",
        text: "\
`brant demo` uses the same commands that you would type; one of them failed, and its message is shown. `brant
doctor` tells whether the host lacks something.",
    },
    Entry {
        code: "B-0115",
        title: "an image is not written to a terminal",
        text: "\
`-` as the output means standard output, and that is a terminal. An image is binary and holds the program's secrets.
Pipe it into something (`brant checkpoint TARGET -o - | ssh HOST brant restore - -d`), or name a file with -o. The
program has not been touched.",
    },
    Entry {
        code: "B-0116",
        title: "an image is not typed in",
        text: "\
`-` as the image means standard input, and that is a terminal. Pipe an image into it, or name one: `brant image
ls`.",
    },
    Entry {
        code: "B-0119",
        title: "the manual pages were not written",
        text: "\
`brant man --folder FOLDER` makes the folder and writes one file for each verb. The reason is named: permissions, a full
disk, a file where the folder should be.",
    },
    Entry {
        code: "B-0120",
        title: "no such verb",
        text: "`brant man VERB` prints the page of a verb as `brant --help` spells it; `brant man image inspect` that of one below.",
    },
    Entry {
        code: "B-0201",
        title: "no such target",
        text: "\
A target is a pid or the name of a job. No process of that number is visible to you, or no job of that name
is known: it never ran under this user, it was named differently (`brant ps -a`), or it ended more than a day
ago. Jobs are looked for in $XDG_RUNTIME_DIR/brant: with another value of that variable there are others.",
    },
    Entry {
        code: "B-0202",
        title: "no permission for the target",
        text: "\
The process belongs to another user, or it has more privileges than you (a setuid program, capabilities).
brant needs no root, and it can do to a process only what its owner could do with a debugger.",
    },
    Entry {
        code: "B-0203",
        title: "brant is a part of the target",
        text: "\
The process that was named is an ancestor of this very brant, such as the shell that it was typed into. All
descendants belong to a checkpoint, and brant cannot freeze itself. Run it from another terminal; to carry a shell
together with what it runs, start it as a job (brant run -t -- bash) and take the checkpoint from outside.",
    },
];
