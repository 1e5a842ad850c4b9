//! Reading requests, in place.
//!
//! A parser of its own rather than a crate: requests are only ever arrays of bulk strings or inline lines, they are parsed
//! from the buffer they were received in without a copy or an allocation, and parsing goes on where it stopped when a request
//! comes in pieces, so that no sequence of pieces costs more than its bytes. General RESP crates build a tree of owned frames.

/// Longest line: an inline request, or the number after `*` or `$`. As in Redis.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Spans kept allocated between requests.
const SPANS_KEPT: usize = 1_024;

/// The input is not the protocol; the connection is told so and closed, as Redis does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("too big inline request")]
    InlineTooLong,
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("too big mbulk count string")]
    CountTooLong,
    #[error("invalid multibulk length")]
    Count,
    #[error("too big bulk count string")]
    LengthTooLong,
    #[error("expected '$', got '{found}'")]
    ExpectedBulk { found: char },
    #[error("invalid bulk length")]
    Length,
    #[error("expected CRLF")]
    ExpectedCrlf,
    #[error("request exceeds the query buffer limit of {limit} bytes")]
    RequestTooLong { limit: u32 },
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    pub(crate) arguments_max: u32,
    pub(crate) argument_bytes_max: u32,
    pub(crate) request_bytes_max: u32,
}

/// What [`Parser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Not all of it is there yet.
    Incomplete,
    /// A request of so many bytes; [`Parser::arguments`] has it until the next call. It may have no arguments: an empty line.
    Request(usize),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    /// So many arguments are still to come.
    Length(u32),
    /// The bytes of an argument of this length, and so many after it.
    Bytes(u32, u32),
}

/// The arguments of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a> {
    data: &'a [u8],
    spans: &'a [(u32, u32)],
}

impl<'a> Arguments<'a> {
    pub(crate) fn len(self) -> usize {
        self.spans.len()
    }

    /// Argument `n`; panics beyond the end.
    pub(crate) fn get(self, n: usize) -> &'a [u8] {
        let (start, end) = self.spans[n];
        &self.data[start as usize..end as usize]
    }

    /// The arguments from `n` on.
    pub(crate) fn from(self, n: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let data = self.data;
        self.spans[n.min(self.spans.len())..]
            .iter()
            .map(move |&(start, end)| &data[start as usize..end as usize])
    }
}

/// The reader of one connection.
#[derive(Debug)]
pub(crate) struct Parser {
    limits: RequestLimits,
    state: State,
    /// How far the current request is read, from its first byte.
    position: usize,
    /// Arguments read so far, in `unescaped` if the request is inline, else in the input, from the request's first byte.
    spans: Vec<(u32, u32)>,
    unescaped: Vec<u8>,
    inline: bool,
    /// The last call returned a request: the next one starts anew.
    done: bool,
}

impl Parser {
    pub(crate) fn new(limits: RequestLimits) -> Parser {
        Parser {
            limits,
            state: State::Start,
            position: 0,
            spans: Vec::new(),
            unescaped: Vec::new(),
            inline: false,
            done: false,
        }
    }

    /// Reads on. `input` starts with the first byte of the current request, each time, whatever was there before.
    pub(crate) fn parse(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        if self.done {
            self.reset();
        }
        let parsed = match (self.state, input.first()) {
            (State::Start, None) => return Ok(Parsed::Incomplete),
            (State::Start, Some(b'*')) => match self.read_count(input)? {
                Some(0) => Parsed::Request(self.position),
                Some(_) => self.read_arguments(input)?,
                None => Parsed::Incomplete,
            },
            (State::Start, Some(_)) => self.read_inline(input)?,
            _ => self.read_arguments(input)?,
        };
        self.done = parsed != Parsed::Incomplete;
        Ok(parsed)
    }

