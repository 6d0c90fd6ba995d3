//! What stands behind the codes of the Windows part: `brant explain` and `brant.exe explain` print these.

/// Every code and what it means at length, in ascending order.
pub const EXPLANATIONS: &[(&str, &str)] = &[
    (
        "B-1300",
        "Something failed in the Windows part that should not have. The program runs on. What is mediated is told by \
         `brant.exe wrappers PID`, and `brant.exe unwrap` takes off what is on.",
    ),
    (
        "B-1301",
        "A wrapper's definition was not found. WRAPPER is the path of a definition file, where it has a slash or ends in \
         .wrap, or a name. NAME is looked for as NAME.wrap in the folder \"wrappers\" of %APPDATA%\\brant and beside brant.exe.",
    ),
    (
        "B-1302",
        "A definition file does not tell which wrapper is meant. A file may define several wrappers. Then the one is taken that \
         is called as the file, without .wrap.",
    ),
    (
        "B-1303",
        "A definition asks for what there is not on Windows: symbol versions, system calls (`in kernel`; the functions Nt... \
         of ntdll stand for them), `native`. `size` counts 4 for each argument there, as in 32-bit programs.",
    ),
    (
        "B-1304",
        "The process could not be opened. There is none of this number, or it belongs to another user or is protected. \
         brant needs no rights but those that the user has.",
    ),
    (
        "B-1305",
        "The program is for another processor. brant on Windows serves 64-bit programs for x86-64 only.",
    ),
    (
        "B-1306",
        "The program could not be started: it was not found, or Windows does not take it for a program. Windows's words stand above.",
    ),
    (
        "B-1307",
        "The agent could not be loaded into the program. brant_agent.dll must lie beside brant.exe and be readable for the program. \
         Security products and the program's own mitigations (signed libraries only) may forbid it. Nothing was changed.",
    ),
    (
        "B-1308",
        "The program has an agent of another build of brant in it. Use that build, or start the program anew.",
    ),
    (
        "B-1309",
        "The part of brant that is in the program did not answer: half a minute has passed without a step of it. A thread that waits may hold \
         the program's loader, or the machine is too busy. What had not begun is not done any more; what had may still be: \
         `brant.exe wrappers PID` tells. Try again.",
    ),
    (
        "B-1310",
        "The implementation of a wrapper could not be loaded. Its path starts at the definition's folder, unless it is absolute; \
         it and all that it needs must be there, for x86-64. The loader's words stand above. Nothing was changed.",
    ),
    (
        "B-1311",
        "The implementation of a wrapper does not export a mediator that its definition names. Nothing was changed.",
    ),
    (
        "B-1312",
        "Functions of the definition cannot be mediated; each is named with its reason. A wrapper is put on all of its functions or \
         on none. Nothing was changed.",
    ),
    (
        "B-1313",
        "The process has a wrapper of this name already. Take it off first: brant.exe unwrap NAME PID.",
    ),
    ("B-1314", "The process has no wrapper of this name. `brant.exe wrappers PID` lists those that it has."),
    (
        "B-1315",
        "The implementation was told that its wrapper is about to be put on, and declined; its words stand above. Nothing was changed.",
    ),
    (
        "B-1316",
        "Options stand behind the wrapper's name, and its implementation takes none: it exports no brant_event.",
    ),
    ("B-1317", "The command line could not be read. `brant.exe help` has all commands."),
    (
        "B-1318",
        "The process keeps no record. Start it with brant.exe run --wrap record, or put the wrapper on: brant.exe wrap record PID.",
    ),
    (
        "B-1319",
        "Code can only be changed while no thread runs it. The program's threads could not all be stopped, or one of them stood \
         where it cannot be moved from. Nothing was changed; try again.",
    ),
    ("B-1320", "The debug log could not be opened or written. Nothing was changed."),
    (
        "B-1321",
        "The wrapper `handles` gives the program virtual handles in the place of real ones. As long as the program holds some, it needs \
         the wrapper; it can be taken off once all are closed.",
    ),
    (
        "B-1330",
        "The program cannot be carried; each reason is named. Carried are 64-bit console programs of one process that were started by \
         brant.exe run --carry: their threads, heaps, regular files, standard handles, events, mutexes, semaphores and timers. Sockets, windows, \
         child processes, mapped files, and whatever else the program has called that brant does not know, cannot be carried. \
         The program goes on.",
    ),
    (
        "B-1331",
        "The file is no image, or it is damaged: its checksums do not match, or it was cut short. `brant image verify` on Linux says more.",
    ),
    (
        "B-1332",
        "Writing the image failed: the disk, the folder, or the permissions. There is no image; the program goes on.",
    ),
    (
        "B-1333",
        "The image cannot be brought back here; the reason is named. The executable must be the same and lie at the same address, files that were open \
         must be there, and the CPU must have what the program's threads have in registers. Nothing of the program has run.",
    ),
    (
        "B-1334",
        "A checkpoint needs all threads of the program to stand still, and one of them was in a function that brant cannot interrupt, or began or ended, for \
         longer than five seconds. The program goes on; try again.",
    ),
    (
        "B-1335",
        "The program was started with --heaps raw: its heaps are the system's own and are brought back as they were, so each must lie where \
         it was, the process heap too. Where Windows puts heaps depends on the size of the environment, on what is loaded, and on the Windows \
         version; the one that lies elsewhere is named. Nothing of the program has run. Without --heaps raw (brant.exe run --carry -- PROGRAM) a \
         program's heaps are in ranges of addresses that are free everywhere.",
    ),
];
