//! One session of one client id, as the rest of the broker sees it: online behind a mailbox, offline at rest, or gone.
//!
//! The session itself is moved, never shared: the connection task owns it while the client is online, this entry while
//! it is not. Whoever has something for it (a publisher's task a delivery, a sink an acknowledgement) leaves it here.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_codec::{QoS, ReasonCode};
use tidegate_session::{
    Change, Delivered, Delivery, DeliveryNumber, DropReason, DueWill, Message, Session, Start, Token,
};
use tidegate_sink::{Outcome, Settle, Settled};
use tidegate_store::{Commit, SessionKey, Store};
use tokio::sync::Notify;

use crate::mount::Mountpoint;

/// The rendezvous of a session.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) client_id: Box<str>,
    /// The name space of its topics.
    pub(crate) mount: Option<Mountpoint>,
    /// Held by the one connection that is about to own the session, so that a storm of takeovers queues up fairly.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// Signalled when the session came to rest or is gone.
    released: Notify,
    mailbox: Mailbox,
    /// Where the session's changes go.
    store: Arc<dyn Store>,
    key: SessionKey,
    /// Whether the session is in the store, so that it survives a restart.
    is_kept: AtomicBool,
    room: Room,
    bell: Bell,
    slot: Mutex<Slot>,
}

/// Whether the task of an entry that is online has to be woken for what is left in its inbox.
///
/// The task looks here after it has said that it rests, and whoever left something looks whether it rests after saying
/// so: one of them sees the other. So nothing is left lying, and a task that is at work is not woken for what it will
/// find anyway, such as an acknowledgement that a sink gives at once.
#[derive(Debug)]
struct Bell {
    /// The task is in a turn, and looks for mail before it rests.
    is_at_work: AtomicBool,
    /// Something is in the inbox that the task has not taken.
    has_mail: AtomicBool,
}

impl Bell {
    /// For a task that has not come to its inbox yet: it does so in its first turn, and leaves its waker there.
    fn unheard() -> Self {
        Self { is_at_work: AtomicBool::new(false), has_mail: AtomicBool::new(true) }
    }

    /// Makes it what it is for a task that has not come to its inbox yet. The caller holds the lock of the inbox.
    fn forget(&self) {
        self.is_at_work.store(false, Ordering::SeqCst);
        self.has_mail.store(true, Ordering::SeqCst);
    }

    /// Notes that something was left; the caller holds the lock of the inbox. Returns whether its task must be woken.
    fn ring(&self) -> bool {
        // Whoever left the first piece has woken it for the others too.
        !self.has_mail.swap(true, Ordering::SeqCst) && !self.is_at_work.load(Ordering::SeqCst)
    }
}

/// What the client of an entry that is online can be given beyond what is in its mailbox, before it is behind. Written
/// by its connection after each turn.
#[derive(Debug)]
struct Room {
    /// Messages that the session queues until its queue is half full.
    messages: AtomicUsize,
    /// Bytes of these.
    bytes: AtomicUsize,
    /// Bytes of QoS 0 messages that the connection takes before it drops them.
    unqueued_bytes: AtomicUsize,
}

impl Room {
    fn set(&self, messages: usize, bytes: usize, unqueued_bytes: usize) {
        self.messages.store(messages, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.unqueued_bytes.store(unqueued_bytes, Ordering::Relaxed);
    }

    fn get(&self) -> (usize, usize, usize) {
        let load = |value: &AtomicUsize| value.load(Ordering::Relaxed);
        (load(&self.messages), load(&self.bytes), load(&self.unqueued_bytes))
    }
}

/// A message for a session, with its number where it stands in the store already.
pub(crate) type Letter = (Option<DeliveryNumber>, Delivery);

/// What may wait between a publisher's task and a subscriber's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mailbox {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
enum Slot {
    Online(Inbox),
    Offline(Box<AtRest>),
    /// The session ended, or a clean start put another entry in this one's place.
    Gone,
}

/// A session without a connection.
#[derive(Debug)]
pub(crate) struct AtRest {
    pub(crate) session: Session,
    /// A will that waits for its delay, and when it is due.
    pub(crate) will: Option<(DueWill, Instant)>,
    /// When the session ends; `None` is never.
    pub(crate) expires_at: Option<Instant>,
    /// What must be safe before anything that the session says next.
    pub(crate) commit: Commit,
}

/// What others left for a connection task.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Acknowledgements from sinks. Bounded by the session's receive window: each token is settled once.
    pub(crate) settled: SmallVec<[Settled; 2]>,
    /// Messages from publishers, as many as the mailbox holds.
    pub(crate) deliveries: Vec<Letter>,
    /// What they take, each counted whole although receivers share it.
    bytes: usize,
    pub(crate) kick: Option<Kick>,
    waker: Option<Waker>,
}

