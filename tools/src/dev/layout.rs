//! Where a local cluster lives: ports, directories, the nodes' configuration files, and a note that lets a kept
//! directory be used again.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Args;
use crate::failure::{Exit, Failure};

/// Peer ports are the client ports plus this, where those are free.
const PEER_PORT_OFFSET: u16 = 10_000;
/// The note in a cluster's directory.
const NOTE: &str = "cluster.toml";

/// What must stay the same when a kept directory is used again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Note {
    cluster: u64,
    nodes: u32,
    groups: u64,
    /// All nodes have run: from now on an empty data directory is a lost one.
    started: bool,
}

/// One node of the cluster.
#[derive(Clone, Debug)]
pub(super) struct NodePlace {
    pub(super) id: u32,
    pub(super) clients: u16,
    peers: u16,
    pub(super) config: PathBuf,
}

impl NodePlace {
    /// Where clients find it.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.clients)
    }
}

/// A cluster's place on this machine.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// Removes the directory when dropped; none if the user named it.
    temporary: Option<tempfile::TempDir>,
    note: Note,
    pub(super) nodes: Vec<NodePlace>,
}

impl Layout {
    /// Chooses ports, makes or takes over the directory and writes the configuration files.
    pub(super) fn prepare(args: &Args) -> Result<Layout, Failure> {
        let nodes = choose_ports(args)?;
        let (dir, temporary) = match &args.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(|error| Failure::io(dir.display(), &error))?;
                let dir = dir.canonicalize().map_err(|error| Failure::io(dir.display(), &error))?;
                (dir, None)
            }
            None => {
                let temporary = temporary_dir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let note = take_over(&dir, args)?;
        let mut layout = Layout { dir, temporary, note, nodes };
        layout.write_note()?;
        layout.write_configs(args)?;
        Ok(layout)
    }

    /// Whether the directory is removed at the end.
    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Whether the data directories may be new.
    pub(super) fn bootstraps(&self) -> bool {
        !self.note.started
    }

    /// All nodes run: their directories are theirs from now on.
    pub(super) fn set_started(&mut self) -> Result<(), Failure> {
        self.note.started = true;
        self.write_note()
    }

    fn write_note(&self) -> Result<(), Failure> {
        let text = toml::to_string(&self.note)
            .map_err(|error| Failure::said(Exit::Failed, error.to_string(), ""))?;
        write(&self.dir.join(NOTE), &text)
    }

    fn write_configs(&mut self, args: &Args) -> Result<(), Failure> {
        let entry = |node: &NodePlace| Entry {
            id: node.id,
            peers: format!("127.0.0.1:{}", node.peers),
            clients: node.address(),
        };
        let entries: Vec<Entry> = self.nodes.iter().map(entry).collect();
        for node in &mut self.nodes {
            let file = NodeFile {
                cluster: self.note.cluster,
                node: node.id,
                directory: self.dir.join(format!("node-{}", node.id)),
                groups: self.note.groups,
                cores: args.cores,
                nodes: &entries,
                timing: Timing { preset: args.timing },
            };
            let text =
                toml::to_string(&file).map_err(|error| Failure::said(Exit::Failed, error.to_string(), ""))?;
            node.config = self.dir.join(format!("node-{}.toml", node.id));
            write(&node.config, &text)?;
        }
        Ok(())
    }
}

/// The part of `node.toml` that a local cluster needs.
#[derive(Serialize)]
struct NodeFile<'a> {
    cluster: u64,
    node: u32,
    directory: PathBuf,
    groups: u64,
    cores: u16,
    nodes: &'a [Entry],
    timing: Timing,
}

#[derive(Serialize)]
struct Entry {
    id: u32,
    peers: String,
    clients: String,
}

#[derive(Serialize)]
struct Timing {
    preset: logdrive::api::TimingPreset,
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::io(path.display(), &error))
}

