//! What the seed makes of a run beside its sizes: timing, bounds, the speed of network and disks, the load.

use std::ops::Range;
use std::time::Duration;

use logdrive::api::{CoreSettings, SnapshotSettings, TimingPreset};
use logdrive::mesh::Limits;
use logdrive_shard::Random;

use super::clock::{MICROSECOND, MILLISECOND, Nanos};
use super::mix;
use super::plan::{Plan, Profile};
use super::random::{Purpose, chance, stream};
use super::snaps;

/// Size of a core's disk.
pub(super) const DISK_BYTES: u64 = 4 << 30;

/// Bounds of the mesh that are hardly ever met.
const MESH: Limits = Limits { requests_max: 16_384, bytes_max: 16 << 20 };

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Timing of elections and heartbeats.
    pub preset: TimingPreset,
    /// What a frame takes, mostly.
    pub frame_takes: Range<Nanos>,
    /// One frame of so many takes up to `frame_rarely`.
    pub frame_rarely_one_in: u64,
    /// See there.
    pub frame_rarely: Nanos,
    /// What a disk operation takes when the disk is well.
    pub disk_takes: Range<Nanos>,
    /// How long a client waits after an answer, at most.
    pub think: Nanos,
    /// After so long a client asks elsewhere.
    pub patience: Nanos,
    /// Padding of payloads, at most.
    pub padding: u64,
    /// Budget of a core's log.
    pub log_bytes: u64,
    /// Time between two troubles, on average.
    pub calm: Nanos,
    /// Every node is a founder of every group.
    pub everybody_votes: bool,
    /// Clocks stay within what leases rest on.
    pub leases_hold: bool,
    /// Now and then a bound is so tight that it is met.
    tight: [bool; 12],
    /// Bytes on the way in one direction of a connection before the sender's socket is full.
    pub socket_bytes: usize,
    /// What one core may have asked another, unanswered.
    pub mesh: Limits,
    /// Sealed segments are read again all the time.
    pub scrubs: bool,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Production code does its worst now and then, if the seed says so.
    pub has_whims: bool,
    /// Bytes that each state has in snapshots beside what it is, so that files have many chunks and transfers take their time.
    pub filler_bytes: u32,
    /// When snapshots are taken, and how they travel.
    pub snapshots: SnapshotSettings,
}

impl Shape {
    /// Of a run.
    pub fn of(plan: &Plan) -> Shape {
        let mut random = stream(plan.seed, Purpose::Shape, 1);
        let preset = match plan.profile {
            Profile::Default | Profile::Scale => TimingPreset::Default,
            _ if chance(&mut random, 2) => TimingPreset::Lan,
            _ => TimingPreset::Default,
        };
        let think = match plan.profile {
            Profile::Default | Profile::Scale => 2_000,
            _ => [60, 300, 1_500][random.below(3) as usize],
        } * MILLISECOND;
        let unit = match preset {
            TimingPreset::Lan => 150 * MILLISECOND,
            _ => 1_000 * MILLISECOND,
        };
        let calm = match plan.profile {
            Profile::Scale => 4 * unit,
            _ => [2 * unit, unit, unit / 3][random.below(3) as usize],
        };
        let mut tight = [false; 12];
        tight.iter_mut().for_each(|tight| *tight = chance(&mut random, 4));
        let filler_bytes = snaps::filler_bytes(plan, &mut stream(plan.seed, Purpose::Shape, 3));
        let mut snapshots = snaps::settings(&mut stream(plan.seed, Purpose::Shape, 2));
        snaps::make_timely(&mut snapshots, plan, filler_bytes);
        let mut more = stream(plan.seed, Purpose::Shape, 4);
        let socket_bytes = [4 << 10, 64 << 10, 256 << 10, 256 << 10][more.below(4) as usize];
        let scrubs = chance(&mut more, 2);
        let segment_bytes = [32 << 10, 64 << 10, 128 << 10, 128 << 10][more.below(4) as usize];
        let mut mesh = stream(plan.seed, Purpose::Shape, 5);
        let mesh = Limits {
            requests_max: [2, 6, MESH.requests_max, MESH.requests_max][mesh.below(4) as usize],
            bytes_max: [128, 1 << 10, MESH.bytes_max, MESH.bytes_max][mesh.below(4) as usize],
        };
        Shape {
            preset,
            frame_takes: 30 * MICROSECOND..30 * MICROSECOND + MILLISECOND,
            frame_rarely_one_in: 200,
            frame_rarely: 30 * MILLISECOND,
            disk_takes: 50 * MICROSECOND..800 * MICROSECOND,
            think,
            patience: 10 * unit,
            padding: 300,
            log_bytes: 2 << 30,
            calm,
            everybody_votes: false,
            leases_hold: !mix::clocks_jump(plan),
            tight,
            socket_bytes,
            mesh,
            scrubs,
            segment_bytes,
            has_whims: true,
            filler_bytes,
            snapshots,
        }
    }

