//! What the operators do with every kind of value.

use std::borrow::Cow;
use std::cmp::Ordering;

use tidegate_topic::{TopicFilter, TopicName};

use crate::error::EvalErrorKind as Error;
use crate::meter::Meter;
use crate::syntax::ast::BinaryOp;
use crate::value::Value;

/// A value as a condition. What is missing or null is false; what is neither true nor false is an error.
pub(crate) fn truth(value: &Value<'_>) -> Result<bool, Error> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Undefined | Value::Null => Ok(false),
        other => Err(Error::NotACondition { found: other.kind() }),
    }
}

pub(crate) fn binary<'r>(
    op: BinaryOp,
    left: &Value<'r>,
    right: &Value<'r>,
    meter: &mut Meter,
) -> Result<Value<'r>, Error> {
    match op {
        BinaryOp::Add => add(left, right, meter),
        BinaryOp::Subtract | BinaryOp::Multiply | BinaryOp::Divide => arithmetic(op, left, right),
        BinaryOp::IntegerDivide | BinaryOp::Remainder => integer_division(op, left, right),
        BinaryOp::TopicMatch => topic_match(left, right).map(Value::Bool),
        BinaryOp::Join => match (left, right) {
            (Value::Undefined | Value::Null, _) | (_, Value::Undefined | Value::Null) => Ok(Value::Undefined),
            _ => join(&[left, right], meter),
        },
        _ => {
            meter.walk(left)?;
            meter.walk(right)?;
            compare(op, left, right).map(Value::Bool)
        }
    }
}

pub(crate) fn negate<'r>(value: &Value<'_>) -> Result<Value<'r>, Error> {
    match wide(value) {
        Some(value) => integer_value(value.checked_neg()),
        None if is_integer(value) => Err(Error::Overflow),
        None => Ok(Value::Float(-float(value, "-")?)),
    }
}

/// `[first..last]`
pub(crate) fn range<'r>(first: &Value<'_>, last: &Value<'_>, meter: &mut Meter) -> Result<Value<'r>, Error> {
    let (first, last) = (integer(first, "a range")?, integer(last, "a range")?);
    let count = i128::from(last) - i128::from(first) + 1;
    meter.elements(usize::try_from(count.max(0)).unwrap_or(usize::MAX))?;
    Ok(Value::array((first..=last).map(Value::Int).collect()))
}

/// `array[first..last]`, both from 1 or negative from the end; what lies outside the array is left out.
pub(crate) fn slice<'r>(
    array: &Value<'r>,
    first: i64,
    last: i64,
    meter: &mut Meter,
) -> Result<Value<'r>, Error> {
    let Some(items) = array.elements() else {
        return Err(Error::WrongType {
            operation: "a range index",
            expected: "an array",
            found: array.kind(),
        });
    };
    if first == 0 || last == 0 {
        return Err(Error::InvalidArgument { operation: "a range index", expected: "positions from 1" });
    }
    meter.elements(items.len())?;
    let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let from_front = |index: i64| if index < 0 { len.saturating_add(index) } else { index - 1 };
    let (first, last) = (from_front(first).max(0), from_front(last).min(len - 1));
    let count = usize::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(0);
    Ok(Value::array(items.into_iter().skip(usize::try_from(first).unwrap_or(0)).take(count).collect()))
}

/// Whether two values are the same: 1 is not 1.0, and a text is never a number. What IN, CASE and `contains` use.
pub(crate) fn same(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Undefined, Value::Undefined) | (Value::Null, Value::Null) => true,
        (Value::Bool(l), Value::Bool(r)) => l == r,
        (Value::Int(l), Value::Int(r)) => l == r,
        (Value::BigNumber(l), Value::BigNumber(r)) | (Value::Str(l), Value::Str(r)) => l == r,
        (Value::Float(l), Value::Float(r)) => l.total_cmp(r) == Ordering::Equal || (*l == 0.0 && *r == 0.0),
        (Value::Bytes(l), Value::Bytes(r)) => l == r,
        _ => {
            if let (Some(l), Some(r)) = (left.elements(), right.elements()) {
                return l.len() == r.len() && l.iter().zip(&r).all(|(l, r)| same(l, r));
            }
            if let (Some(l), Some(r)) = (left.members(), right.members()) {
                return l.len() == r.len()
                    && l.iter().zip(r.iter()).all(|(l, r)| l.0 == r.0 && same(l.1, r.1));
            }
            false
        }
    }
}

