//! From one configuration to the next: what a requested change makes of the present one (dissertation, 4.1 and 4.3).

use crate::membership::{MEMBERS_MAX, Members, VOTERS_MAX};
use crate::{InvalidMembership, LogIndex, MemberKind, Membership, NodeId};

/// One wish of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberStep {
    /// A new member that gets the log and decides nothing.
    AddLearner(NodeId),
    /// A new member that decides, or a learner that does from now on.
    AddVoter(NodeId),
    /// A learner that decides from now on.
    Promote(NodeId),
    /// A voter that is a learner from now on.
    Demote(NodeId),
    /// A member that is none from now on.
    Remove(NodeId),
}

/// How to get from one configuration to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transition {
    /// In one step if at most one voter comes or goes, else through a joint configuration that the leader leaves by itself.
    #[default]
    Auto,
    /// Through a joint configuration that the leader leaves by itself.
    Joint,
    /// Into a joint configuration that is left on request ([`MembershipChange::leave`]).
    JointUntilLeft,
}

/// A change of the configuration that somebody asks for.
///
/// All wishes are granted together, or none. Removing a dead voter and adding its replacement in one change never has a
/// moment with a voter less: that is how a node is replaced. The replacement should be a learner first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipChange {
    /// The index of the configuration that the change is meant for (0: the founding one); `None`: whatever it is.
    pub expected: Option<LogIndex>,
    /// What to change. None: leave the joint configuration.
    pub steps: Vec<MemberStep>,
    /// How.
    pub transition: Transition,
    /// Voters may be added whose logs are behind, or unknown: the group can lose its ability to commit until they have caught
    /// up. For repairs.
    pub even_if_behind: bool,
}

impl MembershipChange {
    /// These wishes, whatever the present configuration is.
    pub fn of(steps: &[MemberStep]) -> MembershipChange {
        MembershipChange { steps: steps.to_vec(), ..MembershipChange::default() }
    }

    /// The end of a joint configuration.
    pub fn leave() -> MembershipChange {
        MembershipChange::default()
    }

    /// A voter that is gone for good goes, another node decides in its place.
    pub fn replace(gone: NodeId, by: NodeId) -> MembershipChange {
        MembershipChange::of(&[MemberStep::Remove(gone), MemberStep::AddVoter(by)])
    }
}

/// Why a change cannot be made of a configuration, whatever the state of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadChange {
    /// A step concerns a node that is no member, or not of the kind that the step is for.
    #[error("node {node} is {}: this step is not for it", kind_name(*kind))]
    WrongKind {
        /// The node.
        node: NodeId,
        /// What it is.
        kind: MemberKind,
    },
    /// Two steps concern one node, or a step concerns nobody.
    #[error("node {node} is named twice, or is nobody")]
    NamedTwice {
        /// The node.
        node: NodeId,
    },
    /// Nobody could decide anything afterwards.
    #[error("no voter would be left")]
    NoVoters,
    /// Over [`VOTERS_MAX`] or [`MEMBERS_MAX`], the outgoing voters of the way there counted.
    #[error("{voters} voters and {members} members would be more than {VOTERS_MAX} and {MEMBERS_MAX}")]
    TooMany {
        /// Voters, or outgoing voters if they are more.
        voters: usize,
        /// Members.
        members: usize,
    },
    /// The configuration is joint: it has to be left first.
    #[error("the configuration is joint: it has to be left first")]
    Joint,
    /// Asked to leave a configuration that is not joint.
    #[error("the configuration is not joint: there is nothing to leave")]
    NotJoint,
}

fn kind_name(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Voter => "a voter",
        MemberKind::Outgoing => "a voter on its way out",
        MemberKind::Learner => "a learner",
        MemberKind::Stranger => "no member",
    }
}

impl Membership {
    /// The configuration to append for `change`.
    ///
    /// # Errors
    /// [`BadChange`].
    pub fn changed(&self, change: &MembershipChange) -> Result<Membership, BadChange> {
        match (self.is_joint(), change.steps.is_empty()) {
            (true, true) => return Ok(self.left()),
            (true, false) => return Err(BadChange::Joint),
            (false, true) => return Err(BadChange::NotJoint),
            (false, false) => {}
        }
        let mut next = self.to_members();
        for (at, &step) in change.steps.iter().enumerate() {
            let node = step.node();
            if !node.is_some() || change.steps[..at].iter().any(|earlier| earlier.node() == node) {
                return Err(BadChange::NamedTwice { node });
            }
            step.apply(&mut next, self.kind(node))?;
        }
        let comes = next.voters.iter().filter(|node| !self.voters().contains(node)).count();
        let goes = self.voters().iter().filter(|node| !next.voters.contains(node)).count();
        if change.transition == Transition::Auto && comes + goes <= 1 {
            return Membership::new(next).map_err(BadChange::from);
        }
        // A voter that becomes a learner is a voter until the joint configuration is left.
        next.outgoing = self.voters().to_vec();
        (next.learners_next, next.learners) =
            next.learners.iter().partition(|node| next.outgoing.contains(node));
        next.auto_leave = change.transition != Transition::JointUntilLeft;
        Membership::new(next).map_err(BadChange::from)
    }

    /// The configuration after a joint one.
    pub fn left(&self) -> Membership {
        let mut next = self.to_members();
        next.outgoing.clear();
        next.learners.append(&mut next.learners_next);
        next.auto_leave = false;
        Membership::new(next).expect("the lists of a valid joint configuration, without the outgoing voters")
    }
}

