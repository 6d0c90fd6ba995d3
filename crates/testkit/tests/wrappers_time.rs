//! The wrapper `time`, on programs of glibc and of musl: whatever they wait by takes as long as they believe, and less.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use brant_testkit::{Sandbox, Who, wait_until};

const PROMPT_S: u64 = 60;

/// Every function by which a program can wait, on a program that was running.
#[test]
fn time_is_scaled_in_every_wait() {
    for compiler in ["cc", "musl-gcc"] {
        let sandbox = Sandbox::new(Who::Plain);
        let Some(program) = sandbox.compile(compiler, &["wrappers/waits.c"], "waits", &[]) else { continue };
        let mut command = sandbox.command(&program);
        command.arg(sandbox.path("f"));
        let mut waits = sandbox.launch(command, false);
        assert!(wait_until(PROMPT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("err"));
        let outcome = sandbox.brant(&["wrap", "time:scale=20", &waits.pid().to_string()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let begin = Instant::now();
        sandbox.write("f.go", "");
        assert_eq!(
            waits.wait(PROMPT_S),
            Some(5),
            "{compiler}: {} {}",
            sandbox.text("out"),
            sandbox.text("err")
        );
        let took = begin.elapsed();
        let text = sandbox.text("out");
        let last = text.lines().last().unwrap_or("");
        let believed: f64 = last.strip_prefix("all ").and_then(|number| number.parse().ok()).expect(&text);
        assert!(believed > 140.0, "{text}");
        // It began a moment after we did, and what it did not wait for counts too.
        assert!(took.as_secs_f64() >= believed / 20.0 - 0.1, "{compiler}: {took:?} for {last}");
    }
}

#[test]
fn a_python_sleeps_a_minute_in_a_second() {
    let sandbox = Sandbox::new(Who::Plain);
    let code = "import time; a = time.time(), time.monotonic(); time.sleep(60); \
                print(round(time.time() - a[0]), round(time.monotonic() - a[1]))";
    let begin = Instant::now();
    let outcome = sandbox.brant(&["run", "--wrap", "time:scale=60", "--", "/usr/bin/python3", "-c", code]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    let words: Vec<f64> =
        outcome.stdout.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert!(words.iter().all(|seconds| (60.0..2400.0).contains(seconds)), "{}", outcome.stdout);
}

/// `time` and `gettimeofday` of glibc are the kernel's own code: perl calls them both.
#[test]
fn the_time_of_day_begins_elsewhere() {
    let sandbox = Sandbox::new(Who::Plain);
    let date =
        sandbox.brant(&["run", "--wrap", "time:start=2030-01-01T00:00:00Z", "--", "/bin/date", "-u", "+%F"]);
    assert_eq!((date.code, date.stdout.trim()), (0, "2030-01-01"), "{}", date.stderr);
    let code = "use Time::HiRes; print int(time / 86400) . ' ' . int(Time::HiRes::time / 86400)";
    let begin = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let perl = sandbox.brant(&["run", "--wrap", "time:shift=-2w", "--", "/usr/bin/perl", "-e", code]);
    assert_eq!(perl.code, 0, "{}", perl.stderr);
    let day = begin.as_secs() / 86400 - 14;
    for word in perl.stdout.split_whitespace() {
        let found: u64 = word.parse().expect(&perl.stdout);
        assert!(found == day || found == day + 1, "{}", perl.stdout);
    }
    sandbox.expect_no_leftovers();
}

/// The kernel's own code is not carried, so neither is the change to it: refused by name, and not any more when it is off.
#[test]
fn a_program_with_another_time_is_not_checkpointed() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut command = sandbox.command("/usr/bin/perl");
    command.args(["-e", "$| = 1; print 'up'; while (1) { select undef, undef, undef, 0.01 }"]);
    let program = sandbox.launch(command, false);
    assert!(wait_until(60, || sandbox.text("out") == "up"), "{}", sandbox.text("err"));
    let pid = program.pid().to_string();
    let image = sandbox.path("image").display().to_string();
    let wrapped = sandbox.brant(&["wrap", "time:shift=+1d", &pid]);
    assert_eq!(wrapped.code, 0, "{}", wrapped.stderr);
    let refused = sandbox.brant(&["checkpoint", &pid, "-o", &image]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("B-0329") && refused.stderr.contains("brant unwrap time"),
        "{}",
        refused.stderr
    );
    let unwrapped = sandbox.brant(&["unwrap", "time", &pid]);
    assert_eq!(unwrapped.code, 0, "{}", unwrapped.stderr);
    let written = sandbox.brant(&["checkpoint", &pid, "-o", &image]);
    assert_eq!(written.code, 0, "{}", written.stderr);
}
