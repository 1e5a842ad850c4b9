//! Opening a core: loading snapshots, reading its log back on top of them, making the groups.

use std::collections::VecDeque;

use logdrive_shard::{Group, GroupId, HardState, LogIndex, Moment, NodeId, Random, Setup, Start, StartError};
use logdrive_wal::{Disk, StreamId, StreamSlot, Wal};

use super::applier::Applier;
use super::balance::Balance;
use super::cache::Cache;
use super::heal::Heal;
use super::lane::{Flags, Lane};
use super::lives::stream_of;
use super::loads::Loads;
use super::parked::Waiting;
use super::record::{encode_state, first_history};
use super::recovery::{Replay, Replayed};
use super::requests::{Ports, Proposals, Reads};
use super::room::Room;
use super::sessions::Sessions;
use super::snapshots::{self, Snapshots};
use super::status::Counters;
use super::step::{Effects, Io, Queues};
use super::timers::TimerWheel;
use super::waits::{LeaseReads, LocalReads};
use super::{Core, CoreOptions, GroupSetup, Scratch};
use crate::api::{CoreSettings, StateMachine};
use crate::wire::FRAME_BYTES_MAX;

/// The directories of a core.
#[derive(Debug)]
pub struct Disks<D> {
    /// Of its log.
    pub log: D,
    /// Of the snapshots of its groups.
    pub snapshots: D,
}

/// Why a core did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its log.
    #[error(transparent)]
    Log(#[from] logdrive_wal::OpenError),
    /// Its snapshots.
    #[error(transparent)]
    Snapshots(#[from] crate::snapshot::SnapshotOpenError),
    /// The process ended while a snapshot from another node took the place of a group's log, and the log has no room now to write that
    /// down.
    #[error(
        "the log has no room to begin group {group} anew behind its snapshot: {error}. Make room, then start again"
    )]
    NoRoom {
        /// Which group.
        group: u64,
        /// What the log said.
        error: logdrive_wal::AppendError,
    },
}

/// Settings that fit each other whatever was asked for.
fn clamp(mut settings: CoreSettings) -> CoreSettings {
    settings.payload_bytes_max = settings.payload_bytes_max.min(settings.wal.payload_bytes_max);
    // A frame never outgrows its limit: the outbox, one append on top of it, and messages without payload.
    let largest = u64::from(settings.payload_bytes_max.max(settings.shard.append_bytes_max));
    let room = (FRAME_BYTES_MAX as u64 - (2 << 20)).saturating_sub(largest);
    settings.outbox_bytes_max = settings.outbox_bytes_max.clamp(1, room.max(1));
    settings
}

