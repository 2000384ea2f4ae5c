//! What a test makes the server do wrong: which requests are hit ([`On`]), and how ([`Effect`]).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{ApiKey, ErrorCode};

/// Which requests a fault hits: by default all of one API, from the first on, until the fault is removed.
#[derive(Debug, Clone)]
pub struct On {
    api: Option<ApiKey>,
    node: Option<i32>,
    partition: Option<(String, i32)>,
    skip: u32,
    times: u32,
}

impl On {
    /// Every request of this API.
    pub fn api(api: ApiKey) -> Self {
        Self { api: Some(api), node: None, partition: None, skip: 0, times: u32::MAX }
    }

    /// Every request but ApiVersions, without which no client says anything.
    pub fn any() -> Self {
        Self { api: None, node: None, partition: None, skip: 0, times: u32::MAX }
    }

    /// Only requests that reach this node (1..).
    #[must_use]
    pub fn node(mut self, node: i32) -> Self {
        self.node = Some(node);
        self
    }

    /// Only Produce, Fetch and ListOffsets requests that carry this partition; an error is then answered for it alone.
    #[must_use]
    pub fn partition(mut self, topic: &str, partition: i32) -> Self {
        self.partition = Some((topic.to_owned(), partition));
        self
    }

    /// Lets `n` matching requests pass before the first is hit.
    #[must_use]
    pub fn skip(mut self, n: u32) -> Self {
        self.skip = n;
        self
    }

    /// Hits `k` requests and is then used up.
    #[must_use]
    pub fn times(mut self, k: u32) -> Self {
        self.times = k;
        self
    }
}

/// What happens to a request that is hit. Several faults may hit one request; all their effects apply.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Effect {
    /// This error is answered instead of doing the work.
    Error(ErrorCode),
    /// The work is done (records are appended), and this error is answered all the same.
    ErrorAfterWork(ErrorCode),
    /// The work is done, and the answer carries this as its throttle time. The connection stays open for requests, so
    /// that a client which ignores the throttle is seen.
    Throttle(Duration),
    /// The connection is closed before the work; earlier requests on it are answered.
    DropBefore,
    /// The work is done (and durable), then the connection is closed without an answer.
    DropAfter,
    /// The request, and what follows on its connection, waits this long before the work.
    Stall(Duration),
    /// The answer, and those that follow on its connection, waits this long after the work.
    StallAnswer(Duration),
    /// As [`Effect::Stall`], until [`Injected::release`].
    Hold,
    /// As [`Effect::StallAnswer`], until [`Injected::release`].
    HoldAnswer,
    /// The work is done, half of the answer's bytes are written, then the connection is closed.
    HalfAnswer,
    /// The work is done, and the answer carries a correlation id that nobody asked with.
    WrongCorrelation,
    /// The work is done, and these bytes go out instead of the answer. Its length prefix is part of them.
    Raw(Bytes),
}

/// A fault that was injected. Dropping this changes nothing: the fault stays.
#[derive(Clone)]
pub struct Injected(Arc<Injection>);

struct Injection {
    on: On,
    effect: Effect,
    progress: Mutex<Progress>,
    fired: watch::Sender<u32>,
    released: watch::Sender<bool>,
    removed: AtomicBool,
}

#[derive(Default)]
struct Progress {
    seen: u32,
    hit: u32,
}

impl Injected {
    /// How many requests were hit.
    pub fn fired(&self) -> u32 {
        *self.0.fired.borrow()
    }

    /// Waits until `times` requests were hit.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn wait_fired(&self, times: u32) {
        // The sender lives in `self`: the wait can't fail.
        let _ = self.0.fired.subscribe().wait_for(|&fired| fired >= times).await;
    }

    /// Lets held requests go; those that come later are not held any more.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// Ends the fault, and releases what it holds.
    pub fn remove(&self) {
        self.0.removed.store(true, Ordering::Release);
        self.release();
    }
}

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Injection { on, effect, .. } = &*self.0;
        f.debug_struct("Injected")
            .field("on", on)
            .field("effect", effect)
            .field("fired", &self.fired())
            .finish()
    }
}

/// A request as the faults look at it. The partitions are only decoded when a fault asks for them.
pub(crate) struct Candidate<'a> {
    pub(crate) api: ApiKey,
    pub(crate) node: i32,
    pub(crate) partitions: &'a dyn Fn() -> Vec<(String, i32)>,
}

