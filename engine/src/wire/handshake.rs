//! What two cores say to each other before the first frame.
//!
//! One connection per pair of cores of different nodes, dialled by the node with the lower id:
//!
//! ```text
//! dialler                         acceptor
//! Hello { to_node, to_core } -->                 the connection is handed to the core it names
//!                                 judge it; <-- Hello, or Reject and close
//! judge it; Groups --> (or Reject)
//!                                 <-- Groups
//! frames <-------------------------------------> frames, of the negotiated version
//! ```
//!
//! A dialler that does not know how many cores the other node has dials core 0 and learns it from the answer. The rules by which a
//! [`Hello`] is judged are in [`crate::node`].
//!
//! Every message is `magic "LDS\x1a", CRC32C of all that follows, kind (u16), zero (u16), length of the body (u32), body`, little-endian.
//! The layout of `Hello` and `Reject` never changes, because they come before a version is agreed; a later version may append
//! fields to a `Hello`, which earlier ones ignore.

use logdrive_shard::{GroupId, NodeId};

use super::bytes::{Put, Reader};
use super::{BootName, BootNames, HelloGroup, PeerHello, VERSION_MAX, VERSION_MIN};
use crate::core::CoreId;

/// Bytes before a message's body.
pub const HANDSHAKE_HEADER_LEN: usize = 16;
/// Groups of one [`PeerHello`], at most.
pub const HELLO_GROUPS_MAX: usize = 1 << 20;

/// A whole `Hello` or `Reject`, at most: what a receiver reads of a stranger.
pub const HELLO_BYTES_MAX: usize = HANDSHAKE_HEADER_LEN + SMALL_BODY_MAX;

const MAGIC: u32 = u32::from_le_bytes(*b"LDS\x1a");
const KIND_HELLO: u16 = 1;
const KIND_GROUPS: u16 = 2;
const KIND_REJECT: u16 = 3;
/// Bodies of `Hello` and `Reject`, at most; room for fields of later versions.
const SMALL_BODY_MAX: usize = 1024;
const GROUP_LEN: usize = 16;
const GROUPS_FIXED_LEN: usize = 4 + 2 + 8 + 4;

/// A range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Lowest.
    pub min: u16,
    /// Highest.
    pub max: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Versions = Versions { min: VERSION_MIN, max: VERSION_MAX };

    /// The highest version both speak.
    pub fn highest_common(self, other: Versions) -> Option<u16> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

/// What a node remembers of a core of another node. All zero: nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Of its data directory; 0 if it was never met.
    pub incarnation: u64,
    /// Its highest boot counter.
    pub boot: u64,
    /// The name of that boot.
    pub name: BootName,
    /// The boot in which that core reported a durable end last.
    pub durable_end_boot: u64,
    /// The highest end of that core's log that it reported as durable.
    pub durable_end: u64,
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Versions the sender speaks.
    pub versions: Versions,
    /// The sender's cluster.
    pub cluster: u64,
    /// The sender.
    pub node: NodeId,
    /// The sender's core.
    pub core: CoreId,
    /// Cores the sender has.
    pub cores: u16,
    /// Incarnation of the sender's data directory.
    pub incarnation: u64,
    /// The sender's boot counter.
    pub boot: u64,
    /// The names of that boot and of those before it.
    pub names: BootNames,
    /// The end of what is durable in the log of the sender's core.
    pub durable_end: u64,
    /// Who is meant.
    pub to_node: NodeId,
    /// Which core of it.
    pub to_core: CoreId,
    /// What the sender remembers of the receiver's core.
    pub remembered: Remembered,
}

