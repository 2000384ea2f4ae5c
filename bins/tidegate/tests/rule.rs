//! What `tidegate rule` promises to people and scripts: what it prints, where, and with which exit code.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn rule(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("rule").args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file of cases for one test.
fn file(name: &str, text: &str) -> String {
    let path: PathBuf = std::env::temp_dir().join(format!("tidegate-rule-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const SQL: &str = r#"SELECT payload.temp AS t, clientid FROM "plant/+/up" WHERE payload.temp > 20"#;

#[test]
fn eval_prints_each_row_as_a_line_of_json_and_exits_0() {
    let event = r#"{"topic": "plant/7/up", "clientid": "d1", "payload": "{\"temp\": 21.5}"}"#;
    let output = rule(&["eval", "--sql", SQL, "--event", event]);
    assert_eq!(stdout(&output), "{\"t\":21.5,\"clientid\":\"d1\"}\n", "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(0));

    let several = r#"FOREACH payload.list AS x DO x.v AS v FROM "t""#;
    let output =
        rule(&["eval", "--sql", several, "--event", r#"{"payload": {"list": [{"v": 1}, {"v": 2}]}}"#]);
    assert_eq!(
        stdout(&output),
        "{\"v\":1}\n{\"v\":2}\n",
        "a payload may be written as JSON: {}",
        stderr(&output)
    );
}

#[test]
fn eval_fills_in_a_template_from_each_row() {
    let event = r#"{"clientid": "d1", "payload": {"temp": 30}}"#;
    let output = rule(&["eval", "--sql", SQL, "--event", event, "--template", "${clientid}: ${t} ${none}"]);
    assert_eq!(stdout(&output), "d1: 30 \n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn eval_exits_3_when_there_is_no_row_and_says_why() {
    let cold = rule(&["eval", "--sql", SQL, "--event", r#"{"payload": {"temp": 3}}"#]);
    assert_eq!((cold.status.code(), stdout(&cold).as_str()), (Some(3), ""));
    assert!(stderr(&cold).contains("WHERE"), "{}", stderr(&cold));
    let elsewhere = rule(&["eval", "--sql", SQL, "--event", r#"{"topic": "lab/1"}"#]);
    assert_eq!(elsewhere.status.code(), Some(3));
    assert!(stderr(&elsewhere).contains("FROM"), "{}", stderr(&elsewhere));
}

#[test]
fn eval_exits_1_when_the_evaluation_fails_and_tells_the_place() {
    let output = rule(&["eval", "--sql", SQL, "--event", r#"{"payload": "no json"}"#]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert!(stderr(&output).contains("line 1, column"), "{}", stderr(&output));
}

#[test]
fn eval_exits_2_when_the_rule_or_the_event_is_not_understood() {
    let output = rule(&["eval", "--sql", "SELECT uper(clientid) FROM \"t\""]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean `upper`"), "{}", stderr(&output));
    for event in ["no json", "[1]", r#"{"qos": 3}"#, r#"{"topic": 1}"#, r#"{"event": "client.flew"}"#] {
        let output = rule(&["eval", "--sql", SQL, "--event", event]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{event}");
        assert!(stderr(&output).starts_with("error: the event"), "{}", stderr(&output));
    }
    let output = rule(&["eval", "--sql", SQL, "--template", "${a b[}"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = rule(&["eval", "--sql", "@/no/such/file"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn eval_reads_from_files_and_warns_of_what_is_probably_not_meant() {
    let sql = file("a.sql", "SELECT temp FROM \"t\"");
    let output = rule(&["eval", "--sql", &format!("@{sql}")]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("warning"), "{}", stderr(&output));
}

#[test]
fn eval_explains_which_part_of_where_was_false() {
    let output = rule(&["eval", "--sql", SQL, "--event", r#"{"payload": {"temp": 3}}"#, "--explain"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(3), ""));
    assert!(stderr(&output).contains("payload.temp > 20"), "{}", stderr(&output));
}

#[test]
fn test_tells_each_case_that_does_not_hold_in_a_line_and_the_totals_last() {
    let cases = file(
        "some.jsonl",
        r#"{"id": "right", "expr": "1 + 1", "expect": {"result": 2}}
{"id": "kind", "expr": "4 / 2", "expect": {"result": 2}}
{"id": "missing", "sql": "SELECT payload.a AS a FROM \"t\"", "context": {"payload": "{}"}, "expect": {"result": {"a": {"$undefined": true}}}}
{"id": "error", "expr": "1 div 0", "expect": {"error": true}}
{"id": "nothing", "sql": "SELECT 1 AS x FROM \"t\" WHERE false", "expect": {"result": {"x": 1}}}
{"id": "theirs", "expr": "str([97, 98])", "expect": {"result": "ab"}, "erlang_specific": true}
{"id": "near", "expr": "0.1 + 0.2", "expect": {"result": 0.3}, "tolerance": 1e-9}
{"id": "big", "expr": "123456789012345678901234567890", "expect": {"result": 123456789012345678901234567890}}
{"id": "topic", "sql": "SELECT 1 AS x FROM \"t\"", "context": {"topic": "u"}, "expect": {"no_match": true}}
{"id": "text", "template": "a ${b}", "engine": "kafka", "context": {"selected": {"b": 1}}, "expect": {"result": "a 1"}}
"#,
    );
    let output = rule(&["test", &cases]);
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], format!("FAILED kind ({cases}:2): result: expected 2, got 2.0"));
    assert_eq!(lines[1], format!("FAILED nothing ({cases}:5): expected {{\"x\":1}}, got no row"));
    assert!(lines[2].starts_with("differs (erlang_specific) theirs"), "{text}");
    assert_eq!(lines[3], "7 passed, 3 failed, 1 of the failed are erlang_specific");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn test_exits_0_when_only_what_follows_from_erlang_differs() {
    let case = r#"{"expr": "str([97, 98])", "expect": {"result": "ab"}, "erlang_specific": true}"#;
    let output = rule(&["test", &file("theirs.jsonl", case)]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).ends_with("0 passed, 1 failed, 1 of the failed are erlang_specific\n"));
}

#[test]
fn test_reads_toml_that_is_pleasant_to_write() {
    let cases = file(
        "cases.toml",
        r#"
sql = '''
SELECT payload.temp AS t, clientid FROM "plant/+/up" WHERE payload.temp > 20
'''

[[case]]
name = "what is hot passes"
event = { topic = "plant/7/up", clientid = "d1", payload = { temp = 21.5 } }
result = { t = 21.5, clientid = "d1" }

[[case]]
name = "what is cold does not"
event = { payload = { temp = 3 } }
outcome = "no_result"

[[case]]
name = "other topics are not asked for"
event = { topic = "lab/7" }
outcome = "no_match"

[[case]]
name = "what is no JSON is an error"
event = { payload = "hello" }
outcome = "error"
"#,
    );
    let output = rule(&["test", &cases]);
    assert_eq!(stdout(&output), "4 passed, 0 failed, 0 of the failed are erlang_specific\n");
    assert_eq!(output.status.code(), Some(0));

    let templates =
        file("templates.toml", "[[case]]\ntemplate = \"${a}-${b}\"\nselected = { a = 1 }\nresult = \"1-\"\n");
    assert_eq!(rule(&["test", &templates]).status.code(), Some(0));
}

#[test]
fn test_exits_2_when_a_file_is_not_understood_and_names_the_place() {
    for (name, text, why) in [
        ("a.jsonl", "{", "a.jsonl:1: not JSON"),
        ("b.jsonl", r#"{"expr": "1"}"#, "one of `result`, `outcome` and `expect`"),
        (
            "c.jsonl",
            r#"{"expr": "1", "sql": "2", "expect": {"error": true}}"#,
            "one of `sql`, `expr` and `template`",
        ),
        ("d.jsonl", r#"{"expr": "1", "expct": {"error": true}}"#, "no field `expct`"),
        ("e.toml", "a = ", "e.toml:1"),
        ("f.toml", "a = 1", "no [[case]]"),
        ("g.toml", "[[case]]\nexpr = \"1\"\noutcome = \"fine\"", "case 1: an outcome is"),
    ] {
        let output = rule(&["test", &file(name, text)]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stdout(&output));
        assert!(stderr(&output).contains(why), "{name}: {}", stderr(&output));
    }
    assert_eq!(rule(&["test", "/no/such/file.jsonl"]).status.code(), Some(2));
    assert_eq!(rule(&["test"]).status.code(), Some(2));
}

#[test]
fn check_shows_what_a_rule_probably_does_not_mean() {
    let config = file(
        "tidegate.toml",
        "[[rules]]\nid = \"odd\"\nsql = 'SELECT temperature FROM \"t/#\"'\n[[rules.outputs]]\ntopic = \"out\"\n",
    );
    let output =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["check", "--config", &config]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("warning: messages have no column `temperature`"),
        "{}",
        stderr(&output)
    );
}