/// Why a connection is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kick {
    /// Another connection brought the same client id ([MQTT5-3.1.4-3]).
    TakenOver(Start),
    /// The broker is shutting down.
    Shutdown,
}

/// What became of a delivery that was left at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// In the mailbox of the connection, or wherever the session put it. It is safe when this is committed.
    Taken(Commit),
    /// The connection is too far behind.
    MailboxFull,
    /// Nobody is online, and only somebody online was to get it.
    Offline,
    /// There is no session any more.
    Gone,
}

/// Whom a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The session, wherever it is.
    Anywhere,
    /// The session, if its client is online.
    Online,
}

/// What a new connection finds when it asks for the session.
pub(crate) enum Claim {
    AtRest(Box<AtRest>),
    /// Somebody is online; it was asked to leave. Wait for [`Entry::wait_released`] and claim again.
    Busy,
    Gone,
}

impl Entry {
    /// An entry that is online from the start, with an empty mailbox.
    pub(crate) fn online(
        client_id: &str,
        mount: Option<Mountpoint>,
        mailbox: Mailbox,
        store: Arc<dyn Store>,
    ) -> Self {
        let key = store.new_session();
        Self::new(client_id, mount, mailbox, (store, key), Slot::Online(Inbox::default()))
    }

    /// The entry of a session that the store gave back.
    pub(crate) fn restored(
        client_id: &str,
        mount: Option<Mountpoint>,
        mailbox: Mailbox,
        kept: (Arc<dyn Store>, SessionKey),
    ) -> Self {
        let entry = Self::new(client_id, mount, mailbox, kept, Slot::Gone);
        entry.is_kept.store(true, Ordering::Relaxed);
        entry
    }

    fn new(
        client_id: &str,
        mount: Option<Mountpoint>,
        mailbox: Mailbox,
        (store, key): (Arc<dyn Store>, SessionKey),
        slot: Slot,
    ) -> Self {
        Self {
            client_id: client_id.into(),
            mount,
            gate: tokio::sync::Mutex::const_new(()),
            released: Notify::const_new(),
            mailbox,
            store,
            key,
            is_kept: AtomicBool::new(false),
            room: Room {
                messages: AtomicUsize::new(usize::MAX),
                bytes: AtomicUsize::new(usize::MAX),
                unqueued_bytes: AtomicUsize::new(usize::MAX),
            },
            bell: Bell::unheard(),
            slot: Mutex::new(slot),
        }
    }

    /// Hands the changes of this entry's session to the store. What was promised because of them is safe when the
    /// result is committed.
    pub(crate) fn record(&self, session: &mut Session) -> Commit {
        if !session.is_kept() {
            return Commit::NONE;
        }
        let mut changes = Vec::new();
        session.take_changes(&mut changes);
        if let Some(mount) = &self.mount {
            for change in &mut changes {
                if let Change::Began { client_id } = change {
                    *client_id = mount.stored(client_id);
                }
            }
        }
        self.is_kept.store(true, Ordering::Relaxed);
        self.store.append(self.key, &mut changes)
    }

    /// Whether the session survives a restart.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Tells the store of something that the session does not know of itself.
    pub(crate) fn record_own(&self, change: Change) {
        if self.is_kept.load(Ordering::Relaxed) {
            self.store.append(self.key, &mut vec![change]);
        }
    }

    /// A message as the client of this entry sees it: without its mountpoint. `None` if it is from outside.
    pub(crate) fn as_seen_inside(&self, message: &Arc<Message>) -> Option<Arc<Message>> {
        let Some(mount) = &self.mount else { return Some(Arc::clone(message)) };
        let topic = mount.inside(message.topic())?;
        // The expiry is set as it was, so this moment does not matter.
        let publish = message.as_publish(crate::broker::now());
        let seen = Message::from_publish(topic, &publish, crate::broker::now());
        let seen = seen.with_expiry(message.expires_at());
        Some(Arc::new(seen.with_publisher(message.publisher().cloned())))
    }

