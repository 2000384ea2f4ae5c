//! What a broker tells of itself under `$SYS/broker`, in mosquitto's names where there is one.
//!
//! The messages are retained, go to subscribers only and never to rules, and a value is published again when it
//! changes. Where a name of mosquitto's counts something that we do not, the table below says what it is here.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use prometheus::core::{Collector, GenericCounter};
use prometheus::proto::MetricFamily;
use tidegate_codec::{Publish, QoS};
use tidegate_session::Message;
use tidegate_topic::TopicName;

use crate::broker::Core;
use crate::fanout::Outgoing;

/// What stands in front of every name.
const PREFIX: &str = "$SYS/broker/";

/// The client id of the broker's own messages, for the hash of a shared subscription. No client has an empty one.
const NOBODY: &str = "";

/// What is done again and again is done no more often, whatever the configuration says.
pub(crate) const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Averages of counters over one, five and fifteen minutes.
const LOAD_MINUTES: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// What is counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counted {
    /// Packets of every kind from clients, but CONNECT.
    packets_received: u64,
    /// PUBLISH to clients, and PUBACK and PUBREC that say yes: what else is sent is not counted.
    packets_sent: u64,
    publish_received: u64,
    /// Handed to the sessions of subscribers, less what these dropped.
    publish_sent: u64,
    publish_dropped: u64,
    bytes_received: u64,
    bytes_sent: u64,
    connections: u64,
}

/// The averages of [`Counted`], each per minute.
#[derive(Debug, Default)]
struct Loads {
    /// One row for each name of [`Counted::loads`], one column for each of [`LOAD_MINUTES`].
    averages: [[f64; LOAD_MINUTES.len()]; 7],
}

/// What was published last.
#[derive(Default)]
pub(crate) struct Sys {
    published: HashMap<String, String, ahash::RandomState>,
    counted: Counted,
    loads: Loads,
}

impl Counted {
    fn now(core: &Core) -> Self {
        let metrics = &core.metrics;
        let dropped = sum_of(&metrics.dropped);
        let delivered = metrics.delivered.get();
        let publish_sent = delivered.saturating_sub(dropped);
        Self {
            packets_received: metrics.received_packets.get(),
            packets_sent: publish_sent + metrics.acknowledged.get(),
            publish_received: metrics.received.iter().map(GenericCounter::get).sum(),
            publish_sent,
            publish_dropped: dropped,
            bytes_received: metrics.received_bytes.get(),
            bytes_sent: metrics.sent_bytes.get(),
            connections: metrics.connections_total.get(),
        }
    }

