//! What stands behind the codes of a capture's refusals, and the short forms that make them.

use brant_base::{Pid, Refusal};

/// Every code of a capture and what it means at length: `brant explain` prints these.
pub const EXPLANATIONS: &[(&str, &str)] = &[
    (
        "B-0301",
        "Another process traces a process of the tree (a debugger, strace). Linux allows one tracer at a time, and \
         brant has to be it for a moment. End the other one and try again.",
    ),
    (
        "B-0302",
        "A process of the tree has a seccomp filter of its own. Such a filter cannot be read by a plain user, and \
         it might kill the program for a system call that brant makes on its behalf. Start the program without \
         its sandbox.",
    ),
    ("B-0303", "A process uses a shadow stack (Intel CET), whose contents cannot be put back."),
    (
        "B-0304",
        "The first process of a pid namespace cannot be carried: in a restored tree its place is taken by brant's \
         own keeper. Name a process below it.",
    ),
    ("B-0305", "A process runs code that is not 64-bit x86. Only x86-64 is carried."),
    (
        "B-0306",
        "A process has changed its root directory, so its paths would mean other files after a restore.",
    ),
    (
        "B-0307",
        "A process has capabilities that a plain user cannot give back. Run brant as root, or the program without them.",
    ),
    ("B-0308", "A thread runs under SCHED_DEADLINE, whose parameters are not carried."),
    ("B-0309", "The tree lives in a namespace that is not brant's own. Run brant inside of it."),
    ("B-0310", "A process of the tree lives in other namespaces than its root process."),
    ("B-0311", "Two processes or threads share a part of themselves in a way that only clone(2) can make."),
    (
        "B-0312",
        "The processes have parents and sessions of a shape that no order of forks gives, so that the tree could not \
         be made again.",
    ),
    (
        "B-0313",
        "A process's limits leave it no room for the few pages that a checkpoint maps into it for a moment and takes away \
         again: its address space (RLIMIT_AS), its data (RLIMIT_DATA), or what it may lock (RLIMIT_MEMLOCK, after \
         mlockall(MCL_FUTURE)). Raise that limit by some 64 KiB with prlimit(1) for the time of the checkpoint.",
    ),
    ("B-0320", "A process has System V shared memory (shmget) attached."),
    (
        "B-0321",
        "A process maps rings or buffers that the kernel shares with a descriptor, such as those of io_uring.",
    ),
    ("B-0322", "A process has a kind of mapping that this version does not know."),
    ("B-0323", "A process maps pages of hugetlbfs. Transparent huge pages are carried, these are not."),
    ("B-0324", "A process maps memory of a device."),
    ("B-0325", "A range of memory is served by userfaultfd. Who serves it cannot be put back."),
    ("B-0326", "A mapping has a memory protection key."),
    ("B-0327", "A mapping is sealed (mseal)."),
    ("B-0328", "A mapping has guard regions (MADV_GUARD_INSTALL), which cannot be seen exactly."),
    (
        "B-0329",
        "Code that the kernel puts into every process (the vDSO) was changed in this one: by brant's wrapper `time`, which \
         has no other way to `time` and `gettimeofday` of glibc, or by a debugger. A restored process has that of its \
         kernel, so the program would see two times. Take the wrapper off before the checkpoint.",
    ),
    (
        "B-0330",
        "A descriptor is of a kind that is not carried: io_uring, userfaultfd, perf, bpf, fanotify, a namespace, \
         secret memory, a block device and so on. What it stands for lies in the kernel and cannot be read. Start \
         the program with this feature off.",
    ),
    (
        "B-0331",
        "A descriptor is open on a device. Only null, zero, full, random, urandom, tty and terminals are carried: \
         behind any other is hardware or a driver with a state of its own.",
    ),
    (
        "B-0332",
        "The other end of a pipe or fifo is held by a process outside of the tree. For descriptors 0, 1 and 2 (and \
         duplicates of them) that is no obstacle: restore connects its own. For any other, let the program close \
         it, let it use a file, or checkpoint a larger tree that holds both ends.",
    ),
    (
        "B-0333",
        "A TCP connection is established, half closed or just ended. Its peer would not accept another socket in \
         its place. Let the program or its peer close the connection first.",
    ),
    (
        "B-0334",
        "A socket is of a family or protocol that is not carried: netlink, packet, raw, vsock, ICMP and so on. \
         unix, TCP (listening or not connected) and UDP sockets are, but not memberships of multicast groups.",
    ),
    (
        "B-0335",
        "A unix socket is connected to a process outside of the tree. For descriptors 0, 1 and 2 (and duplicates \
         of them) that is no obstacle. For any other, let the program close it, or checkpoint a larger tree that \
         holds both ends.",
    ),
    (
        "B-0336",
        "Something was on its way at this moment that can only be carried once it has arrived: a connection that \
         was not accepted yet, datagrams or events that were not read yet. Try again in a moment.",
    ),
    (
        "B-0337",
        "A descriptor is open on a terminal whose other side is outside of the tree, and which neither controls \
         the program nor is its standard input, output or error.",
    ),
    ("B-0338", "An epoll instance watches something that no process of the tree has open any more."),
    (
        "B-0339",
        "The kernel names a watched file by its inode only, and no path was found that leads to it. Paths are \
         looked for at and around the program's directories and open files.",
    ),
    ("B-0340", "A pidfd is open of a process that is outside of the tree or has been reaped."),
    (
        "B-0341",
        "The path of an open or mapped file leads to another file than the program has open, or to none, or this \
         user may not open it: mounts lie over it, it was opened in another mount namespace, or permissions have \
         changed since.",
    ),
    (
        "B-0342",
        "Something was deleted while the program has it open. A regular file then travels in the image; but this \
         one cannot be read, or it is a directory.",
    ),
    ("B-0343", "A file of /proc is open that tells of a process outside of the tree."),
    ("B-0344", "A process has a lease on a file (F_SETLEASE), which is not carried."),
    ("B-0345", "A process outside of the tree gets the signals of a descriptor (F_SETOWN)."),
    (
        "B-0346",
        "A pipe, socket or shared memory of the tree is held by a process outside of it as well. After a restore the two \
         would no longer share it. Checkpoint a tree that has all who share it.",
    ),
    ("B-0347", "A filter (BPF) is attached to a socket. A plain user cannot read it."),
    ("B-0348", "This kernel lacks what is needed to look at descriptors: kcmp, pidfd_getfd or unix_diag."),
    ("B-0349", "A descriptor could not be looked at."),
    (
        "B-0350",
        "A file's contents shall travel in the image (--portable, --with-files), and this user may not read it. A program \
         may be executed without being readable. Make the file readable, or leave the option away.",
    ),
];

/// The kernel maps nothing more into the process.
pub(crate) fn no_room(pid: Pid, why: &str) -> Refusal {
    Refusal {
        code: "B-0313",
        pid: Some(pid),
        resource: "no room in its memory".to_owned(),
        why: format!("it has to be given a few pages for a moment, and its limits do not allow that: {why}"),
        hint: format!("raise its limits: prlimit --pid {pid} --as=unlimited: --data=unlimited:"),
    }
}

/// A refusal that names a descriptor of a process (by the host's number).
pub(crate) fn descriptor(
    code: &'static str,
    pid: Pid,
    number: i32,
    what: impl std::fmt::Display,
    why: impl Into<String>,
    hint: impl Into<String>,
) -> Refusal {
    let resource = format!("descriptor {number}: {what}");
    Refusal { code, pid: Some(pid), resource, why: why.into(), hint: hint.into() }
}

/// Bytes of a path or name as people can read them.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(EXPLANATIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(EXPLANATIONS.iter().all(|(code, text)| code.starts_with("B-03") && text.ends_with('.')));
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(text(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }
}
