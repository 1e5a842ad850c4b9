//! The commands, as `COMMAND` describes them. Names, arities, flags, key positions and categories are those of Redis 7.0.

use super::reply::Writer;

/// Where a command's keys are, and what it does with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    first: i64,
    last: i64,
    step: i64,
    access: &'static [&'static str],
}

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    Get,
    Set,
    Del,
    Exists,
    MGet,
    MSet,
    Incr,
    IncrBy,
    DbSize,
    Wait,
    Ping,
    Echo,
    Hello,
    Quit,
    Select,
    Client,
    Command,
    Config,
    Info,
    Cluster,
    ReadOnly,
    ReadWrite,
    Logdrive,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) id: Id,
    pub(crate) name: &'static str,
    /// Arguments with the name; at least so many if negative.
    pub(crate) arity: i64,
    flags: &'static [&'static str],
    keys: Option<Keys>,
    categories: &'static [&'static str],
    tips: &'static [&'static str],
    summary: &'static str,
    since: &'static str,
    group: &'static str,
}

impl Command {
    const fn new(
        id: Id,
        name: &'static str,
        arity: i64,
        group: &'static str,
        summary: &'static str,
    ) -> Command {
        Command {
            id,
            name,
            arity,
            flags: &[],
            keys: None,
            categories: &["@slow"],
            tips: &[],
            summary,
            since: "1.0.0",
            group,
        }
    }

    const fn flags(self, flags: &'static [&'static str], categories: &'static [&'static str]) -> Command {
        Command { flags, categories, ..self }
    }

    const fn keys(self, first: i64, last: i64, step: i64, access: &'static [&'static str]) -> Command {
        Command { keys: Some(Keys { first, last, step, access }), ..self }
    }

    const fn tips(self, tips: &'static [&'static str]) -> Command {
        Command { tips, ..self }
    }

    const fn since(self, since: &'static str) -> Command {
        Command { since, ..self }
    }
}

const FAST_CONNECTION: &[&str] = &["@fast", "@connection"];
const ANY_STATE: &[&str] = &["loading", "stale", "fast"];
const FIRST_CONTACT: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const SHARDS_SUM: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];

/// All of them.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new(Id::Get, "get", 2, "string", "Get the value of a key")
        .flags(&["readonly", "fast"], &["@read", "@string", "@fast"])
        .keys(1, 1, 1, &["RO", "access"]),
    Command::new(Id::Set, "set", -3, "string", "Set the string value of a key")
        .flags(&["write", "denyoom"], &["@write", "@string", "@slow"])
        .keys(1, 1, 1, &["RW", "access", "update", "variable_flags"]),
    Command::new(Id::Del, "del", -2, "generic", "Delete a key")
        .flags(&["write"], &["@keyspace", "@write", "@slow"])
        .keys(1, -1, 1, &["RM", "delete"])
        .tips(SHARDS_SUM),
    Command::new(Id::Exists, "exists", -2, "generic", "Determine if a key exists")
        .flags(&["readonly", "fast"], &["@keyspace", "@read", "@fast"])
        .keys(1, -1, 1, &["RO"])
        .tips(SHARDS_SUM),
    Command::new(Id::MGet, "mget", -2, "string", "Get the values of all the given keys")
        .flags(&["readonly", "fast"], &["@read", "@string", "@fast"])
        .keys(1, -1, 1, &["RO", "access"])
        .tips(&["request_policy:multi_shard"]),
    Command::new(Id::MSet, "mset", -3, "string", "Set multiple keys to multiple values")
        .flags(&["write", "denyoom"], &["@write", "@string", "@slow"])
        .keys(1, -1, 2, &["OW", "update"])
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"])
        .since("1.0.1"),
    Command::new(Id::Incr, "incr", 2, "string", "Increment the integer value of a key by one")
        .flags(&["write", "denyoom", "fast"], &["@write", "@string", "@fast"])
        .keys(1, 1, 1, &["RW", "access", "update"]),
    Command::new(
        Id::IncrBy,
        "incrby",
        3,
        "string",
        "Increment the integer value of a key by the given amount",
    )
    .flags(&["write", "denyoom", "fast"], &["@write", "@string", "@fast"])
    .keys(1, 1, 1, &["RW", "access", "update"]),
    Command::new(Id::DbSize, "dbsize", 1, "server", "Return the number of keys in the selected database")
        .flags(&["readonly", "fast"], &["@keyspace", "@read", "@fast"])
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"]),
    Command::new(
        Id::Wait,
        "wait",
        3,
        "generic",
        "Wait for the synchronous replication of all earlier writes",
    )
    .flags(&["noscript"], &["@slow", "@connection"])
    .tips(&["request_policy:all_shards", "response_policy:agg_min"])
    .since("3.0.0"),
    Command::new(Id::Ping, "ping", -1, "connection", "Ping the server")
        .flags(&["fast"], FAST_CONNECTION)
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
    Command::new(Id::Echo, "echo", 2, "connection", "Echo the given string")
        .flags(ANY_STATE, FAST_CONNECTION),
    Command::new(Id::Hello, "hello", -1, "connection", "Choose the protocol and get to know the server")
        .flags(FIRST_CONTACT, FAST_CONNECTION)
        .since("6.0.0"),
    Command::new(Id::Quit, "quit", -1, "connection", "Close the connection")
        .flags(FIRST_CONTACT, FAST_CONNECTION),
    Command::new(Id::Select, "select", 2, "connection", "Change the selected database; only 0 exists")
        .flags(ANY_STATE, FAST_CONNECTION),
    Command::new(Id::Client, "client", -2, "connection", "What is known of this connection").since("2.4.0"),
    Command::new(Id::Command, "command", -1, "server", "Describe the commands")
        .flags(&["loading", "stale"], &["@slow", "@connection"])
        .tips(&["nondeterministic_output_order"])
        .since("2.8.13"),
    Command::new(Id::Config, "config", -2, "server", "Read the configuration").since("2.0.0"),
    Command::new(Id::Info, "info", -1, "server", "Get information and statistics about the server")
        .flags(&["loading", "stale"], &["@slow", "@dangerous"])
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]),
    Command::new(Id::Cluster, "cluster", -2, "cluster", "Nodes, slots and state of the cluster")
        .since("3.0.0"),
    Command::new(
        Id::ReadOnly,
        "readonly",
        1,
        "cluster",
        "Let this node answer reads of groups it does not lead, stale",
    )
    .flags(ANY_STATE, FAST_CONNECTION)
    .since("3.0.0"),
    Command::new(Id::ReadWrite, "readwrite", 1, "cluster", "End READONLY")
        .flags(ANY_STATE, FAST_CONNECTION)
        .since("3.0.0"),
    Command::new(
        Id::Logdrive,
        "logdrive",
        -2,
        "server",
        "STATUS: this node's counts as JSON; DIGEST group: a digest of its state here; GROUP, NODE: see `logdrive group`",
    ),
];

