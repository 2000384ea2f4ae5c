//! What happens beside messages, told to the rules that listen to it.
//!
//! Each place asks [`Core::wants`] first, so that an event that no rule wants costs a look at a flag. An event is
//! evaluated where it happens and borrows what it tells. Nobody waits for what rules make of it: a record that finds no
//! room is dropped and counted. A message that an event was republished as causes no events itself.

use std::sync::Arc;

use tidegate_codec::{Connect, Publish, QoS, ReasonCode, Subscribe, Unsubscribe, UserProperties, Version};
use tidegate_rules::{Connection, Details, Event, EventKind, Property, Value};
use tidegate_session::{DropReason, Message, Session};
use tidegate_topic::TopicName;

use crate::broker::{Core, now, wall_clock_ms};
use crate::entry::Entry;
use crate::listener::Peer;
use crate::mount::Mountpoint;
use crate::pipeline::{MessageProperties, Origin};
use crate::turn::RuleWork;

/// The client that an event is about.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) username: Option<&'a str>,
    pub(crate) peer: Peer,
    pub(crate) mount: Option<&'a Mountpoint>,
}

/// A message that a subscriber does not get.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) entry: Arc<Entry>,
    pub(crate) message: Arc<Message>,
    pub(crate) reason: LostReason,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LostReason {
    /// Its session dropped it.
    Session(DropReason),
    /// The client published it itself, and its subscription says No Local.
    NoLocal,
    /// Its connection is behind with what it was left.
    MailboxFull,
}

impl LostReason {
    /// EMQX's names where it has them.
    fn name(self) -> &'static str {
        match self {
            Self::Session(DropReason::QueueFull) | Self::MailboxFull => "queue_full",
            Self::Session(DropReason::Expired) => "expired",
            Self::Session(DropReason::TooLarge) => "too_large",
            Self::Session(DropReason::Offline | DropReason::Congested) => "qos0_msg",
            Self::Session(_) => "other",
            Self::NoLocal => "no_local",
        }
    }
}

impl About<'_> {
    fn connection(&self, connection: Connection<'static>) -> Connection<'static> {
        Connection { local: self.peer.local, ..connection }
    }
}

/// What a conversation says of itself.
#[derive(Clone, Copy)]
pub(crate) struct Conversation {
    pub(crate) version: Version,
    pub(crate) keep_alive_s: u16,
    pub(crate) is_bridge: bool,
    pub(crate) connected_at_ms: i64,
}

impl Conversation {
    fn details(self) -> Connection<'static> {
        Connection {
            protocol: if self.version == Version::V3_1 { "MQIsdp" } else { "MQTT" },
            version: match self.version {
                Version::V3_1 => 3,
                Version::V3_1_1 => 4,
                Version::V5 => 5,
            },
            keep_alive_s: self.keep_alive_s,
            is_bridge: self.is_bridge,
            connected_at_ms: self.connected_at_ms,
            ..Connection::default()
        }
    }

    pub(crate) fn of(connect: &Connect<'_>) -> Self {
        Self {
            version: connect.version,
            keep_alive_s: connect.keep_alive,
            is_bridge: connect.bridge,
            connected_at_ms: wall_clock_ms(),
        }
    }
}

impl Core {
    /// Raises an event about a client, if some rule wants it. `fill` adds what only its kind has.
    fn tell<'e>(
        &self,
        kind: EventKind,
        about: &About<'e>,
        details: Details<'e>,
        work: &mut RuleWork,
        fill: impl FnOnce(&mut Event<'e>),
    ) {
        let mount = about.mount.map(|mount| [("mountpoint", Value::from(mount.as_str()))]);
        let mut event = Event::of(kind, about.client_id, details);
        event.username = about.username;
        event.peer = about.peer.address;
        fill(&mut event);
        let mut event: Event<'_> = event;
        if let Some(mount) = &mount {
            event.extra = mount;
        }
        self.raise(&event, work);
    }

    /// Tells that a client was let in: that its identity was checked, how it is answered, and that it is connected.
    pub(crate) fn tell_connected(&self, about: &About<'_>, connect: &Connect<'_>, has_proven: bool) {
        self.tell_checked(about, ReasonCode::Success, !has_proven);
        self.tell_connack(about, connect, ReasonCode::Success);
        if self.wants(EventKind::ClientConnected) {
            let details = Details::Connection(about.connection(opening(connect)));
            let properties = users(&connect.properties.user_properties);
            self.tell(EventKind::ClientConnected, about, details, &mut RuleWork::default(), |event| {
                event.properties = Some(&properties);
            });
        }
    }

