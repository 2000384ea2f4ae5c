//! Alarms: what is wrong with the destinations and the disk, told to the rules that listen for it, and again when it no
//! longer is.
//!
//! An alarm has a name that stays the same while its cause does, so that a rule can tell one from another: the part that
//! has it, as `sink main: topic readings`. What it says may change meanwhile; that is not told again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_broker::Broker;
use tidegate_rules::{Details, Event, EventKind};

use crate::ready::{Problem, Watched};

/// How often it is looked: what comes and goes in between is in the metrics only.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Raises and lowers alarms for as long as the broker runs.
pub(crate) async fn watch(watched: Watched, broker: Broker) {
    let mut alarms = Alarms::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for event in alarms.look(watched.problems(), now_ms()) {
            event.tell(|event| broker.raise(event));
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Those that are active, by name.
#[derive(Debug, Default)]
struct Alarms {
    active: BTreeMap<String, Alarm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Alarm {
    problem: Problem,
    activated_at_ms: i64,
    /// `None` when it begins.
    deactivated_at_ms: Option<i64>,
}

impl Alarms {
    /// What began and what ended, now that these are the problems.
    fn look(&mut self, problems: Vec<Problem>, now_ms: i64) -> Vec<Alarm> {
        let mut told = Vec::new();
        let mut ended = std::mem::take(&mut self.active);
        for problem in problems {
            let name = problem.name();
            let alarm = ended.remove(&name).unwrap_or_else(|| {
                let alarm = Alarm { problem, activated_at_ms: now_ms, deactivated_at_ms: None };
                told.push(alarm.clone());
                alarm
            });
            self.active.insert(name, alarm);
        }
        let lower = |alarm| Alarm { deactivated_at_ms: Some(now_ms), ..alarm };
        told.extend(ended.into_values().map(lower));
        told
    }
}

impl Alarm {
    fn tell(&self, raise: impl FnOnce(&Event<'_>)) {
        let kind = match self.deactivated_at_ms {
            None => EventKind::AlarmActivated,
            Some(_) => EventKind::AlarmDeactivated,
        };
        let mut details = vec![("part", self.problem.part.as_str())];
        details.extend(self.problem.sink.as_deref().map(|sink| ("sink", sink)));
        let details = Details::Alarm {
            name: &self.problem.name(),
            message: &self.problem.message,
            details: &details,
            activated_at_ms: self.activated_at_ms,
            deactivated_at_ms: self.deactivated_at_ms,
        };
        raise(&Event::of(kind, "", details));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(part: &str, message: &str) -> Problem {
        Problem { sink: Some("main".to_owned()), part: part.to_owned(), message: message.to_owned() }
    }

    #[test]
    fn an_alarm_is_raised_once_and_lowered_once_whatever_it_says_meanwhile() {
        let mut alarms = Alarms::default();
        let raised = alarms.look(vec![problem("cluster", "refused"), problem("spill", "full")], 5);
        assert_eq!(raised.len(), 2);
        assert_eq!(alarms.look(vec![problem("cluster", "timed out"), problem("spill", "full")], 6), []);
        let lowered = alarms.look(vec![problem("spill", "full")], 7);
        let expected =
            Alarm { problem: problem("cluster", "refused"), activated_at_ms: 5, deactivated_at_ms: Some(7) };
        assert_eq!(lowered, [expected]);
        assert_eq!(alarms.look(vec![problem("cluster", "refused"), problem("spill", "full")], 8).len(), 1);
    }
}
