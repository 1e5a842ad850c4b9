//! The order of one connection's requests to the engine, and what happens to those that find no leader.
//!
//! Requests of one connection to one group take effect in their order: writes are proposed one behind the other without
//! waiting, but a read waits for the writes before it, and a write for the reads before it (a read is confirmed while later
//! entries are applied). What the engine gave back without appending it is sent again only if nothing after it to the same
//! group was taken, so that a retry never overtakes.
//!
//! Groups are folded onto a fixed number of lanes, which are ordered as if each were one group: no table of groups per connection
//! is needed, and two groups sharing a lane only costs a wait, since replies are in order anyway.

use std::time::Duration;

use logdrive::api::{Error, ReadPolicy};
use logdrive::kv::{Command, Query, Reply};
use logdrive_shard::{GroupId, LogIndex, Moment};

use super::backend::Backend;
use super::hub::{BlockedLane, Hub, Owner};
use super::reply::Writer;
use super::ring::{Kind, Pending, Reason, Seq, State};
use super::session::{Closing, Session};

/// Lanes of a connection.
pub(crate) const LANES: usize = 64;
/// Whether there is a leader now is looked up this often.
const LEADER_RETRY: Duration = Duration::from_millis(2);
/// Bounds of the pause that a busy engine asks for.
const BUSY_RETRY_MIN: Duration = Duration::from_millis(1);
const BUSY_RETRY_MAX: Duration = Duration::from_millis(50);

/// What the engine is to be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    /// A proposal.
    Write(Command<'a>),
    /// A read.
    Read(Query<'a>),
}

impl Ask<'_> {
    /// Values the reply will have.
    fn values(&self) -> u32 {
        match self {
            Ask::Read(Query::Get { .. }) => 1,
            Ask::Read(Query::GetMany { keys }) => keys.len() as u32,
            _ => 0,
        }
    }
}

/// The order of the requests to the groups of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    /// Requests with the engine, all of `kind`.
    in_flight: u32,
    kind: Kind,
    /// Requests that came back. While there are any, nothing more is sent.
    returned: u32,
    /// The queue of requests that wait, linked through [`Pending::next`].
    held: u32,
    head: Seq,
    tail: Seq,
    /// The head waits for a leader or for the engine, until the hub's next tick at or after `retry_at`.
    blocked: bool,
    retry_at: Moment,
}

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            in_flight: 0,
            kind: Kind::Read,
            returned: 0,
            held: 0,
            head: 0,
            tail: 0,
            blocked: false,
            retry_at: Moment(0),
        }
    }
}

impl Lane {
    /// The lane of a group.
    fn of(group: GroupId) -> usize {
        group.0 as usize % LANES
    }

    /// Whether a new request need not queue.
    fn takes(&self, kind: Kind) -> bool {
        self.held == 0 && !self.blocked && self.returned == 0 && (self.in_flight == 0 || self.kind == kind)
    }
}

