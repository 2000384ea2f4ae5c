//! A feed whose destination is nowhere.

use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::{Ack, Counters, Feed, Offer, Outcome, Record, settle_all};

/// A feed that says [`Outcome::Delivered`] for everything when it is flushed, on the caller's task: for benchmarks of
/// what stands before a feed, and as the shortest example of one.
#[derive(Debug, Default)]
pub struct Discard {
    acks: Mutex<Vec<Ack>>,
    counters: Counters,
}

impl Discard {
    /// A new one.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Feed for Discard {
    fn offer(&self, _record: &Record<'_>, ack: Option<Ack>) -> Offer {
        self.counters.offered();
        self.counters.settled(Outcome::Delivered, 1);
        if let Some(ack) = ack {
            self.acks.lock().push(ack);
        }
        Offer::Taken
    }

    fn flush(&self) {
        let mut acks = std::mem::take(&mut *self.acks.lock());
        settle_all(acks.drain(..), Outcome::Delivered);
        // The allocation goes back unless someone else was faster: the steady state allocates nothing for it.
        let mut place = self.acks.lock();
        if place.capacity() == 0 {
            *place = acks;
        }
    }

    fn poll_room(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
