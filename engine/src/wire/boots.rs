//! Names of boots. Their numbers do not tell a boot from another one that began on a copy of the same directory; names do, because each
//! is drawn at random, and durable before anybody hears of it.
//!
//! A node keeps the names of its last boots and tells them in its `Hello`. Whoever met it in one of those boots finds the name that it
//! remembers among them, or it is another history: one that began on a restored backup.

use std::fmt;

use super::bytes::{Put, Reader};

/// Names kept: that of the boot under way, and of those before it. Whoever did not meet a node for longer judges it by its boot counter
/// and its log alone.
pub const BOOT_NAMES_MAX: usize = 32;

/// The name of a boot, drawn at random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootName(pub u64);

impl BootName {
    /// That of a boot of an earlier version of this software, which had no names.
    pub const NONE: BootName = BootName(0);

    /// Whether there is one.
    pub fn is_some(self) -> bool {
        self != BootName::NONE
    }
}

impl fmt::Display for BootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            BootName::NONE => f.write_str("without a name"),
            BootName(name) => write!(f, "{name:016x}"),
        }
    }
}

/// The names of a node's last boots, the newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootNames([BootName; BOOT_NAMES_MAX]);

impl BootNames {
    /// Those of the next boot, named `name`.
    #[must_use]
    pub fn begin(mut self, name: BootName) -> BootNames {
        self.0.rotate_right(1);
        self.0[0] = name;
        self
    }

    /// The name of the boot under way.
    pub fn newest(&self) -> BootName {
        self.0[0]
    }

    /// The name of the boot so many before that; `None` if that is too long ago to be known.
    pub fn before(&self, boots: u64) -> Option<BootName> {
        self.0.get(usize::try_from(boots).ok()?).copied()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let count = self.0.iter().rposition(|name| name.is_some()).map_or(0, |last| last + 1);
        out.put_u16(count as u16);
        self.0[..count].iter().for_each(|name| out.put_u64(name.0));
    }

    /// A later version may keep more of them.
    pub(crate) fn decode(body: &mut Reader<'_>) -> Option<BootNames> {
        let mut names = BootNames::default();
        for n in 0..usize::from(body.u16()?) {
            let name = BootName(body.u64()?);
            if let Some(place) = names.0.get_mut(n) {
                *place = name;
            }
        }
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_as_many_boots_back_as_are_kept() {
        let mut names = BootNames::default();
        assert_eq!((names.newest(), names.before(3)), (BootName::NONE, Some(BootName::NONE)));
        for boot in 1..=40 {
            names = names.begin(BootName(boot));
        }
        assert_eq!(names.newest(), BootName(40));
        assert_eq!(names.before(31), Some(BootName(9)));
        assert_eq!((names.before(32), names.before(u64::MAX)), (None, None));
    }

    #[test]
    fn names_are_read_back_and_more_than_are_kept_are_skipped() {
        for count in [0, 1, 7, 40] {
            let names = (1..=count).fold(BootNames::default(), |names, boot| names.begin(BootName(boot)));
            let mut bytes = Vec::new();
            names.encode(&mut bytes);
            assert_eq!(BootNames::decode(&mut Reader::new(&bytes)), Some(names));
            bytes.pop();
            assert_eq!(BootNames::decode(&mut Reader::new(&bytes)), None);
        }
        let mut more = Vec::new();
        more.put_u16(50);
        (1..=50).for_each(|name| more.put_u64(name));
        let mut more = Reader::new(&more);
        let names = BootNames::decode(&mut more).expect("of a later version");
        assert_eq!((names.newest(), names.before(31), more.left()), (BootName(1), Some(BootName(32)), 0));
    }
}
