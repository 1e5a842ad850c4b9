//! Requests that need all groups or all cores of the node. They wait until everything before them on their connection is
//! answered, and nothing after them starts before they are: so that DBSIZE counts what a client wrote just before and nothing later.

use logdrive::api::{Error, ReadPolicy};
use logdrive::core::CoreStatus;
use logdrive::kv::{Query, Reply};
use logdrive::runtime::{PeerStatus, RuntimeCounters};
use logdrive_shard::{GroupId, LogIndex};

use super::admin::{Answer, Request};
use super::backend::Backend;
use super::hub::{Hub, Owner};
use super::info::{self, Sections};
use super::ring::{Kind, Pending, Seq, State};
use super::session::Session;

/// What a barrier is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    /// DBSIZE.
    DbSize,
    /// INFO with these sections.
    Info(Sections),
    /// LOGDRIVE STATUS.
    Status,
    /// LOGDRIVE DIGEST of this group.
    Digest(GroupId),
    /// LOGDRIVE GROUP and LOGDRIVE NODE; the request is in [`Session::asked`].
    Admin,
    /// WAIT.
    Wait,
}

/// A request that has its connection to itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    kind: BarrierKind,
    /// Groups that have not told how many keys they have (or one, its digest).
    counting: u32,
    /// The sum of what they told.
    keys: i64,
    /// A group could not be counted.
    failed: bool,
}

/// What the node says about itself, for INFO and LOGDRIVE STATUS.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeStatus {
    pub(crate) cores: Vec<CoreStatus>,
    pub(crate) peers: Vec<PeerStatus>,
    pub(crate) uptime_s: u64,
    /// Resident memory, bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) runtime: RuntimeCounters,
}

impl Session {
    /// Takes a request that needs the connection to itself.
    pub(crate) fn submit_barrier<B: Backend>(&mut self, hub: &mut Hub<B>, kind: BarrierKind) {
        self.barrier = Some(Barrier { kind, counting: 0, keys: 0, failed: false });
        self.ring.push(Pending::plain(Kind::Barrier, self.protocol));
        self.advance(hub);
    }

    /// Takes a request of an operator.
    pub(crate) fn submit_admin<B: Backend>(&mut self, hub: &mut Hub<B>, request: Request) {
        self.asked = Some(request);
        self.submit_barrier(hub, BarrierKind::Admin);
    }

    /// The barrier has become the oldest request.
    pub(crate) fn start_barrier<B: Backend>(&mut self, hub: &mut Hub<B>) {
        let seq = self.ring.first();
        self.ring.expect(seq).state = State::Flying;
        match self.barrier_kind() {
            BarrierKind::Wait => {
                // Everything before was acknowledged, so that a majority has it: the leader and this many others.
                let others = hub.topology.nodes().len() as i64 / 2;
                self.barrier = None;
                self.answer(hub, seq, true, |writer| writer.integer(others));
            }
            BarrierKind::Status => self.want_status(hub, seq),
            BarrierKind::Admin => {
                let request = self.asked.take().expect("the barrier was made with its request");
                self.outstanding += 1;
                hub.admin_wanted.push((self.key, seq, request));
            }
            BarrierKind::DbSize => self.count_keys(hub, seq),
            BarrierKind::Digest(group) => self.start_counting(hub, seq, Query::Digest, [group].into_iter()),
            BarrierKind::Info(sections) if sections.need_keys() => self.count_keys(hub, seq),
            BarrierKind::Info(_) => self.want_status(hub, seq),
        }
    }

    /// A group told how many keys it has.
    pub(crate) fn on_barrier_answer<B: Backend>(
        &mut self,
        hub: &mut Hub<B>,
        result: Result<LogIndex, Error>,
        reply: &[u8],
    ) {
        let barrier = self.barrier.as_mut().expect("a barrier's answers come while it is there");
        barrier.counting -= 1;
        match (result, Reply::decode(reply)) {
            (Ok(_), Ok(Reply::Integer(keys))) => barrier.keys += keys,
            _ => barrier.failed = true,
        }
        if barrier.counting == 0 {
            self.end_counting(hub);
        }
    }

