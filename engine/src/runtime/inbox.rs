//! What other threads bring to a core: the other cores of the node (lanes of the mesh) and the program that embeds it (a queue).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use logdrive_shard::{MembershipChange, Moment, NodeId};

use crate::api::{Busy, Error, ReadPolicy};
use crate::core::{CoreStatus, Fatal, GroupDigest, GroupStatus, GroupSummary, Slot};
use crate::mesh::Lane;

use crate::wire::handshake::Hello;

use super::connect::Permit;
use super::identity::AddNodeError;
use super::reply::Reply;
use super::session::SessionRequest;
use super::settings::PeerAddress;
use super::shared::Peer;

/// The reply of a state machine, or why there is none.
pub(crate) type Outcome = Result<Vec<u8>, Error>;

/// A message to a core from any thread.
pub(crate) enum Item {
    /// Proposals to one group, answered together.
    Propose { slot: Slot, payloads: Vec<Vec<u8>>, reply: Reply<Vec<Outcome>> },
    /// An operation on a session of one group.
    Session { slot: Slot, op: SessionRequest, reply: Reply<Vec<Outcome>> },
    /// A read.
    Read { slot: Slot, policy: ReadPolicy, request: Vec<u8>, reply: Reply<Vec<Outcome>> },
    /// A leader transfer; answered as a proposal is, with the node that leads.
    Transfer { slot: Slot, to: NodeId, reply: Reply<Vec<Outcome>> },
    /// The end of one; answered with the node that it went to.
    CancelTransfer { slot: Slot, reply: Reply<Vec<Outcome>> },
    /// Another configuration; answered as a proposal is, with the index.
    Change { slot: Slot, change: MembershipChange, reply: Reply<Vec<Outcome>> },
    /// A snapshot; answered as a proposal is, with the index, when it is durable.
    Snapshot { slot: Slot, reply: Reply<Vec<Outcome>> },
    /// A campaign; answered when this member leads, or when it was not elected in time.
    Campaign { slot: Slot, reply: Reply<Result<(), Error>> },
    /// Make a node known, durably, to all cores.
    AddNode(PeerAddress, Reply<Result<(), AddNodeError>>),
    /// A node was made known: it is to be dialled, if that is this node's part.
    Dial(Arc<Peer>),
    /// Move leaders off and keep them off, or let them come back.
    Drain(bool, Reply<()>),
    /// All groups of the core.
    GroupList(Reply<Vec<GroupSummary>>),
    /// Counts of the core.
    Status(Reply<CoreStatus>),
    /// State of a group.
    GroupStatus(Slot, Reply<GroupStatus>),
    /// Digest of a group's state.
    GroupDigest(Slot, Reply<GroupDigest>),
    /// A connection of a peer that asked for this core, accepted by core 0, with the first message of its handshake.
    Accepted { socket: OwnedFd, hello: Box<Hello>, permit: Permit },
    /// Hand leadership over; answered when that is done or takes too long.
    HandOver(Reply<()>),
    /// Tell services to stop; answered when they returned or take too long.
    StopServices(Reply<()>),
    /// Answer what is under way, close the log, end.
    Close(Reply<Result<(), Fatal>>),
    /// End at once, as a crash would.
    Abandon,
}

impl Item {
    fn payload_bytes(&self) -> u64 {
        match self {
            Item::Propose { payloads, .. } => payloads.iter().map(|p| p.len() as u64).sum(),
            Item::Session { op, .. } => op.command.len() as u64,
            Item::Read { request, .. } => request.len() as u64,
            _ => 0,
        }
    }

    fn requests(&self) -> u32 {
        match self {
            Item::Propose { payloads, .. } => payloads.len() as u32,
            Item::Session { .. }
            | Item::Read { .. }
            | Item::Change { .. }
            | Item::Transfer { .. }
            | Item::CancelTransfer { .. }
            | Item::Snapshot { .. } => 1,
            _ => 0,
        }
    }
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    requests: u32,
    bytes: u64,
    closed: bool,
}

/// One core's inbox. One wake, however much is put in before the core looks.
pub(crate) struct Inbox {
    /// By the core that fills it.
    lanes: Vec<Lane>,
    queue: Mutex<Queue>,
    signalled: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// When the core is awake again at the latest, by what it has armed; 0: it has not begun.
    awake_by: AtomicU64,
    requests_max: u32,
    bytes_max: u64,
}

impl Inbox {
    pub(crate) fn new(cores: u16, requests_max: u32, bytes_max: u64) -> Inbox {
        Inbox {
            lanes: (0..cores).map(|_| Lane::default()).collect(),
            queue: Mutex::default(),
            signalled: AtomicBool::new(false),
            waker: Mutex::new(None),
            awake_by: AtomicU64::new(0),
            requests_max,
            bytes_max,
        }
    }

