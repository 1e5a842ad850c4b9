//! Requests that end otherwise than by being done: leadership went, or a snapshot took the place of what was proposed.

use logdrive_shard::{LogIndex, NodeId};
use logdrive_wal::Disk;

use super::lane::Flags;
use super::step::Io;
use crate::api::Error;

impl<D: Disk> Io<D> {
    /// Leadership of `slot` was lost: proposals behind `commit` and reads that nobody has confirmed end.
    pub(super) fn fail_waiting(&mut self, slot: u32, commit: LogIndex, leader: NodeId) {
        self.fail_changes(slot, commit);
        let Io { lanes, proposals, reads, ports, requests, request_bytes, .. } = self;
        let mut end = |port, token, bytes: u64, error| {
            *requests -= 1;
            *request_bytes -= bytes;
            ports.answer(port, token, Err(error), &[]);
        };
        proposals.cut_after(&mut lanes[slot as usize], commit.0, |gone| {
            end(gone.port, gone.token, u64::from(gone.bytes), Error::Indeterminate);
        });
        reads.cut_unconfirmed(slot as usize, |port, token, bytes| {
            end(port, token, bytes as u64, Error::NotLeader { leader });
        });
    }

    /// A snapshot took the place of the entries up to `index`, which this member had proposed as a leader, knew to be committed, and could
    /// not read to apply them: what came of them nobody knows here, and those behind them wait for them.
    pub(super) fn skip_waiting(&mut self, slot: u32, index: LogIndex) {
        self.finish_changes(slot, index);
        let Io { lanes, proposals, ports, requests, request_bytes, .. } = self;
        proposals.cut_until(&mut lanes[slot as usize], index.0, |gone| {
            *requests -= 1;
            *request_bytes -= u64::from(gone.bytes);
            ports.answer(gone.port, gone.token, Err(Error::Indeterminate), &[]);
        });
    }

    /// The leader is lost to which this node's reads of `slot` were forwarded: those that are not confirmed end.
    pub(super) fn fail_reads(&mut self, slot: u32) {
        let Io { reads, ports, requests, request_bytes, .. } = self;
        reads.cut_unconfirmed(slot as usize, |port, token, bytes| {
            *requests -= 1;
            *request_bytes -= bytes as u64;
            ports.answer(port, token, Err(Error::NotLeader { leader: NodeId::NONE }), &[]);
        });
    }

    /// This node is no member of the group any more: reads that wait for an index may wait for ever, and end.
    pub(super) fn fail_all_reads(&mut self, slot: u32) {
        let Io { reads, ports, requests, request_bytes, .. } = self;
        reads.cut_all(slot as usize, |port, token, bytes| {
            *requests -= 1;
            *request_bytes -= bytes as u64;
            ports.answer(port, token, Err(Error::NotLeader { leader: NodeId::NONE }), &[]);
        });
        if !self.local_reads.wait_for(slot) {
            self.lanes[slot as usize].flags.lower(Flags::HAS_READS);
        }
    }
}
