//! What decides how things end on a simulated disk: faults that were injected; else chance, as far as the disk is not calm. Each
//! decision can be recorded as the fault that brings it about on a calm disk.

use super::fault::{Fault, FaultKind, OpKind};

/// Decisions that are recorded at most: a bound of memory, far above what can be looked at.
const RECORDED_MAX: usize = 1 << 18;

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Faults, chance and the record of both.
#[derive(Debug)]
pub(super) struct Fate {
    random: Random,
    /// Nothing happens by chance.
    pub(super) calm: bool,
    pub(super) faults: Vec<Fault>,
    recorded: Option<Vec<Fault>>,
    /// Injected faults that operations met, as far as nobody has taken them.
    struck: Vec<(OpKind, FaultKind)>,
    /// Operations and decisions so far, by kind.
    counts: [u32; OpKind::COUNT],
}

impl Fate {
    pub(super) fn new(seed: u64) -> Fate {
        let (random, counts) = (Random::new(seed), [0; OpKind::COUNT]);
        Fate { random, calm: false, faults: Vec::new(), recorded: None, struck: Vec::new(), counts }
    }

    pub(super) fn record(&mut self) {
        self.recorded.get_or_insert_default();
        self.counts = [0; OpKind::COUNT];
    }

    pub(super) fn take_struck(&mut self) -> Vec<(OpKind, FaultKind)> {
        std::mem::take(&mut self.struck)
    }

    pub(super) fn recorded(&self) -> Vec<Fault> {
        self.recorded.clone().unwrap_or_default()
    }

    /// What goes wrong with an operation, if something was injected that does.
    pub(super) fn of(&mut self, on: OpKind, name: &str, durable: bool) -> Option<FaultKind> {
        self.decide(on, name, durable, |_| None)
    }

    /// What happens at a moment of a kind: what was injected, else what is drawn.
    pub(super) fn decide(
        &mut self,
        on: OpKind,
        name: &str,
        durable: bool,
        draw: impl FnOnce(&mut Random) -> Option<FaultKind>,
    ) -> Option<FaultKind> {
        let mut what = None;
        for fault in &mut self.faults {
            if fault.hits(on, name, durable, what.is_some()) {
                what = Some(fault.what);
                if self.struck.len() < RECORDED_MAX {
                    self.struck.push((on, fault.what));
                }
            }
        }
        if what.is_none() && !self.calm {
            what = draw(&mut self.random);
        }
        let count = &mut self.counts[on as usize];
        let number = *count;
        *count = count.saturating_add(1);
        if let (Some(what), Some(recorded)) = (what, &mut self.recorded)
            && recorded.len() < RECORDED_MAX
        {
            recorded.push(Fault::at(on, number, what));
        }
        what
    }
}
