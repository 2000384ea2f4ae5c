//! How a session comes to a connection, and where it goes when the connection ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tidegate_session::{
    Change, DueWill, Expiry, Farewell, Limits, Session, SessionState, Start, StoredSession,
};
use tidegate_store::{Commit, Recovered};
use tidegate_topic::TopicName;

use crate::broker::{Core, now};
use crate::entry::{AtRest, Claim, Entry, Mailbox};
use crate::mount::Mountpoint;

/// A session in the hands of the one connection that owns it.
pub(crate) struct Owned {
    pub(crate) entry: Arc<Entry>,
    pub(crate) session: Session,
    pub(crate) state: SessionState,
    /// The will of a session that a clean start ended: it is due now.
    pub(crate) will: Option<DueWill>,
    /// What must be safe before anything that the session says.
    pub(crate) commit: Commit,
}

/// There is no room for one more session.
pub(crate) struct TooManySessions;

impl Core {
    /// Takes the session of `client_id`, from rest or from the connection that has it, or makes a new one, unless there
    /// are [`Config::max_sessions`](crate::Config::max_sessions) of them.
    ///
    /// Cancel safe: a caller that goes away leaves the session at rest or with its owner.
    pub(crate) async fn own(
        &self,
        client_id: &str,
        mount: Option<&Mountpoint>,
        start: Start,
        limits: &Arc<Limits>,
    ) -> Result<Owned, TooManySessions> {
        loop {
            let (entry, is_new) =
                self.registry.get_or_insert(client_id, mount, || self.new_entry(client_id, mount));
            if is_new {
                self.metrics.sessions.inc();
                let owned = fresh(entry, limits, None);
                // Looked at after it was counted, so that connections that come at once stay within it together.
                if self.sessions() > self.config.max_sessions {
                    self.discard(&owned.entry, &owned.session);
                    owned.entry.end();
                    return Err(TooManySessions);
                }
                return Ok(owned);
            }
            let gate = entry.gate.lock().await;
            let claimed = loop {
                match entry.claim(start) {
                    Claim::AtRest(rest) => break Some(rest),
                    Claim::Busy => entry.wait_released().await,
                    Claim::Gone => break None,
                }
            };
            let Some(rest) = claimed else { continue };
            let owned = match start {
                // A will that waited for its delay is cancelled by the return of its client ([MQTT5-3.1.3-9]).
                Start::Resume => Owned {
                    entry: Arc::clone(&entry),
                    session: rest.session,
                    state: SessionState::Resumed,
                    will: None,
                    commit: rest.commit,
                },
                Start::Clean => {
                    // A new entry, so that nothing on its way to the old session reaches the new one.
                    let new = self.new_entry(client_id, mount);
                    self.registry.replace(&entry, &new);
                    self.drop_subscriptions(&entry, &rest.session);
                    entry.record_own(Change::Ended);
                    entry.end();
                    fresh(new, limits, rest.will.map(|(will, _)| will))
                }
            };
            drop(gate);
            return Ok(owned);
        }
    }

    fn sessions(&self) -> usize {
        usize::try_from(self.metrics.sessions.get()).unwrap_or(0)
    }

    fn new_entry(&self, client_id: &str, mount: Option<&Mountpoint>) -> Arc<Entry> {
        Arc::new(Entry::online(client_id, mount.cloned(), self.mailbox(), Arc::clone(&self.store)))
    }

    fn mailbox(&self) -> Mailbox {
        Mailbox { messages: self.config.mailbox_messages, bytes: self.config.mailbox_bytes }
    }

    /// Puts everything that a store held where it was before the restart.
    pub(crate) fn restore(self: &Arc<Self>, recovered: Recovered) {
        for message in &recovered.retained {
            if let Ok(topic) = TopicName::parse(message.topic()) {
                self.retained.keep_own(topic, message);
            }
        }
        self.count_retained();
        let now = now();
        for (key, stored) in recovered.sessions {
            let (mount, client_id) = Mountpoint::from_stored(&stored.client_id);
            let kept = (Arc::clone(&self.store), key);
            let entry = Arc::new(Entry::restored(client_id, mount, self.mailbox(), kept));
            let stored = StoredSession { client_id: client_id.into(), ..stored };
            let (session, farewell) = Session::restore(stored, Arc::clone(&self.config.limits));
            let (_, is_new) =
                self.registry.get_or_insert(&entry.client_id, entry.mount.as_ref(), || Arc::clone(&entry));
            if !is_new {
                continue;
            }
            self.metrics.sessions.inc();
            self.restore_subscriptions(&entry, &session);
            if let Some(will) = self.release(&entry, session, farewell, now) {
                let core = Arc::clone(self);
                tokio::spawn(async move { core.publish_will(&entry, will).await });
            }
        }
    }

    /// Counts a client that has come online.
    pub(crate) fn count_online(&self) {
        self.metrics.sessions_online.inc();
        self.most_online.fetch_max(self.metrics.sessions_online.get(), Ordering::Relaxed);
    }

    /// Brings a session to rest after its connection, or ends it. Returns the will that is due at once.
    pub(crate) fn release(
        &self,
        entry: &Arc<Entry>,
        mut session: Session,
        farewell: Farewell,
        now: Instant,
    ) -> Option<DueWill> {
        let expires_at = match farewell.session_expiry {
            Expiry::Now => {
                self.discard(entry, &session);
                entry.end();
                return farewell.will;
            }
            Expiry::After(after) => now.checked_add(after),
            Expiry::Never => None,
        };
        let (due_now, due_later) = match farewell.will {
            Some(will) if will.delay().is_zero() => (Some(will), None),
            Some(will) => (None, now.checked_add(will.delay()).map(|at| (will, at))),
            None => (None, None),
        };
        session.shrink();
        let times = [expires_at, due_later.as_ref().map(|(_, at)| *at)];
        let commit = Commit::NONE;
        entry.rest(Box::new(AtRest { session, will: due_later, expires_at, commit }), now);
        for at in times.into_iter().flatten() {
            self.timers.schedule(at, Arc::downgrade(entry));
        }
        due_now
    }

    /// Forgets a session: its subscriptions and its place in the registry.
    pub(crate) fn discard(&self, entry: &Arc<Entry>, session: &Session) {
        self.drop_subscriptions(entry, session);
        entry.record_own(Change::Ended);
        if self.registry.remove(entry) {
            self.metrics.sessions.dec();
        }
    }
}

fn fresh(entry: Arc<Entry>, limits: &Arc<Limits>, will: Option<DueWill>) -> Owned {
    let session = Session::new(&entry.client_id, Arc::clone(limits));
    Owned { entry, session, state: SessionState::New, will, commit: Commit::NONE }
}
