//! Durations, sizes and rates with their units, as people write them: `500ms`, `1KiB`, `2000`.

use std::time::Duration;

use bytesize::ByteSize;

/// Returns the duration that `text` spells, such as `30s`, `250ms` or `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration with its unit, such as 30s or 250ms"))
}

/// Returns the duration that `text` spells, which can't be zero.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("an interval of zero is the `flood` command".to_owned()),
        interval => Ok(interval),
    }
}

/// Returns the number of bytes that `text` spells, such as `1024`, `1KiB` or `64kB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let size: ByteSize =
        text.parse().map_err(|_| format!("{text:?} is not a size, such as 1024, 1KiB or 64kB"))?;
    usize::try_from(size.as_u64()).map_err(|_| format!("{text:?} is more than this machine can address"))
}

/// Returns a number of events a second, above zero and finite.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("{text:?} is not a rate above zero, in events a second")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        for wrong in ["", "30", "s", "-1s", "1 fortnight"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_interval_of_zero_is_refused() {
        assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
        assert!(interval("0s").is_err());
    }

    #[test]
    fn sizes_are_bytes_unless_they_say_otherwise() {
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("1KiB"), Ok(1024));
        assert_eq!(size("64kB"), Ok(64_000));
        for wrong in ["", "KiB", "-1", "1 parsec"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rates_are_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "inf", "NaN", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
    }
}
