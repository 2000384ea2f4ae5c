//! What a rule's outputs write to, and SIGHUP: the configuration is read again, and its rules take the place of those that
//! run, all of them or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::Registry;
use serde::Serialize;
use serde_json::Value;
use tidegate_broker::{Broker, RuleBinding};
use tidegate_kafka::Producer;
use tidegate_sink::{Discard, Feed};

use crate::Failure;
use crate::cli::ConfigArgs;
use crate::config::{RuleSettings, Settings};
use crate::console::Console;
use crate::prepare;
use crate::rules::{CompiledRules, Destination};

/// What takes the records of rules, and stays the same when rules change.
pub(crate) struct Destinations {
    pub(crate) producers: BTreeMap<String, Arc<Producer>>,
    /// Started for the first rule that writes to it.
    console: Option<Arc<Console>>,
    nowhere: Arc<Discard>,
    registry: Registry,
}

impl Destinations {
    pub(crate) fn new(producers: BTreeMap<String, Arc<Producer>>, registry: Registry) -> Self {
        Self { producers, console: None, nowhere: Arc::default(), registry }
    }

    /// Binds every output to what takes its records.
    ///
    /// # Errors
    /// A text for the operator: an output goes to a Kafka that was not there at the start, or there is no console.
    pub(crate) fn bind(&mut self, rules: CompiledRules) -> Result<Vec<RuleBinding>, String> {
        if let Some((rule, kafka)) = rules.kafkas().find(|(_, kafka)| !self.producers.contains_key(*kafka)) {
            return Err(format!("rules.{rule}: [kafka.{kafka}] is new: that takes a restart"));
        }
        if self.console.is_none() && rules.use_console() {
            self.console = Some(Console::start(&self.registry).map_err(|error| format!("console: {error}"))?);
        }
        Ok(rules.bind(|destination| match (destination, &self.console) {
            (Destination::Kafka(kafka, rule, policy), _) => {
                Arc::new(self.producers[kafka].feed_for(rule, policy))
            }
            (Destination::Console, Some(console)) => Arc::clone(console) as Arc<dyn Feed>,
            (Destination::Console | Destination::Discard, _) => Arc::clone(&self.nowhere) as Arc<dyn Feed>,
        }))
    }
}

/// Reads the configuration of a running broker again.
pub(crate) struct Reload {
    args: ConfigArgs,
    /// As it runs.
    settings: Settings,
    destinations: Destinations,
    broker: Broker,
}

impl Reload {
    pub(crate) fn new(
        args: ConfigArgs,
        settings: Settings,
        destinations: Destinations,
        broker: Broker,
    ) -> Self {
        Self { args, settings, destinations, broker }
    }

    /// Takes the rules of the configuration as it is now, and says in the log what changed. Where anything is wrong with
    /// it, everything stays as it was.
    pub(crate) fn run(&mut self) {
        match self.replace() {
            Ok(Changes { added, changed, removed }) => {
                tracing::info!(?added, ?changed, ?removed, "the rules were read again");
            }
            Err(reason) => {
                tracing::error!(reason, "the configuration was not taken, and all stays as it was");
            }
        }
    }

    fn replace(&mut self) -> Result<Changes, String> {
        let (settings, rules, _) = prepare(&self.args).map_err(Failure::into_text)?;
        let later = other_differences(&self.settings, &settings);
        if !later.is_empty() {
            tracing::warn!(sections = ?later, "these have changed as well, which a restart will bring");
        }
        let (before, after) = (self.settings.rules_or_default(), settings.rules_or_default());
        let bindings = self.destinations.bind(rules)?;
        self.broker.replace_rules(bindings).map_err(|error| error.to_string())?;
        self.settings.rules = settings.rules;
        Ok(Changes::between(&before, &after))
    }
}

/// Rules by their ids.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    fn between(before: &[RuleSettings], after: &[RuleSettings]) -> Self {
        let find = |rules: &[RuleSettings], id: &str| rules.iter().find(|rule| rule.id == id).map(value_of);
        let mut changes = Self::default();
        for rule in after {
            match find(before, &rule.id) {
                None => changes.added.push(rule.id.clone()),
                Some(old) if old != value_of(rule) => changes.changed.push(rule.id.clone()),
                Some(_) => {}
            }
        }
        let is_gone = |rule: &&RuleSettings| find(after, &rule.id).is_none();
        changes.removed = before.iter().filter(is_gone).map(|rule| rule.id.clone()).collect();
        changes
    }
}

/// The sections beside the rules that differ.
fn other_differences(before: &Settings, after: &Settings) -> Vec<String> {
    let (Value::Object(before), Value::Object(after)) = (value_of(before), value_of(after)) else {
        return Vec::new();
    };
    let differs = |key: &&String| *key != "rules" && before.get(*key) != after.get(*key);
    after.keys().filter(differs).cloned().collect()
}

/// Settings as they could be written, to compare them.
fn value_of(settings: &impl Serialize) -> Value {
    serde_json::to_value(settings).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> Settings {
        toml::from_str(toml).expect("a configuration")
    }

    const ONE: &str =
        "[[rules]]\nid = \"one\"\nsql = 'SELECT * FROM \"a\"'\noutputs = [{ kind = \"discard\" }]\n";

    #[test]
    fn what_changed_is_told_by_the_ids_of_rules_and_the_names_of_sections() {
        let before = settings(&format!("{ONE}{}", ONE.replace("one", "two")));
        let after = settings(&format!(
            "[mqtt]\nmax_qos = 1\n{}{}",
            ONE.replace("\"a\"", "\"b\""),
            ONE.replace("one", "three")
        ));
        let changes = Changes::between(&before.rules, &after.rules);
        let expected = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            changes,
            Changes { added: expected(&["three"]), changed: expected(&["one"]), removed: expected(&["two"]) }
        );
        assert_eq!(Changes::between(&before.rules, &before.rules), Changes::default());
        assert_eq!(other_differences(&before, &after), ["mqtt"]);
    }
}
