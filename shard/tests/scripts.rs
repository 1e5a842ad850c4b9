//! Stories: `tests/testdata/*.txt`, commands and what they cause. `REWRITE=1` writes down what happens now; read the
//! difference before you keep it.
//!
//! | command | |
//! |---|---|
//! | `cluster nodes=3` | a new cluster, connected unless `dark`; lines `1: 1 1 2` give logs by terms; `voters=(1,2)` founds it without the others; settings as arguments |
//! | `change 1 add-voter=4 remove=3`, `leave 1` | the configuration; also `add-learner`, `promote`, `demote`; `expected=5`, `joint`, `until-left`, `even-if-behind` |
//! | `campaign 1`, `propose 1 count=2 bytes=9`, `read 1`, `transfer 1 to=2`, `flush-commit 1` | inputs |
//! | `disk 1 writes=1` | completes the node's oldest writes, or all |
//! | `deliver from=1 to=2 type=append`, `drop ...` | messages in flight that match, in order; not what they cause |
//! | `send vote from=1 to=2 term=2 last=(3,1)`, `send append ... after=(1,1) entries=2 of=1 commit=1`, `send heartbeat ...` | a message made up, as one of these nodes might have sent it |
//! | `settings 3 pre-vote=off check-quorum=off` | of one node |
//! | `stabilize` | writes and delivers until nothing is left; time stands still |
//! | `deadline 1`, `elapse ms=9`, `run ms=9` | to a node's deadline; time alone; time with everything that happens in it |
//! | `crash 1 keep=1 unnoticed`, `boot 1`, `restart 1` | loses memory, and all writes in flight but so many; contact need not end |
//! | `cut a=1 b=2`, `connect a=1 b=2`, `reroute a=1 b=2`, `contact 1 peer=2 alive`, `partition side=(1,2)`, `heal` | the network |
//! | `cold 1 below=5`, `load 1`, `compact 1 index=5`, `snapshot 1 peer=2 index=5` | entries out of memory, back, gone, sent otherwise |
//! | `take 1 index=5 keep=2`, `send-snapshots`, `receive 3` | a snapshot is taken and the log cut; leaders send what they were asked for; one on its way is durable with its receiver and nothing more |
//! | `transfer-to-best 1`, `cancel-transfer 1`, `forward-read 2`, `lease-read 1`, `pulse` | more inputs; `pulse`: among all in contact |
//! | `unreadable 1 below=5` | the disk of a node that runs has lost its entries below; 1: all are back |
//! | `damage 1 keep=2 back=0 vague` | of a node that is down: its log behind so many entries is unreadable, its newest hard states are lost |
//! | `session open time=5 expires=9`, `session command of=1 number=1 answered-below=1`, `session keep of=1`, `session close of=1`, `session opens=9`, `session snapshot`, `session show` | entries of sessions, as one member's table takes them; needs no cluster |
//! | `status 1`, `logs`, `network`, `history 1` | what is, and what was |
//!
//! Any of them with `quiet` says only `ok`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;
#[path = "table/mod.rs"]
mod table;

use common::node::{Node, Start};
use common::{Cluster, Envelope, Message, config, ms, show};
use datadriven::TestCase;
use logdrive_shard::{
    Append, Config, Heartbeat, LogIndex, MemberStep, MembershipChange, NodeId, SnapshotStatus, Term,
    Transition, VoteRequest,
};

#[test]
fn scripts() {
    datadriven::walk("tests/testdata", |file| {
        let (mut cluster, mut sessions) = (None, table::Table::default());
        file.run(|case| match case.directive.as_str() {
            "session" => sessions.run(case),
            _ => run(&mut cluster, case),
        });
    });
}

