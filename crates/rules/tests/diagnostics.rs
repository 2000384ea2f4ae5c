//! What an author reads who made a mistake. The snapshots are the promise: place, cause, and what was meant.

use tidegate_rules::{
    MAX_DIAGNOSTICS, MAX_EXPRESSION_DEPTH, MAX_OUTPUTS, MAX_PATH_STEPS, MAX_SQL_BYTES, Rule, Template,
};

fn errors(sql: &str) -> String {
    match Rule::compile("rule", sql) {
        Ok(_) => panic!("it compiles: {sql}"),
        Err(error) => error.render("rule", sql),
    }
}

fn warnings(sql: &str) -> String {
    let rule = Rule::compile("rule", sql).unwrap_or_else(|e| panic!("{}", e.render("rule", sql)));
    let rendered: Vec<_> = rule.warnings().iter().map(|w| w.render("rule", sql)).collect();
    rendered.join("\n\n")
}

#[test]
fn an_unknown_function_names_the_one_that_was_meant() {
    insta::assert_snapshot!(errors("SELECT uper(clientid) AS c FROM \"t/#\""));
}

#[test]
fn a_wrong_number_of_arguments_shows_how_the_function_is_called() {
    insta::assert_snapshot!(errors("SELECT substr(payload.name) AS s, concat() AS c FROM \"t/#\""));
}

#[test]
fn several_mistakes_are_reported_at_once_and_in_order() {
    insta::assert_snapshot!(errors(
        "SELECT\n  lenght(payload.list) AS n,\n  payload.[1],\n  upper(clientid, 2) AS u\nFROM \"t/#/x\"\nWHERE topic =~ 'a/#/b'"
    ));
}

#[test]
fn a_missing_from_says_what_it_is_for() {
    insta::assert_snapshot!(errors("SELECT * WHERE qos = 1"));
}

#[test]
fn a_mistyped_keyword_is_recognised() {
    insta::assert_snapshot!(errors("SELCT * FROM \"t\""));
    insta::assert_snapshot!(errors("SELECT * FROM \"t\" WERE qos = 1"));
}

#[test]
fn clauses_of_other_dialects_are_named() {
    insta::assert_snapshot!(errors("SELECT * FROM \"t\" ORDER BY clientid"));
}

#[test]
fn a_window_is_explained() {
    insta::assert_snapshot!(errors("SELECT * FROM \"t\" GROUP BY clientid"));
    insta::assert_snapshot!(errors(
        "SELECT payload.site, count(*) AS n, payload.t AS t\nFROM \"t\" GROUP BY payload.site, TUMBLNG(10 s)"
    ));
    insta::assert_snapshot!(errors(
        "SELECT *, payload.site, avg(payload.t) AS t, payload.t AS last\nFROM \"t\" GROUP BY payload.site, TUMBLING(10 s)"
    ));
    insta::assert_snapshot!(errors("SELECT count(*) AS n FROM \"t\""));
    insta::assert_snapshot!(errors("SELECT count(*) AS n FROM \"t\" GROUP BY HOPPING(10 s, 3 s)"));
    insta::assert_snapshot!(errors("SELECT 1 AS x FROM \"t\" DEDUP BY clientid WITHIN 10 weeks"));
}

#[test]
fn an_event_that_does_not_exist_is_recognised() {
    insta::assert_snapshot!(errors("SELECT * FROM \"$events/client_conected\""));
}

#[test]
fn types_that_can_not_fit_are_found() {
    insta::assert_snapshot!(errors(
        "SELECT 'a' * 2 AS a, -[1] AS b, clientid LIKE 7 AS c, 1 < 'x' AS d FROM \"t\" WHERE payload.a + 1 - 2 AND NOT 'x'"
    ));
}

#[test]
fn what_is_never_closed_is_pointed_at() {
    insta::assert_snapshot!(errors("SELECT 'abc FROM \"t\""));
    insta::assert_snapshot!(errors("SELECT upper(clientid FROM \"t\""));
    insta::assert_snapshot!(errors("SELECT 1 /* one FROM \"t\""));
}

#[test]
fn characters_of_other_languages_are_explained() {
    insta::assert_snapshot!(errors("SELECT `a`, qos % 2 FROM \"t\" WHERE a && b"));
}

#[test]
fn paths_that_can_not_be_read_are_explained() {
    insta::assert_snapshot!(errors("SELECT a.1.100, a[1..3].c, 1 AS e[1..3], m.f(1) FROM \"t\""));
}

#[test]
fn a_text_in_double_quotes_is_warned_about() {
    insta::assert_snapshot!(warnings("SELECT * FROM \"t\" WHERE payload.name = \"sensor_1\""));
}

#[test]
fn a_column_that_no_message_has_is_warned_about() {
    insta::assert_snapshot!(warnings("SELECT clientId, temp FROM \"t\""));
}

#[test]
fn a_caret_stands_right_in_a_long_line_and_after_wide_characters() {
    let sql = format!("SELECT '{}' AS ä, nope() AS b FROM \"t\"", "é".repeat(200));
    insta::assert_snapshot!(errors(&sql));
}

#[test]
fn a_placeholder_that_is_no_path_is_pointed_at() {
    let text = "a ${b} ${} ${c..d} ${e[x]}";
    insta::assert_snapshot!(Template::compile(text).unwrap_err().render("key", text));
}

#[test]
fn the_short_form_tells_place_cause_and_count() {
    let error = Rule::compile("r", "SELECT a,\n nope(), nope2() FROM \"t\"").unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 2: unknown function `nope`, and 1 more");
}

#[test]
fn nesting_is_bounded_with_a_diagnostic() {
    let depth = usize::from(MAX_EXPRESSION_DEPTH);
    for (open, close) in
        [("(", ")"), ("[", "]"), ("abs(", ")"), ("- ", ""), ("NOT ", ""), ("payload[", "]"), ("+ ", "")]
    {
        let sql = format!("SELECT {}1{} AS a FROM \"t\"", open.repeat(5_000), close.repeat(5_000));
        assert!(errors(&sql).contains("nested more than"), "{open}");
    }
    let chain = format!("SELECT {} 1 AS a FROM \"t\"", "1 + ".repeat(depth + 1));
    assert!(errors(&chain).contains("nested more than"));
    let flat = format!("SELECT * FROM \"t\" WHERE {} true", "qos = 1 AND ".repeat(1_000));
    Rule::compile("r", &flat).expect("a chain of conditions is not deep");
}

#[test]
fn every_bound_of_the_text_is_a_diagnostic() {
    assert!(errors(&" ".repeat(MAX_SQL_BYTES + 1)).contains("bytes"));
    let path = format!("SELECT payload{} FROM \"t\"", ".a".repeat(MAX_PATH_STEPS + 1));
    assert!(errors(&path).contains("steps"));
    let alias = format!("SELECT 1 AS a{} FROM \"t\"", ".a".repeat(MAX_PATH_STEPS + 1));
    assert!(errors(&alias).contains("steps"));
    let outputs = format!("SELECT {} 1 FROM \"t\"", "1,".repeat(MAX_OUTPUTS));
    assert!(errors(&outputs).contains("outputs"));
    let many = format!("SELECT {} 1 FROM \"t\"", "nope(), ".repeat(100));
    assert_eq!(Rule::compile("r", &many).unwrap_err().diagnostics().len(), MAX_DIAGNOSTICS);
}
