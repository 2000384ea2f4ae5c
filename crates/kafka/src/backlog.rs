//! What of a queue is in the spill log only. There may be as many entries as the log's quota has room for, so all but the
//! next few are kept packed: some 7 bytes each, where they would take 72 and the spare room of a growing queue.

use std::collections::VecDeque;

use tidegate_spill::EntryId;

use crate::books::{SourceId, Sources};
use crate::record_batch::{put_varint, take_varint};
use crate::spill::Spilled;

/// What a packed run may take, in bytes: what is read off its front is freed with the whole run.
const RUN_BYTES: usize = 4096;
/// What an entry takes at most, in bytes: four numbers of up to 33 bits and a sign.
const MAX_ENTRY_BYTES: usize = 4 * 5;

/// Entries of the spill log, oldest first. As an iterator it takes them out.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// The next ones. Empty only where there are no `runs` either.
    front: VecDeque<Spilled>,
    runs: VecDeque<Run>,
}

/// Entries that follow those before them.
#[derive(Debug)]
enum Run {
    Packed(Packed),
    /// One that has more to it than packing keeps: records of several sources, or acks that wait for Kafka.
    Whole(Spilled),
}

/// Entries of one segment and of one source, each as four numbers that are small as a rule: how far behind the end of the one
/// before it begins, its length, its records, and how much later it was written.
#[derive(Debug)]
struct Packed {
    source: SourceId,
    bytes: Vec<u8>,
    /// How many of `bytes` were taken out.
    taken: usize,
    /// What the next one that is taken out is told against.
    first: Base,
    /// What the next one that is put in is told against.
    last: Base,
}

#[derive(Debug, Clone, Copy)]
struct Base {
    segment: u32,
    end: u32,
    at: u32,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Option<&Spilled> {
        self.front.front()
    }

    pub(crate) fn push_front(&mut self, spilled: Spilled) {
        self.front.push_front(spilled);
    }

    pub(crate) fn push_back(&mut self, spilled: Spilled) {
        if self.front.is_empty() {
            return self.front.push_back(spilled);
        }
        let Some((source, records)) = single(&spilled) else {
            return self.runs.push_back(Run::Whole(spilled));
        };
        if let Some(Run::Packed(packed)) = self.runs.back_mut()
            && packed.takes(source, &spilled)
        {
            return packed.push(&spilled, records);
        }
        let mut packed = Packed::new(source, &spilled);
        packed.push(&spilled, records);
        self.runs.push_back(Run::Packed(packed));
    }

    pub(crate) fn pop_front(&mut self) -> Option<Spilled> {
        let next = self.front.pop_front();
        if self.front.is_empty() {
            let following = self.unpack();
            self.front.extend(following);
        }
        next
    }

    /// Adds what comes behind all of this.
    pub(crate) fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
        } else {
            other.for_each(|spilled| self.push_back(spilled));
        }
    }

    /// Takes the first entry off the runs.
    fn unpack(&mut self) -> Option<Spilled> {
        match self.runs.pop_front()? {
            Run::Whole(spilled) => Some(spilled),
            Run::Packed(mut packed) => {
                let next = packed.pop();
                if !packed.is_empty() {
                    self.runs.push_front(Run::Packed(packed));
                }
                Some(next)
            }
        }
    }
}

impl Iterator for Backlog {
    type Item = Spilled;

    fn next(&mut self) -> Option<Spilled> {
        self.pop_front()
    }
}

impl FromIterator<Spilled> for Backlog {
    fn from_iter<I: IntoIterator<Item = Spilled>>(entries: I) -> Self {
        let mut backlog = Self::default();
        entries.into_iter().for_each(|spilled| backlog.push_back(spilled));
        backlog
    }
}

/// The source of all its records and their number, if that is all there is to it.
fn single(spilled: &Spilled) -> Option<(SourceId, u32)> {
    let mut runs = spilled.sources.runs();
    runs.next().filter(|_| runs.next().is_none() && spilled.kept.is_none())
}

impl Packed {
    fn new(source: SourceId, first: &Spilled) -> Self {
        let [segment, end, _] = first.id.parts();
        let base = Base { segment, end, at: first.at };
        Self { source, bytes: Vec::new(), taken: 0, first: base, last: base }
    }

    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    fn takes(&self, source: SourceId, spilled: &Spilled) -> bool {
        let [segment, ..] = spilled.id.parts();
        segment == self.last.segment
            && source == self.source
            && self.bytes.len() + MAX_ENTRY_BYTES <= RUN_BYTES
    }

