//! Who belongs to a group: the content of a configuration entry (dissertation, chapter 4), and its bytes.
//!
//! A configuration is **joint** while it has outgoing voters: then every decision takes a majority of the voters *and* a
//! majority of the outgoing voters (dissertation, 4.3). Learners get the log and decide nothing.

use crate::NodeId;

/// Voters of a configuration, at most; the outgoing voters of a joint one are as many at most.
pub const VOTERS_MAX: usize = 9;

/// Members of a configuration, at most: voters, outgoing voters and learners together.
pub const MEMBERS_MAX: usize = 14;

/// Bytes of an encoded configuration, at most.
pub const MEMBERSHIP_BYTES_MAX: usize = HEAD_BYTES + 4 * (2 * VOTERS_MAX + 2 * MEMBERS_MAX);

/// The version of the bytes, then flags, then how many of each kind.
const HEAD_BYTES: usize = 6;
const VERSION: u8 = 1;
const AUTO_LEAVE: u8 = 1;

/// A configuration. Every value of this type is valid, or empty (`Membership::default()`): the configuration of a node that
/// was told to host a group and has not heard of it yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Membership {
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
    learners_next: Vec<NodeId>,
    auto_leave: bool,
}

/// The lists of a [`Membership`] that is to be, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who decides.
    pub voters: Vec<NodeId>,
    /// Who decides as well, until the joint configuration is left. Empty if it is not joint.
    pub outgoing: Vec<NodeId>,
    /// Who gets the log and decides nothing.
    pub learners: Vec<NodeId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// The leader leaves the joint configuration by itself, as soon as it is committed.
    pub auto_leave: bool,
}

/// Why some lists, or some bytes, are no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMembership {
    /// Nobody could ever decide anything again.
    #[error("a configuration without voters")]
    NoVoters,
    /// Over [`VOTERS_MAX`] or [`MEMBERS_MAX`].
    #[error("{voters} voters and {members} members, at most {VOTERS_MAX} and {MEMBERS_MAX} are possible")]
    TooMany {
        /// Voters, or outgoing voters if they are more.
        voters: usize,
        /// Members.
        members: usize,
    },
    /// A node is named twice in one list, in two lists that exclude each other, or is nobody.
    #[error("node {node} is named twice, or is nobody")]
    Contradiction {
        /// The node.
        node: NodeId,
    },
    /// Learners to be that are no outgoing voters, or an automatic end of what is not joint.
    #[error("learners to be, or leaving by itself, in a configuration that is not joint for them")]
    NotJoint,
    /// Bytes of a version that this program does not know.
    #[error("a configuration of version {version}, this program knows {VERSION}: a newer program wrote it")]
    Version {
        /// The version found.
        version: u8,
    },
    /// Bytes that no program wrote.
    #[error("{len} bytes are no configuration")]
    Garbage {
        /// How many bytes.
        len: usize,
    },
}

/// What a node is in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// Decides.
    Voter,
    /// Decides until the joint configuration is left; then it is a learner, or no member.
    Outgoing,
    /// Gets the log.
    Learner,
    /// No member.
    Stranger,
}

impl Membership {
    /// The configuration that a group is founded with: these voters.
    ///
    /// # Errors
    /// [`InvalidMembership`].
    pub fn founding(voters: &[NodeId]) -> Result<Membership, InvalidMembership> {
        Membership::new(Members { voters: voters.to_vec(), ..Members::default() })
    }

    /// A configuration of these lists.
    ///
    /// # Errors
    /// [`InvalidMembership`] if they contradict each other.
    pub fn new(members: Members) -> Result<Membership, InvalidMembership> {
        let Members { mut voters, mut outgoing, mut learners, mut learners_next, auto_leave } = members;
        for list in [&mut voters, &mut outgoing, &mut learners, &mut learners_next] {
            list.sort_unstable();
        }
        let membership = Membership { voters, outgoing, learners, learners_next, auto_leave };
        membership.check()?;
        Ok(membership)
    }

    fn check(&self) -> Result<(), InvalidMembership> {
        if self.voters.is_empty() {
            return Err(InvalidMembership::NoVoters);
        }
        let voters = self.voters.len().max(self.outgoing.len());
        let members = self.members().count();
        if voters > VOTERS_MAX || members > MEMBERS_MAX || self.learners_next.len() > VOTERS_MAX {
            return Err(InvalidMembership::TooMany { voters, members });
        }
        for list in [&self.voters, &self.outgoing, &self.learners, &self.learners_next] {
            let twice = list.windows(2).find(|pair| pair[0] >= pair[1]).map(|pair| pair[0]);
            if let Some(node) = twice.or(list.first().copied().filter(|node| !node.is_some())) {
                return Err(InvalidMembership::Contradiction { node });
            }
        }
        let decides = |node: &&NodeId| self.voters.contains(node) || self.outgoing.contains(node);
        let both = self.learners.iter().find(decides);
        if let Some(&node) = both.or(self.learners_next.iter().find(|node| self.voters.contains(node))) {
            return Err(InvalidMembership::Contradiction { node });
        }
        let joint_for_them = self.learners_next.iter().all(|node| self.outgoing.contains(node));
        if !joint_for_them || (self.auto_leave && !self.is_joint()) {
            return Err(InvalidMembership::NotJoint);
        }
        Ok(())
    }

