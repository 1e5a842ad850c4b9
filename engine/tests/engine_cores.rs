//! Several cores per node: the mesh between them, services on their executors, and nodes with different numbers of cores.

#![allow(clippy::unwrap_used)]

mod engine_common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine_common::{Cluster, eventually, get, increment, log_to_stderr, set};
use logdrive::api::{Busy, Completions, Error, ReadPolicy, Retry, Session};
use logdrive::core::CoreId;
use logdrive::kv::Reply;
use logdrive::runtime::{CoreClient, Service};
use logdrive_shard::{GroupId, NodeId};

/// A service whose body is an async function of the core's client.
fn service<F: Future<Output = ()> + 'static>(
    body: impl Fn(CoreClient) -> F + Send + Sync + 'static,
) -> Box<Service> {
    Box::new(move |client| Box::pin(body(client)))
}

/// Asks until nothing is refused any more; the replies by token.
async fn ask_all(client: &CoreClient, requests: BTreeMap<u64, Request>) -> BTreeMap<u64, Vec<u8>> {
    let port = client.open_port();
    let (mut open, mut done) = (requests, BTreeMap::new());
    let mut answers = Completions::default();
    while !open.is_empty() {
        for (token, request) in &open {
            match request {
                Request::Propose(group, payload) => port.propose(*token, *group, payload),
                Request::Read(group, query) => port.read(*token, *group, ReadPolicy::Linearizable, query),
            }
        }
        let mut missing = open.len();
        while missing > 0 {
            port.answers(&mut answers).await;
            assert!(!answers.is_empty());
            missing -= answers.len();
            for (completion, reply) in answers.iter() {
                match completion.result {
                    Ok(_) => {
                        open.remove(&completion.token);
                        assert!(done.insert(completion.token, reply.to_vec()).is_none());
                    }
                    Err(error) => assert!(matches!(error.retry(), Retry::At(_) | Retry::After(_)), "{error}"),
                }
            }
        }
        client.sleep(Duration::from_millis(5)).await;
    }
    done
}

enum Request {
    Propose(GroupId, Vec<u8>),
    Read(GroupId, Vec<u8>),
}

/// Sets and reads a key of every group that this node leads, from every core.
async fn exercise(client: CoreClient, done: Sender<(u32, u16, usize)>) {
    let (node, core) = (client.node(), client.core());
    let led: Vec<GroupId> = loop {
        let groups: Vec<GroupId> = (1..=client.groups()).map(GroupId).collect();
        if groups.iter().all(|group| client.leader_of(*group).is_some()) {
            break groups.into_iter().filter(|group| client.leader_of(*group) == node).collect();
        }
        client.sleep(Duration::from_millis(5)).await;
    };
    let key = format!("{node}-{}", core.0);
    let sets = led.iter().map(|group| (group.0, Request::Propose(*group, set(&key, &group.to_string()))));
    for reply in ask_all(&client, sets.collect()).await.into_values() {
        assert_eq!(Reply::decode(&reply).unwrap(), Reply::Ok);
    }
    let gets = led.iter().map(|group| (group.0, Request::Read(*group, get(&key))));
    for (token, reply) in ask_all(&client, gets.collect()).await {
        assert_eq!(Reply::decode(&reply).unwrap(), Reply::Value(token.to_string().as_bytes()));
    }
    done.send((node.0, core.0, led.len())).unwrap();
    client.stopping().await;
    assert!(client.is_stopping());
}

