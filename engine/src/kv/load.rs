//! A group that is being built from a snapshot.

use super::table::{Table, order_of};
use super::view::{HEADER_BYTES, MAGIC, RECORD_HEADER_BYTES, TRAILER_BYTES, VERSION};
use crate::api::BadSnapshot;

/// The longest key with its value: no payload of the log is longer.
const RECORD_BYTES_MAX: u64 = 1 << 28;

/// What is read next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Header,
    /// So many more.
    Records(u64),
    /// Nothing: the trailer was read.
    End,
}

/// A state that is being loaded into a [`KvMachine`](super::KvMachine).
///
/// It takes the memory of the keys that came, and of at most one record that has not come as a whole: a length or a number of keys
/// that the bytes do not keep costs two mebibytes.
pub struct KvLoading {
    expect: Expect,
    table: Table,
    /// Bytes read as whole items.
    at: u64,
    /// The beginning of an item.
    pending: Vec<u8>,
    digest: u64,
    /// Order and key of the last record.
    last: Option<(u32, Vec<u8>)>,
}

impl KvLoading {
    pub(super) fn new() -> KvLoading {
        let table = Table::default();
        KvLoading { expect: Expect::Header, table, at: 0, pending: Vec::new(), digest: 0, last: None }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), BadSnapshot> {
        if self.pending.is_empty() {
            let used = self.read(bytes)?;
            self.pending.extend_from_slice(&bytes[used..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(bytes);
            let used = self.read(&pending)?;
            pending.drain(..used);
            self.pending = pending;
        }
        Ok(())
    }

    /// The table, if it is complete.
    pub(super) fn finish(self) -> Result<Table, BadSnapshot> {
        match self.expect {
            Expect::End => Ok(self.table),
            _ => Err(BadSnapshot::Truncated { bytes: self.at + self.pending.len() as u64 }),
        }
    }

    #[cfg(test)]
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Reads whole items; returns how many bytes they took.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, BadSnapshot> {
        let mut rest = bytes;
        while let Some(after) = self.read_item(rest)? {
            self.at += (rest.len() - after.len()) as u64;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Reads one item and returns what follows it; `None` if it has not come as a whole.
    fn read_item<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, BadSnapshot> {
        match self.expect {
            Expect::Header => match bytes.split_first_chunk() {
                Some((header, rest)) => self.read_header(header).map(|()| Some(rest)),
                None => Ok(None),
            },
            Expect::Records(0) => match bytes.split_first_chunk() {
                Some((trailer, rest)) => self.read_trailer(trailer).map(|()| Some(rest)),
                None => Ok(None),
            },
            Expect::Records(left) => self.read_record(bytes, left),
            Expect::End if bytes.is_empty() => Ok(None),
            Expect::End => Err(BadSnapshot::Trailing { at: self.at }),
        }
    }

    fn read_header(&mut self, header: &[u8; HEADER_BYTES]) -> Result<(), BadSnapshot> {
        let (magic, version) = (u32_at(header, 0), u32_at(header, 4));
        if magic != u32::from_le_bytes(MAGIC) {
            return Err(BadSnapshot::Malformed { at: 0, what: "the wrong magic", found: u64::from(magic) });
        }
        if version != VERSION {
            return Err(BadSnapshot::Version { found: version, known: VERSION });
        }
        let keys = u64::from(u32_at(header, 12)) << 32 | u64::from(u32_at(header, 8));
        self.table = Table::with_keys(keys);
        self.expect = Expect::Records(keys);
        Ok(())
    }

    fn read_record<'a>(&mut self, bytes: &'a [u8], left: u64) -> Result<Option<&'a [u8]>, BadSnapshot> {
        let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
        let (key_len, value_len) = (u64::from(u32_at(header, 0)), u64::from(u32_at(header, 4)));
        if key_len + value_len > RECORD_BYTES_MAX {
            return Err(BadSnapshot::TooLarge {
                at: self.at,
                bytes: key_len + value_len,
                bytes_max: RECORD_BYTES_MAX,
            });
        }
        let Some((record, rest)) = rest.split_at_checked((key_len + value_len) as usize) else {
            return Ok(None);
        };
        let (key, value) = record.split_at(key_len as usize);
        self.check_order(key)?;
        self.digest = self.digest.wrapping_add(self.table.insert_new(key, value));
        self.expect = Expect::Records(left - 1);
        Ok(Some(rest))
    }

    /// Keys come in strictly ascending order, so that none comes twice and parts that changed places are noticed.
    fn check_order(&mut self, key: &[u8]) -> Result<(), BadSnapshot> {
        let order = order_of(key);
        match &mut self.last {
            Some((last, last_key)) => {
                if (order, key) <= (*last, &last_key[..]) {
                    let what = "a key that should have come before, of the order";
                    return Err(BadSnapshot::Malformed { at: self.at, what, found: u64::from(order) });
                }
                *last = order;
                last_key.clear();
                last_key.extend_from_slice(key);
            }
            None => self.last = Some((order, key.to_vec())),
        }
        Ok(())
    }

    fn read_trailer(&mut self, trailer: &[u8; TRAILER_BYTES]) -> Result<(), BadSnapshot> {
        let expected = u64::from_le_bytes(*trailer);
        if self.digest != expected {
            return Err(BadSnapshot::Digest { expected, found: self.digest });
        }
        self.expect = Expect::End;
        Ok(())
    }
}

/// A field of a header that has it.
fn u32_at(header: &[u8], at: usize) -> u32 {
    let field = header[at..].first_chunk().expect("headers are arrays and longer than their fields");
    u32::from_le_bytes(*field)
}
