//! What a rule remembers, shared by the connections that evaluate it and by the one task that closes its windows and
//! saves it.
//!
//! Where states are kept on disk, the acknowledgement of a message that a window took waits for a snapshot that holds
//! it. The other way round, no snapshot is made between the closing of a window and the moment at which its rows are
//! safe: whatever stops the process, either the window is still in the last snapshot or its rows arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_rules::{ClosedRow, EvalError, EvalScratch, Evaluator, Outcome, Rule, RuleState, StateError};
use tidegate_session::Token;
use tidegate_sink::{Ack, Outcome as Settlement, Settle, Settled, settle_all};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::broker::{Core, wall_clock_ms};
use crate::engine::{Engine, RulesError};
use crate::pipeline::{Origin, Pipeline, Ruled};
use crate::turn::RuleWork;

/// How long after its end a window is closed: messages that were received before it may be on their way through a
/// connection's turn.
const LATE_MS: i64 = 50;

/// How long a stop waits for the rows of closed windows.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between attempts to save a state after a failure.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// What one rule remembers.
pub(crate) struct Remembered {
    inner: Mutex<Inner>,
    /// Held while a snapshot is made and written.
    saving: Mutex<()>,
    has_window: bool,
    /// Whether acknowledgements wait for snapshots.
    is_kept: bool,
    /// When the keeper looks next, in milliseconds since 1970.
    planned_ms: AtomicI64,
    /// Something is to be done before that.
    earlier: Notify,
    /// Rows of closed windows that are not settled yet.
    unsettled: AtomicUsize,
    /// There are none.
    settled: Notify,
    /// Rows that were given up: the last snapshot, which still holds their windows, must not be replaced.
    lost: AtomicUsize,
}

struct Inner {
    state: RuleState,
    /// Of messages that windows took since the last snapshot. Bounded by the receive windows of sessions.
    waiting: Vec<Ack>,
    /// Since the last snapshot.
    has_changed: bool,
}

impl Remembered {
    /// What the rule remembered when it was saved last, or nothing.
    pub(crate) fn open(rule: &Rule, engine: &Engine) -> Result<Self, RulesError> {
        let limits = engine.options().state;
        let saved = match engine.files() {
            Some(files) => files.load(rule.id())?.map(|bytes| (files, bytes)),
            None => None,
        };
        let mut state = RuleState::new(rule, limits);
        if let Some((files, bytes)) = saved {
            match RuleState::import(rule, limits, &bytes) {
                Ok(saved) => state = saved,
                Err(StateError::OtherRule) => {
                    tracing::warn!(rule = rule.id(), "the rule's text has changed: it begins with nothing");
                }
                Err(StateError::Version { found }) => {
                    return Err(files.newer_format(rule.id(), found).into());
                }
                Err(error) => files.put_aside(rule.id(), &error.to_string()),
            }
        }
        Ok(Self {
            inner: Mutex::new(Inner { state, waiting: Vec::new(), has_changed: false }),
            saving: Mutex::new(()),
            has_window: rule.has_window(),
            is_kept: engine.files().is_some(),
            planned_ms: AtomicI64::new(i64::MAX),
            earlier: Notify::const_new(),
            unsettled: AtomicUsize::new(0),
            settled: Notify::const_new(),
            lost: AtomicUsize::new(0),
        })
    }

