//! Retained messages on their way to a new subscription, as fast as its client takes them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tidegate_session::{Delivery, Identifiers, Message, Session};

use crate::fanout::Wanted;

/// Messages that a turn hands to the session, so that other work of the connection goes on in between.
const MESSAGES_PER_TURN: usize = 256;

/// What is still to be sent, in the order of the subscriptions.
#[derive(Default)]
pub(crate) struct Replay {
    messages: VecDeque<(Arc<Message>, Wanted)>,
}

impl Replay {
    pub(crate) fn push(&mut self, messages: Vec<Arc<Message>>, wanted: Wanted) {
        self.messages.extend(messages.into_iter().map(|message| (message, wanted)));
    }

    pub(crate) fn is_done(&self) -> bool {
        self.messages.is_empty()
    }

    /// Delivers what the session sends at once; the rest waits here instead of pushing newer messages out of its queue.
    pub(crate) fn deliver(&mut self, session: &mut Session, now: Instant, out: &mut Vec<u8>) {
        for _ in 0..MESSAGES_PER_TURN {
            if session.queued() > 0 {
                return;
            }
            let Some((message, wanted)) = self.messages.pop_front() else { return };
            let delivery = Delivery {
                message,
                qos: wanted.options.qos,
                // [MQTT5-3.3.1-8]: a retained message sent for a new subscription carries the flag.
                retain: true,
                subscription_identifiers: wanted.identifier.map_or(Identifiers::None, Identifiers::One),
            };
            session.deliver(delivery, now, out);
        }
    }
}
