//! Delayed wills and session expiry: one ordered list of due times, one task that waits for the first.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::entry::Entry;

/// Entries to look at, by time. An entry decides itself what is due, so a stale time is harmless.
pub(crate) struct Timers {
    due: Mutex<Due>,
    earlier: Notify,
}

#[derive(Default)]
struct Due {
    // Bounded by the sessions at rest: each puts at most two times in when it comes to rest.
    entries: BTreeMap<(Instant, u64), Weak<Entry>>,
    next_number: u64,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self { due: Mutex::new(Due::default()), earlier: Notify::const_new() }
    }

    /// Has `entry` looked at when `at` comes.
    pub(crate) fn schedule(&self, at: Instant, entry: &Arc<Entry>) {
        let is_first = {
            let mut due = self.due.lock();
            let number = due.next_number;
            due.next_number += 1;
            due.entries.insert((at, number), Arc::downgrade(entry));
            due.entries.first_key_value().is_some_and(|(key, _)| *key == (at, number))
        };
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// The next entry whose time has come. Cancel safe.
    pub(crate) async fn next(&self) -> Arc<Entry> {
        loop {
            let wait_until = match self.pop(tokio::time::Instant::now().into_std()) {
                Popped::Entry(entry) => return entry,
                Popped::Wait(until) => until,
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

    fn pop(&self, now: Instant) -> Popped {
        let mut due = self.due.lock();
        while let Some(first) = due.entries.first_entry() {
            if first.key().0 > now {
                return Popped::Wait(Some(first.key().0));
            }
            if let Some(entry) = first.remove().upgrade() {
                return Popped::Entry(entry);
            }
        }
        Popped::Wait(None)
    }
}

enum Popped {
    Entry(Arc<Entry>),
    Wait(Option<Instant>),
}
