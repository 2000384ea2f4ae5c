//! What a client publishes: which messages the broker still owes an answer for, and which QoS 2 identifiers were
//! received and not yet released.
//!
//! ```text
//! QoS 1:  PUBLISH -> OwesPubAck --acknowledge: PUBACK--> done
//! QoS 2:  PUBLISH -> OwesPubRec --acknowledge: PUBREC--> AwaitsPubRel --PUBREL: PUBCOMP--> done
//!                    OwesPubRec --acknowledge, reason >= 0x80: PUBREC--> done
//! ```
//!
//! [`forget`](Received::forget) ends both from the left; the end of the connection ends QoS 1. Answers go out in the
//! order in which the broker gives them: a message that is safe does not wait for one that is not, and only clients
//! are bound to answer in order ([MQTT5-4.6.0-2], [MQTT5-4.6.0-3]).

use std::collections::VecDeque;
use std::num::NonZeroU16;

use tidegate_codec::{PacketId, QoS};

use crate::change::Changes;
use crate::{Change, Violation};

/// Names one inbound message that the broker owes an answer for.
///
/// It holds the packet identifier and a count, so that an answer which comes after the connection ended, or for an
/// identifier that has been reused since, is recognised. Tokens are unique within one [`Session`](crate::Session)
/// value: whoever keeps them longer than the session keeps them with its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl Token {
    fn new(count: u64, packet_id: PacketId) -> Self {
        Self(count << 16 | u64::from(packet_id.0.get()))
    }

    /// Which message of the session it is.
    fn count(self) -> u64 {
        self.0 >> 16
    }

    /// The identifier of the message; `None` for a number that was never a token.
    fn packet_id(self) -> Option<PacketId> {
        NonZeroU16::new(self.0 as u16).map(PacketId)
    }
}

/// The receiving side of QoS 1 and 2.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// In the order of receipt, so that what the broker answers in order is found at the front.
    messages: VecDeque<Message>,
    /// Messages ever received: the distinguishing part of the next token.
    count: u64,
    /// How many of `messages` are with the broker.
    with_broker: u16,
    /// The identifier of the last message.
    last: u16,
    /// How many messages up to the last had identifiers that follow each other.
    run: u32,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    token: Token,
    stage: Stage,
    /// Whether the client sent or repeated it on the present connection: only then does it wait for an answer, and
    /// only then does it count against the window.
    on_link: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// QoS 1, not yet settled: PUBACK is owed.
    OwesPubAck,
    /// QoS 2, not yet settled: PUBREC is owed.
    OwesPubRec,
    /// QoS 2, settled: duplicates are answered with PUBREC until PUBREL comes.
    AwaitsPubRel,
}

/// The window that holds for inbound messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Window {
    /// 5.0: what CONNACK announced.
    Announced(NonZeroU16),
    /// 3.x: nothing is announced, so reading stops at `unsettled`, and `unreleased` bounds what is left.
    Silent {
        /// Messages with the broker.
        unsettled: NonZeroU16,
        /// QoS 2 messages that wait for PUBREL.
        unreleased: u16,
    },
}

/// What a PUBLISH of QoS 1 or 2 turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A message that the broker has not seen.
    New(Token),
    /// A repeat of one that is still with the broker: the answer follows when the broker gives it.
    StillWithBroker,
    /// A repeat of one that was settled: PUBREC again, no second delivery.
    AlreadyReceived,
}

/// The answer that is due after the broker settled a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// PUBACK with this identifier.
    PubAck(PacketId),
    /// PUBREC with this identifier.
    PubRec(PacketId),
    /// Nothing now: the client has not asked on this connection.
    Later,
}

/// Takes a message out of a window. Nearly always it is the oldest, which nothing moves up for.
pub(crate) fn take<T>(window: &mut VecDeque<T>, index: usize) -> Option<T> {
    if index == 0 { window.pop_front() } else { window.remove(index) }
}

/// The identifier that comes behind this one.
fn following(packet_id: u16) -> u16 {
    packet_id.checked_add(1).unwrap_or(1)
}

