//! One memory budget for a feed, and who waits for room in it.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Room that is worth waking one more waiter for: a few typical records.
const BYTES_PER_WOKEN_WAITER: usize = 8 * 1024;

/// Counts the bytes that a feed holds against a limit, and wakes those who wait for room, longest wait first.
///
/// What is held may exceed the limit by one record for each thread that offers at the same moment: a record is taken
/// while the budget is not used up, however large it is, so that none can wait for ever.
pub struct MemoryBudget {
    limit: usize,
    /// Waiters are called back below this, a little under the limit, so that room comes in useful portions.
    worth_offering: usize,
    used: AtomicUsize,
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    queue: VecDeque<Waker>,
    /// Who is in the queue, so that a task which polls again is not queued twice. The queue keeps the wakers and with
    /// them these addresses alive.
    queued: HashSet<(usize, usize)>,
}

impl MemoryBudget {
    /// A budget of `limit` bytes (at least one).
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            worth_offering: (limit - limit / 8).max(1),
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::default(),
        }
    }

    /// Takes `bytes` unless the budget is used up; says whether it did.
    pub fn try_take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::SeqCst);
        if before >= self.limit {
            // Not `give_back`: this took no one's room, and waking someone for it would let waiters chase each other.
            self.used.fetch_sub(bytes, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Takes `bytes` even where they exceed the limit, for what is already here and changes its form.
    pub fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Gives back what was taken, and wakes as many waiters as the room is worth.
    pub fn give_back(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, Ordering::SeqCst).saturating_sub(bytes);
        if self.waiting.load(Ordering::SeqCst) == 0 || used >= self.worth_offering {
            return;
        }
        // Everything that is held is given back one day, so whoever is passed over here is woken at the latest when
        // half of the budget is free.
        let worth = if used <= self.limit / 2 { usize::MAX } else { bytes / BYTES_PER_WOKEN_WAITER + 1 };
        let woken = {
            let mut waiters = self.waiters.lock();
            let count = worth.min(waiters.queue.len());
            let woken: Vec<Waker> = waiters.queue.drain(..count).collect();
            for waker in &woken {
                waiters.queued.remove(&address(waker));
            }
            self.waiting.store(waiters.queue.len(), Ordering::SeqCst);
            woken
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Ready when there is room worth offering for; queues the waker otherwise.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock();
        // The address is the clone's, which is the one that is taken out again: an original may have another, if only
        // because the compiler made its vtable twice.
        let waker = cx.waker().clone();
        if waiters.queued.insert(address(&waker)) {
            waiters.queue.push_back(waker);
        }
        self.waiting.store(waiters.queue.len(), Ordering::SeqCst);
        // Room may have come between the look and the queueing, and its giver may have seen nobody waiting. Whoever is
        // queued here then gets a wake-up too many, never one too few.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Wakes everybody who waits, for a feed that closes.
    pub fn wake_all(&self) {
        let woken = {
            let mut waiters = self.waiters.lock();
            waiters.queued.clear();
            self.waiting.store(0, Ordering::SeqCst);
            std::mem::take(&mut waiters.queue)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn has_room(&self) -> bool {
        self.used.load(Ordering::SeqCst) < self.worth_offering
    }
}

fn address(waker: &Waker) -> (usize, usize) {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit)
            .field("used", &self.used())
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    struct Named(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn waiters_are_woken_in_the_order_in_which_they_came() {
        let budget = MemoryBudget::new(1000 * 1024);
        assert!(budget.try_take(1000 * 1024));
        assert!(!budget.try_take(1));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let wakers: Vec<Waker> =
            (0..60).map(|n| Waker::from(Arc::new(Named(n, Arc::clone(&woken))))).collect();
        for waker in wakers.iter().chain(&wakers) {
            assert!(budget.poll_room(&mut Context::from_waker(waker)).is_pending());
        }
        budget.give_back(100 * 1024);
        assert_eq!(*woken.lock(), [], "too little room to be worth it");
        budget.give_back(80 * 1024);
        assert_eq!(*woken.lock(), (0..11).collect::<Vec<_>>());
        budget.give_back(820 * 1024);
        assert_eq!(*woken.lock(), (0..60).collect::<Vec<_>>(), "each once although it polled twice");
    }

    #[test]
    fn whoever_waits_again_is_woken_again() {
        let budget = MemoryBudget::new(1000);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waker = Waker::from(Arc::new(Named(0, Arc::clone(&woken))));
        for round in 1..4 {
            assert!(budget.try_take(1000));
            assert!(budget.poll_room(&mut Context::from_waker(&waker)).is_pending());
            budget.give_back(1000);
            assert_eq!(woken.lock().len(), round);
        }
        assert_eq!(budget.waiters.lock().queued.len(), 0, "nobody is left behind as queued");
    }

    #[test]
    fn a_record_larger_than_the_budget_is_taken_when_nothing_else_is_there() {
        let budget = MemoryBudget::new(10);
        assert!(budget.try_take(500));
        assert!(!budget.try_take(1));
        budget.give_back(500);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(1));
    }

    #[test]
    fn a_refused_offer_leaves_the_budget_as_it_was() {
        let budget = MemoryBudget::new(10);
        assert!(budget.try_take(10));
        assert!(!budget.try_take(7));
        assert_eq!(budget.used(), 10);
    }
}
