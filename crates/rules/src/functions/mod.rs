//! The functions that rules can call: one table, from which calls are resolved and mistakes explained.

mod bits;
mod collection;
mod compress;
mod convert;
mod edit;
mod encode;
mod format;
mod hash;
mod jq;
mod kind;
mod math;
mod message;
mod number;
mod object;
mod pattern;
mod random;
mod state;
mod store;
mod table;
mod text;
mod time;

use std::borrow::Cow;

use crate::error::EvalErrorKind as Error;
use crate::event::Event;
use crate::json::{self, JsonError};
use crate::meter::Meter;
use crate::value::Value;

pub(crate) use self::state::State;
pub use self::store::{KeyValues, MemoryStore};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// How it is called, for people.
    pub(crate) usage: &'static str,
    least: usize,
    most: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// A question about one value.
    Test(fn(&Value<'_>) -> bool),
    /// A column of the event.
    Column(&'static str),
    Run(Run),
}

/// The arguments may be taken out of the slice; their number was checked against the table.
type Run = for<'c, 'r> fn(&mut Call<'c, 'r>, &mut [Value<'r>]) -> Result<Value<'r>, Error>;

/// What a function has beside its arguments.
#[derive(Debug)]
pub(crate) struct Call<'c, 'r> {
    pub(crate) event: &'r Event<'r>,
    pub(crate) meter: &'c mut Meter,
    pub(crate) state: &'c mut State,
}

impl<'r> Call<'_, 'r> {
    /// The JSON value that a text is, if it is one.
    pub(crate) fn decode(&mut self, text: Cow<'r, str>) -> Result<Result<Value<'r>, JsonError>, Error> {
        // Reading costs a few times what stepping over does.
        self.meter.scan(text.len().saturating_mul(4))?;
        match text {
            Cow::Borrowed(text) => Ok(json::decode(text)),
            Cow::Owned(text) => {
                self.meter.bytes(text.len())?;
                Ok(json::decode(&text).map(Value::into_owned))
            }
        }
    }
}

/// The function of that name, in any case of letters.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    table::FUNCTIONS.iter().find(|f| f.name.eq_ignore_ascii_case(name))
}

pub(crate) fn all() -> impl Iterator<Item = &'static Function> {
    table::FUNCTIONS.iter()
}

impl Function {
    pub(crate) fn run<'r>(
        &self,
        call: &mut Call<'_, 'r>,
        args: &mut [Value<'r>],
    ) -> Result<Value<'r>, Error> {
        match (&self.body, &mut *args) {
            (Body::Test(test), [value]) => Ok(Value::Bool(test(value))),
            (Body::Column(column), _) => Ok(call.event.column(column)),
            (Body::Run(run), args) => run(call, args),
            (Body::Test(_), _) => Ok(Value::Undefined),
        }
    }

    pub(crate) fn takes(&self, arguments: usize) -> bool {
        (self.least..=self.most).contains(&arguments)
    }

    /// What is wrong with an argument that is the same for every message: its position and why.
    pub(crate) fn check_constant(&self, position: usize, value: &Value<'_>) -> Option<String> {
        if position == 0 && self.name == "jq" {
            return jq::compile(value.as_str()?).err();
        }
        let pattern = value.as_str().filter(|_| position == 1 && self.name.starts_with("regex_"))?;
        let error = state::compile_pattern(pattern).err()?;
        // The library shows the pattern with a caret in several lines; its last one is the cause.
        let cause = error.to_string();
        let cause = cause.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Some(format!("this pattern can't be used: {cause}"))
    }

    /// "1 argument", "2 to 3 arguments", "at least 1 argument", "no arguments".
    pub(crate) fn arity_text(&self) -> String {
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        match (self.least, self.most) {
            (0, 0) => "no arguments".to_owned(),
            (least, table::ANY) => format!("at least {least} {}", plural(least)),
            (least, most) if least == most => format!("{least} {}", plural(least)),
            (least, most) => format!("{least} to {most} arguments"),
        }
    }
}

/// Takes a text argument.
fn text<'r>(value: &mut Value<'r>, operation: &'static str) -> Result<Cow<'r, str>, Error> {
    match std::mem::take(value) {
        Value::Str(text) => Ok(text),
        other => Err(Error::WrongType { operation, expected: "a text", found: other.kind() }),
    }
}

/// Takes the text that a function is about. A boolean is its name there.
fn subject<'r>(value: &mut Value<'r>, operation: &'static str) -> Result<Cow<'r, str>, Error> {
    match value {
        Value::Bool(true) => Ok(Cow::Borrowed("true")),
        Value::Bool(false) => Ok(Cow::Borrowed("false")),
        value => text(value, operation),
    }
}

/// The bytes of an argument: a text's in UTF-8, or bytes.
fn bytes<'v>(value: &'v Value<'_>, operation: &'static str) -> Result<&'v [u8], Error> {
    match value {
        Value::Str(text) => Ok(text.as_bytes()),
        Value::Bytes(bytes) => Ok(bytes),
        other => Err(Error::WrongType { operation, expected: "a text or bytes", found: other.kind() }),
    }
}

/// An argument's elements.
fn elements<'r>(
    call: &mut Call<'_, 'r>,
    value: &Value<'r>,
    operation: &'static str,
) -> Result<Vec<Value<'r>>, Error> {
    let wrong = Error::WrongType { operation, expected: "an array", found: value.kind() };
    let items = value.elements().ok_or(wrong)?;
    call.meter.elements(items.len())?;
    Ok(items)
}

/// A number of things as a value.
fn count<'r>(things: usize) -> Value<'r> {
    Value::Int(i64::try_from(things).unwrap_or(i64::MAX))
}
