//! Watches the leaders of a local cluster, and knows when there is something to tell.

use std::sync::mpsc::Sender;
use std::time::Duration;

use super::Event;
use crate::client::{Connection, NodeReport};

/// How often the nodes are asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// After so many equal looks the leaders are taken to have settled, evenly or not.
const SETTLED_LOOKS: u32 = 6;

/// Asks all nodes again and again on a thread of its own.
pub(super) fn start(addresses: Vec<String>, events: Sender<Event>) -> std::io::Result<()> {
    let watch = move || {
        let mut connections: Vec<Option<Connection>> = addresses.iter().map(|_| None).collect();
        loop {
            let mut reports = Vec::new();
            for (address, connection) in addresses.iter().zip(&mut connections) {
                reports.push(ask(address, connection));
            }
            if events.send(Event::Seen(reports)).is_err() {
                return;
            }
            std::thread::sleep(ASK_EVERY);
        }
    };
    std::thread::Builder::new().name("watch".to_owned()).spawn(watch)?;
    Ok(())
}

/// Asks one node; a connection that failed is made anew the next time.
fn ask(address: &str, connection: &mut Option<Connection>) -> Option<NodeReport> {
    if connection.is_none() {
        *connection = Connection::open(address, ASK_TIMEOUT).ok();
    }
    let report = connection.as_mut()?.status().ok();
    if report.is_none() {
        *connection = None;
    }
    report
}

/// How many groups each node leads; `None` for a node out of reach.
pub(super) type Spread = Vec<Option<u64>>;

/// What the last looks showed.
#[derive(Debug)]
pub(super) struct Watch {
    groups: u64,
    /// The last look, and how often it was the same.
    last: Spread,
    looks: u32,
    /// What was told last.
    told: Option<Spread>,
}

impl Watch {
    /// Nothing is known yet.
    pub(super) fn new(groups: u64) -> Watch {
        Watch { groups, last: Vec::new(), looks: 0, told: None }
    }

    /// Takes a look; returns the spread of the leaders if it has settled and is not what was told last.
    pub(super) fn look(&mut self, reports: &[Option<NodeReport>]) -> Option<&Spread> {
        let spread: Spread = reports
            .iter()
            .map(|report| report.as_ref().map(|report| report.sum(|core| core.leaders)))
            .collect();
        self.looks = if spread == self.last { self.looks + 1 } else { 0 };
        self.last = spread;
        let settled = self.is_even() || self.looks >= SETTLED_LOOKS;
        if !settled || self.led() != self.groups || self.told.as_ref() == Some(&self.last) {
            return None;
        }
        self.told = Some(self.last.clone());
        self.told.as_ref()
    }

    /// Groups that have a leader, as far as the nodes in reach know.
    pub(super) fn led(&self) -> u64 {
        self.last.iter().flatten().sum()
    }

    /// Nodes that answered the last time.
    pub(super) fn reached(&self) -> usize {
        self.last.iter().flatten().count()
    }

    /// Something happened to a node: what comes next is told even if it looks like before.
    pub(super) fn forget_told(&mut self) {
        self.told = None;
        self.looks = 0;
    }

    /// All nodes answer, and none leads more than one group more than another.
    fn is_even(&self) -> bool {
        let all = self.reached() == self.last.len() && !self.last.is_empty();
        let most = self.last.iter().flatten().max();
        let least = self.last.iter().flatten().min();
        all && matches!((most, least), (Some(most), Some(least)) if most - least <= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::CoreReport;

    fn reports(leaders: [Option<u64>; 3]) -> Vec<Option<NodeReport>> {
        let report = |leaders: u64| NodeReport {
            cores: vec![CoreReport { leaders, ..CoreReport::default() }],
            ..NodeReport::default()
        };
        leaders.map(|leaders| leaders.map(report)).to_vec()
    }

    #[test]
    fn an_even_spread_is_told_at_once_and_once() {
        let mut watch = Watch::new(8);
        assert_eq!(watch.look(&reports([Some(5), Some(0), None])), None);
        assert_eq!(watch.look(&reports([Some(3), Some(3), Some(2)])), Some(&vec![Some(3), Some(3), Some(2)]));
        assert_eq!(watch.look(&reports([Some(3), Some(3), Some(2)])), None);
    }

    #[test]
    fn an_uneven_spread_is_told_once_it_has_settled() {
        let mut watch = Watch::new(8);
        let uneven = reports([Some(4), Some(4), None]);
        let told = (0..20).filter(|_| watch.look(&uneven).is_some()).count();
        assert_eq!(told, 1);
        // A group is without a leader: nothing to tell, however long it lasts.
        assert!((0..20).all(|_| watch.look(&reports([Some(4), Some(3), None])).is_none()));
    }

    #[test]
    fn after_an_event_the_same_spread_is_told_again() {
        let mut watch = Watch::new(2);
        let even = reports([Some(1), Some(1), Some(0)]);
        assert!(watch.look(&even).is_some());
        watch.forget_told();
        assert!(watch.look(&even).is_some());
    }
}
