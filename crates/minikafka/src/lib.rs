//! A small Kafka-compatible server in one process: for tests, which inject faults and count every record, and for a
//! first run, where kcat, Java, Python and Rust clients read what arrives although no Kafka is installed. It speaks the
//! real protocol over TCP and keeps its log in memory or in segment files.
//!
//! # What it is not
//!
//! It is not a Kafka cluster. **There is a single copy of the data**: its "nodes" are ports of one process, and when the
//! disk is gone so are the records. It has no replication, no transactions, no compaction, no quotas, no TLS and no
//! passwords, so it should listen on 127.0.0.1 only. It deletes the oldest records when it has reached its retention.
//! What it does promise: with a data directory and `durable` (the default), a Produce with acks=all is answered, and its
//! records are shown to consumers, after an fsync of them (one for all that wait).
//!
//! # Example
//!
//! ```
//! use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kafka = MiniKafka::builder().nodes(3).partitions(16).start().await?;
//! kafka.create_topic("telemetry", 16)?;
//!
//! // The third Produce finds too few replicas, and the leader of partition 0 moves.
//! let faults = kafka.faults();
//! let hit = faults.inject(On::api(ApiKey::Produce).skip(2).times(1), Effect::Error(ErrorCode::NOT_ENOUGH_REPLICAS));
//! faults.move_leader("telemetry", 0, 2)?;
//!
//! // Here a producer would write to kafka.bootstrap() ...
//! assert_eq!(kafka.bootstrap().split(',').count(), 3);
//! assert_eq!(hit.fired(), 0);
//! assert!(kafka.ledger("telemetry")?.is_empty());
//! kafka.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The main types
//!
//! [`Builder`] starts a [`MiniKafka`]; [`Faults`] makes it do wrong, with [`On`] and [`Effect`]; [`Ledger`] tells what it
//! has got. It builds no runtime: it runs on the one that calls [`Builder::start`].
//!
//! # Bounds
//!
//! Connections, the size of a request, partitions (1024), groups, members, producers and remembered requests are all
//! bounded; nothing is reserved because a client announced its size. A connection has at most 16 requests in work.
//!
//! # Features
//!
//! None.

mod api;
mod api_key;
mod builder;
mod cluster;
mod connection;
mod error;
mod error_code;
mod faults;
mod groups;
mod ledger;
mod log;
mod node;
mod offsets;
mod partition;
mod producer_ids;
mod producers;
mod record_batch;
mod segment;
mod server;
mod topics;
mod wire;

pub use api_key::ApiKey;
pub use builder::Builder;
pub use cluster::SeenRequest;
pub use error::Error;
pub use error_code::ErrorCode;
pub use faults::{Effect, Injected, On};
pub use ledger::{Ledger, LedgerError, LedgerRecord, Producer};
pub use server::{Faults, MiniKafka};