    /// The node's status is there.
    pub(crate) fn on_status<B: Backend>(&mut self, hub: &mut Hub<B>, seq: Seq, status: &NodeStatus) {
        assert!(self.outstanding > 0, "a status nobody waits for");
        self.outstanding -= 1;
        let Some(barrier) = self.barrier.take() else { return };
        let text = match barrier.kind {
            BarrierKind::Info(sections) => info::text(hub, sections, status, barrier.keys),
            _ => info::status_json(hub, status),
        };
        let is_info = matches!(barrier.kind, BarrierKind::Info(_));
        self.answer(
            hub,
            seq,
            true,
            |writer| if is_info { writer.verbatim(&text) } else { writer.bulk(&text) },
        );
        self.advance(hub);
    }

    /// What an operator asked is done, or refused.
    pub(crate) fn on_admin<B: Backend>(&mut self, hub: &mut Hub<B>, seq: Seq, answer: &Answer) {
        assert!(self.outstanding > 0, "an answer nobody waits for");
        self.outstanding -= 1;
        if self.barrier.take().is_none() {
            return;
        }
        self.answer(hub, seq, true, |writer| match answer {
            Ok(json) => writer.bulk(json),
            Err(text) => writer.error(text),
        });
        self.advance(hub);
    }

    fn barrier_kind(&self) -> BarrierKind {
        self.barrier.expect("a barrier is there until it is answered").kind
    }

    fn want_status<B: Backend>(&mut self, hub: &mut Hub<B>, seq: Seq) {
        self.outstanding += 1;
        hub.status_wanted.push((self.key, seq));
    }

    /// Asks every group led here how many keys it has.
    fn count_keys<B: Backend>(&mut self, hub: &mut Hub<B>, seq: Seq) {
        let led: Vec<GroupId> =
            hub.topology.groups().filter(|group| hub.owner_of(*group) == Owner::Here).collect();
        self.start_counting(hub, seq, Query::Count, led.into_iter());
    }

    /// Asks these groups for a number, from the state as it is here.
    fn start_counting<B: Backend>(
        &mut self,
        hub: &mut Hub<B>,
        seq: Seq,
        query: Query<'_>,
        groups: impl Iterator<Item = GroupId>,
    ) {
        let mut request = Vec::new();
        query.encode(&mut request);
        let policy = ReadPolicy::Local { min_index: LogIndex(0), max_wait: std::time::Duration::ZERO };
        let mut counting = 0;
        for group in groups {
            hub.backend.read(self.token(seq), group, policy, &request);
            counting += 1;
        }
        self.outstanding += counting;
        if let Some(barrier) = &mut self.barrier {
            barrier.counting = counting;
        }
        if counting == 0 {
            self.end_counting(hub);
        }
    }

    fn end_counting<B: Backend>(&mut self, hub: &mut Hub<B>) {
        let seq = self.ring.first();
        match self.barrier {
            Some(barrier) if barrier.kind == BarrierKind::DbSize => {
                self.barrier = None;
                self.answer(hub, seq, true, |writer| match barrier.failed {
                    true => writer.error("BUSY a group could not be counted, try again later"),
                    false => writer.integer(barrier.keys),
                });
            }
            Some(barrier) if matches!(barrier.kind, BarrierKind::Digest(_)) => {
                self.barrier = None;
                let digest = format!("{:016x}", barrier.keys);
                self.answer(hub, seq, true, |writer| match barrier.failed {
                    true => writer.error("BUSY the group could not be read, try again later"),
                    false => writer.bulk(digest.as_bytes()),
                });
            }
            _ => self.want_status(hub, seq),
        }
    }
}