fn exercised(cores: [u16; 3]) {
    let mut cluster = Cluster::new(3, 1, 12);
    let (sender, done) = channel();
    for id in 1..=3 {
        cluster.settings(id).cores = cores[id as usize - 1];
        // Leaders stay where they are while they are counted.
        cluster.settings(id).core.balance_leaders = false;
    }
    for id in 1..=3 {
        let sender = Mutex::new(sender.clone());
        let run = service(move |client| exercise(client, sender.lock().unwrap().clone()));
        cluster.try_start(id, vec![run]).unwrap();
    }
    let total: u16 = cores.iter().sum();
    let mut led = BTreeMap::new();
    for _ in 0..total {
        let (node, core, groups) = receive(&done);
        led.entry(node).or_insert_with(Vec::new).push((core, groups));
    }
    for id in 1..=3 {
        let seen = &led[&id];
        assert_eq!(seen.len(), usize::from(cores[id as usize - 1]), "one service per core of node {id}");
    }
    let links = |id: u32| u32::from(total - cores[id as usize - 1]) * u32::from(cores[id as usize - 1]);
    for id in 1..=3 {
        let up = || cluster.engine(id).peers().iter().map(|peer| peer.links).sum::<u32>();
        eventually("one connection per pair of cores", || (up() == links(id)).then_some(()));
    }
    cluster.await_equal();
    for id in 1..=3 {
        cluster.shutdown(id);
    }
}

#[track_caller]
fn receive<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).expect("the service reports")
}

#[test]
fn every_core_reaches_every_group_of_its_node() {
    log_to_stderr();
    exercised([2, 2, 2]);
}

#[test]
fn nodes_with_different_numbers_of_cores_work_together() {
    exercised([1, 2, 3]);
    exercised([3, 1, 1]);
}

#[test]
fn a_node_of_two_cores_comes_back_with_its_data() {
    let mut cluster = Cluster::start(3, 2, 6);
    for group in 1..=6 {
        cluster.set(group, "k", "1");
    }
    for id in 1..=3 {
        cluster.shutdown(id);
    }
    for id in 1..=3 {
        cluster.start_node(id);
    }
    for group in 1..=6 {
        assert_eq!(cluster.get(group, "k").as_deref(), Some("1"));
    }
    cluster.crash(1);
    for group in 1..=6 {
        cluster.set(group, "k", "2");
    }
    cluster.start_node(1);
    cluster.await_equal();
}

