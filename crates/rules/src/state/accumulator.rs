//! What a window makes of the values that it was given, without keeping them where it need not.

use crate::error::EvalErrorKind as Error;
use crate::operators::{self, Number};
use crate::program::AggregateKind;
use crate::value::Value;

/// One aggregate of one group.
#[derive(Debug, PartialEq)]
pub(super) enum Accumulator {
    Count(u64),
    Sum(Total),
    Avg(Total),
    Min(Option<Kept>),
    Max(Option<Kept>),
    First(Option<Kept>),
    Last(Option<Kept>),
    Collect(Vec<Kept>),
}

/// A value that is kept.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Value<'static>);

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        operators::same(&self.0, &other.0)
    }
}

/// Integers are added exactly; one float makes the sum a float.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Total {
    pub(super) integers: i128,
    pub(super) floats: f64,
    pub(super) count: u64,
    pub(super) has_float: bool,
}

impl Accumulator {
    pub(super) fn new(kind: AggregateKind) -> Self {
        match kind {
            AggregateKind::Count => Self::Count(0),
            AggregateKind::Sum => Self::Sum(Total::default()),
            AggregateKind::Avg => Self::Avg(Total::default()),
            AggregateKind::Min => Self::Min(None),
            AggregateKind::Max => Self::Max(None),
            AggregateKind::First => Self::First(None),
            AggregateKind::Last => Self::Last(None),
            AggregateKind::Collect => Self::Collect(Vec::new()),
        }
    }

    /// Whether a value can be added. What is missing or null can: it is left out.
    pub(super) fn check(kind: AggregateKind, value: &Value<'_>) -> Result<(), Error> {
        let needs_number = matches!(kind, AggregateKind::Sum | AggregateKind::Avg);
        if needs_number && !is_nothing(value) {
            operators::number(value, kind.operation())?;
        }
        Ok(())
    }

    /// Bytes more that the accumulator would hold with the value in it.
    pub(super) fn growth(&self, value: &Value<'_>) -> usize {
        match self {
            Self::Count(_) | Self::Sum(_) | Self::Avg(_) | Self::First(Some(_)) => 0,
            _ if is_nothing(value) => 0,
            _ => weight(value),
        }
    }

    pub(super) fn add(&mut self, value: &Value<'_>) {
        if is_nothing(value) {
            return;
        }
        let keep = || Kept(value.clone().into_owned());
        match self {
            Self::Count(count) => *count = count.saturating_add(1),
            Self::Sum(total) | Self::Avg(total) => total.add(value),
            Self::Min(kept) => {
                if kept.as_ref().is_none_or(|kept| operators::order(value, &kept.0).is_lt()) {
                    *kept = Some(keep());
                }
            }
            Self::Max(kept) => {
                if kept.as_ref().is_none_or(|kept| operators::order(value, &kept.0).is_gt()) {
                    *kept = Some(keep());
                }
            }
            Self::First(kept) => {
                kept.get_or_insert_with(keep);
            }
            Self::Last(kept) => *kept = Some(keep()),
            Self::Collect(list) => list.push(keep()),
        }
    }

    /// The bytes that it holds beside its own size.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Count(_) | Self::Sum(_) | Self::Avg(_) => 0,
            Self::Min(kept) | Self::Max(kept) | Self::First(kept) | Self::Last(kept) => {
                kept.as_ref().map_or(0, |kept| weight(&kept.0))
            }
            Self::Collect(list) => list.iter().map(|kept| weight(&kept.0)).sum(),
        }
    }

    /// Of a list's last element.
    pub(super) fn growth_of_last(&self, before: usize) -> usize {
        match self {
            Self::Collect(list) if list.len() > before => list.last().map_or(0, |kept| weight(&kept.0)),
            _ => 0,
        }
    }

    /// The aggregate's value. Of no values it is null, but for a count, which is 0, and a list, which is empty.
    pub(super) fn finish(self) -> Result<Value<'static>, Error> {
        match self {
            Self::Count(count) => Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX))),
            Self::Sum(total) => total.sum(),
            Self::Avg(total) => total.average(),
            Self::Min(kept) | Self::Max(kept) | Self::First(kept) | Self::Last(kept) => {
                Ok(kept.map_or(Value::Null, |kept| kept.0))
            }
            Self::Collect(list) => Ok(Value::array(list.into_iter().map(|kept| kept.0).collect())),
        }
    }
}

impl Total {
    fn add(&mut self, value: &Value<'_>) {
        match operators::number(value, "") {
            Ok(Number::Int(int)) => self.integers = self.integers.saturating_add(int.into()),
            Ok(Number::Float(float)) => {
                self.floats += float;
                self.has_float = true;
            }
            // The value was checked before.
            Err(_) => return,
        }
        self.count = self.count.saturating_add(1);
    }

    #[expect(clippy::cast_precision_loss, reason = "a float beside integers makes the sum a float")]
    fn as_f64(&self) -> f64 {
        self.integers as f64 + self.floats
    }

    fn sum(&self) -> Result<Value<'static>, Error> {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        if self.has_float {
            return operators::finite(self.as_f64());
        }
        let exact = i64::try_from(self.integers).map(Value::Int);
        Ok(exact.unwrap_or_else(|_| Value::BigNumber(self.integers.to_string().into())))
    }

    #[expect(clippy::cast_precision_loss, reason = "an average is a float")]
    fn average(&self) -> Result<Value<'static>, Error> {
        if self.count == 0 { Ok(Value::Null) } else { operators::finite(self.as_f64() / self.count as f64) }
    }
}

fn is_nothing(value: &Value<'_>) -> bool {
    matches!(value, Value::Undefined | Value::Null)
}

/// The bytes that a value takes, with everything in it.
pub(super) fn weight(value: &Value<'_>) -> usize {
    let inside = match value {
        Value::Str(text) | Value::BigNumber(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        // As a tree, which is how it is kept, an element takes more than its text.
        Value::Json(json) => json.text().len().saturating_mul(16),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Map(map) => map.iter().map(|(name, value)| ENTRY + name.len() + weight(value)).sum(),
        _ => 0,
    };
    size_of::<Value<'_>>() + inside
}

/// Bytes of a name's place in an object.
const ENTRY: usize = 32;
