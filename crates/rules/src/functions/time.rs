//! Functions of dates and times. The time is the event's: the same message always gives the same result.

use std::fmt::Write as _;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::{Call, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::integer;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

const NANOS_A_SECOND: i128 = 1_000_000_000;

/// A unit of time by its name in a rule.
#[derive(Clone, Copy)]
struct Unit {
    nanos: i128,
    /// Digits after the point that show it.
    digits: usize,
}

impl Unit {
    const SECOND: Self = Self { nanos: NANOS_A_SECOND, digits: 0 };
    const MILLISECOND: Self = Self { nanos: 1_000_000, digits: 3 };

    /// Of an argument; seconds where there is none.
    fn of(argument: Option<&mut Value<'_>>, operation: &'static str) -> std::result::Result<Self, Error> {
        let Some(argument) = argument else { return Ok(Self::SECOND) };
        match &*text(argument, operation)? {
            "second" => Ok(Self::SECOND),
            "millisecond" => Ok(Self::MILLISECOND),
            "microsecond" => Ok(Self { nanos: 1000, digits: 6 }),
            "nanosecond" => Ok(Self { nanos: 1, digits: 9 }),
            _ => {
                let expected = "the unit second, millisecond, microsecond or nanosecond";
                Err(Error::InvalidArgument { operation, expected })
            }
        }
    }

    /// Nanoseconds in this unit, rounded down.
    fn count<'r>(self, nanos: i128) -> Result<'r> {
        i64::try_from(nanos.div_euclid(self.nanos)).map(Value::Int).map_err(|_| Error::Overflow)
    }
}

/// When it happened, since 1970, in seconds or the given unit.
pub(super) fn now_timestamp<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Unit::of(args.first_mut(), "now_timestamp()")?.count(now(call))
}

/// When it happened, as RFC 3339 has it, in UTC and with as many digits as the unit asks for.
pub(super) fn now_rfc3339<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let unit = Unit::of(args.first_mut(), "now_rfc3339()")?;
    rfc3339(call, now(call), unit, "now_rfc3339()")
}

/// A time since 1970 in a unit, seconds by default, as RFC 3339 has it, in UTC.
pub(super) fn unix_ts_to_rfc3339<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "unix_ts_to_rfc3339()";
    let unit = Unit::of(args.get_mut(1), NAME)?;
    let nanos = i128::from(integer(&args[0], NAME)?) * unit.nanos;
    rfc3339(call, nanos, unit, NAME)
}

/// The time since 1970 in a unit, seconds by default, of a text as RFC 3339 has it.
pub(super) fn rfc3339_to_unix_ts<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "rfc3339_to_unix_ts()";
    let unit = Unit::of(args.get_mut(1), NAME)?;
    let written = text(&mut args[0], NAME)?;
    let nanos = parse_rfc3339(&written);
    unit.count(
        nanos.ok_or(Error::InvalidArgument { operation: NAME, expected: "a time as RFC 3339 has it" })?,
    )
}

/// `format_date(unit, offset, format, time)`; the time is the event's where none is given.
pub(super) fn format_date<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "format_date()";
    let unit = Unit::of(args.first_mut(), NAME)?;
    let offset = offset(&args[1], NAME)?;
    let format = text(&mut args[2], NAME)?;
    let nanos = match args.get(3) {
        Some(time) => i128::from(integer(time, NAME)?) * unit.nanos,
        None => now(call).div_euclid(unit.nanos) * unit.nanos,
    };
    // The longest directive has 3 characters and writes 9, the shortest 2 and writes 4.
    call.meter.bytes(format.len().saturating_mul(3))?;
    Ok(write(&format, local(nanos, offset, NAME)?, offset).into())
}

/// `date_to_unix_ts(unit, offset, format, text)`, the offset optional: the time that a text tells. What is no
/// directive in the format is passed over in the text, whatever stands there. An offset in the text itself counts
/// instead of the argument.
pub(super) fn date_to_unix_ts<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "date_to_unix_ts()";
    let unit = Unit::of(args.first_mut(), NAME)?;
    let (given, format, written) = match args {
        [_, format, written] => (Offset::UTC, format, written),
        [_, offset_argument, format, written] => (offset(offset_argument, NAME)?, format, written),
        _ => return Ok(Value::Undefined),
    };
    let (format, written) = (text(format, NAME)?, text(written, NAME)?);
    let nanos = parse(&format, &written, given);
    unit.count(nanos.ok_or(Error::InvalidArgument { operation: NAME, expected: "a date in that format" })?)
}