/// What of the dissertation, the paper's figures and the list of other people's bugs concerns the protocol, and the story that tells it. (Of
/// chapter 5, 5.2 to 5.4 are about other kinds of snapshots than are taken here, and 5.1.2 and 5.1.3 about when and how its caller
/// writes one.)
const INDEX: &[(&str, &str)] = &[
    ("dissertation, 3.3", "figure_4"),
    ("dissertation, 3.4", "election"),
    ("dissertation, 3.5", "replication"),
    ("dissertation, 3.6.1", "election_restriction"),
    ("dissertation, 3.6.2", "figure_8"),
    ("dissertation, 3.6.3", "figure_9"),
    ("dissertation, 3.7", "crashes"),
    ("dissertation, 3.8", "restart"),
    ("dissertation, 3.9", "timing"),
    ("dissertation, 3.10", "transfer"),
    ("dissertation, 4.1", "members_safety"),
    ("dissertation, 4.2.1", "members_catch_up"),
    ("dissertation, 4.2.2", "members_remove_leader"),
    ("dissertation, 4.2.3", "members_disruptive"),
    ("dissertation, 4.2.4", "members_availability"),
    ("dissertation, 4.3", "members_joint"),
    ("dissertation, 4.4", "members_replace_dead"),
    ("dissertation, 5.1", "snapshots"),
    ("dissertation, 5.1.1", "snapshot_while_writing"),
    ("dissertation, 6.1", "finding_the_leader"),
    ("dissertation, 6.2", "finding_the_leader"),
    ("dissertation, 6.3", "sessions"),
    ("dissertation, 6.4", "read_index"),
    ("dissertation, 6.4.1", "leases"),
    ("dissertation, 9.6", "pre_vote"),
    ("dissertation, 10.2.1", "undurable_leader"),
    ("dissertation, 10.2.2", "windows"),
    ("raft paper, figure 2", "figure_2"),
    ("raft paper, figure 3", "figure_3"),
    ("raft paper, figure 4", "figure_4"),
    ("raft paper, figure 5", "figure_5"),
    ("raft paper, figure 6", "figure_6"),
    ("raft paper, figure 7", "figure_7"),
    ("raft paper, figure 8", "figure_8"),
    ("raft paper, figure 9", "figure_9"),
    ("raft paper, figure 10", "figure_10"),
    ("raft paper, figure 11", "figure_11"),
    ("raft paper, figure 12", "figure_12"),
    ("raft paper, figure 13", "figure_13"),
    ("field 1 and 2", "persistence"),
    ("field 5", "matched"),
    ("field 6", "figure_8"),
    ("field 7", "read_index"),
    ("field 8 and 20", "stale_reads"),
    ("field 9", "snapshots_and_configurations"),
    ("field 10", "inside_snapshot"),
    ("field 11", "aba"),
    ("field 12", "members_partition"),
    ("field 13", "members_two_changes"),
    ("field 14", "snapshot_and_crash"),
    ("field 15", "hard_states"),
    ("field 16", "restart"),
    ("field 17", "leases_end"),
    ("field 18", "one_way"),
    ("field 19", "slow_disk"),
    ("field 21", "snapshots_twice"),
    ("field 22", "elevated_term"),
    ("field 42", "lost_vote"),
    ("field 45", "undurable_leader"),
];

#[test]
fn every_section_every_figure_and_every_item_has_its_story() {
    for (what, story) in INDEX {
        let text = std::fs::read_to_string(format!("tests/testdata/{story}.txt")).unwrap();
        let comments = text.lines().take_while(|line| line.starts_with('#'));
        let head = comments.map(|line| line[1..].trim()).collect::<Vec<_>>().join(" ").to_lowercase();
        let is_named = head.match_indices(what).any(|(at, _)| {
            // Not 3.10 for 3.1, nor 3.6.1 for 3.6.
            !head[at + what.len()..].starts_with(|next: char| next.is_ascii_digit() || next == '.')
        });
        assert!(is_named, "{story}.txt does not say that it is about {what}");
    }
}

fn run(slot: &mut Option<Cluster>, case: &mut TestCase) -> String {
    let quiet = case.take_flag("quiet").unwrap();
    let command = case.directive.clone();
    if command == "cluster" {
        *slot = Some(new_cluster(case));
        case.expect_empty().unwrap();
        return "ok\n".to_owned();
    }
    let cluster = slot.as_mut().expect("a script begins with `cluster`");
    let answer = input(cluster, case, &command)
        .or_else(|| world(cluster, case, &command))
        .or_else(|| forged(cluster, case, &command))
        .or_else(|| question(cluster, case, &command))
        .unwrap_or_else(|| panic!("no such command: {command}"));
    case.expect_empty().unwrap();
    let trace: Vec<String> = cluster.trace.drain(..).collect();
    if quiet || (trace.is_empty() && answer.is_empty()) {
        return "ok\n".to_owned();
    }
    trace.into_iter().map(|line| line + "\n").chain([answer]).collect()
}

