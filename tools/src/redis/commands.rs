//! What each command does.

use logdrive::kv::{Command, Condition, Query};
use logdrive_shard::{GroupId, Moment};

use super::admin;
use super::backend::Backend;
use super::barrier::BarrierKind;
use super::hub::Hub;
use super::info::{self, REDIS_VERSION, Sections};
use super::lanes::Ask;
use super::reply::{Protocol, Writer};
use super::request::{Arguments, decimal};
use super::session::{Closing, Session};
use super::slots::slot_of;
use super::table::{self, Id};

/// Keys of a request that need no allocation.
const KEYS_INLINE: usize = 16;
/// Bytes of arguments that an error about an unknown command repeats.
const QUOTED_BYTES_MAX: usize = 128;

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const SYNTAX: &str = "ERR syntax error";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

impl Session {
    /// Executes one request. `arguments` has at least the command's name.
    pub(crate) fn execute<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, arguments: Arguments<'_>) {
        hub.counters().commands.add(1);
        let name = arguments.get(0);
        let Some(command) = table::find(name) else { return self.unknown(hub, arguments) };
        if !table::fits(command.arity, arguments.len()) {
            return self.wrong_arity(hub, command.name);
        }
        match command.id {
            Id::Get => {
                let key = arguments.get(1);
                self.submit(hub, now, slot_of(key), Ask::Read(Query::Get { key }));
            }
            Id::Set => self.set(hub, now, arguments),
            Id::Incr => self.increment(hub, now, arguments.get(1), b"1"),
            Id::IncrBy => self.increment(hub, now, arguments.get(1), arguments.get(2)),
            Id::Del | Id::Exists | Id::MGet => self.many(hub, now, command.id, arguments),
            Id::MSet => self.set_many(hub, now, arguments),
            Id::Ping => match arguments.len() {
                1 => self.reply(hub, |writer| writer.simple("PONG")),
                2 => self.reply(hub, |writer| writer.bulk(arguments.get(1))),
                _ => self.wrong_arity(hub, "ping"),
            },
            Id::Echo => self.reply(hub, |writer| writer.bulk(arguments.get(1))),
            Id::Quit => {
                self.ok(hub);
                self.closing = Closing::AfterReplies;
            }
            Id::Hello => self.hello(hub, arguments),
            Id::Select => self.select(hub, arguments.get(1)),
            Id::Client => self.client_command(hub, arguments),
            Id::Command => self.command_command(hub, arguments),
            Id::Config => self.config_command(hub, arguments),
            Id::Cluster => self.cluster_command(hub, arguments),
            Id::ReadOnly | Id::ReadWrite => {
                self.readonly = command.id == Id::ReadOnly;
                self.ok(hub);
            }
            Id::DbSize => self.submit_barrier(hub, BarrierKind::DbSize),
            Id::Info => self.submit_barrier(hub, BarrierKind::Info(Sections::named(arguments.from(1)))),
            Id::Wait => self.wait(hub, arguments),
            Id::Logdrive => self.logdrive_command(hub, arguments),
        }
    }

    fn ok<B: Backend>(&mut self, hub: &mut Hub<B>) {
        self.reply(hub, |writer| writer.simple("OK"));
    }

    fn wrong_arity<B: Backend>(&mut self, hub: &mut Hub<B>, command: &str) {
        self.error(hub, format!("ERR wrong number of arguments for '{command}' command"));
    }

    /// The text of Redis 7, with as much of the arguments as Redis repeats.
    fn unknown<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        let cut = |bytes: &[u8], max: usize| bytes[..bytes.len().min(max)].to_vec();
        let mut text = b"ERR unknown command '".to_vec();
        text.extend(cut(arguments.get(0), QUOTED_BYTES_MAX));
        text.extend(b"', with args beginning with: ");
        let mut quoted = 0;
        for argument in arguments.from(1) {
            if quoted >= QUOTED_BYTES_MAX {
                break;
            }
            let argument = cut(argument, QUOTED_BYTES_MAX - quoted);
            quoted += argument.len() + 3;
            text.push(b'\'');
            text.extend(argument);
            text.extend(b"' ");
        }
        self.error(hub, text);
    }

    fn unknown_subcommand<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        let sub = arguments.get(1);
        let mut text = b"ERR unknown subcommand '".to_vec();
        text.extend(&sub[..sub.len().min(QUOTED_BYTES_MAX)]);
        text.extend(b"'. Try ");
        text.extend(arguments.get(0).to_ascii_uppercase());
        text.extend(b" HELP.");
        self.error(hub, text);
    }

    fn set<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, arguments: Arguments<'_>) {
        let (key, value) = (arguments.get(1), arguments.get(2));
        let (mut condition, mut get) = (Condition::Always, false);
        for option in arguments.from(3) {
            match (option.to_ascii_uppercase().as_slice(), condition) {
                (b"NX", Condition::Always | Condition::IfAbsent) => condition = Condition::IfAbsent,
                (b"XX", Condition::Always | Condition::IfPresent) => condition = Condition::IfPresent,
                (b"GET", _) => get = true,
                // Expiry among them: a clock would differ between replicas.
                _ => return self.error(hub, SYNTAX),
            }
        }
        let ask = Ask::Write(Command::Set { key, value, condition, get });
        self.submit(hub, now, slot_of(key), ask);
    }

    fn increment<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, key: &[u8], by: &[u8]) {
        match decimal(by) {
            Some(by) => self.submit(hub, now, slot_of(key), Ask::Write(Command::Increment { key, by })),
            None => self.error(hub, NOT_AN_INTEGER),
        }
    }

    /// DEL, EXISTS and MGET.
    fn many<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, id: Id, arguments: Arguments<'_>) {
        let Some(slot) = common_slot(arguments.from(1)) else { return self.cross_slot(hub) };
        let mut inline: [&[u8]; KEYS_INLINE] = [&[]; KEYS_INLINE];
        let heap: Vec<&[u8]>;
        let count = arguments.len() - 1;
        let keys = if count <= KEYS_INLINE {
            inline.iter_mut().zip(arguments.from(1)).for_each(|(place, key)| *place = key);
            &inline[..count]
        } else {
            heap = arguments.from(1).collect();
            &heap
        };
        let ask = match id {
            Id::Del => Ask::Write(Command::Delete { keys }),
            Id::Exists => Ask::Read(Query::Exists { keys }),
            _ => Ask::Read(Query::GetMany { keys }),
        };
        self.submit(hub, now, slot, ask);
    }

    fn set_many<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, arguments: Arguments<'_>) {
        let Some(slot) = common_slot(arguments.from(1).step_by(2)) else { return self.cross_slot(hub) };
        if arguments.len().is_multiple_of(2) {
            return self.wrong_arity(hub, "mset");
        }
        let keys = arguments.from(1).step_by(2);
        let pairs: Vec<(&[u8], &[u8])> = keys.zip(arguments.from(2).step_by(2)).collect();
        self.submit(hub, now, slot, Ask::Write(Command::SetMany { pairs: &pairs }));
    }

    fn cross_slot<B: Backend>(&mut self, hub: &mut Hub<B>) {
        self.error(hub, "CROSSSLOT Keys in request don't hash to the same slot");
    }

    fn select<B: Backend>(&mut self, hub: &mut Hub<B>, database: &[u8]) {
        match decimal(database) {
            Some(0) => self.ok(hub),
            Some(_) => self.error(hub, "ERR SELECT is not allowed in cluster mode"),
            None => self.error(hub, NOT_AN_INTEGER),
        }
    }

    fn wait<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        match (decimal(arguments.get(1)), decimal(arguments.get(2))) {
            (None, _) => self.error(hub, NOT_AN_INTEGER),
            (_, None) => self.error(hub, "ERR timeout is not an integer or out of range"),
            (_, Some(timeout)) if timeout < 0 => self.error(hub, "ERR timeout is negative"),
            _ => self.submit_barrier(hub, BarrierKind::Wait),
        }
    }

    /// `HELLO [protocol [AUTH user password] [SETNAME name]]`. There are no passwords: as in Redis without one, the default user has any.
    fn hello<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        let mut protocol = self.protocol;
        if arguments.len() > 1 {
            protocol = match decimal(arguments.get(1)) {
                Some(2) => Protocol::Resp2,
                Some(3) => Protocol::Resp3,
                Some(_) => return self.error(hub, "NOPROTO unsupported protocol version"),
                None => return self.error(hub, "ERR Protocol version is not an integer or out of range"),
            };
        }
        let mut name = None;
        let mut at = 2;
        while at < arguments.len() {
            let left = arguments.len() - at - 1;
            if is(arguments.get(at), "auth") && left >= 2 {
                if arguments.get(at + 1) != b"default" {
                    let text = "WRONGPASS invalid username-password pair or user is disabled.";
                    return self.error(hub, text);
                }
                at += 3;
            } else if is(arguments.get(at), "setname") && left >= 1 {
                name = Some(arguments.get(at + 1));
                if !arguments.get(at + 1).iter().all(u8::is_ascii_graphic) {
                    return self.error(hub, BAD_NAME);
                }
                at += 2;
            } else {
                let text = [b"ERR Syntax error in HELLO option '", arguments.get(at), b"'"].concat();
                return self.error(hub, text);
            }
        }
        if let Some(name) = name {
            self.name = name.to_vec();
        }
        self.protocol = protocol;
        let client = self.client as i64;
        self.reply(hub, |writer| write_hello(writer, protocol, client));
    }

    fn logdrive_command<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        match admin::parse(arguments) {
            Some(Ok(request)) => return self.submit_admin(hub, request),
            Some(Err(text)) => return self.error(hub, text),
            None => {}
        }
        let sub = arguments.get(1).to_ascii_lowercase();
        match (sub.as_slice(), arguments.len()) {
            (b"status", 2) => self.submit_barrier(hub, BarrierKind::Status),
            (b"status", _) => self.wrong_arity(hub, "logdrive|status"),
            (b"digest", 3) => {
                let group = decimal(arguments.get(2)).and_then(|group| u64::try_from(group).ok());
                match group.filter(|group| (1..=u64::from(hub.topology.slots().groups())).contains(group)) {
                    Some(group) => self.submit_barrier(hub, BarrierKind::Digest(GroupId(group))),
                    None => self.error(hub, "ERR no such group"),
                }
            }
            (b"digest", _) => self.wrong_arity(hub, "logdrive|digest"),
            _ => self.unknown_subcommand(hub, arguments),
        }
    }

    fn client_command<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        let sub = arguments.get(1).to_ascii_lowercase();
        match (sub.as_slice(), arguments.len()) {
            (b"id", 2) => {
                let client = self.client as i64;
                self.reply(hub, |writer| writer.integer(client));
            }
            (b"getname", 2) => {
                let name = std::mem::take(&mut self.name);
                self.reply(hub, |writer| if name.is_empty() { writer.null() } else { writer.bulk(&name) });
                self.name = name;
            }
            (b"setname", 3) => {
                let name = arguments.get(2);
                if !name.iter().all(u8::is_ascii_graphic) {
                    return self.error(hub, BAD_NAME);
                }
                self.name = name.to_vec();
                self.ok(hub);
            }
            (b"setinfo", 4) => {
                let option = arguments.get(2);
                if !is(option, "lib-name") && !is(option, "lib-ver") {
                    let text = [b"ERR Unrecognized option '", option, b"'"].concat();
                    return self.error(hub, text);
                }
                if !arguments.get(3).iter().all(u8::is_ascii_graphic) {
                    let text = [option, b" cannot contain spaces, newlines or special characters."].concat();
                    return self.error(hub, [b"ERR ", text.as_slice()].concat());
                }
                self.ok(hub);
            }
            (b"id" | b"getname" | b"setname" | b"setinfo", _) => self.wrong_sub_arity(hub, "client", &sub),
            _ => self.unknown_subcommand(hub, arguments),
        }
    }

    fn wrong_sub_arity<B: Backend>(&mut self, hub: &mut Hub<B>, command: &str, sub: &[u8]) {
        self.wrong_arity(hub, &format!("{command}|{}", String::from_utf8_lossy(sub)));
    }

    fn command_command<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        if arguments.len() == 1 {
            let all: Option<std::iter::Empty<&[u8]>> = None;
            return self.reply(hub, |writer| table::write_infos(writer, all));
        }
        let sub = arguments.get(1).to_ascii_lowercase();
        match (sub.as_slice(), arguments.len()) {
            (b"count", 2) => self.reply(hub, |writer| writer.integer(table::COMMANDS.len() as i64)),
            (b"count", _) => self.wrong_sub_arity(hub, "command", &sub),
            (b"docs", _) => self.reply(hub, |writer| table::write_docs(writer, arguments.from(2))),
            (b"info", 2) => {
                let all: Option<std::iter::Empty<&[u8]>> = None;
                self.reply(hub, |writer| table::write_infos(writer, all));
            }
            (b"info", _) => self.reply(hub, |writer| table::write_infos(writer, Some(arguments.from(2)))),
            _ => self.unknown_subcommand(hub, arguments),
        }
    }

    fn config_command<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        if !is(arguments.get(1), "get") {
            return self.unknown_subcommand(hub, arguments);
        }
        if arguments.len() < 3 {
            return self.wrong_arity(hub, "config|get");
        }
        let mut out = hub.take_buffer();
        info::write_config(hub, &mut Writer::new(&mut out, self.protocol), arguments.from(2));
        self.reply(hub, |writer| writer.encoded(&out));
        hub.recycle(out);
    }

    fn cluster_command<B: Backend>(&mut self, hub: &mut Hub<B>, arguments: Arguments<'_>) {
        let sub = arguments.get(1).to_ascii_lowercase();
        let expected = match sub.as_slice() {
            b"slots" | b"shards" | b"nodes" | b"info" | b"myid" => 2,
            b"keyslot" => 3,
            _ => return self.unknown_subcommand(hub, arguments),
        };
        if arguments.len() != expected {
            return self.wrong_sub_arity(hub, "cluster", &sub);
        }
        hub.views.refresh(&hub.topology, &hub.backend);
        let mut out = hub.take_buffer();
        let mut writer = Writer::new(&mut out, self.protocol);
        match sub.as_slice() {
            b"slots" => writer.encoded(hub.views.slots(&hub.topology, self.protocol)),
            b"shards" => writer.encoded(hub.views.shards(&hub.topology, self.protocol)),
            b"nodes" => writer.verbatim(hub.views.nodes(&hub.topology)),
            b"info" => writer.verbatim(hub.views.info(&hub.topology).as_bytes()),
            b"myid" => writer.bulk(&hub.topology.nodes()[hub.topology.me()].id),
            _ => writer.integer(i64::from(slot_of(arguments.get(2)))),
        }
        self.reply(hub, |writer| writer.encoded(&out));
        hub.recycle(out);
    }
}

fn is(argument: &[u8], text: &str) -> bool {
    argument.eq_ignore_ascii_case(text.as_bytes())
}

/// The slot of all keys, if it is one.
fn common_slot<'k>(mut keys: impl Iterator<Item = &'k [u8]>) -> Option<u16> {
    let slot = slot_of(keys.next()?);
    keys.all(|key| slot_of(key) == slot).then_some(slot)
}

fn write_hello(writer: &mut Writer<'_>, protocol: Protocol, client: i64) {
    writer.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        writer.bulk(field);
        writer.bulk(value);
    }
    writer.bulk("proto");
    writer.integer(if protocol == Protocol::Resp3 { 3 } else { 2 });
    writer.bulk("id");
    writer.integer(client);
    for (field, value) in [("mode", "cluster"), ("role", "master")] {
        writer.bulk(field);
        writer.bulk(value);
    }
    writer.bulk("modules");
    writer.array(0);
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
