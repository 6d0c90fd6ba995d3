//! The measured program: how it is compiled, started, listened to and ended.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A command of a tool, a fill of memory or a walk may take this long.
pub(super) const LIMIT: Duration = Duration::from_secs(300);
const PREFIX: &str = "brant-bench-";

/// An ordinary user, where the bench is started as root. Its number need not be listed anywhere.
const USER: u32 = 54_321;

/// Folders of a bench; they go with it, and those of a bench that was killed go with the next one.
pub(super) struct Workplace {
    /// Programs, in the folder for temporary files.
    pub(super) programs: PathBuf,
    /// Everything else, on tmpfs.
    pub(super) memory: PathBuf,
}

impl Workplace {
    pub(super) fn make(shm: &Path) -> io::Result<Workplace> {
        let temporary = std::env::temp_dir();
        sweep(&temporary);
        sweep(shm);
        let name = format!("{PREFIX}{}", std::process::id());
        let place = Workplace { programs: temporary.join(&name), memory: shm.join(&name) };
        for folder in [&place.programs, &place.memory] {
            fs::create_dir(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(place)
    }

    /// Compiles the measured program and takes a copy of `brant`, both where every user may run them.
    pub(super) fn provide(&self, source: &Path, brant: &Path) -> Result<(), String> {
        let resident = self.resident();
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let status = Command::new(compiler)
            .args(["-O2", "-pthread", "-o"])
            .args([resident.as_path(), source])
            .status()
            .map_err(|error| format!("the C compiler does not start: {error}"))?;
        if !status.success() {
            return Err("the measured program does not compile".to_owned());
        }
        fs::copy(brant, self.brant()).map_err(|error| format!("{}: {error}", brant.display()))?;
        Ok(())
    }

    pub(super) fn resident(&self) -> PathBuf {
        self.programs.join("resident")
    }

    pub(super) fn brant(&self) -> PathBuf {
        self.programs.join("brant")
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.programs);
        let _ = fs::remove_dir_all(&self.memory);
    }
}

/// Removes folders of benches that were killed; their programs end when they miss them.
fn sweep(folder: &Path) {
    let Ok(items) = fs::read_dir(folder) else { return };
    for item in items.flatten() {
        let name = item.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(item.path());
        }
    }
}

/// One measurement's folder on tmpfs, and what runs in it.
pub(super) struct Scene {
    pub(super) folder: PathBuf,
    /// Whose it is, where that is not us.
    user: Option<u32>,
    child: Option<Child>,
    /// Other processes to end: a restored program.
    others: Vec<u32>,
}

impl Scene {
    /// `is_users`: an ordinary user's, where we are root.
    pub(super) fn open(place: &Workplace, name: &str, is_users: bool) -> Result<Scene, String> {
        let folder = place.memory.join(name);
        let user = (is_users && crate::packages::is_root()).then_some(USER);
        let make = || -> io::Result<()> {
            for folder in [folder.clone(), folder.join("image"), folder.join("runtime")] {
                fs::create_dir(&folder)?;
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
                chown(&folder, user, user)?;
            }
            Ok(())
        };
        make().map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Scene { folder, user, child: None, others: Vec::new() })
    }

    /// A command in the name of the scene's user, with nothing of our environment.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder)
            .env("XDG_RUNTIME_DIR", self.folder.join("runtime"))
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs a tool to its end; gives when it was started and how long it took.
    pub(super) fn time(&self, command: Command) -> Result<(SystemTime, Duration), String> {
        let (begin, begun, mut child) = self.spawn(command)?;
        let pid = child.id();
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait().map(|status| (status, begun.elapsed()))));
        match ended.recv_timeout(LIMIT) {
            Ok(Ok((status, took))) if status.success() => Ok((begin, took)),
            Ok(Ok((status, _))) => Err(format!("it ended with {status}: {}", self.said())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                kill(pid);
                Err(format!("it took longer than {} s: {}", LIMIT.as_secs(), self.said()))
            }
        }
    }

    /// Starts what runs on: the measured program, or a tool that becomes it. It ends with the scene.
    pub(super) fn keep(&mut self, command: Command) -> Result<SystemTime, String> {
        let (begin, _, child) = self.spawn(command)?;
        self.child = Some(child);
        Ok(begin)
    }

    fn spawn(&self, mut command: Command) -> Result<(SystemTime, Instant, Child), String> {
        let name = Path::new(command.get_program()).display().to_string();
        let output = fs::File::create(self.folder.join("output")).map_err(|error| error.to_string())?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        command.stdout(output).stderr(errors);
        let (begin, begun) = (SystemTime::now(), Instant::now());
        let child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
        Ok((begin, begun, child))
    }

    /// What the last command wrote.
    fn said(&self) -> String {
        let text = fs::read_to_string(self.folder.join("output")).unwrap_or_default();
        text.trim().replace('\n', "; ")
    }

    /// Waits for the first line of a file of the program's, with a whole word at its end.
    pub(super) fn line(&mut self, name: &str) -> Result<String, String> {
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(line.to_owned());
            }
            let ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || begun.elapsed() > LIMIT {
                return Err(format!("the program did not say \"{name}\": {}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The gaps that the program saw: where each began and ended, in nanoseconds since 1970.
    pub(super) fn gaps(&self) -> Vec<(i64, i64)> {
        let text = fs::read_to_string(self.folder.join("gaps")).unwrap_or_default();
        let pair = |line: &str| {
            let (begin, end) = line.split_once(' ')?;
            Some((begin.parse().ok()?, end.parse().ok()?))
        };
        text.lines().filter_map(pair).collect()
    }

    /// Asks for all memory to be read after the next gap.
    pub(super) fn ask_for_walk(&self) -> Result<(), String> {
        let path = self.folder.join("walk");
        let made = fs::File::create(&path).and_then(|_| chown(&path, self.user, self.user));
        made.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Waits until the program has ended, which its tool saw to.
    pub(super) fn reap(&mut self) -> Result<(), String> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if begun.elapsed() > LIMIT {
                return Err("the program was to be ended but runs on".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child = None;
        Ok(())
    }

    /// A process to be ended with the scene.
    pub(super) fn adopt(&mut self, pid: u32) {
        self.others.push(pid);
    }

    /// Bytes of all files that hold the image.
    pub(super) fn image_bytes(&self) -> u64 {
        let items = fs::read_dir(self.folder.join("image")).into_iter().flatten().flatten();
        items.filter_map(|item| item.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Removes the image, its folder stays.
    pub(super) fn drop_image(&self) {
        for item in fs::read_dir(self.folder.join("image")).into_iter().flatten().flatten() {
            let _ = fs::remove_file(item.path());
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for pid in &self.others {
            kill(*pid);
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in &self.others {
            let begun = Instant::now();
            while is_alive(*pid) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// A process that has memory still.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}
