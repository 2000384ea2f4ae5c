//! From the settings to the parts' own configurations, and from the producers' own counters to Prometheus.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use tidegate_broker::{Config, Redirect};
use tidegate_kafka::{
    Compression, Connect, Directory, LATENCY_BUCKETS_MS, OpenError, PlainTcp, Producer, SpillConfig,
    SpillStatus, State, Status, TopicLayout,
};
use tidegate_session::{Limits, QueuePolicy};
use tidegate_sink::CountersSnapshot;
use tracing::warn;

use crate::config::{
    CompressionSetting, KafkaSettings, Period, QueuePolicySetting, RedirectSetting, SaslSettings, Settings,
    SpillSettings,
};

/// The broker's part of the settings.
pub(crate) fn broker_config(settings: &Settings, max_connections: usize) -> Config {
    let mqtt = &settings.mqtt;
    let limits = Limits {
        receive_maximum: mqtt.receive_maximum,
        max_inflight_out: mqtt.max_inflight,
        max_packet_size: mqtt.max_packet_size.packet_size(),
        topic_alias_maximum: mqtt.topic_alias_maximum,
        max_aliases_out: mqtt.topic_aliases_to_clients,
        server_keep_alive: mqtt.server_keep_alive,
        max_keep_alive: mqtt.max_keep_alive,
        session_expiry_3x: mqtt.session_expiry.get(),
        max_session_expiry: mqtt.max_session_expiry.map(Period::get),
        max_qos: mqtt.max_qos.get(),
        server_reference: mqtt.server_reference.as_deref().map(Into::into),
        max_queued_messages: mqtt.max_queued_messages,
        max_queued_bytes: mqtt.max_queued_size.as_usize(),
        queue_policy: match mqtt.queue_policy {
            QueuePolicySetting::DropOldest => QueuePolicy::DropOldest,
            QueuePolicySetting::DropNewest => QueuePolicy::DropNewest,
        },
        queue_qos0: mqtt.queue_qos0,
        max_subscriptions: mqtt.max_subscriptions,
        max_client_id_bytes: mqtt.max_client_id_bytes,
        max_topic_levels: mqtt.max_topic_levels,
        record_changes: settings.store.enabled,
        ..Limits::default()
    };
    let topics = settings.topic_rules();
    let sys_interval = mqtt.sys_interval.get();
    Config {
        limits: Arc::new(limits),
        max_connections,
        max_sessions: mqtt.max_sessions,
        connect_timeout: mqtt.connect_timeout.get(),
        drain_timeout: settings.shutdown.timeout.get() / 2,
        shared: mqtt.shared_strategy.into(),
        denied: topics.denied,
        rewrites: topics.rewrites,
        auto_subscriptions: topics.auto_subscriptions,
        max_plus_levels: mqtt.max_plus_levels,
        retained: settings.retained.limits(),
        delayed: settings.delayed.limits(),
        sys_interval: (!sys_interval.is_zero()).then_some(sys_interval),
        node_name: settings.rule_engine.node.clone(),
        rules: settings.rule_engine.options(),
        // Loaded settings were checked.
        response_information: mqtt.response_information().ok().flatten(),
        redirect: mqtt.redirect.map(|redirect| match redirect {
            RedirectSetting::ForNow => Redirect::ForNow,
            RedirectSetting::ForGood => Redirect::ForGood,
        }),
        ..Config::default()
    }
}

