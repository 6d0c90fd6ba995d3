//! How the tree's tasks come to have their numbers, parents, sessions and groups. Pure: a list of steps.
//!
//! What the kernel gives us: a child is born in the session and group of the task that makes it; a task can only
//! found a session of its own number; a task may make a brother of itself (CLONE_PARENT); and an orphan is
//! adopted by its nearest living ancestor that is a child subreaper, else by init, which is the job's keeper.
//! Numbers that are missing from the tree (an outside parent, the leader of a session or group that has ended) are
//! held by placeholders.

use std::collections::{BTreeMap, BTreeSet};

use brant_base::{Pid, Refusal, Refusals};
use brant_image::model::{Checkpoint, ProcessState, TerminalId};

/// The keeper's number inside, which adopts.
pub(crate) const INIT: Pid = Pid(1);

/// One step; all numbers are the inside ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// `by` makes `pid` as its child.
    Child { by: Pid, pid: Pid, exit_signal: i32 },
    /// `by` makes `pid` as its brother.
    Brother { by: Pid, pid: Pid },
    /// Founds the session of its own number.
    FoundSession { pid: Pid },
    /// A session's leader takes its controlling terminal.
    TakeTerminal { leader: Pid, terminal: TerminalId },
    /// Joins a group of its session, or founds that of its own number.
    JoinGroup { pid: Pid, group: Pid },
    /// Adopts the orphans among its descendants, or no longer.
    Adopt { pid: Pid, on: bool },
    /// A temporary task ends and is reaped by its parent (the keeper reaps its own children).
    End { pid: Pid, reaper: Option<Pid> },
}

/// All tasks and how they come to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeShape {
    /// The number that sessions and groups get whose leader was in another pid namespace, which showed them as 0.
    pub(crate) outside: Option<Pid>,
    /// The controlling terminal of the session that the keeper leads, as the first process of a container does.
    pub(crate) keeper_terminal: Option<TerminalId>,
    /// The number of the first task, a child of the keeper. It ends when the tree stands.
    pub(crate) first: Pid,
    pub(crate) steps: Vec<Step>,
    /// Stand-ins for parents outside the tree.
    pub(crate) parents: Vec<Pid>,
    /// Stand-ins for leaders of sessions with a terminal: they must not end before it.
    pub(crate) sleepers: Vec<Pid>,
    /// Stand-ins that end when the tree stands, in this order, with their reaper unless that is the keeper.
    pub(crate) temporary: Vec<(Pid, Option<Pid>)>,
    /// Foreground groups to set: terminal, a task of its session, group.
    pub(crate) foreground: Vec<(TerminalId, Pid, Pid)>,
}

#[derive(Debug, Clone)]
struct Node {
    /// `None` where any task of the session may be it: a leader of a group that has ended.
    parent: Option<Pid>,
    /// `None` where it does not matter.
    session: Option<Pid>,
    group: Option<Pid>,
    exit_signal: i32,
    /// A session leader that must be born in this session, for its children's sake.
    born: Option<Pid>,
}

struct Made {
    parent: Pid,
    session: Pid,
}

struct Planner {
    outside: Option<Pid>,
    nodes: BTreeMap<Pid, Node>,
    /// In the order of the image: parents first.
    order: Vec<Pid>,
    made: BTreeMap<Pid, Made>,
    terminals: BTreeMap<Pid, TerminalId>,
    used: BTreeSet<i32>,
    steps: Vec<Step>,
    /// Sessions founded by placeholders, and groups.
    temporary: Vec<(Pid, Option<Pid>)>,
}

impl TreeShape {
    /// Plans the tree of `checkpoint`, or says which process cannot get its place.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<TreeShape, Refusals> {
        let mut planner = Planner::read(checkpoint)?;
        let first = planner.fresh_number();
        planner.made.insert(first, Made { parent: INIT, session: INIT });
        planner.make_all()?;
        planner.join_groups()?;
        Ok(planner.finish(checkpoint, first))
    }
}

fn refusal(pid: Pid, resource: &str, why: &str) -> Refusals {
    Refusals(vec![Refusal {
        code: "B-0410",
        pid: Some(pid),
        resource: resource.into(),
        why: why.into(),
        hint: "report the shape of the tree (ps -o pid,ppid,pgid,sid) with the image".into(),
    }])
}

