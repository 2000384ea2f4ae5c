//! What the tests of the workspace share: a real Kafka, the broker's binary, scripted MQTT peers, and ledgers that
//! count loss, duplicates and order. Unpublished; it may depend on any crate of the workspace.
//!
//! It is not part of the product, and nothing in it stands in for a part of the product.
//!
//! ```
//! use tidegate_testkit::ledger::{Found, Ledger, Payload, Verifier};
//!
//! let ledger = Ledger::new();
//! ledger.sent("device-1", 0);
//! ledger.acknowledged("device-1", 0);
//!
//! let value = Payload { publisher: "device-1".into(), seq: 0, sent_ns: 0 }.encode(1024);
//! let mut verifier = Verifier::new(&ledger);
//! verifier.record(Found { partition: 3, offset: 0, key: Some(b"device-1"), value: &value });
//! assert!(verifier.finish().is_exact());
//! ```
//!
//! - [`ledger`]: who was promised what, against what a log holds
//! - [`kafka`]: Apache Kafka from Maven Central's jars, started, killed and restarted
//! - [`mqtt`]: a client that says exactly what the test tells it
//! - [`scram`]: the client's side of an enhanced authentication
//! - [`process`]: the `tidegate` binary on free ports in its own folder
//! - [`proxy`]: a network that is slow, silent or broken, between any two of them
//! - [`folder`]: the files of one test
//! - [`certificates`]: authorities, and what they sign
//! - [`kafka_tls`]: a listener of Kafka for certificates, and the broker's half of it
//! - [`blocking`]: for calls of those that start and end processes
//! - `devices` (feature `e2e`): clients of rumqttc that publish into a ledger

pub mod certificates;
#[cfg(feature = "e2e")]
pub mod devices;
pub mod folder;
pub mod kafka;
pub mod kafka_tls;
pub mod ledger;
pub mod mqtt;
pub mod process;
pub mod proxy;
pub mod scram;

/// Returns what `work` returns, which may block: starting, killing and asking servers does.
///
/// # Panics
///
/// When `work` does.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
