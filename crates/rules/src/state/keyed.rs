//! One value for each key, within a bound: what has not been used for longest goes first.

use std::collections::HashMap;

use super::StateLimits;
use super::accumulator::weight;
use crate::error::EvalErrorKind as Error;
use crate::value::Value;

/// Bytes that an entry takes beside its key and value.
pub(super) const ENTRY_BYTES: usize = 96;

/// Two generations: a key that is used moves to the young one; when that is half of what is allowed, the old one is
/// forgotten and the young one becomes old. That costs no list of who was used when.
#[derive(Debug)]
pub(super) struct Keyed {
    young: HashMap<Box<[u8]>, Value<'static>>,
    old: HashMap<Box<[u8]>, Value<'static>>,
    young_bytes: usize,
    limits: StateLimits,
}

impl Keyed {
    pub(super) fn new(limits: StateLimits) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, limits }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Value<'static>> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Keeps a key from being forgotten.
    pub(super) fn touch(&mut self, key: &[u8]) {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
    }

    pub(super) fn put(&mut self, key: &[u8], value: Value<'static>) -> Result<(), Error> {
        if entry_bytes(key, &value) > self.limits.bytes / 2 {
            return Err(Error::StateFull);
        }
        if let Some(place) = self.young.get_mut(key) {
            self.young_bytes = (self.young_bytes + weight(&value)).saturating_sub(weight(place));
            *place = value;
            return Ok(());
        }
        self.old.remove(key);
        self.insert(key.into(), value);
        Ok(())
    }

    fn insert(&mut self, key: Box<[u8]>, value: Value<'static>) {
        let bytes = entry_bytes(&key, &value);
        let is_full = self.young.len() >= (self.limits.keys / 2).max(1)
            || self.young_bytes.saturating_add(bytes) > self.limits.bytes / 2;
        if is_full {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, value);
    }

    /// Every entry, those that would be forgotten first before the others.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &Value<'static>)> {
        self.old.iter().chain(&self.young).map(|(key, value)| (&**key, value))
    }

    pub(super) fn len(&self) -> usize {
        self.old.len() + self.young.len()
    }
}

fn entry_bytes(key: &[u8], value: &Value<'_>) -> usize {
    ENTRY_BYTES + key.len() + weight(value)
}
