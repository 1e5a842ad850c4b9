//! Connections between the cores of different nodes: who dials, the handshake, what becomes of a link.
//!
//! One connection per pair of cores. The node with the lower id dials; a core that does not know how many cores the other node
//! has dials core 0 and learns it there. Core 0 accepts for its node, reads who is meant, and hands the socket over.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use logdrive_shard::NodeId;

use crate::api::StateMachine;
use crate::core::{CoreId, Event};
use crate::wire::handshake::{
    HANDSHAKE_HEADER_LEN, HELLO_BYTES_MAX, Handshake, HandshakeError, Hello, Reject, handshake_len,
};

use super::cell::CoreCell;
use super::fd;
use super::identity::{AddNodeError, Memory, NotSaved};
use super::inbox::Item;
use super::links::{Connection, Link, LinkEnd, run_link};
use super::reply::Reply;
use super::settings::{PeerAddress, RuntimeSettings};
use super::shared::{Node, Peer, count};

/// What the connections of all cores of a node share.
pub(crate) struct Connector {
    pub(crate) memory: Memory,
    handshakes: AtomicU32,
}

impl Connector {
    pub(crate) fn new(memory: Memory) -> Connector {
        Connector { memory, handshakes: AtomicU32::new(0) }
    }
}

/// One of the accepted connections whose handshake is under way.
pub(crate) struct Permit {
    connector: Arc<Connector>,
}

