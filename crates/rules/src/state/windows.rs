//! Windows: which of them a message falls into, and which are over.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::StateLimits;
use super::accumulator::Accumulator;
use super::keyed::ENTRY_BYTES;
use super::snapshot;
use crate::error::EvalErrorKind as Error;
use crate::program::Grouping;
use crate::syntax::ast::Window;
use crate::value::Value;

/// What stands before the values of a key: the window's end, or nothing of a session, which has no fixed one.
const PREFIX_BYTES: usize = 8;

/// The messages of one key in one window.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    /// The deadline under which it stands in the queue, which a session moves away from.
    queued_ms: i64,
    pub(super) accumulators: Vec<Accumulator>,
}

impl Group {
    pub(super) fn new(start_ms: i64, end_ms: i64, accumulators: Vec<Accumulator>) -> Self {
        Self { start_ms, end_ms, queued_ms: end_ms, accumulators }
    }

    fn bytes(&self, key: &[u8]) -> usize {
        // The key stands in the table and in the queue.
        let inside: usize = self.accumulators.iter().map(Accumulator::weight).sum();
        2 * (ENTRY_BYTES + key.len()) + self.accumulators.len() * size_of::<Accumulator>() + inside
    }
}

/// All open windows of a rule.
#[derive(Debug, Default)]
pub(super) struct Windows {
    groups: HashMap<Box<[u8]>, Group>,
    /// When to look at which group: exactly one entry for each that has its `queued_ms`, and old ones of sessions.
    deadlines: BinaryHeap<Reverse<(i64, Box<[u8]>)>>,
    /// Sessions that a later message found to be over before anybody asked.
    over: VecDeque<(Box<[u8]>, Group)>,
    bytes: usize,
    /// Windows that ended by then are closed; an older message counts as of then.
    pub(super) closed_until_ms: i64,
}