/// Why a connection is refused: told to the other side, then the connection is closed. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Two clusters.
    #[error(
        "cluster {theirs} spoke to a node of cluster {ours}: correct the addresses of the peers in one of the two configurations"
    )]
    ForeignCluster {
        /// Of the one that refuses.
        ours: u64,
        /// Of the other.
        theirs: u64,
    },
    /// Another node answers at this address.
    #[error(
        "node {wanted} was called, but node {here} answers here: correct the address of node {wanted} in the caller's configuration"
    )]
    WrongNode {
        /// The one that refuses.
        here: NodeId,
        /// The one that was meant.
        wanted: NodeId,
    },
    /// Not in the configuration.
    #[error("node {node} is not a member in this node's configuration: add it on every node, or stop it")]
    UnknownNode {
        /// The stranger.
        node: NodeId,
    },
    /// Two nodes under one id.
    #[error(
        "node {node} was called by a node that says it is node {node} as well: give one of them another id"
    )]
    SameNode {
        /// The id.
        node: NodeId,
    },
    /// The core does not exist.
    #[error(
        "core {core} was called, but this node has {cores}: the caller learns the number from the first answer"
    )]
    NoSuchCore {
        /// Asked for.
        core: u16,
        /// There are.
        cores: u16,
    },
    /// No common version.
    #[error(
        "versions {theirs_min} to {theirs_max} and {ours_min} to {ours_max} have none in common: upgrade the older node, through a \
         release that speaks both"
    )]
    VersionMismatch {
        /// Lowest of the one that refuses.
        ours_min: u16,
        /// Highest of it.
        ours_max: u16,
        /// Lowest of the other.
        theirs_min: u16,
        /// Highest of it.
        theirs_max: u16,
    },
    /// The boot counter went back: an older copy of the data directory.
    #[error(
        "node {node} is in boot {found}, but was met in boot {remembered}: its data directory is an older copy (a restored backup?), \
         which may have lost votes and acknowledged entries. Give it back its newest directory, or replace it by a new member \
         with a new id"
    )]
    OlderBoot {
        /// Whose directory.
        node: NodeId,
        /// Met before.
        remembered: u64,
        /// Now.
        found: u64,
    },
    /// A boot with the same number was met, and it was another one: an older copy of the data directory was started again.
    #[error(
        "boot {boot} of node {node} was met as {remembered}, and now its history has {found} there: its data directory is an older copy \
         (a restored backup?) that was started anew, which may have lost votes and acknowledged entries. Give it back its newest \
         directory, or replace it by a new member with a new id"
    )]
    OtherBoot {
        /// Whose directory.
        node: NodeId,
        /// The boot.
        boot: u64,
        /// Its name when it was met.
        remembered: BootName,
        /// Its name in the history that is there now.
        found: BootName,
    },
    /// Another data directory under a known identity: the old one was wiped.
    #[error(
        "node {node} was known with data directory {remembered:#x} and now has {found:#x}: the old one was wiped or swapped, and with it \
         votes and acknowledged entries. Give it back its old directory, or replace it by a new member with a new id"
    )]
    OtherIncarnation {
        /// Whose directory.
        node: NodeId,
        /// Known.
        remembered: u64,
        /// Now.
        found: u64,
    },
    /// The log ends before what it once reported as durable.
    #[error(
        "the log of core {core} of node {node} ends at {found}, but {acknowledged} was durable: it has lost acknowledged entries (a \
         restored backup, or a disk that lies). Give it back its newest directory, or replace it by a new member with a new id"
    )]
    LostData {
        /// Whose log.
        node: NodeId,
        /// Which core's.
        core: u16,
        /// Reported as durable once.
        acknowledged: u64,
        /// The end now.
        found: u64,
    },
    /// The table of groups contradicts itself or the `Hello` before it.
    #[error(
        "the groups announced by node {node} are contradictory (group {group}): a fault of its software, report it"
    )]
    BadGroups {
        /// The sender.
        node: NodeId,
        /// The first bad group; 0 if it is not one group's fault.
        group: u64,
    },
    /// The node is about to stop.
    #[error("the node is stopping: try again when it runs")]
    Stopping,
    /// A reason that a later version knows.
    #[error("refused for reason {code}, which this version does not know: look at the other node's log")]
    Unknown {
        /// Its number.
        code: u16,
    },
}

/// Why bytes were not a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not the start of a message.
    #[error("bad magic {found:#010x}: not a logdrive node (is this a client's address?)")]
    Magic {
        /// What was there.
        found: u32,
    },
    /// Longer than its kind may be.
    #[error("a handshake message of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Announced.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// Checksum mismatch.
    #[error("handshake checksum {found:#010x}, expected {expected:#010x}")]
    Crc {
        /// Computed.
        found: u32,
        /// Stored.
        expected: u32,
    },
    /// Anything else.
    #[error("handshake message is malformed: {what}")]
    Malformed {
        /// Which check failed.
        what: &'static str,
    },
}

const fn malformed(what: &'static str) -> HandshakeError {
    HandshakeError::Malformed { what }
}

/// A message of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there are few, and none is kept")]
pub enum Handshake {
    /// Who speaks.
    Hello(Hello),
    /// The groups the sender's core shares with the receiver.
    Groups(PeerHello),
    /// The end.
    Reject(Reject),
}

