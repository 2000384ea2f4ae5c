//! What an expression can be: JSON's values, bytes, and the absence of one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use crate::json::{JsonError, RawJson, decode, write_f64, write_string};

/// An object that a rule has made or changed, ordered by name.
pub type Map<'a> = BTreeMap<Cow<'a, str>, Value<'a>>;

/// One value. Strings and untouched parts of a payload are borrowed from the message.
///
/// Integers and floats are different: 8 is not 8.0, and each leaves a rule as it came in.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub enum Value<'a> {
    /// Nothing is there: a field that the payload lacks, a column that the event lacks.
    #[default]
    Undefined,
    /// JSON's null, which is a value.
    Null,
    /// true or false.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A number that neither `i64` nor `f64` holds, as written.
    BigNumber(Cow<'a, str>),
    /// A floating-point number, never infinite.
    Float(f64),
    /// A text.
    Str(Cow<'a, str>),
    /// Bytes that are not UTF-8, or are not meant to be a text.
    Bytes(Cow<'a, [u8]>),
    /// A part of a payload, or all of it, that no rule has changed.
    Json(RawJson<'a>),
    /// An array that a rule has made or changed.
    Array(Arc<Vec<Value<'a>>>),
    /// An object that a rule has made or changed.
    Map(Arc<Map<'a>>),
}

impl<'a> Value<'a> {
    /// A text where the bytes are UTF-8, otherwise bytes.
    pub fn text_or_bytes(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Str(text.into()),
            Err(_) => Self::Bytes(bytes.into()),
        }
    }

    /// The value that a JSON text is; its arrays and objects stay slices of the text.
    ///
    /// # Errors
    ///
    /// Where and why the text is not JSON.
    pub fn from_json(text: &'a str) -> Result<Self, JsonError> {
        decode(text)
    }

    pub(crate) fn array(items: Vec<Value<'a>>) -> Self {
        Self::Array(Arc::new(items))
    }

    pub(crate) fn map(map: Map<'a>) -> Self {
        Self::Map(Arc::new(map))
    }

    /// Whether nothing is there.
    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// The name of its kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Undefined => "nothing",
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::BigNumber(_) => "a number beyond 64 bits",
            Self::Float(_) => "a float",
            Self::Str(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::Json(json) if json.is_object() => "an object",
            Self::Map(_) => "an object",
            Self::Json(_) | Self::Array(_) => "an array",
        }
    }

    /// Whether it is an array.
    pub fn is_array(&self) -> bool {
        match self {
            Self::Array(_) => true,
            Self::Json(json) => !json.is_object(),
            _ => false,
        }
    }

    /// Whether it is an object.
    pub fn is_map(&self) -> bool {
        match self {
            Self::Map(_) => true,
            Self::Json(json) => json.is_object(),
            _ => false,
        }
    }

    /// The value under a name of an object; undefined in everything else.
    #[must_use]
    pub fn get(&self, key: &str) -> Value<'a> {
        match self {
            Self::Map(map) => map.get(key).cloned().unwrap_or_default(),
            Self::Json(json) => json.get(key),
            _ => Value::Undefined,
        }
    }

    /// The elements of an array, or `None` of anything else.
    pub fn elements(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Self::Array(items) => Some(items.as_ref().clone()),
            Self::Json(json) if !json.is_object() => Some(json.elements().collect()),
            _ => None,
        }
    }

    /// An element of an array, from 1, or negative from the end; undefined where there is none.
    #[must_use]
    pub fn element(&self, index: i64) -> Value<'a> {
        let at = |len: usize| {
            let from_end = || (len + 1).checked_sub(usize::try_from(index.unsigned_abs()).ok()?);
            usize::try_from(index).ok().or_else(from_end)?.checked_sub(1)
        };
        match self {
            Self::Array(items) => at(items.len()).and_then(|at| items.get(at)).cloned().unwrap_or_default(),
            Self::Json(json) if !json.is_object() => {
                let len = if index < 0 { json.elements().count() } else { 0 };
                at(len).and_then(|at| json.elements().nth(at)).unwrap_or_default()
            }
            _ => Value::Undefined,
        }
    }

    /// The members of an object, or `None` of anything else.
    pub fn members(&self) -> Option<Cow<'_, Map<'a>>> {
        match self {
            Self::Map(map) => Some(Cow::Borrowed(map)),
            Self::Json(json) if json.is_object() => Some(Cow::Owned(json.to_map())),
            _ => None,
        }
    }

    /// The same value without a borrow.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Undefined => Value::Undefined,
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Float(value) => Value::Float(value),
            Self::BigNumber(digits) => Value::BigNumber(Cow::Owned(digits.into_owned())),
            Self::Str(text) => Value::Str(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
            Self::Json(json) if json.is_object() => Value::map(
                json.members().map(|(k, v)| (Cow::Owned(k.into_owned()), v.into_owned())).collect(),
            ),
            Self::Json(json) => Value::array(json.elements().map(Value::into_owned).collect()),
            Self::Array(items) => Value::array(items.iter().cloned().map(Value::into_owned).collect()),
            Self::Map(map) => {
                let owned =
                    map.iter().map(|(k, v)| (Cow::Owned(k.clone().into_owned()), v.clone().into_owned()));
                Value::map(owned.collect())
            }
        }
    }

    /// The same value without a copy of its text or bytes.
    pub(crate) fn borrowed<'b>(&'b self) -> Value<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Str(text) => Value::Str(Cow::Borrowed(text)),
            Self::BigNumber(digits) => Value::BigNumber(Cow::Borrowed(digits)),
            Self::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
            other => other.clone(),
        }
    }

    /// Appends it as JSON, without white space. What is undefined is left out of objects and null elsewhere; bytes
    /// that are not UTF-8 become U+FFFD.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Undefined | Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Int(value) => drop(write!(out, "{value}")), // writing to a Vec does not fail
            Self::Float(value) => write_f64(*value, out),
            Self::BigNumber(digits) => out.extend_from_slice(digits.as_bytes()),
            Self::Str(text) => write_string(text, out),
            Self::Bytes(bytes) => write_string(&String::from_utf8_lossy(bytes), out),
            Self::Json(json) => json.write_compact(out),
            Self::Array(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Self::Map(map) => write_members(map.iter().map(|(name, value)| (name.as_ref(), value)), out),
        }
    }

    /// Appends it as a text, as `str()` and templates do: a text as it is, a float with at most ten digits after
    /// the point, arrays and objects as JSON.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Undefined => out.extend_from_slice(b"undefined"),
            Self::Str(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Float(value) => write_decimal(*value, out),
            _ => self.write_json(out),
        }
    }
}

