//! Functions of objects. Each takes the JSON text of an object for the object.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Call, count, text};
use crate::error::EvalErrorKind as Error;
use crate::value::{Map, Value};

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// The object that a text holds; an object as it is. An empty array counts as an empty object.
pub(super) fn map<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    object(call, &mut args[0], "map()")
}

pub(super) fn map_size<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Ok(count(members(call, &mut args[0], "map_size()")?.len()))
}

/// Whether an array, an object, or the object that a text holds, has nothing in it.
pub(super) fn is_empty<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    if args[0].is_array() {
        return Ok(Value::Bool(super::elements(call, &args[0], "is_empty()")?.is_empty()));
    }
    if args[0].as_str() == Some("") {
        return Ok(Value::Bool(true));
    }
    Ok(Value::Bool(members(call, &mut args[0], "is_empty()")?.is_empty()))
}

/// The value at a path of names separated by dots, or the default where there is none.
pub(super) fn map_get<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let path = text(&mut args[0], "map_get()")?;
    let mut value = object_or_nothing(call, &mut args[1])?;
    for key in path.split('.') {
        call.meter.walk(&value)?;
        value = value.get(key);
    }
    Ok(or_default(value, args))
}

/// An object, or the one that a text holds; anything else has no members.
fn object_or_nothing<'r>(call: &mut Call<'_, 'r>, value: &mut Value<'r>) -> Result<'r> {
    match object(call, value, "") {
        Err(Error::NotJson(_) | Error::WrongType { .. }) => Ok(Value::Undefined),
        other => other,
    }
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

/// An object with a value at a path of names separated by dots. What is no object,
/// there and on the way, is replaced.
pub(super) fn map_put<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let path = text(&mut args[0], "map_put()")?;
    let value = std::mem::take(&mut args[1]);
    let object = object_or_nothing(call, &mut args[2])?;
    let names: Vec<String> = path.split('.').map(str::to_owned).collect();
    if names.len() > crate::MAX_PATH_STEPS {
        return Err(Error::InvalidArgument {
            operation: "map_put()",
            expected: "a path of at most 64 names",
        });
    }
    with(call, object, &names, value)
}

/// An object with a value under a name, dots and all.
pub(super) fn mput<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let name = text(&mut args[0], "mput()")?.into_owned();
    let value = std::mem::take(&mut args[1]);
    let object = object(call, &mut args[2], "mput()")?;
    with(call, object, &[name], value)
}

/// At most as deep as there are names.
fn with<'r>(call: &mut Call<'_, 'r>, object: Value<'r>, names: &[String], value: Value<'r>) -> Result<'r> {
    let Some((name, below)) = names.split_first() else { return Ok(value) };
    call.meter.make(&object)?;
    let mut map = match object {
        Value::Map(map) => Arc::unwrap_or_clone(map),
        Value::Json(json) if json.is_object() => json.to_map(),
        _ => Map::new(),
    };
    let inner = map.remove(&**name).unwrap_or_default();
    call.meter.elements(1)?;
    call.meter.bytes(name.len())?;
    let inner = with(call, inner, below, value)?;
    map.insert(Cow::Owned(name.clone()), inner);
    let made = Value::map(map);
    call.meter.make(&made)?;
    Ok(made)
}

pub(super) fn map_keys<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let members = members(call, &mut args[0], "map_keys()")?;
    made(call, members.into_keys().map(Value::Str).collect())
}

pub(super) fn map_values<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let members = members(call, &mut args[0], "map_values()")?;
    made(call, members.into_values().collect())
}

/// An array of `{"key": name, "value": value}`.
pub(super) fn map_to_entries<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let members = members(call, &mut args[0], "map_to_entries()")?;
    let entry = |(name, value)| {
        Value::map([("key".into(), Value::Str(name)), ("value".into(), value)].into_iter().collect())
    };
    made(call, members.into_iter().map(entry).collect())
}

/// Names and values in turn as texts, as Redis takes them. What is not a text, number or boolean is left out, and
/// so is everything where there is no object.
pub(super) fn map_to_redis_hset_args<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let members = match members(call, &mut args[0], "map_to_redis_hset_args()") {
        Ok(members) => members,
        Err(Error::NotJson(_) | Error::WrongType { .. }) => Map::new(),
        Err(error) => return Err(error),
    };
    let mut list = Vec::new();
    for (name, value) in members {
        let written = match value {
            Value::Str(text) => Value::Str(text),
            Value::Float(value) => super::convert::compact(value, 6).into(),
            Value::Int(_) | Value::BigNumber(_) | Value::Bool(_) => {
                crate::operators::join(&[&value], call.meter)?
            }
            _ => continue,
        };
        list.extend([Value::Str(name), written]);
    }
    made(call, list)
}

fn made<'r>(call: &mut Call<'_, 'r>, items: Vec<Value<'r>>) -> Result<'r> {
    let array = Value::array(items);
    call.meter.make(&array)?;
    Ok(array)
}

fn members<'r>(
    call: &mut Call<'_, 'r>,
    value: &mut Value<'r>,
    operation: &'static str,
) -> std::result::Result<Map<'r>, Error> {
    let map = object(call, value, operation)?;
    call.meter.walk(&map)?;
    Ok(match map {
        Value::Map(map) => Arc::unwrap_or_clone(map),
        Value::Json(json) => json.to_map(),
        _ => Map::new(),
    })
}

/// An object, or the text of one.
fn object<'r>(call: &mut Call<'_, 'r>, value: &mut Value<'r>, operation: &'static str) -> Result<'r> {
    let found = match std::mem::take(value) {
        Value::Str(text) => call.decode(text)?.map_err(Error::NotJson)?,
        other if other.is_array() && super::elements(call, &other, operation)?.is_empty() => {
            Value::map(Map::new())
        }
        other => other,
    };
    if found.is_map() {
        return Ok(found);
    }
    Err(Error::WrongType { operation, expected: "an object", found: found.kind() })
}
