//! Subscriptions, retained messages, and the way of a message to its subscribers.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use smallvec::SmallVec;
use tidegate_codec::{Publish, QoS, SubscribeOptions};
use tidegate_session::{Delivery, Message};
use tidegate_topic::{RetainedTree, SubscriptionTree, TopicFilter, TopicName};

use crate::entry::{Entry, Posted, Subscriber};
use crate::metrics::Metrics;

/// Subscribers of one message that are held without memory of their own.
const INLINE_TARGETS: usize = 8;

/// What a subscription asks for, as far as it matters for a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) options: SubscribeOptions,
    pub(crate) identifier: Option<NonZeroU32>,
}

/// Who gets which messages.
pub(crate) struct Fanout {
    subscriptions: RwLock<SubscriptionTree<Subscriber, Wanted>>,
    retained: RwLock<RetainedTree<Arc<Message>>>,
}

impl Fanout {
    pub(crate) fn new() -> Self {
        Self {
            subscriptions: RwLock::new(SubscriptionTree::new()),
            retained: RwLock::new(RetainedTree::new()),
        }
    }

    pub(crate) fn subscribe(
        &self,
        filter: TopicFilter<'_>,
        entry: &Arc<Entry>,
        wanted: Wanted,
        metrics: &Metrics,
    ) {
        let replaced = self.subscriptions.write().insert(filter, Subscriber(Arc::clone(entry)), wanted);
        if replaced.is_none() {
            metrics.subscriptions.inc();
        }
    }

    pub(crate) fn unsubscribe(&self, filter: TopicFilter<'_>, entry: &Arc<Entry>, metrics: &Metrics) {
        if self.subscriptions.write().remove(filter, &Subscriber(Arc::clone(entry))).is_some() {
            metrics.subscriptions.dec();
        }
    }

    /// Keeps or removes the retained message of a topic, as a PUBLISH with the retain flag says
    /// ([MQTT5-3.3.1-5], [MQTT5-3.3.1-6]).
    pub(crate) fn retain(&self, topic: TopicName<'_>, message: &Arc<Message>, metrics: &Metrics) {
        let mut retained = self.retained.write();
        if message.payload().is_empty() {
            retained.remove(topic);
        } else {
            retained.insert(topic, Arc::clone(message));
        }
        metrics.retained.set(i64::try_from(retained.len()).unwrap_or(i64::MAX));
    }

    /// Hands a message to every subscription that matches, one copy for each client, and returns how many clients.
    /// The message is made, and with it copied, only if somebody wants it.
    pub(crate) fn deliver(
        &self,
        origin: Option<&Arc<Entry>>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        message: &mut Option<Arc<Message>>,
        now: Instant,
        metrics: &Metrics,
    ) -> usize {
        let subscriptions = self.subscriptions.read();
        let mut targets: SmallVec<[(&Arc<Entry>, &Wanted); INLINE_TARGETS]> = SmallVec::new();
        subscriptions.for_each_match(topic, |subscriber, wanted| {
            let is_echo =
                wanted.options.no_local && origin.is_some_and(|origin| Arc::ptr_eq(origin, &subscriber.0));
            if !is_echo {
                targets.push((&subscriber.0, wanted));
            }
        });
        if targets.is_empty() {
            return 0;
        }
        let message =
            message.get_or_insert_with(|| Arc::new(Message::from_publish(topic.as_str(), publish, now)));
        // A client with overlapping subscriptions gets one copy, at their highest QoS and with all their identifiers
        // ([MQTT5-3.3.4-2], [MQTT5-3.3.4-3]).
        if targets.len() > 1 {
            targets.sort_unstable_by_key(|(entry, _)| Arc::as_ptr(entry));
        }
        let mut clients = 0;
        for same_client in targets.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b)) {
            let delivery = Delivery {
                message: Arc::clone(message),
                qos: same_client
                    .iter()
                    .map(|(_, wanted)| wanted.options.qos)
                    .max()
                    .unwrap_or(QoS::AtMostOnce),
                retain: publish.retain
                    && same_client.iter().any(|(_, wanted)| wanted.options.retain_as_published),
                subscription_identifiers: same_client
                    .iter()
                    .filter_map(|(_, wanted)| wanted.identifier)
                    .collect(),
            };
            match same_client[0].0.deliver(delivery, now) {
                Posted::Taken => clients += 1,
                Posted::MailboxFull => metrics.dropped.with_label_values(&["mailbox_full"]).inc(),
                Posted::Gone => {}
            }
        }
        clients
    }

    /// Messages that are retained on topics which `filter` matches.
    pub(crate) fn retained(&self, filter: TopicFilter<'_>) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        let _: ControlFlow<()> = self.retained.read().for_each_match(filter, |_, message| {
            found.push(Arc::clone(message));
            ControlFlow::Continue(())
        });
        found
    }
}
