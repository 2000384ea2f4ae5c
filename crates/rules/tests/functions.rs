//! The functions that rules can call: what each gives for every kind of argument, and what none of them may cost.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "facts/runner.rs"]
mod runner;

use proptest::prelude::*;
use tidegate_rules::{EvalLimits, EvalScratch, Event, Rule, functions};

#[test]
fn every_function_gives_what_its_rows_say() {
    let mut broken = Vec::new();
    for (line, row) in include_str!("cases/builtins.jsonl").lines().enumerate() {
        let fact = serde_json::from_str(row).unwrap();
        if let Err(why) = runner::check(&fact) {
            broken.push(format!("builtins.jsonl:{}: {why}\n  {row}", line + 1));
        }
    }
    assert!(broken.is_empty(), "{} rows do not hold:\n{}", broken.len(), broken.join("\n"));
}

/// Arguments of every kind, as they are written in a rule.
fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "''",
            "'a'",
            "'你好🐸'",
            "'a.b,c'",
            "'[1, {\"a\": null}]'",
            "'{\"a\": {\"b\": 1}}'",
            "'second'",
            "'+08:00'",
            "'2024-02-29 10:40:12'",
            "'%Y-%m-%d %H:%M:%S.%3N%:z'",
            "'leading'",
            "'both'",
            "'integer'",
            "'signed'",
            "'little'",
            "'float'",
            "'bits'",
            "'sha256'",
            "'no_padding'",
            "'(a)|b*'",
            "'~s ~p ~.3f'",
            "'\\x41'",
            "'6364F'",
            "null",
            "true",
            "false",
            "payload.none",
            "payload",
            "payload.a",
            "payload.m",
            "[]",
            "[1, 'a', null, 2.5]",
            "map_new()",
            "hexstr2bin('9F4E58FF00')",
            "123456789012345678901234567890",
            "1.5",
            "-0.0",
            "1e300",
            "9223372036854775807",
            "-9223372036854775807 - 1",
            "0",
            "1",
            "-1",
            "64",
            "1000000000",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| format!("({number})").replace("-9223372036854775808", "0")),
        (-1e6..1e6_f64).prop_map(|number| format!("({number:?})")),
        "[ -&(-~]{0,12}".prop_map(|text| format!("'{text}'")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_function_panics_on_any_arguments(args in prop::collection::vec(argument(), 6), seed in any::<u64>()) {
        let limits = EvalLimits { steps: 20_000, bytes: 200_000 };
        let mut scratch = EvalScratch::with_limits(limits);
        let payload = br#"{"a": [3, "x", {"b": [1]}, null, 1.5], "m": {"k": "v", "n": {"o": 1}}}"#;
        let event = Event::publish("t/1", "c", payload);
        let mut compiled = 0;
        for (position, (name, _)) in functions().enumerate() {
            for count in 0..=6 {
                let first = (seed as usize).wrapping_add(position) % args.len();
                let chosen: Vec<_> = args.iter().cycle().skip(first).take(count).map(String::as_str).collect();
                let sql = format!("SELECT {name}({}) AS r FROM \"#\"", chosen.join(", "));
                // Another number of arguments and a pattern that can't be used are found here.
                let Ok(rule) = Rule::compile("r", &sql) else { continue };
                compiled += 1;
                let evaluated = rule.evaluate(&mut scratch.start(&event));
                if let Ok(outcome) = &evaluated {
                    for row in outcome.rows() {
                        let mut out = Vec::new();
                        row.write_json(&mut out);
                        let text = std::str::from_utf8(&out).expect("JSON is UTF-8");
                        prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok() , "{} {}", sql, text);
                        prop_assert!(out.len() < 2_000_000);
                    }
                }
            }
        }
        prop_assert!(compiled > functions().count());
    }
}

