//! Changing the members of groups of a [`Cluster`].
#![allow(dead_code, unreachable_pub)]

use logdrive::api::Retry;
use logdrive::core::Event;
use logdrive_shard::{LogIndex, MembershipChange};

use crate::common::{Cluster, ms};

impl Cluster {
    /// Asks a node for another configuration; the answer comes under the token returned.
    pub fn change(&mut self, node: u32, group: u64, change: &MembershipChange) -> u64 {
        self.ask(node, |port, token| Event::Change { port, token, slot: Cluster::slot(group), change })
    }

    /// Asks the leader, again while it says that it is too early; the index.
    pub fn must_change(&mut self, group: u64, change: &MembershipChange) -> LogIndex {
        loop {
            let leader = self.leader(group);
            let token = self.change(leader, group, change);
            let result = self.wait(leader, token).result;
            match result {
                Ok(index) => return index,
                Err(error) if matches!(error.retry(), Retry::After(_) | Retry::At(_)) => {
                    self.run_for(ms(50));
                }
                Err(error) => panic!("{change:?}: {error}"),
            }
        }
    }

    /// The configuration in force on a node.
    pub fn membership(&mut self, node: u32, group: u64) -> String {
        self.core(node).group_status(Cluster::slot(group)).raft.membership.to_string()
    }
}
