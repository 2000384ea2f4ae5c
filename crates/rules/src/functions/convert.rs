//! Functions that change a value's kind.

use super::number::float_to_int;
use super::{Call, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::{as_number, finite, join, number, text_or_bytes};
use crate::value::{Value, write_rounded};

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// More than any float has.
const MOST_DECIMALS: i64 = 253;

pub(super) fn str<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    if let Value::Str(_) = args[0] {
        return Ok(std::mem::take(&mut args[0]));
    }
    join(&[&args[0]], call.meter)
}

/// The integer at or below a number; 1 and 0 of true and false.
pub(super) fn int<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    match numeric(&args[0], "int()")? {
        Value::Float(value) => Ok(float_to_int(value.floor())),
        other => Ok(other),
    }
}

pub(super) fn float<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    if let Value::Bool(_) = args[0] {
        let (expected, found) = ("a number or a text", args[0].kind());
        return Err(Error::WrongType { operation: "float()", expected, found });
    }
    let value = number(&numeric(&args[0], "float()")?, "float()")?.as_f64();
    let value = match args.get(1) {
        None => value,
        Some(Value::Int(decimals @ 1..=MOST_DECIMALS)) => {
            let written = rounded(value, usize::try_from(*decimals).unwrap_or(0));
            written.parse().map_err(|_| Error::Overflow)?
        }
        Some(_) => {
            return Err(Error::InvalidArgument { operation: "float()", expected: "1 to 253 decimals" });
        }
    };
    finite(value)
}

/// A float in digits: at most that many after the point, without zeros at the end.
pub(super) fn float2str<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "float2str()";
    let value = match &args[0] {
        Value::Float(value) => *value,
        other => return Err(Error::WrongType { operation: NAME, expected: "a float", found: other.kind() }),
    };
    match args[1] {
        Value::Int(decimals @ 0..=MOST_DECIMALS) => {
            let written = compact(value, usize::try_from(decimals).unwrap_or(0));
            call.meter.bytes(written.len())?;
            Ok(written.into())
        }
        _ => Err(Error::InvalidArgument { operation: NAME, expected: "0 to 253 decimals" }),
    }
}

/// With at most that many digits after the point, and at least one if any.
pub(super) fn compact(value: f64, decimals: usize) -> String {
    let mut written = rounded(value, decimals);
    if let Some(point) = written.find('.') {
        let kept = written.trim_end_matches('0').len().max(point + 2);
        written.truncate(kept);
    }
    written
}

fn rounded(value: f64, decimals: usize) -> String {
    let mut out = Vec::new();
    write_rounded(value, decimals, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn bool<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::Float(value) if value.total_cmp(&1.0).is_eq() => Ok(Value::Bool(true)),
        Value::Float(value) if value.abs().total_cmp(&0.0).is_eq() => Ok(Value::Bool(false)),
        Value::Int(1) => Ok(Value::Bool(true)),
        Value::Int(0) => Ok(Value::Bool(false)),
        Value::Str(word) if word == "true" => Ok(Value::Bool(true)),
        Value::Str(word) if word == "false" => Ok(Value::Bool(false)),
        Value::Int(_) | Value::Float(_) | Value::Str(_) => {
            Err(Error::InvalidArgument { operation: "bool()", expected: "true, false, 1 or 0" })
        }
        other => Err(Error::WrongType {
            operation: "bool()",
            expected: "true, false, 1 or 0",
            found: other.kind(),
        }),
    }
}

fn numeric<'r>(value: &Value<'r>, operation: &'static str) -> Result<'r> {
    match value {
        Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => Ok(value.clone()),
        Value::Bool(value) => Ok(Value::Int((*value).into())),
        Value::Str(text) => as_number(text).ok_or(Error::NotANumber { operation }),
        other => Err(Error::WrongType { operation, expected: "a number or a text", found: other.kind() }),
    }
}

pub(super) fn json_encode<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let mut out = Vec::new();
    args[0].write_json(&mut out);
    call.meter.bytes(out.len())?;
    Ok(text_or_bytes(out))
}

pub(super) fn json_decode<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let text = text(&mut args[0], "json_decode()")?;
    call.decode(text)?.map_err(Error::NotJson)
}
