//! An MQTT broker as a library: listeners, connection tasks, the registry of sessions, fan-out to subscribers, and
//! back-pressure from the sinks behind its rules to the devices in front of it.
//!
//! It is the tokio part only. It does not know any destination (a [`Feed`](tidegate_sink::Feed) is handed in), reads no
//! configuration file, builds no runtime and installs no logger or metrics registry.
//!
//! # Example
//!
//! A broker without rules on a free port of the loopback interface:
//!
//! ```
//! use tidegate_broker::{Broker, Config, Metrics, Tcp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let metrics = Metrics::register(&prometheus::Registry::new())?;
//! let broker = Broker::start(Config::default(), Vec::new(), metrics)?;
//! let listener = Tcp::bind("127.0.0.1:0".parse()?).await?;
//! let serving = tokio::spawn({
//!     let broker = broker.clone();
//!     async move { broker.serve(listener).await }
//! });
//! broker.shutdown().await;
//! serving.await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Main types
//!
//! - [`Broker`]: the handle; [`Config`] and [`Metrics`] go into it.
//! - [`RuleBinding`] and [`Output`]: a compiled rule and where its rows go; [`AckMode`]: what a PUBACK waits for.
//! - [`Listener`]: where connections come from; [`Tcp`] is in the box.

mod broker;
mod config;
mod connection;
mod entry;
mod fanout;
mod joint;
mod listener;
mod metrics;
mod pipeline;
mod registry;
mod replay;
mod takeover;
mod timers;
mod turn;

pub use broker::Broker;
pub use config::Config;
pub use listener::{ACCEPT_PAUSE, Listener, Peer, Tcp};
pub use metrics::Metrics;
pub use pipeline::{AckMode, Output, RuleBinding};
