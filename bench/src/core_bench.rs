//! The loops of all nodes' cores in one thread, over real logs, without executors and sockets: what consensus, log, frames and
//! apply cost by themselves. The difference to `run` is the price of the runtime and of TCP.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use logdrive::api::{Completions, CoreSettings};
use logdrive::core::{Core, CoreId, CoreOptions, Disks, Event, GroupSetup, LinkId, PortId, Slot};
use logdrive_shard::{GroupId, Moment, NodeId, Random};
use logdrive_wal::{RingDisk, RingOptions};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;

use crate::cli::{CoreArgs, MachineKind};
use crate::clock;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, plural};
use crate::latency::{Latencies, LatencySummary};
use crate::machine::Counted;
use crate::payload::Payloads;
use crate::progress;
use crate::report::{self, CheckReport, FORMAT, LogReport, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

/// Until every group has the leader it prefers.
const ELECTIONS_MAX: Duration = Duration::from_secs(60);
/// Until everything is answered and applied everywhere.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Longest sleep while nothing happens.
const SLEEP_MAX_NANOS: u64 = 5_000_000;

type BenchCore = Core<RingDisk, Counted>;

#[derive(Debug, Serialize)]
struct CoreReport {
    benchmark: &'static str,
    format: u32,
    nodes: u32,
    groups: u64,
    clients: u32,
    payload_bytes: u32,
    seconds: f64,
    warmup_seconds: f64,
    seed: u64,
    committed_per_s: f64,
    latency_us: LatencySummary,
    cpu_seconds_per_million: f64,
    cpu: CpuUse,
    log: LogReport,
    check: CheckReport,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for CoreReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench core: the loops of {} in one thread, {}, {} with one proposal of {} in flight each, \
             {:.1} s after {:.1} s of warm-up",
            plural(self.nodes.into(), "node"),
            plural(self.groups, "group"),
            plural(self.clients.into(), "client"),
            bytes(self.payload_bytes.into()),
            self.seconds,
            self.warmup_seconds
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("committed", format!("{}/s", count(self.committed_per_s))),
            ("latency", report::latency_row(&self.latency_us)),
        ];
        rows.extend(report::cpu_rows(&self.cpu, self.cpu_seconds_per_million));
        rows.extend(report::log_rows(&self.log, self.nodes.into()));
        rows.push(report::check_row(&self.check));
        rows
    }
    fn environment(&self) -> &Environment {
        &self.environment
    }
    fn warnings(&self) -> &[String] {
        &self.warnings
    }
    fn notes(&self) -> Vec<String> {
        vec![
            "no executors, no sockets: frames are handed from core to core in memory; compare with `run`"
                .to_owned(),
            "logs and durable writes are real; closed loop, as in `run`".to_owned(),
        ]
    }
}

