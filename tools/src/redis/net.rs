//! The sockets of one core's front door.
//!
//! One task per connection reads; what the engine answers is taken by one task per core, which writes to all connections it has
//! answers for without waking their tasks. A connection's own task writes only when its socket was full.

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use logdrive::api::{Completions, ReadPolicy};
use logdrive::runtime::{CoreClient, Port};
use logdrive_shard::{GroupId, Moment, NodeId};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::admin;
use super::backend::{Backend, Topology};
use super::barrier::NodeStatus;
use super::desk::Desk;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one connection before another task gets its turn.
const READS_PER_POLL: usize = 4;
/// How often parked requests and the end of the engine are looked for.
const TICK: Duration = Duration::from_millis(10);
/// The same while a request is parked.
const TICK_PARKED: Duration = Duration::from_millis(2);
/// At the end, answers under way are waited for this long.
const DRAIN: Duration = Duration::from_secs(1);
/// Pause after an accept that failed (no file descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The engine's API of this core.
pub(crate) struct PortBackend {
    pub(crate) client: CoreClient,
    pub(crate) port: Rc<Port>,
}

impl Backend for PortBackend {
    fn leader_of(&self, group: GroupId) -> NodeId {
        self.client.leader_of(group)
    }

    fn leadership_epoch(&self) -> u64 {
        self.client.leadership_epoch()
    }

    fn propose(&mut self, token: u64, group: GroupId, payload: &[u8]) {
        self.port.propose(token, group, payload);
    }

    fn read(&mut self, token: u64, group: GroupId, policy: ReadPolicy, request: &[u8]) {
        self.port.read(token, group, policy, request);
    }
}

struct Socket {
    stream: TcpStream,
    /// The connection's task.
    waker: Option<Waker>,
    /// The socket's buffer was full: the task writes the rest.
    is_full: bool,
    /// The task waits for input.
    is_reading: bool,
}

struct Door {
    desk: Desk<PortBackend>,
    /// By the connection's key.
    sockets: Vec<Option<Socket>>,
    touched: Vec<u32>,
    /// Input of whatever connection is being read.
    input: Box<[u8]>,
    stopping: bool,
    finished: bool,
    /// Of the nodes that clients are told of.
    nodes_epoch: u64,
    accept_waker: Option<Waker>,
    answers_waker: Option<Waker>,
}

/// The front door of one core.
pub(crate) struct Front {
    client: CoreClient,
    cluster: u64,
    started: Moment,
    door: RefCell<Door>,
}

impl Front {
    /// Serves clients until the engine stops.
    pub(crate) async fn serve(
        (client, cluster): (CoreClient, u64),
        port: Rc<Port>,
        desk: Desk<PortBackend>,
        listener: TcpListener,
    ) {
        let front = Rc::new(Front {
            started: Moment(client.now_nanos()),
            client,
            cluster,
            door: RefCell::new(Door {
                desk,
                sockets: Vec::new(),
                touched: Vec::new(),
                input: vec![0; READ_BYTES].into_boxed_slice(),
                stopping: false,
                finished: false,
                // Whatever was added before the first tick is found by it.
                nodes_epoch: 0,
                accept_waker: None,
                answers_waker: None,
            }),
        });
        front.client.spawn(front.clone().take_answers(port));
        front.client.spawn(front.clone().accept(listener));
        front.tick_until_stopped().await;
        front.drain().await;
    }

    fn now(&self) -> Moment {
        Moment(self.client.now_nanos())
    }

    async fn tick_until_stopped(self: &Rc<Self>) {
        while !self.client.is_stopping() {
            let pause = if self.door.borrow().desk.is_waiting() { TICK_PARKED } else { TICK };
            self.client.sleep(pause).await;
            self.tick();
        }
    }

