//! Wrappers on programs: at their start, while they run, and off again.

use brant_windows_tests::{Built, Folder, Running, Wine, compile, windows_path};

const COUNT: &str = "wrapper count implementation \"count.dll\"
wrap HeapAlloc in kernel32 with my_alloc size 12
wrap HeapFree in kernel32 with my_free sig \"int(void *heap, unsigned flags, void *block)\"
";

#[test]
fn the_example_of_the_paper_works_as_printed() {
    let (wine, folder) = (Wine::new("win7"), Folder::new());
    let creator = compile(&folder, "creator", Built::Program, &[]);
    compile(&folder, "echo", Built::Program, &[]);
    compile(&folder, "paper", Built::Library, &[]);
    let definition = "wrapper paper implementation \"paper.dll\"
wrap CreateProcessW in kernel32 with My_CreateProcess size 40
";
    folder.write("paper.wrap", definition);
    let said = wine
        .brant(&folder, &["run", "--wrap", "./paper.wrap", "--", creator.to_str().unwrap(), "echo.exe x"]);
    let lines: Vec<&str> = said.out.lines().filter(|line| !line.starts_with("pid ")).collect();
    assert_eq!(lines, ["CreateProcessW - echo.exe x", "made 1", "[x]", "ended with 42"], "{said:?}");
}

/// `say` a line and wait for what it leads to.
fn rounds(program: &mut Running, count: usize) -> u64 {
    program.say("");
    loop {
        let output = program.wait_for("rounds ");
        let told: Vec<&str> = output.lines().filter(|line| line.starts_with("rounds ")).collect();
        if told.len() == count {
            let words: Vec<&str> = told[count - 1].split(' ').collect();
            assert_eq!(words[3], "0", "{output}");
            return words[1].parse().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_busy_program_is_wrapped_and_unwrapped_while_it_runs() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "busy", Built::Program, &[]);
    compile(&folder, "count", Built::Library, &[]);
    folder.write("count.wrap", COUNT);
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    for turn in 1..=4 {
        let before = rounds(&mut program, 2 * turn - 1);
        let wrapped = wine.brant(&folder, &["wrap", "./count.wrap", &pid]).ok();
        assert_eq!(wrapped, format!("wrapped 2 functions of process {pid} by \"count\"\n"));
        let again = wine.brant(&folder, &["wrap", "./count.wrap", &pid]);
        assert!(again.err.starts_with("brant: B-1313"), "{again:?}");
        let listed = wine.brant(&folder, &["wrappers", &pid]).ok();
        assert!(listed.ends_with("count.dll\n  HeapAlloc in kernel32\n  HeapFree in kernel32\n"), "{listed}");
        assert!(rounds(&mut program, 2 * turn) > before);
        let off = wine.brant(&folder, &["unwrap", "count", &pid]).ok();
        assert_eq!(off, format!("process {pid} is not wrapped by \"count\" any more\n"));
    }
    let (code, output) = program.end();
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("end wrong 0"), "{output}");
    assert!(!output.contains("nothing was counted"), "{output}");
}

const NUMBERS: &str = "wrapper numbers implementation \"number_mediators.dll\"
wrap mixed in numbers with my_mixed sig \"double(int, double, float, double, int, double, long long)\"
wrap swapped in numbers with my_swapped sig \"struct { long long a, b; }(long long, long long, double, double, int)\"
wrap small in numbers with my_small sig \"struct { int a; }(struct { int a; }, struct { long long a, b; })\"
wrap many in numbers with my_many size 40
wrap sum in numbers with my_sum sig \"double(int count, ...)\"
wrap depth in numbers with my_depth
wrap leap in numbers with my_leap size 8
";
const BARE: &str = "7654321 12 121 6 385 1.25 3 1500\n";
const MEDIATED: &str = "-7654321 24 242 21006 10285 4.25 403 3000\n";

