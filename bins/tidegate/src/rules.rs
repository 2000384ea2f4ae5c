//! From the rules of the configuration to compiled ones, with everything that is wrong said at once.

use std::fmt::Write as _;
use std::sync::Arc;

use tidegate_broker::{AckMode, Output, RuleBinding};
use tidegate_kafka::AckPolicy;
use tidegate_rules::{CompileError, Rule, Template};
use tidegate_sink::Feed;

use crate::config::{AckSettings, OutputSettings, RuleSettings, Settings};

/// The rules of a configuration, compiled, each with the name of the Kafka that each of its outputs goes to.
pub(crate) struct CompiledRules {
    rules: Vec<CompiledRule>,
}

struct CompiledRule {
    rule: Rule,
    ack: AckSettings,
    outputs: Vec<CompiledOutput>,
}

struct CompiledOutput {
    kafka: String,
    topic: Template,
    key: Option<Template>,
    value: Option<Template>,
    headers: Vec<(String, Template)>,
    default_headers: bool,
}

impl CompiledRules {
    /// Compiles all rules.
    ///
    /// # Errors
    /// All that is wrong with all of them, for a terminal: rule, line, column, caret, cause and a suggestion.
    pub(crate) fn compile(settings: &Settings) -> Result<Self, String> {
        let mut problems = String::new();
        let mut rules: Vec<CompiledRule> = Vec::new();
        for rule in settings.rules_or_default() {
            if rules.iter().any(|known| known.rule.id() == rule.id) {
                let _ = writeln!(problems, "error: rules: there are two rules with the id `{}`", rule.id);
            }
            if let Some(compiled) = compile_rule(settings, &rule, &mut problems) {
                rules.push(compiled);
            }
        }
        if problems.is_empty() { Ok(Self { rules }) } else { Err(problems.trim_end().to_owned()) }
    }

    /// How many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// What the rules can mean but probably do not, for a terminal.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.rules.iter().flat_map(|compiled| {
            let rule = &compiled.rule;
            let warnings = rule.warnings().iter();
            warnings.map(|w| w.render(&format!("rules.{}.sql", rule.id()), rule.sql()).trim_end().to_owned())
        })
    }

    /// Where each rule's rows go, for people: rule id, SQL, destination.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&str, &str, String)> {
        self.rules.iter().flat_map(|compiled| {
            compiled.outputs.iter().map(|output| {
                (compiled.rule.id(), compiled.rule.sql(), format!("{}:{}", output.kafka, output.topic.text()))
            })
        })
    }

    /// Binds each output to its destination.
    pub(crate) fn bind(self, feed: impl Fn(&str, AckPolicy) -> Arc<dyn Feed>) -> Vec<RuleBinding> {
        self.rules
            .into_iter()
            .map(|CompiledRule { rule, ack, outputs }| RuleBinding {
                rule,
                ack: match ack {
                    AckSettings::Durable | AckSettings::Kafka => AckMode::Delivered,
                    AckSettings::Received => AckMode::Received,
                },
                outputs: outputs
                    .into_iter()
                    .map(|output| Output {
                        feed: feed(&output.kafka, policy_of(ack)),
                        topic: output.topic,
                        key: output.key,
                        value: output.value,
                        headers: output.headers,
                        default_headers: output.default_headers,
                    })
                    .collect(),
            })
            .collect()
    }
}

fn compile_rule(settings: &Settings, rule: &RuleSettings, problems: &mut String) -> Option<CompiledRule> {
    let place = format!("rules.{}", rule.id);
    let compiled = Rule::compile(&rule.id, &rule.sql)
        .map_err(|error| report(problems, &format!("{place}.sql"), &rule.sql, &error))
        .ok();
    if rule.outputs.is_empty() {
        let _ =
            writeln!(problems, "error: {place}.outputs: a rule without an output would lose what it selects");
    }
    let outputs: Vec<_> =
        rule.outputs.iter().map(|output| compile_output(settings, &place, output, problems)).collect();
    let rule_and_outputs = compiled.zip(outputs.into_iter().collect::<Option<Vec<_>>>());
    rule_and_outputs.map(|(compiled, outputs)| CompiledRule { rule: compiled, ack: rule.ack, outputs })
}

/// What a rule's records count as delivered by. Where nobody waits it makes no difference.
fn policy_of(ack: AckSettings) -> AckPolicy {
    match ack {
        AckSettings::Kafka => AckPolicy::Kafka,
        AckSettings::Durable | AckSettings::Received => AckPolicy::Durable,
    }
}

fn compile_output(
    settings: &Settings,
    rule: &str,
    output: &OutputSettings,
    problems: &mut String,
) -> Option<CompiledOutput> {
    let mut template = |key: &str, text: &str| {
        Template::compile(text)
            .map_err(|error| report(problems, &format!("{rule}.outputs.{key}"), text, &error))
            .ok()
    };
    let topic = template("topic", &output.topic);
    let key = output.key.as_deref().map(|text| template("key", text));
    let value = output.value.as_deref().map(|text| template("value", text));
    let headers: Vec<_> = output
        .headers
        .iter()
        .map(|(name, text)| {
            template(&format!("headers.{name}"), text).map(|template| (name.clone(), template))
        })
        .collect();
    let kafka = settings
        .kafka_of(output)
        .map_err(|problem| writeln!(problems, "error: {rule}.outputs.kafka: {problem}"))
        .ok();
    Some(CompiledOutput {
        kafka: kafka?.to_owned(),
        topic: topic?,
        // A key that was given and is wrong is a problem; one that was not given is the default.
        key: key.map_or(Some(None), |key| key.map(Some))?,
        value: value.map_or(Some(None), |value| value.map(Some))?,
        headers: headers.into_iter().collect::<Option<_>>()?,
        default_headers: output.default_headers,
    })
}

fn report(problems: &mut String, place: &str, text: &str, error: &CompileError) {
    let _ = writeln!(problems, "{}", error.render(place, text).trim_end());
}
