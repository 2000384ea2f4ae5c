//! What a message costs: nothing on the heap where nothing is made, and never more than the limits.

use allocation_counter::measure;
use tidegate_rules::{
    EvalErrorKind, EvalLimits, EvalScratch, Event, MAX_JSON_DEPTH, Missing, Rendered, Rule, RuleSet, Template,
};
use tidegate_topic::TopicName;

const PAYLOAD: &[u8] =
    br#"{"device": "sensor-7", "temp": 21.5, "list": [1, {"a": "x"}], "text": "with \"escapes\""}"#;

fn allocations(scratch: &mut EvalScratch, sql: &str) -> u64 {
    let rule = Rule::compile("r", sql).unwrap_or_else(|e| panic!("{}", e.render("r", sql)));
    let event = Event::publish("plant/7/up", "sensor-7", PAYLOAD);
    let mut run = || {
        let mut evaluator = scratch.start(&event);
        let rows = rule.evaluate(&mut evaluator).map(|outcome| outcome.rows().len());
        rows.unwrap_or_else(|e| panic!("{sql}: {e}"))
    };
    run(); // the scratch grows to the size of the message once
    measure(|| _ = run()).count_total
}

#[test]
fn a_message_that_where_refuses_allocates_nothing() {
    let mut scratch = EvalScratch::default();
    for condition in [
        "payload.temp > 30",
        "payload.device = 'other' AND payload.list[2].a = 'x'",
        "topic =~ 'plant/+/down' OR qos = 2",
        "payload.device IN ('a', 'b') OR NOT is_num(payload.temp)",
        "strlen(payload.device) > 100 OR payload.missing = 1 OR topic(2) = '8'",
        "flags.retain OR substr(payload.device, 0, 3) = 'abc'",
        "CASE WHEN payload.temp > 30 THEN true ELSE false END",
    ] {
        let sql = format!("SELECT *, upper(clientid) AS c FROM \"plant/#\" WHERE {condition}");
        assert_eq!(allocations(&mut scratch, &sql), 0, "{condition}");
    }
}

#[test]
fn passing_a_message_on_allocates_nothing() {
    let mut scratch = EvalScratch::default();
    assert_eq!(allocations(&mut scratch, "SELECT * FROM \"#\""), 0);
    assert_eq!(allocations(&mut scratch, "SELECT * FROM \"#\" WHERE payload.temp > 20"), 0);
}

#[test]
fn selecting_fields_allocates_the_row_and_nothing_else() {
    let mut scratch = EvalScratch::default();
    assert_eq!(allocations(&mut scratch, "SELECT payload.temp AS t, payload.list, clientid FROM \"#\""), 3);
    assert_eq!(
        allocations(&mut scratch, "SELECT payload.temp AS t, payload.device AS d, clientid FROM \"#\""),
        1
    );
}

#[test]
fn finding_the_rules_of_a_topic_allocates_nothing() {
    let rule =
        |id: &str, from: &str| Rule::compile(id, &format!("SELECT * FROM {from}")).expect("it is a rule");
    let rules = vec![rule("a", "\"plant/#\", \"plant/+/up\""), rule("b", "\"other\""), rule("c", "\"#\"")];
    let set = RuleSet::new(rules).expect("the ids differ");
    let mut found = [0; 4];
    let topic = TopicName::parse("plant/7/up").expect("it is a topic name");
    let info = measure(|| {
        let mut count = 0;
        set.for_each_match(topic, |position, _| {
            count += 1;
            found[count] = position + 1;
        });
    });
    assert_eq!((found, info.count_total), ([0, 1, 3, 0], 0));
}

#[test]
fn a_template_of_one_payload_is_the_payload_itself() {
    let rule = Rule::compile("r", "SELECT * FROM \"#\"").expect("it is a rule");
    let event = Event::publish("t", "c", b"\xFF not even text");
    let mut scratch = EvalScratch::default();
    let outcome = rule.evaluate(&mut scratch.start(&event)).expect("nothing is evaluated");
    let template = Template::compile("${payload}").expect("it is a template");
    let mut buffer = Vec::new();
    let mut same = false;
    let info = measure(|| {
        let rendered = template.render_value(&outcome.rows()[0], &mut buffer);
        same = matches!(rendered, Rendered::Bytes(bytes) if std::ptr::eq(bytes, event.payload));
    });
    assert!(same);
    assert_eq!(info.count_total, 0);
}

fn fails(sql: &str, payload: &[u8], limits: EvalLimits) -> EvalErrorKind {
    let rule = Rule::compile("r", sql).unwrap_or_else(|e| panic!("{}", e.render("r", sql)));
    let event = Event::publish("t", "c", payload);
    let mut scratch = EvalScratch::with_limits(limits);
    let outcome = rule.evaluate(&mut scratch.start(&event));
    outcome.expect_err(sql).kind
}

