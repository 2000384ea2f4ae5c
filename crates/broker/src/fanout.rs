//! Subscriptions, and the way of a message to its subscribers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use parking_lot::RwLock;
use smallvec::SmallVec;
use tidegate_codec::{Publish, QoS, ReasonCode, SubscribeOptions};
use tidegate_session::{Delivery, Message, Publisher};
use tidegate_store::Commit;
use tidegate_topic::{SubscriptionTree, TopicName};

use crate::entry::{Entry, Posted, Reach, Subscriber};
use crate::events::{Lost, LostReason};
use crate::metrics::Metrics;
use crate::place::{Kind, Place};
use crate::shared::{Group, Owed, Share, SharedStrategy};

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
    strategy: SharedStrategy,
    subscriptions: RwLock<Subscriptions>,
}

/// Three trees, so that the usual one does not pay for the others: they are looked at only while they are not empty.
struct Subscriptions {
    plain: SubscriptionTree<Subscriber, Wanted>,
    exclusive: SubscriptionTree<Subscriber, Wanted>,
    /// Who has an exclusive subscription, by its filter.
    holders: HashMap<Box<str>, Subscriber, ahash::RandomState>,
    shared: SubscriptionTree<Arc<str>, Arc<Group>>,
}

/// A message on its way to its subscribers.
pub(crate) struct Outgoing<'a> {
    /// Whose message it is: not for its own subscriptions with No Local.
    pub(crate) entry: Option<&'a Arc<Entry>>,
    pub(crate) client_id: &'a str,
    pub(crate) topic: TopicName<'a>,
    pub(crate) publish: &'a Publish<'a>,
    /// Who published it, where what becomes of its deliveries is told.
    pub(crate) publisher: Option<Arc<Publisher>>,
}

impl Outgoing<'_> {
    /// The message with memory of its own.
    pub(crate) fn message(&self, now: Instant) -> Arc<Message> {
        let message = Message::from_publish(self.topic.as_str(), self.publish, now);
        Arc::new(message.with_publisher(self.publisher.clone()))
    }
}

/// Who gets a message. Found under the lock and served without it.
#[derive(Default)]
struct Targets {
    clients: SmallVec<[(Arc<Entry>, Wanted); INLINE_TARGETS]>,
    groups: SmallVec<[Arc<Group>; 2]>,
    /// The publisher, for each of its own subscriptions that says No Local, where somebody is told of it.
    echoes: Vec<Arc<Entry>>,
}

impl Fanout {
    pub(crate) fn new(strategy: SharedStrategy) -> Self {
        let subscriptions = Subscriptions {
            plain: SubscriptionTree::new(),
            exclusive: SubscriptionTree::new(),
            holders: HashMap::default(),
            shared: SubscriptionTree::new(),
        };
        Self { strategy, subscriptions: RwLock::new(subscriptions) }
    }

    /// Adds a subscription or changes what it wants.
    ///
    /// # Errors
    /// Quota exceeded for an exclusive subscription that another client has.
    pub(crate) fn subscribe(
        &self,
        place: &Place<'_>,
        entry: &Arc<Entry>,
        wanted: Wanted,
        metrics: &Metrics,
    ) -> Result<(), ReasonCode> {
        let subscriber = Subscriber(Arc::clone(entry));
        let filter = place.filter();
        let mut subscriptions = self.subscriptions.write();
        let is_new = match place.kind {
            Kind::Plain => subscriptions.plain.insert(filter, subscriber, wanted).is_none(),
            Kind::Exclusive => {
                if subscriptions.holders.get(filter.as_str()).is_some_and(|holder| *holder != subscriber) {
                    return Err(ReasonCode::QuotaExceeded);
                }
                subscriptions.holders.insert(filter.as_str().into(), subscriber.clone());
                subscriptions.exclusive.insert(filter, subscriber, wanted).is_none()
            }
            Kind::Shared(name) => {
                let name: Arc<str> = name.into();
                if subscriptions.shared.get(filter, &name).is_none() {
                    let group = Arc::new(Group::new(self.strategy));
                    subscriptions.shared.insert(filter, Arc::clone(&name), group);
                }
                subscriptions.shared.get(filter, &name).is_some_and(|group| group.join(entry, wanted))
            }
        };
        if is_new {
            metrics.subscriptions.inc();
        }
        Ok(())
    }

