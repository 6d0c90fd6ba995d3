//! What a mediated call costs under Wine, beside the bare one. `cargo xtask windows bench` runs it.

use brant_windows_tests::{Built, Folder, Running, Wine, compile};

const PASS: &str = "wrapper pass implementation \"pass.dll\"
wrap depth in numbers with pass size 4
wrap HeapAlloc in kernel32 with pass size 12
wrap HeapFree in kernel32 with pass size 12
";

fn measured(program: &mut Running, count: usize, what: &str) {
    program.say("");
    loop {
        let output = program.wait_for(" ns a call");
        let lines: Vec<&str> = output.lines().filter(|line| line.contains(" ns a call")).collect();
        if lines.len() == count {
            println!("{what:<34} {}", lines[count - 1]);
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
#[ignore = "cargo xtask windows bench"]
fn what_a_call_costs() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "speed", Built::Program, &["-O2"]);
    compile(&folder, "numbers", Built::Library, &[]);
    compile(&folder, "pass", Built::Library, &["-O2"]);
    folder.write("pass.wrap", PASS);
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    println!();
    measured(&mut program, 1, "bare");
    wine.brant(&folder, &["wrap", "./pass.wrap", &pid]).ok();
    measured(&mut program, 2, "mediator in C with InnerCall");
    folder.write("second.wrap", &PASS.replace("wrapper pass", "wrapper second"));
    wine.brant(&folder, &["wrap", "./second.wrap", &pid]).ok();
    measured(&mut program, 3, "two of them");
    wine.brant(&folder, &["unwrap", "second", &pid]).ok();
    wine.brant(&folder, &["unwrap", "pass", &pid]).ok();
    measured(&mut program, 4, "taken off again");
    wine.brant(&folder, &["wrap", "record", &pid]).ok();
    measured(&mut program, 5, "under the wrapper record");
    assert_eq!(program.end().0, 0);
}
