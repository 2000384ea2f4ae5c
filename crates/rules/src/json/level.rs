//! The members of one object or the elements of one array: found once, shared by every rule that asks for one.
//!
//! Everything on the level is checked: names, commas, and values that are no arrays and no objects. What is nested is
//! stepped over, sixty-four bytes at a time, and checked only for strings that end, brackets that fit and depth. It is
//! checked itself when somebody looks into it or takes it.

use super::check::{self, Kind, Open};
use super::mask::{BLOCK_BYTES, masks};
use super::{JsonError, JsonProblem, MAX_JSON_DEPTH, RawJson, raw};
use crate::value::Value;

/// Values whose memory is kept for the next message (12 bytes each); one huge message does not hold its share of
/// every thread's memory for ever.
const KEPT_ENTRIES: usize = 16 * 1024;

/// One value on the level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    start: u32,
    end: u32,
    kind: Kind,
}

impl Entry {
    pub(crate) fn is_string(self) -> bool {
        matches!(self.kind, Kind::Plain | Kind::Escaped)
    }

    pub(crate) fn is_nested(self) -> bool {
        matches!(self.kind, Kind::Object | Kind::Array)
    }

    /// Its part of the text, and where that begins.
    pub(crate) fn part(self, text: &str) -> (&str, usize) {
        (&text[self.start as usize..self.end as usize], self.start as usize)
    }
}

/// Where the values of a level are, in the text that was read last. Its memory is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Level {
    /// All of it.
    root: Option<Entry>,
    /// Elements, or names and values in turn.
    entries: Vec<Entry>,
}

impl Level {
    /// Reads the outermost level of `text`, which must be given again to look things up.
    pub(crate) fn read(&mut self, text: &str) -> Result<(), JsonError> {
        self.root = None;
        self.entries.clear();
        self.entries.shrink_to(KEPT_ENTRIES);
        let (text, start) = check::begin(text)?;
        let (end, kind) = match text[start] {
            b'{' => (self.members(text, start + 1)?, Kind::Object),
            b'[' => (self.elements(text, start + 1)?, Kind::Array),
            _ => check::scalar_end(text, start)?,
        };
        check::end(text, end)?;
        self.root = Some(Entry { start: start as u32, end: end as u32, kind });
        Ok(())
    }

    /// The names and values of an object, up to one past its end.
    fn members(&mut self, text: &[u8], start: usize) -> Result<usize, JsonError> {
        let mut at = check::skip_blanks(text, start);
        if text.get(at) == Some(&b'}') {
            return Ok(at + 1);
        }
        loop {
            let (name_end, kind) = check::string_end(text, at)?;
            self.entries.push(Entry { start: at as u32, end: name_end as u32, kind });
            at = self.value_at(text, check::value_after(text, name_end)?)?;
            match next(text, at, b'}')? {
                Next::Another(next) => at = next,
                Next::End(end) => return Ok(end),
            }
        }
    }

    fn elements(&mut self, text: &[u8], start: usize) -> Result<usize, JsonError> {
        let mut at = check::skip_blanks(text, start);
        if text.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        loop {
            at = self.value_at(text, at)?;
            match next(text, at, b']')? {
                Next::Another(next) => at = next,
                Next::End(end) => return Ok(end),
            }
        }
    }

    /// Notes the value that begins at `at`; where it ends.
    fn value_at(&mut self, text: &[u8], at: usize) -> Result<usize, JsonError> {
        let (end, kind) = match text.get(at) {
            Some(b'{') => (nested_end(text, at)?, Kind::Object),
            Some(b'[') => (nested_end(text, at)?, Kind::Array),
            _ => check::scalar_end(text, at)?,
        };
        self.entries.push(Entry { start: at as u32, end: end as u32, kind });
        Ok(end)
    }

    /// The value that the text is.
    pub(crate) fn root(&self) -> Option<Entry> {
        self.root
    }

    /// The value under a name; of several the last.
    pub(crate) fn member(&self, key: &str, text: &str) -> Option<Entry> {
        let members = if self.root?.kind == Kind::Object { &*self.entries } else { &[] };
        let (members, _) = members.as_chunks::<2>();
        let found = members.iter().rev().find(|[name, _]| {
            let (start, end) = (name.start as usize + 1, name.end as usize - 1);
            // Most names differ in length, which needs no look at the text.
            match name.kind {
                Kind::Plain => end - start == key.len() && text.as_bytes()[start..end] == *key.as_bytes(),
                _ => raw::unescape(&text[start..end]) == key,
            }
        });
        found.map(|[_, value]| *value)
    }