#[test]
fn libraries_that_come_and_go_are_mediated_with_all_kinds_of_arguments() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "number_program", Built::Program, &[]);
    compile(&folder, "numbers", Built::Library, &[]);
    compile(&folder, "number_mediators", Built::Library, &[]);
    folder.write("numbers.wrap", NUMBERS);
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    let mut expected = format!("pid {pid}\n");
    for (turn, line) in [BARE, MEDIATED, MEDIATED, BARE].into_iter().enumerate() {
        if turn == 1 {
            let said = wine.brant(&folder, &["wrap", "./numbers.wrap", &pid]).ok();
            assert!(
                said.ends_with(
                    "waits: mixed, swapped, small, many, sum, depth, leap: numbers is not loaded yet\n"
                ),
                "{said}"
            );
        }
        if turn == 3 {
            // No call that was left by longjmp counts as one under way.
            let off = wine.brant(&folder, &["unwrap", "numbers", &pid]).ok();
            assert_eq!(off, format!("process {pid} is not wrapped by \"numbers\" any more\n"));
        }
        program.say("");
        expected.push_str(line);
        let begin = std::time::Instant::now();
        while program.output().len() < expected.len() && begin.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(program.output(), expected);
    }
    assert_eq!(program.end().0, 0);
}

#[test]
fn the_newest_wrapper_is_called_first_and_one_with_a_call_under_way_stays_loaded() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "sleeper", Built::Program, &[]);
    compile(&folder, "sleep_mediator", Built::Library, &[]);
    let definition = |name: &str| {
        let text = format!(
            "wrapper {name} implementation \"sleep_mediator.dll\"\nwrap Sleep in kernel32 with my_{name} size 4\n"
        );
        folder.write(&format!("{name}.wrap"), &text)
    };
    definition("first");
    definition("second");
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    wine.brant(&folder, &["wrap", "./first.wrap", &pid]).ok();
    wine.brant(&folder, &["wrap", "./second.wrap", &pid]).ok();
    let listed = wine.brant(&folder, &["wrappers", &pid]).ok();
    assert!(listed.contains("Sleep in kernel32  behind 1 other\n"), "{listed}");
    program.say("");
    let output = program.wait_for("first 2000000");
    let lines: Vec<&str> = output.lines().skip(1).take(3).collect();
    assert_eq!(lines, ["second 1", "first 1", "slept"], "{output}");
    // A thread sleeps in both now.
    let off = wine.brant(&folder, &["unwrap", "second", &pid]).ok();
    assert!(off.contains("a call is still under way in its implementation, which stays loaded"), "{off}");
    let listed = wine.brant(&folder, &["wrappers", &pid]).ok();
    assert!(listed.contains("second (dormant)"), "{listed}");
    // A dormant one takes no calls: that it is there keeps nobody from putting it on again.
    wine.brant(&folder, &["wrap", "./second.wrap", &pid]).ok();
    program.say("");
    let begin = std::time::Instant::now();
    while program.output().matches("second 2000000\n").count() < 2 {
        assert!(begin.elapsed().as_secs() < 60, "{}", program.output());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let off = wine.brant(&folder, &["unwrap", "second", &pid]).ok();
    assert!(off.contains("stays loaded"), "{off}");
    program.say("");
    let output = program.wait_for("slept\n");
    assert!(output.matches("second 1\n").count() == 2, "{output}");
    let (code, output) = program.end();
    assert_eq!(code, 0, "{output}");
}

#[test]
fn what_cannot_be_wrapped_is_refused_and_nothing_is_changed() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "sleeper", Built::Program, &[]);
    compile(&folder, "sleep_mediator", Built::Library, &[]);
    compile(&folder, "count", Built::Library, &[]);
    let program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    let refused = |text: &str, options: &str| {
        folder.write("w.wrap", text);
        let said = wine.brant(&folder, &["wrap", &format!("./w.wrap{options}"), &pid]);
        assert!(said.code > 0, "{said:?}");
        said.err
    };
    let first =
        "wrapper w implementation \"sleep_mediator.dll\"\nwrap Sleep in kernel32 with my_first size 4\n";
    let said = refused(&format!("{first}wrap Slept in kernel32 with my_first size 4"), "");
    assert!(said.contains("B-1312") && said.contains("Slept: kernel32.dll does not export it"), "{said}");
    let said = refused(&format!("{first}wrap setjmp in msvcrt with my_first"), "");
    assert!(said.contains("B-1312") && said.contains("it looks at its caller's registers"), "{said}");
    let said = refused(&first.replace("my_first", "my_third"), "");
    assert!(said.contains("B-1311") && said.contains("does not export my_third"), "{said}");
    let said = refused(&first.replace("sleep_mediator", "nowhere"), "");
    assert!(said.contains("B-1310"), "{said}");
    let said = refused(first, ":x=1");
    assert!(said.contains("B-1316"), "{said}");
    let said = refused(&COUNT.replace("wrapper count", "wrapper w"), ":!no");
    assert!(said.contains("B-1315") && said.contains("w does not like !no"), "{said}");
    let said = refused(&first.replace("kernel32", "kernel"), "");
    assert!(said.contains("B-1303"), "{said}");
    let said = refused(&first.replace("with", "wiht"), "");
    assert!(said.contains("B-1007") && said.contains("did you mean `with`?"), "{said}");
    let listed = wine.brant(&folder, &["wrappers", &pid]);
    assert!(listed.err.contains("has no wrappers"), "{listed:?}");
    let said = wine.brant(&folder, &["unwrap", "w", &pid]);
    assert!(said.err.contains("B-1314"), "{said:?}");
    assert_eq!(program.end().0, 0);
}

