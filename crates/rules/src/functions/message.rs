//! Functions that read the message itself.

use super::{Call, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::integer;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// The topic, or one level of it, counted from 1.
pub(super) fn topic<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let Some(level) = args.first() else { return Ok(call.event.column("topic")) };
    let level = integer(level, "topic()")?;
    let at = usize::try_from(level).ok().and_then(|level| level.checked_sub(1));
    let at = at.ok_or(Error::InvalidArgument { operation: "topic()", expected: "a level from 1" })?;
    Ok(call.event.topic.split('/').nth(at).map_or(Value::Undefined, Value::from))
}

pub(super) fn flag<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let name = text(&mut args[0], "flag()")?;
    Ok(call.event.column("flags").get(&name))
}

/// The payload, or the value at a path of names separated by dots in it.
pub(super) fn payload<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let payload = call.event.column("payload");
    let Some(path) = args.first_mut() else { return Ok(payload) };
    let path = text(path, "payload()")?;
    let mut value = match payload {
        Value::Str(text) => call.decode(text)?.map_err(Error::NotJson)?,
        other => other,
    };
    for key in path.split('.') {
        call.meter.walk(&value)?;
        value = value.get(key);
    }
    Ok(value)
}