    /// Removes a subscription. What it owes to a group is returned, and for the caller to hand over or not.
    ///
    /// `may_have_seen` is as in [`Group::leave`].
    pub(crate) fn unsubscribe(
        &self,
        place: &Place<'_>,
        entry: &Arc<Entry>,
        may_have_seen: bool,
        metrics: &Metrics,
    ) -> Owed {
        let subscriber = Subscriber(Arc::clone(entry));
        let filter = place.filter();
        let mut subscriptions = self.subscriptions.write();
        let removed = match place.kind {
            Kind::Plain => subscriptions.plain.remove(filter, &subscriber).map(|_| Owed::default()),
            Kind::Exclusive => subscriptions.exclusive.remove(filter, &subscriber).map(|_| {
                subscriptions.holders.remove(filter.as_str());
                Owed::default()
            }),
            Kind::Shared(name) => {
                let name: Arc<str> = name.into();
                let group = subscriptions.shared.get(filter, &name).map(Arc::clone);
                group.and_then(|group| {
                    let owed = group.leave(entry, may_have_seen);
                    if group.is_empty() {
                        subscriptions.shared.remove(filter, &name);
                    }
                    owed
                })
            }
        };
        if removed.is_some() {
            metrics.subscriptions.dec();
        }
        removed.unwrap_or_default()
    }

    /// Hands a message that a member of a group owes to another.
    pub(crate) fn redispatch(
        &self,
        place: &Place<'_>,
        message: &Arc<Message>,
        now: Instant,
    ) -> Result<(), NoMember> {
        let Kind::Shared(name) = place.kind else { return Err(NoMember) };
        let group = {
            let subscriptions = self.subscriptions.read();
            subscriptions.shared.get(place.filter(), &Arc::from(name)).map(Arc::clone)
        };
        // Who published it is not known any more. The topic stands in: any choice is as good as another.
        let share = Share { message, client_id: message.topic(), retain: false, is_inside: true };
        group.and_then(|group| group.deliver(&share, now)).map(|_| ()).ok_or(NoMember)
    }

    /// Hands a message to every subscription that matches, one copy for each client and one for each group, and
    /// returns how many took it. The message is made, and with it copied, only if somebody wants it.
    pub(crate) fn deliver(
        &self,
        outgoing: &Outgoing<'_>,
        message: &mut Option<Arc<Message>>,
        now: Instant,
        metrics: &Metrics,
    ) -> Taken {
        let Some(mut targets) = self.targets(outgoing) else { return Taken::default() };
        let publish = outgoing.publish;
        let message = message.get_or_insert_with(|| outgoing.message(now));
        let mut taken = deliver_to_clients(&mut targets.clients, message, publish.retain, now, metrics);
        let echo = |entry| Lost { entry, message: Arc::clone(message), reason: LostReason::NoLocal };
        taken.lost.extend(targets.echoes.into_iter().map(echo));
        for group in targets.groups {
            // The group must know when the member has dropped the message, so nobody else may hold this one.
            let own = if publish.qos == QoS::AtMostOnce || Arc::strong_count(message) == 1 {
                Arc::clone(message)
            } else {
                Arc::new(Message::clone(message))
            };
            let share = Share {
                message: &own,
                client_id: outgoing.client_id,
                retain: publish.retain,
                is_inside: false,
            };
            match group.deliver(&share, now) {
                Some(commit) => taken.add(commit),
                None => metrics.dropped.with_label_values(&["no_group_member"]).inc(),
            }
        }
        taken
    }

    /// Visits every client that would get a message and is online or not, with the QoS that it would get it with: all
    /// members of a group, because any of them may be next.
    pub(crate) fn for_each_receiver(&self, outgoing: &Outgoing<'_>, mut visit: impl FnMut(&Arc<Entry>, QoS)) {
        let Some(targets) = self.targets(outgoing) else { return };
        let qos = outgoing.publish.qos;
        for (entry, wanted) in &targets.clients {
            visit(entry, qos.min(wanted.options.qos));
        }
        for group in &targets.groups {
            group.for_each_member(|entry, wanted| visit(entry, qos.min(wanted.options.qos)));
        }
    }

