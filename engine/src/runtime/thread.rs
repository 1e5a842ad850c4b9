//! One core's thread: opens the log, runs the executor, follows orders to stop.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use logdrive_wal::{DurableWrites, RingDisk, RingOptions};

use crate::api::StateMachine;
use crate::core::{Core, CoreId, CoreOptions, Disks, Event, Fatal, OpenError};

use super::cell::{CoreCell, Scratch, Turned};
use super::client::CoreClient;
use super::connect::{self, Connector};
use super::fd;
use super::inbox::Item;
use super::notify::Notify;
use super::reply::Reply;
use super::shared::Node;
use super::start_error::StartError;
use super::{Service, clock};

/// What a core's thread starts with.
pub(crate) struct CoreStart {
    pub(crate) node: Arc<Node>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) id: CoreId,
    pub(crate) options: CoreOptions,
    pub(crate) dirs: Disks<std::path::PathBuf>,
    pub(crate) services: Arc<Vec<Box<Service>>>,
    /// Core 0 accepts for all.
    pub(crate) listener: Option<std::net::TcpListener>,
    /// Told once whether the core opened.
    pub(crate) opened: Sender<Result<(), StartError>>,
    /// Hangs up if another core did not open.
    pub(crate) go: Receiver<()>,
}

/// The body of a core's thread. A panic here would leave the node half alive: it ends the process instead.
pub(crate) fn run<M: StateMachine>(start: CoreStart, machine: impl FnOnce(CoreId) -> M) {
    let core = start.id.0;
    let result = catch_unwind(AssertUnwindSafe(|| open_and_run(start, machine)));
    if result.is_err() {
        eprintln!("logdrive: core {core} panicked (see above). The process ends; restart is recovery");
        std::process::abort();
    }
}

fn open_and_run<M: StateMachine>(start: CoreStart, machine: impl FnOnce(CoreId) -> M) {
    let CoreStart { node, connector, id, options, dirs, services, listener, opened, go } = start;
    let groups = options.groups.iter().map(|group| group.id).collect();
    let open = || -> Result<(LocalExecutor, Core<RingDisk, M>), StartError> {
        let executor = executor(&node, id, &dirs.log)?;
        let durable_writes = node.settings.runtime.durable_writes;
        let open = |dir, options| RingDisk::open(dir, options).map_err(|error| StartError::ring(id.0, error));
        let log = open(&dirs.log, RingOptions { durable_writes, ..RingOptions::default() })?;
        // Large files now and then: no registered memory, nothing that a probe would be worth, for files are synced as a whole, and
        // nobody waits for a chunk.
        let (durable_writes, background) = (DurableWrites::Dsync, true);
        let few = RingOptions {
            buffers: 0,
            queue_entries: 64,
            durable_writes,
            background,
            ..RingOptions::default()
        };
        let disks = Disks { log, snapshots: open(&dirs.snapshots, few)? };
        let progress = &mut |done, total| (node.settings.hooks.on_progress)(id, done, total);
        let core = Core::open(clock::now(), options, disks, machine(id), progress).map_err(|error| {
            let dir = match &error {
                OpenError::Snapshots(_) => dirs.snapshots.clone(),
                _ => dirs.log.clone(),
            };
            StartError::Log { core: id.0, dir, error }
        })?;
        Ok((executor, core))
    };
    let (executor, core) = match open() {
        Ok(open) => open,
        Err(error) => {
            // Nobody listens only if another core failed first.
            let _ = opened.send(Err(error));
            return;
        }
    };
    let told = opened.send(Ok(()));
    drop(opened);
    if told.is_err() || go.recv().is_err() {
        return;
    }
    executor.run(async move {
        let cell = CoreCell::new(node, id, core, groups);
        let life = Rc::new(Life::default());
        life.clone().run(cell, connector, services, listener).await;
    });
}

fn executor(node: &Node, id: CoreId, log_dir: &std::path::Path) -> Result<LocalExecutor, StartError> {
    let settings = &node.settings;
    let placement = match settings.pin_from {
        Some(first) => Placement::Fixed(first + usize::from(id.0)),
        None => Placement::Unbound,
    };
    let made = LocalExecutorBuilder::new(placement)
        .name(&format!("logdrive-{}-{}", settings.node, id.0))
        .io_memory(settings.runtime.io_memory_bytes)
        .preempt_timer(settings.runtime.preempt_timer)
        .spin_before_park(Duration::from_micros(settings.spin_us))
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make();
    made.map_err(|error| match RingDisk::open(log_dir, RingOptions::default()) {
        // The log's ring says more about what is missing.
        Err(ring) => StartError::ring(id.0, ring),
        Ok(_) => StartError::Executor { core: id.0, error: io::Error::from(error) },
    })
}

