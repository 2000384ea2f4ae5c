//! Why an event was selected or was not: each part of WHERE with what it came to, and the values that it read.

use std::fmt;

use crate::error::EvalError;
use crate::eval::{EvalScratch, Machine};
use crate::event::{EVENT_TOPICS, Event, EventKind};
use crate::program::{ExprId, Node, Program};
use crate::rule::Rule;
use crate::value::Value;

/// Characters of a value that are shown.
const SHOWN_CHARS: usize = 120;

/// What became of an event in a rule, for people. Made by [`Rule::explain`]; print it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What came of it.
    pub verdict: Verdict,
    /// The parts of WHERE, each before those that it is made of.
    pub parts: Vec<ConditionPart>,
    from: String,
}

/// What a rule says of an event.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// FROM does not ask for it.
    NotRead,
    /// WHERE is false.
    Filtered,
    /// WHERE is true, or there is none.
    Selected,
    /// The evaluation fails.
    Failed(EvalError),
}

/// One part of WHERE.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionPart {
    /// As it is written in the rule.
    pub text: String,
    /// How many parts are around it.
    pub depth: usize,
    /// What it came to, also where the rule itself would not have got there.
    pub result: Result<bool, EvalError>,
    /// What it read, as it is written, and its value as JSON or `missing`. None of a part that is made of others.
    pub values: Vec<(String, String)>,
}

impl Rule {
    /// Why the rule selects an event or does not. It costs more than an evaluation and remembers nothing: to a rule
    /// with lag() or changed() each event is the first, and DEDUP and SAMPLE are not asked.
    pub fn explain(&self, event: &Event<'_>) -> Explanation {
        let from: Vec<_> = self.filters().map(|filter| format!("\"{filter}\"")).collect();
        let mut explanation =
            Explanation { verdict: Verdict::NotRead, parts: Vec::new(), from: from.join(", ") };
        if !self.reads(event) {
            return explanation;
        }
        let mut scratch = EvalScratch::default();
        let mut evaluator = scratch.start(event);
        let program = self.program();
        let mut machine = Machine::new(program, &mut evaluator);
        explanation.verdict = match machine.is_selected() {
            Ok(true) => Verdict::Selected,
            Ok(false) => Verdict::Filtered,
            Err(error) => Verdict::Failed(error),
        };
        if let Some(condition) = program.condition {
            let mut parts = Parts { sql: self.sql(), machine, found: Vec::new() };
            match &program.nodes[condition.0 as usize].0 {
                // What joins all of them is WHERE itself.
                Node::All(list) => {
                    for part in list {
                        parts.describe(*part, 0);
                    }
                }
                _ => parts.describe(condition, 0),
            }
            explanation.parts = parts.found;
        }
        explanation
    }

    /// Whether FROM asks for an event.
    pub fn reads(&self, event: &Event<'_>) -> bool {
        if event.kind != EventKind::MessagePublish {
            return self.kinds().contains(&event.kind);
        }
        let Ok(topic) = tidegate_topic::TopicName::parse(event.topic) else { return false };
        let topics = self.filters().filter(|filter| !filter.starts_with(EVENT_TOPICS));
        topics.flat_map(tidegate_topic::TopicFilter::parse).any(|filter| filter.matches(topic))
    }
}

struct Parts<'m, 's, 'e, 'r> {
    sql: &'r str,
    machine: Machine<'m, 's, 'e, 'r>,
    found: Vec<ConditionPart>,
}

impl<'e: 'r, 'r> Parts<'_, '_, 'e, 'r> {
    fn describe(&mut self, id: ExprId, depth: usize) {
        let program = self.machine.program;
        self.machine.refuel();
        let result = self.machine.condition(id);
        let inner: &[ExprId] = match &program.nodes[id.0 as usize].0 {
            Node::All(list) | Node::Any(list) => list,
            Node::Not(inner) => std::slice::from_ref(inner),
            _ => &[],
        };
        let values = if inner.is_empty() { self.values(id) } else { Vec::new() };
        self.found.push(ConditionPart { text: self.text(id), depth, result, values });
        for part in inner {
            self.describe(*part, depth + 1);
        }
    }

    /// What a part reads from outside, each once, in the order of the text.
    fn values(&mut self, id: ExprId) -> Vec<(String, String)> {
        let program = self.machine.program;
        let mut read = Vec::new();
        sources(program, id, &mut read);
        let mut values: Vec<(String, String)> = Vec::new();
        for source in read {
            let text = self.text(source);
            if values.iter().any(|(known, _)| *known == text) {
                continue;
            }
            self.machine.refuel();
            let value = match self.machine.eval(source) {
                Ok(value) => shown(&value),
                Err(error) => format!("an error: {error}"),
            };
            values.push((text, value));
        }
        values
    }

    fn text(&self, id: ExprId) -> String {
        let span = self.machine.program.span(id);
        let text = self.sql.get(span.start..span.end).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The names and calls below an expression. A call is one, with what it came to, beside its own arguments.
fn sources(program: &Program, id: ExprId, found: &mut Vec<ExprId>) {
    let node = &program.nodes[id.0 as usize].0;
    if node.reads() {
        found.push(id);
    }
    for child in node.children() {
        sources(program, child, found);
    }
}

fn shown(value: &Value<'_>) -> String {
    if value.is_undefined() {
        return "missing".to_owned();
    }
    let mut json = Vec::new();
    value.write_json(&mut json);
    let json = String::from_utf8_lossy(&json);
    let mut shown: String = json.chars().take(SHOWN_CHARS).collect();
    if json.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::NotRead => return write!(f, "not read: FROM {} does not ask for it", self.from),
            Verdict::Filtered => write!(f, "filtered: WHERE is false")?,
            Verdict::Selected if self.parts.is_empty() => write!(f, "selected: there is no WHERE")?,
            Verdict::Selected => write!(f, "selected: WHERE is true")?,
            Verdict::Failed(error) => write!(f, "failed: {error}")?,
        }
        for part in &self.parts {
            let indent = "  ".repeat(part.depth + 1);
            match &part.result {
                Ok(result) => write!(f, "\n{indent}{result:<5}  {}", part.text)?,
                Err(error) => write!(f, "\n{indent}error  {}  ({error})", part.text)?,
            }
            for (text, value) in &part.values {
                write!(f, "\n{indent}         {text} = {value}")?;
            }
        }
        Ok(())
    }
}