/// Appends an object of the members that are there.
pub(crate) fn write_members<'m, 'a: 'm>(
    members: impl Iterator<Item = (&'m str, &'m Value<'a>)>,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    let mut first = true;
    for (name, value) in members.filter(|(_, value)| !value.is_undefined()) {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write_json(out);
    }
    out.push(b'}');
}

/// Appends a float with that many digits after the point. What lies exactly between two of them goes away from zero,
/// which is not what Rust's own formatting does.
pub(crate) fn write_rounded(value: f64, decimals: usize, out: &mut Vec<u8>) {
    /// Where a float that is not exactly between two texts would show it.
    const TELLING_DIGITS: usize = 20;
    let scale = i32::try_from(decimals).map_or(f64::INFINITY, |decimals| 10_f64.powi(decimals));
    // The product may have been rounded to a half, so the digits decide; few numbers come that far.
    let is_tie = (value.abs() * scale).fract().total_cmp(&0.5).is_eq() && {
        let digits = format!("{value:.*}", decimals + TELLING_DIGITS);
        digits.trim_end_matches('0').len() == digits.len() - (TELLING_DIGITS - 1)
    };
    // The next float further out rounds the way in which a tie shall.
    let value = if is_tie { f64::from_bits(value.to_bits() + 1) } else { value };
    let _ = write!(out, "{value:.decimals$}"); // writing to a Vec does not fail
}

/// At most ten digits after the point and at least one, as EMQX prints floats.
fn write_decimal(value: f64, out: &mut Vec<u8>) {
    const DECIMALS: usize = 10;
    let start = out.len();
    write_rounded(value, DECIMALS, out);
    let zeros = out[start..].iter().rev().take(DECIMALS - 1).take_while(|&&b| b == b'0').count();
    out.truncate(out.len() - zeros);
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Str(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Str(Cow::Owned(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}