impl Planner {
    /// The tree of the image as nodes: parents, sessions, groups and terminals, with those that are outside of it
    /// noted.
    fn read(checkpoint: &Checkpoint) -> Result<Planner, Refusals> {
        let mut planner = Planner {
            outside: None,
            nodes: BTreeMap::new(),
            order: Vec::new(),
            made: BTreeMap::new(),
            terminals: BTreeMap::new(),
            used: BTreeSet::from([0, 1]),
            steps: Vec::new(),
            temporary: Vec::new(),
        };
        for process in &checkpoint.processes {
            planner.used.extend([process.pid.0, process.ppid.0, process.pgid.0, process.sid.0]);
            let threads = process.body.iter().flat_map(|body| &body.threads);
            planner.used.extend(threads.map(|thread| thread.tid.0));
        }
        // Stands for sessions and groups whose leader is in another pid namespace.
        let is_led_from_outside = checkpoint.processes.iter().any(|p| p.sid.0 == 0 || p.pgid.0 == 0);
        planner.outside = is_led_from_outside.then(|| planner.fresh_number());
        let outside = planner.outside;
        let number = |pid: Pid| outside.filter(|_| pid.0 == 0).unwrap_or(pid);
        for process in &checkpoint.processes {
            if process.pid == INIT {
                return Err(refusal(process.pid, "process number 1", "the job's keeper has this number"));
            }
            let (session, group) = (number(process.sid), number(process.pgid));
            let parent = if process.ppid.0 == 0 { INIT } else { process.ppid };
            let node = Node {
                parent: Some(parent),
                session: Some(session),
                group: Some(group),
                exit_signal: process.exit_signal,
                born: None,
            };
            planner.nodes.insert(process.pid, node);
            planner.order.push(process.pid);
            if let Some(terminal) = process.terminal {
                planner.terminals.insert(session, terminal);
            }
        }
        planner.add_placeholders();
        planner.choose_births();
        Ok(planner)
    }

    fn fresh_number(&mut self) -> Pid {
        let number = (2..).find(|number| !self.used.contains(number)).expect("tasks are fewer than numbers");
        self.used.insert(number);
        Pid(number)
    }

    /// Adds the parents and leaders that stayed behind: somebody must have had their numbers.
    fn add_placeholders(&mut self) {
        let mut sessions: BTreeSet<Pid> = self.nodes.values().filter_map(|node| node.session).collect();
        let mut groups: BTreeMap<Pid, Option<Pid>> =
            self.nodes.values().filter_map(|node| Some((node.group?, node.session))).collect();
        // The keeper leads these.
        sessions.remove(&INIT);
        groups.remove(&INIT);
        let mut added = Vec::new();
        for (pid, node) in self.order.iter().map(|pid| (pid, &self.nodes[pid])) {
            let Some(parent) = node.parent.filter(|parent| *parent != INIT) else { continue };
            if self.nodes.contains_key(&parent) || added.iter().any(|(known, _)| *known == parent) {
                continue;
            }
            let session = if sessions.contains(&parent) {
                Some(parent)
            } else {
                node.session.filter(|session| session != pid).or(groups.get(&parent).copied().flatten())
            };
            let group =
                if session == Some(parent) || groups.contains_key(&parent) { Some(parent) } else { None };
            added.push((
                parent,
                Node { parent: Some(INIT), session, group, exit_signal: libc::SIGCHLD, born: None },
            ));
        }
        for session in sessions {
            if !self.nodes.contains_key(&session) && !added.iter().any(|(known, _)| *known == session) {
                let node = Node {
                    parent: Some(self.place_of_ended_leader(session)),
                    session: Some(session),
                    group: Some(session),
                    exit_signal: libc::SIGCHLD,
                    born: None,
                };
                added.push((session, node));
            }
        }
        for (group, session) in groups {
            if !self.nodes.contains_key(&group) && !added.iter().any(|(known, _)| *known == group) {
                let node = Node {
                    parent: None,
                    session,
                    group: Some(group),
                    exit_signal: libc::SIGCHLD,
                    born: None,
                };
                added.push((group, node));
            }
        }
        // Placeholders stand first: parents before their children.
        let mut order: Vec<Pid> = added.iter().map(|(pid, _)| *pid).collect();
        self.nodes.extend(added);
        order.append(&mut self.order);
        self.order = order;
    }

