//! What stands behind the codes of this crate: `brant explain` prints these.

/// Every code of a definition file and what it means at length, in ascending order.
pub const EXPLANATIONS: &[(&str, &str)] = &[
    ("B-1001", "A wrapper definition is a text file in UTF-8. The place named holds bytes that are none."),
    (
        "B-1002",
        "A wrapper definition exceeds a limit. A file has at most 1 MiB; after 200 errors \
         the rest of a file is not read.",
    ),
    (
        "B-1003",
        "A character stands where none of its kind can. Names of letters, digits and _ . $ + - need no quotes, all \
         others stand in double quotes, as paths do. Statements have no `;` or `,` between them; comments begin with \
         # or //.",
    ),
    ("B-1004", "A text begins with a double quote and has none at its end. It must end in the same line."),
    (
        "B-1005",
        "A backslash in a text in quotes begins an escape: \\\" and \\\\ for these themselves, \\n, \\t, and \\u{HEX} for \
         any character by its number. Write \\\\ for a backslash, as in a path of Windows.",
    ),
    (
        "B-1006",
        "`size` and `stack` take a number of bytes from 0 to 65536, in decimal, or in hexadecimal behind 0x.",
    ),
    (
        "B-1007",
        "Something else stands where a word of a statement is due. A file consists of the statements\n\n\
         wrapper NAME implementation \"PATH\"\n\
         wrap FUNCTION[@VERSION] in LIBRARY with MEDIATOR [size N] [stack M] [sret] [sig \"...\"] [native]",
    ),
    (
        "B-1008",
        "A `wrap` belongs to the wrapper that is named before it. The file's first statement must be: \
         wrapper NAME implementation \"PATH\".",
    ),
    (
        "B-1009",
        "A file without a wrapper, or a wrapper without a `wrap`, would do nothing, so it is taken for a mistake.",
    ),
    (
        "B-1010",
        "A name has 1 to 4096 bytes and no control characters. A wrapper's name has no `/`, because the wrapper is \
         looked up as NAME.wrap. The path of a library is absolute; without a `/` it is a name.",
    ),
    (
        "B-1011",
        "Two wrappers of one file have the same name. One wrapper may wrap functions of several libraries, so their \
         lines may stand together.",
    ),
    (
        "B-1012",
        "A wrapper wraps a function once: with one mediator for each function, version and library. A line without a \
         version is one of every version. Two mediators for one function belong into two wrappers.",
    ),
    ("B-1013", "An option of a `wrap` statement is said twice."),
    (
        "B-1014",
        "A signature tells how many bytes of arguments travel in registers and on the stack, and whether the result \
         needs a hidden pointer. What `size`, `stack` or `sret` say beside it is something else, so one of them is \
         wrong. Behind a signature with `...` they may say more, not less.",
    ),
    (
        "B-1015",
        "Functions `in kernel` are system calls. They take at most six integers or pointers in registers and give one \
         integer; they have no symbol versions, nothing on the stack, no floating point and no variable arguments.",
    ),
    (
        "B-1016",
        "On x86-64 Linux `size` is 8 for each argument that is an integer or a pointer, at most 48 (40 with `sret`); \
         `stack` is what the arguments take on the stack, in steps of 8. A signature says both by itself.",
    ),
    (
        "B-1020",
        "A signature is a prototype of C, with or without names: sig \"int(const char* path, int flags, ...)\".",
    ),
    (
        "B-1021",
        "No header is read. A signature knows the types of C, the well-known ones of <stdint.h> and POSIX (size_t, \
         pid_t, ...), and pointers to anything. Write the type that another name stands for: int for an enumeration, \
         the fields for a struct.",
    ),
    (
        "B-1022",
        "Something of C that a signature cannot describe: a struct by value without its fields, a union, a bit-field, an \
         array whose length is no number, a result that is a pointer to a function. Write what is passed alike.",
    ),
    (
        "B-1023",
        "The prototype behind `sig` has a name in it, and it is not the name of the function that the line wraps. \
         Probably it is the wrong prototype. A signature needs no name.",
    ),
    (
        "B-1024",
        "A signature exceeds a limit: 127 parameters, 1024 fields of a struct, 65536 bytes of a struct or of stack \
         arguments, 8 structs or pointers in each other.",
    ),
];
