//! What the server allows: the bound of every queue, window and table of a session.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use tidegate_codec::QoS;

/// The bounds of a session. One value, in an `Arc`, serves all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// QoS 1 and 2 messages that a client may have unacknowledged towards the server. Announced as Receive Maximum in
    /// 5.0; in 3.x the caller stops reading at it, see [`Session::window_is_full`](crate::Session::window_is_full).
    pub receive_maximum: NonZeroU16,
    /// QoS 1 and 2 messages that the server has unacknowledged towards a client, below the client's own Receive
    /// Maximum. The cost of an acknowledgement grows with it.
    pub max_inflight_out: NonZeroU16,
    /// QoS 2 messages that a 3.x client may leave without PUBREL. In 5.0 they count against `receive_maximum`; 3.x
    /// knows no such window, and not reading would never let the PUBREL in.
    pub max_unreleased: u16,
    /// Largest packet that the server accepts, in bytes; the decoder enforces it, CONNACK announces it.
    pub max_packet_size: NonZeroU32,
    /// Highest topic alias that a client may use; 0 for none.
    pub topic_alias_maximum: u16,
    /// Topic aliases that the server uses towards a client, below what the client allows; 0 for none. The cost of a
    /// PUBLISH to such a client grows with it.
    pub max_aliases_out: u16,
    /// Bytes that the aliased topics of one connection may take together, in each direction.
    pub max_alias_bytes: usize,
    /// Highest QoS that the server accepts in PUBLISH and in wills.
    pub max_qos: QoS,
    /// Whether clients may set RETAIN.
    pub retain_available: bool,
    /// Seconds. A 5.0 client that asks for a longer keep-alive, or for none, is told this one as Server Keep Alive.
    /// 3.x clients keep their own, because nothing could tell them.
    pub max_keep_alive: Option<NonZeroU16>,
    /// Seconds. Every 5.0 client is told this one as Server Keep Alive, whatever it asks for; `max_keep_alive` is then
    /// without effect.
    pub server_keep_alive: Option<NonZeroU16>,
    /// How long a 3.x session that was opened without Clean Session survives its connection.
    pub session_expiry_3x: Duration,
    /// The longest that a 5.0 session survives its connection; `None` for as long as the client asks.
    pub max_session_expiry: Option<Duration>,
    /// Messages that wait for a client which is away, slow, or has its window full.
    pub max_queued_messages: usize,
    /// Bytes of those messages, each counted whole although receivers share it.
    pub max_queued_bytes: usize,
    /// Which message a full queue drops.
    pub queue_policy: QueuePolicy,
    /// Whether QoS 0 messages wait as well; otherwise they are dropped when they can't be sent at once.
    pub queue_qos0: bool,
    /// Whether sessions that outlive their connections record their changes, for a store to keep: see
    /// [`Session::take_changes`](crate::Session::take_changes).
    pub record_changes: bool,
    /// Subscriptions of one session.
    pub max_subscriptions: usize,
    /// Longest client identifier, in bytes.
    pub max_client_id_bytes: usize,
    /// Levels of a topic name.
    pub max_topic_levels: usize,
    /// Another server, as clients may understand it (4.11 names `host:port`, several with spaces between). 5.0 clients
    /// are told it when this one shuts down, and by [`redirect`](crate::redirect).
    pub server_reference: Option<Box<str>>,
}

/// Which message a full queue drops. Each drop is counted, see [`Session::take_dropped`](crate::Session::take_dropped).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueuePolicy {
    /// The one that has waited longest.
    #[default]
    DropOldest,
    /// The one that just came.
    DropNewest,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u32 = 1024 * 1024;
        Self {
            receive_maximum: NonZeroU16::new(128).expect("128 is not zero"),
            max_inflight_out: NonZeroU16::new(32).expect("32 is not zero"),
            max_unreleased: 1024,
            max_packet_size: NonZeroU32::new(MIB).expect("a mebibyte is not zero"),
            topic_alias_maximum: 64,
            max_aliases_out: 16,
            max_alias_bytes: 64 * 1024,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            max_keep_alive: None,
            server_keep_alive: None,
            session_expiry_3x: Duration::from_hours(2),
            max_session_expiry: None,
            max_queued_messages: 1000,
            max_queued_bytes: 16 * MIB as usize,
            queue_policy: QueuePolicy::DropOldest,
            queue_qos0: false,
            record_changes: false,
            max_subscriptions: 1000,
            max_client_id_bytes: 1024,
            max_topic_levels: tidegate_topic::MAX_LEVELS,
            server_reference: None,
        }
    }
}