fn new_cluster(case: &mut TestCase) -> Cluster {
    let default = config();
    let settings = Config {
        pre_vote: is_on(case, "pre-vote"),
        check_quorum: is_on(case, "check-quorum"),
        append_bytes_max: number(case, "append-bytes").unwrap_or(default.append_bytes_max),
        inflight_messages_max: number(case, "window").unwrap_or(default.inflight_messages_max),
        inflight_bytes_max: number(case, "window-bytes").unwrap_or(default.inflight_bytes_max),
        uncommitted_entries_max: number(case, "uncommitted").unwrap_or(default.uncommitted_entries_max),
        uncommitted_bytes_max: number(case, "uncommitted-bytes").unwrap_or(default.uncommitted_bytes_max),
        promotion_lag_max: number(case, "promotion-lag").unwrap_or(default.promotion_lag_max),
        ..default
    };
    let mut start = Start {
        commit: number(case, "commit").unwrap_or(0),
        term: number(case, "term").unwrap_or(0),
        fresh: !case.take_flag("restarted").unwrap(),
        preferred: number(case, "preferred").unwrap_or(0),
        priorities: (1..).zip(case.take_args::<u8>("priorities").unwrap_or_default()).collect(),
        voters: case.try_take_args("voters").unwrap().unwrap_or_default(),
        ..Start::default()
    };
    for line in case.input.lines() {
        let (id, terms) = line.split_once(':').expect("a log is given as `1: 1 1 2`");
        let terms = terms.split_whitespace().map(|term| term.parse().unwrap()).collect();
        start.logs.insert(id.parse().unwrap(), terms);
    }
    let dark = case.take_flag("dark").unwrap();
    let mut cluster = Cluster::dark(number(case, "nodes").unwrap(), settings, 42, &start);
    if !dark {
        cluster.connect_all();
    }
    cluster.tracing = true;
    cluster
}

fn is_on(case: &mut TestCase, name: &str) -> bool {
    case.try_take_arg::<String>(name).unwrap().is_none_or(|v| v != "off")
}

fn number<T: std::str::FromStr>(case: &mut TestCase, name: &str) -> Option<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    case.try_take_arg(name).unwrap()
}

/// The node that a command is about: `1` in `campaign 1`.
fn node(cluster: &Cluster, case: &mut TestCase) -> u32 {
    let ids = cluster.ids();
    ids.into_iter().find(|id| case.take_flag(&id.to_string()).unwrap()).expect("the command names a node")
}

fn input(cluster: &mut Cluster, case: &mut TestCase, command: &str) -> Option<String> {
    let said = |refused: Result<String, logdrive_shard::Refused>| match refused {
        Ok(text) => text,
        Err(refused) => format!("refused: {refused}\n"),
    };
    Some(match command {
        "campaign" => {
            let id = node(cluster, case);
            cluster.plain(id, |group, env| group.campaign(env));
            String::new()
        }
        "propose" => {
            let id = node(cluster, case);
            let (count, bytes) = (number(case, "count").unwrap_or(1), number(case, "bytes").unwrap_or(1));
            let result = cluster.propose(id, count, bytes);
            said(result.map(|p| format!("first {}@{}\n", p.first, p.term)))
        }
        "read" => {
            let id = node(cluster, case);
            said(cluster.read(id).map(|round| format!("waits for round {round}\n")))
        }
        "change" | "leave" => {
            let id = node(cluster, case);
            let change = change(case);
            said(cluster.change(id, &change).map(|p| format!("configuration {}@{}\n", p.first, p.term)))
        }
        "transfer" => {
            let id = node(cluster, case);
            let to = number(case, "to").unwrap();
            said(cluster.transfer(id, to).map(|()| String::new()))
        }
        "transfer-to-best" => {
            let id = node(cluster, case);
            let result = cluster.plain(id, |group, env| group.transfer_to_best(env));
            said(result.map(|to| format!("to {to}\n")))
        }
        "cancel-transfer" => {
            let id = node(cluster, case);
            let was = cluster.plain(id, |group, env| group.cancel_transfer(env));
            if was { String::new() } else { "there is none\n".to_owned() }
        }
        "pulse" => {
            cluster.pulse_all();
            String::new()
        }
        "lease-read" => {
            let id = node(cluster, case);
            match cluster.lease_read(id) {
                Ok(index) => format!("served at {index}\n"),
                Err(refused) => format!("refused: {refused}\n"),
            }
        }
        "forward-read" => {
            let id = node(cluster, case);
            said(cluster.forward_read(id).map(|ticket| format!("waits for {ticket}\n")))
        }
        "flush-commit" => {
            let id = node(cluster, case);
            cluster.plain(id, |group, env| group.flush_commit(env));
            String::new()
        }
        "compact" => {
            let id = node(cluster, case);
            let index = LogIndex(number(case, "index").unwrap());
            cluster.compact(id, index);
            String::new()
        }
        "take" => {
            let id = node(cluster, case);
            let (index, keep) = (number(case, "index"), number(case, "keep").unwrap_or(0));
            let is_taken = cluster.take_snapshot(id, index, keep);
            if is_taken { String::new() } else { "nothing to take\n".to_owned() }
        }
        "send-snapshots" => {
            cluster.serve_snapshots();
            String::new()
        }
        "receive" => {
            // Durable, and then nothing more.
            let id = node(cluster, case);
            let at = cluster.network.iter().position(|e| e.to.0 == id && e.message.kind() == "snapshot");
            let envelope = cluster.network.remove(at.expect("a snapshot is on its way"));
            let Message::Snapshot(_, snapshot) = &envelope.message else { unreachable!("selected by kind") };
            cluster.receive_snapshot(id, snapshot);
            String::new()
        }
        "snapshot" => {
            let id = node(cluster, case);
            let peer = NodeId(number(case, "peer").unwrap());
            let status = match number(case, "index").map(LogIndex) {
                Some(index) => SnapshotStatus::Installed(index),
                None if case.take_flag("moving").unwrap() => SnapshotStatus::Moving,
                None if case.take_flag("refused").unwrap() => SnapshotStatus::Refused,
                None => SnapshotStatus::Failed,
            };
            cluster.plain(id, |group, env| group.on_snapshot_report(env, peer, status));
            String::new()
        }
        _ => return None,
    })
}

