//! Messages that the embedding program publishes itself: from another system into this one.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_codec::{Publish, PublishProperties, QoS, UserProperties};
use tidegate_session::Token;
use tidegate_sink::{Outcome, Settle, Settled};
use tidegate_store::{Commit, Waiting};
use tidegate_topic::TopicName;

use crate::broker::{Broker, Core, now};
use crate::entry::Entry;
use crate::fanout::Outgoing;
use crate::pipeline::Origin;
use crate::turn;

/// How often it is looked whether a subscriber that was behind still is.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Bytes of a PUBLISH beside topic, user properties and payload: fixed header, packet identifier, lengths.
const PACKET_OVERHEAD_BYTES: usize = 16;

/// How an [`Injector`] publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectorOptions {
    /// Whether rules see the messages. Not unless told: what comes from where rules write to would go in circles.
    pub rules: bool,
    /// How long a message waits for a subscriber that is behind. Afterwards that subscriber is not waited for until it
    /// has caught up; what its queue has no room for is dropped as its limits say, and counted. 10 s unless told.
    pub patience: Duration,
}

impl Default for InjectorOptions {
    fn default() -> Self {
        Self { rules: false, patience: Duration::from_secs(10) }
    }
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection<'a> {
    /// Where to. It is taken as it is: not rewritten, not delayed, in no mountpoint.
    pub topic: &'a str,
    /// The application payload.
    pub payload: &'a [u8],
    /// The highest QoS that subscribers get it with.
    pub qos: QoS,
    /// Whether it is retained; one with an empty payload ends what is retained.
    pub retain: bool,
    /// What 5.0 subscribers see beside it.
    pub user_properties: UserProperties<'a>,
}

/// A message that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    /// Clients, and shared subscriptions, whose session took it.
    pub receivers: usize,
    /// How long it waited for subscribers that were behind.
    pub waited: Duration,
    /// Subscribers that are no longer waited for because of it.
    pub given_up: usize,
}

/// Why a message was handed to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPublished {
    /// The topic is no topic name, or has more levels than clients may use.
    #[error("the topic is no topic name: {0}")]
    InvalidTopic(tidegate_topic::TopicError),
    /// The topic begins with `$`.
    #[error("topics that begin with $ are for the broker")]
    Reserved,
    /// The deny list has the topic.
    #[error("nobody may publish to the topic")]
    Denied,
    /// It is larger than what clients may send.
    #[error("the message has {bytes} bytes; a packet may have {limit}")]
    TooLarge {
        /// Bytes of the packet, at the most.
        bytes: usize,
        /// Bytes that a packet may have.
        limit: usize,
    },
}

/// Why it is not known whether messages are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSafe {
    /// The store can't keep anything any more.
    #[error("the store failed, and nothing is safe before a restart")]
    Store,
    /// The destination of a rule was closed before it had the record.
    #[error("a rule's record was lost")]
    Lost,
}

/// Publishes messages of the embedding program's own; made by [`Broker::injector`].
///
/// A message goes to the retained messages, to the subscribers, and to the rules where that was asked for. It is handed
/// over when [`Injector::safe`] says so: then the sessions that must survive a restart have their QoS 1 and 2 messages in
/// the store, and the records of rules are where their `ack` wants them.
///
/// # Subscribers that are behind
///
/// A publishing client is never held up by a subscriber. What publishes here can wait, so it does: a subscriber that is
/// online is *behind* for a QoS 1 or 2 message when the queue of its session is half full, in messages or bytes, counting
/// what is in its mailbox; and for a QoS 0 message, which is not queued, when its socket takes no more. A message for it
/// then waits for [`InjectorOptions::patience`] at most, and so does everything that is published here after it.
/// Clients that are away are not waited for: their queues hold what their limits allow. Other injectors, and clients,
/// are not held up.
pub struct Injector {
    core: Arc<Core>,
    publisher: Box<str>,
    options: InjectorOptions,
    /// What must be committed for everything so far to be safe.
    commit: Commit,
    waiting: Waiting,
    owed: Arc<Owed>,
    settle: Arc<dyn Settle>,
    /// Subscribers that are not waited for. As many as there are sessions at the most.
    given_up: Vec<Weak<Entry>>,
}

impl Broker {
    /// Something that publishes as `publisher`: what rules see as the client id, and shared subscriptions that
    /// distribute by it.
    pub fn injector(&self, publisher: &str, options: InjectorOptions) -> Injector {
        let owed = Arc::<Owed>::default();
        Injector {
            core: Arc::clone(&self.core),
            publisher: publisher.into(),
            options,
            commit: Commit::NONE,
            waiting: Waiting::default(),
            settle: Arc::clone(&owed) as Arc<dyn Settle>,
            owed,
            given_up: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Injector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injector").field("publisher", &self.publisher).finish_non_exhaustive()
    }
}

impl Injector {
    /// Publishes a message: waits for room in the store, for subscribers that are behind, and for destinations of rules
    /// that are full. Messages of one injector reach a subscriber in the order of the calls.
    ///
    /// # Errors
    /// When it was handed to nobody, which will not be different the next time.
    ///
    /// # Cancel safety
    /// A call that is cancelled has published the message or not. One that is repeated may publish it twice.
    pub async fn publish(&mut self, injection: &Injection<'_>) -> Result<Injected, NotPublished> {
        let topic = self.check(injection)?;
        let publish = Publish {
            dup: false,
            qos: injection.qos,
            retain: injection.retain,
            topic: injection.topic,
            packet_id: None,
            properties: PublishProperties {
                user_properties: injection.user_properties.borrowed(),
                ..PublishProperties::default()
            },
            payload: injection.payload,
        };
        std::future::poll_fn(|cx| self.core.store.poll_room(&mut self.waiting, cx)).await;
        let (waited, given_up) = self.wait_for_subscribers(topic, &publish).await;
        let routed = self.route(topic, &publish);
        if let Some(mut stalled) = routed.stalled {
            std::future::poll_fn(|cx| stalled.poll(cx)).await;
        }
        Ok(Injected { receivers: routed.receivers, waited, given_up })
    }

