//! From outputs to rows: SELECT makes one, FOREACH one for each element.

use super::Machine;
use crate::diagnostic::Span;
use crate::error::{EvalError, EvalErrorKind};
use crate::program::{Foreach, Output, Slot};
use crate::row::Row;
use crate::value::Value;
use crate::write_path;

impl<'e: 'r, 'r> Machine<'_, '_, 'e, 'r> {
    /// Of SELECT, or the lists of FOREACH.
    pub(super) fn first_outputs(&mut self) -> Result<(), EvalError> {
        self.outputs_made = true;
        let program = self.program;
        match &program.foreach {
            None => self.outputs(&program.outputs),
            Some(foreach) => {
                let Some((last, before)) = foreach.outputs.split_last() else { return Ok(()) };
                self.outputs(before)?;
                let value = self.eval(last.expr)?;
                self.collection = value.clone();
                self.write(last, value).map_err(|kind| EvalError { kind, span: last.span })
            }
        }
    }

    pub(super) fn outputs(&mut self, outputs: &'r [Output]) -> Result<(), EvalError> {
        self.slots.reserve_exact(self.program.slots.len() - self.slots.len().min(self.program.slots.len()));
        for output in outputs {
            let value = self.eval(output.expr)?;
            self.write(output, value).map_err(|kind| EvalError { kind, span: output.span })?;
        }
        Ok(())
    }

    /// A row of the slots that DO or SELECT made; those of FOREACH stay.
    pub(super) fn finished(&mut self) -> Row<'r> {
        let hidden = self.program.hidden;
        let slots = if hidden == 0 { std::mem::take(&mut self.slots) } else { self.slots.split_off(hidden) };
        Row::new(self.event, self.program, slots)
    }

    pub(super) fn walk_collection(&mut self, foreach: &'r Foreach) -> Result<Vec<Row<'r>>, EvalError> {
        let span = foreach.outputs.last().map_or(Span::default(), |last| last.span);
        let here = |kind| EvalError { kind, span };
        let collection = match std::mem::take(&mut self.collection) {
            // A payload that is not JSON is an error, as it is where a path leads into it.
            Value::Str(text)
                if foreach.outputs.last().is_some_and(|last| self.program.is_payload(last.expr)) =>
            {
                let decoded = self.call_context().decode(text).map_err(here)?;
                decoded.map_err(|error| here(EvalErrorKind::NotJson(error)))?
            }
            // Another text that is an array's JSON.
            Value::Str(text) => self.decode_text(text).map_err(here)?.unwrap_or_default(),
            other => other,
        };
        self.meter.walk(&collection).map_err(here)?;
        let elements = collection.elements().unwrap_or_default();
        self.meter.elements(elements.len()).map_err(here)?;
        let program = self.program;
        let has_do = program.hidden > 0;
        let mut rows = Vec::new();
        for element in elements {
            self.set(foreach.item, element);
            if let Some(condition) = foreach.condition
                && !self.condition(condition)?
            {
                continue;
            }
            self.meter.elements(program.slots.len()).map_err(here)?;
            if has_do {
                self.outputs(&program.outputs)?;
                rows.push(self.finished());
            } else {
                self.slots.iter().try_for_each(|value| self.meter.make(value)).map_err(here)?;
                rows.push(Row::new(self.event, program, self.slots.clone()));
            }
        }
        Ok(rows)
    }

    /// Slots are numbered in the order in which they are first written, so a new one is the next.
    pub(super) fn set(&mut self, slot: Slot, value: Value<'r>) {
        match self.slots.get_mut(slot) {
            Some(place) => *place = value,
            None => self.slots.push(value),
        }
    }

    pub(super) fn write(&mut self, output: &'r Output, value: Value<'r>) -> Result<(), EvalErrorKind> {
        if output.steps.is_empty() {
            self.meter.make(&value)?;
            self.set(output.slot, value);
            return Ok(());
        }
        self.meter.elements(output.steps.len())?;
        let mut target = match self.slots.get_mut(output.slot).map(std::mem::take) {
            Some(existing) => existing,
            // Below `SELECT *` the event's own column is what is changed.
            None if self.program.star => self.event.column(&self.program.slots[output.slot]),
            None => Value::Undefined,
        };
        if *self.program.slots[output.slot] == *"payload"
            && let Value::Str(text) = &target
        {
            target = self.decode_text(text.clone())?.unwrap_or_default();
        }
        write_path::write(&mut target, &output.steps, value, &mut self.meter)?;
        self.meter.make(&target)?;
        self.set(output.slot, target);
        Ok(())
    }
}
