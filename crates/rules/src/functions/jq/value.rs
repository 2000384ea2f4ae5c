//! What jq's operators do with values. Texts, numbers and the others have an order; what is missing is null.

use std::cmp::Ordering;

use super::run::{Flow, Stop, error};
use super::syntax::{Format, Operator};
use crate::error::EvalErrorKind;
use crate::meter::Meter;
use crate::value::{Map, Value};

pub(super) fn is_true(value: &Value<'_>) -> bool {
    !matches!(value, Value::Undefined | Value::Null | Value::Bool(false))
}

pub(super) fn type_name(value: &Value<'_>) -> &'static str {
    match value {
        Value::Undefined | Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => "number",
        Value::Str(_) | Value::Bytes(_) => "string",
        value if value.is_array() => "array",
        _ => "object",
    }
}

/// The elements of an array, which are charged for.
pub(super) fn elements<'r>(meter: &mut Meter, value: &Value<'r>) -> Flow<'r, Option<Vec<Value<'r>>>> {
    if let Value::Json(json) = value {
        meter.scan(json.text().len())?;
    }
    let items = value.elements();
    meter.elements(items.as_ref().map_or(0, Vec::len))?;
    Ok(items)
}

/// The members of an object, likewise.
pub(super) fn members<'r>(meter: &mut Meter, value: &Value<'r>) -> Flow<'r, Option<Map<'r>>> {
    if let Value::Json(json) = value {
        meter.scan(json.text().len())?;
    }
    let map = value.members().map(std::borrow::Cow::into_owned);
    meter.elements(map.as_ref().map_or(0, Map::len))?;
    Ok(map)
}

/// The elements of an array, or an error that says who needs it.
pub(super) fn array<'r>(meter: &mut Meter, value: &Value<'r>, who: &str) -> Flow<'r, Vec<Value<'r>>> {
    match elements(meter, value)? {
        Some(items) => Ok(items),
        None => error(format!("{who} needs an array, not {}", type_name(value))),
    }
}

pub(super) fn text<'v, 'r>(value: &'v Value<'r>, who: &str) -> Flow<'r, &'v str> {
    match value {
        Value::Str(text) => Ok(text),
        other => error(format!("{who} needs a string, not {}", type_name(other))),
    }
}

#[expect(clippy::cast_precision_loss, reason = "jq's numbers are floats")]
pub(super) fn float<'r>(value: &Value<'_>, who: &str) -> Flow<'r, f64> {
    match value {
        Value::Int(value) => Ok(*value as f64),
        Value::Float(value) => Ok(*value),
        Value::BigNumber(digits) => digits.parse().map_err(|_| Stop::Fail(EvalErrorKind::Overflow)),
        other => error(format!("{who} needs a number, not {}", type_name(other))),
    }
}

/// A float as jq has it: without a fraction it is an integer.
#[expect(clippy::cast_precision_loss, reason = "the limit is where floats stop holding every integer")]
pub(super) fn number<'r>(value: f64) -> Flow<'r, Value<'r>> {
    const EXACT: f64 = (1_i64 << 53) as f64;
    if !value.is_finite() {
        return Err(Stop::Fail(EvalErrorKind::Overflow));
    }
    Ok(if value.fract() == 0.0 && value.abs() <= EXACT {
        Value::Int(value as i64)
    } else {
        Value::Float(value)
    })
}

pub(super) fn negate<'r>(value: &Value<'_>) -> Flow<'r, Value<'r>> {
    number(-float(value, "-")?)
}

pub(super) fn binary<'r>(
    meter: &mut Meter,
    operator: Operator,
    left: &Value<'r>,
    right: &Value<'r>,
) -> Flow<'r, Value<'r>> {
    match operator {
        Operator::Add => add(meter, left, right),
        Operator::Subtract => subtract(meter, left, right),
        Operator::Multiply => multiply(meter, left, right),
        Operator::Divide => divide(meter, left, right),
        Operator::Remainder => remainder(left, right),
        _ => {
            meter.walk(left)?;
            meter.walk(right)?;
            let ordering = order(left, right);
            Ok(Value::Bool(match operator {
                Operator::Equal => ordering.is_eq(),
                Operator::NotEqual => ordering.is_ne(),
                Operator::Less => ordering.is_lt(),
                Operator::LessOrEqual => ordering.is_le(),
                Operator::Greater => ordering.is_gt(),
                _ => ordering.is_ge(),
            }))
        }
    }
}

fn wrong<'r, T>(left: &Value<'_>, right: &Value<'_>, what: &str) -> Flow<'r, T> {
    error(format!("{} and {} cannot be {what}", type_name(left), type_name(right)))
}

fn is_null(value: &Value<'_>) -> bool {
    matches!(value, Value::Undefined | Value::Null)
}

