//! What a state machine gives for snapshots, and ready-made parts for machines whose groups are small.

/// The bytes given to [`load_part`](super::StateMachine::load_part) are not a state this machine can take. The group keeps the state it
/// had; whoever reads the snapshot takes an older one, or asks the leader for another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSnapshot {
    /// It ends before its end.
    #[error(
        "the state ends after {bytes} bytes, before it is complete: read the snapshot again, or take another"
    )]
    Truncated {
        /// How many bytes came.
        bytes: u64,
    },
    /// There is more after its end.
    #[error("the state is complete at byte {at}, yet more follows: take another snapshot")]
    Trailing {
        /// Where the state ends, counted from its first byte.
        at: u64,
    },
    /// Something in it is not what it must be.
    #[error("the state has {what} {found:#x} at byte {at}: take another snapshot")]
    Malformed {
        /// Where, counted from the first byte of the state.
        at: u64,
        /// What is wrong there.
        what: &'static str,
        /// What was read there.
        found: u64,
    },
    /// It was written by a build that writes another format.
    #[error("the state has format version {found}, this build reads {known}: run the build that wrote it")]
    Version {
        /// As read.
        found: u32,
        /// The newest that this build reads.
        known: u32,
    },
    /// It, or one thing in it, is larger than the machine takes.
    #[error(
        "the state has {bytes} bytes at byte {at} where at most {bytes_max} may be: take another snapshot"
    )]
    TooLarge {
        /// Where, counted from the first byte of the state.
        at: u64,
        /// How many it would be.
        bytes: u64,
        /// The machine's bound.
        bytes_max: u64,
    },
    /// All could be read, and is not what was written.
    #[error(
        "the state read has the digest {found:#018x}, the one written had {expected:#018x}: take another snapshot"
    )]
    Digest {
        /// As told by the snapshot.
        expected: u64,
        /// Of what was read.
        found: u64,
    },
}

/// A [`View`](super::StateMachine::View) that is the bytes to be written: right for a machine whose groups are so small that copying one
/// takes microseconds.
#[derive(Clone, Debug, Default)]
pub struct BytesView {
    bytes: Vec<u8>,
    written: usize,
}

impl BytesView {
    /// The state, as it is to be written.
    pub fn new(bytes: Vec<u8>) -> BytesView {
        BytesView { bytes, written: 0 }
    }

    /// All of the state.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Does what [`write_view`](super::StateMachine::write_view) is to do.
    pub fn write(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let rest = &self.bytes[self.written..];
        let part = &rest[..rest.len().min(bytes_max)];
        out.extend_from_slice(part);
        self.written += part.len();
        self.written == self.bytes.len()
    }
}

/// A [`Loading`](super::StateMachine::Loading) that collects the bytes up to a bound.
#[derive(Clone, Debug)]
pub struct BytesLoading {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl BytesLoading {
    /// Nothing yet, and never more than `bytes_max`.
    pub fn new(bytes_max: usize) -> BytesLoading {
        BytesLoading { bytes: Vec::new(), bytes_max }
    }

    /// Does what [`load_part`](super::StateMachine::load_part) is to do.
    pub fn push(&mut self, part: &[u8]) -> Result<(), BadSnapshot> {
        if part.len() > self.bytes_max - self.bytes.len() {
            return Err(BadSnapshot::TooLarge {
                at: self.bytes.len() as u64,
                bytes: (self.bytes.len() + part.len()) as u64,
                bytes_max: self.bytes_max as u64,
            });
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// What came so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All that came, if it is `N` bytes exactly.
    pub fn exactly<const N: usize>(&self) -> Result<[u8; N], BadSnapshot> {
        exactly(&self.bytes)
    }
}

/// `bytes`, if they are `N` exactly.
pub fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], BadSnapshot> {
    match bytes.split_first_chunk::<N>() {
        Some((all, [])) => Ok(*all),
        Some(_) => Err(BadSnapshot::Trailing { at: N as u64 }),
        None => Err(BadSnapshot::Truncated { bytes: bytes.len() as u64 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_bytes_is_cut_at_any_size() {
        let state: Vec<u8> = (0..100).collect();
        for bytes_max in [1, 7, 99, 100, 1000] {
            let (mut view, mut out) = (BytesView::new(state.clone()), vec![0xEE]);
            while !view.write(bytes_max, &mut out) {}
            assert_eq!(out[1..], state);
            assert!(view.write(bytes_max, &mut out), "it stays at its end");
            assert_eq!(out.len(), 101);
        }
        assert!(BytesView::default().write(1, &mut Vec::new()), "nothing is written at once");
    }

    #[test]
    fn a_loading_of_bytes_keeps_its_bound_and_says_what_is_wrong() {
        let mut loading = BytesLoading::new(8);
        loading.push(&[1, 2, 3]).unwrap();
        assert_eq!(loading.exactly::<4>(), Err(BadSnapshot::Truncated { bytes: 3 }));
        assert_eq!(loading.exactly::<2>(), Err(BadSnapshot::Trailing { at: 2 }));
        assert_eq!(loading.exactly(), Ok([1, 2, 3]));
        assert_eq!(loading.push(&[0; 6]), Err(BadSnapshot::TooLarge { at: 3, bytes: 9, bytes_max: 8 }));
        loading.push(&[0; 5]).unwrap();
        assert_eq!(loading.bytes().len(), 8);
    }
}
