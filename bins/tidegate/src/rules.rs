//! From the rules of the configuration to compiled ones, with everything that is wrong said at once.

mod outputs;

use std::fmt::Write as _;
use std::sync::Arc;

use tidegate_broker::{AckMode, Output, RuleBinding};
use tidegate_kafka::{AckPolicy, Droppable, FeedPolicy, WhenFull};
use tidegate_rules::{Rule, Template};
use tidegate_sink::Feed;

use crate::config::{AckSettings, RuleSettings, Settings, WhenFullSettings};
use outputs::{CompiledOutput, Compiler};

/// The rules of a configuration, compiled, each with the name of the Kafka that each of its outputs goes to.
pub(crate) struct CompiledRules {
    rules: Vec<CompiledRule>,
    /// Of templates.
    warnings: Vec<String>,
}

struct CompiledRule {
    rule: Rule,
    ack: AckSettings,
    when_full: WhenFull,
    outputs: Vec<CompiledOutput>,
}

/// What takes the records of an output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Destination<'a> {
    /// The Kafka of that name, for the rule with that id.
    Kafka(&'a str, &'a str, FeedPolicy),
    Console,
    Discard,
}

impl CompiledRules {
    /// Compiles all rules.
    ///
    /// # Errors
    /// All that is wrong with all of them, for a terminal: rule, line, column, caret, cause and a suggestion.
    pub(crate) fn compile(settings: &Settings) -> Result<Self, String> {
        let (mut problems, mut warnings) = (String::new(), Vec::new());
        let mut rules: Vec<CompiledRule> = Vec::new();
        for rule in settings.rules_or_default() {
            if rules.iter().any(|known| known.rule.id() == rule.id) {
                let _ = writeln!(problems, "error: rules: there are two rules with the id `{}`", rule.id);
            }
            if let Some(compiled) = compile_rule(settings, &rule, &mut problems, &mut warnings) {
                rules.push(compiled);
            }
        }
        if problems.is_empty() { Ok(Self { rules, warnings }) } else { Err(problems.trim_end().to_owned()) }
    }

    /// How many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// What the rules can mean but probably do not, for a terminal.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let of_rules = self.rules.iter().flat_map(|compiled| {
            let rule = &compiled.rule;
            let warnings = rule.warnings().iter();
            warnings.map(|w| w.render(&format!("rules.{}.sql", rule.id()), rule.sql()).trim_end().to_owned())
        });
        of_rules.chain(self.warnings.iter().cloned())
    }

    /// The Kafka of each output that has one, behind the id of its rule.
    pub(crate) fn kafkas(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules.iter().flat_map(|rule| {
            rule.outputs.iter().filter_map(|output| match output {
                CompiledOutput::Kafka { kafka, .. } => Some((rule.rule.id(), kafka.as_str())),
                _ => None,
            })
        })
    }

    /// Whether some output is the console.
    pub(crate) fn use_console(&self) -> bool {
        let mut outputs = self.rules.iter().flat_map(|rule| &rule.outputs);
        outputs.any(|output| matches!(output, CompiledOutput::Console { .. }))
    }

    /// Where each rule's rows go, for people: rule id, SQL, destination.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&str, &str, String)> {
        self.rules.iter().flat_map(|compiled| {
            let destinations = compiled.outputs.iter().map(CompiledOutput::destination);
            destinations.map(|destination| (compiled.rule.id(), compiled.rule.sql(), destination))
        })
    }

    /// Binds each output to its destination.
    pub(crate) fn bind(self, feed: impl Fn(Destination<'_>) -> Arc<dyn Feed>) -> Vec<RuleBinding> {
        self.rules.into_iter().map(|rule| bind(rule, &feed)).collect()
    }
}

