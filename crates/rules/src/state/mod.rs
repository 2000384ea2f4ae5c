//! What a rule remembers of earlier messages: last values, keys it has seen, and windows that are open.
//!
//! A [`Rule`] stays immutable and shared. Whoever evaluates a rule that remembers owns one [`RuleState`] for it, tells
//! the time, and asks when a window may close. There is no clock here and nothing waits.

mod accumulator;
mod keyed;
mod snapshot;
mod windows;

use std::fmt;

use accumulator::Accumulator;
use keyed::Keyed;
pub use snapshot::StateError;
use windows::{Group, Windows};

use crate::error::{EvalError, EvalErrorKind};
use crate::eval::{Closing, EvalScratch, Evaluator, Machine, Made};
use crate::event::{Details, Event, EventKind};
use crate::operators;
use crate::program::{Dedup, ExprId, Grouping, Program, Sample};
use crate::row::Row;
use crate::rule::Rule;
use crate::syntax::ast::SampleRate;
use crate::value::Value;

/// What the state of one rule may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimits {
    /// Keys: of open windows, and as many again that lag(), changed(), DEDUP and SAMPLE remember. A window refuses
    /// further keys; the others forget those that have not been seen for longest.
    pub keys: usize,
    /// Bytes for each of the two, counted as they are in memory.
    pub bytes: usize,
}

impl StateLimits {
    /// A hundred thousand keys.
    pub const DEFAULT_KEYS: usize = 100_000;
    /// 64 MiB.
    pub const DEFAULT_BYTES: usize = 64 * 1024 * 1024;
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { keys: Self::DEFAULT_KEYS, bytes: Self::DEFAULT_BYTES }
    }
}

/// What one rule remembers. It belongs to whoever evaluates the rule, and to one thread at a time.
///
/// ```
/// use tidegate_rules::{EvalScratch, Event, Rule, RuleState, StateLimits};
///
/// let sql = r#"SELECT clientid, count(*) AS n FROM "t" GROUP BY clientid, TUMBLING(10 s)"#;
/// let rule = Rule::compile("rate", sql)?;
/// let mut state = RuleState::new(&rule, StateLimits::default());
/// let mut scratch = EvalScratch::default();
/// for second in 0..3 {
///     let mut event = Event::publish("t", "sensor-7", b"");
///     event.timestamp_ms = second * 1000;
///     rule.evaluate_with(&mut state, &mut scratch.start(&event))?;
/// }
/// assert_eq!(state.next_deadline_ms(), Some(10_000));
/// let closed = state.poll_closed(&rule, 10_000, &mut scratch).expect("the window is over")?;
/// let mut json = Vec::new();
/// closed.row(&rule).write_json(&mut json);
/// assert_eq!(json, br#"{"clientid":"sensor-7","n":3}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RuleState {
    /// Of the rule that it belongs to.
    fingerprint: u64,
    limits: StateLimits,
    /// Of lag(), changed(), DEDUP and SAMPLE.
    seen: Keyed,
    windows: Windows,
    /// A key while it is looked up.
    key: Vec<u8>,
}

/// A row that a window made when it closed.
pub struct ClosedRow {
    event: Event<'static>,
    values: Vec<Value<'static>>,
}

impl ClosedRow {
    /// The row, over an event of kind [`EventKind::WindowClosed`] whose time is the window's end. The rule is the one
    /// that the state belongs to.
    pub fn row<'r>(&'r self, rule: &'r Rule) -> Row<'r> {
        Row::new(&self.event, rule.program(), self.values.iter().map(Value::borrowed).collect())
    }

    /// When the window ended, in milliseconds since 1970.
    pub fn end_ms(&self) -> i64 {
        self.event.timestamp_ms
    }
}

impl fmt::Debug for ClosedRow {
    /// Without what devices wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosedRow").field("end_ms", &self.end_ms()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RuleState {
    /// How much it holds, and nothing of what devices wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleState")
            .field("limits", &self.limits)
            .field("remembered", &self.seen.len())
            .field("groups", &self.windows.len())
            .finish_non_exhaustive()
    }
}

/// What tells the keys of one purpose from another's.
mod purpose {
    pub(super) const DEDUP: u16 = u16::MAX;
    pub(super) const SAMPLE: u16 = u16::MAX - 1;
}

impl RuleState {
    /// An empty state for a rule.
    pub fn new(rule: &Rule, limits: StateLimits) -> Self {
        Self {
            fingerprint: rule.fingerprint(),
            limits,
            seen: Keyed::new(limits),
            windows: Windows::default(),
            key: Vec::new(),
        }
    }

