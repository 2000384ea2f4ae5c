//! Places in values: what is there, and what a value is with something else in that place.

use std::borrow::Cow;
use std::sync::Arc;

use super::run::{Flow, Item, Machine, Out, error};
use super::value::{array, elements, members, order, type_name};
use crate::error::EvalErrorKind;
use crate::json::MAX_JSON_DEPTH;
use crate::meter::{MAX_VALUE_DEPTH, Meter};
use crate::value::{Map, Value};

/// The farthest that a place may lie beyond the end of an array, which is filled with null up to there.
const MAX_FILL: usize = 100_000;

/// The value under a key: a name in an object, a position in an array, a part of an array or text.
pub(super) fn get<'r>(meter: &mut Meter, value: &Value<'r>, key: &Value<'r>) -> Flow<'r, Value<'r>> {
    meter.step()?;
    if let Value::Json(json) = value {
        meter.scan(json.text().len())?;
    }
    let found = match (value, key) {
        (Value::Undefined | Value::Null, Value::Str(_) | Value::Int(_) | Value::Float(_)) => Value::Null,
        (Value::Undefined | Value::Null, key) if key.is_map() => Value::Null,
        (value, Value::Str(name)) if value.is_map() => value.get(name),
        (value, Value::Int(_) | Value::Float(_)) if value.is_array() => {
            let position = position(key);
            value.element(if position < 0 { position } else { position.saturating_add(1) })
        }
        (value, key) if value.is_array() && key.is_map() => {
            let items = array(meter, value, "a slice")?;
            let (from, to) = bounds(key, items.len())?;
            Value::array(items[from..to].to_vec())
        }
        (Value::Str(text), key) if key.is_map() => {
            meter.scan(text.len())?;
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let (from, to) = bounds(key, places.len() - 1)?;
            let part = &text[places[from]..places[to]];
            meter.bytes(part.len())?;
            part.to_owned().into()
        }
        (value, key) if value.is_array() && key.is_array() => indices(meter, value, key)?,
        (value, Value::Str(name)) => {
            return error(format!("Cannot index {} with \"{name}\"", type_name(value)));
        }
        (value, key) => {
            return error(format!("Cannot index {} with {}", type_name(value), type_name(key)));
        }
    };
    Ok(if found.is_undefined() { Value::Null } else { found })
}

/// A position from 0, or negative from the end.
fn position(key: &Value<'_>) -> i64 {
    match key {
        Value::Int(position) => *position,
        Value::Float(position) => position.floor() as i64,
        _ => 0,
    }
}

/// Where a slice begins and ends in so many elements.
fn bounds<'r>(key: &Value<'r>, len: usize) -> Flow<'r, (usize, usize)> {
    let place = |name: &str, default: usize| match key.get(name) {
        Value::Undefined | Value::Null => Ok(default),
        number @ (Value::Int(_) | Value::Float(_)) => {
            let at = position(&number);
            let from_end = || len.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX));
            Ok(usize::try_from(at).map_or_else(|_| from_end(), |at| at.min(len)))
        }
        _ => error("the ends of a slice have to be numbers"),
    };
    let (from, to) = (place("start", 0)?, place("end", len)?);
    Ok((from, to.max(from)))
}

/// The positions at which an array's elements, or a text's characters, are those of another one.
pub(super) fn indices<'r>(meter: &mut Meter, value: &Value<'r>, part: &Value<'r>) -> Flow<'r, Value<'r>> {
    let mut found = Vec::new();
    if let (Value::Str(text), Value::Str(part)) = (value, part) {
        meter.scan(text.len())?;
        let mut from = 0;
        while let Some(at) = if part.is_empty() { None } else { text[from..].find(&**part) } {
            // In characters, as jq 1.7 counts; each is looked through from the front.
            meter.scan(from + at)?;
            meter.elements(1)?;
            found.push(text[..from + at].chars().count());
            from += at + text[from + at..].chars().next().map_or(1, char::len_utf8);
        }
    } else if let Some(items) = elements(meter, value)? {
        let wanted = match elements(meter, part)? {
            Some(wanted) => wanted,
            None => vec![part.clone()],
        };
        for at in 0..items.len() {
            meter.step()?;
            meter.walk(part)?;
            let fits = |(item, wanted): (&Value<'_>, &Value<'_>)| order(item, wanted).is_eq();
            if !wanted.is_empty()
                && items.len() - at >= wanted.len()
                && items[at..].iter().zip(&wanted).all(fits)
            {
                found.push(at);
            }
        }
    } else {
        return Ok(Value::Null);
    }
    Ok(Value::array(found.into_iter().map(|at| Value::Int(i64::try_from(at).unwrap_or(i64::MAX))).collect()))
}

