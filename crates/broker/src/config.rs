//! What an embedder decides about a broker.

use std::sync::Arc;
use std::time::Duration;

use tidegate_session::Limits;

/// Settings of a [`Broker`](crate::Broker). `Default` is what the binary uses without configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What one conversation may do: windows, sizes, queues.
    pub limits: Arc<Limits>,
    /// What one packet may hold. The size comes from `limits`, which also announces it.
    pub decoder_limits: tidegate_codec::Limits,
    /// How many connections are served at once, over all listeners. One more is closed at once and counted.
    pub max_connections: usize,
    /// From accept to a whole CONNECT, however slowly it trickles in.
    pub connect_timeout: Duration,
    /// Bytes waiting for a socket above which its session stops sending and queues instead.
    pub write_high_water_bytes: usize,
    /// Deliveries that may wait between a publisher's task and a subscriber's. Above it they are dropped and counted:
    /// a subscriber that is this late never slows a publisher.
    pub mailbox_messages: usize,
    /// How long a shutdown waits for what is in flight before it ends the conversations.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Arc::new(Limits::default()),
            decoder_limits: tidegate_codec::Limits::default(),
            max_connections: 1_000_000,
            connect_timeout: Duration::from_secs(10),
            write_high_water_bytes: 64 * 1024,
            mailbox_messages: 10_000,
            drain_timeout: Duration::from_secs(10),
        }
    }
}
