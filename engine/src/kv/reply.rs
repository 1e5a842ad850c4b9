//! How replies are encoded: a tag byte, then what the tag says. They are not stored, so that they have no version: both sides are
//! the same program.

use super::Malformed;

const OK: u8 = 0;
const NIL: u8 = 1;
const INTEGER: u8 = 2;
const VALUE: u8 = 3;
const VALUES: u8 = 4;
const FAILED: u8 = 5;

/// Length that says "no value".
const ABSENT: u32 = u32::MAX;

/// Bytes of all values of one reply. A request is short, whatever it asks for.
pub(super) const VALUES_BYTES_MAX: usize = 64 << 20;

/// Why a command or query had no effect. The text is what Redis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// INCRBY of something else.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// INCRBY beyond 64 bits.
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    /// The payload is not a command or query that this build knows. Nothing was changed.
    #[error("ERR malformed command")]
    Malformed,
    /// The values asked for are too many bytes for one reply.
    #[error(
        "ERR the values are over the limit of {} bytes for one reply; ask for fewer keys",
        VALUES_BYTES_MAX
    )]
    ReplyTooLarge,
}

/// What the machine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Done.
    Ok,
    /// No value, or the condition did not hold.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Value(&'a [u8]),
    /// One value or nothing for each key asked for.
    Values(Values<'a>),
    /// Nothing was changed.
    Failed(Failure),
}

impl<'a> Reply<'a> {
    /// Reads an encoded reply.
    pub fn decode(bytes: &'a [u8]) -> Result<Reply<'a>, Malformed> {
        let (tag, rest) = bytes.split_first().ok_or(Malformed)?;
        match (*tag, rest) {
            (OK, []) => Ok(Reply::Ok),
            (NIL, []) => Ok(Reply::Nil),
            (INTEGER, _) => Ok(Reply::Integer(i64::from_le_bytes(rest.try_into().map_err(|_| Malformed)?))),
            (VALUE, value) => Ok(Reply::Value(value)),
            (VALUES, rest) => {
                let (count, values) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
                let left = u32::from_le_bytes(*count);
                let values = Values { left, bytes: values };
                let mut check = values.clone();
                let complete = check.by_ref().count() as u64 == u64::from(left) && check.bytes.is_empty();
                if complete { Ok(Reply::Values(values)) } else { Err(Malformed) }
            }
            (FAILED, [1]) => Ok(Reply::Failed(Failure::NotAnInteger)),
            (FAILED, [2]) => Ok(Reply::Failed(Failure::Overflow)),
            (FAILED, [3]) => Ok(Reply::Failed(Failure::Malformed)),
            (FAILED, [4]) => Ok(Reply::Failed(Failure::ReplyTooLarge)),
            _ => Err(Malformed),
        }
    }

    /// Appends the encoded reply to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Ok => out.push(OK),
            Reply::Nil => out.push(NIL),
            Reply::Integer(number) => {
                out.push(INTEGER);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Reply::Value(value) => {
                out.push(VALUE);
                out.extend_from_slice(value);
            }
            Reply::Values(values) => put_values(out, values.clone()),
            Reply::Failed(failure) => out.extend_from_slice(&[
                FAILED,
                match failure {
                    Failure::NotAnInteger => 1,
                    Failure::Overflow => 2,
                    Failure::Malformed => 3,
                    Failure::ReplyTooLarge => 4,
                },
            ]),
        }
    }
}

/// Encodes a [`Reply::Values`] from where the values are, or a failure if they are too many bytes.
pub(super) fn put_values<'v>(out: &mut Vec<u8>, values: impl Iterator<Item = Option<&'v [u8]>>) {
    let start = out.len();
    out.push(VALUES);
    let count_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count = 0_u32;
    for value in values {
        count += 1;
        out.extend_from_slice(&value.map_or(ABSENT, |value| value.len() as u32).to_le_bytes());
        let value = value.unwrap_or_default();
        if out.len() - start + value.len() > VALUES_BYTES_MAX {
            out.truncate(start);
            return Reply::Failed(Failure::ReplyTooLarge).encode(out);
        }
        out.extend_from_slice(value);
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
}

/// The values of a [`Reply::Values`], in the order of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl Values<'_> {
    /// How many are left.
    pub fn left(&self) -> usize {
        self.left as usize
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (len, rest) = self.bytes.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        let (value, rest) = rest.split_at_checked(if len == ABSENT { 0 } else { len as usize })?;
        self.bytes = rest;
        self.left -= 1;
        Some((len != ABSENT).then_some(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn check(reply: &Reply<'_>) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(Reply::decode(&bytes).as_ref(), Ok(reply));
    }

    proptest! {
        #[test]
        fn replies_are_read_back(number in any::<i64>(), values in vec(prop::option::of(vec(any::<u8>(), 0..9)), 0..6)) {
            check(&Reply::Integer(number));
            let mut bytes = Vec::new();
            put_values(&mut bytes, values.iter().map(|value| value.as_deref()));
            let reply = Reply::decode(&bytes);
            match &reply {
                Ok(Reply::Values(read)) => {
                    prop_assert_eq!(read.left(), values.len());
                    prop_assert!(read.clone().eq(values.iter().map(|value| value.as_deref())));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            check(&reply.unwrap());
            for value in values.iter().flatten() {
                check(&Reply::Value(value));
            }
        }

        #[test]
        fn arbitrary_bytes_are_errors_or_replies(mut bytes in vec(any::<u8>(), 0..40), tag in 0..8_u8) {
            let _ = Reply::decode(&bytes);
            bytes.insert(0, tag);
            let _ = Reply::decode(&bytes);
        }
    }

    #[test]
    fn values_are_bounded_in_bytes() {
        let value = vec![7; 1 << 20];
        let ask = |count: usize| {
            let mut bytes = vec![1, 2, 3];
            put_values(&mut bytes, std::iter::repeat_n(Some(&value[..]), count));
            assert_eq!(bytes[..3], [1, 2, 3], "what was there before stays");
            match Reply::decode(&bytes[3..]) {
                Ok(Reply::Values(values)) => values.left(),
                Ok(Reply::Failed(Failure::ReplyTooLarge)) => 0,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((ask(63), ask(64), ask(65_536)), (63, 0, 0));
    }

    #[test]
    fn plain_replies_are_read_back() {
        for reply in [
            Reply::Ok,
            Reply::Nil,
            Reply::Failed(Failure::NotAnInteger),
            Reply::Failed(Failure::Overflow),
            Reply::Failed(Failure::Malformed),
            Reply::Failed(Failure::ReplyTooLarge),
        ] {
            check(&reply);
        }
        assert_eq!(Reply::decode(&[]), Err(Malformed));
    }
}
