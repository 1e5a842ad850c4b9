//! What a client keeps of its session.

use std::collections::BTreeSet;

use logdrive_shard::SESSION_WINDOW;

/// Names one command of a session. A command is repeated under the same name until it is answered: it is executed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCall {
    /// The session.
    pub session: u64,
    /// The command's number, from 1.
    pub sequence: u64,
    /// The client has the answers to all numbers below: their replies may be forgotten.
    pub answered_below: u64,
}

/// A client's side of a session in one group: it numbers the commands and knows which are answered.
///
/// It belongs to the client, not to a node: when leadership moves, the same session goes on at the new leader. A session ends when
/// it is not used for a while (see [`super::CoreSettings::session_expiry`]) or when a group has too many
/// ([`logdrive_shard::SESSIONS_MAX`]); then commands fail with [`super::Error::UnknownSession`].
///
/// ```
/// use logdrive::api::Session;
///
/// let mut session = Session::new(17);
/// let first = session.next_call().unwrap();
/// let second = session.next_call().unwrap();
/// assert_eq!((first.sequence, second.sequence), (1, 2));
/// // Both are under way; the second one is answered.
/// session.answered(second);
/// assert_eq!(session.next_call().unwrap().answered_below, 1);
/// session.answered(first);
/// assert_eq!(session.next_call().unwrap().answered_below, 3);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    id: u64,
    next: u64,
    /// Numbers without an answer.
    open: BTreeSet<u64>,
}

impl Session {
    /// A session that was just opened under this number.
    pub fn new(id: u64) -> Session {
        Session { id, next: 1, open: BTreeSet::new() }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name of the next command; `None` while the lowest unanswered one is too far behind: wait for its answer.
    pub fn next_call(&mut self) -> Option<SessionCall> {
        let answered_below = self.open.first().copied().unwrap_or(self.next);
        if self.next - answered_below >= SESSION_WINDOW {
            return None;
        }
        let call = SessionCall { session: self.id, sequence: self.next, answered_below };
        self.open.insert(self.next);
        self.next += 1;
        Some(call)
    }

    /// The command has its answer, or the client has given it up: it is not repeated.
    pub fn answered(&mut self, call: SessionCall) {
        self.open.remove(&call.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_unanswered_commands_is_the_limit() {
        let mut session = Session::new(9);
        let calls: Vec<_> = std::iter::from_fn(|| session.next_call()).collect();
        assert_eq!(calls.len() as u64, SESSION_WINDOW);
        session.answered(calls[1]);
        assert_eq!(session.next_call(), None);
        session.answered(calls[0]);
        assert_eq!(
            session.next_call(),
            Some(SessionCall { session: 9, sequence: SESSION_WINDOW + 1, answered_below: 3 })
        );
    }
}
