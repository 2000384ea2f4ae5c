//! One case: what goes in, what has to come out, and whether it does.

use std::fmt::Write as _;
use std::sync::Arc;

use tidegate_rules::{EvalScratch, Event, Map, Missing, Rule, Template, Value};

use super::compare::{Comparison, shown};
use super::event::{Made, Sample};

/// A case as its file tells it.
#[derive(Debug)]
pub(super) struct Case {
    name: String,
    subject: Subject,
    context: Value<'static>,
    expected: Expected,
    /// Rows may have more columns than the expected ones.
    subset: bool,
    tolerance: f64,
    /// What EMQX gives follows from Erlang, and need not hold here.
    erlang_specific: bool,
}

#[derive(Debug)]
enum Subject {
    Statement(String),
    /// One expression, as the only output of a rule.
    Expression(String),
    /// A template over the columns `selected` of the context.
    Template(String, Missing),
}

#[derive(Debug)]
enum Expected {
    Result(Value<'static>),
    Nothing,
    NoMatch,
    Error,
}

/// The name of the only output when a case is one expression.
const OUTPUT: &str = "r";

/// The fields of a case. `group`, `note` and `why` are for people.
const FIELDS: [&str; 18] = [
    "id",
    "name",
    "group",
    "note",
    "why",
    "sql",
    "expr",
    "template",
    "engine",
    "context",
    "event",
    "selected",
    "expect",
    "result",
    "outcome",
    "match",
    "tolerance",
    "erlang_specific",
];

impl Case {
    /// Reads an object with the fields that the reference of this command lists.
    ///
    /// # Errors
    ///
    /// What can't be understood.
    pub(super) fn of(fields: &Value<'_>) -> Result<Self, String> {
        let fields = fields.members().ok_or_else(|| format!("a case is an object, not {}", fields.kind()))?;
        let field = |names: &[&str]| names.iter().find_map(|name| fields.get(*name));
        let text = |name: &str| match fields.get(name) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text.clone().into_owned())),
            Some(other) => Err(format!("`{name}` is a text, not {}", other.kind())),
        };
        if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&&***name)) {
            return Err(format!("a case has no field `{unknown}`"));
        }
        let subject = match (text("sql")?, text("expr")?, text("template")?) {
            (Some(sql), None, None) => Subject::Statement(sql),
            (None, Some(expression), None) => Subject::Expression(expression),
            (None, None, Some(template)) => {
                let missing = match text("engine")?.as_deref() {
                    None | Some("kafka") => Missing::Empty,
                    Some("strict") => Missing::Refuse,
                    Some("generic") => Missing::Undefined,
                    Some(engine) => return Err(format!("there is no engine `{engine}`")),
                };
                Subject::Template(template, missing)
            }
            _ => return Err("a case has one of `sql`, `expr` and `template`".to_owned()),
        };
        let mut context =
            field(&["context", "event"]).cloned().unwrap_or_else(|| object(Map::new())).into_owned();
        if let Some(selected) = fields.get("selected") {
            context = object([("selected".into(), selected.clone().into_owned())].into_iter().collect());
        }
        let expected = match (fields.get("expect"), fields.get("result"), text("outcome")?) {
            (Some(expect), None, None) => Expected::of(expect)?,
            (None, Some(result), None) => Expected::Result(result.clone().into_owned()),
            (None, None, Some(outcome)) => Expected::named(&outcome)?,
            _ => return Err("a case has one of `result`, `outcome` and `expect`".to_owned()),
        };
        let tolerance = match fields.get("tolerance") {
            None => 0.0,
            Some(Value::Float(tolerance)) => *tolerance,
            Some(other) => return Err(format!("`tolerance` is a float, not {}", other.kind())),
        };
        let subset = match text("match")?.as_deref() {
            None | Some("exact") => false,
            Some("subset") => true,
            Some(other) => return Err(format!("`match` is exact or subset, not {other}")),
        };
        let name = text("id")?.or(text("name")?).unwrap_or_else(|| subject.text().to_owned());
        let erlang_specific = matches!(fields.get("erlang_specific"), Some(Value::Bool(true)));
        Ok(Self { name, subject, context, expected, subset, tolerance, erlang_specific })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_erlang_specific(&self) -> bool {
        self.erlang_specific
    }

    /// Holds the case to what it expects.
    ///
    /// # Errors
    ///
    /// What is different, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let got = self.run()?;
        let expected = match &self.expected {
            Expected::Result(expected) => return self.compare(&got, expected),
            Expected::Nothing if matches!(got, Got::Nothing) => return Ok(()),
            Expected::NoMatch if matches!(got, Got::NoMatch) => return Ok(()),
            Expected::Error if matches!(got, Got::Error(_)) => return Ok(()),
            Expected::Nothing => "no row",
            Expected::NoMatch => "no match of FROM",
            Expected::Error => "an error",
        };
        Err(format!("expected {expected}, got {}", got.shown()))
    }

    fn compare(&self, got: &Got, expected: &Value<'static>) -> Result<(), String> {
        let mut comparison = Comparison::new(self.tolerance);
        match (got, &self.subject) {
            (Got::Rows(rows), Subject::Expression(_)) if rows.len() == 1 => {
                comparison.value("result", rows[0].get(OUTPUT).unwrap_or(&Value::Undefined), expected);
            }
            (Got::Rows(rows), _) => {
                let expected = expected.elements().unwrap_or_else(|| vec![expected.clone()]);
                if rows.len() != expected.len() {
                    let counts = format!("expected {} rows, got {}", expected.len(), rows.len());
                    return Err(format!("{counts}: {}", got.shown()));
                }
                for (position, (row, expected)) in rows.iter().zip(&expected).enumerate() {
                    let place =
                        if rows.len() > 1 { format!("row {}", position + 1) } else { "row".to_owned() };
                    match expected.members() {
                        Some(expected) => comparison.members(&place, row, &expected, self.subset),
                        None => return Err(format!("expected {}, got {}", shown(expected), got.shown())),
                    }
                }
            }
            (Got::Text(text), _) => comparison.value("text", &Value::from(&**text), expected),
            _ => return Err(format!("expected {}, got {}", shown(expected), got.shown())),
        }
        comparison.finish()
    }

    fn run(&self) -> Result<Got, String> {
        let sql = match &self.subject {
            Subject::Statement(sql) => sql.clone(),
            Subject::Expression(expression) => format!("SELECT {expression} AS {OUTPUT} FROM \"#\""),
            Subject::Template(template, missing) => return self.render(template, *missing),
        };
        let rule = match Rule::compile("case", &sql) {
            Ok(rule) => rule,
            Err(error) => return Ok(Got::Error(error.to_string())),
        };
        let mut rows = Vec::new();
        let owned = |(name, value): (&str, Value<'_>)| (name.to_owned().into(), value.into_owned());
        let made =
            Sample::of(&self.context)?.evaluate(rule, |row| rows.push(row.columns().map(owned).collect()));
        Ok(match made {
            Made::Rows => Got::Rows(rows),
            Made::Nothing => Got::Nothing,
            Made::NoMatch => Got::NoMatch,
            Made::Failed(why) => Got::Error(why),
        })
    }

    fn render(&self, template: &str, missing: Missing) -> Result<Got, String> {
        let selected = self.context.get("selected");
        let selected = selected.members().ok_or("a template needs an object of columns, `selected`")?;
        let template = match Template::compile(template) {
            Ok(template) => template,
            Err(error) => return Ok(Got::Error(error.to_string())),
        };
        // A row is what a rule makes: this one passes each column on under its name.
        let mut columns = Vec::new();
        for name in selected.keys() {
            let quoted = name.replace('"', "\"\"");
            columns.push(format!("\"{quoted}\" AS \"{quoted}\""));
        }
        let rule = Rule::compile("columns", &format!("SELECT {} FROM \"#\"", columns.join(", ")))
            .map_err(|error| format!("`selected` has names that are no columns: {error}"))?;
        let extra: Vec<_> = selected.iter().map(|(name, value)| (&**name, value.clone())).collect();
        let mut event = Event::publish("t", "c", b"");
        event.extra = &extra;
        let mut scratch = EvalScratch::default();
        let outcome = rule.evaluate(&mut scratch.start(&event)).map_err(|error| error.to_string())?;
        let row = outcome.rows().first().ok_or("a rule without WHERE makes a row")?;
        let mut out = Vec::new();
        Ok(match template.render(row, missing, &mut out) {
            Ok(()) => Got::Text(String::from_utf8_lossy(&out).into_owned()),
            Err(error) => Got::Error(error.to_string()),
        })
    }
}

