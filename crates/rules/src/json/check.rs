//! Whether a text is JSON, all of it: one pass without recursion or allocation, in time linear in the text.

use super::{JsonError, JsonProblem, MAX_JSON_BYTES, MAX_JSON_DEPTH};

/// Where the value of a text that is JSON begins and ends, without the white space around it.
pub(super) fn check(text: &str) -> Result<(usize, usize), JsonError> {
    let (text, start) = begin(text)?;
    let mut open = Open::default();
    let mut at = start;
    loop {
        // Here a value begins.
        let &byte = text.get(at).ok_or(JsonError { problem: JsonProblem::Truncated, at })?;
        if let b'{' | b'[' = byte {
            open.push(byte, at, MAX_JSON_DEPTH)?;
            at = skip_blanks(text, at + 1);
            // An empty one ends below, as any other.
            if !matches!(text.get(at), Some(b'}' | b']')) {
                if byte == b'{' {
                    at = value_after(text, string_end(text, at)?.0)?;
                }
                continue;
            }
        } else {
            at = scalar_end(text, at)?.0;
        }
        // Here a value has ended, and maybe those around it.
        loop {
            if open.depth == 0 {
                return end(text, at).map(|()| (start, at));
            }
            at = skip_blanks(text, at);
            match text.get(at) {
                Some(b',') => {
                    at = skip_blanks(text, at + 1);
                    if open.is_object() {
                        at = value_after(text, string_end(text, at)?.0)?;
                    }
                    break;
                }
                Some(&byte) => {
                    open.pop(byte, at)?;
                    at += 1;
                }
                None => return Err(JsonError { problem: JsonProblem::Truncated, at }),
            }
        }
    }
}

/// The bytes of a text and where its value begins.
pub(super) fn begin(text: &str) -> Result<(&[u8], usize), JsonError> {
    if text.len() > MAX_JSON_BYTES {
        return Err(JsonError { problem: JsonProblem::TooLarge, at: MAX_JSON_BYTES });
    }
    let text = text.as_bytes();
    let start = skip_blanks(text, if text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 });
    let empty = JsonError { problem: JsonProblem::Empty, at: start };
    if start == text.len() { Err(empty) } else { Ok((text, start)) }
}

/// Whether nothing but white space follows a value.
pub(super) fn end(text: &[u8], at: usize) -> Result<(), JsonError> {
    let at = skip_blanks(text, at);
    if at == text.len() { Ok(()) } else { Err(JsonError { problem: JsonProblem::Trailing, at }) }
}

/// The arrays and objects around a place, a bit for each: set where it is an object.
#[derive(Default)]
pub(super) struct Open {
    objects: u128,
    pub(super) depth: usize,
}

impl Open {
    /// Enters one, with what it begins with, of at most so many levels.
    pub(super) fn push(&mut self, byte: u8, at: usize, levels: usize) -> Result<(), JsonError> {
        if self.depth >= levels.min(MAX_JSON_DEPTH) {
            return Err(JsonError { problem: JsonProblem::TooDeep, at });
        }
        self.objects = self.objects << 1 | u128::from(byte == b'{');
        self.depth += 1;
        Ok(())
    }

    /// Leaves the innermost, if that is what the byte ends.
    pub(super) fn pop(&mut self, byte: u8, at: usize) -> Result<(), JsonError> {
        if self.depth == 0 || byte != if self.is_object() { b'}' } else { b']' } {
            return Err(JsonError { problem: JsonProblem::Unexpected, at });
        }
        self.objects >>= 1;
        self.depth -= 1;
        Ok(())
    }

    pub(super) fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

/// What a value is, as its first byte tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    /// A string whose text is between its quotes as it stands.
    Plain,
    /// A string with escapes.
    Escaped,
    Number,
    True,
    False,
    Null,
}

