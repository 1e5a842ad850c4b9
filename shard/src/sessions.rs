//! Client sessions: each command is executed exactly once, however often it is proposed (dissertation, 6.3).
//!
//! A [`SessionTable`] is part of the replicated state of a group: every member feeds it the same [`SessionEntry`]s in log
//! order, and it answers the same everywhere. It reads no clock. An entry carries the time its leader stamped it with, and the
//! table's time is the highest one it has seen; so a session ends at the same entry on every member.
//!
//! A client opens a session, numbers its commands 1, 2, 3, ... and repeats a command under **the same number** until it is
//! answered. With each command it says below which number it has all answers ([`SessionOp::Command::answered_below`]); replies below
//! are forgotten, and at most [`SESSION_WINDOW`] numbers are open at once. Sessions end when they are closed, when they were not
//! used for the time the leader's entries name, and, least recently used first, when a group has more than [`SESSIONS_MAX`]
//! of them or they keep more than [`SESSION_REPLY_BYTES_MAX`] of replies. A command in a session that is not there is refused: whether
//! an earlier copy was executed is not known any more, and a second execution is what sessions exist to prevent.
//!
//! # Order of calls
//!
//! [`SessionTable::admit`] for each entry, in log order. If it answers [`Admitted::Execute`], the caller executes the command and
//! hands the reply over with [`SessionTable::executed`], at the latest before it encodes the table. Several entries may be
//! admitted before the first is executed, as when a batch is applied in one call.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

mod codec;
#[cfg(test)]
mod tests;

pub use codec::{SESSION_HEADER_MAX, SessionEntry, SessionFormatError, SessionOp};

/// Sessions of one group.
pub const SESSIONS_MAX: usize = 1024;
/// Numbers that a client may use beyond the lowest it has no answer for.
pub const SESSION_WINDOW: u64 = 64;
/// Bytes of replies kept for all sessions of one group.
pub const SESSION_REPLY_BYTES_MAX: u64 = 1 << 20;
/// What a kept reply counts beside its bytes.
const REPLY_COST_BYTES: u64 = 64;

/// Why a command in a session was not executed. It was not executed by this entry; earlier ones are another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionRefused {
    /// It was closed, it expired, it was pushed out by newer ones, or it never was.
    #[error("session {session} is not open: it was closed, expired, pushed out by others, or never opened")]
    Unknown {
        /// The session.
        session: u64,
    },
    /// The number is below what the client has all answers for, or too far above.
    #[error("number {sequence} is outside of what session {session} may use now ({from} to {to})")]
    Sequence {
        /// The session.
        session: u64,
        /// The number.
        sequence: u64,
        /// The lowest that would do.
        from: u64,
        /// The highest that would do.
        to: u64,
    },
    /// The entry cannot be read.
    #[error("the entry is not one of a session: {0}")]
    Malformed(SessionFormatError),
}

/// What becomes of an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Admitted<'t, 'e> {
    /// A session was opened; its number is the index of the entry.
    Opened(u64),
    /// The session was closed.
    Closed,
    /// The session was used.
    KeptAlive,
    /// To be executed now, for the first time; then [`SessionTable::executed`] with this key.
    Execute {
        /// Of the command.
        key: SessionKey,
        /// The command, as the client gave it.
        command: &'e [u8],
    },
    /// Executed before: its index then, and its reply.
    Again {
        /// Where it was executed.
        index: u64,
        /// The reply.
        reply: &'t [u8],
    },
    /// A copy of a command that was admitted and whose reply was not handed over yet.
    Awaits(SessionKey),
    /// Not executed.
    Refused(SessionRefused),
}

/// Names a command of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionKey {
    /// The session.
    pub session: u64,
    /// The number.
    pub sequence: u64,
    /// Where it is executed.
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    index: u64,
    /// `None` until it is handed over.
    reply: Option<Box<[u8]>>,
}

impl Kept {
    fn cost(&self) -> u64 {
        REPLY_COST_BYTES + self.reply.as_ref().map_or(0, |reply| reply.len() as u64)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    /// Index of the last entry that used it: the key of `by_use`.
    used_at: u64,
    used_millis: u64,
    /// The client has all answers below.
    answered_below: u64,
    kept: BTreeMap<u64, Kept>,
}

impl Session {
    fn cost(&self) -> u64 {
        self.kept.values().map(Kept::cost).sum()
    }
}

/// All sessions of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionTable {
    /// The highest time that an entry carried.
    now_millis: u64,
    sessions: BTreeMap<u64, Session>,
    /// Sessions by the index of their last use, least recently used first.
    by_use: BTreeMap<u64, u64>,
    /// Sum of what is kept.
    bytes: u64,
}

impl SessionTable {
    /// The table's time: what the leader stamps the next entry with is at or after it.
    pub fn now_millis(&self) -> u64 {
        self.now_millis
    }

