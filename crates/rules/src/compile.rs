//! From the tree to the program: names resolved, functions found, arguments counted, filters checked.

use tidegate_topic::TopicFilter;

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Severity, Span, did_you_mean};
use crate::event::Column;
use crate::functions;
use crate::program::{ExprId, Node, Output, Program, ReadStep, Variable, WriteStep};
use crate::syntax::ast::{BinaryOp, Expr, ExprKind, Item, Path, Source, Statement, Step};
use crate::syntax::parser;
use crate::value::Value;

/// Fields and indexes in one path.
pub const MAX_PATH_STEPS: usize = 64;

/// Outputs of one SELECT.
pub const MAX_OUTPUTS: usize = 1000;

/// What stands before the names of the topics that tell of events rather than of messages.
const EVENT_TOPICS: &str = "$events/";

pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) filters: Vec<String>,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// The program for a statement, or everything that is wrong with it.
pub(crate) fn compile(sql: &str) -> Result<Compiled, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let statement = parser::parse(sql, &mut diagnostics);
    let mut compiler = Compiler { program: Program::default(), diagnostics, in_condition: false };
    let mut filters = Vec::new();
    if let Some(statement) = statement {
        filters = compiler.statement(statement);
    }
    let (errors, mut warnings): (Vec<_>, Vec<_>) =
        compiler.diagnostics.into_iter().partition(|d| d.severity == Severity::Error);
    warnings.truncate(MAX_DIAGNOSTICS);
    if errors.is_empty() {
        Ok(Compiled { program: compiler.program, filters, warnings })
    } else {
        Err(errors)
    }
}

struct Compiler {
    program: Program,
    diagnostics: Vec<Diagnostic>,
    in_condition: bool,
}

impl Compiler {
    fn statement(&mut self, statement: Statement) -> Vec<String> {
        let filters = statement.sources.into_iter().filter_map(|source| self.source(source)).collect();
        if statement.items.len() > MAX_OUTPUTS {
            let message =
                format!("the rule selects {} outputs; {MAX_OUTPUTS} are allowed", statement.items.len());
            self.report(Diagnostic::error(Span::default(), message));
        }
        for (position, item) in statement.items.into_iter().take(MAX_OUTPUTS).enumerate() {
            match item {
                Item::Star => self.program.star = true,
                Item::Expr { expr, alias } => self.output(expr, alias, position + 1),
            }
        }
        self.in_condition = true;
        self.program.condition = statement.condition.map(|condition| self.expr(condition));
        filters
    }

    fn source(&mut self, Source { filter, span }: Source) -> Option<String> {
        if let Err(error) = TopicFilter::parse(&filter) {
            self.report(Diagnostic::error(span, format!("this is not a topic filter: {error}")));
            return None;
        }
        if filter.starts_with(EVENT_TOPICS) || filter.starts_with("$bridges/") {
            let error = Diagnostic::error(span, "rules over events are not understood by this version");
            self.report(error.hint("name the topics of messages"));
            return None;
        }
        Some(filter)
    }

    /// One item of SELECT. Without an alias a path names itself, and anything else is named after its position.
    fn output(&mut self, expr: Expr, alias: Option<Path>, position: usize) {
        let span = expr.span;
        let name = match (alias, &expr.kind) {
            (Some(alias), _) => {
                self.check_steps(&alias);
                write_path(&alias)
            }
            (None, ExprKind::Path(path)) => write_path(path),
            (None, _) => (format!("column_{position}").into(), Box::default()),
        };
        let expr = self.expr(expr);
        let (root, steps) = name;
        let slot = self.program.slot_named(&root).unwrap_or_else(|| {
            self.program.slots.push(root);
            self.program.slots.len() - 1
        });
        self.program.outputs.push(Output { expr, slot, steps, span });
    }

