use super::*;
use crate::Random;

/// A table with the log that feeds it.
#[derive(Default)]
struct Log {
    table: SessionTable,
    index: u64,
    executed: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Opened(u64),
    Closed,
    KeptAlive,
    Reply(Vec<u8>),
    Refused(SessionRefused),
}

fn bytes(time_millis: u64, op: SessionOp<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    SessionEntry { time_millis, expires_after_millis: 1000, op }.encode(&mut bytes);
    bytes
}

impl Log {
    fn put(&mut self, time_millis: u64, op: SessionOp<'_>) -> Outcome {
        self.index += 1;
        self.put_bytes(&bytes(time_millis, op))
    }

    fn put_bytes(&mut self, entry: &[u8]) -> Outcome {
        match self.table.admit(self.index, entry) {
            Admitted::Opened(session) => Outcome::Opened(session),
            Admitted::Closed => Outcome::Closed,
            Admitted::KeptAlive => Outcome::KeptAlive,
            Admitted::Again { reply, .. } => Outcome::Reply(reply.to_vec()),
            Admitted::Awaits(key) => panic!("{key:?} was handed over"),
            Admitted::Refused(refused) => Outcome::Refused(refused),
            Admitted::Execute { key, command } => {
                self.executed.push((key.sequence, command.to_vec()));
                let reply = [b"did ", command].concat();
                self.table.executed(key, &reply);
                Outcome::Reply(reply)
            }
        }
    }

    fn open(&mut self, time_millis: u64) -> u64 {
        match self.put(time_millis, SessionOp::Open) {
            Outcome::Opened(session) => session,
            other => panic!("{other:?}"),
        }
    }

    fn command(&mut self, session: u64, sequence: u64, command: &[u8]) -> Outcome {
        let time = self.table.now_millis();
        self.put(time, SessionOp::Command { session, sequence, answered_below: 1, command })
    }
}

fn reply(text: &str) -> Outcome {
    Outcome::Reply(text.into())
}

#[test]
fn a_command_is_executed_once_however_often_it_is_proposed() {
    let mut log = Log::default();
    let session = log.open(5);
    assert_eq!(log.command(session, 1, b"a"), reply("did a"));
    assert_eq!(log.command(session, 2, b"b"), reply("did b"));
    assert_eq!(log.command(session, 1, b"a"), reply("did a"));
    assert_eq!(log.command(session, 2, b"b"), reply("did b"));
    assert_eq!(log.executed.len(), 2);
}

#[test]
fn numbers_need_not_come_in_order() {
    let mut log = Log::default();
    let session = log.open(5);
    for sequence in [3, 1, 64, 2] {
        assert!(matches!(log.command(session, sequence, b"x"), Outcome::Reply(_)));
    }
    let far = log.command(session, 65, b"x");
    let refused = SessionRefused::Sequence { session, sequence: 65, from: 1, to: 64 };
    assert_eq!(far, Outcome::Refused(refused));
    assert_eq!(log.executed.len(), 4);
}

#[test]
fn replies_that_the_client_has_are_forgotten_and_their_numbers_refused() {
    let mut log = Log::default();
    let session = log.open(5);
    for sequence in 1..=64 {
        log.command(session, sequence, b"x");
    }
    let before = log.table.bytes();
    let op = SessionOp::Command { session, sequence: 65, answered_below: 60, command: b"y" };
    assert_eq!(log.put(5, op), reply("did y"));
    assert!(log.table.bytes() < before / 4);
    let refused = SessionRefused::Sequence { session, sequence: 59, from: 60, to: 123 };
    assert_eq!(log.command(session, 59, b"x"), Outcome::Refused(refused));
    assert_eq!(log.command(session, 60, b"x"), reply("did x"));
    assert_eq!(log.executed.len(), 65);
}

