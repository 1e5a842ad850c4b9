//! Requests between the cores of one node, and their answers. A client is connected to one core; what it asks of a group of another core
//! crosses the mesh, and so does the answer. Messages of peers do not: each core has connections of its own to the cores of
//! other nodes.
//!
//! # Order of calls
//!
//! A core has a [`Mesh`], which knows who waits at its ports, and for each other core a [`Lane`] that this one fills.
//!
//! 1. [`Mesh::ask`] takes a client's request to a group of another core, or refuses it: what is not answered is counted where it is asked,
//!    which bounds the lanes in both directions, in number and in bytes of requests. (Replies are as long as state machines make them.)
//! 2. At the end of a turn the core's answers are taken to whom [`Mesh::owner`] names; those for another core go to [`Mesh::answered`]. Then
//!    [`Mesh::leave`] hands over what the turn has for each other core: one batch per turn and pair of cores.
//! 3. The core at the other end of a lane takes what waits there ([`Lane::take`]) and gives it to [`Mesh::take`], which hands requests
//!    to the core and answers to the clients.
//!
//! A batch is arrays and one byte area; batches are swapped, not sent, so that the steady state allocates nothing.
//!
//! # Deliberately absent
//!
//! Threads, wake-ups, clocks: who is woken when a lane is filled, and when a lane is served, is the business of whoever drives this, the
//! [`runtime`](crate::runtime) or a simulator.

mod kind;
mod lane;
mod pair;
mod ports;

pub use kind::{Kind, SessionKind};
pub use lane::{Answer, Batch, Lane, Request};
pub use ports::{Owner, PortKey};

use crate::api::{Completions, Error};
use crate::core::{CoreId, Event, Held, PortId, Slot};
use pair::{Asked, Outgoing};
use ports::Ports;

/// Bounds of what one core may have asked another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are not answered.
    pub requests_max: u32,
    /// Bytes of their payloads. A larger request is let in alone.
    pub bytes_max: u64,
}

/// One core's end of the way to another core.
#[derive(Debug)]
struct Pair {
    /// Where this core of groups puts answers for the other core.
    port: PortId,
    out: Outgoing,
    asked: Asked,
}

/// One core's end of the mesh. `C` is what it knows of a client.
#[derive(Debug)]
pub struct Mesh<C> {
    limits: Limits,
    /// By core; that of this core itself is never used.
    pairs: Vec<Pair>,
    ports: Ports<C>,
}

impl<C> Mesh<C> {
    /// The end of a core in a node of `cores` cores. `add_port` is that of the core ([`Core::add_port`](crate::core::Core::add_port)),
    /// `embedder` the port of the embedding program.
    pub fn new(
        cores: u16,
        limits: Limits,
        embedder: PortId,
        mut add_port: impl FnMut() -> PortId,
    ) -> Mesh<C> {
        let mut ports = Ports::new();
        ports.set(embedder, Owner::Embedder);
        let pairs = (0..cores)
            .map(|other| {
                let port = add_port();
                ports.set(port, Owner::Core(CoreId(other)));
                Pair { port, out: Outgoing::default(), asked: Asked::default() }
            })
            .collect();
        Mesh { limits, pairs, ports }
    }

    // -- clients ---------------------------------------------------------------------------------------------------------

    /// The key of a new client at this port of the core; without a port (the core is gone) no answer will ever find it.
    pub fn key(&mut self, port: Option<PortId>) -> PortKey {
        self.ports.key(port)
    }

    /// A client waits under this key.
    pub fn open(&mut self, key: PortKey, client: C) {
        self.ports.open(key, client);
    }

    /// It does not any more: answers that come later are dropped. False if it did not wait. The caller tells the core
    /// ([`Core::remove_port`](crate::core::Core::remove_port)).
    pub fn close(&mut self, key: PortKey) -> bool {
        self.ports.close(key)
    }

    /// Who waits at a port.
    pub fn owner(&self, port: PortId) -> &Owner<C> {
        self.ports.owner(port)
    }

    /// A client asks something of a group of another core; it leaves with this turn. `Busy` if too much is not answered.
    pub fn ask(
        &mut self,
        to: CoreId,
        slot: Slot,
        from: PortKey,
        token: u64,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), Error> {
        self.pairs[usize::from(to.0)].out.ask(self.limits, from, token, slot, kind, payload)
    }

    // -- what leaves and what comes --------------------------------------------------------------------------------------

    /// Answers of this core to what `other` asked; they leave with this turn.
    pub fn answered(&mut self, other: CoreId, answers: &Completions) {
        let Pair { out, asked, .. } = &mut self.pairs[usize::from(other.0)];
        for (completion, reply) in answers.iter() {
            asked.answer(completion.token, completion.result, reply, &mut out.batch);
        }
    }

    /// Hands the turn's batches over: `put` is called once for each core that there is something for, and takes all of it.
    pub fn leave(&mut self, mut put: impl FnMut(CoreId, &mut Batch)) {
        for (other, pair) in (0..).zip(&mut self.pairs) {
            if !pair.out.batch.is_empty() {
                put(CoreId(other), &mut pair.out.batch);
            }
        }
    }

    /// Takes what `other` sent. `hand` gives a request to this core; an error of it is answered at once. `tell` gives an answer to the client that
    /// asked, `None` if that has closed its port.
    ///
    /// True if a request was refused: its answer leaves with the next turn.
    pub fn take(
        &mut self,
        other: CoreId,
        batch: &Batch,
        mut hand: impl FnMut(Event<'_>) -> Result<(), Error>,
        mut tell: impl FnMut(Option<&C>, &Answer, &[u8]),
    ) -> bool {
        let Pair { port, out, asked } = &mut self.pairs[usize::from(other.0)];
        let mut refused = false;
        for (request, payload) in batch.requests() {
            let token = asked.insert(request.from, request.token, payload.len() as u32);
            if let Err(error) = hand(request.kind.event(*port, token, request.slot, payload)) {
                asked.answer(token, Err(error), &[], &mut out.batch);
                refused = true;
            }
        }
        for (answer, reply) in batch.answers() {
            out.answered(answer);
            tell(self.ports.client(answer.to), answer, reply);
        }
        refused
    }

    // -- how full it is --------------------------------------------------------------------------------------------------

    /// Requests to other cores that are not answered.
    pub fn unanswered(&self) -> u32 {
        self.pairs.iter().map(|pair| pair.out.unanswered().0).sum()
    }

    /// Requests of other cores that this core has not answered.
    pub fn asked(&self) -> usize {
        self.pairs.iter().map(|pair| pair.asked.len()).sum()
    }

    /// Everything that is bounded, of the pair that holds most.
    pub fn held(&self) -> [Held; 3] {
        let most = |of: fn(&Pair) -> u64| self.pairs.iter().map(of).max().unwrap_or(0);
        let Limits { requests_max, bytes_max } = self.limits;
        let held = |what, held, at_most| Held { what, held, at_most };
        let asks = most(|pair| pair.out.unanswered().0.into());
        // One request may be larger than the bound.
        let bytes = most(|pair| match pair.out.unanswered() {
            (0 | 1, _) => 0,
            (_, bytes) => bytes,
        });
        let asked = most(|pair| pair.asked.len() as u64);
        [
            held("requests to another core", asks, requests_max.into()),
            held("bytes of requests to another core", bytes, bytes_max),
            held("requests of another core", asked, requests_max.into()),
        ]
    }
}
