//! The mesh between the cores of a node, without cores and without threads: bounds, order, and that every answer goes to whoever asked.
//!
//! `LOGDRIVE_MESH_SEED` runs one seed of the random test.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use logdrive::api::{Busy, Completions, Error, ReadPolicy};
use logdrive::core::{CoreId, Event, PortId, Slot};
use logdrive::mesh::{Batch, Kind, Lane, Limits, Mesh, Owner, PortKey};
use logdrive_shard::{LogIndex, Random};

const WIDE: Limits = Limits { requests_max: 1_000, bytes_max: 1 << 20 };

/// An end of the mesh whose core gives out ports from 0 on: the embedder's, one for each core, then the clients'.
fn end(cores: u16, limits: Limits) -> Mesh<u32> {
    let mut ports = 0;
    Mesh::new(cores, limits, PortId(0), || {
        ports += 1;
        PortId(ports)
    })
}

fn connect(mesh: &mut Mesh<u32>, port: u32, client: u32) -> PortKey {
    let key = mesh.key(Some(PortId(port)));
    mesh.open(key, client);
    key
}

/// What a core was handed: token, slot and bytes of proposals and reads.
fn told_of(event: &Event<'_>) -> (u64, Slot, Vec<u8>) {
    match *event {
        Event::Propose { token, slot, payload, .. } => (token, slot, payload.to_vec()),
        Event::Read { token, slot, request, .. } => (token, slot, request.to_vec()),
        _ => panic!("nothing else was asked"),
    }
}

/// Moves the batches of `from` into a lane, and takes what is in it.
fn cross(mesh: &mut Mesh<u32>, lane: &Lane) -> Batch {
    mesh.leave(|_, batch| lane.put(batch));
    let mut batch = Batch::default();
    assert!(lane.take(&mut batch));
    batch
}

#[test]
fn a_request_reaches_the_other_core_and_its_answer_the_client() {
    let (mut here, mut there) = (end(2, WIDE), end(2, WIDE));
    let key = connect(&mut here, 7, 70);
    assert_eq!(here.owner(PortId(7)), &Owner::Client(70));
    here.ask(CoreId(1), Slot(5), key, 99, Kind::Propose, b"payload").unwrap();

    let batch = cross(&mut here, &Lane::default());
    let (mut handed, mut to) = (Vec::new(), None);
    let refused = there.take(
        CoreId(0),
        &batch,
        |event| {
            if let Event::Propose { port, .. } = event {
                to = Some(port);
            }
            handed.push(told_of(&event));
            Ok(())
        },
        |_, _, _| panic!("nothing was asked there"),
    );
    assert!(!refused);
    let (token, slot, payload) = handed.pop().unwrap();
    assert_eq!((slot, &payload[..]), (Slot(5), &b"payload"[..]));
    assert_eq!(there.owner(to.unwrap()), &Owner::Core(CoreId(0)));
    assert_eq!((here.unanswered(), there.asked()), (1, 1));

    let mut answers = Completions::default();
    answers.push(token, Ok(LogIndex(3)), b"reply");
    there.answered(CoreId(0), &answers);
    let batch = cross(&mut there, &Lane::default());
    let mut told = Vec::new();
    here.take(
        CoreId(1),
        &batch,
        |_| panic!("nothing was asked here"),
        |client, answer, reply| told.push((client.copied(), answer.token, answer.result, reply.to_vec())),
    );
    assert_eq!(told, [(Some(70), 99, Ok(LogIndex(3)), b"reply".to_vec())]);
    assert_eq!((here.unanswered(), there.asked()), (0, 0));
}

#[test]
fn batches_that_meet_in_a_lane_keep_their_order_and_bytes() {
    let (mut mesh, lane) = (end(2, WIDE), Lane::default());
    let key = connect(&mut mesh, 3, 0);
    mesh.ask(CoreId(1), Slot(10), key, 1, Kind::Propose, b"one").unwrap();
    mesh.leave(|to, batch| {
        assert_eq!(to, CoreId(1));
        lane.put(batch);
        assert!(batch.is_empty());
    });
    let read = Kind::Read(ReadPolicy::Linearizable);
    mesh.ask(CoreId(1), Slot(11), key, 2, read, b"two").unwrap();
    mesh.leave(|_, batch| lane.put(batch));
    assert_eq!(lane.waiting(), (2, 0));

    let mut batch = Batch::default();
    assert!(lane.take(&mut batch));
    let requests: Vec<_> =
        batch.requests().map(|(r, bytes)| (r.token, r.slot, r.kind, bytes.to_vec())).collect();
    let expected = [(1, Slot(10), Kind::Propose, b"one".to_vec()), (2, Slot(11), read, b"two".to_vec())];
    assert_eq!(requests, expected);
    batch.clear();
    assert!(!lane.take(&mut batch));
}