impl Subject {
    fn text(&self) -> &str {
        match self {
            Self::Statement(text) | Self::Expression(text) | Self::Template(text, _) => text,
        }
    }
}

impl Expected {
    /// `{"result": value}`, `{"no_result": true}`, `{"no_match": true}` or `{"error": true}`.
    fn of(expect: &Value<'_>) -> Result<Self, String> {
        let members = expect.members().ok_or("`expect` is an object")?;
        match members.iter().next() {
            Some((name, result)) if name == "result" => Ok(Self::Result(result.clone().into_owned())),
            Some((name, Value::Bool(true))) => Self::named(name),
            _ => Err("`expect` has one of `result`, `no_result`, `no_match` and `error`".to_owned()),
        }
    }

    fn named(outcome: &str) -> Result<Self, String> {
        match outcome {
            "no_result" => Ok(Self::Nothing),
            "no_match" => Ok(Self::NoMatch),
            "error" => Ok(Self::Error),
            other => Err(format!("an outcome is no_result, no_match or error, not {other}")),
        }
    }
}

/// What came out.
enum Got {
    Rows(Vec<Map<'static>>),
    Text(String),
    Nothing,
    NoMatch,
    Error(String),
}

impl Got {
    fn shown(&self) -> String {
        match self {
            Self::Rows(rows) => {
                let mut text = String::new();
                for row in rows {
                    let separator = if text.is_empty() { "" } else { " " };
                    let _ = write!(text, "{separator}{}", shown(&object(row.clone())));
                }
                text
            }
            Self::Text(text) => format!("the text {text:?}"),
            Self::Nothing => "no row".to_owned(),
            Self::NoMatch => "no match of FROM".to_owned(),
            // The rest of a diagnostic is the place, in more lines.
            Self::Error(why) => format!("the error: {}", why.lines().next().unwrap_or_default()),
        }
    }
}

fn object(members: Map<'static>) -> Value<'static> {
    Value::Map(Arc::new(members))
}
