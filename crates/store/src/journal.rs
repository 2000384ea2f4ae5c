//! The store that keeps: connections append, one thread writes batches and tells who waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use tidegate_session::{Change, DeliveryNumber, Message};

use crate::clock::{Clock, SystemClock};
use crate::disk::{Directory, Disk, Untaken};
use crate::log::{Entry, Log};
use crate::options::{OpenError, Options};
use crate::recovery::{self, Recovered};
use crate::{Commit, Failed, SessionKey, Status, Store, Together, Waiting};

/// How long a full disk is left alone before the next try.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(250);

/// Entries for which the queue keeps its memory between batches.
const SPARE_ENTRIES: usize = 16 * 1024;

/// A store in a directory.
///
/// It has one thread of its own, because a sync blocks. Dropping it writes what was appended, and waits for that;
/// [`close`](Self::close) tells as well whether it worked.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// What the connections and the writer share.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Taken to write by the writer when it ends a batch, so that who holds it to read has all in one. Before `queue`.
    batch: RwLock<()>,
    /// Signalled when the queue is no longer empty, and when the store closes.
    work: Condvar,
    committed: AtomicU64,
    /// Whether the queue holds as much as it may. Written with the queue locked; every read of a socket looks here, and
    /// none of them takes the lock for it.
    is_full: AtomicBool,
    has_failed: AtomicBool,
    sessions: AtomicU64,
    postings: AtomicU64,
    linger: Duration,
    max_pending_bytes: usize,
    status: Mutex<Status>,
}

#[derive(Debug)]
struct Queue {
    /// The batch that gathers.
    entries: Vec<Entry>,
    /// Its commit.
    open: u64,
    /// What it takes in memory, and what the batch takes that is being written.
    open_bytes: usize,
    writing_bytes: usize,
    /// Who waits for the one, and for the other.
    open_waiters: Vec<Waker>,
    writing_waiters: Vec<Waker>,
    room_waiters: Vec<Waker>,
    /// Counts how often there was room again.
    rooms: u64,
    is_closing: bool,
}

impl Queue {
    /// What both batches take in memory, the one that gathers and the one that is being written.
    fn pending_bytes(&self) -> usize {
        self.open_bytes + self.writing_bytes
    }
}

impl Journal {
    /// Opens the store in [`Options::directory`], which is made if it is not there, and returns what it held.
    ///
    /// It reads all there is: allow for a second for each gigabyte, and for the memory of it.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed if the directory is in use, newer, or damaged.
    pub fn open(options: Options) -> Result<(Self, Recovered), OpenError> {
        let directory = Directory::take(&options.directory).map_err(|untaken| match untaken {
            Untaken::InUse => OpenError::InUse { directory: options.directory.clone() },
            Untaken::Io(error) => {
                OpenError::Io { what: format!("{} can't be opened", options.directory.display()), error }
            }
        })?;
        Self::open_on(directory, SystemClock, options)
    }

