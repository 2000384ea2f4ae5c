//! Functions of the bits of integers, and of parts of bytes.

use std::borrow::Cow;

use super::{Call, bytes, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::{finite, integer, integer_value, text_or_bytes, wide_integer};
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// Bits of the largest integer that `subbits()` reads.
const MAX_INTEGER_BITS: usize = 128;

pub(super) fn bitnot<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_value(Some(!wide_integer(&args[0], "bitnot()")?))
}

pub(super) fn bitand<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_value(Some(wide_integer(&args[0], "bitand()")? & wide_integer(&args[1], "bitand()")?))
}

pub(super) fn bitor<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_value(Some(wide_integer(&args[0], "bitor()")? | wide_integer(&args[1], "bitor()")?))
}

pub(super) fn bitxor<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    integer_value(Some(wide_integer(&args[0], "bitxor()")? ^ wide_integer(&args[1], "bitxor()")?))
}

pub(super) fn bitsl<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    shift(wide_integer(&args[0], "bitsl()")?, wide_integer(&args[1], "bitsl()")?)
}

pub(super) fn bitsr<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let by = wide_integer(&args[1], "bitsr()")?.checked_neg().ok_or(Error::Overflow)?;
    shift(wide_integer(&args[0], "bitsr()")?, by)
}

/// To the left, or to the right where `by` is negative; what falls out on the left is an error, not lost.
fn shift<'r>(value: i128, by: i128) -> Result<'r> {
    let bits = u32::try_from(by.unsigned_abs()).unwrap_or(u32::MAX).min(i128::BITS - 1);
    if by <= 0 {
        return integer_value(Some(value >> bits));
    }
    // Shifted back, it is the same again unless something fell out.
    let shifted = value << bits;
    integer_value(
        (value == 0 || (by < i128::from(i128::BITS) && shifted >> bits == value)).then_some(shifted),
    )
}

pub(super) fn bitsize<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Ok(super::count(bytes(&args[0], "bitsize()")?.len().saturating_mul(8)))
}

pub(super) fn bytesize<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Ok(super::count(bytes(&args[0], "bytesize()")?.len()))
}

/// `subbits(bytes, length)` and `subbits(bytes, start, length, type, sign, order)`: a number, or bytes, from the
/// bit at `start`, counted from 1. There may be fewer bits than asked for; without any nothing is there.
pub(super) fn subbits<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "subbits()";
    let kind = args.get_mut(3).map_or(Ok(Cow::Borrowed("integer")), |kind| text(kind, NAME))?;
    let sign = args.get_mut(4).map_or(Ok(Cow::Borrowed("unsigned")), |sign| text(sign, NAME))?;
    let order = args.get_mut(5).map_or(Ok(Cow::Borrowed("big")), |order| text(order, NAME))?;
    let invalid = |expected| Error::InvalidArgument { operation: NAME, expected };
    let signed = match &*sign {
        "signed" => true,
        "unsigned" => false,
        _ => return Err(invalid("signed or unsigned")),
    };
    let little = match &*order {
        "little" => true,
        "big" => false,
        _ => return Err(invalid("big or little")),
    };
    let (start, length) = match args.get(2) {
        Some(length) => (integer(&args[1], NAME)?, integer(length, NAME)?),
        None => (1, integer(&args[1], NAME)?),
    };
    let length = usize::try_from(length).map_err(|_| invalid("a length from 0"))?;
    let bytes = bytes(&args[0], NAME)?;
    let first = usize::try_from(start).ok().and_then(|start| start.checked_sub(1));
    let Some((first, left)) = first.and_then(|first| Some((first, (bytes.len() * 8).checked_sub(first)?)))
    else {
        return Ok(Value::Undefined);
    };
    if left == 0 {
        return Ok(Value::Undefined);
    }
    let bits = Bits { bytes, first, length: length.min(left) };
    match &*kind {
        "integer" if bits.length > MAX_INTEGER_BITS => Err(invalid("an integer of at most 128 bits")),
        "integer" => Ok(bits.integer(signed, little)),
        "float" => bits.float(little),
        "bits" => {
            call.meter.bytes(bits.length.div_ceil(8))?;
            Ok(text_or_bytes(bits.padded()))
        }
        _ => Err(invalid("the type integer, float or bits")),
    }
}

/// A part of bytes that need not begin or end at a byte.
struct Bits<'v> {
    bytes: &'v [u8],
    first: usize,
    length: usize,
}

impl Bits<'_> {
    /// At most 8 bits from an offset into the part, as a number.
    fn take(&self, offset: usize, count: usize) -> u8 {
        (offset..offset + count).fold(0, |number, offset| {
            let at = self.first + offset;
            number << 1 | self.bytes[at / 8] >> (7 - at % 8) & 1
        })
    }

    /// The part cut into bytes from the front; the last may have fewer bits, and says how many.
    fn chunks(&self) -> impl Iterator<Item = (u8, usize)> {
        (0..self.length).step_by(8).map(|offset| {
            let count = (self.length - offset).min(8);
            (self.take(offset, count), count)
        })
    }

    fn integer<'r>(&self, signed: bool, little: bool) -> Value<'r> {
        let mut number = 0_u128;
        let mut done = 0;
        for (chunk, count) in self.chunks() {
            number =
                if little { number | u128::from(chunk) << done } else { number << count | u128::from(chunk) };
            done += count;
        }
        let unused = MAX_INTEGER_BITS - self.length;
        if signed && self.length > 0 {
            // The arithmetic shift spreads the sign.
            let number = (number << unused).cast_signed() >> unused;
            return i64::try_from(number)
                .map_or_else(|_| Value::BigNumber(number.to_string().into()), Value::Int);
        }
        i64::try_from(number).map_or_else(|_| Value::BigNumber(number.to_string().into()), Value::Int)
    }

    fn float<'r>(&self, little: bool) -> Result<'r> {
        let mut bytes: Vec<u8> = self.chunks().map(|(chunk, _)| chunk).collect();
        if little {
            bytes.reverse();
        }
        let number = bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        finite(match self.length {
            16 => half(number as u16),
            32 => f32::from_bits(number as u32).into(),
            64 => f64::from_bits(number),
            _ => {
                let expected = "a float of 16, 32 or 64 bits";
                return Err(Error::InvalidArgument { operation: "subbits()", expected });
            }
        })
    }

    /// As bytes, with zero bits in front where they do not fill a byte.
    fn padded(&self) -> Vec<u8> {
        let short = self.length % 8;
        let head = (short > 0).then(|| self.take(0, short));
        head.into_iter().chain((short..self.length).step_by(8).map(|offset| self.take(offset, 8))).collect()
    }
}

/// A float of IEEE 754's binary16.
fn half(bits: u16) -> f64 {
    let exponent = i32::from(bits >> 10 & 0x1F);
    let fraction = f64::from(bits & 0x3FF);
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        0x1F => f64::INFINITY,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}
