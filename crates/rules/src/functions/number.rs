//! Functions of numbers.

use super::Call;
use crate::error::EvalErrorKind as Error;
use crate::operators::{Number, integer_division, number};
use crate::syntax::ast::BinaryOp;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

pub(super) fn abs<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    match number(&args[0], "abs()")? {
        Number::Int(value) => value.checked_abs().map(Value::Int).ok_or(Error::Overflow),
        Number::Float(value) => Ok(Value::Float(value.abs())),
    }
}

/// To the nearest integer, a half away from zero.
pub(super) fn round<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    whole(&args[0], "round()", f64::round)
}

pub(super) fn floor<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    whole(&args[0], "floor()", f64::floor)
}

pub(super) fn ceil<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    whole(&args[0], "ceil()", f64::ceil)
}

pub(super) fn modulo<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_division(BinaryOp::Remainder, &args[0], &args[1])
}

fn whole<'r>(value: &Value<'_>, name: &'static str, to_whole: fn(f64) -> f64) -> Result<'r> {
    match number(value, name)? {
        Number::Int(value) => Ok(Value::Int(value)),
        Number::Float(value) => float_to_int(to_whole(value)),
    }
}

/// A whole float as an integer.
pub(super) fn float_to_int<'r>(whole: f64) -> Result<'r> {
    // Both bounds are powers of two, which a float holds exactly.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&whole) { Ok(Value::Int(whole as i64)) } else { Err(Error::Overflow) }
}
