//! Retained messages: how many there may be, and what ends them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tidegate_session::Message;
use tidegate_store::{Commit, Store};
use tidegate_topic::{Cursor, Progress, RetainedTree, TopicFilter, TopicName};

use crate::broker::{Core, now};
use crate::sys::SHORTEST_INTERVAL;

/// Topics that one step of a sweep looks at under the lock.
const TOPICS_PER_STEP: usize = 1024;

/// What may be retained. A message beyond it is not, and counted; see [`Config::retained`](crate::Config::retained).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Topics with a retained message.
    pub max_messages: usize,
    /// Memory of all retained messages, in bytes.
    pub max_bytes: usize,
    /// Payload of one retained message, in bytes.
    pub max_payload_bytes: usize,
    /// How often expired messages are looked for, at most once a second. They are not delivered anyway; this frees their memory.
    pub sweep_interval: Duration,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        Self {
            max_messages: 1_000_000,
            max_bytes: 1 << 30,
            max_payload_bytes: 1 << 20,
            sweep_interval: Duration::from_mins(1),
        }
    }
}

/// Why a message is not retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotKept {
    TooManyMessages,
    TooManyBytes,
    PayloadTooLarge,
}

impl NotKept {
    /// The label of the counter.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TooManyMessages => "too_many_messages",
            Self::TooManyBytes => "too_many_bytes",
            Self::PayloadTooLarge => "payload_too_large",
        }
    }
}

/// The retained messages of a broker.
pub(crate) struct Retained {
    limits: RetainedLimits,
    kept: RwLock<Kept>,
}

struct Kept {
    tree: RetainedTree<Arc<Message>>,
    bytes: usize,
    /// How many have an expiry: without any there is nothing to sweep.
    expiring: usize,
}

impl Retained {
    pub(crate) fn new(limits: RetainedLimits) -> Self {
        let kept = Kept { tree: RetainedTree::new(), bytes: 0, expiring: 0 };
        Self { limits, kept: RwLock::new(kept) }
    }

    /// Keeps or removes the message of a topic, as a PUBLISH with the retain flag says ([MQTT5-3.3.1-5],
    /// [MQTT5-3.3.1-6]).
    ///
    /// It is safe when the result is committed. The store hears of it under the lock, so that both know one order.
    pub(crate) fn keep(
        &self,
        topic: TopicName<'_>,
        message: &Arc<Message>,
        store: &dyn Store,
    ) -> Result<Commit, NotKept> {
        if message.payload().len() > self.limits.max_payload_bytes {
            return Err(NotKept::PayloadTooLarge);
        }
        let (replaced, commit) = {
            let mut kept = self.kept.write();
            let replaced = if message.payload().is_empty() {
                let removed = kept.tree.remove(topic);
                kept.forget(removed.as_ref());
                removed
            } else {
                kept.check(topic, message, &self.limits)?;
                kept.put(topic, message)
            };
            (replaced, store.retain(message))
        };
        // Freed outside of the lock.
        drop(replaced);
        Ok(commit)
    }

    /// Keeps a message of the broker's own, or one that the store gave back, whatever the limits say.
    pub(crate) fn keep_own(&self, topic: TopicName<'_>, message: &Arc<Message>) {
        let replaced = self.kept.write().put(topic, message);
        drop(replaced);
    }

    /// Visits the next messages that `filter` matches and that are not expired, in at most `max_steps` steps under
    /// the lock.
    pub(crate) fn page(
        &self,
        filter: TopicFilter<'_>,
        cursor: &mut Cursor,
        max_steps: usize,
        now: Instant,
        mut visit: impl FnMut(&Arc<Message>) -> ControlFlow<()>,
    ) -> Progress {
        self.kept.read().tree.page(filter, cursor, max_steps, |_, message| {
            if message.is_expired(now) { ControlFlow::Continue(()) } else { visit(message) }
        })
    }

    /// Removes expired messages from the next topics, a bounded number. Returns how many were removed and whether
    /// there are more topics to look at.
    pub(crate) fn sweep(&self, cursor: &mut Cursor, now: Instant) -> (usize, Progress) {
        let mut removed = Vec::new();
        let mut kept = self.kept.write();
        if kept.expiring == 0 {
            *cursor = Cursor::new();
            return (0, Progress::Done);
        }
        let progress = kept.tree.sweep(cursor, TOPICS_PER_STEP, |_, message| {
            let stays = !message.is_expired(now);
            if !stays {
                removed.push(Arc::clone(message));
            }
            stays
        });
        for message in &removed {
            kept.forget(Some(message));
        }
        drop(kept);
        (removed.len(), progress)
    }

    /// How many there are, and the bytes that they take.
    pub(crate) fn size(&self) -> (usize, usize) {
        let kept = self.kept.read();
        (kept.tree.len(), kept.bytes)
    }

