//! What the files are called.

use logdrive_shard::{GroupId, LogIndex};

use super::types::SnapshotId;

const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = ".snapshot-tmp";
const PARTIAL: &str = ".snapshot-part";
/// Hexadecimal digits of group, life, index and id.
const WIDTHS: [usize; 4] = [16, 8, 16, 16];

/// What the name of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) group: GroupId,
    pub(super) life: u32,
    pub(super) index: LogIndex,
    pub(super) id: SnapshotId,
}

impl Key {
    fn stem(self) -> String {
        format!("{:016x}-{:08x}-{:016x}-{:016x}", self.group.0, self.life, self.index.0, self.id.0)
    }

    /// The name of the complete file.
    pub(super) fn name(self) -> String {
        self.stem() + SUFFIX
    }

    /// The name while it is written.
    pub(super) fn temporary(self) -> String {
        self.stem() + TEMPORARY
    }

    /// The name while it is received.
    pub(super) fn partial(self) -> String {
        self.stem() + PARTIAL
    }

    /// What the name of a complete file says; nothing if it is not one.
    pub(super) fn parse(name: &str) -> Option<Key> {
        Key::parse_stem(name.strip_suffix(SUFFIX)?)
    }

    /// The same of a file that was being received.
    pub(super) fn parse_partial(name: &str) -> Option<Key> {
        Key::parse_stem(name.strip_suffix(PARTIAL)?)
    }

    fn parse_stem(stem: &str) -> Option<Key> {
        let mut numbers = [0; 4];
        let mut fields = stem.split('-');
        for (number, width) in numbers.iter_mut().zip(WIDTHS) {
            let field = fields.next().filter(|field| field.len() == width)?;
            let digits = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            *number = u64::from_str_radix(field, 16).ok().filter(|_| field.bytes().all(digits))?;
        }
        let [group, life, index, id] = numbers;
        let life = u32::try_from(life).ok()?;
        let key = Key { group: GroupId(group), life, index: LogIndex(index), id: SnapshotId(id) };
        fields.next().is_none().then_some(key)
    }
}

/// Whether a file was being written when its writer ended.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

/// Whether a file was being received when its receiver ended.
pub(super) fn is_partial(name: &str) -> bool {
    name.ends_with(PARTIAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_were_made_of_and_others_say_nothing() {
        let key = Key { group: GroupId(7), life: 2, index: LogIndex(u64::MAX), id: SnapshotId(0xabc) };
        assert_eq!(key.name(), "0000000000000007-00000002-ffffffffffffffff-0000000000000abc.snapshot");
        assert_eq!(Key::parse(&key.name()), Some(key));
        assert!(is_temporary(&key.temporary()) && !is_temporary(&key.name()));
        assert!(is_partial(&key.partial()) && !is_partial(&key.name()) && !is_temporary(&key.partial()));
        assert_eq!((Key::parse_partial(&key.partial()), Key::parse_partial(&key.name())), (Some(key), None));
        let upper = key.name().to_uppercase().replace(".SNAPSHOT", ".snapshot");
        for other in [
            &key.temporary(),
            &key.partial(),
            "LOCK",
            "7-2-3-4.snapshot",
            &upper,
            &format!("x{}", key.name()),
        ] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }
}
