//! Which number the kernel gave to whom.
//!
//! In a pid namespace of its own a tree has the numbers of the image. Without one each task takes what the kernel gives, and
//! whoever hands a number of the image to the kernel asks here for the one that stands for it now.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use brant_base::{Pid, Tid};

use crate::Error;

/// Shared by all who build.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    /// By the image's number; `None`: the same.
    given: Option<Rc<RefCell<BTreeMap<i32, i32>>>>,
}

impl Numbers {
    /// Tasks have the numbers of the image.
    pub(crate) fn same() -> Numbers {
        Numbers::default()
    }

    /// Tasks have whatever numbers the kernel gives.
    pub(crate) fn given() -> Numbers {
        Numbers { given: Some(Rc::default()) }
    }

    pub(crate) fn are_given(&self) -> bool {
        self.given.is_some()
    }

    /// What a new task asks for; `None`: any.
    pub(crate) fn wanted(&self, image: i32) -> Option<i32> {
        self.given.is_none().then_some(image)
    }

    /// The task that has `image`'s part has this number.
    pub(crate) fn note(&self, image: i32, task: Tid) {
        if let Some(given) = &self.given {
            given.borrow_mut().insert(image, task.0);
        }
    }

    /// What the kernel knows a process or group by.
    pub(crate) fn of(&self, image: Pid) -> Result<Pid, Error> {
        self.find(image.0).map(Pid).ok_or_else(|| Error::Mismatch {
            pid: image,
            what: "its number",
            found: "of a task that is not in the tree".into(),
            wanted: "of one that is".into(),
        })
    }

    /// As [`Numbers::of`], for whoever may have stayed behind.
    pub(crate) fn find(&self, image: i32) -> Option<i32> {
        match &self.given {
            None => Some(image),
            Some(given) => given.borrow().get(&image).copied(),
        }
    }

    /// A path with the number of a process of the tree in it (/proc/NUMBER/...).
    pub(crate) fn path(&self, path: &[u8]) -> Vec<u8> {
        const PROC: &[u8] = b"/proc/";
        const TASK: &[u8] = b"/task/";
        let Some(rest) = path.strip_prefix(PROC).filter(|_| self.are_given()) else { return path.to_vec() };
        let (process, rest) = self.leading(rest);
        let Some(rest) = rest.strip_prefix(TASK) else { return [PROC, &process, rest].concat() };
        let (thread, rest) = self.leading(rest);
        [PROC, &process, TASK, &thread, rest].concat()
    }

    /// The first part of a path, translated where it is a number of the tree, and the rest.
    fn leading<'p>(&self, path: &'p [u8]) -> (Vec<u8>, &'p [u8]) {
        let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        match number.and_then(|number| self.find(number)) {
            Some(number) => (number.to_string().into_bytes(), rest),
            None => (name.to_vec(), rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers_are_translated() {
        let numbers = Numbers::given();
        numbers.note(100, Tid(4711));
        numbers.note(101, Tid(4712));
        assert_eq!(numbers.of(Pid(100)).unwrap(), Pid(4711));
        assert!(numbers.of(Pid(102)).is_err());
        assert_eq!(numbers.wanted(100), None);
        let path = |path: &str| String::from_utf8(numbers.path(path.as_bytes())).unwrap();
        assert_eq!(path("/proc/100/status"), "/proc/4711/status");
        assert_eq!(path("/proc/100/task/101/comm"), "/proc/4711/task/4712/comm");
        assert_eq!(path("/proc/100"), "/proc/4711");
        assert_eq!(path("/proc/1000/fd"), "/proc/1000/fd");
        assert_eq!(path("/proc/self/task/101"), "/proc/self/task/4712");
        assert_eq!(path("/proc/stat"), "/proc/stat");
        assert_eq!(path("/process/100"), "/process/100");
    }

    #[test]
    fn in_a_namespace_nothing_changes() {
        let numbers = Numbers::same();
        numbers.note(100, Tid(4711));
        assert_eq!(numbers.of(Pid(100)).unwrap(), Pid(100));
        assert_eq!(numbers.wanted(100), Some(100));
        assert_eq!(numbers.path(b"/proc/100/status"), b"/proc/100/status");
    }
}