    /// When [`RuleState::poll_closed`] will next have something to do, in milliseconds since 1970; `None` while no
    /// window is open. It may come up early, never late.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.windows.next_deadline_ms()
    }

    /// The next row of a window that ended by `now_ms`, in the order of their ends, or `None` when there is none.
    /// Call it until then. A group that HAVING refuses gives no row.
    ///
    /// # Errors
    ///
    /// The expression of SELECT or HAVING that failed; the group is gone then, and the next call goes on.
    pub fn poll_closed(
        &mut self,
        rule: &Rule,
        now_ms: i64,
        scratch: &mut EvalScratch,
    ) -> Option<Result<ClosedRow, EvalError>> {
        let program = rule.program();
        let grouping = program.window.as_ref().filter(|_| self.belongs_to(rule))?;
        while let Some((key, group)) = self.windows.pop(now_ms) {
            if let Some(closed) = close(program, grouping, &key, group, scratch).transpose() {
                return Some(closed);
            }
        }
        None
    }

    pub(crate) fn evaluate<'r, 'e: 'r>(
        &mut self,
        rule: &'r Rule,
        on: &mut Evaluator<'_, 'e>,
    ) -> Result<Made<'r>, EvalError> {
        let program = rule.program();
        if !self.belongs_to(rule) {
            return Err(EvalError { kind: EvalErrorKind::NeedsState, span: crate::Span::default() });
        }
        let now_ms = on.event().timestamp_ms;
        let mut machine = Machine::new(program, on);
        self.look_back(&mut machine)?;
        if !machine.is_selected()? {
            return Ok(Made::Filtered);
        }
        if let Some(dedup) = &program.dedup
            && self.is_duplicate(dedup, now_ms, &mut machine)?
        {
            return Ok(Made::Filtered);
        }
        if let Some(sample) = &program.sample
            && !self.is_sampled(sample, now_ms, &mut machine)?
        {
            return Ok(Made::Filtered);
        }
        match &program.window {
            None => machine.rows(),
            Some(grouping) => {
                self.group(grouping, now_ms, &mut machine)?;
                Ok(Made::Many(Vec::new()))
            }
        }
    }

    fn belongs_to(&self, rule: &Rule) -> bool {
        self.fingerprint == rule.fingerprint()
    }

    /// Gives lag() and changed() the last value of their key, and remembers this one in its place. A missing value
    /// is no change, and is not remembered.
    fn look_back<'r, 'e: 'r>(&mut self, machine: &mut Machine<'_, '_, 'e, 'r>) -> Result<(), EvalError> {
        for (number, history) in machine.program.history.iter().enumerate() {
            let value = machine.eval(history.value)?;
            let at = u16::try_from(number).unwrap_or_default();
            self.set_key(at, &history.keys, machine)?;
            let here = |kind| EvalError { kind, span: machine.program.span(history.value) };
            machine.meter.make(&value).map_err(here)?;
            let before = self.seen.get(&self.key).cloned().unwrap_or_default();
            let changed = !value.is_undefined() && !operators::same(&before, &value);
            if changed {
                self.seen.put(&self.key, value.into_owned()).map_err(here)?;
            } else {
                self.seen.touch(&self.key);
            }
            machine.history.push((before, changed));
        }
        Ok(())
    }

    fn is_duplicate<'r, 'e: 'r>(
        &mut self,
        dedup: &Dedup,
        now_ms: i64,
        machine: &mut Machine<'_, '_, 'e, 'r>,
    ) -> Result<bool, EvalError> {
        self.set_key(purpose::DEDUP, &dedup.keys, machine)?;
        self.is_within(dedup.within_ms, now_ms).map_err(|kind| whole_rule(kind, &dedup.keys, machine.program))
    }

    fn is_sampled<'r, 'e: 'r>(
        &mut self,
        sample: &Sample,
        now_ms: i64,
        machine: &mut Machine<'_, '_, 'e, 'r>,
    ) -> Result<bool, EvalError> {
        self.set_key(purpose::SAMPLE, &sample.keys, machine)?;
        let sampled = match sample.rate {
            SampleRate::EveryMs(interval) => self.is_within(interval, now_ms).map(|within| !within),
            SampleRate::OneIn(count) => {
                let passed = match self.seen.get(&self.key) {
                    Some(Value::Int(passed)) => *passed,
                    _ => 0,
                };
                let next = passed.saturating_add(1) % count;
                self.seen.put(&self.key, Value::Int(next)).map(|()| passed == 0)
            }
        };
        sampled.map_err(|kind| whole_rule(kind, &sample.keys, machine.program))
    }

    /// Whether the key was let through less than so long ago. If not, it is now.
    fn is_within(&mut self, duration_ms: i64, now_ms: i64) -> Result<bool, EvalErrorKind> {
        if let Some(Value::Int(then)) = self.seen.get(&self.key)
            && (0..duration_ms).contains(&now_ms.saturating_sub(*then))
        {
            return Ok(true);
        }
        self.seen.put(&self.key, Value::Int(now_ms)).map(|()| false)
    }

    /// Adds the message to the windows that it falls into. All of it is evaluated before anything is changed.
    fn group<'r, 'e: 'r>(
        &mut self,
        grouping: &Grouping,
        now_ms: i64,
        machine: &mut Machine<'_, '_, 'e, 'r>,
    ) -> Result<(), EvalError> {
        let program = machine.program;
        windows::begin_key(&mut self.key);
        for key in &grouping.keys {
            write_key(*key, machine, &mut self.key)?;
        }
        let mut values = Vec::with_capacity(grouping.aggregates.len());
        for aggregate in &grouping.aggregates {
            // count(*) counts whatever is there.
            let Some(id) = aggregate.value else {
                values.push(Value::Bool(true));
                continue;
            };
            let value = machine.eval(id)?;
            let here = |kind| EvalError { kind, span: program.span(id) };
            machine.meter.make(&value).map_err(here)?;
            Accumulator::check(aggregate.kind, &value).map_err(here)?;
            values.push(value);
        }
        let added = self.windows.add(grouping, now_ms, &mut self.key, &values, self.limits);
        added.map_err(|kind| whole_rule(kind, &grouping.keys, program))
    }

    fn set_key<'r, 'e: 'r>(
        &mut self,
        purpose: u16,
        keys: &[ExprId],
        machine: &mut Machine<'_, '_, 'e, 'r>,
    ) -> Result<(), EvalError> {
        self.key.clear();
        self.key.extend_from_slice(&purpose.to_be_bytes());
        for key in keys {
            write_key(*key, machine, &mut self.key)?;
        }
        Ok(())
    }
}

