//! What the loop costs without a kernel: three cores in one thread, a disk that forgets, frames handed over in memory.
//!
//! `cargo run --release -p logdrive --example core_loop -- [groups] [clients] [payload bytes] [proposals] [seed]`
//!
//! Clients have one proposal in flight each, to the leader of a random group. Printed: nanoseconds of CPU time per committed proposal,
//! all three nodes together, how many proposals a turn took on average, and heap allocations per proposal. For instructions, run it
//! under `valgrind --tool=callgrind --toggle-collect='*measured*'`.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use logdrive::api::{
    ApplyEntry, BadSnapshot, BytesLoading, BytesView, Completions, CoreSettings, Replies, StateMachine,
};
use logdrive::core::{Core, CoreId, CoreOptions, Disks, Event, GroupSetup, LinkId, PortId, Slot};
use logdrive_shard::{GroupId, Moment, NodeId, Random};
use logdrive_wal::{Buffer, Completion, Disk, Done, FileId, Op, Token};

const NODES: u32 = 3;

/// Counts what is asked of the heap.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// A disk that says yes.
#[derive(Default)]
struct NullDisk {
    done: Vec<Completion>,
    spare: Vec<Buffer>,
    files: u32,
    writes: u64,
}

impl logdrive_wal::Buggify for NullDisk {}

impl Disk for NullDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let (result, buffer) = match op {
            Op::Open { .. } => {
                self.files += 1;
                (Done::Opened { file: FileId(self.files), len: 0 }, None)
            }
            Op::Write { buffer, len, .. } => {
                self.writes += 1;
                (Done::Transferred(len), Some(buffer))
            }
            Op::Read { buffer, .. } => (Done::Transferred(0), Some(buffer)),
            Op::List => (Done::Listed(Vec::new()), None),
            _ => (Done::Ok, None),
        };
        self.done.push(Completion { token, result: Ok(result), buffer });
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        self.poll(completions);
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        match self.spare.iter().position(|buffer| buffer.capacity() >= len) {
            Some(at) => self.spare.swap_remove(at),
            None => Buffer::heap(len),
        }
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.spare.push(buffer);
    }

    fn free_bytes(&mut self) -> u64 {
        1 << 50
    }

    fn total_bytes(&mut self) -> u64 {
        1 << 50
    }

    fn describe(&self) -> String {
        "a disk that forgets".to_owned()
    }

    fn root(&self) -> String {
        "nowhere".to_owned()
    }
}

/// Counts what it applied.
struct Counter {
    groups: Vec<u64>,
}

impl StateMachine for Counter {
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups = vec![0; groups.len()];
    }

    fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = 0;
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            self.groups[entry.slot as usize] += 1;
            replies.push(&[]);
        }
    }

    fn query(&self, slot: u32, _request: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.groups[slot as usize].to_le_bytes());
    }

    fn digest(&self, slot: u32) -> u64 {
        self.groups[slot as usize]
    }

    fn freeze(&mut self, slot: u32) -> BytesView {
        BytesView::new(self.groups[slot as usize].to_le_bytes().to_vec())
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        BytesLoading::new(8)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: BytesLoading) -> Result<(), BadSnapshot> {
        self.groups[slot as usize] = u64::from_le_bytes(loading.exactly()?);
        Ok(())
    }
}

struct Node {
    core: Core<NullDisk, Counter>,
    port: PortId,
    /// Frames that arrived: sender and bytes.
    inbox: VecDeque<(u32, Vec<u8>)>,
    /// Proposals that wait for the next turn: token and slot.
    proposals: Vec<(u64, Slot)>,
    turns: u64,
}

struct Bench {
    nodes: Vec<Node>,
    spare: Vec<Vec<u8>>,
    random: Random,
    groups: u64,
    payload: Vec<u8>,
    started: Instant,
    committed: u64,
    answers: Completions,
    links: Vec<LinkId>,
    sent: Vec<(LinkId, Vec<u8>)>,
    ports: Vec<PortId>,
    /// By slot.
    leaders: Vec<u32>,
}

impl Bench {
    fn new(groups: u64, payload: usize, seed: u64) -> Bench {
        let voters: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
        let node = |node: u32| {
            let group = |id: u64| GroupSetup {
                id: GroupId(id),
                founders: voters.clone(),
                preferred_leader: voters[(id % u64::from(NODES)) as usize],
            };
            let mut settings = CoreSettings::default();
            settings.wal.budget_bytes = 1 << 40;
            (settings.snapshots.every_entries, settings.snapshots.every_bytes) = (0, 0);
            settings.snapshots.group_log_bytes_max = u64::MAX;
            let options = CoreOptions {
                node: NodeId(node),
                core: CoreId(0),
                cluster: 1,
                boot: 1,
                seed: seed + u64::from(node),
                groups: (1..=groups).map(group).collect(),
                settings,
            };
            let machine = Counter { groups: Vec::new() };
            let disks = Disks { log: NullDisk::default(), snapshots: NullDisk::default() };
            let core = Core::open(Moment(1), options, disks, machine, &mut |_, _| ());
            let mut core = core.expect("a new log opens");
            let port = core.add_port();
            Node { core, port, inbox: VecDeque::new(), proposals: Vec::new(), turns: 0 }
        };
        let mut bench = Bench {
            nodes: (1..=NODES).map(node).collect(),
            spare: Vec::new(),
            random: Random::new(seed),
            groups,
            payload: vec![7; payload],
            started: Instant::now(),
            committed: 0,
            answers: Completions::default(),
            links: Vec::new(),
            sent: Vec::new(),
            ports: Vec::new(),
            leaders: vec![0; groups as usize],
        };
        for from in 1..=NODES {
            for to in 1..=NODES {
                if from != to {
                    let hello = bench.nodes[from as usize - 1].core.hello();
                    let event = Event::LinkUp { hello: &hello };
                    bench.nodes[to as usize - 1].core.handle(Moment(1), event).expect("no frame");
                }
            }
        }
        bench
    }