impl Session {
    /// Takes a request for the engine.
    pub(crate) fn submit<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, slot: u16, ask: Ask<'_>) {
        let group = hub.topology.slots().group_of(slot);
        let owner = hub.owner_of(group);
        let lane = Lane::of(group);
        let kind = match ask {
            Ask::Write(_) => Kind::Write,
            Ask::Read(_) if self.readonly && owner != Owner::Here => Kind::StaleRead,
            Ask::Read(_) => Kind::Read,
        };
        let takes = kind == Kind::StaleRead || self.lanes[lane].takes(kind);
        let parks = self.lanes[lane].blocked || owner == Owner::Unknown;
        match owner {
            _ if kind == Kind::StaleRead => {}
            Owner::There(leader) if takes => {
                let text = moved(hub, slot, leader);
                return self.error(hub, text);
            }
            _ if parks && hub.is_parking_full() => {
                hub.counters().parked_rejected.add(1);
                return self.error(hub, refusal(hub, Reason::NoLeader));
            }
            _ => {}
        }
        let deadline = now.after(hub.limits.park());
        let mut pending = Pending::asked(kind, self.protocol, lane as u8, slot, group, deadline);
        pending.values = ask.values();
        self.await_values(pending.values);
        let seq = self.ring.push_encoded(pending, |out| match ask {
            Ask::Write(command) => command.encode(out),
            Ask::Read(query) => query.encode(out),
        });
        if takes && (kind == Kind::StaleRead || owner == Owner::Here) {
            return self.send(hub, seq);
        }
        self.hold(hub, lane, seq);
        if parks {
            hub.counters().parked.add(1);
        }
        if takes {
            self.block(hub, lane, now.after(LEADER_RETRY));
        }
    }

    /// The engine answered.
    pub(crate) fn on_answer<B: Backend>(
        &mut self,
        hub: &mut Hub<B>,
        now: Moment,
        seq: Seq,
        result: Result<LogIndex, Error>,
        reply: &[u8],
    ) {
        assert!(self.outstanding > 0, "an answer nobody waits for");
        self.outstanding -= 1;
        if self.closing == Closing::Gone {
            return;
        }
        let pending = self.ring.expect(seq);
        let (kind, lane, slot) = (pending.kind, usize::from(pending.lane), pending.slot);
        match kind {
            Kind::Barrier => self.on_barrier_answer(hub, result, reply),
            Kind::StaleRead => self.finish(hub, seq, result, reply),
            _ => {
                assert_eq!(pending.state, State::Flying, "a request is answered once");
                self.lanes[lane].in_flight -= 1;
                match result {
                    Err(Error::NotLeader { leader }) => match hub.owner(leader) {
                        Owner::There(leader) => {
                            let text = moved(hub, slot, leader);
                            self.answer(hub, seq, false, |writer| writer.error(text));
                        }
                        _ => self.came_back(lane, seq, Reason::NoLeader, now.after(LEADER_RETRY)),
                    },
                    // Its other members may elect a leader, who makes up for it.
                    Err(Error::GroupCorrupt) => {
                        self.came_back(lane, seq, Reason::NoLeader, now.after(LEADER_RETRY));
                    }
                    Err(Error::Busy { retry_after, .. }) => {
                        let pause = retry_after.clamp(BUSY_RETRY_MIN, BUSY_RETRY_MAX);
                        self.came_back(lane, seq, Reason::Busy, now.after(pause));
                    }
                    _ => self.finish(hub, seq, result, reply),
                }
                if self.lanes[lane].in_flight == 0 {
                    self.queue_returned(hub, now, lane);
                    self.release(hub, now, lane);
                }
            }
        }
        self.advance(hub);
    }

    /// Looks again at a lane that waits: answers those whose time is over, sends the others if that is possible now.
    pub(crate) fn retry_lane<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, lane: usize) {
        self.lanes[lane].blocked = false;
        while self.lanes[lane].held > 0 && self.ring.expect(self.lanes[lane].head).deadline <= now {
            let seq = self.unhold(hub, lane);
            let reason = self.ring.expect(seq).reason;
            let text = refusal(hub, reason);
            self.answer(hub, seq, false, |writer| writer.error(text));
        }
        if self.lanes[lane].held > 0 {
            let retry_at = self.lanes[lane].retry_at;
            if retry_at > now { self.block(hub, lane, retry_at) } else { self.release(hub, now, lane) }
        }
        self.advance(hub);
    }

    /// Forgets what waits and never was appended.
    pub(crate) fn drop_held<B: Backend>(&mut self, hub: &mut Hub<B>) {
        for lane in 0..LANES {
            while self.lanes[lane].held > 0 {
                self.unhold(hub, lane);
            }
            self.lanes[lane] = Lane::default();
        }
    }

    fn send<B: Backend>(&mut self, hub: &mut Hub<B>, seq: Seq) {
        let token = self.token(seq);
        self.outstanding += 1;
        let pending = self.ring.expect(seq);
        pending.state = State::Flying;
        let (kind, group, lane) = (pending.kind, pending.group, usize::from(pending.lane));
        let Some(pending) = self.ring.get(seq) else { return };
        let body = self.ring.body(pending);
        match kind {
            Kind::Write => hub.backend.propose(token, group, body),
            Kind::StaleRead => {
                // It takes part in no order: its connection's writes are redirected, and it says it is stale.
                let policy = ReadPolicy::Local { min_index: LogIndex(0), max_wait: Duration::ZERO };
                return hub.backend.read(token, group, policy, body);
            }
            _ => hub.backend.read(token, group, ReadPolicy::Linearizable, body),
        }
        let lane = &mut self.lanes[lane];
        lane.in_flight += 1;
        lane.kind = kind;
    }

    /// Sends from the queue what may be sent.
    fn release<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, index: usize) {
        loop {
            let lane = self.lanes[index];
            if lane.held == 0 || lane.blocked || lane.returned > 0 {
                return;
            }
            let head = self.ring.expect(lane.head);
            if lane.in_flight > 0 && lane.kind != head.kind {
                return;
            }
            match hub.owner_of(head.group) {
                Owner::Here => {
                    let seq = self.unhold(hub, index);
                    self.send(hub, seq);
                }
                Owner::There(leader) => {
                    let text = moved(hub, head.slot, leader);
                    let seq = self.unhold(hub, index);
                    self.answer(hub, seq, false, |writer| writer.error(text));
                }
                Owner::Unknown => {
                    head.reason = Reason::NoLeader;
                    return self.block(hub, index, now.after(LEADER_RETRY));
                }
            }
        }
    }

    fn came_back(&mut self, lane: usize, seq: Seq, reason: Reason, retry_at: Moment) {
        let pending = self.ring.expect(seq);
        pending.state = State::Returned;
        pending.reason = reason;
        let lane = &mut self.lanes[lane];
        lane.returned += 1;
        lane.retry_at = lane.retry_at.max(retry_at);
    }

    /// All of a lane are back: what was not appended goes to the front of the queue in its order, except where something
    /// behind it in its group was taken.
    fn queue_returned<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, index: usize) {
        if self.lanes[index].returned == 0 {
            return;
        }
        hub.counters().parked.add(u64::from(self.lanes[index].returned));
        self.lanes[index].returned = 0;
        let mut taken = std::mem::take(&mut hub.scratch);
        let mut back = Vec::new();
        for (seq, pending) in self.ring.newest_first() {
            if usize::from(pending.lane) != index || !matches!(pending.kind, Kind::Write | Kind::Read) {
                continue;
            }
            match pending.state {
                State::Done(true) if !taken.contains(&pending.group) => taken.push(pending.group),
                State::Returned => back.push((seq, taken.contains(&pending.group))),
                _ => {}
            }
        }
        taken.clear();
        hub.scratch = taken;
        let busy_deadline = now.after(hub.limits.busy());
        for (seq, overtaken) in back {
            let pending = self.ring.expect(seq);
            let reason = pending.reason;
            if overtaken {
                let text = refusal(hub, reason);
                self.answer(hub, seq, false, |writer| writer.error(text));
                continue;
            }
            if reason == Reason::Busy {
                pending.deadline = pending.deadline.min(busy_deadline);
            }
            self.hold_first(hub, index, seq);
        }
        if self.lanes[index].held > 0 {
            let retry_at = self.lanes[index].retry_at.max(now);
            self.block(hub, index, retry_at);
        }
    }

    /// Ends a request with what the engine said.
    fn finish<B: Backend>(
        &mut self,
        hub: &mut Hub<B>,
        seq: Seq,
        result: Result<LogIndex, Error>,
        reply: &[u8],
    ) {
        match result {
            Ok(_) => {
                let values = self.ring.expect(seq).values;
                self.on_values(values, reply.len());
                self.answer(hub, seq, true, |writer| write_reply(writer, reply));
            }
            Err(error) => {
                let text = error_text(hub, &error);
                let executed = matches!(error, Error::Indeterminate | Error::Timeout);
                self.answer(hub, seq, executed, |writer| writer.error(text));
            }
        }
    }

    fn block<B: Backend>(&mut self, hub: &mut Hub<B>, index: usize, retry_at: Moment) {
        let lane = &mut self.lanes[index];
        lane.blocked = true;
        lane.retry_at = retry_at;
        hub.blocked.push(BlockedLane { key: self.key, client: self.client, lane: index as u8 });
    }

    fn hold<B: Backend>(&mut self, hub: &mut Hub<B>, index: usize, seq: Seq) {
        let lane = &mut self.lanes[index];
        if lane.held == 0 {
            lane.head = seq;
        } else {
            self.ring.expect(lane.tail).next = seq;
        }
        lane.tail = seq;
        lane.held += 1;
        hub.on_held(self.ring.expect(seq).bytes());
    }

    fn hold_first<B: Backend>(&mut self, hub: &mut Hub<B>, index: usize, seq: Seq) {
        let lane = &mut self.lanes[index];
        let pending = self.ring.expect(seq);
        pending.state = State::Held;
        pending.next = lane.head;
        if lane.held == 0 {
            lane.tail = seq;
        }
        lane.head = seq;
        lane.held += 1;
        hub.on_held(pending.bytes());
    }

    /// Takes the first request of the queue.
    fn unhold<B: Backend>(&mut self, hub: &mut Hub<B>, index: usize) -> Seq {
        let lane = &mut self.lanes[index];
        let seq = lane.head;
        let pending = self.ring.expect(seq);
        lane.head = pending.next;
        lane.held -= 1;
        hub.on_unheld(pending.bytes());
        seq
    }
}

