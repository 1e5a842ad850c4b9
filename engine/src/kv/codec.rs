//! How commands and queries are encoded.
//!
//! ```text
//! byte 0   version, 1
//! byte 1   operation
//! byte 2   flags of the operation
//! then     strings: length (u32, little-endian) and bytes; they fill the rest exactly
//! ```
//!
//! A list of keys has no count: it is the strings up to the end. Encoded commands live in the log for as long as it is kept,
//! so that operations and flags are never reused for something else.

const VERSION: u8 = 1;

const SET: u8 = 1;
const DELETE: u8 = 2;
const INCREMENT: u8 = 3;
const SET_MANY: u8 = 4;
const GET: u8 = 32;
const GET_MANY: u8 = 33;
const EXISTS: u8 = 34;
const COUNT: u8 = 35;
const DIGEST: u8 = 36;

const FLAG_IF_ABSENT: u8 = 1;
const FLAG_IF_PRESENT: u8 = 2;
const FLAG_GET: u8 = 4;

/// The payload is not a command or query of a version this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command or query of a known version")]
pub struct Malformed;

/// When a SET takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// NX: only if the key does not exist.
    IfAbsent,
    /// XX: only if the key exists.
    IfPresent,
}

/// A change of one group's state, with the semantics of the Redis command named. All keys belong to the same group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `SET key value [NX | XX] [GET]`. Replies `Ok`, or `Nil` if the condition did not hold; with `get`: the value before, or
    /// `Nil`, whether or not it was set.
    Set {
        /// Key.
        key: &'a [u8],
        /// Value.
        value: &'a [u8],
        /// NX, XX or neither.
        condition: Condition,
        /// Reply with the value before.
        get: bool,
    },
    /// DEL key... Replies with the number of keys removed.
    Delete {
        /// Keys.
        keys: &'a [&'a [u8]],
    },
    /// INCRBY key by. Replies with the new value; a value that is not an integer of 64 bits, or a result that would not be
    /// one, is a failure and changes nothing.
    Increment {
        /// Key.
        key: &'a [u8],
        /// By how much; may be negative.
        by: i64,
    },
    /// MSET key value... Replies `Ok`. A key that is named twice gets the last value.
    SetMany {
        /// Keys and values.
        pairs: &'a [(&'a [u8], &'a [u8])],
    },
}

impl Command<'_> {
    /// Appends the encoded command to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Command::Set { key, value, condition, get } => {
                let condition = match condition {
                    Condition::Always => 0,
                    Condition::IfAbsent => FLAG_IF_ABSENT,
                    Condition::IfPresent => FLAG_IF_PRESENT,
                };
                out.reserve(3 + 8 + key.len() + value.len());
                out.extend_from_slice(&[VERSION, SET, condition | if get { FLAG_GET } else { 0 }]);
                put_string(out, key);
                put_string(out, value);
            }
            Command::Delete { keys } => put_list(out, DELETE, keys),
            Command::Increment { key, by } => {
                out.extend_from_slice(&[VERSION, INCREMENT, 0]);
                put_string(out, key);
                put_string(out, &by.to_le_bytes());
            }
            Command::SetMany { pairs } => {
                out.extend_from_slice(&[VERSION, SET_MANY, 0]);
                for (key, value) in pairs {
                    put_string(out, key);
                    put_string(out, value);
                }
            }
        }
    }
}

/// A question about one group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// GET key. Replies `Value` or `Nil`.
    Get {
        /// Key.
        key: &'a [u8],
    },
    /// MGET key... Replies `Values`, one per key.
    GetMany {
        /// Keys.
        keys: &'a [&'a [u8]],
    },
    /// EXISTS key... Replies with how many exist; a key that is named twice counts twice.
    Exists {
        /// Keys.
        keys: &'a [&'a [u8]],
    },
    /// DBSIZE, of this group. Replies with the number of keys.
    Count,
    /// The digest of the whole group (see [`crate::api::StateMachine::digest`]), as the integer with the same bits.
    Digest,
}

impl Query<'_> {
    /// Appends the encoded query to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Query::Get { key } => {
                out.extend_from_slice(&[VERSION, GET, 0]);
                put_string(out, key);
            }
            Query::GetMany { keys } => put_list(out, GET_MANY, keys),
            Query::Exists { keys } => put_list(out, EXISTS, keys),
            Query::Count => out.extend_from_slice(&[VERSION, COUNT, 0]),
            Query::Digest => out.extend_from_slice(&[VERSION, DIGEST, 0]),
        }
    }
}

