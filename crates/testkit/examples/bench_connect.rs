//! What a mediated call costs, in one run: bare, by LD_PRELOAD, by brant with and without its guard, and through two layers;
//! and for how long a program with 200 threads stands still. `cargo run --release -p brant-testkit --example bench_connect`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use brant_testkit::{Sandbox, Started, Who, repository, wait_until};

/// Batches that are waited for before a median is read, of which the last 15 count.
const BATCHES: f64 = 40.0;

fn compile(sandbox: &Sandbox, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let to = sandbox.path(name);
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-pthread", "-fno-builtin", "-I"]).arg(repository().join("include"));
    if name.ends_with(".so") {
        command.args(["-shared", "-fPIC"]);
    }
    command.arg("-o").arg(&to).arg(repository().join("fixtures/connect").join(source));
    command.arg("-L").arg(sandbox.path("")).args(flags).args(["-Wl,-rpath,$ORIGIN", "-ldl"]);
    assert!(command.status().expect("a compiler starts").success());
    to
}

fn numbers(sandbox: &Sandbox) -> Vec<f64> {
    sandbox.text("f.state").split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The medians of batches that begin from now on.
fn measure(sandbox: &Sandbox) -> [f64; 2] {
    assert!(wait_until(60, || numbers(sandbox).len() == 3), "it runs");
    let begin = numbers(sandbox)[2];
    assert!(wait_until(300, || numbers(sandbox)[2] > begin + BATCHES), "it goes on");
    let now = numbers(sandbox);
    [now[0], now[1]]
}

fn start(sandbox: &Sandbox, program: &Path, args: &[&str], preload: Option<&Path>) -> Started {
    let mut command = sandbox.command(program);
    command.arg(sandbox.path("f")).args(args);
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    sandbox.launch(command, false)
}

fn brant(sandbox: &Sandbox, args: &[&str]) -> serde_json::Value {
    let outcome = sandbox.brant(args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap_or_default()
}

fn main() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "bench_library.c", "libwork.so", &[]);
    compile(&sandbox, "bench_mediators.c", "libone.so", &[]);
    compile(&sandbox, "bench_mediators.c", "libtwo.so", &[]);
    let preload = compile(&sandbox, "bench_preload.c", "libpreload.so", &[]);
    let bench = compile(&sandbox, "bench.c", "bench", &["-lwork"]);
    for name in ["one", "two"] {
        let definition = format!(
            "wrapper {name} implementation \"lib{name}.so\"\nwrap work in libwork with my_work sig \"long(long)\"\n\
             wrap malloc in libc with my_malloc sig \"void *(size_t)\"\nwrap free in libc with my_free sig \"void(void *)\"\n"
        );
        sandbox.write(&format!("{name}.wrap"), &definition);
    }
    let path = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let mut rows = Vec::new();
    let program = start(&sandbox, &bench, &[], Some(&preload));
    rows.push(("LD_PRELOAD", measure(&sandbox)));
    drop(program);
    let program = start(&sandbox, &bench, &[], None);
    let pid = program.pid().to_string();
    rows.insert(0, ("bare", measure(&sandbox)));
    brant(&sandbox, &["wrap", "--no-guard", &path("one.wrap"), &pid]);
    rows.push(("one layer, no guard", measure(&sandbox)));
    brant(&sandbox, &["unwrap", "one", &pid]);
    brant(&sandbox, &["wrap", &path("one.wrap"), &pid]);
    rows.push(("one layer", measure(&sandbox)));
    brant(&sandbox, &["wrap", &path("two.wrap"), &pid]);
    rows.push(("two layers", measure(&sandbox)));
    brant(&sandbox, &["unwrap", "two", &pid]);
    brant(&sandbox, &["unwrap", "one", &pid]);
    rows.push(("bare afterwards", measure(&sandbox)));
    drop(program);
    println!("{:22} {:>12} {:>16}", "", "call, ns", "malloc+free, ns");
    for (name, [call, blocks]) in &rows {
        println!("{name:22} {call:>12.2} {blocks:>16.2}");
    }
    pauses(&sandbox);
}

/// For how long programs with many threads stand still.
fn pauses(sandbox: &Sandbox) {
    compile(sandbox, "stress_library.c", "libtick.so", &[]);
    compile(sandbox, "stress_mediators.c", "libcount.so", &[]);
    let stress = compile(sandbox, "stress.c", "stress", &["-ltick"]);
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick size 8\n",
    );
    let path = sandbox.path("count.wrap").to_str().expect("test paths are UTF-8").to_owned();
    let program = start(sandbox, &stress, &[&"w".repeat(199)], None);
    let pid = program.pid().to_string();
    assert!(wait_until(60, || numbers(sandbox).len() == 5), "it runs");
    let mut pauses: Vec<u64> = Vec::new();
    for _ in 0..11 {
        pauses
            .push(brant(sandbox, &["wrap", "--json", &path, &pid])["pause_us"].as_u64().unwrap_or(u64::MAX));
        brant(sandbox, &["unwrap", "--json", "count", &pid]);
    }
    pauses.sort_unstable();
    println!(
        "200 threads stand still for {:.1} ms (median), {:.1} ms at most",
        pauses[5] as f64 / 1e3,
        pauses[10] as f64 / 1e3
    );
}