    fn now(&self) -> Moment {
        Moment(1_000 + self.started.elapsed().as_nanos() as u64)
    }

    fn propose(&mut self, token: u64) {
        let slot = self.random.below(self.groups);
        let leader = self.leaders[slot as usize];
        self.nodes[leader as usize - 1].proposals.push((token, Slot(slot as u32)));
    }

    /// One turn of each node.
    fn round(&mut self) {
        for at in 0..self.nodes.len() {
            let now = self.now();
            self.turn(at, now);
        }
    }

    fn turn(&mut self, at: usize, now: Moment) {
        let node = &mut self.nodes[at];
        node.turns += 1;
        while let Some((from, bytes)) = node.inbox.pop_front() {
            let link = node.core.link_of(NodeId(from), CoreId(0)).expect("connected");
            node.core.handle(now, Event::Frame { link, bytes: &bytes }).expect("a sound frame");
            self.spare.push(bytes);
        }
        for n in 0..node.proposals.len() {
            let (token, slot) = node.proposals[n];
            if let Some(&(_, next)) = node.proposals.get(n + 4) {
                node.core.prefetch(next);
            }
            let event = Event::Propose { port: node.port, token, slot, payload: &self.payload };
            node.core.handle(now, event).expect("no frame");
        }
        node.proposals.clear();
        node.core.turn(now).expect("the disk never fails");
        node.core.links_with_frames(&mut self.links);
        let mut sent = std::mem::take(&mut self.sent);
        for link in self.links.drain(..) {
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.clear();
            node.core.take_frames(link, &mut bytes);
            sent.push((link, bytes));
        }
        node.core.ports_with_answers(&mut self.ports);
        let mut answers = std::mem::take(&mut self.answers);
        for port in self.ports.drain(..) {
            node.core.take_answers(port, &mut answers);
        }
        for (link, bytes) in sent.drain(..) {
            let to = (1..=NODES).find(|&to| self.nodes[at].core.link_of(NodeId(to), CoreId(0)) == Some(link));
            let to = to.expect("a link to a node") as usize - 1;
            self.nodes[to].inbox.push_back((at as u32 + 1, bytes));
        }
        self.sent = sent;
        for (completion, _) in answers.iter() {
            self.committed += u64::from(completion.result.is_ok());
            self.propose(completion.token);
        }
        answers.clear();
        self.answers = answers;
    }

    fn elect(&mut self) {
        loop {
            self.round();
            let mut known = 0;
            for slot in 0..self.groups as u32 {
                let leader = self.nodes[0].core.leader_of(Slot(slot));
                self.leaders[slot as usize] = leader.0;
                let agreed = |node: &Node| node.core.leader_of(Slot(slot)) == leader;
                known += u64::from(leader.is_some() && self.nodes.iter().all(agreed));
            }
            if known == self.groups {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[inline(never)]
    fn measured(&mut self, proposals: u64) {
        let end = self.committed + proposals;
        while self.committed < end {
            self.round();
        }
    }
}

/// CPU time of this thread: others on the machine do not count.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let groups = arguments.next().unwrap_or(1024);
    let clients = arguments.next().unwrap_or(1024);
    let payload = arguments.next().unwrap_or(128) as usize;
    let proposals = arguments.next().unwrap_or(2_000_000);
    let seed = arguments.next().unwrap_or(1);
    let mut bench = Bench::new(groups, payload, seed);
    bench.elect();
    for token in 0..clients {
        bench.propose(token);
    }
    bench.measured(proposals / 10);
    let turns: u64 = bench.nodes.iter().map(|node| node.turns).sum();
    let before = bench.committed;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let started = cpu_time();
    bench.measured(proposals);
    let elapsed = cpu_time() - started;
    let committed = bench.committed - before;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let turns = bench.nodes.iter().map(|node| node.turns).sum::<u64>() - turns;
    println!(
        "{groups} groups, {clients} clients, {payload} bytes: {:.0} ns of CPU per committed proposal (three nodes), {:.0} \
         proposals per turn, {:.4} allocations per proposal",
        elapsed.as_nanos() as f64 / committed as f64,
        committed as f64 / turns as f64,
        allocations as f64 / committed as f64
    );
}
