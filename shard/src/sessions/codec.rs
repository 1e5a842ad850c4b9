//! The bytes of session entries, and of a table in a snapshot. Little-endian, fixed widths.
//!
//! ```text
//! entry   version (1, = 1)  op (1)  6 bytes of zero  time ms (8)  expires after ms (8)
//!         then, by op:  1 open
//!                       2 close       session (8)
//!                       3 keep alive  session (8)
//!                       4 command     session (8)  number (8)  answered below (8)  the command
//!
//! table   version (1, = 1)  7 bytes of zero  time ms (8)  sessions (8)
//!         per session   id (8)  used at (8)  used ms (8)  answered below (8)  replies (8)
//!         per reply     number (8)  index (8)  length (8)  bytes
//! ```

use std::collections::BTreeMap;

use super::{Kept, SESSION_REPLY_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX, Session, SessionTable};

const VERSION: u8 = 1;
/// Bytes of an entry in front of the command, at most.
pub const SESSION_HEADER_MAX: usize = 48;

/// An entry of a session, as it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry<'e> {
    /// The leader's time: milliseconds on a clock that the leaders of the group hand on to each other.
    pub time_millis: u64,
    /// Sessions that were not used for so long end with this entry.
    pub expires_after_millis: u64,
    /// What is to be done.
    pub op: SessionOp<'e>,
}

/// What a client asks of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOp<'e> {
    /// A new session; its number is the index of the entry.
    Open,
    /// It is not needed any more.
    Close {
        /// Which.
        session: u64,
    },
    /// It is still needed.
    KeepAlive {
        /// Which.
        session: u64,
    },
    /// To be executed exactly once.
    Command {
        /// In which session.
        session: u64,
        /// The client's number of the command, from 1.
        sequence: u64,
        /// The client has the answers to all numbers below.
        answered_below: u64,
        /// For the state machine.
        command: &'e [u8],
    },
}

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionFormatError {
    /// Written by another version.
    #[error("version {found}, this software reads version {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// There is no such operation.
    #[error("operation {found} does not exist")]
    Op {
        /// The operation found.
        found: u8,
    },
    /// Too short or too long.
    #[error("{bytes} bytes do not fit what is in them")]
    Length {
        /// The length found.
        bytes: u64,
    },
    /// Numbers that no table has.
    #[error("session {session} contradicts the others or the limits")]
    Contradiction {
        /// The session.
        session: u64,
    },
}

/// Takes numbers off the front of bytes.
struct Reader<'b> {
    rest: &'b [u8],
    bytes: u64,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Reader<'b> {
        Reader { rest: bytes, bytes: bytes.len() as u64 }
    }

    fn error(&self) -> SessionFormatError {
        SessionFormatError::Length { bytes: self.bytes }
    }

    fn u64(&mut self) -> Result<u64, SessionFormatError> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(self.error())?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn take(&mut self, len: u64) -> Result<&'b [u8], SessionFormatError> {
        let len = usize::try_from(len).ok().filter(|&len| len <= self.rest.len()).ok_or(self.error())?;
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// The version, and the byte behind it.
    fn head(&mut self) -> Result<u8, SessionFormatError> {
        let [version, op, ..] = self.u64()?.to_le_bytes();
        if version != VERSION {
            return Err(SessionFormatError::Version { found: version });
        }
        Ok(op)
    }

    fn end(&self) -> Result<(), SessionFormatError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error()) }
    }
}

impl<'e> SessionEntry<'e> {
    /// Appends the bytes to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let (op, numbers, command): (u8, [Option<u64>; 3], &[u8]) = match self.op {
            SessionOp::Open => (1, [None; 3], &[]),
            SessionOp::Close { session } => (2, [Some(session), None, None], &[]),
            SessionOp::KeepAlive { session } => (3, [Some(session), None, None], &[]),
            SessionOp::Command { session, sequence, answered_below, command } => {
                (4, [Some(session), Some(sequence), Some(answered_below)], command)
            }
        };
        to.extend_from_slice(&[VERSION, op, 0, 0, 0, 0, 0, 0]);
        to.extend_from_slice(&self.time_millis.to_le_bytes());
        to.extend_from_slice(&self.expires_after_millis.to_le_bytes());
        for number in numbers.into_iter().flatten() {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(command);
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Bytes that are not one.
    pub fn decode(bytes: &'e [u8]) -> Result<SessionEntry<'e>, SessionFormatError> {
        let mut reader = Reader::new(bytes);
        let op = reader.head()?;
        let (time_millis, expires_after_millis) = (reader.u64()?, reader.u64()?);
        let op = match op {
            1 => SessionOp::Open,
            2 => SessionOp::Close { session: reader.u64()? },
            3 => SessionOp::KeepAlive { session: reader.u64()? },
            4 => {
                let (session, sequence, answered_below) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let command = std::mem::take(&mut reader.rest);
                SessionOp::Command { session, sequence, answered_below, command }
            }
            found => return Err(SessionFormatError::Op { found }),
        };
        reader.end()?;
        Ok(SessionEntry { time_millis, expires_after_millis, op })
    }
}

impl SessionTable {
    /// Appends the whole table to `to`, for a snapshot.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let mut put = |number: u64| to.extend_from_slice(&number.to_le_bytes());
        put(u64::from(VERSION));
        put(self.now_millis);
        put(self.sessions.len() as u64);
        for (&id, session) in &self.sessions {
            let Session { used_at, used_millis, answered_below, ref kept } = *session;
            for number in [id, used_at, used_millis, answered_below, kept.len() as u64] {
                to.extend_from_slice(&number.to_le_bytes());
            }
            for (&sequence, Kept { index, reply }) in kept {
                let reply =
                    reply.as_deref().expect("what was admitted was executed before the table is encoded");
                for number in [sequence, *index, reply.len() as u64] {
                    to.extend_from_slice(&number.to_le_bytes());
                }
                to.extend_from_slice(reply);
            }
        }
    }

    /// Reads a table.
    ///
    /// # Errors
    /// Bytes that are not one.
    pub fn decode(bytes: &[u8]) -> Result<SessionTable, SessionFormatError> {
        let mut reader = Reader::new(bytes);
        reader.head()?;
        let mut table = SessionTable { now_millis: reader.u64()?, ..SessionTable::default() };
        for _ in 0..reader.u64()? {
            let id = reader.u64()?;
            let (used_at, used_millis) = (reader.u64()?, reader.u64()?);
            let mut session =
                Session { used_at, used_millis, answered_below: reader.u64()?, kept: BTreeMap::new() };
            for _ in 0..reader.u64()? {
                let (sequence, index, len) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let kept = Kept { index, reply: Some(reader.take(len)?.into()) };
                let is_in_window =
                    sequence.checked_sub(session.answered_below).is_some_and(|n| n < SESSION_WINDOW);
                if !is_in_window || session.kept.insert(sequence, kept).is_some() {
                    return Err(SessionFormatError::Contradiction { session: id });
                }
            }
            table.bytes += session.cost();
            let is_new = table.by_use.insert(used_at, id).is_none()
                && used_millis <= table.now_millis
                && table.sessions.insert(id, session).is_none();
            if !is_new || table.sessions.len() > SESSIONS_MAX || table.bytes > SESSION_REPLY_BYTES_MAX {
                return Err(SessionFormatError::Contradiction { session: id });
            }
        }
        reader.end()?;
        Ok(table)
    }
}
