//! From the tree to the program: names resolved, functions found, arguments counted, filters checked.

mod calls;
mod kinds;
mod sources;
mod windows;

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Severity, Span, did_you_mean};
use crate::event::{Column, EventKind};
use crate::program::{
    Dedup, ExprId, Foreach, Node, Output, Program, ReadStep, Sample, Slot, Variable, WriteStep,
};
use crate::syntax::ast::{self, BinaryOp, Expr, ExprKind, Item, Path, Statement, Step};
use crate::syntax::parser;
use crate::value::Value;

/// Fields and indexes in one path.
pub const MAX_PATH_STEPS: usize = 64;

/// Outputs of one SELECT.
pub const MAX_OUTPUTS: usize = 1000;

/// What FOREACH, map() and filter() call an element without another name.
const ITEM: &str = "item";

pub(crate) struct Compiled {
    pub(crate) program: Program,
    /// As written in FROM.
    pub(crate) filters: Vec<String>,
    /// What the filters listen to; messages where one of them is a filter of their topics.
    pub(crate) kinds: Vec<EventKind>,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// The program for a statement, or everything that is wrong with it.
pub(crate) fn compile(sql: &str) -> Result<Compiled, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let statement = parser::parse(sql, &mut diagnostics);
    let mut compiler = Compiler {
        sql,
        program: Program::default(),
        kinds: Vec::new(),
        diagnostics,
        scope: Scope::Outputs,
        locals: 0,
        group_keys: Vec::new(),
    };
    let mut filters = Vec::new();
    if let Some(statement) = statement {
        filters = compiler.statement(statement);
    }
    let (errors, mut warnings): (Vec<_>, Vec<_>) =
        compiler.diagnostics.into_iter().partition(|d| d.severity == Severity::Error);
    warnings.truncate(MAX_DIAGNOSTICS);
    if errors.is_empty() {
        Ok(Compiled { program: compiler.program, filters, kinds: compiler.kinds, warnings })
    } else {
        Err(errors)
    }
}

struct Compiler<'s> {
    sql: &'s str,
    program: Program,
    kinds: Vec<EventKind>,
    diagnostics: Vec<Diagnostic>,
    scope: Scope,
    /// How many map() and filter() are around the expression.
    locals: usize,
    /// Where the keys of GROUP BY are written.
    group_keys: Vec<Span>,
}

/// Which names an expression can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Outputs made before it, and the event's columns.
    Outputs,
    /// The same in WHERE, where `payload` is always the message's.
    Condition,
    /// The event's columns alone: what is evaluated before the outputs are.
    Event,
    /// Outputs, keys and aggregates: what is evaluated when a window closes.
    Window,
}

