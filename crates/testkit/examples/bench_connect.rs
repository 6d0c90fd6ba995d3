//! What a mediated call costs, in one run: bare, by LD_PRELOAD, by brant natively, with and without its guard, through two layers, and by
//! Frida where a python has it (`BRANT_BENCH_FRIDA` names another one than `python3`); for how long a program with 200 threads
//! stands still, idle ones and busy ones; and whether `trace` loses any of a million calls a second.
//! `cargo run --release -p brant-testkit --example bench_connect`.
#![forbid(unsafe_code)]

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use brant_testkit::{Sandbox, Started, Who, repository, wait_until};

/// Batches that are waited for before a median is read, of which the last 15 count.
const BATCHES: f64 = 40.0;
/// Each figure is the least of so many medians.
const ROUNDS: u32 = 7;

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
    // What an earlier one has said does not count.
    let _ = std::fs::remove_file(sandbox.path("f.state"));
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
    compile(&sandbox, "bench_mediators.c", "libnative.so", &[]);
    sandbox.write(
        "native.wrap",
        "wrapper plain implementation \"libnative.so\"\nwrap work in libwork with native_work native\n\
         wrap malloc in libc with native_malloc native\nwrap free in libc with native_free native\n",
    );
    let path = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let mut rows: Vec<(&str, [f64; 2])> = Vec::new();
    let mut note = |name, measured: [f64; 2]| match rows.iter_mut().find(|(known, _)| *known == name) {
        Some((_, least)) => *least = [least[0].min(measured[0]), least[1].min(measured[1])],
        None => rows.push((name, measured)),
    };
    // All of them in each round: what a machine does besides changes within seconds.
    for _ in 0..ROUNDS {
        let program = start(&sandbox, &bench, &[], None);
        let pid = program.pid().to_string();
        note("bare", measure(&sandbox));
        brant(&sandbox, &["wrap", &path("native.wrap"), &pid]);
        note("one native layer", measure(&sandbox));
        brant(&sandbox, &["unwrap", "plain", &pid]);
        brant(&sandbox, &["wrap", "--no-guard", &path("one.wrap"), &pid]);
        note("one layer, no guard", measure(&sandbox));
        brant(&sandbox, &["unwrap", "one", &pid]);
        brant(&sandbox, &["wrap", &path("one.wrap"), &pid]);
        note("one layer", measure(&sandbox));
        brant(&sandbox, &["wrap", &path("two.wrap"), &pid]);
        note("two layers", measure(&sandbox));
        brant(&sandbox, &["unwrap", "two", &pid]);
        brant(&sandbox, &["unwrap", "one", &pid]);
        note("bare afterwards", measure(&sandbox));
        drop(program);
        let _program = start(&sandbox, &bench, &[], Some(&preload));
        note("LD_PRELOAD", measure(&sandbox));
    }
    let bare = rows[0].1;
    println!("{:22} {:>10} {:>7} {:>16} {:>7}", "", "call, ns", "x bare", "malloc+free, ns", "x bare");
    let print = |name: &str, [call, blocks]: [f64; 2]| {
        let [of_call, of_blocks] = [call / bare[0], blocks / bare[1]];
        println!("{name:22} {call:>10.2} {of_call:>7.1} {blocks:>16.2} {of_blocks:>7.1}");
    };
    rows.iter().for_each(|(name, row)| print(name, *row));
    for kind in ["attach", "replace"] {
        match with_frida(&sandbox, &bench, kind) {
            Ok((version, row)) => print(&format!("Frida {version}, {kind}"), row),
            Err(why) => println!("Frida, {kind}: {why}"),
        }
    }
    pauses(&sandbox, "w", "idle");
    pauses(&sandbox, "a", "busy");
    trace_rate(&sandbox);
}

