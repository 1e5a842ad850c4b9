//! A replicated ledger in one process: three nodes, four groups, a state machine of one's own.
//!
//!     cargo run --release --example embed

use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::block_on;
use logdrive::api::{
    ApplyEntry, BadSnapshot, GroupState, PerGroup, ReadPolicy, Retry, TimingPreset, exactly,
};
use logdrive::runtime::{Engine, NodeSettings, PeerAddress};
use logdrive_shard::{GroupId, NodeId};

/// The balance of one group. An entry is an amount to add, eight bytes; the reply is the new balance.
#[derive(Default)]
struct Ledger(i64);

impl GroupState for Ledger {
    fn apply(&mut self, entry: &ApplyEntry<'_>, reply: &mut Vec<u8>) {
        if let Ok(amount) = entry.payload.try_into() {
            self.0 = self.0.wrapping_add(i64::from_le_bytes(amount));
        }
        self.save(reply);
    }

    fn query(&self, _request: &[u8], reply: &mut Vec<u8>) {
        self.save(reply);
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn load(bytes: &[u8]) -> Result<Ledger, BadSnapshot> {
        Ok(Ledger(i64::from_le_bytes(exactly(bytes)?)))
    }
}

/// Adds an amount at whichever node leads the group. A refusal says whether and where to try again.
fn add(engines: &[Engine], group: GroupId, amount: i64) -> Result<i64, Box<dyn Error>> {
    let mut at = 0;
    loop {
        let proposal = engines[at].group(group)?.propose(amount.to_le_bytes().to_vec());
        match block_on(proposal) {
            Ok(balance) => return Ok(i64::from_le_bytes(balance.as_slice().try_into()?)),
            Err(error) => match error.retry() {
                Retry::At(leader) if leader.is_some() => at = leader.0 as usize - 1,
                Retry::At(_) => std::thread::sleep(Duration::from_millis(20)),
                Retry::After(pause) => std::thread::sleep(pause),
                _ => return Err(error.into()),
            },
        }
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::Builder::new().prefix("ledger-").tempdir_in(".")?;
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut nodes = Vec::new();
    for (listener, id) in listeners.iter().zip(1..) {
        let peer = listener.local_addr()?.to_string();
        nodes.push(PeerAddress { node: NodeId(id), peer, client: String::new() });
    }
    let mut engines = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        let (data, listen) = (dir.path().join(format!("node-{id}")), listener.local_addr()?);
        let mut settings = NodeSettings::new(0x1ed6e5, NodeId(id), data, listen, nodes.clone(), 4);
        settings.listener = Some(Arc::new(listener));
        settings.bootstrap = true;
        settings.core.wal.segment_bytes = 4 << 20;
        TimingPreset::Lan.apply_to(&mut settings.core.shard);
        engines.push(Engine::start(settings, |_core| PerGroup::<Ledger>::default(), Vec::new())?);
    }
    for group in (1..=4).map(GroupId) {
        add(&engines, group, 100)?;
        let balance = add(&engines, group, -58)?;
        let leader = engines[0].leader_of(group);
        println!("group {group}: {balance}, led by node {leader}");
        assert_eq!(balance, 42);
        let at = if leader.is_some() { leader.0 as usize - 1 } else { 0 };
        let read = engines[at].group(group)?.read(ReadPolicy::Linearizable, Vec::new());
        println!("  read: {:?}", block_on(read).map(|bytes| bytes.len()));
    }
    for engine in engines {
        engine.shutdown()?;
    }
    Ok(())
}
