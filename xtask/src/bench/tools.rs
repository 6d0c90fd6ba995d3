//! What is measured: brant, its peers, and a plain memcpy.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::program::{Scene, Workplace, nanoseconds};
use super::table::Sample;

/// What is put beside brant.
#[derive(Clone, Debug)]
pub(super) enum Tool {
    Brant,
    /// The path of `criu`; it runs as whoever started the bench, which must be root.
    Criu(PathBuf),
    /// The folder of `dmtcp_launch` and its companions.
    Dmtcp(PathBuf),
    Memcpy,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tool::Brant => "brant",
            Tool::Criu(_) => "CRIU",
            Tool::Dmtcp(_) => "DMTCP",
            Tool::Memcpy => "memcpy",
        })
    }
}

const MS: f64 = 1e3;
/// The program tells of gaps from here on.
const GAP_MIN_MS: f64 = 0.5;
/// For how long after a checkpoint a gap still belongs to it.
const AFTERMATH: Duration = Duration::from_millis(100);

impl Tool {
    /// brant, those that the environment names, and memcpy.
    pub(super) fn all() -> Vec<Tool> {
        let path = |key: &str| std::env::var_os(key).filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut tools = vec![Tool::Memcpy, Tool::Brant];
        tools.extend(path("BRANT_BENCH_CRIU").map(Tool::Criu));
        let dmtcp = path("BRANT_BENCH_DMTCP_LAUNCH");
        tools.extend(dmtcp.and_then(|path| Some(Tool::Dmtcp(path.parent()?.to_owned()))));
        tools
    }

    /// One program's life: filled, checkpointed and left running, checkpointed and ended, restored, read.
    pub(super) fn measure(&self, place: &Workplace, bytes: u64) -> Result<Sample, String> {
        let name = self.to_string().to_lowercase();
        let mut scene = Scene::open(place, &name, !matches!(self, Tool::Criu(_)))?;
        if matches!(self, Tool::Memcpy) {
            return memcpy(&mut scene, place, bytes);
        }
        scene.keep(self.launch(&scene, place, bytes))?;
        let ready = scene.line("ready")?;
        let pid: u32 = ready.parse().map_err(|_| format!("a pid: {ready}"))?;
        warm(&scene, place, bytes)?;
        let (begin, left_running) = scene.time(self.checkpoint(&scene, place, pid, false))?;
        std::thread::sleep(AFTERMATH);
        let pause_ms = longest(&scene, begin, left_running + AFTERMATH);
        scene.drop_image();
        warm(&scene, place, bytes)?;
        let (begin, mut stopped) = scene.time(self.checkpoint(&scene, place, pid, true))?;
        scene.reap()?;
        if matches!(self, Tool::Dmtcp(_)) {
            // Its command only begins; the program ends when the image is written.
            stopped = begin.elapsed().unwrap_or(stopped);
        }
        let image_bytes = scene.image_bytes();
        warm(&scene, place, bytes)?;
        scene.ask_for_walk()?;
        let begin = self.restore(&mut scene, place)?;
        let (first_step_ms, touched_ms) = after_restore(&mut scene, begin)?;
        Ok(Sample {
            left_running_ms: left_running.as_secs_f64() * MS,
            pause_ms,
            stopped_ms: stopped.as_secs_f64() * MS,
            image_mib: image_bytes as f64 / f64::from(1 << 20),
            first_step_ms,
            touched_ms,
        })
    }

    fn launch(&self, scene: &Scene, place: &Workplace, bytes: u64) -> Command {
        let resident = place.resident();
        let mut command = match self {
            Tool::Dmtcp(folder) => {
                let mut command = scene.command(&folder.join("dmtcp_launch"));
                command.args(["--new-coordinator", "--coord-port", "0", "--no-gzip", "--port-file"]);
                command.arg(scene.folder.join("port")).arg("--ckptdir").arg(scene.folder.join("image"));
                command.arg(resident);
                command
            }
            _ => scene.command(&resident),
        };
        command.args(["run", &bytes.to_string()]).arg(&scene.folder);
        command
    }

    fn checkpoint(&self, scene: &Scene, place: &Workplace, pid: u32, stop: bool) -> Command {
        let pid = pid.to_string();
        match self {
            Tool::Criu(criu) => {
                let mut command = scene.command(criu);
                command.args(["dump", "-t", &pid, "-o", "dump.log", "-D"]).arg(scene.folder.join("image"));
                command.args((!stop).then_some("--leave-running"));
                command
            }
            Tool::Dmtcp(folder) => {
                let mut command = scene.command(&folder.join("dmtcp_command"));
                let port = fs::read_to_string(scene.folder.join("port")).unwrap_or_default();
                command.args(["--coord-port", port.trim()]);
                command.arg(if stop { "--kcheckpoint" } else { "--bcheckpoint" });
                command
            }
            Tool::Brant | Tool::Memcpy => {
                let mut command = scene.command(&place.brant());
                command.args(["checkpoint", &pid, "-o"]).arg(image(scene)).args(stop.then_some("--stop"));
                command
            }
        }
    }

