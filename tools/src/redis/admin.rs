//! LOGDRIVE GROUP and LOGDRIVE NODE: what operators ask of a node. The answer is JSON; a refusal is an error whose first word
//! is a code and whose rest is JSON as well.
//!
//! Nothing is forwarded: what only the leader of a group can do is refused by the others with `NOTLEADER` and the address of the
//! leader, as a redirect. `logdrive group` follows it.

use logdrive::api::Error;
use logdrive::core::{GroupStatus, GroupSummary, TransferStatus};
use logdrive::runtime::{AddNodeError, CoreClient, PeerAddress};
use logdrive_shard::{
    GroupId, HistoryEntry, HistoryEvent, LogIndex, MemberKind, MemberStep, MembershipChange, NodeId,
    PeerReport, Report, Role,
};
use serde::Serialize;

use super::request::{Arguments, decimal};

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `GROUP LIST`
    List,
    /// `GROUP SHOW group`
    Show(GroupId),
    /// `GROUP TRANSFER group [node]`: waits until it has ended; without a node to the best.
    Transfer(GroupId, NodeId),
    /// `GROUP TRANSFER group CANCEL`: the transfer under way is called off.
    CancelTransfer(GroupId),
    /// `GROUP DIGEST group`: takes time in the size of the group, and its core does nothing else meanwhile.
    Digest(GroupId),
    /// `GROUP SNAPSHOT group`
    Snapshot(GroupId),
    /// `GROUP CAMPAIGN group`
    Campaign(GroupId),
    /// `GROUP ADD-LEARNER | ADD-VOTER | PROMOTE | DEMOTE | REMOVE group node`, `GROUP REPLACE group old new`, `GROUP LEAVE group`, each
    /// with `EXPECT index` and `FORCE` behind it.
    Change(GroupId, MembershipChange),
    /// `NODE DRAIN [UNDO]`
    Drain(bool),
    /// `NODE ADD node peers clients`
    AddNode(PeerAddress),
}

/// JSON, or the text of an error.
pub(crate) type Answer = Result<Vec<u8>, String>;

/// Reads the arguments of LOGDRIVE, its name excluded; `None` if they are not an operator's request.
pub(crate) fn parse(arguments: Arguments<'_>) -> Option<Result<Request, String>> {
    let word = |at: usize| arguments.from(at).next().map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    let number = |at: usize| {
        let number = arguments.from(at).next().and_then(decimal);
        number.and_then(|number| u64::try_from(number).ok())
    };
    let group = || number(3).map(GroupId).ok_or_else(|| "ERR the group is not a number".to_owned());
    let node = |at| {
        let node = number(at).and_then(|node| u32::try_from(node).ok()).filter(|node| *node > 0);
        node.map(NodeId).ok_or_else(|| "ERR the node is not a number from 1 on".to_owned())
    };
    let (area, sub) = (word(1), word(2));
    let request = match (area.as_slice(), sub.as_slice(), arguments.len()) {
        (b"group", b"list", 3) => Ok(Request::List),
        (b"group", b"show", 4) => group().map(Request::Show),
        (b"group", b"transfer", 4) => group().map(|group| Request::Transfer(group, NodeId::NONE)),
        (b"group", b"transfer", 5) if word(4) == b"cancel" => group().map(Request::CancelTransfer),
        (b"group", b"transfer", 5) => group().and_then(|group| Ok(Request::Transfer(group, node(4)?))),
        (b"group", b"digest", 4) => group().map(Request::Digest),
        (b"group", b"snapshot", 4) => group().map(Request::Snapshot),
        (b"group", b"campaign", 4) => group().map(Request::Campaign),
        (b"group", sub, words) if words >= 4 && change_nodes(sub).is_some_and(|nodes| words >= 4 + nodes) => {
            group().and_then(|group| Ok(Request::Change(group, change(sub, arguments, node)?)))
        }
        (b"node", b"drain", 3) => Ok(Request::Drain(true)),
        (b"node", b"drain", 4) if word(3) == b"undo" => Ok(Request::Drain(false)),
        (b"node", b"add", 6) => node(3).map(|node| {
            let text = |at: usize| String::from_utf8_lossy(arguments.get(at)).into_owned();
            Request::AddNode(PeerAddress { node, peer: text(4), client: text(5) })
        }),
        (b"group" | b"node", _, _) => {
            let usage = "GROUP LIST | GROUP SHOW group | GROUP DIGEST group | GROUP TRANSFER group [node|CANCEL] | GROUP CAMPAIGN group | GROUP SNAPSHOT group | \
                         GROUP ADD-LEARNER|ADD-VOTER|PROMOTE|DEMOTE|REMOVE group node | GROUP REPLACE group old new | \
                         GROUP LEAVE group, these with [EXPECT index] [FORCE] | NODE DRAIN [UNDO] | NODE ADD node peers clients";
            Err(format!("ERR not a request of LOGDRIVE: use {usage}"))
        }
        _ => return None,
    };
    Some(request)
}