#[test]
fn work_and_output_are_bounded() {
    let limits = EvalLimits::default();
    assert_eq!(fails("SELECT [1..9000000000] AS a FROM \"#\"", b"", limits), EvalErrorKind::TooManySteps);
    assert_eq!(
        fails("SELECT [-9223372036854775807..9223372036854775807] AS a FROM \"#\"", b"", limits),
        EvalErrorKind::TooManySteps
    );
    let doubling = (0..40).map(|_| "x + x AS x").collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT 'aaaaaaaa' AS x, {doubling} FROM \"#\"");
    assert_eq!(fails(&sql, b"", limits), EvalErrorKind::TooManyBytes);
    // Small in memory, but 2^40 numbers to write.
    let sharing = (0..40).map(|_| "[x, x] AS x").collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT 1 AS x, {sharing} FROM \"#\"");
    assert_eq!(fails(&sql, b"", limits), EvalErrorKind::TooManyBytes);
    let payload = format!("{{\"a\": \"{}\"}}", "x".repeat(1 << 20));
    let copies = (0..20).map(|n| format!("payload.a AS a{n}")).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {copies} FROM \"#\"");
    assert_eq!(fails(&sql, payload.as_bytes(), limits), EvalErrorKind::TooManyBytes);
    let sql = "SELECT * FROM \"#\" WHERE trim(payload.a, payload.a + 'y') = ''";
    assert_eq!(fails(sql, payload.as_bytes(), limits), EvalErrorKind::TooManySteps);
    let comparisons = vec!["payload = payload"; 1000].join(" AND ");
    let sql = format!("SELECT * FROM \"#\" WHERE {comparisons}");
    assert_eq!(fails(&sql, payload.as_bytes(), limits), EvalErrorKind::TooManySteps);
    let few = EvalLimits { steps: 10, ..limits };
    assert_eq!(fails("SELECT 1 + 1 + 1 + 1 + 1 + 1 AS a FROM \"#\"", b"", few), EvalErrorKind::TooManySteps);
}

#[test]
fn a_value_that_grows_deeper_with_every_item_is_stopped() {
    let nesting = (0..400).map(|_| "[x] AS x").collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT 1 AS x, {nesting} FROM \"#\"");
    assert_eq!(fails(&sql, b"", EvalLimits::default()), EvalErrorKind::TooDeep);
    let path = "x AS x.a.b.c.d.e.f.g.h";
    let sql = format!(
        "SELECT 1 AS y, {} FROM \"#\"",
        [path.replacen('x', "y", 1).as_str(), "x AS y"].repeat(60).join(", ")
    );
    assert_eq!(fails(&sql, b"", EvalLimits::default()), EvalErrorKind::TooDeep);
}

#[test]
fn a_payload_nested_without_end_is_not_json_and_fast_to_refuse() {
    let payload = "[".repeat(1_000_000);
    let kind = fails("SELECT * FROM \"#\" WHERE payload.a = 1", payload.as_bytes(), EvalLimits::default());
    assert_eq!(kind.reason(), "not_json");
    let deepest = format!("{}1{}", "[".repeat(MAX_JSON_DEPTH), "]".repeat(MAX_JSON_DEPTH));
    let rule = Rule::compile("r", "SELECT payload[1] AS a FROM \"#\"").expect("it is a rule");
    let event = Event::publish("t", "c", deepest.as_bytes());
    let mut scratch = EvalScratch::default();
    let outcome = rule.evaluate(&mut scratch.start(&event)).expect("it is at the limit");
    let mut json = Vec::new();
    Template::compile("${a}")
        .expect("it is a template")
        .render(&outcome.rows()[0], Missing::Empty, &mut json)
        .expect("nothing is refused");
    assert_eq!(json.len(), deepest.len() - 2);
}

#[test]
fn odd_arithmetic_is_an_error_and_not_a_panic() {
    for (expr, kind) in [
        ("170141183460469231731687303715884105727 + 1", EvalErrorKind::Overflow),
        ("-170141183460469231731687303715884105728 div -1", EvalErrorKind::Overflow),
        ("abs(-170141183460469231731687303715884105728)", EvalErrorKind::Overflow),
        ("-(-170141183460469231731687303715884105728)", EvalErrorKind::Overflow),
        ("1e308 * 10", EvalErrorKind::Overflow),
        ("round(1e300) + 1", EvalErrorKind::Overflow),
        ("1 mod 0", EvalErrorKind::DivisionByZero),
        ("1 / 0", EvalErrorKind::DivisionByZero),
        ("1.5 / 0.0", EvalErrorKind::DivisionByZero),
    ] {
        assert_eq!(
            fails(&format!("SELECT {expr} AS a FROM \"#\""), b"", EvalLimits::default()),
            kind,
            "{expr}"
        );
    }
}

#[test]
fn ten_rules_share_the_reading_of_what_is_nested_and_no_message_sees_another_ones() {
    let rules: Vec<Rule> = (0..10)
        .map(|n| Rule::compile("r", &format!("SELECT payload.a.b.v + {n} AS v, payload.a.w AS w FROM \"#\"")))
        .collect::<Result<_, _>>()
        .unwrap();
    let mut scratch = EvalScratch::default();
    // The second has other lengths: places that the first one left behind would be wrong.
    for (v, w) in [(1, 2), (300, 4)] {
        let payload = format!(r#"{{"a": {{"b": {{"v": {v}}}, "w": {w}}}}}"#);
        let event = Event::publish("t", "c", payload.as_bytes());
        let mut evaluator = scratch.start(&event);
        for (n, rule) in rules.iter().enumerate() {
            let outcome = rule.evaluate(&mut evaluator).unwrap();
            let mut row = Vec::new();
            outcome.rows()[0].write_json(&mut row);
            let expected = format!(r#"{{"v":{},"w":{w}}}"#, v + n);
            assert_eq!(String::from_utf8(row).unwrap(), expected);
        }
    }
}
