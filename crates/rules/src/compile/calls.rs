//! Calls: of the table's functions, and of the few that are part of the language because their arguments are not
//! simply evaluated.

use super::{Compiler, Scope};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};
use crate::event::Column;
use crate::functions;
use crate::program::{Aggregate, AggregateKind, ExprId, History, Node, Variable};
use crate::syntax::ast::Expr;
use crate::value::Value;

/// Names that are understood before the table is asked, and how they are called.
const FORMS: [(&str, &str); 13] = [
    ("if", "if(condition, value, otherwise)"),
    ("filter", "filter(array, condition on item)"),
    ("lag", "lag(value) or lag(value, key, ...)"),
    ("changed", "changed(value) or changed(value, key, ...)"),
    ("count", "count(*) or count(value)"),
    ("sum", "sum(value)"),
    ("avg", "avg(value)"),
    ("min", "min(value)"),
    ("max", "max(value)"),
    ("collect", "collect(value)"),
    ("window_start", "window_start()"),
    ("window_end", "window_end()"),
    ("map", "map(array, expression of item)"),
];

/// Functions of the table that say something of one message.
const MESSAGE_FUNCTIONS: [&str; 10] =
    ["clientid", "clientip", "flag", "flags", "msgid", "payload", "peerhost", "qos", "topic", "username"];

/// lag() and changed() in one rule.
const MAX_HISTORIES: usize = 64;

/// Aggregates in one rule.
const MAX_AGGREGATES: usize = 256;

