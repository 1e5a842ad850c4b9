//! What each command answers. The texts are those of Redis 7.0.15 in cluster mode, byte by byte, where Redis has the command.

use logdrive::core::CoreStatus;
use logdrive::runtime::{PeerStatus, RuntimeCounters};
use logdrive_shard::{GroupId, NodeId};

use crate::redis::barrier::NodeStatus;
use crate::redis::config::Limits;
use crate::redis::fake::{Bench, GROUPS};

fn bench() -> (Bench, u32) {
    let mut bench = Bench::new(Limits::default());
    let key = bench.connect();
    (bench, key)
}

fn check(cases: &[(&str, &str)]) {
    let (mut bench, key) = bench();
    for (line, expected) in cases {
        assert_eq!(bench.ask(key, line), expected.replace('~', "\r\n"), "{line}");
    }
}

#[test]
fn keyed_commands_answer_as_redis() {
    check(&[
        ("GET foo", "$-1~"),
        ("SET foo bar", "+OK~"),
        ("get foo", "$3~bar~"),
        ("SET foo baz NX", "$-1~"),
        ("SET new 1 XX", "$-1~"),
        ("SET foo baz XX GET", "$3~bar~"),
        ("SET foo qux NX GET", "$3~baz~"),
        ("SET qq 1 NX GET", "$-1~"),
        ("SET zz 1 XX GET", "$-1~"),
        ("EXISTS zz", ":0~"),
        ("SET a b NX XX", "-ERR syntax error~"),
        ("SET a b FOO", "-ERR syntax error~"),
        ("SET qq 2 NX NX", "$-1~"),
        ("SET qq b get GET", "$1~1~"),
        ("INCR qq", "-ERR value is not an integer or out of range~"),
        ("INCRBY n x", "-ERR value is not an integer or out of range~"),
        ("INCRBY n 99999999999999999999", "-ERR value is not an integer or out of range~"),
        ("INCR n", ":1~"),
        ("INCRBY n -11", ":-10~"),
        ("SET n 9223372036854775807", "+OK~"),
        ("INCR n", "-ERR increment or decrement would overflow~"),
        ("INCRBY n -1", ":9223372036854775806~"),
        ("SET n -5", "+OK~"),
        ("INCRBY n -9223372036854775808", "-ERR increment or decrement would overflow~"),
        ("SET n \" 1\"", "+OK~"),
        ("INCR n", "-ERR value is not an integer or out of range~"),
        ("SET n 01", "+OK~"),
        ("INCR n", "-ERR value is not an integer or out of range~"),
        ("SET n -0", "+OK~"),
        ("INCR n", "-ERR value is not an integer or out of range~"),
        ("SET n \"\"", "+OK~"),
        ("INCR n", "-ERR value is not an integer or out of range~"),
        ("MSET {a}1 b {a}1 c {a}2 d", "+OK~"),
        ("MGET {a}1 {a}3 {a}2", "*3~$1~c~$-1~$1~d~"),
        ("EXISTS {a}1 {a}1 {a}2 {a}3", ":3~"),
        ("DEL {a}1 {a}1 {a}3", ":1~"),
        ("MSET a b c d", "-CROSSSLOT Keys in request don't hash to the same slot~"),
        ("MSET a b c", "-CROSSSLOT Keys in request don't hash to the same slot~"),
        ("MSET {a}1 b {a}2", "-ERR wrong number of arguments for 'mset' command~"),
        ("MSET a", "-ERR wrong number of arguments for 'mset' command~"),
        ("MGET a b", "-CROSSSLOT Keys in request don't hash to the same slot~"),
        ("DEL a b", "-CROSSSLOT Keys in request don't hash to the same slot~"),
        ("SET \"\" x", "+OK~"),
        ("GET \"\"", "$1~x~"),
        ("GET", "-ERR wrong number of arguments for 'get' command~"),
        ("GET a b", "-ERR wrong number of arguments for 'get' command~"),
        ("SET a", "-ERR wrong number of arguments for 'set' command~"),
        ("DEL", "-ERR wrong number of arguments for 'del' command~"),
    ]);
}