    fn tick(self: &Rc<Self>) {
        let mut door = self.door.borrow_mut();
        let epoch = self.client.nodes_epoch();
        if epoch != door.nodes_epoch {
            door.nodes_epoch = epoch;
            let (me, groups) = (self.client.node(), self.client.groups());
            if let Some(topology) = Topology::new(self.cluster, me, &self.client.nodes(), groups) {
                door.desk.hub.set_topology(topology);
            }
        }
        if door.desk.is_waiting() {
            let now = self.now();
            door.desk.on_tick(now);
            door.flush(now);
        }
        self.ask_status(&mut door);
    }

    /// Takes no connection and no request any more, and ends connections when what they asked is answered.
    async fn drain(self: &Rc<Self>) {
        self.door.borrow_mut().stop();
        let end = self.now().after(DRAIN);
        while self.door.borrow().desk.connections() > 0 && self.now() < end {
            self.client.sleep(TICK_PARKED).await;
            self.tick();
            self.door.borrow_mut().wake_all();
        }
        let mut door = self.door.borrow_mut();
        door.finished = true;
        door.wake_all();
    }

    /// The task that takes the engine's answers.
    async fn take_answers(self: Rc<Self>, port: Rc<Port>) {
        let mut answers = Completions::default();
        loop {
            let more = poll_fn(|context| {
                let mut door = self.door.borrow_mut();
                if door.finished {
                    return Poll::Ready(false);
                }
                set_waker(&mut door.answers_waker, context);
                port.poll_answers(context, &mut answers).map(|()| true)
            });
            if !more.await {
                return;
            }
            let now = self.now();
            let mut door = self.door.borrow_mut();
            door.desk.on_answers(now, &answers);
            door.flush(now);
            self.ask_status(&mut door);
        }
    }

