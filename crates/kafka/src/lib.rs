//! An idempotent, pipelined Kafka producer whose acknowledgements tell the truth: a record is reported as delivered when
//! Kafka's in-sync replicas have it, or where that is wanted the disk does, once and in order, and nothing is given up
//! because of time alone.
//!
//! It reads, too: a [`Source`] is a member of a consumer group that commits what was handed over, and a [`Reader`] reads a
//! partition from an offset on, which is enough to look at what was written. It has no transactions.
//!
//! ```no_run
//! use tidegate_kafka::{Config, Producer};
//! use tidegate_sink::{Feed, Offer, Record};
//! use tokio::time::{Duration, Instant};
//!
//! # async fn example() {
//! let config = Config { bootstrap: vec!["kafka:9092".into()], ..Config::default() };
//! let producer = Producer::start(config, &tokio::runtime::Handle::current());
//! let record = Record { key: Some(b"7"), value: Some(b"21.5"), ..Record::new("plant") };
//! if let Offer::Full(_) = producer.offer(&record, None) {
//!     // The budget is used up: wait with `poll_room`.
//! }
//! producer.flush();
//! producer.close(Instant::now() + Duration::from_secs(5)).await;
//! # }
//! ```
//!
//! The types to know: [`Config`], [`Producer`] (a [`Feed`](tidegate_sink::Feed)), [`SpillConfig`], [`Status`],
//! [`Source`], [`Reader`].
//!
//! # How a record travels
//!
//! [`Producer::offer`](tidegate_sink::Feed::offer) finds the topic and the partition and encodes the record into the
//! partition's open batch, under a short lock: that is its only copy, unless [`Compression`] makes another when the batch
//! is complete. One lane task for each Kafka node owns the node's connection. It seals a batch when it is full, when its
//! linger is over, or when nothing is in flight and the last request is [`Config::request_interval`] ago or was of a single
//! record, and puts the next batch of every ready partition into one Produce request, written with the batches where they
//! lie. At most five requests are in flight, so at most five batches of a partition. While the partitions of a topic are
//! not known, its records wait in order, in the same memory budget.
//!
//! # What happens after an error
//!
//! | [`ErrorClass`] | codes | what the producer does |
//! |---|---|---|
//! | `Delivered` | NONE, DUPLICATE_SEQUENCE_NUMBER | settles the records as delivered |
//! | `RetryWithMetadata` | UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, BROKER_NOT_AVAILABLE, REPLICA_NOT_AVAILABLE, NETWORK_EXCEPTION, KAFKA_STORAGE_ERROR, LISTENER_NOT_FOUND, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID | asks who leads now; sends the same bytes there after a backoff |
//! | `RetryInPlace` | CORRUPT_MESSAGE, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND, COORDINATOR_*, NOT_COORDINATOR, CONCURRENT_TRANSACTIONS, THROTTLING_QUOTA_EXCEEDED | sends the same bytes again after a backoff |
//! | `Split` | MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE; INVALID_RECORD, INVALID_TIMESTAMP | halves the batch until the record is alone, which becomes a dead letter or is rejected; its neighbours go on |
//! | `NewProducerId` | OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID, PRODUCER_FENCED | takes a new producer id for the partition and sends everything unanswered again under it: at most five batches, counted as possible duplicates |
//! | `Park` | the authorisation errors, POLICY_VIOLATION, UNSUPPORTED_*, INVALID_REQUIRED_ACKS, INVALID_TOPIC_EXCEPTION, UNKNOWN_SERVER_ERROR, any code that is not listed | holds the records, reports the reason, asks again at the backoff's cap |
//!
//! A lost connection, or an answer that does not come within the request timeout, means the same bytes again over a new
//! connection. A throttle time is honoured after the answer's results are taken.
//!
//! Kafka measures the age of a producer id by the timestamps of its records (`producer.id.expiration.ms`, a day unless
//! changed). A node that restarts while the last records carry timestamps older than that has forgotten the sequence, and
//! stores a repetition twice: stamp records with the time of their arrival where that matters.
//!
//! # Records that Kafka will never take
//!
//! A record that is too large alone, invalid, not allowed, or for a topic that can't be there, is rejected, or goes where
//! [`Config::dead_letter`] says. In a topic it keeps key, value, timestamp and headers, and has further headers:
//! `dead_letter.reason` ([`Rejection::name`](tidegate_sink::Rejection::name)), `dead_letter.rule` (the name of
//! [`Producer::feed_for`]), `dead_letter.topic`, `dead_letter.time` (milliseconds since the Unix epoch) and, where key, value
//! and headers were cut off at 16 KiB each because the whole was too large for that topic too, `dead_letter.value_bytes`. In a
//! file it is a line of JSON. It counts as delivered, for whoever waits for it, when it is safe there. A dead letter that is
//! refused itself is rejected.
//!
//! # While Kafka does not take records
//!
//! [`Producer::start`] holds them in memory, and gives records back when the budget is used up. With
//! [`Producer::start_spilling`] a partition spills when Kafka refuses its batch, when a connection breaks under one, when
//! a record has waited for [`SpillConfig::after`], or when [`SpillConfig::queue_bytes`] of memory are in use: what it has
//! goes to a log on disk in its order, one sync for all that arrived meanwhile, is acknowledged
//! ([`AckPolicy::Durable`]) and leaves memory. What was in flight stays in memory beside its copy and is sent again byte
//! for byte. What is on disk is sent before anything newer of its partition, in full batches. Records whose topic is not
//! known yet are spilled too, and find their partition later. A healthy Kafka leaves the disk untouched.
//!
//! The next process reads the log before it sends anything newer of a topic. It has a new producer id, so the records
//! that Kafka had taken when the last process was killed, and that were not marked as done yet, are stored twice: at most
//! what was in flight. When the log is full or its disk fails nothing is acknowledged that Kafka has not, memory fills,
//! and records are given back.
//!
//! # What is rskafka's here
//!
//! The protocol's vocabulary (request and response traits, primitives, metadata, error names) and SASL, which its
//! messenger speaks over a stream that it borrows. Framing and the requests that carry data are our own: the messenger
//! copies each request into one buffer, spawns a reader for each connection, keeps a socket for as long as a cancelled
//! write takes, and does not tell which versions the node speaks.
//!
//! There are no cargo features. TLS is [`Tls`], with ring; another one comes from outside, through [`Connect`].