    /// Sessions open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Bytes kept for replies, their cost beside the bytes included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the entry at `index`.
    pub fn admit<'t, 'e>(&'t mut self, index: u64, entry: &'e [u8]) -> Admitted<'t, 'e> {
        let entry = match SessionEntry::decode(entry) {
            Ok(entry) => entry,
            Err(error) => return Admitted::Refused(SessionRefused::Malformed(error)),
        };
        self.now_millis = self.now_millis.max(entry.time_millis);
        self.expire(entry.expires_after_millis);
        match entry.op {
            SessionOp::Open => {
                self.open(index);
                Admitted::Opened(index)
            }
            SessionOp::Close { session } => match self.end(session) {
                true => Admitted::Closed,
                false => Admitted::Refused(SessionRefused::Unknown { session }),
            },
            SessionOp::KeepAlive { session } => match self.used(session, index) {
                true => Admitted::KeptAlive,
                false => Admitted::Refused(SessionRefused::Unknown { session }),
            },
            SessionOp::Command { session, sequence, answered_below, command } => {
                self.command(index, session, sequence, answered_below, command)
            }
        }
    }

    fn command<'t, 'e>(
        &'t mut self,
        index: u64,
        id: u64,
        sequence: u64,
        answered_below: u64,
        command: &'e [u8],
    ) -> Admitted<'t, 'e> {
        if !self.used(id, index) {
            return Admitted::Refused(SessionRefused::Unknown { session: id });
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Admitted::Refused(SessionRefused::Unknown { session: id });
        };
        // A client cannot have answers to what it never sent: a floor above the number is not believed.
        let floor = answered_below.min(sequence);
        while session.answered_below < floor {
            match session.kept.first_entry() {
                Some(first) if *first.key() < floor => self.bytes -= first.remove().cost(),
                _ => session.answered_below = floor,
            }
        }
        let from = session.answered_below;
        let to = from.saturating_add(SESSION_WINDOW - 1);
        if sequence < from || sequence > to {
            return Admitted::Refused(SessionRefused::Sequence { session: id, sequence, from, to });
        }
        if let Entry::Vacant(free) = session.kept.entry(sequence) {
            self.bytes += free.insert(Kept { index, reply: None }).cost();
            self.make_room();
            return Admitted::Execute { key: SessionKey { session: id, sequence, index }, command };
        }
        match &self.sessions[&id].kept[&sequence] {
            Kept { index, reply: Some(reply) } => Admitted::Again { index: *index, reply },
            Kept { index, reply: None } => {
                Admitted::Awaits(SessionKey { session: id, sequence, index: *index })
            }
        }
    }

    /// Keeps the reply of a command that was executed, if its session is still there.
    pub fn executed(&mut self, key: SessionKey, reply: &[u8]) {
        let kept =
            self.sessions.get_mut(&key.session).and_then(|session| session.kept.get_mut(&key.sequence));
        let Some(kept) = kept else { return };
        if kept.index != key.index || kept.reply.is_some() {
            return;
        }
        kept.reply = Some(reply.into());
        self.bytes += reply.len() as u64;
        self.make_room();
    }

    /// Ends sessions, least recently used first, until what is kept is within the bound. A single reply beyond the bound ends its
    /// own session: a copy of that command is refused then, not executed again.
    fn make_room(&mut self) {
        while self.bytes > SESSION_REPLY_BYTES_MAX {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            self.end(oldest);
        }
    }

    /// The reply to a command that was handed over, if it is still kept.
    pub fn reply_to(&self, key: SessionKey) -> Option<&[u8]> {
        let kept = self.sessions.get(&key.session)?.kept.get(&key.sequence)?;
        if kept.index == key.index { kept.reply.as_deref() } else { None }
    }

    /// A digest that equal tables share: FNV-1a (Fowler, Noll, Vo) of what [`SessionTable::encode`] writes. Not for secrets.
    pub fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, &byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn open(&mut self, index: u64) {
        while self.sessions.len() >= SESSIONS_MAX {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            self.end(oldest);
        }
        let session = Session {
            used_at: index,
            used_millis: self.now_millis,
            answered_below: 1,
            kept: BTreeMap::new(),
        };
        self.sessions.insert(index, session);
        self.by_use.insert(index, index);
    }

    /// The session is used by the entry at `index`; false if it is not there.
    fn used(&mut self, id: u64, index: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        self.by_use.remove(&session.used_at);
        session.used_at = index;
        session.used_millis = self.now_millis;
        self.by_use.insert(index, id);
        true
    }

    /// Ends a session; false if it is not there.
    fn end(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.remove(&id) else { return false };
        self.by_use.remove(&session.used_at);
        self.bytes -= session.cost();
        true
    }

    /// Ends what was not used for so long. The order of last use is the order of time, because the table's time never goes
    /// back.
    fn expire(&mut self, after_millis: u64) {
        while let Some((_, &oldest)) = self.by_use.first_key_value() {
            let used = self.sessions.get(&oldest).map_or(0, |session| session.used_millis);
            if used.saturating_add(after_millis) >= self.now_millis {
                break;
            }
            self.end(oldest);
        }
    }
}
