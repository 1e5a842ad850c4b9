//! The request parser, by example and with arbitrary and mutated bytes.

use proptest::prelude::*;

use super::*;

const LIMITS: RequestLimits =
    RequestLimits { arguments_max: 64, argument_bytes_max: 4_096, request_bytes_max: 16_384 };

/// Parses everything in `input`, given in pieces of the lengths `cuts` (cycled; all at once if empty).
fn read_all(input: &[u8], cuts: &[usize]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
    let mut parser = Parser::new(LIMITS);
    let mut requests = Vec::new();
    let (mut start, mut have, mut cut) = (0, 0, 0);
    while have < input.len() {
        have = match cuts {
            [] => input.len(),
            cuts => (have + cuts[cut % cuts.len()].max(1)).min(input.len()),
        };
        cut += 1;
        while let Parsed::Request(bytes) = parser.parse(&input[start..have])? {
            let arguments = parser.arguments(&input[start..have]);
            if arguments.len() > 0 {
                requests.push(arguments.from(0).map(<[u8]>::to_vec).collect());
            }
            start += bytes;
        }
    }
    Ok(requests)
}

fn encode(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for request in requests {
        out.extend(format!("*{}\r\n", request.len()).bytes());
        for argument in request {
            out.extend(format!("${}\r\n", argument.len()).bytes());
            out.extend(argument);
            out.extend(b"\r\n");
        }
    }
    out
}

fn words(input: &str) -> Result<Vec<Vec<String>>, ProtocolError> {
    let requests = read_all(input.as_bytes(), &[])?;
    Ok(requests
        .into_iter()
        .map(|r| r.into_iter().map(|a| a.iter().map(|&b| char::from(b)).collect()).collect())
        .collect())
}

#[test]
fn arrays_and_inline_lines_are_requests() {
    assert_eq!(
        words("*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n").unwrap(),
        [vec!["PING"], vec!["GET", ""]]
    );
    assert_eq!(words("PING\r\n  GET  a\n\r\n").unwrap(), [vec!["PING"], vec!["GET", "a"]]);
    assert_eq!(
        words("SET k \"a b\\x41\\n\\\"\" 'it\\'s'\r\n").unwrap(),
        [vec!["SET", "k", "a bA\n\"", "it's"]]
    );
    assert_eq!(words("*0\r\n*-1\r\n\r\nPING\r\n").unwrap(), [vec!["PING"]]);
}

#[test]
fn malformed_input_is_named_as_redis_names_it() {
    let text = |input: &str| words(input).unwrap_err().to_string();
    assert_eq!(text("*x\r\n"), "invalid multibulk length");
    assert_eq!(text("*65\r\n"), "invalid multibulk length");
    assert_eq!(text("*99999999999999999999\r\n"), "invalid multibulk length");
    assert_eq!(text("*1\r\nPING\r\n"), "expected '$', got 'P'");
    assert_eq!(text("*1\r\n\u{1}"), "expected '$', got '?'");
    assert_eq!(text("*1\r\n$-1\r\n"), "invalid bulk length");
    assert_eq!(text("*1\r\n$4097\r\n"), "invalid bulk length");
    assert_eq!(text("*1\r\n$04\r\nPING\r\n"), "invalid bulk length");
    assert_eq!(text("*1\r\n$4\r\nPINGxx"), "expected CRLF");
    assert_eq!(text("GET \"a\r\n"), "unbalanced quotes in request");
    assert_eq!(text("GET 'a'b\r\n"), "unbalanced quotes in request");
    assert_eq!(text(&"a".repeat(70_000)), "too big inline request");
    assert_eq!(text(&format!("*{}", "1".repeat(70_000))), "too big mbulk count string");
    assert_eq!(text(&format!("*1\r\n${}", "1".repeat(70_000))), "too big bulk count string");
    let long = encode(&[vec![vec![b'x'; 4_096]; 5]]);
    assert_eq!(
        read_all(&long, &[]).unwrap_err(),
        ProtocolError::RequestTooLong { limit: LIMITS.request_bytes_max }
    );
}

#[test]
fn decimals_are_read_as_redis_reads_them() {
    assert_eq!(decimal(b"0"), Some(0));
    assert_eq!(decimal(b"-9223372036854775808"), Some(i64::MIN));
    assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX));
    for bad in [&b""[..], b"-", b"+1", b"01", b"-0", b" 1", b"1 ", b"1.0", b"9223372036854775808", b"abc"] {
        assert_eq!(decimal(bad), None, "{bad:?}");
    }
}

fn requests() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let argument = prop::collection::vec(any::<u8>(), 0..200);
    prop::collection::vec(prop::collection::vec(argument, 1..10), 0..10)
}

proptest! {
    #[test]
    fn requests_survive_any_cutting(requests in requests(), cuts in prop::collection::vec(1usize..300, 0..5)) {
        prop_assert_eq!(read_all(&encode(&requests), &cuts), Ok(requests));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_cutting_changes_nothing(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$\r\n0123\"'\\x ".to_vec())], 0..400),
        cuts in prop::collection::vec(1usize..50, 1..5),
    ) {
        let whole = read_all(&bytes, &[]);
        let pieces = read_all(&bytes, &cuts);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn mutated_requests_never_panic(
        requests in requests(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in prop::collection::vec(1usize..300, 1..5),
    ) {
        let mut bytes = encode(&requests);
        if !bytes.is_empty() {
            for (at, value) in mutations {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        let whole = read_all(&bytes, &[]);
        prop_assert_eq!(whole, read_all(&bytes, &cuts));
    }
}
