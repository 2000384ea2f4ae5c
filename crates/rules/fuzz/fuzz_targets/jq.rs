//! Any jq program over any payload, split at the first NUL: no panic, no more work than the limits, and values that are
//! JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_rules::{EvalLimits, EvalScratch, Event, Rule, Value};

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (program, payload) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let Ok(program) = std::str::from_utf8(program) else { return };
    // As the client's name the program comes with the message, so that nothing is checked before.
    let rule = Rule::compile("rule", r##"SELECT jq(clientid, payload) AS r FROM "#""##).expect("it is a rule");
    let mut scratch = EvalScratch::with_limits(EvalLimits { steps: 20_000, bytes: 1 << 20 });
    let event = Event::publish("t", program, payload);
    let Ok(outcome) = rule.evaluate(&mut scratch.start(&event)) else { return };
    for row in outcome.rows() {
        let mut json = Vec::new();
        row.write_json(&mut json);
        Value::from_json(std::str::from_utf8(&json).expect("JSON is text")).expect("a row is JSON");
    }
});
