//! How far a peer's log is, as its leader sees it (the states of etcd-io/raft).

use std::time::Duration;

use crate::inflights::Ring;
use crate::{LogIndex, Moment};

/// How the leader sends to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Where the logs part is not known: one append at a time until one matches.
    Probe,
    /// Appends are pipelined within the window, `next` runs ahead of `matched`.
    Replicate,
    /// The peer needs entries that the log no longer has: nothing is sent until a snapshot brought it to `next - 1`.
    Snapshot,
}

/// One peer. Four of them lie inline in a leader, so every byte counts.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Progress {
    /// The peer's log is durable and equal up to here. Invariant: `matched < next`.
    pub(crate) matched: LogIndex,
    /// Next index to send.
    pub(crate) next: LogIndex,
    /// Lower half of the last index of the oldest message in flight, while there are two or more. In `Snapshot`: when a word of
    /// the attempt came last, see [`coarse`].
    pub(crate) oldest_last: u32,
    /// Its bytes. In `Snapshot`: when the peer was asked last.
    pub(crate) oldest_bytes: u32,
    /// Bytes of all messages in flight.
    pub(crate) inflight_bytes: u32,
    /// Messages in flight. Only `Replicate` counts.
    pub(crate) inflight_count: u16,
    /// How to send.
    pub(crate) state: State,
    /// See the constants.
    flags: u8,
}

const _: () = assert!(size_of::<Progress>() == 32);

/// In `Probe`: a probe is out, wait for its answer.
const PROBE_SENT: u8 = 1;
/// The next entries are being read from disk.
const LOADING: u8 = 2;
/// The peer answered since the leader's deadline last passed: nothing has to be repeated.
const ANSWERED: u8 = 4;

/// About a millisecond.
const COARSE_SHIFT: u32 = 20;

/// A moment in about milliseconds, which wraps after fifty days.
fn coarse(at: Moment) -> u32 {
    (at.0 >> COARSE_SHIFT) as u32
}

impl Progress {
    /// A peer of which nothing is known; `next` is tried first.
    pub(crate) fn probe(next: LogIndex) -> Progress {
        Progress {
            matched: LogIndex(0),
            next,
            oldest_last: 0,
            oldest_bytes: 0,
            inflight_bytes: 0,
            inflight_count: 0,
            state: State::Probe,
            flags: 0,
        }
    }

    /// What was in flight is lost, or may be: ask where the peer is.
    pub(crate) fn become_probe(&mut self, ring: &mut Ring) {
        // From `Replicate`, `next` was a hope, `matched` is certain. Otherwise `next` is the best guess there is.
        let next = if self.state == State::Replicate { self.matched.next() } else { self.next };
        self.become_probe_at(ring, next);
    }

    /// Probe at `next`, or behind what matched.
    pub(crate) fn become_probe_at(&mut self, ring: &mut Ring, next: LogIndex) {
        self.state = State::Probe;
        self.flags &= !(PROBE_SENT | LOADING);
        self.next = next.max(self.matched.next());
        self.forget_inflights(ring);
    }

    /// The peer's log is known to be equal up to `matched`: send from there.
    pub(crate) fn become_replicate(&mut self, ring: &mut Ring) {
        self.state = State::Replicate;
        self.flags &= !(PROBE_SENT | LOADING);
        self.next = self.matched.next();
        self.forget_inflights(ring);
    }

    /// The peer waits for a snapshot that contains `base` at least.
    pub(crate) fn become_snapshot(&mut self, ring: &mut Ring, base: LogIndex, now: Moment) {
        self.state = State::Snapshot;
        self.flags &= !(PROBE_SENT | LOADING);
        self.next = base.next().max(self.matched.next());
        self.forget_inflights(ring);
        (self.oldest_last, self.oldest_bytes) = (coarse(now), coarse(now));
    }

    /// In `Snapshot`: a word of the attempt came.
    pub(crate) fn snapshot_moved(&mut self, now: Moment) {
        if self.state == State::Snapshot {
            self.oldest_last = coarse(now);
        }
    }

    /// In `Snapshot`: the peer is asked whether it needs it still.
    pub(crate) fn snapshot_asked(&mut self, now: Moment) {
        self.oldest_bytes = coarse(now);
    }

    /// In `Snapshot`: the attempt is as if nothing had been heard of it for so long.
    pub(crate) fn snapshot_refused(&mut self, now: Moment, silence: Duration) {
        if self.state == State::Snapshot {
            let silence = coarse(Moment(0).after(silence));
            (self.oldest_last, self.oldest_bytes) = (coarse(now).wrapping_sub(silence), coarse(now));
        }
    }

    /// In `Snapshot`: how long ago a word of the attempt came, and the peer was asked.
    pub(crate) fn snapshot_since(&self, now: Moment) -> (Duration, Duration) {
        let since =
            |then: u32| Duration::from_nanos(u64::from(coarse(now).wrapping_sub(then)) << COARSE_SHIFT);
        (since(self.oldest_last), since(self.oldest_bytes))
    }