    /// The task that accepts.
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let stopped = || {
            poll_fn(|context| {
                let mut door = self.door.borrow_mut();
                set_waker(&mut door.accept_waker, context);
                if door.stopping { Poll::Ready(None) } else { Poll::Pending }
            })
        };
        loop {
            let accepted = async { Some(listener.accept().await) };
            match futures_lite::future::or(stopped(), accepted).await {
                None => return,
                Some(Ok(stream)) => self.open(stream),
                Some(Err(error)) => {
                    tracing::warn!(%error, "a client connection could not be accepted");
                    self.client.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn open(self: &Rc<Self>, stream: TcpStream) {
        // Without it answers wait for the client's delayed acknowledgements; failing is no reason to refuse.
        let _ = stream.set_nodelay(true);
        let mut door = self.door.borrow_mut();
        let Some(key) = door.desk.open() else {
            let _ = send_now(&stream, b"-ERR max number of clients reached\r\n");
            return;
        };
        let place = key as usize;
        if door.sockets.len() <= place {
            door.sockets.resize_with(place + 1, || None);
        }
        door.sockets[place] = Some(Socket { stream, waker: None, is_full: false, is_reading: false });
        self.client.spawn(self.clone().converse(key));
    }

    /// The task of one connection.
    async fn converse(self: Rc<Self>, key: u32) {
        poll_fn(|context| {
            let mut door = self.door.borrow_mut();
            let result = door.poll_connection(context, key, || self.now());
            self.ask_status(&mut door);
            result
        })
        .await;
        let mut door = self.door.borrow_mut();
        door.desk.close(key);
        door.sockets[key as usize] = None;
    }

    /// Does what operators ask, and gets the node's status for the connections that need it.
    fn ask_status(self: &Rc<Self>, door: &mut Door) {
        for (key, seq, request) in door.desk.take_admin_wanted() {
            let front = self.clone();
            self.client.spawn(async move {
                let answer = admin::perform(&front.client, request).await;
                let mut door = front.door.borrow_mut();
                door.desk.on_admin(key, seq, &answer);
                door.flush(front.now());
                front.ask_status(&mut door);
            });
        }
        let wanted = door.desk.take_status_wanted();
        if wanted.is_empty() {
            return;
        }
        let front = self.clone();
        self.client.spawn(async move {
            let now = front.now();
            let status = NodeStatus {
                cores: front.client.node_status().await,
                peers: front.client.peers(),
                uptime_s: now.since(front.started).as_secs(),
                memory_bytes: resident_bytes(),
                runtime: front.client.counters(),
            };
            let mut door = front.door.borrow_mut();
            for (key, seq) in wanted {
                door.desk.on_status(key, seq, &status);
            }
            door.flush(front.now());
            front.ask_status(&mut door);
        });
    }
}

impl Door {
    /// Reads from and, if its socket was full, writes to a connection. Ready when it has ended.
    fn poll_connection(&mut self, context: &mut Context<'_>, key: u32, now: impl Fn() -> Moment) -> Poll<()> {
        for _ in 0..READS_PER_POLL {
            if self.finished || self.desk.is_finished(key) || (self.stopping && self.desk.is_idle(key)) {
                return Poll::Ready(());
            }
            let Some(socket) = self.sockets[key as usize].as_mut() else { return Poll::Ready(()) };
            if socket.is_full {
                match Pin::new(&mut socket.stream).poll_write(context, self.desk.output(key)) {
                    Poll::Ready(Ok(sent)) => {
                        self.desk.on_sent(now(), key, sent);
                        socket.is_full = !self.desk.output(key).is_empty();
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            socket.is_reading = self.desk.wants_input(key) && !self.stopping;
            if socket.is_reading {
                match Pin::new(&mut socket.stream).poll_read(context, &mut self.input) {
                    Poll::Ready(Ok(0)) => self.desk.on_end_of_input(key),
                    Poll::Ready(Ok(bytes)) => self.desk.on_input(now(), key, &self.input[..bytes]),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {
                        set_waker(&mut socket.waker, context);
                        return Poll::Pending;
                    }
                }
                self.flush(now());
                continue;
            }
            set_waker(&mut socket.waker, context);
            return Poll::Pending;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes to all connections that something happened to.
    fn flush(&mut self, now: Moment) {
        let mut touched = std::mem::take(&mut self.touched);
        self.desk.take_touched(&mut touched);
        for &key in &touched {
            self.flush_connection(now, key);
        }
        self.touched = touched;
    }

    fn flush_connection(&mut self, now: Moment, key: u32) {
        let Some(socket) = self.sockets.get_mut(key as usize).and_then(Option::as_mut) else { return };
        self.desk.resume(now, key);
        let mut is_broken = false;
        while !socket.is_full && !self.desk.output(key).is_empty() {
            match send_now(&socket.stream, self.desk.output(key)) {
                Ok(sent) => self.desk.on_sent(now, key, sent),
                Err(Errno::AGAIN) => socket.is_full = true,
                Err(Errno::INTR) => {}
                Err(_) => {
                    is_broken = true;
                    break;
                }
            }
        }
        if is_broken {
            // The task reads the error, or the end, and ends.
            self.desk.on_end_of_input(key);
            socket.is_full = true;
        }
        let resumes = !socket.is_reading && self.desk.wants_input(key);
        if (socket.is_full || resumes || self.desk.is_finished(key))
            && let Some(waker) = socket.waker.take()
        {
            waker.wake();
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.wake_all();
    }

    fn wake_all(&mut self) {
        let sockets = self.sockets.iter_mut().flatten().filter_map(|socket| socket.waker.take());
        let tasks = [self.accept_waker.take(), self.answers_waker.take()];
        sockets.chain(tasks.into_iter().flatten()).for_each(Waker::wake);
    }
}

fn set_waker(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

/// Sends what fits into the socket's buffer.
fn send_now(stream: &TcpStream, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the descriptor belongs to `stream`, which outlives this borrow of it.
    let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

/// This process's resident memory; 0 if the system does not tell.
fn resident_bytes() -> u64 {
    // A file of the kernel's memory: reading it does not wait for a disk.
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
