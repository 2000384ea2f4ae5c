//! One output of a rule, compiled, with everything that is wrong with it said at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tidegate_broker::{QoS, Republish, RepublishProperties};
use tidegate_rules::{CompileError, Diagnostic, Rule, Severity, Template, check_template};

use crate::config::{OutputKind, OutputSettings, Settings};

/// Where rows go, and what becomes of each.
pub(super) enum CompiledOutput {
    Kafka { kafka: String, record: RecordTemplates },
    Republish(Box<Republish>),
    Console { value: Option<Template> },
    Discard,
}

/// A Kafka record.
pub(super) struct RecordTemplates {
    pub(super) topic: Template,
    pub(super) key: Option<Template>,
    pub(super) value: Option<Template>,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) default_headers: bool,
}

impl CompiledOutput {
    /// For people.
    pub(super) fn destination(&self) -> String {
        match self {
            Self::Kafka { kafka, record } => format!("{kafka}:{}", record.topic.text()),
            Self::Republish(republish) => format!("republish:{}", republish.topic.text()),
            Self::Console { .. } => "console".to_owned(),
            Self::Discard => "discard".to_owned(),
        }
    }
}

/// Something is wrong, and was told.
struct Wrong;

/// Compiles the outputs of one rule.
pub(super) struct Compiler<'a> {
    pub(super) settings: &'a Settings,
    /// What the rule is called in messages.
    pub(super) place: &'a str,
    /// `None` where the rule itself is wrong, so that its columns are not known.
    pub(super) rule: Option<&'a Rule>,
    pub(super) problems: &'a mut String,
    pub(super) warnings: &'a mut Vec<String>,
}

impl Compiler<'_> {
    /// `None` where there is a problem.
    pub(super) fn compile(&mut self, output: &OutputSettings) -> Option<CompiledOutput> {
        let kind = output.kind();
        let misplaced: Vec<_> = output.misplaced().collect();
        for (key, of) in &misplaced {
            self.problem(key, &format!("an output of kind {} has no `{key}`; {of} has", kind.name()));
        }
        let compiled = match kind {
            OutputKind::Kafka => self.kafka(output),
            OutputKind::Republish => self.republish(output).map(Box::new).map(CompiledOutput::Republish),
            OutputKind::Console => {
                let value = self.optional("value", output.value.as_deref()).ok();
                value.map(|value| CompiledOutput::Console { value })
            }
            OutputKind::Discard => Some(CompiledOutput::Discard),
        };
        compiled.filter(|_| misplaced.is_empty())
    }

    fn kafka(&mut self, output: &OutputSettings) -> Option<CompiledOutput> {
        let topic = self.topic(output);
        let key = self.optional("key", output.key.as_deref());
        let value = self.optional("value", output.value.as_deref());
        let headers = self.named("headers", output.headers.as_ref());
        let kafka = self.settings.kafka_of(output).map_err(|problem| self.problem("kafka", &problem)).ok();
        let record = RecordTemplates {
            topic: topic?,
            key: key.ok()?,
            value: value.ok()?,
            headers: headers?,
            default_headers: output.default_headers.unwrap_or(true),
        };
        Some(CompiledOutput::Kafka { kafka: kafka?.to_owned(), record })
    }

    fn republish(&mut self, output: &OutputSettings) -> Option<Republish> {
        let topic = self.topic(output);
        if let Some(literal) = topic.as_ref().and_then(Template::literal)
            && !Republish::allows(literal)
        {
            self.problem("topic", &format!("no message can be published to `{literal}`"));
        }
        let payload = self.optional("payload", output.payload.as_deref());
        let content_type = self.optional("content_type", output.content_type.as_deref());
        let response_topic = self.optional("response_topic", output.response_topic.as_deref());
        let correlation_data = self.optional("correlation_data", output.correlation_data.as_deref());
        let user_properties = self.named("user_properties", output.user_properties.as_ref());
        let qos = match output.qos {
            None => Ok(None),
            Some(0) => Ok(Some(QoS::AtMostOnce)),
            Some(1) => Ok(Some(QoS::AtLeastOnce)),
            Some(2) => Ok(Some(QoS::ExactlyOnce)),
            Some(qos) => {
                self.problem("qos", &format!("a QoS is 0, 1 or 2, not {qos}"));
                Err(Wrong)
            }
        };
        let expiry = output.message_expiry.map(|period| period.get().as_secs().max(1));
        let properties = RepublishProperties {
            payload_is_utf8: None,
            message_expiry_interval: expiry.map(|seconds| seconds.try_into().unwrap_or(u32::MAX)),
            content_type: content_type.ok()?,
            response_topic: response_topic.ok()?,
            correlation_data: correlation_data.ok()?,
            pass_user_properties: output.pass_user_properties.unwrap_or(false),
            user_properties: user_properties?,
        };
        let (payload, qos) = (payload.ok()?, qos.ok()?);
        Some(Republish { topic: topic?, payload, qos, retain: output.retain, properties })
    }

    fn topic(&mut self, output: &OutputSettings) -> Option<Template> {
        if let Some(text) = output.topic.as_deref() {
            return self.template("topic", text);
        }
        let other = if output.kind.is_none() { ", or say `kind = \"console\"` or `\"discard\"`" } else { "" };
        self.problem("topic", &format!("say where rows go: `topic = \"...\"`{other}"));
        None
    }

    /// A template that may be left out.
    fn optional(&mut self, key: &str, text: Option<&str>) -> Result<Option<Template>, Wrong> {
        text.map(|text| self.template(key, text).ok_or(Wrong)).transpose()
    }

    fn named(
        &mut self,
        key: &str,
        texts: Option<&BTreeMap<String, String>>,
    ) -> Option<Vec<(String, Template)>> {
        // All of them, so that all problems are told.
        let compiled: Vec<_> = texts
            .into_iter()
            .flatten()
            .map(|(name, text)| Some((name.clone(), self.template(&format!("{key}.{name}"), text)?)))
            .collect();
        compiled.into_iter().collect()
    }

    fn template(&mut self, key: &str, text: &str) -> Option<Template> {
        let place = format!("{}.outputs.{key}", self.place);
        let template = Template::compile(text)
            .map_err(|error: CompileError| {
                let _ = writeln!(self.problems, "{}", error.render(&place, text).trim_end());
            })
            .ok()?;
        let found = self.rule.map(|rule| check_template(rule, &template)).unwrap_or_default();
        let shown = |diagnostic: &Diagnostic| diagnostic.render(&place, text).trim_end().to_owned();
        for diagnostic in &found {
            match diagnostic.severity {
                Severity::Error => {
                    let _ = writeln!(self.problems, "{}", shown(diagnostic));
                }
                Severity::Warning => self.warnings.push(shown(diagnostic)),
            }
        }
        Some(template).filter(|_| found.iter().all(|diagnostic| diagnostic.severity != Severity::Error))
    }

    fn problem(&mut self, key: &str, problem: &str) {
        let _ = writeln!(self.problems, "error: {}.outputs.{key}: {problem}", self.place);
    }
}
