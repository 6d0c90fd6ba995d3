//! Programs that are brought back where the address which they are bound to is another one.
#![forbid(unsafe_code)]

use std::net::TcpStream;
use std::os::unix::fs::FileExt;

use brant_testkit::{Sandbox, Who, is_root, skip, wait_until};

const TIMEOUT_S: u64 = 60;
const JOB: &str = "held";

/// No host has it: it is for documentation.
const OLD: &str = "192.0.2.1";

/// Sockets at an address that this host need not have, and whether the program finds itself there, each time that it is asked.
/// One thread waits for connections all the while.
const PROGRAM: &str = r#"
import pathlib, socket, sys, threading, time
here, old = pathlib.Path(sys.argv[1]), sys.argv[2]
IP_FREEBIND = 15
def bound(kind):
    made = socket.socket(socket.AF_INET, kind)
    try:
        made.bind((old, 0))
    except OSError:
        made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        made.bind((old, 0))
        made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 0)
    return made
server, datagrams = bound(socket.SOCK_STREAM), bound(socket.SOCK_DGRAM)
server.listen()
own, own_datagrams = server.getsockname(), datagrams.getsockname()
accepted = []
def accept():
    while True:
        connection, peer = server.accept()
        accepted.append((peer, connection.getsockname()))
        connection.close()
threading.Thread(target=accept, daemon=True).start()
def look():
    said = []
    def expect(what, found, wanted):
        if found != wanted:
            said.append(f"{what}: {found}, not {wanted}")
    expect("server", server.getsockname(), own)
    expect("datagrams", datagrams.getsockname(), own_datagrams)
    client = socket.socket()
    client.settimeout(20)
    client.bind((old, 0))
    client.connect(own)
    expect("client", client.getsockname()[0], old)
    expect("its peer", client.getpeername(), own)
    connection = (client.getsockname(), own)
    for _ in range(200):
        if connection in accepted:
            break
        time.sleep(0.02)
    expect("accepted", connection in accepted, True)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((old, 0))
    sender.settimeout(20), datagrams.settimeout(20)
    sender.sendto(b"one", own_datagrams)
    expect("recvfrom", datagrams.recvfrom(9), (b"one", sender.getsockname()))
    sender.sendmsg([b"two"], [], 0, own_datagrams)
    data, _, _, peer = datagrams.recvmsg(9)
    expect("recvmsg", (data, peer), (b"two", sender.getsockname()))
    datagrams.sendto(b"three", peer)
    expect("answer", sender.recvfrom(9), (b"three", own_datagrams))
    sender.connect(own_datagrams)
    expect("connected", sender.getpeername(), own_datagrams)
    return "; ".join(said) or "ok"
def write(name, text):
    (here / "new").write_text(text + "\n")
    (here / "new").rename(here / name)
write("f.ready", str(own[1]))
while not (here / "f.end").exists():
    if (here / "f.go").exists():
        (here / "f.go").unlink()
        try:
            write("f.result", look())
        except Exception as error:
            write("f.result", f"{error!r} {accepted} {server.getsockname()}")
    time.sleep(0.02)
"#;

/// Two threads that send and receive all the while, by calls that mediators of addresses look at, and make no others: how often is
/// told in memory, and a byte there ends them.
const BUSY: &str = r#"
import mmap, pathlib, socket, sys, threading
here = pathlib.Path(sys.argv[1])
(here / "told").write_bytes(bytes(4096))
file = open(here / "told", "r+b")
told = mmap.mmap(file.fileno(), 4096)
one, other = socket.socketpair()
def echo():
    while data := other.recv(64):
        other.send(data)
threading.Thread(target=echo).start()
(here / "f.ready").write_text("ready")
rounds = 0
while told[0] == 0:
    one.send(b"%d" % rounds)
    assert one.recv(64) == b"%d" % rounds
    rounds += 1
    told[8:16] = rounds.to_bytes(8, "little")
one.close()
(here / "f.result").write_text("ok\n")
"#;

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

/// Starts a program as a job.
fn start(sandbox: &Sandbox, text: &str, wrapper: &[&str]) {
    sandbox.write("program.py", text);
    let (program, folder) = (path(sandbox, "program.py"), path(sandbox, ""));
    let python = ["--", "/usr/bin/python3", &program, &folder, OLD];
    sandbox.brant(&[&["run", "-d", "-n", JOB], wrapper, &python].concat()).expect(0);
    assert!(wait_until(TIMEOUT_S, || sandbox.path("f.ready").exists()), "{:?}", sandbox.leftovers());
}

fn stop(sandbox: &Sandbox) {
    let image = path(sandbox, "x.img");
    sandbox.brant(&["checkpoint", JOB, "--stop", "--force", "-o", &image]).expect(0);
    assert!(wait_until(TIMEOUT_S, || sandbox.leftovers().is_empty()), "left: {:?}", sandbox.leftovers());
}

