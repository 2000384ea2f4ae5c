//! What the broker counts, in Prometheus' types. The embedder hands in the registry; no label is a client id or a topic.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use tidegate_codec::ReasonCode;
use tidegate_session::Dropped;
use tidegate_sink::Rejection;

/// Counters and gauges of one broker.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connections: IntGauge,
    pub(crate) connections_total: IntCounter,
    pub(crate) connections_refused: IntCounterVec,
    pub(crate) accept_errors: IntCounter,
    pub(crate) disconnects: IntCounterVec,
    pub(crate) sessions: IntGauge,
    pub(crate) sessions_online: IntGauge,
    pub(crate) subscriptions: IntGauge,
    pub(crate) subscriptions_refused: IntCounterVec,
    pub(crate) retained: IntGauge,
    pub(crate) not_retained: IntCounterVec,
    pub(crate) refused: IntCounterVec,
    pub(crate) delayed: IntGauge,
    pub(crate) received_packets: IntCounter,
    pub(crate) received_bytes: IntCounter,
    pub(crate) sent_bytes: IntCounter,
    pub(crate) received: [IntCounter; 3],
    pub(crate) acknowledged: IntCounter,
    pub(crate) delivered: IntCounter,
    pub(crate) dropped: IntCounterVec,
    pub(crate) redispatched: IntCounter,
    pub(crate) stalls: IntCounter,
    pub(crate) rule_matched: IntCounterVec,
    pub(crate) rule_passed: IntCounterVec,
    pub(crate) rule_no_match: IntCounterVec,
    pub(crate) rule_failed: IntCounterVec,
    pub(crate) rule_evaluation: HistogramVec,
    pub(crate) event_records_dropped: IntCounter,
    pub(crate) rejected: IntCounterVec,
}

impl Metrics {
    /// Metrics that are registered with `registry`.
    ///
    /// # Errors
    /// When a metric of the same name is registered already: one registry serves one broker.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let received = counter_vec(
            registry,
            "tidegate_messages_received_total",
            "Application messages from clients, by QoS.",
            &["qos"],
        )?;
        Ok(Self {
            connections: gauge(registry, "tidegate_connections", "Network connections that are open.")?,
            connections_total: counter(
                registry,
                "tidegate_connections_accepted_total",
                "Network connections accepted.",
            )?,
            connections_refused: counter_vec(
                registry,
                "tidegate_connections_refused_total",
                "Connections that ended before a session began, by reason.",
                &["reason"],
            )?,
            accept_errors: counter(
                registry,
                "tidegate_accept_errors_total",
                "Failures to accept a connection, such as running out of file descriptors.",
            )?,
            disconnects: counter_vec(
                registry,
                "tidegate_disconnects_total",
                "Conversations that ended, by cause.",
                &["cause"],
            )?,
            sessions: gauge(registry, "tidegate_sessions", "Sessions, online or at rest.")?,
            sessions_online: gauge(
                registry,
                "tidegate_sessions_online",
                "Sessions whose client is connected.",
            )?,
            subscriptions_refused: counter_vec(
                registry,
                "tidegate_subscriptions_refused_total",
                "Filters that were refused in SUBACK, by reason.",
                &["reason"],
            )?,
            subscriptions: gauge(registry, "tidegate_subscriptions", "Subscriptions of all sessions.")?,
            retained: gauge(registry, "tidegate_retained_messages", "Retained messages.")?,
            not_retained: counter_vec(
                registry,
                "tidegate_messages_not_retained_total",
                "Messages with the retain flag that were not retained, by the cap that they met.",
                &["reason"],
            )?,
            refused: counter_vec(
                registry,
                "tidegate_messages_refused_total",
                "Messages from clients that were handed to nobody, by reason. 3.x cannot tell its publishers.",
                &["reason"],
            )?,
            delayed: gauge(
                registry,
                "tidegate_delayed_messages",
                "Messages that wait for their time to be published.",
            )?,
            received_packets: counter(
                registry,
                "tidegate_received_packets_total",
                "MQTT packets read from clients, after CONNECT.",
            )?,
            received_bytes: counter(registry, "tidegate_received_bytes_total", "Bytes read from clients.")?,
            sent_bytes: counter(registry, "tidegate_sent_bytes_total", "Bytes written to clients.")?,
            received: ["0", "1", "2"].map(|qos| received.with_label_values(&[qos])),
            acknowledged: counter(
                registry,
                "tidegate_messages_acknowledged_total",
                "QoS 1 and 2 messages from clients that were answered with a success PUBACK or PUBREC.",
            )?,
            delivered: counter(
                registry,
                "tidegate_messages_delivered_total",
                "Deliveries handed to the sessions of subscribers.",
            )?,
            dropped: counter_vec(
                registry,
                "tidegate_messages_dropped_total",
                "Deliveries to subscribers that were dropped, by reason.",
                &["reason"],
            )?,
            redispatched: counter(
                registry,
                "tidegate_shared_redispatched_total",
                "Messages that a member of a shared subscription left unacknowledged and another member got.",
            )?,
            stalls: counter(
                registry,
                "tidegate_publisher_stalls_total",
                "Times a connection stopped reading because a sink had no room.",
            )?,
            rule_matched: counter_vec(
                registry,
                "tidegate_rule_matched_total",
                "Messages and other events that a rule's FROM asks for: the sum of those that passed, did not match, \
                 and failed.",
                &["rule"],
            )?,
            rule_passed: counter_vec(
                registry,
                "tidegate_rule_passed_total",
                "Events that a rule selected.",
                &["rule"],
            )?,
            rule_no_match: counter_vec(
                registry,
                "tidegate_rule_no_match_total",
                "Events that a rule did not select: its WHERE was false, or DEDUP or SAMPLE held them back.",
                &["rule"],
            )?,
            rule_failed: counter_vec(
                registry,
                "tidegate_rule_failed_total",
                "Events for which a rule could not be evaluated, and rows that could not be made into what an output \
                 takes, by reason.",
                &["rule", "reason"],
            )?,
            rule_evaluation: {
                let options = HistogramOpts::new(
                    "tidegate_rule_evaluation_seconds",
                    "Time of one evaluation of a rule for one event, without what its outputs do. One evaluation of 64 \
                     is measured.",
                );
                let buckets = vec![5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 2e-2];
                register(registry, HistogramVec::new(options.buckets(buckets), &["rule"])?)?
            },
            event_records_dropped: counter(
                registry,
                "tidegate_event_records_dropped_total",
                "Records of events that are no messages for which a sink had no room: nobody waits for them.",
            )?,
            rejected: counter_vec(
                registry,
                "tidegate_messages_rejected_total",
                "QoS 1 and 2 messages that were not acknowledged because a sink refused their record for good, by reason.",
                &["reason"],
            )?,
        })
    }
}

