//! What is to happen later: one ordered list of due times, for one task that waits for the first.
//!
//! There is one for sessions at rest (delayed wills, expiry) and one for delayed messages.

use std::collections::BTreeMap;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Things by the time when they are due, and in the order in which they came for the same time. Its bound is the
/// business of whoever puts things in.
pub(crate) struct Timers<T> {
    due: Mutex<Due<T>>,
    earlier: Notify,
}

struct Due<T> {
    things: BTreeMap<(Instant, u64), T>,
    next_number: u64,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self {
            due: Mutex::new(Due { things: BTreeMap::new(), next_number: 0 }),
            earlier: Notify::const_new(),
        }
    }

    /// Has [`Timers::next`] return `thing` when `at` comes.
    pub(crate) fn schedule(&self, at: Instant, thing: T) {
        let is_first = {
            let mut due = self.due.lock();
            let number = due.next_number;
            due.next_number += 1;
            due.things.insert((at, number), thing);
            due.things.first_key_value().is_some_and(|(key, _)| *key == (at, number))
        };
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// The next thing whose time has come. Cancel safe.
    pub(crate) async fn next(&self) -> T {
        loop {
            let wait_until = match self.pop(tokio::time::Instant::now().into_std()) {
                Ok(thing) => return thing,
                Err(wait_until) => wait_until,
            };
            match wait_until {
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = self.earlier.notified() => {}
                },
                None => self.earlier.notified().await,
            }
        }
    }

    /// The first thing that is due, or when there will be one.
    fn pop(&self, now: Instant) -> Result<T, Option<Instant>> {
        let mut due = self.due.lock();
        match due.things.first_entry() {
            Some(first) if first.key().0 <= now => Ok(first.remove()),
            Some(first) => Err(Some(first.key().0)),
            None => Err(None),
        }
    }
}
