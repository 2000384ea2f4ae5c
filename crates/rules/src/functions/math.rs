//! Functions of real numbers. Integers count as floats, texts do not.

use super::Call;
use crate::error::EvalErrorKind as Error;
use crate::operators::number;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// Defines functions of one number by their names.
macro_rules! of_one {
    ($($name:ident = $compute:expr;)*) => {
        $(pub(super) fn $name<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
            let operation = concat!(stringify!($name), "()");
            let compute: fn(f64) -> f64 = $compute;
            result(compute(number(&args[0], operation)?.as_f64()), operation)
        })*
    };
}

of_one! {
    acos = f64::acos;
    acosh = f64::acosh;
    asin = f64::asin;
    asinh = f64::asinh;
    atan = f64::atan;
    atanh = f64::atanh;
    cos = f64::cos;
    cosh = f64::cosh;
    exp = f64::exp;
    log = f64::ln;
    log10 = f64::log10;
    log2 = f64::log2;
    sin = f64::sin;
    sinh = f64::sinh;
    sqrt = f64::sqrt;
    tan = f64::tan;
    tanh = f64::tanh;
}

/// The remainder of a division, with the sign of the left side.
pub(super) fn fmod<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let (left, right) = (number(&args[0], "fmod()")?.as_f64(), number(&args[1], "fmod()")?.as_f64());
    result(left % right, "fmod()")
}

pub(super) fn power<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let (base, exponent) = (number(&args[0], "power()")?.as_f64(), number(&args[1], "power()")?.as_f64());
    result(base.powf(exponent), "power()")
}

/// The root of a negative number, the logarithm of nothing and an overflow are errors, not special floats.
fn result<'r>(value: f64, operation: &'static str) -> Result<'r> {
    if value.is_finite() {
        return Ok(Value::Float(value));
    }
    Err(Error::InvalidArgument { operation, expected: "a number for which it has a result" })
}