/// The producer of a `[kafka.NAME]`.
///
/// # Errors
/// What is wrong with a file for TLS or SASL, for a terminal.
pub(crate) fn kafka_config(name: &str, kafka: &KafkaSettings) -> Result<tidegate_kafka::Config, String> {
    let tls = kafka.tls.as_ref().map(|tls| tls.open(&format!("kafka.{name}.tls"))).transpose()?;
    let sasl = kafka.sasl.as_ref().map(|sasl| sasl.open(&format!("kafka.{name}.sasl"))).transpose()?;
    if tls.is_none() && kafka.sasl.as_ref().is_some_and(SaslSettings::is_readable) {
        warn!(
            kafka = name,
            "the password travels as it is, and connections are not encrypted: add [kafka.{name}.tls], unless the \
             network is trusted"
        );
    }
    let connect: Arc<dyn Connect> = match tls {
        Some(tls) => Arc::new(tls),
        None => Arc::new(PlainTcp),
    };
    let create_topics = kafka.create_topics_with_partitions.map(|partitions| TopicLayout {
        partitions: i32::from(partitions.get()),
        replication: kafka.create_topics_with_replicas.map_or(-1, |replicas| replicas.get().cast_signed()),
        ..TopicLayout::default()
    });
    Ok(tidegate_kafka::Config {
        bootstrap: kafka.bootstrap.clone(),
        connect,
        sasl,
        batch_bytes: kafka.batch_size.as_usize(),
        compression: match kafka.compression {
            CompressionSetting::None => Compression::None,
            CompressionSetting::Gzip => Compression::Gzip,
            CompressionSetting::Snappy => Compression::Snappy,
            CompressionSetting::Lz4 => Compression::Lz4,
            CompressionSetting::Zstd => Compression::Zstd,
        },
        linger: kafka.linger.get(),
        request_interval: kafka.request_interval.get(),
        budget_bytes: kafka.buffer.as_usize(),
        request_timeout: kafka.request_timeout.get(),
        create_topics,
        dead_letter: kafka.dead_letter.dead_letter(),
        ..tidegate_kafka::Config::default()
    })
}

/// Sees to it that the file of dead letters can be written, so that a wrong path is told at the start.
///
/// # Errors
/// What is wrong with it, for a terminal.
pub(crate) fn try_dead_letter_file(name: &str, kafka: &KafkaSettings) -> Result<(), String> {
    let Some(path) = &kafka.dead_letter.file else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(path))
        .map(drop)
        .map_err(|error| {
            format!("error: kafka.{name}.dead_letter.file: cannot write {}: {error}", path.display())
        })
}

/// Where a producer keeps what its Kafka does not take, if anywhere; the directory is ours from then on.
///
/// # Errors
/// What is wrong with the directory, for a terminal.
pub(crate) fn spill_config(name: &str, spill: &SpillSettings) -> Result<Option<SpillConfig>, String> {
    if !spill.enabled {
        return Ok(None);
    }
    let directory = Directory::take(&spill_directory(name, spill));
    let directory = directory.map_err(|error| spill_error(name, spill, &error))?;
    Ok(Some(SpillConfig {
        quota_bytes: spill.quota.as_u64(),
        after: spill.after.get(),
        queue_bytes: spill.queue.as_usize(),
        ..SpillConfig::new(Arc::new(directory))
    }))
}

/// Says which spill log can't be used, and why.
pub(crate) fn spill_error(name: &str, spill: &SpillSettings, error: &OpenError) -> String {
    let directory = spill_directory(name, spill);
    format!("error: kafka.{name}.spill.directory: cannot use {}: {error}", directory.display())
}

fn spill_directory(name: &str, spill: &SpillSettings) -> PathBuf {
    spill.directory.clone().unwrap_or_else(|| PathBuf::from("tidegate-data/spill").join(name))
}

/// The producer into the embedded log, which creates topics as they come.
pub(crate) fn embedded_config(bootstrap: &str) -> tidegate_kafka::Config {
    tidegate_kafka::Config {
        bootstrap: vec![bootstrap.to_owned()],
        create_topics: Some(TopicLayout::default()),
        // It is one, and says so when it starts.
        warn_of_single_copies: false,
        ..tidegate_kafka::Config::default()
    }
}

/// Reads the producers' counters whenever somebody scrapes.
pub(crate) struct SinkCollector {
    producers: BTreeMap<String, Arc<Producer>>,
    descriptions: Vec<Desc>,
}

