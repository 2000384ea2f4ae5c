//! A session: what the server keeps for a client, and the conversation over it while there is a connection.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use tidegate_codec::{
    Connect, Disconnect, Packet, PacketId, PacketType, Publish, QoS, ReasonCode, SubAck, Subscribe,
    SubscribeOptions, Unsubscribe, Version,
};
use tidegate_topic::TopicName;

use crate::change::Changes;
use crate::connect::{self, SessionState, Welcome};
use crate::farewell::{self, Ended, Expiry, Farewell};
use crate::inbound::{Answer, Arrival, Received, Token};
use crate::link::{Link, TooLarge};
use crate::outbound::{Delivered, Delivery, DropReason, Dropped, Outbound, Pending};
use crate::{Change, DeliveryNumber, Limits, Message, Violation};

/// One MQTT conversation and what survives it: subscriptions, messages in flight both ways, and the queue.
///
/// Whoever owns the connection owns the session; while the client is away it is plain state that waits for
/// [`connect`](Self::connect). Output is appended to a buffer of the caller's, and every moment is the caller's `now`.
#[derive(Debug)]
pub struct Session {
    client_id: Box<str>,
    pub(crate) limits: Arc<Limits>,
    /// Sorted by filter. A sorted vector takes the least memory for the few that a device has, and moves a few
    /// kilobytes at `Limits::max_subscriptions`.
    pub(crate) subscriptions: Vec<(Box<str>, Subscription)>,
    pub(crate) inbound: Received,
    pub(crate) outbound: Outbound,
    /// What becomes of the session when the connection ends.
    pub(crate) expiry: Expiry,
    /// What a store has not been told yet.
    pub(crate) changes: Changes,
    link: Option<Link>,
}

/// A subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// The options; `qos` is the one that was granted.
    pub options: SubscribeOptions,
    /// The subscription identifier, 1 to 268,435,455, if there is one.
    pub identifier: Option<NonZeroU32>,
}

/// What a packet asks of the broker.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'s, 'p> {
    /// Nothing: the session dealt with it.
    Handled,
    /// To publish a message.
    Publish(Inbound<'s>),
    /// To authorise, to change the subscription tree, and to call [`Session::subscribed`].
    Subscribe(&'p Subscribe<'p>),
    /// To change the subscription tree and to call [`Session::unsubscribed`].
    Unsubscribe(&'p Unsubscribe<'p>),
    /// To look at what the client says of itself, and to call [`Session::ask_to_authenticate`],
    /// [`Session::authenticated`], or [`Session::end`] with [`Ended::ByServer`].
    Authenticate {
        /// Whether a re-authentication begins (4.12.1); otherwise it goes on.
        is_first: bool,
        /// The method's data.
        data: Option<&'p [u8]>,
    },
    /// To call [`Session::end`] with [`Ended::ByClient`], to close, and to handle nothing more.
    Disconnect,
}

/// A message that came in: its QoS and flags are allowed, its alias is resolved, and it is no repeat of a QoS 2
/// message that came before.
#[derive(Debug, PartialEq, Eq)]
pub struct Inbound<'s> {
    /// Its topic.
    pub topic: TopicName<'s>,
    /// The packet as it came: where an alias stood for the topic, its own is empty.
    pub publish: &'s Publish<'s>,
    /// For QoS 1 and 2: the broker owes [`Session::acknowledge`], or [`Session::forget`].
    pub token: Option<Token>,
}

impl Session {
    /// Returns an empty session without connection.
    pub fn new(client_id: &str, limits: Arc<Limits>) -> Self {
        Self {
            client_id: client_id.into(),
            limits,
            subscriptions: Vec::new(),
            inbound: Received::default(),
            outbound: Outbound::default(),
            expiry: Expiry::Now,
            changes: Changes::default(),
            link: None,
        }
    }