fn add<'r>(meter: &mut Meter, left: &Value<'r>, right: &Value<'r>) -> Flow<'r, Value<'r>> {
    match (left, right) {
        (null, value) | (value, null) if is_null(null) => Ok(value.clone()),
        (Value::Int(l), Value::Int(r)) if l.checked_add(*r).is_some() => Ok(Value::Int(l + r)),
        (Value::Str(l), Value::Str(r)) => {
            meter.bytes(l.len() + r.len())?;
            Ok(format!("{l}{r}").into())
        }
        _ if type_name(left) == "number" && type_name(right) == "number" => {
            number(float(left, "+")? + float(right, "+")?)
        }
        _ => {
            if let (Some(mut l), Some(r)) = (elements(meter, left)?, elements(meter, right)?) {
                l.extend(r);
                return Ok(Value::array(l));
            }
            if let (Some(mut l), Some(r)) = (members(meter, left)?, members(meter, right)?) {
                l.extend(r);
                return Ok(Value::map(l));
            }
            wrong(left, right, "added")
        }
    }
}

fn subtract<'r>(meter: &mut Meter, left: &Value<'r>, right: &Value<'r>) -> Flow<'r, Value<'r>> {
    if let (Value::Int(l), Value::Int(r)) = (left, right)
        && let Some(difference) = l.checked_sub(*r)
    {
        return Ok(Value::Int(difference));
    }
    if let (Some(mut l), Some(r)) = (elements(meter, left)?, elements(meter, right)?) {
        for item in &r {
            meter.steps(l.len())?;
            meter.walk(left)?;
            l.retain(|kept| order(kept, item).is_ne());
        }
        return Ok(Value::array(l));
    }
    if type_name(left) != "number" || type_name(right) != "number" {
        return wrong(left, right, "subtracted");
    }
    number(float(left, "-")? - float(right, "-")?)
}

/// Numbers; a text as often as a number says; objects merged at every level.
fn multiply<'r>(meter: &mut Meter, left: &Value<'r>, right: &Value<'r>) -> Flow<'r, Value<'r>> {
    match (left, right) {
        (Value::Int(l), Value::Int(r)) if l.checked_mul(*r).is_some() => Ok(Value::Int(l * r)),
        (Value::Str(text), times) | (times, Value::Str(text)) if type_name(times) == "number" => {
            let times = float(times, "*")?;
            if times <= 0.0 {
                return Ok(Value::Null);
            }
            // What is larger than any limit fails at the meter.
            let times = usize::try_from(times.max(1.0) as i64).unwrap_or(usize::MAX);
            meter.bytes(text.len().saturating_mul(times))?;
            Ok(text.repeat(times).into())
        }
        _ if type_name(left) == "number" && type_name(right) == "number" => {
            number(float(left, "*")? * float(right, "*")?)
        }
        _ if left.is_map() && right.is_map() => merge(meter, left, right),
        _ => wrong(left, right, "multiplied"),
    }
}

fn merge<'r>(meter: &mut Meter, left: &Value<'r>, right: &Value<'r>) -> Flow<'r, Value<'r>> {
    let (Some(mut l), Some(r)) = (members(meter, left)?, members(meter, right)?) else {
        return Ok(right.clone());
    };
    for (name, value) in r {
        let merged = match l.get(&name) {
            Some(before) if before.is_map() && value.is_map() => merge(meter, before, &value)?,
            _ => value,
        };
        l.insert(name, merged);
    }
    Ok(Value::map(l))
}

fn divide<'r>(meter: &mut Meter, left: &Value<'r>, right: &Value<'r>) -> Flow<'r, Value<'r>> {
    if let (Value::Str(text), Value::Str(separator)) = (left, right) {
        return split(meter, text, separator);
    }
    if type_name(left) != "number" || type_name(right) != "number" {
        return wrong(left, right, "divided");
    }
    let by = float(right, "/")?;
    if by == 0.0 {
        return wrong(left, right, "divided because the divisor is zero");
    }
    number(float(left, "/")? / by)
}

pub(super) fn split<'r>(meter: &mut Meter, text: &str, separator: &str) -> Flow<'r, Value<'r>> {
    meter.scan(text.len())?;
    let parts: Vec<&str> = match separator {
        _ if text.is_empty() => Vec::new(),
        "" => text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect(),
        _ => text.split(separator).collect(),
    };
    meter.elements(parts.len())?;
    meter.bytes(text.len())?;
    Ok(Value::array(parts.into_iter().map(|part| part.to_owned().into()).collect()))
}

/// Of the integers that the numbers are cut to, with the sign of the left one.
fn remainder<'r>(left: &Value<'r>, right: &Value<'r>) -> Flow<'r, Value<'r>> {
    if type_name(left) != "number" || type_name(right) != "number" {
        return wrong(left, right, "divided");
    }
    let (l, r) = (float(left, "%")? as i64, float(right, "%")? as i64);
    match l.checked_rem(r) {
        Some(remainder) => Ok(Value::Int(remainder)),
        None if r == 0 => wrong(left, right, "divided because the divisor is zero"),
        None => Ok(Value::Int(0)),
    }
}

