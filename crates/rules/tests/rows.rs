//! What comes out: rows, their JSON, and the texts that templates make of them.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use tidegate_rules::{EvalScratch, Event, Missing, Property, Rendered, Row, Rule, RuleSet, Template};
use tidegate_topic::TopicName;

/// Evaluates one statement over one event and looks at its only row.
fn with_row<T>(sql: &str, event: &Event<'_>, look: impl FnOnce(&Row<'_>) -> T) -> T {
    let rule = Rule::compile("rule", sql).unwrap_or_else(|e| panic!("{}", e.render("rule", sql)));
    let mut scratch = EvalScratch::default();
    let outcome = rule.evaluate(&mut scratch.start(event)).unwrap();
    look(&outcome.rows()[0])
}

fn json(sql: &str, event: &Event<'_>) -> String {
    with_row(sql, event, |row| {
        let mut out = Vec::new();
        row.write_json(&mut out);
        String::from_utf8(out).unwrap()
    })
}

fn payload_json(expr: &str, payload: &[u8]) -> String {
    json(&format!("SELECT {expr} AS r FROM \"#\""), &Event::publish("t", "c", payload))
}

#[test]
fn select_star_gives_every_column_of_the_message() {
    let mut event = Event::publish("plant/7", "sensor", b"{\"a\": 1}");
    event.username = Some("ann");
    event.qos = 1;
    event.retain = true;
    event.timestamp_ms = 1_700_000_000_123;
    event.id = 0xABC;
    event.peer = Some("[::1]:4711".parse().unwrap());
    event.node = "tide-1";
    insta::assert_snapshot!(json("SELECT * FROM \"#\"", &event));
    insta::assert_snapshot!(json(
        "SELECT *, upper(clientid) AS clientid, 5 AS flags.qos, 2 AS payload.b FROM \"#\"",
        &event
    ));
}

