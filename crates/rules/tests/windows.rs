//! What a rule remembers: windows, last values, keys it has seen.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use proptest::prelude::*;
use tidegate_rules::{
    EvalErrorKind, EvalScratch, Event, EventKind, Rule, RuleState, StateError, StateLimits,
};

/// A rule with its state, fed with payloads at times, in seconds.
struct Bench {
    rule: Rule,
    state: RuleState,
    scratch: EvalScratch,
}

impl Bench {
    fn new(sql: &str) -> Self {
        Self::with_limits(sql, StateLimits::default())
    }

    fn with_limits(sql: &str, limits: StateLimits) -> Self {
        let rule = Rule::compile("rule", sql).unwrap_or_else(|error| panic!("{}", error.render("rule", sql)));
        let state = RuleState::new(&rule, limits);
        Self { rule, state, scratch: EvalScratch::default() }
    }

    /// The rows that the message makes at once, as JSON.
    fn try_feed(&mut self, second: i64, client: &str, payload: &str) -> Result<Vec<String>, EvalErrorKind> {
        let mut event = Event::publish("t", client, payload.as_bytes());
        event.timestamp_ms = second * 1000;
        let outcome = self.rule.evaluate_with(&mut self.state, &mut self.scratch.start(&event));
        let outcome = outcome.map_err(|error| error.kind)?;
        let json = |row: &tidegate_rules::Row<'_>| {
            let mut out = Vec::new();
            row.write_json(&mut out);
            String::from_utf8(out).unwrap()
        };
        Ok(outcome.rows().iter().map(json).collect())
    }

    fn feed(&mut self, second: i64, client: &str, payload: &str) -> Vec<String> {
        self.try_feed(second, client, payload).unwrap()
    }

    /// The rows of windows that are over.
    fn closed(&mut self, second: i64) -> Vec<String> {
        let mut rows = Vec::new();
        while let Some(closed) = self.state.poll_closed(&self.rule, second * 1000, &mut self.scratch) {
            let closed = closed.unwrap();
            let mut out = Vec::new();
            closed.row(&self.rule).write_json(&mut out);
            rows.push(String::from_utf8(out).unwrap());
        }
        rows
    }

    /// Goes on with what is left after a restart.
    fn restart(&mut self) {
        let mut bytes = Vec::new();
        self.state.export(&mut bytes);
        self.state = RuleState::import(&self.rule, StateLimits::default(), &bytes).unwrap();
    }
}

const ALL_AGGREGATES: &str = "SELECT clientid, count(*) AS n, count(payload.t) AS with_t, sum(payload.t) AS sum, \
     avg(payload.t) AS avg, min(payload.t) AS min, max(payload.t) AS max, first(payload.t) AS first, \
     last(payload.t) AS last, collect(payload.t) AS all, window_start() AS since, window_end() AS until \
     FROM \"t\" GROUP BY clientid, TUMBLING(10 s)";