impl Windows {
    /// Adds a message's values to each window that it falls into; nothing is changed on an error.
    pub(super) fn add(
        &mut self,
        grouping: &Grouping,
        now_ms: i64,
        key: &mut [u8],
        values: &[Value<'_>],
        limits: StateLimits,
    ) -> Result<(), Error> {
        let now_ms = now_ms.max(self.closed_until_ms);
        match grouping.window {
            Window::Tumbling { size } => self.add_fixed(grouping, now_ms, size, size, key, values, limits),
            Window::Hopping { size, hop } => self.add_fixed(grouping, now_ms, size, hop, key, values, limits),
            Window::Session { gap, longest } => {
                if let Some((key, group)) = self.groups.remove_entry(&*key) {
                    if now_ms < group.end_ms {
                        self.groups.insert(key, group);
                    } else {
                        self.over.push_back((key, group));
                    }
                }
                let mut room = Room { groups: self.len(), bytes: self.bytes };
                room.take(self.groups.get(key), grouping, key, values);
                room.check(limits)?;
                let end_ms = now_ms.saturating_add(gap);
                let group = self.group(grouping, key, now_ms, end_ms);
                group.start_ms = group.start_ms.min(now_ms);
                group.end_ms = group.end_ms.max(end_ms).min(group.start_ms.saturating_add(longest));
                self.update(key, values);
                Ok(())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "two of them tell a tumbling from a hopping window")]
    fn add_fixed(
        &mut self,
        grouping: &Grouping,
        now_ms: i64,
        size: i64,
        hop: i64,
        key: &mut [u8],
        values: &[Value<'_>],
        limits: StateLimits,
    ) -> Result<(), Error> {
        let newest = now_ms.div_euclid(hop).saturating_mul(hop);
        let start = |back: i64| newest.saturating_sub(back.saturating_mul(hop));
        let set_end =
            |key: &mut [u8], end_ms: i64| key[..PREFIX_BYTES].copy_from_slice(&end_ms.to_be_bytes());
        let windows = size / hop;
        let mut room = Room { groups: self.len(), bytes: self.bytes };
        for back in 0..windows {
            set_end(key, start(back).saturating_add(size));
            room.take(self.groups.get(key), grouping, key, values);
        }
        room.check(limits)?;
        for back in 0..windows {
            let (start_ms, end_ms) = (start(back), start(back).saturating_add(size));
            set_end(key, end_ms);
            self.group(grouping, key, start_ms, end_ms);
            self.update(key, values);
        }
        Ok(())
    }

    /// The group of a key, opened where there is none.
    fn group(&mut self, grouping: &Grouping, key: &[u8], start_ms: i64, end_ms: i64) -> &mut Group {
        if !self.groups.contains_key(key) {
            self.open(key.into(), Group::new(start_ms, end_ms, fresh(grouping)));
        }
        self.groups.get_mut(key).expect("it has just been opened where it was missing")
    }

    pub(super) fn open(&mut self, key: Box<[u8]>, mut group: Group) {
        group.queued_ms = group.end_ms;
        self.bytes += group.bytes(&key);
        self.deadlines.push(Reverse((group.end_ms, key.clone())));
        if let Some(earlier) = self.groups.insert(key.clone(), group) {
            // Two sessions of one key, which only a state that was imported can hold: the first is over.
            self.over.push_back((key, earlier));
        }
    }

    fn update(&mut self, key: &[u8], values: &[Value<'_>]) {
        let Some(group) = self.groups.get_mut(key) else { return };
        for (accumulator, value) in group.accumulators.iter_mut().zip(values) {
            if let Accumulator::Collect(list) = accumulator {
                // A list only grows, and is not to be weighed whole for each element.
                let before = list.len();
                accumulator.add(value);
                self.bytes += accumulator.growth_of_last(before);
            } else {
                let before = accumulator.weight();
                accumulator.add(value);
                self.bytes = (self.bytes + accumulator.weight()).saturating_sub(before);
            }
        }
    }

    pub(super) fn next_deadline_ms(&self) -> Option<i64> {
        let over = self.over.front().map(|(_, group)| group.end_ms);
        over.or_else(|| self.deadlines.peek().map(|Reverse((deadline, _))| *deadline))
    }

    /// Takes out a group whose window is over.
    pub(super) fn pop(&mut self, now_ms: i64) -> Option<(Box<[u8]>, Group)> {
        self.closed_until_ms = self.closed_until_ms.max(now_ms);
        if let Some((key, group)) = self.over.pop_front() {
            self.bytes = self.bytes.saturating_sub(group.bytes(&key));
            return Some((key, group));
        }
        while let Some(Reverse((deadline, _))) = self.deadlines.peek() {
            if *deadline > now_ms {
                break;
            }
            let Reverse((deadline, key)) = self.deadlines.pop()?;
            let Some(group) = self.groups.get_mut(&key) else { continue };
            if group.queued_ms != deadline {
                continue;
            }
            if group.end_ms > now_ms {
                // A session that went on.
                group.queued_ms = group.end_ms;
                self.deadlines.push(Reverse((group.end_ms, key)));
                continue;
            }
            let (key, group) = self.groups.remove_entry(&key)?;
            self.bytes = self.bytes.saturating_sub(group.bytes(&key));
            return Some((key, group));
        }
        None
    }

    /// Every group that has not been given out.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&[u8], &Group)> {
        let over = self.over.iter().map(|(key, group)| (&**key, group));
        over.chain(self.groups.iter().map(|(key, group)| (&**key, group)))
    }

    pub(super) fn len(&self) -> usize {
        self.over.len() + self.groups.len()
    }
}

/// What would be held with a message in it.
struct Room {
    groups: usize,
    bytes: usize,
}

impl Room {
    /// Adds what the values would add to a group, or to a new one under that key.
    fn take(&mut self, group: Option<&Group>, grouping: &Grouping, key: &[u8], values: &[Value<'_>]) {
        if let Some(group) = group {
            self.bytes += growth(&group.accumulators, values);
        } else {
            let group = Group::new(0, 0, fresh(grouping));
            self.groups += 1;
            self.bytes += group.bytes(key) + growth(&group.accumulators, values);
        }
    }

    fn check(&self, limits: StateLimits) -> Result<(), Error> {
        let fits = self.groups <= limits.keys && self.bytes <= limits.bytes;
        if fits { Ok(()) } else { Err(Error::StateFull) }
    }
}

fn growth(accumulators: &[Accumulator], values: &[Value<'_>]) -> usize {
    accumulators.iter().zip(values).map(|(accumulator, value)| accumulator.growth(value)).sum()
}

fn fresh(grouping: &Grouping) -> Vec<Accumulator> {
    grouping.aggregates.iter().map(|aggregate| Accumulator::new(aggregate.kind)).collect()
}

/// Makes room for what stands before the values of a key.
pub(super) fn begin_key(key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(&[0; PREFIX_BYTES]);
}

/// The values of a group's key.
pub(super) fn key_values(key: &[u8]) -> Vec<Value<'static>> {
    let mut rest = key.get(PREFIX_BYTES..).unwrap_or_default();
    std::iter::from_fn(|| snapshot::read_value(&mut rest)).collect()
}