#[test]
fn columns_keep_the_order_of_the_rule_and_leave_out_what_is_missing() {
    let event = Event::publish("t", "c", b"{\"z\": null, \"a\": 1}");
    let sql = "SELECT payload.z AS z, payload.nope AS gone, clientid, payload.a AS a FROM \"#\"";
    assert_eq!(json(sql, &event), r#"{"z":null,"clientid":"c","a":1}"#);
}

#[test]
fn mqtt_5_properties_are_an_object_and_a_list_of_pairs() {
    let properties = [
        Property::User("k", "first"),
        Property::ContentType("text/plain"),
        Property::User("k", "last"),
        Property::CorrelationData(b"\x01\xFF"),
    ];
    let mut event = Event::publish("t", "c", b"");
    event.properties = Some(&properties);
    assert_eq!(json("SELECT pub_props.'User-Property'.k AS k FROM \"#\"", &event), r#"{"k":"last"}"#);
    assert_eq!(
        json("SELECT pub_props.'User-Property-Pairs'[1].value AS k FROM \"#\"", &event),
        r#"{"k":"first"}"#
    );
    assert_eq!(json("SELECT pub_props.'Content-Type' AS t FROM \"#\"", &event), r#"{"t":"text/plain"}"#);
    insta::assert_snapshot!(json("SELECT pub_props FROM \"#\"", &event));
}

#[test]
fn what_json_leaves_open_is_defined() {
    assert_eq!(payload_json("payload.a", b"\xEF\xBB\xBF{\"a\": 1}"), r#"{"r":1}"#, "a byte order mark");
    assert_eq!(
        payload_json("payload.a", br#"{"a": 1, "\u0061": 2}"#),
        r#"{"r":2}"#,
        "two members of one name"
    );
    assert_eq!(
        payload_json("payload.a", br#"{"a": "\ud800x\ud83d\udc38\udc38"}"#),
        "{\"r\":\"\u{FFFD}x\u{1F438}\u{FFFD}\"}"
    );
    assert_eq!(payload_json("payload.a", br#"{"a": 1e999}"#), r#"{"r":1e999}"#, "a number beyond a float");
    assert_eq!(payload_json("payload.a", br#"{"a": -0}"#), r#"{"r":0}"#);
    assert_eq!(
        payload_json("payload.a", br#"{"a": 123456789012345678901234567890}"#),
        r#"{"r":123456789012345678901234567890}"#
    );
    assert_eq!(payload_json("payload.a", br#"{"a": 8.0}"#), r#"{"r":8.0}"#, "a float stays one");
    assert_eq!(
        payload_json("payload.a", b"{\"a\": [ 1 , {\"b c\" :\t\"d e\"} ]}"),
        r#"{"r":[1,{"b c":"d e"}]}"#
    );
}

#[test]
fn numbers_compare_exactly_also_where_a_float_would_not() {
    for (expr, expected) in [
        ("9007199254740993 = 9007199254740992.0", "false"),
        ("9007199254740993 > 9007199254740992.0", "true"),
        ("99999999999999999999 > 9223372036854775807", "true"),
        ("99999999999999999999 = 99999999999999999999", "true"),
        ("-99999999999999999999 < -99999999999999999998", "true"),
        ("99999999999999999999 < 1e300", "true"),
        ("-99999999999999999999 < -9223372036854775808", "true"),
    ] {
        assert_eq!(payload_json(expr, b""), format!("{{\"r\":{expected}}}"), "{expr}");
    }
}

#[test]
fn a_payload_that_is_not_text_passes_whole_and_has_no_fields() {
    let event = Event::publish("t", "c", b"\xFF\x00");
    assert_eq!(json("SELECT payload FROM \"#\"", &event), "{\"payload\":\"\u{FFFD}\\u0000\"}");
    let rule = Rule::compile("r", "SELECT payload.a FROM \"#\"").unwrap();
    let mut scratch = EvalScratch::default();
    let error = rule.evaluate(&mut scratch.start(&event)).unwrap_err();
    assert_eq!(error.to_string(), "not JSON: not UTF-8 at byte 0");
    assert_eq!(&rule.sql()[error.span.start..error.span.end], "payload.a");
}

#[test]
fn one_reading_serves_all_rules_and_is_forgotten_with_the_message() {
    let rules = ["payload.a", "payload.a + 1"]
        .map(|e| Rule::compile("r", &format!("SELECT {e} AS r FROM \"#\"")).unwrap());
    let mut scratch = EvalScratch::default();
    let mut made = String::new();
    for payload in [&b"{\"a\": 1}"[..], b"{\"a\": 10, \"b\": 0}", b"{\"b\": [1, 2, 3], \"a\": 100}"] {
        let event = Event::publish("t", "c", payload);
        let mut evaluator = scratch.start(&event);
        for rule in &rules {
            let outcome = rule.evaluate(&mut evaluator).unwrap();
            let mut out = Vec::new();
            outcome.rows()[0].get("r").write_text(&mut out);
            made.push_str(str::from_utf8(&out).unwrap());
            made.push(' ');
        }
    }
    assert_eq!(made, "1 2 10 11 100 101 ");
}

fn rendered(template: &str, row: &Row<'_>) -> String {
    let mut scratch = Vec::new();
    match Template::compile(template).unwrap().render_value(row, &mut scratch) {
        Rendered::Undefined => "undefined".to_owned(),
        Rendered::Null => "null".to_owned(),
        Rendered::Bytes(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn a_single_placeholder_tells_nothing_null_and_empty_apart() {
    let event = Event::publish("t", "c", br#"{"null": null, "empty": "", "n": 1.5, "o": {"a": [1]}}"#);
    with_row(
        "SELECT payload.null AS n, payload.empty AS e, payload.nope AS u, payload.o AS o FROM \"#\"",
        &event,
        |row| {
            assert_eq!(rendered("${n}", row), "null");
            assert_eq!(rendered("${e}", row), "\"\"");
            assert_eq!(rendered("${u}", row), "undefined");
            assert_eq!(rendered("${other}", row), "undefined");
            assert_eq!(rendered("${o.a[1]}", row), "\"1\"");
            assert_eq!(rendered("${o}", row), r#""{\"a\":[1]}""#);
            assert_eq!(rendered("-${n}-${u}-", row), "\"-null--\"");
            assert_eq!(rendered("", row), "\"\"");
        },
    );
    with_row("SELECT * FROM \"#\"", &event, |row| {
        assert_eq!(rendered("${payload.n}", row), "\"1.5\"");
        assert_eq!(rendered("${clientid}", row), "\"c\"");
        assert_eq!(rendered("${username}", row), "undefined");
    });
}

#[test]
fn a_template_says_which_columns_it_reads_and_a_rule_which_it_makes() {
    let template = Template::compile("${a.b[1]}/${c}${$}${.}").unwrap();
    let roots: Vec<_> = template.placeholders().map(|path| path.root().to_owned()).collect();
    assert_eq!(roots, ["a", "c", ""]);
    assert_eq!(template.literal(), None);
    assert_eq!(Template::compile("plain ${$}x").unwrap().literal(), Some("plain $x"));
    let columns =
        |sql| Rule::compile("r", sql).unwrap().columns().map(|c| c.map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(
        columns("SELECT payload.a, payload.b, 1 AS x.y, 2 + 2 FROM \"t\"").unwrap(),
        ["payload", "x", "column_4"]
    );
    assert_eq!(columns("SELECT 1 AS a, * FROM \"t\""), None);
}

#[test]
fn a_refused_placeholder_names_itself() {
    let event = Event::publish("t", "c", b"{}");
    with_row("SELECT payload.site AS site FROM \"#\"", &event, |row| {
        let error = Template::compile("up.${site}")
            .unwrap()
            .render(row, Missing::Refuse, &mut Vec::new())
            .unwrap_err();
        assert_eq!(error.to_string(), "the rule's output has nothing for ${site}");
    });
}

#[test]
fn every_rule_of_a_topic_is_visited_once_and_in_order() {
    let rule =
        |id: usize, from: &str| Rule::compile(&id.to_string(), &format!("SELECT * FROM {from}")).unwrap();
    // More than one walk of the index has room for.
    let rules = (0..2500).map(|id| match id % 5 {
        0 => rule(id, "\"a/#\", \"a/+\", \"#\", \"a/b\""),
        1 => rule(id, "\"a/+\""),
        _ => rule(id, "\"other/#\""),
    });
    let set = RuleSet::new(rules.collect()).unwrap();
    let mut seen = Vec::new();
    set.for_each_match(TopicName::parse("a/b").unwrap(), |position, rule| {
        assert_eq!(rule.id(), position.to_string());
        seen.push(position);
    });
    assert_eq!(seen, (0..2500).filter(|id| id % 5 < 2).collect::<Vec<_>>());
    for topic in ["", "a/+", "$SYS/a"] {
        let event = Event::publish(topic, "client", b"");
        set.for_each_reader(&event, |position, _| panic!("rule {position} reads {topic:?}"));
    }
}

#[test]
fn two_rules_of_one_id_are_refused() {
    let rule = || Rule::compile("twin", "SELECT * FROM \"t\"").unwrap();
    assert_eq!(RuleSet::new(vec![rule(), rule()]).unwrap_err().id, "twin");
}

#[test]
fn debug_output_holds_nothing_of_the_payload() {
    let event = Event::publish("t", "c", b"{\"pin\": \"secret\"}");
    with_row("SELECT payload.pin AS pin, * FROM \"#\"", &event, |row| {
        let text = format!("{event:?} {row:?}");
        assert!(!text.contains("secret"), "{text}");
    });
}

#[test]
fn rules_templates_and_rows_are_shared_among_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<RuleSet>();
    shared::<Template>();
    shared::<EvalScratch>();
    shared::<tidegate_rules::CompileError>();
}

#[test]
fn a_decimal_that_is_passed_on_stays_as_it_was_written() {
    let payload = br#"{"a": 1.10, "b": 1e3, "c": 0.1000000000000000055511, "d": 1.0, "l": [{"e": 2.50}]}"#;
    let event = Event::publish("t", "c", payload);
    let sql = "SELECT payload.a AS a, payload.b AS b, payload.c AS c, payload.d AS d, a + 1 AS a1, a = 1.1 AS same, \
               is_float(a) AS float FROM \"t\"";
    assert_eq!(
        json(sql, &event),
        r#"{"a":1.10,"b":1e3,"c":0.1000000000000000055511,"d":1.0,"a1":2.1,"same":true,"float":true}"#
    );
    let sql = "FOREACH payload.l AS x DO x.e AS e, e * 2 AS twice FROM \"t\"";
    assert_eq!(json(sql, &event), r#"{"e":2.50,"twice":5.0}"#);
}
