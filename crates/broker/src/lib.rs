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
//! # Topics with a meaning of their own
//!
//! | a client says | and gets |
//! |---|---|
//! | SUBSCRIBE `$share/group/filter`, `$queue/filter` | each message goes to one member of the group, see [`SharedStrategy`] |
//! | SUBSCRIBE `$exclusive/filter` | the messages of `filter`, as long as no other client has the same; Quota exceeded (0x97) otherwise |
//! | PUBLISH `$delayed/SECONDS/topic` | the message is published to `topic` later, see [`DelayedLimits`] |
//! | SUBSCRIBE `$SYS/broker/...` | what the broker tells of itself, see [`Config::sys_interval`]; nobody else publishes there |
//!
//! A member of a group that leaves messages of QoS 1 unacknowledged when its session ends hands them to another, as
//! well as messages of QoS 2 unless it may have seen some. While it is away they wait for it, and new messages go to
//! members that are online.
//!
//! What a client publishes is taken apart in this order: alias, `$delayed`, [`Rewrite`], [`DenyList`], [`Mountpoint`].
//! A message that is handed to nobody is answered with a reason in 5.0; in 3.x, where there is none, it is
//! acknowledged ([MQTT311-3.3.5-2]). Either way it is counted.
//!
//! # Main types
//!
//! - [`Broker`]: the handle; [`Config`] and [`Metrics`] go into it.
//! - [`RuleBinding`], [`Output`] and [`Republish`]: a compiled rule and what becomes of its rows; [`AckMode`]: what a
//!   PUBACK waits for; [`RuleOptions`]: what rules may use, and where they keep what they remember.
//! - [`Injector`]: publishes what the embedding program has to say, and waits for subscribers that are behind.
//! - [`Listener`]: where connections come from; [`Tcp`] is in the box, and [`Tls`] and [`WebSocket`] go around any other.
//!   [`ListenerOptions`] holds for its clients.
//! - [`AuthenticationMethod`]: a method of enhanced authentication; [`ScramSha256`] is in the box.
//! - [`SharedStrategy`], [`RetainedLimits`], [`DelayedLimits`], [`DenyList`], [`Rewrite`], [`AutoSubscription`] and
//!   [`Mountpoint`]: what a [`Config`] says beyond the protocol.
//!
//! # Features
//!
//! - `tls` (on): [`Tls`], with rustls.
//! - `websocket` (on): [`WebSocket`], with tokio-tungstenite.

mod access;
mod authentication;
mod auto_subscribe;
mod broker;
mod config;
mod connection;
mod delayed;
mod engine;
mod entry;
mod events;
mod fanout;
mod injector;
mod joint;
mod listener;
mod metrics;
mod mount;
mod opening;
mod output;
mod pipeline;
mod place;
mod reauthentication;
mod receive;
mod registry;
mod remembered;
mod replay;
mod republish;
mod response_information;
mod retained;
mod rewrite;
mod scram;
mod setting;
mod shared;
mod state_files;
mod subscribing;
mod sys;
mod takeover;
mod timers;
#[cfg(feature = "tls")]
mod tls;
mod turn;
#[cfg(feature = "websocket")]
mod websocket;

pub use access::DenyList;
pub use authentication::{
    Accepted, AuthenticatingClient, AuthenticationMethod, AuthenticationMethods, Exchange, Step, Stepping,
};
pub use auto_subscribe::AutoSubscription;
pub use broker::Broker;
pub use config::{Config, ListenerOptions, Redirect};
pub use delayed::DelayedLimits;
pub use engine::{RuleOptions, RulesError};
pub use injector::{Injected, Injection, Injector, InjectorOptions, NotPublished, NotSafe};
pub use listener::{ACCEPT_PAUSE, Listener, Peer, Tcp};
pub use metrics::Metrics;
pub use mount::Mountpoint;
pub use pipeline::{AckMode, Output, RuleBinding};
pub use republish::{MAX_HOPS, MAX_REPUBLISHED, Republish, RepublishProperties};
pub use response_information::ResponseInformation;
pub use retained::RetainedLimits;
pub use rewrite::{Rewrite, RewriteScope};
pub use scram::ScramSha256;
pub use setting::InvalidSetting;
pub use shared::SharedStrategy;
pub use state_files::StateFileError;
pub use tidegate_codec::{QoS, RetainHandling, SubscribeOptions, UserProperties};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError, TlsOptions, TlsStream};
#[cfg(feature = "websocket")]
pub use websocket::{WebSocket, WebSocketOptions, WebSocketStream};
