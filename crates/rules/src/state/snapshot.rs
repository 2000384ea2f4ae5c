//! A state as bytes, so that it survives a restart.
//!
//! All numbers are big-endian; a text or value is its length in four bytes and its bytes. First come four letters,
//! the version, the rule's fingerprint and the time until which windows are closed, then the remembered keys, then
//! the groups.

use super::accumulator::{Accumulator, Kept, Total};
use super::windows::{Group, Windows};
use super::{Keyed, RuleState, StateLimits};
use crate::program::{AggregateKind, Grouping};
use crate::rule::Rule;
use crate::value::Value;

const MAGIC: &[u8; 4] = b"TGRS";
const VERSION: u8 = 1;

/// Why bytes are not the state of a rule.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// They were not made by [`RuleState::export`], or not all of them are there.
    #[error("this is not the state of a rule")]
    Malformed,
    /// They were made by another version.
    #[error("the state has version {found}, and this program reads version {VERSION}")]
    Version {
        /// Of the bytes.
        found: u8,
    },
    /// The rule's text is not what it was when they were made.
    #[error("the state belongs to another rule, or to an earlier text of this one")]
    OtherRule,
}

impl RuleState {
    /// Appends the state as bytes.
    pub fn export(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&self.fingerprint.to_be_bytes());
        out.extend_from_slice(&self.windows.closed_until_ms.to_be_bytes());
        write_count(self.seen.len(), out);
        for (key, value) in self.seen.entries() {
            write_bytes(key, out);
            write_value(value, out);
        }
        write_count(self.windows.len(), out);
        for (key, group) in self.windows.groups() {
            write_bytes(key, out);
            out.extend_from_slice(&group.start_ms.to_be_bytes());
            out.extend_from_slice(&group.end_ms.to_be_bytes());
            for accumulator in &group.accumulators {
                write_accumulator(accumulator, out);
            }
        }
    }

    /// The state that [`RuleState::export`] wrote for the same text of a rule. Where the limits are smaller now, what
    /// is there stays, and nothing is added until there is room.
    ///
    /// # Errors
    ///
    /// Why the bytes are not that.
    pub fn import(rule: &Rule, limits: StateLimits, bytes: &[u8]) -> Result<Self, StateError> {
        let mut rest = bytes;
        if take(&mut rest, MAGIC.len()) != Some(MAGIC) {
            return Err(StateError::Malformed);
        }
        match take(&mut rest, 1) {
            Some([VERSION]) => {}
            Some([found, ..]) => return Err(StateError::Version { found: *found }),
            _ => return Err(StateError::Malformed),
        }
        let fingerprint = u64::from_be_bytes(array(&mut rest)?);
        if fingerprint != rule.fingerprint() {
            return Err(StateError::OtherRule);
        }
        let mut state = Self::new(rule, limits);
        state.windows.closed_until_ms = i64::from_be_bytes(array(&mut rest)?);
        read_seen(&mut rest, &mut state.seen)?;
        read_groups(&mut rest, &mut state.windows, rule.program().window.as_ref())?;
        if rest.is_empty() { Ok(state) } else { Err(StateError::Malformed) }
    }
}

fn read_seen(rest: &mut &[u8], seen: &mut Keyed) -> Result<(), StateError> {
    for _ in 0..u32::from_be_bytes(array(rest)?) {
        let key = take_bytes(rest).ok_or(StateError::Malformed)?;
        let value = read_value(rest).ok_or(StateError::Malformed)?;
        // What no longer fits is forgotten, as any other key that has not been seen for long.
        let _ = seen.put(key, value);
    }
    Ok(())
}

fn read_groups(
    rest: &mut &[u8],
    windows: &mut Windows,
    grouping: Option<&Grouping>,
) -> Result<(), StateError> {
    for _ in 0..u32::from_be_bytes(array(rest)?) {
        let grouping = grouping.ok_or(StateError::Malformed)?;
        let key = take_bytes(rest).ok_or(StateError::Malformed)?;
        let start_ms = i64::from_be_bytes(array(rest)?);
        let end_ms = i64::from_be_bytes(array(rest)?);
        let accumulators = grouping.aggregates.iter().map(|aggregate| read_accumulator(aggregate.kind, rest));
        let accumulators = accumulators.collect::<Result<_, _>>()?;
        windows.open(key.into(), Group::new(start_ms, end_ms, accumulators));
    }
    Ok(())
}

