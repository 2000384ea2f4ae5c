//! The one pass over a JSON text: checks all of it, and leaves a flat list of where its values begin and end.
//!
//! No recursion, no allocation once the list has grown to the size of a usual message, time linear in the text.

use super::{JsonError, JsonProblem, MAX_JSON_BYTES, MAX_JSON_DEPTH, raw};
use crate::value::Value;

/// Entries whose memory is kept for the next message (16 bytes each); one huge message does not hold its share of
/// every thread's memory for ever.
const KEPT_ENTRIES: usize = 16 * 1024;

/// One value of the text. Members of an object are two entries, name and value.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    end: u32,
    /// The entry after this value and everything in it.
    next: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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

/// Where the values of the last text are. Reused from message to message.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    entries: Vec<Entry>,
}

impl Tape {
    /// Reads `text`, which must be given again to look things up.
    pub(crate) fn read(&mut self, text: &str) -> Result<(), JsonError> {
        self.entries.clear();
        self.entries.shrink_to(KEPT_ENTRIES);
        if text.len() > MAX_JSON_BYTES {
            return Err(JsonError { problem: JsonProblem::TooLarge, at: MAX_JSON_BYTES });
        }
        let read = read(text.as_bytes(), &mut self.entries);
        if read.is_err() {
            self.entries.clear();
        }
        read
    }

    /// The whole text's value.
    pub(crate) fn root<'a>(&self, text: &'a str) -> Value<'a> {
        if self.entries.is_empty() { Value::Undefined } else { self.value(0, text) }
    }

    /// The value under `key` of an object at `entry`; of several the last.
    pub(crate) fn member(&self, entry: usize, key: &str, text: &str) -> Option<usize> {
        let object = self.entries.get(entry).filter(|e| e.kind == Kind::Object)?;
        let (mut at, mut found) = (entry + 1, None);
        while at < object.next as usize {
            let name = self.entries[at];
            let (start, end) = (name.start as usize + 1, name.end as usize - 1);
            // Most names differ in length, which needs no look at the text.
            let equal = match name.kind {
                Kind::Plain => end - start == key.len() && text.as_bytes()[start..end] == *key.as_bytes(),
                _ => raw::unescape(&text[start..end]) == key,
            };
            if equal {
                found = Some(at + 1);
            }
            at = self.entries[at + 1].next as usize;
        }
        found
    }

    /// The element of an array at `entry`: from 1, or negative from the end.
    pub(crate) fn element(&self, entry: usize, index: i64) -> Option<usize> {
        let array = self.entries.get(entry).filter(|e| e.kind == Kind::Array)?;
        let elements = || {
            let first = (entry + 1 < array.next as usize).then_some(entry + 1);
            std::iter::successors(first, |&at| {
                let next = self.entries[at].next as usize;
                (next < array.next as usize).then_some(next)
            })
        };
        let from_front = match usize::try_from(index) {
            Ok(index) => index,
            Err(_) => (elements().count() + 1).checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
        };
        elements().nth(from_front.checked_sub(1)?)
    }

    pub(crate) fn is_string(&self, entry: usize) -> bool {
        self.entries.get(entry).is_some_and(|e| matches!(e.kind, Kind::Plain | Kind::Escaped))
    }

    /// The value at an entry where it is passed on: a decimal as it was written.
    pub(crate) fn written<'a>(&self, entry: usize, text: &'a str) -> Value<'a> {
        match self.entries.get(entry) {
            Some(entry) if entry.kind == Kind::Number => {
                raw::written(&text[entry.start as usize..entry.end as usize])
            }
            _ => self.value(entry, text),
        }
    }

    /// The value at an entry, borrowed from the text.
    pub(crate) fn value<'a>(&self, entry: usize, text: &'a str) -> Value<'a> {
        let Some(entry) = self.entries.get(entry) else { return Value::Undefined };
        let written = &text[entry.start as usize..entry.end as usize];
        match entry.kind {
            Kind::Object | Kind::Array => Value::Json(raw::RawJson::checked(written)),
            Kind::Plain => Value::Str(written[1..written.len() - 1].into()),
            Kind::Escaped => Value::Str(raw::unescape(&written[1..written.len() - 1])),
            Kind::Number => raw::number(written),
            Kind::True => Value::Bool(true),
            Kind::False => Value::Bool(false),
            Kind::Null => Value::Null,
        }
    }
}

