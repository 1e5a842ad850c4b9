//! Snapshots on their way between nodes: what is common to both ends.
//!
//! The leader of a group brings up a member that needs what the leader's log no longer has. It **offers** a file, header first; the answer
//! tells the first byte that is missing; **parts** of chunks follow, so many that are not known to have arrived and no more. An
//! offer is also what is said after a reconnect, and when nothing moves: its answer is where the sender goes on, so whatever was lost,
//! doubled or overtaken on the way is made up for. The receiver needs no clock for that, and a broken connection costs what was on the way.
//!
//! **Never in the way.** Parts are put together only after everything else of a turn, at most `transfer_bytes_per_turn` of them, and they
//! leave in a frame of their own behind the other one. While that waits for its socket, no more are made. What can be in front of a
//! heartbeat is therefore what one window holds, `transfer_window_bytes`, for each of `transfers_max`: with the defaults 4 MiB, which a
//! link of 10 Gbit/s carries in 4 ms. On slower ones `transfer_bytes_per_s` is what an operator lowers. A connection of its own would not
//! change the order in which one wire carries bytes; it would save the wait in the socket, and cost a handshake, a place in the
//! rules of who may connect, and an order between two connections that break one by one.
//!
//! **No mixture.** Each part names its snapshot and the term of the leader that sends it. A receiver takes parts of one snapshot per group,
//! of the latest term that offered one, and none of a term that is over; the store checks each chunk against its snapshot, number and
//! place, and the whole before it gets its name.

use std::collections::BTreeMap;

use logdrive_shard::{GroupId, LogIndex, Moment, NodeId, Route, SnapshotWanted, Term};
use logdrive_wal::Disk;

use super::hold::Hold;
use super::receive::{Receiving, Stray};
use super::relay::{Relay, Word};
use super::send::Outgoing;
use crate::api::StateMachine;
use crate::core::links::Link;
use crate::core::{Core, Slot};
use crate::snapshot::pace::Pace;
use crate::snapshot::{SnapshotHeader, StoreEvent};

/// Parts are paced as if all had this length.
const BURST_BYTES: u32 = crate::wire::PART_BYTES_MAX;

/// What a group asked for in a step.
#[derive(Clone, Copy, Debug)]
pub(in crate::core) enum SnapshotOrder {
    /// A peer needs a snapshot.
    Wanted { slot: u32, to: NodeId, route: Route, wanted: SnapshotWanted },
    /// It does not any more.
    Unneeded { slot: u32, to: NodeId },
    /// A member at the other end of this link cannot read entries that the log here has not any more either.
    Missed { slot: u32, link: usize },
}

/// A place in a file: bytes before it are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) chunk: u64,
    pub(super) offset: u32,
}

impl Place {
    /// Bytes of the file in front of it, the header not counted.
    pub(super) fn bytes(self, header: &SnapshotHeader) -> u64 {
        self.chunk * u64::from(header.chunk_bytes) + u64::from(self.offset)
    }
}

/// Counters of a core's transfers since it opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TransferCounters {
    /// Begun to send, resumed ones not counted.
    pub begun: u64,
    /// Ended because the receiver has what it needs.
    pub ended: u64,
    /// Broken off.
    pub failed: u64,
    /// Given to a follower to send.
    pub relayed: u64,
    /// Failed ones, because the receiver did not take it.
    pub refused: u64,
    /// Given up for a newer snapshot.
    pub superseded: u64,
    /// Gone on with behind the first byte, after a reconnect or a silence.
    pub resumed: u64,
    /// Offers sent.
    pub offers_sent: u64,
    /// Parts sent.
    pub parts_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Times that a transfer waited because `transfers_max` are under way.
    pub waited: u64,
    /// Parts taken.
    pub parts_taken: u64,
    /// Bytes of them.
    pub bytes_taken: u64,
    /// Parts refused: of another snapshot, of a term that is over, of nothing that is being received, or not as they should be.
    pub parts_refused: u64,
    /// Parts dropped for want of room, or because one before them was lost. They come again.
    pub parts_dropped: u64,
}

/// Where a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferStep {
    /// Waits for a file, or for its turn.
    Waiting,
    /// Offered, or silent: the receiver is asked where it is.
    Asking,
    /// Goes on.
    Moving,
    /// All of it is with the receiver, which checks and installs it.
    Installing,
    /// No way to the receiver at present, or no leadership.
    Broken,
    /// A follower sends it in the place of this node, which leads: its status says how far it is.
    Relayed,
    /// The receiver does not take it at present: its disk is full, or it could make nothing of what it got. Its own status and log
    /// say more. It is offered again from time to time.
    Refused,
}

/// A receiver that did not take what it was offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) index: LogIndex,
    pub(super) bytes: u64,
    pub(super) term: Term,
    pub(super) at: Moment,
}

/// A snapshot on its way to or from another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferStatus {
    /// The other node.
    pub peer: NodeId,
    /// Sent by this node; otherwise received.
    pub outgoing: bool,
    /// Where it is.
    pub step: TransferStep,
    /// What the snapshot stands for; 0 if none is chosen yet.
    pub index: LogIndex,
    /// Bytes that are known to be with the receiver.
    pub bytes: u64,
    /// Bytes of all chunks.
    pub bytes_total: u64,
}

