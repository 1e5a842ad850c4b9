//! Values with units, and addresses.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number of bytes: `1048576`, `"1 MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

impl Bytes {
    fn parse(text: &str) -> Result<Bytes, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let number: u64 = number.parse().map_err(|_| {
            format!(
                "`{text}` is not a size: write a whole number and B, KiB, MiB, GiB or TiB, as in \"64 MiB\""
            )
        })?;
        let unit = if unit.is_empty() { "B" } else { unit };
        let Some(&(_, shift)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` is not a unit: use B, KiB, MiB, GiB or TiB (powers of 1024)"));
        };
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))?;
        Ok(Bytes(bytes))
    }
}

impl fmt::Display for Bytes {
    /// With the largest unit that leaves at least one, and one decimal where that says more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shift_of = |shift: u32| self.0 >> shift > 0;
        let (name, shift) = UNITS.iter().rev().find(|(_, shift)| shift_of(*shift)).unwrap_or(&UNITS[0]);
        let unit = 1u64 << shift;
        if self.0.is_multiple_of(unit) {
            write!(f, "{} {name}", self.0 >> shift)
        } else {
            write!(f, "{:.1} {name}", self.0 as f64 / unit as f64)
        }
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size: a number of bytes, or a string such as \"64 MiB\"")
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Bytes, E> {
        u64::try_from(bytes).map(Bytes).map_err(|_| E::custom(format!("a size of {bytes} bytes is negative")))
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        Bytes::parse(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// Splits `host:port`; the host may be a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn split_address(address: &str) -> Result<(&str, u16), String> {
    let wrong = |why: &str| format!("`{address}` is not an address: {why}");
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| wrong("a port is missing; write host:port, as in \"127.0.0.1:7001\""))?;
    let port: u16 = port.parse().map_err(|_| wrong(&format!("`{port}` is not a port (1 to 65535)")))?;
    if port == 0 {
        return Err(wrong("others could not find port 0"));
    }
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() {
        return Err(wrong("the host is missing"));
    }
    if host.contains(':') && !is_bracketed {
        return Err(wrong("put an IPv6 address in brackets, as in \"[::1]:7001\""));
    }
    if host.chars().any(|c| c.is_whitespace() || c == '/' || c == ',') {
        return Err(wrong("a host has no spaces, slashes or commas"));
    }
    Ok((host, port))
}

/// Whether an advertised host is this machine only.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, shown) in [
            ("0", 0, "0 B"),
            ("4096", 4096, "4 KiB"),
            ("64 MiB", 64 << 20, "64 MiB"),
            ("1TiB", 1 << 40, "1 TiB"),
            (" 1500 B ", 1500, "1.5 KiB"),
        ] {
            let read = Bytes::parse(text).expect(text);
            assert_eq!(read, Bytes(bytes), "{text}");
            assert_eq!(read.to_string(), shown);
        }
        for bad in ["", "MiB", "-1", "1.5 GiB", "64 MB", "99999999 TiB"] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(split_address("db-1.example:7001"), Ok(("db-1.example", 7001)));
        assert_eq!(split_address("[::1]:7001"), Ok(("[::1]", 7001)));
        for bad in ["7001", "host:", "host:0", "host:70000", ":7001", "::1:7001", "a b:1", "host:port"] {
            assert!(split_address(bad).is_err(), "{bad}");
        }
        assert!(is_loopback("[::1]") && is_loopback("localhost") && is_loopback("127.0.0.2"));
        assert!(!is_loopback("10.0.0.1") && !is_loopback("example.org"));
    }
}