/// Frida's version and what calls cost with it, in a program of their own.
fn with_frida(sandbox: &Sandbox, bench: &Path, kind: &str) -> Result<(String, [f64; 2]), String> {
    const PLENTY_S: u64 = 120;
    let python = std::env::var("BRANT_BENCH_FRIDA").unwrap_or_else(|_| "python3".to_owned());
    let has_frida = sandbox.command(&python).args(["-c", "import frida"]).output();
    if !has_frida.is_ok_and(|output| output.status.success()) {
        return Err(format!("not installed for {python} (pip install frida)"));
    }
    let program = start(sandbox, bench, &[], None);
    assert!(wait_until(PLENTY_S, || numbers(sandbox).len() == 3), "it runs");
    let on = sandbox.path("frida.on");
    let _ = std::fs::remove_file(&on);
    let mut command = sandbox.command(&python);
    command
        .arg(repository().join("fixtures/connect/frida_on.py"))
        .args([kind, &program.pid().to_string()])
        .arg(&on);
    let _frida = sandbox.launch(command, false);
    wait_until(PLENTY_S, || !sandbox.text("frida.on").is_empty());
    let said = sandbox.text("frida.on");
    let version = said.strip_prefix("on ").ok_or_else(|| format!("{said} {}", sandbox.text("err")))?;
    Ok((version.to_owned(), measure(sandbox)))
}

/// Whether `trace` writes every one of a million calls a second.
fn trace_rate(sandbox: &Sandbox) {
    let rate = compile(sandbox, "rate.c", "rate", &["-lwork"]);
    sandbox.write(
        "rate.wrap",
        "wrapper rate implementation \"brant:trace\"\nwrap work in libwork with trace_call sig \"long(long)\"\n",
    );
    let program = start(sandbox, &rate, &["1000000", "3"], None);
    let (pid, records) = (program.pid().to_string(), sandbox.path("rate.txt"));
    let wrapper = format!("{}:out={}", sandbox.path("rate.wrap").display(), records.display());
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "it runs");
    brant(sandbox, &["wrap", &wrapper, &pid]);
    sandbox.write("f.go", "");
    let said = || -> Vec<f64> {
        sandbox.text("f.said").split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    assert!(wait_until(120, || said().len() == 2), "it ends");
    brant(sandbox, &["unwrap", "rate", &pid]);
    let file = std::fs::File::open(&records).expect("it was written");
    let (mut written, mut notes) = (0u64, 0u64);
    for line in std::io::BufReader::new(file).lines() {
        let is_note = line.expect("records are text").starts_with('#');
        written += u64::from(!is_note);
        notes += u64::from(is_note);
    }
    let (made, rate) = (said()[0], said()[0] / said()[1]);
    println!("trace: {made} calls at {rate:.2} million a second, {written} records, {notes} notes of loss");
}

/// For how long programs with many threads stand still.
fn pauses(sandbox: &Sandbox, kind: &str, name: &str) {
    compile(sandbox, "stress_library.c", "libtick.so", &[]);
    compile(sandbox, "stress_mediators.c", "libcount.so", &[]);
    let stress = compile(sandbox, "stress.c", "stress", &["-ltick"]);
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick size 8\n",
    );
    let path = sandbox.path("count.wrap").to_str().expect("test paths are UTF-8").to_owned();
    let program = start(sandbox, &stress, &[&kind.repeat(199)], None);
    let pid = program.pid().to_string();
    assert!(wait_until(60, || numbers(sandbox).len() == 5), "it runs");
    // Every thread may be in the allocator, or in the loader.
    let again = |args: &[&str]| {
        for _ in 0..20 {
            let outcome = sandbox.brant(args);
            if !outcome.stderr.contains("B-1108") {
                assert_eq!(outcome.code, 0, "{}", outcome.stderr);
                return serde_json::from_str(&outcome.stdout).unwrap_or_default();
            }
        }
        serde_json::Value::Null
    };
    let mut pauses: Vec<u64> = Vec::new();
    for _ in 0..11 {
        let wrapped = again(&["wrap", "--json", &path, &pid]);
        pauses.push(wrapped["pause_us"].as_u64().unwrap_or(u64::MAX));
        again(&["unwrap", "--json", "count", &pid]);
    }
    pauses.sort_unstable();
    println!(
        "200 threads, {name}, stand still for {:.1} ms (median of 11), {:.1} ms at most",
        pauses[5] as f64 / 1e3,
        pauses[10] as f64 / 1e3
    );
}
