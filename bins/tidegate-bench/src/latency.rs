//! Latencies: a histogram in microseconds, and what a report says of it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest latency that is told apart, in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Values differ by at most a thousandth from what was recorded.
const SIGNIFICANT_DIGITS: u8 = 3;

/// A histogram of latencies. Its size is fixed: about 180 KiB.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// What a report says of a histogram, in microseconds. All zero where nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) count: u64,
    pub(crate) min_us: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Latencies {
    /// Returns an empty histogram.
    pub(crate) fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST_US, SIGNIFICANT_DIGITS)
                .expect("these constants are within the histogram's limits"),
        )
    }

    /// Counts one latency; below a microsecond as one, above an hour as an hour.
    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(micros.max(1));
    }

    /// Counts what `other` counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Whether nothing was recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets everything, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// Returns the latency that the share `quantile` (0 to 1) of all stayed within, in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// Returns the figures for a report.
    pub(crate) fn summary(&self) -> LatencySummary {
        if self.0.is_empty() {
            return LatencySummary::default();
        }
        LatencySummary {
            count: self.0.len(),
            min_us: self.0.min(),
            mean_us: self.0.mean(),
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: self.0.max(),
        }
    }
}

/// As pairs of a value and how often it, or what can't be told from it, was recorded.
impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let recorded = self.0.iter_recorded();
        serializer.collect_seq(recorded.map(|value| (value.value_iterated_to(), value.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latencies = Self::new();
        for (micros, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.0.saturating_record_n(micros, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(value: u64, expected: u64) {
        assert!(value.abs_diff(expected) <= expected / 1000 + 1, "{value} is not near {expected}");
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        for micros in 1..=100_000 {
            latencies.record(Duration::from_micros(micros));
        }
        let summary = latencies.summary();
        assert_eq!((summary.count, summary.min_us), (100_000, 1));
        assert_near(summary.p50_us, 50_000);
        assert_near(summary.p90_us, 90_000);
        assert_near(summary.p99_us, 99_000);
        assert_near(summary.p999_us, 99_900);
        assert_near(summary.max_us, 100_000);
        assert!((summary.mean_us - 50_000.0).abs() < 100.0, "{}", summary.mean_us);
    }

    #[test]
    fn merged_histograms_say_what_one_would_have_said() {
        let (mut even, mut odd, mut all) = (Latencies::new(), Latencies::new(), Latencies::new());
        for micros in 1..=10_000 {
            let latency = Duration::from_micros(micros * 7);
            all.record(latency);
            if micros % 2 == 0 { even.record(latency) } else { odd.record(latency) }
        }
        even.merge(&odd);
        assert_eq!(even.summary(), all.summary());
        even.clear();
        assert_eq!(even.summary(), LatencySummary::default());
    }

    #[test]
    fn latencies_beyond_the_bounds_are_counted_at_the_bounds() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::MAX);
        let summary = latencies.summary();
        assert_eq!((summary.count, summary.min_us), (2, 1));
        assert_near(summary.max_us, LONGEST_US);
    }
}