#[test]
fn an_unknown_session_is_an_error_and_not_a_second_execution() {
    let mut log = Log::default();
    let session = log.open(5);
    log.command(session, 1, b"a");
    assert_eq!(log.put(5, SessionOp::Close { session }), Outcome::Closed);
    let unknown = Outcome::Refused(SessionRefused::Unknown { session });
    assert_eq!(log.command(session, 1, b"a"), unknown);
    assert_eq!(log.put(5, SessionOp::Close { session }), unknown);
    assert_eq!(log.put(5, SessionOp::KeepAlive { session }), unknown);
    assert_eq!(log.executed.len(), 1);
    assert_eq!((log.table.len(), log.table.bytes()), (0, 0));
}

#[test]
fn sessions_expire_by_the_time_of_the_log_alone() {
    let mut log = Log::default();
    let (idle, busy) = (log.open(1_000), log.open(1_000));
    assert!(matches!(log.command(idle, 1, b"a"), Outcome::Reply(_)));
    assert_eq!(log.put(1_900, SessionOp::KeepAlive { session: busy }), Outcome::KeptAlive);
    // A leader whose clock is behind does not turn the table's back.
    assert_eq!(log.put(3, SessionOp::KeepAlive { session: busy }), Outcome::KeptAlive);
    assert_eq!(log.table.now_millis(), 1_900);
    assert_eq!(log.table.len(), 2);
    // The last moment at which it is still there, and the first at which it is not.
    assert_eq!(log.put(2_000, SessionOp::KeepAlive { session: busy }), Outcome::KeptAlive);
    assert_eq!(log.table.len(), 2);
    assert_eq!(log.put(2_001, SessionOp::KeepAlive { session: busy }), Outcome::KeptAlive);
    assert_eq!(log.table.len(), 1);
    assert_eq!(log.command(idle, 1, b"a"), Outcome::Refused(SessionRefused::Unknown { session: idle }));
    assert_eq!(log.executed.len(), 1);
}

#[test]
fn the_least_recently_used_session_makes_room() {
    let mut log = Log::default();
    let first = log.open(5);
    let second = log.open(5);
    for _ in 2..SESSIONS_MAX {
        log.open(5);
    }
    assert!(matches!(log.command(first, 1, b"a"), Outcome::Reply(_)));
    log.open(5);
    assert_eq!(log.table.len(), SESSIONS_MAX);
    assert!(matches!(log.command(first, 2, b"a"), Outcome::Reply(_)));
    assert_eq!(log.command(second, 1, b"a"), Outcome::Refused(SessionRefused::Unknown { session: second }));
}

#[test]
fn replies_are_bounded_in_bytes() {
    let mut log = Log::default();
    let (first, second) = (log.open(5), log.open(5));
    let large = vec![b'x'; 300 << 10];
    for session in [first, second, second] {
        for sequence in 1..=3 {
            log.command(session, sequence, &large);
        }
    }
    assert!(log.table.bytes() <= SESSION_REPLY_BYTES_MAX);
    assert_eq!(log.command(first, 1, b"x"), Outcome::Refused(SessionRefused::Unknown { session: first }));
    assert_eq!(log.executed.len(), 6);
    // One that is larger than all that may be kept ends its own session.
    let third = log.open(5);
    log.command(third, 1, &vec![b'y'; 2 << 20]);
    assert_eq!(log.command(third, 1, b"y"), Outcome::Refused(SessionRefused::Unknown { session: third }));
    assert_eq!(log.table.bytes(), 0);
}

#[test]
fn a_copy_in_the_same_batch_waits_for_the_first() {
    let mut log = Log::default();
    let session = log.open(5);
    let op = SessionOp::Command { session, sequence: 1, answered_below: 1, command: b"a" };
    let entry = bytes(5, op);
    let key = SessionKey { session, sequence: 1, index: 2 };
    assert_eq!(log.table.admit(2, &entry), Admitted::Execute { key, command: b"a" });
    assert_eq!(log.table.admit(3, &entry), Admitted::Awaits(key));
    log.table.executed(key, b"done");
    assert_eq!(log.table.admit(4, &entry), Admitted::Again { index: 2, reply: b"done" });
    // The reply of a session that ended in between is nobody's.
    let late = SessionKey { session: 99, ..key };
    log.table.executed(late, b"lost");
    assert_eq!(log.table.len(), 1);
}