    /// Returns the client identifier, also where the server assigned it.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Tells whether there is a conversation.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Returns the version of the conversation, `None` while there is none.
    pub fn version(&self) -> Option<Version> {
        self.link.as_ref().map(|link| link.version)
    }

    /// Returns the subscriptions with their filters as the client wrote them, shared ones with their prefix.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&str, &Subscription)> {
        self.subscriptions.iter().map(|(filter, subscription)| (&**filter, subscription))
    }

    /// Returns the subscription with exactly that filter [MQTT5-3.10.4-1].
    pub fn subscription(&self, filter: &str) -> Option<&Subscription> {
        self.position(filter).ok().map(|index| &self.subscriptions[index].1)
    }

    /// Returns how many subscriptions more the session may have.
    pub fn subscriptions_left(&self) -> usize {
        self.limits.max_subscriptions.saturating_sub(self.subscriptions.len())
    }

    /// Returns how many messages wait for the client, its window or its socket.
    pub fn queued(&self) -> usize {
        self.outbound.queued()
    }

    /// Returns how many messages, and how many bytes of them, may still be queued until the queue is half full.
    pub fn room_to_half(&self) -> (usize, usize) {
        self.outbound.room_to_half(&self.limits)
    }

    /// Returns the message that a PUBACK or PUBREC with that identifier would acknowledge.
    pub fn awaiting(&self, packet_id: PacketId) -> Option<&Delivery> {
        self.outbound.awaiting(packet_id)
    }

    /// Returns how many messages are on their way to the client and not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        self.outbound.in_flight()
    }

    /// Returns how many messages of the client the broker owes an answer for.
    pub fn unsettled(&self) -> usize {
        usize::from(self.inbound.with_broker())
    }

    /// Starts a conversation: appends CONNACK, then what was in flight, in its original order (PUBLISH with DUP,
    /// PUBREL [MQTT5-4.4.0-1]), then what was queued, as far as the client's window allows.
    ///
    /// The CONNECT has passed [`check_connect`](crate::check_connect) and the broker's own checks. With
    /// [`SessionState::New`] whatever this value held before is discarded [MQTT5-3.1.2-4].
    pub fn connect(&mut self, connect: &Connect<'_>, welcome: Welcome<'_>, now: Instant, out: &mut Vec<u8>) {
        self.inbound.disconnect();
        if welcome.state == SessionState::New {
            self.subscriptions.clear();
            self.inbound.clear();
            self.outbound.clear();
        }
        self.expiry = connect::requested_expiry(connect, &self.limits);
        let link = self.link.insert(Link::new(connect, &self.limits, now));
        record_connected(&mut self.changes, &self.client_id, &self.limits, self.expiry, welcome.state, link);
        connect::accept(connect, welcome, link, &self.limits, out);
        self.outbound.connect(link, now, out, &mut self.changes);
    }

    /// Takes one packet of the client, and appends the answers that need nobody else.
    ///
    /// [`Input::Publish`] borrows the session, because its topic may be one that an alias stands for; the other
    /// inputs borrow only from the packet.
    ///
    /// # Errors
    /// The connection can't go on: call [`end`](Self::end) with [`Ended::Violation`], and close.
    pub fn handle_packet<'s, 'p: 's>(
        &'s mut self,
        packet: &'p Packet<'p>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Input<'s, 'p>, Violation> {
        let Some(link) = &mut self.link else { return Err(Violation::BeforeConnect(packet.packet_type())) };
        match packet {
            Packet::Publish(publish) => {
                return Ok(self.handle_publish(publish, out)?.map_or(Input::Handled, Input::Publish));
            }
            Packet::PubAck(ack) => {
                self.outbound.handle_puback(ack.packet_id, &mut self.changes);
                self.outbound.resume(link, now, out, &mut self.changes);
            }
            Packet::PubRec(ack) => {
                self.outbound.handle_pubrec(ack.packet_id, ack.reason, link, out, &mut self.changes);
                self.outbound.resume(link, now, out, &mut self.changes);
            }
            Packet::PubComp(ack) => {
                self.outbound.handle_pubcomp(ack.packet_id, &mut self.changes);
                self.outbound.resume(link, now, out, &mut self.changes);
            }
            Packet::PubRel(release) => {
                let is_known = self.inbound.release(release.packet_id, &mut self.changes);
                let reason =
                    if is_known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
                link.acknowledge(PacketType::PubComp, release.packet_id, reason, out); // [MQTT5-4.3.3-11]
            }
            Packet::PingReq => link.answer(&Packet::PingResp, out), // [MQTT5-3.12.4-1]
            Packet::Subscribe(subscribe) => {
                check_no_local(subscribe)?;
                return Ok(Input::Subscribe(subscribe));
            }
            Packet::Unsubscribe(unsubscribe) => return Ok(Input::Unsubscribe(unsubscribe)),
            Packet::Disconnect(disconnect) => {
                self.handle_disconnect(disconnect)?;
                return Ok(Input::Disconnect);
            }
            Packet::Connect(_) => return Err(Violation::SecondConnect),
            Packet::Auth(auth) => {
                let Some(authentication) = &mut link.authentication else {
                    return Err(Violation::UnexpectedAuth);
                };
                let is_first = authentication.handle(auth)?;
                return Ok(Input::Authenticate { is_first, data: auth.authentication_data });
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(Violation::ServerPacket(packet.packet_type()));
            }
        }
        Ok(Input::Handled)
    }

    /// Answers for a message, and tells whether an answer was still owed.
    ///
    /// Appends PUBACK or PUBREC with that reason. In 3.x they can't say no, so an error is acknowledged like success
    /// [MQTT311-3.3.5-2]. Without a connection, or on a later one on which the client has not repeated the message,
    /// nothing is appended: the repeat will be answered without a second delivery. After a QoS 2 message was refused
    /// in 5.0 its identifier is free again [MQTT5-4.3.3-9].
    pub fn acknowledge(&mut self, token: Token, reason: ReasonCode, out: &mut Vec<u8>) -> bool {
        let can_refuse = self.version().is_none_or(|version| version == Version::V5);
        let accepted = !(can_refuse && reason.is_error());
        let Some(answer) = self.inbound.settle(token, accepted, &mut self.changes) else { return false };
        if let Some(link) = &self.link {
            match answer {
                Answer::PubAck(packet_id) => link.acknowledge(PacketType::PubAck, packet_id, reason, out),
                Answer::PubRec(packet_id) => link.acknowledge(PacketType::PubRec, packet_id, reason, out),
                Answer::Later => {}
            }
        }
        true
    }

    /// Gives up a message that was lost on its way: it is never acknowledged, and its repeat counts as new. Close the
    /// connection afterwards, because only a new one makes a 5.0 client repeat [MQTT5-4.4.0-1].
    pub fn forget(&mut self, token: Token) {
        self.inbound.forget(token, &mut self.changes);
    }

    /// Asks the client for more, in a re-authentication that it began.
    ///
    /// # Errors
    /// The client accepts no packet as large: the connection has to end.
    pub fn ask_to_authenticate(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let authentication = self.link.as_ref().and_then(|link| link.authentication.as_deref());
        authentication.map_or(Ok(()), |authentication| authentication.ask(data, out))
    }

    /// Tells the client that its re-authentication succeeded.
    ///
    /// # Errors
    /// The client accepts no packet as large: the connection has to end.
    pub fn authenticated(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let authentication = self.link.as_mut().and_then(|link| link.authentication.as_deref_mut());
        authentication.map_or(Ok(()), |authentication| authentication.succeed(data, out))
    }

    /// Tells whether a 3.x client has as many messages with the broker as it may: handle no further packet before the
    /// next [`acknowledge`](Self::acknowledge). In 5.0 it is always `false`, the client keeps the window itself.
    pub fn window_is_full(&self) -> bool {
        self.version().is_some_and(|version| version != Version::V5)
            && self.inbound.with_broker() >= self.limits.receive_maximum.get()
    }

    /// Records the subscriptions that were granted and appends SUBACK [MQTT5-3.8.4-1]. A granted filter replaces the
    /// subscription with the same filter [MQTT5-3.8.4-3]; a refused one leaves it as it is.
    ///
    /// `results` answer the filters in their order; a filter without one is refused. Room for new subscriptions is
    /// the caller's to check with [`subscriptions_left`](Self::subscriptions_left), before the tree changes.
    pub fn subscribed(
        &mut self,
        request: &Subscribe<'_>,
        results: &[Result<QoS, ReasonCode>],
        out: &mut Vec<u8>,
    ) {
        let mut results = results.iter().copied();
        let reasons = request.filters.iter().map(|requested| {
            let granted = match results.next().unwrap_or(Err(ReasonCode::UnspecifiedError)) {
                Ok(qos) => qos,
                Err(reason) if reason.is_allowed_in(PacketType::SubAck) && reason.is_error() => {
                    return reason;
                }
                Err(_) => return ReasonCode::UnspecifiedError,
            };
            let subscription = Subscription {
                options: SubscribeOptions { qos: granted, ..requested.options },
                identifier: request.subscription_identifier,
            };
            self.changes.record(|| Change::Subscribed { filter: requested.filter.into(), subscription });
            match self.position(requested.filter) {
                Ok(index) => self.subscriptions[index].1 = subscription,
                Err(index) => self.subscriptions.insert(index, (requested.filter.into(), subscription)),
            }
            match granted {
                QoS::AtMostOnce => ReasonCode::GRANTED_QOS_0,
                QoS::AtLeastOnce => ReasonCode::GrantedQos1,
                QoS::ExactlyOnce => ReasonCode::GrantedQos2,
            }
        });
        let reasons = reasons.collect();
        self.answer(&Packet::SubAck(Box::new(SubAck::new(request.packet_id, reasons))), out);
    }

    /// Removes subscriptions and appends UNSUBACK [MQTT5-3.10.4-4]. What is queued or in flight still goes out
    /// [MQTT5-3.10.4-3].
    pub fn unsubscribed(&mut self, request: &Unsubscribe<'_>, out: &mut Vec<u8>) {
        let reasons = request.filters.iter().map(|filter| match self.position(filter) {
            Ok(index) => {
                let (filter, _) = self.subscriptions.remove(index);
                self.changes.record(|| Change::Unsubscribed { filter });
                ReasonCode::Success
            }
            Err(_) => ReasonCode::NoSubscriptionExisted,
        });
        let reasons = reasons.collect();
        self.answer(&Packet::UnsubAck(Box::new(SubAck::new(request.packet_id, reasons))), out);
    }

    /// Sends a message to the client now, later or never.
    pub fn deliver(&mut self, delivery: Delivery, now: Instant, out: &mut Vec<u8>) -> Delivered {
        self.take(Pending { number: None, delivery }, now, out)
    }

    /// Does as [`deliver`](Self::deliver) with a message that the store knows as [`Change::Posted`] by that number.
    pub fn deliver_posted(
        &mut self,
        number: DeliveryNumber,
        delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Delivered {
        self.take(Pending { number: Some(number), delivery }, now, out)
    }

    fn take(&mut self, pending: Pending, now: Instant, out: &mut Vec<u8>) -> Delivered {
        self.outbound.deliver(pending, self.link.as_mut(), &self.limits, now, out, &mut self.changes)
    }

    /// Tells whether the session records its changes: `Limits::record_changes` is set, and it outlives its connection
    /// or did so before.
    pub fn is_kept(&self) -> bool {
        self.changes.is_on()
    }

    /// Moves the changes since the last call to the end of `changes`. Due after every turn of a session that
    /// [is kept](Self::is_kept), connected or not: what stands in the output may be sent when they are safe.
    pub fn take_changes(&mut self, changes: &mut Vec<Change>) {
        self.changes.take(changes);
    }

    /// Says whether the socket takes no more. Until that is taken back QoS 1 and 2 messages are queued, QoS 0
    /// messages are dropped or queued as the limits say, and only answers are appended. Afterwards call
    /// [`resume_sending`](Self::resume_sending).
    pub fn set_congested(&mut self, is_congested: bool) {
        if let Some(link) = &mut self.link {
            link.congested = is_congested;
        }
    }

    /// Sends what is queued, as far as the window and the socket have room.
    pub fn resume_sending(&mut self, now: Instant, out: &mut Vec<u8>) {
        if let Some(link) = &mut self.link {
            self.outbound.resume(link, now, out, &mut self.changes);
        }
    }

    /// Tells whether messages were dropped of which [`take_dropped`](Self::take_dropped) and
    /// [`take_lost`](Self::take_lost) have not told yet.
    pub fn has_losses(&self) -> bool {
        self.outbound.has_losses()
    }

    /// Returns the number of messages dropped since the last call: those that [`deliver`](Self::deliver) reported,
    /// and those that were dropped after they had been queued.
    pub fn take_dropped(&mut self) -> Dropped {
        self.outbound.take_dropped()
    }

    /// Returns the messages dropped since the last call that [know who published them](Message::publisher), the first
    /// 1024 of them, each with the reason.
    pub fn take_lost(&mut self) -> Vec<(Arc<Message>, DropReason)> {
        self.outbound.take_lost()
    }

    /// Takes note that bytes came from the client. Once for each read is enough.
    pub fn touch(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.touch(now);
        }
    }

    /// Returns when the keep-alive runs out if nothing comes in; `None` without connection or keep-alive.
    pub fn deadline(&self) -> Option<Instant> {
        self.link.as_ref().and_then(Link::deadline)
    }

    /// Tells whether the keep-alive has run out: then [`end`](Self::end) with [`Ended::KeepAliveTimeout`] is due.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Ends the conversation, appends DISCONNECT where the version and the cause have one, and says what is left to
    /// do about the will and the session. Without a connection there is no will, and the expiry is as it was.
    pub fn end(&mut self, cause: Ended, out: &mut Vec<u8>) -> Farewell {
        self.inbound.disconnect();
        let Some(mut link) = self.link.take() else {
            return Farewell { will: None, session_expiry: self.expiry };
        };
        match cause {
            Ended::ByClient | Ended::ConnectionLost => {}
            Ended::KeepAliveTimeout => link.disconnect(ReasonCode::KeepAliveTimeout, None, out),
            Ended::Violation(violation) => {
                link.disconnect(violation.reason_code(), Some(&violation.to_string()), out);
            }
            Ended::TakenOver(_) => link.disconnect(ReasonCode::SessionTakenOver, None, out), // [MQTT5-3.1.4-3]
            Ended::ServerShutdown => match &self.limits.server_reference {
                Some(elsewhere) => link.send_elsewhere(elsewhere, out),
                None => link.disconnect(ReasonCode::ServerShuttingDown, None, out),
            },
            Ended::ByServer(reason) => link.disconnect(reason, None, out),
        }
        let will = link.will.take().and_then(|will| farewell::due(*will, cause, self.expiry));
        let expiry = self.expiry;
        self.changes.record(|| Change::Disconnected { expiry, will: will.clone().map(Box::new) });
        Farewell { will, session_expiry: self.expiry }
    }

    /// Gives spare memory back: for a session that has gone quiet.
    pub fn shrink(&mut self) {
        self.subscriptions.shrink_to_fit();
        self.inbound.shrink();
        self.outbound.shrink();
        self.changes.shrink();
    }

    /// Returns what is new to the broker.
    fn handle_publish<'s>(
        &'s mut self,
        publish: &'s Publish<'s>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Inbound<'s>>, Violation> {
        let Self { limits, inbound, link, changes, .. } = self;
        let Some(link) = link else { return Err(Violation::BeforeConnect(PacketType::Publish)) };
        check_publish(publish, limits)?;
        let window = link.window(limits);
        let topic = match (publish.properties.topic_alias, publish.topic) {
            (Some(alias), "") => link.aliases.get(alias, limits)?,
            (None, "") => return Err(Violation::TopicMissing),
            (Some(alias), topic) => {
                link.aliases.set(alias, topic, limits)?;
                topic
            }
            (None, topic) => topic,
        };
        let topic =
            TopicName::parse_with(topic, limits.max_topic_levels).map_err(|_| Violation::TopicNameInvalid)?;
        let token = match publish.packet_id {
            None => None,
            Some(packet_id) => match inbound.publish(publish.qos, publish.dup, packet_id, window, changes)? {
                Arrival::New(token) => Some(token),
                Arrival::StillWithBroker => return Ok(None),
                Arrival::AlreadyReceived => {
                    link.acknowledge(PacketType::PubRec, packet_id, ReasonCode::Success, out);
                    return Ok(None);
                }
            },
        };
        Ok(Some(Inbound { topic, publish, token }))
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Result<(), Violation> {
        let Some(link) = &mut self.link else { return Err(Violation::BeforeConnect(PacketType::Disconnect)) };
        if let Some(interval) = disconnect.session_expiry_interval {
            let expiry = Expiry::from_interval(interval, &self.limits);
            if self.expiry == Expiry::Now && expiry != Expiry::Now {
                return Err(Violation::SessionExpiryRaised);
            }
            self.expiry = expiry;
        }
        // Any DISCONNECT of 3.x removes the will [MQTT311-3.1.2-10], in 5.0 only a normal one [MQTT5-3.14.4-3]; the
        // decoder gives those of 3.x that reason.
        if disconnect.reason == ReasonCode::NORMAL_DISCONNECTION {
            link.will = None;
        }
        Ok(())
    }

    /// Where the subscription with that filter is, or would have to be.
    fn position(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|(known, _)| (**known).cmp(filter))
    }

    fn answer(&self, packet: &Packet<'_>, out: &mut Vec<u8>) {
        if let Some(link) = &self.link {
            link.answer(packet, out);
        }
    }
}

