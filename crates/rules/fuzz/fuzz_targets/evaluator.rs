//! Any rule over any payload, split at the first NUL: no panic, no more work than the limits, rows that are JSON, and
//! an explanation that agrees with what happens.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_rules::{
    EvalLimits, EvalScratch, Event, Missing, Outcome, Rule, RuleState, StateLimits, Template, Value, Verdict,
};

const STATE: StateLimits = StateLimits { keys: 16, bytes: 1 << 16 };

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, payload) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let Ok(text) = std::str::from_utf8(text) else { return };
    // A whole statement, or else outputs and a condition of one.
    let whole = Rule::compile("rule", text);
    let rule = whole.or_else(|_| Rule::compile("rule", &format!("SELECT {text} FROM \"#\"")));
    let Ok(rule) = rule else { return };
    let mut scratch = EvalScratch::with_limits(EvalLimits { steps: 50_000, bytes: 1 << 20 });
    let mut event = Event::publish("t/a", "client", payload);
    if rule.is_stateful() {
        remember(&rule, event, &mut scratch);
        return;
    }
    event.timestamp_ms = 1_700_000_000_000;
    let verdict = rule.explain(&event).verdict;
    let Ok(outcome) = rule.evaluate(&mut scratch.start(&event)) else { return };
    if let (Outcome::Filtered, Verdict::Selected) = (&outcome, verdict) {
        panic!("it was explained as selected");
    }
    let template = Template::compile("${a} ${payload.a[1]} ${.}").expect("it is a template");
    for row in outcome.rows() {
        let mut json = Vec::new();
        row.write_json(&mut json);
        Value::from_json(std::str::from_utf8(&json).expect("JSON is text")).expect("a row is JSON");
        template.render(row, Missing::Empty, &mut json).expect("nothing is refused");
    }
});

fn remember(rule: &Rule, mut event: Event<'_>, scratch: &mut EvalScratch) {
    let mut state = RuleState::new(rule, STATE);
    for second in 0..4 {
        event.timestamp_ms = second * 700;
        let _ = rule.evaluate_with(&mut state, &mut scratch.start(&event));
    }
    let mut bytes = Vec::new();
    state.export(&mut bytes);
    let mut state = RuleState::import(rule, STATE, &bytes).expect("it was exported");
    while let Some(closed) = state.poll_closed(rule, i64::MAX, scratch) {
        let Ok(closed) = closed else { continue };
        let mut json = Vec::new();
        closed.row(rule).write_json(&mut json);
        Value::from_json(std::str::from_utf8(&json).expect("JSON is text")).expect("a row is JSON");
    }
    assert_eq!(state.next_deadline_ms(), None);
}