/// The length of a whole message, from its first [`HANDSHAKE_HEADER_LEN`] bytes.
pub fn handshake_len(header: &[u8]) -> Result<usize, HandshakeError> {
    let mut reader = Reader::new(header);
    let cut = malformed("the header is cut short");
    let found = reader.u32().ok_or(cut)?;
    if found != MAGIC {
        return Err(HandshakeError::Magic { found });
    }
    let _crc = reader.u32().ok_or(cut)?;
    let limit = match reader.u16().ok_or(cut)? {
        KIND_HELLO | KIND_REJECT => SMALL_BODY_MAX,
        KIND_GROUPS => GROUPS_FIXED_LEN + HELLO_GROUPS_MAX * GROUP_LEN,
        _ => return Err(malformed("an unknown kind of message")),
    };
    if reader.u16().ok_or(cut)? != 0 {
        return Err(malformed("reserved bytes are not zero"));
    }
    let len = reader.u32().ok_or(cut)? as usize;
    if len > limit {
        return Err(HandshakeError::TooLong { len: len as u64, limit: limit as u64 });
    }
    Ok(HANDSHAKE_HEADER_LEN + len)
}

impl Handshake {
    /// Appends the encoded message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(MAGIC);
        out.put_u32(0);
        out.put_u16(match self {
            Handshake::Hello(_) => KIND_HELLO,
            Handshake::Groups(_) => KIND_GROUPS,
            Handshake::Reject(_) => KIND_REJECT,
        });
        out.put_u16(0);
        out.put_u32(0);
        match self {
            Handshake::Hello(hello) => put_hello(out, hello),
            Handshake::Groups(groups) => put_groups(out, groups),
            Handshake::Reject(reject) => put_reject(out, *reject),
        }
        let len = (out.len() - start - HANDSHAKE_HEADER_LEN) as u32;
        out[start + 12..start + 16].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a whole message, header included.
    pub fn decode(bytes: &[u8]) -> Result<Handshake, HandshakeError> {
        if handshake_len(bytes)? != bytes.len() {
            return Err(malformed("not the announced length"));
        }
        let mut reader = Reader::new(&bytes[4..]);
        let expected = reader.u32().ok_or(malformed("the header is cut short"))?;
        let found = crc32c::crc32c(&bytes[8..]);
        if found != expected {
            return Err(HandshakeError::Crc { found, expected });
        }
        let kind = reader.u16();
        let mut body = Reader::new(&bytes[HANDSHAKE_HEADER_LEN..]);
        let message = match kind {
            Some(KIND_HELLO) => hello(&mut body).map(Handshake::Hello),
            Some(KIND_GROUPS) => groups(&mut body).map(Handshake::Groups),
            _ => reject(&mut body).map(Handshake::Reject),
        };
        message.ok_or(malformed("the body does not have the form of its kind"))
    }
}

impl PeerHello {
    /// Checks that the table is that of the peer which said `hello`, and names no group and no slot twice.
    pub fn check(&self, hello: &Hello) -> Result<(), Reject> {
        let node = hello.node;
        if (self.node, self.core, self.boot) != (node, hello.core, hello.boot) {
            return Err(Reject::BadGroups { node, group: 0 });
        }
        let mut ids: Vec<u64> = self.groups.iter().map(|group| group.id.0).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Reject::BadGroups { node, group: twice[0] });
        }
        let mut slots: Vec<(u32, u64)> = self.groups.iter().map(|group| (group.slot, group.id.0)).collect();
        slots.sort_unstable();
        match slots.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(twice) => Err(Reject::BadGroups { node, group: twice[1].1 }),
            None => Ok(()),
        }
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    out.put_u16(hello.versions.min);
    out.put_u16(hello.versions.max);
    out.put_u64(hello.cluster);
    out.put_u32(hello.node.0);
    out.put_u16(hello.core.0);
    out.put_u16(hello.cores);
    out.put_u64(hello.incarnation);
    out.put_u64(hello.boot);
    out.put_u64(hello.durable_end);
    out.put_u32(hello.to_node.0);
    out.put_u16(hello.to_core.0);
    out.put_u16(0);
    out.put_u64(hello.remembered.incarnation);
    out.put_u64(hello.remembered.boot);
    out.put_u64(hello.remembered.durable_end_boot);
    out.put_u64(hello.remembered.durable_end);
    out.put_u64(hello.remembered.name.0);
    hello.names.encode(out);
}

/// Ignores what later versions append. Earlier ones had no names of boots.
fn hello(body: &mut Reader<'_>) -> Option<Hello> {
    let mut hello = unnamed_hello(body)?;
    if body.left() > 0 {
        hello.remembered.name = BootName(body.u64()?);
        hello.names = BootNames::decode(body)?;
    }
    Some(hello)
}

fn unnamed_hello(body: &mut Reader<'_>) -> Option<Hello> {
    Some(Hello {
        versions: Versions { min: body.u16()?, max: body.u16()? },
        cluster: body.u64()?,
        node: NodeId(body.u32()?),
        core: CoreId(body.u16()?),
        cores: body.u16()?,
        incarnation: body.u64()?,
        boot: body.u64()?,
        names: BootNames::default(),
        durable_end: body.u64()?,
        to_node: NodeId(body.u32()?),
        to_core: {
            let core = CoreId(body.u16()?);
            body.u16()?;
            core
        },
        remembered: Remembered {
            incarnation: body.u64()?,
            boot: body.u64()?,
            name: BootName::NONE,
            durable_end_boot: body.u64()?,
            durable_end: body.u64()?,
        },
    })
}

