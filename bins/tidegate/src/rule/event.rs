//! Events as people write them: an object of columns.

use tidegate_rules::{EvalScratch, Event, EventKind, Row, Rule, RuleSet, RuleState, StateLimits, Value};

/// When events happen that do not say: any fixed time, so that results are the same tomorrow.
const DEFAULT_TIME_MS: i64 = 1_700_000_000_123;

/// An event that owns what it tells.
#[derive(Debug)]
pub(super) struct Sample {
    kind: Option<EventKind>,
    topic: Option<String>,
    client_id: String,
    username: Option<String>,
    payload: Vec<u8>,
    qos: u8,
    timestamp_ms: i64,
    extra: Vec<(String, Value<'static>)>,
}

/// What a rule made of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// At least one row.
    Rows,
    /// WHERE was false, or a FOREACH or a window put nothing out.
    Nothing,
    /// FROM does not name the topic or event.
    NoMatch,
    /// The evaluation failed.
    Failed(String),
}

impl Sample {
    /// Reads an object of columns.
    ///
    /// # Errors
    ///
    /// Which column is not what it has to be.
    pub(super) fn of(columns: &Value<'_>) -> Result<Self, String> {
        let Some(columns) = columns.members() else {
            return Err(format!("an event is an object, not {}", columns.kind()));
        };
        let mut sample = Self {
            kind: None,
            topic: None,
            client_id: "c".to_owned(),
            username: None,
            payload: Vec::new(),
            qos: 0,
            timestamp_ms: DEFAULT_TIME_MS,
            extra: Vec::new(),
        };
        for (name, value) in columns.iter() {
            let text = || {
                let wrong = || format!("`{name}` is a text, not {}", value.kind());
                value.as_str().map(str::to_owned).ok_or_else(wrong)
            };
            match (&**name, value) {
                ("event", _) => {
                    let kind = text()?;
                    let unknown = || format!("there is no event `{kind}`");
                    sample.kind = Some(EventKind::named(&kind).ok_or_else(unknown)?);
                }
                ("topic", _) => sample.topic = Some(text()?),
                ("clientid", _) => sample.client_id = text()?,
                // Without a name it is as if it were not written; `selected` is for templates and no column.
                ("username", Value::Null) | ("selected", _) => {}
                ("username", _) => sample.username = Some(text()?),
                ("payload", Value::Str(payload)) => sample.payload = payload.as_bytes().to_vec(),
                // Written as JSON, it is meant as the text of it.
                ("payload", payload) => payload.write_json(&mut sample.payload),
                ("qos", Value::Int(qos @ 0..=2)) => sample.qos = qos.to_le_bytes()[0],
                ("qos", _) => return Err("`qos` is 0, 1 or 2".to_owned()),
                ("timestamp", Value::Int(time)) => sample.timestamp_ms = *time,
                ("timestamp", _) => return Err("`timestamp` is an integer, in milliseconds".to_owned()),
                _ => sample.extra.push((name.clone().into_owned(), value.clone().into_owned())),
            }
        }
        Ok(sample)
    }

    /// Evaluates a rule over it and hands out each row.
    pub(super) fn evaluate(&self, rule: Rule, mut each: impl FnMut(&Row<'_>)) -> Made {
        self.with_event(&rule_defaults(&rule), |event| {
            let Ok(set) = RuleSet::new(vec![rule]) else { return Made::NoMatch };
            let mut made = Made::NoMatch;
            set.for_each_reader(event, |_, rule| {
                let mut scratch = EvalScratch::default();
                let mut state = RuleState::new(rule, StateLimits::default());
                made = match rule.evaluate_with(&mut state, &mut scratch.start(event)) {
                    Err(error) => {
                        let (line, column) = error.span.line_column(rule.sql());
                        Made::Failed(format!("line {line}, column {column}: {error}"))
                    }
                    Ok(outcome) if outcome.rows().is_empty() => Made::Nothing,
                    Ok(outcome) => {
                        outcome.rows().iter().for_each(&mut each);
                        Made::Rows
                    }
                };
            });
            made
        })
    }

    /// Why a rule selects it or does not.
    pub(super) fn explain(&self, rule: &Rule) -> String {
        self.with_event(&rule_defaults(rule), |event| rule.explain(event).to_string())
    }

    fn with_event<T>(&self, (kind, topic): &(EventKind, String), then: impl FnOnce(&Event<'_>) -> T) -> T {
        let extra: Vec<_> = self.extra.iter().map(|(name, value)| (&**name, value.clone())).collect();
        let topic = self.topic.as_deref().unwrap_or(topic);
        let mut event = Event::publish(topic, &self.client_id, &self.payload);
        event.kind = self.kind.unwrap_or(*kind);
        event.username = self.username.as_deref();
        event.qos = self.qos;
        event.timestamp_ms = self.timestamp_ms;
        event.extra = &extra;
        then(&event)
    }
}

/// What an event that does not say so itself is and where: what FROM asks for first.
fn rule_defaults(rule: &Rule) -> (EventKind, String) {
    let kind = rule.kinds().first().copied().unwrap_or(EventKind::MessagePublish);
    (kind, rule.filters().next().unwrap_or("#").replace(['+', '#'], "a"))
}
