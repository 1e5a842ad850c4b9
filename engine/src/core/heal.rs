//! Entries that the disk lost while the node runs: fetched from other members, put back into the log.
//!
//! What an entry is, its index and its term say together, and those of all entries are in memory. So any member that has an entry of
//! the same index and term has the one that is missing, committed or not, leader or not; and a member whose log says of
//! itself that it can read an entry cannot be wrong about it, for every byte is checked.
//!
//! Entries may be in no log any more. What is missing and was applied here goes with a snapshot of this member's own, when everybody was
//! asked once. Of what was not, a leader that is asked for it sends a snapshot (`snapshots/send.rs`), which this member takes although
//! its log has the indexes: there is nothing else that it could go on with.
//!
//! A group with entries missing goes on: it knows its log as well as before. But it does not lead if another can
//! ([`logdrive_shard::Group::set_fit`]). A disk that loses again what was repaired is not repaired any more, and all groups are led
//! elsewhere if they can be.

use std::collections::BTreeMap;
use std::time::Duration;

use logdrive_shard::{Append, LogIndex, Moment, Term};
use logdrive_wal::{AppendError, Disk, EntryHeader, ReadDone, Ticket};

use super::Core;
use super::lives::life_of;
use super::record::{entry_note, note_kind};
use super::snapshots::SnapshotOrder;
use crate::api::StateMachine;
use crate::wire::{Address, Entries};

/// How long a question for entries may remain without an answer before another member is asked.
const PATIENCE: Duration = Duration::from_millis(500);
/// Groups that are asked for in one turn at most.
const ASKED_MAX: usize = 64;
/// Reads for others under way at most; further questions are dropped, and repeated by whoever asked.
const SERVED_MAX: usize = 16;
/// Payload bytes of one answer, unless a single entry is larger.
const ANSWER_BYTES_MAX: u32 = 512 << 10;
/// Tokens of reads for others begin here; those of [`super::loads`] are below.
const TOKENS: u64 = 1 << 32;

/// A group with entries missing.
#[derive(Debug)]
struct Wound {
    /// When somebody is asked next.
    ask_at: Moment,
    /// How often somebody was asked without an answer.
    asked: usize,
    /// All is put back, and durable with this ticket.
    whole_at: Option<Ticket>,
}

/// Somebody waits for entries.
#[derive(Debug)]
struct Served {
    slot: u32,
    link: usize,
    generation: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Heal {
    wounds: BTreeMap<u32, Wound>,
    served: BTreeMap<u64, Served>,
    next_token: u64,
    /// The disk loses what was repaired.
    pub(super) failing: bool,
}

impl Heal {
    pub(super) fn new() -> Heal {
        Heal { wounds: BTreeMap::new(), served: BTreeMap::new(), next_token: TOKENS, failing: false }
    }

    /// Whether a read of the log was for another member.
    pub(super) fn is_token(token: u64) -> bool {
        token >= TOKENS
    }

    pub(super) fn is_wounded(&self, slot: u32) -> bool {
        self.wounds.contains_key(&slot)
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// When somebody is to be asked for entries.
    pub(super) fn next_healing(&self) -> Moment {
        self.io.heal.wounds.values().map(|wound| wound.ask_at).min().unwrap_or(Moment::NEVER)
    }

    /// Takes what the log found damaged.
    pub(super) fn take_damage(&mut self) {
        while let Some(lost) = self.io.wal.poll_damage() {
            let (group, _) = life_of(self.io.wal.stream_id(lost.stream));
            let slot = super::find(&self.sorted, group);
            let Some(slot) = slot.filter(|&slot| self.io.lanes[slot as usize].stream == lost.stream) else {
                // Nobody reads it.
                continue;
            };
            tracing::error!(
                %group,
                first = lost.first,
                last = lost.last,
                damage = %lost.place,
                "the disk lost entries of the group; they are fetched from the other members"
            );
            self.wound(slot);
        }
        if self.io.wal.failing().is_some() && !self.io.heal.failing {
            self.on_failing_disk();
        }
    }

    fn wound(&mut self, slot: u32) {
        let ask_at = self.io.now;
        let wound = Wound { ask_at, asked: 0, whole_at: None };
        let known = self.io.heal.wounds.entry(slot).or_insert(wound);
        known.whole_at = None;
        known.ask_at = known.ask_at.min(ask_at);
        self.step(slot, |group, env| group.set_fit(env, false));
        self.end_step(slot);
        self.maybe_misplaced(slot);
    }

    /// The disk is given up: nothing is put back any more, and everything is led elsewhere if it can be.
    fn on_failing_disk(&mut self) {
        let place = self.io.wal.failing().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            core = self.core.0,
            damage = place,
            disk = self.io.wal.disk().describe(),
            directory = self.io.wal.disk().root(),
            "this disk loses what is written to it, also after it was repaired. Nothing more is repaired, and this core gives its \
             leaders away. Replace the disk: move the groups to another node, or start this one anew on a sound disk"
        );
        self.io.heal.failing = true;
        self.shed_leaders();
    }

    /// Asks for what is missing, and ends what has been put back.
    pub(super) fn heal_when_due(&mut self) {
        if self.io.heal.wounds.is_empty() {
            return;
        }
        let durable = self.io.wal.durable();
        let whole = |wound: &Wound| wound.whole_at.is_some_and(|ticket| ticket <= durable);
        let healed = self.io.heal.wounds.iter().filter(|(_, wound)| whole(wound)).map(|(slot, _)| *slot);
        for slot in healed.collect::<Vec<u32>>() {
            self.io.heal.wounds.remove(&slot);
            self.step(slot, |group, env| group.set_fit(env, true));
            self.end_step(slot);
            self.io.counters.healed += 1;
            tracing::info!(group = %self.ids[slot as usize], "all entries that the disk lost are back");
        }
        let now = self.io.now;
        let due = self.io.heal.wounds.iter().filter(|(_, wound)| wound.ask_at <= now);
        for slot in due.map(|(slot, _)| *slot).take(ASKED_MAX).collect::<Vec<u32>>() {
            self.ask_for_entries(slot);
        }
    }

