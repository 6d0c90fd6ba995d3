//! Sources of `fixtures`, compiled into a sandbox.

use std::path::PathBuf;
use std::process::Command;

use crate::program::repository;
use crate::sandbox::Sandbox;

impl Sandbox {
    /// Compiles sources of `fixtures` to the file `name`, a shared library where it ends in `.so`; the sandbox's other libraries can be
    /// linked against. Flags come last. Nothing where there is no such compiler, which is said.
    pub fn compile(&self, compiler: &str, sources: &[&str], name: &str, flags: &[&str]) -> Option<PathBuf> {
        let to = self.path(name);
        std::fs::create_dir_all(to.parent().expect("it is in the sandbox")).expect("the sandbox is ours");
        let mut command = Command::new(compiler);
        command.args(["-O1", "-Wall", "-pthread", "-I"]).arg(repository().join("include"));
        if name.ends_with(".so") {
            command.args(["-shared", "-fPIC"]);
        }
        command.args(sources.iter().map(|source| repository().join("fixtures").join(source)));
        command.arg("-o").arg(&to).arg("-L").arg(self.path("")).args(flags);
        command.args(["-Wl,-rpath,$ORIGIN", "-ldl"]);
        let Ok(output) = command.output() else {
            println!("skipped: there is no {compiler}");
            return None;
        };
        assert!(output.status.success(), "{sources:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(to)
    }
}
