//! One topic: its partitions, or the records that wait until they are known.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use tidegate_sink::{Ack, Outcome, OwnedRecord, Record, Rejection};

use crate::partition::{Appended, Partition};
use crate::producer::Shared;
use crate::record_batch::SealedBatch;

/// Kafka's own limit for a topic's name.
pub(crate) const MAX_TOPIC_NAME_BYTES: usize = 249;

/// A topic that records were offered for.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    routes: RwLock<Routes>,
    /// Where records go that may go anywhere.
    sticky: AtomicU32,
}

#[derive(Debug)]
enum Routes {
    /// Nobody has said yet which partitions there are. Records wait here in their order.
    Unknown(VecDeque<Waiting>),
    Known(Vec<Arc<Partition>>),
    /// There can't be such a topic.
    Refused(Rejection),
    Closed,
}

#[derive(Debug)]
struct Waiting {
    record: OwnedRecord,
    ack: Option<Ack>,
    charged: usize,
}

/// A record that did not go on: who waits for it, what it holds of the budget, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ack: Option<Ack>,
    pub(crate) charged: usize,
    pub(crate) outcome: Outcome,
}

impl Topic {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            routes: RwLock::new(Routes::Unknown(VecDeque::new())),
            sticky: AtomicU32::new(0),
        }
    }

    /// Takes a record in: into its partition's batch, or to those that wait for the partitions to be known.
    pub(crate) fn offer(
        &self,
        shared: &Shared,
        record: &Record<'_>,
        ack: Option<Ack>,
        charged: usize,
    ) -> Result<(), Ended> {
        if let Routes::Known(partitions) = &*self.routes.read() {
            return self.route(shared, partitions, record, ack, charged);
        }
        // Looked at again under the write lock, so that no record overtakes those that wait.
        match &mut *self.routes.write() {
            Routes::Unknown(waiting) => {
                waiting.push_back(Waiting { record: OwnedRecord::from(record), ack, charged });
                shared.budget.take(size_of::<Waiting>());
                Ok(())
            }
            Routes::Known(partitions) => self.route(shared, partitions, record, ack, charged),
            Routes::Refused(reason) => Err(Ended { ack, charged, outcome: Outcome::Rejected(*reason) }),
            Routes::Closed => Err(Ended { ack, charged, outcome: Outcome::Lost }),
        }
    }

    fn route(
        &self,
        shared: &Shared,
        partitions: &[Arc<Partition>],
        record: &Record<'_>,
        ack: Option<Ack>,
        charged: usize,
    ) -> Result<(), Ended> {
        let count = partitions.len() as u32;
        let sticky = self.sticky.load(Ordering::Relaxed);
        let index = match record.partition {
            Some(explicit) => explicit,
            None => shared.config.partitioner.partition(record, count, sticky % count.max(1)) % count.max(1),
        };
        let Some(partition) = partitions.get(index as usize) else {
            return Err(Ended { ack, charged, outcome: Outcome::Rejected(Rejection::Invalid) });
        };
        let mut queue = partition.queue.lock();
        let now = || tokio::time::Instant::now().into_std();
        let appended = queue
            .append(record, ack, charged, shared.config.batch_bytes, now, || shared.spare_buffers())
            .map_err(|ack| Ended { ack, charged, outcome: Outcome::Lost })?;
        if appended == Appended::Joined {
            return Ok(());
        }
        if !queue.listed
            && let Some(owner) = queue.owner.clone()
        {
            queue.listed = true;
            owner.list(Arc::clone(partition));
        }
        if let Some(owner) = &queue.owner {
            owner.touch();
            if appended == Appended::Sealed {
                owner.wake();
            }
        }
        if appended == Appended::Sealed && sticky == index {
            self.sticky.store((index + 1) % count, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether its partitions are known, or there can be none.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(&*self.routes.read(), Routes::Unknown(_))
    }

    /// Takes in which node leads which partition: `leaders[n]` that of partition `n`. Records that waited for it go to
    /// their partitions. Returns those that can't.
    pub(crate) fn set_leaders(&self, shared: &Arc<Shared>, leaders: &[Option<i32>]) -> Vec<Ended> {
        let mut ended = Vec::new();
        let Some(identity) = shared.control.identity() else { return ended };
        let mut routes = self.routes.write();
        if matches!(&*routes, Routes::Refused(_)) {
            *routes = Routes::Unknown(VecDeque::new());
        }
        let known = match &*routes {
            Routes::Closed => return ended,
            Routes::Known(partitions) => partitions.len(),
            Routes::Unknown(_) | Routes::Refused(_) => 0,
        };
        let new = (known..leaders.len()).map(|index| {
            let name = Arc::clone(&self.name);
            Arc::new(Partition::new(name, index as i32, identity, shared.config.backoff, shared.seed()))
        });
        match &mut *routes {
            Routes::Known(partitions) => partitions.extend(new),
            unknown => {
                let partitions: Vec<_> = new.collect();
                if let Routes::Unknown(waiting) = std::mem::replace(unknown, Routes::Closed) {
                    for Waiting { record, ack, charged } in waiting {
                        let routed = record
                            .with_borrowed(|record| self.route(shared, &partitions, record, ack, charged));
                        ended.extend(routed.err());
                        shared.budget.give_back(size_of::<Waiting>());
                    }
                }
                *unknown = Routes::Known(partitions);
            }
        }
        if let Routes::Known(partitions) = &*routes {
            for (partition, leader) in partitions.iter().zip(leaders) {
                set_leader(shared, partition, *leader);
            }
        }
        ended
    }

    /// Ends all that waits for a topic which can't exist.
    pub(crate) fn refuse(&self, shared: &Shared, reason: Rejection) -> Vec<Ended> {
        let mut routes = self.routes.write();
        let Routes::Unknown(waiting) = &mut *routes else { return Vec::new() };
        let waiting = std::mem::take(waiting);
        *routes = Routes::Refused(reason);
        drop(routes);
        end(shared, waiting, Outcome::Rejected(reason))
    }

    /// Takes in nothing more and gives back everything that waits.
    pub(crate) fn close(&self, shared: &Shared) -> (Vec<SealedBatch>, Vec<Ended>) {
        match std::mem::replace(&mut *self.routes.write(), Routes::Closed) {
            Routes::Unknown(waiting) => (Vec::new(), end(shared, waiting, Outcome::Lost)),
            Routes::Known(partitions) => {
                (partitions.iter().flat_map(|partition| partition.queue.lock().close()).collect(), Vec::new())
            }
            Routes::Refused(_) | Routes::Closed => (Vec::new(), Vec::new()),
        }
    }
}

fn end(shared: &Shared, waiting: VecDeque<Waiting>, outcome: Outcome) -> Vec<Ended> {
    shared.budget.give_back(waiting.len() * size_of::<Waiting>());
    waiting.into_iter().map(|Waiting { ack, charged, .. }| Ended { ack, charged, outcome }).collect()
}

fn set_leader(shared: &Arc<Shared>, partition: &Arc<Partition>, leader: Option<i32>) {
    let mut queue = partition.queue.lock();
    // A partition without a leader keeps its old one in mind: it is the likeliest to come back, and nothing is lost by
    // asking it.
    let Some(leader) = leader else { return };
    queue.set_leader(leader);
    // Started even if it is the old owner that sends for now: it looks for the new one when it hands over.
    let lane = shared.lane(leader);
    match queue.owner.clone() {
        Some(owner) if owner.node() == leader => owner.wake(),
        // Its owner hands it over when no answer is due.
        Some(owner) if queue.listed => owner.wake(),
        _ => {
            let owner = lane;
            if queue.has_waiting() {
                queue.listed = true;
                owner.list(Arc::clone(partition));
                owner.wake();
            }
            queue.owner = Some(owner);
        }
    }
}
