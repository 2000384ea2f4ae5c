//! Running a program over one event.

use std::borrow::Cow;

use crate::error::{EvalError, EvalErrorKind};
use crate::event::{Column, Event};
use crate::functions::{Call, State};
use crate::json::{JsonError, JsonProblem, Tape};
use crate::meter::{EvalLimits, Meter};
use crate::operators;
use crate::program::{ExprId, Node, Output, Program, ReadStep, Variable};
use crate::row::Row;
use crate::value::Value;
use crate::write_path;

/// Arguments that are passed without an allocation.
const INLINE_ARGS: usize = 4;

/// The memory that evaluations use again and again: one for each thread or connection.
#[derive(Debug, Default)]
pub struct EvalScratch {
    /// Where the values of this message's payload are.
    payload: Tape,
    /// The same for texts that a rule decodes.
    decoded: Tape,
    /// What functions keep from call to call.
    pub(crate) functions: State,
    limits: EvalLimits,
}

impl EvalScratch {
    /// With other limits than the default ones for every evaluation.
    pub fn with_limits(limits: EvalLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Begins with a message. All rules that evaluate it share one reading of its payload, made when the first of
    /// them looks inside.
    pub fn start<'s, 'e>(&'s mut self, event: &'e Event<'e>) -> Evaluator<'s, 'e> {
        Evaluator { event, scratch: self, payload: PayloadState::Unread }
    }
}

/// One message on its way through the rules.
#[derive(Debug)]
pub struct Evaluator<'s, 'e> {
    event: &'e Event<'e>,
    scratch: &'s mut EvalScratch,
    payload: PayloadState<'e>,
}

/// What is known of the payload as JSON.
#[derive(Clone, Copy, Debug)]
enum PayloadState<'e> {
    Unread,
    /// The tape holds where the values of this text are.
    Read(&'e str),
    NotJson(JsonError),
}

impl<'e> Evaluator<'_, 'e> {
    /// The message.
    pub fn event(&self) -> &'e Event<'e> {
        self.event
    }

    fn payload_text(&mut self) -> Result<&'e str, JsonError> {
        if let PayloadState::Unread = self.payload {
            self.payload = match std::str::from_utf8(self.event.payload) {
                Ok(text) => match self.scratch.payload.read(text) {
                    Ok(()) => PayloadState::Read(text),
                    Err(error) => PayloadState::NotJson(error),
                },
                Err(error) => PayloadState::NotJson(JsonError {
                    problem: JsonProblem::NotUtf8,
                    at: error.valid_up_to(),
                }),
            };
        }
        match self.payload {
            PayloadState::Read(text) => Ok(text),
            PayloadState::NotJson(error) => Err(error),
            PayloadState::Unread => unreachable!("it has just been read"),
        }
    }
}

/// The row that the program makes of the event, or nothing when its condition is false.
pub(crate) fn run<'r, 'e: 'r>(
    program: &'r Program,
    on: &mut Evaluator<'_, 'e>,
) -> Result<Option<Row<'r>>, EvalError> {
    let event: &'r Event<'r> = on.event;
    let meter = Meter::new(on.scratch.limits);
    let mut machine = Machine { program, on, meter, row: Row::new(event, program) };
    // The condition goes first: most messages of a filtering rule end there, before anything is made.
    let select_first = program.condition_reads_outputs;
    if select_first {
        machine.outputs()?;
    }
    if let Some(condition) = program.condition
        && !machine.condition(condition)?
    {
        return Ok(None);
    }
    if !select_first {
        machine.outputs()?;
    }
    Ok(Some(machine.row))
}

struct Machine<'m, 's, 'e, 'r> {
    program: &'r Program,
    on: &'m mut Evaluator<'s, 'e>,
    meter: Meter,
    row: Row<'r>,
}

