//! A compiled rule: one flat list of expressions that refer to each other by index, every name resolved.

use crate::diagnostic::Span;
use crate::event::Column;
use crate::functions::Function;
use crate::syntax::ast::{BinaryOp, SampleRate, Window};
use crate::value::Value;

/// An expression of a [`Program`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExprId(pub(crate) u32);

/// An output column; its name stands in [`Program::slots`].
pub(crate) type Slot = usize;

#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) nodes: Vec<(Node, Span)>,
    /// The names of the columns that are computed, in the order in which they are first written. Those of FOREACH
    /// come first.
    pub(crate) slots: Vec<Box<str>>,
    /// How many of them are FOREACH's and not part of the rows, because DO says what is.
    pub(crate) hidden: usize,
    /// Whether the event's columns are part of the output.
    pub(crate) star: bool,
    /// Of FOREACH: what is computed before the elements are walked, and how they are.
    pub(crate) foreach: Option<Foreach>,
    /// Of SELECT or DO.
    pub(crate) outputs: Vec<Output>,
    pub(crate) condition: Option<ExprId>,
    /// Whether the condition reads an alias of SELECT or FOREACH, which must then be evaluated first.
    pub(crate) condition_reads_outputs: bool,
    /// What lag() and changed() compare.
    pub(crate) history: Vec<History>,
    pub(crate) dedup: Option<Dedup>,
    pub(crate) sample: Option<Sample>,
    pub(crate) window: Option<Grouping>,
}

#[derive(Debug)]
pub(crate) struct Foreach {
    /// The last one is what is walked.
    pub(crate) outputs: Vec<Output>,
    /// Where the element is while it is looked at.
    pub(crate) item: Slot,
    pub(crate) condition: Option<ExprId>,
}

/// One call of lag() or changed(): the last value is remembered for each key.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) value: ExprId,
    pub(crate) keys: Box<[ExprId]>,
}

#[derive(Debug)]
pub(crate) struct Dedup {
    pub(crate) keys: Box<[ExprId]>,
    pub(crate) within_ms: i64,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) rate: SampleRate,
    pub(crate) keys: Box<[ExprId]>,
}

/// GROUP BY with its window: keys and arguments are evaluated for a message, outputs when the window closes.
#[derive(Debug)]
pub(crate) struct Grouping {
    pub(crate) keys: Box<[ExprId]>,
    pub(crate) window: Window,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) having: Option<ExprId>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Aggregate {
    pub(crate) kind: AggregateKind,
    /// None of `count(*)`.
    pub(crate) value: Option<ExprId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregateKind {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    Collect,
}

impl AggregateKind {
    const ALL: [(&'static str, Self); 8] = [
        ("count", Self::Count),
        ("sum", Self::Sum),
        ("avg", Self::Avg),
        ("min", Self::Min),
        ("max", Self::Max),
        ("first", Self::First),
        ("last", Self::Last),
        ("collect", Self::Collect),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, kind)| kind)
    }

    /// As errors name it.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::Count => "count()",
            Self::Sum => "sum()",
            Self::Avg => "avg()",
            Self::Min => "min()",
            Self::Max => "max()",
            Self::First => "first()",
            Self::Last => "last()",
            Self::Collect => "collect()",
        }
    }
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
    In {
        needle: ExprId,
        haystack: Box<[ExprId]>,
        negated: bool,
    },
    Like {
        value: ExprId,
        pattern: ExprId,
        negated: bool,
    },
    Between {
        value: ExprId,
        low: ExprId,
        high: ExprId,
        negated: bool,
    },
    IsNull {
        value: ExprId,
        negated: bool,
    },
    Call {
        function: &'static Function,
        args: Box<[ExprId]>,
    },
    Case {
        subject: Option<ExprId>,
        branches: Box<[(ExprId, ExprId)]>,
        otherwise: Option<ExprId>,
    },
    Array(Box<[ExprId]>),
    Object(Box<[(Box<str>, ExprId)]>),
    Range(ExprId, ExprId),
    /// `map(array, body)`: the element is the local variable of that number while the body is evaluated.
    Map {
        array: ExprId,
        body: ExprId,
    },
    /// `filter(array, body)`
    Filter {
        array: ExprId,
        body: ExprId,
    },
    /// `lag(value)`
    Previous(usize),
    /// `changed(value)`
    Changed(usize),
    /// A key of GROUP BY.
    Key(usize),
    Aggregate(usize),
    WindowStart,
    WindowEnd,
}