    /// The arguments of the request just returned; `input` as given then.
    pub(crate) fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        Arguments { data: if self.inline { &self.unescaped } else { input }, spans: &self.spans }
    }

    fn reset(&mut self) {
        self.state = State::Start;
        self.position = 0;
        self.inline = false;
        self.done = false;
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT);
        self.unescaped = Vec::new();
    }

    /// Reads `*count`; its value, zero if negative, `None` if it is not all there.
    fn read_count(&mut self, input: &[u8]) -> Result<Option<u32>, ProtocolError> {
        let Some(line) = line(input, 1, ProtocolError::CountTooLong)? else { return Ok(None) };
        let count = decimal(line).ok_or(ProtocolError::Count)?;
        if count > i64::from(self.limits.arguments_max) {
            return Err(ProtocolError::Count);
        }
        self.position = line.len() + 3;
        let count = count.max(0) as u32;
        self.state = State::Length(count);
        // A count is cheap to claim: memory for more than a few is taken only as the arguments come.
        self.spans.reserve(count.min(16) as usize);
        Ok(Some(count))
    }

    fn read_arguments(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        loop {
            match self.state {
                State::Start => unreachable!("a count was read"),
                State::Length(0) => return Ok(Parsed::Request(self.position)),
                State::Length(count) => {
                    let Some(&kind) = input.get(self.position) else { return Ok(Parsed::Incomplete) };
                    if kind != b'$' {
                        let found = if kind.is_ascii_graphic() { char::from(kind) } else { '?' };
                        return Err(ProtocolError::ExpectedBulk { found });
                    }
                    let Some(line) = line(input, self.position + 1, ProtocolError::LengthTooLong)? else {
                        return Ok(Parsed::Incomplete);
                    };
                    let len = decimal(line)
                        .filter(|len| (0..=i64::from(self.limits.argument_bytes_max)).contains(len))
                        .ok_or(ProtocolError::Length)?;
                    self.position += line.len() + 3;
                    let limit = self.limits.request_bytes_max;
                    if self.position as u64 + len as u64 + 2 > u64::from(limit) {
                        return Err(ProtocolError::RequestTooLong { limit });
                    }
                    self.state = State::Bytes(len as u32, count - 1);
                }
                State::Bytes(len, after) => {
                    let end = self.position + len as usize;
                    let Some(crlf) = input.get(end..end + 2) else { return Ok(Parsed::Incomplete) };
                    if crlf != b"\r\n" {
                        return Err(ProtocolError::ExpectedCrlf);
                    }
                    self.spans.push((self.position as u32, end as u32));
                    self.position = end + 2;
                    self.state = State::Length(after);
                }
            }
        }
    }

    fn read_inline(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        let Some(len) = input[self.position..].iter().position(|&byte| byte == b'\n') else {
            self.position = input.len();
            let too_long = input.len() > LINE_BYTES_MAX;
            return if too_long { Err(ProtocolError::InlineTooLong) } else { Ok(Parsed::Incomplete) };
        };
        let end = self.position + len;
        if end > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooLong);
        }
        let line = &input[..end];
        self.inline = true;
        self.split_words(line.strip_suffix(b"\r").unwrap_or(line))?;
        self.position = end + 1;
        Ok(Parsed::Request(end + 1))
    }

    /// Splits an inline request into words as `sdssplitargs` of Redis does: "..." with \n \r \t \b \a \xHH and \" escapes,
    /// '...' with \' only; a closing quote must be followed by a space or the end.
    fn split_words(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let mut at = 0;
        loop {
            while line.get(at).is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b) {
                at += 1;
            }
            if at == line.len() {
                return Ok(());
            }
            let start = self.unescaped.len() as u32;
            at = self.read_word(line, at)?;
            self.spans.push((start, self.unescaped.len() as u32));
        }
    }

    fn read_word(&mut self, line: &[u8], mut at: usize) -> Result<usize, ProtocolError> {
        let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b || byte == 0;
        let mut quote = None;
        loop {
            let Some(&byte) = line.get(at) else {
                return if quote.is_none() { Ok(at) } else { Err(ProtocolError::UnbalancedQuotes) };
            };
            let rest = &line[at..];
            match (quote, byte) {
                (None, byte) if is_space(byte) => return Ok(at + 1),
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), byte) if open == byte => {
                    if rest.get(1).is_some_and(|&next| !is_space(next)) {
                        return Err(ProtocolError::UnbalancedQuotes);
                    }
                    return Ok(at + 1);
                }
                (Some(b'\''), b'\\') if rest.get(1) == Some(&b'\'') => {
                    self.unescaped.push(b'\'');
                    at += 1;
                }
                (Some(b'"'), b'\\') if rest.len() > 1 => {
                    let (value, taken) = unescape(rest);
                    self.unescaped.push(value);
                    at += taken;
                    continue;
                }
                (_, byte) => self.unescaped.push(byte),
            }
            at += 1;
        }
    }
}

/// The byte an escape in double quotes stands for, and its length.
fn unescape(escape: &[u8]) -> (u8, usize) {
    let hex =
        |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16)).map(|digit| digit as u8);
    if let (b'x', Some(high), Some(low)) = (escape[1], hex(escape.get(2)), hex(escape.get(3))) {
        return (high << 4 | low, 4);
    }
    let value = match escape[1] {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    };
    (value, 2)
}

/// The bytes from `start` up to CRLF, `None` if it is not there yet.
fn line(input: &[u8], start: usize, too_long: ProtocolError) -> Result<Option<&[u8]>, ProtocolError> {
    let rest = &input[start.min(input.len())..];
    match rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\r') {
        Some(end) => match rest.get(end + 1) {
            Some(b'\n') => Ok(Some(&rest[..end])),
            Some(_) => Err(ProtocolError::ExpectedCrlf),
            None => Ok(None),
        },
        None if rest.len() >= LINE_BYTES_MAX => Err(too_long),
        None => Ok(None),
    }
}

/// A decimal number the way Redis reads them: no sign but minus, no leading zeros, no spaces.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    let mut value = 0i64;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(byte - b'0');
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(digit)? } else { value.checked_add(digit)? };
    }
    Some(value)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