    pub(crate) fn sweep_interval(&self) -> Duration {
        self.limits.sweep_interval
    }
}

impl Kept {
    fn check(&self, topic: TopicName<'_>, message: &Message, limits: &RetainedLimits) -> Result<(), NotKept> {
        let old = self.tree.get(topic);
        if old.is_none() && self.tree.len() >= limits.max_messages {
            return Err(NotKept::TooManyMessages);
        }
        let others = self.bytes - old.map_or(0, |old| old.size());
        // A smaller message in the place of a larger one is always welcome.
        let shrinks = old.is_some_and(|old| message.size() <= old.size());
        if !shrinks && others.saturating_add(message.size()) > limits.max_bytes {
            return Err(NotKept::TooManyBytes);
        }
        Ok(())
    }

    fn put(&mut self, topic: TopicName<'_>, message: &Arc<Message>) -> Option<Arc<Message>> {
        let replaced = self.tree.insert(topic, Arc::clone(message));
        self.forget(replaced.as_ref());
        self.bytes += message.size();
        self.expiring += usize::from(message.expires_at().is_some());
        replaced
    }

    fn forget(&mut self, message: Option<&Arc<Message>>) {
        if let Some(message) = message {
            self.bytes -= message.size();
            self.expiring -= usize::from(message.expires_at().is_some());
        }
    }
}

impl Core {
    /// Frees expired retained messages, after each interval. Never returns.
    pub(crate) async fn sweep_retained(self: Arc<Self>) {
        let mut cursor = Cursor::new();
        loop {
            tokio::time::sleep(self.retained.sweep_interval().max(SHORTEST_INTERVAL)).await;
            while self.sweep_step(&mut cursor) == Progress::More {
                tokio::task::yield_now().await;
            }
        }
    }

    fn sweep_step(&self, cursor: &mut Cursor) -> Progress {
        let (_, progress) = self.retained.sweep(cursor, now());
        self.count_retained();
        progress
    }

    pub(crate) fn count_retained(&self) {
        let (count, _) = self.retained.size();
        self.metrics.retained.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use tidegate_codec::QoS;

    use tidegate_store::Volatile;

    use super::*;

    fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
        Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, true))
    }

    fn keep(retained: &Retained, topic: &str, payload: &[u8]) -> Result<Commit, NotKept> {
        retained.keep(TopicName::parse(topic).unwrap(), &message(topic, payload), &Volatile::default())
    }

    #[test]
    fn what_is_beyond_a_cap_is_not_kept_and_what_is_freed_makes_room() {
        let one = message("a", b"x").size();
        let limits = RetainedLimits {
            max_messages: 2,
            max_bytes: 2 * one + 10,
            max_payload_bytes: 20,
            ..RetainedLimits::default()
        };
        let retained = Retained::new(limits);
        assert_eq!(keep(&retained, "a", &[0; 21]), Err(NotKept::PayloadTooLarge));
        keep(&retained, "a", b"x").unwrap();
        keep(&retained, "b", b"x").unwrap();
        assert_eq!(keep(&retained, "c", b"x"), Err(NotKept::TooManyMessages));
        assert_eq!(keep(&retained, "b", &[0; 12]), Err(NotKept::TooManyBytes));
        keep(&retained, "b", &[0; 11]).unwrap();
        assert_eq!(retained.size(), (2, 2 * one + 10));
        keep(&retained, "a", b"").unwrap();
        keep(&retained, "c", b"x").unwrap();
        keep(&retained, "b", b"").unwrap();
        keep(&retained, "c", b"").unwrap();
        assert_eq!(retained.size(), (0, 0));
    }

    #[test]
    fn a_sweep_removes_what_expired_in_bounded_steps() {
        let now = now();
        let retained = Retained::new(RetainedLimits::default());
        let mut cursor = Cursor::new();
        for number in 0..3 * TOPICS_PER_STEP {
            let topic = format!("t/{number}");
            let at = (number % 2 == 0).then_some(now);
            let message = Message::new(&topic, b"x", QoS::AtMostOnce, true).with_expiry(at);
            retained
                .keep(TopicName::parse(&topic).unwrap(), &Arc::new(message), &Volatile::default())
                .unwrap();
        }
        let (mut removed, mut steps) = (0, 0);
        loop {
            let (count, progress) = retained.sweep(&mut cursor, now);
            removed += count;
            steps += 1;
            if progress == Progress::Done {
                break;
            }
        }
        assert_eq!((removed, retained.size().0), (3 * TOPICS_PER_STEP / 2, 3 * TOPICS_PER_STEP / 2));
        assert!(steps >= 3, "no step takes all");
        assert_eq!(retained.sweep(&mut cursor, now), (0, Progress::Done), "nothing left that expires");
    }
}
