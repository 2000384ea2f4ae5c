//! Why a message was not selected, and which templates can't be filled in.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use tidegate_rules::{Event, EventKind, Rule, Severity, Template, Verdict, check_template};

fn explained(sql: &str, payload: &str) -> String {
    let rule = Rule::compile("r", sql).unwrap();
    rule.explain(&Event::publish("plant/7/up", "sensor-7", payload.as_bytes())).to_string()
}

#[test]
fn the_part_of_where_that_was_false_is_shown_with_its_values() {
    insta::assert_snapshot!(explained(
        "SELECT * FROM \"plant/#\" WHERE payload.temp > 30 AND topic =~ 'plant/+/up' \
         AND NOT (payload.site = 'x' OR upper(payload.kind) = 'A') AND payload.no IS NULL",
        r#"{"temp": 21.5, "site": "x", "kind": "b"}"#
    ));
}

#[test]
fn a_selected_a_failing_and_an_unread_message_are_told_apart() {
    insta::assert_snapshot!(explained("SELECT * FROM \"plant/#\"", "{}"));
    insta::assert_snapshot!(explained("SELECT payload.t AS t FROM \"plant/#\" WHERE t >= 1", r#"{"t": 1}"#));
    insta::assert_snapshot!(explained("SELECT * FROM \"plant/#\" WHERE payload.t = 1 AND qos = 0", "warm"));
    insta::assert_snapshot!(explained("SELECT * FROM \"lab/#\", \"$events/client/+\"", "{}"));
    let rule = Rule::compile("r", "SELECT * FROM \"$events/client/+\" WHERE clientid = 'a'").unwrap();
    let mut event = Event::publish("", "b", b"");
    event.kind = EventKind::ClientConnected;
    assert_eq!(rule.explain(&event).verdict, Verdict::Filtered);
    event.kind = EventKind::MessageAcked;
    assert_eq!(rule.explain(&event).verdict, Verdict::NotRead);
}

#[test]
fn a_long_value_is_cut() {
    let payload = format!(r#"{{"t": "{}"}}"#, "é".repeat(5000));
    let text = explained("SELECT * FROM \"plant/#\" WHERE payload.t = 'x'", &payload);
    assert!(text.chars().count() < 300, "{text}");
}

fn checked(sql: &str, template: &str) -> Vec<(Severity, String)> {
    let rule = Rule::compile("r", sql).unwrap();
    let template_text = template;
    let template = Template::compile(template).unwrap();
    let found = check_template(&rule, &template);
    found.into_iter().map(|d| (d.severity, d.render("key", template_text))).collect()
}

#[test]
fn a_template_that_names_a_column_the_select_does_not_make_is_found() {
    let found =
        checked("SELECT clientid, payload.temp AS temp FROM \"t\"", "${clientid}/${tmp}/${.}/${site.x}");
    assert!(found.iter().all(|(severity, _)| *severity == Severity::Error));
    let texts: Vec<_> = found.into_iter().map(|(_, text)| text).collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}

#[test]
fn after_a_star_every_column_of_the_event_is_there_and_others_may_be() {
    assert!(checked("SELECT *, 1 AS one FROM \"t\"", "${clientid} ${payload.a} ${one} ${.}").is_empty());
    let [(Severity::Warning, _)] = &checked("SELECT * FROM \"t\"", "${reason}")[..] else { panic!() };
    assert!(checked("SELECT * FROM \"$events/client_disconnected\"", "${reason}").is_empty());
    assert!(checked("FOREACH payload.l AS x FROM \"t\"", "${x.a} ${topic}").is_empty());
    assert_eq!(checked("FOREACH payload.l AS x DO x.a AS a FROM \"t\"", "${x.a} ${a}").len(), 1);
}
