//! Texts with `${...}` in them, filled in from a row.

use crate::diagnostic::{CompileError, Diagnostic, Span, did_you_mean};
use crate::event::Column;
use crate::path::Path;
use crate::row::Row;
use crate::rule::Rule;
use crate::value::Value;

/// Bytes of one template.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;

/// A compiled template: `${column}`, `${column.field[1]}` and `${.}` for the whole row as JSON stand among text that
/// is kept. `${$}` is a dollar sign. What is not a whole placeholder, as `$a` or `${d`, is text.
#[derive(Clone, Debug)]
pub struct Template {
    text: Box<str>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    Placeholder {
        path: Path,
        /// The event's column of that name, for rows that are the event.
        column: Option<Column>,
        /// With its brackets, in the template's text.
        span: Span,
    },
}

/// What a placeholder becomes for which the row has nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: keys, values and headers.
    Empty,
    /// The word `undefined`, as EMQX prints it.
    Undefined,
    /// The rendering fails: names of topics.
    Refuse,
}

/// A placeholder for which the row has nothing, where that was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rule's output has nothing for ${{{placeholder}}}")]
pub struct RenderError {
    /// The placeholder's path.
    pub placeholder: Path,
}

/// What a template says, with the difference between nothing, null and an empty text kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendered<'o> {
    /// The template is one placeholder, and the row has nothing for it.
    Undefined,
    /// The template is one placeholder, and its value is JSON's null.
    Null,
    /// The text; not a copy where the template is one placeholder with a text or bytes for its value.
    Bytes(&'o [u8]),
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    ///
    /// Every placeholder that is no path.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            let message = format!("the template has {} bytes; {MAX_TEMPLATE_BYTES} are allowed", text.len());
            return Err(CompileError::new(vec![Diagnostic::error(Span::default(), message)], text));
        }
        let mut parts = Vec::new();
        let mut diagnostics = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find("${") {
            let start = at + found;
            literal.push_str(&text[at..start]);
            let inside = start + 2;
            let Some(len) = text[inside..].find('}').filter(|len| !text[inside..inside + len].contains("${"))
            else {
                literal.push_str("${");
                at = inside;
                continue;
            };
            at = inside + len + 1;
            let inner = text[inside..inside + len].trim();
            if inner == "$" {
                literal.push('$');
                continue;
            }
            match Path::parse(inner) {
                Some(path) => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    let column = Column::named(path.root());
                    parts.push(Part::Placeholder { path, column, span: Span::new(start, at) });
                }
                None => diagnostics.push(
                    Diagnostic::error(Span::new(start, at), "this placeholder is not a path to a value")
                        .hint("write ${column.field}, ${column.list[1]}, or ${.} for the whole row"),
                ),
            }
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if diagnostics.is_empty() {
            Ok(Self { text: text.into(), parts })
        } else {
            Err(CompileError::new(diagnostics, text))
        }
    }

    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The paths that it reads, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Placeholder { path, .. } => Some(path),
            Part::Literal(_) => None,
        })
    }

    /// What it says about every row, where it has no placeholders.
    pub fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text for a row: texts as they are, null as `null`, arrays and objects as JSON.
    ///
    /// # Errors
    ///
    /// The first placeholder for which the row has nothing, where `missing` is [`Missing::Refuse`]; `out` then ends
    /// where it got.
    pub fn render(&self, row: &Row<'_>, missing: Missing, out: &mut Vec<u8>) -> Result<(), RenderError> {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Placeholder { path, column, .. } => {
                    match (append_value(row, path, *column, out), missing) {
                        (true, _) | (false, Missing::Empty) => {}
                        (false, Missing::Undefined) => out.extend_from_slice(b"undefined"),
                        (false, Missing::Refuse) => return Err(RenderError { placeholder: path.clone() }),
                    }
                }
            }
        }
        Ok(())
    }

    /// The text for a row, as [`Missing::Empty`] says, in `scratch` or where it is already: `${payload}` over
    /// `SELECT *` is the message's own payload.
    pub fn render_value<'o>(&self, row: &'o Row<'_>, scratch: &'o mut Vec<u8>) -> Rendered<'o> {
        scratch.clear();
        let [Part::Placeholder { path, column, .. }] = &*self.parts else {
            // Nothing is refused, so this can't fail.
            let _ = self.render(row, Missing::Empty, scratch);
            return Rendered::Bytes(scratch);
        };
        if let Some(bytes) = in_place(row, path, *column) {
            return Rendered::Bytes(bytes);
        }
        if path.is_whole_row() {
            row.write_json(scratch);
            return Rendered::Bytes(scratch);
        }
        match row.lookup(path) {
            Value::Undefined => Rendered::Undefined,
            Value::Null => Rendered::Null,
            value => {
                value.write_text(scratch);
                Rendered::Bytes(scratch)
            }
        }
    }
}

/// What is wrong with a template over the rows of a rule: placeholders of columns that the rule does not make. An
/// error, where no row has the column; a warning after `SELECT *`, where whoever makes the events may add it. The
/// places are those of the template's text.
pub fn check_template(rule: &Rule, template: &Template) -> Vec<Diagnostic> {
    let program = rule.program();
    let known = |column: Column| program.star && rule.kinds().iter().any(|kind| kind.has(column));
    let mut diagnostics = Vec::new();
    for part in &template.parts {
        let Part::Placeholder { path, column, span } = part else { continue };
        let root = path.root();
        if path.is_whole_row() || program.position(root).is_some() || column.is_some_and(known) {
            continue;
        }
        let message = format!("the rule makes no column `{root}`");
        let diagnostic = if program.star {
            Diagnostic::warning(*span, message)
        } else {
            Diagnostic::error(*span, message)
        };
        let columns = Column::ALL.into_iter().filter(|column| known(*column)).map(Column::name);
        let mut names: Vec<&str> = columns.collect();
        names.extend(program.visible().iter().map(|name| &**name));
        let hint = did_you_mean(root, names.iter().copied()).or_else(|| {
            let selected = names.join(", ");
            (!program.star).then(|| format!("it makes {selected}; add {root} to SELECT"))
        });
        diagnostics.push(diagnostic.maybe_hint(hint));
    }
    diagnostics
}

/// The bytes of a text that the row or its event holds.
fn in_place<'o>(row: &'o Row<'_>, path: &Path, column: Option<Column>) -> Option<&'o [u8]> {
    if !path.steps().is_empty() {
        return None;
    }
    match row.computed(path.root()) {
        Some(Value::Str(text)) => Some(text.as_bytes()),
        Some(Value::Bytes(bytes)) => Some(bytes),
        None if row.has_star() => row.event().bytes(column?),
        _ => None,
    }
}

/// Appends a placeholder's text; false where the row has nothing for it.
fn append_value(row: &Row<'_>, path: &Path, column: Option<Column>, out: &mut Vec<u8>) -> bool {
    if path.is_whole_row() {
        row.write_json(out);
        return true;
    }
    if let Some(bytes) = in_place(row, path, column) {
        out.extend_from_slice(bytes);
        return true;
    }
    let value = row.lookup(path);
    if !value.is_undefined() {
        value.write_text(out);
    }
    !value.is_undefined()
}