/// Orders that end a core, and what they wait for.
#[derive(Default)]
pub(crate) struct Life {
    services: Cell<usize>,
    service_ended: Notify,
    order: RefCell<Option<Order>>,
    ordered: Notify,
}

enum Order {
    Close(Reply<Result<(), Fatal>>),
    Abandon,
}

impl Life {
    async fn run<M: StateMachine>(
        self: Rc<Life>,
        cell: Rc<CoreCell<M>>,
        connector: Arc<Connector>,
        services: Arc<Vec<Box<Service>>>,
        listener: Option<std::net::TcpListener>,
    ) {
        let tasks = cell.base.tasks.clone();
        tasks.spawn(turns(cell.clone(), self.clone()));
        tasks.spawn(deadlines(cell.clone()));
        for of_snapshots in [false, true] {
            tasks.spawn(completions(cell.clone(), self.clone(), of_snapshots));
        }
        tasks.spawn(inbox(cell.clone(), connector.clone(), self.clone()));
        connect::start(&cell, &connector, listener);
        let client = CoreClient::new(cell.clone());
        for service in services.iter() {
            self.services.set(self.services.get() + 1);
            let (service, life) = (service(client.clone()), self.clone());
            tasks.spawn(async move {
                service.await;
                life.services.set(life.services.get() - 1);
                life.service_ended.notify();
            });
        }
        cell.base.turn.notify();
        let order = loop {
            self.ordered.notified().await;
            if let Some(order) = self.order.take() {
                break order;
            }
        };
        if matches!(order, Order::Close(_)) {
            drain(&cell).await;
        }
        cell.base.node.inbox(cell.base.id).close();
        cell.links.close_all();
        drop(client);
        tasks.cancel_all().await;
        let core = cell.take_core();
        cell.batches.borrow_mut().abandon();
        if let Order::Close(reply) = order {
            let closed = match core {
                Some(core) => core.close(clock::now()),
                None => Ok(()),
            };
            reply.send(closed);
        }
    }

    fn end(&self, order: Order) {
        self.order.borrow_mut().get_or_insert(order);
        self.ordered.notify();
    }
}

/// The turn task.
async fn turns<M: StateMachine>(cell: Rc<CoreCell<M>>, life: Rc<Life>) {
    let mut scratch = Scratch::default();
    loop {
        cell.base.turn.notified().await;
        match cell.turn(&mut scratch) {
            Turned::Done => {}
            Turned::BeforeSlice => {
                // Behind all that is ready: connections write what the turn answered, peers get their frames.
                futures_lite::future::yield_now().await;
                cell.slice();
            }
            Turned::Over => {
                life.end(Order::Abandon);
                return;
            }
        }
    }
}

/// Wakes the turn when the core's next deadline comes, and the executor every few milliseconds whatever happens (glommio can
/// park with runnable tasks).
async fn deadlines<M: StateMachine>(cell: Rc<CoreCell<M>>) {
    loop {
        let mut timer = glommio::timer::Timer::new(cell.arm());
        std::future::poll_fn(|context| {
            if cell.rearm.poll(context).is_ready() {
                return std::task::Poll::Ready(());
            }
            std::pin::Pin::new(&mut timer).poll(context).map(|_| ())
        })
        .await;
    }
}

/// Tells the core when one of its disks, that of the log or that of the snapshots, has completions.
async fn completions<M: StateMachine>(cell: Rc<CoreCell<M>>, life: Rc<Life>, of_snapshots: bool) {
    let event_fd = cell.with_core(|core| match of_snapshots {
        false => core.wal().disk().event_fd(),
        true => core.snapshot_disk().event_fd(),
    });
    let Some(event_fd) = event_fd else { return };
    let event = match fd::EventFd::duplicate(event_fd) {
        Ok(event) => event,
        Err(error) => {
            tracing::error!(%error, of_snapshots, "a disk's eventfd cannot be awaited");
            life.end(Order::Abandon);
            return;
        }
    };
    loop {
        if let Err(error) = event.readable().await {
            tracing::error!(%error, of_snapshots, "a disk's eventfd cannot be read");
            life.end(Order::Abandon);
            return;
        }
        // Only frames are refused.
        let _ = cell.input(if of_snapshots { Event::SnapshotDisk } else { Event::Disk });
    }
}

/// Takes what other threads bring.
async fn inbox<M: StateMachine>(cell: Rc<CoreCell<M>>, connector: Arc<Connector>, life: Rc<Life>) {
    let mut scratch = Scratch::default();
    let mut items = Vec::new();
    let node = cell.base.node.clone();
    loop {
        let inbox = node.inbox(cell.base.id);
        std::future::poll_fn(|context| inbox.poll_signal(context)).await;
        cell.take_lanes(&mut scratch);
        inbox.take(&mut items);
        for item in items.drain(..) {
            take_item(&cell, &connector, &life, item);
        }
    }
}