    /// Below whom the leader of a session that has ended must stand, so that a process outside of the session can adopt
    /// its members: the deepest process that has a member as its child and cannot have been born in the session.
    fn place_of_ended_leader(&self, session: Pid) -> Pid {
        if self.terminals.contains_key(&session) {
            return INIT;
        }
        let adopters =
            self.nodes.values().filter(|node| node.session == Some(session)).filter_map(|node| node.parent);
        let (born, placed): (Vec<Pid>, Vec<Pid>) = adopters
            .filter(|parent| self.nodes.get(parent).is_some_and(|node| node.session != Some(session)))
            .partition(|parent| self.nodes[parent].session == Some(*parent));
        if let Some(deepest) = placed.into_iter().max_by_key(|parent| self.depth(*parent)) {
            return deepest;
        }
        // Leaders of other sessions may have been born in this one, if its leader stands above them all.
        let mut above: Vec<Pid> = Vec::new();
        for leader in born {
            let ancestors = self.ancestors(leader);
            above = if above.is_empty() {
                [vec![leader], ancestors].concat()
            } else {
                above.into_iter().filter(|pid| *pid == leader || ancestors.contains(pid)).collect()
            };
        }
        above.first().copied().unwrap_or(INIT)
    }

    fn ancestors(&self, pid: Pid) -> Vec<Pid> {
        let mut all: Vec<Pid> = Vec::new();
        let mut at = pid;
        while let Some(parent) = self.nodes.get(&at).and_then(|node| node.parent) {
            if all.contains(&parent) {
                break;
            }
            all.push(parent);
            at = parent;
        }
        all
    }

    fn depth(&self, pid: Pid) -> usize {
        self.ancestors(pid).len()
    }

    /// A session leader with children in another session made them before it founded its own.
    fn choose_births(&mut self) {
        for pid in self.order.clone().into_iter().rev() {
            let (birth, parent) = (self.birth_session(pid), self.nodes[&pid].parent);
            let (Some(birth), Some(parent)) = (birth, parent) else { continue };
            // A leader below it can only have come later: it adopts.
            if self.ancestors(birth).contains(&parent) {
                continue;
            }
            if let Some(node) = self.nodes.get_mut(&parent)
                && node.session == Some(parent)
                && birth != parent
            {
                node.born.get_or_insert(birth);
            }
        }
    }

    /// The session in which a task must be born; `None` where that does not matter.
    fn birth_session(&self, pid: Pid) -> Option<Pid> {
        let node = &self.nodes[&pid];
        if node.session == Some(pid) { node.born } else { node.session }
    }

    /// Makes processes as soon as their parents and sessions allow, in rounds, until all are there or none can be
    /// made any more.
    fn make_all(&mut self) -> Result<(), Refusals> {
        loop {
            let mut progress = false;
            for pid in self.order.clone() {
                progress |= !self.made.contains_key(&pid) && self.make_plainly(pid);
            }
            progress |= self.found_sessions();
            if self.order.iter().all(|pid| self.made.contains_key(pid)) && !progress {
                return Ok(());
            }
            if !progress {
                let waiting: Vec<Pid> =
                    self.order.iter().copied().filter(|pid| !self.made.contains_key(pid)).collect();
                if !waiting.iter().any(|pid| self.make_by_adoption(*pid)) {
                    return Err(refusal(
                        waiting[0],
                        "its place in the tree",
                        "no order of forks gives it both its parent and its session",
                    ));
                }
            }
        }
    }

    /// Makes a task from its parent, or, where that is the keeper, as a brother of one of the keeper's children.
    fn make_plainly(&mut self, pid: Pid) -> bool {
        let wanted = self.birth_session(pid);
        let fits = |made: &Made| wanted.is_none_or(|session| session == made.session);
        let Node { parent, exit_signal, .. } = self.nodes[&pid];
        let (step, parent) = match parent {
            Some(INIT) => {
                let Some((by, _)) = self.made.iter().find(|(_, made)| made.parent == INIT && fits(made))
                else {
                    return false;
                };
                (Step::Brother { by: *by, pid }, INIT)
            }
            Some(parent) => {
                if !self.made.get(&parent).is_some_and(fits) {
                    return false;
                }
                (Step::Child { by: parent, pid, exit_signal }, parent)
            }
            None => {
                let Some((by, _)) = self.made.iter().find(|(_, made)| fits(made)) else { return false };
                (Step::Child { by: *by, pid, exit_signal }, *by)
            }
        };
        self.steps.push(step);
        self.record(pid, parent);
        true
    }