/// The seconds that a time zone is ahead of UTC: of `+08:00`, `-02:00:30`, `+0800`, `Z`, or as they are.
pub(super) fn timezone_to_offset_seconds<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    match &args[0] {
        Value::Int(seconds) => Ok(Value::Int(*seconds)),
        zone => Ok(Value::Int(offset(zone, "timezone_to_offset_seconds()")?.seconds().into())),
    }
}

/// Nanoseconds since 1970 at the event.
fn now(call: &Call<'_, '_>) -> i128 {
    i128::from(call.event.timestamp_ms) * Unit::MILLISECOND.nanos
}

/// The server's own time zone (`local`) is UTC here: rules do not change with where they run.
fn offset(value: &Value<'_>, operation: &'static str) -> std::result::Result<Offset, Error> {
    let offset = match value {
        Value::Undefined => Some(Offset::UTC),
        Value::Int(seconds) => {
            i32::try_from(*seconds).ok().and_then(|seconds| Offset::from_seconds(seconds).ok())
        }
        Value::Str(zone) if matches!(&**zone, "Z" | "z" | "local") => Some(Offset::UTC),
        Value::Str(zone) => parse_offset(zone),
        other => {
            return Err(Error::WrongType { operation, expected: "a time zone", found: other.kind() });
        }
    };
    offset.ok_or(Error::InvalidArgument { operation, expected: "a time zone as +08:00" })
}

/// `+hh:mm`, `+hhmm`, `+hh:mm:ss` or `+hhmmss`.
fn parse_offset(text: &str) -> Option<Offset> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+')?),
    };
    let mut cursor = Cursor(text);
    let hours = cursor.number(2)?;
    cursor.skip(':');
    let minutes = cursor.number(2)?;
    let mut seconds = 0;
    if !cursor.0.is_empty() {
        cursor.skip(':');
        seconds = cursor.number(2)?;
    }
    if !cursor.0.is_empty() || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Offset::from_seconds(sign * i32::try_from(hours * 3600 + minutes * 60 + seconds).ok()?).ok()
}

/// The calendar's date and time at an offset, for years up to 9999.
fn local(nanos: i128, offset: Offset, operation: &'static str) -> std::result::Result<DateTime, Error> {
    let timestamp = Timestamp::from_nanosecond(nanos)
        .map_err(|_| Error::InvalidArgument { operation, expected: "a time up to the year 9999" })?;
    Ok(offset.to_datetime(timestamp))
}

fn nanos(date_time: DateTime, offset: Offset) -> Option<i128> {
    offset.to_timestamp(date_time).ok().map(Timestamp::as_nanosecond)
}

fn rfc3339<'r>(call: &mut Call<'_, 'r>, nanos: i128, unit: Unit, operation: &'static str) -> Result<'r> {
    let format = match unit.digits {
        0 => "%Y-%m-%dT%H:%M:%S%:z",
        3 => "%Y-%m-%dT%H:%M:%S.%3N%:z",
        6 => "%Y-%m-%dT%H:%M:%S.%6N%:z",
        _ => "%Y-%m-%dT%H:%M:%S.%N%:z",
    };
    call.meter.bytes(40)?;
    Ok(write(format, local(nanos, Offset::UTC, operation)?, Offset::UTC).into())
}

fn parse_rfc3339(text: &str) -> Option<i128> {
    let mut cursor = Cursor(text);
    let mut part = |digits, after: &[char]| {
        let number = cursor.number(digits)?;
        after.iter().any(|c| cursor.skip(*c)).then_some(number)
    };
    let (year, month, day) = (part(4, &['-'])?, part(2, &['-'])?, part(2, &['T', 't', ' '])?);
    let (hour, minute) = (part(2, &[':'])?, part(2, &[':'])?);
    let second = cursor.number(2)?;
    let mut fraction = 0;
    if cursor.skip('.') {
        let digits = cursor.0.bytes().take_while(u8::is_ascii_digit).count();
        // Digits beyond nanoseconds are dropped.
        let counted = digits.min(9);
        let read: i64 = cursor.0[..counted].parse().ok()?;
        fraction = read * 10_i64.pow(u32::try_from(9 - counted).ok()?);
        cursor.0 = &cursor.0[digits..];
    }
    let offset = if matches!(cursor.0, "Z" | "z") { Offset::UTC } else { parse_offset(cursor.0)? };
    nanos(date_time([year, month, day, hour, minute, second], fraction)?, offset)
}

fn date_time([year, month, day, hour, minute, second]: [i64; 6], nanos: i64) -> Option<DateTime> {
    let small = |number: i64| i8::try_from(number).ok();
    let date = Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()?;
    let time = Time::new(small(hour)?, small(minute)?, small(second)?, 0).ok()?;
    date.to_datetime(time).checked_add(SignedDuration::from_nanos(nanos)).ok()
}

