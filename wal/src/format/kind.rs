//! The kinds of records.

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An entry of a stream.
    Entry,
    /// The state of a stream.
    State,
    /// Entries of the stream up to `index` are not needed any more.
    Compacted,
    /// Segments before incarnation `index` are not needed any more. Of the log itself; `stream` is 0. The payload names the
    /// streams that were rewritten and have old records behind them, see [`super::encode_moves`].
    Trim,
    /// Entry `index` of a stream, whose own record is damaged. It replaces nothing behind it.
    Repair,
    /// The state of a stream once more, in another segment.
    StateCopy,
    /// A stream may have lost bytes and nothing tells which; see [`crate::wal::damage`].
    Verdict,
    /// The owner has dealt with what an earlier verdict said of a stream.
    Healed,
    /// A damaged place was judged: verdicts for its streams were written before. Of the log itself.
    Judged,
    /// What an earlier batch did, the last one with records: it begins `index` bytes before this record's batch (0: unknown).
    /// Of the log itself; the first record of each batch.
    Directory,
    /// Entries `index ..= tag` of the stream or more, all that it has, are written again from here on.
    RewriteBegin,
    /// One of them.
    Copy,
    /// That were all: `index ..= tag`. From here on the copies count, and what the stream had before does not.
    RewriteEnd,
}

impl Kind {
    pub(super) fn code(self) -> u32 {
        match self {
            Kind::Entry => 1,
            Kind::State => 2,
            Kind::Compacted => 3,
            Kind::Trim => 4,
            Kind::Repair => 5,
            Kind::RewriteBegin => 6,
            Kind::Copy => 7,
            Kind::RewriteEnd => 8,
            Kind::StateCopy => 10,
            Kind::Verdict => 11,
            Kind::Healed => 12,
            Kind::Judged => 13,
            Kind::Directory => 14,
        }
    }
    pub(super) fn from_code(code: u32) -> Option<Kind> {
        Some(match code {
            1 => Kind::Entry,
            2 => Kind::State,
            3 => Kind::Compacted,
            4 => Kind::Trim,
            5 => Kind::Repair,
            6 => Kind::RewriteBegin,
            7 => Kind::Copy,
            8 => Kind::RewriteEnd,
            10 => Kind::StateCopy,
            11 => Kind::Verdict,
            12 => Kind::Healed,
            13 => Kind::Judged,
            14 => Kind::Directory,
            _ => return None,
        })
    }
}