/// Records that a conversation begins, if the session is kept from now on or has been.
fn record_connected(
    changes: &mut Changes,
    client_id: &str,
    limits: &Limits,
    expiry: Expiry,
    state: SessionState,
    link: &Link,
) {
    if state == SessionState::New {
        changes.record(|| Change::Ended);
        changes.turn(limits.record_changes && expiry != Expiry::Now);
        changes.record(|| Change::Began { client_id: client_id.into() });
    }
    changes.record(|| Change::Connected { expiry, will: link.will.clone() });
}

/// What a PUBLISH must not carry, wherever it goes.
fn check_publish(publish: &Publish<'_>, limits: &Limits) -> Result<(), Violation> {
    let properties = &publish.properties;
    if publish.qos > limits.max_qos {
        return Err(Violation::QosNotSupported);
    }
    if publish.retain && !limits.retain_available {
        return Err(Violation::RetainNotSupported);
    }
    if !properties.subscription_identifiers.is_empty() {
        return Err(Violation::SubscriptionIdentifier);
    }
    if properties.response_topic.is_some_and(|topic| TopicName::parse(topic).is_err()) {
        return Err(Violation::ResponseTopicInvalid);
    }
    Ok(())
}

fn check_no_local(subscribe: &Subscribe<'_>) -> Result<(), Violation> {
    let is_wrong = subscribe
        .filters
        .iter()
        .any(|requested| requested.options.no_local && requested.filter.starts_with("$share/"));
    if is_wrong { Err(Violation::NoLocalOnShared) } else { Ok(()) }
}
