//! What the server sends to a client: the messages in flight, in the order of their first transmission, and the queue
//! of those that wait for the client, its window or its socket.
//!
//! ```text
//! deliver -> queued -> Published --PUBACK--> done                            (QoS 1)
//!                      Published --PUBREC--> Released --PUBCOMP--> done      (QoS 2)
//!                          \--PUBREC >= 0x80--> done
//! ```

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Instant;

use tidegate_codec::{PacketId, PacketType, QoS, ReasonCode, SubscriptionIdentifiers};

use crate::change::Changes;
use crate::inbound::take;
use crate::link::Link;
use crate::{Change, DeliveryNumber, Limits, Message, QueuePolicy, StoredInFlight};

/// A message for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message, shared with its other receivers.
    pub message: Arc<Message>,
    /// The highest QoS granted among the subscriptions that matched [MQTT5-3.3.4-2]. The message goes out with this
    /// or with its own, whichever is lower [MQTT5-3.8.4-8].
    pub qos: QoS,
    /// The retain flag to send [MQTT5-3.3.1-12], [MQTT5-3.3.1-13].
    pub retain: bool,
    /// The identifiers of the subscriptions that matched [MQTT5-3.3.4-3].
    pub subscription_identifiers: Identifiers,
}

/// The subscription identifiers of one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Identifiers {
    /// None of the subscriptions has one.
    #[default]
    None,
    /// The usual number, where there are any.
    One(NonZeroU32),
    /// One for each subscription that has one [MQTT5-3.3.4-4].
    Many(Box<[NonZeroU32]>),
}

impl Identifiers {
    pub(crate) fn lend(&self) -> SubscriptionIdentifiers<'_> {
        match self {
            Self::None => SubscriptionIdentifiers::None,
            Self::One(identifier) => SubscriptionIdentifiers::One(*identifier),
            Self::Many(identifiers) => SubscriptionIdentifiers::List(identifiers),
        }
    }
}

impl FromIterator<NonZeroU32> for Identifiers {
    fn from_iter<I: IntoIterator<Item = NonZeroU32>>(identifiers: I) -> Self {
        let mut identifiers = identifiers.into_iter();
        match (identifiers.next(), identifiers.next()) {
            (None, _) => Self::None,
            (Some(one), None) => Self::One(one),
            (Some(first), Some(second)) => {
                Self::Many([first, second].into_iter().chain(identifiers).collect())
            }
        }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It stands in the output.
    Sent,
    /// It waits for the client, for room in its window, or for its socket.
    Queued,
    /// It will not be sent. Counted, see [`Session::take_dropped`](crate::Session::take_dropped).
    Dropped(DropReason),
}

/// Why a message was not sent to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The queue was full and its policy chose this message.
    QueueFull,
    /// Its Message Expiry Interval passed before its delivery began [MQTT5-3.3.2-5].
    Expired,
    /// It is larger than the client's Maximum Packet Size [MQTT5-3.1.2-25].
    TooLarge,
    /// QoS 0 while the client is away.
    Offline,
    /// QoS 0 while the client's socket takes no more.
    Congested,
}

/// How many messages for a client were dropped, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of `DropReason`")]
pub struct Dropped {
    pub queue_full: u32,
    pub expired: u32,
    pub too_large: u32,
    pub offline: u32,
    pub congested: u32,
}

impl Dropped {
    /// Returns the sum.
    pub fn total(&self) -> u64 {
        [self.queue_full, self.expired, self.too_large, self.offline, self.congested]
            .map(u64::from)
            .iter()
            .sum()
    }

    fn count(&mut self, reason: DropReason) -> Delivered {
        let counter = match reason {
            DropReason::QueueFull => &mut self.queue_full,
            DropReason::Expired => &mut self.expired,
            DropReason::TooLarge => &mut self.too_large,
            DropReason::Offline => &mut self.offline,
            DropReason::Congested => &mut self.congested,
        };
        *counter = counter.saturating_add(1);
        Delivered::Dropped(reason)
    }
}

/// The sending side.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    in_flight: VecDeque<InFlight>,
    queue: VecDeque<Pending>,
    /// Sum of what `queue` holds, each message counted whole.
    queued_bytes: usize,
    queued_qos0: usize,
    /// How many of `in_flight` still have to be repeated on the present connection.
    to_repeat: usize,
    /// The packet identifier that was used last; 0 before the first.
    last_packet_id: u16,
    /// Messages ever numbered here.
    numbered: u64,
    /// Nothing as long as nothing is dropped, which keeps an idle session small.
    losses: Option<Box<Losses>>,
}

/// What was dropped since it was last asked for.
#[derive(Debug, Default)]
struct Losses {
    counts: Dropped,
    /// Those that know who published them.
    told: Vec<(Arc<Message>, DropReason)>,
}

