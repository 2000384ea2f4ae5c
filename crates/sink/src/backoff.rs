//! How long to wait before the next attempt: doubling, capped, with jitter.

use std::time::Duration;

/// The bounds of a [`Backoff`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Wait before the first repetition. 20 ms unless told.
    pub first: Duration,
    /// No wait is longer. 1 s unless told.
    pub cap: Duration,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(20), cap: Duration::from_secs(1) }
    }
}

/// Waits that double from `first` to `cap`, each shortened by a random part of up to one half so that many clients of
/// one server do not come back at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempts: u32,
    random: u64,
}

impl Backoff {
    /// A backoff before its first failure. Two with one `seed` wait alike, so give each its own.
    pub fn new(policy: BackoffPolicy, seed: u64) -> Self {
        // Zero is the one state that xorshift can't leave.
        Self { policy, attempts: 0, random: seed | 1 }
    }

    /// Counts a failure and says how long to wait before the next attempt.
    pub fn failed(&mut self) -> Duration {
        let doublings = self.attempts.min(20);
        self.attempts = self.attempts.saturating_add(1);
        let full = self.policy.first.saturating_mul(1 << doublings).min(self.policy.cap);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = full / 2;
        let jitter = u64::try_from(half.as_nanos()).map_or(0, |n| self.random % (n + 1));
        full.saturating_sub(Duration::from_nanos(jitter))
    }

    /// The bounds that it was made with.
    pub fn policy(&self) -> BackoffPolicy {
        self.policy
    }

    /// Failures since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts over: the attempt succeeded.
    pub fn succeeded(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_keep_half_of_it() {
        let policy = BackoffPolicy::default();
        for seed in 0..50 {
            let mut backoff = Backoff::new(policy, seed);
            for attempt in 0..40_u32 {
                let full = policy.first.saturating_mul(1 << attempt.min(20)).min(policy.cap);
                let wait = backoff.failed();
                assert!(wait <= full && wait >= full / 2, "seed {seed}, attempt {attempt}: {wait:?}");
            }
            backoff.succeeded();
            assert!(backoff.failed() <= policy.first);
        }
    }

    #[test]
    fn two_seeds_do_not_wait_alike() {
        let waits = |seed| {
            let mut backoff = Backoff::new(BackoffPolicy::default(), seed);
            (0..8).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        assert_ne!(waits(3), waits(99));
    }
}
