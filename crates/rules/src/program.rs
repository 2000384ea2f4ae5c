//! A compiled rule: one flat list of expressions that refer to each other by index, every name resolved.

use crate::diagnostic::Span;
use crate::event::Column;
use crate::functions::Function;
use crate::syntax::ast::BinaryOp;
use crate::value::Value;

/// An expression of a [`Program`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExprId(pub(crate) u32);

/// An output column; its name stands in [`Program::slots`].
pub(crate) type Slot = usize;

#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) nodes: Vec<(Node, Span)>,
    /// The names of the output columns, in the order in which they are first written.
    pub(crate) slots: Vec<Box<str>>,
    /// Whether the event's columns are part of the output.
    pub(crate) star: bool,
    pub(crate) outputs: Vec<Output>,
    pub(crate) condition: Option<ExprId>,
    /// Whether the condition reads an alias of SELECT, which must then be evaluated first.
    pub(crate) condition_reads_outputs: bool,
}

/// One item of SELECT.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) expr: ExprId,
    pub(crate) slot: Slot,
    /// Where in the slot; nothing for all of it.
    pub(crate) steps: Box<[WriteStep]>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum WriteStep {
    Key(Box<str>),
    Index(i64),
    Prepend,
    Append,
}

#[derive(Debug)]
pub(crate) enum Node {
    Constant(Value<'static>),
    Variable(Variable),
    Negate(ExprId),
    Not(ExprId),
    Binary(BinaryOp, ExprId, ExprId),
    All(Box<[ExprId]>),
    Any(Box<[ExprId]>),
    In { needle: ExprId, haystack: Box<[ExprId]>, negated: bool },
    Call { function: &'static Function, args: Box<[ExprId]> },
    Case { subject: Option<ExprId>, branches: Box<[(ExprId, ExprId)]>, otherwise: Option<ExprId> },
    Array(Box<[ExprId]>),
    Range(ExprId, ExprId),
}

/// A name with a path into it. It is looked for among the outputs made so far, then among the event's columns.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: Box<str>,
    pub(crate) slot: Option<Slot>,
    pub(crate) column: Option<Column>,
    pub(crate) steps: Box<[ReadStep]>,
}

#[derive(Debug)]
pub(crate) enum ReadStep {
    Key(Box<str>),
    Index(i64),
    Computed(ExprId),
    Slice(i64, i64),
}

impl Program {
    pub(crate) fn slot_named(&self, name: &str) -> Option<Slot> {
        self.slots.iter().position(|slot| &**slot == name)
    }
}
