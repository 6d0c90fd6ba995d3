//! Jobs with a terminal, and programs in the user's own: driven through a real pseudo-terminal.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brant_kernel::task::{Window, open_slave, set_window};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};
use support::{Place, eventually, has, is_alive, signal};

/// How long a program may take to say what is expected of it.
const SAY_TIMEOUT_S: u64 = 20;

/// A user in front of a terminal in which one command runs.
struct User {
    master: File,
    slave: OwnedFd,
    child: Child,
    before: Termios,
    /// What has been read and not yet been expected.
    seen: String,
}

impl User {
    /// Runs `arguments` (a program and its arguments) in a fresh terminal of 40 rows and 100 columns.
    fn start(place: &Place, arguments: &[&str]) -> User {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let master = File::from(OwnedFd::from(master));
        let slave = open_slave(&master).unwrap();
        set_window(&slave, window(40, 100)).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let mut command = Command::new("setsid");
        let mut inner = place.as_user(arguments[0]);
        inner.args(&arguments[1..]);
        // As after a login: whoever runs the tests in the background may have had the keyboard's signals ignored.
        command.args(["-c", "-w", "env", "--default-signal=HUP,INT,QUIT,TSTP,TTIN,TTOU"]);
        command.arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.current_dir(place.work()).env("PS1", "prompt> ");
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        User { master, slave, child, before, seen: String::new() }
    }

    fn brant(place: &Place, arguments: &[&str]) -> User {
        let brant = place.brant_path();
        let all: Vec<&str> =
            std::iter::once(brant.to_str().unwrap()).chain(arguments.iter().copied()).collect();
        User::start(place, &all)
    }

    fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` has appeared, and forgets all up to it.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(SAY_TIMEOUT_S);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} did not appear; there is: {:?}", self.seen);
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&self.master), PollFlags::POLLIN)];
            if poll(&mut fds, 100u16).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let count = self.master.read(&mut buffer).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
    }

    /// Waits for the command's end; the terminal must be as it was.
    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the command ends", SAY_TIMEOUT_S, || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        assert_eq!(tcgetattr(&self.slave).unwrap(), self.before, "the terminal's settings");
        code.unwrap().code()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn window(rows: u16, columns: u16) -> Window {
    Window { rows, columns, x_pixels: 0, y_pixels: 0 }
}

#[test]
fn a_terminal_of_its_own_has_size_input_output_and_exit_code() {
    let place = Place::new("tty");
    let script = "tty; stty size; read line; echo \"got $line\"; exit 4";
    let mut user = User::brant(&place, &["run", "-t", "-n", "j", "--", "sh", "-c", script]);
    user.sees("/dev/pts/");
    user.sees("40 100");
    user.types("hello\r");
    user.sees("got hello");
    assert_eq!(user.ends(), Some(4));
    assert!(place.ok(["logs", "j"]).contains("got hello"));
}

#[test]
fn keys_and_sizes_reach_the_program() {
    let place = Place::new("keys");
    let script =
        "trap 'stty size' WINCH; trap 'echo interrupted; exit 5' INT; echo on; while :; do sleep 0.05; done";
    let mut user = User::brant(&place, &["run", "-t", "--", "sh", "-c", script]);
    user.sees("on");
    set_window(&user.master, window(25, 77)).unwrap();
    user.sees("25 77");
    user.types("\x03");
    user.sees("interrupted");
    assert_eq!(user.ends(), Some(5));
}

#[test]
fn detached_it_goes_on_and_can_be_attached_twice() {
    let place = Place::new("attach");
    let script = "echo start; while read line; do echo \"heard $line\"; done";
    let mut first = User::brant(&place, &["run", "-t", "-n", "j", "--", "sh", "-c", script]);
    first.sees("start");
    first.types("\x10x\r");
    first.sees("heard \x10x");
    first.types("\x10\x11");
    first.sees("brant attach j");
    assert_eq!(first.ends(), Some(0));
    assert_eq!(place.job("j")["state"], "running");

    let mut second = User::brant(&place, &["attach", "j"]);
    second.sees("attached to j");
    let mut third = User::brant(&place, &["attach", "j"]);
    third.sees("attached to j");
    // It says so before it asks the keeper.
    std::thread::sleep(Duration::from_millis(400));
    second.types("one\r");
    second.sees("heard one");
    third.sees("heard one");
    third.types("two\r");
    second.sees("heard two");
    third.types("\x04");
    assert_eq!((second.ends(), third.ends()), (Some(0), Some(0)));
}

#[test]
fn a_killed_client_or_keeper_leaves_a_sound_terminal() {
    let place = Place::new("killed");
    let mut user = User::brant(&place, &["run", "-t", "-n", "j", "--", "sh", "-c", "echo on; sleep 60"]);
    user.sees("on");
    let keeper = place.job("j")["keeper_pid"].as_i64().unwrap() as i32;
    let root = place.pid_of("j");
    signal(keeper, Signal::SIGKILL);
    user.sees("B-0107");
    assert_eq!(user.ends(), Some(125));
    eventually("the program hears that its terminal is gone", 5, || !is_alive(root));
}

#[test]
fn a_hang_up_detaches() {
    let place = Place::new("hangup");
    let mut user = User::brant(&place, &["run", "-t", "-n", "j", "--", "sh", "-c", "echo on; sleep 60"]);
    user.sees("on");
    let placeholder = Command::new("true").spawn().unwrap();
    let mut child = std::mem::replace(&mut user.child, placeholder);
    drop(user);
    eventually("brant ends", 10, || child.try_wait().unwrap().is_some());
    assert_eq!(place.job("j")["state"], "running");
}

#[test]
fn in_the_user_s_own_terminal_the_keys_work_as_ever() {
    if !has("bash") {
        return;
    }
    let place = Place::new("shell");
    let brant = place.brant_path();
    let brant = brant.to_str().unwrap();
    let mut user = User::start(&place, &["bash", "--norc", "--noprofile", "-i"]);
    user.sees("prompt> ");
    user.types(&format!("{brant} run -n c -- cat\r"));
    eventually("it runs", 10, || place.job("c")["state"] == "running");
    user.types("a line\r");
    user.sees("a line\r\na line");
    user.types("\x03");
    user.sees("prompt> ");
    user.types("echo code=$?\r");
    user.sees("code=130");

    user.types(&format!("{brant} run -n z -- sleep 100\r"));
    eventually("it runs", 10, || place.job("z")["state"] == "running");
    user.types("\x1a");
    user.sees("Stopped");
    eventually("it is stopped", 10, || place.job("z")["state"] == "stopped");
    user.types("fg\r");
    eventually("it goes on", 10, || place.job("z")["state"] == "running");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(place.job("z")["state"], "running", "the news of the old stop must not stop it again");
    user.types("\x03");
    user.sees("prompt> ");

    // A program that stops itself alone takes brant with it, and `fg` continues both.
    user.types(&format!("{brant} run -n s -- sh -c 'kill -TSTP $$; echo went on; exit 6'\r"));
    user.sees("Stopped");
    user.types("fg\r");
    user.sees("went on");
    user.sees("prompt> ");
    user.types("echo code=$?\r");
    user.sees("code=6");
    user.types("exit\r");
    user.ends();
}

#[test]
fn a_shell_in_a_terminal_comes_back_from_an_image() {
    if !has("bash") {
        return;
    }
    let place = Place::new("bash");
    let mut user =
        User::brant(&place, &["run", "-t", "-n", "j", "--", "bash", "--norc", "--noprofile", "-i"]);
    user.sees("prompt> ");
    user.types("kept=forty; tty\r");
    user.sees("/dev/pts/");
    user.sees("prompt> ");
    place.ok(["checkpoint", "j", "--stop"]);
    user.ends();

    let mut user = User::brant(&place, &["restore", "j"]);
    user.types("echo ${kept}two\r");
    user.sees("fortytwo");
    user.types("sleep 100\r");
    std::thread::sleep(Duration::from_millis(300));
    user.types("\x1a");
    user.sees("Stopped");
    user.types("kill -9 %1; sleep 0.3; stty size\r");
    user.sees("40 100");
    user.types("exit 8\r");
    assert_eq!(user.ends(), Some(8));
}

#[test]
fn a_program_in_the_user_s_own_terminal_comes_back_in_another() {
    if !has("bash") || !has("python3") {
        return;
    }
    let place = Place::new("own");
    let brant = place.brant_path();
    let brant = brant.to_str().unwrap();
    let mut user = User::start(&place, &["bash", "--norc", "--noprofile", "-i"]);
    user.sees("prompt> ");
    user.types(&format!("{brant} run -n p -- python3 -q\r"));
    user.sees(">>> ");
    user.types("kept = 41\r");
    user.sees(">>> ");
    place.ok(["checkpoint", "p", "--stop"]);
    user.sees("prompt> ");
    user.types("exit\r");
    user.ends();

    let mut user = User::brant(&place, &["restore", "p"]);
    user.types("print(kept + 1)\r");
    user.sees("42");
    user.types("import os; os.kill(os.getpid(), 15)\r");
    assert_eq!(user.ends(), Some(143));
}

#[test]
fn a_restored_program_in_the_foreground_hears_the_keys() {
    if !has("bash") {
        return;
    }
    let place = Place::new("again");
    let script = "trap 'echo interrupted; exit 7' INT; echo on; while :; do sleep 0.05; done";
    place.ok(["run", "-d", "-n", "r", "--", "sh", "-c", script]);
    eventually("it says so", 10, || place.ok(["logs", "r"]) == "on\n");
    place.ok(["checkpoint", "r", "--stop"]);

    let brant = place.brant_path();
    let mut user = User::start(&place, &["bash", "--norc", "--noprofile", "-i"]);
    user.sees("prompt> ");
    user.types(&format!("{} restore r\r", brant.to_str().unwrap()));
    eventually("it runs", 20, || place.job("r")["state"] == "running");
    std::thread::sleep(Duration::from_millis(200));
    user.types("\x1a");
    user.sees("Stopped");
    eventually("it is stopped", 10, || place.job("r")["state"] == "stopped");
    user.types("fg\r");
    eventually("it goes on", 10, || place.job("r")["state"] == "running");
    user.types("\x03");
    user.sees("interrupted");
    user.sees("prompt> ");
    user.types("echo code=$?\r");
    user.sees("code=7");
    user.types("exit\r");
    user.ends();
}
