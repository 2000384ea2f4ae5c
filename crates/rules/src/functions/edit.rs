//! Functions that look for parts of texts and change them.

use std::borrow::Cow;

use super::text::{slice, slices};
use super::{Call, elements, subject, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::integer;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// The characters in the opposite order.
pub(super) fn reverse<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let text = subject(&mut args[0], "reverse()")?;
    call.meter.bytes(text.len())?;
    Ok(text.chars().rev().collect::<String>().into())
}

/// `pad(text, length, side, with)`: made longer until it has that many characters. Where `with` has several
/// characters, it counts as one.
pub(super) fn pad<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "pad()";
    let length = usize::try_from(integer(&args[1], NAME)?).unwrap_or(0);
    let side = args.get_mut(2).map_or(Ok(Cow::Borrowed("trailing")), |side| text(side, NAME))?;
    let with = args.get_mut(3).map_or(Ok(Cow::Borrowed(" ")), |with| text(with, NAME))?;
    let text = subject(&mut args[0], NAME)?;
    call.meter.scan(text.len())?;
    let missing = length.saturating_sub(text.chars().count());
    let (before, after) = match &*side {
        "trailing" => (0, missing),
        "leading" => (missing, 0),
        "both" => (missing / 2, missing - missing / 2),
        _ => {
            let expected = "the side trailing, leading or both";
            return Err(Error::InvalidArgument { operation: NAME, expected });
        }
    };
    if missing == 0 {
        return Ok(Value::Str(text));
    }
    call.meter.bytes(text.len().saturating_add(missing.saturating_mul(with.len())))?;
    Ok(format!("{}{text}{}", with.repeat(before), with.repeat(after)).into())
}

/// `replace(text, part, by, which)`: all occurrences of the part, or the first (`leading`) or last (`trailing`).
pub(super) fn replace<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "replace()";
    let which = args.get_mut(3).map_or(Ok(Cow::Borrowed("all")), |which| text(which, NAME))?;
    let by = text(&mut args[2], NAME)?;
    let part = text(&mut args[1], NAME)?;
    let text = subject(&mut args[0], NAME)?;
    call.meter.scan(text.len())?;
    let single = |found: Option<usize>| found.into_iter().collect();
    let found: Vec<usize> = match &*which {
        "all" | "leading" | "trailing" if part.is_empty() => Vec::new(),
        "all" => {
            call.meter.elements(text.matches(&*part).count())?;
            text.match_indices(&*part).map(|(at, _)| at).collect()
        }
        "leading" => single(text.find(&*part)),
        "trailing" => single(text.rfind(&*part)),
        _ => {
            let expected = "all, leading or trailing";
            return Err(Error::InvalidArgument { operation: NAME, expected });
        }
    };
    if found.is_empty() {
        return Ok(Value::Str(text));
    }
    call.meter.bytes(text.len().saturating_add(found.len().saturating_mul(by.len())))?;
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for at in found {
        out.push_str(&text[done..at]);
        out.push_str(&by);
        done = at + part.len();
    }
    out.push_str(&text[done..]);
    Ok(out.into())
}

/// The text from the first (or, `trailing`, the last) occurrence of a part on; empty where there is none.
pub(super) fn find<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "find()";
    let which = args.get_mut(2).map_or(Ok(Cow::Borrowed("leading")), |which| text(which, NAME))?;
    let part = text(&mut args[1], NAME)?;
    let text = subject(&mut args[0], NAME)?;
    call.meter.scan(text.len())?;
    let at = match &*which {
        // Everything begins with an empty text.
        "leading" | "trailing" if part.is_empty() => Some(0),
        "leading" => text.find(&*part),
        "trailing" => text.rfind(&*part),
        _ => return Err(Error::InvalidArgument { operation: NAME, expected: "leading or trailing" }),
    };
    let (from, to) = (at.unwrap_or(text.len()), text.len());
    slice(call, text, from, to)
}

