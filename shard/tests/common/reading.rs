//! Entries that are not in memory: read from disk, or lost by it while the node runs.

use super::Cluster;

impl Cluster {
    /// What a step asked to load is in memory now.
    pub fn load_all(&mut self) {
        for id in self.ids() {
            let node = self.nodes.get_mut(&id).expect("a node");
            if std::mem::take(&mut node.wants_load) && node.group.is_some() {
                node.cold_below = 0;
                self.plain(id, |group, env| group.on_entries_loaded(env));
            }
        }
    }

    /// The disk of a node that runs has lost its entries before `below`; with 1 all are back. Its caller tells the group.
    pub fn set_unreadable(&mut self, id: u32, below: u64) {
        self.nodes.get_mut(&id).expect("a node").lost_below = below;
        self.plain(id, |group, env| {
            group.set_fit(env, below <= 1);
            group.on_entries_loaded(env);
        });
    }
}
