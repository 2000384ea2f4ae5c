//! Functions of texts. Positions and lengths count Unicode scalar values.

use std::borrow::Cow;

use super::{Call, count, subject, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::{integer, join};
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

pub(super) fn upper<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let text = subject(&mut args[0], "upper()")?;
    call.meter.bytes(text.len())?;
    Ok(text.to_uppercase().into())
}

pub(super) fn lower<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let text = subject(&mut args[0], "lower()")?;
    call.meter.bytes(text.len())?;
    Ok(text.to_lowercase().into())
}

/// Several values, or one array of them, as one text.
pub(super) fn concat<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    if let [single] = args
        && single.is_array()
    {
        let items = super::elements(call, single, "concat()")?;
        return join(&items.iter().collect::<Vec<_>>(), call.meter);
    }
    join(&args.iter().collect::<Vec<_>>(), call.meter)
}

pub(super) fn strlen<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let text = subject(&mut args[0], "strlen()")?;
    call.meter.scan(text.len())?;
    Ok(count(text.chars().count()))
}

/// From a position that counts from 0, to the end or for a number of characters.
pub(super) fn substr<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let position = |value: &Value<'_>, expected| {
        let number = integer(value, "substr()")?;
        usize::try_from(number).map_err(|_| Error::InvalidArgument { operation: "substr()", expected })
    };
    let start = position(&args[1], "a start from 0")?;
    let length = args.get(2).map(|length| position(length, "a length from 0")).transpose()?;
    let text = subject(&mut args[0], "substr()")?;
    call.meter.scan(text.len())?;
    let offset = |text: &str, chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let from = offset(&text, start);
    let to = length.map_or(text.len(), |length| from + offset(&text[from..], length));
    slice(call, text, from, to)
}

pub(super) fn trim<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    trimmed(call, args, "trim()", Side::BOTH)
}

pub(super) fn ltrim<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    trimmed(call, args, "ltrim()", Side { start: true, end: false })
}

pub(super) fn rtrim<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    trimmed(call, args, "rtrim()", Side { start: false, end: true })
}

#[derive(Clone, Copy)]
struct Side {
    start: bool,
    end: bool,
}

impl Side {
    const BOTH: Self = Self { start: true, end: true };
}

/// Without white space, or the given characters, on the sides.
fn trimmed<'r>(
    call: &mut Call<'_, 'r>,
    args: &mut [Value<'r>],
    name: &'static str,
    side: Side,
) -> Result<'r> {
    let characters = args.get_mut(1).map(|chars| text(chars, name)).transpose()?;
    let text = subject(&mut args[0], name)?;
    // Each character may be looked for among all of those to strip.
    call.meter.scan(text.len().saturating_mul(characters.as_ref().map_or(1, |chars| chars.len())))?;
    let goes = |c: char| characters.as_ref().map_or(is_blank(c), |chars| chars.contains(c));
    let kept = if side.start { text.trim_start_matches(goes) } else { &text };
    let from = text.len() - kept.len();
    let kept = if side.end { kept.trim_end_matches(goes) } else { kept };
    let to = from + kept.len();
    slice(call, text, from, to)
}

/// Unicode's pattern white space. A space that must not break, or that fills a column, is part of a text.
fn is_blank(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ' | '\u{85}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}')
}

/// The parts between separators. Empty parts are left out unless the mode says `notrim`; `leading` and `trailing`
/// split at the first or last separator only.
pub(super) fn split<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let mode = args.get_mut(2).map(|mode| text(mode, "split()")).transpose()?;
    let separator = text(&mut args[1], "split()")?;
    let text = subject(&mut args[0], "split()")?;
    call.meter.scan(text.len())?;
    let mode = mode.as_deref().unwrap_or("trim");
    let keeps_empty = matches!(mode, "notrim" | "leading_notrim" | "trailing_notrim");
    let ranges: Vec<(usize, usize)> = {
        let at_once = |found: Option<usize>| match found {
            Some(at) => vec![(0, at), (at + separator.len(), text.len())],
            None => vec![(0, text.len())],
        };
        match mode {
            "trim" | "notrim" | "leading" | "leading_notrim" | "trailing" | "trailing_notrim"
                if separator.is_empty() =>
            {
                vec![(0, text.len())]
            }
            "trim" | "notrim" => {
                let mut ranges = Vec::new();
                let mut from = 0;
                for (at, _) in text.match_indices(&*separator) {
                    call.meter.elements(1)?;
                    ranges.push((from, at));
                    from = at + separator.len();
                }
                ranges.push((from, text.len()));
                ranges
            }
            "leading" | "leading_notrim" => at_once(text.find(&*separator)),
            "trailing" | "trailing_notrim" => at_once(text.rfind(&*separator)),
            _ => {
                let expected = "the mode notrim, leading, leading_notrim, trailing or trailing_notrim";
                return Err(Error::InvalidArgument { operation: "split()", expected });
            }
        }
    };
    slices(call, &text, ranges.into_iter().filter(|(from, to)| keeps_empty || from < to))
}

/// Several parts of a text as an array, borrowed where the text is.
pub(super) fn slices<'r>(
    call: &mut Call<'_, 'r>,
    text: &Cow<'r, str>,
    ranges: impl Iterator<Item = (usize, usize)>,
) -> Result<'r> {
    let mut parts = Vec::new();
    for (from, to) in ranges {
        parts.push(match text {
            Cow::Borrowed(text) => Value::from(&text[from..to]),
            Cow::Owned(text) => {
                call.meter.bytes(to - from)?;
                Value::from(text[from..to].to_owned())
            }
        });
    }
    Ok(Value::array(parts))
}

/// A part of a text, borrowed where the text is.
pub(super) fn slice<'r>(call: &mut Call<'_, 'r>, text: Cow<'r, str>, from: usize, to: usize) -> Result<'r> {
    match text {
        Cow::Borrowed(text) => Ok(Value::Str(Cow::Borrowed(&text[from..to]))),
        Cow::Owned(text) => {
            call.meter.bytes(to - from)?;
            Ok(Value::Str(Cow::Owned(text[from..to].to_owned())))
        }
    }
}
