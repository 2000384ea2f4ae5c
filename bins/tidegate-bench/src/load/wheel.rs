//! A timer wheel for many thousand devices: inserting and expiring cost a few nanoseconds each, whatever their number.

/// One turn of the wheel, in ticks. Timers further away stay in their slot and are looked at once a turn.
const SLOTS: u64 = 4096;

/// Timers of type `T`, due at ticks; what a tick lasts is the caller's matter.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// The first tick that was not expired yet.
    next: u64,
    len: usize,
}

impl<T: Copy> Wheel<T> {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: 0, len: 0 }
    }

    /// Adds a timer that is due at that tick, or at the next one where that has passed.
    pub(super) fn insert(&mut self, due: u64, timer: T) {
        let due = due.max(self.next);
        let slot = usize::try_from(due % SLOTS).expect("less than the number of slots");
        self.slots[slot].push((due, timer));
        self.len += 1;
    }

    /// Moves all timers that are due at `now` or before into `out`, with the ticks that they were due at. Those of an
    /// earlier tick come first, unless more than a turn has passed.
    pub(super) fn expire(&mut self, now: u64, out: &mut Vec<(u64, T)>) {
        if now < self.next {
            return;
        }
        let last = now.min(self.next + SLOTS - 1);
        for tick in self.next..=last {
            let slot = usize::try_from(tick % SLOTS).expect("less than the number of slots");
            if self.slots[slot].is_empty() {
                continue;
            }
            let before = out.len();
            self.slots[slot].retain(|timer| {
                let due = timer.0 <= now;
                if due {
                    out.push(*timer);
                }
                !due
            });
            self.len -= out.len() - before;
        }
        self.next = now + 1;
    }

    /// Returns the tick of the earliest timer, or `horizon` ticks from the first unexpired one if nothing is due
    /// before that.
    pub(super) fn next_due(&self, horizon: u64) -> u64 {
        let end = self.next + horizon;
        if self.len == 0 {
            return end;
        }
        (self.next..end)
            .find(|tick| {
                let slot = usize::try_from(tick % SLOTS).expect("less than the number of slots");
                self.slots[slot].iter().any(|(due, _)| due <= tick)
            })
            .unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_timer_comes_exactly_once_and_never_early(
            dues in prop::collection::vec(0_u64..20_000, 1..200),
            steps in prop::collection::vec(1_u64..6000, 1..40),
        ) {
            let mut wheel = Wheel::new();
            for (number, due) in dues.iter().enumerate() {
                wheel.insert(*due, number);
            }
            let mut seen = vec![0; dues.len()];
            let mut now = 0;
            for step in steps {
                now += step;
                let mut out = Vec::new();
                wheel.expire(now, &mut out);
                for (due, number) in out {
                    prop_assert_eq!(due, dues[number]);
                    prop_assert!(due <= now);
                    seen[number] += 1;
                }
                for (number, due) in dues.iter().enumerate() {
                    prop_assert_eq!(seen[number], u32::from(*due <= now), "due at {}, now {}", due, now);
                }
            }
        }
    }

    #[test]
    fn a_timer_in_the_past_is_due_at_the_next_tick() {
        let mut wheel = Wheel::new();
        let mut out = Vec::new();
        wheel.expire(100, &mut out);
        wheel.insert(5, 'a');
        assert_eq!(wheel.next_due(10), 101);
        wheel.expire(101, &mut out);
        assert_eq!(out, [(101, 'a')]);
    }

    #[test]
    fn the_next_due_tick_is_not_that_of_a_later_turn() {
        let mut wheel = Wheel::new();
        wheel.insert(SLOTS + 3, 'b');
        assert_eq!(wheel.next_due(100), 100);
        wheel.insert(7, 'a');
        assert_eq!(wheel.next_due(100), 7);
    }
}
