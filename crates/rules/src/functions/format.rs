//! `sprintf()`: Erlang's format strings, as far as they make sense for JSON's values.

use std::fmt::Write as _;

use super::{Call, elements, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::{integer, number};
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// The widest field and the most decimals.
const MAX_WIDTH: usize = 1024;

pub(super) fn sprintf<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let format = text(&mut args[0], "sprintf()")?;
    write(call, &format, &args[1..])
}

/// The same with the arguments in an array.
pub(super) fn sprintf_s<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let format = text(&mut args[0], "sprintf_s()")?;
    let items = elements(call, &args[1], "sprintf_s()")?;
    write(call, &format, &items)
}

fn invalid(expected: &'static str) -> Error {
    Error::InvalidArgument { operation: "sprintf()", expected }
}

fn write<'r>(call: &mut Call<'_, 'r>, format: &str, args: &[Value<'r>]) -> Result<'r> {
    let mut args = args.iter();
    let mut out = String::new();
    let mut rest = format;
    while let Some((plain, directive)) = rest.split_once('~') {
        call.meter.step()?;
        call.meter.bytes(plain.len())?;
        out.push_str(plain);
        let (directive, after) = Directive::parse(directive)?;
        rest = after;
        let before = out.len();
        match directive.control {
            '~' => out.push('~'),
            'n' => out.push('\n'),
            _ => directive
                .write(args.next().ok_or_else(|| invalid("an argument for each directive"))?, &mut out)?,
        }
        call.meter.bytes(out.len() - before)?;
    }
    if args.next().is_some() {
        return Err(invalid("a directive for each argument"));
    }
    call.meter.bytes(rest.len())?;
    out.push_str(rest);
    Ok(out.into())
}

/// `~[-]F.P.Pad[tlk]C` without its tilde.
struct Directive {
    /// The least number of characters, and whether they stand at the left.
    width: Option<usize>,
    left: bool,
    precision: Option<usize>,
    pad: char,
    control: char,
}

impl Directive {
    fn parse(text: &str) -> std::result::Result<(Self, &str), Error> {
        let (left, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let count = |rest: &mut &str| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            *rest = after;
            match number.parse() {
                Ok(number) if number <= MAX_WIDTH => Ok(Some(number)),
                Err(_) if number.is_empty() => Ok(None),
                _ => Err(invalid("a width of at most 1024")),
            }
        };
        let width = count(&mut rest)?;
        let (mut precision, mut pad) = (None, ' ');
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            precision = count(&mut rest)?;
            if let Some(after) = rest.strip_prefix('.') {
                pad = after.chars().next().ok_or_else(|| invalid("whole directives"))?;
                rest = &after[pad.len_utf8()..];
            }
        }
        // Texts are Unicode here with or without the modifier.
        rest = rest.trim_start_matches(['t', 'l', 'k']);
        let control = rest.chars().next().ok_or_else(|| invalid("whole directives"))?;
        Ok((Self { width, left, precision, pad, control }, &rest[control.len_utf8()..]))
    }

    fn write(&self, value: &Value<'_>, out: &mut String) -> std::result::Result<(), Error> {
        let mut written = String::new();
        match self.control {
            's' | 'a' => {
                let text = match value {
                    Value::Str(text) => text,
                    Value::Bool(true) => "true",
                    Value::Bool(false) => "false",
                    Value::Null => "null",
                    Value::Undefined => "undefined",
                    other => {
                        return Err(Error::WrongType {
                            operation: "sprintf() with ~s",
                            expected: "a text",
                            found: other.kind(),
                        });
                    }
                };
                written.extend(text.chars().take(self.precision.unwrap_or(usize::MAX)));
            }
            'p' | 'w' | 'P' | 'W' if matches!(value, Value::Undefined) => written.push_str("undefined"),
            'p' | 'w' | 'P' | 'W' => {
                let mut json = Vec::new();
                value.write_json(&mut json);
                written = String::from_utf8_lossy(&json).into_owned();
            }
            'b' | 'B' | 'x' | 'X' | '#' | '+' => {
                let number = integer(value, "sprintf() with ~b")?;
                let base = u64::try_from(self.precision.unwrap_or(10)).unwrap_or(0);
                written = in_base(number, base, matches!(self.control, 'B' | 'X'))?;
            }
            'f' => {
                let number = number(value, "sprintf() with ~f")?.as_f64();
                let _ = write!(written, "{number:.*}", self.precision.unwrap_or(6));
            }
            'g' if self.fixed_decimals(value)?.is_some() => {
                let number = number(value, "sprintf() with ~g")?.as_f64();
                let _ = write!(written, "{number:.*}", self.fixed_decimals(value)?.unwrap_or(0));
            }
            'e' | 'g' => {
                let number = number(value, "sprintf() with ~e")?.as_f64();
                let _ = write!(written, "{number:.*e}", self.precision.unwrap_or(6).saturating_sub(1));
                written = with_signed_exponent(&written);
            }
            'c' => {
                let number = u32::try_from(integer(value, "sprintf() with ~c")?).ok();
                let c = number.and_then(char::from_u32).ok_or_else(|| invalid("a character for ~c"))?;
                written.extend(std::iter::repeat_n(c, self.precision.unwrap_or(1)));
            }
            'i' => return Ok(()),
            _ => return Err(invalid("the directives ~s ~p ~w ~b ~B ~f ~e ~g ~c ~i ~n and ~~")),
        }
        let missing = self.width.unwrap_or(0).saturating_sub(written.chars().count());
        let padding = std::iter::repeat_n(self.pad, missing);
        if self.left {
            out.push_str(&written);
            out.extend(padding);
        } else {
            out.extend(padding);
            out.push_str(&written);
        }
        Ok(())
    }
}

impl Directive {
    /// Of `~g`, which counts significant digits: the decimals of a number that is written without an exponent
    /// because it is between 0.1 and 10000.
    fn fixed_decimals(&self, value: &Value<'_>) -> std::result::Result<Option<usize>, Error> {
        let number = number(value, "sprintf() with ~g")?.as_f64().abs();
        let before_point = match number {
            0.1..1.0 => 0,
            1.0..10.0 => 1,
            10.0..100.0 => 2,
            100.0..1000.0 => 3,
            1000.0..10_000.0 => 4,
            _ => return Ok(None),
        };
        Ok(self.precision.unwrap_or(6).checked_sub(before_point).filter(|decimals| *decimals > 0))
    }
}

fn in_base(number: i64, base: u64, capital: bool) -> std::result::Result<String, Error> {
    let radix = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
    let radix = radix.ok_or_else(|| invalid("a base from 2 to 36"))?;
    let mut left = number.unsigned_abs();
    let mut digits = Vec::new();
    loop {
        let digit = char::from_digit((left % base) as u32, radix).unwrap_or('0');
        digits.push(if capital { digit.to_ascii_uppercase() } else { digit });
        left /= base;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        digits.push('-');
    }
    Ok(digits.into_iter().rev().collect())
}

/// `1.5e3` as `1.5e+3`.
fn with_signed_exponent(number: &str) -> String {
    match number.split_once('e') {
        Some((mantissa, exponent)) if !exponent.starts_with('-') => format!("{mantissa}e+{exponent}"),
        _ => number.to_owned(),
    }
}
