//! The buffers that one turn of a connection works with. They belong to the thread that runs the turn, so that an idle
//! connection owns none.

use std::cell::RefCell;
use std::sync::Arc;

use ahash::RandomState;
use tidegate_rules::EvalScratch;
use tidegate_sink::{Feed, Settled};
use tidegate_store::Commit;

use crate::broker::wall_clock_ms;
use crate::engine::Engine;
use crate::entry::Letter;

/// Bytes taken from a socket in one read.
pub(crate) const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Bytes of capacity above which an output buffer is given back after a turn.
const KEPT_OUTPUT_BYTES: usize = 256 * 1024;

/// The buffers of a thread.
pub(crate) struct Turn {
    pub(crate) read: Box<[u8]>,
    pub(crate) work: Work,
}

/// What handling packets needs besides the bytes that were read.
#[derive(Default)]
pub(crate) struct Work {
    /// Packets to the client, in order.
    pub(crate) out: Vec<u8>,
    pub(crate) settled: Vec<Settled>,
    pub(crate) deliveries: Vec<Letter>,
    pub(crate) rules: RuleWork,
}

/// What running rules over a message needs.
#[derive(Default)]
pub(crate) struct RuleWork {
    /// In a box, because it is taken out and put back for every message.
    scratch: Option<Box<EvalScratch>>,
    /// Whose rules the scratch was made for.
    scratch_of: Option<Arc<Engine>>,
    /// Evaluations so far, to measure one of many.
    evaluations: u32,
    /// Positions of the rules that the message's topic selects.
    pub(crate) matched: Vec<usize>,
    /// Feeds that took records since the last flush.
    pub(crate) touched: Touched,
    pub(crate) topic: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<Vec<u8>>,
    /// What must be safe in the store before the messages so far may be acknowledged.
    pub(crate) commit: Commit,
    /// When the messages of this turn came, once one of them was asked.
    timestamp_ms: Option<i64>,
    ids: MessageIds,
}

/// Message ids without a shared counter: the time, a random number of this thread, and a count.
struct MessageIds {
    thread: u32,
    next: u64,
}

impl Default for MessageIds {
    fn default() -> Self {
        Self { thread: RandomState::new().hash_one(()) as u32, next: 0 }
    }
}

/// One evaluation of so many is measured: reading the clock twice takes longer than some rules.
const MEASURED_ONE_IN: u32 = 64;

impl RuleWork {
    /// Forgets what belonged to the turn of another connection.
    pub(crate) fn begin_turn(&mut self) {
        self.commit = Commit::NONE;
        self.timestamp_ms = None;
    }

    /// When the messages of this turn came, in milliseconds since the Unix epoch: they came in one read, or nearly so.
    pub(crate) fn timestamp_ms(&mut self) -> i64 {
        *self.timestamp_ms.get_or_insert_with(wall_clock_ms)
    }

    /// The memory for evaluations of a broker's rules, to be given back with [`RuleWork::put_scratch`].
    pub(crate) fn take_scratch(&mut self, engine: &Arc<Engine>) -> Box<EvalScratch> {
        if !self.scratch_of.as_ref().is_some_and(|of| Arc::ptr_eq(of, engine)) {
            self.scratch_of = Some(Arc::clone(engine));
            self.scratch = None;
        }
        self.scratch.take().unwrap_or_else(|| Box::new(engine.scratch()))
    }

    pub(crate) fn put_scratch(&mut self, scratch: Box<EvalScratch>) {
        self.scratch = Some(scratch);
    }

    /// Whether this evaluation is one to measure.
    pub(crate) fn is_measured(&mut self) -> bool {
        self.evaluations = self.evaluations.wrapping_add(1);
        self.evaluations.is_multiple_of(MEASURED_ONE_IN)
    }

    /// A new id, unique for this process and, but for 32 random bits, among all: 48 bits of milliseconds, 32 of the
    /// thread, 48 of a count.
    pub(crate) fn message_id(&mut self) -> u128 {
        self.ids.next = (self.ids.next + 1) & 0xffff_ffff_ffff;
        let milliseconds = u128::from(self.timestamp_ms().cast_unsigned()) & 0xffff_ffff_ffff;
        milliseconds << 80 | u128::from(self.ids.thread) << 48 | u128::from(self.ids.next)
    }
}

/// Feeds that wait to be flushed, each once.
#[derive(Default)]
pub(crate) struct Touched(Vec<Arc<dyn Feed>>);

impl Touched {
    pub(crate) fn add(&mut self, feed: &Arc<dyn Feed>) {
        if !self.0.iter().any(|known| Arc::ptr_eq(known, feed)) {
            self.0.push(Arc::clone(feed));
        }
    }

    /// Hands over what was offered since the last time, once for each feed.
    pub(crate) fn flush(&mut self) {
        // Every turn comes here, most of them with nothing.
        if self.0.is_empty() {
            return;
        }
        for feed in self.0.drain(..) {
            feed.flush();
        }
    }
}

thread_local! {
    static TURN: RefCell<Turn> = RefCell::new(Turn {
        read: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
        work: Work::default(),
    });
}

/// Runs `f` with the buffers of this thread. Must not be nested.
pub(crate) fn with<R>(f: impl FnOnce(&mut Turn) -> R) -> R {
    TURN.with_borrow_mut(|turn| {
        let result = f(turn);
        if turn.work.out.capacity() > KEPT_OUTPUT_BYTES {
            turn.work.out = Vec::new();
        }
        result
    })
}