fn write_key<'r, 'e: 'r>(
    key: ExprId,
    machine: &mut Machine<'_, '_, 'e, 'r>,
    out: &mut Vec<u8>,
) -> Result<(), EvalError> {
    let value = machine.eval(key)?;
    let here = |kind| EvalError { kind, span: machine.program.span(key) };
    machine.meter.make(&value).map_err(here)?;
    snapshot::write_value(&value, out);
    Ok(())
}

/// A failure that is nobody's but the clause's, at its first key.
fn whole_rule(kind: EvalErrorKind, keys: &[ExprId], program: &Program) -> EvalError {
    EvalError { kind, span: keys.first().map_or(crate::Span::default(), |key| program.span(*key)) }
}

/// The row of a group, unless HAVING refuses it.
fn close(
    program: &Program,
    grouping: &Grouping,
    key: &[u8],
    group: Group,
    scratch: &mut EvalScratch,
) -> Result<Option<ClosedRow>, EvalError> {
    let span = crate::Span::default();
    let aggregates = group.accumulators.into_iter().map(Accumulator::finish).collect::<Result<_, _>>();
    let closing = Closing {
        keys: windows::key_values(key),
        aggregates: aggregates.map_err(|kind| EvalError { kind, span })?,
        start_ms: group.start_ms,
        end_ms: group.end_ms,
    };
    let mut event = Event::of(EventKind::WindowClosed, "", Details::None);
    event.timestamp_ms = group.end_ms;
    let mut evaluator = scratch.start(&event);
    let mut machine = Machine::new(program, &mut evaluator);
    machine.closing = Some(&closing);
    if let Some(having) = grouping.having {
        // HAVING may read the outputs by their names.
        machine.make_outputs()?;
        if !machine.condition(having)? {
            return Ok(None);
        }
    }
    let values = machine.into_outputs()?.into_iter().map(Value::into_owned).collect();
    let mut event = Event::of(EventKind::WindowClosed, "", Details::None);
    event.timestamp_ms = group.end_ms;
    Ok(Some(ClosedRow { event, values }))
}
