//! From the sources' own counters to Prometheus.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, Metric, MetricFamily, MetricType};
use tidegate_kafka::{SourceState, SourceStatus, SourceWatch};

use crate::sinks::{counter, family, label};
use crate::sources::carrier::{Carried, Skip};

/// Reads the sources' counters whenever somebody scrapes.
pub(crate) struct SourceCollector {
    sources: Vec<(String, SourceWatch, Arc<Carried>)>,
    descriptions: Vec<Desc>,
}

/// A metric with one value for each source.
struct Single {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&SourceStatus, &Carried) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
const SINGLES: [Single; 14] = [
    Single {
        name: "tidegate_source_up",
        help: "1 while the source reads its partitions and nothing is wrong.",
        kind: MetricType::GAUGE,
        value: |status, carried| {
            let is_reading = status.state == SourceState::Reading && status.problem.is_none();
            f64::from(u8::from(is_reading && !carried.has_failed.load(Ordering::Relaxed)))
        },
    },
    Single {
        name: "tidegate_source_waiting",
        help: "1 while a subscriber that is behind, a rule's destination or the disk holds the source up.",
        kind: MetricType::GAUGE,
        value: |_, carried| f64::from(u8::from(carried.is_waiting.load(Ordering::Relaxed))),
    },
    Single {
        name: "tidegate_source_records_total",
        help: "Records fetched.",
        kind: MetricType::COUNTER,
        value: |status, _| status.fetched_records as f64,
    },
    Single {
        name: "tidegate_source_bytes_total",
        help: "Bytes of keys, values and headers fetched.",
        kind: MetricType::COUNTER,
        value: |status, _| status.fetched_bytes as f64,
    },
    Single {
        name: "tidegate_source_handed_over_total",
        help: "Records that are done with: published and safe, or skipped.",
        kind: MetricType::COUNTER,
        value: |status, _| status.handed_over as f64,
    },
    Single {
        name: "tidegate_source_published_total",
        help: "Messages published.",
        kind: MetricType::COUNTER,
        value: |_, carried| carried.published.load(Ordering::Relaxed) as f64,
    },
    Single {
        name: "tidegate_source_headers_left_out_total",
        help: "Keys and headers that are no text, and so became no user property.",
        kind: MetricType::COUNTER,
        value: |_, carried| carried.headers_left_out.load(Ordering::Relaxed) as f64,
    },
    Single {
        name: "tidegate_source_waited_seconds_total",
        help: "Time that messages waited for subscribers that were behind.",
        kind: MetricType::COUNTER,
        value: |_, carried| carried.waited_ms.load(Ordering::Relaxed) as f64 / 1000.0,
    },
    Single {
        name: "tidegate_source_subscribers_given_up_total",
        help: "Times a subscriber stayed behind for so long that it was not waited for any more.",
        kind: MetricType::COUNTER,
        value: |_, carried| carried.given_up.load(Ordering::Relaxed) as f64,
    },
    Single {
        name: "tidegate_source_commits_total",
        help: "Commits of offsets that Kafka took.",
        kind: MetricType::COUNTER,
        value: |status, _| status.commits as f64,
    },
    Single {
        name: "tidegate_source_generations_total",
        help: "Times the consumer group gave the source its partitions.",
        kind: MetricType::COUNTER,
        value: |status, _| status.generations as f64,
    },
    Single {
        name: "tidegate_source_partitions",
        help: "Partitions that the source reads.",
        kind: MetricType::GAUGE,
        value: |status, _| status.partitions.len() as f64,
    },
    Single {
        name: "tidegate_source_buffered_bytes",
        help: "Memory of records that were fetched and are not handed over.",
        kind: MetricType::GAUGE,
        value: |status, _| status.buffered_bytes as f64,
    },
    Single {
        name: "tidegate_source_failed",
        help: "1 when the source stands still until a restart, because the store or a destination failed.",
        kind: MetricType::GAUGE,
        value: |_, carried| f64::from(u8::from(carried.has_failed.load(Ordering::Relaxed))),
    },
];

/// Metrics with a label besides the source: name, help, kind, labels.
type Many = (&'static str, &'static str, MetricType, &'static [&'static str]);

