//! Clients of a cluster of nodes in this process: real sockets, real engines, real logs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod redis_common;

use std::collections::BTreeMap;

use logdrive_tools::redis::Limits;
use redis::cluster::ClusterClient;
use redis_common::{Client, Cluster, Reply, eventually};

#[test]
fn a_cluster_client_reads_what_it_wrote_wherever_it_lives() {
    let cluster = Cluster::start(3, 1, 24);
    let client = ClusterClient::new(cluster.urls()).unwrap();
    let mut connection = client.get_connection().unwrap();
    for n in 0..300 {
        let () = redis::cmd("SET").arg(format!("key{n}")).arg(n).query(&mut connection).unwrap();
    }
    for n in 0..300 {
        let value: i64 =
            redis::cmd("INCRBY").arg(format!("key{n}")).arg(1_000).query(&mut connection).unwrap();
        assert_eq!(value, n + 1_000);
        let value: i64 = redis::cmd("GET").arg(format!("key{n}")).query(&mut connection).unwrap();
        assert_eq!(value, n + 1_000);
    }
    let removed: i64 = redis::cmd("DEL").arg("key7").query(&mut connection).unwrap();
    assert_eq!(removed, 1);
    // Each node counts the keys of the groups it leads.
    let count = |id| match Client::connect(cluster.address(id)).ask(&["DBSIZE"]) {
        Reply::Integer(keys) => keys,
        other => panic!("{other:?}"),
    };
    let counts: Vec<i64> = cluster.ids().map(count).collect();
    assert_eq!(counts.iter().sum::<i64>(), 299, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "leaders are spread: {counts:?}");
}

#[test]
fn a_plain_client_speaks_resp3_and_is_moved_to_the_leader() {
    let cluster = Cluster::start(3, 1, 8);
    let (leader, follower) = (cluster.leader_of("foo"), cluster.follower_of("foo"));
    let url = format!("redis://{}?protocol=resp3", cluster.address(leader));
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let () = redis::cmd("SET").arg("foo").arg("bar").query(&mut connection).unwrap();
    let value: String = redis::cmd("GET").arg("foo").query(&mut connection).unwrap();
    assert_eq!(value, "bar");

    let mut client = Client::connect(cluster.address(follower));
    let expected = format!("MOVED 12182 {}", cluster.address(leader));
    assert_eq!(client.ask(&["GET", "foo"]).error(), expected);
    assert_eq!(client.ask(&["SET", "foo", "x"]).error(), expected);
    assert_eq!(
        client.ask(&["MSET", "a", "1", "b", "2"]).error(),
        "CROSSSLOT Keys in request don't hash to the same slot"
    );
    let Reply::Map(hello) = client.ask(&["HELLO", "3"]) else { panic!("no map") };
    assert!(hello.contains(&(Reply::bulk("proto"), Reply::Integer(3))));
    assert!(hello.contains(&(Reply::bulk("mode"), Reply::bulk("cluster"))));
    assert!(matches!(client.ask(&["CLUSTER", "NODES"]), Reply::Verbatim(_)));
    let Reply::Map(config) = client.ask(&["CONFIG", "GET", "appendonly"]) else { panic!("no map") };
    assert_eq!(config, [(Reply::bulk("appendonly"), Reply::bulk("yes"))]);
}

#[test]
fn after_readonly_a_follower_answers_what_it_has_applied() {
    let cluster = Cluster::start(3, 1, 4);
    let (leader, follower) = (cluster.leader_of("foo"), cluster.follower_of("foo"));
    assert_eq!(Client::connect(cluster.address(leader)).ask(&["SET", "foo", "bar"]), Reply::ok());
    let mut client = Client::connect(cluster.address(follower));
    assert!(client.ask(&["GET", "foo"]).error().starts_with("MOVED"));
    assert_eq!(client.ask(&["READONLY"]), Reply::ok());
    eventually("the follower applied the write", || {
        (client.ask(&["GET", "foo"]) == Reply::bulk("bar")).then_some(())
    });
    assert!(client.ask(&["SET", "foo", "x"]).error().starts_with("MOVED"));
    assert_eq!(client.ask(&["READWRITE"]), Reply::ok());
    assert!(client.ask(&["GET", "foo"]).error().starts_with("MOVED"));
}

