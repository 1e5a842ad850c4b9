//! Leader transfers that somebody waits for: the group tells how each ended.

use logdrive_shard::{LogIndex, NodeId, Refused, TransferEnd};
use logdrive_wal::Disk;

use super::requests::busy;
use super::step::Io;
use super::{Core, PortId, Slot};
use crate::api::{Busy, Error, StateMachine};

/// Transfers that are waited for on one core, at most.
const TRANSFERS_MAX: usize = 4096;

/// Somebody who waits for a transfer that the group accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransferWait {
    slot: u32,
    to: NodeId,
    port: PortId,
    token: u64,
}

impl<D: Disk> Io<D> {
    /// A transfer of `slot` to `to` ended: all who wait for it are told how.
    pub(super) fn end_transfer(&mut self, slot: u32, to: NodeId, end: TransferEnd) {
        self.end_transfers(|wait| (wait.slot, wait.to) == (slot, to), end);
    }

    /// This node is no member of the group any more, and will not hear who leads it.
    pub(super) fn abandon_transfers(&mut self, slot: u32) {
        self.end_transfers(|wait| wait.slot == slot, TransferEnd::Elsewhere(NodeId::NONE));
    }

    fn end_transfers(&mut self, has_ended: impl Fn(&TransferWait) -> bool, end: TransferEnd) {
        let Io { transfers, ports, requests, .. } = self;
        transfers.retain(|wait| {
            if !has_ended(wait) {
                return true;
            }
            let to = wait.to;
            let result = match end {
                TransferEnd::Done => Ok(LogIndex(0)),
                TransferEnd::TimedOut => Err(Error::TransferTimedOut { to }),
                TransferEnd::Elsewhere(leader) => Err(Error::TransferElsewhere { to, leader }),
                _ => Err(Error::TransferCancelled { to }),
            };
            *requests -= 1;
            ports.answer(wait.port, wait.token, result, &to.0.to_le_bytes());
            false
        });
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    pub(super) fn on_transfer(&mut self, port: PortId, token: u64, slot: Slot, to: NodeId) {
        if !self.io.ports.is_open(port) {
            return;
        }
        match self.transfer(port, token, slot, to) {
            Ok(None) => {}
            Ok(Some(leader)) => self.answer_node(port, token, leader),
            Err(error) => self.refuse(port, token, error),
        }
    }

    pub(super) fn on_cancel_transfer(&mut self, port: PortId, token: u64, slot: Slot) {
        if !self.io.ports.is_open(port) {
            return;
        }
        match self.cancel_transfer(slot) {
            Ok(to) => self.answer_node(port, token, to),
            Err(error) => self.refuse(port, token, error),
        }
    }

    /// Calls the transfer under way off. The node that it went to; `NONE` if there was none.
    fn cancel_transfer(&mut self, slot: Slot) -> Result<NodeId, Error> {
        let at = slot.0;
        let group = self.groups.get(at as usize).ok_or(Error::NoSuchGroup)?;
        if !group.is_leader() {
            return Err(Error::NotLeader { leader: group.leader() });
        }
        let Some(to) = group.transferring() else { return Ok(NodeId::NONE) };
        self.step(at, |group, env| group.cancel_transfer(env));
        self.end_step(at);
        Ok(to)
    }

    fn answer_node(&mut self, port: PortId, token: u64, node: NodeId) {
        self.io.ports.expect(port);
        self.io.ports.answer(port, token, Ok(LogIndex(0)), &node.0.to_le_bytes());
    }

    /// Begins a transfer, or joins the one under way to the same node. `Some` if nothing is to be done: that node leads already.
    fn transfer(
        &mut self,
        port: PortId,
        token: u64,
        slot: Slot,
        to: NodeId,
    ) -> Result<Option<NodeId>, Error> {
        let at = slot.0;
        let group = self.groups.get(at as usize).ok_or(Error::NoSuchGroup)?;
        if to.is_some() && group.leader() == to {
            return Ok(Some(to));
        }
        self.admit_request(0)?;
        if self.io.transfers.len() >= TRANSFERS_MAX {
            return Err(busy(Busy::CoreRequests));
        }
        let begun = self.step(at, |group, env| match to.is_some() {
            true => group.transfer_leadership(env, to).map(|()| to),
            false => group.transfer_to_best(env),
        });
        if let Ok(to) = begun {
            self.expect(port, 0);
            self.io.transfers.push(TransferWait { slot: at, to, port, token });
        }
        self.end_step(at);
        begun.map(|_| None).map_err(refused_transfer)
    }
}

/// What a group's refusal of a transfer means to whoever asked.
fn refused_transfer(refused: Refused) -> Error {
    match refused {
        Refused::NotLeader { leader } => Error::NotLeader { leader },
        Refused::Transferring { .. } => busy(Busy::Transferring),
        Refused::BadTransferee { to } => Error::BadTransferee { to },
        Refused::NobodyToTakeOver => Error::NobodyToTakeOver,
        _ => Error::NotLeader { leader: NodeId::NONE },
    }
}