    fn push(&mut self, spilled: &Spilled, records: u32) {
        let [_, offset, length] = spilled.id.parts();
        let numbers = [
            i64::from(offset) - i64::from(self.last.end),
            length.into(),
            records.into(),
            i64::from(spilled.at) - i64::from(self.last.at),
        ];
        for number in numbers {
            put_varint(number, &mut self.bytes);
        }
        (self.last.end, self.last.at) = (offset.saturating_add(length), spilled.at);
    }

    fn pop(&mut self) -> Spilled {
        let mut rest = &self.bytes[self.taken..];
        let (end, at) = (self.first.end, self.first.at);
        let [offset, length, records, at] = [end.into(), 0, 0, at.into()].map(|base: i64| {
            // Each was a `u32` before it was packed.
            u32::try_from(base + take_varint(&mut rest)).unwrap_or(u32::MAX)
        });
        self.taken = self.bytes.len() - rest.len();
        (self.first.end, self.first.at) = (offset.saturating_add(length), at);
        let mut sources = Sources::default();
        sources.push(self.source, records as usize);
        let id = EntryId::from_parts([self.first.segment, offset, length]);
        Spilled { id, sources, at, kept: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::Books;

    fn spilled(parts: [u32; 3], source: SourceId, records: usize, at: u32) -> Spilled {
        let mut sources = Sources::default();
        sources.push(source, records);
        Spilled { id: EntryId::from_parts(parts), sources, at, kept: None }
    }

    fn told(spilled: &Spilled) -> ([u32; 3], Sources, u32) {
        (spilled.id.parts(), spilled.sources.clone(), spilled.at)
    }

    #[test]
    fn entries_come_out_as_they_went_in_whatever_they_are() {
        let books = Books::default();
        let (first, second) = (books.named("first").id, books.named("second").id);
        let mixed = || {
            let mut mixed = spilled([3, 7000, 300], first, 2, 9);
            mixed.sources.push(second, 1);
            mixed
        };
        let make = || {
            vec![
                spilled([1, 20, 1100], first, 1, 0),
                spilled([1, 1160, u32::MAX], first, 1, 0),
                // Behind a gap, then before what came last: an order that no log has is kept all the same.
                spilled([1, u32::MAX, 5], first, 4096, 7),
                spilled([1, 2, 0], first, 1, 3),
                spilled([1, 3, 1], second, 1, u32::MAX),
                spilled([2, 3, 1], second, u32::MAX as usize, 0),
                mixed(),
                spilled([3, 9000, 300], first, 2, 9),
            ]
        };
        let expected: Vec<_> = make().iter().map(told).collect();
        let backlog: Backlog = make().into_iter().collect();
        assert_eq!(backlog.map(|spilled| told(&spilled)).collect::<Vec<_>>(), expected);
        let mut twice = Backlog::default();
        for _ in 0..2 {
            twice.append(make().into_iter().collect());
        }
        let all: Vec<_> = twice.map(|spilled| told(&spilled)).collect();
        assert_eq!(all, [expected.clone(), expected].concat());
    }

    #[test]
    fn what_is_put_back_comes_first_and_what_is_added_last() {
        let source = SourceId::default();
        let entry = |n: u32| spilled([1, n * 100, 90], source, 1, n);
        let mut backlog: Backlog = (0..10).map(entry).collect();
        let taken: Vec<_> = (0..3).filter_map(|_| backlog.pop_front()).collect();
        backlog.push_back(entry(10));
        taken.into_iter().rev().for_each(|spilled| backlog.push_front(spilled));
        backlog.push_back(entry(11));
        assert_eq!(backlog.front().map(|spilled| spilled.at), Some(0));
        assert_eq!(backlog.map(|spilled| spilled.at).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_takes_a_few_bytes() {
        let entries = 100_000;
        // Of sixteen partitions that take turns, a record of 1 KiB each.
        let entry = |n: u32| spilled([n / 4000, n % 4000 * 16 * 1200, 1180], SourceId::default(), 1, n / 300);
        let mut backlog: Backlog = (0..entries).map(entry).collect();
        let size = |run: &Run| match run {
            Run::Packed(packed) => packed.bytes.capacity(),
            Run::Whole(_) => 0,
        };
        let packed: usize = backlog.runs.iter().map(size).sum();
        let bytes = packed + backlog.runs.capacity() * size_of::<Run>();
        assert!(bytes < entries as usize * 12, "{bytes}");
        assert_eq!(backlog.by_ref().count(), entries as usize);
        assert!(backlog.is_empty() && backlog.runs.is_empty());
    }
}