#[test]
fn a_pattern_that_can_not_be_used_is_found_when_the_rule_is_loaded() {
    let text = |sql: &str| Rule::compile("r", sql).unwrap_err().to_string();
    assert!(text(r#"SELECT regex_match(payload, '(') AS r FROM "t""#).contains("this pattern can't be used"));
    assert!(text(r#"SELECT jq('.a | ', payload) AS r FROM "t""#).contains("a filter is expected at its end"));
    let endless = [".a".repeat(8000), "1+".repeat(8000), "1,".repeat(8000), "(".repeat(16000)];
    for program in endless {
        let sql = format!(r#"SELECT jq('{program}', payload) AS r FROM "t""#);
        assert!(text(&sql).contains("at most"), "{program:.40}");
    }
    assert!(text(r#"SELECT jq('.a | nope(1)', payload) AS r FROM "t""#).contains("no function nope/1"));
    assert!(text(r#"SELECT regex_match(payload, '(?<=a)b') AS r FROM "t""#).contains("look-around"));
    assert!(
        text(r#"SELECT regex_replace(payload, '\w{1000}{1000}', '') AS r FROM "t""#).contains("size limit")
    );
}

/// Small messages and small rules must not make large work: each of these would take the machine if it could.
#[test]
fn no_function_takes_more_than_an_evaluation_may() {
    // A tenth of the default, so that the test itself takes little.
    let limits = EvalLimits { steps: 100_000, bytes: 2 * 1024 * 1024 };
    let payload = "a".repeat(100_000);
    for expr in [
        "pad('a', 9000000000000000000)",
        "regex_replace(payload, 'a.*z|a', 'b')",
        "regex_replace(payload, '', payload)",
        "replace(payload, 'a', payload)",
        "map([1..300000], sort(tokens(replace(payload, 'a', 'b '), ' ')))",
        "join_to_string(payload, [1, 2, 3]) + pad('', 16700000)",
        "trim(payload, payload)",
        "map([1..30000], md5(payload))",
        "map([1..300000], uuid_v4())",
        "jq('def f: f; f', 'null')",
        "jq('def f: 1 + f; f', 'null')",
        "jq('def f: [{a: (try f catch 1)} | .a as [$x] | reduce f as $y (0; \"\\(f)\")]; f', 'null')",
        "jq('def f($a): if f($a) then [f(.)] else (f(1) // f(2)) end; f(0)', 'null')",
        "jq('def f(g): label $l | (.[f(g)?] |= (f(g), break $l)), first(f(g)); f(.)', '[1]')",
        "jq('[recurse(.)]', '1')",
        "jq('last(range(1e12))', 'null')",
        "jq('reduce range(60) as $i (\"ab\"; . + .)', 'null')",
        "jq('reduce range(60) as $i (1; [., .])', 'null')",
        "jq('reduce range(60) as $i (1; [., .]) | tojson', 'null')",
        "jq('reduce range(60) as $i (1; [., .]) | . == .', 'null')",
        "jq('reduce range(200000) as $i (null; [.]) | tojson', 'null')",
        "jq('\"x\" * 1e9', 'null')",
        "jq('[limit(1e9; repeat(1))] | sort', 'null')",
        "jq('gsub(\"a.*z|a\"; .)', json_encode(payload))",
        "jq('.[90000] = 1 | .[180000] = 1', 'null')",
    ] {
        let rule = Rule::compile("r", &format!("SELECT {expr} AS r FROM \"t\"")).unwrap();
        let event = Event::publish("t", "c", payload.as_bytes());
        let error = rule.evaluate(&mut EvalScratch::with_limits(limits).start(&event)).unwrap_err();
        let reasons = ["too_many_steps", "too_many_bytes", "too_deep"];
        assert!(reasons.contains(&error.kind.reason()), "{expr}: {error}");
    }
}

#[test]
fn a_seed_decides_what_random_functions_give_and_the_event_does_without_one() {
    let rule = Rule::compile("r", "SELECT uuid_v4() AS a, uuid_v4() AS b FROM \"t\"").unwrap();
    let made = |mut scratch: EvalScratch, id| {
        let mut event = Event::publish("t", "c", b"");
        event.id = id;
        let outcome = rule.evaluate(&mut scratch.start(&event)).unwrap();
        let row = &outcome.rows()[0];
        let text = |column| row.get(column).as_str().unwrap().to_owned();
        assert_ne!(text("a"), text("b"));
        text("a")
    };
    let seeded = |byte| {
        let mut scratch = EvalScratch::default();
        scratch.seed([byte; 32]);
        scratch
    };
    assert_eq!(made(seeded(1), 1), made(seeded(1), 2));
    assert_ne!(made(seeded(1), 1), made(seeded(2), 1));
    assert_ne!(made(EvalScratch::default(), 1), made(EvalScratch::default(), 2));
}

#[test]
fn a_small_message_does_not_unpack_to_a_large_one() {
    use std::io::Write as _;
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![0; 4 * 1024 * 1024]).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 8 * 1024);
    let rule = Rule::compile("r", "SELECT bytesize(unzip(payload)) AS r FROM \"t\"").unwrap();
    let event = Event::publish("t", "c", &packed);
    let reason = |steps, bytes| {
        let mut scratch = EvalScratch::with_limits(EvalLimits { steps, bytes });
        rule.evaluate(&mut scratch.start(&event)).err().map(|error| error.kind.reason())
    };
    assert_eq!(reason(u64::MAX, 1024 * 1024), Some("too_many_bytes"));
    assert_eq!(reason(10_000, u64::MAX), Some("too_many_steps"));
    assert_eq!(reason(u64::MAX, u64::MAX), None);
}
