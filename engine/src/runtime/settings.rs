//! What a node is started with.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use logdrive_shard::NodeId;

use crate::api::CoreSettings;
use crate::core::{CoreId, Fatal};

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its id.
    pub node: NodeId,
    /// Where its cores are reached, `host:port`.
    pub peer: String,
    /// Where its clients are sent, `host:port` (for redirects).
    pub client: String,
}

/// What a node is started with. Begin with [`NodeSettings::new`]: fields may be added.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The cluster; never changes.
    pub cluster: u64,
    /// This node; never changes.
    pub node: NodeId,
    /// The data directory.
    pub dir: PathBuf,
    /// Listens here for peers. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Listens on this socket, which is bound already, instead of `listen`: for clusters in one process, whose nodes must
    /// know each other's ports before the first one starts.
    pub listener: Option<Arc<TcpListener>>,
    /// All nodes, this one included.
    pub nodes: Vec<PeerAddress>,
    /// Groups 1 ..= groups.
    pub groups: u64,
    /// Executors of this node.
    pub cores: u16,
    /// Pin executors to CPUs from this one on; `None`: unpinned (nodes share cores).
    pub pin_from: Option<usize>,
    /// Spin so long before parking, microseconds. Only pinned executors spin.
    pub spin_us: u64,
    /// The directory may be new: this is the first start of this member, and of the cluster. The groups are founded with all
    /// of `nodes` as voters.
    pub bootstrap: bool,
    /// The directory may be new: this is the first start of this node, the cluster is there already. Its groups' members
    /// are what their leaders say; this node is none until it is made one. The other nodes must know it
    /// ([`crate::runtime::Engine::add_node`], or their configuration).
    pub join: bool,
    /// Settings of every core, the priorities of nodes as leaders included.
    pub core: CoreSettings,
    /// Bounds and times of what surrounds the cores.
    pub runtime: RuntimeSettings,
    /// What the node tells the program it runs in.
    pub hooks: Hooks,
}

impl NodeSettings {
    /// A node with one unpinned core and the defaults of everything else, in a directory that must exist already unless
    /// `bootstrap` is set.
    pub fn new(
        cluster: u64,
        node: NodeId,
        dir: impl Into<PathBuf>,
        listen: SocketAddr,
        nodes: Vec<PeerAddress>,
        groups: u64,
    ) -> NodeSettings {
        NodeSettings {
            cluster,
            node,
            dir: dir.into(),
            listen,
            listener: None,
            nodes,
            groups,
            cores: 1,
            pin_from: None,
            spin_us: 0,
            bootstrap: false,
            join: false,
            core: CoreSettings::default(),
            runtime: RuntimeSettings::default(),
            hooks: Hooks::default(),
        }
    }
}

/// Bounds and times of the runtime: connections, the mesh between cores, the queues of the embedding API, the executors.
#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    /// A peer that does not take a connection within this time counts as not reachable.
    pub connect_timeout: Duration,
    /// A connection whose handshake takes longer is closed.
    pub handshake_timeout: Duration,
    /// The first pause after a failed dial; doubles with each failure, with jitter.
    pub dial_backoff_min: Duration,
    /// The longest pause.
    pub dial_backoff_max: Duration,
    /// Buffers of the kernel for each connection and direction, bytes; 0 leaves them to the kernel, which adapts them.
    pub socket_buffer_bytes: usize,
    /// Accepted connections whose handshake is under way, at most; further ones are closed at once.
    pub handshakes_max: u32,
    /// Requests from one core of this node to another that are not answered, at most; further ones are `Busy`.
    pub mesh_requests_max: u32,
    /// Payload bytes of them; a larger request is let in when no other one waits.
    pub mesh_bytes_max: u64,
    /// Requests of the embedding API waiting to be taken by one core, at most; further ones are `Busy`.
    pub queue_requests_max: u32,
    /// Payload bytes of them.
    pub queue_bytes_max: u64,
    /// At shutdown, wait so long for other nodes to take over.
    pub hand_over_max: Duration,
    /// At shutdown, wait so long for services to return.
    pub services_stop_max: Duration,
    /// At shutdown, wait so long for answers to requests that are under way.
    pub drain_max: Duration,
    /// Memory that each executor registers with io_uring for I/O of its own (the log has its own ring and buffers), bytes.
    pub io_memory_bytes: usize,
    /// How the logs make their writes durable.
    pub durable_writes: logdrive_wal::DurableWrites,
    /// An executor looks for I/O at least this often while tasks are ready.
    pub preempt_timer: Duration,
    /// An executor wakes at least this often.
    pub wake_interval: Duration,
}

impl Default for RuntimeSettings {
    fn default() -> RuntimeSettings {
        RuntimeSettings {
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            dial_backoff_min: Duration::from_millis(50),
            dial_backoff_max: Duration::from_secs(2),
            socket_buffer_bytes: 0,
            handshakes_max: 64,
            mesh_requests_max: 16_384,
            mesh_bytes_max: 16 << 20,
            queue_requests_max: 16_384,
            queue_bytes_max: 16 << 20,
            hand_over_max: Duration::from_secs(5),
            services_stop_max: Duration::from_secs(5),
            drain_max: Duration::from_secs(5),
            io_memory_bytes: 512 << 10,
            durable_writes: logdrive_wal::DurableWrites::Auto,
            preempt_timer: Duration::from_millis(2),
            wake_interval: Duration::from_millis(10),
        }
    }
}

/// What the node tells the program it runs in.
#[derive(Clone)]
pub struct Hooks {
    /// A core cannot go on (see [`Fatal`]). Called on that core's thread. The default prints the message and ends the process
    /// with exit code 70: restart is recovery. If it returns, all cores of the node stop as if the process had crashed, and
    /// [`crate::runtime::Engine::shutdown`] returns the error.
    pub on_fatal: Arc<dyn Fn(&Fatal) + Send + Sync>,
    /// A core reads its log back: so many bytes of so many. Called on that core's thread.
    pub on_progress: Arc<dyn Fn(CoreId, u64, u64) + Send + Sync>,
}

/// Exit code of the process when a core cannot go on (EX_SOFTWARE of sysexits.h).
pub const EXIT_FATAL: i32 = 70;

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks {
            on_fatal: Arc::new(|fatal| {
                eprintln!("logdrive: {fatal}");
                std::process::exit(EXIT_FATAL);
            }),
            on_progress: Arc::new(|_, _, _| {}),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}
