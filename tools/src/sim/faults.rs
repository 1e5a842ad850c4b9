//! Faults are values: the whole list of a run follows from its plan before anything runs ([`crate::sim::mix`]), each with a number
//! that stays the same when others are left out. It can be printed, replayed, and cut.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::clock::{MILLISECOND, Nanos};
use super::disk_faults::{self, Rot};
use super::listing::DiskFaultText;
use super::traps::Trap;

/// A fault's number in its run's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FaultId(pub u32);

/// Something that happens at a time, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Its number.
    pub id: FaultId,
    /// When.
    pub at: Nanos,
    /// For how long. What is over at once (a reset) has 0.
    pub span: Nanos,
    /// What.
    pub what: FaultKind,
}

/// Whom a fault hits. Numbers are taken modulo what there is, so that a list means something in a smaller world as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// This node, counted from 0.
    Node(u32),
    /// Whoever leads this group (counted from 0) when the fault strikes; nobody if nobody does.
    LeaderOf(u32),
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// In order.
    Clean,
    /// Killed: what it wrote stays in the device's cache, what is under way may still land.
    Kill,
    /// The machine loses power: what was not durable is kept, lost or torn.
    PowerLoss,
}

/// A place between two steps of a core's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TurnPoint {
    /// Inputs were taken, the turn did not begin.
    BeforeTurn,
    /// The turn ended, nothing left.
    AfterTurn,
    /// The frames to so many peers left.
    AfterFrames(u8),
    /// All frames left, no answer did.
    BeforeAnswers,
    /// The disk performs so many more operations, then the process is dead and does not know it yet.
    InDisk(u16),
    /// The same of the disk of its snapshots.
    InSnapshotDisk(u16),
}

/// Directions of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ways {
    /// Nothing passes.
    Both,
    /// Nothing passes to those inside.
    Inward,
    /// Nothing passes from those inside.
    Outward,
}

