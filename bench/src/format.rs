//! Numbers for people.

/// `1234567.8` as `1,234,568`.
pub(crate) fn count(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0.0 {
        text.push('-');
    }
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit: `4.0 KiB`.
pub(crate) fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Microseconds as a time that reads well: `812 us`, `4.31 ms`, `1.20 s`.
pub(crate) fn micros(value: f64) -> String {
    if value < 1_000.0 {
        format!("{value:.0} us")
    } else if value < 1_000_000.0 {
        format!("{:.2} ms", value / 1_000.0)
    } else {
        format!("{:.2} s", value / 1_000_000.0)
    }
}

/// Nanoseconds as a time that reads well: `83 ns`, `4.10 us`, and from a millisecond on as [`micros`].
pub(crate) fn nanos(value: f64) -> String {
    if value < 1_000.0 {
        format!("{value:.0} ns")
    } else if value < 1_000_000.0 {
        format!("{:.2} us", value / 1_000.0)
    } else {
        micros(value / 1_000.0)
    }
}

/// `count` things: `1 core`, `3 cores`.
pub(crate) fn plural(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_separators() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(999.4), "999");
        assert_eq!(count(1_000.0), "1,000");
        assert_eq!(count(-1_234_567.8), "-1,234,568");
    }

    #[test]
    fn units_fit_the_size() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(16384.0), "16.0 KiB");
        assert_eq!(micros(812.4), "812 us");
        assert_eq!(micros(4_310.0), "4.31 ms");
        assert_eq!(micros(1_200_000.0), "1.20 s");
        assert_eq!((nanos(83.2), nanos(4_100.0)), ("83 ns".to_owned(), "4.10 us".to_owned()));
        assert_eq!(nanos(2_500_000.0), "2.50 ms");
        assert_eq!(plural(1, "core"), "1 core");
        assert_eq!(plural(1_024, "group"), "1,024 groups");
    }
}