    /// What the connection can be given from here on: messages and bytes that its session queues, and bytes of QoS 0
    /// that its socket takes.
    pub(crate) fn set_room(&self, (messages, bytes): (usize, usize), unqueued_bytes: usize) {
        self.room.set(messages, bytes, unqueued_bytes);
    }

    /// Whether the client is online and so far behind that another message of this QoS may cost it one.
    pub(crate) fn is_behind(&self, qos: QoS) -> bool {
        let slot = self.slot.lock();
        let Slot::Online(inbox) = &*slot else { return false };
        let (messages, bytes, unqueued_bytes) = self.room.get();
        let (in_mailbox, mailbox) = (inbox.deliveries.len(), self.mailbox);
        if in_mailbox >= mailbox.messages / 2 || inbox.bytes >= mailbox.bytes / 2 {
            return true;
        }
        match qos {
            QoS::AtMostOnce => inbox.bytes >= unqueued_bytes,
            QoS::AtLeastOnce | QoS::ExactlyOnce => in_mailbox >= messages || inbox.bytes >= bytes,
        }
    }

    /// Leaves a message for the session. Never waits for the subscriber.
    pub(crate) fn deliver(&self, delivery: Delivery, reach: Reach, now: Instant) -> Posted {
        let mut slot = self.slot.lock();
        match &mut *slot {
            Slot::Online(inbox) => {
                let size = delivery.message.size();
                // One that is alone always fits: no message is larger than what a client may send.
                let has_room = inbox.deliveries.is_empty() || inbox.bytes + size <= self.mailbox.bytes;
                if !has_room || inbox.deliveries.len() >= self.mailbox.messages {
                    return Posted::MailboxFull;
                }
                inbox.bytes += size;
                let (number, commit) = self.post(&delivery);
                inbox.deliveries.push((number, delivery));
                self.ring(inbox);
                Posted::Taken(commit)
            }
            Slot::Offline(_) if reach == Reach::Online => Posted::Offline,
            // Nothing is written for an offline session, so the empty buffer stays empty.
            Slot::Offline(rest) => {
                rest.session.deliver(delivery, now, &mut Vec::new());
                let commit = self.record(&mut rest.session);
                rest.commit = rest.commit.max(commit);
                Posted::Taken(commit)
            }
            Slot::Gone => Posted::Gone,
        }
    }

    /// What the session of a client that is away has dropped; a connection that owns it asks it itself.
    pub(crate) fn take_lost(&self) -> Vec<(Arc<Message>, DropReason)> {
        match &mut *self.slot.lock() {
            Slot::Offline(rest) => rest.session.take_lost(),
            Slot::Online(_) | Slot::Gone => Vec::new(),
        }
    }

    /// Puts a delivery that must not be lost into the store before the publisher is answered: the task of the
    /// subscriber may not have come to it by then.
    fn post(&self, delivery: &Delivery) -> (Option<DeliveryNumber>, Commit) {
        let qos = delivery.qos.min(delivery.message.qos());
        if qos == QoS::AtMostOnce || !self.is_kept.load(Ordering::Relaxed) {
            return (None, Commit::NONE);
        }
        let number = self.store.next_posting();
        let mut changes = vec![Change::Posted { number, delivery: delivery.clone() }];
        (Some(number), self.store.append(self.key, &mut changes))
    }

    /// Asks the connection that owns the session, if any, to end.
    pub(crate) fn kick(&self, kick: Kick) {
        if let Slot::Online(inbox) = &mut *self.slot.lock() {
            // A takeover ends the conversation at once; a shutdown that came first must not hold it up.
            if !matches!(inbox.kick, Some(Kick::TakenOver(_))) {
                inbox.kick = Some(kick);
            }
            self.ring(inbox);
        }
    }