/// What a bad link does to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTrouble {
    /// Frames lost, in a thousand.
    pub lost_permille: u16,
    /// Frames that arrive twice, in a thousand.
    pub twice_permille: u16,
    /// Frames that overtake others, in a thousand.
    pub overtakes_permille: u16,
    /// Frames with a bit that flipped, in a thousand.
    pub damaged_permille: u16,
    /// Frames take at most so much longer.
    pub delay: Nanos,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// A process ends, and is started again after the span.
    Crash {
        /// Which.
        whom: Whom,
        /// How.
        how: Stop,
    },
    /// A process ends the next time that one of its cores comes to this point, and is started again after the span.
    CrashInTurn {
        /// Which.
        whom: Whom,
        /// Where.
        point: TurnPoint,
        /// How.
        how: Stop,
    },
    /// A process ends, and while it starts again it ends again and again, after so many operations of a disk.
    CrashInStart {
        /// Which.
        whom: Whom,
        /// How.
        how: Stop,
        /// Operations of the disk of a log; a few more every time.
        operations: u16,
        /// So often.
        times: u8,
    },
    /// Several things that come together hardly ever, one after the other.
    Trap {
        /// Group, from 0: its leader is caught.
        group: u32,
        /// Which things.
        what: Trap,
        /// What is left open.
        choice: u32,
    },
    /// A leader's disks are slower than those of its followers; then it is lost, and with it one of them if `companion` says so.
    CrashSlowLeader {
        /// Of which group, from 0.
        group: u32,
        /// Its disk operations take up to so long.
        slow: Nanos,
        /// How it ends.
        how: Stop,
        /// Another node that ends with it.
        companion: Option<u32>,
    },
    /// All nodes lose power. They come back one after the other, the last one after the span.
    Blackout,
    /// A process gets no CPU.
    Pause {
        /// Which.
        whom: Whom,
    },
    /// Each turn of a core takes so long.
    SlowCore {
        /// Node, from 0.
        node: u32,
        /// Core of the node, from 0.
        core: u32,
        /// How long.
        turn: Nanos,
    },
    /// A copy of the node's directories is taken; after the span the node is killed and started on the copy. Its peers must refuse it
    /// for ever.
    Restore {
        /// Which, from 0.
        node: u32,
    },
    /// The node is killed and started on an empty directory, with a new incarnation. Its peers must refuse it for ever.
    Wipe {
        /// Which, from 0.
        node: u32,
    },
    /// Nothing passes between the nodes inside (a bit each) and the others.
    Partition {
        /// Which.
        inside: u16,
        /// Which way.
        ways: Ways,
        /// Connections over the cut break. Otherwise they hang.
        breaks: bool,
    },
    /// Two halves that do not hear each other, and one node that hears both.
    Bridge {
        /// The node.
        node: u32,
        /// The half (a bit each); the others are the other half.
        inside: u16,
    },
    /// Nothing passes from one node to another.
    Cut {
        /// From, from 0.
        from: u32,
        /// To.
        to: u32,
    },
    /// A bad link from one node to another.
    Link {
        /// From, from 0.
        from: u32,
        /// To.
        to: u32,
        /// How bad.
        trouble: LinkTrouble,
    },
    /// Frames from one node to another are held and come all at once after the span.
    Clog {
        /// From, from 0.
        from: u32,
        /// To.
        to: u32,
    },
    /// A connection breaks and is made again.
    Reset {
        /// Which, by number.
        connection: u32,
    },
    /// The clock of a node jumps ahead.
    ClockStep {
        /// Node, from 0.
        node: u32,
        /// By so much.
        ahead: Nanos,
    },
    /// The clock of a node goes too fast or too slow.
    ClockDrift {
        /// Node, from 0.
        node: u32,
        /// Parts per million.
        ppm: i32,
    },
    /// A leader is asked to hand over.
    Transfer {
        /// Group, from 0.
        group: u32,
        /// To this node, from 0.
        to: u32,
    },
    /// The members of a group are changed.
    Change {
        /// Group, from 0.
        group: u32,
        /// Which of the changes that are possible then.
        choice: u32,
    },
    /// The disks of a node take up to so long for each operation.
    DiskSlow {
        /// Node, from 0.
        node: u32,
        /// How long.
        up_to: Nanos,
    },
    /// The disks of a node have so much room left.
    DiskFull {
        /// Node, from 0.
        node: u32,
        /// Bytes.
        left: u32,
    },
    /// Nothing of a node's disks works, until its process was refused by them.
    DiskGone {
        /// Node, from 0.
        node: u32,
    },
    /// A block of a disk is damaged at rest, if enough copies stay whole.
    Rot {
        /// Node, from 0.
        node: u32,
        /// Core of the node, from 0.
        core: u32,
        /// Which of the blocks that come into question.
        place: u32,
        /// What happens to it.
        what: Rot,
    },
    /// An operator orders snapshots of some groups of a node.
    Snapshots {
        /// Node, from 0.
        node: u32,
        /// The first group, from 0.
        group: u32,
        /// So many groups from there on.
        count: u32,
    },
    /// A block of a file of snapshots is damaged at rest, if enough copies stay whole.
    SnapshotRot {
        /// Node, from 0.
        node: u32,
        /// Core of the node, from 0.
        core: u32,
        /// Which block.
        place: u32,
        /// What happens to it.
        what: Rot,
    },
    /// An operation of a disk of snapshots goes wrong.
    SnapshotDisk {
        /// Node, from 0.
        node: u32,
        /// Core of the node, from 0.
        core: u32,
        /// What happens to which operation.
        #[serde(with = "DiskFaultText")]
        fault: logdrive_wal::Fault,
    },
    /// An operation of a disk goes wrong.
    Disk {
        /// Node, from 0.
        node: u32,
        /// Core of the node, from 0.
        core: u32,
        /// What happens to which operation.
        #[serde(with = "DiskFaultText")]
        fault: logdrive_wal::Fault,
    },
}

