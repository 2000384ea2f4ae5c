//! No text and no payload makes the crate panic, hang or contradict serde_json.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use proptest::prelude::*;
use tidegate_rules::{
    EvalLimits, EvalScratch, Event, Missing, Rule, RuleState, StateLimits, Template, Value, check_template,
};

/// Compiles, evaluates, prints and renders, whatever comes of it.
fn exercise(sql: &str, payload: &[u8]) {
    let rule = match Rule::compile("rule", sql) {
        Ok(rule) => rule,
        Err(error) => {
            assert!(!error.diagnostics().is_empty());
            error.render("rule", sql);
            return;
        }
    };
    let mut event = Event::publish("t/a", "client", payload);
    event.timestamp_ms = i64::MAX;
    let limits = EvalLimits { steps: 20_000, bytes: 1 << 20 };
    let mut scratch = EvalScratch::with_limits(limits);
    let template = Template::compile("${a} ${payload.a[1]} ${.}").unwrap();
    let _ = (rule.explain(&event).to_string(), check_template(&rule, &template));
    if rule.is_stateful() {
        return exercise_state(&rule, &event, &mut scratch);
    }
    let Ok(outcome) = rule.evaluate(&mut scratch.start(&event)) else { return };
    for row in outcome.rows() {
        let mut json = Vec::new();
        row.write_json(&mut json);
        serde_json::from_slice::<serde_json::Value>(&json).expect("a row is JSON");
        template.render(row, Missing::Empty, &mut json).unwrap();
        template.render_value(row, &mut json);
    }
}

/// The same with what a rule remembers: taken in, written out, read back and closed.
fn exercise_state(rule: &Rule, event: &Event<'_>, scratch: &mut EvalScratch) {
    let limits = StateLimits { keys: 10, bytes: 1 << 16 };
    let mut state = RuleState::new(rule, limits);
    for _ in 0..3 {
        let _ = rule.evaluate_with(&mut state, &mut scratch.start(event));
        let mut bytes = Vec::new();
        state.export(&mut bytes);
        state = RuleState::import(rule, limits, &bytes).expect("it was exported");
    }
    while let Some(closed) = state.poll_closed(rule, i64::MAX, scratch) {
        let Ok(closed) = closed else { continue };
        let mut json = Vec::new();
        closed.row(rule).write_json(&mut json);
        serde_json::from_slice::<serde_json::Value>(&json).expect("a row is JSON");
    }
}

/// Pieces that statements are made of, so that random ones come near to compiling.
const PIECES: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "AND",
    "OR",
    "NOT",
    "IN",
    "AS",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "div",
    "mod",
    "*",
    "+",
    "-",
    "/",
    "=",
    "!=",
    "<",
    ">=",
    "=~",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "..",
    "\"t/#\"",
    "'a'",
    "1",
    "0",
    "-0",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "1.5",
    "1e308",
    "true",
    "null",
    "payload",
    "payload.a",
    "a",
    "clientid",
    "pub_props",
    "abs",
    "split",
    "substr",
    "float",
    "map_get",
    "nth",
    "json_decode",
    "round",
    "[1..1000000]",
    "SELECT * FROM \"t/#\" WHERE",
    "now_timestamp",
    "FOREACH",
    "DO",
    "INCASE",
    "LIKE",
    "BETWEEN",
    "IS NULL",
    "||",
    "{",
    "}",
    ":",
    "GROUP BY",
    "TUMBLING(10 s)",
    "SESSION(1 s)",
    "HAVING",
    "DEDUP BY",
    "WITHIN 1 s",
    "SAMPLE 1 IN 2",
    "count(*)",
    "lag(",
    "if(",
    "map(",
    "filter(",
    "item",
    "\"$events/#\"",
    "FOREACH payload.l DO item FROM \"t/#\"",
    "SELECT count(*) AS n FROM \"t/#\" GROUP BY",
];

fn statement() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(PIECES), 0..24).prop_map(|pieces| pieces.join(" "))
}