impl Received {
    /// Takes note of a PUBLISH of QoS 1 or 2.
    pub(crate) fn publish(
        &mut self,
        qos: QoS,
        dup: bool,
        packet_id: PacketId,
        window: Window,
        changes: &mut Changes,
    ) -> Result<Arrival, Violation> {
        let follows = packet_id.0.get() == following(self.last);
        let place = if follows && self.is_one_run() { None } else { self.position(packet_id) };
        if let Some(index) = place {
            let known = &mut self.messages[index];
            match (known.stage, qos) {
                // Without DUP it is another message under an identifier that is in use. To take it for a repeat
                // would lose it silently.
                (Stage::OwesPubAck, QoS::AtLeastOnce) if dup => return Ok(Arrival::StillWithBroker),
                // Here DUP does not matter: until PUBREL the identifier stands for the first message
                // [MQTT5-4.3.3-10].
                (Stage::OwesPubRec, QoS::ExactlyOnce) => {
                    known.on_link = true;
                    return Ok(Arrival::StillWithBroker);
                }
                (Stage::AwaitsPubRel, QoS::ExactlyOnce) => {
                    known.on_link = true;
                    return Ok(Arrival::AlreadyReceived);
                }
                // A QoS 2 exchange of an earlier connection that the client no longer knows of.
                _ if !known.on_link => {
                    self.remove(index, changes);
                }
                _ => return Err(Violation::PacketIdInUse(packet_id)),
            }
        }
        self.make_room(window, changes)?;
        self.count += 1;
        self.run = if follows { self.run.saturating_add(1) } else { 1 };
        self.last = packet_id.0.get();
        let token = Token::new(self.count, packet_id);
        let stage = if qos == QoS::ExactlyOnce { Stage::OwesPubRec } else { Stage::OwesPubAck };
        self.messages.push_back(Message { token, stage, on_link: true });
        self.with_broker += 1;
        Ok(Arrival::New(token))
    }

    /// Takes note that the broker settled a message, `accepted` or not. `None`: nothing was owed for the token.
    pub(crate) fn settle(&mut self, token: Token, accepted: bool, changes: &mut Changes) -> Option<Answer> {
        let packet_id = token.packet_id()?;
        let index = self.position_of(token)?;
        let message = &mut self.messages[index];
        let asked = message.on_link;
        match message.stage {
            Stage::OwesPubAck => {
                self.remove(index, changes);
                Some(Answer::PubAck(packet_id))
            }
            Stage::OwesPubRec => {
                if accepted {
                    message.stage = Stage::AwaitsPubRel;
                    self.with_broker -= 1;
                    changes.record(|| Change::Received { packet_id });
                } else {
                    // The identifier means a new message from now on [MQTT5-4.3.3-9].
                    self.remove(index, changes);
                }
                Some(if asked { Answer::PubRec(packet_id) } else { Answer::Later })
            }
            Stage::AwaitsPubRel => None,
        }
    }

    /// Forgets a message that the broker will never settle, so that its repeat counts as new.
    pub(crate) fn forget(&mut self, token: Token, changes: &mut Changes) {
        if let Some(index) = self.position_of(token)
            && self.messages[index].stage != Stage::AwaitsPubRel
        {
            self.remove(index, changes);
        }
    }

    /// Takes note of PUBREL; `false` if no received message waits for it.
    pub(crate) fn release(&mut self, packet_id: PacketId, changes: &mut Changes) -> bool {
        let waiting =
            self.position(packet_id).filter(|&index| self.messages[index].stage == Stage::AwaitsPubRel);
        if let Some(index) = waiting {
            self.remove(index, changes);
        }
        waiting.is_some()
    }

    /// Takes note that the connection is gone: QoS 1 messages will come again and count as new, QoS 2 messages stay
    /// known and owe nothing until the client repeats them.
    pub(crate) fn disconnect(&mut self) {
        self.messages.retain(|message| message.stage != Stage::OwesPubAck);
        for message in &mut self.messages {
            message.on_link = false;
        }
        self.with_broker =
            self.messages.iter().filter(|message| message.stage == Stage::OwesPubRec).count() as u16;
    }

    /// How many messages the broker owes an answer for.
    pub(crate) fn with_broker(&self) -> u16 {
        self.with_broker
    }