    fn record(&mut self, pid: Pid, parent: Pid) {
        let by = match self.steps.last() {
            Some(Step::Brother { by, .. } | Step::Child { by, .. }) => *by,
            _ => parent,
        };
        let session = self.made[&by].session;
        self.made.insert(pid, Made { parent, session });
        if self.nodes[&pid].parent.is_none() {
            self.temporary.push((pid, Some(parent)));
        }
    }

    /// Lets every leader found its session whose elder children, born in the session before, all exist.
    fn found_sessions(&mut self) -> bool {
        let ready: Vec<Pid> = self
            .order
            .iter()
            .copied()
            .filter(|pid| self.nodes[pid].session == Some(*pid))
            .filter(|pid| self.made.get(pid).is_some_and(|made| made.session != *pid))
            .filter(|leader| {
                let current = self.made[leader].session;
                self.nodes.iter().all(|(child, node)| {
                    node.parent != Some(*leader)
                        || self.made.contains_key(child)
                        || self.birth_session(*child).is_none_or(|birth| birth == *leader || birth != current)
                })
            })
            .collect();
        for leader in &ready {
            self.steps.push(Step::FoundSession { pid: *leader });
            if let Some(terminal) = self.terminals.get(leader) {
                self.steps.push(Step::TakeTerminal { leader: *leader, terminal: *terminal });
            }
            self.made.get_mut(leader).expect("made before").session = *leader;
        }
        !ready.is_empty()
    }

    /// Makes a task of another session than its parent's: a temporary task of that session makes it and ends, so
    /// that the parent adopts it.
    fn make_by_adoption(&mut self, pid: Pid) -> bool {
        let Some(wanted) = self.birth_session(pid) else { return false };
        let Node { parent: Some(parent), exit_signal, .. } = self.nodes[&pid] else { return false };
        if parent != INIT && !self.made.contains_key(&parent) {
            return false;
        }
        let member = self.made.iter().find(|(member, made)| {
            made.session == wanted && (parent == INIT || self.descends(**member, parent))
        });
        let Some((by, _)) = member else { return false };
        let by = *by;
        let helper = self.fresh_number();
        if parent != INIT {
            self.steps.push(Step::Adopt { pid: parent, on: true });
        }
        self.steps.push(Step::Child { by, pid: helper, exit_signal: libc::SIGCHLD });
        self.steps.push(Step::Child { by: helper, pid, exit_signal });
        self.steps.push(Step::End { pid: helper, reaper: Some(by) });
        if parent != INIT {
            self.steps.push(Step::Adopt { pid: parent, on: false });
        }
        self.made.insert(pid, Made { parent, session: wanted });
        true
    }

    fn descends(&self, mut pid: Pid, ancestor: Pid) -> bool {
        while let Some(made) = self.made.get(&pid) {
            if made.parent == ancestor {
                return true;
            }
            pid = made.parent;
        }
        false
    }

    /// Groups, once all processes are there: their founders first.
    fn join_groups(&mut self) -> Result<(), Refusals> {
        let (founders, members): (Vec<_>, Vec<_>) = self
            .order
            .iter()
            .filter_map(|pid| Some((*pid, self.nodes[pid].group?)))
            .partition(|(pid, group)| pid == group);
        for (pid, group) in founders {
            if self.nodes[&pid].session != Some(pid) {
                self.steps.push(Step::JoinGroup { pid, group });
            }
        }
        for (pid, group) in members {
            let session = self.made[&pid].session;
            let is_led = match group {
                INIT => session == INIT,
                _ => self.nodes[&group].group == Some(group) && self.made[&group].session == session,
            };
            if !is_led {
                let why = "the process with the group's number is not in its session";
                return Err(refusal(pid, "its process group", why));
            }
            self.steps.push(Step::JoinGroup { pid, group });
        }
        Ok(())
    }

