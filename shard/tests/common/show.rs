//! Text for scripts.

use std::fmt;

use logdrive_shard::{
    Append, AppendOutcome, HardState, Heartbeat, MemberKind, Moment, Report, Role, SnapshotMeta, VoteReply,
    VoteRequest,
};

use super::node::{Entry, Node, Write};
use super::{Envelope, Message};

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {}", self.from, self.to, self.message)
    }
}

impl Message {
    /// The name that scripts select by.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Append(..) => "append",
            Message::AppendReply(_) => "append-reply",
            Message::Heartbeat(_) => "heartbeat",
            Message::HeartbeatReply(_) => "heartbeat-reply",
            Message::ReadIndexRequest(_) => "read-index",
            Message::ReadIndexReply(_) => "read-index-reply",
            Message::VoteRequest(r) if r.pre_vote => "pre-vote",
            Message::VoteRequest(_) => "vote",
            Message::VoteReply(r) if r.pre_vote => "pre-vote-reply",
            Message::VoteReply(_) => "vote-reply",
            Message::TimeoutNow(_) => "timeout-now",
            Message::TermQuery(_) => "term-query",
            Message::TermReport(_) => "term-report",
            Message::Snapshot(..) => "snapshot",
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Message::Append(message, _) => append(f, message),
            Message::AppendReply(reply) => {
                write!(f, " term {}, ", reply.term)?;
                match reply.outcome {
                    AppendOutcome::Matched(index) => write!(f, "matched {index}"),
                    AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                        write!(f, "rejected {prev_index}, try {hint_index}@{hint_term}")
                    }
                }
            }
            Message::Heartbeat(Heartbeat { term, commit, round }) => {
                write!(f, " term {term}, commit {commit}")?;
                if *round > 0 { write!(f, ", round {round}") } else { Ok(()) }
            }
            Message::HeartbeatReply(reply) => write!(f, " term {}, round {}", reply.term, reply.round),
            // The upper half differs from life to life.
            Message::ReadIndexRequest(request) => {
                write!(f, " term {}, question {}", request.term, request.id as u32)
            }
            Message::ReadIndexReply(reply) => {
                write!(f, " term {}, question {}, ", reply.term, reply.id as u32)?;
                match reply.index {
                    Some(index) => write!(f, "index {index}"),
                    None => write!(f, "no leader"),
                }
            }
            Message::VoteRequest(VoteRequest { transfer, term, last_index, last_term, .. }) => {
                let by_order = if *transfer { ", by order of the leader" } else { "" };
                write!(f, " term {term}, log ends {last_index}@{last_term}{by_order}")
            }
            Message::VoteReply(VoteReply { granted, term, .. }) => {
                write!(f, " term {term}, {}", if *granted { "granted" } else { "refused" })
            }
            Message::TimeoutNow(order) => write!(f, " term {}", order.term),
            Message::TermQuery(query) => write!(f, " term {}", query.term),
            Message::TermReport(report) => {
                let voters: Vec<String> = report.voters.iter().map(ToString::to_string).collect();
                write!(f, " term {}, voters {}", report.term, voters.join(" "))
            }
            Message::Snapshot(term, snapshot) => {
                let SnapshotMeta { index, term: of, membership, membership_index } = &snapshot.meta;
                write!(f, " term {term}, up to {index}@{of}, configuration {membership_index}: {membership}")
            }
        }
    }
}

fn append(f: &mut fmt::Formatter<'_>, message: &Append) -> fmt::Result {
    let Append { term, prev_index, prev_term, entry_term, count, commit } = message;
    write!(f, " term {term}, after {prev_index}@{prev_term}, ")?;
    match count {
        0 => write!(f, "no entries")?,
        1 => write!(f, "1 entry of term {entry_term}")?,
        _ => write!(f, "{count} entries of term {entry_term}")?,
    }
    write!(f, ", commit {commit}")
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Write::Entries { first, entries, .. } if entries.len() == 1 => {
                let kind = if entries[0].members.is_some() { "configuration" } else { "entry" };
                write!(f, "{kind} {first}@{}", entries[0].term)
            }
            Write::Entries { first, entries, .. } => {
                write!(f, "entries {first}..={}@{}", first + entries.len() as u64 - 1, entries[0].term)
            }
            Write::HardState(HardState { term, vote, commit, lost }) => {
                write!(f, "term {term}, vote {vote}, commit {commit}")?;
                if lost.is_any() { write!(f, ", lost: {lost}") } else { Ok(()) }
            }
            Write::OwnVote(term) => write!(f, "own vote of term {term}"),
            Write::Compact(index) => write!(f, "the log begins behind {index}"),
            Write::Replace(entries) => {
                write!(f, "nothing is left of the log, it begins behind {}", entries.len())
            }
        }
    }
}

/// One line about a node, and for a leader one per peer.
pub fn status(node: &Node) -> String {
    let Some(group) = &node.group else { return format!("{}: down\n", node.id) };
    let Report {
        role, term, leader, commit, durable, last, peers, membership, membership_index, lost, ..
    } = group.report();
    let leader = if leader.is_some() { format!("leader {leader}") } else { "no leader".to_owned() };
    let timer = if group.next_deadline() == Moment::NEVER { "" } else { ", deadline armed" };
    let mut text = format!(
        "{}: {role:?} term {term}, {leader}, last {last}, durable {durable}, commit {commit}{timer}\n",
        node.id
    );
    if lost.is_any() {
        text += &format!("   lost: {lost}\n");
    }
    let uncommitted = if group.membership_index() > group.commit() { ", not committed" } else { "" };
    if membership_index.0 > 0 || membership.is_empty() {
        text += &format!("   configuration {membership_index}: {membership}{uncommitted}\n");
    }
    if role == Role::Leader {
        for peer in peers {
            let kind = match peer.kind {
                MemberKind::Voter => "",
                MemberKind::Outgoing => ", on its way out",
                MemberKind::Learner => ", learner",
                MemberKind::Stranger => ", removed",
            };
            let away = if peer.alive { "" } else { ", not in contact" };
            let (node, state, matched, next, inflight) =
                (peer.node, peer.state, peer.matched, peer.next, peer.inflight);
            text += &format!(
                "   {node}: {state}, matched {matched}, next {next}, {inflight} in flight{kind}{away}\n"
            );
        }
    }
    text
}

/// A log as its terms; in brackets what only a snapshot has any more.
pub fn log(node: &Node) -> String {
    let term = |entry: &Entry| format!("{}{}", entry.term, if entry.members.is_some() { "c" } else { "" });
    let terms = |entries: &[Entry]| entries.iter().map(term).collect::<Vec<_>>().join(" ");
    let (gone, here) = node.log.split_at(node.base.min(node.log.len()));
    let text = match (gone.is_empty(), here.is_empty()) {
        (true, true) => "empty".to_owned(),
        (true, false) => terms(here),
        (false, true) => format!("[{}]", terms(gone)),
        (false, false) => format!("[{}] {}", terms(gone), terms(here)),
    };
    format!("{}: {text}\n", node.id)
}

/// What happened to a node lately.
pub fn history(node: &Node) -> String {
    let Some(group) = &node.group else { return format!("{}: down\n", node.id) };
    let line = |entry: logdrive_shard::HistoryEntry| {
        let times = if entry.count > 1 { format!(", {} times", entry.count) } else { String::new() };
        format!("{} ms, term {}: {:?}{times}\n", entry.at.0 / 1_000_000, entry.term, entry.event)
    };
    group.history().map(line).collect()
}
