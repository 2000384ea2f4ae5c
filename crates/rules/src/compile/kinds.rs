//! What an expression can only be, as far as the text tells, and the operators that can never take it.

use super::Compiler;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::Span;
use crate::operators;
use crate::program::{ExprId, Node};
use crate::syntax::ast::BinaryOp;
use crate::value::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Known only when a message comes.
    Any,
    Null,
    Bool,
    Number,
    Text,
    Array,
    Object,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

impl Compiler<'_> {
    fn kind(&self, id: ExprId) -> Kind {
        match &self.program.nodes[id.0 as usize].0 {
            Node::Constant(value) => match value {
                Value::Null => Kind::Null,
                Value::Bool(_) => Kind::Bool,
                Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => Kind::Number,
                Value::Str(_) => Kind::Text,
                _ => Kind::Any,
            },
            Node::Negate(_) | Node::WindowStart | Node::WindowEnd => Kind::Number,
            Node::Binary(op, left, right) => match op {
                BinaryOp::Add => match (self.kind(*left), self.kind(*right)) {
                    (Kind::Text, _) | (_, Kind::Text) => Kind::Text,
                    (Kind::Number, Kind::Number) => Kind::Number,
                    _ => Kind::Any,
                },
                BinaryOp::Subtract
                | BinaryOp::Multiply
                | BinaryOp::Divide
                | BinaryOp::IntegerDivide
                | BinaryOp::Remainder => Kind::Number,
                // Nothing, where a side is missing.
                BinaryOp::Join => Kind::Any,
                _ => Kind::Bool,
            },
            Node::Not(_)
            | Node::All(_)
            | Node::Any(_)
            | Node::In { .. }
            | Node::Like { .. }
            | Node::Between { .. }
            | Node::IsNull { .. }
            | Node::Changed(_) => Kind::Bool,
            Node::Array(_) | Node::Range(..) | Node::Map { .. } | Node::Filter { .. } => Kind::Array,
            Node::Object(_) => Kind::Object,
            Node::Variable(_)
            | Node::Call { .. }
            | Node::Case { .. }
            | Node::Previous(_)
            | Node::Key(_)
            | Node::Aggregate(_) => Kind::Any,
        }
    }

    pub(super) fn check_condition(&mut self, id: ExprId) {
        if let kind @ (Kind::Number | Kind::Text | Kind::Array | Kind::Object) = self.kind(id) {
            self.impossible(id, &format!("a condition needs true or false, and this is {}", kind.name()));
        }
    }

    pub(super) fn check_number(&mut self, operation: &str, id: ExprId) {
        let kind = self.kind(id);
        if !matches!(kind, Kind::Any | Kind::Number) {
            self.impossible(id, &format!("{operation} needs a number, and this is {}", kind.name()));
        }
    }

    pub(super) fn check_text(&mut self, operation: &str, id: ExprId) {
        let kind = self.kind(id);
        if !matches!(kind, Kind::Any | Kind::Text | Kind::Null) {
            self.impossible(id, &format!("{operation} needs a text, and this is {}", kind.name()));
        }
    }

    pub(super) fn check_operands(&mut self, op: BinaryOp, left: ExprId, right: ExprId, span: Span) {
        match op {
            BinaryOp::Subtract
            | BinaryOp::Multiply
            | BinaryOp::Divide
            | BinaryOp::IntegerDivide
            | BinaryOp::Remainder => {
                self.check_number(op.symbol(), left);
                self.check_number(op.symbol(), right);
                if matches!(self.constant(right), Some(Value::Int(0))) {
                    self.report(Diagnostic::warning(span, "division by zero: this always fails"));
                }
            }
            BinaryOp::Add => {
                let kinds = [self.kind(left), self.kind(right)];
                if !kinds.contains(&Kind::Any) && !kinds.contains(&Kind::Text) {
                    self.check_number("+", left);
                    self.check_number("+", right);
                }
            }
            BinaryOp::Equal
            | BinaryOp::NotEqual
            | BinaryOp::Less
            | BinaryOp::LessOrEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual => {
                for (text, other) in [(left, right), (right, left)] {
                    if let Some(Value::Str(written)) = self.constant(text)
                        && self.kind(other) == Kind::Number
                        && operators::as_number(written).is_none()
                    {
                        let message =
                            format!("{} compares a number with this text, which is none", op.symbol());
                        self.impossible(text, &message);
                    }
                }
            }
            BinaryOp::TopicMatch => {
                self.check_text("=~", left);
                self.check_text("=~", right);
            }
            BinaryOp::Join => {}
        }
    }

    fn constant(&self, id: ExprId) -> Option<&Value<'static>> {
        match &self.program.nodes[id.0 as usize].0 {
            Node::Constant(value) => Some(value),
            _ => None,
        }
    }

    fn impossible(&mut self, id: ExprId, message: &str) {
        let span = self.program.nodes[id.0 as usize].1;
        self.report(Diagnostic::error(span, message));
    }
}