impl Compiler<'_> {
    fn statement(&mut self, mut statement: Statement) -> Vec<String> {
        let filters =
            std::mem::take(&mut statement.sources).into_iter().filter_map(|s| self.source(s)).collect();
        let Statement { foreach, items, condition, dedup, sample, group, .. } = statement;
        let lists = foreach.as_ref().map_or(0, |foreach| foreach.items.len());
        if items.len() + lists > MAX_OUTPUTS {
            let message =
                format!("the rule selects {} outputs; {MAX_OUTPUTS} are allowed", items.len() + lists);
            self.report(Diagnostic::error(Span::default(), message));
            return filters;
        }
        match (foreach, group) {
            (Some(foreach), Some(_)) => {
                let error = Diagnostic::error(foreach.span, "FOREACH and GROUP BY can't stand in one rule");
                self.report(error.hint("republish the elements, and group them in a second rule"));
            }
            (Some(foreach), None) => self.foreach(foreach, items, condition),
            (None, Some(group)) => self.grouped(items, condition, group),
            (None, None) => {
                self.program.outputs = self.outputs(items);
                self.program.condition = condition.map(|c| self.condition_in(Scope::Condition, c));
            }
        }
        self.program.dedup = dedup.map(|d| Dedup { keys: self.event_exprs(d.keys), within_ms: d.within_ms });
        self.program.sample = sample.map(|s| Sample { rate: s.rate, keys: self.event_exprs(s.keys) });
        filters
    }

    /// The lists of FOREACH are outputs of their own, which WHERE sees; then each element is one more of them, and
    /// DO makes the row.
    fn foreach(&mut self, foreach: ast::Foreach, items: Vec<Item>, condition: Option<Expr>) {
        let alias = match foreach.items.last() {
            Some(Item::Expr { alias, .. }) => alias.as_ref(),
            _ => None,
        };
        if let Some(alias) = alias.filter(|alias| !alias.steps.is_empty()) {
            self.report(Diagnostic::error(alias.span, "an element needs a name without dots and indexes"));
        }
        let item = alias.map_or(ITEM, |alias| alias.root.as_str()).to_owned();
        let lists = self.outputs(foreach.items);
        if self.program.star {
            self.report(Diagnostic::error(foreach.span, "FOREACH needs an array, and * is none"));
        }
        self.program.condition = condition.map(|c| self.condition_in(Scope::Condition, c));
        let item = self.slot(&item);
        let condition = foreach.condition.map(|c| self.condition_in(Scope::Outputs, c));
        if items.is_empty() {
            self.program.star = true;
        } else {
            self.program.hidden = self.program.slots.len();
            let mut outputs = self.outputs(items);
            if self.program.star {
                self.add_lists(&mut outputs, foreach.span);
            }
            self.program.outputs = outputs;
        }
        self.program.foreach = Some(Foreach { outputs: lists, item, condition });
    }

    /// `DO *` is every column of the event, the lists and the element.
    fn add_lists(&mut self, outputs: &mut Vec<Output>, span: Span) {
        for outer in 0..self.program.hidden {
            let name = self.program.slots[outer].clone();
            if self.program.position(&name).is_none() {
                let variable = Variable {
                    name: name.clone(),
                    local: None,
                    slot: Some(outer),
                    outer: None,
                    column: None,
                    steps: Box::default(),
                    is_output: false,
                };
                let expr = self.push(Node::Variable(variable), span);
                let slot = self.slot(&name);
                outputs.push(Output { expr, slot, steps: Box::default(), span });
            }
        }
    }

    fn outputs(&mut self, items: Vec<Item>) -> Vec<Output> {
        let mut outputs = Vec::with_capacity(items.len());
        for (position, item) in items.into_iter().enumerate() {
            match item {
                Item::Star(span) if self.scope == Scope::Window => {
                    let error = Diagnostic::error(span, "a window has many messages, so it has no *");
                    self.report(error.hint("name the keys of GROUP BY and aggregates, as count(*)"));
                }
                Item::Star(_) => self.program.star = true,
                Item::Expr { expr, alias } => outputs.push(self.output(expr, alias, position + 1)),
            }
        }
        outputs
    }

    /// One item of SELECT. Without an alias a path and a text name themselves, and anything else is named after its
    /// position.
    fn output(&mut self, expr: Expr, alias: Option<Path>, position: usize) -> Output {
        let span = expr.span;
        let (root, steps) = match (alias, &expr.kind) {
            (Some(alias), _) => {
                self.check_steps(&alias);
                write_path(&alias)
            }
            (None, ExprKind::Path(path)) => write_path(path),
            (None, ExprKind::Str(text)) if !text.is_empty() => (text.as_str().into(), Box::default()),
            (None, _) => (format!("column_{position}").into(), Box::default()),
        };
        let expr = self.expr(expr);
        if let Node::Variable(variable) = &mut self.program.nodes[expr.0 as usize].0 {
            variable.is_output = true;
        }
        let slot = self.slot(&root);
        Output { expr, slot, steps, span }
    }

    /// The place of an output column of that name.
    fn slot(&mut self, name: &str) -> Slot {
        if let Some(at) = self.program.position(name) {
            return self.program.hidden + at;
        }
        self.program.slots.push(name.into());
        self.program.slots.len() - 1
    }

    fn in_scope<T>(&mut self, scope: Scope, compile: impl FnOnce(&mut Self) -> T) -> T {
        let outside = std::mem::replace(&mut self.scope, scope);
        let compiled = compile(self);
        self.scope = outside;
        compiled
    }

    fn condition_in(&mut self, scope: Scope, condition: Expr) -> ExprId {
        self.in_scope(scope, |this| this.condition(condition))
    }

    fn event_exprs(&mut self, list: Vec<Expr>) -> Box<[ExprId]> {
        self.in_scope(Scope::Event, |this| this.exprs(list))
    }

    fn condition(&mut self, expr: Expr) -> ExprId {
        let id = self.expr(expr);
        self.check_condition(id);
        id
    }

    fn conditions(&mut self, list: Vec<Expr>) -> Box<[ExprId]> {
        list.into_iter().map(|e| self.condition(e)).collect()
    }

    fn exprs(&mut self, list: Vec<Expr>) -> Box<[ExprId]> {
        list.into_iter().map(|e| self.expr(e)).collect()
    }

    fn expr(&mut self, expr: Expr) -> ExprId {
        let span = expr.span;
        if let Some(node) = self.group_key(&expr) {
            return self.push(node, span);
        }
        let node = match expr.kind {
            ExprKind::Null => Node::Constant(Value::Null),
            ExprKind::Bool(value) => Node::Constant(Value::Bool(value)),
            ExprKind::Int(value) => Node::Constant(Value::Int(value)),
            ExprKind::BigInt(digits) => Node::Constant(Value::BigNumber(digits.into())),
            ExprKind::Float(value) => Node::Constant(Value::Float(value)),
            ExprKind::Str(text) => Node::Constant(Value::Str(text.into())),
            ExprKind::Path(path) => self.variable(path),
            ExprKind::Negate(inner) => {
                let inner = self.expr(*inner);
                self.check_number("-", inner);
                Node::Negate(inner)
            }
            ExprKind::Not(inner) => Node::Not(self.condition(*inner)),
            ExprKind::Binary(op, left, right) => {
                self.check_filter(op, &right);
                let (left, right) = (self.expr(*left), self.expr(*right));
                self.check_operands(op, left, right, span);
                Node::Binary(op, left, right)
            }
            ExprKind::All(list) => Node::All(self.conditions(list)),
            ExprKind::Any(list) => Node::Any(self.conditions(list)),
            ExprKind::In { needle, haystack, negated } => {
                Node::In { needle: self.expr(*needle), haystack: self.exprs(haystack), negated }
            }
            ExprKind::Like { value, pattern, negated } => {
                let (value, pattern) = (self.expr(*value), self.expr(*pattern));
                self.check_text("LIKE", value);
                self.check_text("LIKE", pattern);
                Node::Like { value, pattern, negated }
            }
            ExprKind::Between { value, low, high, negated } => {
                let [value, low, high] = [value, low, high].map(|e| self.expr(*e));
                Node::Between { value, low, high, negated }
            }
            ExprKind::IsNull { value, negated } => Node::IsNull { value: self.expr(*value), negated },
            ExprKind::Call { name, name_span, args } => self.call(&name, name_span, span, args),
            ExprKind::Case { subject, branches, otherwise } => {
                let subject = subject.map(|s| self.expr(*s));
                let branches = branches.into_iter().map(|(when, then)| {
                    let when = if subject.is_some() { self.expr(when) } else { self.condition(when) };
                    (when, self.expr(then))
                });
                let branches = branches.collect();
                Node::Case { subject, branches, otherwise: otherwise.map(|o| self.expr(*o)) }
            }
            ExprKind::Array(list) => Node::Array(self.exprs(list)),
            ExprKind::Object(members) => Node::Object(
                members.into_iter().map(|(name, value)| (name.into(), self.expr(value))).collect(),
            ),
            ExprKind::Range(first, last) => Node::Range(self.expr(*first), self.expr(*last)),
        };
        self.push(node, span)
    }

    fn push(&mut self, node: Node, span: Span) -> ExprId {
        self.program.nodes.push((node, span));
        ExprId(self.program.nodes.len() as u32 - 1)
    }

    fn variable(&mut self, path: Path) -> Node {
        self.check_steps(&path);
        let local = (path.root == ITEM).then(|| self.locals.checked_sub(1)).flatten();
        let hidden = self.program.hidden;
        let column = Column::named(&path.root).filter(|_| self.scope != Scope::Window);
        let mut slot = self.program.position(&path.root).map(|at| hidden + at);
        let mut outer = self.program.slots[..hidden].iter().position(|name| **name == *path.root);
        if self.scope == Scope::Event || (self.scope == Scope::Condition && column == Some(Column::Payload)) {
            // In WHERE the payload is the message's, also when SELECT writes an output of that name.
            (slot, outer) = (None, None);
        }
        self.program.condition_reads_outputs |= self.scope == Scope::Condition && slot.is_some();
        let is_ungrouped = slot.is_none() || Column::named(&path.root).is_some();
        if local.is_some() || outer.is_some() {
            // A name of the rule's own.
        } else if self.scope == Scope::Window && is_ungrouped {
            self.report_ungrouped(&path);
        } else if slot.is_none() {
            self.warn_unknown(&path, column);
        }
        let steps = path.steps.into_iter().map(|step| match step {
            Step::Key(key) => ReadStep::Key(key.into()),
            Step::Index(index) => ReadStep::Index(index),
            Step::Append => ReadStep::Index(0),
            Step::Computed(index) => ReadStep::Computed(self.expr(*index)),
            Step::Slice(first, last) => ReadStep::Slice(first, last),
        });
        let steps = steps.collect();
        Node::Variable(Variable {
            name: path.root.into(),
            local,
            slot,
            outer,
            column,
            steps,
            is_output: false,
        })
    }

    fn warn_unknown(&mut self, path: &Path, column: Option<Column>) {
        let known = |column: Column| self.kinds.iter().any(|kind| kind.has(column));
        if column.is_some_and(known) {
            return;
        }
        let what = match &*self.kinds {
            [] => return, // FROM is wrong, and has been reported
            [EventKind::MessagePublish] => "messages have".to_owned(),
            [kind] => format!("the event {} has", kind.name()),
            _ => "the events of FROM have".to_owned(),
        };
        let columns = Column::ALL.into_iter().filter(|column| known(*column)).map(Column::name);
        let mut names: Vec<&str> = columns.collect();
        names.extend(self.program.slots.iter().map(|slot| &**slot));
        let hint = match did_you_mean(&path.root, names) {
            _ if column.is_some() => None,
            Some(hint) => Some(hint),
            None if path.quoted => Some(format!("a text is written '{}'", path.root)),
            None if known(Column::Payload) => {
                Some(format!("a field of a JSON payload is written payload.{}", path.root))
            }
            None => None,
        };
        let message = format!("{what} no column `{}`: its value is always missing", path.root);
        self.report(Diagnostic::warning(path.span, message).maybe_hint(hint));
    }

    fn check_steps(&mut self, path: &Path) {
        if path.steps.len() > MAX_PATH_STEPS {
            let message = format!("this path has {} steps; {MAX_PATH_STEPS} are allowed", path.steps.len());
            self.report(Diagnostic::error(path.span, message));
        }
    }

    fn check_filter(&mut self, op: BinaryOp, right: &Expr) {
        if let (BinaryOp::TopicMatch, ExprKind::Str(filter)) = (op, &right.kind)
            && let Err(error) = tidegate_topic::TopicFilter::parse(filter)
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