/// The directives of both directions.
#[derive(Clone, Copy)]
enum Directive {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// A part of the second in that many digits.
    Fraction(usize),
    /// An offset: `+0800`, `+08:00` or `+08:00:00`.
    Zone(usize),
}

/// What a format begins with: a directive or a character that stands for itself, and the rest of it.
fn next(format: &str) -> Option<(std::result::Result<Directive, char>, &str)> {
    const DIRECTIVES: [(&str, Directive); 12] = [
        ("%Y", Directive::Year),
        ("%m", Directive::Month),
        ("%d", Directive::Day),
        ("%H", Directive::Hour),
        ("%M", Directive::Minute),
        ("%S", Directive::Second),
        ("%3N", Directive::Fraction(3)),
        ("%6N", Directive::Fraction(6)),
        ("%N", Directive::Fraction(9)),
        ("%z", Directive::Zone(5)),
        ("%:z", Directive::Zone(6)),
        ("%::z", Directive::Zone(9)),
    ];
    for (code, directive) in DIRECTIVES {
        if let Some(rest) = format.strip_prefix(code) {
            return Some((Ok(directive), rest));
        }
    }
    let mut characters = format.chars();
    let literal = characters.next()?;
    Some((Err(literal), characters.as_str()))
}

fn write(format: &str, at: DateTime, offset: Offset) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some((directive, after)) = next(rest) {
        rest = after;
        // Writing to a String does not fail.
        let _ = match directive {
            Ok(Directive::Year) => write!(out, "{:04}", at.year()),
            Ok(Directive::Month) => write!(out, "{:02}", at.month()),
            Ok(Directive::Day) => write!(out, "{:02}", at.day()),
            Ok(Directive::Hour) => write!(out, "{:02}", at.hour()),
            Ok(Directive::Minute) => write!(out, "{:02}", at.minute()),
            Ok(Directive::Second) => write!(out, "{:02}", at.second()),
            Ok(Directive::Fraction(digits)) => {
                let nanos = format!("{:09}", at.subsec_nanosecond());
                out.write_str(&nanos[..digits])
            }
            Ok(Directive::Zone(length)) => {
                let sign = if offset.seconds() < 0 { '-' } else { '+' };
                let ahead = offset.seconds().unsigned_abs();
                let (hours, minutes, seconds) = (ahead / 3600, ahead / 60 % 60, ahead % 60);
                match length {
                    5 => write!(out, "{sign}{hours:02}{minutes:02}"),
                    6 => write!(out, "{sign}{hours:02}:{minutes:02}"),
                    _ => write!(out, "{sign}{hours:02}:{minutes:02}:{seconds:02}"),
                }
            }
            Err(literal) => out.write_char(literal),
        };
    }
    out
}

/// Nanoseconds since 1970; `None` where the text is not in the format, or lacks a year, month or day.
fn parse(format: &str, text: &str, given: Offset) -> Option<i128> {
    let mut cursor = Cursor(text);
    let (mut year, mut month, mut day) = (None, None, None);
    let (mut hour, mut minute, mut second, mut fraction) = (0, 0, 0, 0);
    let mut offset = given;
    let mut rest = format;
    while let Some((directive, after)) = next(rest) {
        rest = after;
        if cursor.0.is_empty() {
            break;
        }
        match directive {
            Ok(Directive::Year) => year = Some(cursor.number(4)?),
            Ok(Directive::Month) => month = Some(cursor.number(2)?),
            Ok(Directive::Day) => day = Some(cursor.number(2)?),
            Ok(Directive::Hour) => hour = cursor.number(2)?,
            Ok(Directive::Minute) => minute = cursor.number(2)?,
            Ok(Directive::Second) => second = cursor.number(2)?,
            Ok(Directive::Fraction(digits)) => {
                fraction = cursor.number(digits)? * 10_i64.pow(u32::try_from(9 - digits).ok()?);
            }
            Ok(Directive::Zone(length)) => offset = parse_offset(cursor.take(length)?)?,
            Err(_) => {
                let mut characters = cursor.0.chars();
                characters.next();
                cursor.0 = characters.as_str();
            }
        }
    }
    nanos(date_time([year?, month?, day?, hour, minute, second], fraction)?, offset)
}

/// What is left to read of a text.
struct Cursor<'t>(&'t str);

impl<'t> Cursor<'t> {
    fn take(&mut self, bytes: usize) -> Option<&'t str> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of exactly that many digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        self.0 = rest;
        number.parse().ok()
    }

    fn skip(&mut self, c: char) -> bool {
        let rest = self.0.strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}