    fn expr(&mut self, expr: Expr) -> ExprId {
        let span = expr.span;
        let node = match expr.kind {
            ExprKind::Null => Node::Constant(Value::Null),
            ExprKind::Bool(value) => Node::Constant(Value::Bool(value)),
            ExprKind::Int(value) => Node::Constant(Value::Int(value)),
            ExprKind::BigInt(digits) => Node::Constant(Value::BigNumber(digits.into())),
            ExprKind::Float(value) => Node::Constant(Value::Float(value)),
            ExprKind::Str(text) => Node::Constant(Value::Str(text.into())),
            ExprKind::Path(path) => self.variable(path),
            ExprKind::Negate(inner) => Node::Negate(self.expr(*inner)),
            ExprKind::Not(inner) => Node::Not(self.expr(*inner)),
            ExprKind::Binary(op, left, right) => {
                self.check_filter(op, &right);
                Node::Binary(op, self.expr(*left), self.expr(*right))
            }
            ExprKind::All(list) => Node::All(self.exprs(list)),
            ExprKind::Any(list) => Node::Any(self.exprs(list)),
            ExprKind::In { needle, haystack, negated } => {
                Node::In { needle: self.expr(*needle), haystack: self.exprs(haystack), negated }
            }
            ExprKind::Call { name, name_span, args } => self.call(&name, name_span, span, args),
            ExprKind::Case { subject, branches, otherwise } => Node::Case {
                subject: subject.map(|s| self.expr(*s)),
                branches: branches
                    .into_iter()
                    .map(|(when, then)| (self.expr(when), self.expr(then)))
                    .collect(),
                otherwise: otherwise.map(|o| self.expr(*o)),
            },
            ExprKind::Array(list) => Node::Array(self.exprs(list)),
            ExprKind::Range(first, last) => Node::Range(self.expr(*first), self.expr(*last)),
        };
        self.program.nodes.push((node, span));
        ExprId(self.program.nodes.len() as u32 - 1)
    }

    fn exprs(&mut self, list: Vec<Expr>) -> Box<[ExprId]> {
        list.into_iter().map(|e| self.expr(e)).collect()
    }

    fn variable(&mut self, path: Path) -> Node {
        self.check_steps(&path);
        let column = Column::named(&path.root);
        let mut slot = self.program.slot_named(&path.root);
        if self.in_condition && column == Some(Column::Payload) {
            // In WHERE the payload is the message's, also when SELECT writes an output of that name.
            slot = None;
        }
        self.program.condition_reads_outputs |= self.in_condition && slot.is_some();
        if column.is_none() && slot.is_none() {
            self.warn_unknown(&path);
        }
        let steps = path.steps.into_iter().map(|step| match step {
            Step::Key(key) => ReadStep::Key(key.into()),
            Step::Index(index) => ReadStep::Index(index),
            Step::Append => ReadStep::Index(0),
            Step::Computed(index) => ReadStep::Computed(self.expr(*index)),
            Step::Slice(first, last) => ReadStep::Slice(first, last),
        });
        let steps = steps.collect();
        Node::Variable(Variable { name: path.root.into(), slot, column, steps })
    }

    fn warn_unknown(&mut self, path: &Path) {
        let names = Column::ALL.iter().map(|c| c.name()).chain(self.program.slots.iter().map(|s| &**s));
        let hint = match did_you_mean(&path.root, names) {
            Some(hint) => Some(hint),
            None if path.quoted => Some(format!("a text is written '{}'", path.root)),
            None => Some(format!("a field of a JSON payload is written payload.{}", path.root)),
        };
        let message = format!("messages have no column `{}`: its value is always missing", path.root);
        self.report(Diagnostic::warning(path.span, message).maybe_hint(hint));
    }

    fn call(&mut self, name: &str, name_span: Span, span: Span, args: Vec<Expr>) -> Node {
        let count = args.len();
        let args = self.exprs(args);
        let Some(function) = functions::find(name) else {
            let hint = did_you_mean(name, functions::all().map(|f| f.name));
            self.report(Diagnostic::error(name_span, format!("unknown function `{name}`")).maybe_hint(hint));
            return Node::Constant(Value::Undefined);
        };
        if !function.takes(count) {
            let message = format!("{}() takes {}, not {count}", function.name, function.arity_text());
            self.report(Diagnostic::error(span, message).hint(format!("it is called as {}", function.usage)));
        }
        Node::Call { function, args }
    }

    fn check_steps(&mut self, path: &Path) {
        if path.steps.len() > MAX_PATH_STEPS {
            let message = format!("this path has {} steps; {MAX_PATH_STEPS} are allowed", path.steps.len());
            self.report(Diagnostic::error(path.span, message));
        }
    }

    fn check_filter(&mut self, op: BinaryOp, right: &Expr) {
        if let (BinaryOp::TopicMatch, ExprKind::Str(filter)) = (op, &right.kind)
            && let Err(error) = TopicFilter::parse(filter)
        {
            self.report(Diagnostic::error(right.span, format!("this is not a topic filter: {error}")));
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}

/// Where an output of that name goes: the column, and the place in it.
fn write_path(path: &Path) -> (Box<str>, Box<[WriteStep]>) {
    let steps = path.steps.iter().filter_map(|step| match step {
        Step::Key(key) => Some(WriteStep::Key(key.as_str().into())),
        Step::Index(0) => Some(WriteStep::Prepend),
        Step::Append => Some(WriteStep::Append),
        Step::Index(index) => Some(WriteStep::Index(*index)),
        // A range or computed index that names itself is named after the array.
        Step::Slice(..) | Step::Computed(_) => None,
    });
    (path.root.as_str().into(), steps.collect())
}