/// Both ends belong to it.
pub(crate) fn is_between(
    value: &Value<'_>,
    low: &Value<'_>,
    high: &Value<'_>,
    meter: &mut Meter,
) -> Result<bool, Error> {
    [value, low, high].into_iter().try_for_each(|v| meter.walk(v))?;
    Ok(compare(BinaryOp::GreaterOrEqual, value, low)? && compare(BinaryOp::LessOrEqual, value, high)?)
}

/// Whether a text is like a pattern, in which `%` stands for any characters, `_` for one, and a backslash takes the
/// meaning from what follows it. `None` where either is missing or null.
pub(crate) fn like(value: &Value<'_>, pattern: &Value<'_>, meter: &mut Meter) -> Result<Option<bool>, Error> {
    let text = |value: &Value<'_>| match value {
        Value::Str(text) => Ok(Some(text.to_string())),
        Value::Undefined | Value::Null => Ok(None),
        other => Err(Error::WrongType { operation: "LIKE", expected: "a text", found: other.kind() }),
    };
    meter.walk(value)?;
    meter.walk(pattern)?;
    let (Some(text), Some(pattern)) = (text(value)?, text(pattern)?) else { return Ok(None) };
    let pattern = like_pieces(&pattern);
    let (mut at, mut piece) = (0, 0);
    // Where to go on after the last `%` when what follows it does not fit.
    let mut retry = None;
    loop {
        meter.step()?;
        let next = text[at..].chars().next();
        match (pattern.get(piece), next) {
            (Some(LikePiece::Any), _) => {
                retry = Some((piece + 1, at));
                piece += 1;
                continue;
            }
            (None, None) => return Ok(Some(true)),
            (Some(LikePiece::One), Some(c)) => {
                (at, piece) = (at + c.len_utf8(), piece + 1);
                continue;
            }
            (Some(LikePiece::Char(wanted)), Some(c)) if *wanted == c => {
                (at, piece) = (at + c.len_utf8(), piece + 1);
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = retry else { return Ok(Some(false)) };
        let Some(skipped) = text[from..].chars().next() else { return Ok(Some(false)) };
        retry = Some((after, from + skipped.len_utf8()));
        (at, piece) = (from + skipped.len_utf8(), after);
    }
}

enum LikePiece {
    Any,
    One,
    Char(char),
}

fn like_pieces(pattern: &str) -> Vec<LikePiece> {
    let mut chars = pattern.chars();
    let mut pieces = Vec::new();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '%' => LikePiece::Any,
            '_' => LikePiece::One,
            '\\' => LikePiece::Char(chars.next().unwrap_or(c)),
            _ => LikePiece::Char(c),
        });
    }
    pieces
}

