//! What an embedder decides about a broker.

use std::sync::Arc;
use std::time::Duration;

use tidegate_session::Limits;

use crate::access::DenyList;
use crate::authentication::AuthenticationMethods;
use crate::auto_subscribe::AutoSubscription;
use crate::delayed::DelayedLimits;
use crate::engine::RuleOptions;
use crate::mount::Mountpoint;
use crate::response_information::ResponseInformation;
use crate::retained::RetainedLimits;
use crate::rewrite::Rewrite;
use crate::shared::SharedStrategy;

/// Settings of a [`Broker`](crate::Broker). `Default` is what the binary uses without configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What one conversation may do: windows, sizes, queues.
    pub limits: Arc<Limits>,
    /// What one packet may hold. The size comes from `limits`, which also announces it.
    pub decoder_limits: tidegate_codec::Limits,
    /// How many connections are served at once, over all listeners. One more is closed at once and counted.
    pub max_connections: usize,
    /// How many sessions there are at once, online and at rest. A client that would make one more is refused with Quota
    /// exceeded (0x97; Server unavailable in 3.1 and 3.1.1); those that have a session come back to it.
    pub max_sessions: usize,
    /// From accept to a whole CONNECT, however slowly it trickles in.
    pub connect_timeout: Duration,
    /// Bytes waiting for a socket above which its session stops sending and queues instead.
    pub write_high_water_bytes: usize,
    /// Deliveries that may wait between a publisher's task and a subscriber's. Above it they are dropped and counted:
    /// a subscriber that is this late never slows a publisher.
    pub mailbox_messages: usize,
    /// Bytes of those deliveries, each counted whole although receivers share it.
    pub mailbox_bytes: usize,
    /// How long a shutdown waits for what is in flight before it ends the conversations.
    pub drain_timeout: Duration,
    /// Which member of a shared subscription gets a message.
    pub shared: SharedStrategy,
    /// Topics that nobody may use.
    pub denied: DenyList,
    /// Levels of `+` in one filter; one with more is refused with Topic filter invalid (0x8F). What a message costs
    /// to match grows with it, see [`SubscriptionTree`](tidegate_topic::SubscriptionTree).
    pub max_plus_levels: usize,
    /// What may be retained.
    ///
    /// A message beyond it is refused with Quota exceeded (0x97) where the publisher waits for an answer that can say
    /// so (QoS 1 and 2 in 5.0), and is then handed to nobody. Otherwise it is handed on as usual and not retained.
    /// Both are counted.
    pub retained: RetainedLimits,
    /// What `$delayed/SECONDS/topic` may hold back.
    pub delayed: DelayedLimits,
    /// Rewrites of topics, in order.
    pub rewrites: Vec<Rewrite>,
    /// What every client is subscribed to when it connects.
    pub auto_subscriptions: Vec<AutoSubscription>,
    /// How often the broker publishes what it knows of itself under `$SYS/broker`, at most once a second; `None` for
    /// never.
    pub sys_interval: Option<Duration>,
    /// What 5.0 clients that ask for it are told to build their response topics on.
    pub response_information: Option<ResponseInformation>,
    /// Whether clients are sent to another server instead of being served. Which one says
    /// [`Limits::server_reference`], which they are told at a shutdown as well.
    pub redirect: Option<Redirect>,
    /// The broker's name: what rules read in the column `node`.
    pub node_name: String,
    /// What rules may use, and where they keep what they remember.
    pub rules: RuleOptions,
}

/// How clients are sent to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// For now: Use another server (0x9C).
    ForNow,
    /// For good: Server moved (0x9D).
    ForGood,
}

/// What holds for the clients of one listener.
#[derive(Debug, Clone, Default)]
pub struct ListenerOptions {
    /// The name space of their topics.
    pub mountpoint: Option<Mountpoint>,
    /// Limits of their sessions in place of [`Config::limits`]. A session that is resumed keeps those with which it
    /// began; the size of packets is one for all listeners.
    pub limits: Option<Arc<Limits>>,
    /// Methods of enhanced authentication.
    pub authentication: AuthenticationMethods,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Arc::new(Limits::default()),
            decoder_limits: tidegate_codec::Limits::default(),
            max_connections: 1_000_000,
            max_sessions: 1_000_000,
            connect_timeout: Duration::from_secs(10),
            write_high_water_bytes: 64 * 1024,
            mailbox_messages: 10_000,
            mailbox_bytes: 16 << 20,
            drain_timeout: Duration::from_secs(10),
            shared: SharedStrategy::RoundRobin,
            denied: DenyList::default(),
            max_plus_levels: 16,
            retained: RetainedLimits::default(),
            delayed: DelayedLimits::default(),
            rewrites: Vec::new(),
            auto_subscriptions: Vec::new(),
            sys_interval: Some(Duration::from_mins(1)),
            response_information: None,
            redirect: None,
            node_name: "tidegate".to_owned(),
            rules: RuleOptions::default(),
        }
    }
}
