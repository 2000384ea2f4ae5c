//! Acknowledgements: who is told how a record ended, and that it is told once.

use std::fmt;
use std::sync::Arc;

use crate::prefetch;

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Safe at its destination, as safe as the sink's contract says.
    Delivered,
    /// The destination will never take it, and says so.
    Rejected(Rejection),
    /// Nobody knows, or it is known to be gone. Never acknowledge it.
    Lost,
}

/// Why a destination refused one record for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rejection {
    /// Larger than the destination takes.
    TooLarge,
    /// Malformed in the destination's eyes.
    Invalid,
    /// The destination does not allow it, and waiting will not help.
    NotAllowed,
    /// It goes to no topic that the destination can have: its name is none, or could not be made.
    IllegalTopic,
}

impl Rejection {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::TooLarge, Self::Invalid, Self::NotAllowed, Self::IllegalTopic];

    /// A name for metrics and headers, such as `too_large`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::NotAllowed => "not_allowed",
            Self::IllegalTopic => "illegal_topic",
        }
    }

    /// The reason with this [`Rejection::name`].
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name().as_bytes() == name)
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "too large",
            Self::Invalid => "invalid",
            Self::NotAllowed => "not allowed",
            Self::IllegalTopic => "illegal topic",
        })
    }
}

/// One settled acknowledgement: the token that the [`Ack`] was made with, and the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// What the receiver gave to [`Ack::new`].
    pub token: u64,
    /// How the record ended.
    pub outcome: Outcome,
}

/// Receives settled acknowledgements. Called from the sink's task, or from the task that drops an ack, so it must be
/// short and must not wait.
pub trait Settle: Send + Sync + 'static {
    /// Takes what was settled together, in the order in which the records were offered.
    fn settle(&self, settled: &[Settled]);
}

/// The promise that somebody is told how a record ended. It is resolved once; dropping it resolves it as
/// [`Outcome::Lost`], so no path can forget it. 24 bytes.
pub struct Ack {
    /// `None` once it is settled.
    target: Option<Arc<dyn Settle>>,
    token: u64,
}

impl Ack {
    /// An ack which tells `target`, with `token`, how its record ended.
    pub fn new(target: Arc<dyn Settle>, token: u64) -> Self {
        Self { target: Some(target), token }
    }

    /// What was given to [`Ack::new`].
    pub fn token(&self) -> u64 {
        self.token
    }

    /// A number that acks of one receiver share, and no two receivers that exist at the same time. Sorted by it (stably,
    /// to keep their order), the acks of a batch make the fewest calls in [`settle_all`].
    pub fn target_id(&self) -> usize {
        self.target.as_ref().map_or(0, |target| Arc::as_ptr(target).addr())
    }

    /// Settles this ack alone. For a batch use [`settle_all`].
    pub fn settle(mut self, outcome: Outcome) {
        self.resolve(outcome);
    }

    fn resolve(&mut self, outcome: Outcome) {
        if let Some(target) = self.target.take() {
            target.settle(&[Settled { token: self.token, outcome }]);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        self.resolve(Outcome::Lost);
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Settles many acks with one outcome: each run of neighbours with the same target is one call of [`Settle::settle`].
pub fn settle_all(acks: impl IntoIterator<Item = Ack>, outcome: Outcome) {
    settle_each(acks.into_iter().map(|ack| (ack, outcome)));
}

/// Settles each ack with its own outcome: each run of neighbours with the same target is one call of
/// [`Settle::settle`].
pub fn settle_each(acks: impl IntoIterator<Item = (Ack, Outcome)>) {
    let mut run: Option<Arc<dyn Settle>> = None;
    let mut settled = Vec::new();
    let mut acks = acks.into_iter().peekable();
    while let Some((mut ack, outcome)) = acks.next() {
        // Among the many of a batch, the next target is in no cache.
        if let Some(next) = acks.peek().and_then(|(next, _)| next.target.as_deref()) {
            prefetch(next);
        }
        let Some(target) = ack.target.take() else { continue };
        match &run {
            Some(same) if Arc::ptr_eq(same, &target) => {}
            _ => {
                if let Some(before) = run.replace(target) {
                    before.settle(&settled);
                    settled.clear();
                }
            }
        }
        settled.push(Settled { token: ack.token, outcome });
    }
    if let Some(last) = run {
        last.settle(&settled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Calls(Mutex<Vec<Vec<Settled>>>);

    impl Settle for Calls {
        fn settle(&self, settled: &[Settled]) {
            self.0.lock().push(settled.to_vec());
        }
    }

    fn ack(target: &Arc<Calls>, token: u64) -> Ack {
        let target: Arc<dyn Settle> = Arc::<Calls>::clone(target);
        Ack::new(target, token)
    }

    #[test]
    fn dropped_ack_is_lost_and_a_settled_one_is_told_once() {
        let calls = Arc::new(Calls::default());
        drop(ack(&calls, 1));
        ack(&calls, 2).settle(Outcome::Delivered);
        let told = calls.0.lock().concat();
        assert_eq!(
            told,
            [Settled { token: 1, outcome: Outcome::Lost }, Settled { token: 2, outcome: Outcome::Delivered }]
        );
        assert_eq!(Arc::strong_count(&calls), 1, "a settled ack lets go of its target");
    }

    #[test]
    fn neighbours_with_one_target_are_told_in_one_call() {
        let (a, b) = (Arc::new(Calls::default()), Arc::new(Calls::default()));
        let acks = vec![ack(&a, 1), ack(&a, 2), ack(&b, 3), ack(&a, 4)];
        settle_all(acks, Outcome::Delivered);
        let tokens = |c: &Calls| {
            c.0.lock().iter().map(|s| s.iter().map(|s| s.token).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(tokens(&a), [vec![1, 2], vec![4]]);
        assert_eq!(tokens(&b), [vec![3]]);
    }

    #[test]
    fn settle_all_that_unwinds_midway_loses_the_rest_instead_of_forgetting_it() {
        let a = Arc::new(Calls::default());
        let acks = vec![ack(&a, 1), ack(&a, 2)].into_iter().inspect(|ack| {
            assert_eq!(ack.token(), 1, "the second one panics");
        });
        let unwound =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| settle_all(acks, Outcome::Delivered)));
        assert!(unwound.is_err());
        let mut told = a.0.lock().concat();
        told.sort_by_key(|settled| settled.token);
        assert_eq!(told, [1, 2].map(|token| Settled { token, outcome: Outcome::Lost }));
    }

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        for (index, reason) in Rejection::ALL.into_iter().enumerate() {
            assert_eq!((reason.index(), Rejection::named(reason.name().as_bytes())), (index, Some(reason)));
        }
    }

    #[test]
    fn an_ack_is_24_bytes() {
        assert_eq!(size_of::<Ack>(), 24);
    }
}
