//! What the broker sees of a store: where sessions leave their changes, and who waits for the disk.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::RwLockReadGuard;
use tidegate_session::{Change, DeliveryNumber, Message};

/// Keeps sessions and retained messages.
///
/// The contract is one rule, kept by whoever writes to sockets: what was made in, or after, a turn whose changes have
/// the commit `n` is sent when `n` [is committed](Self::poll_committed). Then nothing was ever promised that is not
/// safe, and no other code has to think of it.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Returns a key that names no session yet. A clean start takes a new one.
    fn new_session(&self) -> SessionKey;

    /// Returns a number for a [`Change::Posted`], which no other call returned.
    fn next_posting(&self) -> DeliveryNumber;

    /// Takes all changes of a session, in their order, and leaves `changes` empty. Never waits. All of one call are
    /// kept, or none.
    ///
    /// The first one of a key is [`Change::Began`]; after [`Change::Ended`] nothing counts. What several tasks append
    /// for one session is kept in the order of the calls.
    fn append(&self, session: SessionKey, changes: &mut Vec<Change>) -> Commit;

    /// Has all that is appended while the result lives, by whomever, in one commit. For changes of several sessions that
    /// mean nothing without each other. Hold it for a moment only, and never while something is awaited.
    fn together(&self) -> Together<'_>;

    /// Takes the retained message of its topic; one with an empty payload says that there is none. Never waits.
    fn retain(&self, message: &Arc<Message>) -> Commit;

    /// Returns the last commit that is safe: it and all before it.
    fn committed(&self) -> Commit;

    /// Tells when `commit` is safe. One `waiting` serves one task that waits for one commit at a time; a later commit
    /// takes the place of an earlier one.
    ///
    /// # Errors
    /// It never will be. Close the connection without sending what waits.
    fn poll_committed(
        &self,
        commit: Commit,
        waiting: &mut Waiting,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>>;

    /// Tells when there is room for more changes. [`append`](Self::append) takes them without, so that a turn can be
    /// finished; read nothing more before there is.
    ///
    /// It is ready after a failure: whoever goes on learns of it by [`poll_committed`](Self::poll_committed).
    fn poll_room(&self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns how the store is.
    fn status(&self) -> Status;
}

/// Keeps a store from ending its batch.
#[derive(Debug)]
pub struct Together<'a>(
    #[expect(dead_code, reason = "it is held, not read")] Option<RwLockReadGuard<'a, ()>>,
);

impl<'a> Together<'a> {
    /// For a store that has no batches.
    pub fn without_batches() -> Self {
        Self(None)
    }

    pub(crate) fn held(batch: RwLockReadGuard<'a, ()>) -> Self {
        Self(Some(batch))
    }
}

/// Names a session in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub(crate) u64);

/// Names a batch of changes that is safe as a whole, or not at all. Later batches are greater.
///
/// At any time at most two batches that hold something are not safe: the one that is being written, and the one that
/// gathers meanwhile. So output that waits needs two marks and no queue of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Commit(pub(crate) u64);

impl Commit {
    /// What is safe from the beginning.
    pub const NONE: Self = Self(0);
}

/// The store can't keep anything any more: nothing that is not committed will be, until the process starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store failed, and nothing is acknowledged before a restart")]
pub struct Failed;

/// What a task waits for, so that it registers its waker once for each.
#[derive(Debug, Default)]
pub struct Waiting {
    event: u64,
    waker: Option<Waker>,
}

impl Waiting {
    /// Returns the waker to wake at `event`, unless it waits for that already.
    pub(crate) fn register(&mut self, event: u64, cx: &Context<'_>) -> Option<Waker> {
        let waker = cx.waker();
        if self.event == event && self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return None;
        }
        self.event = event;
        self.waker = Some(waker.clone());
        Some(waker.clone())
    }
}

/// How a store is. Gauges, and counters since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// What keeps the store from committing, in words for the operator. A full disk goes away by itself when there is
    /// room; everything else needs a restart.
    pub failure: Option<String>,
    /// Memory of changes that are not committed, in bytes.
    pub pending_bytes: usize,
    /// Batches written, each with one sync.
    pub batches: u64,
    /// Changes in these batches.
    pub changes: u64,
    /// Bytes written, with what was moved.
    pub written_bytes: u64,
    /// Bytes of these that were moved from the oldest segment to the newest.
    pub moved_bytes: u64,
    /// Bytes of the files.
    pub disk_bytes: u64,
    /// About as many bytes of these are needed.
    pub live_bytes: u64,
    /// Files.
    pub segments: usize,
    /// Sessions kept.
    pub sessions: usize,
    /// Messages kept, each once however many sessions wait for it.
    pub messages: usize,
    /// Retained messages kept.
    pub retained: usize,
    /// How long the last sync took, in microseconds.
    pub last_sync_us: u64,
    /// How long the longest sync took, in microseconds.
    pub longest_sync_us: u64,
}

/// Keeps nothing: everything is committed at once, and gone with the process. For a broker without a data directory.
#[derive(Debug, Default)]
pub struct Volatile {
    sessions: AtomicU64,
    postings: AtomicU64,
}

impl Store for Volatile {
    fn new_session(&self) -> SessionKey {
        SessionKey(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    fn next_posting(&self) -> DeliveryNumber {
        DeliveryNumber::posted(self.postings.fetch_add(1, Ordering::Relaxed))
    }

    fn append(&self, _: SessionKey, changes: &mut Vec<Change>) -> Commit {
        changes.clear();
        Commit::NONE
    }

    fn together(&self) -> Together<'_> {
        Together::without_batches()
    }

    fn retain(&self, _: &Arc<Message>) -> Commit {
        Commit::NONE
    }

    fn committed(&self) -> Commit {
        Commit(u64::MAX)
    }

    fn poll_committed(&self, _: Commit, _: &mut Waiting, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn poll_room(&self, _: &mut Waiting, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn status(&self) -> Status {
        Status::default()
    }
}