    /// The steps, with what must be known of placeholders afterwards: which of them end at once, and which stay as
    /// parents.
    fn finish(self, checkpoint: &Checkpoint, first: Pid) -> TreeShape {
        let real: BTreeSet<Pid> = checkpoint.processes.iter().map(|process| process.pid).collect();
        let parents: Vec<Pid> = self
            .order
            .iter()
            .copied()
            .filter(|pid| !real.contains(pid))
            .filter(|pid| self.nodes.values().any(|node| node.parent == Some(*pid)))
            .collect();
        let mut shape = TreeShape {
            outside: self.outside,
            keeper_terminal: self.terminals.get(&INIT).copied(),
            first,
            steps: self.steps,
            parents,
            ..TreeShape::default()
        };
        shape.temporary = self.temporary;
        for pid in self.order.iter().filter(|pid| !real.contains(pid) && !shape.parents.contains(pid)) {
            if self.nodes[pid].parent.is_none() {
                continue;
            }
            if self.terminals.contains_key(pid) {
                shape.sleepers.push(*pid);
            } else {
                let reaper = self.nodes[pid].parent.filter(|parent| *parent != INIT);
                shape.temporary.push((*pid, reaper));
            }
        }
        shape.temporary.push((first, None));
        for (session, terminal) in &self.terminals {
            let found = checkpoint.terminals.iter().find(|entry| entry.id == *terminal);
            let Some(group) = found.map(|entry| entry.foreground).filter(|group| group.0 != 0) else {
                continue;
            };
            if self.nodes.values().any(|node| node.group == Some(group) && node.session == Some(*session)) {
                let by = if *session == INIT { first } else { *session };
                shape.foreground.push((*terminal, by, group));
            }
        }
        shape
    }
}

