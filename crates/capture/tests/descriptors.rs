//! Checkpoints of the test's own children: what their descriptors are in the image, what is refused, and that they run on.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brant_base::{Pid, Refusals};
use brant_capture::{Error, Options};
use brant_image::model::*;
use brant_image::{Codec, Image};
use brant_kernel::facts::HostFacts;
use brant_testkit::{fixture_binary, wait_until};

/// A fixture program that has set up its state.
struct Running {
    child: Child,
    folder: PathBuf,
}

/// Whoever runs the tests may leave descriptors open that a program would inherit.
const CLOSE_STRAYS: &str = r#"for fd in /proc/self/fd/*; do
    n=${fd##*/}
    [ "$n" -gt 2 ] && [ "$n" -ne "$KEEP" ] && [ "$n" -ne 255 ] && eval "exec $n>&-"
done
exec "$@""#;

impl Running {
    fn start(fixture: &str, arguments: &[&str], configure: impl FnOnce(&mut Command)) -> Running {
        Running::start_keeping(0, fixture, arguments, configure)
    }

    fn start_keeping(
        keep: i32,
        fixture: &str,
        arguments: &[&str],
        configure: impl FnOnce(&mut Command),
    ) -> Running {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("brant-descriptors-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", CLOSE_STRAYS, "bash"]);
        command.env("KEEP", keep.to_string()).arg(fixture_binary(fixture, false));
        command.arg(folder.join("f")).args(arguments).current_dir(&folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        configure(&mut command);
        let child = command.spawn().unwrap();
        let running = Running { child, folder };
        assert!(
            wait_until(30, || running.folder.join("f.ready").exists()),
            "{fixture}: {}",
            running.result()
        );
        running
    }

    fn pid(&self) -> Pid {
        Pid(self.child.id() as i32)
    }

    fn result(&self) -> String {
        std::fs::read_to_string(self.folder.join("f.result")).unwrap_or_default()
    }

    /// Takes a checkpoint of it.
    fn capture(&self) -> Result<Image, Error> {
        let facts = HostFacts::probe().unwrap();
        let options = Options {
            freeze_timeout: Duration::from_secs(10),
            stop: false,
            copy: false,
            codec: Codec::Raw,
            carry: brant_capture::Carry::default(),
            job: None,
            never_restored: |_| brant_base::Refusals::default(),
            beholder: &brant_capture::Nobody,
        };
        let path = self.folder.join("image");
        let sink = || Ok(File::create(&path).unwrap());
        brant_capture::checkpoint(&[self.pid()], &facts, &options, sink)?.end()?;
        Ok(Image::open(File::open(&path).unwrap()).unwrap())
    }

    fn image(&self) -> Image {
        self.capture().unwrap_or_else(|error| panic!("{}", explain(&error)))
    }

    fn refusals(&self) -> Refusals {
        match self.capture() {
            Err(Error::Refused(refusals)) => refusals,
            Err(error) => panic!("{}", explain(&error)),
            Ok(_) => Refusals::default(),
        }
    }

    /// Lets it verify its own state.
    fn expect_unharmed(mut self) {
        std::fs::write(self.folder.join("f.go"), "").unwrap();
        assert!(wait_until(30, || !self.result().is_empty()), "it gave no answer");
        assert_eq!(self.result(), "ok");
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn explain(error: &Error) -> String {
    match error {
        Error::Refused(refusals) => refusals.to_string(),
        other => format!("{other}: {:?}", std::error::Error::source(other)),
    }
}

fn plain(fixture: &str) -> Running {
    Running::start(fixture, &[], |_| {})
}

/// The description of a descriptor of the first process.
fn file_of(checkpoint: &Checkpoint, number: i32) -> &OpenFile {
    let body = checkpoint.processes[0].body.as_ref().unwrap();
    let entry = body.descriptors.iter().find(|entry| entry.number == number).unwrap();
    checkpoint.open_files.iter().find(|file| file.id == entry.file).unwrap()
}

fn kinds(checkpoint: &Checkpoint) -> impl Iterator<Item = &FileKind> {
    checkpoint.open_files.iter().map(|file| &file.kind)
}

fn bytes(pieces: &[brant_base::Redacted<Vec<u8>>]) -> Vec<&[u8]> {
    pieces.iter().map(|piece| &piece.0[..]).collect()
}

/// Every fixture that has nothing but descriptors of its own to lose goes on as if nothing had happened.
#[test]
fn programs_run_on_after_a_checkpoint() {
    let fixtures = [
        "cloexec",
        "deleted_map",
        "devices",
        "dirfd",
        "dup_share",
        "epoll",
        "epoll_dup",
        "eventfd",
        "fifo",
        "files",
        "inotify",
        "locks",
        "memfd",
        "pidfd",
        "pipe_blocked",
        "pipe_bytes",
        "pipe_packet",
        "proc_fds",
        "shared_anon",
        "shared_file",
        "signalfd",
        "socketpair",
        "tcp_listen",
        "timerfd",
        "udp",
        "unix_dgram",
        "unix_rights",
        "unix_shutdown",
        "unix_stream",
        "unlinked",
        "low_nofile",
    ];
    let mut failed = Vec::new();
    for fixture in fixtures {
        let running = plain(fixture);
        let captured = running.capture();
        if let Err(error) = captured {
            failed.push(format!("{fixture}: {}", explain(&error)));
        }
        running.expect_unharmed();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn pipes_hold_what_is_in_flight() {
    let running = plain("pipe_packet");
    let image = running.image();
    let pipe = &image.checkpoint().pipes[0];
    assert!(pipe.packets && pipe.in_flight.len() > 1, "{:?}", bytes(&pipe.in_flight).len());
    running.expect_unharmed();
}

#[test]
fn a_standard_stream_may_lead_outside() {
    let running = Running::start("cloexec", &[], |command| {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    let image = running.image();
    let expected = [(1, StandardStream::Output), (2, StandardStream::Error)];
    for (number, expected) in expected {
        match &file_of(image.checkpoint(), number).kind {
            FileKind::Outside { stream, .. } => assert_eq!(*stream, expected),
            other => panic!("{other:?}"),
        }
    }
    running.expect_unharmed();
}

#[test]
fn epoll_names_what_it_watches() {
    let running = plain("epoll_dup");
    let image = running.image();
    let watches: usize = kinds(image.checkpoint())
        .map(|kind| if let FileKind::Epoll { watches } = kind { watches.len() } else { 0 })
        .sum();
    assert!(watches > 0);
    running.expect_unharmed();
}

#[test]
fn descriptors_in_flight_are_descriptions() {
    let running = plain("unix_rights");
    let image = running.image();
    let checkpoint = image.checkpoint();
    let messages: Vec<&UnixMessage> =
        checkpoint.unix_sockets.iter().flat_map(|socket| &socket.queue).collect();
    let texts: Vec<&[u8]> = messages.iter().map(|message| &message.bytes.0[..]).collect();
    assert_eq!(texts, [b"plain", &b"with"[..]]);
    let id = messages[1].files[0];
    let file = checkpoint.open_files.iter().find(|file| file.id == id).unwrap();
    assert_eq!(file.position, 600);
    assert!(matches!(file.kind, FileKind::Regular { .. }));
    running.expect_unharmed();
}

#[test]
fn deleted_files_travel() {
    let running = plain("unlinked");
    let image = running.image();
    let deleted: Vec<&DiskFile> = image.checkpoint().disk_files.iter().filter(|file| file.deleted).collect();
    assert!(!deleted.is_empty());
    for file in deleted {
        assert!(file.stored);
        let pages = image.runs(PageOwner::File(file.id)).count();
        assert!(pages > 0 || file.size == 0);
    }
    running.expect_unharmed();
}

#[test]
fn terminals_inside_of_the_tree_are_known() {
    let running = plain("ctty");
    match running.capture() {
        Ok(image) => {
            let terminals = &image.checkpoint().terminals;
            assert!(terminals.iter().any(|terminal| terminal.inside), "{terminals:?}");
        }
        Err(error) => panic!("{}", explain(&error)),
    }
    running.expect_unharmed();
}

#[test]
fn what_is_under_way_in_a_terminal_is_copied() {
    let running = plain("pty");
    let image = running.image();
    let terminal = &image.checkpoint().terminals[0];
    assert!(terminal.inside);
    assert_eq!(terminal.input.0, b"to the slave");
    assert_eq!(terminal.output.0, b"to the master\n");
    running.expect_unharmed();
    let running = plain("pty_cooked");
    assert_eq!(running.image().checkpoint().terminals[0].input.0, b"a line\n");
    running.expect_unharmed();
}

/// A child of a fixture alone shares memory with its parent, which stays outside.
#[test]
fn memory_shared_with_others_is_refused() {
    let running = plain("shared_anon");
    let facts = HostFacts::probe().unwrap();
    let children = brant_kernel::proc::children(running.pid()).unwrap();
    let refusals = brant_capture::check(&children[..1], &facts, &brant_capture::Nobody).unwrap();
    let named =
        refusals.0.iter().any(|refusal| refusal.code == "B-0346" && refusal.resource.contains("memory"));
    assert!(named, "{refusals}");
    running.expect_unharmed();
}

#[test]
fn blockers_are_named_all_at_once() {
    let running = Running::start("blockers", &["netlink", "io_uring"], |_| {});
    let refusals = running.refusals();
    let codes: Vec<&str> = refusals.0.iter().map(|refusal| refusal.code).collect();
    assert!(codes.contains(&"B-0334"), "{refusals}");
    running.expect_unharmed();
}

#[test]
fn an_outside_pipe_elsewhere_is_refused() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let running = Running::start_keeping(number, "cloexec", &[], |_| {});
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).unwrap();
    let refusals = running.refusals();
    let named = refusals.0.iter().any(|refusal| {
        refusal.code == "B-0332" && refusal.resource.starts_with(&format!("descriptor {number}: a pipe"))
    });
    assert!(named, "{refusals}");
    running.expect_unharmed();
}