/// A metric with one value for each sink.
struct Single {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&Status) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
const SINGLES: [Single; 23] = [
    Single {
        name: "tidegate_sink_up",
        help: "1 when everything that the sink is given flows.",
        kind: MetricType::GAUGE,
        value: |status| f64::from(u8::from(status.state == State::Up)),
    },
    Single {
        name: "tidegate_sink_warnings",
        help: "Things that hold up no record and should not stay so; the log names them.",
        kind: MetricType::GAUGE,
        value: |status| status.warnings.len() as f64,
    },
    Single {
        name: "tidegate_sink_records_offered_total",
        help: "Records that the sink has taken.",
        kind: MetricType::COUNTER,
        value: |status| status.records.offered as f64,
    },
    Single {
        name: "tidegate_sink_records_delivered_total",
        help: "Records that are safe at their destination.",
        kind: MetricType::COUNTER,
        value: |status| status.records.delivered as f64,
    },
    Single {
        name: "tidegate_sink_records_rejected_total",
        help: "Records that the destination refused for good.",
        kind: MetricType::COUNTER,
        value: |status| status.records.rejected as f64,
    },
    Single {
        name: "tidegate_sink_records_lost_total",
        help: "Records whose end nobody knows; none of them was acknowledged.",
        kind: MetricType::COUNTER,
        value: |status| status.records.lost as f64,
    },
    Single {
        name: "tidegate_sink_records_held",
        help: "Records that wait for their destination.",
        kind: MetricType::GAUGE,
        value: |status| status.records.held as f64,
    },
    Single {
        name: "tidegate_sink_records_refused_total",
        help: "Offers given back because the sink's memory was used up: their publishers waited.",
        kind: MetricType::COUNTER,
        value: |status| status.records.refused as f64,
    },
    Single {
        name: "tidegate_sink_held_bytes",
        help: "Memory in use of the sink's budget.",
        kind: MetricType::GAUGE,
        value: |status| status.held_bytes as f64,
    },
    Single {
        name: "tidegate_sink_batches_total",
        help: "Batches that the destination has taken.",
        kind: MetricType::COUNTER,
        value: |status| status.batches as f64,
    },
    Single {
        name: "tidegate_sink_batch_bytes_total",
        help: "Bytes of the batches that the destination has taken.",
        kind: MetricType::COUNTER,
        value: |status| status.batch_bytes as f64,
    },
    Single {
        name: "tidegate_sink_requests_total",
        help: "Produce requests sent.",
        kind: MetricType::COUNTER,
        value: |status| status.requests as f64,
    },
    Single {
        name: "tidegate_sink_possible_duplicates_total",
        help: "Records sent again under a new producer id although an earlier attempt may have stored them.",
        kind: MetricType::COUNTER,
        value: |status| status.possible_duplicates as f64,
    },
    Single {
        name: "tidegate_sink_throttled_total",
        help: "Times the destination asked to slow down.",
        kind: MetricType::COUNTER,
        value: |status| status.throttled as f64,
    },
    Single {
        name: "tidegate_sink_spill_records",
        help: "Records on disk that the destination has not taken.",
        kind: MetricType::GAUGE,
        value: |status| of_spill(status, |spill| spill.records),
    },
    Single {
        name: "tidegate_sink_spill_disk_bytes",
        help: "Bytes on disk of the spill log.",
        kind: MetricType::GAUGE,
        value: |status| of_spill(status, |spill| spill.disk_bytes),
    },
    Single {
        name: "tidegate_sink_spill_oldest_seconds",
        help: "How long the oldest record on disk has waited.",
        kind: MetricType::GAUGE,
        value: |status| of_spill(status, |spill| spill.oldest.map_or(0, |oldest| oldest.as_secs())),
    },
    Single {
        name: "tidegate_sink_spill_failing",
        help: "1 while the disk does not take records, because it is full or broken.",
        kind: MetricType::GAUGE,
        value: |status| of_spill(status, |spill| spill.problem.is_some().into()),
    },
    Single {
        name: "tidegate_sink_spilled_records_total",
        help: "Records that were written to disk.",
        kind: MetricType::COUNTER,
        value: |status| of_spill(status, |spill| spill.spilled),
    },
    Single {
        name: "tidegate_sink_spilled_bytes_total",
        help: "Bytes that were written to disk.",
        kind: MetricType::COUNTER,
        value: |status| of_spill(status, |spill| spill.spilled_bytes),
    },
    Single {
        name: "tidegate_sink_replayed_records_total",
        help: "Records from disk that the destination has taken, or refused for good.",
        kind: MetricType::COUNTER,
        value: |status| of_spill(status, |spill| spill.replayed),
    },
    Single {
        name: "tidegate_sink_recovered_records_total",
        help: "Records that an earlier process left on disk; they count as offered here too.",
        kind: MetricType::COUNTER,
        value: |status| of_spill(status, |spill| spill.recovered),
    },
    Single {
        name: "tidegate_sink_spill_damaged_entries_total",
        help: "Entries on disk whose bytes have changed: acknowledged records that are gone.",
        kind: MetricType::COUNTER,
        value: |status| of_spill(status, |spill| spill.damaged_entries),
    },
];

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn of_spill(status: &Status, value: impl Fn(&SpillStatus) -> u64) -> f64 {
    status.spill.as_ref().map_or(0.0, |spill| value(spill) as f64)
}

