//! Changes of who belongs to a group: each step is decided on the configuration that was read, and names it.

use serde::{Deserialize, Serialize};

use super::show::{Configuration, Shown, at_leader};
use super::{Cluster, Deadline, Failed, words};

/// What is to be true in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The node is a member.
    Learner(u32),
    /// The node is a voter.
    Voter(u32),
    /// The node, a member already, is a voter.
    Promoted(u32),
    /// The node is no member.
    Gone(u32),
    /// The first is no member, the second is a voter.
    Replaced(u32, u32),
}

/// How to get there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Only from the configuration of this index.
    pub(super) expected: Option<u64>,
    /// New voters may lack much of the log.
    pub(super) force: bool,
    /// Until the configuration is settled and new members have caught up.
    pub(super) waits: bool,
    pub(super) deadline: Deadline,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reached {
    pub(super) leader: u32,
    pub(super) configuration: Configuration,
}

#[derive(Deserialize)]
struct Changed {
    index: u64,
}

/// One request to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Ask(&'static str, Vec<u64>),
    /// Nothing yet: another change is under way.
    Wait,
    Done,
}

impl Goal {
    /// What to do next about a settled configuration.
    fn step(self, now: &Configuration) -> Step {
        let (voter, learner) = (|node| now.voters.contains(&node), |node| now.learners.contains(&node));
        let one = |word, node: u32| Step::Ask(word, vec![node.into()]);
        match self {
            Goal::Learner(node) if voter(node) || learner(node) => Step::Done,
            Goal::Learner(node) => one("ADD-LEARNER", node),
            Goal::Voter(node) | Goal::Promoted(node) if voter(node) => Step::Done,
            Goal::Voter(node) if !learner(node) => one("ADD-LEARNER", node),
            // The leader says that a stranger cannot be promoted.
            Goal::Voter(node) | Goal::Promoted(node) => one("PROMOTE", node),
            Goal::Gone(node) if !voter(node) && !learner(node) => Step::Done,
            Goal::Gone(node) => one("REMOVE", node),
            Goal::Replaced(old, new) => match (voter(old) || learner(old), voter(new), learner(new)) {
                (false, true, _) => Step::Done,
                (true, true, _) => one("REMOVE", old),
                (_, false, false) => one("ADD-LEARNER", new),
                (true, false, true) => Step::Ask("REPLACE", vec![old.into(), new.into()]),
                (false, false, true) => one("PROMOTE", new),
            },
        }
    }

    /// A new member that a patient operator waits for.
    fn newcomer(self) -> Option<u32> {
        match self {
            Goal::Learner(node) | Goal::Voter(node) | Goal::Promoted(node) | Goal::Replaced(_, node) => {
                Some(node)
            }
            Goal::Gone(_) => None,
        }
    }
}

/// Takes one step after the other until the goal is reached.
pub(super) fn reach(cluster: &mut Cluster, group: u64, goal: Goal, way: Way) -> Result<Reached, Failed> {
    let mut expected = way.expected;
    loop {
        let shown = at_leader(cluster, group, way.deadline)?;
        let step = match shown.configuration.settled && shown.leader == shown.node {
            true => goal.step(&shown.configuration),
            // A change is under way: most likely an earlier step of this one.
            false => Step::Wait,
        };
        let failed = match step {
            Step::Done if !way.waits || is_caught_up(&shown, goal) => {
                return Ok(Reached { leader: shown.leader, configuration: shown.configuration });
            }
            Step::Done => timed_out(&shown, "its new member has not caught up"),
            Step::Wait => timed_out(&shown, "its configuration is being changed, or it has no leader"),
            Step::Ask(word, nodes) => {
                let index = expected.unwrap_or(shown.configuration.index);
                match ask(cluster, group, (word, &nodes), index, way) {
                    Ok(changed) => {
                        // What is expected from here on is what this step has made.
                        expected = expected.map(|_| changed.index);
                        continue;
                    }
                    Err(failed) => failed,
                }
            }
        };
        let code = failed.refusal().code;
        let is_passing = match code.as_str() {
            "BEHIND" | "BUSY" | "NOTLEADER" | "INDETERMINATE" | "TIMEOUT" | "UNREACHABLE" => true,
            // Somebody else changed it meanwhile: look again, unless that is what the operator wants to know.
            "MISMATCH" => way.expected.is_none(),
            _ => false,
        };
        if !is_passing || !way.deadline.pause() {
            return Err(failed);
        }
    }
}

fn ask(
    cluster: &mut Cluster,
    group: u64,
    (word, nodes): (&str, &[u64]),
    expected: u64,
    way: Way,
) -> Result<Changed, Failed> {
    let mut request = words(&["GROUP", word], &[&[group], nodes].concat());
    request.extend(words(&["EXPECT"], &[expected]));
    request.extend(way.force.then(|| "FORCE".to_owned()));
    cluster.ask_leader(&request, way.deadline)
}

fn timed_out(shown: &Shown, why: &str) -> Failed {
    let message = format!("group {}: {why}", shown.group);
    let refusal = crate::client::Refusal { code: "TIMEOUT".to_owned(), message, ..Default::default() };
    Failed::Refused(Box::new(refusal))
}

/// Whether the new member, if there is one, has what was committed when the leader was asked.
fn is_caught_up(shown: &Shown, goal: Goal) -> bool {
    goal.newcomer().is_none_or(|node| {
        let peer = shown.peers.iter().find(|peer| peer.node == node);
        shown.node == node || peer.is_some_and(|peer| peer.matched >= shown.commit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(voters: &[u32], learners: &[u32]) -> Configuration {
        Configuration {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            settled: true,
            ..Default::default()
        }
    }

    #[test]
    fn each_goal_is_reached_by_steps_and_reached_again_by_none() {
        let ask = |word, nodes: &[u64]| Step::Ask(word, nodes.to_vec());
        let founding = configuration(&[1, 2, 3], &[]);
        let learning = configuration(&[1, 2, 3], &[4]);
        let four = configuration(&[1, 2, 3, 4], &[]);
        let replaced = configuration(&[1, 2, 4], &[]);
        assert_eq!(Goal::Learner(4).step(&founding), ask("ADD-LEARNER", &[4]));
        assert_eq!(Goal::Learner(4).step(&learning), Step::Done);
        assert_eq!(Goal::Voter(4).step(&founding), ask("ADD-LEARNER", &[4]));
        assert_eq!(Goal::Voter(4).step(&learning), ask("PROMOTE", &[4]));
        assert_eq!(Goal::Voter(4).step(&four), Step::Done);
        assert_eq!(Goal::Promoted(4).step(&founding), ask("PROMOTE", &[4]));
        assert_eq!(Goal::Gone(3).step(&four), ask("REMOVE", &[3]));
        assert_eq!(Goal::Gone(3).step(&replaced), Step::Done);
        assert_eq!(Goal::Replaced(3, 4).step(&founding), ask("ADD-LEARNER", &[4]));
        assert_eq!(Goal::Replaced(3, 4).step(&learning), ask("REPLACE", &[3, 4]));
        assert_eq!(Goal::Replaced(3, 4).step(&four), ask("REMOVE", &[3]));
        assert_eq!(Goal::Replaced(3, 4).step(&replaced), Step::Done);
    }
}
