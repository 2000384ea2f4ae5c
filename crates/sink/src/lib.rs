//! What a destination of records is: [`Feed`] is what a broker sees of it, [`Sink`] is what its author writes, and
//! [`Driver`] stands between them with a queue, batches, retries and acknowledgements that tell the truth.
//!
//! It is not a destination: Kafka has its own crate, which implements [`Feed`] itself because it pipelines. It is not a
//! broker either, and knows nothing about what a record means.
//!
//! ```
//! use std::sync::Arc;
//! use tidegate_sink::{
//!     Ack, Driver, DriverConfig, Feed, Offer, OwnedRecord, Outcome, Record, Settle, Settled, Sink, WriteError,
//!     WriteReport,
//! };
//!
//! /// The whole of a third party's work: write one batch, say what happened.
//! struct Lines(Vec<String>);
//!
//! impl Sink for Lines {
//!     async fn write(&mut self, batch: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
//!         self.0.extend(batch.iter().map(|r| format!("{} {:?}", r.topic(), r.value())));
//!         Ok(WriteReport::default())
//!     }
//! }
//!
//! /// Whoever waits for acknowledgements.
//! struct Publisher(tokio::sync::mpsc::UnboundedSender<Settled>);
//!
//! impl Settle for Publisher {
//!     fn settle(&self, settled: &[Settled]) {
//!         settled.iter().for_each(|s| drop(self.0.send(*s)));
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
//! let feed = Driver::spawn(Lines(Vec::new()), DriverConfig::default(), &tokio::runtime::Handle::current());
//! let record = Record { value: Some(b"21.5"), ..Record::new("plant/7") };
//! let ack = Ack::new(Arc::new(Publisher(tell)), 7);
//! assert!(matches!(feed.offer(&record, Some(ack)), Offer::Taken));
//! feed.flush();
//! assert_eq!(told.recv().await, Some(Settled { token: 7, outcome: Outcome::Delivered }));
//! # });
//! ```
//!
//! The types to know: [`Record`] and [`OwnedRecord`] (what travels), [`Ack`] and [`Outcome`] (what is owed for it),
//! [`Feed`] and [`Driver`] (what takes it), [`Sink`] (what you write, and check with [`conformance`]).
//!
//! [`MemoryBudget`], [`Batcher`], [`Backoff`] and [`Counters`] are the parts that a feed is made of; they take the time
//! as a parameter and do no I/O. There are no cargo features.

mod ack;
mod backoff;
mod batcher;
mod budget;
pub mod conformance;
mod counters;
mod discard;
mod driver;
mod feed;
mod prefetch;
mod record;
mod sink;

pub use ack::{Ack, Outcome, Rejection, Settle, Settled, settle_all, settle_each};
pub use backoff::{Backoff, BackoffPolicy};
pub use batcher::{BatchLimits, Batcher};
pub use budget::MemoryBudget;
pub use counters::{Counters, CountersSnapshot, DropReason, LastError};
pub use discard::Discard;
pub use driver::{Driver, DriverConfig};
pub use feed::{Feed, Offer};
#[doc(hidden)]
pub use prefetch::prefetch;
pub use record::{OwnedRecord, Record};
pub use sink::{Sink, WriteError, WriteReport};