#[test]
fn a_tumbling_window_makes_one_row_for_each_key_when_it_is_over() {
    let mut bench = Bench::new(ALL_AGGREGATES);
    assert!(bench.feed(10, "a", r#"{"t": 3}"#).is_empty());
    bench.feed(11, "b", "{}");
    bench.feed(12, "a", r#"{"t": 1}"#);
    bench.feed(19, "a", r#"{"t": 2.5}"#);
    bench.feed(20, "a", r#"{"t": 9}"#);
    assert_eq!(bench.state.next_deadline_ms(), Some(20_000));
    assert!(bench.closed(19).is_empty());
    assert_eq!(
        bench.closed(20),
        [
            r#"{"clientid":"a","n":3,"with_t":3,"sum":6.5,"avg":2.1666666666666665,"min":1,"max":3,"first":3,"last":2.5,"all":[3,1,2.5],"since":10000,"until":20000}"#,
            r#"{"clientid":"b","n":1,"with_t":0,"sum":null,"avg":null,"min":null,"max":null,"first":null,"last":null,"all":[],"since":10000,"until":20000}"#,
        ]
    );
    assert_eq!(bench.closed(30).len(), 1);
    assert_eq!(bench.state.next_deadline_ms(), None);
}

#[test]
fn a_hopping_window_counts_a_message_in_each_window_that_covers_it() {
    let mut bench =
        Bench::new("SELECT count(*) AS n, window_end() AS until FROM \"t\" GROUP BY HOPPING(10 s, 5 s)");
    bench.feed(7, "a", "");
    bench.feed(12, "a", "");
    assert_eq!(
        bench.closed(100),
        [r#"{"n":1,"until":10000}"#, r#"{"n":2,"until":15000}"#, r#"{"n":1,"until":20000}"#]
    );
}

#[test]
fn a_session_ends_after_a_pause_and_at_its_longest() {
    let mut bench = Bench::new(
        "SELECT clientid, count(*) AS n, window_start() AS s, window_end() AS e FROM \"t\" GROUP BY clientid, SESSION(5 s, 12 s)",
    );
    for second in [0, 4, 8] {
        bench.feed(second, "a", "");
    }
    assert!(bench.closed(11).is_empty());
    assert_eq!(bench.closed(12), [r#"{"clientid":"a","n":3,"s":0,"e":12000}"#]);
    bench.feed(20, "a", "");
    // Nobody has asked, and the next message finds the session over.
    bench.feed(30, "a", "");
    assert_eq!(
        bench.closed(100),
        [r#"{"clientid":"a","n":1,"s":20000,"e":25000}"#, r#"{"clientid":"a","n":1,"s":30000,"e":35000}"#]
    );
}

#[test]
fn where_having_and_aliases_work_in_a_window() {
    let mut bench = Bench::new(
        "SELECT payload.site AS site, sum(payload.t) * 2 AS twice FROM \"t\" WHERE payload.t > 0 \
         GROUP BY site, TUMBLING(1 min) HAVING count(*) > 1 AND twice > 3",
    );
    for (site, t) in [("x", 1), ("y", 5), ("x", 2), ("y", -5), ("z", 1), ("z", 0)] {
        bench.feed(1, "a", &format!(r#"{{"site": "{site}", "t": {t}}}"#));
    }
    assert_eq!(bench.closed(60), [r#"{"site":"x","twice":6}"#]);
}

#[test]
fn a_closed_row_says_when_and_what_it_is() {
    let mut bench = Bench::new("SELECT event, count(*) AS n FROM \"t\" GROUP BY event, TUMBLING(10 s)");
    bench.feed(3, "a", "");
    let closed = bench.state.poll_closed(&bench.rule, 10_000, &mut bench.scratch).unwrap().unwrap();
    assert_eq!(closed.end_ms(), 10_000);
    assert_eq!(closed.row(&bench.rule).event().kind, EventKind::WindowClosed);
    assert_eq!(closed.row(&bench.rule).get("event").as_str(), Some("message.publish"));
}

#[test]
fn a_message_that_comes_late_is_counted_in_the_window_that_is_open() {
    let mut bench = Bench::new("SELECT count(*) AS n, window_end() AS e FROM \"t\" GROUP BY TUMBLING(10 s)");
    bench.feed(5, "a", "");
    assert_eq!(bench.closed(10).len(), 1);
    bench.feed(9, "a", "");
    assert_eq!(bench.closed(20), [r#"{"n":1,"e":20000}"#]);
}

#[test]
fn a_sum_of_integers_is_exact_and_one_that_is_too_large_for_64_bits_is_kept() {
    let mut bench = Bench::new("SELECT sum(payload.t) AS s FROM \"t\" GROUP BY TUMBLING(10 s)");
    bench.feed(1, "a", r#"{"t": 9223372036854775807}"#);
    bench.feed(1, "a", r#"{"t": 9223372036854775807}"#);
    assert_eq!(bench.closed(10), [r#"{"s":18446744073709551614}"#]);
}

#[test]
fn a_message_that_fails_changes_no_window() {
    let mut bench =
        Bench::new("SELECT count(*) AS n, sum(payload.t) AS s FROM \"t\" GROUP BY TUMBLING(10 s)");
    bench.feed(1, "a", r#"{"t": 1}"#);
    let wrong = bench.try_feed(1, "a", r#"{"t": "warm"}"#).unwrap_err();
    assert_eq!(wrong.reason(), "wrong_type");
    assert_eq!(bench.closed(10), [r#"{"n":1,"s":1}"#]);
}

#[test]
fn keys_and_bytes_of_windows_are_bounded() {
    let limits = StateLimits { keys: 2, bytes: 20_000 };
    let sql = "SELECT clientid, collect(payload) AS l FROM \"t\" GROUP BY clientid, TUMBLING(10 s)";
    let mut bench = Bench::with_limits(sql, limits);
    bench.feed(1, "a", "x");
    bench.feed(1, "b", "x");
    assert_eq!(bench.try_feed(1, "c", "x").unwrap_err(), EvalErrorKind::StateFull);
    assert_eq!(bench.try_feed(1, "a", &"x".repeat(20_000)).unwrap_err(), EvalErrorKind::StateFull);
    let mut taken = 0;
    while bench.try_feed(1, "a", &"x".repeat(100)).is_ok() {
        taken += 1;
    }
    assert!((10..200).contains(&taken), "{taken}");
    assert_eq!(bench.closed(10).len(), 2);
    // All of it is free again.
    assert!(bench.try_feed(11, "c", &"x".repeat(10_000)).is_ok());
}

#[test]
fn dedup_lets_a_key_through_once_within_its_time() {
    let mut bench =
        Bench::new("SELECT payload.seq AS s FROM \"t\" DEDUP BY clientid, payload.seq WITHIN 10 s");
    assert_eq!(bench.feed(0, "a", r#"{"seq": 1}"#), [r#"{"s":1}"#]);
    assert!(bench.feed(9, "a", r#"{"seq": 1}"#).is_empty());
    assert_eq!(bench.feed(9, "a", r#"{"seq": 2}"#).len(), 1);
    assert_eq!(bench.feed(9, "b", r#"{"seq": 1}"#).len(), 1);
    assert_eq!(bench.feed(10, "a", r#"{"seq": 1}"#).len(), 1);
}

#[test]
fn a_sample_is_one_in_so_many_or_one_in_so_long() {
    let mut bench = Bench::new("SELECT * FROM \"t\" SAMPLE 1 IN 3");
    let passed: Vec<_> = (0..7).map(|second| bench.feed(second, "a", "").len()).collect();
    assert_eq!(passed, [1, 0, 0, 1, 0, 0, 1]);
    let mut bench = Bench::new("SELECT * FROM \"t\" SAMPLE EVERY 2 s BY clientid");
    let passed: Vec<_> = (0..5).map(|second| bench.feed(second, "a", "").len()).collect();
    assert_eq!(passed, [1, 0, 1, 0, 1]);
    assert_eq!(bench.feed(1, "b", "").len(), 1);
}

#[test]
fn lag_and_changed_compare_with_the_last_message_of_the_same_key() {
    let sql = "SELECT payload.t - lag(payload.t) AS by FROM \"t\" WHERE changed(payload.t) AND lag(payload.t) IS NOT NULL";
    let mut bench = Bench::new(sql);
    assert!(bench.feed(0, "a", r#"{"t": 1}"#).is_empty());
    assert!(bench.feed(1, "b", r#"{"t": 7}"#).is_empty());
    assert!(bench.feed(2, "a", r#"{"t": 1}"#).is_empty());
    assert_eq!(bench.feed(3, "a", r#"{"t": 4}"#), [r#"{"by":3}"#]);
    // What is missing is no change, and is not remembered.
    assert!(bench.feed(4, "a", "{}").is_empty());
    assert_eq!(bench.feed(5, "a", r#"{"t": 5}"#), [r#"{"by":1}"#]);
}

#[test]
fn lag_takes_another_key() {
    let mut bench = Bench::new("SELECT lag(payload.t, payload.k) AS before FROM \"t\"");
    bench.feed(0, "a", r#"{"k": 1, "t": "x"}"#);
    assert_eq!(bench.feed(1, "b", r#"{"k": 1, "t": "y"}"#), [r#"{"before":"x"}"#]);
}

#[test]
fn what_was_not_seen_for_longest_is_forgotten_first() {
    let limits = StateLimits { keys: 100, bytes: 1 << 20 };
    let mut bench = Bench::with_limits("SELECT changed(payload) AS c FROM \"t\"", limits);
    for client in 0..1000 {
        bench.feed(0, "always", "x");
        bench.feed(0, &client.to_string(), "x");
    }
    assert_eq!(bench.feed(0, "always", "x"), [r#"{"c":false}"#]);
    assert_eq!(bench.feed(0, "999", "x"), [r#"{"c":false}"#]);
    assert_eq!(bench.feed(0, "0", "x"), [r#"{"c":true}"#]);
}

#[test]
fn a_rule_that_remembers_is_not_evaluated_without_its_own_state() {
    let mut bench = Bench::new("SELECT * FROM \"t\" SAMPLE 1 IN 3");
    let event = Event::publish("t", "a", b"");
    let error = bench.rule.evaluate(&mut bench.scratch.start(&event)).unwrap_err();
    assert_eq!(error.kind, EvalErrorKind::NeedsState);
    bench.state = Bench::new("SELECT * FROM \"t\" SAMPLE 1 IN 4").state;
    assert_eq!(bench.try_feed(0, "a", "").unwrap_err(), EvalErrorKind::NeedsState);
}

#[test]
fn a_state_survives_a_restart_as_it_was() {
    for sql in [
        ALL_AGGREGATES,
        "SELECT clientid, avg(payload.t) AS a FROM \"t\" GROUP BY clientid, SESSION(5 s)",
        "SELECT clientid, max(payload.t) AS a FROM \"t\" GROUP BY clientid, payload.no, HOPPING(8 s, 4 s)",
        "SELECT lag(payload) AS l, lag(payload.t) AS t FROM \"t\" DEDUP BY payload.t, clientid WITHIN 20 s",
    ] {
        let (mut whole, mut broken) = (Bench::new(sql), Bench::new(sql));
        for second in 0..40 {
            let client = ["a", "b", "c"][usize::try_from(second % 3).unwrap()];
            let payload = format!(r#"{{"t": {}, "x": ["\u0000"]}}"#, second % 7);
            assert_eq!(whole.feed(second, client, &payload), broken.feed(second, client, &payload), "{sql}");
            if second % 3 == 0 {
                let (mut left, mut right) = (whole.closed(second), broken.closed(second));
                left.sort();
                right.sort();
                assert_eq!(left, right, "{sql}");
            }
            broken.restart();
        }
        assert_eq!(whole.closed(1000).len(), broken.closed(1000).len());
    }
}

#[test]
fn bytes_of_another_rule_or_version_are_refused() {
    let mut bench = Bench::new(ALL_AGGREGATES);
    bench.feed(1, "a", r#"{"t": [1, "x"], "u": 1.5}"#.replace("[1, \"x\"]", "3").as_str());
    let mut bytes = Vec::new();
    bench.state.export(&mut bytes);
    let other = Bench::new("SELECT * FROM \"t\" SAMPLE 1 IN 3").rule;
    let limits = StateLimits::default();
    assert_eq!(RuleState::import(&other, limits, &bytes).unwrap_err(), StateError::OtherRule);
    for len in 0..bytes.len() {
        RuleState::import(&bench.rule, limits, &bytes[..len]).unwrap_err();
    }
    bytes[4] = 9;
    assert_eq!(RuleState::import(&bench.rule, limits, &bytes).unwrap_err(), StateError::Version { found: 9 });
}

#[test]
fn debug_output_of_a_state_holds_nothing_of_the_payload() {
    let mut bench = Bench::new("SELECT last(payload) AS l FROM \"t\" GROUP BY payload, TUMBLING(10 s)");
    bench.feed(1, "a", "secret");
    assert!(!format!("{:?}", bench.state).contains("secret"));
    let closed = bench.state.poll_closed(&bench.rule, 10_000, &mut bench.scratch).unwrap().unwrap();
    assert!(!format!("{closed:?}").contains("secret"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_when_they_are_imported(at in 13_usize..400, byte in any::<u8>(), second in 0_i64..100) {
        let mut bench = Bench::new(ALL_AGGREGATES);
        for t in 0..4 {
            bench.feed(t, "a", &format!(r#"{{"t": {t}}}"#));
        }
        let mut bytes = Vec::new();
        bench.state.export(&mut bytes);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(state) = RuleState::import(&bench.rule, StateLimits::default(), &bytes) {
            bench.state = state;
            let _ = bench.try_feed(second, "a", r#"{"t": 1}"#);
            for _ in 0..10 {
                let _ = bench.state.poll_closed(&bench.rule, i64::MAX, &mut bench.scratch);
            }
        }
    }

    #[test]
    fn every_message_is_counted_in_exactly_one_tumbling_window(seconds in proptest::collection::vec(0_i64..200, 1..50)) {
        let mut bench = Bench::new("SELECT count(*) AS n FROM \"t\" GROUP BY TUMBLING(7 s)");
        let mut counted = 0;
        let total = seconds.len();
        for (at, second) in seconds.into_iter().enumerate() {
            bench.feed(second, "a", "");
            if at % 5 == 0 {
                counted += count(&bench.closed(second));
            }
        }
        counted += count(&bench.closed(10_000));
        prop_assert_eq!(counted, total);
    }
}

fn count(rows: &[String]) -> usize {
    rows.iter().map(|row| row.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap()).sum()
}
