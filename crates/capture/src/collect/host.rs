//! The host that the checkpoint is taken on.

use brant_image::model::{Host, XstateComponent};
use brant_kernel::facts::HostFacts;
use brant_kernel::proc::{self, MapKind};
use brant_kernel::remote::Memory;

use crate::error::Error;
use crate::tree::Member;

/// What a restore compares its own host with. The vdso is that of the root process.
pub(crate) fn collect(facts: &HostFacts, root: &Member) -> Result<Host, Error> {
    let entries = proc::maps(root.task())?;
    let mut vdso = Vec::new();
    if let Some(entry) = entries.iter().find(|entry| entry.kind == MapKind::Vdso) {
        let failed = |error| Error::Memory { pid: root.host, error };
        vdso.resize(entry.range.bytes() as usize, 0);
        let memory = Memory::open(root.task()).map_err(failed)?;
        memory.read(entry.range.start(), &mut vdso).map_err(failed)?;
    }
    let name = nix::sys::utsname::uname()
        .map_err(|error| Error::Descriptor { what: "uname".to_owned(), error: error.into() })?;
    Ok(Host {
        name: name.nodename().to_string_lossy().into_owned(),
        kernel_release: name.release().to_string_lossy().into_owned(),
        machine: name.machine().to_string_lossy().into_owned(),
        xstate_features: facts.xstate_features,
        xstate_layout: facts
            .xstate_layout
            .iter()
            .map(|&brant_kernel::facts::XstateComponent { number, offset, bytes }| XstateComponent {
                number,
                offset,
                bytes,
            })
            .collect(),
        cpu_flags: facts.cpu_flags.clone(),
        vdso,
    })
}
