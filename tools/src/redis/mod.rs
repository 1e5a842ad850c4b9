//! The Redis-cluster-style front door of a node: stock clients speak RESP2 or RESP3 with it as with a node of a Redis Cluster.
//!
//! On each core it accepts connections of its own (SO_REUSEPORT); a connection's requests go from there to whatever core its
//! groups live on. From the socket inwards:
//!
//! - `net`: sockets and tasks. The only part that knows the runtime.
//! - `desk`: the front door of one core as a state machine: bytes and answers in, requests and bytes out. Everything below has no clock,
//!   no socket and no engine, but a `Backend`, so that order, parking and timeouts are tested as they are.
//! - `request`: the parser, and why it is not a crate's. `reply`: the encoder.
//! - `commands`, `table`: what each command does and how COMMAND describes it. `barrier`: the ones that need all groups or cores.
//! - `session`, `ring`, `lanes`: one connection, its unanswered requests, their order and their waiting for leaders.
//! - `admin`: what operators ask: groups, their leaders, the draining of a node.
//! - `cluster`, `slots`, `info`: what clients are told about nodes, slots and state.
//!
//! Semantics worth knowing:
//!
//! - A slot belongs to a group (group g of G owns `[(g-1)*16384/G, g*16384/G)`), and is served by its leader; others answer MOVED.
//! - Replies keep the order of requests; requests of a connection to one group take effect in order, too. GET is linearizable; after
//!   READONLY nodes that do not lead answer reads from what they applied, which may be stale.
//! - A request that finds no leader was never appended. It waits (bounded in number, bytes and time, see [`Limits`]), then gets
//!   `-CLUSTERDOWN`. `-BUSY` and `-OUTOFSPACE` also mean that nothing was written. `-INDETERMINATE` means it may or may not have been.
//! - DBSIZE and INFO's keyspace count the keys of the groups this node leads, as a node of a Redis Cluster counts its own.
//! - WAIT answers how many other nodes have all acknowledged writes for certain (a majority less the leader), at once: it never waits for more.
//!
//! Deliberately absent: every command whose behaviour would differ from that of Redis. They get `-ERR unknown command`.

mod admin;
mod backend;
mod barrier;
mod cluster;
mod commands;
mod config;
mod desk;
#[cfg(test)]
mod fake;
mod hub;
mod info;
mod lanes;
mod listen;
mod net;
mod reply;
mod request;
mod ring;
mod session;
mod slots;
mod table;

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

pub use config::{FrontDoorConfig, FrontDoorError, Limits};
use logdrive::runtime::{CoreClient, Service};

use backend::Topology;
use desk::Desk;
use hub::{Hub, Shared};
use net::{Front, PortBackend};

/// Opens the client address (an address in use is an error here, before anything is started) and returns what
/// [`Engine::start`](logdrive::runtime::Engine::start) runs on each core.
pub fn service(config: FrontDoorConfig) -> Result<Box<Service>, FrontDoorError> {
    config.check()?;
    let first = listen::listen_patiently(config.listen)?;
    service_on(first, config)
}

/// As [`service`], on a socket that listens already and that nobody else listens with: for programs that must know the port before
/// the node starts.
pub fn service_on(listener: TcpListener, config: FrontDoorConfig) -> Result<Box<Service>, FrontDoorError> {
    config.check()?;
    let listeners = listen::share(listener, config.cores)?;
    let listeners: Vec<_> = listeners.into_iter().map(|listener| Mutex::new(Some(listener))).collect();
    let shared = Arc::new(Shared::new(config.cores));
    Ok(Box::new(move |client: CoreClient| {
        let core = usize::from(client.core().0);
        let listener = listeners.get(core).and_then(|place| {
            // A panic elsewhere cannot have left the socket half taken.
            place.lock().unwrap_or_else(PoisonError::into_inner).take()
        });
        let (shared, config) = (shared.clone(), config.clone());
        Box::pin(async move {
            match listener {
                Some(listener) => run(client, listener, shared, config).await,
                None => {
                    tracing::error!(core, "the front door was opened for fewer cores than the engine has")
                }
            }
        })
    }))
}

async fn run(client: CoreClient, listener: TcpListener, shared: Arc<Shared>, config: FrontDoorConfig) {
    let topology = Topology::new(config.cluster, client.node(), &client.nodes(), client.groups());
    let Some(topology) = topology else {
        tracing::error!("the engine's nodes or groups are not those the front door was checked with");
        return;
    };
    let port = Rc::new(client.open_port());
    let backend = PortBackend { client: client.clone(), port: port.clone() };
    let core = usize::from(client.core().0);
    let hub = Hub::new(backend, topology, config.limits, config.payload_bytes_max, shared, core);
    Front::serve((client, config.cluster), port, Desk::new(hub), listen::adopt(listener)).await;
}