/// The parts between any of the separator's characters, without the empty ones. With `nocrlf` line ends separate
/// too.
pub(super) fn tokens<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "tokens()";
    let line_ends = match args.get_mut(2).map(|mode| text(mode, NAME)).transpose()?.as_deref() {
        None => false,
        Some("nocrlf") => true,
        Some(_) => return Err(Error::InvalidArgument { operation: NAME, expected: "the mode nocrlf" }),
    };
    let separators = text(&mut args[1], NAME)?;
    let text = subject(&mut args[0], NAME)?;
    // Each character may be looked for among all separators.
    call.meter.scan(text.len().saturating_mul(separators.len() + 1))?;
    let separates = |c: char| separators.contains(c) || (line_ends && matches!(c, '\r' | '\n'));
    let mut ranges = Vec::new();
    let mut from = 0;
    for (at, separator) in text.match_indices(separates) {
        if from < at {
            call.meter.elements(1)?;
            ranges.push((from, at));
        }
        from = at + separator.len();
    }
    if from < text.len() {
        ranges.push((from, text.len()));
    }
    slices(call, &text, ranges.into_iter())
}

/// A text without its prefix; as it is where it begins otherwise.
pub(super) fn rm_prefix<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let prefix = text(&mut args[1], "rm_prefix()")?;
    let text = subject(&mut args[0], "rm_prefix()")?;
    let from = if text.starts_with(&*prefix) { prefix.len() } else { 0 };
    let to = text.len();
    slice(call, text, from, to)
}

/// The first byte of a text in UTF-8, which for ASCII is the character.
pub(super) fn ascii<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let text = subject(&mut args[0], "ascii()")?;
    let first = text.as_bytes().first();
    let expected = "a text that is not empty";
    first.map(|b| Value::Int((*b).into())).ok_or(Error::InvalidArgument { operation: "ascii()", expected })
}

/// An array's elements as texts with a separator, `, ` by default, between them.
pub(super) fn join_to_string<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "join_to_string()";
    let (separator, array) = match args {
        [array] => (Cow::Borrowed(", "), array),
        [separator, array, ..] => (text(separator, NAME)?, array),
        [] => return Ok(Value::Undefined),
    };
    let items = elements(call, array, NAME)?;
    call.meter.bytes(separator.len().saturating_mul(items.len()))?;
    let separator = Value::Str(separator);
    let mut parts = Vec::with_capacity(items.len() * 2);
    for item in &items {
        if !parts.is_empty() {
            parts.push(&separator);
        }
        parts.push(item);
    }
    crate::operators::join(&parts, call.meter)
}

/// An array's elements as literals of SQL: texts, and anything else that is not a number, in single quotes.
pub(super) fn join_to_sql_values_string<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let items = elements(call, &args[0], "join_to_sql_values_string()")?;
    let mut out = String::new();
    for item in &items {
        if !out.is_empty() {
            out.push_str(", ");
        }
        let mut written = Vec::new();
        item.write_text(&mut written);
        // A quote is written twice; there are no more characters than bytes.
        call.meter.bytes(written.len().saturating_mul(2) + 4)?;
        let written = String::from_utf8_lossy(&written);
        match item {
            Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => out.push_str(&written),
            Value::Undefined | Value::Null => out.push_str("NULL"),
            _ => {
                out.push('\'');
                out.push_str(&written.replace('\'', "''"));
                out.push('\'');
            }
        }
    }
    Ok(out.into())
}

/// A text with its escapes resolved: `\n`, `\t`, `\r`, `\b`, `\f`, `\v`, `\a`, `\\`, `\'`, `\"`, `\?`, and `\x`
/// with as many hexadecimal digits as follow it.
pub(super) fn unescape<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let invalid = || Error::InvalidArgument { operation: "unescape()", expected: "known escape sequences" };
    let text = subject(&mut args[0], "unescape()")?;
    call.meter.scan(text.len())?;
    if !text.contains('\\') {
        return Ok(Value::Str(text));
    }
    call.meter.bytes(text.len())?;
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let code = escape.chars().next().ok_or_else(invalid)?;
        rest = &escape[code.len_utf8()..];
        out.push(match code {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{C}',
            'v' => '\u{B}',
            'a' => '\u{7}',
            '\\' | '\'' | '"' | '?' => code,
            'x' => {
                let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
                let significant = rest[..digits].trim_start_matches('0');
                let number = if digits > 0 && significant.is_empty() { "0" } else { significant };
                let number = u32::from_str_radix(number, 16).map_err(|_| invalid())?;
                rest = &rest[digits..];
                char::from_u32(number).ok_or_else(invalid)?
            }
            _ => return Err(invalid()),
        });
    }
    out.push_str(rest);
    Ok(out.into())
}