/// A command as it was encoded, borrowed from the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandView<'a> {
    /// See [`Command::Set`].
    Set {
        /// Key.
        key: &'a [u8],
        /// Value.
        value: &'a [u8],
        /// NX, XX or neither.
        condition: Condition,
        /// Reply with the value before.
        get: bool,
    },
    /// See [`Command::Delete`].
    Delete {
        /// Keys.
        keys: Strings<'a>,
    },
    /// See [`Command::Increment`].
    Increment {
        /// Key.
        key: &'a [u8],
        /// By how much.
        by: i64,
    },
    /// See [`Command::SetMany`].
    SetMany {
        /// Keys and values.
        pairs: Pairs<'a>,
    },
}

impl<'a> CommandView<'a> {
    /// Reads an encoded command. Any bytes give a command or an error, the same on every node.
    pub fn decode(payload: &'a [u8]) -> Result<CommandView<'a>, Malformed> {
        let (operation, flags, mut strings) = split(payload)?;
        if operation != SET && flags != 0 {
            return Err(Malformed);
        }
        match operation {
            SET => {
                let (key, value) = two(&mut strings)?;
                let condition = match flags & !FLAG_GET {
                    0 => Condition::Always,
                    FLAG_IF_ABSENT => Condition::IfAbsent,
                    FLAG_IF_PRESENT => Condition::IfPresent,
                    _ => return Err(Malformed),
                };
                Ok(CommandView::Set { key, value, condition, get: flags & FLAG_GET != 0 })
            }
            DELETE => Ok(CommandView::Delete { keys: strings.checked()?.0 }),
            INCREMENT => {
                let (key, by) = two(&mut strings)?;
                let by = i64::from_le_bytes(by.try_into().map_err(|_| Malformed)?);
                Ok(CommandView::Increment { key, by })
            }
            SET_MANY => Ok(CommandView::SetMany { pairs: Pairs::checked(strings.0)? }),
            _ => Err(Malformed),
        }
    }
}

/// A query as it was encoded, borrowed from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryView<'a> {
    /// See [`Query::Get`].
    Get {
        /// Key.
        key: &'a [u8],
    },
    /// See [`Query::GetMany`].
    GetMany {
        /// Keys.
        keys: Strings<'a>,
    },
    /// See [`Query::Exists`].
    Exists {
        /// Keys.
        keys: Strings<'a>,
    },
    /// See [`Query::Count`].
    Count,
    /// See [`Query::Digest`].
    Digest,
}

impl<'a> QueryView<'a> {
    /// Reads an encoded query.
    pub fn decode(request: &'a [u8]) -> Result<QueryView<'a>, Malformed> {
        let (operation, flags, mut strings) = split(request)?;
        if flags != 0 {
            return Err(Malformed);
        }
        match operation {
            GET => {
                let key = strings.next().ok_or(Malformed)?;
                if strings.0.is_empty() { Ok(QueryView::Get { key }) } else { Err(Malformed) }
            }
            GET_MANY => Ok(QueryView::GetMany { keys: strings.checked()?.0 }),
            EXISTS => Ok(QueryView::Exists { keys: strings.checked()?.0 }),
            COUNT if strings.0.is_empty() => Ok(QueryView::Count),
            DIGEST if strings.0.is_empty() => Ok(QueryView::Digest),
            _ => Err(Malformed),
        }
    }
}

/// Strings of a decoded list, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// Itself and how many there are, if they fill the bytes exactly.
    fn checked(self) -> Result<(Strings<'a>, usize), Malformed> {
        let mut rest = self.clone();
        let count = rest.by_ref().count();
        if rest.0.is_empty() { Ok((self, count)) } else { Err(Malformed) }
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    /// The next string; `None` at the end and before bytes that are not one.
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let (string, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.0 = rest;
        Some(string)
    }
}

/// Keys and values of a decoded list, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs<'a>(Strings<'a>);

impl<'a> Pairs<'a> {
    /// Keys and values that fill the bytes exactly.
    fn checked(bytes: &'a [u8]) -> Result<Pairs<'a>, Malformed> {
        match Strings(bytes).checked()? {
            (strings, count) if count % 2 == 0 => Ok(Pairs(strings)),
            _ => Err(Malformed),
        }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.next()?, self.0.next()?))
    }
}