impl Injection {
    fn hits(&self, request: &Candidate<'_>) -> bool {
        let api = match self.on.api {
            Some(api) => api == request.api,
            None => request.api != ApiKey::ApiVersions,
        };
        if self.removed.load(Ordering::Acquire)
            || !api
            || self.on.node.is_some_and(|node| node != request.node)
        {
            return false;
        }
        if let Some(wanted) = &self.on.partition
            && !(request.partitions)().contains(wanted)
        {
            return false;
        }
        let mut progress = self.progress.lock();
        progress.seen = progress.seen.saturating_add(1);
        let hit = progress.seen > self.on.skip && progress.hit < self.on.times;
        progress.hit += u32::from(hit);
        hit
    }
}

/// All that is to happen to one request.
#[derive(Default)]
pub(crate) struct Plan {
    errors: Vec<(Option<(String, i32)>, ErrorCode)>,
    errors_after_work: Vec<(Option<(String, i32)>, ErrorCode)>,
    pub(crate) throttle: Duration,
    pub(crate) drop_before: bool,
    pub(crate) drop_after: bool,
    stalls: Vec<Wait>,
    answer_stalls: Vec<Wait>,
    pub(crate) half_answer: bool,
    pub(crate) wrong_correlation: bool,
    pub(crate) raw: Option<Bytes>,
}

enum Wait {
    For(Duration),
    Released(watch::Receiver<bool>),
}

impl Plan {
    /// The error to answer for the whole request, or for all its topics.
    pub(crate) fn error(&self) -> Option<ErrorCode> {
        self.errors.iter().find(|(at, _)| at.is_none()).map(|(_, code)| *code)
    }

    /// The error to answer for this partition instead of doing the work.
    pub(crate) fn error_at(&self, topic: &str, partition: i32) -> Option<ErrorCode> {
        find(&self.errors, topic, partition)
    }

    /// The error to answer for this partition although the work was done.
    pub(crate) fn error_after_work_at(&self, topic: &str, partition: i32) -> Option<ErrorCode> {
        find(&self.errors_after_work, topic, partition)
    }

    /// The error to answer for a request without partitions although the work was done.
    pub(crate) fn error_after_work(&self) -> Option<ErrorCode> {
        self.errors_after_work.iter().find(|(at, _)| at.is_none()).map(|(_, code)| *code)
    }

    pub(crate) fn throttle_ms(&self) -> i32 {
        i32::try_from(self.throttle.as_millis()).unwrap_or(i32::MAX)
    }

    /// Splits off what concerns the answer on its way out; the errors and the throttle stay with the work.
    pub(crate) fn for_answer(&mut self) -> Self {
        Self {
            drop_after: self.drop_after,
            answer_stalls: std::mem::take(&mut self.answer_stalls),
            half_answer: self.half_answer,
            wrong_correlation: self.wrong_correlation,
            raw: self.raw.take(),
            ..Self::default()
        }
    }

    pub(crate) async fn before_work(&mut self) {
        wait_all(&mut self.stalls).await;
    }

    pub(crate) async fn before_answer(&mut self) {
        wait_all(&mut self.answer_stalls).await;
    }
}

fn find(errors: &[(Option<(String, i32)>, ErrorCode)], topic: &str, partition: i32) -> Option<ErrorCode> {
    let here = |at: &Option<(String, i32)>| at.as_ref().is_none_or(|(t, p)| t == topic && *p == partition);
    errors.iter().find(|(at, _)| here(at)).map(|(_, code)| *code)
}

async fn wait_all(waits: &mut Vec<Wait>) {
    for wait in waits.drain(..) {
        match wait {
            Wait::For(time) => tokio::time::sleep(time).await,
            // A fault that no longer exists holds nothing.
            Wait::Released(mut released) => drop(released.wait_for(|&released| released).await),
        }
    }
}

/// The faults that are injected now.
#[derive(Default)]
pub(crate) struct Injections {
    active: Mutex<Vec<Arc<Injection>>>,
    topics: Mutex<TopicFaults>,
}

#[derive(Default)]
struct TopicFaults {
    hidden: HashSet<String>,
    forbidden: HashSet<String>,
}

