//! A small world: its members, what may happen in it, and how often.

use std::time::Duration;

use logdrive_shard::{Config, MembershipChange};

use super::pulses;

/// What may still happen. Each use takes one away; what is zero does not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Deadlines that pass: campaigns, and repetitions of a leader.
    pub deadlines: u8,
    pub proposals: u8,
    pub reads: u8,
    /// Crashes, each followed by a restart, with each possible part of the journal on disk.
    pub crashes: u8,
    /// Messages lost.
    pub losses: u8,
    /// Messages delivered twice.
    pub duplicates: u8,
    /// Messages delivered before older ones of the same link.
    pub reorders: u8,
    /// Changes of contact, as one side judges it.
    pub contacts: u8,
    pub transfers: u8,
    /// Changes of the configuration, out of those that the model names.
    pub changes: u8,
    /// Snapshots taken, each with the log cut behind it. Who needs one is sent it.
    pub snapshots: u8,
    /// Disks that lose what they had made durable: some of the log's end, the newest hard state, or both.
    pub damages: u8,
    /// Ticks of the clock, in models that have one.
    pub ticks: u8,
    /// Pulses that are sent, and heard at once; their answers arrive when they like.
    pub pulses: u8,
}

/// A small world and what may happen in it.
#[derive(Clone)]
pub struct Model {
    pub name: &'static str,
    pub members: usize,
    /// The first so many found the group; the others know nothing of it.
    pub founders: usize,
    /// What a leader may be asked to change.
    pub changes: Vec<MembershipChange>,
    /// Members that may campaign, by position: all by default. For models that would be too large otherwise.
    pub campaigners: Vec<usize>,
    /// Members that may be read from.
    pub readers: Vec<usize>,
    /// Members whose disks may be damaged.
    pub damaged: Vec<usize>,
    /// What has happened when the exploration begins, once there is a leader. The messages of a change are lost.
    pub prefix: Vec<Action>,
    /// Terms of the entries in each member's log.
    pub logs: Vec<Vec<u64>>,
    pub commit: u64,
    /// Begins with member 0 leading and everybody knowing it, and nothing under way.
    pub led: bool,
    /// Nobody campaigns beyond this term.
    pub term_max: u64,
    pub pre_vote: bool,
    pub check_quorum: bool,
    /// There is a clock, and member 0 holds a lease when the exploration begins.
    pub leased: bool,
    /// What a member sent before a crash may arrive after it.
    pub late: bool,
    /// Entries of one append, at most.
    pub append_entries_max: u32,
    pub budget: Budget,
    /// By default only the first so many states are visited: there are too many.
    pub first_states: Option<u64>,
}

impl Model {
    /// Three members with empty logs, in the plainest settings.
    pub fn new(name: &'static str, budget: Budget) -> Model {
        Model {
            name,
            members: 3,
            founders: 3,
            changes: Vec::new(),
            campaigners: vec![0, 1, 2, 3, 4],
            readers: vec![0, 1, 2, 3, 4],
            damaged: vec![0, 1, 2, 3, 4],
            prefix: Vec::new(),
            logs: vec![Vec::new(); 3],
            commit: 0,
            led: false,
            term_max: 2,
            pre_vote: false,
            check_quorum: false,
            leased: false,
            late: false,
            append_entries_max: 8,
            budget,
            first_states: None,
        }
    }

    pub fn config(&self) -> Config {
        Config {
            election_base: if self.leased { pulses::BASE } else { Duration::ZERO },
            clock_drift_permille: 0,
            election_spread: Duration::ZERO,
            heartbeat_interval: Duration::ZERO,
            pre_vote: self.pre_vote,
            check_quorum: self.check_quorum,
            append_bytes_max: self.append_entries_max,
            inflight_messages_max: 4,
            ..Config::default()
        }
    }
}

/// A step. Members are named by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The message at a position of the link; 0 is the oldest.
    Deliver {
        from: usize,
        to: usize,
        at: usize,
        keep: bool,
    },
    Lose {
        from: usize,
        to: usize,
    },
    /// The oldest write of a member is durable.
    Write(usize),
    Deadline(usize),
    Propose(usize),
    Read(usize),
    Transfer {
        from: usize,
        to: usize,
    },
    /// One of the model's changes.
    Change {
        member: usize,
        which: usize,
    },
    /// A snapshot is taken, and the log begins behind it.
    Snapshot(usize),
    /// Memory is lost, and all writes under way but the first so many. What was sent to the member is lost, and so is what it
    /// sent, unless that arrives `late`, on a connection that outlives the sender.
    Crash {
        member: usize,
        writes: usize,
        late: bool,
    },
    Contact {
        member: usize,
        peer: usize,
        alive: bool,
    },
    /// A member that may have been running crashes, and its disk has lost the log behind so many entries, perhaps the newest hard state.
    Damage {
        member: usize,
        keep: usize,
        state: bool,
    },
    Tick,
    /// A pulse is sent and heard.
    Pulse {
        from: usize,
        to: usize,
    },
    /// The answer of `from` arrives.
    Answer {
        from: usize,
        to: usize,
    },
}