#[test]
fn a_program_in_c_wraps_another_one() {
    let (wine, folder) = (Wine::new("win7"), Folder::new());
    let program = compile(&folder, "busy", Built::Program, &[]);
    let connector = compile(&folder, "connector", Built::Program, &[]);
    compile(&folder, "count", Built::Library, &[]);
    folder.write("count.wrap", COUNT);
    let program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    let library = windows_path(&wine.bin().join("brant_connect.dll"));
    let said = wine.run(&folder, &connector, &[&library, &pid], "").ok();
    let expected = "0\n0\n1313 B-1313: the process is already wrapped by \"count\"\n0\n1314\n1301\n";
    assert_eq!(said, expected);
    let log = folder.read("connector.log");
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').skip(1).collect()).collect();
    let of = |at: usize| (lines[at][1], lines[at][2], lines[at][3]);
    assert_eq!(of(0), ("on", "count", "HeapAlloc"), "{log}");
    assert_eq!(of(1), ("on", "count", "HeapFree"), "{log}");
    assert_eq!(of(2), ("refused", "./count.wrap", "B-1313"), "{log}");
    assert_eq!(of(3), ("off", "count", "HeapAlloc"), "{log}");
    assert_eq!(of(5), ("refused", "count", "B-1314"), "{log}");
    assert_eq!(of(6), ("refused", "./nowhere.wrap", "B-1301"), "{log}");
    let (code, output) = program.end();
    assert_eq!(code, 0, "{output}");
}

#[test]
fn mediators_in_rust_have_options_and_statics() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "opener", Built::Program, &[]);
    std::fs::copy(wine.bin().join("brant_example.dll"), folder.path().join("brant_example.dll")).unwrap();
    let definition = "wrapper files implementation \"brant_example.dll\"
wrap CreateFileW in kernel32 with my_create_file size 28
";
    folder.write("files.wrap", definition);
    folder.write("a.txt", "text of a\n");
    folder.write("b.txt", "text of b\n");
    let mut program = wine.start(&folder, &program, &[""; 0]);
    wine.brant(&folder, &["wrap", "./files.wrap:b.txt", &program.pid()]).ok();
    program.say("a.txt");
    program.say("b.txt");
    let output = program.wait_for("not opened");
    assert!(output.ends_with("opened a.txt\ntext of a\nrefused b.txt\nnot opened\n"), "{output}");
    wine.brant(&folder, &["unwrap", "files", &program.pid()]).ok();
    program.say("b.txt");
    let output = program.wait_for("text of b");
    assert!(output.contains("2 files\n"), "{output}");
    assert_eq!(program.end().0, 0);
}

#[test]
fn libraries_and_threads_may_come_and_go_while_wrappers_do() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "churn", Built::Program, &[]);
    compile(&folder, "numbers", Built::Library, &[]);
    compile(&folder, "number_mediators", Built::Library, &[]);
    compile(&folder, "count", Built::Library, &[]);
    folder.write("numbers.wrap", NUMBERS);
    folder.write("count.wrap", COUNT);
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    for turn in 1..=6 {
        wine.brant(&folder, &["wrap", "./numbers.wrap", &pid]).ok();
        wine.brant(&folder, &["wrap", "./count.wrap", &pid]).ok();
        program.say("");
        while program.output().matches("rounds ").count() < turn {
            program.wait_for("rounds ");
        }
        wine.brant(&folder, &["unwrap", "numbers", &pid]).ok();
        wine.brant(&folder, &["unwrap", "count", &pid]).ok();
    }
    let (code, output) = program.end();
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("end wrong 0 mediated yes"), "{output}");
}
