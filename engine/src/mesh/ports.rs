//! Who waits at the ports of a core.

use crate::core::{CoreId, PortId};
use crate::mutant;

/// A port of a core in one of its lives: numbers of ports are used again, and an answer to an earlier life is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    pub(super) port: u32,
    pub(super) generation: u32,
}

impl PortKey {
    /// The core's number for it.
    pub fn port(self) -> PortId {
        PortId(self.port)
    }
}

/// Who waits at a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owner<C> {
    /// Nobody any more: answers are dropped.
    #[default]
    Nobody,
    /// A client that is connected to this core.
    Client(C),
    /// Another core of the node, for its clients.
    Core(CoreId),
    /// The program that embeds the node.
    Embedder,
}

/// By the core's dense numbers.
#[derive(Debug)]
pub(super) struct Ports<C> {
    /// With the life of a client's port.
    owners: Vec<(u32, Owner<C>)>,
    generation: u32,
}

impl<C> Ports<C> {
    pub(super) fn new() -> Ports<C> {
        Ports { owners: Vec::new(), generation: 0 }
    }

    fn put(&mut self, port: PortId, generation: u32, owner: Owner<C>) {
        let index = port.0 as usize;
        if index >= self.owners.len() {
            self.owners.resize_with(index + 1, || (0, Owner::Nobody));
        }
        self.owners[index] = (generation, owner);
    }

    pub(super) fn set(&mut self, port: PortId, owner: Owner<C>) {
        self.put(port, 0, owner);
    }

    /// The key of a new client; without a number it is never found.
    pub(super) fn key(&mut self, port: Option<PortId>) -> PortKey {
        self.generation = self.generation.wrapping_add(1);
        PortKey { port: port.map_or(u32::MAX, |port| port.0), generation: self.generation }
    }

    pub(super) fn open(&mut self, key: PortKey, client: C) {
        self.put(key.port(), key.generation, Owner::Client(client));
    }

    pub(super) fn close(&mut self, key: PortKey) -> bool {
        let open = self.client(key).is_some();
        if open {
            self.set(key.port(), Owner::Nobody);
        }
        open
    }

    pub(super) fn owner(&self, port: PortId) -> &Owner<C> {
        self.owners.get(port.0 as usize).map_or(&Owner::Nobody, |(_, owner)| owner)
    }

    /// The client that asked under this key, if it is still there.
    pub(super) fn client(&self, key: PortKey) -> Option<&C> {
        match self.owners.get(key.port as usize) {
            Some((generation, Owner::Client(client)))
                if *generation == key.generation || mutant::PORT_LIFE_IGNORED =>
            {
                Some(client)
            }
            _ => None,
        }
    }
}
