//! JSON text from values.

use std::io::Write as _;

/// Appends a string with its quotes, escaping what JSON demands and nothing else.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte != b'"' && byte != b'\\' && byte >= b' ' {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        done = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // Writing to a Vec does not fail.
            _ => drop(write!(out, "\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

/// Appends the shortest text that reads back as the same number, always with a point or an exponent. What JSON
/// can't say (infinities, not-a-number) becomes null.
pub(crate) fn write_f64(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        let _ = write!(out, "{value:?}");
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Appends a checked JSON text without the white space between its values.
pub(crate) fn write_compact(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let (mut done, mut at) = (0, 0);
    let mut in_string = false;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b' ' | b'\t' | b'\n' | b'\r' if !in_string => {
                out.extend_from_slice(&bytes[done..at]);
                done = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.extend_from_slice(&bytes[done..]);
}
