//! Functions of arrays.

use super::{Call, count, elements};
use crate::error::EvalErrorKind as Error;
use crate::operators::{finite, integer, number, order, plus, same};
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

/// `sublist(length, array)` or `sublist(start, length, array)`, from 1. What lies beyond the end is left out.
pub(super) fn sublist<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "sublist()";
    let (start, length, array) = match args {
        [start, length, array] => (integer(start, NAME)?, integer(length, NAME)?, array),
        [length, array] => (1, integer(length, NAME)?, array),
        _ => return Ok(Value::Undefined),
    };
    let before = usize::try_from(start).ok().and_then(|start| start.checked_sub(1));
    let before = before.ok_or(Error::InvalidArgument { operation: NAME, expected: "a start from 1" })?;
    let length = usize::try_from(length)
        .map_err(|_| Error::InvalidArgument { operation: NAME, expected: "a length from 0" })?;
    let items = elements(call, array, NAME)?;
    Ok(Value::array(items.into_iter().skip(before).take(length).collect()))
}

/// The least of an array's elements or of several values, in the order in which `<` puts them.
pub(super) fn min<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Ok(several(call, args, "min()")?
        .into_iter()
        .reduce(|l, r| if order(&r, &l).is_lt() { r } else { l })
        .unwrap_or_default())
}

/// The greatest.
pub(super) fn max<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    Ok(several(call, args, "max()")?
        .into_iter()
        .reduce(|l, r| if order(&r, &l).is_gt() { r } else { l })
        .unwrap_or_default())
}

/// The sum of numbers: an integer where all of them are.
pub(super) fn sum<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let items = several(call, args, "sum()")?;
    total(&items, "sum()")
}

/// The mean of numbers, always a float; nothing where there are none.
pub(super) fn avg<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let items = several(call, args, "avg()")?;
    if items.is_empty() {
        return Ok(Value::Undefined);
    }
    #[expect(clippy::cast_precision_loss, reason = "no array has 2^53 elements")]
    let count = items.len() as f64;
    finite(number(&total(&items, "avg()")?, "avg()")?.as_f64() / count)
}

fn total<'r>(items: &[Value<'r>], operation: &'static str) -> Result<'r> {
    items.iter().try_fold(Value::Int(0), |sum, item| plus(&sum, item, operation))
}

/// An array's elements from the least to the greatest; equal ones stay in their order.
pub(super) fn sort<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let mut items = elements(call, &args[0], "sort()")?;
    // Each element is compared about as often as the length has bits, and comparing walks over both.
    for _ in 0..usize::BITS - items.len().leading_zeros() {
        call.meter.walk(&args[0])?;
        call.meter.steps(items.len())?;
    }
    items.sort_by(order);
    Ok(Value::array(items))
}

/// The elements of the only argument, or all arguments.
fn several<'r>(
    call: &mut Call<'_, 'r>,
    args: &mut [Value<'r>],
    operation: &'static str,
) -> std::result::Result<Vec<Value<'r>>, Error> {
    match args {
        [single] => {
            call.meter.walk(single)?;
            elements(call, single, operation)
        }
        several => {
            several.iter().try_for_each(|value| call.meter.walk(value))?;
            Ok(several.iter_mut().map(std::mem::take).collect())
        }
    }
}

/// Whether two values are equal without reading a text as anything else: 1 is 1.0 and not '1'.
pub(super) fn eq<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    call.meter.walk(&args[0])?;
    call.meter.walk(&args[1])?;
    let (left, right) = (&args[0], &args[1]);
    Ok(Value::Bool(left.is_undefined() == right.is_undefined() && order(left, right).is_eq()))
}

fn array<'v, 'r>(value: &'v Value<'r>, operation: &'static str) -> std::result::Result<&'v Value<'r>, Error> {
    let wrong = Error::WrongType { operation, expected: "an array", found: value.kind() };
    value.is_array().then_some(value).ok_or(wrong)
}

fn present<'r>(element: Value<'r>, operation: &'static str) -> Result<'r> {
    if element.is_undefined() { Err(Error::NoSuchElement { operation }) } else { Ok(element) }
}