fn put_groups(out: &mut Vec<u8>, groups: &PeerHello) {
    let count = groups.groups.len();
    assert!(count <= HELLO_GROUPS_MAX, "{count} groups on one core, the limit is {HELLO_GROUPS_MAX}");
    out.reserve(GROUPS_FIXED_LEN + count * GROUP_LEN);
    out.put_u32(groups.node.0);
    out.put_u16(groups.core.0);
    out.put_u64(groups.boot);
    out.put_u32(count as u32);
    for group in &groups.groups {
        out.put_u64(group.id.0);
        out.put_u32(group.slot);
        out.put_u32(group.history);
    }
}

fn groups(body: &mut Reader<'_>) -> Option<PeerHello> {
    let (node, core, boot) = (NodeId(body.u32()?), CoreId(body.u16()?), body.u64()?);
    let count = body.u32()? as usize;
    if body.left() != count.checked_mul(GROUP_LEN)? {
        return None;
    }
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        groups.push(HelloGroup { id: GroupId(body.u64()?), slot: body.u32()?, history: body.u32()? });
    }
    Some(PeerHello { node, core, boot, groups })
}

/// Code, node, and two or three numbers: the same form for all reasons, so that an unknown one can be skipped. What a reason has beside
/// them comes behind them.
fn put_reject(out: &mut Vec<u8>, reject: Reject) {
    let (code, node, core, a, b) = match reject {
        Reject::ForeignCluster { ours, theirs } => (1, 0, 0, ours, theirs),
        Reject::WrongNode { here, wanted } => (2, 0, 0, here.0.into(), wanted.0.into()),
        Reject::UnknownNode { node } => (3, node.0, 0, 0, 0),
        Reject::SameNode { node } => (4, node.0, 0, 0, 0),
        Reject::NoSuchCore { core, cores } => (5, 0, core, cores.into(), 0),
        Reject::VersionMismatch { ours_min, ours_max, theirs_min, theirs_max } => {
            let range = |min: u16, max: u16| u64::from(min) << 16 | u64::from(max);
            (6, 0, 0, range(ours_min, ours_max), range(theirs_min, theirs_max))
        }
        Reject::OlderBoot { node, remembered, found } => (7, node.0, 0, remembered, found),
        Reject::OtherIncarnation { node, remembered, found } => (8, node.0, 0, remembered, found),
        Reject::LostData { node, core, acknowledged, found } => (9, node.0, core, acknowledged, found),
        Reject::BadGroups { node, group } => (10, node.0, 0, group, 0),
        Reject::Stopping => (11, 0, 0, 0, 0),
        Reject::OtherBoot { node, remembered, found, .. } => (12, node.0, 0, remembered.0, found.0),
        Reject::Unknown { code } => (code, 0, 0, 0, 0),
    };
    out.put_u16(code);
    out.put_u32(node);
    out.put_u16(core);
    out.put_u64(a);
    out.put_u64(b);
    if let Reject::OtherBoot { boot, .. } = reject {
        out.put_u64(boot);
    }
}

fn reject(body: &mut Reader<'_>) -> Option<Reject> {
    let code = body.u16()?;
    let (node, core) = (NodeId(body.u32()?), body.u16()?);
    let (a, b) = (body.u64()?, body.u64()?);
    let range = |both: u64| ((both >> 16) as u16, both as u16);
    Some(match code {
        1 => Reject::ForeignCluster { ours: a, theirs: b },
        2 => Reject::WrongNode { here: NodeId(a as u32), wanted: NodeId(b as u32) },
        3 => Reject::UnknownNode { node },
        4 => Reject::SameNode { node },
        5 => Reject::NoSuchCore { core, cores: a as u16 },
        6 => {
            let ((ours_min, ours_max), (theirs_min, theirs_max)) = (range(a), range(b));
            Reject::VersionMismatch { ours_min, ours_max, theirs_min, theirs_max }
        }
        7 => Reject::OlderBoot { node, remembered: a, found: b },
        8 => Reject::OtherIncarnation { node, remembered: a, found: b },
        9 => Reject::LostData { node, core, acknowledged: a, found: b },
        10 => Reject::BadGroups { node, group: a },
        11 => Reject::Stopping,
        12 => {
            let (remembered, found) = (BootName(a), BootName(b));
            Reject::OtherBoot { node, boot: body.u64()?, remembered, found }
        }
        code => Reject::Unknown { code },
    })
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
