//! FROM: topics of messages, and names of events.

use tidegate_topic::TopicFilter;

use super::Compiler;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::event::{EVENT_TOPICS, EventKind};
use crate::syntax::ast::Source;

impl Compiler<'_> {
    /// Checks one filter and notes what it listens to.
    pub(super) fn source(&mut self, Source { filter, span }: Source) -> Option<String> {
        let parsed = match TopicFilter::parse(&filter) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.report(Diagnostic::error(span, format!("this is not a topic filter: {error}")));
                return None;
            }
        };
        if filter.starts_with("$bridges/") {
            let error = Diagnostic::error(span, "rules read messages and events, not bridges");
            self.report(error.hint("name the topics that the bridge's messages come in on"));
            return None;
        }
        if !filter.starts_with(EVENT_TOPICS) {
            self.listen(EventKind::MessagePublish);
            return Some(filter);
        }
        let kinds = EventKind::ALL.into_iter().filter(|kind| kind.is_meant_by(parsed));
        let kinds: Vec<_> = kinds.collect();
        if kinds.is_empty() {
            let names = EventKind::ALL.into_iter().flat_map(EventKind::topics);
            let hint = did_you_mean(&filter, names);
            let error = Diagnostic::error(span, format!("there is no event \"{filter}\""));
            self.report(error.maybe_hint(hint));
            return None;
        }
        for kind in kinds {
            self.listen(kind);
        }
        Some(filter)
    }

    fn listen(&mut self, kind: EventKind) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }
}
