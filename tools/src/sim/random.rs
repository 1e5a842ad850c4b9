//! Streams of random numbers: one per purpose, so that leaving out a fault, a client or a node moves the others as little as can be.

use logdrive_shard::Random;

/// What random numbers are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Settings and timing of the run.
    Shape = 1,
    /// Which groups live where.
    Placement,
    /// The list of faults.
    Faults,
    /// What a fault decides when it strikes.
    Strike,
    /// What the network does.
    Network,
    /// When cores turn, and who goes first.
    Schedule,
    /// What clients do.
    Clients,
    /// Seeds of cores, disks and identities.
    Lives,
    /// Who stays broken when the others must heal.
    Heal,
    /// Names of boots.
    Boots,
    /// Where production code does its worst.
    Buggify,
    /// Which core a client is connected to, and when lanes between cores are served.
    Mesh,
}

/// The stream of a purpose (and of a thing, where each has its own).
pub fn stream(seed: u64, purpose: Purpose, thing: u64) -> Random {
    let mut mixer = Random::new(seed ^ (purpose as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let first = mixer.next_u64();
    Random::new(first ^ thing.wrapping_mul(0xD1B5_4A32_D192_ED03))
}

/// A number in `range`, its end excluded; the start if it is empty.
pub fn within(random: &mut Random, range: std::ops::Range<u64>) -> u64 {
    range.start + random.below(range.end.saturating_sub(range.start))
}

/// True once in `one_in`.
pub fn chance(random: &mut Random, one_in: u64) -> bool {
    random.below(one_in) == 0
}
