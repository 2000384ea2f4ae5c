//! Retained messages on their way to a new subscription, as fast as its client takes them.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use tidegate_session::{Delivery, Identifiers, Session};
use tidegate_topic::{Cursor, Progress, TopicFilter};

use crate::entry::Entry;
use crate::fanout::Wanted;
use crate::retained::Retained;

/// Topics that a turn looks at under the lock of the retained messages.
const STEPS_PER_TURN: usize = 256;

/// Bytes that a turn makes at most under that lock, but for the message that goes beyond.
const BYTES_PER_TURN: usize = 64 * 1024;

/// Subscriptions whose retained messages are still to be sent, in their order. Holds no messages: a page is read when
/// the session can send it, so that a client that takes its time gets what is retained then.
#[derive(Default)]
pub(crate) struct Replay {
    subscriptions: VecDeque<Waiting>,
}

struct Waiting {
    filter: Box<str>,
    wanted: Wanted,
    cursor: Cursor,
}

impl Replay {
    /// Adds a subscription. Its filter is the one that messages are matched against.
    pub(crate) fn push(&mut self, filter: TopicFilter<'_>, wanted: Wanted) {
        let filter = filter.as_str();
        // Subscribed to again: from the beginning, and bounded by the subscriptions of the session.
        self.subscriptions.retain(|waiting| *waiting.filter != *filter);
        self.subscriptions.push_back(Waiting { filter: filter.into(), wanted, cursor: Cursor::new() });
    }

    /// Leaves out a subscription that is no more.
    pub(crate) fn cancel(&mut self, filter: TopicFilter<'_>) {
        self.subscriptions.retain(|waiting| *waiting.filter != *filter.as_str());
    }

    pub(crate) fn is_done(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// Delivers a part of what the session sends at once, and returns whether it is worth to call again without
    /// waiting for the client. The rest stays where it is, instead of pushing newer messages out of the queue.
    pub(crate) fn deliver(
        &mut self,
        retained: &Retained,
        entry: &Entry,
        session: &mut Session,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(waiting) = self.subscriptions.front_mut() else { return false };
        if session.queued() > 0 {
            return false;
        }
        let Ok(filter) = TopicFilter::parse(&waiting.filter) else { return false };
        let wanted = waiting.wanted;
        let end = out.len() + BYTES_PER_TURN;
        let progress = retained.page(filter, &mut waiting.cursor, STEPS_PER_TURN, now, |message| {
            let Some(message) = entry.as_seen_inside(message) else { return ControlFlow::Continue(()) };
            let delivery = Delivery {
                message,
                qos: wanted.options.qos,
                // [MQTT5-3.3.1-8]: a retained message sent for a new subscription carries the flag.
                retain: true,
                subscription_identifiers: wanted.identifier.map_or(Identifiers::None, Identifiers::One),
            };
            session.deliver(delivery, now, out);
            if session.queued() > 0 || out.len() >= end {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if progress == Progress::Done {
            self.subscriptions.pop_front();
        }
        !self.is_done() && session.queued() == 0
    }
}