    /// Waits until everything that was published so far is safe.
    ///
    /// # Errors
    /// It is not, or nobody knows: publish it again after a restart.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the next call waits for the same.
    pub async fn safe(&mut self) -> Result<(), NotSafe> {
        let Self { core, commit, waiting, owed, .. } = self;
        std::future::poll_fn(|cx| core.store.poll_committed(*commit, waiting, cx))
            .await
            .map_err(|_| NotSafe::Store)?;
        std::future::poll_fn(|cx| owed.poll(cx)).await.map_err(|Lost| NotSafe::Lost)
    }

    fn check<'t>(&self, injection: &Injection<'t>) -> Result<TopicName<'t>, NotPublished> {
        let limits = &self.core.config.limits;
        let topic = TopicName::parse_with(injection.topic, limits.max_topic_levels)
            .map_err(NotPublished::InvalidTopic)?;
        if topic.is_reserved() {
            return Err(NotPublished::Reserved);
        }
        if self.core.config.denied.denies_publish(topic) {
            return Err(NotPublished::Denied);
        }
        let properties = injection.user_properties.as_wire().len();
        let bytes = PACKET_OVERHEAD_BYTES + injection.topic.len() + properties + injection.payload.len();
        let limit = limits.max_packet_size.get() as usize;
        if bytes > limit {
            return Err(NotPublished::TooLarge { bytes, limit });
        }
        Ok(topic)
    }

    /// Waits while a subscriber is behind. Returns for how long, and how many were given up.
    async fn wait_for_subscribers(
        &mut self,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
    ) -> (Duration, usize) {
        let began: Instant = now();
        loop {
            let behind = self.behind(topic, publish);
            let waited = now().saturating_duration_since(began);
            if behind.is_empty() {
                return (waited, 0);
            }
            if waited >= self.options.patience {
                self.given_up.retain(|entry| entry.strong_count() > 0);
                self.given_up.extend(behind.iter().map(Arc::downgrade));
                return (waited, behind.len());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The subscribers that hold this message up.
    fn behind(&mut self, topic: TopicName<'_>, publish: &Publish<'_>) -> Vec<Arc<Entry>> {
        let outgoing = Outgoing { entry: None, client_id: &self.publisher, topic, publish, publisher: None };
        let given_up = &mut self.given_up;
        let mut behind = Vec::new();
        self.core.fanout.for_each_receiver(&outgoing, |entry, qos| {
            let known = given_up.iter().position(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(entry)));
            match (entry.is_behind(qos), known) {
                (true, None) => behind.push(Arc::clone(entry)),
                // It has caught up.
                (false, Some(index)) => drop(given_up.swap_remove(index)),
                (true, Some(_)) | (false, None) => {}
            }
        });
        behind
    }

    fn route(&mut self, topic: TopicName<'_>, publish: &Publish<'_>) -> crate::broker::Routed {
        let waits = self.options.rules && publish.qos > QoS::AtMostOnce;
        if waits {
            self.owed.expect();
        }
        let origin = Origin {
            settle: waits.then_some((&self.settle, Token::from(0))),
            is_for_rules: self.options.rules,
            ..Origin::unattended(&self.publisher)
        };
        let (routed, commit) = turn::with(|turn| {
            let rules = &mut turn.work.rules;
            rules.commit = Commit::NONE;
            let routed = self.core.route(&origin, topic, publish, rules, now());
            rules.touched.flush();
            (routed, rules.commit)
        });
        self.commit = self.commit.max(commit);
        if waits && routed.answer.is_some() {
            // No rule took it, or none that anybody waits for.
            self.owed.settle(&[Settled { token: 0, outcome: Outcome::Delivered }]);
        }
        routed
    }
}

/// What rules' destinations owe for messages that were published. Bounded by what these destinations hold.
#[derive(Debug, Default)]
struct Owed(Mutex<OwedState>);

#[derive(Debug, Default)]
struct OwedState {
    messages: usize,
    is_lost: bool,
    waker: Option<Waker>,
}

struct Lost;

impl Owed {
    fn expect(&self) {
        self.0.lock().messages += 1;
    }

    /// Ready when nothing is owed any more.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let mut state = self.0.lock();
        if state.messages > 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(if state.is_lost { Err(Lost) } else { Ok(()) })
    }
}

impl Settle for Owed {
    fn settle(&self, settled: &[Settled]) {
        let waker = {
            let mut state = self.0.lock();
            state.messages = state.messages.saturating_sub(settled.len());
            // What was rejected for good is counted by the destination; waiting would not help it.
            state.is_lost |= settled.iter().any(|settled| settled.outcome == Outcome::Lost);
            if state.messages == 0 { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
