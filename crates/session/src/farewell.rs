//! The end of a conversation: why, and what is left to do about the will and the session.

use std::time::Duration;

use tidegate_codec::ReasonCode;

use crate::message::DueWill;
use crate::{Limits, Violation};

/// Why a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client sent DISCONNECT.
    ByClient,
    /// The network connection failed or was closed.
    ConnectionLost,
    /// Nothing came for one and a half times the keep-alive.
    KeepAliveTimeout,
    /// The client broke the protocol.
    Violation(Violation),
    /// Another connection with the same client identifier takes over; what it asked for decides about the will.
    TakenOver(Start),
    /// The server shuts down.
    ServerShutdown,
    /// The server wants it, for this reason.
    ByServer(ReasonCode),
}

/// What a CONNECT asks for: Clean Start of 5.0, Clean Session of 3.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A new session, the old one is discarded.
    Clean,
    /// The old session, if there is one.
    Resume,
}

/// What is left to do when a conversation has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// The will to publish, at once or after its delay.
    pub will: Option<DueWill>,
    /// When to discard the session, counted from now, unless the client comes back.
    pub session_expiry: Expiry,
}

/// When a session without connection is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// With its connection.
    Now,
    /// This long after its connection.
    After(Duration),
    /// Never.
    Never,
}

impl Expiry {
    /// Returns what a Session Expiry Interval asks for, in seconds, as far as the limits allow.
    pub(crate) fn from_interval(seconds: u32, limits: &Limits) -> Self {
        let asked = Duration::from_secs(seconds.into());
        match (seconds, limits.max_session_expiry) {
            (0, _) => Self::Now,
            (u32::MAX, None) => Self::Never,
            (_, Some(maximum)) if maximum < asked => {
                if maximum.is_zero() {
                    Self::Now
                } else {
                    Self::After(maximum)
                }
            }
            (..) => Self::After(asked),
        }
    }

    /// Returns the Session Expiry Interval that says the same, in seconds.
    pub(crate) fn to_interval(self) -> u32 {
        match self {
            Self::Now => 0,
            Self::After(duration) => u32::try_from(duration.as_secs()).unwrap_or(u32::MAX),
            Self::Never => u32::MAX,
        }
    }
}

/// Returns the will as it is due after `cause` in a session that stays for `expiry`, if it still is.
pub(crate) fn due(mut will: DueWill, cause: Ended, expiry: Expiry) -> Option<DueWill> {
    let session_ends_after = match (cause, expiry) {
        (Ended::TakenOver(Start::Clean), _) | (_, Expiry::Now) => Duration::ZERO,
        (_, Expiry::After(duration)) => duration,
        (_, Expiry::Never) => Duration::MAX,
    };
    will.delay = will.delay.min(session_ends_after); // [MQTT5-3.1.2-8]
    let comes_back_in_time = cause == Ended::TakenOver(Start::Resume) && !will.delay.is_zero();
    (!comes_back_in_time).then_some(will) // [MQTT5-3.1.3-9]
}
