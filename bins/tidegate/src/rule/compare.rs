//! Whether a value is the expected one, and if not, where not.

use std::fmt::Write as _;

use tidegate_rules::{Map, Value};

/// Differences told of one case; the first ones say enough.
const MAX_DIFFERENCES: usize = 3;

/// What is compared and how strictly.
pub(super) struct Comparison {
    tolerance: f64,
    differences: Vec<String>,
}

impl Comparison {
    /// With a tolerance for floats.
    pub(super) fn new(tolerance: f64) -> Self {
        Self { tolerance, differences: Vec::new() }
    }

    /// The differences in one line; nothing where there are none.
    pub(super) fn finish(self) -> Result<(), String> {
        let left_out = self.differences.len().saturating_sub(MAX_DIFFERENCES);
        let mut text = self.differences.into_iter().take(MAX_DIFFERENCES).collect::<Vec<_>>().join("; ");
        if left_out > 0 {
            // Writing to a String does not fail.
            let _ = write!(text, "; and {left_out} more");
        }
        if text.is_empty() { Ok(()) } else { Err(text) }
    }

    /// Compares members. What is undefined counts as absent; others than the expected ones may be there if `subset`.
    pub(super) fn members(&mut self, place: &str, got: &Map<'_>, expected: &Map<'_>, subset: bool) {
        for (name, expected) in expected {
            let got = got.get(name).unwrap_or(&Value::Undefined);
            self.value(&format!("{place}.{name}"), got, expected);
        }
        if !subset {
            let unexpected =
                got.iter().filter(|(name, value)| !expected.contains_key(*name) && !value.is_undefined());
            for (name, value) in unexpected {
                self.differences.push(format!("{place}.{name}: expected nothing, got {}", shown(value)));
            }
        }
    }

    /// Compares strictly: 8 is not 8.0, a text no number, and what is missing not null.
    pub(super) fn value(&mut self, place: &str, got: &Value<'_>, expected: &Value<'_>) {
        if let Some((sentinel, argument)) = sentinel(expected) {
            let holds = match (sentinel, argument.as_str()) {
                ("$undefined", _) => got.is_undefined(),
                ("$null", _) => matches!(got, Value::Null),
                ("$bytes_hex", Some(digits)) => {
                    hexadecimal(got).is_some_and(|hex| hex.eq_ignore_ascii_case(digits))
                }
                // There is no value of a number of bits that does not fill bytes.
                _ => false,
            };
            if !holds {
                self.differ(place, got, expected);
            }
            return;
        }
        let same = match (got, expected) {
            (Value::Undefined, Value::Undefined) | (Value::Null, Value::Null) => true,
            (Value::Bool(got), Value::Bool(expected)) => got == expected,
            (Value::Int(got), Value::Int(expected)) => got == expected,
            (Value::Float(got), Value::Float(expected)) => {
                (got - expected).abs() <= self.tolerance || got.total_cmp(expected).is_eq()
            }
            (Value::Str(got), Value::Str(expected)) | (Value::BigNumber(got), Value::BigNumber(expected)) => {
                got == expected
            }
            _ => {
                if let (Some(got), Some(expected)) = (got.members(), expected.members()) {
                    return self.members(place, &got, &expected, false);
                }
                if let (Some(got), Some(expected)) = (got.elements(), expected.elements())
                    && got.len() == expected.len()
                {
                    for (position, (got, expected)) in got.iter().zip(&expected).enumerate() {
                        self.value(&format!("{place}[{}]", position + 1), got, expected);
                    }
                    return;
                }
                false
            }
        };
        if !same {
            self.differ(place, got, expected);
        }
    }

    fn differ(&mut self, place: &str, got: &Value<'_>, expected: &Value<'_>) {
        self.differences.push(format!("{place}: expected {}, got {}", shown(expected), shown(got)));
    }
}

/// A value that JSON does not have, written as an object with one member: `{"$undefined": true}`.
fn sentinel<'v>(expected: &Value<'v>) -> Option<(&'static str, Value<'v>)> {
    let members = expected.members()?;
    let [(name, argument)] = members.iter().collect::<Vec<_>>()[..] else { return None };
    let known = ["$undefined", "$null", "$bytes_hex", "$bits"].into_iter().find(|known| known == name)?;
    Some((known, argument.clone()))
}

fn hexadecimal(value: &Value<'_>) -> Option<String> {
    let bytes = match value {
        Value::Str(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        _ => return None,
    };
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    Some(digits)
}

/// A value for people, in one line.
pub(super) fn shown(value: &Value<'_>) -> String {
    match (value, hexadecimal(value)) {
        (Value::Undefined, _) => "nothing".to_owned(),
        (Value::Bytes(_), Some(digits)) => format!("the bytes {digits}"),
        _ => {
            let mut out = Vec::new();
            value.write_json(&mut out);
            String::from_utf8_lossy(&out).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(got: &str, expected: &str) -> Option<String> {
        let mut comparison = Comparison::new(0.0);
        comparison.value("r", &Value::from_json(got).unwrap(), &Value::from_json(expected).unwrap());
        comparison.finish().err()
    }

    #[test]
    fn only_what_is_written_the_same_is_equal() {
        for same in
            ["8", "8.0", "\"8\"", "null", "[1,[2]]", r#"{"a":{"b":1}}"#, "123456789012345678901234567890"]
        {
            assert_eq!(difference(same, same), None);
        }
        assert_eq!(difference("8.0", "8").unwrap(), "r: expected 8, got 8.0");
        assert_eq!(difference("\"8\"", "8").unwrap(), "r: expected 8, got \"8\"");
        assert_eq!(difference("[1,2]", "[1,3]").unwrap(), "r[2]: expected 3, got 2");
        assert_eq!(difference("[1,2]", "[1]").unwrap(), "r: expected [1], got [1,2]");
        assert_eq!(difference(r#"{"a":1,"b":2}"#, r#"{"a":1}"#).unwrap(), "r.b: expected nothing, got 2");
        assert_eq!(difference("{}", r#"{"a":null}"#).unwrap(), "r.a: expected null, got nothing");
    }

    #[test]
    fn sentinels_stand_for_what_json_does_not_have() {
        assert_eq!(difference("{}", r#"{"a":{"$undefined":true}}"#), None);
        assert!(difference(r#"{"a":null}"#, r#"{"a":{"$undefined":true}}"#).is_some());
        assert_eq!(difference("\"hi\"", r#"{"$bytes_hex":"6869"}"#), None);
        assert_eq!(difference("null", r#"{"$null":true}"#), None);
        assert!(difference("1", r#"{"$bits":"1"}"#).is_some());
    }

    #[test]
    fn a_long_list_of_differences_is_cut() {
        let text = difference("[1,2,3,4,5]", "[6,7,8,9,0]").unwrap();
        assert!(text.ends_with("; and 2 more"), "{text}");
    }
}
