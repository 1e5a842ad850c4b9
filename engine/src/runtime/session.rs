//! Sessions as other threads ask for them.

use logdrive_shard::SessionOp;

use crate::api::SessionCall;

/// A request of a client's session that crosses threads.
#[derive(Debug)]
pub(crate) enum SessionRequest {
    Open,
    Close(u64),
    KeepAlive(u64),
    Command(SessionCall, Vec<u8>),
}

impl SessionRequest {
    pub(crate) fn as_op(&self) -> SessionOp<'_> {
        match *self {
            SessionRequest::Open => SessionOp::Open,
            SessionRequest::Close(session) => SessionOp::Close { session },
            SessionRequest::KeepAlive(session) => SessionOp::KeepAlive { session },
            SessionRequest::Command(SessionCall { session, sequence, answered_below }, ref command) => {
                SessionOp::Command { session, sequence, answered_below, command }
            }
        }
    }
}