/// The counters of one rule.
#[derive(Debug, Clone)]
pub(crate) struct RuleMetrics {
    rule: Box<str>,
    pub(crate) matched: IntCounter,
    pub(crate) passed: IntCounter,
    pub(crate) no_match: IntCounter,
    pub(crate) evaluation: Histogram,
    failed: IntCounterVec,
}

impl RuleMetrics {
    /// Counts a failure. Reasons are names of the code, so the label is bounded.
    pub(crate) fn count_failure(&self, reason: &str) {
        self.failed.with_label_values(&[&*self.rule, reason]).inc();
    }
}

impl Metrics {
    /// The counters of the rule `id`. Rule ids come from the configuration, so the label is bounded.
    pub(crate) fn rule(&self, id: &str) -> RuleMetrics {
        RuleMetrics {
            rule: id.into(),
            matched: self.rule_matched.with_label_values(&[id]),
            passed: self.rule_passed.with_label_values(&[id]),
            no_match: self.rule_no_match.with_label_values(&[id]),
            evaluation: self.rule_evaluation.with_label_values(&[id]),
            failed: self.rule_failed.clone(),
        }
    }

    /// Counts a QoS 1 or 2 message whose record a sink refused for good.
    pub(crate) fn count_rejection(&self, rejection: Rejection) {
        self.rejected.with_label_values(&[rejection.name()]).inc();
    }

    /// Counts a filter that was refused.
    pub(crate) fn count_refused_subscription(&self, reason: ReasonCode) {
        let name = match reason {
            ReasonCode::NotAuthorized | ReasonCode::UnspecifiedError => "denied",
            ReasonCode::QuotaExceeded => "quota",
            _ => "invalid",
        };
        self.subscriptions_refused.with_label_values(&[name]).inc();
    }

    /// Counts deliveries that a session could not send or keep.
    pub(crate) fn count_drops(&self, dropped: Dropped) {
        let Dropped { queue_full, expired, too_large, offline, congested } = dropped;
        for (reason, count) in [
            ("queue_full", queue_full),
            ("expired", expired),
            ("too_large", too_large),
            ("offline", offline),
            ("congested", congested),
        ] {
            if count > 0 {
                self.dropped.with_label_values(&[reason]).inc_by(count.into());
            }
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(name, help)?)
}

fn counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}