/// The values in an array or object, one after the other.
pub(super) fn iterate<'r>(machine: &mut Machine<'_>, item: &Item<'r>, out: Out<'_, 'r>) -> Flow<'r> {
    if let Some(items) = elements(machine.meter, &item.value)? {
        for (position, value) in items.into_iter().enumerate() {
            let key = Value::Int(i64::try_from(position).unwrap_or(i64::MAX));
            out(machine, item.step(key, value))?;
        }
        return Ok(());
    }
    let Some(map) = members(machine.meter, &item.value)? else {
        return error(format!("Cannot iterate over {}", type_name(&item.value)));
    };
    for (name, value) in map {
        out(machine, item.step(Value::Str(name), value))?;
    }
    Ok(())
}

pub(super) fn get_path<'r>(
    meter: &mut Meter,
    mut value: Value<'r>,
    path: &[Value<'r>],
) -> Flow<'r, Value<'r>> {
    for key in path {
        if matches!(value, Value::Undefined | Value::Null) {
            return Ok(Value::Null);
        }
        value = get(meter, &value, key)?;
    }
    Ok(value)
}

/// The value with another one in that place; arrays and objects on the way are made. What nobody else holds is
/// changed where it is, so that a program can change every element of an array.
pub(super) fn set<'r>(
    meter: &mut Meter,
    value: Value<'r>,
    path: &[Value<'r>],
    new: Value<'r>,
) -> Flow<'r, Value<'r>> {
    if path.len() > MAX_JSON_DEPTH {
        return Err(EvalErrorKind::TooDeep.into());
    }
    meter.make_within(&new, MAX_VALUE_DEPTH - path.len())?;
    put(meter, value, path, new)
}

fn put<'r>(meter: &mut Meter, value: Value<'r>, path: &[Value<'r>], new: Value<'r>) -> Flow<'r, Value<'r>> {
    let Some((key, rest)) = path.split_first() else { return Ok(new) };
    meter.step()?;
    let is_null = matches!(value, Value::Undefined | Value::Null);
    match key {
        Value::Str(name) if is_null || value.is_map() => {
            let mut map = own_map(meter, value)?;
            let members = Arc::make_mut(&mut map);
            let before = members.get_mut(&**name).map(std::mem::take).unwrap_or_default();
            let after = put(meter, before, rest, new)?;
            meter.bytes(name.len())?;
            members.insert(Cow::Owned(name.to_string()), after);
            Ok(Value::Map(map))
        }
        Value::Int(_) | Value::Float(_) if is_null || value.is_array() => {
            let mut array = own_array(meter, value)?;
            let items = Arc::make_mut(&mut array);
            let Some(at) = place(key, items.len()) else {
                return error("Out of bounds negative array index");
            };
            if at >= items.len().saturating_add(MAX_FILL) {
                return error("Array index too large");
            }
            if at >= items.len() {
                meter.elements(at - items.len() + 1)?;
                items.resize(at + 1, Value::Null);
            }
            items[at] = put(meter, std::mem::take(&mut items[at]), rest, new)?;
            Ok(Value::Array(array))
        }
        key if key.is_map() && (is_null || value.is_array()) => {
            let items = elements(meter, &value)?.unwrap_or_default();
            let (from, to) = bounds(key, items.len())?;
            let after = put(meter, Value::array(items[from..to].to_vec()), rest, new)?;
            let Some(middle) = elements(meter, &after)? else {
                return error("A slice of an array can only be assigned another array");
            };
            let (front, back) = (items[..from].iter().cloned(), items[to..].iter().cloned());
            Ok(Value::array(front.chain(middle).chain(back).collect()))
        }
        key => error(format!("Cannot update {} at {}", type_name(&value), type_name(key))),
    }
}

