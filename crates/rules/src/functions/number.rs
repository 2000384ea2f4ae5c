//! Functions of numbers.

use super::Call;
use crate::error::EvalErrorKind as Error;
use crate::operators::{integer_division, integer_value, number, wide};
use crate::syntax::ast::BinaryOp;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

pub(super) fn abs<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    match wide(&args[0]) {
        Some(value) => integer_value(value.checked_abs()),
        None => Ok(Value::Float(number(&args[0], "abs()")?.as_f64().abs())),
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

pub(super) fn divide<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_division(BinaryOp::IntegerDivide, &args[0], &args[1])
}

pub(super) fn modulo<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_division(BinaryOp::Remainder, &args[0], &args[1])
}

fn whole<'r>(value: &Value<'_>, name: &'static str, to_whole: fn(f64) -> f64) -> Result<'r> {
    match wide(value) {
        Some(value) => integer_value(Some(value)),
        None => Ok(float_to_int(to_whole(number(value, name)?.as_f64()))),
    }
}

/// A whole float as an integer, exactly.
pub(super) fn float_to_int<'r>(whole: f64) -> Value<'r> {
    // Both bounds are powers of two, which a float holds exactly.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&whole) {
        Value::Int(whole as i64)
    } else {
        Value::BigNumber(format!("{whole:.0}").into())
    }
}