#[test]
fn what_is_not_answered_is_bounded_in_number_and_bytes_and_a_refusal_gives_it_back() {
    let limits = Limits { requests_max: 2, bytes_max: 10 };
    let (mut here, mut there) = (end(2, limits), end(2, limits));
    let key = connect(&mut here, 3, 0);
    let ask = |mesh: &mut Mesh<u32>, bytes: usize| {
        mesh.ask(CoreId(1), Slot(0), key, 1, Kind::Propose, &vec![0; bytes])
    };
    ask(&mut here, 8).unwrap();
    assert!(matches!(ask(&mut here, 8), Err(Error::Busy { why: Busy::Mesh, .. })));
    ask(&mut here, 2).unwrap();
    assert!(ask(&mut here, 0).is_err());
    for held in here.held() {
        assert!(held.held <= held.at_most, "{held:?}");
    }

    // The other core is gone: both are refused, and there is room again.
    let batch = cross(&mut here, &Lane::default());
    assert!(there.take(CoreId(0), &batch, |_| Err(Error::Stopped), |_, _, _| {}));
    let batch = cross(&mut there, &Lane::default());
    let mut told = 0;
    here.take(
        CoreId(1),
        &batch,
        |_| Ok(()),
        |_, answer, _| {
            assert_eq!(answer.result, Err(Error::Stopped));
            told += 1;
        },
    );
    assert_eq!((told, here.unanswered(), there.asked()), (2, 0, 0));
    ask(&mut here, 8).unwrap();
}

#[test]
fn a_request_larger_than_the_bound_is_let_in_when_no_other_one_waits() {
    let mut mesh = end(2, Limits { requests_max: 9, bytes_max: 10 });
    let key = connect(&mut mesh, 3, 0);
    let ask = |mesh: &mut Mesh<u32>, to: u16, bytes: usize| {
        mesh.ask(CoreId(to), Slot(0), key, 1, Kind::Propose, &vec![0; bytes])
    };
    ask(&mut mesh, 1, 500).unwrap();
    assert!(ask(&mut mesh, 1, 1).is_err());
    ask(&mut mesh, 0, 1).unwrap();
    assert!(ask(&mut mesh, 0, 500).is_err(), "not beside another one");
    for held in mesh.held() {
        assert!(held.held <= held.at_most, "{held:?}");
    }
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what the thread that runs a test allocates.
struct Counting;

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a number of the thread, which needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A hundred requests go over and their answers come back, in two batches that meet in the lane each time.
fn round(
    here: &mut Mesh<u32>,
    there: &mut Mesh<u32>,
    lanes: &[Lane; 2],
    key: PortKey,
    scratch: &mut Scratch,
) {
    let Scratch { batch, tokens, answers } = scratch;
    for token in 0..100 {
        here.ask(CoreId(1), Slot(0), key, token, Kind::Propose, &[7; 100]).unwrap();
        if token % 50 == 49 {
            here.leave(|_, batch| lanes[0].put(batch));
        }
    }
    assert!(lanes[0].take(batch));
    let hand = |event: Event<'_>| {
        if let Event::Propose { token, .. } = event {
            tokens.push(token);
        }
        Ok(())
    };
    there.take(CoreId(0), batch, hand, |_, _, _| {});
    batch.clear();
    for token in tokens.drain(..) {
        answers.push(token, Ok(LogIndex(1)), &[9; 30]);
    }
    there.answered(CoreId(0), answers);
    answers.clear();
    there.leave(|_, batch| lanes[1].put(batch));
    assert!(lanes[1].take(batch));
    let mut told = 0;
    here.take(CoreId(1), batch, |_| Ok(()), |client, _, _| told += u64::from(client.is_some()));
    batch.clear();
    assert_eq!(told, 100);
}

#[derive(Default)]
struct Scratch {
    batch: Batch,
    tokens: Vec<u64>,
    answers: Completions,
}

