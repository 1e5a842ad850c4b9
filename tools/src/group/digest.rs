//! `logdrive group digest`: whether all members of a group have the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::show::{self, Configuration, Shown};
use super::{Cluster, Common, Deadline, Groups, chosen, to_json, words};
use crate::failure::{Exit, Failure};
use crate::output;

/// Applied indexes that are remembered of a group whose members are never seen at the same one.
const INDEXES_MAX: usize = 64;

/// What a node answers.
#[derive(Deserialize)]
struct Digest {
    applied: u64,
    digest: String,
}

/// What the comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// All members have the same digest at the same applied index.
    Equal,
    /// Two members have different digests at the same applied index.
    Different,
    /// In the time given the members were not seen at the same applied index, or not all of them answered.
    Unsettled,
}

/// One group.
#[derive(Clone, Debug, Default, Serialize)]
struct Compared {
    group: u64,
    /// The applied index at which the digests were taken.
    applied: u64,
    /// By node.
    digests: BTreeMap<u32, String>,
    /// Members that did not answer, or were never seen at this index.
    missing: Vec<u32>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct All {
    equal: usize,
    different: usize,
    unsettled: usize,
    groups: Vec<Compared>,
}

/// What the members of a group said so far.
#[derive(Default)]
struct Seen {
    configuration: Configuration,
    /// By applied index and node.
    digests: BTreeMap<u64, BTreeMap<u32, String>>,
}

impl Seen {
    /// Asks all nodes how far they are, and if the members are equally far, for their digests: these cost a pass over the group each,
    /// and different indexes prove nothing.
    fn look(&mut self, cluster: &mut Cluster, group: u64) {
        let mut at = BTreeMap::new();
        for address in cluster.addresses() {
            // Who does not answer is missing in the end.
            if let Ok(Shown { node, applied, configuration, .. }) = show::ask(cluster, &address, group) {
                at.insert(node, (applied, address));
                if configuration.index >= self.configuration.index {
                    self.configuration = configuration;
                }
            }
        }
        let members = self.members();
        at.retain(|node, _| members.contains(node));
        let first = at.values().map(|(applied, _)| *applied).next();
        if at.values().any(|(applied, _)| Some(*applied) != first) {
            return;
        }
        for (node, (applied, address)) in at {
            let known = self.digests.get(&applied).is_some_and(|digests| digests.contains_key(&node));
            let digest = || cluster.ask::<Digest>(&address, &words(&["GROUP", "DIGEST"], &[group]));
            if let Some(Ok(Digest { applied, digest })) = (!known).then(digest) {
                self.add(node, applied, digest);
            }
        }
    }

    fn add(&mut self, node: u32, applied: u64, digest: String) {
        self.digests.entry(applied).or_default().insert(node, digest);
        while self.digests.len() > INDEXES_MAX {
            self.digests.pop_first();
        }
    }

    fn members(&self) -> BTreeSet<u32> {
        let Configuration { voters, outgoing, learners, learners_next, .. } = &self.configuration;
        [voters, outgoing, learners, learners_next].into_iter().flatten().copied().collect()
    }

    /// What can be said: a difference counts at once, equality when all members were seen at one index.
    fn compare(&self, group: u64) -> Compared {
        let members = self.members();
        let mut best = Compared { group, missing: members.iter().copied().collect(), ..Compared::default() };
        for (&applied, digests) in &self.digests {
            let mut digests = digests.clone();
            digests.retain(|node, _| members.contains(node));
            let different = digests.values().collect::<BTreeSet<_>>().len() > 1;
            let missing: Vec<u32> =
                members.iter().copied().filter(|node| !digests.contains_key(node)).collect();
            let verdict = match (different, missing.is_empty() && !members.is_empty()) {
                (true, _) => Verdict::Different,
                (false, true) => Verdict::Equal,
                (false, false) => Verdict::Unsettled,
            };
            if best.verdict.is_none() || missing.len() <= best.missing.len() || different {
                best = Compared { group, applied, digests, missing, verdict: Some(verdict) };
            }
            if different {
                break;
            }
        }
        best.verdict.get_or_insert(Verdict::Unsettled);
        best
    }
}

/// Compares the groups one after the other. A group that is written to is looked at again until its members
/// were seen at the same index.
pub(super) fn digest(groups: &Groups, deadline: Deadline, common: &Common) -> Result<Exit, Failure> {
    let mut cluster = common.cluster()?;
    let groups = chosen(groups, &mut cluster, common)?;
    let compared = groups.into_iter().map(|group| compare(&mut cluster, group, deadline)).collect();
    let all = All::new(compared);
    output::print(&if common.json { to_json(&all)? } else { all.table() })?;
    Ok(match (all.different, all.unsettled) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::TimedOut,
        _ => Exit::Unwell,
    })
}