/// The note of a directory that was used before, or a new one for an empty directory.
fn take_over(dir: &Path, args: &Args) -> Result<Note, Failure> {
    let path = dir.join(NOTE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return new_note(dir, args),
        Err(error) => return Err(Failure::io(path.display(), &error)),
    };
    let note: Note = toml::from_str(&text)
        .map_err(|error| Failure::said(Exit::Directory, format!("{}: {error}", path.display()), ""))?;
    if (note.nodes, note.groups) != (args.nodes, args.groups) {
        let what = format!(
            "{} holds a cluster of {} nodes and {} groups, not {} and {}",
            dir.display(),
            note.nodes,
            note.groups,
            args.nodes,
            args.groups
        );
        let help = format!("use --nodes {} --groups {}, or another --dir", note.nodes, note.groups);
        return Err(Failure::said(Exit::Directory, what, help));
    }
    Ok(note)
}

fn new_note(dir: &Path, args: &Args) -> Result<Note, Failure> {
    let mut entries = std::fs::read_dir(dir).map_err(|error| Failure::io(dir.display(), &error))?;
    if entries.next().is_some() {
        let what = format!("{} is not empty and holds no cluster of `logdrive dev`", dir.display());
        return Err(Failure::said(Exit::Directory, what, "name an empty or a new directory with --dir"));
    }
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::io("random bytes for the cluster's number", &error.into()))?;
    // TOML has signed numbers, and 0 is no cluster.
    let cluster = (u64::from_le_bytes(random) >> 1).max(1);
    Ok(Note { cluster, nodes: args.nodes, groups: args.groups, started: false })
}

/// A new directory on a real disk: the log's files are written past the page cache, which memory file systems do not have,
/// and a cluster in memory would show figures that no disk reaches.
fn temporary_dir() -> Result<tempfile::TempDir, Failure> {
    let candidates = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let mut last = None;
    for parent in candidates.iter().filter(|parent| parent.is_dir() && !is_in_memory(parent)) {
        match tempfile::Builder::new().prefix("logdrive-dev-").tempdir_in(parent) {
            Ok(dir) => return Ok(dir),
            Err(error) => {
                last = Some(Failure::io(format_args!("a directory in {}", parent.display()), &error))
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        let what =
            "no place for the cluster: $TMPDIR, /var/tmp and the current directory are all in memory (tmpfs)";
        Failure::said(Exit::Machine, what, "name a directory on a disk with --dir")
    }))
}

/// Whether a directory is on tmpfs or ramfs.
fn is_in_memory(dir: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    rustix::fs::statfs(dir).is_ok_and(|fs| matches!(fs.f_type as u64, TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Client ports from `--port` on (or any, with 0); peer ports at a fixed distance where free, else any.
fn choose_ports(args: &Args) -> Result<Vec<NodePlace>, Failure> {
    let mut held = Vec::new();
    let mut nodes = Vec::new();
    for index in 0..args.nodes {
        let clients = match args.port {
            0 => hold(0, &mut held),
            first => {
                let port = u32::from(first) + index;
                u16::try_from(port)
                    .map_err(|_| io::Error::other("there are only 65535 ports"))
                    .and_then(|port| hold(port, &mut held))
                    .map_err(|error| io::Error::new(error.kind(), format!("127.0.0.1:{port}: {error}")))
            }
        };
        let clients = clients.map_err(|error| {
            let help =
                "choose other ports with --port (0 takes free ones); `logdrive status` shows what runs there";
            Failure::said(Exit::Machine, format!("cannot listen for clients: {error}"), help)
        })?;
        let near = clients.checked_add(PEER_PORT_OFFSET).unwrap_or(0);
        let peers = hold(near, &mut held)
            .or_else(|_| hold(0, &mut held))
            .map_err(|error| Failure::io("a port for peers", &error))?;
        nodes.push(NodePlace { id: index + 1, clients, peers, config: PathBuf::new() });
    }
    Ok(nodes)
}

/// Takes a port (0: any free one) until `held` is dropped.
fn hold(port: u16, held: &mut Vec<TcpListener>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let port = listener.local_addr()?.port();
    held.push(listener);
    Ok(port)
}