    /// As [`open`](Self::open) on another file layer, and with other clocks. [`Options::directory`] is without effect.
    ///
    /// # Errors
    /// [`OpenError`], other than [`OpenError::InUse`].
    pub fn open_on(
        disk: impl Disk,
        clock: impl Clock,
        options: Options,
    ) -> Result<(Self, Recovered), OpenError> {
        let linger = options.linger;
        let max_pending_bytes = options.max_pending_bytes;
        let (log, recovered) = recovery::open(Box::new(disk), Box::new(clock), options)?;
        let (next_session, next_posting) = log.mirror().next_numbers();
        let queue = Queue {
            entries: Vec::new(),
            open: log.last_frame() + 1,
            open_bytes: 0,
            writing_bytes: 0,
            open_waiters: Vec::new(),
            writing_waiters: Vec::new(),
            room_waiters: Vec::new(),
            rooms: 0,
            is_closing: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            batch: RwLock::new(()),
            work: Condvar::new(),
            committed: AtomicU64::new(log.last_frame()),
            is_full: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            sessions: AtomicU64::new(next_session),
            postings: AtomicU64::new(next_posting),
            linger,
            max_pending_bytes,
            status: Mutex::new(log.status.clone()),
        });
        let writer = Writer { shared: Arc::clone(&shared), log };
        let writer = std::thread::Builder::new().name("tidegate-store".into()).spawn(|| writer.run());
        let writer = writer.map_err(OpenError::io("no thread can be started"))?;
        Ok((Self { shared, writer: Some(writer) }, recovered))
    }

    /// Writes what was appended, and ends.
    ///
    /// # Errors
    /// Not all of it could be written.
    pub fn close(mut self) -> Result<(), Failed> {
        self.stop();
        if self.shared.has_failed.load(Ordering::Acquire) { Err(Failed) } else { Ok(()) }
    }

    fn stop(&mut self) {
        self.shared.queue.lock().is_closing = true;
        self.shared.work.notify_all();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer is known as a failure by now.
            let _ = writer.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Store for Journal {
    fn new_session(&self) -> SessionKey {
        SessionKey(self.shared.sessions.fetch_add(1, Ordering::Relaxed))
    }

    fn next_posting(&self) -> DeliveryNumber {
        DeliveryNumber::posted(self.shared.postings.fetch_add(1, Ordering::Relaxed))
    }

    fn append(&self, session: SessionKey, changes: &mut Vec<Change>) -> Commit {
        if changes.is_empty() {
            return Commit::NONE;
        }
        self.shared.append(changes.drain(..).map(|change| Entry::Change(session, change)))
    }

    fn together(&self) -> Together<'_> {
        Together::held(self.shared.batch.read())
    }

    fn retain(&self, message: &Arc<Message>) -> Commit {
        self.shared.append([Entry::Retain(Arc::clone(message))])
    }

    fn committed(&self) -> Commit {
        Commit(self.shared.committed.load(Ordering::Acquire))
    }

    fn poll_committed(
        &self,
        commit: Commit,
        waiting: &mut Waiting,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let shared = &*self.shared;
        let is_committed = || shared.committed.load(Ordering::Acquire) >= commit.0;
        if is_committed() {
            return Poll::Ready(Ok(()));
        }
        let mut queue = shared.queue.lock();
        // Both are set with the lock held, so a waker left here is seen.
        if is_committed() {
            return Poll::Ready(Ok(()));
        }
        if shared.has_failed.load(Ordering::Acquire) {
            return Poll::Ready(Err(Failed));
        }
        if let Some(waker) = waiting.register(commit.0, cx) {
            let waiters =
                if commit.0 < queue.open { &mut queue.writing_waiters } else { &mut queue.open_waiters };
            waiters.push(waker);
        }
        Poll::Pending
    }

    fn poll_room(&self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.shared;
        let has_room =
            || !shared.is_full.load(Ordering::Acquire) || shared.has_failed.load(Ordering::Acquire);
        if has_room() {
            return Poll::Ready(());
        }
        let mut queue = shared.queue.lock();
        // Both are set with the lock held, so a waker left here is seen.
        if has_room() {
            return Poll::Ready(());
        }
        if let Some(waker) = waiting.register(queue.rooms, cx) {
            queue.room_waiters.push(waker);
        }
        Poll::Pending
    }

    fn status(&self) -> Status {
        let pending_bytes = self.shared.queue.lock().pending_bytes();
        Status { pending_bytes, ..self.shared.status.lock().clone() }
    }
}

impl Shared {
    fn append(&self, entries: impl IntoIterator<Item = Entry>) -> Commit {
        let mut queue = self.queue.lock();
        let commit = Commit(queue.open);
        // What would never be written takes no memory; the commit never comes.
        if self.has_failed.load(Ordering::Acquire) {
            entries.into_iter().for_each(drop);
            return commit;
        }
        let was_empty = queue.entries.is_empty();
        for entry in entries {
            queue.open_bytes += memory_of(&entry);
            queue.entries.push(entry);
        }
        self.note_room(&queue);
        drop(queue);
        if was_empty {
            self.work.notify_one();
        }
        commit
    }

    /// Says whether there is room for more. The caller holds the lock.
    fn note_room(&self, queue: &Queue) {
        self.is_full.store(queue.pending_bytes() >= self.max_pending_bytes, Ordering::Release);
    }