    /// The lists, to make another configuration of.
    pub fn to_members(&self) -> Members {
        let Membership { voters, outgoing, learners, learners_next, auto_leave } = self.clone();
        Members { voters, outgoing, learners, learners_next, auto_leave }
    }

    /// Who decides; ascending.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Who decides as well while the configuration is joint; ascending.
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// Who gets the log and decides nothing; ascending.
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Outgoing voters that will be learners; ascending.
    pub fn learners_next(&self) -> &[NodeId] {
        &self.learners_next
    }

    /// Whether the leader leaves the joint configuration by itself.
    pub fn auto_leave(&self) -> bool {
        self.auto_leave
    }

    /// Whether decisions take two majorities.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether no configuration is known yet.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// What `node` is.
    pub fn kind(&self, node: NodeId) -> MemberKind {
        if self.voters.contains(&node) {
            MemberKind::Voter
        } else if self.outgoing.contains(&node) {
            MemberKind::Outgoing
        } else if self.learners.contains(&node) {
            MemberKind::Learner
        } else {
            MemberKind::Stranger
        }
    }

    /// Whether `node` takes part in decisions.
    pub fn is_voter(&self, node: NodeId) -> bool {
        matches!(self.kind(node), MemberKind::Voter | MemberKind::Outgoing)
    }

    /// Whether `node` gets the log.
    pub fn contains(&self, node: NodeId) -> bool {
        self.kind(node) != MemberKind::Stranger
    }

    /// Every member once: voters, then who is only outgoing, then learners.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let only_outgoing = self.outgoing.iter().filter(|node| !self.voters.contains(node));
        self.voters.iter().chain(only_outgoing).chain(&self.learners).copied()
    }

    /// The bytes: version, flags, the number of voters, outgoing voters, learners and learners to be (a byte each), then
    /// their ids in this order (32 bits each, little-endian). At most [`MEMBERSHIP_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let lists = [&self.voters, &self.outgoing, &self.learners, &self.learners_next];
        let mut bytes = vec![VERSION, if self.auto_leave { AUTO_LEAVE } else { 0 }];
        bytes.extend(lists.map(|list| list.len() as u8));
        bytes.extend(lists.into_iter().flatten().flat_map(|node| node.0.to_le_bytes()));
        bytes
    }

    /// The configuration of some bytes: all of them, exactly as [`Membership::encode`] writes them.
    ///
    /// # Errors
    /// [`InvalidMembership`], whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Membership, InvalidMembership> {
        let garbage = InvalidMembership::Garbage { len: bytes.len() };
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) if version > VERSION => return Err(InvalidMembership::Version { version }),
            _ => return Err(garbage),
        }
        let (head, mut ids) = bytes.split_at_checked(HEAD_BYTES).ok_or(garbage)?;
        let counts = [head[2], head[3], head[4], head[5]].map(usize::from);
        if head[1] & !AUTO_LEAVE != 0 || ids.len() != 4 * counts.iter().sum::<usize>() {
            return Err(garbage);
        }
        let mut take = |count: usize| {
            let (list, rest) = ids.split_at(4 * count);
            ids = rest;
            list.chunks_exact(4).map(|id| NodeId(u32::from_le_bytes([id[0], id[1], id[2], id[3]]))).collect()
        };
        let [voters, outgoing, learners, learners_next] = counts.map(&mut take);
        let membership =
            Membership { voters, outgoing, learners, learners_next, auto_leave: head[1] == AUTO_LEAVE };
        membership.check()?;
        Ok(membership)
    }
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |list: &[NodeId]| list.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ");
        if self.is_empty() {
            return write!(f, "none known");
        }
        write!(f, "voters {}", list(&self.voters))?;
        for (name, nodes) in [
            ("outgoing", &self.outgoing),
            ("learners", &self.learners),
            ("learners to be", &self.learners_next),
        ] {
            if !nodes.is_empty() {
                write!(f, ", {name} {}", list(nodes))?;
            }
        }
        if self.auto_leave { write!(f, ", leaves by itself") } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