fn change(case: &mut TestCase) -> MembershipChange {
    let mut steps = Vec::new();
    let mut take = |name: &str, step: fn(NodeId) -> MemberStep| {
        let nodes: Vec<u32> = case.try_take_args(name).unwrap().unwrap_or_default();
        steps.extend(nodes.into_iter().map(|node| step(NodeId(node))));
    };
    take("add-learner", MemberStep::AddLearner);
    take("add-voter", MemberStep::AddVoter);
    take("promote", MemberStep::Promote);
    take("demote", MemberStep::Demote);
    take("remove", MemberStep::Remove);
    let transition = match (case.take_flag("joint").unwrap(), case.take_flag("until-left").unwrap()) {
        (_, true) => Transition::JointUntilLeft,
        (true, false) => Transition::Joint,
        (false, false) => Transition::Auto,
    };
    MembershipChange {
        expected: number(case, "expected").map(LogIndex),
        steps,
        transition,
        even_if_behind: case.take_flag("even-if-behind").unwrap(),
    }
}

fn world(cluster: &mut Cluster, case: &mut TestCase, command: &str) -> Option<String> {
    match command {
        "disk" => {
            let id = node(cluster, case);
            for _ in 0..number(case, "writes").unwrap_or(u32::MAX) {
                if !cluster.complete_write(id) {
                    break;
                }
            }
        }
        "deliver" => {
            let matches = selection(case);
            cluster.deliver(matches);
        }
        "drop" => {
            let matches = selection(case);
            let count = cluster.discard(matches);
            return Some(format!("{count} lost\n"));
        }
        "stabilize" => cluster.stabilize(),
        "deadline" => {
            let id = node(cluster, case);
            cluster.fire_deadline(id);
        }
        "elapse" => cluster.now = cluster.now.after(ms(number(case, "ms").unwrap())),
        "run" => cluster.run_for(ms(number(case, "ms").unwrap())),
        "crash" => {
            let id = node(cluster, case);
            let keep = number(case, "keep").unwrap_or(0);
            if case.take_flag("unnoticed").unwrap() {
                cluster.crash_unnoticed(id, keep);
            } else {
                cluster.crash(id, keep);
            }
        }
        "damage" => {
            let id = node(cluster, case);
            let (keep, back) = (number(case, "keep").unwrap_or(usize::MAX), number(case, "back"));
            if back.is_some() {
                cluster.checks.forget_own_votes(id);
            }
            let is_vague = case.take_flag("vague").unwrap();
            cluster.nodes.get_mut(&id).unwrap().disk.damage(keep, is_vague, back);
        }
        "boot" => {
            let id = node(cluster, case);
            cluster.boot(id, false);
        }
        "restart" => {
            let id = node(cluster, case);
            cluster.restart(id);
        }
        "cut" => cluster.cut(number(case, "a").unwrap(), number(case, "b").unwrap()),
        "connect" => cluster.connect(number(case, "a").unwrap(), number(case, "b").unwrap()),
        "reroute" => cluster.reroute(number(case, "a").unwrap(), number(case, "b").unwrap()),
        "contact" => {
            let id = node(cluster, case);
            let alive = case.take_flag("alive").unwrap() || !case.take_flag("dead").unwrap();
            cluster.set_contact_one_way(id, number(case, "peer").unwrap(), alive);
        }
        "partition" => {
            let side: Vec<u32> = case.take_args("side").unwrap();
            let rest: Vec<u32> = cluster.ids().into_iter().filter(|id| !side.contains(id)).collect();
            cluster.partition(&[&side, &rest]);
        }
        "heal" => cluster.connect_all(),
        "cold" => {
            let id = node(cluster, case);
            cluster.nodes.get_mut(&id).unwrap().cold_below = number(case, "below").unwrap();
        }
        "unreadable" => {
            let id = node(cluster, case);
            let below = number(case, "below").unwrap();
            cluster.set_unreadable(id, below);
        }
        "load" => {
            let id = node(cluster, case);
            cluster.nodes.get_mut(&id).unwrap().wants_load = true;
            cluster.load_all();
        }
        _ => return None,
    }
    Some(String::new())
}

