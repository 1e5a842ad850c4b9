//! Records that a view has yet to write and the table has no more.

use super::table::Record;

/// Keys of a frozen group per bin, about.
const BIN_KEYS: u64 = 64;

/// Bins of a view: 384 KiB of headers.
const BINS_MAX: u64 = 1 << 14;

/// Records by their keys' order, in bins that are equal ranges of it: saving one is a push, and no key is compared before the bin
/// is written.
#[derive(Default)]
pub(super) struct Saved {
    /// Made when the first record is saved: most views of small groups are written before anything changes.
    bins: Vec<Vec<Record>>,
    /// There are `1 << bits` bins.
    bits: u32,
    /// Bins below have been dropped.
    first: usize,
    len: usize,
    bytes: u64,
}

impl Saved {
    /// For a group of so many keys.
    pub(super) fn new(keys: u64) -> Saved {
        let bins = (keys / BIN_KEYS).clamp(1, BINS_MAX).next_power_of_two();
        Saved { bits: bins.trailing_zeros(), ..Saved::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Of the records and their places.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, record: Record) {
        if self.bins.is_empty() {
            self.bins.resize_with(1 << self.bits, Vec::new);
        }
        self.len += 1;
        self.bytes += cost(&record);
        let bin = self.bin(record.order().into());
        self.bins[bin].push(record);
    }

    /// The records from one order up to before another, in no order.
    pub(super) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &Record> {
        let bins = if self.len == 0 { &[][..] } else { &self.bins[self.bin(start)..=self.bin(end - 1)] };
        bins.iter().flatten().filter(move |record| (start..end).contains(&u64::from(record.order())))
    }

    /// Drops what is below an order.
    pub(super) fn drop_below(&mut self, order: u64) {
        if self.len == 0 {
            return;
        }
        let bin = self.bin(order);
        while self.first < bin {
            for record in std::mem::take(&mut self.bins[self.first]) {
                self.len -= 1;
                self.bytes -= cost(&record);
            }
            self.first += 1;
        }
        let Some(begun) = self.bins.get_mut(bin) else { return };
        for record in begun.extract_if(.., |record| u64::from(record.order()) < order) {
            self.len -= 1;
            self.bytes -= cost(&record);
        }
    }

    /// Drops some bins, of `records` or a few more; returns how many records these were.
    pub(super) fn drop_some(&mut self, records: usize) -> usize {
        let mut dropped = 0;
        while dropped < records && self.len > 0 {
            let Some(bin) = self.bins.pop() else { break };
            self.len -= bin.len();
            dropped += bin.len();
        }
        dropped
    }

    fn bin(&self, order: u64) -> usize {
        (order >> (32 - self.bits)) as usize
    }
}

fn cost(record: &Record) -> u64 {
    (record.len() + size_of::<Record>()) as u64
}