fn split(bytes: &[u8]) -> Result<(u8, u8, Strings<'_>), Malformed> {
    match bytes.split_first_chunk::<3>() {
        Some(([VERSION, operation, flags], rest)) => Ok((*operation, *flags, Strings(rest))),
        _ => Err(Malformed),
    }
}

/// Exactly two strings.
fn two<'a>(strings: &mut Strings<'a>) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    match (strings.next(), strings.next()) {
        (Some(first), Some(second)) if strings.0.is_empty() => Ok((first, second)),
        _ => Err(Malformed),
    }
}

fn put_list(out: &mut Vec<u8>, operation: u8, strings: &[&[u8]]) {
    out.extend_from_slice(&[VERSION, operation, 0]);
    for string in strings {
        put_string(out, string);
    }
}

/// Strings are far below 4 GiB: a payload is bounded by `payload_bytes_max`, of 32 bits, before it is proposed.
fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    out.extend_from_slice(&(string.len() as u32).to_le_bytes());
    out.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn string() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..20)
    }

    fn encoded(command: Command<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        command.encode(&mut out);
        out
    }

    fn asked(query: Query<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        query.encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn set_and_increment_are_read_back(
            key in string(), value in string(), condition in 0..3, get in any::<bool>(), by in any::<i64>(),
        ) {
            let condition = [Condition::Always, Condition::IfAbsent, Condition::IfPresent][condition as usize];
            let bytes = encoded(Command::Set { key: &key, value: &value, condition, get });
            let set = CommandView::Set { key: &key, value: &value, condition, get };
            prop_assert_eq!(CommandView::decode(&bytes), Ok(set));
            let bytes = encoded(Command::Increment { key: &key, by });
            prop_assert_eq!(CommandView::decode(&bytes), Ok(CommandView::Increment { key: &key, by }));
            let bytes = asked(Query::Get { key: &key });
            prop_assert_eq!(QueryView::decode(&bytes), Ok(QueryView::Get { key: &key }));
        }

        #[test]
        fn lists_are_read_back(strings in vec(string(), 0..6)) {
            let keys: Vec<&[u8]> = strings.iter().map(|s| &s[..]).collect();
            let bytes = encoded(Command::Delete { keys: &keys });
            match CommandView::decode(&bytes) {
                Ok(CommandView::Delete { keys: read }) => prop_assert_eq!(&read.collect::<Vec<_>>(), &keys),
                other => prop_assert!(false, "{other:?}"),
            }
            let pairs: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (*key, &b"v"[..])).collect();
            let bytes = encoded(Command::SetMany { pairs: &pairs });
            match CommandView::decode(&bytes) {
                Ok(CommandView::SetMany { pairs: read }) => prop_assert_eq!(&read.collect::<Vec<_>>(), &pairs),
                other => prop_assert!(false, "{other:?}"),
            }
            for query in [Query::GetMany { keys: &keys }, Query::Exists { keys: &keys }] {
                match QueryView::decode(&asked(query)) {
                    Ok(QueryView::GetMany { keys: read } | QueryView::Exists { keys: read }) => {
                        prop_assert_eq!(&read.collect::<Vec<_>>(), &keys);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }

        #[test]
        fn arbitrary_bytes_are_errors_or_commands(mut bytes in vec(any::<u8>(), 0..60), operation in 0..40_u8) {
            let _ = (CommandView::decode(&bytes), QueryView::decode(&bytes));
            if bytes.len() > 2 {
                bytes[..3].copy_from_slice(&[VERSION, operation, 0]);
            }
            let _ = (CommandView::decode(&bytes), QueryView::decode(&bytes));
        }

        #[test]
        fn cut_and_padded_commands_are_errors(key in string(), value in string(), cut in 0..10_usize) {
            let (condition, get) = (Condition::Always, false);
            let mut bytes = encoded(Command::Set { key: &key, value: &value, condition, get });
            bytes.push(0);
            prop_assert_eq!(CommandView::decode(&bytes), Err(Malformed));
            bytes.truncate(bytes.len() - 2 - cut);
            prop_assert_eq!(CommandView::decode(&bytes), Err(Malformed));
        }
    }

    #[test]
    fn the_count_query_has_no_strings() {
        assert_eq!(QueryView::decode(&asked(Query::Count)), Ok(QueryView::Count));
        assert_eq!(QueryView::decode(&asked(Query::Digest)), Ok(QueryView::Digest));
        assert_eq!(QueryView::decode(&[1, COUNT, 0, 0]), Err(Malformed));
    }
}
