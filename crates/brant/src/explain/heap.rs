//! B-12xx: heaps that outlive their process.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "B-1201",
        title: "a heap's or a root's name cannot be",
        text: "\
A heap's name has 1 to 63 characters, a root's 1 to 39: letters, digits and signs of ASCII, no space.",
    },
    Entry {
        code: "B-1202",
        title: "the process has a heap of that name",
        text: "\
Names are unique in a process. A load brings up all heaps of an image or none, so one of its heaps must not be there already,
created or loaded: load before you create, and look for the heap by its name first.",
    },
    Entry {
        code: "B-1203",
        title: "something lies where a heap must lie",
        text: "\
A heap has the same addresses in each process: its pointers hold only there. The message says what is in the way. Heaps lie
between 0x400000000000 and 0x500000000000, where the kernel, the loader and the C library put nothing; another heap may be
there, of another image whose names lead to the same place, or memory of a program that chose such an address itself (Valgrind
and ThreadSanitizer keep this range for themselves). A heap that is created with another address has that one for good.",
    },
    Entry {
        code: "B-1204",
        title: "the kernel gives no address space or memory",
        text: "\
A heap reserves its whole range of addresses, 64 GiB unless it was said otherwise, and takes memory as it is used. `ulimit -v`
limits the first: create the heap with a smaller range. A load needs a mapping for each piece of its file: sysctl
vm.max_map_count limits those, and a save with `whole` writes a file of few pieces.",
    },
    Entry {
        code: "B-1205",
        title: "there are too many heaps or roots",
        text: "\
A process can have 1000 heaps, an image 1 to 256, a heap 128 roots. A root may name a table of your own with as much as you like.",
    },
    Entry { code: "B-1206", title: "there is no heap of that name", text: "\
No heap of that name was created or loaded by this process." },
    Entry {
        code: "B-1207",
        title: "a size or an address of a range is out of bounds",
        text: "\
A heap's range has 4 MiB to 1 TiB, by whole 64 KiB; where its address is said, that is a multiple of 2 MiB below 2 to the 47th. A
part of a region lies within it.",
    },
    Entry { code: "B-1208", title: "there is no root of that name", text: "\
The heap has no root of that name. `brant heap inspect IMAGE` lists those of an image." },
    Entry {
        code: "B-1209",
        title: "a root is of another kind, or leads out of its heap",
        text: "\
A root has a size and a kind, which who asks for it must say too: a value of another size, a Rust type of another name, layout or
compiler, or another number for the kind is refused, since the bytes would be taken for something that they are not. What a
root names must lie in a live block of its heap.",
    },
    Entry {
        code: "B-1211",
        title: "a block was freed twice",
        text: "\
Found by debug mode, for blocks of up to 64 KiB; a larger one that is freed twice is a foreign pointer (B-1214). Nothing was done
where the call can say so; a free of malloc's family or of Rust's allocator ends the program, as it cannot.",
    },
    Entry {
        code: "B-1212",
        title: "bytes behind a block were written",
        text: "\
Found by debug mode when the block is freed, resized, looked at or saved: the program wrote behind the bytes that it had asked for.",
    },
    Entry {
        code: "B-1213",
        title: "bytes before a block were written",
        text: "\
Found by debug mode: what lies before the block is not what the allocator wrote there, by an index below zero or an overrun of the
block before it.",
    },
    Entry {
        code: "B-1214",
        title: "an address is not that of a block of this heap",
        text: "\
The pointer came from another heap or another allocator, lies within a block, or its block was given back. Debug mode finds all of
these, the quick mode those that show by the address.",
    },
    Entry {
        code: "B-1215",
        title: "a free block was written",
        text: "\
Found by debug mode when the block is given out again: the program went on to use it after it had freed it. The program ends here,
since its data can be trusted no more.",
    },
    Entry {
        code: "B-1220",
        title: "the heap cannot be saved",
        text: "\
The process's own heap, from which the program's allocator takes what no heap was entered for, lies where the kernel put it. Enter a
named heap before you allocate what is to be kept.",
    },
    Entry { code: "B-1221", title: "the file is no image of heaps", text: "\
It does not begin as one. Images of checkpoints are another thing: see `brant image`." },
    Entry {
        code: "B-1222",
        title: "the image of heaps is of another version",
        text: "\
The format of images and the layout of heaps have a version each. This one was written by a brant-heap that is newer, or much older.",
    },
    Entry {
        code: "B-1223",
        title: "an image of heaps is damaged",
        text: "\
A checksum does not match, the file is too short, or numbers in it contradict each other; the message says where. Nothing was
loaded. A load verifies what it needs to place the heaps; `brant heap verify IMAGE` reads all of it. Take a copy from a backup.",
    },
    Entry { code: "B-1224", title: "an image of heaps cannot be read", text: "\
The message has the kernel's reason." },
    Entry {
        code: "B-1225",
        title: "an image of heaps cannot be written",
        text: "\
The message has the kernel's reason. The image is what it was before, and nothing else was left behind; a file that ends in
.new- and digits beside it is of a save that was killed, and may be removed.",
    },
    Entry { code: "B-1226", title: "another process is writing the image", text: "\
Saves to one image take turns. This one waited for half a minute." },
    Entry {
        code: "B-1227",
        title: "a file that is no image of heaps has the name",
        text: "\
A save replaces nothing but images of heaps and empty files. Name another file, or remove this one.",
    },
    Entry {
        code: "B-1228",
        title: "blocks hold addresses of loaded modules",
        text: "\
Found when a debugged heap is saved: words in live blocks are addresses of code, of vtables or of other data of the program or a
library. These lie elsewhere in the next process. Keep numbers or names instead of function pointers, `dyn` types and objects with
virtual functions; or, where the program puts such words right after a load, or the word is a number that only looks like one,
save with `code_pointers`.",
    },
    Entry {
        code: "B-1229",
        title: "a heap was used while it was saved",
        text: "Another thread allocated from the heap or freed in it while it was read, so what was read belongs to no one moment. Nothing was
saved; the image is what it was. Let the other threads wait, or leave the heap, until the save is done, and save again. Only
allocations are noticed: that nobody else writes into blocks meanwhile is for the program to see to.",
    },
];