/// Lost messages that are kept to be told of; what is beyond is only counted.
const MAX_LOST: usize = 1024;

/// A message that has not been sent.
#[derive(Debug)]
pub(crate) struct Pending {
    /// What the store knows it by, if it does.
    pub(crate) number: Option<DeliveryNumber>,
    pub(crate) delivery: Delivery,
}

#[derive(Debug)]
struct InFlight {
    packet_id: PacketId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PUBLISH went out; PUBACK or PUBREC is awaited, as its QoS says.
    Published {
        delivery: Delivery,
        /// `false` after a reconnection until it is repeated.
        on_link: bool,
    },
    /// PUBREL went out; PUBCOMP is awaited, and the message is no longer needed [MQTT5-4.3.3-6].
    Released,
}

impl Outbound {
    /// Sends a message now, later or never.
    pub(crate) fn deliver(
        &mut self,
        mut pending: Pending,
        link: Option<&mut Link>,
        limits: &Limits,
        now: Instant,
        out: &mut Vec<u8>,
        changes: &mut Changes,
    ) -> Delivered {
        let delivery = &mut pending.delivery;
        delivery.qos = delivery.qos.min(delivery.message.qos());
        let is_qos0 = delivery.qos == QoS::AtMostOnce;
        if delivery.message.is_expired(now) {
            return self.drop(&pending, DropReason::Expired, changes);
        }
        // A message overtakes none of its own QoS [MQTT5-4.6.0-5]. QoS 0 passes those that wait for the window.
        let is_behind_others =
            if is_qos0 { self.queued_qos0 > 0 } else { !self.queue.is_empty() || self.to_repeat > 0 };
        match link {
            Some(link) if !is_behind_others && !link.holds_back(delivery.qos, self.in_flight.len()) => {
                self.transmit(pending, link, now, out, changes)
            }
            Some(_) if is_qos0 && !limits.queue_qos0 => self.drop(&pending, DropReason::Congested, changes),
            None if is_qos0 && !limits.queue_qos0 => self.drop(&pending, DropReason::Offline, changes),
            _ => self.enqueue(pending, limits, changes),
        }
    }

    /// Begins a connection: everything in flight is repeated in its original order, PUBLISH with DUP and its packet
    /// identifier, or PUBREL [MQTT5-4.4.0-1], [MQTT5-4.6.0-1]. Where the client's window has become smaller, the rest
    /// of the PUBLISHes follow as it opens, before anything new.
    pub(crate) fn connect(
        &mut self,
        link: &mut Link,
        now: Instant,
        out: &mut Vec<u8>,
        changes: &mut Changes,
    ) {
        self.to_repeat = 0;
        for message in &mut self.in_flight {
            if let Stage::Published { on_link, .. } = &mut message.stage {
                *on_link = false;
                self.to_repeat += 1;
            }
        }
        self.repeat(link, Releases::Repeat, now, out, changes);
        self.drain(link, now, out, changes);
    }

    /// Sends what the window and the socket have room for.
    pub(crate) fn resume(&mut self, link: &mut Link, now: Instant, out: &mut Vec<u8>, changes: &mut Changes) {
        if self.to_repeat > 0 {
            self.repeat(link, Releases::Leave, now, out, changes);
        }
        self.drain(link, now, out, changes);
    }

    /// Takes note of PUBACK. One for an unknown identifier changes nothing.
    pub(crate) fn handle_puback(&mut self, packet_id: PacketId, changes: &mut Changes) {
        if let Some(index) = self.published(packet_id, QoS::AtLeastOnce) {
            self.finish(index, changes);
        }
    }

    /// Takes note of PUBREC and appends the answer that is due.
    pub(crate) fn handle_pubrec(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        link: &Link,
        out: &mut Vec<u8>,
        changes: &mut Changes,
    ) {
        let published = self.published(packet_id, QoS::ExactlyOnce);
        let reason = match published {
            Some(index) if reason.is_error() => return self.finish(index, changes), // [MQTT5-4.4.0-2]
            Some(index) => {
                self.begin_release(index);
                changes.record(|| Change::Released { packet_id });
                ReasonCode::Success
            }
            None if self.released(packet_id).is_some() => ReasonCode::Success,
            None if reason.is_error() => return,
            None => ReasonCode::PacketIdentifierNotFound,
        };
        link.acknowledge(PacketType::PubRel, packet_id, reason, out); // [MQTT5-4.3.3-4]
    }

    /// Takes note of PUBCOMP. One for an unknown identifier changes nothing.
    pub(crate) fn handle_pubcomp(&mut self, packet_id: PacketId, changes: &mut Changes) {
        if let Some(index) = self.released(packet_id) {
            self.finish(index, changes);
        }
    }

    pub(crate) fn has_losses(&self) -> bool {
        self.losses.is_some()
    }