    /// Wakes the task for what was left in `inbox`, if it rests. The lock is held meanwhile: a wake is shorter than what
    /// it would take to carry the waker outside.
    fn ring(&self, inbox: &Inbox) {
        if self.bell.ring()
            && let Some(waker) = &inbox.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Says that the connection's task is in a turn.
    pub(crate) fn begin_turn(&self) {
        self.bell.is_at_work.store(true, Ordering::SeqCst);
    }

    /// Whether there is something to collect.
    pub(crate) fn has_mail(&self) -> bool {
        self.bell.has_mail.load(Ordering::SeqCst)
    }

    /// Says that the connection's task is about to rest. Returns `false` if it must not, because something was left.
    pub(crate) fn end_turn(&self) -> bool {
        self.bell.is_at_work.store(false, Ordering::SeqCst);
        !self.has_mail()
    }

    /// Moves what was left for the connection into `settled` and `deliveries`, and registers `waker` for what follows.
    pub(crate) fn collect(
        &self,
        waker: &Waker,
        settled: &mut Vec<Settled>,
        deliveries: &mut Vec<Letter>,
    ) -> Option<Kick> {
        let mut slot = self.slot.lock();
        let Slot::Online(inbox) = &mut *slot else {
            return None;
        };
        self.bell.has_mail.store(false, Ordering::SeqCst);
        settled.extend(inbox.settled.drain(..));
        if inbox.settled.spilled() {
            // A burst is over; an idle connection keeps no buffers.
            inbox.settled = SmallVec::new();
        }
        if !inbox.deliveries.is_empty() {
            // They take their room with them until the turn is over and says how much there is.
            let (messages, bytes, unqueued_bytes) = self.room.get();
            self.room.set(
                messages.saturating_sub(inbox.deliveries.len()),
                bytes.saturating_sub(inbox.bytes),
                unqueued_bytes.saturating_sub(inbox.bytes),
            );
        }
        deliveries.append(&mut std::mem::take(&mut inbox.deliveries));
        inbox.bytes = 0;
        // A task keeps its waker, so that a turn without mail has nothing to register.
        if !inbox.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inbox.waker = Some(waker.clone());
        }
        inbox.kick
    }

    /// Takes the session for a new connection. The caller holds the gate.
    pub(crate) fn claim(&self, start: Start) -> Claim {
        let mut slot = self.slot.lock();
        match &mut *slot {
            Slot::Online(inbox) => {
                inbox.kick = Some(Kick::TakenOver(start));
                self.ring(inbox);
                Claim::Busy
            }
            Slot::Offline(_) => {
                self.bell.forget();
                match std::mem::replace(&mut *slot, Slot::Online(Inbox::default())) {
                    Slot::Offline(rest) => Claim::AtRest(rest),
                    _ => Claim::Gone,
                }
            }
            Slot::Gone => Claim::Gone,
        }
    }

    /// Waits until the owner let go. Cancel safe.
    pub(crate) async fn wait_released(&self) {
        self.released.notified().await;
    }

    /// Brings the session to rest, with what was still in the mailbox.
    pub(crate) fn rest(&self, mut rest: Box<AtRest>, now: Instant) {
        let mut slot = self.slot.lock();
        if let Slot::Online(inbox) = &mut *slot {
            for settled in inbox.settled.drain(..) {
                settle_at_rest(&mut rest.session, settled);
            }
            for letter in inbox.deliveries.drain(..) {
                open_letter(&mut rest.session, letter, now, &mut Vec::new());
            }
        }
        rest.commit = rest.commit.max(self.record(&mut rest.session));
        *slot = Slot::Offline(rest);
        drop(slot);
        self.released.notify_one();
    }

    /// Ends the entry for good and wakes whoever waited for its session.
    pub(crate) fn end(&self) {
        *self.slot.lock() = Slot::Gone;
        self.released.notify_one();
    }

    /// What is due for a session at rest: a delayed will, and the session itself when it expired.
    pub(crate) fn due(&self, now: Instant) -> (Option<DueWill>, Option<Box<AtRest>>) {
        let mut slot = self.slot.lock();
        let Slot::Offline(rest) = &mut *slot else {
            return (None, None);
        };
        let expired = rest.expires_at.is_some_and(|at| at <= now);
        // The will is due at its delay or at the end of the session, whichever is first ([MQTT5-3.1.3-9]).
        let will = match &rest.will {
            Some((_, at)) if *at <= now || expired => rest.will.take().map(|(will, _)| will),
            _ => None,
        };
        if !expired {
            return (will, None);
        }
        match std::mem::replace(&mut *slot, Slot::Gone) {
            Slot::Offline(rest) => (will, Some(rest)),
            _ => (will, None),
        }
    }
}

#[cfg(test)]
impl Entry {
    pub(crate) fn mailbox_len(&self) -> usize {
        match &*self.slot.lock() {
            Slot::Online(inbox) => inbox.deliveries.len(),
            _ => 0,
        }
    }

    /// Drops the message at that place, as a session does that has it acknowledged.
    pub(crate) fn drop_from_mailbox(&self, index: usize) {
        if let Slot::Online(inbox) = &mut *self.slot.lock() {
            inbox.deliveries.remove(index);
        }
    }
}