    /// Waits for entries and takes them, in `entries`; `false` if there will be none any more.
    fn take(&self, entries: &mut Vec<Entry>) -> bool {
        let mut queue = self.queue.lock();
        while queue.entries.is_empty() {
            if queue.is_closing {
                return false;
            }
            self.work.wait(&mut queue);
        }
        if !self.linger.is_zero() {
            let until = Instant::now() + self.linger;
            while !queue.is_closing && queue.open_bytes < self.max_pending_bytes {
                // Appending signals only when the queue was empty, so this is one wait.
                if self.work.wait_until(&mut queue, until).timed_out() {
                    break;
                }
            }
        }
        drop(queue);
        let _ended = self.batch.write();
        let mut queue = self.queue.lock();
        std::mem::swap(&mut queue.entries, entries);
        queue.open += 1;
        queue.writing_bytes = std::mem::take(&mut queue.open_bytes);
        queue.writing_waiters = std::mem::take(&mut queue.open_waiters);
        true
    }

    fn committed(&self, status: &Status) {
        self.status.lock().clone_from(status);
        let (waiters, room_waiters) = {
            let mut queue = self.queue.lock();
            self.committed.store(queue.open - 1, Ordering::Release);
            queue.writing_bytes = 0;
            queue.rooms += 1;
            self.note_room(&queue);
            (std::mem::take(&mut queue.writing_waiters), std::mem::take(&mut queue.room_waiters))
        };
        waiters.into_iter().chain(room_waiters).for_each(Waker::wake);
    }

    fn fail(&self, why: String) {
        self.status.lock().failure = Some(why);
        let waiters = {
            let mut queue = self.queue.lock();
            self.has_failed.store(true, Ordering::Release);
            queue.entries = Vec::new();
            queue.open_bytes = 0;
            queue.writing_bytes = 0;
            [
                std::mem::take(&mut queue.writing_waiters),
                std::mem::take(&mut queue.open_waiters),
                std::mem::take(&mut queue.room_waiters),
            ]
        };
        waiters.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits a while for room on the disk; `false` if the store closes.
    fn pause(&self, error: &io::Error) -> bool {
        self.status.lock().failure = Some(format!("the disk is full: {error}"));
        let mut queue = self.queue.lock();
        let until = Instant::now() + FULL_DISK_PAUSE;
        while !queue.is_closing && !self.work.wait_until(&mut queue, until).timed_out() {}
        !queue.is_closing
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    log: Log,
}

impl Writer {
    fn run(mut self) {
        let _told = Panicked(Arc::clone(&self.shared));
        let mut entries = Vec::new();
        while self.shared.take(&mut entries) {
            if let Err(error) = self.write(&mut entries) {
                return self.shared.fail(error.to_string());
            }
            entries.shrink_to(SPARE_ENTRIES);
            self.shared.committed(&self.log.status);
        }
        // The time at which the process ended, so that a clock which is set later is not taken for time that passed.
        // Nobody waits for it.
        let _ = self.write(&mut entries);
    }

    fn write(&mut self, entries: &mut Vec<Entry>) -> io::Result<()> {
        self.unless_full(Log::roll, |_| Ok(()))?;
        self.log.prepare(entries.drain(..));
        self.unless_full(Log::write, Log::take_back)?;
        self.log.commit()
    }

    /// Tries until there is room on the disk. Whatever else goes wrong is final: after it nobody knows what the file
    /// holds.
    fn unless_full(
        &mut self,
        attempt: impl Fn(&mut Log) -> io::Result<()>,
        take_back: impl Fn(&mut Log) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let error = match attempt(&mut self.log) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return Err(error);
            }
            take_back(&mut self.log)?;
            if !self.shared.pause(&error) {
                return Err(error);
            }
        }
    }
}

/// Says so if the writer panics: those who wait must not wait for ever.
struct Panicked(Arc<Shared>);

impl Drop for Panicked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer panicked".into());
        }
    }
}

/// What an entry takes in memory until it is written, about; of a message that others share, a share.
fn memory_of(entry: &Entry) -> usize {
    let share = |message: &Arc<Message>| message.size() / Arc::strong_count(message);
    let beside = match entry {
        Entry::Started => 0,
        Entry::Retain(message) => share(message),
        Entry::Change(_, change) => match change {
            Change::Posted { delivery, .. }
            | Change::Queued { delivery, .. }
            | Change::Sent { delivery, .. } => share(&delivery.message),
            Change::Began { client_id: text }
            | Change::Subscribed { filter: text, .. }
            | Change::Unsubscribed { filter: text } => text.len(),
            Change::Connected { will: Some(will), .. } | Change::Disconnected { will: Some(will), .. } => {
                will.message().size()
            }
            _ => 0,
        },
    };
    size_of::<Entry>() + beside
}
