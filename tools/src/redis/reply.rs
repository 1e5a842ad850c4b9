//! Writing RESP2 and RESP3.

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The default until `HELLO 3`.
    #[default]
    Resp2,
    /// With maps, sets, verbatim strings and one null.
    Resp3,
}

/// Appends replies to a buffer.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Writer<'a> {
        Writer { out, protocol }
    }

    /// `+text`. The text has no line breaks.
    pub(crate) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `-text`. Line breaks become spaces, as in Redis, since they would end the reply.
    pub(crate) fn error(&mut self, text: impl AsRef<[u8]>) {
        self.out.push(b'-');
        self.out.extend(
            text.as_ref().iter().map(|&byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }),
        );
        self.out.extend_from_slice(b"\r\n");
    }

    /// `:number`.
    pub(crate) fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// `$len bytes`.
    pub(crate) fn bulk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.number(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A reply that is encoded already.
    pub(crate) fn encoded(&mut self, reply: &[u8]) {
        self.out.extend_from_slice(reply);
    }

    /// Text for people: a verbatim string in RESP3, a bulk string in RESP2.
    pub(crate) fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.number(b'=', text.len() as i64 + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// "Nothing there".
    pub(crate) fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n".as_slice(),
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The head of an array of `len` elements.
    pub(crate) fn array(&mut self, len: usize) {
        self.number(b'*', len as i64);
    }

    /// The head of a map of `pairs` pairs; a flat array of twice as many elements in RESP2.
    pub(crate) fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.number(b'*', pairs as i64 * 2),
            Protocol::Resp3 => self.number(b'%', pairs as i64),
        }
    }

    /// The head of a set; an array in RESP2.
    pub(crate) fn set(&mut self, len: usize) {
        let kind = if self.protocol == Protocol::Resp3 { b'~' } else { b'*' };
        self.number(kind, len as i64);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, number: i64) {
        self.out.push(kind);
        push_integer(self.out, number);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends a decimal number.
pub(crate) fn push_integer(out: &mut Vec<u8>, number: i64) {
    // 19 digits and a sign.
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_have_all_their_digits() {
        for number in [0, 1, -1, 9, 10, -10, 12345, i64::MAX, i64::MIN] {
            assert_eq!(written(Protocol::Resp2, |w| w.integer(number)), format!(":{number}\r\n"));
        }
    }

    #[test]
    fn both_protocols_have_their_own_shapes() {
        let all = |w: &mut Writer<'_>| {
            w.simple("OK");
            w.error("ERR a\r\nb");
            w.bulk(b"x\r\ny");
            w.null();
            w.array(2);
            w.map(2);
            w.set(3);
            w.verbatim(b"hi");
        };
        assert_eq!(
            written(Protocol::Resp2, all),
            "+OK\r\n-ERR a  b\r\n$4\r\nx\r\ny\r\n$-1\r\n*2\r\n*4\r\n*3\r\n$2\r\nhi\r\n"
        );
        assert_eq!(
            written(Protocol::Resp3, all),
            "+OK\r\n-ERR a  b\r\n$4\r\nx\r\ny\r\n_\r\n*2\r\n%2\r\n~3\r\n=6\r\ntxt:hi\r\n"
        );
    }
}