/// Hands a delivery to its session, and says what that made of it.
pub(crate) fn open_letter(
    session: &mut Session,
    (number, delivery): Letter,
    now: Instant,
    out: &mut Vec<u8>,
) -> Delivered {
    match number {
        Some(number) => session.deliver_posted(number, delivery, now, out),
        None => session.deliver(delivery, now, out),
    }
}

fn settle_at_rest(session: &mut Session, settled: Settled) {
    let token = Token::from(settled.token);
    match settled.outcome {
        // The client is not there to read the answer: it asks again after it resumed.
        Outcome::Delivered => {
            session.acknowledge(token, ReasonCode::Success, &mut Vec::new());
        }
        Outcome::Rejected(_) | Outcome::Lost => session.forget(token),
    }
}

impl Settle for Entry {
    fn settle(&self, settled: &[Settled]) {
        match &mut *self.slot.lock() {
            Slot::Online(inbox) => {
                inbox.settled.extend_from_slice(settled);
                self.ring(inbox);
            }
            Slot::Offline(rest) => {
                for settled in settled {
                    settle_at_rest(&mut rest.session, *settled);
                }
                let commit = self.record(&mut rest.session);
                rest.commit = rest.commit.max(commit);
            }
            Slot::Gone => {}
        }
    }
}

/// An entry as a key of the subscription tree: identity, not content.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber(pub(crate) Arc<Entry>);

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Subscriber {}

impl Hash for Subscriber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_codec::QoS;
    use tidegate_session::Identifiers;

    use tidegate_store::Volatile;

    use super::*;

    const TAKEN: Posted = Posted::Taken(Commit::NONE);

    fn volatile() -> Arc<dyn Store> {
        Arc::new(Volatile::default())
    }

    fn delivery(payload: usize) -> Delivery {
        Delivery {
            message: Arc::new(Message::new("t", &vec![0; payload], QoS::AtMostOnce, false)),
            qos: QoS::AtMostOnce,
            retain: false,
            subscription_identifiers: Identifiers::None,
        }
    }

    #[test]
    fn a_mailbox_is_bounded_in_messages_and_in_bytes() {
        let post =
            |entry: &Entry, payload| entry.deliver(delivery(payload), Reach::Online, crate::broker::now());
        let entry = Entry::online("a", None, Mailbox { messages: 2, bytes: 10_000 }, volatile());
        for expected in [TAKEN, TAKEN, Posted::MailboxFull] {
            assert_eq!(post(&entry, 0), expected);
        }
        let entry = Entry::online("a", None, Mailbox { messages: 100, bytes: 10_000 }, volatile());
        assert_eq!(post(&entry, 20_000), TAKEN, "one alone always fits");
        assert_eq!(post(&entry, 0), Posted::MailboxFull);
        let entry = Entry::online("a", None, Mailbox { messages: 100, bytes: 10_000 }, volatile());
        for expected in [TAKEN, TAKEN, Posted::MailboxFull, Posted::MailboxFull] {
            assert_eq!(post(&entry, 4_500), expected);
        }
        // What its owner has taken counts no more.
        entry.collect(Waker::noop(), &mut Vec::new(), &mut Vec::new());
        for expected in [TAKEN, TAKEN, Posted::MailboxFull] {
            assert_eq!(post(&entry, 4_500), expected);
        }
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_at_rest_is_woken_once_for_all_its_mail_and_one_at_work_finds_it_before_it_rests() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let wakes = || woken.0.load(Ordering::Relaxed);
        let entry = Entry::online("a", None, Mailbox { messages: 10, bytes: 10_000 }, volatile());
        let post = || entry.deliver(delivery(0), Reach::Online, crate::broker::now());
        let take = || {
            let mut letters = Vec::new();
            entry.collect(&waker, &mut Vec::new(), &mut letters);
            letters.len()
        };
        entry.begin_turn();
        assert!(entry.has_mail(), "the first turn looks, and leaves its waker");
        assert_eq!(take(), 0);
        post();
        assert_eq!(wakes(), 0, "it is at work");
        assert!(!entry.end_turn(), "and must not rest now");
        entry.begin_turn();
        assert_eq!(take(), 1);
        assert!(entry.end_turn());
        post();
        post();
        assert_eq!(wakes(), 1);
        entry.begin_turn();
        assert_eq!(take(), 2);
        assert!(entry.end_turn());
        post();
        assert_eq!(wakes(), 2, "each rest is ended anew");
    }
}