fn bind(
    CompiledRule { rule, ack, when_full, outputs }: CompiledRule,
    feed: impl Fn(Destination<'_>) -> Arc<dyn Feed>,
) -> RuleBinding {
    let mode = match ack {
        AckSettings::Durable | AckSettings::Kafka => AckMode::Delivered,
        AckSettings::Received => AckMode::Received,
    };
    let policy = FeedPolicy { ack: policy_of(ack), when_full };
    let mut binding = RuleBinding { rule, ack: mode, outputs: Vec::new(), republishes: Vec::new() };
    // An id is any text, and a dollar sign in a template is none.
    let id = Template::compile(&binding.rule.id().replace('$', "${$}")).expect("it has no other placeholder");
    let plain = |destination, value| Output {
        feed: feed(destination),
        topic: id.clone(),
        key: None,
        value: Some(value),
        headers: Vec::new(),
        default_headers: false,
    };
    let row = Template::compile("${.}").expect("it is the whole row");
    // What nobody reads is not written first.
    let nothing = Template::compile("").expect("it is no text at all");
    for output in outputs {
        match output {
            CompiledOutput::Kafka { kafka, record } => binding.outputs.push(Output {
                feed: feed(Destination::Kafka(&kafka, binding.rule.id(), policy)),
                topic: record.topic,
                key: record.key,
                value: record.value,
                headers: record.headers,
                default_headers: record.default_headers,
            }),
            CompiledOutput::Republish(republish) => binding.republishes.push(*republish),
            CompiledOutput::Console { value } => {
                binding.outputs.push(plain(Destination::Console, value.unwrap_or_else(|| row.clone())));
            }
            CompiledOutput::Discard => binding.outputs.push(plain(Destination::Discard, nothing.clone())),
        }
    }
    binding
}

fn compile_rule(
    settings: &Settings,
    rule: &RuleSettings,
    problems: &mut String,
    warnings: &mut Vec<String>,
) -> Option<CompiledRule> {
    let place = format!("rules.{}", rule.id);
    let compiled = Rule::compile(&rule.id, &rule.sql)
        .map_err(|error| {
            let _ = writeln!(problems, "{}", error.render(&format!("{place}.sql"), &rule.sql).trim_end());
        })
        .ok();
    if rule.outputs.is_empty() {
        let _ =
            writeln!(problems, "error: {place}.outputs: a rule without an output would lose what it selects");
    }
    let mut compiler = Compiler { settings, place: &place, rule: compiled.as_ref(), problems, warnings };
    let outputs: Vec<_> = rule.outputs.iter().map(|output| compiler.compile(output)).collect();
    let rule_and_outputs = compiled.zip(outputs.into_iter().collect::<Option<Vec<_>>>());
    let when_full = when_full(rule, &place, problems);
    rule_and_outputs.map(|(compiled, outputs)| CompiledRule {
        rule: compiled,
        ack: rule.ack,
        when_full,
        outputs,
    })
}

/// What a rule does with its records when there is no room.
fn when_full(rule: &RuleSettings, place: &str, problems: &mut String) -> WhenFull {
    let which = if rule.drop_acknowledged { Droppable::All } else { Droppable::Unacknowledged };
    match rule.when_full {
        WhenFullSettings::HoldBack => {
            if rule.drop_acknowledged {
                let _ = writeln!(
                    problems,
                    "error: {place}.drop_acknowledged: nothing is dropped while `when_full` is `hold_back`: say \
                     `when_full = \"drop_oldest\"` or `\"drop_newest\"`, or leave it out"
                );
            }
            WhenFull::HoldBack
        }
        WhenFullSettings::DropNewest => WhenFull::DropNewest(which),
        WhenFullSettings::DropOldest => WhenFull::DropOldest(which),
    }
}

/// What a rule's records count as delivered by. Where nobody waits it makes no difference.
fn policy_of(ack: AckSettings) -> AckPolicy {
    match ack {
        AckSettings::Kafka => AckPolicy::Kafka,
        AckSettings::Durable | AckSettings::Received => AckPolicy::Durable,
    }
}