/// The zombies of a checkpoint and their statuses.
pub(crate) fn zombies(checkpoint: &Checkpoint) -> impl Iterator<Item = (Pid, i32)> + '_ {
    checkpoint.processes.iter().filter_map(|process| match process.state {
        ProcessState::Zombie { status } => Some((process.pid, status)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use brant_image::model::Process;

    fn process(pid: i32, ppid: i32, pgid: i32, sid: i32) -> Process {
        Process { pid: Pid(pid), ppid: Pid(ppid), pgid: Pid(pgid), sid: Pid(sid), ..Process::default() }
    }

    /// Performs the steps as the kernel would: (parent, group, session) by task.
    fn perform(shape: &TreeShape) -> BTreeMap<i32, (i32, i32, i32)> {
        let mut tasks = BTreeMap::from([(shape.first.0, (1, 1, 1))]);
        let mut subreaper = BTreeSet::new();
        for step in &shape.steps {
            match *step {
                Step::Child { by, pid, .. } => {
                    let (_, group, session) = tasks[&by.0];
                    assert!(tasks.insert(pid.0, (by.0, group, session)).is_none());
                }
                Step::Brother { by, pid } => {
                    let by = tasks[&by.0];
                    assert!(tasks.insert(pid.0, by).is_none());
                }
                Step::FoundSession { pid } => {
                    let task = tasks.get_mut(&pid.0).unwrap();
                    assert_ne!(task.1, pid.0);
                    *task = (task.0, pid.0, pid.0);
                }
                Step::JoinGroup { pid, group } => {
                    let session = tasks[&pid.0].2;
                    assert!(
                        pid == group || tasks.values().any(|task| (task.1, task.2) == (group.0, session))
                    );
                    tasks.get_mut(&pid.0).unwrap().1 = group.0;
                }
                Step::Adopt { pid, on } => {
                    if on {
                        subreaper.insert(pid.0);
                    } else {
                        subreaper.remove(&pid.0);
                    }
                }
                Step::TakeTerminal { .. } => {}
                Step::End { pid, .. } => {
                    let mut adopter = tasks.remove(&pid.0).unwrap().0;
                    while adopter != 1 && !subreaper.contains(&adopter) {
                        adopter = tasks[&adopter].0;
                    }
                    for task in tasks.values_mut().filter(|task| task.0 == pid.0) {
                        task.0 = adopter;
                    }
                }
            }
        }
        tasks
    }

    fn check(processes: &[Process]) -> TreeShape {
        let checkpoint =
            Checkpoint { root: processes[0].pid, processes: processes.to_vec(), ..Checkpoint::default() };
        let shape = TreeShape::of(&checkpoint).unwrap();
        let tasks = perform(&shape);
        for process in processes {
            let wanted = (process.ppid.0, process.pgid.0, process.sid.0);
            assert_eq!(tasks[&process.pid.0], wanted, "process {} by {:?}", process.pid, shape.steps);
        }
        shape
    }

    #[test]
    fn a_program_of_a_shell() {
        let shape = check(&[process(100, 50, 100, 50), process(101, 100, 100, 50)]);
        assert_eq!(shape.parents, [Pid(50)]);
        let shape = check(&[process(100, 60, 100, 50)]);
        assert_eq!(shape.parents, [Pid(60)]);
        check(&[process(100, 60, 70, 50), process(101, 100, 70, 50)]);
    }

    #[test]
    fn leaders_daemons_and_orphans() {
        check(&[process(100, 1, 100, 100), process(101, 100, 101, 100), process(102, 101, 100, 100)]);
        // A daemon in the session of an ended leader.
        check(&[process(100, 50, 100, 50), process(120, 1, 110, 110)]);
        // An orphan in the session of a member that is no child of the keeper.
        check(&[process(100, 50, 100, 50), process(110, 100, 110, 110), process(111, 1, 110, 110)]);
        // A child that was born before its parent's setsid.
        check(&[process(100, 50, 100, 100), process(101, 100, 50, 50)]);
        // Subreapers that adopted from sessions whose leaders have ended, one below the other.
        check(&[
            process(100, 50, 100, 100),
            process(110, 100, 105, 105),
            process(111, 110, 106, 106),
            process(112, 100, 106, 106),
            process(113, 100, 113, 113),
            process(114, 113, 106, 106),
        ]);
        // A subreaper that adopted from another session.
        check(&[process(100, 50, 100, 50), process(110, 100, 110, 110), process(111, 100, 110, 110)]);
    }

    /// A tree that came about by itself: forks, setsid, setpgid, subreapers and deaths in a random order.
    fn history(seed: u64) -> Vec<Process> {
        let mut state = seed;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        // (pid, parent, group, session, subreaper)
        let mut tasks = vec![(100, 50, 100, 50, false)];
        for pid in 101..101 + random(40) as i32 {
            let at = random(tasks.len());
            let (by, parent, group, session, _) = tasks[at];
            match random(10) {
                0..=4 => tasks.push((pid, by, group, session, false)),
                5 if parent != 50 => tasks.push((pid, parent, group, session, false)),
                6 if tasks.iter().all(|task| task.2 != by) => (tasks[at].2, tasks[at].3) = (by, by),
                7 if session != by => tasks[at].2 = by,
                8 => tasks[at].4 = true,
                _ if at > 0 => {
                    tasks.remove(at);
                    let mut adopter = parent;
                    while let Some(task) = tasks.iter().find(|task| task.0 == adopter && !task.4) {
                        adopter = task.1;
                    }
                    let adopter = if adopter == 50 { 1 } else { adopter };
                    tasks.iter_mut().filter(|task| task.1 == by).for_each(|task| task.1 = adopter);
                }
                _ => {}
            }
        }
        let mut sorted = vec![tasks.remove(0)];
        while !tasks.is_empty() {
            let known = |task: &(i32, i32, i32, i32, bool)| sorted.iter().any(|other| other.0 == task.1);
            let at = tasks.iter().position(|task| task.1 == 1 || known(task)).unwrap();
            sorted.push(tasks.remove(at));
        }
        sorted
            .into_iter()
            .map(|(pid, parent, group, session, _)| process(pid, parent, group, session))
            .collect()
    }

    #[test]
    fn random_histories_come_back_as_they_were_or_are_refused() {
        const HISTORIES: u64 = 3000;
        let mut refused = 0;
        for seed in 0..HISTORIES {
            let processes = history(seed * 7919 + 1);
            let checkpoint = Checkpoint { root: Pid(100), processes, ..Checkpoint::default() };
            match TreeShape::of(&checkpoint) {
                Ok(_) => drop(check(&checkpoint.processes)),
                Err(_) => refused += 1,
            }
        }
        assert!(refused * 20 < HISTORIES, "{refused} of {HISTORIES} were refused");
    }

    #[test]
    fn sessions_of_a_container() {
        // The first process leads the session; a shell's background job, and an orphan.
        check(&[process(100, 1, 1, 1), process(101, 100, 101, 1), process(102, 1, 101, 1)]);
        check(&[process(100, 50, 100, 1), process(101, 100, 1, 1)]);
        // The leader is in another pid namespace.
        let processes = vec![process(100, 1, 0, 0), process(101, 100, 0, 0)];
        let shape =
            TreeShape::of(&Checkpoint { root: Pid(100), processes, ..Checkpoint::default() }).unwrap();
        let outside = shape.outside.unwrap().0;
        let tasks = perform(&shape);
        assert_eq!((tasks[&100], tasks[&101]), ((1, outside, outside), (100, outside, outside)));
    }

    #[test]
    fn init_itself_is_refused() {
        let processes = vec![process(1, 0, 1, 1)];
        let checkpoint = Checkpoint { root: Pid(1), processes, ..Checkpoint::default() };
        assert_eq!(TreeShape::of(&checkpoint).unwrap_err().0[0].code, "B-0410");
    }
}