/// Expressions that do compile, around every operator and odd value.
fn expression() -> impl Strategy<Value = String> {
    const LEAVES: &[&str] = &[
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "99999999999999999999",
        "1.5",
        "-1e308",
        "''",
        "'a'",
        "'7'",
        "true",
        "null",
        "payload",
        "payload.a",
        "payload.b.c",
        "payload.l[-1]",
        "payload.l[1..2]",
        "nope",
        "[]",
        "flags",
        "map_new()",
        "payload.l",
    ];
    const BINARY: &[&str] =
        &["+", "-", "*", "/", "div", "mod", "=", "!=", "<", "<=", ">", ">=", "=~", "AND", "OR"];
    const UNARY: &[&str] = &[
        "-",
        "NOT ",
        "abs",
        "str",
        "int",
        "float",
        "round",
        "floor",
        "upper",
        "trim",
        "strlen",
        "length",
        "json_encode",
        "json_decode",
        "coalesce",
        "concat",
        "is_null",
        "map_size",
        "bool",
        "topic",
    ];
    proptest::sample::select(LEAVES).prop_map(str::to_owned).prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), proptest::sample::select(BINARY), inner.clone())
                .prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            (proptest::sample::select(UNARY), inner.clone()).prop_map(|(f, x)| format!("{f}({x})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("CASE WHEN {a} THEN {b} ELSE {c} END")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("substr({a}, {b}, 2)")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("split({a}, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} IN ({b}, 1)")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} NOT LIKE {b})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} BETWEEN {b} AND {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{a: {a}, 'b c': {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("map({a}, item || {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("filter({a}, {b} IS NULL)")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("if({a} = item, {b}, lag({a}))")),
            inner.prop_map(|a| format!("changed({a})")),
        ]
    })
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value as Json;
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        // serde_json reads other floats with an error in the last digit unless it is told not to.
        any::<i32>().prop_map(|n| Json::from(f64::from(n) / 64.0)),
        "[a-z\"\\\\\\n\u{e9}\u{1F438}]{0,12}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            proptest::collection::hash_map("[a-d\"]{0,2}", inner, 0..5)
                .prop_map(|m| Json::Object(m.into_iter().collect())),
        ]
    })
}

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(i64),
}

/// Names and positions as `json()` makes them.
fn path() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        "[a-d\"]{0,2}".prop_map(Step::Key),
        (1..5_i64).prop_map(Step::Index),
        (-4..0_i64).prop_map(Step::Index),
    ];
    proptest::collection::vec(step, 1..4)
}

