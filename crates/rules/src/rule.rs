//! A compiled rule and what it makes of an event.

use std::ops::Deref;

use crate::compile;
use crate::diagnostic::{CompileError, Diagnostic};
use crate::error::EvalError;
use crate::eval::{self, Evaluator};
use crate::program::Program;
use crate::row::Row;

/// A rule, compiled once and shared by every thread that evaluates it.
#[derive(Debug)]
pub struct Rule {
    id: Box<str>,
    sql: Box<str>,
    filters: Vec<String>,
    program: Program,
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
            program: compiled.program,
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

    /// The topic filters of FROM.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().map(String::as_str)
    }

    /// The columns that every row has, or `None` where the rule selects `*` and a row has all of the event's.
    pub fn columns(&self) -> Option<impl Iterator<Item = &str>> {
        (!self.program.star).then(|| self.program.slots.iter().map(|name| &**name))
    }

    /// What can be compiled but is probably not meant, as a column that no message has.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// What the rule makes of a message. Whether the message's topic matches FROM is not asked again: that is
    /// [`RuleSet::for_each_match`](crate::RuleSet::for_each_match)'s part.
    ///
    /// # Errors
    ///
    /// What failed, and where in the rule; nothing has been made then.
    pub fn evaluate<'r, 'e: 'r>(&'r self, on: &mut Evaluator<'_, 'e>) -> Result<Outcome<'r>, EvalError> {
        let row = eval::run(&self.program, on)?;
        Ok(row.map_or(Outcome::Filtered, |row| Outcome::Rows(Rows(Made::One(row)))))
    }
}

/// What a rule made of one message.
#[derive(Debug)]
pub enum Outcome<'r> {
    /// Nothing, because WHERE was false.
    Filtered,
    /// The rows.
    Rows(Rows<'r>),
}

impl<'r> Outcome<'r> {
    /// The rows; none where the message was filtered.
    pub fn rows(&self) -> &[Row<'r>] {
        match self {
            Self::Filtered => &[],
            Self::Rows(rows) => rows,
        }
    }
}

/// The rows of one message, in the order of the rule.
#[derive(Debug)]
pub struct Rows<'r>(Made<'r>);

/// A single row, which is the usual case, needs no list.
#[derive(Debug)]
enum Made<'r> {
    One(Row<'r>),
}

impl<'r> Deref for Rows<'r> {
    type Target = [Row<'r>];

    fn deref(&self) -> &[Row<'r>] {
        match &self.0 {
            Made::One(row) => std::slice::from_ref(row),
        }
    }
}