/// How many nodes a change names; `None` if it is none.
fn change_nodes(sub: &[u8]) -> Option<usize> {
    match sub {
        b"add-learner" | b"add-voter" | b"promote" | b"demote" | b"remove" => Some(1),
        b"replace" => Some(2),
        b"leave" => Some(0),
        _ => None,
    }
}

/// Reads a change: its nodes from word 4 on, then its options.
fn change(
    sub: &[u8],
    arguments: Arguments<'_>,
    node: impl Fn(usize) -> Result<NodeId, String>,
) -> Result<MembershipChange, String> {
    let mut change = match sub {
        b"add-learner" => MembershipChange::of(&[MemberStep::AddLearner(node(4)?)]),
        b"add-voter" => MembershipChange::of(&[MemberStep::AddVoter(node(4)?)]),
        b"promote" => MembershipChange::of(&[MemberStep::Promote(node(4)?)]),
        b"demote" => MembershipChange::of(&[MemberStep::Demote(node(4)?)]),
        b"remove" => MembershipChange::of(&[MemberStep::Remove(node(4)?)]),
        b"replace" => MembershipChange::replace(node(4)?, node(5)?),
        _ => MembershipChange::leave(),
    };
    let mut options = arguments.from(4 + change_nodes(sub).unwrap_or(0));
    while let Some(option) = options.next() {
        let index = || options.clone().next().and_then(decimal).and_then(|index| u64::try_from(index).ok());
        match (option.to_ascii_lowercase().as_slice(), index()) {
            (b"expect", Some(index)) => {
                change.expected = Some(LogIndex(index));
                options.next();
            }
            (b"force", _) => change.even_if_behind = true,
            _ => return Err("ERR after the nodes of a change: EXPECT index, or FORCE".to_owned()),
        }
    }
    Ok(change)
}