impl Injections {
    pub(crate) fn inject(&self, on: On, effect: Effect) -> Injected {
        let injection = Arc::new(Injection {
            on,
            effect,
            progress: Mutex::default(),
            fired: watch::Sender::new(0),
            released: watch::Sender::new(false),
            removed: AtomicBool::new(false),
        });
        let mut active = self.active.lock();
        active.retain(|old| !old.removed.load(Ordering::Acquire));
        active.push(Arc::clone(&injection));
        Injected(injection)
    }

    pub(crate) fn clear(&self) {
        for injection in self.active.lock().drain(..) {
            Injected(injection).remove();
        }
    }

    pub(crate) fn plan(&self, request: &Candidate<'_>) -> Plan {
        let mut plan = Plan::default();
        let hits: Vec<_> = self.active.lock().iter().filter(|one| one.hits(request)).cloned().collect();
        for hit in hits {
            let at = hit.on.partition.clone();
            match hit.effect.clone() {
                Effect::Error(code) => plan.errors.push((at, code)),
                Effect::ErrorAfterWork(code) => plan.errors_after_work.push((at, code)),
                Effect::Throttle(time) => plan.throttle = plan.throttle.max(time),
                Effect::DropBefore => plan.drop_before = true,
                Effect::DropAfter => plan.drop_after = true,
                Effect::Stall(time) => plan.stalls.push(Wait::For(time)),
                Effect::StallAnswer(time) => plan.answer_stalls.push(Wait::For(time)),
                Effect::Hold => plan.stalls.push(Wait::Released(hit.released.subscribe())),
                Effect::HoldAnswer => plan.answer_stalls.push(Wait::Released(hit.released.subscribe())),
                Effect::HalfAnswer => plan.half_answer = true,
                Effect::WrongCorrelation => plan.wrong_correlation = true,
                Effect::Raw(bytes) => plan.raw = Some(bytes),
            }
            hit.fired.send_modify(|fired| *fired += 1);
        }
        plan
    }

    pub(crate) fn hide_topic(&self, topic: &str) {
        self.topics.lock().hidden.insert(topic.to_owned());
    }

    pub(crate) fn forbid_topic(&self, topic: &str) {
        self.topics.lock().forbidden.insert(topic.to_owned());
    }

    pub(crate) fn restore_topic(&self, topic: &str) {
        let mut topics = self.topics.lock();
        topics.hidden.remove(topic);
        topics.forbidden.remove(topic);
    }

    /// The error that stands for the topic, if a test has taken it away.
    pub(crate) fn check_topic(&self, topic: &str) -> Result<(), ErrorCode> {
        let topics = self.topics.lock();
        if topics.forbidden.contains(topic) {
            return Err(ErrorCode::TOPIC_AUTHORIZATION_FAILED);
        }
        if topics.hidden.contains(topic) { Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(api: ApiKey) -> Candidate<'static> {
        Candidate { api, node: 1, partitions: &|| vec![("t".to_owned(), 3)] }
    }

    #[test]
    fn a_fault_hits_the_requests_that_were_named_and_no_others() {
        let faults = Injections::default();
        let hit = faults.inject(On::api(ApiKey::Produce).skip(1).times(2), Effect::DropAfter);
        let dropped: Vec<_> = (0..5).map(|_| faults.plan(&candidate(ApiKey::Produce)).drop_after).collect();
        assert_eq!(dropped, [false, true, true, false, false]);
        assert!(!faults.plan(&candidate(ApiKey::Fetch)).drop_after);
        assert_eq!(hit.fired(), 2);
    }

    #[test]
    fn an_error_for_one_partition_leaves_its_neighbours_alone() {
        let faults = Injections::default();
        faults.inject(On::any().partition("t", 3), Effect::Error(ErrorCode::NOT_ENOUGH_REPLICAS));
        faults.inject(On::any().partition("t", 4), Effect::DropBefore);
        let plan = faults.plan(&candidate(ApiKey::Produce));
        assert_eq!(plan.error_at("t", 3), Some(ErrorCode::NOT_ENOUGH_REPLICAS));
        assert_eq!((plan.error_at("t", 2), plan.error(), plan.drop_before), (None, None, false));
    }

    #[test]
    fn a_removed_fault_hits_nothing() {
        let faults = Injections::default();
        let fault = faults.inject(On::any(), Effect::DropBefore);
        fault.remove();
        assert!(!faults.plan(&candidate(ApiKey::Produce)).drop_before);
    }
}
