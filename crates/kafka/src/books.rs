//! Whose records these are: each feed of a producer has a name and counts of its own, and a batch knows in runs whose
//! records it holds, so that what becomes of a record is counted where it came from, also when it comes back from disk.

use std::sync::Arc;

use parking_lot::RwLock;
use smallvec::SmallVec;
use tidegate_sink::{Counters, CountersSnapshot, DropReason, Outcome, Rejection};

/// Longest name of a source, in bytes: it is written to disk with every entry.
pub(crate) const MAX_SOURCE_NAME_BYTES: usize = 255;
/// Sources that one producer tells apart. Further ones are counted as the producer itself.
const MAX_SOURCES: usize = 4096;

/// A source, by its place among all of a producer. The first is the producer itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SourceId(u16);

/// The sources of records that follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources(SmallVec<[(SourceId, u32); 2]>);

impl Sources {
    /// Adds `records` of `source` at the end.
    pub(crate) fn push(&mut self, source: SourceId, records: usize) {
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        match self.0.last_mut() {
            Some((last, count)) if *last == source => *count += records,
            _ if records > 0 => self.0.push((source, records)),
            _ => {}
        }
    }

    /// Adds `others` without keeping their order: for counting.
    pub(crate) fn gather(&mut self, others: &Self) {
        for &(source, records) in &others.0 {
            match self.0.iter_mut().find(|(known, _)| *known == source) {
                Some((_, count)) => *count += records,
                None => self.0.push((source, records)),
            }
        }
    }

    /// Takes off what comes behind the first `records`.
    pub(crate) fn split_off(&mut self, records: usize) -> Self {
        let mut first = Self::default();
        let mut second = Self::default();
        for &(source, count) in &self.0 {
            let room = records.saturating_sub(first.records());
            let taken = room.min(count as usize);
            first.push(source, taken);
            second.push(source, count as usize - taken);
        }
        *self = first;
        second
    }

    /// How many records there are.
    pub(crate) fn records(&self) -> usize {
        self.0.iter().map(|(_, count)| *count as usize).sum()
    }

    /// The sources, one after the other, each with how many records follow.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (SourceId, u32)> {
        self.0.iter().copied()
    }

    /// The source of each record, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = SourceId> {
        self.0.iter().flat_map(|(source, count)| std::iter::repeat_n(*source, *count as usize))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A source's name and counts.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) id: SourceId,
    pub(crate) name: Box<str>,
    pub(crate) counters: Counters,
}

/// All sources of a producer.
#[derive(Debug)]
pub(crate) struct Books(RwLock<Vec<Arc<Source>>>);

impl Default for Books {
    fn default() -> Self {
        Self(RwLock::new(vec![Arc::default()]))
    }
}

impl Books {
    /// The source with this name, which is new if nobody had it.
    pub(crate) fn named(&self, name: &str) -> Arc<Source> {
        let mut sources = self.0.write();
        if let Some(known) = sources.iter().find(|source| *source.name == *name) {
            return Arc::clone(known);
        }
        if sources.len() >= MAX_SOURCES || name.len() > MAX_SOURCE_NAME_BYTES {
            return Arc::clone(&sources[0]);
        }
        let id = SourceId(u16::try_from(sources.len()).expect("the limit of sources has 16 bits"));
        let source = Arc::new(Source { id, name: name.into(), counters: Counters::default() });
        sources.push(Arc::clone(&source));
        source
    }

    pub(crate) fn source(&self, id: SourceId) -> Arc<Source> {
        let sources = self.0.read();
        Arc::clone(sources.get(usize::from(id.0)).unwrap_or(&sources[0]))
    }

    fn each(&self, counted: &Sources, mut count: impl FnMut(&Counters, u64)) {
        let sources = self.0.read();
        for (id, records) in counted.runs() {
            if let Some(source) = sources.get(usize::from(id.0)) {
                count(&source.counters, records.into());
            }
        }
    }

    pub(crate) fn settled(&self, counted: &Sources, outcome: Outcome) {
        self.each(counted, |counters, records| counters.settled(outcome, records));
    }

    pub(crate) fn dropped(&self, counted: &Sources, reason: DropReason) {
        self.each(counted, |counters, records| counters.dropped(reason, records));
    }

    pub(crate) fn taken_over(&self, counted: &Sources) {
        self.each(counted, Counters::taken_over);
    }

    pub(crate) fn dead_lettered(&self, id: SourceId, reason: Rejection) {
        self.source(id).counters.dead_lettered(reason, 1);
    }

    /// Every source that took a record, with its counts.
    pub(crate) fn snapshot(&self) -> Vec<(String, CountersSnapshot)> {
        let sources = self.0.read();
        sources.iter().map(|source| (source.name.to_string(), source.counters.snapshot())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_split_where_they_are_told_and_keep_their_order() {
        let (a, b) = (SourceId(1), SourceId(2));
        for at in 0..=7 {
            let mut first = Sources::default();
            for source in [a, a, b, b, b, a, a] {
                first.push(source, 1);
            }
            let whole: Vec<_> = first.each().collect();
            let second = first.split_off(at);
            assert_eq!((first.records(), second.records()), (at, 7 - at));
            assert_eq!(first.each().chain(second.each()).collect::<Vec<_>>(), whole);
        }
    }

    #[test]
    fn a_name_has_one_source_and_too_many_share_the_first() {
        let books = Books::default();
        assert_eq!(books.named("r1").id, books.named("r1").id);
        assert_ne!(books.named("r1").id, books.named("r2").id);
        for n in 0..MAX_SOURCES {
            books.named(&format!("many-{n}"));
        }
        assert_eq!((books.named("one too many").id, books.snapshot().len()), (SourceId(0), MAX_SOURCES));
    }
}
