//! One acknowledgement for several records: a message that several outputs carry is safe when the last of them is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use tidegate_sink::{Ack, Outcome, Rejection, Settle, Settled};

/// Joins the acknowledgements of several records into the one that the message waits for. It tells the worst outcome.
pub(crate) struct Joint {
    target: Arc<dyn Settle>,
    token: u64,
    /// Records that are not settled yet, and one for whoever still adds to them.
    remaining: AtomicU32,
    worst: AtomicU8,
}

impl Joint {
    pub(crate) fn new(target: Arc<dyn Settle>, token: u64) -> Arc<Self> {
        Arc::new(Self { target, token, remaining: AtomicU32::new(1), worst: AtomicU8::new(0) })
    }

    /// An acknowledgement for one more record.
    pub(crate) fn ack(self: &Arc<Self>) -> Ack {
        self.remaining.fetch_add(1, Ordering::Relaxed);
        Ack::new(Arc::clone(self) as Arc<dyn Settle>, self.token)
    }

    /// No further record will be added.
    pub(crate) fn complete(&self) {
        self.settle_one(Outcome::Delivered);
    }

    fn settle_one(&self, outcome: Outcome) {
        self.worst.fetch_max(severity(outcome), Ordering::AcqRel);
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            let outcome = outcome_of(self.worst.load(Ordering::Acquire));
            self.target.settle(&[Settled { token: self.token, outcome }]);
        }
    }
}

impl Settle for Joint {
    fn settle(&self, settled: &[Settled]) {
        for settled in settled {
            self.settle_one(settled.outcome);
        }
    }
}

fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Delivered => 0,
        Outcome::Rejected(Rejection::TooLarge) => 1,
        Outcome::Rejected(Rejection::NotAllowed) => 2,
        Outcome::Rejected(Rejection::IllegalTopic) => 3,
        Outcome::Rejected(_) => 4,
        Outcome::Lost => 5,
    }
}

fn outcome_of(severity: u8) -> Outcome {
    match severity {
        0 => Outcome::Delivered,
        1 => Outcome::Rejected(Rejection::TooLarge),
        2 => Outcome::Rejected(Rejection::NotAllowed),
        3 => Outcome::Rejected(Rejection::IllegalTopic),
        4 => Outcome::Rejected(Rejection::Invalid),
        _ => Outcome::Lost,
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<Settled>>);

    impl Settle for Told {
        fn settle(&self, settled: &[Settled]) {
            self.0.lock().extend_from_slice(settled);
        }
    }

    #[test]
    fn the_message_is_settled_once_and_only_when_its_last_record_is() {
        let told = Arc::new(Told::default());
        let joint = Joint::new(Arc::clone(&told) as Arc<dyn Settle>, 7);
        let (first, second) = (joint.ack(), joint.ack());
        first.settle(Outcome::Delivered);
        joint.complete();
        assert!(told.0.lock().is_empty());
        second.settle(Outcome::Delivered);
        assert_eq!(*told.0.lock(), [Settled { token: 7, outcome: Outcome::Delivered }]);
    }

    #[test]
    fn one_lost_record_makes_the_message_lost_whatever_the_others_say() {
        let told = Arc::new(Told::default());
        let joint = Joint::new(Arc::clone(&told) as Arc<dyn Settle>, 1);
        let (first, second) = (joint.ack(), joint.ack());
        joint.complete();
        drop(first);
        second.settle(Outcome::Delivered);
        assert_eq!(*told.0.lock(), [Settled { token: 1, outcome: Outcome::Lost }]);
    }
}