fn moved<B: Backend>(hub: &Hub<B>, slot: u16, leader: usize) -> String {
    hub.counters().moved.add(1);
    let node = &hub.topology.nodes()[leader];
    format!("MOVED {slot} {}:{}", node.host, node.port)
}

/// What is said to a request that waited, or could not wait, and was never appended.
fn refusal<B: Backend>(hub: &Hub<B>, reason: Reason) -> &'static str {
    match reason {
        Reason::NoLeader => {
            hub.counters().cluster_down.add(1);
            "CLUSTERDOWN Hash slot not served"
        }
        Reason::Busy => {
            hub.counters().busy.add(1);
            "BUSY the group's node is over a limit; nothing was written, try again later"
        }
    }
}

/// The engine's errors that are no redirect and not retried here.
fn error_text<B: Backend>(hub: &Hub<B>, error: &Error) -> String {
    match error {
        Error::Indeterminate | Error::Timeout => {
            hub.counters().indeterminate.add(1);
            format!("INDETERMINATE {error}")
        }
        Error::OutOfSpace { .. } => format!("OUTOFSPACE {error}"),
        Error::Stopped => format!("CLUSTERDOWN {error}"),
        Error::NotLeader { .. } | Error::GroupCorrupt => refusal(hub, Reason::NoLeader).to_owned(),
        Error::Busy { .. } => refusal(hub, Reason::Busy).to_owned(),
        _ => format!("ERR {error}"),
    }
}

/// The key-value machine's reply in the client's protocol.
fn write_reply(writer: &mut Writer<'_>, reply: &[u8]) {
    match Reply::decode(reply) {
        Ok(Reply::Ok) => writer.simple("OK"),
        Ok(Reply::Nil) => writer.null(),
        Ok(Reply::Integer(number)) => writer.integer(number),
        Ok(Reply::Value(value)) => writer.bulk(value),
        Ok(Reply::Values(values)) => {
            writer.array(values.left());
            for value in values {
                match value {
                    Some(value) => writer.bulk(value),
                    None => writer.null(),
                }
            }
        }
        Ok(Reply::Failed(failure)) => writer.error(failure.to_string()),
        Err(error) => writer.error(format!("ERR the state machine's reply is {error}")),
    }
}
