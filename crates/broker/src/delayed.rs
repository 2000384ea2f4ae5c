//! Delayed messages: `$delayed/SECONDS/topic` is published to `topic` when the seconds have passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidegate_session::Message;

use crate::timers::Timers;

/// What begins the topic of a message that is to be published later.
pub(crate) const PREFIX: &str = "$delayed/";

/// How many messages may wait for their time. Beyond it a PUBLISH is refused with Quota exceeded (0x97) in 5.0; in
/// 3.x, which has no word for it, it is acknowledged, dropped and counted.
///
/// A delayed message is acknowledged when it waits, and it waits in memory: rules see it when its time has come, and a
/// broker that stops before that forgets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayedLimits {
    /// Messages that wait; 0 turns delayed publishing off: then `$delayed/...` is refused.
    pub max_messages: usize,
    /// Memory that they take together, in bytes.
    pub max_bytes: usize,
    /// The longest delay. A message with a longer one is refused like one beyond the number.
    pub max_delay: Duration,
}

impl Default for DelayedLimits {
    fn default() -> Self {
        Self { max_messages: 100_000, max_bytes: 64 << 20, max_delay: Duration::from_secs(4_294_967) }
    }
}

/// A message that waits, and who published it.
pub(crate) struct Delayed {
    pub(crate) message: Arc<Message>,
    pub(crate) client_id: Box<str>,
    pub(crate) username: Option<Box<str>>,
}

/// There is no room for another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The delayed messages of a broker.
pub(crate) struct DelayedMessages {
    limits: DelayedLimits,
    timers: Timers<Delayed>,
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl DelayedMessages {
    pub(crate) fn new(limits: DelayedLimits) -> Self {
        Self { limits, timers: Timers::new(), messages: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// Keeps a message until its delay is over.
    pub(crate) fn add(&self, delayed: Delayed, delay: Duration, now: Instant) -> Result<(), Full> {
        let at = now.checked_add(delay).filter(|_| delay <= self.limits.max_delay).ok_or(Full)?;
        let size = size(&delayed);
        reserve(&self.messages, 1, self.limits.max_messages)?;
        if let Err(full) = reserve(&self.bytes, size, self.limits.max_bytes) {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return Err(full);
        }
        self.timers.schedule(at, delayed);
        Ok(())
    }

    /// The next message whose time has come. Cancel safe.
    pub(crate) async fn next(&self) -> Delayed {
        let delayed = self.timers.next().await;
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size(&delayed), Ordering::Relaxed);
        delayed
    }
}

fn size(delayed: &Delayed) -> usize {
    size_of::<Delayed>() + delayed.message.size() + delayed.client_id.len()
}

fn reserve(used: &AtomicUsize, more: usize, max: usize) -> Result<(), Full> {
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        used.checked_add(more).filter(|sum| *sum <= max)
    })
    .map(|_| ())
    .map_err(|_| Full)
}

/// Takes `$delayed/SECONDS/topic` apart; `None` if it is not written like that.
pub(crate) fn split(topic: &str) -> Option<(Duration, &str)> {
    let (seconds, topic) = topic.strip_prefix(PREFIX)?.split_once('/')?;
    // `parse` would take a sign.
    let is_number = seconds.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: u32 = seconds.parse().ok().filter(|_| is_number)?;
    Some((Duration::from_secs(seconds.into()), topic)).filter(|(_, topic)| !topic.is_empty())
}

#[cfg(test)]
mod tests {
    use tidegate_codec::QoS;

    use super::*;

    #[test]
    fn seconds_are_digits_and_a_topic_follows() {
        assert_eq!(split("$delayed/10/a/b"), Some((Duration::from_secs(10), "a/b")));
        assert_eq!(split("$delayed/0//a"), Some((Duration::ZERO, "/a")));
        for wrong in
            ["$delayed/10", "$delayed/10/", "$delayed//a", "$delayed/+1/a", "$delayed/4294967296/a", "a"]
        {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_number_bytes_and_time() {
        let delayed = |payload: &[u8]| Delayed {
            message: Arc::new(Message::new("t", payload, QoS::AtMostOnce, false)),
            client_id: "client".into(),
            username: None,
        };
        let one = size(&delayed(b"x"));
        let limits = DelayedLimits { max_messages: 2, max_bytes: 2 * one, max_delay: Duration::from_secs(5) };
        let waiting = DelayedMessages::new(limits);
        let now = crate::broker::now();
        assert_eq!(waiting.add(delayed(b"x"), Duration::from_secs(6), now), Err(Full));
        waiting.add(delayed(b"x"), Duration::ZERO, now).unwrap();
        assert_eq!(waiting.add(delayed(b"xx"), Duration::ZERO, now), Err(Full));
        waiting.add(delayed(b"y"), Duration::ZERO, now).unwrap();
        assert_eq!(waiting.add(delayed(b""), Duration::ZERO, now), Err(Full));
        for expected in [b"x", b"y"] {
            assert_eq!(waiting.next().await.message.payload(), expected, "in the order in which they came");
        }
        let left = [&waiting.messages, &waiting.bytes].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(left, [0, 0]);
    }
}
