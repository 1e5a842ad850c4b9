//! What clients ask for, without the bytes that go beside it.

use logdrive_shard::SessionOp;

use crate::api::{ReadPolicy, SessionCall};
use crate::core::{Event, PortId, Slot};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command; its payload goes beside it.
    Propose,
    /// Something that concerns a session.
    Session(SessionKind),
    /// A read; what is asked of the state machine goes beside it.
    Read(ReadPolicy),
}

impl Kind {
    /// The request as the core that has the group takes it.
    pub fn event(self, port: PortId, token: u64, slot: Slot, bytes: &[u8]) -> Event<'_> {
        match self {
            Kind::Propose => Event::Propose { port, token, slot, payload: bytes },
            Kind::Session(kind) => Event::Session { port, token, slot, op: kind.op(bytes) },
            Kind::Read(policy) => Event::Read { port, token, slot, policy, request: bytes },
        }
    }
}

/// What is asked of a session; the command of [`SessionKind::Command`] goes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// A new one.
    Open,
    /// The end of this one.
    Close(u64),
    /// This one is not to expire.
    KeepAlive(u64),
    /// A command.
    Command(SessionCall),
}

impl SessionKind {
    /// As the core takes it.
    pub fn op(self, command: &[u8]) -> SessionOp<'_> {
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