/// `logdrive-bench core`. False if the nodes disagree.
pub(crate) fn run(arguments: &CoreArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let segment_bytes = arguments.log.segment_mib << 20;
    let seconds = arguments.seconds + arguments.warmup;
    let estimate =
        || space::segments(space::log_bytes(arguments.clients, 1, arguments.payload, seconds), segment_bytes);
    let segments = arguments.log.segments.unwrap_or_else(estimate).max(space::SEGMENTS_MIN);
    let needed = u64::from(segments) * segment_bytes * u64::from(arguments.nodes);
    space::check(directory.path(), needed, "--seconds, --segments or --clients")?;
    let (_, log_disk) = disk_probe::brief(directory.path(), false)?;
    let environment = Environment::collect(directory.path(), &log_disk);

    let bar = progress::spinner("core");
    bar.set_message(format!("preparing {segments} segments of {} per node", bytes(segment_bytes as f64)));
    bar.tick();
    let start = clock::now_nanos();
    let mut bench = Bench::open(arguments, directory.path(), segments, segment_bytes)?;
    let prepare_seconds = clock::since(start).as_secs_f64();
    bar.set_message("electing leaders");
    bar.tick();
    bench.elect()?;
    bar.set_message("measuring");
    bar.tick();
    let measured = bench.measure(arguments)?;
    let check = bench.settle_and_check()?;
    bar.finish_and_clear();

    let mut log = measured.log;
    log.writes_in_flight = arguments.log.writes_in_flight;
    log.segment_bytes = segment_bytes;
    log.prepared_segments = segments.into();
    log.prepare_seconds = prepare_seconds;
    let committed = measured.latencies.count() as f64;
    let mut warnings = environment.warnings();
    warnings.extend(report::machine_warnings(&measured.cpu));
    let ok = check.ok;
    let report = CoreReport {
        benchmark: "core",
        format: FORMAT,
        nodes: arguments.nodes,
        groups: arguments.groups,
        clients: arguments.clients,
        payload_bytes: arguments.payload,
        seconds: measured.seconds,
        warmup_seconds: arguments.warmup,
        seed: arguments.seed,
        committed_per_s: committed / measured.seconds,
        latency_us: measured.latencies.summary(),
        cpu_seconds_per_million: measured.cpu.seconds() / committed.max(1.0) * 1e6,
        cpu: measured.cpu,
        log,
        check,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(ok)
}

struct Measured {
    seconds: f64,
    latencies: Latencies,
    cpu: CpuUse,
    log: LogReport,
}

struct Member {
    core: BenchCore,
    port: PortId,
    /// Frames on their way to this node, with the link they arrive on; the buffers go back to `spare`.
    inbox: Vec<(LinkId, Vec<u8>)>,
    led: Vec<Slot>,
    /// When each client's proposal was handed over; clients belong to one node.
    started: Vec<u64>,
    idle: Vec<u32>,
}

struct Bench {
    members: Vec<Member>,
    /// `links[a][b]`: the link of node a to node b.
    links: Vec<Vec<LinkId>>,
    spare: Vec<Vec<u8>>,
    answers: Completions,
    groups: u64,
    random: Random,
    payloads: Payloads,
    acknowledged: u64,
    outstanding: u64,
}

impl Bench {
    fn open(arguments: &CoreArgs, directory: &Path, segments: u32, segment_bytes: u64) -> Result<Bench> {
        let mut settings = CoreSettings::default();
        settings.wal.writes_in_flight = arguments.log.writes_in_flight;
        settings.wal.batch_bytes_max = arguments.log.batch_bytes;
        settings.wal.batch_bytes_min = arguments.log.batch_bytes_min;
        settings.wal.segment_bytes = segment_bytes;
        settings.wal.segments_ahead = segments;
        settings.wal.budget_bytes = u64::from(segments) * segment_bytes;
        let voters: Vec<NodeId> = (1..=arguments.nodes).map(NodeId).collect();
        let groups: Vec<GroupSetup> = (1..=arguments.groups)
            .map(|id| GroupSetup {
                id: GroupId(id),
                founders: voters.clone(),
                preferred_leader: voters[(id % u64::from(arguments.nodes)) as usize],
            })
            .collect();
        let mut members = Vec::new();
        for node in 0..arguments.nodes {
            let path = directory.join(format!("node-{}", node + 1));
            std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
            let ring = RingOptions {
                buffers: arguments.log.writes_in_flight + 2,
                buffer_bytes: arguments.log.batch_bytes,
                ..RingOptions::default()
            };
            let log = RingDisk::open(&path, ring).context("cannot open a log's disk")?;
            let path = directory.join(format!("snapshots-{}", node + 1));
            std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
            let ring = RingOptions { buffers: 0, background: true, ..RingOptions::default() };
            let snapshots = RingDisk::open(&path, ring).context("cannot open the disk of the snapshots")?;
            let options = CoreOptions {
                node: NodeId(node + 1),
                core: CoreId(0),
                cluster: 1,
                boot: 1,
                seed: arguments.seed + u64::from(node),
                groups: groups.clone(),
                settings: settings.clone(),
            };
            let machine = Counted::new(MachineKind::Digest, Arc::new(AtomicU64::new(0)));
            let now = Moment(clock::now_nanos());
            let mut core = Core::open(now, options, Disks { log, snapshots }, machine, &mut |_, _| ())
                .context("cannot open a core")?;
            let port = core.add_port();
            let clients =
                arguments.clients / arguments.nodes + u32::from(node < arguments.clients % arguments.nodes);
            members.push(Member {
                core,
                port,
                inbox: Vec::new(),
                led: Vec::new(),
                started: vec![0; clients as usize],
                idle: (0..clients).collect(),
            });
        }
        let mut bench = Bench {
            members,
            links: Vec::new(),
            spare: Vec::new(),
            answers: Completions::default(),
            groups: arguments.groups,
            random: Random::new(arguments.seed),
            payloads: Payloads::new(arguments.seed, 0, arguments.payload as usize),
            acknowledged: 0,
            outstanding: 0,
        };
        bench.connect()?;
        Ok(bench)
    }

    fn connect(&mut self) -> Result<()> {
        let nodes = self.members.len();
        for from in 0..nodes {
            for to in (0..nodes).filter(|&to| to != from) {
                let hello = self.members[from].core.hello();
                let now = Moment(clock::now_nanos());
                self.members[to].core.handle(now, Event::LinkUp { hello: &hello })?;
            }
        }
        self.links = vec![vec![LinkId(u16::MAX); nodes]; nodes];
        for from in 0..nodes {
            for to in (0..nodes).filter(|&to| to != from) {
                let link = self.members[from].core.link_of(NodeId(to as u32 + 1), CoreId(0));
                self.links[from][to] = link.context("two cores have no link")?;
            }
        }
        Ok(())
    }

    /// One turn of every core. `done` gets the latency of each proposal that was acknowledged. Sleeps if nothing was done.
    fn round(&mut self, load: bool, mut done: impl FnMut(u64, u64)) -> Result<()> {
        let mut busy = false;
        for node in 0..self.members.len() {
            let now = clock::now_nanos();
            let inbox = std::mem::take(&mut self.members[node].inbox);
            busy |= !inbox.is_empty();
            for (link, mut frame) in inbox {
                self.members[node].core.handle(Moment(now), Event::Frame { link, bytes: &frame })?;
                frame.clear();
                self.spare.push(frame);
            }
            if load {
                self.propose(node, now)?;
            }
            self.members[node].core.handle(Moment(now), Event::Disk)?;
            self.members[node].core.turn(Moment(clock::now_nanos()))?;
            busy |= self.deliver(node);
            busy |= self.take_answers(node, &mut done)?;
            busy |= self.members[node].core.next_deadline().0 <= now;
        }
        if !busy {
            self.sleep();
        }
        Ok(())
    }

    fn propose(&mut self, node: usize, now: u64) -> Result<()> {
        let member = &mut self.members[node];
        for client in member.idle.drain(..) {
            let slot = member.led[self.random.below(member.led.len() as u64) as usize];
            member.started[client as usize] = now;
            let event = Event::Propose {
                port: member.port,
                token: client.into(),
                slot,
                payload: self.payloads.next(),
            };
            member.core.handle(Moment(now), event)?;
            self.outstanding += 1;
        }
        Ok(())
    }

    fn deliver(&mut self, node: usize) -> bool {
        let mut any = false;
        for to in 0..self.members.len() {
            if to == node {
                continue;
            }
            let mut frame = self.spare.pop().unwrap_or_default();
            if self.members[node].core.take_frames(self.links[node][to], &mut frame) {
                let link = self.links[to][node];
                self.members[to].inbox.push((link, frame));
                any = true;
            } else {
                self.spare.push(frame);
            }
        }
        any
    }

    fn take_answers(&mut self, node: usize, done: &mut impl FnMut(u64, u64)) -> Result<bool> {
        let member = &mut self.members[node];
        member.core.take_answers(member.port, &mut self.answers);
        if self.answers.is_empty() {
            return Ok(false);
        }
        let now = clock::now_nanos();
        for (answer, _) in self.answers.iter() {
            if let Err(error) = answer.result {
                bail!("a proposal was answered with: {error}");
            }
            done(now, now - member.started[answer.token as usize]);
            member.idle.push(answer.token as u32);
        }
        self.outstanding -= self.answers.len() as u64;
        self.acknowledged += self.answers.len() as u64;
        self.answers.clear();
        Ok(true)
    }

    /// Until a log's disk announces something, or a core's deadline.
    fn sleep(&mut self) {
        let now = clock::now_nanos();
        let deadline = self.members.iter().map(|m| m.core.next_deadline().0).min().unwrap_or(u64::MAX);
        let nanos = deadline.saturating_sub(now).min(SLEEP_MAX_NANOS);
        let fds: Vec<i32> = self.members.iter_mut().map(|m| m.core.wal().disk().event_fd()).collect();
        let mut polled = Vec::with_capacity(fds.len());
        for &fd in &fds {
            // SAFETY: the descriptors belong to the disks of `self.members`, which outlive this call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            polled.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanos as _ };
        // Whether it timed out or not: the next round looks at everything.
        let _ = rustix::event::poll(&mut polled, Some(&timeout));
        for (fd, polled) in fds.iter().zip(&polled) {
            if polled.revents().contains(PollFlags::IN) {
                // SAFETY: as above.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                let _ = rustix::io::read(fd, &mut [0u8; 8]);
            }
        }
    }

    fn elect(&mut self) -> Result<()> {
        let start = clock::now_nanos();
        let nodes = self.members.len() as u64;
        loop {
            self.round(false, |_, _| ())?;
            let placed = (0..self.groups).all(|group| {
                let wanted = ((group + 1) % nodes) as usize;
                self.members[wanted].core.is_leader(Slot(group as u32))
            });
            if placed {
                break;
            }
            if clock::since(start) > ELECTIONS_MAX {
                bail!("not every group has the leader it prefers after {} s", ELECTIONS_MAX.as_secs());
            }
        }
        for member in &mut self.members {
            member.led = (0..self.groups as u32).map(Slot).filter(|&s| member.core.is_leader(s)).collect();
            if member.led.is_empty() {
                bail!("a node leads no group: use at least as many groups as nodes");
            }
        }
        Ok(())
    }

    fn measure(&mut self, arguments: &CoreArgs) -> Result<Measured> {
        let begin = clock::now_nanos() + (arguments.warmup * 1e9) as u64;
        while clock::now_nanos() < begin {
            self.round(true, |_, _| ())?;
        }
        let (usage, log) = (Usage::now(), self.log_counts());
        let begin = clock::now_nanos();
        let end = begin + (arguments.seconds * 1e9) as u64;
        let mut latencies = Latencies::new()?;
        while clock::now_nanos() < end {
            self.round(true, |_, nanos| latencies.record(nanos))?;
        }
        let seconds = clock::since(begin).as_secs_f64();
        let cpu = Usage::now().since(&usage);
        let after = self.log_counts();
        let log = LogReport::from_counts(after.0 - log.0, after.1 - log.1, after.2 - log.2, seconds);
        Ok(Measured { seconds, latencies, cpu, log })
    }

    fn log_counts(&self) -> (u64, u64, u64) {
        let status = self.members.iter().map(|m| m.core.status());
        status.fold((0, 0, 0), |sum, s| {
            (sum.0 + s.log_writes, sum.1 + s.log_write_bytes, sum.2 + s.log_records)
        })
    }

    fn settle_and_check(&mut self) -> Result<CheckReport> {
        let start = clock::now_nanos();
        let slots = 0..self.groups as u32;
        loop {
            self.round(false, |_, _| ())?;
            let same = |slot: Slot| {
                let first = self.members[0].core.applied(slot);
                self.members.iter().all(|m| m.core.applied(slot) == first)
            };
            if self.outstanding == 0 && slots.clone().map(Slot).all(same) {
                break;
            }
            if clock::since(start) > SETTLE_MAX {
                bail!("{} are not answered, or nodes lag behind", plural(self.outstanding, "proposal"));
            }
        }
        let found: Vec<u64> = self.members.iter().map(|m| m.core.machine().applied()).collect();
        let digest = |member: &Member, slot| member.core.group_digest(Slot(slot)).digest;
        let differ = slots
            .filter(|&slot| self.members.iter().any(|m| digest(m, slot) != digest(&self.members[0], slot)))
            .count();
        let ok = differ == 0 && found.iter().all(|&f| f == self.acknowledged);
        let message = if ok {
            format!("every node applied the same {} entries", count(self.acknowledged as f64))
        } else {
            format!(
                "{differ} groups differ; entries applied by each node: {found:?}, acknowledged: {}",
                self.acknowledged
            )
        };
        Ok(CheckReport { ok, message, acknowledged: self.acknowledged, found })
    }
}