impl<D: Disk> Io<D> {
    fn new(
        now: Moment,
        me: NodeId,
        settings: CoreSettings,
        wal: Wal<D>,
        lanes: Vec<Lane>,
        preferred: Vec<NodeId>,
        applied: u64,
    ) -> Io<D> {
        Io {
            me,
            now,
            others_at: now,
            wal,
            streams: lanes.iter().map(|lane| lane.stream).collect(),
            preferred,
            cache: Cache::new(settings.cache_bytes_max),
            loads: Loads::default(),
            links: Vec::new(),
            waiting: Waiting::default(),
            proposals: Proposals::default(),
            reads: Reads::new(lanes.len()),
            lease_reads: LeaseReads::default(),
            local_reads: LocalReads::default(),
            watched: VecDeque::new(),
            ports: Ports::default(),
            requests: 0,
            request_bytes: 0,
            queues: Queues::default(),
            unwritten: Vec::new(),
            changes: Vec::new(),
            transfers: Vec::new(),
            handing_over: false,
            draining: false,
            heal: Heal::new(),
            effects: Effects::default(),
            counters: Counters { applied, ..Counters::default() },
            lanes,
            settings,
        }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Loads the snapshots, opens the log, replays what is known committed into `machine` on top of them, and creates the groups. Blocks
    /// on the disks: start-up. `progress` is told of bytes done and of all, of the snapshots first and of the log then.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        now: Moment,
        options: CoreOptions,
        disks: Disks<D>,
        mut machine: M,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let settings = clamp(options.settings);
        let ids: Vec<GroupId> = options.groups.iter().map(|group| group.id).collect();
        let mut sorted: Vec<(GroupId, u32)> =
            ids.iter().enumerate().map(|(slot, &id)| (id, slot as u32)).collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0].0 != pair[1].0), "a group is named twice");
        machine.open(&ids);
        let mut sessions = Sessions::new(ids.len());
        let mut store = snapshots::open_store(disks.snapshots, &settings, options.seed)?;
        let mut groups: Vec<Replayed> = options
            .groups
            .iter()
            .map(|group| Replayed::new(first_history(options.cluster, group.id), &group.founders))
            .collect();
        let mut loaded =
            snapshots::load(&mut store, &mut machine, &mut sessions, (&sorted, &settings), progress);
        for (group, loaded) in groups.iter_mut().zip(&mut loaded) {
            if let Some((life, snapshot)) = loaded.take() {
                group.on_snapshot(life, snapshot);
            }
        }
        let mut replay = Replay {
            ids: &ids,
            sorted: &sorted,
            groups,
            applier: Applier::new(machine, sessions, now),
            strangers: 0,
            unknown: None,
            progress,
        };
        let wal = Wal::open(disks.log, settings.wal.clone(), now.0, &mut replay);
        let mut wal = wal?;
        if let Some(unknown) = replay.unknown {
            return Err(unknown.into());
        }
        replay.finish();
        replay.applier.flush(&ids);
        if replay.strangers > 0 {
            tracing::warn!(records = replay.strangers, "the log has records of groups that do not live here");
        }
        let Replay { groups: replayed, applier, .. } = replay;

        let lanes = ids
            .iter()
            .zip(&replayed)
            .map(|(id, group)| (wal.stream(stream_of(*id, group.life)), group))
            .map(|(stream, group)| Lane::new(stream, group.history, LogIndex(group.applied)));
        let lanes: Vec<Lane> = lanes.collect();
        let prefers = |group: &GroupSetup| group.preferred_leader.is_some() || group.founders.is_empty();
        let prefers = options.groups.iter().map(prefers).collect();
        let preferred = options.groups.iter().map(|group| group.preferred_leader).collect();
        let config = settings.shard.clone();
        let room = Room::new(&settings, wal.space().budget_bytes);
        let snapshots = Snapshots::new(store, replayed.len(), options.seed, &settings);
        let mut core = Core {
            core: options.core,
            boot: options.boot,
            prefers,
            lives: replayed.iter().map(|group| group.life).collect(),
            retiring: VecDeque::new(),
            groups: Vec::with_capacity(ids.len()),
            random: Random::new(options.seed),
            timers: TimerWheel::new(now, ids.len() as u32),
            io: Io::new(now, options.node, settings, wal, lanes, preferred, applier.applied),
            ids,
            sorted,
            config,
            machine: applier.machine,
            sessions: applier.sessions,
            balance: Balance::new(),
            room,
            snapshots,
            next_pulse: Moment::NEVER,
            next_log_retry: Moment::NEVER,
            log_news: false,
            scratch: Scratch::default(),
        };
        for (slot, group) in replayed.into_iter().enumerate() {
            core.create_group(slot as u32, group)?;
        }
        Ok(core)
    }

    fn create_group(&mut self, slot: u32, mut replayed: Replayed) -> Result<(), OpenError> {
        let at = slot as usize;
        let (last, saved, group) = (replayed.log_last(), replayed.saved_term(), self.ids[at].0);
        let (start, repairs) = match replayed.start() {
            Ok(start) => (start, false),
            Err(error) => (self.start_damaged(slot, &mut replayed, &error), true),
        };
        let mut hard_state = start.hard_state;
        tracing::debug!(group, ?start, log_last = ?last, "opens");
        let applied =
            if start.log_is_void { start.applied } else { LogIndex(replayed.applied).max(start.applied) };
        hard_state.commit = hard_state.commit.max(applied);
        self.io.lanes[at].applied = applied;
        let setup = Setup {
            fresh: replayed.fresh,
            preferred_leader: self.io.preferred[at],
            priorities: &self.io.settings.priorities,
            applied,
            hard_state,
            ..start.setup(self.io.me)
        };
        let group_state = Group::new(self.io.now, &self.config, &mut self.random, &setup);
        let deadline = group_state.next_deadline();
        if deadline != Moment::NEVER {
            self.timers.arm(slot, deadline);
        }
        self.groups.push(group_state);
        let alone = repairs && self.groups[at].membership().voters() == [self.io.me];
        if start.log_is_void && !alone {
            self.begin_log(slot, start.applied, last, hard_state)
                .map_err(|error| OpenError::NoRoom { group, error })?;
        } else if !alone {
            self.close_up_log(slot, start.log.last).map_err(|error| OpenError::NoRoom { group, error })?;
        }
        if hard_state.lost.is_any() && !alone {
            self.write_losses(slot, hard_state);
        } else if hard_state.term > saved && !alone {
            // A snapshot is durable before the term that it brought is. What the member says in that term rests on the log.
            self.io.write_state(slot, hard_state);
        }
        self.snapshots_found(slot, &start, replayed.log_bytes);
        self.prefer_a_voter(slot);
        self.maybe_retire(slot);
        if !start.log_is_void {
            // What is not known to be committed is what will be asked for first.
            for (n, entry) in replayed.tail.into_iter().enumerate() {
                let index = applied.plus(1 + n as u64);
                self.io.keep_entry(slot, index, entry.kind, &entry.payload);
            }
        }
        Ok(())
    }

    /// Snapshot and log of a group do not belong together. It serves nothing from them. If there are other members, it is theirs to
    /// make up for what is missing, and what is here now is given up; the only copy is left as it is.
    fn start_damaged(&mut self, slot: u32, replayed: &mut Replayed, error: &StartError) -> Start {
        let is_gap = matches!(error, StartError::Gap { .. });
        let start = replayed.start_without_log(is_gap);
        if start.applied == LogIndex(0) {
            self.machine.forget(slot);
            self.sessions.forget(slot);
        }
        tracing::error!(
            group = self.ids[slot as usize].0,
            %error,
            "the group does not serve on this node until its leader has sent what is missing. If this is its only member: give the \
             directory of snapshots back what it had (nothing was changed in it, nor in the log), then start again"
        );
        start
    }

    /// The group's log, whose last entry is at `last`, begins anew behind `index`, and nothing of it comes back after a restart.
    pub(super) fn begin_log(
        &mut self,
        slot: u32,
        index: LogIndex,
        last: LogIndex,
        state: HardState,
    ) -> Result<(), logdrive_wal::AppendError> {
        let at = slot as usize;
        let old = self.io.lanes[at].stream;
        if last < index {
            self.io.wal.compact(old, index.0)?;
            return Ok(());
        }
        // What lies behind `index` has to go as well, with one record: that of a new stream.
        let history = self.io.lanes[at].history;
        let life = self.lives[at].next_log().expect("a log parts from its leader's less than 65,536 times");
        let new = self.begin_stream(stream_of(self.ids[at], life), &encode_state(state, history))?;
        for (stream, index) in [(new, index.0), (old, last.0)] {
            if index > 0
                && let Err(error) = self.io.wal.compact(stream, index)
            {
                tracing::warn!(group = self.ids[at].0, %error, "a log that was replaced could not be given up yet");
            }
        }
        self.lives[at] = life;
        self.io.lanes[at].stream = new;
        self.io.streams[at] = new;
        Ok(())
    }

    /// The disk lost the end of the log, and a snapshot stands for it: the log goes on behind the snapshot, and the stream as well.
    fn close_up_log(&mut self, slot: u32, last: LogIndex) -> Result<(), logdrive_wal::AppendError> {
        let stream = self.io.lanes[slot as usize].stream;
        if self.io.wal.entries(stream).is_some_and(|(_, found)| found < last.0) {
            self.io.wal.compact(stream, last.0)?;
        }
        Ok(())
    }

    /// A stream that nobody has written to, with its first state. A log that knows that it lost streams which it cannot name suspects
    /// each that it has not seen; this one has lost nothing but what its state says.
    pub(super) fn begin_stream(
        &mut self,
        id: StreamId,
        state: &[u8],
    ) -> Result<StreamSlot, logdrive_wal::AppendError> {
        let stream = self.io.wal.stream(id);
        self.io.wal.put_state(stream, state)?;
        if let Err(error) = self.io.wal.heal(stream) {
            // The next start asks the other members.
            tracing::warn!(stream = id.0, %error, "the log goes on suspecting a new stream");
        }
        Ok(stream)
    }

    /// What a group lost is written down before the group does anything: the log tells of damage only until something replaces it.
    fn write_losses(&mut self, slot: u32, state: HardState) {
        let (id, lost) = (self.ids[slot as usize], state.lost);
        tracing::error!(
            group = id.0,
            %lost,
            "the disk lost something that this node had acknowledged for the group; until the other members have made up for it, \
             this node neither leads the group nor elects a leader who lacks it. Check the disk"
        );
        self.io.write_state(slot, state);
        let lane = &self.io.lanes[slot as usize];
        if !lane.flags.has(Flags::UNWRITTEN)
            && let Err(error) = self.io.wal.heal(lane.stream)
        {
            // The next start finds the same again.
            tracing::warn!(group = id.0, %error, "the log keeps its verdict");
        }
    }
}