/// A missing value equals only another missing one, and is not unequal to anything: every other comparison with it
/// is false. A text beside a number is read as a number; beside true, false or null it is compared with that word.
fn compare(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> Result<bool, Error> {
    let ordering = match (left, right) {
        (Value::Undefined, Value::Undefined) => Ordering::Equal,
        (Value::Undefined, _) | (_, Value::Undefined) => return Ok(false),
        (Value::Int(_) | Value::Float(_) | Value::BigNumber(_), Value::Str(text)) => {
            order(left, &as_number(text).ok_or(Error::NotANumber { operation: op.symbol() })?)
        }
        (Value::Str(text), Value::Int(_) | Value::Float(_) | Value::BigNumber(_)) => {
            order(&as_number(text).ok_or(Error::NotANumber { operation: op.symbol() })?, right)
        }
        (Value::Bool(_) | Value::Null, Value::Str(text)) => word(left).cmp(text),
        (Value::Str(text), Value::Bool(_) | Value::Null) => (**text).cmp(word(right)),
        _ => order(left, right),
    };
    Ok(match op {
        BinaryOp::Equal => ordering.is_eq(),
        BinaryOp::NotEqual => ordering.is_ne(),
        BinaryOp::Less => ordering.is_lt(),
        BinaryOp::LessOrEqual => ordering.is_le(),
        BinaryOp::Greater => ordering.is_gt(),
        _ => ordering.is_ge(),
    })
}

/// A total order over all values: numbers, then null and booleans by their names, objects, arrays, texts.
pub(crate) fn order(left: &Value<'_>, right: &Value<'_>) -> Ordering {
    match (left, right) {
        (Value::Int(l), Value::Int(r)) => l.cmp(r),
        (Value::Float(l), Value::Float(r)) => l.partial_cmp(r).unwrap_or(Ordering::Equal),
        (Value::Int(l), Value::Float(r)) => order_int_float(*l, *r),
        (Value::Float(l), Value::Int(r)) => order_int_float(*r, *l).reverse(),
        (Value::BigNumber(l), Value::BigNumber(r)) => order_big(l, r),
        (Value::BigNumber(l), Value::Int(_)) => sign(l),
        (Value::Int(_), Value::BigNumber(r)) => sign(r).reverse(),
        (Value::BigNumber(l), Value::Float(r)) => order_big_float(l, *r),
        (Value::Float(l), Value::BigNumber(r)) => order_big_float(r, *l).reverse(),
        (Value::Null | Value::Bool(_), Value::Null | Value::Bool(_)) => word(left).cmp(word(right)),
        _ if rank(left) != rank(right) => rank(left).cmp(&rank(right)),
        _ => {
            if let (Some(l), Some(r)) = (bytes(left), bytes(right)) {
                return l.cmp(r);
            }
            if let (Some(l), Some(r)) = (left.elements(), right.elements()) {
                let unequal = l.iter().zip(&r).map(|(l, r)| order(l, r)).find(|o| o.is_ne());
                return unequal.unwrap_or_else(|| l.len().cmp(&r.len()));
            }
            let (Some(l), Some(r)) = (left.members(), right.members()) else { return Ordering::Equal };
            let by_names = || l.keys().cmp(r.keys());
            let by_values = || l.values().zip(r.values()).map(|(l, r)| order(l, r)).find(|o| o.is_ne());
            l.len().cmp(&r.len()).then_with(by_names).then_with(|| by_values().unwrap_or(Ordering::Equal))
        }
    }
}

fn rank(value: &Value<'_>) -> u8 {
    match value {
        Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => 0,
        Value::Undefined | Value::Null | Value::Bool(_) => 1,
        _ if value.is_map() => 2,
        _ if value.is_array() => 3,
        _ => 4,
    }
}

/// Exact, also where the integer has more digits than a float.
fn order_int_float(int: i64, float: f64) -> Ordering {
    let whole = float.trunc();
    // The cast saturates, far outside of what an i64 can be.
    i128::from(int).cmp(&(whole as i128)).then_with(|| {
        if float > whole {
            Ordering::Less
        } else if float < whole {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    })
}

/// A number that does not fit `i64` is above or below all that do.
fn sign(big: &str) -> Ordering {
    if big.starts_with('-') { Ordering::Less } else { Ordering::Greater }
}

fn order_big(left: &str, right: &str) -> Ordering {
    let is_integer = |digits: &str| digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
    if sign(left) != sign(right) {
        return sign(left).cmp(&sign(right));
    }
    if !is_integer(left) || !is_integer(right) {
        let (left, right) = (as_f64(left), as_f64(right));
        return left.partial_cmp(&right).unwrap_or(Ordering::Equal);
    }
    let magnitude = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
    if sign(left) == Ordering::Less { magnitude.reverse() } else { magnitude }
}

fn order_big_float(big: &str, float: f64) -> Ordering {
    as_f64(big).partial_cmp(&float).unwrap_or(Ordering::Equal)
}

/// Infinite where the number is beyond `f64`.
fn as_f64(digits: &str) -> f64 {
    digits.parse().unwrap_or(f64::NAN)
}

fn word(value: &Value<'_>) -> &'static str {
    match value {
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        _ => "null",
    }
}

fn bytes<'v>(value: &'v Value<'_>) -> Option<&'v [u8]> {
    match value {
        Value::Str(text) => Some(text.as_bytes()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// The number that a text is: digits with a sign, a point and an exponent, and nothing else around them.
pub(crate) fn as_number(text: &str) -> Option<Value<'static>> {
    if let Ok(value) = text.parse() {
        return Some(Value::Int(value));
    }
    let allowed = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let framed =
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.ends_with(|c: char| c.is_ascii_digit());
    if !framed || !text.bytes().all(allowed) {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        let significant = digits.trim_start_matches('0');
        let sign = if text.starts_with('-') { "-" } else { "" };
        return Some(Value::BigNumber(Cow::Owned(format!("{sign}{significant}"))));
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Float)
}

#[derive(Clone, Copy)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "a float beside an integer makes both floats")]
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// A value as an operand of arithmetic.
pub(crate) fn number(value: &Value<'_>, operation: &'static str) -> Result<Number, Error> {
    match value {
        Value::Int(value) => Ok(Number::Int(*value)),
        Value::Float(value) => Ok(Number::Float(*value)),
        Value::BigNumber(digits) => {
            let value = digits.parse().ok().filter(|value: &f64| value.is_finite());
            value.map(Number::Float).ok_or(Error::Overflow)
        }
        other => Err(Error::WrongType { operation, expected: "a number", found: other.kind() }),
    }
}

pub(crate) fn integer(value: &Value<'_>, operation: &'static str) -> Result<i64, Error> {
    match value {
        Value::Int(value) => Ok(*value),
        Value::BigNumber(_) => Err(Error::Overflow),
        other => Err(Error::WrongType { operation, expected: "an integer", found: other.kind() }),
    }
}

/// A float that is a number, which is the only kind of float there is here.
pub(crate) fn finite<'r>(value: f64) -> Result<Value<'r>, Error> {
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(Error::Overflow) }
}

/// The sum of two numbers; beside a text anything is a text, and both are joined.
fn add<'r>(left: &Value<'r>, right: &Value<'r>, meter: &mut Meter) -> Result<Value<'r>, Error> {
    let is_text = |value: &Value<'_>| matches!(value, Value::Str(_) | Value::Bytes(_));
    if is_text(left) || is_text(right) {
        return join(&[left, right], meter);
    }
    plus(left, right, "+")
}

/// The sum of two numbers: an integer where both are.
pub(crate) fn plus<'r>(
    left: &Value<'_>,
    right: &Value<'_>,
    operation: &'static str,
) -> Result<Value<'r>, Error> {
    if let (Value::Int(l), Value::Int(r)) = (left, right)
        && let Some(sum) = l.checked_add(*r)
    {
        return Ok(Value::Int(sum));
    }
    match (wide(left), wide(right)) {
        (Some(l), Some(r)) => integer_value(l.checked_add(r)),
        _ if is_integer(left) && is_integer(right) => Err(Error::Overflow),
        _ => finite(float(left, operation)? + float(right, operation)?),
    }
}

/// The values as texts, one after the other.
pub(crate) fn join<'r>(values: &[&Value<'r>], meter: &mut Meter) -> Result<Value<'r>, Error> {
    let mut out = Vec::new();
    for value in values {
        let before = out.len();
        // Charged before it is made where the length is known, and at once after it where it is not.
        let known = bytes(value).map_or(0, <[u8]>::len);
        meter.bytes(known)?;
        value.write_text(&mut out);
        meter.bytes(out.len() - before - known)?;
    }
    Ok(text_or_bytes(out))
}