impl Permit {
    fn take(connector: &Arc<Connector>, max: u32) -> Option<Permit> {
        if connector.handshakes.fetch_add(1, Ordering::AcqRel) >= max {
            connector.handshakes.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Permit { connector: connector.clone() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connector.handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a handshake did not end in a link.
#[derive(Debug, thiserror::Error)]
enum HandshakeFailed {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Garbage(#[from] HandshakeError),
    #[error("an unexpected message")]
    Unexpected,
    #[error("{0}")]
    NotSaved(#[from] NotSaved),
    #[error("no answer in time")]
    TimedOut,
    #[error("we refuse: {0}")]
    Refused(Reject),
    #[error("the other side refuses: {0}")]
    RefusedByPeer(Reject),
}

/// Begins to accept and to dial.
pub(crate) fn start<M: StateMachine>(
    cell: &Rc<CoreCell<M>>,
    connector: &Arc<Connector>,
    listener: Option<std::net::TcpListener>,
) {
    if let Some(listener) = listener {
        let listener = fd::listener(listener);
        cell.base.tasks.spawn(accept(cell.clone(), connector.clone(), listener));
    }
    for peer in cell.base.node.peers() {
        dial(cell, connector, peer);
    }
}

/// Begins to dial a node, if that is this node's part.
pub(crate) fn dial<M: StateMachine>(cell: &Rc<CoreCell<M>>, connector: &Arc<Connector>, peer: Arc<Peer>) {
    if peer.node > cell.base.node.settings.node {
        let dialler = Dialler { cell: cell.clone(), connector: connector.clone(), peer };
        cell.base.tasks.spawn(dialler.dial_node());
    }
}

/// Makes a node known: durably first, then to those who judge handshakes, then to those who dial.
pub(crate) async fn add_node(
    node: Arc<Node>,
    connector: Arc<Connector>,
    address: PeerAddress,
    reply: Reply<Result<(), AddNodeError>>,
) {
    let is_address = |text: &str| {
        text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    // An embedding program need not have clients.
    let has_clients = address.client.is_empty() || is_address(&address.client);
    if !address.node.is_some() || !is_address(&address.peer) || !has_clients {
        return reply.send(Err(AddNodeError::Invalid { node: address.node }));
    }
    let added = connector.memory.add_node(address.clone()).await;
    if added.is_ok()
        && let Some(peer) = node.add_peer(address)
    {
        tracing::info!(peer = peer.node.0, "a node was added");
        for inbox in &node.inboxes {
            // A core that ended dials nobody.
            let _ = inbox.put(Item::Dial(peer.clone()));
        }
    }
    reply.send(added);
}

// -- accepting --------------------------------------------------------------------------------------------------------

/// A pause after accept failed (out of descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept<M: StateMachine>(cell: Rc<CoreCell<M>>, connector: Arc<Connector>, listener: TcpListener) {
    let counters = &cell.base.node.counters;
    loop {
        let socket = match listener.accept().await {
            Ok(stream) => fd::socket_of(&stream),
            Err(error) => Err(error.into()),
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of peers");
                glommio::timer::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        count(&counters.accepted);
        match Permit::take(&connector, cell.base.node.settings.runtime.handshakes_max) {
            Some(permit) => cell.base.tasks.spawn(greet(cell.clone(), socket, permit)),
            None => count(&counters.handshakes_over_limit),
        }
    }
}

/// Reads who is meant and hands the connection to that core.
async fn greet<M: StateMachine>(cell: Rc<CoreCell<M>>, socket: OwnedFd, permit: Permit) {
    let node = &cell.base.node;
    let from = peer_name(&socket);
    let greeted = async {
        let connection = Connection::new(socket, &node.settings.runtime)?;
        let bytes =
            within(node.settings.runtime.handshake_timeout, read_message(&connection, HELLO_BYTES_MAX))
                .await?;
        let Handshake::Hello(hello) = Handshake::decode(&bytes)? else {
            return Err(HandshakeFailed::Unexpected);
        };
        let cores = node.settings.cores;
        if hello.to_core.0 >= cores {
            let reject = Reject::NoSuchCore { core: hello.to_core.0, cores };
            return Err(refuse(&connection, reject).await);
        }
        Ok((connection.into_socket(), hello))
    };
    match greeted.await {
        Ok((socket, hello)) => {
            let item = Item::Accepted { socket, hello: Box::new(hello), permit };
            // A core that ended drops the connection.
            let _ = node.inbox(hello.to_core).put(item);
        }
        Err(error) => {
            count(&node.counters.handshakes_failed);
            tracing::info!(%from, %error, "a connection to the peer address was closed");
        }
    }
}

/// Goes on with a handshake that core 0 began.
pub(crate) fn adopt<M: StateMachine>(
    cell: &Rc<CoreCell<M>>,
    connector: &Arc<Connector>,
    socket: OwnedFd,
    hello: Hello,
    permit: Permit,
) {
    let (task_cell, connector) = (cell.clone(), connector.clone());
    cell.base.tasks.spawn(async move {
        let cell = task_cell;
        let timeout = cell.base.node.settings.runtime.handshake_timeout;
        let from = peer_name(&socket);
        let shaken = within(timeout, answer(&cell, &connector, socket, &hello)).await;
        drop(permit);
        match shaken {
            Ok((link, peer)) => live(&cell, &connector, &link, &peer, &hello).await,
            Err(error) => {
                count(&cell.base.node.counters.handshakes_failed);
                note_failure(cell.base.node.peer(hello.node).as_deref(), &from, &error);
            }
        }
    });
}

async fn answer<M: StateMachine>(
    cell: &Rc<CoreCell<M>>,
    connector: &Connector,
    socket: OwnedFd,
    hello: &Hello,
) -> Result<(Rc<Link>, Arc<Peer>), HandshakeFailed> {
    let connection = Connection::new(socket, &cell.base.node.settings.runtime)?;
    let version = match connector.memory.judge(hello, durable_end(cell), None) {
        Ok(version) => version,
        Err(reject) => return Err(refuse(&connection, reject).await),
    };
    let Some(peer) = cell.base.node.peer(hello.node) else {
        return Err(refuse(&connection, Reject::UnknownNode { node: hello.node }).await);
    };
    connector.memory.remember(hello).await?;
    send(&connection, &Handshake::Hello(our_hello(cell, connector, hello.node, hello.core))).await?;
    let Handshake::Groups(theirs) = receive(&connection).await? else {
        return Err(HandshakeFailed::Unexpected);
    };
    if let Err(reject) = theirs.check(hello) {
        return Err(refuse(&connection, reject).await);
    }
    send(&connection, &Handshake::Groups(our_groups(cell)?)).await?;
    Ok((link_up(cell, connection, version, &theirs)?, peer))
}

// -- dialling ---------------------------------------------------------------------------------------------------------

/// Keeps the connections of this core to the cores of one node.
struct Dialler<M: StateMachine> {
    cell: Rc<CoreCell<M>>,
    connector: Arc<Connector>,
    peer: Arc<Peer>,
}

impl<M: StateMachine> Clone for Dialler<M> {
    fn clone(&self) -> Dialler<M> {
        Dialler { cell: self.cell.clone(), connector: self.connector.clone(), peer: self.peer.clone() }
    }
}

impl<M: StateMachine> Dialler<M> {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Dials core 0, and each other core once it is known to exist.
    async fn dial_node(self) {
        let dialled = Rc::new(Cell::new(1));
        let others = self.clone();
        self.dial_core(CoreId(0), move |cores| {
            for core in dialled.get()..cores {
                others.cell.base.tasks.spawn(others.clone().dial_core(CoreId(core), |_| {}));
            }
            dialled.set(dialled.get().max(cores));
        })
        .await;
    }

    async fn dial_core(self, core: CoreId, on_cores: impl Fn(u16)) {
        let runtime = &self.cell.base.node.settings.runtime;
        let mut backoff = Backoff::new(runtime);
        loop {
            // The other node may come back with fewer cores.
            if core.0 == 0 || core.0 < self.peer().cores.load(Ordering::Relaxed) {
                match self.dial(core).await {
                    Ok((link, hello)) => {
                        backoff.reset();
                        on_cores(hello.cores);
                        live(&self.cell, &self.connector, &link, self.peer(), &hello).await;
                    }
                    Err(error) => {
                        count(&self.cell.base.node.counters.dials_failed);
                        let from = format!("node {} core {}", self.peer().node, core.0);
                        note_failure(Some(self.peer()), &from, &error);
                    }
                }
            }
            glommio::timer::sleep(backoff.next()).await;
        }
    }

    async fn dial(&self, core: CoreId) -> Result<(Rc<Link>, Hello), HandshakeFailed> {
        let runtime = &self.cell.base.node.settings.runtime;
        let address = self.resolve().await?;
        let stream =
            TcpStream::connect_timeout(address, runtime.connect_timeout).await.map_err(io::Error::from)?;
        let connection = Connection::new(fd::socket_of(&stream)?, runtime)?;
        drop(stream);
        within(runtime.handshake_timeout, self.ask(connection, core)).await
    }

    async fn ask(&self, connection: Connection, core: CoreId) -> Result<(Rc<Link>, Hello), HandshakeFailed> {
        let (cell, peer) = (&self.cell, self.peer());
        send(&connection, &Handshake::Hello(our_hello(cell, &self.connector, peer.node, core))).await?;
        let Handshake::Hello(hello) = receive(&connection).await? else {
            return Err(HandshakeFailed::Unexpected);
        };
        let version = match self.connector.memory.judge(&hello, durable_end(cell), Some((peer.node, core))) {
            Ok(version) => version,
            Err(reject) => return Err(refuse(&connection, reject).await),
        };
        self.connector.memory.remember(&hello).await?;
        send(&connection, &Handshake::Groups(our_groups(cell)?)).await?;
        let Handshake::Groups(theirs) = receive(&connection).await? else {
            return Err(HandshakeFailed::Unexpected);
        };
        if let Err(reject) = theirs.check(&hello) {
            return Err(refuse(&connection, reject).await);
        }
        Ok((link_up(cell, connection, version, &theirs)?, hello))
    }

    /// The address of the peer; names are looked up each time, because they may move.
    async fn resolve(&self) -> io::Result<SocketAddr> {
        let node = &self.cell.base.node;
        let name = node.roll.peer_address(self.peer().node).unwrap_or_default();
        if let Ok(address) = name.parse() {
            return Ok(address);
        }
        let looked_up = name.clone();
        // A panic in the pool would leave this task waiting for ever.
        let found = glommio::executor()
            .spawn_blocking(move || catch_unwind(|| looked_up.to_socket_addrs().map(|mut all| all.next())))
            .await;
        match found {
            Ok(Ok(Some(address))) => Ok(address),
            Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("cannot look up {name}: {error}"))),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("no address is known for {name}"))),
        }
    }
}

/// The pause between dials: doubles with each failure, between half and all of it by chance, so that nodes that failed
/// together do not dial together.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: RandomState,
    draws: u64,
}

impl Backoff {
    fn new(settings: &RuntimeSettings) -> Backoff {
        let (min, max) = (settings.dial_backoff_min, settings.dial_backoff_max);
        Backoff { min, max, next: min, random: RandomState::new(), draws: 0 }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        self.draws += 1;
        let jitter = self.random.hash_one(self.draws) % 1024;
        pause / 2 + pause / 2 * jitter as u32 / 1024
    }
}

// -- both sides -------------------------------------------------------------------------------------------------------

fn our_hello<M: StateMachine>(
    cell: &CoreCell<M>,
    connector: &Connector,
    to: NodeId,
    to_core: CoreId,
) -> Hello {
    connector.memory.hello(cell.base.id, durable_end(cell), to, to_core)
}

/// The end of what is durable in this core's log.
fn durable_end<M: StateMachine>(cell: &CoreCell<M>) -> u64 {
    cell.with_core(|core| core.wal().durable_end()).unwrap_or(0)
}

fn our_groups<M: StateMachine>(cell: &CoreCell<M>) -> Result<crate::wire::PeerHello, HandshakeFailed> {
    cell.with_core(|core| core.hello()).ok_or(HandshakeFailed::Refused(Reject::Stopping))
}

/// Tells the core of the link. An older connection to the same peer core ends.
fn link_up<M: StateMachine>(
    cell: &CoreCell<M>,
    connection: Connection,
    version: u16,
    theirs: &crate::wire::PeerHello,
) -> Result<Rc<Link>, HandshakeFailed> {
    let id = |cell: &CoreCell<M>| cell.with_core(|core| core.link_of(theirs.node, theirs.core)).flatten();
    if let Some(old) = id(cell).and_then(|id| cell.links.get(id)) {
        old.close();
        if cell.links.remove(&old) {
            let _ = cell.input(Event::LinkDown { link: old.id });
        }
    }
    let _ = cell.input(Event::LinkUp { hello: theirs });
    let Some(id) = id(cell) else { return Err(HandshakeFailed::Refused(Reject::Stopping)) };
    let link = Rc::new(Link::new(id, connection, version));
    cell.links.put(link.clone());
    Ok(link)
}

/// A link's life after its handshake.
async fn live<M: StateMachine>(
    cell: &Rc<CoreCell<M>>,
    connector: &Connector,
    link: &Rc<Link>,
    peer: &Peer,
    hello: &Hello,
) {
    peer.cores.store(hello.cores, Ordering::Relaxed);
    peer.links.fetch_add(1, Ordering::Relaxed);
    if peer.accept() {
        tracing::info!(peer = peer.node.0, "the peer is accepted again");
    }
    tracing::debug!(core = cell.base.id.0, peer = peer.node.0, peer_core = hello.core.0, "connected");
    let end =
        futures_lite::future::or(run_link(cell, link), remember_ends(cell, connector, link, hello)).await;
    peer.links.fetch_sub(1, Ordering::Relaxed);
    if let LinkEnd::Frame(error) = &end {
        count(&cell.base.node.counters.frames_refused);
        tracing::warn!(peer = peer.node.0, peer_core = hello.core.0, %error, "a peer sent garbage; the connection is closed");
    } else {
        tracing::info!(core = cell.base.id.0, peer = peer.node.0, peer_core = hello.core.0, reason = %end, "disconnected");
    }
    link.close();
    if cell.links.remove(link) {
        remember_end(cell, connector, link, hello);
        let _ = cell.input(Event::LinkDown { link: link.id });
    }
}

/// How often a node notes how far its peers' logs are durable.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(1);

async fn remember_ends<M: StateMachine>(
    cell: &CoreCell<M>,
    connector: &Connector,
    link: &Link,
    hello: &Hello,
) -> LinkEnd {
    loop {
        glommio::timer::sleep(REMEMBER_INTERVAL).await;
        remember_end(cell, connector, link, hello);
    }
}

fn remember_end<M: StateMachine>(cell: &CoreCell<M>, connector: &Connector, link: &Link, hello: &Hello) {
    if let Some(end) = cell.with_core(|core| core.peer_durable_end(link.id)) {
        connector.memory.remember_end(hello, end);
    }
}

fn note_failure(peer: Option<&Peer>, from: &str, error: &HandshakeFailed) {
    let refusal = matches!(error, HandshakeFailed::Refused(_) | HandshakeFailed::RefusedByPeer(_));
    match peer {
        // Dialled again and again: said once, and kept for the status.
        Some(peer) if refusal => {
            if peer.refuse(&error.to_string()) {
                tracing::warn!(%from, %error, "the peer is not connected");
            }
        }
        _ => tracing::debug!(%from, %error, "no connection"),
    }
}

/// Tells the other side why, and returns the error.
async fn refuse(connection: &Connection, reject: Reject) -> HandshakeFailed {
    // If it cannot be told, it learns from the closed connection.
    let _ = send(connection, &Handshake::Reject(reject)).await;
    HandshakeFailed::Refused(reject)
}

async fn send(connection: &Connection, message: &Handshake) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    connection.write_all(&bytes).await
}

/// The next message; a refusal is an error.
async fn receive(connection: &Connection) -> Result<Handshake, HandshakeFailed> {
    match Handshake::decode(&read_message(connection, usize::MAX).await?)? {
        Handshake::Reject(reject) => Err(HandshakeFailed::RefusedByPeer(reject)),
        message => Ok(message),
    }
}

async fn read_message(connection: &Connection, bytes_max: usize) -> Result<Vec<u8>, HandshakeFailed> {
    let mut bytes = vec![0; HANDSHAKE_HEADER_LEN];
    connection.read_exact(&mut bytes).await?;
    let len = handshake_len(&bytes)?;
    if len > bytes_max {
        return Err(HandshakeError::TooLong { len: len as u64, limit: bytes_max as u64 }.into());
    }
    bytes.resize(len, 0);
    connection.read_exact(&mut bytes[HANDSHAKE_HEADER_LEN..]).await?;
    Ok(bytes)
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, HandshakeFailed>>,
) -> Result<T, HandshakeFailed> {
    let too_long = async {
        glommio::timer::sleep(time).await;
        Err(HandshakeFailed::TimedOut)
    };
    futures_lite::future::or(work, too_long).await
}

fn peer_name(socket: &OwnedFd) -> String {
    socket2::SockRef::from(socket)
        .peer_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}
