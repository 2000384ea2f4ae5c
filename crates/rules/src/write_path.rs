//! `AS a.b[2]`: writing into the middle of an output.

use std::sync::Arc;

use crate::error::EvalErrorKind as Error;
use crate::meter::Meter;
use crate::program::WriteStep;
use crate::value::{Map, Value};

/// Puts `value` at a place in `target`, making objects and arrays on the way where there are none.
///
/// What is already an object or array keeps its other members. Anything else in the way is replaced. An element
/// that an array does not have is not written.
pub(crate) fn write<'a>(
    target: &mut Value<'a>,
    steps: &'a [WriteStep],
    value: Value<'a>,
    meter: &mut Meter,
) -> Result<(), Error> {
    let Some((step, below)) = steps.split_first() else {
        *target = value;
        return Ok(());
    };
    match step {
        WriteStep::Key(key) => {
            let map = as_map(target, meter)?;
            if let Some(member) = map.get_mut(&**key) {
                return write(member, below, value, meter);
            }
            let mut member = Value::Undefined;
            write(&mut member, below, value, meter)?;
            map.insert((&**key).into(), member);
            Ok(())
        }
        WriteStep::Prepend | WriteStep::Append | WriteStep::Index(_) => {
            let is_new = !target.is_array();
            let items = as_array(target, meter)?;
            let at = match step {
                WriteStep::Prepend => None,
                WriteStep::Append => Some(items.len()),
                WriteStep::Index(_) if is_new => Some(0),
                WriteStep::Index(index) => match position(*index, items.len()) {
                    Some(at) => return write(&mut items[at], below, value, meter),
                    None => return Ok(()),
                },
                WriteStep::Key(_) => return Ok(()),
            };
            let mut element = Value::Undefined;
            write(&mut element, below, value, meter)?;
            items.insert(at.unwrap_or(0), element);
            Ok(())
        }
    }
}

/// The place of an element, from 1 or negative from the end, in an array of that length.
fn position(index: i64, len: usize) -> Option<usize> {
    let at = match usize::try_from(index) {
        Ok(index) => index.checked_sub(1)?,
        Err(_) => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    (at < len).then_some(at)
}

fn as_map<'t, 'a>(target: &'t mut Value<'a>, meter: &mut Meter) -> Result<&'t mut Map<'a>, Error> {
    if !matches!(target, Value::Map(_)) {
        let members = target.members().map(std::borrow::Cow::into_owned).unwrap_or_default();
        *target = Value::map(members);
    }
    match target {
        Value::Map(map) => {
            // A shared object is copied before it is changed.
            meter.elements(map.len())?;
            Ok(Arc::make_mut(map))
        }
        _ => unreachable!("it has just been made an object"),
    }
}

fn as_array<'t, 'a>(target: &'t mut Value<'a>, meter: &mut Meter) -> Result<&'t mut Vec<Value<'a>>, Error> {
    if !matches!(target, Value::Array(_)) {
        let items = target.elements().unwrap_or_default();
        *target = Value::array(items);
    }
    match target {
        Value::Array(items) => {
            // A shared array is copied before it is changed.
            meter.elements(items.len())?;
            Ok(Arc::make_mut(items))
        }
        _ => unreachable!("it has just been made an array"),
    }
}
