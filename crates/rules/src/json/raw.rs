//! Arrays and objects that stay text: found once, checked once, looked into only when a rule does.

use std::borrow::Cow;

use super::check::check;
use super::{JsonError, level, write_compact};
use crate::value::{Map, Value};

/// A JSON array or object, kept as the text that the device wrote and known to be valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawJson<'a> {
    /// Begins with `[` or `{` and ends with its counterpart.
    text: &'a str,
}

impl<'a> RawJson<'a> {
    /// Of a text that the reader has accepted.
    pub(super) fn checked(text: &'a str) -> Self {
        Self { text }
    }

    /// The text as it was written.
    pub fn text(self) -> &'a str {
        self.text
    }

    /// Whether it is an object rather than an array.
    pub fn is_object(self) -> bool {
        self.text.starts_with('{')
    }

    /// The value under a name; of several the last. Undefined in an array.
    pub fn get(self, key: &str) -> Value<'a> {
        let found = self.members().filter(|(name, _)| &**name == key).last();
        found.map_or(Value::Undefined, |(_, value)| value)
    }

    /// The same, with a decimal as it was written.
    pub(crate) fn get_written(self, key: &str) -> Value<'a> {
        let mut walk = Walk::of(self, self.is_object());
        let members = std::iter::from_fn(|| Some((walk.next()?, walk.next()?)));
        let found = members.filter(|(name, _)| unescape(&name[1..name.len() - 1]) == key).last();
        found.map_or(Value::Undefined, |(_, value)| written(value))
    }

    /// The names and values of an object in the order of the text, with duplicates; nothing of an array.
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        let mut walk = Walk::of(self, self.is_object());
        std::iter::from_fn(move || {
            let name = walk.next()?;
            Some((unescape(&name[1..name.len() - 1]), value(walk.next()?)))
        })
    }

    /// The elements of an array; nothing of an object.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        Walk::of(self, !self.is_object()).map(value)
    }

    /// One level of it as a tree, its children still text.
    pub(crate) fn to_map(self) -> Map<'a> {
        let mut map = Map::default();
        for (name, value) in self.members() {
            map.insert(name, value);
        }
        map
    }
}

impl std::fmt::Debug for RawJson<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text)
    }
}

/// Reads a text whose values may outlive the reading: scalars and slices of it.
pub(crate) fn decode(text: &str) -> Result<Value<'_>, JsonError> {
    let (start, end) = check(text)?;
    Ok(value(&text[start..end]))
}

/// Steps over the children of a checked array or object: elements, or names and values in turn.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn of(json: RawJson<'a>, wanted: bool) -> Self {
        Self { text: json.text, at: if wanted { 1 } else { json.text.len() } }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at)?, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') {
            self.at += 1;
        }
        let start = self.at;
        if matches!(bytes[start], b']' | b'}') {
            return None;
        }
        self.at = value_end(bytes, start);
        Some(&self.text[start..self.at])
    }
}

/// One past the value that begins at `start` of a checked text.
fn value_end(bytes: &[u8], start: usize) -> usize {
    match bytes[start] {
        b'"' => string_end(bytes, start),
        b'{' | b'[' => level::nested_end(bytes, start).unwrap_or(bytes.len()),
        _ => {
            let is_over =
                |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
            bytes[start..].iter().position(is_over).map_or(bytes.len(), |length| start + length)
        }
    }
}

/// One past the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// A checked value without surrounding white space.
fn value(text: &str) -> Value<'_> {
    match text.as_bytes().first() {
        Some(b'{' | b'[') => Value::Json(RawJson::checked(text)),
        Some(b'"') => Value::Str(unescape(&text[1..text.len() - 1])),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        _ => number(text),
    }
}

/// The same where it is passed on and not computed with: a decimal stays as it was written.
pub(super) fn written(text: &str) -> Value<'_> {
    match value(text) {
        Value::Float(float) if !is_printed_as(float, text) => Value::BigNumber(text.into()),
        value => value,
    }
}

/// A value for computing with, of one that was kept as it was written.
pub(crate) fn computable(value: Value<'_>) -> Value<'_> {
    let digits = match &value {
        Value::BigNumber(digits) if digits.contains(['.', 'e', 'E']) => digits.parse().ok(),
        _ => None,
    };
    digits.filter(|float: &f64| float.is_finite()).map_or(value, Value::Float)
}

fn is_printed_as(float: f64, text: &str) -> bool {
    /// Digits that a float always holds, and a sign or a point.
    const EXACT_BYTES: usize = 16;
    let is_plain = text.len() <= EXACT_BYTES
        && !text.contains(['e', 'E'])
        && !text.trim_start_matches('-').starts_with("0.0000")
        && (!text.ends_with('0') || text.ends_with(".0"));
    is_plain || {
        let mut printed = Vec::with_capacity(text.len());
        super::write_f64(float, &mut printed);
        printed == text.as_bytes()
    }
}

/// A checked number: the smallest kind that holds it exactly as it was meant.
pub(super) fn number(text: &str) -> Value<'_> {
    let is_integer = !text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E'));
    if is_integer {
        return text.parse().map_or_else(|_| Value::BigNumber(text.into()), Value::Int);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Value::Float(value),
        _ => Value::BigNumber(text.into()),
    }
}

/// The text between the quotes of a checked string with its escapes resolved; borrowed where there are none.
pub(crate) fn unescape(written: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', written.as_bytes()) else { return Cow::Borrowed(written) };
    let mut out = String::with_capacity(written.len());
    out.push_str(&written[..first]);
    let mut rest = &written[first..];
    while let Some(escape) = rest.strip_prefix('\\') {
        let (c, len) = match escape.as_bytes().first() {
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{C}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(b'u') => code_point(escape),
            Some(&b) if b.is_ascii() => (char::from(b), 1),
            _ => break,
        };
        out.push(c);
        rest = &escape[len..];
        let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        out.push_str(&rest[..plain]);
        rest = &rest[plain..];
    }
    Cow::Owned(out)
}

/// The character of `uXXXX`, or of two of them that are a surrogate pair, and the bytes that it took.
fn code_point(escape: &str) -> (char, usize) {
    let unit = |at: usize| escape.get(at..at + 4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let Some(first) = unit(1) else { return (char::REPLACEMENT_CHARACTER, 1) };
    if let Some(c) = char::from_u32(first) {
        return (c, 5);
    }
    let low = if escape.get(5..7) == Some("\\u") { unit(7) } else { None };
    match low {
        Some(low @ 0xDC00..=0xDFFF) if first < 0xDC00 => {
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (low - 0xDC00);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11)
        }
        _ => (char::REPLACEMENT_CHARACTER, 5),
    }
}

impl RawJson<'_> {
    /// Appends it without the white space between values.
    pub fn write_compact(self, out: &mut Vec<u8>) {
        write_compact(self.text, out);
    }
}
