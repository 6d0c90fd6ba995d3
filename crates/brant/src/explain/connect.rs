//! B-11xx: wrappers.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-1100",
        title: "a wrapper could not be put on or taken off",
        text: "\
Something failed that should not have: a thread did not stop, memory could not be read, the part of brant that is in the
program did not answer. The program runs on. What was changed is told by `brant wrappers TARGET`, and `brant unwrap` takes
off what is on.",
    },
    Entry {
        code: "B-1101",
        title: "a wrapper's definition or implementation was not found",
        text: "\
WRAPPER is the path of a definition file, where it has a slash or ends in .wrap, or a name. NAME is looked for as NAME.wrap
in $XDG_CONFIG_HOME/brant/wrappers (~/.config/brant/wrappers) and in /etc/brant/wrappers. The implementation's path in a
definition starts at the definition's folder, unless it is absolute.",
    },
    Entry {
        code: "B-1102",
        title: "a definition file does not tell which wrapper is meant",
        text: "\
A file may define several wrappers. Then the one is taken that is called as the file, without .wrap.",
    },
    Entry {
        code: "B-1103",
        title: "the program is statically linked",
        text: "\
A mediator is a library, and a program that was linked statically has no loader that could load one, and no functions of
libraries to put it before. Its system calls can be mediated, by a wrapper of brant's own that has them alone, from its start
on or while it runs: brant run --wrap syscalls:out=FILE -- PROGRAM. For that the program must have a C library in it that brant knows (glibc or musl), and
its symbols, or frame descriptions as static-pie programs have them: so do not strip it. For everything else link it dynamically.",
    },
    Entry {
        code: "B-1104",
        title: "the program shows no C library that brant knows",
        text: "\
brant loads mediators by the program's own dlopen. It finds that in glibc and musl, in 64-bit programs. A program that was
stopped before its libraries were loaded has none yet. One whose main thread has ended while others go on shows neither its
mappings nor its memory any more: put wrappers on before that, by brant run --wrap.",
    },
    Entry {
        code: "B-1105",
        title: "somebody else holds the program",
        text: "\
Only one process can trace a program: a debugger, strace, or another brant that is just checkpointing or wrapping it. Try
again when that is done; the message names it.",
    },
    Entry {
        code: "B-1106",
        title: "the program has a seccomp filter",
        text: "\
Loading a library makes system calls in the program's name: memory files, mappings. A filter may forbid them and end the
program for it, and a plain user cannot read what a filter allows. So such programs are not wrapped.",
    },
    Entry {
        code: "B-1107",
        title: "the program has a shadow stack",
        text: "\
With a user shadow stack the processor checks every return. Some of the code that brant writes enters a function without
a call, which it would not let pass.",
    },
    Entry {
        code: "B-1108",
        title: "no thread could be borrowed",
        text: "\
A library is loaded by one of the program's own threads. It must not be in the loader, the allocator or fork at that moment, nor
in the middle of flushing all files or of registering what is done at the end, nor have a return address into these on its
stack, as it would wait for its own locks, or for who waits for it. For some seconds every thread was. Nothing
was changed; try again. A program whose only thread waits inside of dlopen cannot be wrapped before that returns.",
    },
    Entry {
        code: "B-1109",
        title: "the wrapper's library could not be loaded",
        text: "\
The program's own loader refused the implementation; its words stand above. The library must be readable for the program,
in its own root file system, and everything that it needs must be there.",
    },
    Entry {
        code: "B-1110",
        title: "the wrapper's library has no such mediator",
        text: "\
Each `wrap FUNCTION in LIBRARY with MEDIATOR` needs a function MEDIATOR that the implementation exports. nm -D shows what it
exports; C++ needs extern \"C\". A native one needs a variable brant_inner_MEDIATOR besides, which BRANT_NATIVE of
brant/mediator.h and native! of brant-mediator declare.",
    },
    Entry {
        code: "B-1111",
        title: "a function cannot be wrapped",
        text: "\
A wrapper is put on all of its functions or on none. A function is hooked by a jump over its first bytes, so a few cannot be:
those shorter than a jump and those into whose first bytes other code branches, where no padding nearby holds the jump, and
those that by their nature bear nobody between them and their caller: vfork and the setjmp family, dlopen and dlsym,
__tls_get_addr. A library that does not export the function is a reason too, and several functions for one native mediator.
Leave these lines out of the definition.

One that is not loaded is no reason: its functions are mediated when it is. Only where the loader's own notice of that cannot
be hooked such a definition is refused, as nobody would learn of the library.",
    },
    Entry {
        code: "B-1112",
        title: "a wrapper of this name is on already",
        text: "\
A program has at most one wrapper of a name. Take it off first, or give the other one another name.",
    },
    Entry {
        code: "B-1113",
        title: "the program has no such wrapper",
        text: "\
`brant wrappers TARGET` lists those that it has.",
    },
    Entry {
        code: "B-1114",
        title: "another version of brant has wrapped the program",
        text: "\
The part of brant that is in the program must be of the same build as the one that talks to it. Take the wrappers off with
the brant that put them on; new wrappers can be put on by that one only, as long as the program runs.",
    },
    Entry {
        code: "B-1115",
        title: "the program changed meanwhile",
        text: "\
A library was loaded or unloaded, or somebody else wrote over a function, between the plan and the moment at which it was to
be carried out; or a thread stayed in the first instructions of a function. Nothing was written. Try again.",
    },
    Entry {
        code: "B-1116",
        title: "a call in the program took too long",
        text: "\
Loading a library runs its constructors, and waits for threads that load one themselves. brant waited for 30 seconds. The
thread that loads it comes back to its own work by itself when that ends; its other threads run on.",
    },
    Entry {
        code: "B-1117",
        title: "a definition asks for what is not supported",
        text: "\
The message says for which function and why. A few system calls bear no mediator: vfork returns twice on one stack,
rt_sigreturn ends a signal handler on the stack that the mediator would stand on, restart_syscall is made by the kernel alone.
A system call cannot have a `native` mediator. Where an argument that fits into registers follows one that no longer does once
`icall` comes before both, no mediator can be written for the function. System calls of a program with Go code in it (cgo, a
library made by Go) are not mediated at all: it makes them on stacks of a few KiB. Functions of its C libraries are.",
    },
    Entry {
        code: "B-1131",
        title: "a wrapper declines",
        text: "\
Before its mediators stand before anything a wrapper is asked whether it agrees, with the options that stand behind the colon
of `brant wrap NAME:OPTIONS TARGET`. This one does not: its reason stands above. Often an option is wrong, or a file cannot be
written by the program. A library that does not export brant_event takes no options. Nothing was changed in the program.",
    },
    Entry {
        code: "B-1132",
        title: "the options of a wrapper are wrong",
        text: "\
Options stand behind a colon, with commas between them: brant wrap trace:out=FILE,json TARGET. Each wrapper that ships has its
own, which `brant wrappers` lists; docs/wrappers.md describes them. Nothing was touched.",
    },
    Entry {
        code: "B-1150",
        title: "the log of interceptions cannot be opened",
        text: "\
--log FILE, or the variable BRANT_CONNECT_LOG, names a file that gets a line for each function that a wrapper is put before or
taken off from. It is made where it is not there, for its owner only; its folder must be there and writable. Nothing was touched.",
    },
    Entry {
        code: "B-1151",
        title: "wrappers cannot be handed on to executed programs",
        text: "\
With --follow-exec a wrapped program starts this brant before it executes another program, by the path at which this brant lies. So that
must be there for the program too, in its own root file system. A wrapper is found again by its definition file, whose path and
options must have no line breaks. In a log the code stands for a program that was executed without its wrappers, with the reason: one that gains
rights by a setuid bit or by capabilities of its file, which it would lose if it were traced, or one whose file may not be read.",
    },
    Entry {
        code: "B-1152",
        title: "the program's limit on file sizes is too small",
        text: "\
brant's part in the program, and wrappers that ship, come into it as files that the program itself makes, of some 300 KiB. A program
that makes a file beyond its limit is ended by the kernel, so it is not tried. Raise the limit: prlimit --pid PID --fsize=1000000:
(the soft limit up to the hard one needs no rights).",
    },
    Entry {
        code: "B-1153",
        title: "the program can make no file that could be loaded",
        text: "\
brant's part in the program comes by a file in memory (memfd_create). Where the program may not have one, may not map it, or has no /proc
in which it finds it, the file is made in /tmp, /var/tmp, /dev/shm or /run as the program sees them, and loses its name at once. Here all of
these are missing, closed to the program, full, or mounted noexec. Give it a folder at one of these paths.",
    },
    Entry {
        code: "B-1160",
        title: "a wrapper that cannot be taken off",
        text: "\
The program was restored without namespaces and has other process numbers than it knows; the wrapper \"virtual\" translates them.
Without it, signals and waits of the program would go to other processes. It stays as long as the program lives.",
    },
];
