//! Sessions as other threads ask for them.

use crate::mesh::SessionKind;

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
