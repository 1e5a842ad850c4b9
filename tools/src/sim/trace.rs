//! What happened: the last events of each group and of the world, and one number that differs as soon as anything does.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

use logdrive::api::Error;
use logdrive_shard::{GroupId, LogIndex, NodeId, Role, Term};

use super::clock::{MILLISECOND, Nanos};
use super::faults::FaultId;

/// Events kept of each group.
pub const RING: usize = 64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A fault begins.
    Strikes(FaultId, &'static str),
    /// It ends.
    Ends(FaultId, &'static str),
    /// Said in words.
    Note(String),
    /// A member shows another state.
    State {
        /// Role.
        role: Role,
        /// Term.
        term: Term,
        /// Whom it follows.
        leader: NodeId,
        /// Commit index.
        commit: LogIndex,
        /// Applied.
        applied: LogIndex,
        /// Last index.
        last: LogIndex,
    },
    /// A message of the group leaves for a node.
    Sends {
        /// To.
        to: NodeId,
        /// Kind.
        message: Message,
        /// Its term.
        term: Term,
        /// Its index, of an append: before its entries.
        index: LogIndex,
        /// Entries, or a round.
        count: u64,
    },
    /// A client asks.
    Asks {
        /// Number of the attempt.
        attempt: u64,
        /// Kind of the operation.
        kind: &'static str,
    },
    /// A request came over the mesh to the core that has the group.
    Crosses {
        /// Number of the attempt.
        attempt: u64,
        /// From this core.
        from: u16,
    },
    /// A client is told.
    Told {
        /// Number of the attempt.
        attempt: u64,
        /// The index at which it went well, or why not.
        result: Result<LogIndex, Error>,
    },
}

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Message {
    Append,
    Matched,
    Rejected,
    Heartbeat,
    HeartbeatReply,
    PreVoteRequest,
    VoteRequest,
    PreVoteGranted,
    VoteGranted,
    VoteRefused,
    TimeoutNow,
    SnapshotOffer,
    SnapshotPart,
    SnapshotAnswer,
}

/// An event with its time and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub at: Nanos,
    /// In the order of all events.
    pub number: u64,
    /// Where; `NONE`: nowhere in particular.
    pub node: NodeId,
    /// The group; `None` for what concerns all.
    pub group: Option<GroupId>,
    /// What.
    pub what: What,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12.3} ms  ", self.at as f64 / MILLISECOND as f64)?;
        match self.node.is_some() {
            true => write!(f, "node {}  ", self.node)?,
            false => f.write_str("        ")?,
        }
        if let Some(group) = self.group {
            write!(f, "group {group}  ")?;
        }
        self.what.fmt(f)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Strikes(FaultId(id), name) => write!(f, "fault #{id}: {name}"),
            What::Ends(FaultId(id), name) => write!(f, "fault #{id} ends: {name}"),
            What::Note(text) => f.write_str(text),
            What::State { role, term, leader, commit, applied, last } => write!(
                f,
                "{role:?} in term {term}, follows {leader}, commit {commit}, applied {applied}, last {last}"
            ),
            What::Sends { to, message, term, index, count } => {
                write!(f, "-> node {to}: {message:?} term {term} index {index} ({count})")
            }
            What::Asks { attempt, kind } => write!(f, "attempt {attempt}: {kind}"),
            What::Crosses { attempt, from } => write!(f, "attempt {attempt} comes from core {from}"),
            What::Told { attempt, result: Ok(index) } => write!(f, "attempt {attempt} answered at {index}"),
            What::Told { attempt, result: Err(error) } => write!(f, "attempt {attempt}: {error}"),
        }
    }
}

/// The trace of a run.
pub struct Trace {
    hash: u64,
    number: u64,
    groups: Vec<VecDeque<Line>>,
    world: VecDeque<Line>,
    file: Option<Box<dyn Write>>,
}

impl Trace {
    /// Of a world with so many groups; every line goes to `file` as well.
    pub fn new(groups: usize, file: Option<Box<dyn Write>>) -> Trace {
        Trace { hash: 0, number: 0, groups: vec![VecDeque::new(); groups], world: VecDeque::new(), file }
    }

    /// Takes a number into the hash.
    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things have happened: a place in the order of all.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Something happened.
    pub fn tell(&mut self, at: Nanos, node: NodeId, group: Option<GroupId>, what: What) {
        self.number += 1;
        self.mix(at ^ u64::from(node.0) << 56 ^ group.map_or(0, |group| group.0 << 40));
        self.mix_what(&what);
        let line = Line { at, number: self.number, node, group, what };
        if let Some(file) = &mut self.file {
            // What cannot be written is not worth a run; whoever asked for the file sees that it is short.
            let _ = writeln!(file, "{line}");
        }
        let ring = match group {
            Some(group) => self.groups.get_mut(group.0 as usize - 1).unwrap_or(&mut self.world),
            None => &mut self.world,
        };
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(line);
    }

    fn mix_what(&mut self, what: &What) {
        match what {
            What::Strikes(id, _) => self.mix(1 << 60 | u64::from(id.0)),
            What::Ends(id, _) => self.mix(2 << 60 | u64::from(id.0)),
            What::Note(text) => self.mix(3 << 60 | u64::from(crc32c::crc32c(text.as_bytes()))),
            What::State { role, term, leader, commit, applied, last } => {
                self.mix(4 << 60 | (*role as u64) << 50 | u64::from(leader.0) << 40 | term.0);
                self.mix(commit.0 ^ applied.0.rotate_left(20) ^ last.0.rotate_left(40));
            }
            What::Sends { to, message, term, index, count } => {
                self.mix(5 << 60 | (*message as u64) << 50 | u64::from(to.0) << 40 | term.0);
                self.mix(index.0 ^ count.rotate_left(32));
            }
            What::Asks { attempt, .. } => self.mix(6 << 60 | attempt),
            What::Crosses { attempt, from } => self.mix(8 << 60 | u64::from(*from) << 50 | attempt),
            What::Told { attempt, result } => {
                self.mix(7 << 60 | attempt);
                self.mix(result.map_or(0, |index| index.0));
            }
        }
    }

    /// The last events of a group and of what concerns all, merged; at most `count`.
    pub fn last(&self, group: Option<GroupId>, count: usize) -> Vec<Line> {
        let ring = group.and_then(|group| self.groups.get(group.0 as usize - 1));
        let mut lines: Vec<Line> = self.world.iter().chain(ring.into_iter().flatten()).cloned().collect();
        lines.sort_by_key(|line| line.number);
        lines.split_off(lines.len().saturating_sub(count))
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("hash", &self.hash)
            .field("events", &self.number)
            .finish_non_exhaustive()
    }
}