    /// What the rule makes of an event. The acknowledgement that `wait` makes is for a message that a window took.
    pub(crate) fn evaluate<'r, 'e: 'r>(
        &self,
        rule: &'r Rule,
        on: &mut Evaluator<'_, 'e>,
        wait: impl FnOnce() -> Option<Ack>,
    ) -> Result<Outcome<'r>, EvalError> {
        let mut inner = self.inner.lock();
        let outcome = rule.evaluate_with(&mut inner.state, on);
        let is_first = self.is_kept && !std::mem::replace(&mut inner.has_changed, true);
        if self.has_window && self.is_kept && matches!(outcome, Ok(Outcome::Rows(_))) {
            inner.waiting.extend(wait());
        }
        let deadline_ms = inner.state.next_deadline_ms().unwrap_or(i64::MAX);
        if is_first || deadline_ms < self.planned_ms.load(Ordering::Relaxed) {
            self.earlier.notify_one();
        }
        outcome
    }

    /// How long until a window is to be closed, if one is open.
    fn until_next_close(&self) -> Option<Duration> {
        let inner = self.inner.lock();
        let deadline_ms = inner.state.next_deadline_ms();
        self.planned_ms.store(deadline_ms.unwrap_or(i64::MAX), Ordering::Relaxed);
        let left_ms = deadline_ms?.saturating_add(LATE_MS).saturating_sub(wall_clock_ms());
        // The clock of the wall can be set: look again before long.
        Some(Duration::from_millis(left_ms.try_into().unwrap_or(0)).min(Duration::from_mins(1)))
    }

    fn next_closed(&self, rule: &Rule, scratch: &mut EvalScratch) -> Option<Result<ClosedRow, EvalError>> {
        let mut inner = self.inner.lock();
        let closed = inner.state.poll_closed(rule, wall_clock_ms() - LATE_MS, scratch)?;
        inner.has_changed = true;
        // Before anybody could make a snapshot without the window.
        self.unsettled.fetch_add(usize::from(closed.is_ok()), Ordering::AcqRel);
        Some(closed)
    }

    fn has_changed(&self) -> bool {
        self.inner.lock().has_changed
    }

    /// Waits until every row of a closed window is settled. Cancel safe.
    async fn wait_settled(&self) {
        while self.unsettled.load(Ordering::Acquire) > 0 {
            self.settled.notified().await;
        }
    }

    /// Takes note of what became of a row of a closed window.
    fn settle_row(&self, outcome: Settlement) {
        if outcome == Settlement::Lost {
            tracing::warn!("a row of a closed window was given up: the window is kept as it was saved last");
            self.lost.fetch_add(1, Ordering::AcqRel);
        }
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_one();
        }
    }

    /// Saves the state, if it has changed, and acknowledges what it holds. It does so to the end, also where whoever
    /// asked for it goes away.
    async fn save(self: &Arc<Self>, rule: &str, engine: &Arc<Engine>) {
        let saving = tokio::task::spawn_blocking({
            let (remembered, engine, rule) = (Arc::clone(self), Arc::clone(engine), rule.to_owned());
            move || remembered.save_now(&rule, &engine)
        });
        // A panic has been reported by whoever panicked; the acknowledgements it took with it count as lost.
        let _ = saving.await;
    }

    fn save_now(&self, rule: &str, engine: &Engine) {
        let Some(files) = engine.files() else { return };
        let _one_at_a_time = self.saving.lock();
        let mut bytes = Vec::new();
        let waiting = {
            let mut inner = self.inner.lock();
            let has_open_rows =
                self.unsettled.load(Ordering::Acquire) > 0 || self.lost.load(Ordering::Acquire) > 0;
            if !inner.has_changed || has_open_rows {
                return;
            }
            inner.has_changed = false;
            inner.state.export(&mut bytes);
            std::mem::take(&mut inner.waiting)
        };
        match files.save(rule, &bytes) {
            Ok(()) => settle_all(waiting, Settlement::Delivered),
            Err(error) => {
                tracing::error!(rule, %error, "what the rule remembers can't be saved: its messages wait");
                let mut inner = self.inner.lock();
                inner.has_changed = true;
                inner.waiting.extend(waiting);
            }
        }
    }
}

impl Settle for Remembered {
    fn settle(&self, settled: &[Settled]) {
        for settled in settled {
            self.settle_row(settled.outcome);
        }
    }
}

