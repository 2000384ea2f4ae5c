//! What a producer is told.

use std::sync::Arc;
use std::time::Duration;

use tidegate_sink::BackoffPolicy;

use crate::compression::Compression;
use crate::connect::{Connect, PlainTcp};
use crate::dead_letter::DeadLetter;
use crate::partitioner::{JavaPartitioner, Partitioner};
use crate::sasl::Sasl;

/// Topics that one producer may send to, at most: names come from rules, and rules may make them from what devices say.
pub const MAX_TOPICS: usize = 10_000;

/// How a producer reaches Kafka, and what it may use for that. A plain struct: fill what differs from the default.
#[derive(Debug, Clone)]
pub struct Config {
    /// Nodes to ask first, as `host:port`. Any one of them is enough; they are tried in turn.
    pub bootstrap: Vec<String>,
    /// What nodes see in their logs and quotas. `tidegate` unless told.
    pub client_id: String,
    /// Makes connections: [`PlainTcp`] unless told, or [`Tls`](crate::Tls).
    pub connect: Arc<dyn Connect>,
    /// How to authenticate, if at all.
    pub sasl: Option<Sasl>,
    /// Chooses partitions. [`JavaPartitioner`] unless told.
    pub partitioner: Arc<dyn Partitioner>,
    /// A batch is sealed at this many bytes. 256 KiB unless told.
    pub batch_bytes: usize,
    /// How batches are compressed. Not at all unless told.
    pub compression: Compression,
    /// A batch is sealed when its first record has waited this long; earlier when nothing is in flight. 5 ms unless told.
    pub linger: Duration,
    /// After a request of several records the next to the same node begins this much later at the earliest, unless a batch
    /// is full or its linger over. So records gather where they are many, and a lone one does not wait. 1 ms unless
    /// told, which the timer makes about 2; zero for the least delay.
    pub request_interval: Duration,
    /// A request holds batches of no more bytes than this together, and a record that is larger alone is rejected. 4 MiB
    /// unless told: Kafka's own limit for a batch is 1 MiB unless changed there.
    pub max_request_bytes: usize,
    /// Bytes of records held, waiting and in flight, over all topics. 256 MiB unless told.
    pub budget_bytes: usize,
    /// An answer that takes longer counts as lost, and its connection with it. 30 s unless told.
    pub request_timeout: Duration,
    /// Opening a connection, with authentication, takes no longer than this. 10 s unless told.
    pub connect_timeout: Duration,
    /// Waits between attempts: 20 ms to 1 s unless told.
    pub backoff: BackoffPolicy,
    /// Leaders and partitions are asked for this often even if nothing fails. 5 min unless told.
    pub metadata_interval: Duration,
    /// Looks at the replication of topics, and says in [`Status::warnings`](crate::Status::warnings) and the log which of
    /// them may lose what is acknowledged. True unless told.
    pub warn_of_single_copies: bool,
    /// Creates topics that are missing. `None`: wait until someone else does.
    pub create_topics: Option<TopicLayout>,
    /// Where records go that Kafka will never take. `None`: they are rejected.
    pub dead_letter: Option<DeadLetter>,
}

/// How a topic is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicLayout {
    /// -1: the server's default.
    pub partitions: i32,
    /// -1: the server's default.
    pub replication: i16,
    /// Such as `cleanup.policy` = `compact`.
    pub config: Vec<(String, String)>,
}

impl Default for TopicLayout {
    fn default() -> Self {
        Self { partitions: -1, replication: -1, config: Vec::new() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bootstrap: vec!["127.0.0.1:9092".to_owned()],
            client_id: "tidegate".to_owned(),
            connect: Arc::new(PlainTcp),
            sasl: None,
            partitioner: Arc::new(JavaPartitioner),
            batch_bytes: 256 * 1024,
            compression: Compression::None,
            linger: Duration::from_millis(5),
            request_interval: Duration::from_millis(1),
            max_request_bytes: 4 * 1024 * 1024,
            budget_bytes: 256 * 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            backoff: BackoffPolicy::default(),
            metadata_interval: Duration::from_mins(5),
            warn_of_single_copies: true,
            create_topics: None,
            dead_letter: None,
        }
    }
}

/// Host and port of `address`; an IPv6 address stands in brackets. The port is 9092 where none is given.
pub(crate) fn host_port(address: &str) -> (String, u16) {
    const DEFAULT_PORT: u16 = 9092;
    let address = address.trim();
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().unwrap_or(DEFAULT_PORT))
        }
        _ => (address, DEFAULT_PORT),
    };
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_addresses_may_be_names_or_ipv6_and_have_a_default_port() {
        for (address, host, port) in [
            ("kafka:19092", "kafka", 19092),
            (" kafka ", "kafka", 9092),
            ("[::1]:9093", "::1", 9093),
            ("::1", "::1", 9092),
            ("10.0.0.1:9094", "10.0.0.1", 9094),
        ] {
            assert_eq!(host_port(address), (host.to_owned(), port), "{address}");
        }
    }
}
