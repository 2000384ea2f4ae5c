//! Every row of `vectors/*.txt`: bytes, and what the decoder must make of them. `vectors/README.md` explains the rows.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as it does")]

use std::fmt::Write as _;
use std::path::Path;

use tidegate_codec::{Decoded, Decoder, Limits, Version};

/// Fewer rows than this mean that the files were not found or not read.
const MIN_ROWS: usize = 200;

#[test]
fn every_vector_is_accepted_or_refused_as_its_row_says() {
    let mut rows = 0;
    let mut failures = String::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    for path in files {
        let mut decoder = None;
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(section) = line.strip_prefix("==") {
                decoder = Some(decoder_of(section));
                continue;
            }
            rows += 1;
            if let Err(failure) = check(decoder.as_ref().expect("a section comes first"), line) {
                let file = path.file_name().unwrap().to_string_lossy();
                writeln!(failures, "{file}:{}: {line}\n    {failure}", number + 1).unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(rows >= MIN_ROWS, "only {rows} rows");
}

/// Reads `server 5`, `client 3.1.1` or `server -`, and limits such as `max_filters=2` behind it.
fn decoder_of(section: &str) -> Decoder {
    let mut words = section.split_whitespace();
    let (role, version) = (words.next().unwrap(), words.next().unwrap());
    let mut limits = Limits::default();
    for limit in words {
        let (name, value) = limit.split_once('=').unwrap();
        let value = value.parse().unwrap();
        match name {
            "max_packet_bytes" => limits.max_packet_bytes = value,
            "max_connect_bytes" => limits.max_connect_bytes = value,
            "max_user_properties" => limits.max_user_properties = value,
            "max_filters" => limits.max_filters = value,
            _ => panic!("unknown limit {name}"),
        }
    }
    let version = match version {
        "-" => None,
        "3.1" => Some(Version::V3_1),
        "3.1.1" => Some(Version::V3_1_1),
        "5" => Some(Version::V5),
        _ => panic!("unknown version {version}"),
    };
    match (role, version) {
        ("server", None) => Decoder::new(limits),
        ("server", Some(version)) => {
            let mut decoder = Decoder::new(limits);
            decoder.set_version(version);
            decoder
        }
        ("client", Some(version)) => Decoder::client(version, limits),
        _ => panic!("unknown role {role}"),
    }
}

fn check(decoder: &Decoder, row: &str) -> Result<(), String> {
    let mut columns = row.splitn(3, " | ");
    let bytes = bytes_of(columns.next().unwrap());
    let verdict = columns.next().ok_or("no verdict")?.trim();
    let comment = columns.next().ok_or("no comment")?;
    if comment.trim().is_empty() {
        return Err("no comment".into());
    }
    if let Some(expected) = verdict.strip_prefix("accept~ ") {
        accepts(decoder, &bytes, expected, false)
    } else if let Some(expected) = verdict.strip_prefix("accept ") {
        accepts(decoder, &bytes, expected, true)
    } else if let Some(expected) = verdict.strip_prefix("refuse") {
        refuses(decoder, &bytes, expected)
    } else {
        Err("neither accept nor refuse".into())
    }
}

/// The packet shows every expected fragment, no prefix of it is judged early, and it is written as it was read.
fn accepts(decoder: &Decoder, bytes: &[u8], expected: &str, canonical: bool) -> Result<(), String> {
    let (packet, len) = match decoder.decode(bytes) {
        Ok(Decoded::Packet { packet, len }) => (packet, len),
        other => return Err(format!("{other:?}")),
    };
    if len != bytes.len() {
        return Err(format!("took {len} of {} bytes", bytes.len()));
    }
    let shown = format!("{packet:?}");
    for fragment in expected.split(';') {
        if !shown.contains(fragment.trim()) {
            return Err(format!("{fragment:?} is not in {shown}"));
        }
    }
    judges_no_prefix(decoder, bytes, bytes.len())?;

    let version = decoder.version().or(match &packet {
        tidegate_codec::Packet::Connect(connect) => Some(connect.version),
        _ => None,
    });
    let mut written = Vec::new();
    packet.encode(version.unwrap(), &mut written).map_err(|error| error.to_string())?;
    if (written == bytes) != canonical {
        return Err(format!("written as {written:02x?}"));
    }
    match decoder.decode(&written) {
        Ok(Decoded::Packet { packet: again, .. }) if again == packet => Ok(()),
        other => Err(format!("written and read again: {other:?}")),
    }
}

/// ` 0x81 MQTT5-1.5.4-1 InvalidUtf8`; with `@3` in front the fault shows at the third byte and not before.
fn refuses(decoder: &Decoder, bytes: &[u8], expected: &str) -> Result<(), String> {
    let error = match decoder.decode(bytes) {
        Err(error) => error,
        other => return Err(format!("{other:?}")),
    };
    let (at, expected) = match expected.strip_prefix('@') {
        Some(expected) => {
            let (at, expected) = expected.split_once(' ').ok_or("@ without a verdict")?;
            (at.parse().map_err(|_| "no number behind @")?, expected)
        }
        None => (bytes.len(), expected),
    };
    let actual = format!("{:#04x} {} {:?}", error.reason_code().as_u8(), error.statement(), error.fault());
    let earliest = (1..=bytes.len()).find(|&end| decoder.decode(&bytes[..end]).is_err()).unwrap();
    if actual != expected.trim() || earliest != at {
        return Err(format!("refuse@{earliest} {actual}"));
    }
    if decoder.decode(&bytes[..at]) != Err(error) {
        return Err("another fault with more bytes".into());
    }
    judges_no_prefix(decoder, bytes, at)
}

/// Every shorter prefix is incomplete, and never asks for more than is missing.
fn judges_no_prefix(decoder: &Decoder, bytes: &[u8], until: usize) -> Result<(), String> {
    for end in 0..until {
        match decoder.decode(&bytes[..end]) {
            Ok(Decoded::Incomplete { at_least }) if at_least >= 1 => {
                if end + at_least > until.max(2) {
                    return Err(format!("asks for {at_least} more after {end} of {until} bytes"));
                }
            }
            other => return Err(format!("{other:?} after {end} of {until} bytes")),
        }
    }
    Ok(())
}

/// Reads the bytes column; the README describes its notation.
fn bytes_of(column: &str) -> Vec<u8> {
    let mut stack: Vec<(char, Vec<u8>)> = vec![(' ', Vec::new())];
    let mut rest = column.trim();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            ' ' => &rest[1..],
            '[' | '<' => {
                stack.push((first, Vec::new()));
                &rest[1..]
            }
            ']' | '>' => {
                let (open, content) = stack.pop().unwrap();
                let out = &mut stack.last_mut().expect("brackets match").1;
                match (open, first) {
                    ('[', ']') => variable_byte_integer(content.len(), out),
                    ('<', '>') => out.extend(u16::try_from(content.len()).unwrap().to_be_bytes()),
                    _ => panic!("brackets do not match in {column}"),
                }
                out.extend(content);
                &rest[1..]
            }
            '\'' => {
                let end = rest[1..].find('\'').expect("the text ends") + 1;
                let text = &rest.as_bytes()[1..end];
                repeat(text, &rest[end + 1..], &mut stack.last_mut().unwrap().1)
            }
            _ => {
                let byte =
                    u8::from_str_radix(&rest[..2], 16).unwrap_or_else(|_| panic!("{rest} in {column}"));
                repeat(&[byte], &rest[2..], &mut stack.last_mut().unwrap().1)
            }
        };
    }
    assert_eq!(stack.len(), 1, "brackets match in {column}");
    stack.pop().unwrap().1
}

/// Appends the token, as many times as a `*number` behind it says; returns what follows.
fn repeat<'r>(token: &[u8], rest: &'r str, out: &mut Vec<u8>) -> &'r str {
    let Some(behind) = rest.strip_prefix('*') else {
        out.extend(token);
        return rest;
    };
    let digits = behind.find(|character: char| !character.is_ascii_digit()).unwrap_or(behind.len());
    out.extend(token.repeat(behind[..digits].parse().unwrap()));
    &behind[digits..]
}

fn variable_byte_integer(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