/// The further labels of one value, and the value.
type Value = (Vec<String>, u64);

/// Metrics of several values for each sink.
struct Labelled {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// Beside `sink`.
    labels: &'static [&'static str],
    values: fn(&Status) -> Vec<Value>,
}

const LABELLED: [Labelled; 5] = [
    Labelled {
        name: "tidegate_sink_records_dead_lettered_total",
        help: "Records that the destination refused for good and that are kept among the dead letters, by reason.",
        kind: MetricType::COUNTER,
        labels: &["reason"],
        values: |status| {
            let letters = status.records.dead_lettered.iter();
            letters.map(|(reason, records)| (vec![reason.name().to_owned()], *records)).collect()
        },
    },
    Labelled {
        name: "tidegate_sink_records_dropped_total",
        help: "Records that were thrown away as the rule's policy says, by reason.",
        kind: MetricType::COUNTER,
        labels: &["reason"],
        values: |status| {
            let drops = status.records.dropped.iter();
            drops.map(|(reason, records)| (vec![reason.name().to_owned()], *records)).collect()
        },
    },
    Labelled {
        name: "tidegate_rule_records_offered_total",
        help: "Records that a sink has taken from a rule: always the sum of those that ended and those that are held.",
        kind: MetricType::COUNTER,
        labels: &["rule"],
        values: |status| by_rule(status, |records| records.offered),
    },
    Labelled {
        name: "tidegate_rule_records_held",
        help: "Records of a rule that wait for their destination.",
        kind: MetricType::GAUGE,
        labels: &["rule"],
        values: |status| by_rule(status, |records| records.held),
    },
    Labelled {
        name: "tidegate_rule_records_ended_total",
        help: "Records of a rule by how they ended.",
        kind: MetricType::COUNTER,
        labels: &["rule", "end"],
        values: ends,
    },
];

/// The sources that had records: rules, and what an embedder would offer without one.
fn sources(status: &Status) -> impl Iterator<Item = &(String, CountersSnapshot)> {
    status.sources.iter().filter(|(name, records)| !name.is_empty() || records.offered > 0)
}

fn by_rule(status: &Status, value: fn(&CountersSnapshot) -> u64) -> Vec<Value> {
    sources(status).map(|(rule, records)| (vec![rule.clone()], value(records))).collect()
}

fn ends(status: &Status) -> Vec<Value> {
    let of = |(rule, records): &(String, CountersSnapshot)| {
        [
            ("delivered", records.delivered),
            ("rejected", records.rejected),
            ("dead_lettered", records.dead_lettered.values().sum()),
            ("dropped", records.dropped.values().sum()),
            ("lost", records.lost),
        ]
        .map(|(end, count)| (vec![rule.clone(), end.to_owned()], count))
    };
    sources(status).flat_map(of).collect()
}

const RETRIES: (&str, &str) =
    ("tidegate_sink_retries_total", "Batches that were sent again, by the class of the error.");
const LATENCY: (&str, &str) =
    ("tidegate_sink_produce_duration_seconds", "From a batch's first write to the destination's success.");