/// Brings it back with these addresses, and gives what was said.
fn restore(sandbox: &Sandbox, map: &str) -> String {
    let outcome = sandbox.brant(&["restore", "-d", "--map-address", map, &path(sandbox, "x.img")]);
    outcome.expect(0);
    outcome.stderr
}

/// What the program says of its addresses.
fn look(sandbox: &Sandbox) -> String {
    let _ = std::fs::remove_file(sandbox.path("f.result"));
    sandbox.write("f.go", "go");
    assert!(wait_until(TIMEOUT_S, || sandbox.path("f.result").exists()), "{:?}", sandbox.leftovers());
    sandbox.text("f.result")
}

fn is_reached(sandbox: &Sandbox, ip: &str) -> bool {
    let port = sandbox.text("f.ready").trim().parse::<u16>().expect("a port");
    TcpStream::connect((ip, port)).is_ok()
}

fn end(sandbox: &Sandbox) {
    sandbox.write("f.end", "end");
    assert!(wait_until(TIMEOUT_S, || sandbox.leftovers().is_empty()), "left: {:?}", sandbox.leftovers());
}

#[test]
fn a_program_keeps_the_address_that_it_knows() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Denied);
    start(&sandbox, PROGRAM, &[]);
    stop(&sandbox);
    let image = path(&sandbox, "x.img");
    let refused = sandbox.brant(&["restore", "-d", &image]);
    refused.expect(5);
    let said = &refused.stderr;
    assert!(said.contains("B-0416") && said.contains("--map-address"), "{said}");
    let said = restore(&sandbox, "192.0.2.1=127.0.0.3");
    assert!(said.contains("127.0.0.3"), "{said}");
    assert_eq!(look(&sandbox), "ok\n");
    assert!(is_reached(&sandbox, "127.0.0.3") && !is_reached(&sandbox, "127.0.0.4"));
    // To a third host, by the address that it had at the second.
    stop(&sandbox);
    restore(&sandbox, "127.0.0.3=127.0.0.4");
    assert_eq!(look(&sandbox), "ok\n");
    assert!(is_reached(&sandbox, "127.0.0.4") && !is_reached(&sandbox, "127.0.0.3"));
    end(&sandbox);
}

/// Where no address leads elsewhere, whoever is in the middle of such a call loses nothing.
#[test]
fn who_sends_and_receives_all_the_while_is_brought_back_again() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Denied);
    start(&sandbox, BUSY, &[]);
    let told = || std::fs::read(sandbox.path("told")).expect("it is there");
    let rounds = || u64::from_le_bytes(told()[8..16].try_into().expect("eight bytes"));
    for _ in 0..8 {
        stop(&sandbox);
        let before = rounds();
        sandbox.brant(&["restore", "-d", "--files", "keep", &path(&sandbox, "x.img")]).expect(0);
        assert!(wait_until(TIMEOUT_S, || rounds() > before), "{:?}", sandbox.leftovers());
    }
    let file = std::fs::File::options().write(true).open(sandbox.path("told")).expect("it is there");
    file.write_all_at(&[1], 0).expect("it can be written");
    end(&sandbox);
    assert_eq!(sandbox.text("f.result"), "ok\n");
}

#[test]
fn a_program_in_namespaces_is_told_its_new_address() {
    let sandbox = Sandbox::new(Who::Plain);
    start(&sandbox, PROGRAM, &[]);
    stop(&sandbox);
    let said = restore(&sandbox, "192.0.2.1=127.0.0.5");
    assert!(said.contains("127.0.0.5"), "{said}");
    assert!(is_reached(&sandbox, "127.0.0.5") && !is_reached(&sandbox, "127.0.0.6"));
    let seen = look(&sandbox);
    assert!(seen.contains("127.0.0.5"), "{seen}");
    end(&sandbox);
}

#[test]
fn a_program_is_started_at_another_address() {
    let sandbox = Sandbox::new(Who::Plain);
    start(&sandbox, PROGRAM, &["--wrap", "virtual:address=192.0.2.1=127.0.0.7"]);
    assert_eq!(look(&sandbox), "ok\n");
    assert!(is_reached(&sandbox, "127.0.0.7") && !is_reached(&sandbox, "127.0.0.8"));
    end(&sandbox);
}

#[test]
fn addresses_that_say_nothing_whole_are_refused() {
    let sandbox = Sandbox::new(Who::Plain);
    for map in ["192.0.2.1", "192.0.2.1=::1", "0.0.0.0=127.0.0.1"] {
        let wrapper = format!("virtual:address={map}");
        for args in
            [&["run", "--wrap", &wrapper, "--", "/bin/true"][..], &["restore", "--map-address", map, "x.img"]]
        {
            let refused = sandbox.brant(args);
            assert!(
                refused.code != 0 && refused.stderr.contains("two addresses"),
                "{args:?}: {}",
                refused.stderr
            );
        }
    }
}