#[test]
fn entries_read_back_and_garbage_is_an_error() {
    let command = SessionOp::Command { session: 7, sequence: 8, answered_below: 5, command: b"text" };
    let ops =
        [SessionOp::Open, SessionOp::Close { session: 3 }, SessionOp::KeepAlive { session: 4 }, command];
    for op in ops {
        let entry = SessionEntry { time_millis: 1 << 40, expires_after_millis: 9, op };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert_eq!(SessionEntry::decode(&bytes), Ok(entry));
        assert!(bytes.len() <= SESSION_HEADER_MAX + 4);
        for len in 0..bytes.len().min(48) {
            let cut = SessionEntry::decode(&bytes[..len]);
            assert_eq!(cut, Err(SessionFormatError::Length { bytes: len as u64 }));
        }
    }
    let mut bytes = bytes(1, SessionOp::Open);
    bytes[1] = 9;
    assert_eq!(SessionEntry::decode(&bytes), Err(SessionFormatError::Op { found: 9 }));
    bytes[0] = 2;
    assert_eq!(SessionEntry::decode(&bytes), Err(SessionFormatError::Version { found: 2 }));
    let mut log = Log::default();
    let refused = SessionRefused::Malformed(SessionFormatError::Version { found: 2 });
    assert_eq!(log.put_bytes(&bytes), Outcome::Refused(refused));
}

/// A random operation of a few clients, some of whose sessions never were.
fn random_entry(random: &mut Random, index: u64) -> Vec<u8> {
    let session = random.below(index) + 1;
    let command = vec![b'c'; random.below(2000) as usize];
    let op = match random.below(8) {
        0 | 1 => SessionOp::Open,
        2 => SessionOp::Close { session },
        3 => SessionOp::KeepAlive { session },
        _ => {
            let sequence = random.below(70) + 1;
            let answered_below = random.below(sequence + 3);
            SessionOp::Command { session, sequence, answered_below, command: &command }
        }
    };
    bytes(random.below(index * 40), op)
}

#[test]
fn replicas_agree_and_a_table_from_a_snapshot_goes_on_as_the_one_it_was_taken_of() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (mut one, mut other) = (Log::default(), Log::default());
        for index in 1..=300 {
            let entry = random_entry(&mut random, index);
            (one.index, other.index) = (index, index);
            assert_eq!(one.put_bytes(&entry), other.put_bytes(&entry), "seed {seed}, entry {index}");
            if random.below(20) == 0 {
                let mut bytes = Vec::new();
                other.table.encode(&mut bytes);
                other.table = SessionTable::decode(&bytes).unwrap();
            }
            assert_eq!(one.table, other.table, "seed {seed}, entry {index}");
            let kept: u64 = one.table.sessions.values().map(Session::cost).sum();
            assert_eq!(kept, one.table.bytes(), "seed {seed}, entry {index}");
            assert_eq!(one.table.by_use.len(), one.table.sessions.len());
        }
    }
}

#[test]
fn a_damaged_table_is_an_error_or_another_table_and_never_a_panic() {
    let mut log = Log::default();
    let mut random = Random::new(1);
    for index in 1..=60 {
        log.index = index;
        log.put_bytes(&random_entry(&mut random, index));
    }
    let mut table = Vec::new();
    log.table.encode(&mut table);
    for len in 0..table.len() {
        assert!(SessionTable::decode(&table[..len]).is_err());
    }
    for _ in 0..20_000 {
        let mut damaged = table.clone();
        let at = random.below(table.len() as u64) as usize;
        damaged[at] ^= 1 << random.below(8);
        if let Ok(mut table) = SessionTable::decode(&damaged) {
            let _ = table.admit(100, &bytes(u64::MAX, SessionOp::Open));
        }
    }
}
