//! The consumers of answers on one core.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use logdrive_shard::LogIndex;

use crate::api::{Completions, Error};
use crate::core::PortId;
use crate::mesh::PortKey;

use super::notify::Notify;

/// A consumer that runs on this core's executor.
pub(crate) struct PortState {
    pub(crate) key: PortKey,
    /// The core holds answers.
    pub(crate) ready: Cell<bool>,
    /// Answers of other cores, and refusals that no core was asked for.
    pub(crate) elsewhere: RefCell<Completions>,
    pub(crate) wake: Notify,
}

impl PortState {
    pub(crate) fn new(key: PortKey) -> Rc<PortState> {
        Rc::new(PortState {
            key,
            ready: Cell::new(false),
            elsewhere: RefCell::default(),
            wake: Notify::default(),
        })
    }

    pub(crate) fn id(&self) -> PortId {
        self.key.port()
    }

    /// An answer that does not come from this core.
    pub(crate) fn answer(&self, token: u64, result: Result<LogIndex, Error>, reply: &[u8]) {
        self.elsewhere.borrow_mut().push(token, result, reply);
        self.wake.notify();
    }
}
