//! A compiled rule and what it makes of an event.

use std::ops::Deref;

use crate::compile;
use crate::diagnostic::{CompileError, Diagnostic};
use crate::error::EvalError;
use crate::eval::{self, Evaluator, Made};
use crate::event::EventKind;
use crate::program::Program;
use crate::row::Row;
use crate::state::RuleState;

/// A rule, compiled once and shared by every thread that evaluates it.
#[derive(Debug)]
pub struct Rule {
    id: Box<str>,
    sql: Box<str>,
    filters: Vec<String>,
    kinds: Vec<EventKind>,
    program: Program,
    fingerprint: u64,
    warnings: Vec<Diagnostic>,
}

impl Rule {
    /// Compiles a statement. The id is whatever the rule is known by; it is not part of the text.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the text, as far as it can be read.
    pub fn compile(id: &str, sql: &str) -> Result<Self, CompileError> {
        let compiled = compile::compile(sql).map_err(|diagnostics| CompileError::new(diagnostics, sql))?;
        Ok(Self {
            id: id.into(),
            sql: sql.into(),
            filters: compiled.filters,
            kinds: compiled.kinds,
            program: compiled.program,
            fingerprint: fnv1a(sql.as_bytes()),
            warnings: compiled.warnings,
        })
    }

    /// What the rule is known by.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The text that was compiled.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The filters of FROM, of topics and of events, as they were written.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().map(String::as_str)
    }

    /// The columns that every row has, or `None` where the rule selects `*` and a row has all of the event's.
    pub fn columns(&self) -> Option<impl Iterator<Item = &str>> {
        (!self.program.star).then(|| self.program.visible().iter().map(|name| &**name))
    }

    /// What can be compiled but is probably not meant, as a column that no message has.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// What FROM listens to: messages where one of its filters is a filter of topics, and each event that another
    /// one names.
    pub fn kinds(&self) -> &[EventKind] {
        &self.kinds
    }

    /// What the rule makes of an event. Whether FROM asks for the event is not asked again: that is
    /// [`RuleSet::for_each_reader`](crate::RuleSet::for_each_reader)'s part.
    ///
    /// # Errors
    ///
    /// What failed, and where in the rule; nothing has been made then.
    pub fn evaluate<'r, 'e: 'r>(&'r self, on: &mut Evaluator<'_, 'e>) -> Result<Outcome<'r>, EvalError> {
        eval::run(&self.program, on).map(Outcome::of)
    }

    /// Whether the rule remembers earlier messages, so that it needs [`Rule::evaluate_with`]: it has a window, DEDUP,
    /// SAMPLE, lag() or changed().
    pub fn is_stateful(&self) -> bool {
        self.program.is_stateful()
    }

    /// Whether the rule gathers messages in windows: then what it makes of an event is no row, and rows come from
    /// [`RuleState::poll_closed`].
    pub fn has_window(&self) -> bool {
        self.program.window.is_some()
    }

    /// What the rule makes of an event, and of what it remembers. The event's time counts, not a clock's. A rule that
    /// remembers nothing is evaluated as by [`Rule::evaluate`].
    ///
    /// # Errors
    ///
    /// What failed, and where in the rule. A message that failed is in no window; lag() and changed() may have seen
    /// it.
    pub fn evaluate_with<'r, 'e: 'r>(
        &'r self,
        state: &mut RuleState,
        on: &mut Evaluator<'_, 'e>,
    ) -> Result<Outcome<'r>, EvalError> {
        state.evaluate(self, on).map(Outcome::of)
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// Tells the text of this rule from that of another one.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// The 64-bit hash of Fowler, Noll and Vo: the same in every version and on every machine.
fn fnv1a(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// What a rule made of one event.
#[derive(Debug)]
pub enum Outcome<'r> {
    /// Nothing, because WHERE was false, or DEDUP or SAMPLE held it back.
    Filtered,
    /// The rows; none where FOREACH found no element, or where a window took the event.
    Rows(Rows<'r>),
}

impl<'r> Outcome<'r> {
    pub(crate) fn of(made: Made<'r>) -> Self {
        if let Made::Filtered = made { Self::Filtered } else { Self::Rows(Rows(made)) }
    }

    /// The rows; none where the event was filtered.
    pub fn rows(&self) -> &[Row<'r>] {
        match self {
            Self::Filtered => &[],
            Self::Rows(rows) => rows,
        }
    }
}

/// The rows of one event, in the order of the rule. A single one, which is the usual case, needs no list.
#[derive(Debug)]
pub struct Rows<'r>(Made<'r>);

impl<'r> Deref for Rows<'r> {
    type Target = [Row<'r>];

    fn deref(&self) -> &[Row<'r>] {
        match &self.0 {
            Made::Filtered => &[],
            Made::One(row) => std::slice::from_ref(row),
            Made::Many(rows) => rows,
        }
    }
}

/// Every function that a rule can call, with its name and how it is called, in alphabetical order: for completion in
/// an editor, and for the manual.
pub fn functions() -> impl Iterator<Item = (&'static str, &'static str)> {
    crate::functions::all().map(|function| (function.name, function.usage))
}
