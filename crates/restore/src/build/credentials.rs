//! Who a process is. Credentials belong to each thread, so each sets its own, last of all: what is dropped here
//! is what the building needed.
//!
//! In a user namespace of our own one uid and one gid exist, which every task has already; the rights that came
//! with the namespace are given up, so that the program is the ordinary user that it was. A plain user without one can give
//! nobody but itself, and has no rights to give up: the plan has seen that the program was that user.

use brant_image::model::Credentials;

use super::script::Script;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
const SECBIT_KEEP_CAPS: u64 = 1 << 4;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const CAPABILITIES: u32 = 64;

/// What the tree is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    Root,
    /// All of a user namespace of our own, with one uid and gid.
    OwnNamespace,
    /// None.
    Plain,
}

/// Adds the calls that make a thread what `credentials` say.
pub(crate) fn set(script: &mut Script, credentials: &Credentials, rights: Rights) {
    let what = "setting its credentials";
    let is_root = rights == Rights::Root;
    if is_root {
        // Capabilities outlive the change of uid, to be set exactly afterwards.
        let bits = SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS;
        script.must(what, libc::SYS_prctl, &[libc::PR_SET_SECUREBITS as u64, bits, 0, 0, 0]);
        set_ids(script, credentials);
    }
    let [inheritable, permitted, effective, bounding, ambient] = credentials.capabilities;
    for capability in (0..CAPABILITIES).filter(|bit| is_root && bounding & (1 << bit) == 0) {
        script.any(what, libc::SYS_prctl, &[libc::PR_CAPBSET_DROP as u64, u64::from(capability), 0, 0, 0]);
    }
    let securebits = u64::from(credentials.securebits);
    if is_root || securebits != 0 {
        script.may(
            "setting securebits",
            libc::SYS_prctl,
            &[libc::PR_SET_SECUREBITS as u64, securebits, 0, 0, 0],
        );
    }
    let header = script.put(&[CAPABILITY_VERSION_3.to_le_bytes(), 0u32.to_le_bytes()].concat());
    let mut data = Vec::new();
    for half in 0..2 {
        for set in [effective, permitted, inheritable] {
            data.extend(((set >> (32 * half)) as u32).to_le_bytes());
        }
    }
    let data = script.put(&data);
    script.must(what, libc::SYS_capset, &[header, data]);
    for capability in (0..CAPABILITIES).filter(|bit| ambient & (1 << bit) != 0) {
        script.may(
            "raising an ambient capability",
            libc::SYS_prctl,
            &[PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, u64::from(capability), 0, 0],
        );
    }
    if credentials.no_new_privs {
        script.must(what, libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0]);
    }
}

fn set_ids(script: &mut Script, credentials: &Credentials) {
    let what = "setting its user and groups";
    let groups: Vec<u8> = credentials.groups.iter().flat_map(|group| group.to_le_bytes()).collect();
    let at = script.put(&groups);
    script.must(what, libc::SYS_setgroups, &[credentials.groups.len() as u64, at]);
    let gids = credentials.gids.map(u64::from);
    let uids = credentials.uids.map(u64::from);
    script.must(what, libc::SYS_setresgid, &gids[..3]);
    script.must(what, libc::SYS_setfsgid, &gids[3..]);
    script.must(what, libc::SYS_setresuid, &uids[..3]);
    script.must(what, libc::SYS_setfsuid, &uids[3..]);
}