fn take_item<M: StateMachine>(
    cell: &Rc<CoreCell<M>>,
    connector: &Arc<Connector>,
    life: &Rc<Life>,
    item: Item,
) {
    match item {
        Item::Propose { slot, payloads, reply } => cell.propose_batch(slot, &payloads, reply),
        Item::Session { slot, op, reply } => cell.session_one(slot, &op, reply),
        Item::Read { slot, policy, request, reply } => cell.read_one(slot, policy, &request, reply),
        Item::Transfer { slot, to, reply } => cell.transfer_one(slot, to, reply),
        Item::CancelTransfer { slot, reply } => cell.cancel_transfer(slot, reply),
        Item::Change { slot, change, reply } => cell.change_one(slot, &change, reply),
        Item::Snapshot { slot, reply } => cell.snapshot_one(slot, reply),
        Item::Campaign { slot, reply } => {
            let (now, give_up) = (cell.now(), give_up_at(cell));
            let mut campaigns = cell.campaigns.borrow_mut();
            let me = cell.base.node.settings.node;
            cell.with_core(|core| campaigns.begin(now, core, give_up, (slot, me), reply));
            cell.base.turn.notify();
        }
        Item::AddNode(node, reply) => {
            cell.base.tasks.spawn(connect::add_node(cell.base.node.clone(), connector.clone(), node, reply));
        }
        Item::Dial(peer) => connect::dial(cell, connector, peer),
        Item::Drain(draining, reply) => {
            let _ = cell.input(Event::Drain(draining));
            reply.send(());
        }
        Item::GroupList(reply) => {
            let mut list = Vec::new();
            if cell.with_core(|core| core.group_list(&mut list)).is_some() {
                reply.send(list);
            }
        }
        Item::Status(reply) => {
            if let Some(status) = cell.with_core(|core| core.status()) {
                reply.send(status);
            }
        }
        Item::GroupStatus(slot, reply) => {
            if let Some(status) = cell.with_core(|core| core.group_status(slot)) {
                reply.send(status);
            }
        }
        Item::GroupDigest(slot, reply) => {
            if let Some(digest) = cell.with_core(|core| core.group_digest(slot)) {
                reply.send(digest);
            }
        }
        Item::Accepted { socket, hello, permit } => connect::adopt(cell, connector, socket, *hello, permit),
        Item::HandOver(reply) => cell.base.tasks.spawn(hand_over(cell.clone(), reply)),
        Item::StopServices(reply) => cell.base.tasks.spawn(stop_services(cell.clone(), life.clone(), reply)),
        Item::Close(reply) => life.end(Order::Close(reply)),
        Item::Abandon => life.end(Order::Abandon),
    }
}

/// When whoever waits for a campaign is told that it was in vain.
fn give_up_at<M: StateMachine>(cell: &CoreCell<M>) -> logdrive_shard::Moment {
    let shard = &cell.base.node.settings.core.shard;
    cell.now().after(shard.election_base * 2 + shard.election_spread)
}

/// How often a stopping core looks whether it may go on.
const STOP_POLL: Duration = Duration::from_millis(2);

/// Gives leadership away and waits until it is gone, or nobody is there to take it, or it takes too long.
async fn hand_over<M: StateMachine>(cell: Rc<CoreCell<M>>, reply: Reply<()>) {
    let _ = cell.input(Event::HandOver);
    let give_up = clock::now().after(cell.base.node.settings.runtime.hand_over_max);
    while clock::now() < give_up {
        glommio::timer::sleep(STOP_POLL).await;
        let status = cell.with_core(|core| core.status());
        if status.is_none_or(|status| status.leaders == 0 || status.links_alive == 0) {
            break;
        }
    }
    reply.send(());
}

async fn stop_services<M: StateMachine>(cell: Rc<CoreCell<M>>, life: Rc<Life>, reply: Reply<()>) {
    cell.base.node.stop_services();
    cell.base.stopping.open();
    let ended = async {
        while life.services.get() > 0 {
            life.service_ended.notified().await;
        }
    };
    let too_long = async {
        glommio::timer::sleep(cell.base.node.settings.runtime.services_stop_max).await;
        tracing::warn!(core = cell.base.id.0, "services did not return in time; they are cancelled");
    };
    futures_lite::future::or(ended, too_long).await;
    reply.send(());
}

/// Waits until all requests are answered, or it takes too long.
async fn drain<M: StateMachine>(cell: &Rc<CoreCell<M>>) {
    let give_up = clock::now().after(cell.base.node.settings.runtime.drain_max);
    while clock::now() < give_up {
        let waiting = cell.with_core(|core| core.requests_waiting()).unwrap_or(0);
        if waiting == 0 && cell.mesh_unanswered() == 0 {
            return;
        }
        glommio::timer::sleep(STOP_POLL).await;
    }
    tracing::warn!(
        core = cell.base.id.0,
        "requests were not answered in time; they may or may not take effect"
    );
}
