//! Sessions as consumers of answers and other threads ask for them.

use logdrive_shard::SessionOp;

use crate::api::SessionCall;

/// What is asked of a session; the command of [`SessionKind::Command`] goes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionKind {
    Open,
    Close(u64),
    KeepAlive(u64),
    Command(SessionCall),
}

impl SessionKind {
    pub(crate) fn op(self, command: &[u8]) -> SessionOp<'_> {
        match self {
            SessionKind::Open => SessionOp::Open,
            SessionKind::Close(session) => SessionOp::Close { session },
            SessionKind::KeepAlive(session) => SessionOp::KeepAlive { session },
            SessionKind::Command(SessionCall { session, sequence, answered_below }) => {
                SessionOp::Command { session, sequence, answered_below, command }
            }
        }
    }
}

/// A request of a client's session that crosses threads.
#[derive(Debug)]
pub(crate) struct SessionRequest {
    pub(crate) kind: SessionKind,
    /// Empty unless it is a command.
    pub(crate) command: Vec<u8>,
}

impl From<SessionKind> for SessionRequest {
    fn from(kind: SessionKind) -> SessionRequest {
        SessionRequest { kind, command: Vec::new() }
    }
}