/// A position in so many elements; none where it lies before the first.
fn place(key: &Value<'_>, len: usize) -> Option<usize> {
    let at = position(key);
    let from_front = if at < 0 { at.saturating_add(i64::try_from(len).unwrap_or(i64::MAX)) } else { at };
    usize::try_from(from_front).ok()
}

/// An array that can be changed; its elements are charged for if they have to be copied.
fn own_array<'r>(meter: &mut Meter, value: Value<'r>) -> Flow<'r, Arc<Vec<Value<'r>>>> {
    match value {
        Value::Array(items) if Arc::strong_count(&items) == 1 => Ok(items),
        other => Ok(Arc::new(elements(meter, &other)?.unwrap_or_default())),
    }
}

fn own_map<'r>(meter: &mut Meter, value: Value<'r>) -> Flow<'r, Arc<Map<'r>>> {
    match value {
        Value::Map(map) if Arc::strong_count(&map) == 1 => Ok(map),
        other => Ok(Arc::new(members(meter, &other)?.unwrap_or_default())),
    }
}

/// The value without what is in those places. The last ones go first, so that none moves another.
pub(super) fn delete_all<'r>(
    meter: &mut Meter,
    mut value: Value<'r>,
    paths: Vec<Vec<Value<'r>>>,
) -> Flow<'r, Value<'r>> {
    let mut paths: Vec<Value<'r>> = paths.into_iter().map(Value::array).collect();
    paths.iter().try_for_each(|path| meter.walk(path))?;
    paths.sort_by(|l, r| order(r, l));
    for path in paths {
        value = delete(meter, value, &path.elements().unwrap_or_default())?;
    }
    Ok(value)
}

fn delete<'r>(meter: &mut Meter, value: Value<'r>, path: &[Value<'r>]) -> Flow<'r, Value<'r>> {
    let Some((key, rest)) = path.split_first() else { return Ok(Value::Null) };
    meter.step()?;
    if matches!(value, Value::Undefined | Value::Null) {
        return Ok(Value::Null);
    }
    match key {
        Value::Str(name) if value.is_map() => {
            let mut map = own_map(meter, value)?;
            let members = Arc::make_mut(&mut map);
            if rest.is_empty() {
                members.remove(name);
            } else if let Some(inner) = members.get_mut(name) {
                *inner = delete(meter, std::mem::take(inner), rest)?;
            }
            Ok(Value::Map(map))
        }
        Value::Int(_) | Value::Float(_) if value.is_array() => {
            let mut array = own_array(meter, value)?;
            let items = Arc::make_mut(&mut array);
            if let Some(at) = place(key, items.len()).filter(|at| *at < items.len()) {
                if rest.is_empty() {
                    meter.scan(items.len() - at)?;
                    items.remove(at);
                } else {
                    items[at] = delete(meter, std::mem::take(&mut items[at]), rest)?;
                }
            }
            Ok(Value::Array(array))
        }
        key if key.is_map() && value.is_array() => {
            let mut items = elements(meter, &value)?.unwrap_or_default();
            let (from, to) = bounds(key, items.len())?;
            if rest.is_empty() {
                items.drain(from..to);
                return Ok(Value::array(items));
            }
            let inner = delete(meter, Value::array(items[from..to].to_vec()), rest)?;
            let Some(middle) = elements(meter, &inner)? else { return Ok(Value::array(items)) };
            items.splice(from..to, middle);
            Ok(Value::array(items))
        }
        key => error(format!("Cannot delete {} of {}", type_name(key), type_name(&value))),
    }
}
