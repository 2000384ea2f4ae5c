//! The statement as it was written. Names are not resolved here; see `compile`.

use crate::diagnostic::Span;

/// `SELECT items FROM sources WHERE condition`, or `FOREACH lists DO items INCASE element FROM ...`, and what follows.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) foreach: Option<Foreach>,
    /// Of SELECT or DO; none where FOREACH has no DO.
    pub(crate) items: Vec<Item>,
    pub(crate) sources: Vec<Source>,
    pub(crate) condition: Option<Expr>,
    pub(crate) dedup: Option<Dedup>,
    pub(crate) sample: Option<Sample>,
    pub(crate) group: Option<Group>,
}

/// `FOREACH items INCASE condition`: the last item is what is walked.
#[derive(Clone, Debug)]
pub(crate) struct Foreach {
    pub(crate) items: Vec<Item>,
    pub(crate) condition: Option<Expr>,
    pub(crate) span: Span,
}

/// One topic filter of FROM.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) filter: String,
    pub(crate) span: Span,
}

/// One output of SELECT.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Star(Span),
    Expr { expr: Expr, alias: Option<Path> },
}

/// `DEDUP BY keys WITHIN duration`
#[derive(Clone, Debug)]
pub(crate) struct Dedup {
    pub(crate) keys: Vec<Expr>,
    pub(crate) within_ms: i64,
}

/// `SAMPLE 1 IN count BY keys` or `SAMPLE EVERY duration BY keys`
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) rate: SampleRate,
    pub(crate) keys: Vec<Expr>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum SampleRate {
    OneIn(i64),
    EveryMs(i64),
}

/// `GROUP BY keys, window HAVING condition`
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) keys: Vec<Expr>,
    pub(crate) window: Window,
    pub(crate) having: Option<Expr>,
}

/// When a group's window begins and ends; all times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Tumbling { size: i64 },
    Hopping { size: i64, hop: i64 },
    Session { gap: i64, longest: i64 },
}

#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) kind: ExprKind,
    pub(crate) span: Span,
    /// Levels of nesting below and including this one: what evaluation will need of the stack.
    pub(crate) depth: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum ExprKind {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, as written.
    BigInt(String),
    Float(f64),
    Str(String),
    Path(Path),
    Negate(Box<Expr>),
    Not(Box<Expr>),
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a AND b AND c` is one node, so that a long chain is not deep.
    All(Vec<Expr>),
    Any(Vec<Expr>),
    In {
        needle: Box<Expr>,
        haystack: Vec<Expr>,
        negated: bool,
    },
    Like {
        value: Box<Expr>,
        pattern: Box<Expr>,
        negated: bool,
    },
    Between {
        value: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
    },
    IsNull {
        value: Box<Expr>,
        negated: bool,
    },
    Call {
        name: String,
        name_span: Span,
        args: Vec<Expr>,
    },
    Case {
        subject: Option<Box<Expr>>,
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    Array(Vec<Expr>),
    Object(Vec<(String, Expr)>),
    Range(Box<Expr>, Box<Expr>),
}

/// `root.key[1]."other key"`
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) root: String,
    /// Written in double quotes: often meant to be a text.
    pub(crate) quoted: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Key(String),
    /// From 1; negative from the end; 0 names no element when read.
    Index(i64),
    /// `[-0]`: after the last element, when written to.
    Append,
    Computed(Box<Expr>),
    /// Inclusive on both sides.
    Slice(i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    IntegerDivide,
    Remainder,
    Join,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    TopicMatch,
}

impl BinaryOp {
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::IntegerDivide => "div",
            Self::Remainder => "mod",
            Self::Join => "||",
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::TopicMatch => "=~",
        }
    }
}
