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
//! - [`Listener`]: where connections come from; [`Tcp`] is in the box. [`ListenerOptions`] holds for its clients.
//! - [`SharedStrategy`], [`RetainedLimits`], [`DelayedLimits`], [`DenyList`], [`Rewrite`], [`AutoSubscription`] and
//!   [`Mountpoint`]: what a [`Config`] says beyond the protocol.

mod access;
mod auto_subscribe;
mod broker;
mod config;
mod connection;
mod delayed;
mod entry;
mod fanout;
mod joint;
mod listener;
mod metrics;
mod mount;
mod pipeline;
mod place;
mod receive;
mod registry;
mod replay;
mod retained;
mod rewrite;
mod setting;
mod shared;
mod subscribing;
mod sys;
mod takeover;
mod timers;
mod turn;

pub use access::DenyList;
pub use auto_subscribe::AutoSubscription;
pub use broker::Broker;
pub use config::{Config, ListenerOptions};
pub use delayed::DelayedLimits;
pub use listener::{ACCEPT_PAUSE, Listener, Peer, Tcp};
pub use metrics::Metrics;
pub use mount::Mountpoint;
pub use pipeline::{AckMode, Output, RuleBinding};
pub use retained::RetainedLimits;
pub use rewrite::{Rewrite, RewriteScope};
pub use setting::InvalidSetting;
pub use shared::SharedStrategy;
pub use tidegate_codec::{QoS, RetainHandling, SubscribeOptions};