    /// Short timing and short thinking, as the stories want it.
    pub fn brisk(mut self) -> Shape {
        self.preset = TimingPreset::Lan;
        self.think = 6 * MILLISECOND;
        self.patience = 1_500 * MILLISECOND;
        (self.socket_bytes, self.segment_bytes, self.scrubs) = (256 << 10, 128 << 10, false);
        (self.has_whims, self.mesh) = (false, MESH);
        self
    }

    /// Small segments, and now and then bounds so tight that they are met.
    pub fn settings(&self) -> CoreSettings {
        let mut settings = CoreSettings::default();
        self.preset.apply_to(&mut settings.shard);
        let mut tight = self.tight.iter().copied();
        let mut rarely = |value: u64, tight_value: u64| match tight.next() {
            Some(true) => tight_value,
            _ => value,
        };
        settings.wal.segment_bytes = self.segment_bytes;
        settings.wal.scrub_interval_s = if self.scrubs { 1 } else { 3_600 };
        settings.wal.payload_bytes_max = 16 << 10;
        settings.wal.budget_bytes = self.log_bytes;
        settings.wal.batch_bytes_max = rarely(64 << 10, 4096) as u32;
        settings.wal.writes_in_flight = rarely(4, 1) as u32;
        settings.payload_bytes_max = 8 << 10;
        settings.cache_bytes_max = rarely(1 << 20, 4 << 10);
        settings.shard.append_bytes_max = rarely(64 << 10, 512) as u32;
        settings.shard.inflight_messages_max = rarely(256, 2) as u16;
        settings.shard.inflight_bytes_max = rarely(1 << 20, 1024) as u32;
        settings.shard.uncommitted_entries_max = rarely(10_000, 2) as u32;
        settings.peer_inflight_bytes_max = rarely(32 << 20, 16 << 10);
        settings.outbox_bytes_max = rarely(8 << 20, 4 << 10);
        settings.apply_bytes_per_turn = rarely(4 << 20, 256);
        settings.balance_leaders = rarely(1, 0) == 1;
        settings.snapshots = self.snapshots.clone();
        settings.disk_stall = match self.preset {
            TimingPreset::Lan => Duration::from_millis(200),
            _ => Duration::from_secs(1),
        };
        settings
    }

    pub(super) fn frame_takes(&self, random: &mut Random) -> Nanos {
        if random.below(self.frame_rarely_one_in) == 0 {
            return random.below(self.frame_rarely);
        }
        self.frame_takes.start + random.below(self.frame_takes.end - self.frame_takes.start)
    }
}

impl Shape {
    /// The base of election timeouts: the measure of how long troubles last.
    pub(super) fn unit(&self) -> Nanos {
        match self.preset {
            TimingPreset::Lan => 150 * MILLISECOND,
            TimingPreset::CrossZone => 500 * MILLISECOND,
            TimingPreset::Wan => 2_000 * MILLISECOND,
            _ => 1_000 * MILLISECOND,
        }
    }
}
