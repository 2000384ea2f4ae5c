//! Functions that ask what a value is.

use crate::value::Value;

/// Missing. JSON's null is a value, and not missing.
pub(super) fn is_null(value: &Value<'_>) -> bool {
    value.is_undefined()
}

pub(super) fn is_not_null(value: &Value<'_>) -> bool {
    !is_null(value)
}

/// Missing, or JSON's null.
pub(super) fn is_null_var(value: &Value<'_>) -> bool {
    matches!(value, Value::Undefined | Value::Null)
}

pub(super) fn is_not_null_var(value: &Value<'_>) -> bool {
    !is_null_var(value)
}

pub(super) fn is_str(value: &Value<'_>) -> bool {
    matches!(value, Value::Str(_) | Value::Bytes(_))
}

pub(super) fn is_bool(value: &Value<'_>) -> bool {
    matches!(value, Value::Bool(_))
}

pub(super) fn is_int(value: &Value<'_>) -> bool {
    match value {
        Value::BigNumber(digits) => !digits.contains(['.', 'e', 'E']),
        other => matches!(other, Value::Int(_)),
    }
}

pub(super) fn is_float(value: &Value<'_>) -> bool {
    is_num(value) && !is_int(value)
}

pub(super) fn is_num(value: &Value<'_>) -> bool {
    matches!(value, Value::Int(_) | Value::Float(_) | Value::BigNumber(_))
}

pub(super) fn is_map(value: &Value<'_>) -> bool {
    value.is_map()
}

pub(super) fn is_array(value: &Value<'_>) -> bool {
    value.is_array()
}