#[test]
fn requests_over_the_mesh_allocate_nothing_in_the_steady_state() {
    let (mut here, mut there) = (end(2, WIDE), end(2, WIDE));
    let key = connect(&mut here, 7, 70);
    let (lanes, mut scratch) = ([Lane::default(), Lane::default()], Scratch::default());
    for _ in 0..20 {
        round(&mut here, &mut there, &lanes, key, &mut scratch);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        round(&mut here, &mut there, &lanes, key, &mut scratch);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn an_answer_to_an_earlier_life_of_a_port_is_dropped() {
    let (mut here, mut there) = (end(2, WIDE), end(2, WIDE));
    let old = connect(&mut here, 7, 70);
    here.ask(CoreId(1), Slot(0), old, 1, Kind::Propose, b"").unwrap();
    assert!(here.close(old));
    assert!(!here.close(old), "it was closed already");
    let new = connect(&mut here, 7, 71);
    assert_ne!(old, new);
    assert!(!here.close(old), "the port is somebody else's now");

    let batch = cross(&mut here, &Lane::default());
    there.take(CoreId(0), &batch, |_| Err(Error::Stopped), |_, _, _| {});
    let batch = cross(&mut there, &Lane::default());
    let mut told = Vec::new();
    here.take(CoreId(1), &batch, |_| Ok(()), |client, answer, _| told.push((client.copied(), answer.token)));
    assert_eq!(told, [(None, 1)]);
    assert_eq!(here.unanswered(), 0);

    // A client of a core that is gone has no number; nothing finds it.
    let nowhere = here.key(None);
    assert!(!here.close(nowhere));
}

const CORES: u16 = 3;

/// A node of which nothing but the mesh is there: cores answer what they are handed when chance says so, in any order.
struct Node {
    random: Random,
    ends: Vec<Mesh<u32>>,
    /// `from * CORES + to`.
    lanes: Vec<Lane>,
    /// What was asked along each lane and was not handed over yet: token, slot, bytes.
    sent: Vec<VecDeque<(u64, Slot, Vec<u8>)>>,
    /// What cores work on: for which core, the core's token, what was asked.
    works: Vec<Vec<(CoreId, u64, Vec<u8>)>>,
    /// Clients: their core, their key, their requests that are not answered.
    clients: Vec<(usize, PortKey, BTreeMap<u64, Vec<u8>>)>,
    /// Ports of cores that nobody uses.
    free_ports: Vec<Vec<u32>>,
    names: u32,
    tokens: u64,
    busy: u64,
    dropped: u64,
    answered: u64,
}

impl Node {
    fn new(seed: u64) -> Node {
        let limits = Limits { requests_max: 4, bytes_max: 64 };
        let pairs = usize::from(CORES * CORES);
        Node {
            random: Random::new(seed),
            ends: (0..CORES).map(|_| end(CORES, limits)).collect(),
            lanes: (0..pairs).map(|_| Lane::default()).collect(),
            sent: vec![VecDeque::new(); pairs],
            works: vec![Vec::new(); CORES.into()],
            clients: Vec::new(),
            free_ports: vec![(10..14).collect(); CORES.into()],
            names: 0,
            tokens: 0,
            busy: 0,
            dropped: 0,
            answered: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    /// A client comes: its number is its name, for the mesh and here.
    fn connect(&mut self) {
        let core = self.below(CORES.into());
        if let Some(port) = self.free_ports[core].pop() {
            let key = connect(&mut self.ends[core], port, self.names);
            assert_eq!(self.names as usize, self.clients.len());
            self.names += 1;
            self.clients.push((core, key, BTreeMap::new()));
        }
    }

    fn disconnect(&mut self) {
        let client = self.below(self.clients.len().max(1));
        if let Some((core, key, waits)) = self.clients.get_mut(client)
            && self.ends[*core].close(*key)
        {
            waits.clear();
            self.free_ports[*core].push(key.port().0);
        }
    }

    fn ask(&mut self) {
        let client = self.below(self.clients.len().max(1));
        let bytes = self.random.below(20) as usize;
        let slot = Slot(self.random.below(9) as u32);
        let far = self.below(usize::from(CORES) - 1) + 1;
        let Some((core, key, waits)) = self.clients.get_mut(client) else { return };
        if !matches!(self.ends[*core].owner(key.port()), Owner::Client(name) if *name as usize == client) {
            return;
        }
        let to = (*core + far) % usize::from(CORES);
        self.tokens += 1;
        let payload = vec![self.tokens as u8; bytes];
        match self.ends[*core].ask(CoreId(to as u16), slot, *key, self.tokens, Kind::Propose, &payload) {
            Ok(()) => {
                waits.insert(self.tokens, payload.clone());
                self.sent[*core * usize::from(CORES) + to].push_back((self.tokens, slot, payload));
            }
            Err(error) => {
                assert!(matches!(error, Error::Busy { why: Busy::Mesh, .. }), "{error}");
                self.busy += 1;
            }
        }
    }

    /// A turn of a core: some answers, and everything that it has for others leaves.
    fn turn(&mut self) {
        let core = self.below(CORES.into());
        for _ in 0..self.below(4) {
            if self.works[core].is_empty() {
                break;
            }
            let at = self.below(self.works[core].len());
            let (for_core, token, payload) = self.works[core].swap_remove(at);
            let mut answers = Completions::default();
            let result =
                if at.is_multiple_of(3) { Err(Error::Indeterminate) } else { Ok(LogIndex(token + 1)) };
            answers.push(token, result, &payload);
            self.ends[core].answered(for_core, &answers);
        }
        let lanes = &self.lanes;
        self.ends[core].leave(|to, batch| {
            lanes[core * usize::from(CORES) + usize::from(to.0)].put(batch);
        });
    }

    /// One lane is served.
    fn serve(&mut self) {
        let lane = self.below(self.lanes.len());
        let (from, to) = (lane / usize::from(CORES), lane % usize::from(CORES));
        let mut batch = Batch::default();
        if !self.lanes[lane].take(&mut batch) {
            return;
        }
        let (sent, works, clients) = (&mut self.sent[lane], &mut self.works[to], &mut self.clients);
        let (dropped, answered) = (&mut self.dropped, &mut self.answered);
        let from = CoreId(from as u16);
        self.ends[to].take(
            from,
            &batch,
            |event| {
                let (token, slot, bytes) = told_of(&event);
                let (_, slot_then, bytes_then) = sent.pop_front().expect("it was asked");
                assert_eq!((slot, &bytes), (slot_then, &bytes_then), "requests keep their order");
                works.push((from, token, bytes));
                Ok(())
            },
            |client, answer, reply| match client {
                Some(&client) => {
                    let payload = clients[client as usize].2.remove(&answer.token);
                    assert_eq!(payload.as_deref(), Some(reply), "the answer to what this client asked, once");
                    *answered += 1;
                }
                None => {
                    let waits = clients.iter().any(|(.., waits)| waits.contains_key(&answer.token));
                    assert!(!waits, "an answer that somebody waits for is not dropped");
                    *dropped += 1;
                }
            },
        );
    }

    fn within_bounds(&self) {
        for held in self.ends.iter().flat_map(|end| end.held()) {
            assert!(held.held <= held.at_most, "{held:?}");
        }
        for lane in &self.lanes {
            let (requests, answers) = lane.waiting();
            assert!(requests <= 4 && answers <= 4, "{requests} requests and {answers} answers in a lane");
        }
    }
}

#[test]
fn every_request_is_answered_once_to_whoever_asked_or_its_port_was_closed() {
    let one = std::env::var("LOGDRIVE_MESH_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    for seed in one.map_or(1..60, |seed| seed..seed + 1) {
        println!("repeat with LOGDRIVE_MESH_SEED={seed}");
        let mut node = Node::new(seed);
        for _ in 0..3_000 {
            match node.below(20) {
                0 => node.connect(),
                1 => node.disconnect(),
                2..10 => node.ask(),
                10..15 => node.turn(),
                _ => node.serve(),
            }
            node.within_bounds();
        }
        for _ in 0..1_000 {
            node.turn();
            node.serve();
        }
        assert!(node.busy > 0 && node.dropped > 0 && node.answered > 100, "seed {seed} tests too little");
        assert!(node.clients.iter().all(|(.., waits)| waits.is_empty()), "everybody is answered");
        let open: u32 = node.ends.iter().map(Mesh::unanswered).sum();
        assert_eq!((open, node.ends.iter().map(Mesh::asked).sum::<usize>()), (0, 0));
    }
}
