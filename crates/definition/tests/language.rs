//! What the language accepts and what it means.

use brant_definition::abi::Replay;
use brant_definition::{Convention, Definition, Errors, Library, Signature, Wrap, parse};

fn read(text: &str) -> Definition {
    parse(text.as_bytes(), Convention::SysV)
        .unwrap_or_else(|errors| panic!("{}", errors.render("-", text.as_bytes())))
}

fn codes(text: &str) -> Vec<&'static str> {
    codes_of(parse(text.as_bytes(), Convention::SysV))
}

fn codes_of(result: Result<Definition, Errors>) -> Vec<&'static str> {
    result.map_or_else(|errors| errors.iter().map(|error| error.code()).collect(), |_| Vec::new())
}

/// The only wrap of a wrapper `t` with this line.
fn one(line: &str) -> Wrap {
    read(&format!("wrapper t implementation \"t.so\" {line}")).wrappers[0].wraps[0].clone()
}

#[test]
fn the_lines_of_the_paper_are_read_as_they_stand() {
    let text = "wrapper trace implementation \"libtrace.so\"\nwrap CreateProcessW in kernel32 with My_CreateProcess size 40\n";
    let definition = read(text);
    let wrapper = &definition.wrappers[0];
    assert_eq!((wrapper.name.as_str(), wrapper.implementation.as_str()), ("trace", "libtrace.so"));
    let wrap = &wrapper.wraps[0];
    assert_eq!((wrap.function.as_str(), wrap.mediator.as_str()), ("CreateProcessW", "My_CreateProcess"));
    assert_eq!(wrap.library, Library::named("kernel32").unwrap());
    assert_eq!((wrap.size, wrap.stack, wrap.sret, wrap.native), (Some(40), None, false, false));
    assert_eq!((wrap.span.start, wrap.span.end), (43, text.len() as u32 - 1));
    assert_eq!(definition.to_string(), text);
}

#[test]
fn layout_is_free_and_comments_end_with_their_line() {
    let spread = "\u{feff}# a comment\r\nwrapper\tt // another: wrap\nimplementation\n\"t.so\"wrap f@@V1\nin libc with g size#\n0x10";
    let wrap = &read(spread).wrappers[0].wraps[0];
    assert_eq!(*wrap, one("wrap f@V1 in libc with g size 16"));
    assert_eq!(wrap.version.as_ref().map(|version| version.as_str()), Some("V1"));
}