    /// `None` if nobody wants the message.
    fn targets(&self, outgoing: &Outgoing<'_>) -> Option<Targets> {
        let subscriptions = self.subscriptions.read();
        // Made for the first of them: most messages have none.
        let mut found: Option<Targets> = None;
        let mut visit = |subscriber: &Subscriber, wanted: &Wanted| {
            let is_echo = wanted.options.no_local
                && outgoing.entry.is_some_and(|origin| Arc::ptr_eq(origin, &subscriber.0));
            if !is_echo {
                found.get_or_insert_default().clients.push((Arc::clone(&subscriber.0), *wanted));
            } else if outgoing.publisher.is_some() {
                found.get_or_insert_default().echoes.push(Arc::clone(&subscriber.0));
            }
        };
        subscriptions.plain.for_each_match(outgoing.topic, &mut visit);
        if !subscriptions.exclusive.is_empty() {
            subscriptions.exclusive.for_each_match(outgoing.topic, &mut visit);
        }
        if !subscriptions.shared.is_empty() {
            subscriptions.shared.for_each_match(outgoing.topic, |_, group| {
                found.get_or_insert_default().groups.push(Arc::clone(group));
            });
        }
        found
    }
}

/// Who took a message.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Clients, and groups, each for one of its members.
    pub(crate) clients: usize,
    /// What must be committed for the message to be safe with them.
    pub(crate) commit: Commit,
    /// What clients do not get, where somebody is told of it.
    pub(crate) lost: Vec<Lost>,
}

impl Taken {
    fn add(&mut self, commit: Commit) {
        self.clients += 1;
        self.commit = self.commit.max(commit);
    }
}

/// No member of the group is left, or none takes more.
#[derive(Debug)]
pub(crate) struct NoMember;

/// A client with overlapping subscriptions gets one copy, at their highest QoS and with all their identifiers
/// ([MQTT5-3.3.4-2], [MQTT5-3.3.4-3]).
fn deliver_to_clients(
    clients: &mut [(Arc<Entry>, Wanted)],
    message: &Arc<Message>,
    retain: bool,
    now: Instant,
    metrics: &Metrics,
) -> Taken {
    if clients.len() > 1 {
        clients.sort_unstable_by_key(|(entry, _)| Arc::as_ptr(entry));
    }
    let mut taken = Taken::default();
    // Without its mountpoint the message is made once, not once for each of its clients.
    let mut inside: Option<(&Arc<Entry>, Arc<Message>)> = None;
    for same_client in clients.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b)) {
        let entry = &same_client[0].0;
        let seen = match &inside {
            _ if entry.mount.is_none() => Arc::clone(message),
            Some((other, seen)) if other.mount == entry.mount => Arc::clone(seen),
            _ => {
                let Some(seen) = entry.as_seen_inside(message) else { continue };
                inside = Some((entry, Arc::clone(&seen)));
                seen
            }
        };
        let wanted = || same_client.iter().map(|(_, wanted)| wanted);
        let delivery = Delivery {
            message: seen,
            qos: wanted().map(|wanted| wanted.options.qos).max().unwrap_or(QoS::AtMostOnce),
            retain: retain && wanted().any(|wanted| wanted.options.retain_as_published),
            subscription_identifiers: wanted().filter_map(|wanted| wanted.identifier).collect(),
        };
        let posted = entry.deliver(delivery, Reach::Anywhere, now);
        match posted {
            Posted::Taken(commit) => taken.add(commit),
            Posted::MailboxFull => metrics.dropped.with_label_values(&["mailbox_full"]).inc(),
            Posted::Offline | Posted::Gone => {}
        }
        if message.publisher().is_some() {
            let lose = |(message, reason)| Lost { entry: Arc::clone(entry), message, reason };
            let of_session = |(message, reason)| lose((message, LostReason::Session(reason)));
            taken.lost.extend(entry.take_lost().into_iter().map(of_session));
            if posted == Posted::MailboxFull {
                taken.lost.push(lose((Arc::clone(message), LostReason::MailboxFull)));
            }
        }
    }
    taken
}
