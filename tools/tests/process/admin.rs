//! `logdrive group` and `logdrive node`: what operators see and do, with exit codes and JSON.

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, Shape, logdrive, text, wait_for};

pub(crate) const DONE: i32 = 0;
const FAILED: i32 = 1;
const REFUSED: i32 = 2;
pub(crate) const UNWELL: i32 = 5;
const TIMED_OUT: i32 = 7;

/// Runs `logdrive WORDS... --addr <first node> --json`; the exit code and the JSON.
pub(crate) fn ask(cluster: &Cluster, words: &[&str]) -> (i32, Value) {
    let mut arguments = words.to_vec();
    arguments.extend(["--addr", &cluster.nodes[0].clients, "--json"]);
    let output = logdrive(&arguments);
    let said = text(&output.stdout);
    let json = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{words:?}: {error}: {said}{}", text(&output.stderr)));
    (output.status.code().unwrap(), json)
}

/// Runs it without JSON; the exit code and all that is printed.
pub(crate) fn say(cluster: &Cluster, words: &[&str]) -> (i32, String) {
    let mut arguments = words.to_vec();
    arguments.extend(["--addr", &cluster.nodes[0].clients]);
    let output = logdrive(&arguments);
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

fn leader_of(cluster: &Cluster, group: u64) -> u64 {
    let (_, shown) = ask(cluster, &["group", "show", &group.to_string()]);
    shown[0]["leader"].as_u64().unwrap()
}

#[test]
fn groups_are_listed_and_shown_and_their_leaders_moved() {
    let cluster = Cluster::start(Shape { groups: 6, ..Shape::default() });
    let (code, list) = ask(&cluster, &["group", "list"]);
    assert_eq!((code, list["groups"].as_array().unwrap().len()), (DONE, 6), "{list}");
    assert_eq!(list["without_leader"], 0);

    let (code, shown) = ask(&cluster, &["group", "show", "2,4-5"]);
    assert_eq!(code, DONE);
    let shown = shown.as_array().unwrap();
    let groups: Vec<u64> = shown.iter().map(|group| group["group"].as_u64().unwrap()).collect();
    assert_eq!(groups, [2, 4, 5]);
    for group in shown {
        assert_eq!((&group["role"], &group["node"]), (&Value::from("leader"), &group["leader"]), "{group}");
        let peers = group["peers"].as_array().unwrap();
        assert_eq!(peers.len(), 2, "{group}");
        for peer in peers {
            for field in ["match", "next", "in_flight", "in_flight_bytes"] {
                assert!(peer[field].is_u64(), "{field} of {group}");
            }
            assert!(peer["in_contact"].as_bool().unwrap() && peer["last_contact_ms"].is_u64(), "{group}");
        }
    }
    let (code, compared) = ask(&cluster, &["group", "digest", "all", "--wait"]);
    assert_eq!(
        (code, &compared["equal"], &compared["different"]),
        (DONE, &6.into(), &0.into()),
        "{compared}"
    );
    for group in compared["groups"].as_array().unwrap() {
        assert_eq!((&group["verdict"], group["digests"].as_object().unwrap().len()), (&"equal".into(), 3));
    }
    let (code, table) = say(&cluster, &["group", "digest", "1-2"]);
    assert!(code == DONE && table.contains("2 groups equal, 0 different, 0 unsettled"), "{table}");

    // To a named node and back, and then to whoever is best.
    for to in [3, 1, 2] {
        let (code, moved) = ask(&cluster, &["group", "transfer", "4", "--to", &to.to_string(), "--wait"]);
        assert_eq!((code, moved["groups"][0]["leader"].as_u64()), (DONE, Some(to)), "{moved}");
    }
    let (code, moved) = ask(&cluster, &["group", "transfer", "all", "--wait", "20"]);
    assert_eq!((code, &moved["done"], &moved["failed"]), (DONE, &6.into(), &0.into()), "{moved}");

    let (code, said) = say(&cluster, &["group", "show", "1"]);
    assert_eq!(code, DONE);
    assert!(said.contains("leader in term") && said.contains("last contact"), "{said}");
    assert!(said.contains("was elected"), "its history: {said}");
    let (code, said) = say(&cluster, &["group", "list"]);
    assert!(code == DONE && said.contains("6 groups, 0 without a leader"), "{said}");
}

#[test]
fn what_cannot_be_done_is_refused_with_an_exit_code() {
    let mut cluster = Cluster::start(Shape { groups: 2, ..Shape::default() });
    let (code, said) = say(&cluster, &["group", "show", "3"]);
    assert!(code == REFUSED && said.contains("there is no group 3"), "{said}");
    let (code, said) = say(&cluster, &["group", "show", "five"]);
    assert!(code == REFUSED && said.contains("no range of groups"), "{said}");
    let (code, refused) = ask(&cluster, &["group", "transfer", "1", "--to", "9"]);
    assert_eq!((code, &refused["groups"][0]["error"]["code"]), (FAILED, &"BADTARGET".into()), "{refused}");
    // A leader in office: nobody votes for another.
    let other = if leader_of(&cluster, 1) == 1 { "2" } else { "1" };
    let (code, refused) = ask(&cluster, &["group", "campaign", "1", "--node", other]);
    assert_eq!((code, &refused["groups"][0]["error"]["code"]), (TIMED_OUT, &"TIMEOUT".into()), "{refused}");
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let (code, said) = say(&cluster, &["node", "drain", "2"]);
    assert!(code == UNWELL && said.contains("no node that answers is node 2"), "{said}");
    let output = logdrive(&["group", "list", "--addr", &cluster.nodes[1].clients]);
    assert_eq!(output.status.code(), Some(UNWELL));
}

#[test]
fn a_transfer_to_a_node_that_stands_still_is_called_off() {
    let cluster = Cluster::start(Shape { groups: 3, ..Shape::default() });
    let (code, nothing) = ask(&cluster, &["group", "transfer", "all", "--cancel"]);
    assert_eq!((code, &nothing["done"]), (DONE, &3.into()), "there is none: {nothing}");
    let leader = leader_of(&cluster, 1);
    let target = leader % 3 + 1;
    let node = &cluster.nodes[target as usize - 1];
    node.signal(Signal::STOP);
    // By way of the leader: the one that stands still does not answer.
    let address = cluster.nodes[leader as usize - 1].clients.clone();
    let asked = address.clone();
    let order = std::thread::spawn(move || {
        let to = target.to_string();
        let output = logdrive(&[
            "group",
            "transfer",
            "1",
            "--to",
            &to,
            "--wait",
            "--json",
            "--timeout-ms",
            "2000",
            "--addr",
            &asked,
        ]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), said["groups"][0]["error"]["code"].clone())
    });
    let cancel = || {
        let output = logdrive(&[
            "group",
            "transfer",
            "1",
            "--cancel",
            "--json",
            "--timeout-ms",
            "500",
            "--addr",
            &address,
        ]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (said["groups"][0]["cancelled"] == target).then_some(())
    };
    wait_for("the transfer to be called off", cancel);
    assert_eq!(order.join().unwrap(), (Some(FAILED), "CANCELLED".into()));
    node.signal(Signal::CONT);
}

#[test]
fn a_drained_node_leads_nothing_until_it_is_undrained() {
    let cluster = Cluster::start(Shape { groups: 12, ..Shape::default() });
    // The preferred leaders go round, so that some are at home on each node.
    wait_for("leaders at home", || (cluster.nodes[1].count("leaders") == Some(4)).then_some(()));
    let (code, drained) = ask(&cluster, &["node", "drain", "2", "--wait"]);
    assert_eq!((code, &drained["leaders"]), (DONE, &0.into()), "{drained}");
    cluster.wait_for_leaders();
    // It votes and follows, and nobody gives anything back, also not when leadership moves elsewhere.
    let (code, moved) = ask(&cluster, &["group", "transfer", "all", "--wait"]);
    assert_eq!(code, DONE, "{moved}");
    assert_eq!(cluster.nodes[1].count("leaders"), Some(0));
    cluster.addresses().client();
    let (code, said) = say(&cluster, &["node", "drain", "2", "--undo"]);
    assert!(code == DONE && said.contains("not drained any more"), "{said}");
    wait_for("leaders to come back", || (cluster.nodes[1].count("leaders") == Some(4)).then_some(()));
}