/// The row of a rule that selects what is at a path of the payload as `v`.
fn select(steps: &[Step], payload: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    let path: String = steps
        .iter()
        .map(|step| match step {
            Step::Key(key) => format!(".'{key}'"),
            Step::Index(index) => format!("[{index}]"),
        })
        .collect();
    let rule = Rule::compile("rule", &format!("SELECT payload{path} AS v FROM \"#\"")).expect("it is a rule");
    let event = Event::publish("t", "c", payload);
    let mut scratch = EvalScratch::default();
    let outcome = rule.evaluate(&mut scratch.start(&event)).ok()?;
    let mut json = Vec::new();
    outcome.rows()[0].write_json(&mut json);
    match serde_json::from_slice(&json) {
        Ok(row) => Some(row),
        // JSON all the same: a number beyond f64 is passed on as it was written.
        Err(error) if error.to_string().contains("number out of range") => Some(serde_json::Map::new()),
        Err(error) => panic!("a row is JSON: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(sql in any::<String>()) {
        exercise(&sql, b"{}");
        let _ = Template::compile(&sql);
    }

    #[test]
    fn no_sequence_of_tokens_panics(sql in statement(), payload in "\\PC{0,32}") {
        exercise(&sql, payload.as_bytes());
    }

    #[test]
    fn no_expression_panics_on_any_payload(a in expression(), b in expression(), payload in json()) {
        let sql = format!("SELECT {a} AS a, {b} AS a.b, {b} AS payload.l[1] FROM \"#\" WHERE is_null({b}) OR true");
        exercise(&sql, payload.to_string().as_bytes());
    }

    #[test]
    fn no_foreach_and_no_window_panics_on_any_payload(a in expression(), b in expression(), payload in json()) {
        let payload = payload.to_string();
        for sql in [
            format!("FOREACH {a} AS item DO {b} AS b, item, * INCASE {b} = item OR true FROM \"#\""),
            format!("FOREACH {a}, payload.l INCASE item IS NOT NULL FROM \"#\" WHERE {b} IS NULL OR true"),
            format!(
                "SELECT min({a}) AS x, collect({b}) AS l, count(*) || last({a}) AS n, {b} AS k FROM \"#\" \
                 GROUP BY {b}, HOPPING(2 s, 1 s) HAVING x IS NULL OR true"
            ),
            format!("SELECT {a} AS a FROM \"#\" DEDUP BY {b} WITHIN 1 s SAMPLE 1 IN 2 BY {a}"),
        ] {
            exercise(&sql, payload.as_bytes());
        }
    }

    #[test]
    fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        exercise("SELECT *, payload.a[1] AS a, payload.b.c AS b FROM \"#\"", &payload);
    }

    #[test]
    fn json_is_what_serde_json_says_it_is(json in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&json).unwrap() } else { json.to_string() };
        let value = Value::from_json(&text).expect("serde_json writes JSON");
        for value in [value.clone(), value.into_owned()] {
            let mut out = Vec::new();
            value.write_json(&mut out);
            let back: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&back, &json);
        }
    }

    /// A payload is read level by level; what is found has to be what a whole reading finds.
    #[test]
    fn a_path_into_a_payload_finds_what_serde_json_finds(json in json(), pretty in any::<bool>(), steps in path()) {
        let text = if pretty { serde_json::to_string_pretty(&json).unwrap() } else { json.to_string() };
        let found = steps.iter().try_fold(&json, |at, step| match step {
            Step::Key(key) => at.as_object()?.get(key),
            Step::Index(index) if *index > 0 => at.as_array()?.get(usize::try_from(index - 1).unwrap()),
            Step::Index(index) => {
                let items = at.as_array()?;
                items.get(items.len().checked_sub(usize::try_from(-index).unwrap())?)
            }
        });
        let row = select(&steps, text.as_bytes()).expect("the payload is JSON");
        // A text is looked into as JSON, which the other reading does not do.
        if row.get("v").is_some() || found.is_some() {
            prop_assert_eq!(row.get("v"), found, "{:?} of {}", steps, text);
        }
    }

    /// Also of a payload that is damaged where a rule does not look, a row is JSON; what it looks at it has checked.
    #[test]
    fn a_row_of_a_damaged_payload_is_json_and_its_own_level_is_checked(
        json in json(), at in any::<prop::sample::Index>(), byte in "[\\[\\]{},:\"0-9eE.a-z\\n \\\\-]", steps in path(),
    ) {
        let mut text = json.to_string();
        let at = at.index(text.len() + 1);
        if text.is_char_boundary(at) {
            text.insert_str(at, &byte);
        }
        let selected = select(&steps, text.as_bytes());
        let is_flat = !text[1..].contains(['[', '{']);
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => prop_assert!(selected.is_some(), "{} is JSON", text),
            Err(error) if error.to_string().contains("number out of range") => {}
            Err(_) if is_flat => prop_assert!(selected.is_none(), "{} is no JSON", text),
            Err(_) => {}
        }
    }

    #[test]
    fn what_serde_json_refuses_is_refused(json in json(), at in any::<prop::sample::Index>(), byte in "[\\[\\]{},:\"0-9eE.a-z \\\\-]") {
        let mut text = json.to_string();
        let at = at.index(text.len() + 1);
        if text.is_char_boundary(at) {
            text.insert_str(at, &byte);
        }
        let ours = Value::from_json(&text).is_ok();
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => prop_assert!(ours, "{} is JSON", text),
            // A number beyond f64 is kept as written here, so that what follows it decides.
            Err(error) if error.to_string().contains("number out of range") => {}
            Err(error) => prop_assert!(!ours, "{}: {}", text, error),
        }
    }
}
