//! From one user's account into another's, whose uid differs, over a real sshd.

use std::process::Command;

use brant_testkit::{Sandbox, Who, have_command, is_root, skip, wait_until};

use crate::hosts::LIFE_TIMEOUT_S;

const OTHER_USER: &str = "brant-far";

#[test]
fn into_another_account_over_ssh() {
    if !is_root() {
        return skip("root");
    }
    if !have_command("sshd") || !have_command("ssh-keygen") {
        return skip("command: sshd");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let text = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().expect("it starts");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // It may be there from another time.
    let _ = Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", OTHER_USER]).output();
    run("usermod", &["--password", "*", OTHER_USER]);
    let generated =
        sandbox.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", "key"]).status();
    assert!(generated.expect("ssh-keygen starts").success());
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &text("hostkey")]);
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let port = probe.local_addr().expect("it is bound").port();
    drop(probe);
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile {}\n",
        text("hostkey"),
        text("key.pub")
    );
    std::fs::write(sandbox.path("sshd.conf"), settings).expect("the sandbox is writable");
    let _ = std::fs::create_dir("/run/sshd");
    let mut daemon =
        Command::new("/usr/sbin/sshd").args(["-D", "-f", &text("sshd.conf")]).spawn().expect("sshd");
    assert!(
        wait_until(20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()),
        "sshd does not listen"
    );

    let ssh = format!(
        "ssh -p {port} -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes",
        text("key")
    );
    let far = |line: &str| {
        let mut command = sandbox.command("ssh");
        command.args(ssh.split(' ').skip(1)).arg(format!("{OTHER_USER}@127.0.0.1")).arg(line);
        let output = command.output().expect("ssh starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let name = format!("over-{}", std::process::id());
    let count = "import time\ni=0\nwhile True:\n    i+=1\n    print(i,flush=True)\n    time.sleep(.05)\n";
    let started = sandbox.brant(&["run", "-d", "-n", &name, "--", "/usr/bin/python3", "-c", count]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert!(wait_until(LIFE_TIMEOUT_S, || sandbox.brant(&["logs", &name]).stdout.lines().count() > 3));
    let brant = text("brant");
    let words = ["migrate", &name, &format!("{OTHER_USER}@127.0.0.1"), "-e", &ssh, "--remote-path", &brant];
    let moved = sandbox.brant(&words);
    let last_here: u64 =
        sandbox.brant(&["logs", &name]).stdout.lines().last().map_or(0, |n| n.parse().unwrap_or(0));
    let log = || far(&format!("{brant} logs {name}"));
    let goes_on = wait_until(LIFE_TIMEOUT_S, || log().lines().count() > 3);
    let (first_there, owner) = (
        log(),
        far(&format!(
            "ps -o user= -p $({brant} ps --json | tr ',{{' '\\n\\n' | sed -n 's/^ *\"pid\": *//p')"
        )),
    );
    far(&format!("{brant} kill {name}"));
    let _ = daemon.kill();
    let _ = daemon.wait();
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(goes_on, "it says nothing there: {first_there}");
    let first: u64 = first_there.lines().next().map_or(0, |n| n.parse().unwrap_or(0));
    assert_eq!(first, last_here + 1, "lines were lost or said twice");
    assert!(owner.trim().starts_with("brant-f"), "it runs as {owner}");
    sandbox.expect_no_leftovers();
}