    /// Begins a restore; gives when it was typed.
    fn restore(&self, scene: &mut Scene, place: &Workplace) -> Result<SystemTime, String> {
        match self {
            Tool::Criu(criu) => {
                let mut command = scene.command(criu);
                command.args(["restore", "-d", "-o", "restore.log", "-D"]).arg(scene.folder.join("image"));
                command.arg("--pidfile").arg(scene.folder.join("pid"));
                let (begin, _) = scene.time(command)?;
                adopt_from(scene, "pid").map(|()| begin)
            }
            Tool::Dmtcp(folder) => {
                let mut command = scene.command(&folder.join("dmtcp_restart"));
                command.args(["--new-coordinator", "--coord-port", "0", "--port-file"]);
                command.arg(scene.folder.join("port")).arg("--ckptdir").arg(scene.folder.join("image"));
                let items = fs::read_dir(scene.folder.join("image")).into_iter().flatten().flatten();
                let is_image = |path: &PathBuf| path.extension().is_some_and(|end| end == "dmtcp");
                command.args(items.map(|item| item.path()).filter(is_image));
                scene.keep(command)
            }
            Tool::Brant | Tool::Memcpy => {
                let mut command = scene.command(&place.brant());
                command.args(["restore", "-d", "-n", "bench", "--pid-file"]).arg(scene.folder.join("pid"));
                command.arg(image(scene));
                let (begin, _) = scene.time(command)?;
                adopt_from(scene, "pid").map(|()| begin)
            }
        }
    }
}

fn image(scene: &Scene) -> PathBuf {
    scene.folder.join("image").join("bench.brant")
}

fn adopt_from(scene: &mut Scene, name: &str) -> Result<(), String> {
    let path = scene.folder.join(name);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let pid = text.trim().parse().map_err(|_| format!("{} holds no pid", path.display()))?;
    scene.adopt(pid);
    Ok(())
}

/// The longest gap that ended within `span` of `begin`, in milliseconds.
fn longest(scene: &Scene, begin: SystemTime, span: Duration) -> f64 {
    let (from, to) = (nanoseconds(begin), nanoseconds(begin + span));
    let gaps = scene.gaps().into_iter().filter(|(_, end)| (from..to).contains(end));
    gaps.map(|(begin, end)| (end - begin) as f64 / 1e6).fold(GAP_MIN_MS, f64::max)
}

/// From `begin` to the program's first step and to its having read all its memory, in milliseconds.
fn after_restore(scene: &mut Scene, begin: SystemTime) -> Result<(f64, f64), String> {
    let walked = scene.line("walked")?;
    let begin = nanoseconds(begin);
    let since = |time: i64| (time - begin) as f64 / 1e6;
    let first = scene.gaps().into_iter().map(|(_, end)| end).find(|end| *end > begin);
    match (first, walked.split_once(' ')) {
        (Some(first), Some((end, "ok"))) => Ok((since(first), since(end.parse().unwrap_or_default()))),
        (None, Some((_, "ok"))) => Err("the program told of no first step after its return".to_owned()),
        _ => Err(format!("the memory came back {walked}")),
    }
}

fn memcpy(scene: &mut Scene, place: &Workplace, bytes: u64) -> Result<Sample, String> {
    let resident = |mode: &str| {
        let mut command = scene.command(&place.resident());
        command.args([mode, &bytes.to_string()]).arg(&scene.folder);
        command
    };
    let (save, load) = (resident("save"), resident("load"));
    warm(scene, place, 2 * bytes)?;
    scene.time(save)?;
    warm(scene, place, bytes)?;
    let copied: f64 = scene.line("copied")?.parse().map_err(|_| "a number".to_owned())?;
    let (begin, _) = scene.time(load)?;
    let (first_step_ms, touched_ms) = after_restore(scene, begin)?;
    let copy_ms = copied / 1e6;
    Ok(Sample {
        left_running_ms: copy_ms,
        pause_ms: copy_ms,
        stopped_ms: copy_ms,
        image_mib: file_mib(&scene.folder.join("copy")),
        first_step_ms,
        touched_ms,
    })
}

/// Touches and frees as much memory as a step will take, and a little more: in a virtual machine the first touch of memory
/// that was free for some seconds costs its host far more than the step itself, and would be counted for whoever comes first.
fn warm(scene: &Scene, place: &Workplace, bytes: u64) -> Result<(), String> {
    let mut command = scene.command(&place.resident());
    command.args(["warm", &(bytes + bytes / 8).to_string()]).arg(&scene.folder);
    scene.time(command).map(drop)
}

fn file_mib(path: &Path) -> f64 {
    fs::metadata(path).map_or(0.0, |metadata| metadata.len() as f64 / f64::from(1 << 20))
}