/// What a single-threaded Redis would reply to the `n`th request of a long pipeline over some keys.
fn pipeline(n: usize, keys: &[String], state: &mut BTreeMap<String, i64>) -> (Vec<u8>, Reply) {
    let key = keys[n * 7 % keys.len()].as_str();
    match n % 5 {
        0 | 1 => {
            let value = n as i64;
            state.insert(key.to_owned(), value);
            (Client::encode(&["SET", key, &value.to_string()]), Reply::ok())
        }
        2 => {
            let value = state.entry(key.to_owned()).or_insert(0);
            *value += 1;
            (Client::encode(&["INCR", key]), Reply::Integer(*value))
        }
        3 => {
            let reply = state.get(key).map_or(Reply::Nil, |value| Reply::bulk(&value.to_string()));
            (Client::encode(&["GET", key]), reply)
        }
        _ if n.is_multiple_of(3) => {
            let removed = i64::from(state.remove(key).is_some());
            (Client::encode(&["DEL", key]), Reply::Integer(removed))
        }
        _ => (Client::encode(&["ECHO", key]), Reply::bulk(key)),
    }
}

#[test]
fn a_pipeline_of_10_000_over_groups_and_cores_keeps_its_order() {
    let cluster = Cluster::start(3, 2, 32);
    let keys = cluster.keys_led_by(1, 97);
    let clients: Vec<_> = (0..2)
        .map(|part| {
            let address = cluster.address(1);
            // Two connections, most likely on different cores, each with keys of its own.
            let keys: Vec<String> = keys.iter().skip(part).step_by(2).cloned().collect();
            std::thread::spawn(move || {
                let mut state = BTreeMap::new();
                let (requests, replies): (Vec<_>, Vec<_>) =
                    (0..10_000).map(|n| pipeline(n, &keys, &mut state)).unzip();
                let mut client = Client::connect(address);
                let mut writer = client.socket().try_clone().unwrap();
                let sender = std::thread::spawn(move || {
                    std::io::Write::write_all(&mut writer, &requests.concat()).unwrap();
                });
                for (n, expected) in replies.into_iter().enumerate() {
                    assert_eq!(client.receive(), expected, "reply {n}");
                }
                sender.join().unwrap();
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn requests_wait_through_an_election_and_get_clusterdown_without_a_majority() {
    let limits = Limits { park_ms: 1_500, ..Limits::default() };
    let mut cluster = Cluster::start_with(3, 1, 4, limits);
    let leader = cluster.leader_of("foo");
    let mut client = Client::connect(cluster.address(cluster.follower_of("foo")));
    cluster.crash(leader);
    // First it is still moved to the dead leader, then it waits, then there is a new one.
    eventually("the new leader answers, or is named", || {
        let reply = client.ask(&["SET", "foo", "1"]);
        let dead = cluster.address(leader).to_string();
        match &reply {
            Reply::Simple(_) => Some(()),
            Reply::Error(text) if text.starts_with("MOVED") => (!text.ends_with(&dead)).then_some(()),
            other => panic!("{other:?}"),
        }
    });
    let survivors: Vec<u32> = cluster.ids().filter(|id| *id != leader).collect();
    let mut last = Client::connect(cluster.address(survivors[1]));
    assert_eq!(last.ask(&["READONLY"]), Reply::ok());
    eventually("the new leader takes a write and the other node applies it", || {
        let reply = Client::connect(cluster.address(cluster.leader_of("foo"))).ask(&["SET", "foo", "1"]);
        (reply == Reply::ok() && last.ask(&["GET", "foo"]) == Reply::bulk("1")).then_some(())
    });
    cluster.crash(survivors[0]);
    let mut client = Client::connect(cluster.address(survivors[1]));
    eventually("no leader, and the client is told so", || {
        let reply = client.ask(&["SET", "foo", "2"]);
        let text = reply.error();
        eprintln!("{text}");
        assert!(
            ["MOVED", "CLUSTERDOWN", "INDETERMINATE"].iter().any(|code| text.starts_with(code)),
            "{text}"
        );
        (text == "CLUSTERDOWN Hash slot not served").then_some(())
    });
    assert_eq!(client.ask(&["READONLY"]), Reply::ok());
    assert_eq!(client.ask(&["GET", "foo"]), Reply::bulk("1"), "stale reads go on");
    let info = client.ask(&["CLUSTER", "INFO"]);
    assert!(info.text().contains("cluster_state:fail"), "{}", info.text());
    cluster.start_node(survivors[0]);
    eventually("writes go on", || {
        let reply = client.ask(&["SET", "foo", "3"]);
        (reply == Reply::ok() || reply.error().starts_with("MOVED")).then_some(())
    });
}

#[test]
fn large_values_and_slow_readers_are_bounded_and_lose_nothing() {
    let cluster = Cluster::start(1, 1, 4);
    let mut client = Client::connect(cluster.address(1));
    let value = "x".repeat(900_000);
    assert_eq!(client.ask(&["SET", "big", &value]), Reply::ok());
    // Far more than the socket buffers hold, asked for before anything is read.
    let requests = 100;
    client.send_bytes(&Client::encode(&["GET", "big"]).repeat(requests));
    client.send(&["PING"]);
    for _ in 0..requests {
        assert!(client.receive() == Reply::bulk(&value));
    }
    assert_eq!(client.receive(), Reply::Simple("PONG".to_owned()));

    let too_long = "x".repeat((1 << 20) - 5);
    let error = client.ask(&["SET", "big", &too_long]);
    assert!(error.error().contains("over the limit"), "{error:?}");
    assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".to_owned()));
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$99999999\r\n");
    assert_eq!(client.receive().error(), "ERR Protocol error: invalid bulk length");
    assert_eq!(client.try_receive(), None);
}

#[test]
fn inline_requests_and_clients_that_stop_sending_are_answered() {
    let cluster = Cluster::start(1, 1, 4);
    let mut client = Client::connect(cluster.address(1));
    client.send_bytes(b"PING\r\nSET a \"b c\"\r\nGET a\r\n");
    client.socket().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.receive(), Reply::Simple("PONG".to_owned()));
    assert_eq!(client.receive(), Reply::ok());
    assert_eq!(client.receive(), Reply::bulk("b c"));
    assert_eq!(client.try_receive(), None);
}

#[test]
fn one_client_too_many_is_told_so() {
    let cluster = Cluster::start_with(1, 1, 1, Limits { connections_max: 2, ..Limits::default() });
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(cluster.address(1))).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".to_owned()));
    }
    let mut third = Client::connect(cluster.address(1));
    assert_eq!(third.receive().error(), "ERR max number of clients reached");
    assert_eq!(third.try_receive(), None);
    clients.pop();
    eventually("there is room again", || {
        let mut client = Client::connect(cluster.address(1));
        (client.ask(&["PING"]) == Reply::Simple("PONG".to_owned())).then_some(())
    });
}

#[test]
fn a_node_that_stops_ends_its_connections_and_a_restarted_one_has_its_keys() {
    let mut cluster = Cluster::start(1, 2, 8);
    let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(cluster.address(1))).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&["SET", &format!("key{n}"), "1"]), Reply::ok());
    }
    cluster.shutdown(1);
    for client in &mut clients {
        assert_eq!(client.try_receive(), None);
    }
    cluster.start_node(1);
    cluster.await_leaders();
    let mut client = Client::connect(cluster.address(1));
    for n in 0..16 {
        assert_eq!(client.ask(&["GET", &format!("key{n}")]), Reply::bulk("1"));
    }
    assert_eq!(client.ask(&["DBSIZE"]), Reply::Integer(16));
}

#[test]
fn info_and_status_tell_about_all_cores() {
    let cluster = Cluster::start(3, 2, 16);
    let mut client = Client::connect(cluster.address(2));
    let info = client.ask(&["INFO"]);
    for line in
        ["cluster_enabled:1", "role:master", "connected_slaves:2", "loading:0", "cores:2", "groups:16"]
    {
        assert!(info.text().contains(&format!("{line}\r\n")), "{line} in {}", info.text());
    }
    let status = client.ask(&["LOGDRIVE", "STATUS"]);
    let status: serde_json::Value = serde_json::from_str(status.text()).unwrap();
    assert_eq!(status["node"], 2);
    assert_eq!(status["leaderless"], 0);
    let cores = status["cores"].as_array().unwrap();
    let groups: u64 = cores.iter().map(|core| core["groups"].as_u64().unwrap()).sum();
    assert_eq!((cores.len(), groups), (2, 16));
    assert_eq!(status["peers"].as_array().unwrap().len(), 2);
}