impl Compiler<'_> {
    pub(super) fn call(&mut self, name: &str, name_span: Span, span: Span, mut args: Vec<Expr>) -> Node {
        let is = |form: &str| name.eq_ignore_ascii_case(form);
        match args.len() {
            2 | 3 if is("if") => return self.choice(args),
            2 if is("map") => return self.over_elements(args, |array, body| Node::Map { array, body }),
            2 if is("filter") => {
                return self.over_elements(args, |array, body| Node::Filter { array, body });
            }
            1.. if self.scope == Scope::Window && (is("lag") || is("changed")) => {
                let error =
                    Diagnostic::error(span, format!("{name}() is different in each message of a window"));
                self.report(error.hint("put it into an aggregate, or into WHERE"));
                return Node::Constant(Value::Undefined);
            }
            1.. if is("lag") => return self.history(args, span, Node::Previous),
            1.. if is("changed") => return self.history(args, span, Node::Changed),
            0 if self.scope == Scope::Window && is("window_start") => return Node::WindowStart,
            0 if self.scope == Scope::Window && is("window_end") => return Node::WindowEnd,
            0 | 1 if self.scope == Scope::Window => {
                let kind = AggregateKind::named(name);
                if let Some(kind) = kind.filter(|kind| *kind == AggregateKind::Count || args.len() == 1) {
                    return self.aggregate(kind, args.pop(), span);
                }
            }
            _ => {}
        }
        if self.scope == Scope::Window && MESSAGE_FUNCTIONS.iter().any(|form| is(form)) {
            let error = Diagnostic::error(span, format!("{name}() is different in each message of a window"));
            self.report(error.hint("write it as a key of GROUP BY, or inside an aggregate"));
        }
        self.function(name, name_span, span, args)
    }

    fn function(&mut self, name: &str, name_span: Span, span: Span, args: Vec<Expr>) -> Node {
        let count = args.len();
        let args = self.exprs(args);
        let Some(function) = functions::find(name) else {
            let error = self.unknown(name, name_span);
            self.report(error);
            return Node::Constant(Value::Undefined);
        };
        if !function.takes(count) {
            let message = format!("{}() takes {}, not {count}", function.name, function.arity_text());
            self.report(Diagnostic::error(span, message).hint(format!("it is called as {}", function.usage)));
        }
        for (position, arg) in args.iter().enumerate() {
            let (node, span) = &self.program.nodes[arg.0 as usize];
            if let Node::Constant(value) = node
                && let Some(problem) = function.check_constant(position, value)
            {
                self.report(Diagnostic::error(*span, problem));
            }
        }
        Node::Call { function, args }
    }

    fn unknown(&self, name: &str, span: Span) -> Diagnostic {
        let Some((form, usage)) = FORMS.iter().find(|(form, _)| form.eq_ignore_ascii_case(name)) else {
            let names = functions::all().map(|f| f.name).chain(FORMS.iter().map(|(form, _)| *form));
            let hint = did_you_mean(name, names);
            return Diagnostic::error(span, format!("unknown function `{name}`")).maybe_hint(hint);
        };
        let of_windows = AggregateKind::named(name).is_some() || form.starts_with("window_");
        if of_windows && self.scope != Scope::Window {
            return Diagnostic::error(span, format!("{form}() needs a window"))
                .hint("add GROUP BY clientid, TUMBLING(10 s)");
        }
        Diagnostic::error(span, format!("{form}() has another number of arguments"))
            .hint(format!("it is called as {usage}"))
    }

    /// `if(condition, value, otherwise)`: only one of the two is evaluated.
    fn choice(&mut self, args: Vec<Expr>) -> Node {
        let mut args = args.into_iter();
        let (Some(when), Some(then)) = (args.next(), args.next()) else {
            return Node::Constant(Value::Undefined);
        };
        let branches = Box::new([(self.condition(when), self.expr(then))]);
        Node::Case { subject: None, branches, otherwise: args.next().map(|otherwise| self.expr(otherwise)) }
    }

    /// `map(array, body)` and `filter(array, body)`, where `item` is the element in the body.
    fn over_elements(&mut self, args: Vec<Expr>, node: fn(ExprId, ExprId) -> Node) -> Node {
        let mut args = args.into_iter();
        let (Some(array), Some(body)) = (args.next(), args.next()) else {
            return Node::Constant(Value::Undefined);
        };
        let array = self.expr(array);
        self.locals += 1;
        let body = self.expr(body);
        self.locals -= 1;
        let node = node(array, body);
        if let Node::Filter { body, .. } = node {
            self.check_condition(body);
        }
        node
    }

    /// lag() and changed() are evaluated once for each message, before anything else of the rule.
    fn history(&mut self, args: Vec<Expr>, span: Span, node: fn(usize) -> Node) -> Node {
        if self.program.history.len() == MAX_HISTORIES {
            let message = format!("lag() and changed() can stand {MAX_HISTORIES} times in a rule");
            self.report(Diagnostic::error(span, message));
            return Node::Constant(Value::Undefined);
        }
        // An argument may hold another call, which then has the smaller number and is evaluated first.
        let locals = std::mem::take(&mut self.locals);
        let mut args = self.event_exprs(args).into_vec().into_iter();
        self.locals = locals;
        let Some(value) = args.next() else { return Node::Constant(Value::Undefined) };
        let mut keys: Vec<_> = args.collect();
        if keys.is_empty() {
            let client = Variable {
                name: Column::ClientId.name().into(),
                local: None,
                slot: None,
                outer: None,
                column: Some(Column::ClientId),
                steps: Box::default(),
                is_output: false,
            };
            keys.push(self.push(Node::Variable(client), span));
        }
        self.program.history.push(History { value, keys: keys.into() });
        node(self.program.history.len() - 1)
    }

    fn aggregate(&mut self, kind: AggregateKind, arg: Option<Expr>, span: Span) -> Node {
        let value = arg.map(|arg| self.in_scope(Scope::Event, |this| this.expr(arg)));
        let Some(grouping) = &mut self.program.window else { return Node::Constant(Value::Undefined) };
        if grouping.aggregates.len() == MAX_AGGREGATES {
            let message = format!("a rule can have {MAX_AGGREGATES} aggregates");
            self.report(Diagnostic::error(span, message));
            return Node::Constant(Value::Undefined);
        }
        grouping.aggregates.push(Aggregate { kind, value });
        Node::Aggregate(grouping.aggregates.len() - 1)
    }
}
