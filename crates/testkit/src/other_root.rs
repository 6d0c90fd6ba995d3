//! A second root file system: another release of Debian, in a mount and network namespace of its own.
//!
//! It is bootstrapped once from the registry that this machine's apt is configured for and kept in `target/roots`. The sandbox lies in it at the
//! same path; everything else is the other release's. Processes are not apart: what is left behind is found.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use crate::ability::{SYSTEM_PATH, have_command, is_root};
use crate::program::{static_brant_binary, target_folder};
use crate::sandbox::{Outcome, Sandbox, place, wait_until};

/// How long a bootstrap may take.
const BOOTSTRAP_TIMEOUT_S: u64 = 480;

/// Makes the namespaces' mounts and stays: `sh -c SCRIPT sh ROOT SHARE`. The folder for the old root lies in a fresh /tmp, and
/// so does the way to the sandbox.
const HOLD: &str = r#"set -e
mount --bind "$1" "$1"
mount -t tmpfs -o mode=1777 tmp "$1/tmp"
mkdir -p "$1$2" "$1/tmp/.old"
mount --bind "$2" "$1$2"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
cd "$1"
pivot_root . tmp/.old
umount -l /tmp/.old
echo ready > "$2/other-root.ready"
exec sleep 3600"#;

/// A sandbox's view of another root file system. Ends with it.
#[derive(Debug)]
pub struct OtherRoot<'a> {
    sandbox: &'a Sandbox,
    holder: Child,
}

impl<'a> OtherRoot<'a> {
    /// `Err` names what this machine lacks.
    pub fn open(sandbox: &'a Sandbox) -> Result<OtherRoot<'a>, &'static str> {
        let root = provide()?;
        place(&static_brant_binary(), &sandbox.path("brant-static"));
        for folder in ["other-state", "other-run"] {
            sandbox.make_folder(folder);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "sh", "-c", HOLD, "sh"]);
        command.arg(&root).arg(sandbox.path("")).stdin(Stdio::null());
        let holder = command.spawn().expect("unshare starts");
        let mut opened = OtherRoot { sandbox, holder };
        let is_ready = || sandbox.path("other-root.ready").exists();
        assert!(wait_until(30, is_ready), "no second root: {:?}", opened.holder.try_wait());
        Ok(opened)
    }

    /// Any command in the other root, as an ordinary user.
    pub fn command(&self, words: &[&str]) -> Command {
        let holder = self.holder.id().to_string();
        let (uid, gid) = self.sandbox.owner();
        let path = |name: &str| self.sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
        let mut command = self.sandbox.bare_command("nsenter");
        command.args(["--target", &holder, "--mount", "--net"]);
        command.args(["setpriv", "--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all", "env", "-C", &path("")]);
        command.arg(format!("XDG_STATE_HOME={}", path("other-state")));
        command.arg(format!("XDG_RUNTIME_DIR={}", path("other-run")));
        command.arg(format!("PATH={SYSTEM_PATH}")).args(words);
        command
    }

    /// Runs brant there, to its end.
    pub fn brant(&self, args: &[&str]) -> Outcome {
        self.sandbox.finish(self.command(&[&["./brant-static"], args].concat()), args)
    }
}

impl Drop for OtherRoot<'_> {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = std::fs::remove_file(self.sandbox.path("other-root.ready"));
    }
}

/// The folder with the other release; made on first use.
fn provide() -> Result<PathBuf, &'static str> {
    static MADE: OnceLock<Result<PathBuf, &'static str>> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    MADE.get_or_init(|| {
        if !is_root() {
            return Err("root");
        }
        let release = match std::env::var("BRANT_OTHER_RELEASE") {
            Ok(release) => release,
            Err(_) if own_release() == "trixie" => "bookworm".to_owned(),
            Err(_) => "trixie".to_owned(),
        };
        let root = target_folder().join("roots").join(&release);
        if root.is_dir() {
            return Ok(root);
        }
        if !have_command("debootstrap") {
            return Err("debootstrap");
        }
        let mirror = std::env::var("BRANT_DEBIAN_MIRROR").ok().or_else(configured_mirror);
        let mirror = mirror.ok_or("host: a Debian registry in apt's configuration")?;
        match bootstrap(&release, &root, &mirror) {
            true => Ok(root),
            false => Err("host: a Debian registry that can be reached, for another release"),
        }
    })
    .clone()
}

/// The folder gets its name when it is whole.
fn bootstrap(release: &str, root: &Path, mirror: &str) -> bool {
    let partial = root.with_extension(format!("{}.partial", std::process::id()));
    std::fs::create_dir_all(&partial).expect("the target folder is writable");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", release]).arg(&partial).arg(mirror);
    let log = std::fs::File::create(root.with_extension("log")).expect("the target folder is writable");
    command.env("PATH", SYSTEM_PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a descriptor is free")).stderr(log);
    let mut child = command.spawn().expect("debootstrap starts");
    let mut status = None;
    wait_until(BOOTSTRAP_TIMEOUT_S, || {
        status = child.try_wait().expect("our own child can be waited for");
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let is_whole = status.is_some_and(|status| status.success());
    if is_whole {
        std::fs::rename(&partial, root).is_ok() || root.is_dir()
    } else {
        let _ = std::fs::remove_dir_all(&partial);
        false
    }
}

fn own_release() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// Where apt gets this machine's own release from.
fn configured_mirror() -> Option<String> {
    let args = ["indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"];
    let output = Command::new("apt-get").args(args).output().ok()?;
    let own = own_release();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| {
        let (uri, codename) = line.split_once(' ')?;
        let uri = uri.trim_end_matches('/');
        (codename == own && uri.ends_with("/debian")).then(|| uri.to_owned())
    })
}
