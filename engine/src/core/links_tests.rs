use super::*;
use crate::wire::{FrameView, VERSION_MAX};

const MS: u64 = 1_000_000;

/// Two ends of one connection; frames are handed over by hand.
struct Pair {
    ends: [Link; 2],
    now: u64,
}

impl Pair {
    fn new() -> Pair {
        let limits = Limits {
            timeout: Duration::from_millis(1000),
            outbox_bytes_max: 10_000,
            inflight_bytes_max: 100_000,
            promise: Duration::from_millis(1000),
        };
        let mut ends = [1, 2].map(|node| Link::new(NodeId(node), CoreId(0), 100, limits));
        ends.iter_mut().for_each(|end| end.begin(1));
        Pair { ends, now: 5_000 * MS }
    }

    /// One end sends a pulse, and it arrives `delay` ms later.
    fn pulse(&mut self, from: usize, healthy: bool, delay: u64) {
        self.ends[from].pulse(Moment(self.now), News { healthy, ..News::default() });
        self.hand_over(from, delay);
    }

    fn hand_over(&mut self, from: usize, delay: u64) {
        let mut bytes = Vec::new();
        self.ends[from].finish(VERSION_MAX, &mut bytes);
        self.now += delay * MS;
        let pulse = FrameView::parse(&bytes, VERSION_MAX).expect("sound").pulse();
        let to = &mut self.ends[1 - from];
        to.on_frame(bytes.len());
        if let Some(pulse) = pulse {
            to.on_pulse(Moment(self.now), pulse);
            to.promise(Moment(self.now));
        }
    }

    fn judge(&self, end: usize) -> bool {
        self.ends[end].judge(Moment(self.now))
    }
}

#[test]
fn contact_needs_an_echo_and_not_only_a_voice() {
    let mut pair = Pair::new();
    pair.pulse(0, true, 1);
    assert!(!pair.judge(1), "it is heard, but has not said that it hears");
    pair.pulse(1, true, 1);
    assert!(pair.judge(0), "it echoed the first pulse");
    assert!(!pair.judge(1));
    pair.pulse(0, true, 1);
    assert!(pair.judge(1));
}

#[test]
fn a_peer_that_falls_silent_or_deaf_or_ill_is_out_of_contact() {
    let mut silent = Pair::new();
    for _ in 0..3 {
        silent.pulse(0, true, 1);
        silent.pulse(1, true, 1);
    }
    assert!(silent.judge(0));
    silent.now += 1_001 * MS;
    assert!(!silent.judge(0));

    // The peer's pulses arrive, ours do not reach it: what it echoes grows old.
    let mut deaf = Pair::new();
    deaf.pulse(0, true, 1);
    for _ in 0..9 {
        deaf.pulse(1, true, 100);
        assert!(deaf.judge(0));
        deaf.ends[0].pulse(Moment(deaf.now), News { healthy: true, ..News::default() });
        deaf.ends[0].builder.clear();
    }
    deaf.pulse(1, true, 100);
    assert!(!deaf.judge(0));

    let mut ill = Pair::new();
    ill.pulse(0, true, 1);
    ill.pulse(1, false, 1);
    assert!(!ill.judge(0));
    ill.pulse(1, true, 1);
    assert!(ill.judge(0));
}

/// Pulses are remembered sparsely, so that a long way with many pulses on it stays in contact.
#[test]
fn hundreds_of_pulses_on_the_way_do_not_end_contact() {
    let mut pair = Pair::new();
    let mut on_the_way = std::collections::VecDeque::new();
    for n in 0..2_000_u64 {
        pair.now += MS;
        pair.pulse(0, true, 0);
        on_the_way.push_back(pair.ends[1].seen);
        if on_the_way.len() > 900 {
            let echo = on_the_way.pop_front().expect("just filled");
            let pulse = Pulse {
                seq: n,
                echo,
                healthy: true,
                full: false,
                drained: false,
                support_epoch: 1,
                promise_ms: 0,
                durable_end: 0,
            };
            pair.ends[0].on_pulse(Moment(pair.now), pulse);
            assert!(pair.judge(0), "an echo of 900 ms ago is recent: pulse {n}");
        }
    }
}

#[test]
fn a_full_way_holds_back_and_tells_who_waits_when_it_has_drained() {
    let mut pair = Pair::new();
    let link = &mut pair.ends[0];
    assert!(!link.is_full());
    let heartbeat = logdrive_shard::Heartbeat {
        term: logdrive_shard::Term(1),
        commit: logdrive_shard::LogIndex(0),
        round: 0,
    };
    while !link.is_full() {
        link.builder.heartbeat(crate::wire::Address { slot: 0, history: 0 }, &heartbeat);
    }
    link.wait(7);
    link.wait(9);
    link.wait(7);
    assert!(!link.has_drained());
    pair.hand_over(0, 1);
    assert!(pair.ends[0].has_drained());
    let mut slots = Vec::new();
    pair.ends[0].take_waiting(&mut slots);
    assert_eq!(slots, [7, 9]);
    // Sent and not known to have arrived: after ten times as much the window is full, until a pulse is echoed.
    while !pair.ends[0].is_window_full() {
        while !pair.ends[0].is_full() {
            pair.ends[0].builder.heartbeat(crate::wire::Address { slot: 0, history: 0 }, &heartbeat);
        }
        if pair.ends[0].wants_pulse() {
            let now = Moment(pair.now);
            pair.ends[0].pulse(now, News { healthy: true, ..News::default() });
        }
        pair.hand_over(0, 0);
    }
    pair.ends[0].wait(3);
    assert!(!pair.ends[0].has_drained());
    pair.pulse(1, true, 1);
    assert!(pair.ends[0].has_drained());
}

#[test]
fn nothing_of_an_old_connection_counts_on_the_next() {
    let mut pair = Pair::new();
    pair.pulse(0, true, 1);
    pair.pulse(1, true, 1);
    pair.ends[0].share(5, 6);
    pair.ends[0].wait(5);
    assert!(pair.judge(0) && pair.ends[0].shared.has(5));
    let generation = pair.ends[0].generation;
    pair.ends[0].end();
    assert!(!pair.judge(0) && !pair.ends[0].has_room());
    pair.ends[0].begin(2);
    assert!(!pair.judge(0) && !pair.ends[0].shared.has(5) && !pair.ends[0].has_drained());
    assert_ne!(pair.ends[0].generation, generation);
    assert!(pair.ends[0].builder.is_empty());
}
