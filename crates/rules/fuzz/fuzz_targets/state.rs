//! Any bytes, as the state of a rule: refused or taken, and in neither case a panic now or later.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_rules::{EvalScratch, Event, Rule, RuleState, StateLimits};

const RULES: [&str; 3] = [
    "SELECT clientid, count(*) AS n, sum(payload.t) AS s, avg(payload.t) AS a, min(payload.t) AS l, \
     collect(payload.t) AS c FROM \"t\" GROUP BY clientid, TUMBLING(10 s)",
    "SELECT clientid, last(payload) AS l FROM \"t\" GROUP BY clientid, SESSION(5 s)",
    "SELECT lag(payload.t) AS l FROM \"t\" DEDUP BY payload.t WITHIN 1 s SAMPLE 1 IN 2",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let rule = Rule::compile("rule", RULES[usize::from(*first) % RULES.len()]).expect("it is a rule");
    let limits = StateLimits { keys: 16, bytes: 1 << 16 };
    // The first bytes are those of a state of this rule, so that most inputs get past them.
    let mut bytes = Vec::new();
    RuleState::new(&rule, limits).export(&mut bytes);
    bytes.truncate(13);
    bytes.extend_from_slice(rest);
    let Ok(mut state) = RuleState::import(&rule, limits, &bytes) else { return };
    let mut scratch = EvalScratch::default();
    let event = Event::publish("t", "client", br#"{"t": 7}"#);
    let _ = rule.evaluate_with(&mut state, &mut scratch.start(&event));
    let mut again = Vec::new();
    state.export(&mut again);
    RuleState::import(&rule, limits, &again).expect("it was exported");
    while state.poll_closed(&rule, i64::MAX, &mut scratch).is_some() {}
});