#[test]
fn the_mesh_between_two_cores_is_bounded() {
    let mut cluster = Cluster::new(1, 2, 2);
    cluster.settings(1).runtime.mesh_requests_max = 8;
    let (sender, done) = channel();
    let sender = Mutex::new(sender);
    let run = service(move |client| {
        let sender = sender.lock().unwrap().clone();
        async move {
            if client.core() != CoreId(0) {
                return;
            }
            let away = (1..=2).map(GroupId).find(|group| client.core_of(*group) == Some(CoreId(1))).unwrap();
            while client.leader_of(away) != client.node() {
                client.sleep(Duration::from_millis(5)).await;
            }
            let port = client.open_port();
            for token in 0..20 {
                port.propose(token, away, &set("k", "v"));
            }
            let mut answers = Completions::default();
            let (mut ok, mut busy) = (0, 0);
            while ok + busy < 20 {
                port.answers(&mut answers).await;
                for (completion, _) in answers.iter() {
                    match completion.result {
                        Ok(_) => ok += 1,
                        Err(Error::Busy { why: Busy::Mesh, .. }) => busy += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            // What was answered makes room again.
            port.propose(99, away, &set("k", "w"));
            port.answers(&mut answers).await;
            assert!(answers.iter().all(|(completion, _)| completion.result.is_ok()));
            // A group that does not exist, from the same port.
            port.propose(100, GroupId(3), b"");
            port.answers(&mut answers).await;
            assert!(answers.iter().all(|(c, _)| (c.token, c.result) == (100, Err(Error::NoSuchGroup))));
            // An answer that comes after its port is gone is dropped.
            port.propose(101, away, &set("k", "x"));
            drop(port);
            let status = client.node_status().await;
            assert_eq!(status.len(), 2);
            assert_eq!(client.group_status(away).await.unwrap().id, away);
            sender.send((ok, busy)).unwrap();
        }
    });
    cluster.try_start(1, vec![run]).unwrap();
    assert_eq!(receive(&done), (8, 12));
    cluster.shutdown(1);
}

/// A service asks through its port, from its own core and across the mesh; a command that is repeated is executed once.
#[test]
fn sessions_are_used_through_a_port_on_this_core_and_across_the_mesh() {
    let mut cluster = Cluster::new(1, 2, 2);
    let (sender, done) = channel();
    let sender = Mutex::new(sender);
    let run = service(move |client| {
        let sender = sender.lock().unwrap().clone();
        async move {
            if client.core() != CoreId(0) {
                return;
            }
            for group in (1..=2).map(GroupId) {
                while client.leader_of(group) != client.node() {
                    client.sleep(Duration::from_millis(5)).await;
                }
                let port = client.open_port();
                let mut answers = Completions::default();
                let mut next = async |token: u64| {
                    port.answers(&mut answers).await;
                    let (completion, reply) = answers.iter().next().unwrap();
                    assert_eq!((completion.token, answers.len()), (token, 1));
                    (completion.result, reply.to_vec())
                };
                port.open_session(1, group);
                let (_, id) = next(1).await;
                let mut session = Session::new(u64::from_le_bytes(id.try_into().unwrap()));
                let call = session.next_call().unwrap();
                let mut replies = Vec::new();
                for token in 2..5 {
                    port.propose_in_session(token, group, call, &increment("n"));
                    let (result, reply) = next(token).await;
                    let Ok(Reply::Integer(count)) = Reply::decode(&reply) else { panic!("{result:?}") };
                    replies.push((result.unwrap(), count));
                }
                session.answered(call);
                port.keep_session(5, group, session.id());
                assert!(next(5).await.0.is_ok());
                port.close_session(6, group, session.id());
                assert!(next(6).await.0.is_ok());
                let late = session.next_call().unwrap();
                port.propose_in_session(7, group, late, &increment("n"));
                let unknown = next(7).await.0;
                assert_eq!(unknown, Err(Error::UnknownSession { session: session.id() }));
                sender.send((client.core_of(group) == Some(client.core()), replies)).unwrap();
            }
        }
    });
    cluster.try_start(1, vec![run]).unwrap();
    let (mut here, mut away) = (0, 0);
    for _ in 0..2 {
        let (is_here, replies) = receive(&done);
        if is_here {
            here += 1
        } else {
            away += 1
        }
        assert_eq!(replies.len(), 3);
        assert!(replies.iter().all(|reply| *reply == replies[0]), "one execution, one index: {replies:?}");
        assert_eq!(replies[0].1, 1);
    }
    assert_eq!((here, away), (1, 1));
    cluster.shutdown(1);
}

#[test]
fn services_are_told_to_stop_and_awaited_and_their_tasks_end() {
    struct Alive(Arc<AtomicU32>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let mut cluster = Cluster::new(1, 2, 2);
    let alive = Arc::new(AtomicU32::new(0));
    let ended = Arc::new(AtomicU32::new(0));
    let (in_service, at_end) = (alive.clone(), ended.clone());
    let run = service(move |client| {
        let (alive, ended) = (in_service.clone(), at_end.clone());
        async move {
            // A task that never ends by itself, and holds something.
            let held = alive.clone();
            held.fetch_add(1, Ordering::SeqCst);
            let idle = client.clone();
            client.spawn(async move {
                let _alive = Alive(held);
                let mut answers = Completions::default();
                idle.open_port().answers(&mut answers).await;
            });
            client.stopping().await;
            // Requests are still answered while services wind down.
            let status = client.node_status().await;
            assert_eq!(status.len(), 2);
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    cluster.try_start(1, vec![run]).unwrap();
    eventually("both services run", || (alive.load(Ordering::SeqCst) == 2).then_some(()));
    cluster.shutdown(1);
    assert_eq!(ended.load(Ordering::SeqCst), 2);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dropped_engine_stops_its_threads_and_lets_go_of_the_directory() {
    let mut cluster = Cluster::new(1, 2, 2);
    for round in 0..3 {
        let run = service(|client| async move { client.stopping().await });
        cluster.try_start(1, vec![run]).unwrap();
        let value = round.to_string();
        cluster.set(1, "round", &value);
        cluster.set(2, "round", &value);
        assert_eq!(cluster.engine(1).leader_of(GroupId(1)), NodeId(1));
        cluster.crash(1);
    }
    cluster.start_node(1);
    assert_eq!(cluster.get(2, "round").as_deref(), Some("2"));
}
