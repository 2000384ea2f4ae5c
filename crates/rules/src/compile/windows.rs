//! GROUP BY: what is evaluated for a message, and what when the window closes.

use super::{Compiler, Scope};
use crate::diagnostic::{Diagnostic, Span};
use crate::event::Column;
use crate::program::{Grouping, Node};
use crate::syntax::ast::{Expr, ExprKind, Group, Item, Path};
use crate::syntax::lexer::tokenize;

impl Compiler<'_> {
    pub(super) fn grouped(&mut self, items: Vec<Item>, condition: Option<Expr>, group: Group) {
        let keys: Vec<Expr> = group.keys.into_iter().map(|key| of_alias(key, &items)).collect();
        self.group_keys = keys.iter().map(|key| key.span).collect();
        let keys = self.event_exprs(keys);
        self.program.window =
            Some(Grouping { keys, window: group.window, aggregates: Vec::new(), having: None });
        self.program.condition = condition.map(|c| self.condition_in(Scope::Event, c));
        self.program.outputs = self.in_scope(Scope::Window, |this| this.outputs(items));
        let having = group.having.map(|having| self.condition_in(Scope::Window, having));
        if let Some(grouping) = &mut self.program.window {
            grouping.having = having;
        }
    }

    /// The key that an expression of SELECT or HAVING is, written in the same words.
    pub(super) fn group_key(&self, expr: &Expr) -> Option<Node> {
        if self.scope != Scope::Window {
            return None;
        }
        let key = self.group_keys.iter().position(|key| {
            let text = |span: Span| self.sql.get(span.start..span.end).unwrap_or_default();
            *key == expr.span || same_words(text(*key), text(expr.span))
        });
        key.map(Node::Key)
    }

    pub(super) fn report_ungrouped(&mut self, path: &Path) {
        let text = self.sql.get(path.span.start..path.span.end).unwrap_or(&path.root).to_owned();
        let message = format!("`{text}` is different in each message of a window");
        let error = Diagnostic::error(path.span, message);
        self.report(error.hint(format!("write last({text}), or add it to GROUP BY")));
    }
}

/// `SELECT payload.site AS site ... GROUP BY site` groups by what the alias stands for.
fn of_alias(key: Expr, items: &[Item]) -> Expr {
    let ExprKind::Path(path) = &key.kind else { return key };
    if !path.steps.is_empty() || Column::named(&path.root).is_some() {
        return key;
    }
    let meant = items.iter().find_map(|item| match item {
        Item::Expr { expr, alias: Some(alias) } if alias.steps.is_empty() && alias.root == path.root => {
            Some(expr.clone())
        }
        _ => None,
    });
    meant.unwrap_or(key)
}

fn same_words(left: &str, right: &str) -> bool {
    let (mut left_diagnostics, mut right_diagnostics) = (Vec::new(), Vec::new());
    let left = tokenize(left, &mut left_diagnostics);
    let right = tokenize(right, &mut right_diagnostics);
    left.iter().map(|(token, _)| token).eq(right.iter().map(|(token, _)| token))
}
