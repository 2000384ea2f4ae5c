//! Running a program over one event.

mod nested;
mod read;
mod rows;

use std::borrow::Cow;

use self::nested::Nested;
use crate::diagnostic::Span;
use crate::error::{EvalError, EvalErrorKind};
use crate::event::Event;
use crate::functions::{Call, State};
use crate::json::{JsonError, JsonProblem, Level};
use crate::meter::{EvalLimits, Meter};
use crate::operators;
use crate::program::{ExprId, Node, Program};
use crate::row::Row;
use crate::value::{Map, Value};

/// Arguments that are passed without an allocation.
const INLINE_ARGS: usize = 4;

/// The memory that evaluations use again and again: one for each thread or connection.
#[derive(Debug, Default)]
pub struct EvalScratch {
    /// Where the values of this message's payload are.
    payload: Level,
    /// The same of objects and arrays inside it.
    nested: Nested,
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
        self.nested.clear();
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
    /// The scratch holds where the values of this text are.
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

/// What a program made of an event.
#[derive(Debug)]
pub(crate) enum Made<'r> {
    /// Nothing, because the condition is false.
    Filtered,
    One(Row<'r>),
    /// Of FOREACH; or none, because a window took the event.
    Many(Vec<Row<'r>>),
}

/// What the program makes of the event.
pub(crate) fn run<'r, 'e: 'r>(
    program: &'r Program,
    on: &mut Evaluator<'_, 'e>,
) -> Result<Made<'r>, EvalError> {
    if program.is_stateful() {
        return Err(EvalError { kind: EvalErrorKind::NeedsState, span: Span::default() });
    }
    if program.passes_events_on() {
        return Ok(Made::One(Row::new(on.event, program, Vec::new())));
    }
    let mut machine = Machine::new(program, on);
    if machine.is_selected()? { machine.rows() } else { Ok(Made::Filtered) }
}

pub(crate) struct Machine<'m, 's, 'e, 'r> {
    pub(crate) program: &'r Program,
    on: &'m mut Evaluator<'s, 'e>,
    pub(crate) meter: Meter,
    event: &'r Event<'r>,
    /// In the order of the program; the last ones may still be missing.
    slots: Vec<Value<'r>>,
    /// The elements that map() and filter() are at, the innermost last.
    locals: Vec<Value<'r>>,
    /// Of each lag() and changed(): the value before, and whether this one is another.
    pub(crate) history: Vec<(Value<'r>, bool)>,
    /// The window that is being closed.
    pub(crate) closing: Option<&'r Closing>,
    /// Whether the outputs of SELECT or the lists of FOREACH have been made for the condition.
    outputs_made: bool,
    /// What FOREACH walks.
    collection: Value<'r>,
}

/// A window that is being closed: its keys and what was made of its messages.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) keys: Vec<Value<'static>>,
    pub(crate) aggregates: Vec<Value<'static>>,
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
}

