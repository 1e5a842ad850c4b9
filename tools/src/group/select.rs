//! Which groups a command is for: `7`, `1-16,20`, `all`.

use std::str::FromStr;

/// Groups as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    All,
    /// Ranges, ends included.
    Some(Vec<(u64, u64)>),
}

impl Groups {
    /// The groups of a cluster that has `1 ..= groups`, ascending and each once; an error names the first that does not exist.
    pub(crate) fn of(&self, groups: u64) -> Result<Vec<u64>, u64> {
        let ranges = match self {
            Groups::All => return Ok((1..=groups).collect()),
            Groups::Some(ranges) => ranges,
        };
        if let Some(&(_, last)) = ranges.iter().find(|(_, last)| *last > groups) {
            return Err(last);
        }
        let mut all: Vec<u64> = ranges.iter().flat_map(|&(first, last)| first..=last).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

impl FromStr for Groups {
    type Err = String;

    fn from_str(text: &str) -> Result<Groups, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Groups::All);
        }
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            range.ok_or_else(|| {
                format!("`{part}` is no group and no range of groups: write 7, or 1-16,20, or all")
            })
        };
        text.split(',').map(range).collect::<Result<Vec<_>, _>>().map(Groups::Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_one_by_one_in_ranges_or_all() {
        let groups = |text: &str| text.parse::<Groups>().expect(text).of(20);
        assert_eq!(groups("7"), Ok(vec![7]));
        assert_eq!(groups("3-5,1,4"), Ok(vec![1, 3, 4, 5]));
        assert_eq!(groups("all").map(|all| all.len()), Ok(20));
        assert_eq!(groups("19-21"), Err(21));
        for wrong in ["", "0", "a", "5-3", "1-", "1,,2", "-"] {
            assert!(wrong.parse::<Groups>().is_err(), "{wrong}");
        }
    }
}