fn write_accumulator(accumulator: &Accumulator, out: &mut Vec<u8>) {
    match accumulator {
        Accumulator::Count(count) => out.extend_from_slice(&count.to_be_bytes()),
        Accumulator::Sum(total) | Accumulator::Avg(total) => {
            out.extend_from_slice(&total.integers.to_be_bytes());
            out.extend_from_slice(&total.floats.to_be_bytes());
            out.extend_from_slice(&total.count.to_be_bytes());
            out.push(u8::from(total.has_float));
        }
        Accumulator::Min(kept)
        | Accumulator::Max(kept)
        | Accumulator::First(kept)
        | Accumulator::Last(kept) => {
            write_value(kept.as_ref().map_or(&Value::Undefined, |kept| &kept.0), out);
        }
        Accumulator::Collect(list) => {
            write_count(list.len(), out);
            for kept in list {
                write_value(&kept.0, out);
            }
        }
    }
}

fn read_accumulator(kind: AggregateKind, rest: &mut &[u8]) -> Result<Accumulator, StateError> {
    fn kept(rest: &mut &[u8]) -> Result<Option<Kept>, StateError> {
        let value = read_value(rest).ok_or(StateError::Malformed)?;
        Ok(Some(value).filter(|value| !value.is_undefined()).map(Kept))
    }
    fn total(rest: &mut &[u8]) -> Result<Total, StateError> {
        let total = Total {
            integers: i128::from_be_bytes(array(rest)?),
            floats: f64::from_be_bytes(array(rest)?),
            count: u64::from_be_bytes(array(rest)?),
            has_float: array::<1>(rest)? != [0],
        };
        if total.floats.is_nan() { Err(StateError::Malformed) } else { Ok(total) }
    }
    Ok(match kind {
        AggregateKind::Count => Accumulator::Count(u64::from_be_bytes(array(rest)?)),
        AggregateKind::Sum => Accumulator::Sum(total(rest)?),
        AggregateKind::Avg => Accumulator::Avg(total(rest)?),
        AggregateKind::Min => Accumulator::Min(kept(rest)?),
        AggregateKind::Max => Accumulator::Max(kept(rest)?),
        AggregateKind::First => Accumulator::First(kept(rest)?),
        AggregateKind::Last => Accumulator::Last(kept(rest)?),
        AggregateKind::Collect => {
            let mut list = Vec::new();
            for _ in 0..u32::from_be_bytes(array(rest)?) {
                list.push(Kept(read_value(rest).ok_or(StateError::Malformed)?));
            }
            Accumulator::Collect(list)
        }
    })
}

/// What stands before bytes that are no text.
const BYTES: u8 = 0x01;

/// A value with its length: nothing for what is missing, a mark before bytes, otherwise JSON.
pub(super) fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    match value {
        Value::Undefined => {}
        Value::Bytes(bytes) => {
            out.push(BYTES);
            out.extend_from_slice(bytes);
        }
        other => other.write_json(out),
    }
    let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// `None` at the end, and where the bytes are none that [`write_value`] wrote.
pub(super) fn read_value(rest: &mut &[u8]) -> Option<Value<'static>> {
    match take_bytes(rest)? {
        [] => Some(Value::Undefined),
        [BYTES, bytes @ ..] => Some(Value::Bytes(bytes.to_vec().into())),
        text => Value::from_json(std::str::from_utf8(text).ok()?).ok().map(Value::into_owned),
    }
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (len, _) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let bytes = rest.get(4..4_usize.checked_add(len)?)?;
    *rest = &rest[4 + len..];
    Some(bytes)
}

fn take<'b>(rest: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], StateError> {
    let taken = take(rest, N).ok_or(StateError::Malformed)?;
    taken.try_into().map_err(|_| StateError::Malformed)
}
