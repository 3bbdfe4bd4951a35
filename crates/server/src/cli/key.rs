//! Keys on the command line: bytes as text.
//!
//! Printable ASCII stands for itself; every other byte is `\xNN`, with the short forms `\n`, `\r`, `\t`, `\0`, and `\\`
//! for the backslash. What [`escape`] prints, [`unescape`] reads back.

use crate::exit::{Failure, Kind, Result};

/// The printed form of bytes.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// A printed boundary of a region; the empty one is infinite and shown as `-inf` or `+inf`.
pub fn escape_boundary(bytes: &[u8], infinite: &str) -> String {
    if bytes.is_empty() {
        infinite.to_owned()
    } else {
        escape(bytes)
    }
}

/// Reads the printed form. Text beyond ASCII stands for its UTF-8 bytes.
///
/// # Errors
/// [`Kind::Usage`]: an escape is unknown or incomplete.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let bad = |at: usize, what: &str| {
        Failure::new(
            Kind::Usage,
            format!("`{text}` is not a key: {what} at byte {at}"),
        )
        .hint("escapes are \\xNN, \\n, \\r, \\t, \\0 and \\\\; --hex takes the key in hexadecimal")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes().enumerate();
    while let Some((at, byte)) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().map(|(_, escape)| escape) {
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b'r') => bytes.push(b'\r'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'0') => bytes.push(0),
            Some(b'x') => {
                let mut digit = || rest.next().and_then(|(_, digit)| hex_digit(digit));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => bytes.push(high << 4 | low),
                    _ => return Err(bad(at, "`\\x` without two hexadecimal digits")),
                }
            }
            _ => return Err(bad(at, "an unknown escape")),
        }
    }
    Ok(bytes)
}

/// Reads bytes in hexadecimal, with or without `0x` in front.
///
/// # Errors
/// [`Kind::Usage`]: not hexadecimal, or an odd number of digits.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let pairs: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
            _ => None,
        })
        .collect();
    pairs.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("`{text}` is not hexadecimal"))
            .hint("--hex takes pairs of the digits 0-9 and a-f, with or without 0x in front")
    })
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Reads a key in the form that the options ask for.
///
/// # Errors
/// As [`unescape`] and [`unhex`].
pub fn read(text: &str, hex: bool) -> Result<Vec<u8>> {
    if hex { unhex(text) } else { unescape(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_being_printed() {
        let all: Vec<u8> = (0..=255).collect();
        let text = escape(&all);
        assert!(
            text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{text}"
        );
        assert_eq!(unescape(&text).unwrap(), all);
    }

    #[test]
    fn text_stands_for_itself() {
        assert_eq!(unescape("user/1 ü").unwrap(), "user/1 ü".as_bytes());
        assert_eq!(unescape(r"a\x00\xFF\0\t\\").unwrap(), b"a\x00\xff\x00\t\\");
        assert_eq!(unescape("0x61").unwrap(), b"0x61");
        assert_eq!(escape("ü".as_bytes()), r"\xc3\xbc");
    }

    #[test]
    fn broken_escapes_are_refused_with_their_place() {
        for text in [r"a\", r"ab\q", r"\x", r"\x1", r"\xzz"] {
            let failure = unescape(text).unwrap_err();
            assert_eq!(failure.kind(), Kind::Usage, "{text}");
        }
        assert!(
            unescape(r"ab\q")
                .unwrap_err()
                .to_string()
                .contains("at byte 2")
        );
    }

    #[test]
    fn hexadecimal_with_and_without_its_mark() {
        assert_eq!(unhex("0x00fF").unwrap(), [0, 255]);
        assert_eq!(unhex("00ff").unwrap(), [0, 255]);
        assert!(unhex("").unwrap().is_empty());
        for text in ["0x1", "123", "0xgg", "é0"] {
            assert_eq!(unhex(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn boundaries_without_bytes_are_infinite() {
        assert_eq!(escape_boundary(b"", "-inf"), "-inf");
        assert_eq!(escape_boundary(b"\x01", "-inf"), r"\x01");
    }
}
