//! Runs facts about the language: a statement, an expression or a template, what comes in, what must come out.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map as JsonMap, Value as Json};
use tidegate_rules::{EvalScratch, Event, EventKind, Missing, Rule, RuleSet, Template, Value};

/// The result of one fact: nothing, or what is wrong.
pub(crate) type Verdict = Result<(), String>;

enum Got {
    Rows(Vec<Vec<(String, Value<'static>)>>),
    Filtered,
    NoMatch,
    Error(String),
    Text(String),
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows:?}"),
            Self::Filtered => f.write_str("no result"),
            Self::NoMatch => f.write_str("no match of FROM"),
            Self::Error(why) => write!(f, "the error: {why}"),
            Self::Text(text) => write!(f, "the text {text:?}"),
        }
    }
}

/// Checks one fact.
pub(crate) fn check(fact: &Json) -> Verdict {
    let context = fact["context"].as_object().cloned().unwrap_or_default();
    let got = if let Some(template) = fact["template"].as_str() {
        render(template, fact["engine"].as_str().unwrap_or("kafka"), &context)
    } else if let Some(expr) = fact["expr"].as_str() {
        evaluate(&format!("SELECT {expr} AS r FROM \"#\""), &context)
    } else {
        evaluate(fact["sql"].as_str().expect("a fact has sql, expr or a template"), &context)
    };
    let expect = &fact["expect"];
    let right = match &got {
        Got::Error(_) => expect["error"] == true,
        Got::Filtered => expect["no_result"] == true,
        Got::NoMatch => expect["no_match"] == true,
        Got::Text(text) => expect["result"].as_str() == Some(text),
        Got::Rows(rows) => expect.get("result").is_some_and(|result| match fact.get("expr") {
            Some(_) => rows.len() == 1 && equal(&rows[0][0].1, result, fact["tolerance"].as_f64()),
            None => same_rows(rows, result, fact),
        }),
    };
    if right { Ok(()) } else { Err(format!("expected {expect}, got {got}")) }
}

fn evaluate(sql: &str, context: &JsonMap<String, Json>) -> Got {
    let rule = match Rule::compile("fact", sql) {
        Ok(rule) => rule,
        Err(error) => return Got::Error(error.to_string()),
    };
    let set = RuleSet::new(vec![rule]).expect("there is one rule");
    let text = |key: &str| context.get(key).and_then(Json::as_str);
    let known = ["event", "topic", "clientid", "username", "payload", "qos", "timestamp"];
    let kind =
        text("event").map_or(EventKind::MessagePublish, |name| EventKind::named(name).expect("a kind"));
    let extra: Vec<(&str, Value<'_>)> = context
        .iter()
        .filter(|(name, _)| !known.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), to_value(value)))
        .collect();
    let mut event = Event::publish(
        text("topic").unwrap_or("t/a"),
        text("clientid").unwrap_or("c"),
        text("payload").unwrap_or_default().as_bytes(),
    );
    event.kind = kind;
    event.username = text("username");
    event.qos = context.get("qos").and_then(Json::as_u64).map_or(0, |qos| u8::try_from(qos).unwrap());
    event.timestamp_ms = context.get("timestamp").and_then(Json::as_i64).unwrap_or(1_700_000_000_123);
    event.extra = &extra;

    let mut scratch = EvalScratch::default();
    let mut got = Got::NoMatch;
    set.for_each_reader(&event, |_, rule| {
        got = match rule.evaluate(&mut scratch.start(&event)) {
            Err(error) => Got::Error(error.to_string()),
            Ok(outcome) if outcome.rows().is_empty() => Got::Filtered,
            Ok(outcome) => Got::Rows(
                outcome
                    .rows()
                    .iter()
                    .map(|row| row.columns().map(|(name, v)| (name.to_owned(), v.into_owned())).collect())
                    .collect(),
            ),
        };
    });
    got
}

/// Renders a template over columns that a rule has selected.
fn render(template: &str, engine: &str, context: &JsonMap<String, Json>) -> Got {
    let selected = context["selected"].as_object().expect("a template has selected columns");
    let extra: Vec<(&str, Value<'_>)> =
        selected.iter().map(|(name, v)| (name.as_str(), to_value(v))).collect();
    let names: Vec<_> = extra.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let rule = Rule::compile("fact", &format!("SELECT {} FROM \"#\"", names.join(", "))).unwrap();
    let mut event = Event::publish("t", "c", b"");
    event.extra = &extra;
    let mut scratch = EvalScratch::default();
    let outcome = rule.evaluate(&mut scratch.start(&event)).unwrap();
    let template = Template::compile(template).unwrap();
    let missing = match engine {
        "strict" => Missing::Refuse,
        "kafka" => Missing::Empty,
        _ => Missing::Undefined,
    };
    let mut out = Vec::new();
    match template.render(&outcome.rows()[0], missing, &mut out) {
        Ok(()) => Got::Text(String::from_utf8(out).unwrap()),
        Err(error) => Got::Error(error.to_string()),
    }
}

fn to_value(json: &Json) -> Value<'static> {
    match json {
        Json::String(text) => Value::Str(Cow::Owned(text.clone())),
        other => Value::from_json(&other.to_string()).expect("serde_json writes JSON").into_owned(),
    }
}

fn same_rows(rows: &[Vec<(String, Value<'static>)>], expected: &Json, fact: &Json) -> bool {
    let subset = fact["match"] == "subset";
    let expected: Vec<&Json> = match expected {
        Json::Array(list) => list.iter().collect(),
        one => vec![one],
    };
    rows.len() == expected.len()
        && rows.iter().zip(expected).all(|(row, expected)| {
            let expected = expected.as_object().expect("a row is an object");
            let value = |name: &str| row.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            (subset || row.len() == expected.len())
                && expected.iter().all(|(name, json)| value(name).is_some_and(|v| equal(v, json, None)))
        })
}

/// Strict: 8 is not 8.0, and what is missing is not null.
fn equal(value: &Value<'_>, expected: &Json, tolerance: Option<f64>) -> bool {
    if let Some(sentinel) = expected.as_object().and_then(|map| map.iter().find(|(k, _)| k.starts_with('$')))
    {
        return sentinel.0 == "$undefined" && value.is_undefined();
    }
    match (value, expected) {
        (Value::Null, Json::Null) => true,
        (Value::Bool(v), Json::Bool(e)) => v == e,
        (Value::Int(v), Json::Number(e)) => e.as_i64() == Some(*v),
        (Value::BigNumber(v), Json::Number(e)) => {
            e.to_string() == **v || (v.contains(['.', 'e', 'E']) && v.parse() == Ok(e.as_f64().unwrap()))
        }
        (Value::Float(v), Json::Number(e)) => {
            e.is_f64() && e.as_f64().is_some_and(|e| (v - e).abs() <= tolerance.unwrap_or(0.0))
        }
        (Value::Str(v), Json::String(e)) => v == e,
        (value, Json::Array(e)) => value
            .elements()
            .is_some_and(|v| v.len() == e.len() && v.iter().zip(e).all(|(v, e)| equal(v, e, tolerance))),
        (value, Json::Object(e)) => value.members().is_some_and(|v| {
            v.len() == e.len()
                && e.iter().all(|(k, e)| v.get(k.as_str()).is_some_and(|v| equal(v, e, tolerance)))
        }),
        _ => false,
    }
}
