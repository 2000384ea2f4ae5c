//! Functions of arrays and objects.

use super::{Call, count, elements, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::{integer, same};
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// The element at a position from 1.
pub(super) fn nth<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let position = integer(&args[0], "nth()")?;
    let array = array(&args[1], "nth()")?;
    let element = if position > 0 { array.element(position) } else { Value::Undefined };
    present(element, "nth()")
}

pub(super) fn first<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    present(array(&args[0], "first()")?.element(1), "first()")
}

pub(super) fn last<'r>(_: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    present(array(&args[0], "last()")?.element(-1), "last()")
}

pub(super) fn length<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Ok(count(elements(call, &args[0], "length()")?.len()))
}

/// Whether an array has an element, which must be of the same kind.
pub(super) fn contains<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    call.meter.walk(&args[1])?;
    call.meter.walk(&args[0])?;
    let items = elements(call, &args[1], "contains()")?;
    Ok(Value::Bool(items.iter().any(|item| same(&args[0], item))))
}

/// The first of several values, or of an array's, that is there.
pub(super) fn coalesce<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    first_where(call, args, "coalesce()", |value| !value.is_undefined())
}

/// The first that is there and not an empty text.
pub(super) fn coalesce_ne<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    first_where(call, args, "coalesce_ne()", |value| !value.is_undefined() && value.as_str() != Some(""))
}

fn first_where<'r>(
    call: &mut Call<'_, 'r>,
    args: &mut [Value<'r>],
    name: &'static str,
    wanted: fn(&Value<'_>) -> bool,
) -> Result<'r> {
    if let [single] = args
        && single.is_array()
    {
        return Ok(elements(call, single, name)?.into_iter().find(wanted).unwrap_or_default());
    }
    Ok(args.iter_mut().find(|value| wanted(value)).map(std::mem::take).unwrap_or_default())
}

pub(super) fn map_size<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let map = object(call, &mut args[0], "map_size()")?;
    call.meter.walk(&map)?;
    Ok(count(map.members().map_or(0, |members| members.len())))
}

/// The value at a path of names separated by dots, or the default where there is none.
pub(super) fn map_get<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let path = text(&mut args[0], "map_get()")?;
    let mut value = object(call, &mut args[1], "map_get()")?;
    for key in path.split('.') {
        call.meter.walk(&value)?;
        value = value.get(key);
    }
    Ok(or_default(value, args))
}

/// The value under a name, dots and all, or the default where there is none.
pub(super) fn mget<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let map = object(call, &mut args[1], "mget()")?;
    call.meter.walk(&map)?;
    let value = args[0].as_str().map_or(Value::Undefined, |key| map.get(key));
    Ok(or_default(value, args))
}

fn or_default<'r>(value: Value<'r>, args: &mut [Value<'r>]) -> Value<'r> {
    if value.is_undefined() { args.get_mut(2).map(std::mem::take).unwrap_or_default() } else { value }
}

/// An object, or the text of one.
fn object<'r>(call: &mut Call<'_, 'r>, value: &mut Value<'r>, operation: &'static str) -> Result<'r> {
    let found = match std::mem::take(value) {
        Value::Str(text) => call.decode(text)?.map_err(Error::NotJson)?,
        other => other,
    };
    if found.is_map() {
        return Ok(found);
    }
    Err(Error::WrongType { operation, expected: "an object", found: found.kind() })
}

fn array<'v, 'r>(value: &'v Value<'r>, operation: &'static str) -> std::result::Result<&'v Value<'r>, Error> {
    let wrong = Error::WrongType { operation, expected: "an array", found: value.kind() };
    value.is_array().then_some(value).ok_or(wrong)
}

fn present<'r>(element: Value<'r>, operation: &'static str) -> Result<'r> {
    if element.is_undefined() { Err(Error::NoSuchElement { operation }) } else { Ok(element) }
}