#[test]
fn connection_commands_answer_as_redis() {
    check(&[
        ("PING", "+PONG~"),
        ("PING a", "$1~a~"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command~"),
        ("ECHO hi", "$2~hi~"),
        ("ECHO", "-ERR wrong number of arguments for 'echo' command~"),
        ("SELECT 0", "+OK~"),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode~"),
        ("SELECT x", "-ERR value is not an integer or out of range~"),
        ("READONLY", "+OK~"),
        ("READWRITE", "+OK~"),
        ("READONLY x", "-ERR wrong number of arguments for 'readonly' command~"),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command~"),
        ("CLIENT ID", ":1~"),
        ("CLIENT ID 1", "-ERR wrong number of arguments for 'client|id' command~"),
        ("CLIENT GETNAME", "$-1~"),
        ("CLIENT SETNAME ab", "+OK~"),
        ("CLIENT GETNAME", "$2~ab~"),
        ("CLIENT SETNAME \"\"", "+OK~"),
        ("CLIENT GETNAME", "$-1~"),
        (
            "CLIENT SETNAME \"a b\"",
            "-ERR Client names cannot contain spaces, newlines or special characters.~",
        ),
        ("CLIENT SETINFO lib-name redis-py", "+OK~"),
        ("CLIENT SETINFO LIB-VER 5.0", "+OK~"),
        ("CLIENT SETINFO foo bar", "-ERR Unrecognized option 'foo'~"),
        (
            "CLIENT SETINFO lib-name \"a b\"",
            "-ERR lib-name cannot contain spaces, newlines or special characters.~",
        ),
        ("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.~"),
        ("WAIT x 1", "-ERR value is not an integer or out of range~"),
        ("WAIT 0 x", "-ERR timeout is not an integer or out of range~"),
        ("WAIT 0 -1", "-ERR timeout is negative~"),
        ("WAIT 1", "-ERR wrong number of arguments for 'wait' command~"),
    ]);
}

#[test]
fn unknown_commands_are_named_as_redis_names_them() {
    let long = "a".repeat(200);
    check(&[
        ("FOO", "-ERR unknown command 'FOO', with args beginning with: ~"),
        ("FOO a b c", "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' 'c' ~"),
        ("client|id", "-ERR unknown command 'client|id', with args beginning with: ~"),
        ("SUBSCRIBE a", "-ERR unknown command 'SUBSCRIBE', with args beginning with: 'a' ~"),
        ("FOO \"a\\r\\nb\"", "-ERR unknown command 'FOO', with args beginning with: 'a  b' ~"),
        (
            &format!("FOO {long} b c"),
            &format!("-ERR unknown command 'FOO', with args beginning with: '{}' ~", &long[..128]),
        ),
        ("CONFIG SET a b", "-ERR unknown subcommand 'SET'. Try CONFIG HELP.~"),
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command~"),
        ("CLUSTER FOO", "-ERR unknown subcommand 'FOO'. Try CLUSTER HELP.~"),
        ("CLUSTER KEYSLOT", "-ERR wrong number of arguments for 'cluster|keyslot' command~"),
        ("COMMAND FOO", "-ERR unknown subcommand 'FOO'. Try COMMAND HELP.~"),
        ("COMMAND COUNT x", "-ERR wrong number of arguments for 'command|count' command~"),
        ("LOGDRIVE DIGEST", "-ERR wrong number of arguments for 'logdrive|digest' command~"),
        ("LOGDRIVE DIGEST 0", "-ERR no such group~"),
        ("LOGDRIVE DIGEST one", "-ERR no such group~"),
        ("LOGDRIVE FOO", "-ERR unknown subcommand 'FOO'. Try LOGDRIVE HELP.~"),
    ]);
}

#[test]
fn hello_negotiates_the_protocol() {
    let (mut bench, key) = bench();
    let fields = "$6~server~$5~redis~$7~version~$6~7.0.15~$5~proto~:P~$2~id~:1~$4~mode~$7~cluster~$4~role~$6~master~$7~modules~*0~";
    let hello =
        |kind: &str, proto: &str| format!("{kind}~{}", fields.replace('P', proto)).replace('~', "\r\n");
    assert_eq!(bench.ask(key, "HELLO"), hello("*14", "2"));
    assert_eq!(bench.ask(key, "HELLO 3 AUTH default any SETNAME me"), hello("%7", "3"));
    assert_eq!(bench.ask(key, "CLIENT GETNAME"), "$2\r\nme\r\n");
    assert_eq!(bench.ask(key, "HELLO 4"), "-NOPROTO unsupported protocol version\r\n");
    assert_eq!(bench.ask(key, "HELLO x"), "-ERR Protocol version is not an integer or out of range\r\n");
    assert_eq!(bench.ask(key, "HELLO 2 FOO"), "-ERR Syntax error in HELLO option 'FOO'\r\n");
    assert_eq!(
        bench.ask(key, "HELLO 2 AUTH foo x"),
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    );
    assert_eq!(bench.ask(key, "GET nothing"), "_\r\n", "a refused HELLO leaves the protocol as it was");
    assert_eq!(bench.ask(key, "MGET {a}1 {a}2"), "*2\r\n_\r\n_\r\n");
    assert_eq!(
        bench.ask(key, "CONFIG GET save appendon*"),
        "%2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$4\r\nsave\r\n$0\r\n\r\n"
    );
    assert_eq!(bench.ask(key, "HELLO 2"), hello("*14", "2"));
    bench.send(key, "GET nothing\r\nHELLO 3\r\nGET nothing\r\n");
    bench.answer_all();
    let replies = bench.received(key);
    assert!(
        replies.starts_with("$-1\r\n%7") && replies.ends_with("_\r\n"),
        "each in its protocol: {replies}"
    );
}

#[test]
fn command_describes_itself_as_redis_does() {
    let (mut bench, key) = bench();
    let get = "*10~$3~get~:2~*2~+readonly~+fast~:1~:1~:1~*3~+@read~+@string~+@fast~*0~*1~*6~$5~flags~*2~+RO~+access~\
        $12~begin_search~*4~$4~type~$5~index~$4~spec~*2~$5~index~:1~$9~find_keys~*4~$4~type~$5~range~$4~spec~*6~\
        $7~lastkey~:0~$7~keystep~:1~$5~limit~:0~*0~";
    assert_eq!(bench.ask(key, "COMMAND INFO get foo"), format!("*2~{get}$-1~").replace('~', "\r\n"));
    let count = bench.ask(key, "COMMAND COUNT");
    assert!(bench.ask(key, "COMMAND").starts_with(&count.replace(':', "*")));
    assert!(bench.ask(key, "COMMAND INFO").starts_with(&count.replace(':', "*")));
    let docs = "*2~$4~ping~*6~$7~summary~$15~Ping the server~$5~since~$5~1.0.0~$5~group~$10~connection~";
    assert_eq!(bench.ask(key, "COMMAND DOCS ping nothing"), docs.replace('~', "\r\n"));
    let many = "*10~$4~mset~:-3~*2~+write~+denyoom~:1~:-1~:2~";
    assert!(bench.ask(key, "COMMAND INFO mset").contains(&many.replace('~', "\r\n")));
}

fn with_two_leaders() -> (Bench, u32) {
    let (mut bench, key) = bench();
    // The first half of the slots is led here, the rest by node 3, except the very last group.
    for group in GROUPS / 2 + 1..GROUPS {
        bench.lead(GroupId(group), NodeId(3));
    }
    (bench, key)
}

fn ids(bench: &mut Bench, key: u32) -> Vec<String> {
    let nodes = bench.ask(key, "CLUSTER NODES");
    nodes.lines().skip(1).filter(|line| !line.is_empty()).map(|line| line[..40].to_owned()).collect()
}

#[test]
fn cluster_slots_lists_leaders_with_adjacent_slots_together() {
    let (mut bench, key) = with_two_leaders();
    let ids = ids(&mut bench, key);
    assert_eq!(bench.ask(key, "CLUSTER MYID"), format!("$40\r\n{}\r\n", ids[0]));
    assert_eq!(bench.ask(key, "CLUSTER KEYSLOT foo"), ":12182\r\n");
    let last = 16_384 - 16_384 / GROUPS;
    let node = |port: u16, id: &str| format!("*4~$9~127.0.0.1~:{port}~$40~{id}~*0~");
    let expected = format!(
        "*3~*3~:0~:8191~{}*3~:8192~:{}~{}*3~:{last}~:16383~{}",
        node(7001, &ids[0]),
        last - 1,
        node(7003, &ids[2]),
        node(7001, &ids[0])
    );
    assert_eq!(bench.ask(key, "CLUSTER SLOTS"), expected.replace('~', "\r\n"));
    // A leader changes: the kept answer is not used any more.
    bench.lead(GroupId(GROUPS), NodeId(3));
    assert!(bench.ask(key, "CLUSTER SLOTS").starts_with("*2\r\n"));
}

#[test]
fn cluster_nodes_has_one_line_per_node_with_its_slots() {
    let (mut bench, key) = with_two_leaders();
    let ids = ids(&mut bench, key);
    let last = 16_384 - 16_384 / GROUPS;
    let expected = [
        format!("{} 127.0.0.1:7001@9001 myself,master - 0 0 1 connected 0-8191 {last}-16383\n", ids[0]),
        format!("{} 127.0.0.1:7002@9002 master - 0 0 2 connected\n", ids[1]),
        format!("{} 127.0.0.1:7003@9003 master - 0 0 3 connected 8192-{}\n", ids[2], last - 1),
    ]
    .concat();
    assert_eq!(bench.ask(key, "CLUSTER NODES"), format!("${}\r\n{expected}\r\n", expected.len()));
    bench.ask(key, "HELLO 3");
    assert_eq!(bench.ask(key, "CLUSTER NODES"), format!("={}\r\ntxt:{expected}\r\n", expected.len() + 4));
}

#[test]
fn a_group_without_a_leader_stays_with_the_last_one_known() {
    let (mut bench, key) = with_two_leaders();
    let before = bench.ask(key, "CLUSTER SLOTS");
    assert!(bench.ask(key, "CLUSTER INFO").contains("cluster_state:ok\r\n"));
    bench.lead(GroupId(GROUPS - 1), NodeId::NONE);
    assert_eq!(bench.ask(key, "CLUSTER SLOTS"), before);
    let info = bench.ask(key, "CLUSTER INFO");
    let down = 16_384 / GROUPS;
    assert!(
        info.contains("cluster_state:fail\r\n") && info.contains(&format!("cluster_slots_fail:{down}\r\n"))
    );
    assert!(info.contains("cluster_known_nodes:3\r\n") && info.contains("cluster_size:2\r\n"), "{info}");
}

#[test]
fn cluster_shards_lists_each_leader_once() {
    let (mut bench, key) = with_two_leaders();
    let ids = ids(&mut bench, key);
    bench.ask(key, "HELLO 3");
    let last = 16_384 - 16_384 / GROUPS;
    let shard = |slots: String, id: &str, port: u16| {
        format!(
            "%2~$5~slots~{slots}$5~nodes~*1~%7~$2~id~$40~{id}~$4~port~:{port}~$2~ip~$9~127.0.0.1~$8~endpoint~$9~127.0.0.1~\
             $4~role~$6~master~$18~replication-offset~:0~$6~health~$6~online~"
        )
    };
    let expected = format!(
        "*2~{}{}",
        shard(format!("*4~:0~:8191~:{last}~:16383~"), &ids[0], 7001),
        shard(format!("*2~:8192~:{}~", last - 1), &ids[2], 7003)
    );
    assert_eq!(bench.ask(key, "CLUSTER SHARDS"), expected.replace('~', "\r\n"));
}

fn status() -> NodeStatus {
    let core = CoreStatus {
        groups: 128,
        leaders: 60,
        followers: 60,
        leaderless: 8,
        apply_lag: 5,
        commit_lag: 3,
        applied: 1_000,
        ..CoreStatus::default()
    };
    let peer = PeerStatus { node: 2, cores: 1, links: 1, refused: None };
    let runtime = RuntimeCounters { executors_roused: 3, ..RuntimeCounters::default() };
    let cores = vec![core.clone(), core];
    NodeStatus { cores, peers: vec![peer], uptime_s: 90_000, memory_bytes: 4_096, runtime }
}

#[test]
fn info_has_what_clients_look_for() {
    let (mut bench, key) = bench();
    bench.ask(key, "SET foo 1");
    bench.send(key, "INFO\r\nPING\r\n");
    bench.answer_all();
    assert_eq!(bench.received(key), "", "the node's status is still on its way");
    assert_eq!(bench.tell_status(&status()), 1);
    let info = bench.received(key);
    for line in [
        "# Server",
        "redis_mode:cluster",
        "uptime_in_seconds:90000",
        "connected_clients:1",
        "used_memory:4096",
        "loading:0",
        "role:master",
        "connected_slaves:1",
        "master_repl_offset:2000",
        "cluster_enabled:1",
        "# Keyspace",
        "db0:keys=1,expires=0,avg_ttl=0",
        "# Logdrive",
        "stale_entries:10",
        "groups_led:120",
        "groups_without_leader:16",
        "cores_roused:3",
    ] {
        assert!(info.contains(&format!("{line}\r\n")), "{line} in {info}");
    }
    assert!(info.ends_with("+PONG\r\n"));
    bench.send(key, "INFO cluster nonsense\r\n");
    bench.tell_status(&status());
    assert_eq!(bench.received(key), "$30\r\n# Cluster\r\ncluster_enabled:1\r\n\r\n");
}

#[test]
fn logdrive_status_is_json_of_the_nodes_counts() {
    let (mut bench, key) = bench();
    bench.send(key, "LOGDRIVE STATUS\r\n");
    bench.tell_status(&status());
    let reply = bench.received(key);
    let json = reply.split_once("\r\n").unwrap().1.trim_end();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["node"], 1);
    assert_eq!(json["groups"], GROUPS);
    assert_eq!(json["leaderless"], 16);
    assert_eq!(json["uptime_s"], 90_000);
    assert_eq!(json["connections"], 1);
    assert_eq!(json["cores"][1]["leaders"], 60);
    assert_eq!(json["peers"][0]["links"], 1);
}

#[test]
fn a_status_that_comes_when_the_client_is_gone_is_dropped() {
    let (mut bench, key) = bench();
    bench.send(key, "LOGDRIVE STATUS\r\n");
    bench.desk.close(key);
    assert_ne!(bench.connect(), key);
    assert_eq!(bench.tell_status(&status()), 1);
    assert_eq!(bench.connect(), key);
}