    pub(crate) fn take_dropped(&mut self) -> Dropped {
        self.losses.as_mut().map_or_else(Dropped::default, |losses| std::mem::take(&mut losses.counts))
    }

    pub(crate) fn take_lost(&mut self) -> Vec<(Arc<Message>, DropReason)> {
        let Some(losses) = &mut self.losses else { return Vec::new() };
        let told = std::mem::take(&mut losses.told);
        if losses.counts == Dropped::default() {
            self.losses = None;
        }
        told
    }

    /// The message with that identifier that awaits PUBACK or PUBREC.
    pub(crate) fn awaiting(&self, packet_id: PacketId) -> Option<&Delivery> {
        match &self.in_flight[self.position(packet_id)?].stage {
            Stage::Published { delivery, .. } => Some(delivery),
            Stage::Released => None,
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn room_to_half(&self, limits: &Limits) -> (usize, usize) {
        (
            (limits.max_queued_messages / 2).saturating_sub(self.queue.len()),
            (limits.max_queued_bytes / 2).saturating_sub(self.queued_bytes),
        )
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Forgets all messages; their packet identifiers are free.
    pub(crate) fn clear(&mut self) {
        *self = Self { losses: self.losses.take(), ..Self::default() };
    }

    /// Takes over what an earlier life of the session had on its way.
    pub(crate) fn restore(&mut self, in_flight: Vec<StoredInFlight>, queue: Vec<(DeliveryNumber, Delivery)>) {
        self.last_packet_id = in_flight.last().map_or(0, |message| message.packet_id.get());
        self.in_flight.extend(in_flight.into_iter().map(|StoredInFlight { packet_id, delivery }| {
            let stage = match delivery {
                Some(delivery) => Stage::Published { delivery, on_link: false },
                None => Stage::Released,
            };
            InFlight { packet_id, stage }
        }));
        for (number, mut delivery) in queue {
            // What was posted only has not been through `deliver`.
            delivery.qos = delivery.qos.min(delivery.message.qos());
            self.numbered = self.numbered.max(number.as_own().map_or(0, |count| count + 1));
            self.push(Pending { number: Some(number), delivery });
        }
    }

    pub(crate) fn shrink(&mut self) {
        self.in_flight.shrink_to_fit();
        self.queue.shrink_to_fit();
    }

    fn repeat(
        &mut self,
        link: &mut Link,
        releases: Releases,
        now: Instant,
        out: &mut Vec<u8>,
        changes: &mut Changes,
    ) {
        // Those that wait for PUBCOMP count against the window as well: the client counts them.
        let mut open = self.in_flight.len() - self.to_repeat;
        let mut too_large = Vec::new();
        self.in_flight.retain_mut(|message| match &mut message.stage {
            Stage::Released => {
                if releases == Releases::Repeat {
                    link.acknowledge(PacketType::PubRel, message.packet_id, ReasonCode::Success, out);
                }
                true
            }
            Stage::Published { on_link: true, .. } => true,
            Stage::Published { delivery, on_link } => {
                // The window does not open again on the way: once one waits, all behind it wait.
                if link.holds_back(delivery.qos, open) {
                    return true;
                }
                self.to_repeat -= 1;
                // No look at the expiry: the delivery has begun [MQTT5-4.3.3-7].
                *on_link = link.publish(delivery, Some(message.packet_id), true, now, out).is_ok();
                if *on_link {
                    open += 1;
                } else {
                    too_large.push(Arc::clone(&delivery.message));
                    changes.record(|| Change::Completed { packet_id: message.packet_id });
                }
                *on_link
            }
        });
        for message in too_large {
            self.lose(&message, DropReason::TooLarge);
        }
    }

    fn drain(&mut self, link: &mut Link, now: Instant, out: &mut Vec<u8>, changes: &mut Changes) {
        // As long as something has to be repeated the window is full, and only QoS 0 gets through here.
        while let Some(next) = self.queue.front()
            && !link.holds_back(next.delivery.qos, self.in_flight.len())
            && let Some(pending) = self.dequeue()
        {
            self.transmit(pending, link, now, out, changes);
        }
    }

    /// Sends a message for the first time. The window has room for it.
    fn transmit(
        &mut self,
        pending: Pending,
        link: &mut Link,
        now: Instant,
        out: &mut Vec<u8>,
        changes: &mut Changes,
    ) -> Delivered {
        if pending.delivery.message.is_expired(now) {
            return self.drop(&pending, DropReason::Expired, changes);
        }
        let packet_id = (pending.delivery.qos != QoS::AtMostOnce).then(|| self.unused_packet_id());
        if link.publish(&pending.delivery, packet_id, false, now, out).is_err() {
            return self.drop(&pending, DropReason::TooLarge, changes);
        }
        if let Some(packet_id) = packet_id {
            let Pending { number, delivery } = pending;
            changes.record(|| Change::Sent { number, packet_id, delivery: delivery.clone() });
            self.last_packet_id = packet_id.0.get();
            self.in_flight
                .push_back(InFlight { packet_id, stage: Stage::Published { delivery, on_link: true } });
        }
        Delivered::Sent
    }

    fn enqueue(&mut self, mut pending: Pending, limits: &Limits, changes: &mut Changes) -> Delivered {
        let size = queued_size(&pending.delivery);
        while self.queue.len() >= limits.max_queued_messages
            || self.queued_bytes.saturating_add(size) > limits.max_queued_bytes
        {
            let makes_room =
                limits.queue_policy == QueuePolicy::DropOldest && size <= limits.max_queued_bytes;
            let oldest = if makes_room { self.dequeue() } else { None };
            let Some(oldest) = oldest else { return self.drop(&pending, DropReason::QueueFull, changes) };
            self.drop(&oldest, DropReason::QueueFull, changes);
        }
        if changes.is_on() && pending.delivery.qos != QoS::AtMostOnce {
            let number = pending.number.unwrap_or_else(|| {
                self.numbered += 1;
                DeliveryNumber::own(self.numbered - 1)
            });
            pending.number = Some(number);
            changes.record(|| Change::Queued { number, delivery: pending.delivery.clone() });
        }
        self.push(pending);
        Delivered::Queued
    }

    fn push(&mut self, pending: Pending) {
        self.queued_bytes += queued_size(&pending.delivery);
        self.queued_qos0 += usize::from(pending.delivery.qos == QoS::AtMostOnce);
        self.queue.push_back(pending);
    }

    fn dequeue(&mut self) -> Option<Pending> {
        let pending = self.queue.pop_front()?;
        self.queued_bytes -= queued_size(&pending.delivery);
        self.queued_qos0 -= usize::from(pending.delivery.qos == QoS::AtMostOnce);
        Some(pending)
    }

    /// Counts a message that is not sent.
    fn drop(&mut self, pending: &Pending, reason: DropReason, changes: &mut Changes) -> Delivered {
        if let Some(number) = pending.number {
            changes.record(|| Change::Dropped { number });
        }
        self.lose(&pending.delivery.message, reason)
    }

    fn lose(&mut self, message: &Arc<Message>, reason: DropReason) -> Delivered {
        let losses = self.losses.get_or_insert_default();
        if message.publisher().is_some() && losses.told.len() < MAX_LOST {
            losses.told.push((Arc::clone(message), reason));
        }
        losses.counts.count(reason)
    }

    /// Returns the next identifier that no message in flight has [MQTT5-2.2.1-4]. There is one: the window, at most
    /// 65,535 messages, has room.
    fn unused_packet_id(&self) -> PacketId {
        let mut candidate = self.last_packet_id;
        loop {
            candidate = candidate.wrapping_add(1);
            if let Some(packet_id) = NonZeroU16::new(candidate).map(PacketId)
                && self.position(packet_id).is_none()
            {
                return packet_id;
            }
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.in_flight.iter().position(|message| message.packet_id == packet_id)
    }

    /// Where the message with that identifier and QoS is that awaits PUBACK or PUBREC.
    fn published(&self, packet_id: PacketId, qos: QoS) -> Option<usize> {
        self.position(packet_id).filter(|&index| {
            matches!(&self.in_flight[index].stage, Stage::Published { delivery, .. } if delivery.qos == qos)
        })
    }

    /// Where the message with that identifier is that awaits PUBCOMP.
    fn released(&self, packet_id: PacketId) -> Option<usize> {
        self.position(packet_id).filter(|&index| matches!(self.in_flight[index].stage, Stage::Released))
    }

    fn begin_release(&mut self, index: usize) {
        let stage = std::mem::replace(&mut self.in_flight[index].stage, Stage::Released);
        self.no_longer_to_repeat(&stage);
    }

    fn finish(&mut self, index: usize, changes: &mut Changes) {
        if let Some(message) = take(&mut self.in_flight, index) {
            self.no_longer_to_repeat(&message.stage);
            changes.record(|| Change::Completed { packet_id: message.packet_id });
        }
    }

    /// The client may acknowledge what an earlier connection sent before it is repeated.
    fn no_longer_to_repeat(&mut self, stage: &Stage) {
        if matches!(stage, Stage::Published { on_link: false, .. }) {
            self.to_repeat -= 1;
        }
    }
}

/// What to do with messages that await PUBCOMP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Releases {
    /// Repeat their PUBREL: the connection is new.
    Repeat,
    /// They were repeated when the connection began.
    Leave,
}

/// What a queued delivery counts against `Limits::max_queued_bytes`.
fn queued_size(delivery: &Delivery) -> usize {
    size_of::<Delivery>() + delivery.message.size()
}
