//! Sessions of all groups of a core: their tables are fed in log order, when entries are applied and when the log is read back.
//!
//! A batch of entries is applied in one call of the state machine. What a session entry comes to is decided before that call,
//! in order; an entry whose command is executed takes part in the call like any other. The others, and the replies to keep, are
//! settled after it.

use logdrive_shard::{
    Admitted, LogIndex, Moment, SessionEntry, SessionKey, SessionOp, SessionRefused, SessionTable,
};

use crate::api::Error;

/// The sessions of one group.
#[derive(Debug, Default)]
struct GroupSessions {
    table: SessionTable,
    /// A time of the table, and the moment at which it was that time here: from there this node's clock carries it on.
    base: Option<(u64, Moment)>,
}

impl GroupSessions {
    /// The group's time now: the table's, carried on with this node's clock since it was first seen here. Every member carries it on,
    /// so that a new leader goes on where the old one was; nobody's time of day matters.
    fn time(&mut self, now: Moment) -> u64 {
        let known = self.table.now_millis();
        let (time, at) = *self.base.get_or_insert((known, now));
        let carried = time.saturating_add(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
        if carried < known {
            self.base = Some((known, now));
        }
        carried.max(known)
    }
}

/// What a session entry of the batch comes to.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// It is the entry of the batch at [`Settled::before`], and its reply is kept.
    Execute(SessionKey),
    /// The reply to another entry of the same batch.
    Awaits(SessionKey),
    /// Known already; the reply lies in [`Sessions::replies`].
    Known(Result<LogIndex, Error>, (usize, usize)),
}

/// A session entry of the batch that is being applied.
#[derive(Clone, Copy, Debug)]
struct Settled {
    slot: u32,
    index: u64,
    /// So many entries of the batch come before it.
    before: usize,
    outcome: Outcome,
}

/// An answer to a session entry that the state machine did not see.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) slot: u32,
    pub(super) index: u64,
    pub(super) result: Result<LogIndex, Error>,
    pub(super) reply: &'a [u8],
}

/// The sessions of all groups, by slot.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    groups: Vec<Option<Box<GroupSessions>>>,
    /// Of the batch under way, in order.
    batch: Vec<Settled>,
    /// How many of them are settled.
    done: usize,
    replies: Vec<u8>,
}

impl Sessions {
    pub(super) fn new(slots: usize) -> Sessions {
        Sessions { groups: (0..slots).map(|_| None).collect(), ..Sessions::default() }
    }

    /// A group begins anew.
    pub(super) fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = None;
    }

    /// A group goes on from a snapshot.
    pub(super) fn install(&mut self, slot: u32, table: Option<SessionTable>) {
        self.groups[slot as usize] = table.map(|table| Box::new(GroupSessions { table, base: None }));
    }

    /// The bytes of a group's sessions for a snapshot; none if it never had any.
    pub(super) fn encoded(&self, slot: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(group) = &self.groups[slot as usize] {
            group.table.encode(&mut bytes);
        }
        bytes
    }

    fn group(&mut self, slot: u32) -> &mut GroupSessions {
        self.groups[slot as usize].get_or_insert_default()
    }

    /// Writes the entry for `op` into `entry`, stamped with the group's time.
    pub(super) fn encode(
        &mut self,
        slot: u32,
        now: Moment,
        expires_after_millis: u64,
        op: SessionOp<'_>,
        entry: &mut Vec<u8>,
    ) {
        let time_millis = self.group(slot).time(now);
        entry.clear();
        SessionEntry { time_millis, expires_after_millis, op }.encode(entry);
    }

    /// Takes a session entry of the batch, of which `before` entries are for the state machine so far. If it is to be executed, its
    /// command is the next of them.
    pub(super) fn admit<'e>(
        &mut self,
        slot: u32,
        index: u64,
        entry: &'e [u8],
        before: usize,
        now: Moment,
    ) -> Option<&'e [u8]> {
        let group = self.groups[slot as usize].get_or_insert_default();
        let start = self.replies.len();
        let mut execute = None;
        let outcome = match group.table.admit(index, entry) {
            Admitted::Execute { key, command } => {
                execute = Some(command);
                Outcome::Execute(key)
            }
            Admitted::Awaits(key) => Outcome::Awaits(key),
            Admitted::Opened(session) => {
                self.replies.extend_from_slice(&session.to_le_bytes());
                Outcome::Known(Ok(LogIndex(index)), (start, self.replies.len()))
            }
            Admitted::Closed | Admitted::KeptAlive => Outcome::Known(Ok(LogIndex(index)), (start, start)),
            Admitted::Again { index, reply } => {
                self.replies.extend_from_slice(reply);
                Outcome::Known(Ok(LogIndex(index)), (start, self.replies.len()))
            }
            Admitted::Refused(refused) => Outcome::Known(Err(error(refused)), (start, start)),
        };
        group.time(now);
        self.batch.push(Settled { slot, index, before, outcome });
        execute
    }

    /// Whether the batch has entries of sessions that are not settled.
    pub(super) fn has_unsettled(&self) -> bool {
        self.done < self.batch.len()
    }

    /// The next answer that comes before entry `n` of the batch, if one does.
    pub(super) fn next_before(&mut self, n: usize) -> Option<Answer<'_>> {
        let &Settled { slot, index, before, outcome } = self.batch.get(self.done)?;
        if before > n {
            return None;
        }
        let (result, reply) = match outcome {
            Outcome::Execute(_) => return None,
            Outcome::Known(result, (start, end)) => (result, &self.replies[start..end]),
            Outcome::Awaits(key) => {
                let table = self.groups[slot as usize].as_ref().map(|group| &group.table);
                match table.and_then(|table| table.reply_to(key)) {
                    Some(reply) => (Ok(LogIndex(key.index)), reply),
                    // Pushed out in between.
                    None => (Err(Error::UnknownSession { session: key.session }), &[][..]),
                }
            }
        };
        self.done += 1;
        Some(Answer { slot, index, result, reply })
    }

    /// Entry `n` of the batch was executed: its reply is kept if it belongs to a session.
    pub(super) fn executed(&mut self, n: usize, reply: &[u8]) {
        let Some(&Settled { slot, before, outcome: Outcome::Execute(key), .. }) = self.batch.get(self.done)
        else {
            return;
        };
        if before == n {
            self.group(slot).table.executed(key, reply);
            self.done += 1;
        }
    }

    /// The batch is settled.
    pub(super) fn end_batch(&mut self) {
        assert!(!self.has_unsettled(), "every session entry of a batch is settled");
        self.batch.clear();
        self.replies.clear();
        self.done = 0;
    }

    /// A digest of a group's sessions, equal on nodes that applied the same entries; 0 for a group that never had one. A leader has a
    /// table as soon as it was asked for a session, whether or not anything came of it.
    pub(super) fn digest(&self, slot: u32) -> u64 {
        let table = self.groups[slot as usize].as_ref().map(|group| &group.table);
        table.filter(|table| table.now_millis() > 0 || !table.is_empty()).map_or(0, |table| table.digest())
    }

    /// Sessions open in a group.
    pub(super) fn open(&self, slot: u32) -> usize {
        self.groups[slot as usize].as_ref().map_or(0, |group| group.table.len())
    }
}

/// What a refusal means to a client.
fn error(refused: SessionRefused) -> Error {
    match refused {
        SessionRefused::Unknown { session } => Error::UnknownSession { session },
        SessionRefused::Sequence { sequence, from, .. } => Error::SessionSequence { sequence, from },
        _ => Error::SessionFormat,
    }
}
