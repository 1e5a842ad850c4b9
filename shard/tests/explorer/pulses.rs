//! Pulses between cores, for leases: one that is sent is heard at once, its answer arrives when the model says so. Clocks agree.

use std::time::Duration;

use logdrive_shard::{Moment, Support};

/// How long a promise lasts, in models with clocks.
pub const BASE: Duration = Duration::from_millis(2);

/// What a member's core knows of pulses. Gone with a crash.
#[derive(Clone, Debug, Default, Hash)]
pub struct Pulses {
    /// By peer: when its youngest pulse was heard.
    heard: Vec<(usize, Moment)>,
    /// By peer: how often support was withdrawn, in this life of the core.
    withdrawn: Vec<usize>,
    /// By peer: the youngest answer, as epoch and time of the pulse.
    answers: Vec<(usize, u64, Moment)>,
    /// Which life of the core it is, from 1. 0: nobody has a clock here, nothing is kept.
    pub life: u64,
}

impl Pulses {
    /// Of a core's next life.
    pub fn next(&self) -> Pulses {
        Pulses { life: self.life + u64::from(self.life > 0), ..Pulses::default() }
    }

    /// A pulse of `peer` is heard; the epoch that the answer bears.
    pub fn hear(&mut self, peer: usize, now: Moment) -> u64 {
        self.heard.retain(|heard| heard.0 != peer);
        self.heard.push((peer, now));
        self.heard.sort_unstable();
        let withdrawn = self.withdrawn.iter().filter(|&&from| from == peer).count() as u64;
        (self.life << 8) | (withdrawn + 1)
    }

    /// The answer to a pulse that was sent at `sent_at`.
    pub fn on_answer(&mut self, peer: usize, epoch: u64, sent_at: Moment) {
        self.answers.retain(|answer| answer.0 != peer);
        self.answers.push((peer, epoch, sent_at));
        self.answers.sort_unstable();
    }

    /// The connection to `peer` is a new one.
    pub fn forget(&mut self, peer: usize) {
        self.answers.retain(|answer| answer.0 != peer);
        self.withdraw(peer);
    }

    pub fn support(&self, peer: usize) -> Option<Support> {
        let answer = self.answers.iter().find(|answer| answer.0 == peer)?;
        Some(Support { epoch: answer.1, sent_at: answer.2, promised: BASE })
    }

    pub fn promised(&self, peer: usize) -> Moment {
        let heard = self.heard.iter().find(|heard| heard.0 == peer);
        heard.map_or(Moment(0), |heard| heard.1.after(BASE))
    }

    pub fn withdraw(&mut self, peer: usize) {
        if self.life == 0 {
            return;
        }
        self.withdrawn.push(peer);
        self.withdrawn.sort_unstable();
    }
}