/// Closes the windows of the rule at `position` on time, and saves what it remembers, until it is stopped; then once
/// more.
pub(crate) async fn keep(
    core: Arc<Core>,
    pipeline: Arc<Pipeline>,
    position: usize,
    remembered: Arc<Remembered>,
    mut stop: watch::Receiver<bool>,
) {
    let Some(rule) = pipeline.rule(position) else { return };
    let keeper = Keeper { core: &core, pipeline: &pipeline, position, rule, remembered: &remembered };
    keeper.work(&mut stop).await;
    if remembered.is_kept {
        // Rows that are not safe by then come again after the restart, from the snapshot before.
        if tokio::time::timeout(SETTLE_TIMEOUT, remembered.wait_settled()).await.is_ok() {
            remembered.save(rule.id(), pipeline.engine()).await;
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ready as soon as the keeper is stopped, however often it was asked before: a stop that somebody has seen is no change
/// any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without its sender the keeper is stopped as well.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

/// Ready when the rows that a full destination does not take have had their time after a stop.
async fn stopped_for_long(stop: &mut watch::Receiver<bool>) {
    stopped(stop).await;
    tokio::time::sleep(SETTLE_TIMEOUT).await;
}

struct Keeper<'a> {
    core: &'a Core,
    pipeline: &'a Pipeline,
    position: usize,
    rule: &'a Rule,
    remembered: &'a Arc<Remembered>,
}

impl Keeper<'_> {
    async fn work(&self, stop: &mut watch::Receiver<bool>) {
        let (remembered, engine) = (self.remembered, self.pipeline.engine());
        let interval = engine.options().snapshot_interval;
        let mut save_at = None;
        while !*stop.borrow() {
            tokio::select! {
                () = self.close_windows() => {}
                () = stopped_for_long(stop) => return,
            }
            if remembered.is_kept && remembered.has_changed() {
                let at = *save_at.get_or_insert_with(|| Instant::now() + interval);
                if at <= Instant::now() {
                    // No window closes meanwhile: otherwise there would always be a row on its way.
                    tokio::select! {
                        () = remembered.wait_settled() => {}
                        () = stopped(stop) => return,
                    }
                    remembered.save(self.rule.id(), engine).await;
                    save_at = remembered.has_changed().then(|| Instant::now() + interval.max(SAVE_PAUSE));
                    continue;
                }
            }
            let close = remembered.until_next_close().map(|left| Instant::now() + left);
            let wake_at = [close, save_at].into_iter().flatten().min();
            tokio::select! {
                () = sleep_until(wake_at) => {}
                () = remembered.earlier.notified() => {}
                () = stopped(stop) => return,
            }
        }
    }

    /// Offers the rows of every window that is over. Waits where a destination is full.
    async fn close_windows(&self) {
        loop {
            let stalled = {
                let mut work = RuleWork::default();
                let mut scratch = work.take_scratch(self.pipeline.engine());
                let Some(closed) = self.remembered.next_closed(self.rule, &mut scratch) else { return };
                work.put_scratch(scratch);
                match closed {
                    Ok(closed) => self.offer(&closed, &mut work),
                    Err(error) => {
                        self.pipeline.count_failure(self.position, error.kind.reason());
                        None
                    }
                }
            };
            if let Some(mut stalled) = stalled {
                std::future::poll_fn(|cx| stalled.poll(cx)).await;
            }
        }
    }

    fn offer(&self, closed: &ClosedRow, work: &mut RuleWork) -> Option<Box<crate::pipeline::Stalled>> {
        let settle = Arc::clone(self.remembered) as Arc<dyn Settle>;
        let origin = Origin { settle: Some((&settle, Token::from(0))), ..Origin::unattended("") };
        let mut ruled = Ruled::new(origin.settle);
        self.pipeline.emit(self.position, &closed.row(self.rule), work, &mut ruled);
        self.core.publish_republished(&origin, &mut ruled, work);
        work.touched.flush();
        ruled.complete();
        if !ruled.waits {
            self.remembered.settle_row(Settlement::Delivered);
        }
        ruled.stalled
    }
}
