//! Every example of docs/RULES.md does what the page says.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use tidegate_rules::{EvalScratch, Event, EventKind, Row, Rule, RuleState, StateLimits, Value};

const PAGE: &str = include_str!("../../../docs/RULES.md");

/// The blocks of a language, with the line of the page that each begins in.
fn blocks(language: &str) -> Vec<(usize, Vec<&'static str>)> {
    let mut blocks = Vec::new();
    let mut lines = PAGE.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let inside: Vec<_> = lines.by_ref().map(|(_, l)| l).take_while(|l| *l != "```").collect();
            if found == language {
                blocks.push((at + 2, inside));
            }
        }
    }
    blocks
}

/// A rule with the rows that it has made and that the page has not yet named.
struct Example {
    line: usize,
    rule: Rule,
    state: RuleState,
    scratch: EvalScratch,
    now_ms: i64,
    made: Vec<String>,
}

impl Example {
    fn step(&mut self, step: &str) {
        if let Some(expected) = step.strip_prefix("-- < ") {
            assert!(!self.made.is_empty(), "line {}: no row for {expected}", self.line);
            assert_eq!(self.made.remove(0), expected, "line {}", self.line);
            return;
        }
        assert!(self.made.is_empty(), "line {}: the page has no row {:?}", self.line, self.made);
        if let Some(time) = step.strip_prefix("-- @ ") {
            self.now_ms = time.strip_suffix(" s").unwrap().parse::<i64>().unwrap() * 1000;
            while let Some(closed) = self.state.poll_closed(&self.rule, self.now_ms, &mut self.scratch) {
                self.made.push(json(&closed.unwrap().row(&self.rule)));
            }
            return;
        }
        let message = step.strip_prefix("-- > ").expect("a step is a message, a row or a time");
        let (topic, payload) = message.split_once(' ').unwrap_or((message, ""));
        let mut event = Event::publish(topic, "c1", payload.as_bytes());
        event.kind = EventKind::named(topic).unwrap_or(EventKind::MessagePublish);
        event.timestamp_ms = self.now_ms;
        if self.rule.reads(&event) {
            let outcome = self.rule.evaluate_with(&mut self.state, &mut self.scratch.start(&event));
            let outcome = outcome.unwrap_or_else(|error| panic!("line {}: {error}", self.line));
            self.made.extend(outcome.rows().iter().map(json));
        }
    }
}

fn json(row: &Row<'_>) -> String {
    let mut out = Vec::new();
    row.write_json(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn every_rule_of_the_page_makes_the_rows_that_it_shows() {
    let blocks = blocks("sql");
    assert!(blocks.len() > 10);
    for (line, text) in blocks {
        let is_step = |line: &&&str| ["-- > ", "-- < ", "-- @ "].iter().any(|mark| line.starts_with(mark));
        let sql: Vec<_> = text.iter().filter(|line| !is_step(line)).copied().collect();
        let sql = sql.join("\n");
        let rule = Rule::compile("rule", &sql).unwrap_or_else(|e| panic!("{}", e.render("page", &sql)));
        assert!(rule.warnings().is_empty(), "line {line}: {:?}", rule.warnings());
        let state = RuleState::new(&rule, StateLimits::default());
        let mut example =
            Example { line, rule, state, scratch: EvalScratch::default(), now_ms: 0, made: Vec::new() };
        assert!(text.iter().any(|line| line.starts_with("-- > ")), "line {line}: nothing is shown");
        for step in text.iter().filter(is_step) {
            example.step(step);
        }
        assert!(example.made.is_empty(), "line {line}: the page has no row {:?}", example.made);
    }
}

#[test]
fn every_expression_of_the_page_has_the_value_that_it_shows() {
    let payload = PAGE.lines().find_map(|line| line.strip_prefix("`{\"temp\"")).unwrap();
    let payload = format!("{{\"temp\"{}", payload.trim_end_matches('`'));
    let mut scratch = EvalScratch::default();
    let mut count = 0;
    for (line, text) in blocks("expr") {
        for example in text {
            let (expression, expected) = example.rsplit_once("=> ").expect("an expression has a value");
            let sql = format!("SELECT {expression} AS r FROM \"#\"");
            let rule = Rule::compile("rule", &sql).unwrap_or_else(|e| panic!("{}", e.render("page", &sql)));
            let event = Event::publish("plant/7/up", "c1", payload.as_bytes());
            let outcome = rule.evaluate(&mut scratch.start(&event));
            let outcome = outcome.unwrap_or_else(|error| panic!("line {line}: {example}: {error}"));
            let got = match outcome.rows()[0].get("r") {
                Value::Undefined => "missing".to_owned(),
                value => {
                    let mut out = Vec::new();
                    value.write_json(&mut out);
                    String::from_utf8(out).unwrap()
                }
            };
            assert_eq!(got, expected, "line {line}: {example}");
            count += 1;
        }
    }
    assert!(count > 50);
}

#[test]
fn the_page_names_every_event_with_its_columns() {
    for kind in EventKind::ALL {
        let Some(topic) = kind.topic() else { continue };
        let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{topic}` |"))).expect(topic);
        assert!(row.contains(&format!("| `{}` |", kind.name())), "{row}");
        for column in kind.columns() {
            assert!(PAGE.contains(&format!("`{column}`")) || column == "flags", "{column} of {topic}");
        }
    }
}

#[test]
fn the_page_names_every_function_as_it_is_called() {
    for (name, usage) in tidegate_rules::functions() {
        for form in usage.split(" or ") {
            assert!(PAGE.contains(&format!("`{form}`")), "{name} is not on the page as `{form}`");
        }
    }
}
