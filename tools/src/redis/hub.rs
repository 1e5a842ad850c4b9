//! What all connections of one core share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use logdrive_shard::{GroupId, NodeId};

use super::admin::Request;
use super::backend::{Backend, Topology};
use super::cluster::Views;
use super::config::Limits;
use super::request::RequestLimits;
use super::ring::Seq;

/// Buffers for replies that wait for earlier ones, kept for reuse.
const BUFFERS_KEPT: usize = 1_024;
const BUFFER_BYTES_KEPT: usize = 4_096;

/// A count of one core that the other cores may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the owning core adds, so that no locked instruction is needed.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) - n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of one core.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Connections open now.
    pub(crate) connections: Counter,
    pub(crate) connections_accepted: Counter,
    /// Over [`Limits::connections_max`].
    pub(crate) connections_rejected: Counter,
    pub(crate) commands: Counter,
    pub(crate) protocol_errors: Counter,
    pub(crate) moved: Counter,
    /// Requests held for a leader, a busy engine or their connection's earlier ones, now.
    pub(crate) held: Counter,
    /// Requests that waited for a leader or a busy engine.
    pub(crate) parked: Counter,
    /// Requests refused because too many are parked already.
    pub(crate) parked_rejected: Counter,
    /// Answered `-CLUSTERDOWN` after waiting.
    pub(crate) cluster_down: Counter,
    /// Answered `-BUSY`.
    pub(crate) busy: Counter,
    /// Answered `-INDETERMINATE`.
    pub(crate) indeterminate: Counter,
    /// How often reading from a connection was paused by its bounds.
    pub(crate) paused: Counter,
}

/// What the cores of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    next_client: AtomicU64,
    pub(crate) cores: Vec<Counters>,
}

impl Shared {
    pub(crate) fn new(cores: u16) -> Shared {
        Shared { next_client: AtomicU64::new(1), cores: (0..cores).map(|_| Counters::default()).collect() }
    }

    /// A client id no connection of this node had before.
    pub(crate) fn client_id(&self) -> u64 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }

    /// A count summed over the cores.
    pub(crate) fn sum(&self, of: impl Fn(&Counters) -> &Counter) -> u64 {
        self.cores.iter().map(|core| of(core).get()).sum()
    }
}

/// Who answers requests of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This node.
    Here,
    /// The node at this position of [`Topology::nodes`].
    There(usize),
    /// Nobody, as far as this node knows.
    Unknown,
}

/// A lane that waits for a leader or a busy engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockedLane {
    pub(crate) key: u32,
    /// The connection may be gone and its key reused.
    pub(crate) client: u64,
    pub(crate) lane: u8,
}

/// What all connections of one core share.
pub(crate) struct Hub<B> {
    pub(crate) backend: B,
    pub(crate) topology: Topology,
    pub(crate) limits: Limits,
    pub(crate) request_limits: RequestLimits,
    pub(crate) shared: Arc<Shared>,
    pub(crate) core: usize,
    pub(crate) views: Views,
    pub(crate) held_bytes: u64,
    pub(crate) blocked: Vec<BlockedLane>,
    /// Connections whose barrier needs the node's status.
    pub(crate) status_wanted: Vec<(u32, Seq)>,
    /// Connections whose barrier is an operator's request.
    pub(crate) admin_wanted: Vec<(u32, Seq, Request)>,
    /// Groups, for one pass over a connection's requests.
    pub(crate) scratch: Vec<GroupId>,
    buffers: Vec<Vec<u8>>,
}

impl<B: Backend> Hub<B> {
    pub(crate) fn new(
        backend: B,
        topology: Topology,
        limits: Limits,
        argument_bytes_max: u32,
        shared: Arc<Shared>,
        core: usize,
    ) -> Hub<B> {
        let request_limits = RequestLimits {
            arguments_max: limits.arguments_max,
            argument_bytes_max,
            request_bytes_max: limits.request_bytes_max,
        };
        Hub {
            backend,
            views: Views::new(&topology),
            topology,
            limits,
            request_limits,
            shared,
            core,
            held_bytes: 0,
            blocked: Vec::new(),
            status_wanted: Vec::new(),
            admin_wanted: Vec::new(),
            scratch: Vec::new(),
            buffers: Vec::new(),
        }
    }

    /// Other nodes than before, or at other addresses.
    pub(crate) fn set_topology(&mut self, topology: Topology) {
        self.views = Views::new(&topology);
        self.topology = topology;
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.cores[self.core]
    }

    /// Who answers requests of a group.
    pub(crate) fn owner_of(&self, group: GroupId) -> Owner {
        self.owner(self.backend.leader_of(group))
    }

    /// What a node named as leader is to us.
    pub(crate) fn owner(&self, leader: NodeId) -> Owner {
        match self.topology.position(leader) {
            Some(position) if position == self.topology.me() => Owner::Here,
            Some(position) => Owner::There(position),
            None => Owner::Unknown,
        }
    }

    /// Whether no more requests may wait for a leader.
    pub(crate) fn is_parking_full(&self) -> bool {
        self.counters().held.get() >= u64::from(self.limits.parked_requests_max)
            || self.held_bytes >= self.limits.parked_bytes_max
    }

    pub(crate) fn on_held(&mut self, bytes: u64) {
        self.held_bytes += bytes;
        self.counters().held.add(1);
    }

    pub(crate) fn on_unheld(&mut self, bytes: u64) {
        self.held_bytes -= bytes;
        self.counters().held.sub(1);
    }

    /// An empty buffer.
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0
            && buffer.capacity() <= BUFFER_BYTES_KEPT
            && self.buffers.len() < BUFFERS_KEPT
        {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}
