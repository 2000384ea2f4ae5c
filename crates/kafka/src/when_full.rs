//! What a feed does when the memory budget is used up: hold its publisher back, or throw something away, counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tidegate_sink::{Ack, DropReason, Outcome, settle_all};

use crate::books::{Source, SourceId, Sources};
use crate::config::Config;
use crate::partition::Partition;
use crate::producer::Shared;
use crate::record_batch::{Buffers, OpenBatch, SealedBatch, Ticket, budget_bytes, for_each_record, unpacked};
use crate::spill::AckPolicy;
use crate::topic::{Topic, Waiting};

/// What a feed does with a record when the memory budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhenFull {
    /// Gives it back: its publisher waits.
    #[default]
    HoldBack,
    /// Throws it away.
    DropNewest(Droppable),
    /// Throws away what this source's feeds have had in memory for the longest, unsent, and takes the record. What is on
    /// its way or on disk stays. Where nothing is left to throw away, the record itself is.
    DropOldest(Droppable),
}

/// Which records a feed may throw away. The others are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Droppable {
    /// Those that nobody waits for.
    #[default]
    Unacknowledged,
    /// All of them. Whoever waits for one is told [`Outcome::Delivered`], although it is not.
    All,
}

/// When a feed's records count as delivered, and what it does when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeedPolicy {
    /// When a record counts as delivered.
    pub ack: AckPolicy,
    /// What happens when the memory budget is used up.
    pub when_full: WhenFull,
}

impl From<AckPolicy> for FeedPolicy {
    fn from(ack: AckPolicy) -> Self {
        Self { ack, when_full: WhenFull::default() }
    }
}

impl Droppable {
    fn allows(self, is_waited_for: bool) -> bool {
        self == Self::All || !is_waited_for
    }
}

/// What was thrown away of a queue.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    acks: Vec<Ack>,
    sources: Sources,
    charged: usize,
}

impl Dropped {
    pub(crate) fn add(&mut self, ticket: Ticket) {
        self.acks.extend(ticket.ack.map(|owed| owed.ack));
        self.sources.push(ticket.source, 1);
        self.charged += ticket.charged;
    }
}

impl SealedBatch {
    /// Takes out the records of a batch that was never sent and that `is_droppable` names. Returns what is left.
    pub(crate) fn without(
        mut self,
        config: &Config,
        is_droppable: impl Fn(SourceId, bool) -> bool,
        dropped: &mut Dropped,
    ) -> Option<Self> {
        let mut kept = OpenBatch::new(Buffers::default(), config.compression, self.opened);
        let mut acks = self.take_acks().into_iter();
        let mut sources = self.sources.each();
        let bytes = unpacked(self.bytes()).expect("what this crate packed, it unpacks");
        for_each_record(&bytes, "", |_, record| {
            let ack = acks.next().flatten();
            let source = sources.next().unwrap_or_default();
            let ticket = Ticket { source, charged: budget_bytes(record), ack };
            if is_droppable(source, ticket.ack.is_some()) {
                dropped.add(ticket);
            } else {
                kept.push(record, ticket);
            }
        });
        (!kept.is_empty()).then(|| kept.seal())
    }
}

impl Shared {
    /// Acts for a record that found no room: makes some, throws it away, or gives its ack back.
    pub(crate) fn make_room(
        &self,
        source: &Source,
        when_full: WhenFull,
        ack: Option<Ack>,
    ) -> Result<Option<Ack>, Full> {
        match when_full {
            WhenFull::DropNewest(which) if which.allows(ack.is_some()) => Err(drop_newest(source, ack)),
            WhenFull::DropOldest(which) if which.allows(ack.is_some()) => {
                if self.drop_oldest(source.id, which) { Ok(ack) } else { Err(drop_newest(source, ack)) }
            }
            WhenFull::HoldBack | WhenFull::DropNewest(_) | WhenFull::DropOldest(_) => {
                source.counters.refused();
                Err(Full::GivenBack(ack))
            }
        }
    }

    /// Throws away the oldest of what `source` has in memory, unsent: up to a batch. Says whether there was any.
    fn drop_oldest(&self, source: SourceId, which: Droppable) -> bool {
        let is_droppable = |of: SourceId, is_waited_for: bool| of == source && which.allows(is_waited_for);
        let mut oldest: Option<(Instant, Place)> = None;
        let mut look = |at: Option<Instant>, place: &dyn Fn() -> Place| {
            if let Some(at) = at.filter(|at| oldest.as_ref().is_none_or(|(oldest, _)| at < oldest)) {
                oldest = Some((at, place()));
            }
        };
        for topic in self.topics() {
            look(topic.oldest_droppable(is_droppable), &|| Place::Topic(Arc::clone(&topic)));
            for partition in topic.partitions() {
                let at = partition.queue.lock().oldest_droppable(is_droppable);
                look(at, &|| Place::Partition(Arc::clone(&partition)));
            }
        }
        let Some((_, place)) = oldest else { return false };
        let mut dropped = Dropped::default();
        match place {
            Place::Topic(topic) => topic.drop_oldest(self, is_droppable, &mut dropped),
            Place::Partition(partition) => {
                partition.queue.lock().drop_oldest(&self.config, is_droppable, &mut dropped);
            }
        }
        let Dropped { acks, sources, charged } = dropped;
        self.meter.books.dropped(&sources, DropReason::FullOldest);
        settle_all(acks, Outcome::Delivered);
        self.budget.give_back(charged);
        sources.records() > 0
    }
}

fn drop_newest(source: &Source, ack: Option<Ack>) -> Full {
    source.counters.offered();
    source.counters.dropped(DropReason::FullNewest, 1);
    if let Some(ack) = ack {
        ack.settle(Outcome::Delivered);
    }
    Full::Dropped
}

enum Place {
    Topic(Arc<Topic>),
    Partition(Arc<Partition>),
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum Full {
    GivenBack(Option<Ack>),
    Dropped,
}

/// Takes the droppable ones out of what waits without a partition, up to a batch's size.
pub(crate) fn drop_waiting(
    waiting: &mut VecDeque<Waiting>,
    batch_bytes: usize,
    is_droppable: impl Fn(SourceId, bool) -> bool,
    dropped: &mut Dropped,
) -> usize {
    let mut count = 0;
    let mut kept = VecDeque::with_capacity(waiting.len());
    for one in waiting.drain(..) {
        if dropped.charged < batch_bytes && is_droppable(one.ticket.source, one.ticket.ack.is_some()) {
            dropped.add(one.ticket);
            count += 1;
        } else {
            kept.push_back(one);
        }
    }
    *waiting = kept;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_may_go_and_the_rest_only_where_somebody_said_so() {
        assert!(Droppable::Unacknowledged.allows(false) && !Droppable::Unacknowledged.allows(true));
        assert!(Droppable::All.allows(true));
        assert_eq!(FeedPolicy::from(AckPolicy::Kafka).when_full, WhenFull::HoldBack);
    }
}