impl<'m, 's, 'e: 'r, 'r> Machine<'m, 's, 'e, 'r> {
    pub(crate) fn new(program: &'r Program, on: &'m mut Evaluator<'s, 'e>) -> Self {
        Self {
            program,
            meter: Meter::new(on.scratch.limits),
            event: on.event,
            on,
            slots: Vec::new(),
            locals: Vec::new(),
            history: Vec::new(),
            closing: None,
            outputs_made: false,
            collection: Value::Undefined,
        }
    }

    /// Begins anew with the limits, for something that is looked at by itself.
    pub(crate) fn refuel(&mut self) {
        self.meter = Meter::new(self.on.scratch.limits);
    }

    /// Whether the condition is true. It goes first: most messages of a filtering rule end there, before anything is
    /// made.
    pub(crate) fn is_selected(&mut self) -> Result<bool, EvalError> {
        let program = self.program;
        if program.condition_reads_outputs {
            self.first_outputs()?;
        }
        program.condition.map_or(Ok(true), |condition| self.condition(condition))
    }

    /// The rows of an event that is selected.
    pub(crate) fn rows(&mut self) -> Result<Made<'r>, EvalError> {
        let program = self.program;
        self.make_outputs()?;
        match &program.foreach {
            None => Ok(Made::One(self.finished())),
            Some(foreach) => self.walk_collection(foreach).map(Made::Many),
        }
    }

    /// Evaluates the outputs before a condition that may read them.
    pub(crate) fn make_outputs(&mut self) -> Result<(), EvalError> {
        if self.outputs_made { Ok(()) } else { self.first_outputs() }
    }

    /// The outputs as they stand, for a row that outlives the event.
    pub(crate) fn into_outputs(mut self) -> Result<Vec<Value<'r>>, EvalError> {
        self.make_outputs()?;
        Ok(self.slots)
    }

    pub(crate) fn condition(&mut self, id: ExprId) -> Result<bool, EvalError> {
        let span = self.program.nodes[id.0 as usize].1;
        let value = self.eval(id)?;
        operators::truth(&value).map_err(|kind| EvalError { kind, span })
    }

    pub(crate) fn eval(&mut self, id: ExprId) -> Result<Value<'r>, EvalError> {
        let program = self.program;
        let (node, span) = &program.nodes[id.0 as usize];
        let here = |kind| EvalError { kind, span: *span };
        self.meter.step().map_err(here)?;
        match node {
            Node::Constant(value) => Ok(value.borrowed()),
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
            Node::Like { value, pattern, negated } => {
                let (value, pattern) = (self.eval(*value)?, self.eval(*pattern)?);
                let matches = operators::like(&value, &pattern, &mut self.meter).map_err(here)?;
                Ok(Value::Bool(matches.is_some_and(|matches| matches != *negated)))
            }
            Node::Between { value, low, high, negated } => {
                let value = self.eval(*value)?;
                let (low, high) = (self.eval(*low)?, self.eval(*high)?);
                if [&value, &low, &high].into_iter().any(Value::is_undefined) {
                    return Ok(Value::Bool(false));
                }
                let within = operators::is_between(&value, &low, &high, &mut self.meter).map_err(here)?;
                Ok(Value::Bool(within != *negated))
            }
            Node::IsNull { value, negated } => {
                let is_null = matches!(self.eval(*value)?, Value::Undefined | Value::Null);
                Ok(Value::Bool(is_null != *negated))
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
            Node::Object(members) => {
                let mut map = Map::new();
                for (name, value) in members {
                    let value = self.eval(*value)?;
                    if !value.is_undefined() {
                        map.insert(Cow::Borrowed(&**name), value);
                    }
                }
                let object = Value::map(map);
                self.meter.make(&object).map_err(here)?;
                Ok(object)
            }
            Node::Range(first, last) => {
                let (first, last) = (self.eval(*first)?, self.eval(*last)?);
                operators::range(&first, &last, &mut self.meter).map_err(here)
            }
            Node::Map { array, body } => self.over_elements(*array, *span, |this, _, made| {
                made.push(this.eval(*body)?);
                Ok(())
            }),
            Node::Filter { array, body } => self.over_elements(*array, *span, |this, element, made| {
                if this.condition(*body)? {
                    made.push(element);
                }
                Ok(())
            }),
            Node::Previous(at) => {
                Ok(self.history.get(*at).map(|(value, _)| value.clone()).unwrap_or_default())
            }
            Node::Changed(at) => Ok(Value::Bool(self.history.get(*at).is_some_and(|(_, changed)| *changed))),
            Node::Key(at) => {
                Ok(self.closing.and_then(|c| c.keys.get(*at)).map(Value::borrowed).unwrap_or_default())
            }
            Node::Aggregate(at) => {
                Ok(self.closing.and_then(|c| c.aggregates.get(*at)).map(Value::borrowed).unwrap_or_default())
            }
            Node::WindowStart => Ok(self.closing.map_or(Value::Undefined, |c| c.start_ms.into())),
            Node::WindowEnd => Ok(self.closing.map_or(Value::Undefined, |c| c.end_ms.into())),
        }
    }

    /// What `each` makes of an array's elements, each of them the innermost local variable in turn.
    fn over_elements(
        &mut self,
        array: ExprId,
        span: Span,
        mut each: impl FnMut(&mut Self, Value<'r>, &mut Vec<Value<'r>>) -> Result<(), EvalError>,
    ) -> Result<Value<'r>, EvalError> {
        let here = |kind| EvalError { kind, span };
        let array = match self.eval(array)? {
            Value::Str(text) => self.decode_text(text).map_err(here)?.unwrap_or_default(),
            other => other,
        };
        if array.is_undefined() {
            return Ok(Value::Undefined);
        }
        self.meter.walk(&array).map_err(here)?;
        let wrong = || EvalErrorKind::WrongType {
            operation: "map() or filter()",
            expected: "an array",
            found: array.kind(),
        };
        let elements = array.elements().ok_or_else(|| here(wrong()))?;
        self.meter.elements(elements.len()).map_err(here)?;
        let mut made = Vec::new();
        for element in elements {
            self.locals.push(element.clone());
            let done = each(self, element, &mut made);
            self.locals.pop();
            done?;
        }
        let made = Value::array(made);
        self.meter.make(&made).map_err(here)?;
        Ok(made)
    }

    fn call_context(&mut self) -> Call<'_, 'r> {
        let scratch = &mut *self.on.scratch;
        Call { event: self.event, meter: &mut self.meter, state: &mut scratch.functions }
    }
}
