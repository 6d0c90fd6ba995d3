//! The command that makes the connection: `ssh`, or what `-e` says.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brant_kernel::task;
use brant_migrate::{Limits, Link};
use nix::sys::signal::SigSet;

/// How long the command may take to end once the connection has.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a brant that was copied lies on the other host, for a shell there.
const COPIES: &str = "${XDG_STATE_HOME:-$HOME/.local/state}/brant/bin";

/// How the other host is reached.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    /// The command with its own arguments.
    words: Vec<String>,
    host: String,
    remote_path: Option<String>,
}

/// A connection, and the command that makes it.
pub(super) struct Connection {
    pub(super) link: Link,
    child: Child,
}

impl Transport {
    /// `command` is cut into words as a shell would, without expanding anything.
    pub(super) fn new(
        command: &str,
        host: &str,
        remote_path: Option<String>,
    ) -> Result<Transport, &'static str> {
        let words = words(command).ok_or("a quote is not closed")?;
        if words.is_empty() {
            return Err("it is empty");
        }
        Ok(Transport { words, host: host.to_string(), remote_path })
    }

    /// Starts brant on the other host. Prompts of the command go to the user's terminal.
    pub(super) fn connect(&self) -> io::Result<Connection> {
        let mut child = self.spawn(&self.receive_command())?;
        let (Some(output), Some(input)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let link = Link::new(OwnedFd::from(input), OwnedFd::from(output), Limits::default())?;
        Ok(Connection { link, child })
    }

    /// What is run there. A copy of this very brant goes before the one on the PATH: it certainly understands us.
    fn receive_command(&self) -> String {
        match &self.remote_path {
            Some(path) => format!("exec {} receive", quoted(path)),
            None => {
                let copy = copy_name().map_or(String::new(), |name| {
                    format!(r#"b="{COPIES}/{name}"; [ -x "$b" ] && exec "$b" receive; "#)
                });
                let script =
                    format!("{copy}command -v brant >/dev/null 2>&1 || exit 127; exec brant receive");
                format!("exec sh -c {}", quoted(&script))
            }
        }
    }

    /// Puts a copy of this brant there, whole or not at all.
    pub(super) fn copy_self(&self) -> io::Result<()> {
        let mut own = File::open("/proc/self/exe")?;
        let bytes = own.metadata()?.len();
        let name = copy_name().ok_or(io::ErrorKind::NotFound)?;
        let script = format!(
            r#"umask 077; d="{COPIES}"; mkdir -p "$d" && cat >"$d/.new.$$" && [ "$(wc -c <"$d/.new.$$")" -eq {bytes} ] && chmod 700 "$d/.new.$$" && mv -f "$d/.new.$$" "$d/{name}" || {{ rm -f "$d/.new.$$"; exit 1; }}"#
        );
        let mut child = self.spawn(&format!("exec sh -c {}", quoted(&script)))?;
        let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let copied = io::copy(&mut own, &mut input);
        drop(input);
        // What it says is for nobody.
        let _ = child.stdout.take().map(|mut output| io::copy(&mut output, &mut io::sink()));
        let status = child.wait()?;
        copied?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
    }

    fn spawn(&self, remote: &str) -> io::Result<Child> {
        // The keyboard's signals are ours to act upon: the command must not end under a hand-over.
        let keyboard = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGHUP];
        keyboard.into_iter().for_each(task::ignore_signal);
        // What we hold back ourselves is inherited, and the command must obey kill(1). Nothing has been touched yet: one
        // that has come to us meanwhile may end us.
        let held_back = SigSet::thread_get_mask()?;
        SigSet::empty().thread_set_mask()?;
        let spawned = Command::new(&self.words[0])
            .args(&self.words[1..])
            .arg(&self.host)
            .arg(remote)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        held_back.thread_set_mask()?;
        keyboard.into_iter().for_each(task::default_signal);
        spawned
    }

    /// For messages: `ssh -p 22 HOST`.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.words.join(" "), self.host)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn names_path(&self) -> bool {
        self.remote_path.is_some()
    }

    /// Whether no path was given and brant may be brought along.
    pub(super) fn program(&self) -> &str {
        &self.words[0]
    }
}

impl Connection {
    /// The command's exit code, once it has ended.
    pub(super) fn end(self) -> Option<i32> {
        let Connection { link, mut child } = self;
        drop(link);
        let until = Instant::now() + END_TIMEOUT;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return status.code(),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return None;
                }
            }
        }
    }
}

/// How a copy of this very program is called.
fn copy_name() -> Option<String> {
    let own = File::open("/proc/self/exe").ok()?;
    let version = env!("CARGO_PKG_VERSION");
    if let Some(id) = brant_kernel::elf::build_id(&own) {
        let id: String = id.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Some(format!("brant-{version}-{id}"));
    }
    // Without a build id: by its length and a sum over all of it.
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    let mut bytes = 0u64;
    let mut block = vec![0; 1 << 20];
    let mut own = own;
    loop {
        match own.read(&mut block).ok()? {
            0 => return Some(format!("brant-{version}-{bytes:x}-{sum:016x}")),
            count => {
                bytes += count as u64;
                for byte in &block[..count] {
                    sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
    }
}

/// Whether this brant would run on another host of the same kind as it is.
pub(super) fn is_static() -> bool {
    File::open(Path::new("/proc/self/exe")).is_ok_and(|own| brant_kernel::elf::is_static(&own))
}

/// Asks on the user's terminal; `None` where there is none.
pub(super) fn ask(question: &str) -> Option<bool> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    terminal.write_all(question.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < 16 && terminal.read(&mut byte).ok()? == 1 && byte[0] != b'\n' {
        answer.push(byte[0]);
    }
    Some(matches!(answer.first(), Some(b'y' | b'Y')))
}

/// One word for any shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The words of a command; `None` where a quote is not closed.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in command.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_cut_as_a_shell_would() {
        let cut = |text| words(text).unwrap();
        assert_eq!(cut("ssh -p 2222"), ["ssh", "-p", "2222"]);
        assert_eq!(cut(" ssh  -o 'ProxyCommand nc %h %p' \"\" "), ["ssh", "-o", "ProxyCommand nc %h %p", ""]);
        assert_eq!(words("ssh 'x"), None);
    }

    #[test]
    fn quotes_survive_a_shell() {
        let said =
            Command::new("sh").args(["-c", &format!("printf %s {}", quoted("a'b $x"))]).output().unwrap();
        assert_eq!(said.stdout, b"a'b $x");
    }
}