fn compare(cluster: &mut Cluster, group: u64, deadline: Deadline) -> Compared {
    let mut seen = Seen::default();
    loop {
        seen.look(cluster, group);
        let compared = seen.compare(group);
        if compared.verdict != Some(Verdict::Unsettled) || !deadline.pause() {
            return compared;
        }
    }
}

impl All {
    fn new(groups: Vec<Compared>) -> All {
        let count = |verdict| groups.iter().filter(|group| group.verdict == Some(verdict)).count();
        let (equal, different) = (count(Verdict::Equal), count(Verdict::Different));
        All { equal, different, unsettled: count(Verdict::Unsettled), groups }
    }

    fn table(&self) -> String {
        let mut rows = vec![["group", "applied", "verdict", "digests"].map(str::to_owned).to_vec()];
        rows.extend(self.groups.iter().map(|group| {
            let verdict = match group.verdict {
                Some(Verdict::Equal) => "equal",
                Some(Verdict::Different) => "DIFFERENT",
                _ => "unsettled",
            };
            vec![group.group.to_string(), group.applied.to_string(), verdict.to_owned(), group.digests()]
        }));
        let mut text = output::align(&rows);
        let All { equal, different, unsettled, .. } = self;
        let _ = writeln!(text, "\n{equal} groups equal, {different} different, {unsettled} unsettled");
        text
    }
}

impl Compared {
    /// One if it is the same everywhere, else each with its node.
    fn digests(&self) -> String {
        let mut text = match (self.verdict, self.digests.values().next()) {
            (Some(Verdict::Equal), Some(digest)) => digest.clone(),
            _ => {
                let each = self.digests.iter().map(|(node, digest)| format!("node {node}: {digest}"));
                each.collect::<Vec<_>>().join(", ")
            }
        };
        if !self.missing.is_empty() {
            let missing: Vec<String> = self.missing.iter().map(u32::to_string).collect();
            let _ = write!(text, " (not seen at this index: node {})", missing.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(samples: &[(u32, u64, &str)]) -> Compared {
        let configuration = Configuration { index: 1, voters: vec![1, 2, 3], ..Configuration::default() };
        let mut seen = Seen { configuration, ..Seen::default() };
        for &(node, applied, digest) in samples {
            seen.add(node, applied, digest.to_owned());
        }
        seen.compare(7)
    }

    #[test]
    fn only_what_all_members_had_at_one_index_is_equal() {
        let equal = seen(&[(1, 5, "a"), (2, 6, "b"), (2, 5, "a"), (3, 5, "a"), (1, 6, "b")]);
        assert_eq!((equal.verdict, equal.applied, equal.missing.len()), (Some(Verdict::Equal), 5, 0));
        let unsettled = seen(&[(1, 5, "a"), (2, 6, "b"), (3, 7, "c")]);
        assert_eq!(unsettled.verdict, Some(Verdict::Unsettled));
        let silent = seen(&[(1, 5, "a"), (3, 5, "a")]);
        assert_eq!((silent.verdict, &silent.missing[..]), (Some(Verdict::Unsettled), &[2][..]));
        assert_eq!(seen(&[]).verdict, Some(Verdict::Unsettled));
    }

    #[test]
    fn a_difference_counts_even_if_a_member_is_silent_and_strangers_do_not() {
        let different = seen(&[(1, 5, "a"), (2, 5, "b"), (1, 6, "c"), (2, 6, "c"), (3, 6, "c")]);
        assert_eq!((different.verdict, different.applied), (Some(Verdict::Different), 5));
        let stranger = seen(&[(1, 5, "a"), (2, 5, "a"), (3, 5, "a"), (4, 5, "x")]);
        assert_eq!((stranger.verdict, stranger.digests.len()), (Some(Verdict::Equal), 3));
        let all = All::new(vec![different, stranger]);
        assert_eq!((all.equal, all.different, all.unsettled), (1, 1, 0));
        assert!(all.table().contains("DIFFERENT  node 1: a, node 2: b (not seen at this index: node 3)"));
    }
}