/// null, false, true, numbers, texts, arrays, objects.
pub(super) fn order(left: &Value<'_>, right: &Value<'_>) -> Ordering {
    let rank = |value: &Value<'_>| match value {
        Value::Undefined | Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => 3,
        Value::Str(_) | Value::Bytes(_) => 4,
        value if value.is_array() => 5,
        _ => 6,
    };
    rank(left).cmp(&rank(right)).then_with(|| {
        if let (Some(l), Some(r)) = (left.elements(), right.elements()) {
            let unequal = l.iter().zip(&r).map(|(l, r)| order(l, r)).find(|ordering| ordering.is_ne());
            return unequal.unwrap_or_else(|| l.len().cmp(&r.len()));
        }
        if let (Some(l), Some(r)) = (left.members(), right.members()) {
            let by_value = || l.values().zip(r.values()).map(|(l, r)| order(l, r)).find(|o| o.is_ne());
            return l.keys().cmp(r.keys()).then_with(|| by_value().unwrap_or(Ordering::Equal));
        }
        if rank(left) <= 2 { Ordering::Equal } else { crate::operators::order(left, right) }
    })
}

/// A value as JSON.
pub(super) fn json<'r>(meter: &mut Meter, value: &Value<'_>) -> Flow<'r, String> {
    meter.make(value)?;
    let mut out = Vec::new();
    value.write_json(&mut out);
    meter.bytes(out.len())?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// A text as it is, and anything else as JSON.
pub(super) fn plain<'r>(meter: &mut Meter, value: &Value<'_>) -> Flow<'r, String> {
    match value {
        Value::Str(text) => {
            meter.bytes(text.len())?;
            Ok(text.to_string())
        }
        other => json(meter, other),
    }
}

pub(super) fn format<'r>(meter: &mut Meter, format: Format, value: &Value<'r>) -> Flow<'r, String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let escaped = |text: &str, meter: &mut Meter, escape: fn(char) -> Option<&'static str>| {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match escape(c) {
                Some(escaped) => out.push_str(escaped),
                None => out.push(c),
            }
        }
        meter.bytes(out.len()).map(|()| out)
    };
    Ok(match format {
        Format::Text => plain(meter, value)?,
        Format::Json => json(meter, value)?,
        Format::Html => {
            let text = plain(meter, value)?;
            escaped(&text, meter, |c| match c {
                '<' => Some("&lt;"),
                '>' => Some("&gt;"),
                '&' => Some("&amp;"),
                '\'' => Some("&#39;"),
                '"' => Some("&quot;"),
                _ => None,
            })?
        }
        Format::Uri => {
            let text = plain(meter, value)?;
            meter.bytes(text.len().saturating_mul(3))?;
            let mut out = String::new();
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push('%');
                    out.extend(
                        [byte >> 4, byte & 15].map(|d| char::from(b"0123456789ABCDEF"[usize::from(d)])),
                    );
                }
            }
            out
        }
        Format::Base64 => {
            let text = plain(meter, value)?;
            meter.bytes(text.len().saturating_mul(2))?;
            STANDARD.encode(text)
        }
        Format::Base64Decode => {
            let text = plain(meter, value)?;
            let decoded = STANDARD.decode(text.trim_end_matches('=')).or_else(|_| STANDARD.decode(&text));
            match decoded {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(_) => return error("this is no base64"),
            }
        }
        Format::Csv => {
            joined(meter, value, "@csv", ",", |text| format!("\"{}\"", text.replace('"', "\"\"")))?
        }
        Format::Tsv => joined(meter, value, "@tsv", "\t", |text| {
            text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
        })?,
        Format::Sh => {
            let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
            if value.is_array() {
                joined(meter, value, "@sh", " ", quote)?
            } else if let Value::Str(text) = value {
                meter.bytes(text.len().saturating_mul(4))?;
                quote(text)
            } else {
                json(meter, value)?
            }
        }
    })
}

/// The elements of an array, texts among them quoted.
fn joined<'r>(
    meter: &mut Meter,
    value: &Value<'r>,
    who: &str,
    separator: &str,
    quote: impl Fn(&str) -> String,
) -> Flow<'r, String> {
    let mut out = String::new();
    for (position, item) in array(meter, value, who)?.iter().enumerate() {
        if position > 0 {
            out.push_str(separator);
        }
        match item {
            Value::Str(text) => {
                meter.bytes(text.len().saturating_mul(4))?;
                out.push_str(&quote(text));
            }
            null if is_null(null) => {}
            item if item.is_array() || item.is_map() => {
                return error(format!("{who} takes no {} in its array", type_name(item)));
            }
            item => out.push_str(&json(meter, item)?),
        }
    }
    Ok(out)
}