    /// Tells what came of the check of a client's identity.
    pub(crate) fn tell_checked(&self, about: &About<'_>, reason: ReasonCode, is_anonymous: bool) {
        if self.wants(EventKind::ClientCheckAuthnComplete) {
            let reason_code = &*name_of(reason);
            let details = Details::Authenticated { reason_code, is_anonymous, is_superuser: false };
            self.tell(EventKind::ClientCheckAuthnComplete, about, details, &mut RuleWork::default(), |_| {});
        }
    }

    /// Tells how a CONNECT is answered.
    pub(crate) fn tell_connack(&self, about: &About<'_>, connect: &Connect<'_>, reason: ReasonCode) {
        if self.wants(EventKind::ClientConnack) {
            let connection = about.connection(opening(connect));
            let details = Details::Connack { connection, reason_code: &name_of(reason) };
            let properties = users(&connect.properties.user_properties);
            self.tell(EventKind::ClientConnack, about, details, &mut RuleWork::default(), |event| {
                event.properties = Some(&properties);
            });
        }
    }

    /// Tells that a conversation ended, and what the client said last.
    pub(crate) fn tell_disconnected(
        &self,
        about: &About<'_>,
        conversation: Conversation,
        reason: &str,
        last_words: Option<&UserProperties<'_>>,
    ) {
        if self.wants(EventKind::ClientDisconnected) {
            let disconnected_at_ms = wall_clock_ms();
            let connection = about.connection(conversation.details());
            let details = Details::Disconnected { connection, reason, disconnected_at_ms };
            let properties = last_words.map(users).unwrap_or_default();
            self.tell(EventKind::ClientDisconnected, about, details, &mut RuleWork::default(), |event| {
                event.properties = Some(&properties);
            });
        }
    }

    /// Tells of a PINGREQ.
    pub(crate) fn tell_ping(&self, about: &About<'_>, conversation: Conversation, work: &mut RuleWork) {
        let details = Details::Connection(about.connection(conversation.details()));
        self.tell(EventKind::ClientPing, about, details, work, |_| {});
    }

    /// Tells whether a client may publish or subscribe.
    pub(crate) fn tell_checked_access(
        &self,
        about: &About<'_>,
        action: &str,
        topic: &str,
        is_allowed: bool,
        work: &mut RuleWork,
    ) {
        let result = if is_allowed { "allow" } else { "deny" };
        let details = Details::Authorized { action, result, source: "deny_list" };
        self.tell(EventKind::ClientCheckAuthzComplete, about, details, work, |event| event.topic = topic);
    }

    /// Tells what became of the filters of a SUBSCRIBE, or of those that every client gets.
    pub(crate) fn tell_subscribed(
        &self,
        about: &About<'_>,
        request: &Subscribe<'_>,
        results: &[Result<QoS, ReasonCode>],
    ) {
        let wants_access = self.wants(EventKind::ClientCheckAuthzComplete);
        let wants_granted = self.wants(EventKind::SessionSubscribed);
        if !wants_access && !wants_granted {
            return;
        }
        let mut work = RuleWork::default();
        let mut properties = users(&request.user_properties);
        properties
            .extend(request.subscription_identifier.map(|id| Property::SubscriptionIdentifier(id.get())));
        for (asked, result) in request.filters.iter().zip(results) {
            if wants_access {
                let is_denied =
                    matches!(result, Err(ReasonCode::NotAuthorized | ReasonCode::UnspecifiedError));
                self.tell_checked_access(about, "subscribe", asked.filter, !is_denied, &mut work);
            }
            if let Ok(qos) = result
                && wants_granted
            {
                self.tell(EventKind::SessionSubscribed, about, Details::None, &mut work, |event| {
                    event.topic = asked.filter;
                    event.qos = *qos as u8;
                    event.properties = Some(&properties);
                });
            }
        }
    }

    /// Tells which subscriptions an UNSUBSCRIBE ends; before it is carried out.
    pub(crate) fn tell_unsubscribed(
        &self,
        about: &About<'_>,
        session: &Session,
        request: &Unsubscribe<'_>,
        work: &mut RuleWork,
    ) {
        let properties = users(&request.user_properties);
        for filter in &request.filters {
            let Some(subscription) = session.subscription(filter) else { continue };
            self.tell(EventKind::SessionUnsubscribed, about, Details::None, work, |event| {
                event.topic = filter;
                event.qos = subscription.options.qos as u8;
                event.properties = Some(&properties);
            });
        }
    }

    /// Whether some rule listens to what becomes of deliveries, so that messages must know who published them.
    pub(crate) fn wants_deliveries(&self) -> bool {
        let kinds = [EventKind::MessageDelivered, EventKind::MessageAcked, EventKind::DeliveryDropped];
        kinds.into_iter().any(|kind| self.wants(kind))
    }