    /// The element of an array: from 1, or negative from the end.
    pub(crate) fn element(&self, index: i64) -> Option<Entry> {
        let elements = if self.root?.kind == Kind::Array { &*self.entries } else { &[] };
        let from_front = match usize::try_from(index) {
            Ok(index) => index,
            Err(_) => (elements.len() + 1).checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
        };
        elements.get(from_front.checked_sub(1)?).copied()
    }
}

/// The value of an entry, borrowed from the text; where it is passed on and not computed with, a decimal stays as it
/// was written. An array or object is checked.
pub(crate) fn value(entry: Entry, text: &str, as_written: bool) -> Result<Value<'_>, JsonError> {
    let (written, start) = entry.part(text);
    Ok(match entry.kind {
        Kind::Object | Kind::Array => {
            check::check(written).map_err(|error| error.after(start))?;
            Value::Json(RawJson::checked(written))
        }
        Kind::Plain => Value::Str(written[1..written.len() - 1].into()),
        Kind::Escaped => Value::Str(raw::unescape(&written[1..written.len() - 1])),
        Kind::Number if as_written => raw::written(written),
        Kind::Number => raw::number(written),
        Kind::True => Value::Bool(true),
        Kind::False => Value::Bool(false),
        Kind::Null => Value::Null,
    })
}

enum Next {
    Another(usize),
    End(usize),
}

/// What follows a value: a comma and another one, or the end.
fn next(text: &[u8], at: usize, close: u8) -> Result<Next, JsonError> {
    let at = check::skip_blanks(text, at);
    match text.get(at) {
        Some(b',') => Ok(Next::Another(check::skip_blanks(text, at + 1))),
        Some(&byte) if byte == close => Ok(Next::End(at + 1)),
        Some(_) => Err(JsonError { problem: JsonProblem::Unexpected, at }),
        None => Err(JsonError { problem: JsonProblem::Truncated, at }),
    }
}

/// One past the array or object that begins at `start`, inside another one.
pub(super) fn nested_end(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let mut open = Open::default();
    let mut strings = Strings::default();
    let mut at = start;
    loop {
        let rest = &text[at..];
        let mut padded = [b' '; BLOCK_BYTES];
        let block = rest.first_chunk().unwrap_or_else(|| {
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        });
        let masks = masks(block);
        let inside = strings.inside(masks.quotes, masks.backslashes);
        let mut brackets = (masks.opens | masks.closes) & !inside;
        // A control character in a string is wrong if it comes before the end.
        let wrong = masks.controls & inside;
        while brackets != 0 {
            let bit = brackets & brackets.wrapping_neg();
            brackets ^= bit;
            let place = bit.trailing_zeros() as usize;
            let byte = block[place];
            if masks.opens & bit != 0 {
                open.push(byte, at + place, MAX_JSON_DEPTH - 1)?;
                continue;
            }
            open.pop(byte, at + place)?;
            if open.depth == 0 {
                return unexpected(wrong & (bit - 1), at).map(|()| at + place + 1);
            }
        }
        unexpected(wrong, at)?;
        at += BLOCK_BYTES;
        if at >= text.len() {
            return Err(JsonError { problem: JsonProblem::Truncated, at: text.len() });
        }
    }
}

/// An error at the first bit of a block, if it has one.
fn unexpected(bits: u64, block: usize) -> Result<(), JsonError> {
    let at = block + bits.trailing_zeros() as usize;
    if bits == 0 { Ok(()) } else { Err(JsonError { problem: JsonProblem::Unexpected, at }) }
}

/// Which bytes are inside strings, from block to block.
#[derive(Default)]
struct Strings {
    /// All bits set where the block before ended inside of one.
    open: u64,
    /// 1 where the block before ended with a backslash that takes the meaning from what follows it.
    escape: u64,
}

impl Strings {
    /// The bytes from an opening quote to the one before the closing quote.
    fn inside(&mut self, quotes: u64, backslashes: u64) -> u64 {
        let quotes = quotes & !self.escaped(backslashes);
        // Each bit becomes the parity of the quotes up to it.
        let inside = (0..6).fold(quotes, |parity, power| parity ^ parity << (1 << power)) ^ self.open;
        self.open = (inside.cast_signed() >> 63).cast_unsigned();
        inside
    }

    /// The bytes after a backslash that is not itself after one. Runs of backslashes that begin at even places are
    /// told from those at odd places by a subtraction, whose borrow runs through them.
    fn escaped(&mut self, backslashes: u64) -> u64 {
        const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
        if backslashes == 0 {
            return std::mem::take(&mut self.escape);
        }
        let first = backslashes & !self.escape;
        let codes = ((first << 1) | ODD).wrapping_sub(first) ^ ODD;
        let escaped = codes ^ (backslashes | self.escape);
        self.escape = (codes & backslashes) >> 63;
        escaped
    }
}