/// What the receiver's rules are shown with: messages that nobody sent just now, and nodes set up otherwise than the rest.
fn forged(cluster: &mut Cluster, case: &mut TestCase, command: &str) -> Option<String> {
    match command {
        "settings" => {
            let id = node(cluster, case);
            let (pre_vote, check_quorum) = (is_on(case, "pre-vote"), is_on(case, "check-quorum"));
            let settings = Config { pre_vote, check_quorum, ..cluster.config.clone() };
            cluster.nodes.get_mut(&id).unwrap().settings = Some(settings);
        }
        "send" => {
            let (from, to) = (number(case, "from").unwrap(), number(case, "to").unwrap());
            let message = message(case);
            cluster.network.push(Envelope { from: NodeId(from), to: NodeId(to), message });
        }
        _ => return None,
    }
    Some(String::new())
}

/// `last=(3,1)`: index and term.
fn place(case: &mut TestCase, name: &str) -> (LogIndex, Term) {
    let place: Vec<u64> = case.take_args(name).unwrap();
    (LogIndex(place[0]), Term(place[1]))
}

fn message(case: &mut TestCase) -> Message {
    let term = Term(number(case, "term").unwrap());
    let commit = LogIndex(number(case, "commit").unwrap_or(0));
    if case.take_flag("vote").unwrap() {
        let (last_index, last_term) = place(case, "last");
        return Message::VoteRequest(VoteRequest {
            pre_vote: false,
            transfer: false,
            term,
            last_index,
            last_term,
        });
    }
    if case.take_flag("heartbeat").unwrap() {
        return Message::Heartbeat(Heartbeat { term, commit, round: 0 });
    }
    assert!(case.take_flag("append").unwrap(), "only votes, appends and heartbeats are made up");
    let (prev_index, prev_term) = place(case, "after");
    let count = number(case, "entries").unwrap_or(0);
    let entry_term = Term(number(case, "of").unwrap_or(0));
    let indices = prev_index.0 + 1..=prev_index.0 + u64::from(count);
    let entries = indices.map(|index| Node::entry_given_by_term(entry_term.0, index)).collect();
    Message::Append(Append { term, prev_index, prev_term, entry_term, count, commit }, entries)
}

fn selection(case: &mut TestCase) -> impl Fn(&Envelope) -> bool + use<> {
    let (from, to): (Option<u32>, Option<u32>) = (number(case, "from"), number(case, "to"));
    let kind: Option<String> = case.try_take_arg("type").unwrap();
    move |envelope| {
        from.is_none_or(|from| envelope.from.0 == from)
            && to.is_none_or(|to| envelope.to.0 == to)
            && kind.as_ref().is_none_or(|kind| envelope.message.kind() == kind)
    }
}

fn question(cluster: &mut Cluster, case: &mut TestCase, command: &str) -> Option<String> {
    let ids = cluster.ids();
    match command {
        "status" => {
            let named: Vec<u32> =
                ids.iter().copied().filter(|id| case.take_flag(&id.to_string()).unwrap()).collect();
            let chosen = if named.is_empty() { ids } else { named };
            Some(chosen.iter().map(|id| show::status(&cluster.nodes[id])).collect())
        }
        "history" => {
            let id = ids.iter().copied().find(|id| case.take_flag(&id.to_string()).unwrap()).unwrap();
            Some(show::history(&cluster.nodes[&id]))
        }
        "logs" => Some(cluster.nodes.values().map(show::log).collect()),
        "network" if cluster.network.is_empty() => Some("nothing is in flight\n".to_owned()),
        "network" => Some(cluster.network.iter().map(|envelope| format!("{envelope}\n")).collect()),
        _ => None,
    }
}
