//! The functions that rules can call: one table, from which calls are resolved and mistakes explained.

mod collection;
mod convert;
mod kind;
mod message;
mod number;
mod random;
mod state;
mod store;
mod text;

use std::borrow::Cow;

use crate::error::EvalErrorKind as Error;
use crate::event::Event;
use crate::json::{self, JsonError, Tape};
use crate::meter::Meter;
use crate::value::{Map, Value};

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
    pub(crate) tape: &'c mut Tape,
    pub(crate) state: &'c mut State,
}

impl<'r> Call<'_, 'r> {
    /// The JSON value that a text is, if it is one.
    pub(crate) fn decode(&mut self, text: Cow<'r, str>) -> Result<Result<Value<'r>, JsonError>, Error> {
        // Reading costs a few times what stepping over does.
        self.meter.scan(text.len().saturating_mul(4))?;
        match text {
            Cow::Borrowed(text) => Ok(json::decode(text, self.tape)),
            Cow::Owned(text) => {
                self.meter.bytes(text.len())?;
                Ok(json::decode(&text, self.tape).map(Value::into_owned))
            }
        }
    }
}

/// More arguments than any rule's text has room for.
const ANY: usize = usize::MAX;

const fn function(name: &'static str, usage: &'static str, least: usize, most: usize, run: Run) -> Function {
    Function { name, usage, least, most, body: Body::Run(run) }
}

const fn test(name: &'static str, usage: &'static str, test: fn(&Value<'_>) -> bool) -> Function {
    Function { name, usage, least: 1, most: 1, body: Body::Test(test) }
}

const fn column(name: &'static str, usage: &'static str, column: &'static str) -> Function {
    Function { name, usage, least: 0, most: 0, body: Body::Column(column) }
}

static FUNCTIONS: &[Function] = &[
    function("abs", "abs(number)", 1, 1, number::abs),
    function("bool", "bool(value)", 1, 1, convert::bool),
    function("ceil", "ceil(number)", 1, 1, number::ceil),
    column("clientid", "clientid()", "clientid"),
    column("clientip", "clientip()", "peerhost"),
    function("coalesce", "coalesce(value, ...) or coalesce(array)", 1, ANY, collection::coalesce),
    function("coalesce_ne", "coalesce_ne(value, ...) or coalesce_ne(array)", 1, ANY, collection::coalesce_ne),
    function("concat", "concat(text, ...) or concat(array)", 1, ANY, text::concat),
    function("contains", "contains(element, array)", 2, 2, collection::contains),
    function("first", "first(array)", 1, 1, collection::first),
    function("flag", "flag(name)", 1, 1, message::flag),
    column("flags", "flags()", "flags"),
    function("float", "float(value) or float(value, decimals)", 1, 2, convert::float),
    function("floor", "floor(number)", 1, 1, number::floor),
    function("int", "int(value)", 1, 1, convert::int),
    test("is_array", "is_array(value)", kind::is_array),
    test("is_bool", "is_bool(value)", kind::is_bool),
    test("is_float", "is_float(value)", kind::is_float),
    test("is_int", "is_int(value)", kind::is_int),
    test("is_map", "is_map(value)", kind::is_map),
    test("is_not_null", "is_not_null(value)", kind::is_not_null),
    test("is_not_null_var", "is_not_null_var(value)", kind::is_not_null_var),
    test("is_null", "is_null(value)", kind::is_null),
    test("is_null_var", "is_null_var(value)", kind::is_null_var),
    test("is_num", "is_num(value)", kind::is_num),
    test("is_str", "is_str(value)", kind::is_str),
    function("json_decode", "json_decode(text)", 1, 1, convert::json_decode),
    function("json_encode", "json_encode(value)", 1, 1, convert::json_encode),
    function("last", "last(array)", 1, 1, collection::last),
    function("length", "length(array)", 1, 1, collection::length),
    function("lower", "lower(text)", 1, 1, text::lower),
    function("ltrim", "ltrim(text) or ltrim(text, characters)", 1, 2, text::ltrim),
    function("map_get", "map_get(path, object) or map_get(path, object, default)", 2, 3, collection::map_get),
    function("map_new", "map_new()", 0, 0, |_, _| Ok(Value::map(Map::new()))),
    function("map_size", "map_size(object)", 1, 1, collection::map_size),
    function("mget", "mget(name, object) or mget(name, object, default)", 2, 3, collection::mget),
    function("mod", "mod(integer, integer)", 2, 2, number::modulo),
    column("msgid", "msgid()", "id"),
    function("now_timestamp", "now_timestamp() or now_timestamp(unit)", 0, 1, message::now_timestamp),
    function("nth", "nth(position, array)", 2, 2, collection::nth),
    function("payload", "payload() or payload(path)", 0, 1, message::payload),
    column("peerhost", "peerhost()", "peerhost"),
    column("qos", "qos()", "qos"),
    function("round", "round(number)", 1, 1, number::round),
    function("rtrim", "rtrim(text) or rtrim(text, characters)", 1, 2, text::rtrim),
    function("split", "split(text, separator) or split(text, separator, mode)", 2, 3, text::split),
    function("str", "str(value)", 1, 1, convert::str),
    function("str_utf8", "str_utf8(value)", 1, 1, convert::str),
    function("strlen", "strlen(text)", 1, 1, text::strlen),
    function("substr", "substr(text, start) or substr(text, start, length)", 2, 3, text::substr),
    function("topic", "topic() or topic(level)", 0, 1, message::topic),
    function("trim", "trim(text) or trim(text, characters)", 1, 2, text::trim),
    function("upper", "upper(text)", 1, 1, text::upper),
    column("username", "username()", "username"),
];

/// The function of that name, in any case of letters.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name.eq_ignore_ascii_case(name))
}

pub(crate) fn all() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter()
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

    /// "1 argument", "2 to 3 arguments", "at least 1 argument", "no arguments".
    pub(crate) fn arity_text(&self) -> String {
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        match (self.least, self.most) {
            (0, 0) => "no arguments".to_owned(),
            (least, ANY) => format!("at least {least} {}", plural(least)),
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