    /// What mosquitto averages, by its name under `load/`.
    fn loads(&self) -> [(&'static str, u64); 7] {
        [
            ("messages/received", self.packets_received),
            ("messages/sent", self.packets_sent),
            ("publish/received", self.publish_received),
            ("publish/sent", self.publish_sent),
            ("bytes/received", self.bytes_received),
            ("bytes/sent", self.bytes_sent),
            ("sockets", self.connections),
        ]
    }
}

impl Loads {
    #[expect(clippy::cast_precision_loss, reason = "an average of counters has no use for the last bit")]
    fn update(&mut self, before: &Counted, after: &Counted, elapsed: Duration) {
        let minutes = elapsed.as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        let counts = after.loads().into_iter().zip(before.loads());
        for (averages, ((_, after), (_, before))) in self.averages.iter_mut().zip(counts) {
            let rate = after.saturating_sub(before) as f64 / minutes;
            for (average, (_, window)) in averages.iter_mut().zip(LOAD_MINUTES) {
                // An exponential average, so that the interval may be any.
                let weight = (-minutes / window).exp();
                *average = rate + weight * (*average - rate);
            }
        }
    }
}

impl Sys {
    /// Every name with its value now.
    fn values(&mut self, core: &Core, uptime: Duration, elapsed: Duration) -> Vec<(String, String)> {
        let counted = Counted::now(core);
        self.loads.update(&self.counted, &counted, elapsed);
        self.counted = counted;
        let (retained, retained_bytes) = core.retained.size();
        let metrics = &core.metrics;
        let total = metrics.sessions.get();
        let connected = metrics.sessions_online.get();
        let mut values: Vec<(String, String)> = vec![
            ("version".to_owned(), concat!("tidegate version ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("uptime".to_owned(), format!("{} seconds", uptime.as_secs())),
        ];
        for (name, value) in [
            ("clients/total", total),
            ("clients/connected", connected),
            ("clients/disconnected", (total - connected).max(0)),
            ("clients/maximum", core.most_online.load(Ordering::Relaxed)),
            ("subscriptions/count", metrics.subscriptions.get()),
        ] {
            values.push((name.to_owned(), value.to_string()));
        }
        for (name, value) in [
            ("messages/received", counted.packets_received),
            ("messages/sent", counted.packets_sent),
            ("messages/stored", retained as u64),
            ("store/messages/count", retained as u64),
            ("store/messages/bytes", retained_bytes as u64),
            ("retained messages/count", retained as u64),
            ("publish/messages/received", counted.publish_received),
            ("publish/messages/sent", counted.publish_sent),
            ("publish/messages/dropped", counted.publish_dropped),
            ("bytes/received", counted.bytes_received),
            ("bytes/sent", counted.bytes_sent),
        ] {
            values.push((name.to_owned(), value.to_string()));
        }
        for ((name, _), averages) in counted.loads().into_iter().zip(self.loads.averages) {
            for ((window, _), average) in LOAD_MINUTES.into_iter().zip(averages) {
                let mut value = String::new();
                // Writing to a String does not fail.
                let _ = write!(value, "{average:.2}");
                values.push((format!("load/{name}/{window}"), value));
            }
        }
        values
    }

    /// Publishes what has changed.
    fn publish(&mut self, core: &Core, uptime: Duration, elapsed: Duration) {
        for (name, value) in self.values(core, uptime, elapsed) {
            if self.published.get(&name) == Some(&value) {
                continue;
            }
            core.publish_own(&format!("{PREFIX}{name}"), value.as_bytes());
            self.published.insert(name, value);
        }
    }
}

impl Core {
    /// Publishes what the broker knows of itself, now and after each interval. Never returns.
    pub(crate) async fn publish_sys(self: Arc<Self>, interval: Duration) {
        let started = crate::broker::now();
        let mut last = started;
        let mut sys = Sys::default();
        loop {
            let now = crate::broker::now();
            sys.publish(&self, now - started, now - last);
            last = now;
            tokio::time::sleep(interval.max(SHORTEST_INTERVAL)).await;
        }
    }

    /// Publishes and retains a message of the broker's own.
    fn publish_own(&self, topic: &str, payload: &[u8]) {
        let Ok(name) = TopicName::parse(topic) else { return };
        let now: Instant = crate::broker::now();
        let message = Arc::new(Message::new(topic, payload, QoS::ExactlyOnce, true));
        self.retained.keep_own(name, &message);
        let publish: Publish<'_> = message.as_publish(now);
        let outgoing =
            Outgoing { entry: None, client_id: NOBODY, topic: name, publish: &publish, publisher: None };
        let taken = self.fanout.deliver(&outgoing, &mut Some(Arc::clone(&message)), now, &self.metrics);
        self.metrics.delivered.inc_by(taken.clients as u64);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is never negative, and Prometheus shows it as a float"
)]
fn sum_of(counters: &prometheus::IntCounterVec) -> u64 {
    let families = counters.collect();
    let values =
        families.iter().flat_map(MetricFamily::get_metric).map(|metric| metric.get_counter().get_value());
    values.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_approaches_the_rate_and_falls_when_nothing_comes() {
        let mut loads = Loads::default();
        let mut counted = Counted::default();
        for _ in 0..20 {
            let before = counted;
            counted.publish_received += 600;
            loads.update(&before, &counted, Duration::from_mins(1));
        }
        let [one, five, fifteen] = loads.averages[2];
        assert!((one - 600.0).abs() < 1.0 && one > five && five > fifteen && fifteen > 300.0, "{loads:?}");
        loads.update(&counted, &counted, Duration::from_mins(1));
        assert!(loads.averages[2][0] < 300.0);
        loads.update(&counted, &counted, Duration::ZERO);
        assert!(loads.averages[2][0].is_finite());
    }
}