    /// Tells that a client that is online got a message, on its way or into its queue.
    pub(crate) fn tell_delivered(&self, about: &About<'_>, message: &Arc<Message>, work: &mut RuleWork) {
        let Some(publisher) = message.publisher().filter(|_| self.wants(EventKind::MessageDelivered)) else {
            return;
        };
        let details = Details::Delivery {
            from_client_id: &publisher.client_id,
            from_username: publisher.username.as_deref(),
            ack_properties: None,
        };
        self.tell_message(EventKind::MessageDelivered, about, details, message, work);
    }

    /// Tells that a client does not get a message that it subscribes to.
    pub(crate) fn tell_lost(
        &self,
        about: &About<'_>,
        message: &Arc<Message>,
        reason: LostReason,
        work: &mut RuleWork,
    ) {
        let Some(publisher) = message.publisher().filter(|_| self.wants(EventKind::DeliveryDropped)) else {
            return;
        };
        let details = Details::DeliveryDropped {
            from_client_id: &publisher.client_id,
            from_username: publisher.username.as_deref(),
            reason: reason.name(),
        };
        self.tell_message(EventKind::DeliveryDropped, about, details, message, work);
    }

    /// Tells what was lost on the way from a publisher to clients: those that are away, behind, or the publisher.
    pub(crate) fn tell_all_lost(&self, origin: &Origin<'_>, lost: Vec<Lost>, work: &mut RuleWork) {
        for Lost { entry, message, reason } in lost {
            let is_publisher = reason == LostReason::NoLocal;
            let about = About {
                client_id: &entry.client_id,
                username: origin.username.filter(|_| is_publisher),
                peer: Peer { address: origin.peer.filter(|_| is_publisher), local: None },
                mount: entry.mount.as_ref(),
            };
            self.tell_lost(&about, &message, reason, work);
        }
    }

    /// Tells that a client has acknowledged a message, with the user properties of its PUBACK or PUBREC.
    pub(crate) fn tell_acked(
        &self,
        about: &About<'_>,
        message: &Arc<Message>,
        said: &UserProperties<'_>,
        work: &mut RuleWork,
    ) {
        let Some(publisher) = message.publisher() else { return };
        let properties = users(said);
        let details = Details::Delivery {
            from_client_id: &publisher.client_id,
            from_username: publisher.username.as_deref(),
            ack_properties: Some(&properties),
        };
        self.tell_message(EventKind::MessageAcked, about, details, message, work);
    }

    /// Tells that no subscriber wants a message. Rules may have taken it.
    pub(crate) fn tell_dropped(
        &self,
        origin: &Origin<'_>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        work: &mut RuleWork,
    ) {
        let peer = Peer { address: origin.peer, local: None };
        let about =
            About { client_id: origin.client_id, username: origin.username, peer, mount: origin.mount };
        let properties = MessageProperties(&publish.properties);
        let id = work.message_id();
        let details = Details::Dropped { reason: "no_subscribers" };
        self.tell(EventKind::MessageDropped, &about, details, work, |event| {
            event.topic = topic.as_str();
            event.payload = publish.payload;
            event.qos = publish.qos as u8;
            event.retain = publish.retain;
            event.dup = publish.dup;
            event.id = id;
            event.properties = Some(&properties);
        });
    }

    fn tell_message(
        &self,
        kind: EventKind,
        about: &About<'_>,
        details: Details<'_>,
        message: &Arc<Message>,
        work: &mut RuleWork,
    ) {
        let publish = message.as_publish(now());
        let properties = MessageProperties(&publish.properties);
        self.tell(kind, about, details, work, |event| {
            event.topic = message.topic();
            event.payload = message.payload();
            event.qos = message.qos() as u8;
            event.retain = message.retain();
            event.id = message.publisher().map_or(0, |publisher| publisher.id);
            event.properties = Some(&properties);
        });
    }
}

fn opening(connect: &Connect<'_>) -> Connection<'static> {
    Connection {
        clean_start: connect.clean_start,
        expiry_interval_s: connect.properties.session_expiry_interval.unwrap_or(0),
        receive_maximum: connect.properties.receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get),
        ..Conversation::of(connect).details()
    }
}

fn users<'a>(properties: &'a UserProperties<'_>) -> Vec<Property<'a>> {
    properties.iter().map(|(name, value)| Property::User(name, value)).collect()
}

/// A reason as rules read it: `NotAuthorized` is `not_authorized`.
fn name_of(reason: ReasonCode) -> String {
    let mut name = String::new();
    for letter in format!("{reason:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
