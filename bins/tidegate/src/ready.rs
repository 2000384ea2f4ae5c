//! Whether what devices send is safe here now: what `/readyz` answers, and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tidegate_kafka::{Producer, State, Status};
use tidegate_store::Store;

/// Whose word it takes.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) producers: BTreeMap<String, Arc<Producer>>,
    pub(crate) store: Arc<dyn Store>,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    /// Whether messages are taken and acknowledged.
    pub(crate) ready: bool,
    /// Why not. Empty if they are.
    pub(crate) reasons: Vec<String>,
    /// What waits all the same: kept on disk meanwhile.
    pub(crate) waiting: Vec<String>,
}

impl Watched {
    /// How it is now.
    pub(crate) fn readiness(&self) -> Readiness {
        let sinks = self.producers.iter().map(|(name, producer)| (name.as_str(), producer.status()));
        Readiness::of(sinks, self.store.status().failure)
    }

    /// Everything that somebody should look at, which is more than what keeps messages from being safe.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let failure = self.store.status().failure;
        let of_store = |message| Problem { sink: None, part: "store".to_owned(), message };
        let of_sinks = self.producers.iter().flat_map(|(name, p)| Problem::of_sink(name, &p.status()));
        failure.map(of_store).into_iter().chain(of_sinks).collect()
    }
}

/// Something that is wrong with a sink or the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The sink that has it; `None` of the store.
    pub(crate) sink: Option<String>,
    /// Which part of it, as `topic readings`.
    pub(crate) part: String,
    pub(crate) message: String,
}

impl Problem {
    /// The same as long as the cause is.
    pub(crate) fn name(&self) -> String {
        match &self.sink {
            Some(sink) => format!("sink {sink}: {}", self.part),
            None => self.part.clone(),
        }
    }

    fn of_sink(sink: &str, status: &Status) -> Vec<Self> {
        let problem = |part: &str, message: &str| Self {
            sink: Some(sink.to_owned()),
            part: part.to_owned(),
            message: message.to_owned(),
        };
        let mut problems: Vec<_> = match status.state {
            State::Closed => Vec::new(),
            State::Up | State::Connecting | State::Waiting(_) => {
                status.problems.iter().map(|(part, why)| problem(part, why)).collect()
            }
        };
        problems.extend(status.warnings.iter().map(|(part, why)| problem(part, why)));
        let spill = status.spill.as_ref().and_then(|spill| spill.problem.as_deref());
        problems.extend(spill.map(|why| problem("spill", why)));
        problems
    }
}

impl Readiness {
    fn of<'a>(sinks: impl Iterator<Item = (&'a str, Status)>, store_failure: Option<String>) -> Self {
        let mut reasons = Vec::new();
        let mut waiting = Vec::new();
        reasons.extend(store_failure.map(|failure| format!("store: {failure}")));
        for (name, status) in sinks {
            let disk = status.spill.as_ref().map(|spill| spill.problem.as_ref());
            // What Kafka does not take is acknowledged from disk, where there is one that works.
            let place = match disk {
                Some(None) => &mut waiting,
                Some(Some(_)) | None => &mut reasons,
            };
            match &status.state {
                State::Up => {}
                State::Connecting => place.push(format!("sink {name}: Kafka was not reached yet")),
                State::Closed => place.push(format!("sink {name}: closed")),
                State::Waiting(_) => {
                    let problems = status.problems.iter();
                    place.extend(problems.map(|(part, reason)| format!("sink {name}: {part}: {reason}")));
                }
            }
            if let Some(Some(problem)) = disk {
                reasons.push(format!("sink {name}: spill: {problem}"));
            }
        }
        Self { ready: reasons.is_empty(), reasons, waiting }
    }
}