/// One past a value that is no array and no object.
pub(super) fn scalar_end(text: &[u8], at: usize) -> Result<(usize, Kind), JsonError> {
    match text.get(at) {
        Some(b'"') => string_end(text, at),
        Some(b'-' | b'0'..=b'9') => Ok((number_end(text, at)?, Kind::Number)),
        Some(b't') => Ok((literal(text, at, b"true")?, Kind::True)),
        Some(b'f') => Ok((literal(text, at, b"false")?, Kind::False)),
        Some(b'n') => Ok((literal(text, at, b"null")?, Kind::Null)),
        Some(_) => Err(JsonError { problem: JsonProblem::Unexpected, at }),
        None => Err(JsonError { problem: JsonProblem::Truncated, at }),
    }
}

pub(super) fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Where the value begins whose name has ended, after the colon.
pub(super) fn value_after(text: &[u8], name_end: usize) -> Result<usize, JsonError> {
    let at = skip_blanks(text, name_end);
    expect(text, at, b':')?;
    Ok(skip_blanks(text, at + 1))
}

fn expect(text: &[u8], at: usize, byte: u8) -> Result<(), JsonError> {
    match text.get(at) {
        Some(&found) if found == byte => Ok(()),
        Some(_) => Err(JsonError { problem: JsonProblem::Unexpected, at }),
        None => Err(JsonError { problem: JsonProblem::Truncated, at }),
    }
}

fn literal(text: &[u8], at: usize, word: &[u8]) -> Result<usize, JsonError> {
    if text[at..].starts_with(word) {
        return Ok(at + word.len());
    }
    let same = text[at..].iter().zip(word).take_while(|(a, b)| a == b).count();
    let problem = if at + same == text.len() { JsonProblem::Truncated } else { JsonProblem::Unexpected };
    Err(JsonError { problem, at: at + same })
}

fn number_end(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let digits = |mut at: usize| {
        let first = at;
        while matches!(text.get(at), Some(b'0'..=b'9')) {
            at += 1;
        }
        if at > first {
            return Ok(at);
        }
        let problem = if at >= text.len() { JsonProblem::Truncated } else { JsonProblem::Unexpected };
        Err(JsonError { problem, at })
    };
    let mut at = start + usize::from(text[start] == b'-');
    at = if text.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        at = digits(at + usize::from(matches!(text.get(at), Some(b'+' | b'-'))))?;
    }
    Ok(at)
}

/// One past the string that must begin at `start`.
pub(super) fn string_end(text: &[u8], start: usize) -> Result<(usize, Kind), JsonError> {
    expect(text, start, b'"')?;
    let mut at = start + 1;
    let mut kind = Kind::Plain;
    loop {
        at = skip_plain(text, at);
        match text.get(at) {
            Some(b'"') => return Ok((at + 1, kind)),
            Some(b'\\') => {
                kind = Kind::Escaped;
                at = escape_end(text, at)?;
            }
            Some(_) => return Err(JsonError { problem: JsonProblem::Unexpected, at }),
            None => return Err(JsonError { problem: JsonProblem::Truncated, at }),
        }
    }
}

fn escape_end(text: &[u8], backslash: usize) -> Result<usize, JsonError> {
    let wrong = |at: usize| {
        let problem = if at >= text.len() { JsonProblem::Truncated } else { JsonProblem::Unexpected };
        Err(JsonError { problem, at })
    };
    match text.get(backslash + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(backslash + 2),
        Some(b'u') => {
            let digits = backslash + 2..backslash + 6;
            match digits.clone().find(|&at| !text.get(at).is_some_and(u8::is_ascii_hexdigit)) {
                Some(at) => wrong(at),
                None => Ok(digits.end),
            }
        }
        _ => wrong(backslash + 1),
    }
}

/// The first quote, backslash or control character at or after `at`; eight bytes at a time, because most of a
/// device's message is inside strings.
fn skip_plain(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    const SPACES: u64 = ONES * b' ' as u64;
    while let Some(chunk) = text.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("the slice has eight bytes"));
        let (quote, backslash) = (word ^ QUOTES, word ^ BACKSLASHES);
        // The classic zero-byte test, three times; its false positives come only after a true one.
        let stops = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(SPACES) & !word);
        let stops = stops & HIGHS;
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|&b| b != b'"' && b != b'\\' && b >= b' ') {
        at += 1;
    }
    at
}