fn read(text: &[u8], entries: &mut Vec<Entry>) -> Result<(), JsonError> {
    // The arrays and objects around the current value.
    let mut open = [0_u32; MAX_JSON_DEPTH];
    let mut depth = 0;
    let mut is_object = false;
    let mut at = skip_blanks(text, if text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 });
    if at == text.len() {
        return Err(JsonError { problem: JsonProblem::Empty, at });
    }
    loop {
        // Here a value begins.
        let &byte = text.get(at).ok_or(JsonError { problem: JsonProblem::Truncated, at })?;
        match byte {
            b'"' => at = push_string(text, at, entries)?,
            b'-' | b'0'..=b'9' => at = push(entries, at, number_end(text, at)?, Kind::Number),
            b'{' | b'[' => {
                let slot = open.get_mut(depth).ok_or(JsonError { problem: JsonProblem::TooDeep, at })?;
                *slot = entries.len() as u32;
                depth += 1;
                is_object = byte == b'{';
                let kind = if is_object { Kind::Object } else { Kind::Array };
                entries.push(Entry { start: at as u32, end: 0, next: 0, kind });
                at = skip_blanks(text, at + 1);
                // An empty one ends below, as any other.
                if !matches!(text.get(at), Some(b'}' | b']')) {
                    if is_object {
                        at = push_name(text, at, entries)?;
                    }
                    continue;
                }
            }
            b't' => at = push(entries, at, literal(text, at, b"true")?, Kind::True),
            b'f' => at = push(entries, at, literal(text, at, b"false")?, Kind::False),
            b'n' => at = push(entries, at, literal(text, at, b"null")?, Kind::Null),
            _ => return Err(JsonError { problem: JsonProblem::Unexpected, at }),
        }
        // Here a value has ended, and maybe those around it.
        loop {
            at = skip_blanks(text, at);
            if depth == 0 {
                let trailing = JsonError { problem: JsonProblem::Trailing, at };
                return if at == text.len() { Ok(()) } else { Err(trailing) };
            }
            match text.get(at) {
                Some(b',') => {
                    at = skip_blanks(text, at + 1);
                    if is_object {
                        at = push_name(text, at, entries)?;
                    }
                    break;
                }
                Some(&byte) if byte == if is_object { b'}' } else { b']' } => {
                    at += 1;
                    depth -= 1;
                    let next = entries.len() as u32;
                    let closed = &mut entries[open[depth] as usize];
                    (closed.end, closed.next) = (at as u32, next);
                    is_object = depth > 0 && entries[open[depth - 1] as usize].kind == Kind::Object;
                }
                Some(_) => return Err(JsonError { problem: JsonProblem::Unexpected, at }),
                None => return Err(JsonError { problem: JsonProblem::Truncated, at }),
            }
        }
    }
}

fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The name of a member and its colon; where the value begins.
fn push_name(text: &[u8], at: usize, entries: &mut Vec<Entry>) -> Result<usize, JsonError> {
    let expect = |byte: u8, at: usize| match text.get(at) {
        Some(&found) if found == byte => Ok(()),
        Some(_) => Err(JsonError { problem: JsonProblem::Unexpected, at }),
        None => Err(JsonError { problem: JsonProblem::Truncated, at }),
    };
    expect(b'"', at)?;
    let colon = skip_blanks(text, push_string(text, at, entries)?);
    expect(b':', colon)?;
    Ok(skip_blanks(text, colon + 1))
}

/// Notes a value without children; gives back where it ends.
fn push(entries: &mut Vec<Entry>, start: usize, end: usize, kind: Kind) -> usize {
    let next = entries.len() as u32 + 1;
    entries.push(Entry { start: start as u32, end: end as u32, next, kind });
    end
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

fn push_string(text: &[u8], start: usize, entries: &mut Vec<Entry>) -> Result<usize, JsonError> {
    let mut at = start + 1;
    let mut kind = Kind::Plain;
    loop {
        at = skip_plain(text, at);
        match text.get(at) {
            Some(b'"') => {
                return Ok(push(entries, start, at + 1, kind));
            }
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