#[test]
fn names_of_linkers_are_names_here() {
    assert_eq!(one("wrap _ZN3foo3barEv in libstdc++.so.6 with a").function.as_str(), "_ZN3foo3barEv");
    assert_eq!(one("wrap main.cold in ld-linux-x86-64.so.2 with $x").function.as_str(), "main.cold");
    assert_eq!(one(r#"wrap "?f@@YAXH@Z" in foo with a"#).function.as_str(), "?f@@YAXH@Z");
    assert_eq!(one(r#"wrap "size" in libc with "in""#).function.as_str(), "size");
    let quoted = one(r#"wrap "a b"@"V 1" in "/opt/li b.so" with a"#);
    assert_eq!(quoted.version.unwrap().as_str(), "V 1");
    assert!(matches!(quoted.library, Library::Path(path) if path.as_str() == "/opt/li b.so"));
}

#[test]
fn the_kernel_in_quotes_is_a_library() {
    assert_eq!(one("wrap openat in kernel with a").library, Library::Kernel);
    assert_eq!(one(r#"wrap openat in "kernel" with a"#).library, Library::named("kernel").unwrap());
}

#[test]
fn prototypes_of_man_pages_are_signatures() {
    let canonical =
        |text: &str| Signature::parse(text).map(|signature| signature.to_string()).map_err(|e| e.to_string());
    let same = |text: &str, expected: &str| assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
    same("int()", "int()");
    same("void(void)", "void()");
    same("int open(const char *pathname, int flags, ...);", "int(const char* pathname, int flags, ...)");
    same("ssize_t read(int fd, void buf[.count], size_t count)", "ssize_t(int fd, void* buf, size_t count)");
    same(
        "int poll(struct pollfd *fds, nfds_t nfds, int timeout)",
        "int(struct pollfd* fds, nfds_t nfds, int timeout)",
    );
    same(
        "int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attr, void *(*start)(void *), void *arg)",
        "int(pthread_t* thread, const pthread_attr_t* attr, void(*start)(), void* arg)",
    );
    same(
        "int execve(const char *path, char *const argv[], char *const envp[])",
        "int(const char* path, char** argv, char** envp)",
    );
    same(
        "char const *f(long unsigned int, signed, unsigned)",
        "const char*(unsigned long, int, unsigned int)",
    );
    same("double _Complex(complex float, long double)", "double _Complex(float _Complex, long double)");
    same(
        "void(struct p { double x, *y; char n[2][3]; } p)",
        "void(struct p { double x; double* y; char n[6]; } p)",
    );
    same("struct { struct { int a; } b[2]; }(enum kind)", "struct { struct { int a; } b[2]; }(int)");
    same("void(FILE*, void (**hooks[])(int), union u*)", "void(FILE*, void(***hooks)(), union u*)");
    same("void(struct { int (*f[3])(void); })", "void(struct { void(*f[3])(); })");
    same("int(...)", "int(...)");
}

#[test]
fn what_is_no_signature_is_refused_by_code() {
    let code = |text: &str| {
        Signature::parse(text)
            .map(|signature| signature.to_string())
            .map_err(|e| e.iter().next().unwrap().code())
    };
    let refused = |text: &str, expected: &'static str| assert_eq!(code(text), Err(expected), "{text}");
    for text in [
        "",
        "int",
        "int(",
        "int(int",
        "int(int,)",
        "int)",
        "(int)",
        "int(int) x",
        "int(a b c)",
        "int(int int8_t)",
        "int(unsigned __int128)",
        "int(void, int)",
        "int(*)(int)(",
        "int(int[)",
        "int(struct)",
        "int(struct {int a})",
        "int(int (f)(int))",
        "int(void (*)(?))",
        "ä()",
        "int(..., int)",
    ] {
        let is_syntax = matches!(code(text), Err("B-1020" | "B-1021" | "B-1022"));
        assert!(is_syntax, "{text}: {:?}", code(text));
    }
    refused("int(pthread_mutex_t)", "B-1021");
    refused("int(unsigned float)", "B-1021");
    refused("long long long()", "B-1021");
    refused("int(struct stat)", "B-1022");
    refused("int(union { int a; })", "B-1022");
    refused("int(struct { int a : 3; })", "B-1022");
    refused("int(struct { int a[n]; })", "B-1022");
    refused("int(void x)", "B-1022");
    refused("void (*signal(int, void (*)(int)))(int)", "B-1022");
    refused("int(struct {})", "B-1024");
    refused("int(struct { int a[0]; })", "B-1024");
    refused("int(struct { char a[65537]; })", "B-1024");
    refused("int(struct { char a[65536][65536]; })", "B-1024");
    refused("int(char*********)", "B-1024");
    refused("int(char********[])", "B-1024");
    refused(&format!("int({}int)", "int,".repeat(127)), "B-1024");
    refused(&format!("int({}int a; {})", "struct { ".repeat(9), "}; ".repeat(9)), "B-1024");
    refused(&format!("int(struct {{ {} }})", "int;".repeat(1025)), "B-1024");
    // An inner struct of 512 fields, three times.
    refused(&format!("int(struct {{ struct {{ {} }} a, b, c; }})", "char;".repeat(512)), "B-1024");
    assert!(code(&format!("int({}int)", "int,".repeat(126))).is_ok());
    assert!(
        code(&format!("int({}int a; {})", "struct { ".repeat(8), "}; ".repeat(8)).replace("}; )", "})"))
            .is_ok()
    );
}

#[test]
fn what_a_call_repeats_follows_from_whatever_is_said() {
    let replay = |options: &str| {
        let Replay { integer_registers, sse_registers, stack_bytes, is_sret } =
            Replay::of(&one(&format!("wrap f in libc with g {options}")));
        (integer_registers, sse_registers, stack_bytes, is_sret)
    };
    assert_eq!(replay(""), (6, 8, 0, false));
    assert_eq!(replay("size 16 stack 8"), (2, 8, 8, false));
    assert_eq!(replay("size 16 sret"), (3, 8, 0, true));
    assert_eq!(replay(r#"sig "int(int, double)""#), (1, 1, 0, false));
    assert_eq!(replay(r#"sig "int(int, ...)""#), (6, 8, 0, false));
    assert_eq!(replay(r#"sig "int(int, ...)" stack 64"#), (6, 8, 64, false));
    assert_eq!(replay(r#"sig "struct { char a[17]; }(int)""#), (2, 0, 0, true));
}

#[test]
fn a_carriage_return_alone_ends_no_line() {
    assert_eq!(codes("wrapper a implementation \"b\\\rc\""), ["B-1005"]);
    assert_eq!(codes("wrapper a implementation \"b\\\r\n"), ["B-1004"]);
}

#[test]
fn limits_hold() {
    let head = "wrapper a implementation \"b\"\n";
    let long = |length: usize| "x".repeat(length);
    assert_eq!(codes(&format!("{head}wrap {} in libc with g", long(4096))), Vec::<&str>::new());
    assert_eq!(codes(&format!("{head}wrap {} in libc with g", long(4097))), ["B-1010"]);
    assert_eq!(codes(&format!("{head}wrap f in l with g#{}", long((1 << 20) - 60))), Vec::<&str>::new());
    assert_eq!(codes(&format!("{head}wrap f in l with g#{}", long(1 << 20))), ["B-1002"]);
    let lines =
        |count: u32| (0..count).fold(head.to_owned(), |text, n| text + &format!("wrap {n:x} in a with b\n"));
    assert!(lines(45_000).len() < 1 << 20);
    assert_eq!(codes(&lines(45_000)), Vec::<&str>::new());
    // As many errors as there is room for, and one that says so.
    let many = codes(&";\n".repeat(10_000));
    assert_eq!(many.len(), 200);
    assert_eq!((many[198], many[199]), ("B-1003", "B-1002"));
    assert_eq!(codes_of(parse(b"wrapper a\xff", Convention::SysV)), ["B-1001"]);
}

#[test]
fn the_grammar_alone_does_not_judge_arguments() {
    let text = "wrapper a implementation \"b\" wrap f in c with d size 12 sret stack 3 sig \"int(int)\"";
    assert_eq!(codes_of(parse(text.as_bytes(), Convention::Any)), Vec::<&str>::new());
    assert_eq!(codes(text), ["B-1014", "B-1014", "B-1014"]);
}