impl MemberStep {
    /// The node it is about.
    pub fn node(self) -> NodeId {
        match self {
            MemberStep::AddLearner(node)
            | MemberStep::AddVoter(node)
            | MemberStep::Promote(node)
            | MemberStep::Demote(node)
            | MemberStep::Remove(node) => node,
        }
    }

    fn apply(self, next: &mut Members, kind: MemberKind) -> Result<(), BadChange> {
        use MemberKind::{Learner, Stranger, Voter};
        let node = self.node();
        next.voters.retain(|&voter| voter != node);
        next.learners.retain(|&learner| learner != node);
        match (self, kind) {
            (MemberStep::AddLearner(_), Stranger) | (MemberStep::Demote(_), Voter) => {
                next.learners.push(node)
            }
            (MemberStep::AddVoter(_), Stranger | Learner) | (MemberStep::Promote(_), Learner) => {
                next.voters.push(node);
            }
            (MemberStep::Remove(_), Voter | Learner) => {}
            _ => return Err(BadChange::WrongKind { node, kind }),
        }
        Ok(())
    }
}

impl From<InvalidMembership> for BadChange {
    fn from(invalid: InvalidMembership) -> BadChange {
        match invalid {
            InvalidMembership::NoVoters => BadChange::NoVoters,
            InvalidMembership::TooMany { voters, members } => BadChange::TooMany { voters, members },
            InvalidMembership::Contradiction { node } => BadChange::NamedTwice { node },
            InvalidMembership::NotJoint
            | InvalidMembership::Version { .. }
            | InvalidMembership::Garbage { .. } => BadChange::NotJoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Membership {
        let nodes = |ids: &[u32]| ids.iter().copied().map(NodeId).collect();
        Membership::new(Members { voters: nodes(&[1, 2, 3]), learners: nodes(&[4]), ..Members::default() })
            .unwrap()
    }

    fn changed(steps: &[MemberStep]) -> Result<String, BadChange> {
        start().changed(&MembershipChange::of(steps)).map(|next| next.to_string())
    }

    #[test]
    fn one_voter_comes_or_goes_in_one_step() {
        use MemberStep::{AddLearner, AddVoter, Demote, Promote, Remove};
        let ok = |step, text: &str| assert_eq!(changed(&[step]), Ok(text.to_owned()));
        ok(AddLearner(NodeId(5)), "voters 1 2 3, learners 4 5");
        ok(AddVoter(NodeId(5)), "voters 1 2 3 5, learners 4");
        ok(AddVoter(NodeId(4)), "voters 1 2 3 4");
        ok(Promote(NodeId(4)), "voters 1 2 3 4");
        ok(Demote(NodeId(2)), "voters 1 3, learners 2 4");
        ok(Remove(NodeId(1)), "voters 2 3, learners 4");
        ok(Remove(NodeId(4)), "voters 1 2 3");
    }

    #[test]
    fn more_than_one_goes_through_a_joint_configuration() {
        let replace = MembershipChange::replace(NodeId(3), NodeId(4));
        let joint = start().changed(&replace).unwrap();
        assert_eq!(joint.to_string(), "voters 1 2 4, outgoing 1 2 3, leaves by itself");
        assert_eq!(joint.left().to_string(), "voters 1 2 4");
        assert_eq!(joint.changed(&replace), Err(BadChange::Joint));
        assert_eq!(joint.changed(&MembershipChange::leave()).unwrap(), joint.left());
        assert_eq!(start().changed(&MembershipChange::leave()), Err(BadChange::NotJoint));
    }

    #[test]
    fn who_is_demoted_in_a_joint_change_decides_until_it_is_left() {
        let mut change =
            MembershipChange::of(&[MemberStep::Demote(NodeId(1)), MemberStep::AddVoter(NodeId(5))]);
        change.transition = Transition::JointUntilLeft;
        let joint = start().changed(&change).unwrap();
        assert_eq!(joint.to_string(), "voters 2 3 5, outgoing 1 2 3, learners 4, learners to be 1");
        assert_eq!(joint.left().to_string(), "voters 2 3 5, learners 1 4");
    }

    #[test]
    fn steps_that_cannot_be_taken_say_why() {
        use MemberStep::{AddLearner, AddVoter, Demote, Promote, Remove};
        let wrong = |step: MemberStep, kind| {
            assert_eq!(changed(&[step]), Err(BadChange::WrongKind { node: step.node(), kind }));
        };
        wrong(AddLearner(NodeId(1)), MemberKind::Voter);
        wrong(AddVoter(NodeId(1)), MemberKind::Voter);
        wrong(Promote(NodeId(1)), MemberKind::Voter);
        wrong(Promote(NodeId(9)), MemberKind::Stranger);
        wrong(Demote(NodeId(4)), MemberKind::Learner);
        wrong(Remove(NodeId(9)), MemberKind::Stranger);
        let twice = [Remove(NodeId(1)), AddVoter(NodeId(1))];
        assert_eq!(changed(&twice), Err(BadChange::NamedTwice { node: NodeId(1) }));
        assert_eq!(changed(&[AddVoter(NodeId(0))]), Err(BadChange::NamedTwice { node: NodeId(0) }));
        assert_eq!(changed(&[1, 2, 3].map(|id| Remove(NodeId(id)))), Err(BadChange::NoVoters));
        let many: Vec<_> = (11..18).map(|id| AddVoter(NodeId(id))).collect();
        assert_eq!(changed(&many), Err(BadChange::TooMany { voters: 10, members: 11 }));
    }
}
