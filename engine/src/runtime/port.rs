//! The consumers of answers on one core.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use logdrive_shard::LogIndex;

use crate::api::{Completions, Error};
use crate::core::PortId;

use super::mesh::PortKey;
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
    pub(crate) fn id(&self) -> PortId {
        PortId(self.key.port)
    }

    /// An answer that does not come from this core.
    pub(crate) fn answer(&self, token: u64, result: Result<LogIndex, Error>, reply: &[u8]) {
        self.elsewhere.borrow_mut().push(token, result, reply);
        self.wake.notify();
    }
}

/// Who waits at a port of the core.
#[derive(Clone)]
pub(crate) enum PortOwner {
    Nobody,
    /// A [`super::Port`].
    Client(Rc<PortState>),
    /// Another core of this node.
    Mesh(u16),
    /// The embedding program.
    Embedded,
}

/// The ports of a core, by the core's dense numbers.
pub(crate) struct PortTable {
    owners: Vec<PortOwner>,
    generation: u32,
}

impl PortTable {
    pub(crate) fn new() -> PortTable {
        PortTable { owners: Vec::new(), generation: 0 }
    }

    pub(crate) fn set(&mut self, port: PortId, owner: PortOwner) {
        let index = port.0 as usize;
        if index >= self.owners.len() {
            self.owners.resize(index + 1, PortOwner::Nobody);
        }
        self.owners[index] = owner;
    }

    /// A client's port; without a number if the core is gone: it only ever hears `Stopped`.
    pub(crate) fn open_client(&mut self, port: Option<PortId>) -> Rc<PortState> {
        self.generation = self.generation.wrapping_add(1);
        let state = Rc::new(PortState {
            key: PortKey { port: port.map_or(u32::MAX, |port| port.0), generation: self.generation },
            ready: Cell::new(false),
            elsewhere: RefCell::default(),
            wake: Notify::default(),
        });
        if let Some(port) = port {
            self.set(port, PortOwner::Client(state.clone()));
        }
        state
    }

    pub(crate) fn close_client(&mut self, port: &PortState) {
        if self.client(port.key).is_some() {
            self.set(port.id(), PortOwner::Nobody);
        }
    }

    pub(crate) fn owner(&self, port: PortId) -> &PortOwner {
        self.owners.get(port.0 as usize).unwrap_or(&PortOwner::Nobody)
    }

    /// The client that asked under this key, if it is still there.
    pub(crate) fn client(&self, key: PortKey) -> Option<&Rc<PortState>> {
        match self.owner(PortId(key.port)) {
            PortOwner::Client(state) if state.key == key => Some(state),
            _ => None,
        }
    }
}