impl SinkCollector {
    pub(crate) fn new(producers: &BTreeMap<String, Arc<Producer>>) -> Self {
        let names = SINGLES.iter().map(|single| (single.name, single.help)).chain([RETRIES, LATENCY]);
        let labels = |name| {
            if name == RETRIES.0 {
                vec!["sink".to_owned(), "class".to_owned()]
            } else {
                vec!["sink".to_owned()]
            }
        };
        let labelled = LABELLED.iter().map(|metric| {
            let labels = ["sink"].iter().chain(metric.labels).map(|&label| label.to_owned()).collect();
            description(metric.name, metric.help, labels)
        });
        let descriptions =
            names.map(|(name, help)| description(name, help, labels(name))).chain(labelled).collect();
        Self { producers: producers.clone(), descriptions }
    }
}

impl Collector for SinkCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let statuses: Vec<(&str, Status)> =
            self.producers.iter().map(|(name, producer)| (name.as_str(), producer.status())).collect();
        let mut families: Vec<MetricFamily> = SINGLES
            .iter()
            .map(|single| {
                let metrics = statuses.iter().map(|(name, status)| {
                    let mut metric = Metric::from_label(vec![label("sink", name)]);
                    let value = (single.value)(status);
                    if single.kind == MetricType::COUNTER {
                        metric.set_counter(counter(value));
                    } else {
                        let mut gauge = Gauge::default();
                        gauge.set_value(value);
                        metric.set_gauge(gauge);
                    }
                    metric
                });
                family((single.name, single.help), single.kind, metrics.collect())
            })
            .collect();
        families.extend(LABELLED.iter().map(|metric| {
            let values = statuses.iter().flat_map(|(name, status)| labelled(metric, name, status));
            family((metric.name, metric.help), metric.kind, values.collect())
        }));
        families.push(family(RETRIES, MetricType::COUNTER, statuses.iter().flat_map(retries).collect()));
        families.push(family(LATENCY, MetricType::HISTOGRAM, statuses.iter().map(latency).collect()));
        families
    }
}

pub(crate) fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn description(name: &str, help: &str, labels: Vec<String>) -> Desc {
    Desc::new(name.to_owned(), help.to_owned(), labels, std::collections::HashMap::new())
        .expect("the names and labels above are valid")
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn labelled(metric: &Labelled, sink: &str, status: &Status) -> Vec<Metric> {
    let of = |(values, count): Value| {
        let mut labels = vec![label("sink", sink)];
        labels.extend(metric.labels.iter().zip(&values).map(|(name, value)| label(name, value)));
        let mut one = Metric::from_label(labels);
        if metric.kind == MetricType::COUNTER {
            one.set_counter(counter(count as f64));
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(count as f64);
            one.set_gauge(gauge);
        }
        one
    };
    (metric.values)(status).into_iter().map(of).collect()
}

pub(crate) fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

pub(crate) fn counter(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn retries((name, status): &(&str, Status)) -> Vec<Metric> {
    let classes = status.retries.iter().map(|(class, count)| (class.name(), *count));
    classes
        .chain([("connection_lost", status.connection_losses)])
        .map(|(class, count)| {
            let mut metric = Metric::from_label(vec![label("sink", name), label("class", class)]);
            metric.set_counter(counter(count as f64));
            metric
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn latency((name, status): &(&str, Status)) -> Metric {
    let mut histogram = Histogram::default();
    let mut total = 0;
    let mut buckets = Vec::with_capacity(status.latency_buckets.len());
    let bounds = LATENCY_BUCKETS_MS.iter().map(|bound| *bound as f64 / 1000.0).chain([f64::INFINITY]);
    for (count, bound) in status.latency_buckets.iter().zip(bounds) {
        total += count;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(total);
        bucket.set_upper_bound(bound);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    histogram.set_sample_count(total);
    histogram.set_sample_sum(status.latency_sum.as_secs_f64());
    let mut metric = Metric::from_label(vec![label("sink", name)]);
    metric.set_histogram(histogram);
    metric
}