/// All transfers of a core.
pub(super) struct Transfers {
    /// With a file each, `transfers_max` at most.
    pub(super) outgoing: Vec<Outgoing>,
    /// Members that wait for a file or for their turn, by slot.
    pub(super) line: BTreeMap<(u32, NodeId), Outgoing>,
    /// When to look at the line again, whatever happens; and that something has happened before.
    pub(super) next_look: Moment,
    pub(super) is_stirred: bool,
    /// Snapshots that this core had written when the line was looked at.
    pub(super) written: u64,
    /// Whose part comes next.
    pub(super) turn: usize,
    /// By slot and receiver, until the next attempt comes further.
    pub(super) refused: BTreeMap<(u32, NodeId), Refused>,
    /// Of those that wait in line, which a follower sends, and what is to be said of them.
    pub(super) relays: BTreeMap<(u32, NodeId), Relay>,
    pub(super) words: Vec<Word>,
    pub(super) pace: Pace,
    /// Log that stays for those who have just been brought up.
    pub(super) holds: Vec<Hold>,
    pub(super) receiving: Vec<Receiving>,
    /// Answers to what belongs to nothing.
    pub(super) strays: Vec<Stray>,
    pub(super) counters: TransferCounters,
}

impl TransferStep {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            TransferStep::Waiting => "waiting",
            TransferStep::Asking => "asking",
            TransferStep::Moving => "moving",
            TransferStep::Installing => "installing",
            TransferStep::Broken => "broken",
            TransferStep::Relayed => "relayed",
            TransferStep::Refused => "refused",
        }
    }
}

impl Transfers {
    pub(super) fn new(bytes_per_s: u64) -> Transfers {
        Transfers {
            outgoing: Vec::new(),
            line: BTreeMap::new(),
            next_look: Moment(0),
            is_stirred: false,
            written: 0,
            turn: 0,
            refused: BTreeMap::new(),
            relays: BTreeMap::new(),
            words: Vec::new(),
            pace: Pace::new(bytes_per_s, BURST_BYTES),
            holds: Vec::new(),
            receiving: Vec::new(),
            strays: Vec::new(),
            counters: TransferCounters::default(),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.outgoing.is_empty()
            && self.line.is_empty()
            && self.receiving.is_empty()
            && self.strays.is_empty()
            && self.words.is_empty()
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// What transfers do in a turn, behind everything else.
    pub(super) fn tend_transfers(&mut self) {
        for order in std::mem::take(&mut self.io.queues.snapshots) {
            match order {
                SnapshotOrder::Wanted { slot, to, route, wanted } => {
                    self.want_transfer(slot, to, route, wanted)
                }
                SnapshotOrder::Unneeded { slot, to } => self.end_unneeded(slot, to),
                SnapshotOrder::Missed { slot, link } => self.want_for_missed(slot, link),
            }
        }
        for event in std::mem::take(&mut self.snapshots.foreign) {
            match event {
                StoreEvent::Chunk { read, number, bytes } => self.on_chunk_read(read, number, bytes),
                StoreEvent::ReadFailed { read, ref failure, .. } => self.on_send_failed(read, failure),
                StoreEvent::Writable { write } => self.on_reception_writable(write),
                StoreEvent::Durable { write, .. } => self.on_reception_durable(write),
                StoreEvent::WriteFailed { write, ref failure } => self.on_reception_failed(write, failure),
                StoreEvent::Readable { .. } => {}
            }
        }
        self.tend_outgoing();
        self.tend_receiving();
        self.say_words();
    }

    /// When the next turn must be for the sake of transfers.
    pub(super) fn next_transfer_work(&self) -> Moment {
        let transfers = &self.snapshots.transfers;
        if !self.snapshots.foreign.is_empty() || !transfers.strays.is_empty() || !transfers.words.is_empty() {
            return self.io.now;
        }
        let next = transfers.receiving.iter().map(|receiving| self.next_of_reception(receiving)).min();
        self.next_of_outgoing().min(next.unwrap_or(Moment::NEVER))
    }

    /// So many heartbeat intervals.
    pub(super) fn beats(&self, count: u32) -> std::time::Duration {
        self.config.heartbeat_interval * count
    }

    /// Snapshots of a group on their way.
    pub fn transfer_status(&self, slot: Slot) -> Vec<TransferStatus> {
        let transfers = &self.snapshots.transfers;
        let sent = transfers.outgoing.iter().filter(|outgoing| outgoing.slot == slot.0);
        let line = transfers.line.range((slot.0, NodeId(0))..=(slot.0, NodeId(u32::MAX)));
        let sent = sent.map(Outgoing::status);
        let outgoing = sent.chain(line.map(|(_, waiting)| self.status_in_line(waiting)));
        let receiving = transfers.receiving.iter().filter(|receiving| receiving.slot == slot.0);
        let received = receiving.map(|receiving| self.reception_status(receiving));
        let all = outgoing.chain(received);
        all.chain(self.refused_transfers(slot.0)).collect()
    }

    /// Counters since the core opened.
    pub fn transfer_counters(&self) -> TransferCounters {
        self.snapshots.transfers.counters
    }

    /// The way to the other end of a transfer, if it is the one that it used so far.
    pub(super) fn link_of_transfer(&mut self, at: usize, generation: u32) -> Option<&mut Link> {
        self.io.links.get_mut(at).filter(|link| link.up && link.generation == generation)
    }

    pub(super) fn group_name(&self, slot: u32) -> GroupId {
        self.ids[slot as usize]
    }
}