pub(crate) fn text_or_bytes<'r>(bytes: Vec<u8>) -> Value<'r> {
    match String::from_utf8(bytes) {
        Ok(text) => Value::Str(Cow::Owned(text)),
        Err(error) => Value::Bytes(Cow::Owned(error.into_bytes())),
    }
}

fn arithmetic<'r>(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> Result<Value<'r>, Error> {
    let narrow = match (op, left, right) {
        (BinaryOp::Subtract, Value::Int(l), Value::Int(r)) => l.checked_sub(*r),
        (BinaryOp::Multiply, Value::Int(l), Value::Int(r)) => l.checked_mul(*r),
        _ => None,
    };
    if let Some(result) = narrow {
        return Ok(Value::Int(result));
    }
    match (op, wide(left), wide(right)) {
        (BinaryOp::Subtract, Some(l), Some(r)) => return integer_value(l.checked_sub(r)),
        (BinaryOp::Multiply, Some(l), Some(r)) => return integer_value(l.checked_mul(r)),
        (BinaryOp::Subtract | BinaryOp::Multiply, ..) if is_integer(left) && is_integer(right) => {
            return Err(Error::Overflow);
        }
        _ => {}
    }
    let (left, right) = (float(left, op.symbol())?, float(right, op.symbol())?);
    match op {
        BinaryOp::Subtract => finite(left - right),
        BinaryOp::Multiply => finite(left * right),
        _ if right == 0.0 => Err(Error::DivisionByZero),
        // A division is a float also where it comes out even.
        _ => finite(left / right),
    }
}