impl<'e: 'r, 'r> Machine<'_, '_, 'e, 'r> {
    fn outputs(&mut self) -> Result<(), EvalError> {
        let program = self.program;
        self.row.reserve(program.slots.len());
        for output in &program.outputs {
            let value = self.eval(output.expr)?;
            self.write(output, value).map_err(|kind| EvalError { kind, span: output.span })?;
        }
        Ok(())
    }

    fn write(&mut self, output: &'r Output, value: Value<'r>) -> Result<(), EvalErrorKind> {
        if output.steps.is_empty() {
            self.meter.make(&value)?;
            self.row.set(output.slot, value);
            return Ok(());
        }
        self.meter.elements(output.steps.len())?;
        let mut target = match self.row.take(output.slot) {
            Some(existing) => existing,
            // Below `SELECT *` the event's own column is what is changed.
            None if self.program.star => self.row.event().column(&self.program.slots[output.slot]),
            None => Value::Undefined,
        };
        if *self.program.slots[output.slot] == *"payload"
            && let Value::Str(text) = &target
        {
            target = self.decode_text(text.clone())?.unwrap_or_default();
        }
        write_path::write(&mut target, &output.steps, value, &mut self.meter)?;
        self.meter.make(&target)?;
        self.row.set(output.slot, target);
        Ok(())
    }

    fn condition(&mut self, id: ExprId) -> Result<bool, EvalError> {
        let span = self.program.nodes[id.0 as usize].1;
        let value = self.eval(id)?;
        operators::truth(&value).map_err(|kind| EvalError { kind, span })
    }

    fn eval(&mut self, id: ExprId) -> Result<Value<'r>, EvalError> {
        let program = self.program;
        let (node, span) = &program.nodes[id.0 as usize];
        let here = |kind| EvalError { kind, span: *span };
        self.meter.step().map_err(here)?;
        match node {
            Node::Constant(value) => Ok(borrow(value)),
            Node::Variable(variable) => self.variable(variable).map_err(|e| e.at(*span)),
            Node::Negate(inner) => {
                let value = self.eval(*inner)?;
                operators::negate(&value).map_err(here)
            }
            Node::Not(inner) => Ok(Value::Bool(!self.condition(*inner)?)),
            Node::Binary(op, left, right) => {
                let (left, right) = (self.eval(*left)?, self.eval(*right)?);
                operators::binary(*op, &left, &right, &mut self.meter).map_err(here)
            }
            Node::All(list) => {
                for id in list {
                    if !self.condition(*id)? {
                        return Ok(Value::Bool(false));
                    }
                }
                Ok(Value::Bool(true))
            }
            Node::Any(list) => {
                for id in list {
                    if self.condition(*id)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            Node::In { needle, haystack, negated } => {
                let needle = self.eval(*needle)?;
                let mut found = false;
                for candidate in haystack {
                    let candidate = self.eval(*candidate)?;
                    self.meter.walk(&needle).and_then(|()| self.meter.walk(&candidate)).map_err(here)?;
                    if operators::same(&needle, &candidate) {
                        found = true;
                        break;
                    }
                }
                Ok(Value::Bool(found != *negated && !needle.is_undefined()))
            }
            Node::Call { function, args } => {
                if args.len() <= INLINE_ARGS {
                    let mut values = [const { Value::Undefined }; INLINE_ARGS];
                    for (value, arg) in values.iter_mut().zip(args) {
                        *value = self.eval(*arg)?;
                    }
                    function.run(&mut self.call_context(), &mut values[..args.len()]).map_err(here)
                } else {
                    let mut values = Vec::with_capacity(args.len());
                    for arg in args {
                        values.push(self.eval(*arg)?);
                    }
                    function.run(&mut self.call_context(), &mut values).map_err(here)
                }
            }
            Node::Case { subject, branches, otherwise } => {
                let subject = subject.map(|id| self.eval(id)).transpose()?;
                for (when, then) in branches {
                    let chosen = match &subject {
                        Some(subject) => {
                            let candidate = self.eval(*when)?;
                            self.meter
                                .walk(subject)
                                .and_then(|()| self.meter.walk(&candidate))
                                .map_err(here)?;
                            operators::same(subject, &candidate)
                        }
                        None => self.condition(*when)?,
                    };
                    if chosen {
                        return self.eval(*then);
                    }
                }
                otherwise.map_or(Ok(Value::Undefined), |id| self.eval(id))
            }
            Node::Array(list) => {
                let mut items = Vec::with_capacity(list.len());
                for id in list {
                    items.push(self.eval(*id)?);
                }
                let array = Value::array(items);
                self.meter.make(&array).map_err(here)?;
                Ok(array)
            }
            Node::Range(first, last) => {
                let (first, last) = (self.eval(*first)?, self.eval(*last)?);
                operators::range(&first, &last, &mut self.meter).map_err(here)
            }
        }
    }

    fn call_context(&mut self) -> Call<'_, 'r> {
        let scratch = &mut *self.on.scratch;
        Call {
            event: self.row.event(),
            meter: &mut self.meter,
            tape: &mut scratch.decoded,
            state: &mut scratch.functions,
        }
    }

    fn variable(&mut self, variable: &'r Variable) -> Result<Value<'r>, Failure> {
        if let Some(slot) = variable.slot
            && let Some(value) = self.row.slot(slot)
        {
            if let (Value::Str(Cow::Owned(text)), []) = (value, &*variable.steps) {
                self.meter.bytes(text.len())?;
            }
            let value = self.walk(value.clone(), &variable.steps)?;
            if !value.is_undefined() {
                return Ok(value);
            }
        }
        let event = self.row.event();
        match (variable.column, &*variable.steps) {
            (Some(Column::Payload), steps @ [_, ..]) if event.raw_payload().is_some() => self.payload(steps),
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

    /// A path into the payload, over the tape while the steps are plain.
    fn payload(&mut self, steps: &'r [ReadStep]) -> Result<Value<'r>, Failure> {
        let text: &'r str = self.on.payload_text().map_err(EvalErrorKind::NotJson)?;
        self.meter.scan(text.len())?;
        let tape = &self.on.scratch.payload;
        let (mut entry, mut rest) = (0, steps);
        while let [step, further @ ..] = rest {
            let found = match step {
                ReadStep::Key(key) => tape.member(entry, key, text),
                ReadStep::Index(index) => tape.element(entry, *index),
                ReadStep::Computed(_) | ReadStep::Slice(..) => break,
            };
            // A text may hold JSON itself: that is looked into as any other value.
            let Some(found) = found else {
                if tape.is_string(entry) {
                    break;
                }
                return self.walk(Value::Undefined, rest);
            };
            (entry, rest) = (found, further);
        }
        let value = tape.value(entry, text);
        self.walk(value, rest)
    }

    fn walk(&mut self, mut value: Value<'r>, steps: &'r [ReadStep]) -> Result<Value<'r>, Failure> {
        for step in steps {
            self.meter.step()?;
            match value {
                // A text that holds JSON is looked into; one that does not has no fields.
                Value::Str(text) => value = self.decode_text(text)?.unwrap_or_default(),
                Value::Json(json) => self.meter.scan(json.text().len())?,
                _ => {}
            }
            value = match step {
                ReadStep::Key(key) => value.get(key),
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

    fn decode_text(&mut self, text: Cow<'r, str>) -> Result<Option<Value<'r>>, EvalErrorKind> {
        Ok(self.call_context().decode(text)?.ok())
    }
}

/// A failure of this expression, whose place is still to be added, or of one inside it.
enum Failure {
    Here(EvalErrorKind),
    Inside(EvalError),
}

impl Failure {
    fn at(self, span: crate::diagnostic::Span) -> EvalError {
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

/// A constant without a copy of its text.
fn borrow<'r>(constant: &'r Value<'static>) -> Value<'r> {
    match constant {
        Value::Str(text) => Value::Str(Cow::Borrowed(text)),
        Value::BigNumber(digits) => Value::BigNumber(Cow::Borrowed(digits)),
        other => other.clone(),
    }
}
