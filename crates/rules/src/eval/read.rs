//! Names and paths: what they are looked for in, and how far a path leads.

use std::borrow::Cow;

use super::{EvalScratch, Machine};
use crate::diagnostic::Span;
use crate::error::{EvalError, EvalErrorKind};
use crate::event::Column;
use crate::json::{self, Entry};
use crate::operators;
use crate::program::{ReadStep, Variable};
use crate::value::Value;

impl<'e: 'r, 'r> Machine<'_, '_, 'e, 'r> {
    pub(super) fn variable(&mut self, variable: &'r Variable) -> Result<Value<'r>, Failure> {
        if let Some(local) = variable.local {
            let value = self.locals.get(local).cloned().unwrap_or_default();
            return self.walk_as(value, &variable.steps, variable.is_output);
        }
        for slot in [variable.slot, variable.outer].into_iter().flatten() {
            let Some(value) = self.slots.get(slot) else { continue };
            if let (Value::Str(Cow::Owned(text)), []) = (value, &*variable.steps) {
                self.meter.bytes(text.len())?;
            }
            let value = self.walk_as(value.clone(), &variable.steps, variable.is_output)?;
            if !value.is_undefined() {
                return Ok(if variable.is_output { value } else { json::computable(value) });
            }
        }
        let event = self.event;
        match (variable.column, &*variable.steps) {
            (Some(Column::Payload), steps @ [_, ..]) if event.raw_payload().is_some() => {
                self.payload(steps, variable.is_output)
            }
            (column, []) => Ok(event.resolve(&variable.name, column)),
            (column, steps) => {
                if let Some(column) = column
                    && event.extra.is_empty()
                    && let Some(value) = event.member(column, &mut steps.iter().map_while(as_key))
                    && steps.iter().all(|s| as_key(s).is_some())
                {
                    return Ok(value);
                }
                self.walk(event.resolve(&variable.name, column), steps)
            }
        }
    }

    /// A path into the payload, level by level while the steps are plain.
    pub(super) fn payload(&mut self, steps: &'r [ReadStep], is_output: bool) -> Result<Value<'r>, Failure> {
        let text: &'r str = self.on.payload_text().map_err(EvalErrorKind::NotJson)?;
        self.meter.scan(text.len())?;
        let Some(root) = self.on.scratch.payload.root() else { return Ok(Value::Undefined) };
        let (found, rest) = self.plain_steps(root, text, steps)?;
        match found {
            Some((entry, text, before)) => {
                let value = json::value(entry, text, is_output)
                    .map_err(|error| EvalErrorKind::NotJson(error.after(before)))?;
                self.walk_as(value, rest, is_output)
            }
            None => self.walk(Value::Undefined, rest),
        }
    }

    /// How far plain steps lead into the payload: the value there, the text in which it is and how much of the
    /// payload goes before that; and the steps that are left.
    #[expect(clippy::type_complexity, reason = "three things that mean nothing apart")]
    fn plain_steps(
        &mut self,
        root: Entry,
        mut text: &'r str,
        steps: &'r [ReadStep],
    ) -> Result<(Option<(Entry, &'r str, usize)>, &'r [ReadStep]), EvalErrorKind> {
        let EvalScratch { payload, nested, .. } = &mut *self.on.scratch;
        let (mut level, mut entry, mut before) = (&*payload, root, 0);
        for (at, step) in steps.iter().enumerate() {
            let rest = &steps[at..];
            // A text may hold JSON itself: that is looked into as any other value.
            if matches!(step, ReadStep::Computed(_) | ReadStep::Slice(..)) || entry.is_string() {
                return Ok((Some((entry, text, before)), rest));
            }
            if at > 0 && entry.is_nested() {
                let (part, start) = entry.part(text);
                (text, before) = (part, before + start);
                level = nested.level(before, text, &mut self.meter)?;
            }
            let found = match step {
                ReadStep::Key(key) if entry.is_nested() => level.member(key, text),
                ReadStep::Index(index) if entry.is_nested() => level.element(*index),
                _ => None,
            };
            let Some(found) = found else { return Ok((None, rest)) };
            entry = found;
        }
        Ok((Some((entry, text, before)), &[]))
    }

    pub(super) fn walk(&mut self, value: Value<'r>, steps: &'r [ReadStep]) -> Result<Value<'r>, Failure> {
        self.walk_as(value, steps, false)
    }

    pub(super) fn walk_as(
        &mut self,
        mut value: Value<'r>,
        steps: &'r [ReadStep],
        is_output: bool,
    ) -> Result<Value<'r>, Failure> {
        for (at, step) in steps.iter().enumerate() {
            self.meter.step()?;
            match value {
                // A text that holds JSON is looked into; one that does not has no fields.
                Value::Str(text) => value = self.decode_text(text)?.unwrap_or_default(),
                Value::Json(json) => self.meter.scan(json.text().len())?,
                _ => {}
            }
            value = match step {
                ReadStep::Key(key) => match value {
                    Value::Json(json) if is_output && at + 1 == steps.len() => json.get_written(key),
                    _ => value.get(key),
                },
                ReadStep::Index(index) => value.element(*index),
                ReadStep::Computed(id) => match self.eval(*id)? {
                    Value::Int(index) => value.element(index),
                    Value::Str(key) => value.get(&key),
                    _ => Value::Undefined,
                },
                ReadStep::Slice(first, last) => operators::slice(&value, *first, *last, &mut self.meter)?,
            };
        }
        Ok(value)
    }

    pub(super) fn decode_text(&mut self, text: Cow<'r, str>) -> Result<Option<Value<'r>>, EvalErrorKind> {
        Ok(self.call_context().decode(text)?.ok())
    }
}

/// A failure of this expression, whose place is still to be added, or of one inside it.
pub(super) enum Failure {
    Here(EvalErrorKind),
    Inside(EvalError),
}

impl Failure {
    pub(super) fn at(self, span: Span) -> EvalError {
        match self {
            Self::Here(kind) => EvalError { kind, span },
            Self::Inside(error) => error,
        }
    }
}

impl From<EvalErrorKind> for Failure {
    fn from(kind: EvalErrorKind) -> Self {
        Self::Here(kind)
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        Self::Inside(error)
    }
}

fn as_key(step: &ReadStep) -> Option<&str> {
    if let ReadStep::Key(key) = step { Some(key) } else { None }
}