impl Node {
    /// Whether it takes a value from outside of the expression, or makes one that is not plain from its parts.
    pub(crate) fn reads(&self) -> bool {
        matches!(
            self,
            Self::Variable(_)
                | Self::Call { .. }
                | Self::Map { .. }
                | Self::Filter { .. }
                | Self::Previous(_)
                | Self::Changed(_)
                | Self::Key(_)
                | Self::Aggregate(_)
        )
    }

    /// The expressions that it is made of, in the order of the text; of map() and filter() without the bodies, which
    /// mean nothing without an element.
    pub(crate) fn children(&self) -> Vec<ExprId> {
        match self {
            Self::Constant(_)
            | Self::Variable(_)
            | Self::Previous(_)
            | Self::Changed(_)
            | Self::Key(_)
            | Self::Aggregate(_)
            | Self::WindowStart
            | Self::WindowEnd => Vec::new(),
            Self::Negate(inner)
            | Self::Not(inner)
            | Self::IsNull { value: inner, .. }
            | Self::Map { array: inner, .. }
            | Self::Filter { array: inner, .. } => vec![*inner],
            Self::Binary(_, left, right)
            | Self::Range(left, right)
            | Self::Like { value: left, pattern: right, .. } => vec![*left, *right],
            Self::Between { value, low, high, .. } => vec![*value, *low, *high],
            Self::All(list) | Self::Any(list) | Self::Array(list) => list.to_vec(),
            Self::Call { args, .. } => args.to_vec(),
            Self::Object(members) => members.iter().map(|(_, value)| *value).collect(),
            Self::In { needle, haystack, .. } => {
                std::iter::once(needle).chain(haystack.iter()).copied().collect()
            }
            Self::Case { subject, branches, otherwise } => {
                let branches = branches.iter().flat_map(|(when, then)| [*when, *then]);
                subject.iter().copied().chain(branches).chain(*otherwise).collect()
            }
        }
    }
}

/// A name with a path into it. It is looked for among the outputs made so far, then among the event's columns.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: Box<str>,
    /// The element of the map() or filter() that is so many levels around it; nothing else is looked for then.
    pub(crate) local: Option<usize>,
    pub(crate) slot: Option<Slot>,
    /// FOREACH's column of that name, below DO's.
    pub(crate) outer: Option<Slot>,
    pub(crate) column: Option<Column>,
    pub(crate) steps: Box<[ReadStep]>,
    /// Whether it is an output by itself, so that a decimal stays as it was written.
    pub(crate) is_output: bool,
}

#[derive(Debug)]
pub(crate) enum ReadStep {
    Key(Box<str>),
    Index(i64),
    Computed(ExprId),
    Slice(i64, i64),
}

impl Program {
    /// Whether it is `SELECT *` and nothing else: then every event is a row.
    pub(crate) fn passes_events_on(&self) -> bool {
        self.star && self.outputs.is_empty() && self.foreach.is_none() && self.condition.is_none()
    }

    /// The names of the columns that a row has beside the event's.
    pub(crate) fn visible(&self) -> &[Box<str>] {
        &self.slots[self.hidden..]
    }

    pub(crate) fn position(&self, column: &str) -> Option<usize> {
        self.visible().iter().position(|name| &**name == column)
    }

    pub(crate) fn span(&self, id: ExprId) -> Span {
        self.nodes[id.0 as usize].1
    }

    /// Whether an expression is the message's whole payload.
    pub(crate) fn is_payload(&self, id: ExprId) -> bool {
        matches!(&self.nodes[id.0 as usize].0, Node::Variable(variable)
            if variable.column == Some(Column::Payload) && variable.steps.is_empty() && variable.local.is_none())
    }

    pub(crate) fn is_stateful(&self) -> bool {
        !self.history.is_empty() || self.dedup.is_some() || self.sample.is_some() || self.window.is_some()
    }
}