/// `div` cuts towards zero; `mod` has the sign of the left side.
pub(crate) fn integer_division<'r>(
    op: BinaryOp,
    left: &Value<'_>,
    right: &Value<'_>,
) -> Result<Value<'r>, Error> {
    let (left, right) = (wide_integer(left, op.symbol())?, wide_integer(right, op.symbol())?);
    if right == 0 {
        return Err(Error::DivisionByZero);
    }
    match op {
        BinaryOp::IntegerDivide => integer_value(left.checked_div(right)),
        _ => integer_value(Some(left.wrapping_rem(right))),
    }
}

/// An integer as 128 bits hold it, which is what is computed with where 64 are not enough.
pub(crate) fn wide(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::BigNumber(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// An integer operand of at most 128 bits.
pub(crate) fn wide_integer(value: &Value<'_>, operation: &'static str) -> Result<i128, Error> {
    match wide(value) {
        Some(value) => Ok(value),
        None => integer(value, operation).map(i128::from),
    }
}

/// Whether a value is an integer of any size, so that it never becomes a float beside another one.
fn is_integer(value: &Value<'_>) -> bool {
    match value {
        Value::Int(_) => true,
        Value::BigNumber(digits) => !digits.contains(['.', 'e', 'E']),
        _ => false,
    }
}

/// The value of an integer, or an error where 128 bits did not hold it.
pub(crate) fn integer_value<'r>(value: Option<i128>) -> Result<Value<'r>, Error> {
    let value = value.ok_or(Error::Overflow)?;
    Ok(i64::try_from(value).map_or_else(|_| Value::BigNumber(value.to_string().into()), Value::Int))
}

/// A number as a float.
fn float(value: &Value<'_>, operation: &'static str) -> Result<f64, Error> {
    Ok(number(value, operation)?.as_f64())
}

/// Whether a topic matches a filter, by MQTT's rules. A text that is no topic, or no filter, matches nothing.
fn topic_match(topic: &Value<'_>, filter: &Value<'_>) -> Result<bool, Error> {
    let (topic, filter) = match (topic, filter) {
        (Value::Str(topic), Value::Str(filter)) => (topic, filter),
        (Value::Undefined, _) | (_, Value::Undefined) => return Ok(false),
        (Value::Str(_), other) | (other, _) => {
            return Err(Error::WrongType { operation: "=~", expected: "a text", found: other.kind() });
        }
    };
    Ok(match (TopicName::parse(topic), TopicFilter::parse(filter)) {
        (Ok(topic), Ok(filter)) => filter.matches(topic),
        _ => false,
    })
}