    /// Asks the leader, or if it did not answer the next of the members, for the first entries that are missing.
    fn ask_for_entries(&mut self, slot: u32) {
        let failing = self.io.heal.failing;
        let (now, last_ticket) = (self.io.now, self.io.wal.last_ticket());
        let lane = &self.io.lanes[slot as usize];
        let missing = self.io.wal.damaged_ranges(lane.stream).first().copied();
        let is_brought_up = self.is_brought_up(slot);
        let Some(wound) = self.io.heal.wounds.get_mut(&slot) else { return };
        let Some((first, last)) = missing else {
            // Put back, replaced by a leader, or given up.
            (wound.whole_at, wound.ask_at) = (Some(last_ticket), Moment::NEVER);
            return;
        };
        if failing {
            wound.ask_at = Moment::NEVER;
            return;
        }
        wound.ask_at = now.after(PATIENCE);
        if is_brought_up {
            return;
        }
        let asked = wound.asked;
        wound.asked += 1;
        let leader = self.groups[slot as usize].leader();
        let links = &mut self.io.links;
        let able: Vec<usize> = (0..links.len())
            .filter(|&at| links[at].up && links[at].shared.has(slot) && links[at].has_room())
            .collect();
        let to_leader = able.iter().position(|&at| links[at].node == leader).unwrap_or(0);
        let nobody_has_it = asked >= able.len();
        if nobody_has_it && LogIndex(first) <= lane.applied {
            return self.outlive_log(slot);
        }
        if able.is_empty() {
            return;
        }
        let link = &mut links[able[(to_leader + asked) % able.len()]];
        let Some(remote) = link.remote(slot) else { return };
        let to = Address { slot: remote, history: lane.history };
        link.builder.fetch(to, LogIndex(first), LogIndex(last));
    }

    /// Another member's disk lost entries.
    pub(super) fn on_fetch(&mut self, link: usize, slot: u32, first: LogIndex, last: LogIndex) {
        if self.io.heal.served.len() >= SERVED_MAX || first.0 == 0 || last < first {
            self.io.counters.dropped += 1;
            return;
        }
        if first < self.groups[slot as usize].first_index() {
            // It is in this log no more. If this member leads, it has a snapshot for whoever asks.
            self.io.queues.snapshots.push(SnapshotOrder::Missed { slot, link });
            return;
        }
        let token = self.io.heal.next_token;
        self.io.heal.next_token += 1;
        let generation = self.io.links[link].generation;
        self.io.heal.served.insert(token, Served { slot, link, generation });
        let stream = self.io.lanes[slot as usize].stream;
        self.io.wal.read(token, stream, first.0, last.0, ANSWER_BYTES_MAX);
        self.log_news = true;
    }

    /// Entries for another member were read.
    pub(super) fn on_served(&mut self, done: ReadDone) {
        let Some(Served { slot, link, generation }) = self.io.heal.served.remove(&done.token) else { return };
        let entries = match done.result {
            Ok(entries) => entries,
            // It asks somebody else.
            Err(error) => {
                return tracing::debug!(group = %self.ids[slot as usize], %error, "cannot help with entries");
            }
        };
        let history = self.io.lanes[slot as usize].history;
        let link = &mut self.io.links[link];
        let Some(remote) = link.remote(slot).filter(|_| link.generation == generation) else { return };
        let to = Address { slot: remote, history };
        for run in entries.chunk_by(|(a, _), (b, _)| a.tag == b.tag) {
            let Some((head, _)) = run.first() else { continue };
            if !link.has_room() {
                self.io.counters.dropped += 1;
                return;
            }
            let entries = run.iter().map(|(header, payload)| (note_kind(header.note), payload.as_slice()));
            link.builder.fetched(to, LogIndex(head.index), Term(head.tag), entries);
        }
    }

    /// Entries that were asked for: those that are missing and are of the right term are put back.
    pub(super) fn on_fetched(&mut self, slot: u32, message: &Append, entries: Entries<'_>) {
        if !self.io.heal.is_wounded(slot) || self.io.heal.failing {
            return;
        }
        let (stream, group) = (self.io.lanes[slot as usize].stream, &self.groups[slot as usize]);
        let commit = group.commit();
        let mut last_ticket = None;
        for (n, (kind, payload)) in (1..).zip(entries) {
            let index = message.prev_index.plus(n);
            if group.term_at(index) != Some(message.entry_term) {
                self.io.counters.ignored += 1;
                continue;
            }
            let note = entry_note(kind, commit);
            let header = EntryHeader { index: index.0, tag: message.entry_term.0, note };
            match self.io.wal.repair(stream, header, payload) {
                Ok(ticket) => last_ticket = Some(ticket),
                Err(AppendError::NotDamaged { .. }) => {}
                // Asked for again later, except where that is in vain.
                Err(error) => {
                    tracing::warn!(group = %self.ids[slot as usize], %error, "an entry cannot be put back");
                    return;
                }
            }
        }
        if let (Some(_), Some(wound)) = (last_ticket, self.io.heal.wounds.get_mut(&slot)) {
            (wound.ask_at, wound.asked) = (self.io.now, 0);
        }
    }
}
