//! Wrappers on libraries that are loaded after them: plugins that come, go and come again, modules of an interpreter, functions
//! that a resolver picks; on programs of glibc and musl.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use brant_testkit::{Outcome, Sandbox, Started, Who, have_command, skip, wait_until};

const PROMPT_S: u64 = 60;
const PLUG: &str = "wrap plug in libplug with my_plug sig \"void(long *)\"\n";

/// A program that loads what it is told, and the libraries for it.
struct Late {
    sandbox: Sandbox,
    program: Option<Started>,
    compiler: &'static str,
    step: u32,
    /// brant was killed: what it had loaded may stay.
    may_stay: bool,
}

impl Late {
    /// Nothing, with a word about it, where there is no such compiler.
    fn new(compiler: &'static str) -> Option<Late> {
        if !have_command(compiler) {
            skip(compiler);
            return None;
        }
        let sandbox = Sandbox::new(Who::Plain);
        let late = Late { sandbox, program: None, compiler, step: 0, may_stay: false };
        late.compile("late_library.c", "libplug.so", &["-Wl,-soname,libplug.so.1"]);
        late.compile("late_library.c", "other/libplug.so", &["-DOTHER"]);
        late.compile("late_mediators.c", "libcount.so", &[]);
        late.compile("late_mediators.c", "libouter.so", &[]);
        late.compile("late.c", "late", &["-ldl"]);
        late.define("count", PLUG);
        late.define("outer", PLUG);
        Some(late)
    }

    fn compile(&self, source: &str, name: &str, flags: &[&str]) {
        let source = format!("connect/{source}");
        self.sandbox.compile(self.compiler, &[&source], name, flags).expect("a compiler starts");
    }

    fn define(&self, name: &str, lines: &str) {
        let text = format!("wrapper {name} implementation \"lib{name}.so\"\n{lines}");
        self.sandbox.write(&format!("{name}.wrap"), &text);
    }

    fn path(&self, name: &str) -> String {
        self.sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
    }

    fn start(&mut self) {
        let mut command = self.sandbox.command(PathBuf::from(self.path("late")));
        command.arg(self.sandbox.path("f"));
        self.program = Some(self.sandbox.launch(command, false));
        self.tell("nothing");
    }

    fn pid(&self) -> String {
        self.program.as_ref().expect("it was started").pid().to_string()
    }

    /// Lets the program do something, and gives what it says.
    fn tell(&mut self, what: &str) -> [i64; 3] {
        self.step += 1;
        self.sandbox.write("f.partial_step", &format!("{} {what}\n", self.step));
        std::fs::rename(self.sandbox.path("f.partial_step"), self.sandbox.path("f.step"))
            .expect("it is ours");
        let mut said = Vec::new();
        let is_done = wait_until(PROMPT_S, || {
            let text = self.sandbox.text("f.state");
            said = text.split_whitespace().filter_map(|word| word.parse::<i64>().ok()).collect();
            said.len() == 4 && said[0] == i64::from(self.step)
        });
        assert!(is_done, "{what}: {}", self.sandbox.text("err"));
        [said[1], said[2], said[3]]
    }

    fn plug(&mut self) -> [i64; 3] {
        self.tell("call plug 10")
    }

    fn open(&mut self, name: &str) -> [i64; 3] {
        let said = self.tell(&format!("open {}", self.path(name)));
        assert_eq!(said[0], 1, "{name}: {}", self.sandbox.text("err"));
        said
    }

