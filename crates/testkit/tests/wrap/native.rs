//! Native mediators: with the function's own prototype, jumped to directly, for every signature, before and behind others, and the
//! malloc family under load.

use std::process::Command;

use brant_testkit::{Sandbox, Started, Who};

use super::{compile, compile_rust, expect, is_unloaded, make_stress, start, state, unwrap, wrap};

/// The wrapper `count` is put on and taken off again; its library stays.
fn comes_and_goes(sandbox: &Sandbox, program: &Started) {
    wrap(sandbox, "count.wrap", program).expect(0);
    let before = state(sandbox);
    expect(sandbox, "mediated", |state| state[1] > before[1] + 2 && state[4] == 0);
    assert!(!is_unloaded(&unwrap(sandbox, "count", program)));
    let before = state(sandbox);
    expect(sandbox, "bare again", |state| state[2] > before[2] + 2 && state[4] == 0);
}

/// Each function natively, alone and with other wrappers before and behind it.
#[test]
fn every_signature_passes_native_mediators() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "matrix_library.c", "libmatrix.so", &[]);
    for library in ["libone.so", "libtwo.so", "libthree.so"] {
        compile(&sandbox, "matrix_mediators.c", library, &[]);
    }
    let matrix = compile(&sandbox, "matrix.c", "matrix", &["-lmatrix", "-rdynamic"]);
    for (kind, name, library) in
        [("native", "one", "libone.so"), ("sig", "two", "libtwo.so"), ("native", "three", "libthree.so")]
    {
        let output =
            Command::new(&matrix).args(["--define", kind, name, library]).output().expect("it starts");
        sandbox.write(&format!("{name}.wrap"), &String::from_utf8_lossy(&output.stdout));
    }
    let mut program = start(&sandbox, &matrix, &[]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    let all = state(&sandbox)[1];
    // Three functions have variable arguments or none that a signature tells of.
    let native = all - 3;
    assert!(native >= 47, "{native} functions");
    let is_so =
        |once: i64, more: i64| move |state: &[i64]| state[2] == once && state[3] == more && state[4] == 0;
    wrap(&sandbox, "one.wrap", &program).expect(0);
    expect(&sandbox, "one native layer", is_so(native, 0));
    wrap(&sandbox, "two.wrap", &program).expect(0);
    expect(&sandbox, "a layer before it", is_so(3, native));
    wrap(&sandbox, "three.wrap", &program).expect(0);
    expect(&sandbox, "a native layer before both", is_so(3, native));
    // From the middle, the inner one, the last one.
    assert!(is_unloaded(&unwrap(&sandbox, "two", &program)));
    expect(&sandbox, "two native layers", is_so(0, native));
    assert!(!is_unloaded(&unwrap(&sandbox, "one", &program)), "nobody keeps account of its calls");
    expect(&sandbox, "the outer native layer", is_so(native, 0));
    assert!(!is_unloaded(&unwrap(&sandbox, "three", &program)));
    expect(&sandbox, "bare again", is_so(0, 0));
    wrap(&sandbox, "one.wrap", &program).expect(0);
    expect(&sandbox, "one native layer again", is_so(native, 0));
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

/// The allocator is mediated natively while threads allocate, print and are interrupted, over and over.
#[test]
fn the_malloc_family_is_mediated_natively_under_load() {
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "native_mediators.c");
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\n\
         wrap malloc in libc with my_malloc native\nwrap calloc in libc with my_calloc native\n\
         wrap realloc in libc with my_realloc native\nwrap free in libc with my_free native\n\
         wrap tick in libtick with my_tick sig \"void(long *)\" native\n",
    );
    let mut program = start(&sandbox, &stress, &["aapsfw"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    for _ in 0..15 {
        comes_and_goes(&sandbox, &program);
    }
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

#[test]
fn native_mediators_are_written_in_rust() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "stress_library.c", "libtick.so", &[]);
    compile_rust(&sandbox, "native_in_rust.rs", "libcount.so");
    let stress = compile(&sandbox, "stress.c", "stress", &["-ltick"]);
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick native\n",
    );
    let mut program = start(&sandbox, &stress, &["a"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    comes_and_goes(&sandbox, &program);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

#[test]
fn what_cannot_be_native_is_refused_with_its_reason() {
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "native_mediators.c");
    let mut program = start(&sandbox, &stress, &["w"]);
    expect(&sandbox, "started", |state| state[0] > 1);
    for (lines, code, word) in [
        ("wrap realpath in libc with my_copy native", "B-1111", "name a version"),
        (
            "wrap malloc in libc with my_malloc native\nwrap valloc in libc with my_malloc native",
            "B-1111",
            "one function only",
        ),
        ("wrap tick in libtick with my_nothing native", "B-1110", "brant_inner_my_nothing"),
        ("wrap tick in libtick with my_constant native", "B-1110", "brant_inner_my_constant"),
    ] {
        sandbox.write("bad.wrap", &format!("wrapper bad implementation \"libcount.so\"\n{lines}\n"));
        let outcome = wrap(&sandbox, "bad.wrap", &program);
        assert!(outcome.code != 0, "{lines}");
        assert!(
            outcome.stderr.contains(code) && outcome.stderr.contains(word),
            "{lines}: {}",
            outcome.stderr
        );
    }
    let before = state(&sandbox);
    expect(&sandbox, "bare", |state| state[2] > before[2] + 5 && state[1] == 0 && state[4] == 0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}
