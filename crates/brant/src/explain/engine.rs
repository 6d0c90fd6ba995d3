//! B-0300 and B-04xx to B-08xx. What cannot be carried (B-03xx) is explained by the capture crate.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-0300",
        title: "something cannot be carried",
        text: "\
A program is checkpointed whole or not at all. Before anything is touched, brant looks at every process,
thread, mapping and descriptor of the tree and lists everything that it cannot carry, each with a remedy. The
program has not been stopped or changed. `brant check TARGET` lists the same.",
    },
    Entry {
        code: "B-0400",
        title: "the image does not fit this host",
        text: "\
Before anything is built, brant compares the image with this host and its files, and lists everything that does
not fit, each with a remedy. Nothing was started.",
    },
    Entry {
        code: "B-0401",
        title: "namespaces of one's own are not to be had here",
        text: "\
A restore gives a program its old pids and its old clock in namespaces of its own: user, pid, mount and time. Some
hosts forbid plain users to make them (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor's
kernel.apparmor_restrict_unprivileged_userns), and many containers mask parts of /proc, so that no fresh one can be
mounted. `brant doctor` tries each step and names the one that fails.",
    },
    Entry {
        code: "B-0402",
        title: "no free room in the address spaces",
        text: "\
To build a process brant needs a few free pages at an address that is free in every process of the image. There is
no such gap, which is very unusual. Please report the image's memory map (brant image inspect).",
    },
    Entry {
        code: "B-0403",
        title: "another kind of machine",
        text: "\
A program's instructions are those of one kind of CPU. An image of an x86_64 program runs on x86_64 machines only.",
    },
    Entry {
        code: "B-0404",
        title: "CPU features that this host lacks",
        text: "\
Programs and their libraries choose instructions by what the CPU offers when they start, and go on with that choice
after a restore. The image names the features of its CPU; this one lacks some. Restore on a CPU that has them, or start
the program on the richer machine with these features masked (GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,...).",
    },
    Entry {
        code: "B-0405",
        title: "an ability that a restore needs",
        text: "\
A restore gives a program its old process numbers, clocks, /proc and terminals in namespaces of its own. One of the
steps was tried and the kernel refused it. `brant doctor` lists all of them and what usually stands behind each.",
    },
    Entry {
        code: "B-0406",
        title: "a process number above this host's limit",
        text: "\
The tree gets its old process numbers back. This host's kernel.pid_max is too small for the largest of them.",
    },
    Entry {
        code: "B-0407",
        title: "too few descriptors",
        text: "\
While the tree is built, every open file of the image is open once at the same time, above all numbers that the tree
uses. The hard limit of open files (ulimit -Hn) is too low for that.",
    },
    Entry {
        code: "B-0408",
        title: "several users in one image",
        text: "\
A plain user can map one user and one group into a namespace. The image holds processes of more than one. Root can
restore it.",
    },
    Entry {
        code: "B-0409",
        title: "CPU state that this CPU has no place for",
        text: "\
When the checkpoint was taken, threads had something in registers (AVX, AVX-512, AMX) that this CPU or its kernel does not have, or
has in another size. Dropping it would be silently wrong. Restore the image on a CPU like the one that it was taken on.",
    },
    Entry {
        code: "B-0410",
        title: "a tree of a shape that cannot be grown",
        text: "\
Parents, sessions and process groups of the image stand to each other in a way that no sequence of fork, setsid and
setpgid leads to, or that this version does not find. Please report the shape of the tree (ps -o pid,ppid,pgid,sid).",
    },
    Entry {
        code: "B-0411",
        title: "a missing file",
        text: "\
The program had this file open or mapped, and it is not there. Put it back, or name where it is now with
--map-path OLD=NEW (a file, or a folder and all below it).",
    },
    Entry {
        code: "B-0412",
        title: "a file that has changed",
        text: "\
The program had this file open or mapped, and it is not what it was: size, time of change or identity differ, and so
do its contents (by build id or digest, where the image has one). What the program knows of it may be wrong.

  --files keep      take all files as they are
  --files rewind    a file that the program was writing, and that has only grown since, is cut to the size that it had;
                    the tail is first saved beside it as FILE.brant-tail-TIME
  --map-path A=B    use another file or folder

Nothing was started or changed.",
    },
    Entry {
        code: "B-0413",
        title: "a missing executable",
        text: "\
A process of the image runs this program, and it is not there. Install the same build, or name where it is now with
--map-path OLD=NEW.",
    },
    Entry {
        code: "B-0414",
        title: "a missing directory",
        text: "\
A process works in this directory or had it open, and it is not there. Make it, or name another: --map-path OLD=NEW.",
    },
    Entry {
        code: "B-0415",
        title: "a missing fifo, device or watched path",
        text: "\
The program had it open or watched it (inotify), and it is not there or is of another kind now.",
    },
    Entry {
        code: "B-0416",
        title: "an internet address that is not free",
        text: "\
The program listens at, or is bound to, this address and port, and another program uses it or this host does not have
the address. The captured program itself holds it as long as it runs: restoring a second copy of a server beside the
first is possible at another address only:

  brant restore --map-address OLD=NEW    each of them ADDRESS or ADDRESS:PORT

The program sees the new address then, unless it is restored without namespaces (--any-pid), where the wrapper virtual
hides it.",
    },
    Entry {
        code: "B-0417",
        title: "a port for root only",
        text: "\
Ports below net.ipv4.ip_unprivileged_port_start (usually 1024) can be bound by root only.",
    },
    Entry {
        code: "B-0418",
        title: "a unix socket name that is not free",
        text: "\
The program is bound to this name, and another program, perhaps the captured one itself, uses it, or something that is
no socket lies there. A socket that nobody listens at any more is replaced.",
    },
    Entry {
        code: "B-0419",
        title: "a datagram socket that cannot be reached again",
        text: "\
A datagram socket is connected by the name of its peer, and messages that wait in it are sent to it by its name. Here
there is no name, and the two do not come from one socketpair call, so neither can be done again.",
    },
    Entry {
        code: "B-0501",
        title: "not an image",
        text: "The file does not begin as an image of brant's does: it is another file, or its first bytes are damaged.",
    },
    Entry {
        code: "B-0502",
        title: "an image of another format version",
        text: "The image was written by a brant whose format this one does not know. Use that version of brant.",
    },
    Entry {
        code: "B-0503",
        title: "a damaged header",
        text: "The image's fixed header does not match its checksum. Nothing of it can be trusted.",
    },
    Entry {
        code: "B-0504",
        title: "an image that is cut short",
        text: "\
The file ends before the image does: a copy that was broken off, a disk that was full while it was copied. brant
itself gives an image its name only when it is whole. Copy it again.",
    },
    Entry {
        code: "B-0505",
        title: "a damaged section",
        text: "A part of the image does not match its checksum: the file was changed or the disk is failing.",
    },
    Entry {
        code: "B-0506",
        title: "an unknown section",
        text: "\
The image holds a section that must be understood and is not known to this brant: a newer one wrote it. Use that
version.",
    },
    Entry {
        code: "B-0507",
        title: "sections that do not fit together",
        text: "Each section is whole, but they do not make an image: some are missing, doubled or in another order.",
    },
    Entry {
        code: "B-0508",
        title: "a section that is too large",
        text: "A section claims a size beyond every limit. The image is damaged or was made to do harm.",
    },
    Entry {
        code: "B-0509",
        title: "a manifest that cannot be decoded",
        text: "The description of the processes has a right checksum and a wrong form. Please report how it was made.",
    },
    Entry {
        code: "B-0510",
        title: "a malformed manifest",
        text: "A field of the description holds a value that cannot be. The image is damaged or was made to do harm.",
    },
    Entry {
        code: "B-0511",
        title: "a manifest that contradicts itself",
        text: "Fields of the description do not agree with each other. The image is damaged or was made to do harm.",
    },
    Entry {
        code: "B-0512",
        title: "pages that are wrong",
        text: "Pages are stored twice, outside of every mapping, or are missing. The image is damaged.",
    },
    Entry {
        code: "B-0420",
        title: "copies of what the image carries cannot be executed",
        text: "\
The image carries executable and libraries (--portable), and this host has others or none. They are mapped from copies in
$XDG_STATE_HOME/brant/files, which lies on a file system that is mounted noexec. Set XDG_STATE_HOME to another folder.",
    },
    Entry {
        code: "B-0421",
        title: "a kernel that is too old",
        text: "\
The program uses something that only newer kernels have, such as memory that the kernel may drop (MAP_DROPPABLE, Linux 6.11).",
    },
    Entry {
        code: "B-0422",
        title: "something that only namespaces give",
        text: "\
With --any-pid, or where user namespaces are not to be had, a restore makes no namespaces: the program lives among your other
processes, under numbers that the kernel gives, with your user, your groups and the clocks of this host. What is named here
cannot be had so: other users and capabilities, another root directory, clocks that were ahead of this host's, and names
of unix sockets in folders that you may not write to. Restore it where user namespaces are allowed, or as root.",
    },
    Entry {
        code: "B-0423",
        title: "a static program without namespaces",
        text: "\
Without namespaces a program has new process numbers after a restore, and the wrapper \"virtual\" translates them. A static
program has no loader that could load it. One with a single thread can be brought back all the same, if it bears that its
number changes: --any-pid. With several threads it cannot: its C library remembers their numbers.",
    },
    Entry {
        code: "B-0424",
        title: "the image of a Windows program",
        text: "\
The image was made by the Windows part of brant, of a Windows program. It can be looked at, verified and copied here; brought
back it is by `brant.exe restore`, on Windows or under Wine (docs/windows.md).",
    },
    Entry {
        code: "B-0601",
        title: "an image could not be read",
        text: "Reading the image's file failed: the disk, the file server, or the permissions.",
    },
    Entry {
        code: "B-0602",
        title: "an image could not be written",
        text: "Writing the image failed. Nothing of it is left under its name, and the program runs on.",
    },
    Entry {
        code: "B-0603",
        title: "the disk is full",
        text: "\
There is no room for the image. Nothing of it is left, and the program runs on. Remove images that are no longer
needed (`brant image ls`, `brant image rm`), compress more (`--compress zstd`), or choose another disk (`-o`).",
    },
    Entry {
        code: "B-0604",
        title: "a file could not be written or removed",
        text: "The folder's permissions or the disk forbid it. Nothing is left under the image's name.",
    },
    Entry {
        code: "B-0605",
        title: "the file exists already",
        text: "An image never replaces a file unless `--force` is given.",
    },
    Entry {
        code: "B-0606",
        title: "no such image",
        text: "\
IMAGE is a path if it has a slash or exists; else the name of a job (its newest image); else the name of a file in
the store; else the beginning of an image's id. `brant image ls` lists the store. One that goes while `brant restore` looks at
it is not restored either: a broken-off move throws its image away once the program is known to run on where it was.",
    },
    Entry {
        code: "B-0607",
        title: "an ambiguous image",
        text: "Several ids begin so. Type more of the one that you mean.",
    },
    Entry {
        code: "B-0608",
        title: "the store's folder cannot be used",
        text: "Images lie in $XDG_STATE_HOME/brant/images, else ~/.local/state/brant/images. It cannot be made or read.",
    },
    Entry {
        code: "B-0609",
        title: "the store belongs to another user",
        text: "\
An image holds all of a program's memory, and restoring one is running it. So brant only uses a store that belongs
to you.",
    },
    Entry {
        code: "B-0610",
        title: "no place for images",
        text: "Neither XDG_STATE_HOME nor HOME is set to an absolute path. Set one, or use -o PATH.",
    },
    Entry {
        code: "B-0611",
        title: "a file could not be read",
        text: "The file is not there, or you may not read it. Images have mode 0600: only their owner reads them.",
    },
    Entry { code: "B-0612", title: "a folder, not an image", text: "Name the file inside of it." },
    Entry {
        code: "B-0613",
        title: "a stream could not be read",
        text: "Reading the image from standard input failed. Nothing of it is kept; let the sender send again.",
    },
    Entry {
        code: "B-0614",
        title: "the reader of an image went away",
        text: "\
The program behind the pipe ended before it had taken the whole image: what it said is the reason. A program that was
to be checkpointed runs on, also with `--stop`.",
    },
    Entry {
        code: "B-0615",
        title: "the reader of an image takes nothing",
        text: "\
The program behind the pipe lives and has taken nothing for two minutes. It may wait for a password, or the network
hangs. A program that was to be checkpointed is not kept waiting for ever: it runs on, also with `--stop`.",
    },
    Entry {
        code: "B-0700",
        title: "a checkpoint failed",
        text: "\
Looking at the program failed in a way that should not happen; the reason is given. The program runs on as
before, and no image was left. Trying again often helps when the tree was changing fast; else please report it.",
    },
    Entry {
        code: "B-0701",
        title: "a thread does not stop",
        text: "\
A thread of the program waits in the kernel in a place where it cannot be stopped (state D: usually a disk or a file
server that does not answer), or it waits for a vfork child that does not exec. Everything was let go again. Try
again when it has gone on.",
    },
    Entry {
        code: "B-0702",
        title: "the process ended",
        text: "The target, or a process of its tree, ended while it was looked at.",
    },
    Entry {
        code: "B-0706",
        title: "a file changed while it was copied",
        text: "\
A file that was to travel in the image (--portable, --with-files) was written to from outside of the program while it was
copied. Nothing of the image is left, and the program runs on. Try again when nobody writes to it.",
    },
    Entry {
        code: "B-0707",
        title: "it executes programs all the time",
        text: "\
Wrappers are handed on to programs that the tree executes (--follow-exec, or `virtual` after a restore without
namespaces). While brant puts them on such a program, it is not written down; within 20 seconds there was no moment at which
no program was being executed. The program runs on. Try again when it executes less.",
    },
    Entry {
        code: "B-0708",
        title: "it translates process numbers all the time",
        text: "\
The program was restored without namespaces, so the wrapper `virtual` translates what it says and hears of process numbers,
paths and addresses. A thread that is in the middle of that could not go on elsewhere under other numbers. Within 20 seconds
there was no moment at which no thread was. The program runs on. Try again when it asks for less.",
    },
    Entry {
        code: "B-0703",
        title: "the host could not be looked at",
        text: "brant tries what this host can do in a child process. That child could not be made or did not answer.",
    },
    Entry {
        code: "B-0704",
        title: "the checkpoint was interrupted",
        text: "\
brant was told to end by Ctrl-C or another signal while it took a checkpoint. The program was let go in order and runs
on as before, and the image that was begun is gone.",
    },
    Entry {
        code: "B-0705",
        title: "a copy of the program was lost",
        text: "\
A program that is left running is written from a copy of its memory, a process called brant-copy that never runs. It
was killed before all was written: by somebody, by the end of the job's pid namespace, or by brant itself because
memory got short. The program runs on as before, and no image was left. brant tries once more by itself, and keeps
the program still until all is written; so does `--stop`.",
    },
    Entry {
        code: "B-0801",
        title: "a restore failed",
        text: "\
Building the program failed at the step that is named. Everything that had been built is gone: no process, no mount.
`brant doctor` tells whether the host lacks something; else please report it.",
    },
    Entry {
        code: "B-0802",
        title: "a file of the program cannot be opened",
        text: "\
A file that the program had open or mapped is not to be opened any more. Put it back, name its new place with
--map-path OLD=NEW, or see whether its permissions have changed.",
    },
    Entry {
        code: "B-0803",
        title: "the job's keeper ended early",
        text: "The first process of the job's pid namespace ended before the program was built: somebody killed it.",
    },
    Entry {
        code: "B-0804",
        title: "something came out differently",
        text: "\
After building, brant compares what the kernel made with what was asked for. The two differ, so nothing was
started. Please report it.",
    },
    Entry {
        code: "B-0805",
        title: "memory could not be built",
        text: "\
A mapping of the program was refused by the kernel or could not be filled. Usual reasons: too little memory, a memory
limit of a container, vm.max_map_count, vm.overcommit_memory=2, or a file that has become shorter.",
    },
    Entry {
        code: "B-0806",
        title: "a restore was broken off",
        text: "\
The process that builds the program ended without a word: it was killed, or memory ran out. What it had built ended
with it.",
    },
    Entry {
        code: "B-0807",
        title: "numbers of a program could not be translated",
        text: "\
The program is to be built without namespaces, and the wrapper \"virtual\", by which it keeps the process numbers that it had, could
not be put on it. The reason stands behind it. Where a thread was loading a library or allocating memory when the checkpoint was
taken, another checkpoint of it may do; the same image can be restored where user namespaces are allowed, or as root.",
    },
];