const LAG: Many = (
    "tidegate_source_lag",
    "Records between what was handed over and the end of the partition, as of the last fetch.",
    MetricType::GAUGE,
    &["topic", "partition"],
);
const SKIPPED: Many = (
    "tidegate_source_skipped_total",
    "Records that were not published, by reason.",
    MetricType::COUNTER,
    &["reason"],
);
const ERRORS: Many = (
    "tidegate_source_errors_total",
    "Errors while reading, by class. All of them are tried again.",
    MetricType::COUNTER,
    &["class"],
);
const STATE: Many =
    ("tidegate_source_state", "1 for what the source does now.", MetricType::GAUGE, &["state"]);

impl SourceCollector {
    pub(super) fn new(sources: Vec<(String, SourceWatch, Arc<Carried>)>) -> Self {
        let singles = SINGLES.iter().map(|single| (single.name, single.help, &[][..]));
        let many = [LAG, SKIPPED, ERRORS, STATE].map(|(name, help, _, labels)| (name, help, labels));
        let describe = |(name, help, labels): (&str, &str, &[&str])| {
            let labels = ["source"].iter().chain(labels).map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, std::collections::HashMap::new())
                .expect("the names and labels above are valid")
        };
        Self { sources, descriptions: singles.chain(many).map(describe).collect() }
    }
}

impl Collector for SourceCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let statuses: Vec<(&str, SourceStatus, &Carried)> = self
            .sources
            .iter()
            .map(|(id, watch, carried)| (id.as_str(), watch.status(), &**carried))
            .collect();
        let single = |single: &Single| {
            let metrics = statuses.iter().map(|(id, status, carried)| {
                metric(single.kind, (single.value)(status, carried), &[("source", id)])
            });
            family((single.name, single.help), single.kind, metrics.collect())
        };
        let many = |(name, help, kind, _): Many,
                    values: fn(&str, &SourceStatus, &Carried, MetricType) -> Vec<Metric>| {
            let metrics = statuses.iter().flat_map(|(id, status, carried)| values(id, status, carried, kind));
            family((name, help), kind, metrics.collect())
        };
        let mut families: Vec<MetricFamily> = SINGLES.iter().map(single).collect();
        families.push(many(LAG, lag));
        families.push(many(SKIPPED, skipped));
        families.push(many(ERRORS, errors));
        families.push(many(STATE, state));
        // A family without a value, as the lag of a source that reads nothing yet, is no family to Prometheus.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn lag(id: &str, status: &SourceStatus, _: &Carried, kind: MetricType) -> Vec<Metric> {
    let known = status.partitions.iter().filter_map(|place| Some((place, place.lag()?)));
    known
        .map(|(place, lag)| {
            let partition = place.partition.to_string();
            let labels = [("source", id), ("topic", &*place.topic), ("partition", &*partition)];
            metric(kind, lag as f64, &labels)
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn skipped(id: &str, _: &SourceStatus, carried: &Carried, kind: MetricType) -> Vec<Metric> {
    let one =
        |skip: Skip| metric(kind, carried.skipped(skip) as f64, &[("source", id), ("reason", skip.name())]);
    Skip::ALL.into_iter().map(one).collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn errors(id: &str, status: &SourceStatus, _: &Carried, kind: MetricType) -> Vec<Metric> {
    let one = |(error, count): &(tidegate_kafka::SourceError, u64)| {
        metric(kind, *count as f64, &[("source", id), ("class", error.name())])
    };
    status.errors.iter().map(one).collect()
}

fn state(id: &str, status: &SourceStatus, _: &Carried, kind: MetricType) -> Vec<Metric> {
    vec![metric(kind, 1.0, &[("source", id), ("state", status.state.name())])]
}

fn metric(kind: MetricType, value: f64, labels: &[(&str, &str)]) -> Metric {
    // Prometheus wants the labels in the order of their names.
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    let mut metric = Metric::from_label(labels.iter().map(|(name, value)| label(name, value)).collect());
    if kind == MetricType::COUNTER {
        metric.set_counter(counter(value));
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