    /// Takes over what an earlier life of the session had received.
    pub(crate) fn restore(&mut self, received: Vec<PacketId>) {
        for packet_id in received {
            self.count += 1;
            let token = Token::new(self.count, packet_id);
            self.messages.push_back(Message { token, stage: Stage::AwaitsPubRel, on_link: false });
        }
    }

    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.with_broker = 0;
    }

    pub(crate) fn shrink(&mut self) {
        self.messages.shrink_to_fit();
    }

    /// Lets one more message in, or refuses it. What an earlier connection left behind gives way, because a client
    /// repeats that first ([MQTT5-4.6.0-1]) or never.
    fn make_room(&mut self, window: Window, changes: &mut Changes) -> Result<(), Violation> {
        let exceeded = |maximum: u16| Err(Violation::ReceiveMaximumExceeded { maximum });
        match window {
            Window::Announced(maximum) if self.messages.len() >= usize::from(maximum.get()) => {
                let on_link = self.messages.iter().filter(|message| message.on_link).count();
                if on_link >= usize::from(maximum.get()) {
                    return exceeded(maximum.get());
                }
                self.remove_left_behind(|_| true, changes);
            }
            Window::Silent { unsettled, .. } if self.with_broker >= unsettled.get() => {
                return exceeded(unsettled.get());
            }
            Window::Silent { unreleased, .. } if self.unreleased() >= usize::from(unreleased) => {
                if !self.remove_left_behind(|stage| stage == Stage::AwaitsPubRel, changes) {
                    return exceeded(unreleased);
                }
            }
            Window::Announced(_) | Window::Silent { .. } => {}
        }
        Ok(())
    }

    fn unreleased(&self) -> usize {
        self.messages.len() - usize::from(self.with_broker)
    }

    fn remove_left_behind(&mut self, is_candidate: impl Fn(Stage) -> bool, changes: &mut Changes) -> bool {
        let left_behind =
            self.messages.iter().position(|message| !message.on_link && is_candidate(message.stage));
        if let Some(index) = left_behind {
            self.remove(index, changes);
        }
        left_behind.is_some()
    }

    /// Whether all messages are of one run of identifiers, and not so many apart that the next one can be the first
    /// again. Clients count their identifiers up, so this says without a search that a message is new.
    fn is_one_run(&self) -> bool {
        let Some(first) = self.messages.front() else { return true };
        let since = self.count - first.token.count();
        since < u64::from(self.run) && since + 1 < u64::from(u16::MAX)
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.messages.iter().position(|message| message.token.packet_id() == Some(packet_id))
    }

    fn position_of(&self, token: Token) -> Option<usize> {
        self.messages.iter().position(|message| message.token == token)
    }

    fn remove(&mut self, index: usize, changes: &mut Changes) {
        let Some(message) = take(&mut self.messages, index) else { return };
        if message.stage != Stage::AwaitsPubRel {
            self.with_broker -= 1;
        } else if let Some(packet_id) = message.token.packet_id() {
            changes.record(|| Change::Forgotten { packet_id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window::Announced(NonZeroU16::MAX);

    fn publish(received: &mut Received, id: u16) -> Result<Arrival, Violation> {
        let id = PacketId(NonZeroU16::new(id).expect("no identifier is 0"));
        received.publish(QoS::AtLeastOnce, false, id, WINDOW, &mut Changes::default())
    }

    /// Sends until an identifier is refused as in use; says which.
    fn until_refused(received: &mut Received, ids: impl IntoIterator<Item = u16>) -> Option<u16> {
        ids.into_iter().find(|&id| matches!(publish(received, id), Err(Violation::PacketIdInUse(_))))
    }

    #[test]
    fn an_identifier_in_use_is_found_wherever_the_count_is() {
        let settle = |received: &mut Received, index: usize| {
            let token = received.messages[index].token;
            received.settle(token, true, &mut Changes::default())
        };
        let all = || 1..=u16::MAX;
        // The whole circle: the last identifier is followed by the first, which is still there.
        let mut received = Received::default();
        assert_eq!(until_refused(&mut received, all().chain(all())), Some(1));
        // Over the end of the circle, with a hole where one was settled and the first ones gone.
        let mut received = Received::default();
        assert_eq!(until_refused(&mut received, all().take(40_000)), None);
        for _ in 0..39_990 {
            settle(&mut received, 0);
        }
        settle(&mut received, 3);
        let rest = 40_001..=u16::MAX;
        assert_eq!(
            until_refused(&mut received, rest.chain(1..=39_990).chain([39_994, 39_995])),
            Some(39_995)
        );
        // Behind a jump, nothing is taken for new that is not.
        let mut received = Received::default();
        assert_eq!(until_refused(&mut received, [7, 8, 5, 6, 7]), Some(7));
        let mut received = Received::default();
        received.restore(vec![PacketId(NonZeroU16::MIN)]);
        assert_eq!(until_refused(&mut received, [u16::MAX]), None);
        let again = received.publish(
            QoS::ExactlyOnce,
            true,
            PacketId(NonZeroU16::MIN),
            WINDOW,
            &mut Changes::default(),
        );
        assert_eq!(again, Ok(Arrival::AlreadyReceived));
    }
}