/// A command by its name, any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Whether a request of `len` arguments, the name included, fits an arity.
pub(crate) fn fits(arity: i64, len: usize) -> bool {
    let len = len as i64;
    if arity < 0 { len >= -arity } else { len == arity }
}

/// `COMMAND` and `COMMAND INFO`: one element per command; null for an unknown one.
pub(crate) fn write_infos<'n>(
    writer: &mut Writer<'_>,
    names: Option<impl ExactSizeIterator<Item = &'n [u8]>>,
) {
    let Some(names) = names else {
        writer.array(COMMANDS.len());
        COMMANDS.iter().for_each(|command| write_info(writer, command));
        return;
    };
    writer.array(names.len());
    for name in names {
        match find(name) {
            Some(command) => write_info(writer, command),
            None => writer.null(),
        }
    }
}

/// `COMMAND DOCS`: a map of the commands asked for, all if none is named; unknown ones are left out.
pub(crate) fn write_docs<'n>(writer: &mut Writer<'_>, names: impl ExactSizeIterator<Item = &'n [u8]>) {
    let commands: Vec<&Command> =
        if names.len() == 0 { COMMANDS.iter().collect() } else { names.filter_map(find).collect() };
    writer.map(commands.len());
    for command in commands {
        writer.bulk(command.name);
        writer.map(3);
        for (field, value) in
            [("summary", command.summary), ("since", command.since), ("group", command.group)]
        {
            writer.bulk(field);
            writer.bulk(value);
        }
    }
}

fn write_info(writer: &mut Writer<'_>, command: &Command) {
    writer.array(10);
    writer.bulk(command.name);
    writer.integer(command.arity);
    write_names(writer, command.flags);
    let (first, last, step) = command.keys.map_or((0, 0, 0), |keys| (keys.first, keys.last, keys.step));
    for position in [first, last, step] {
        writer.integer(position);
    }
    write_names(writer, command.categories);
    writer.set(command.tips.len());
    command.tips.iter().for_each(|tip| writer.bulk(tip));
    writer.set(usize::from(command.keys.is_some()));
    if let Some(keys) = command.keys {
        write_key_spec(writer, keys);
    }
    // Subcommands.
    writer.set(0);
}

fn write_names(writer: &mut Writer<'_>, names: &[&str]) {
    writer.set(names.len());
    names.iter().for_each(|name| writer.simple(name));
}

fn write_key_spec(writer: &mut Writer<'_>, keys: Keys) {
    writer.map(3);
    writer.bulk("flags");
    write_names(writer, keys.access);
    writer.bulk("begin_search");
    writer.map(2);
    writer.bulk("type");
    writer.bulk("index");
    writer.bulk("spec");
    writer.map(1);
    writer.bulk("index");
    writer.integer(keys.first);
    writer.bulk("find_keys");
    writer.map(2);
    writer.bulk("type");
    writer.bulk("range");
    writer.bulk("spec");
    writer.map(3);
    // The last key is counted from the first one here.
    for (field, value) in [("lastkey", keys.last.min(0)), ("keystep", keys.step), ("limit", 0)] {
        writer.bulk(field);
        writer.integer(value);
    }
}