    fn wrap(&self, name: &str) -> Outcome {
        let outcome = self.sandbox.brant(&["wrap", &format!("{}.wrap", self.path(name)), &self.pid()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome
    }

    fn unwrap(&self, name: &str) -> Outcome {
        let outcome = self.sandbox.brant(&["unwrap", name, &self.pid(), "--json"]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        if self.compiler == "cc" && !self.may_stay {
            let is_unloaded = outcome.stdout.replace(' ', "").contains("\"unloaded\":true");
            assert!(is_unloaded, "{} {}", outcome.stdout, outcome.stderr);
        }
        outcome
    }

    fn wrappers(&self) -> String {
        let outcome = self.sandbox.brant(&["wrappers", &self.pid()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    }

    fn end(&mut self) {
        self.step += 1;
        self.sandbox.write("f.step", &format!("{} exit\n", self.step));
        let program = self.program.as_mut().expect("it was started");
        assert_eq!(program.wait(PROMPT_S), Some(5), "{}", self.sandbox.text("err"));
    }
}

const COMPILERS: [&str; 2] = ["cc", "musl-gcc"];

/// A plugin is mediated from its own constructor on, as often as it comes; what of it waits is told.
#[test]
fn a_library_that_is_loaded_later_is_mediated() {
    for compiler in COMPILERS {
        let Some(mut late) = Late::new(compiler) else { continue };
        late.start();
        let said = late.wrap("count").stderr;
        assert!(said.contains("waits: plug: libplug is not loaded yet"), "{said}");
        assert!(late.wrappers().contains("waits: plug: libplug is not loaded yet"), "{}", late.wrappers());
        for round in 0..3 {
            assert_eq!(late.open("libplug.so")[1], 1, "{compiler}: its constructor is mediated");
            assert_eq!(late.plug(), [10, 10, 0], "{compiler}");
            let listed = late.wrappers();
            assert!(listed.contains("plug in libplug.so.1") && !listed.contains("waits"), "{listed}");
            if compiler != "cc" {
                break;
            }
            // Another library under the same name comes between.
            late.tell("shut");
            assert!(late.wrappers().contains("waits: plug"), "{round}: {}", late.wrappers());
            late.open("other/libplug.so");
            assert_eq!(late.plug(), [10, 10, 70], "{compiler}");
            late.tell("shut");
        }
        if compiler == "cc" {
            late.open("libplug.so");
        }
        late.unwrap("count");
        assert_eq!(late.plug(), [0, 10, 0], "{compiler}");
        assert!(!late.wrappers().contains(" in lib"), "{}", late.wrappers());
        // While no wrapper is on, libraries come and go unseen.
        if compiler == "cc" {
            late.tell("shut");
            late.open("other/libplug.so");
            late.wrap("count");
            assert_eq!(late.plug(), [10, 10, 70]);
            late.tell("shut");
            late.open("libplug.so");
            assert_eq!(late.plug(), [10, 10, 0]);
            late.unwrap("count");
        }
        late.end();
    }
}

/// Several wrappers are in their order on a library that comes later, and each can be taken off alone.
#[test]
fn wrappers_stack_on_a_library_that_is_loaded_later() {
    for compiler in COMPILERS {
        let Some(mut late) = Late::new(compiler) else { continue };
        late.start();
        late.wrap("count");
        late.wrap("outer");
        assert_eq!(late.open("libplug.so")[1], 2, "{compiler}");
        assert_eq!(late.plug(), [20, 10, 0], "{compiler}");
        let listed = late.sandbox.brant(&["wrappers", &late.pid(), "--json"]).stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
        let depth = |name: &str| {
            let all = listed["wrappers"].as_array().expect("there are some");
            let it = all.iter().find(|wrapper| wrapper["name"] == name).expect("it is listed");
            it["functions"][0]["depth"].as_u64()
        };
        assert_eq!((depth("outer"), depth("count")), (Some(0), Some(1)), "{listed}");
        late.unwrap("count");
        assert_eq!(late.plug(), [10, 10, 0], "{compiler}");
        if compiler == "cc" {
            late.tell("shut");
            late.open("libplug.so");
            assert_eq!(late.plug(), [10, 10, 0], "{compiler}");
        }
        late.unwrap("outer");
        assert_eq!(late.plug(), [0, 10, 0], "{compiler}");
        late.end();
    }
}

/// A native mediator on a library that comes, goes, and comes again, with another wrapper before it.
#[test]
fn a_library_that_is_loaded_later_is_mediated_natively() {
    for compiler in COMPILERS {
        let Some(mut late) = Late::new(compiler) else { continue };
        late.define("count", "wrap plug in libplug with native_plug native\n");
        late.start();
        late.may_stay = true;
        late.wrap("count");
        late.wrap("outer");
        for _ in 0..3 {
            assert_eq!(late.open("libplug.so")[1], 2, "{compiler}");
            assert_eq!(late.plug(), [20, 10, 0], "{compiler}");
            if compiler == "cc" {
                // It is for one function only at a time.
                late.open("other/libplug.so");
                assert_eq!(late.plug(), [10, 10, 70], "{compiler}");
                let listed = late.wrappers();
                assert!(
                    listed.contains("not mediated: plug") && listed.contains("name a version"),
                    "{listed}"
                );
                late.tell("shut");
                late.tell("shut");
            }
        }
        if compiler == "cc" {
            late.open("libplug.so");
        }
        late.unwrap("outer");
        assert_eq!(late.plug(), [10, 10, 0], "{compiler}");
        late.unwrap("count");
        assert_eq!(late.plug(), [0, 10, 0], "{compiler}");
        late.end();
    }
}

/// A function that a resolver picks: it cannot be asked before its library is relocated.
#[test]
fn functions_that_a_resolver_picks_later_are_mediated() {
    let Some(mut late) = Late::new("cc") else { return };
    late.compile("late_library.c", "libpicked.so", &["-DPICKED"]);
    let picked = "wrap picked in libpicked with my_plug sig \"void(long *)\"\n\
                  wrap plug in libpicked with my_plug sig \"void(long *)\"\n";
    late.define("count", picked);
    late.define("outer", picked);
    late.start();
    late.wrap("count");
    for how in ["", " lazy"] {
        assert_eq!(late.tell(&format!("open {}{how}", late.path("libpicked.so"))), [1, 1, 0]);
        assert_eq!(late.tell("call picked 10"), [10, 10, 0], "{how}");
        assert_eq!(late.plug(), [10, 10, 0], "{how}");
        late.wrap("outer");
        assert_eq!(late.tell("call picked 10"), [20, 10, 0], "{how}");
        late.unwrap("outer");
        late.tell("shut");
    }
    late.unwrap("count");
    late.open("libpicked.so");
    assert_eq!(late.tell("call picked 10"), [0, 10, 0]);
    late.end();
}

/// What of a library that comes later cannot be mediated is told.
#[test]
fn what_cannot_be_mediated_later_is_told() {
    let Some(mut late) = Late::new("cc") else { return };
    late.define("count", &format!("{PLUG}wrap missing in libplug with my_plug sig \"void(long *)\"\n"));
    late.start();
    let said = late.wrap("count").stderr;
    assert!(said.contains("waits: missing: libplug is not loaded yet"), "{said}");
    late.open("libplug.so");
    assert_eq!(late.plug(), [10, 10, 0]);
    let listed = late.wrappers();
    assert!(listed.contains("not mediated: missing: libplug.so.1 does not export it"), "{listed}");
    late.tell("shut");
    let listed = late.wrappers();
    assert!(listed.contains("waits: plug, missing: libplug") && !listed.contains("not mediated"), "{listed}");
    late.unwrap("count");
    late.define("count", "wrap vfork in libplug with my_plug sig \"void(long *)\"\n");
    let outcome = late.sandbox.brant(&["wrap", &late.path("count.wrap"), &late.pid()]);
    assert!(outcome.code == 3 && outcome.stderr.contains("B-1111"), "{}", outcome.stderr);
    late.define("count", "wrap plug in libplug with nothing sig \"void(long *)\"\n");
    let outcome = late.sandbox.brant(&["wrap", &late.path("count.wrap"), &late.pid()]);
    assert!(outcome.code == 1 && outcome.stderr.contains("B-1110"), "{}", outcome.stderr);
    late.end();
}

/// An implementation is told of each library that comes and goes.
#[test]
fn implementations_are_told_of_libraries() {
    for compiler in COMPILERS {
        let Some(mut late) = Late::new(compiler) else { continue };
        late.start();
        let told = late.path("told");
        let definition = format!("{}.wrap:{told}", late.path("count"));
        let outcome = late.sandbox.brant(&["wrap", &definition, &late.pid()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        late.open("libplug.so");
        let mut wanted = format!("+ {} libplug.so.1\n", late.path("libplug.so"));
        assert_eq!(late.sandbox.text("told"), wanted, "{compiler}");
        late.tell("shut");
        if compiler == "cc" {
            wanted.push_str(&format!("- {} libplug.so.1\n", late.path("libplug.so")));
        }
        assert_eq!(late.sandbox.text("told"), wanted, "{compiler}");
        late.unwrap("count");
        late.open("other/libplug.so");
        assert_eq!(late.sandbox.text("told"), wanted, "{compiler}");
        late.end();
    }
}

/// Threads load, call and unload a plugin without a pause while wrappers are put on and taken off, and brant is killed now and
/// then: no call is lost, and what is loaded while a wrapper is on is mediated.
#[test]
fn wrappers_come_and_go_while_libraries_do() {
    for compiler in COMPILERS {
        let Some(mut late) = Late::new(compiler) else { continue };
        for number in 0..3 {
            let copy = late.path(&format!("libplug.so.{number}"));
            std::fs::copy(late.path("libplug.so"), copy).expect("it is there");
        }
        late.start();
        late.tell(&format!("storm {}. 3", late.path("libplug.so")));
        for round in 0..20u32 {
            late.wrap("count");
            if round % 4 == 1 {
                late.wrap("outer");
                late.unwrap("outer");
            }
            let before = late.tell("rounds");
            let is_mediated = wait_until(PROMPT_S, || late.tell("rounds")[1] > before[1] + 5);
            assert!(is_mediated, "{compiler}: {:?}", late.tell("rounds"));
            late.unwrap("count");
            if round % 4 == 2 {
                let definition = format!("{}.wrap", late.path("count"));
                let (mut brant, output) = late.sandbox.spawn_brant(&["wrap", &definition, &late.pid()]);
                std::thread::sleep(Duration::from_millis(u64::from(round) * 3));
                let _ = brant.kill();
                late.may_stay = true;
                let status = brant.wait().expect("our own child can be waited for");
                drop(late.sandbox.outcome(output, status));
                wait_until(PROMPT_S, || {
                    let outcome = late.sandbox.brant(&["unwrap", "count", &late.pid()]);
                    outcome.code == 0 || outcome.stderr.contains("B-1113")
                });
            }
        }
        let before = late.tell("rounds");
        assert!(wait_until(PROMPT_S, || late.tell("rounds")[0] > before[0] + 20));
        assert_eq!(late.tell("rounds")[2], 0, "{compiler}: calls were lost");
        late.end();
    }
}

/// A forked child has the wrappers of its parent, on libraries that it loads itself too.
#[test]
fn a_child_of_a_fork_mediates_what_it_loads() {
    for compiler in COMPILERS {
        let Some(mut late) = Late::new(compiler) else { continue };
        late.start();
        late.wrap("count");
        let child = late.tell("fork")[0];
        late.open("libplug.so");
        assert_eq!(late.plug(), [10, 10, 0], "{compiler}");
        let listed = late.sandbox.brant(&["wrappers", &child.to_string()]);
        assert!(listed.stdout.contains("plug in libplug.so.1"), "{compiler}: {}", listed.stdout);
        let outcome = late.sandbox.brant(&["unwrap", "count", &child.to_string()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(late.plug(), [0, 10, 0], "{compiler}");
        late.step += 1;
        late.sandbox.write("f.step", &format!("{} exit\n", late.step));
        assert_eq!(late.program.as_mut().expect("it was started").wait(PROMPT_S), Some(0));
    }
}

/// `import` of an extension module and ctypes, in a python that was started with its wrapper, and in one that runs.
#[test]
fn modules_of_an_interpreter_are_mediated() {
    const SCRIPT: &str = "import ctypes, os, sys, time\n\
        base, library = sys.argv[1:]\n\
        while not os.path.exists(base + '.go'): time.sleep(0.01)\n\
        cos = ctypes.CDLL('libm.so.6').cos\n\
        cos.restype, cos.argtypes = ctypes.c_double, [ctypes.c_double]\n\
        counts = (ctypes.c_long * 3)()\n\
        ctypes.CDLL(library).plug(counts)\n\
        import _decimal, math\n\
        print(cos(0.0), list(counts), flush=True)\n";
    if !have_command("python3") {
        return skip("python3");
    }
    let Some(late) = Late::new("cc") else { return };
    late.define("count", &format!("{PLUG}wrap cos in libm with my_cos sig \"double(double)\"\n"));
    late.sandbox.write("script", SCRIPT);
    let (definition, script) = (late.path("count.wrap"), late.path("script"));
    let (base, library) = (late.path("f"), late.path("libplug.so"));
    let mut command = late.sandbox.command("python3");
    command.args([&script, &base, &library]);
    let mut program = late.sandbox.launch(command, false);
    let pid = program.pid().to_string();
    assert!(wait_until(PROMPT_S, || late.sandbox.brant(&["wrap", &definition, &pid]).code == 0));
    late.sandbox.write("f.go", "");
    assert_eq!(program.wait(PROMPT_S), Some(0), "{}", late.sandbox.text("err"));
    assert_eq!(late.sandbox.text("out"), "11.0 [1, 1, 0]\n");
    let run = ["run", "--wrap", &definition, "--", "python3", &script, &base, &library];
    let outcome = late.sandbox.brant(&run);
    assert_eq!(outcome.stdout, "11.0 [1, 1, 0]\n", "{}", outcome.stderr);
    assert!(outcome.stderr.contains("waits: plug: libplug is not loaded yet"), "{}", outcome.stderr);
}
