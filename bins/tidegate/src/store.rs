//! The store of sessions and retained messages: opened at the start, watched by Prometheus.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};
use tidegate_store::{Durability, Journal, OpenError, Options, Recovered, Status, Store, Volatile};

use crate::config::{DurabilitySettings, StoreSettings};

/// Opens the store that the settings ask for, and returns what it held.
///
/// # Errors
/// A text for the operator.
pub(crate) fn open(settings: &StoreSettings) -> Result<(Arc<dyn Store>, Recovered), String> {
    if !settings.enabled {
        return Ok((Arc::new(Volatile::default()), Recovered::default()));
    }
    let durability = match settings.durability {
        DurabilitySettings::Fsync => Durability::Fsync,
        DurabilitySettings::Os => Durability::Os,
    };
    let mut options = Options::new(&settings.directory);
    options.durability = durability;
    let (journal, recovered) = Journal::open(options).map_err(|error| {
        let way_out = match &error {
            OpenError::InUse { .. } => "; stop that process, or choose another directory",
            OpenError::NewerFormat { .. } => "; run the version that wrote it, or choose another directory",
            _ => "",
        };
        format!("error: store.directory: {error}{way_out}")
    })?;
    if recovered.repair.is_loss() {
        tracing::error!(repair = ?recovered.repair, "the store is damaged: what could be read is there");
    }
    Ok((Arc::new(journal), recovered))
}

/// Reads the store's status whenever somebody scrapes.
pub(crate) struct StoreCollector {
    store: Arc<dyn Store>,
    descriptions: Vec<Desc>,
}

struct Value {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: fn(&Status) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
const VALUES: [Value; 8] = [
    Value {
        name: "tidegate_store_up",
        help: "1 while the store can keep what is promised.",
        kind: MetricType::GAUGE,
        read: |status| f64::from(u8::from(status.failure.is_none())),
    },
    Value {
        name: "tidegate_store_pending_bytes",
        help: "Memory of changes that are not on disk yet.",
        kind: MetricType::GAUGE,
        read: |status| status.pending_bytes as f64,
    },
    Value {
        name: "tidegate_store_batches_total",
        help: "Batches of changes written, each with one sync.",
        kind: MetricType::COUNTER,
        read: |status| status.batches as f64,
    },
    Value {
        name: "tidegate_store_changes_total",
        help: "Changes of sessions and retained messages written.",
        kind: MetricType::COUNTER,
        read: |status| status.changes as f64,
    },
    Value {
        name: "tidegate_store_written_bytes_total",
        help: "Bytes written, with what was moved to free older files.",
        kind: MetricType::COUNTER,
        read: |status| status.written_bytes as f64,
    },
    Value {
        name: "tidegate_store_disk_bytes",
        help: "Bytes of the store's files.",
        kind: MetricType::GAUGE,
        read: |status| status.disk_bytes as f64,
    },
    Value {
        name: "tidegate_store_messages",
        help: "Messages that wait for sessions, each once.",
        kind: MetricType::GAUGE,
        read: |status| status.messages as f64,
    },
    Value {
        name: "tidegate_store_last_sync_seconds",
        help: "How long the last sync took.",
        kind: MetricType::GAUGE,
        read: |status| status.last_sync_us as f64 / 1e6,
    },
];

impl StoreCollector {
    pub(crate) fn new(store: &Arc<dyn Store>) -> Self {
        let descriptions = VALUES
            .iter()
            .map(|value| {
                Desc::new(value.name.to_owned(), value.help.to_owned(), Vec::new(), HashMap::new())
                    .expect("the names above are valid")
            })
            .collect();
        Self { store: Arc::clone(store), descriptions }
    }
}

impl Collector for StoreCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.store.status();
        let family = |value: &Value| {
            let mut metric = Metric::default();
            let number = (value.read)(&status);
            if value.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
            let mut family = MetricFamily::default();
            family.set_name(value.name.to_owned());
            family.set_help(value.help.to_owned());
            family.set_field_type(value.kind);
            family.set_metric(vec![metric]);
            family
        };
        VALUES.iter().map(family).collect()
    }
}
