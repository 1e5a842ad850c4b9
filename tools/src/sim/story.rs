//! The last events of a group as a sequence that one can read: a lane for each node, arrows for messages.

use logdrive_shard::NodeId;

use super::clock::MILLISECOND;
use super::trace::{Line, What};

/// Columns of a node's lane.
const LANE: usize = 5;

/// Events with a lane for each of so many nodes: `*` is what happens on a node, an arrow is a message that leaves it.
pub fn sequence(lines: &[Line], nodes: usize) -> Vec<String> {
    let mut told = Vec::with_capacity(lines.len() + 1);
    if lines.is_empty() {
        return told;
    }
    let heads: String = (1..=nodes).map(|node| format!("{:<LANE$}", format!("n{node}"))).collect();
    told.push(format!("{:>12}  {heads} event", "ms"));
    told.extend(lines.iter().map(|line| {
        let at = line.at as f64 / MILLISECOND as f64;
        format!("{at:>12.3}  {} {}", lanes(line, nodes), line.what)
    }));
    told
}

fn lanes(line: &Line, nodes: usize) -> String {
    let mut lanes = vec![b' '; nodes * LANE];
    let place = |node: NodeId| {
        let lane = (node.0 as usize).checked_sub(1).filter(|lane| *lane < nodes)?;
        Some(lane * LANE)
    };
    (0..nodes).for_each(|node| lanes[node * LANE] = b'.');
    match (place(line.node), &line.what) {
        (Some(from), What::Sends { to, .. }) => {
            if let Some(to) = place(*to).filter(|to| *to != from) {
                lanes[from.min(to)..from.max(to)].fill(b'-');
                lanes[to] = if from < to { b'>' } else { b'<' };
            }
            lanes[from] = b'o';
        }
        (Some(from), _) => lanes[from] = b'*',
        (None, What::Strikes(..) | What::Ends(..)) => {
            (0..nodes).for_each(|node| lanes[node * LANE] = b'!');
        }
        (None, _) => {}
    }
    lanes.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::faults::FaultId;
    use super::super::trace::Message;
    use super::*;
    use logdrive_shard::{GroupId, LogIndex, Term};

    #[test]
    fn messages_are_arrows_between_the_lanes_of_their_nodes() {
        let line = |node: u32, what: What| Line {
            at: 1_500_000,
            number: 1,
            node: NodeId(node),
            group: Some(GroupId(1)),
            what,
        };
        let sends = |to: u32| What::Sends {
            to: NodeId(to),
            message: Message::Append,
            term: Term(2),
            index: LogIndex(7),
            count: 1,
        };
        let lines = [
            line(1, sends(3)),
            line(3, sends(2)),
            line(2, What::Note("starts".to_owned())),
            Line { node: NodeId::NONE, ..line(0, What::Strikes(FaultId(4), "kill")) },
        ];
        let told = sequence(&lines, 3);
        let lanes: Vec<&str> = told.iter().map(|line| &line[14..29]).collect();
        assert_eq!(
            lanes,
            ["n1   n2   n3   ", "o--------->    ", ".    <----o    ", ".    *    .    ", "!    !    !    "]
        );
        assert!(told[1].contains("Append term 2 index 7"));
        assert!(sequence(&[], 3).is_empty());
    }
}