#![expect(
    clippy::cast_possible_wrap,
    reason = "Kafka's lengths and counts are signed; each is bounded by a request"
)]

mod backlog;
mod books;
mod checksum;
mod compression;
mod config;
mod connect;
mod connection;
mod control;
mod dead_letter;
mod dead_letter_file;
mod error_class;
mod lane;
mod murmur2;
mod partition;
mod partitioner;
mod producer;
mod reader;
mod record_batch;
mod replication;
mod sasl;
mod source;
mod spill;
mod status;
mod tls;
mod token;
mod topic;
mod when_full;
mod wire;

pub use compression::Compression;
pub use config::{Config, MAX_TOPICS, TopicLayout};
pub use connect::{Connect, Connecting, PlainTcp, Stream};
pub use connection::ConnectionError;
pub use dead_letter::{DeadLetter, DeadLetterFile};
pub use error_class::{ErrorClass, classify, error_name};
pub use murmur2::murmur2;
pub use partitioner::{JavaPartitioner, Partitioner};
pub use producer::Producer;
pub use reader::{Fetched, FetchedRecord, ReadError, Reader};
#[doc(hidden)]
pub use record_batch::BatchEncoder;
pub use sasl::{Login, Sasl, Secret, SecretError, TokenSource};
pub use source::{
    Batch, PartitionStatus, Source, SourceConfig, SourceError, SourceState, SourceStatus, SourceWatch, Start,
};
pub use spill::{AckPolicy, SpillConfig, SpillStatus};
pub use status::{LATENCY_BUCKETS_MS, State, Status};
pub use tidegate_spill::{Directory, Disk, OpenError};
pub use tls::{Tls, TlsConfig, TlsError, TlsIdentity};
pub use token::{TokenEndpoint, TokenError};
pub use topic::is_legal_topic_name;
pub use when_full::{Droppable, FeedPolicy, WhenFull};