/// Does what is asked, and says how it went.
pub(crate) async fn perform(client: &CoreClient, request: Request) -> Answer {
    match request {
        Request::List => {
            let groups = client.group_list().await;
            let groups = groups.iter().map(GroupRow::from).collect();
            Ok(json(&GroupList { node: client.node().0, groups }))
        }
        Request::Show(group) => {
            let status = client.group_status(group).await.map_err(|error| refusal(client, error))?;
            Ok(json(&Shown::new(client, &status)))
        }
        Request::Digest(group) => {
            let state = client.group_digest(group).await.map_err(|error| refusal(client, error))?;
            let digest = format!("{:016x}", state.digest);
            Ok(json(&Digest { node: client.node().0, group: group.0, applied: state.applied.0, digest }))
        }
        Request::Transfer(group, to) => {
            let moved = client.transfer_leadership(group, to).await;
            let leader = moved.map_err(|error| refusal(client, error))?;
            Ok(json(&Led { group: group.0, leader: leader.0 }))
        }
        Request::CancelTransfer(group) => {
            let to = client.cancel_transfer(group).await.map_err(|error| refusal(client, error))?;
            let (leader, cancelled) = (client.node().0, to.map_or(0, |to| to.0));
            Ok(json(&Cancelled { group: group.0, leader, cancelled }))
        }
        Request::Campaign(group) => {
            client.campaign(group).await.map_err(|error| refusal(client, error))?;
            Ok(json(&Led { group: group.0, leader: client.leader_of(group).0 }))
        }
        Request::Snapshot(group) => {
            let index = client.snapshot(group).await.map_err(|error| refusal(client, error))?;
            Ok(json(&Snapshot { node: client.node().0, group: group.0, index: index.0 }))
        }
        Request::Change(group, change) => {
            let index = client.change_membership(group, change).await;
            let index = index.map_err(|error| refusal(client, error))?;
            Ok(json(&Changed { group: group.0, index: index.0 }))
        }
        Request::AddNode(address) => {
            let node = address.node.0;
            let added = client.add_node(address).await;
            let refused = |error: AddNodeError| {
                let refusal = Refusal { message: error.to_string(), ..Refusal::default() };
                format!("ERR {}", serde_json::to_string(&refusal).expect("strings always serialize"))
            };
            added.map_err(refused)?;
            Ok(json(&Added { node: client.node().0, added: node }))
        }
        Request::Drain(draining) => {
            client.drain(draining).await;
            Ok(json(&Drained { node: client.node().0, draining }))
        }
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("numbers and strings always serialize")
}

#[derive(Serialize)]
struct GroupList {
    node: u32,
    groups: Vec<GroupRow>,
}

#[derive(Serialize)]
struct GroupRow {
    group: u64,
    role: &'static str,
    term: u64,
    leader: u32,
    commit: u64,
    applied: u64,
    last: u64,
}

#[derive(Serialize)]
struct Shown {
    node: u32,
    group: u64,
    core: u16,
    role: &'static str,
    term: u64,
    leader: u32,
    /// Where the leader's clients connect; empty if there is none.
    leader_address: String,
    preferred_leader: u32,
    commit: u64,
    applied: u64,
    durable: u64,
    last: u64,
    /// What the disk has lost and the other members have not made up for yet.
    lost: Option<String>,
    configuration: Configuration,
    /// Open in the group's replicated state.
    sessions: u32,
    snapshot: Snapshots,
    /// Snapshots on their way to or from other nodes.
    transfers: Vec<Transfer>,
    peers: Vec<Peer>,
    /// What happened to the member lately, oldest first.
    history: Vec<Happened>,
}

#[derive(Serialize)]
struct Happened {
    ms_ago: u64,
    term: u64,
    /// So many times in a row.
    count: u32,
    what: String,
}

/// An event in words.
fn words(event: HistoryEvent) -> String {
    match event {
        HistoryEvent::Rehearsed => "asked whether it would be elected".to_owned(),
        HistoryEvent::Campaigned { by_order: false } => "campaigned".to_owned(),
        HistoryEvent::Campaigned { by_order: true } => "campaigned by order of the leader".to_owned(),
        HistoryEvent::Elected => "was elected".to_owned(),
        HistoryEvent::Voted { candidate } => format!("voted for node {candidate}"),
        HistoryEvent::Refused { candidate, pre_vote, why } => {
            let what = if pre_vote { "promise of a vote" } else { "vote" };
            format!("refused node {candidate} its {what}: {why:?}")
        }
        HistoryEvent::SteppedDown { why } => format!("stepped down: {why:?}"),
        HistoryEvent::TransferBegan { to } => format!("began to hand over to node {to}"),
        HistoryEvent::TransferEnded { to, end } => format!("handing over to node {to} ended: {end:?}"),
        HistoryEvent::SnapshotInstalled { index } => format!("installed a snapshot of entry {index}"),
        other => format!("{other:?}"),
    }
}

#[derive(Serialize)]
struct Peer {
    node: u32,
    kind: &'static str,
    #[serde(rename = "match")]
    matched: u64,
    next: u64,
    state: &'static str,
    in_flight: u32,
    in_flight_bytes: u32,
    in_contact: bool,
    /// `null`: not connected, or not heard yet.
    last_contact_ms: Option<u64>,
}

#[derive(Serialize)]
struct Led {
    group: u64,
    leader: u32,
}

#[derive(Serialize)]
struct Cancelled {
    group: u64,
    leader: u32,
    /// The node that leadership was being handed to; 0 if no transfer was under way.
    cancelled: u32,
}

#[derive(Serialize)]
struct Digest {
    node: u32,
    group: u64,
    applied: u64,
    /// Of the whole state at the applied index, in hexadecimal.
    digest: String,
}

#[derive(Serialize)]
struct Snapshot {
    node: u32,
    group: u64,
    /// The last entry that it stands for.
    index: u64,
}

#[derive(Serialize)]
struct Transfer {
    /// The other node.
    peer: u32,
    /// Sent to it; otherwise received from it.
    outgoing: bool,
    step: &'static str,
    /// The last entry that the snapshot stands for; 0 if none is chosen yet.
    index: u64,
    /// Bytes that have arrived, of so many.
    bytes: u64,
    bytes_total: u64,
}

fn transfer(status: &TransferStatus) -> Transfer {
    Transfer {
        peer: status.peer.0,
        outgoing: status.outgoing,
        step: status.step.name(),
        index: status.index.0,
        bytes: status.bytes,
        bytes_total: status.bytes_total,
    }
}

#[derive(Serialize)]
struct Snapshots {
    /// The newest durable one stands for the log up to here; 0 if there is none.
    index: u64,
    bytes: u64,
    /// `null`: in an earlier life of the process.
    ms_ago: Option<u64>,
    /// What it does not stand for.
    log_bytes: u64,
    /// First index of the log.
    log_first: u64,
    /// One is being written or installed.
    busy: bool,
    /// Why the last one came to nothing.
    failure: Option<String>,
}

#[derive(Serialize)]
struct Changed {
    group: u64,
    /// Of the configuration's entry, which is committed.
    index: u64,
}

/// Who belongs to a group.
#[derive(Serialize)]
struct Configuration {
    /// Of its entry; 0 for the founding one.
    index: u64,
    voters: Vec<u32>,
    /// Voters of before, which decide as well while the configuration is joint.
    outgoing: Vec<u32>,
    learners: Vec<u32>,
    /// Outgoing voters that will be learners.
    learners_next: Vec<u32>,
    /// It is committed, and not joint: another change can be made.
    settled: bool,
}

#[derive(Serialize)]
struct Added {
    node: u32,
    added: u32,
}

#[derive(Serialize)]
struct Drained {
    node: u32,
    draining: bool,
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

fn kind_name(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Voter => "voter",
        MemberKind::Outgoing => "outgoing",
        MemberKind::Learner => "learner",
        MemberKind::Stranger => "removed",
    }
}

impl Configuration {
    fn new(raft: &Report) -> Configuration {
        let (membership, index) = (&raft.membership, raft.membership_index);
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        Configuration {
            index: index.0,
            voters: ids(membership.voters()),
            outgoing: ids(membership.outgoing()),
            learners: ids(membership.learners()),
            learners_next: ids(membership.learners_next()),
            settled: index <= raft.commit && !membership.is_joint(),
        }
    }
}

impl From<&GroupSummary> for GroupRow {
    fn from(group: &GroupSummary) -> GroupRow {
        GroupRow {
            group: group.id.0,
            role: role_name(group.role),
            term: group.term.0,
            leader: group.leader.0,
            commit: group.commit.0,
            applied: group.applied.0,
            last: group.last.0,
        }
    }
}

impl Shown {
    fn new(client: &CoreClient, status: &GroupStatus) -> Shown {
        let raft = &status.raft;
        let peer = |peer: &PeerReport| {
            let heard = status.heard_nanos_ago.iter().find(|(node, _)| *node == peer.node);
            Peer {
                node: peer.node.0,
                kind: kind_name(peer.kind),
                matched: peer.matched.0,
                next: peer.next.0,
                state: peer.state,
                in_flight: peer.inflight,
                in_flight_bytes: peer.inflight_bytes,
                in_contact: peer.alive,
                last_contact_ms: heard.map(|(_, nanos)| nanos / 1_000_000),
            }
        };
        let happened = |(nanos_ago, entry): &(u64, HistoryEntry)| Happened {
            ms_ago: nanos_ago / 1_000_000,
            term: entry.term.0,
            count: entry.count,
            what: words(entry.event),
        };
        Shown {
            node: client.node().0,
            group: status.id.0,
            core: client.core_of(status.id).map_or(0, |core| core.0),
            role: role_name(raft.role),
            term: raft.term.0,
            leader: raft.leader.0,
            leader_address: client_address(client, raft.leader).unwrap_or_default(),
            preferred_leader: status.preferred_leader.0,
            commit: raft.commit.0,
            applied: status.applied.0,
            durable: raft.durable.0,
            last: raft.last.0,
            lost: lost(status),
            configuration: Configuration::new(raft),
            sessions: status.sessions,
            snapshot: Snapshots {
                index: status.snapshot.index.0,
                bytes: status.snapshot.file_bytes,
                ms_ago: status.snapshot.nanos_ago.map(|nanos| nanos / 1_000_000),
                log_bytes: status.snapshot.log_bytes,
                log_first: status.snapshot.log_first.0,
                busy: status.snapshot.is_busy,
                failure: status.snapshot.failure.clone(),
            },
            transfers: status.transfers.iter().map(transfer).collect(),
            peers: raft.peers.iter().map(peer).collect(),
            history: status.history.iter().map(happened).collect(),
        }
    }
}

/// What a member lacks because of its disk, in words.
fn lost(status: &GroupStatus) -> Option<String> {
    let before = status.raft.lost.is_any().then(|| status.raft.lost.to_string());
    let running = status.unreadable.map(|(first, last)| format!("entries {first} to {last}"));
    before.or(running)
}

/// Where the clients of a node connect; `None` for nobody and strangers.
fn client_address(client: &CoreClient, node: NodeId) -> Option<String> {
    let known = |of: &&PeerAddress| of.node == node;
    client.nodes().iter().find(known).map(|node| node.client.clone())
}

/// The part of a refusal that programs read.
#[derive(Default, Serialize)]
struct Refusal {
    message: String,
    /// The leader, if known, and where its clients connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_ms: Option<u64>,
    /// Indexes of configurations.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<u64>,
}

/// The text of an error: code and JSON.
fn refusal(client: &CoreClient, error: Error) -> String {
    let mut refusal = Refusal { message: error.to_string(), ..Refusal::default() };
    let code = match error {
        Error::NotLeader { leader } => {
            refusal.leader = leader.is_some().then_some(leader.0);
            refusal.address = client_address(client, leader);
            "NOTLEADER"
        }
        Error::Busy { retry_after, .. } => {
            refusal.retry_ms = Some(retry_after.as_millis() as u64);
            "BUSY"
        }
        Error::BadTransferee { .. } | Error::NobodyToTakeOver => "BADTARGET",
        Error::TransferTimedOut { .. } => "TIMEOUT",
        Error::TransferCancelled { .. } => "CANCELLED",
        Error::TransferElsewhere { leader, .. } => {
            refusal.leader = leader.is_some().then_some(leader.0);
            refusal.address = client_address(client, leader);
            "ELSEWHERE"
        }
        Error::MembershipMismatch { expected, actual } => {
            (refusal.expected, refusal.actual) = (Some(expected.0), Some(actual.0));
            "MISMATCH"
        }
        Error::LearnerBehind { .. } | Error::LearnerUnknown { .. } => "BEHIND",
        Error::NoQuorum => "NOQUORUM",
        Error::BadChange(_) => "BADCHANGE",
        Error::NoSuchGroup => "NOGROUP",
        Error::Timeout => "TIMEOUT",
        Error::Indeterminate => "INDETERMINATE",
        Error::OutOfSpace { .. } => "OUTOFSPACE",
        Error::SnapshotFailed => "SNAPSHOTFAILED",
        _ => "ERR",
    };
    let json = serde_json::to_string(&refusal).expect("numbers and strings always serialize");
    format!("{code} {json}")
}