impl FaultKind {
    /// Its name in reports and in counts.
    pub fn name(&self) -> &'static str {
        match self {
            FaultKind::Crash { how: Stop::Clean, .. } => "clean stop",
            FaultKind::Crash { how: Stop::Kill, .. } => "kill",
            FaultKind::Crash { how: Stop::PowerLoss, .. } => "power loss",
            FaultKind::CrashInTurn { .. } => "crash in a turn",
            FaultKind::CrashInStart { .. } => "crash while starting",
            FaultKind::Trap { what, .. } => what.name(),
            FaultKind::CrashSlowLeader { .. } => "slow leader lost",
            FaultKind::Blackout => "blackout",
            FaultKind::Pause { .. } => "pause",
            FaultKind::SlowCore { .. } => "slow core",
            FaultKind::Restore { .. } => "backup restored",
            FaultKind::Wipe { .. } => "disk wiped",
            FaultKind::Partition { ways: Ways::Both, .. } => "partition",
            FaultKind::Partition { .. } => "one-way partition",
            FaultKind::Bridge { .. } => "bridge partition",
            FaultKind::Cut { .. } => "one-way cut",
            FaultKind::Link { .. } => "bad link",
            FaultKind::Clog { .. } => "clog",
            FaultKind::Reset { .. } => "connection reset",
            FaultKind::ClockStep { .. } => "clock jump",
            FaultKind::ClockDrift { .. } => "clock drift",
            FaultKind::Transfer { .. } => "leader transfer",
            FaultKind::Change { .. } => "membership change",
            FaultKind::DiskSlow { .. } => "slow disk",
            FaultKind::DiskFull { .. } => "full disk",
            FaultKind::DiskGone { .. } => "disk gone",
            FaultKind::Rot { what, .. } => what.name(),
            FaultKind::Disk { fault, .. } => disk_faults::name(fault),
            FaultKind::Snapshots { .. } => "snapshots ordered",
            FaultKind::SnapshotRot { .. } => "snapshot damaged",
            FaultKind::SnapshotDisk { .. } => "snapshot disk fault",
        }
    }

    /// Whether it counts when an operation or a block is really hit, and not when it strikes.
    pub(super) fn counts_when_it_is_met(&self) -> bool {
        matches!(
            self,
            FaultKind::Disk { .. }
                | FaultKind::Rot { .. }
                | FaultKind::SnapshotDisk { .. }
                | FaultKind::SnapshotRot { .. }
        )
    }

    /// All names.
    pub const NAMES: [&str; 57] = [
        "clean stop",
        "kill",
        "power loss",
        "crash in a turn",
        "crash while starting",
        "trap: writes of the leader of before",
        "trap: supporter restarts",
        "trap: supporter hears nothing",
        "trap: leader stalls",
        "trap: reads of a sleeper",
        "trap: crashes on a full disk",
        "trap: transfer broken",
        "trap: entries only the leader had",
        "trap: vote in doubt",
        "trap: writes of a process that is gone",
        "trap: entries that cannot be read",
        "trap: leader not heard in one group",
        "trap: repairs held back",
        "slow leader lost",
        "blackout",
        "pause",
        "slow core",
        "backup restored",
        "disk wiped",
        "partition",
        "one-way partition",
        "bridge partition",
        "one-way cut",
        "bad link",
        "clog",
        "connection reset",
        "clock jump",
        "clock drift",
        "leader transfer",
        "membership change",
        "slow disk",
        "full disk",
        "snapshots ordered",
        "snapshot damaged",
        "snapshot disk fault",
        "block: bits flipped",
        "block: garbage",
        "block: stale",
        "block: unreadable",
        "block: write lost",
        "block: write misdirected",
        "block: write torn",
        "disk gone",
        "disk stall",
        "read fails",
        "read lies",
        "read short",
        "sync fails",
        "sync fails, then lies",
        "write fails",
        "write finds no room",
        "write short or torn",
    ];

    /// Whether a node may rightly end because of it: a log that is poisoned, a disk that lost something.
    pub fn may_end_a_node(&self) -> bool {
        matches!(
            self,
            FaultKind::Disk { .. }
                | FaultKind::DiskFull { .. }
                | FaultKind::DiskGone { .. }
                | FaultKind::Rot { .. }
                | FaultKind::SnapshotDisk { .. }
                | FaultKind::SnapshotRot { .. }
                | FaultKind::Trap { what: Trap::FullDisk | Trap::OnlyCopy | Trap::Doubt, .. }
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { id, at, span, what } = self;
        let (at, span) = (*at as f64 / MILLISECOND as f64, *span as f64 / MILLISECOND as f64);
        write!(f, "#{} at {at:.3} ms", id.0)?;
        if span > 0.0 {
            write!(f, " for {span:.3} ms")?;
        }
        write!(f, ": {what:?}")
    }
}

/// Numbers of faults, written as `3,17-20`; `none` is the empty set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(pub BTreeSet<FaultId>);

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for FaultId(id) in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *id => *last = *id,
                _ => runs.push((*id, *id)),
            }
        }
        let text: Vec<String> = runs
            .into_iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        f.write_str(&text.join(","))
    }
}

/// Not a set of fault numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected numbers of faults like 3,17-20, or none, found `{text}`")]
pub struct BadFaultSet {
    text: String,
}

impl FromStr for FaultSet {
    type Err = BadFaultSet;

    fn from_str(text: &str) -> Result<FaultSet, BadFaultSet> {
        let bad = || BadFaultSet { text: text.to_owned() };
        let mut set = BTreeSet::new();
        if text == "none" {
            return Ok(FaultSet(set));
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) =
                (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
            if first > last || last - first > 1_000_000 {
                return Err(bad());
            }
            set.extend((first..=last).map(FaultId));
        }
        Ok(FaultSet(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_faults_is_read_as_it_was_written() {
        for text in ["none", "0", "3,17-20", "1-2,4,9-12"] {
            let set: FaultSet = text.parse().unwrap();
            assert_eq!(set.to_string(), text);
        }
        for text in ["", "a", "4-2", "1,,2", "1-"] {
            assert!(text.parse::<FaultSet>().is_err(), "{text}");
        }
    }
}