    pub(crate) fn probe_is_sent(&self) -> bool {
        self.flags & PROBE_SENT != 0
    }

    pub(crate) fn set_probe_sent(&mut self, sent: bool) {
        self.set(PROBE_SENT, sent);
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.flags & LOADING != 0
    }

    pub(crate) fn set_loading(&mut self, loading: bool) {
        self.set(LOADING, loading);
    }

    pub(crate) fn set_answered(&mut self) {
        self.flags |= ANSWERED;
    }

    /// Whether the peer answered since this was asked last.
    pub(crate) fn take_answered(&mut self) -> bool {
        let answered = self.flags & ANSWERED != 0;
        self.flags &= !ANSWERED;
        answered
    }

    /// Whether the leader waits for an answer, and has to ask again if none comes.
    pub(crate) fn awaits_answer(&self) -> bool {
        match self.state {
            State::Probe => true,
            State::Replicate => self.inflight_count > 0,
            State::Snapshot => false,
        }
    }

    fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

impl State {
    /// For reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Probe => "probe",
            State::Replicate => "replicate",
            State::Snapshot => "snapshot",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    #[test]
    fn a_probe_is_sent_once_and_an_answer_opens_the_window() {
        let mut ring = Ring::new();
        let mut progress = Progress::probe(LogIndex(8));
        assert_eq!((progress.matched, progress.next), (LogIndex(0), LogIndex(8)));
        progress.set_probe_sent(true);
        assert!(progress.probe_is_sent() && progress.awaits_answer());
        progress.matched = LogIndex(5);
        progress.become_replicate(&mut ring);
        assert_eq!((progress.state, progress.next), (State::Replicate, LogIndex(6)));
        assert!(!progress.probe_is_sent() && !progress.awaits_answer(), "nothing is in flight");
        progress.sent(&mut ring, 3, 30);
        assert!(progress.awaits_answer() && progress.window_is_open(&Config::default()));
        assert_eq!(progress.next, LogIndex(9));
    }

    #[test]
    fn what_was_in_flight_is_forgotten_and_what_matched_is_not() {
        let mut ring = Ring::new();
        let mut progress = Progress::probe(LogIndex(1));
        progress.matched = LogIndex(4);
        progress.become_replicate(&mut ring);
        (0..5).for_each(|_| progress.sent(&mut ring, 1, 10));
        progress.set_loading(true);
        progress.become_probe(&mut ring);
        assert_eq!(
            (progress.state, progress.matched, progress.next),
            (State::Probe, LogIndex(4), LogIndex(5))
        );
        assert_eq!((progress.inflight_count, progress.inflight_bytes, ring.len()), (0, 0, 0));
        assert!(!progress.is_loading());
        progress.become_probe_at(&mut ring, LogIndex(2));
        assert_eq!(progress.next, LogIndex(5), "never before what matched");
        progress.become_probe_at(&mut ring, LogIndex(9));
        progress.become_probe(&mut ring);
        assert_eq!(progress.next, LogIndex(9), "a guess stays the best there is");
    }

    #[test]
    fn a_peer_that_answered_is_not_asked_again_until_the_next_deadline() {
        let mut progress = Progress::probe(LogIndex(1));
        assert!(!progress.take_answered());
        progress.set_answered();
        assert!(progress.take_answered());
        assert!(!progress.take_answered(), "once");
    }

    #[test]
    fn a_snapshot_is_waited_for_as_long_as_there_is_word_of_it() {
        let mut ring = Ring::new();
        let mut progress = Progress::probe(LogIndex(1));
        progress.become_snapshot(&mut ring, LogIndex(7), at(100));
        assert_eq!((progress.state, progress.next), (State::Snapshot, LogIndex(8)));
        assert!(!progress.awaits_answer());
        let near = |span: Duration, seconds: u64| {
            span.abs_diff(Duration::from_secs(seconds)) < Duration::from_millis(5)
        };
        progress.snapshot_moved(at(103));
        progress.snapshot_asked(at(104));
        let (word, asked) = progress.snapshot_since(at(106));
        assert!(near(word, 3) && near(asked, 2), "{word:?} {asked:?}");
        progress.snapshot_refused(at(107), Duration::from_secs(10));
        let (word, asked) = progress.snapshot_since(at(107));
        assert!(near(word, 10) && near(asked, 0), "{word:?} {asked:?}");
        progress.become_probe(&mut ring);
        let before = progress.snapshot_since(at(200));
        progress.snapshot_moved(at(200));
        progress.snapshot_refused(at(200), Duration::from_secs(10));
        assert_eq!(progress.state, State::Probe);
        assert_eq!(progress.snapshot_since(at(200)), before, "late words say nothing");
    }
}