    pub(crate) fn lane(&self, from: usize) -> &Lane {
        &self.lanes[from]
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Adds an item. Requests are refused over the bound, and everything once the core has ended.
    pub(crate) fn put(&self, item: Item) -> Result<(), Error> {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.closed {
                return Err(Error::Stopped);
            }
            let (requests, bytes) = (item.requests(), item.payload_bytes());
            // One item is always let in: a batch larger than the bound must be possible at some time.
            if requests > 0
                && queue.requests > 0
                && (queue.requests.saturating_add(requests) > self.requests_max
                    || queue.bytes + bytes > self.bytes_max)
            {
                return Err(Error::Busy { why: Busy::Queue, retry_after: Duration::from_millis(1) });
            }
            queue.requests += requests;
            queue.bytes += bytes;
            queue.items.push(item);
        }
        self.signal();
        Ok(())
    }

    /// Takes all items into `items`, which must be empty.
    pub(crate) fn take(&self, items: &mut Vec<Item>) {
        debug_assert!(items.is_empty());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.items, items);
        queue.requests = 0;
        queue.bytes = 0;
    }

    /// Wakes the core, once until it looks.
    pub(crate) fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// The core has armed a timer for then. Told before each.
    pub(crate) fn awake_by(&self, at: Moment) {
        self.awake_by.store(at.0, Ordering::Relaxed);
    }

    /// Wakes the core's executor, whatever it believes, if it should have been awake so long ago. Whether it was so.
    pub(crate) fn rouse_if_due(&self, now: Moment, late: Duration) -> bool {
        let awake_by = self.awake_by.load(Ordering::Relaxed);
        if awake_by == 0 || now <= Moment(awake_by).after(late) {
            return false;
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        waker.as_ref().inspect(|waker| waker.wake_by_ref()).is_some()
    }

    /// For the one task of the core that looks after the inbox. The waker of its first poll is kept: a waker that crosses
    /// threads costs more than one that stays, and the task never changes.
    pub(crate) fn poll_signal(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.signalled.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if waker.is_none() {
            *waker = Some(context.waker().clone());
            drop(waker);
            // What was put in before the waker was there woke nobody.
            if self.signalled.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// The core ends: nothing more is taken, what waits is dropped (its senders learn that), the waker goes.
    pub(crate) fn close(&self) {
        let dropped = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.closed = true;
            std::mem::take(&mut queue.items)
        };
        drop(dropped);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::reply::reply;

    fn proposal(bytes: usize, count: usize) -> (Item, crate::runtime::reply::Waiting<Vec<Outcome>>) {
        let (sender, waiting) = reply();
        (Item::Propose { slot: Slot(0), payloads: vec![vec![0; bytes]; count], reply: sender }, waiting)
    }

    #[derive(Default)]
    struct Count(AtomicU64);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_core_that_is_late_is_woken_though_it_was_signalled_before() {
        let late = Duration::from_nanos(100);
        let inbox = Inbox::new(1, 3, 100);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        assert!(!inbox.rouse_if_due(Moment(1_000), late), "it has not begun");
        inbox.awake_by(Moment(500));
        assert!(!inbox.rouse_if_due(Moment(1_000), late), "there is nobody to wake");
        assert!(inbox.poll_signal(&mut Context::from_waker(&waker)).is_pending());
        inbox.signal();
        inbox.signal();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "once until it looks");
        assert!(!inbox.rouse_if_due(Moment(600), late));
        assert!(inbox.rouse_if_due(Moment(601), late) && inbox.rouse_if_due(Moment(700), late));
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        inbox.close();
        assert!(!inbox.rouse_if_due(Moment(1_000), late), "it has ended");
    }

    #[test]
    fn requests_over_the_bound_are_busy_and_a_closed_inbox_is_stopped() {
        let inbox = Inbox::new(1, 3, 100);
        assert_eq!(inbox.put(proposal(10, 2).0), Ok(()));
        assert!(matches!(inbox.put(proposal(10, 2).0), Err(Error::Busy { why: Busy::Queue, .. })));
        assert!(matches!(inbox.put(proposal(90, 1).0), Err(Error::Busy { why: Busy::Queue, .. })));
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert_eq!(items.len(), 1);
        // One batch over the bound is taken when nothing else waits.
        let (item, waiting) = proposal(10, 20);
        assert_eq!(inbox.put(item), Ok(()));
        inbox.close();
        assert_eq!(waiting.wait(), None);
        assert_eq!(inbox.put(proposal(1, 1).0), Err(Error::Stopped));
    }
}
