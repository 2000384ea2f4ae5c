//! What `[[rules.outputs]]` may say, what is said of it when it is wrong, and what it does in a running broker.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tidegate_codec::{PacketType, QoS, ReasonCode, Version};
use tidegate_testkit::mqtt::Peer;
use tidegate_testkit::process::{Launch, free_address};

fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_tidegate").into()
}

/// Runs `tidegate check` over a rule with these outputs.
fn check(name: &str, sql: &str, outputs: &str) -> Output {
    let path = std::env::temp_dir().join(format!("tidegate-outputs-{name}-{}.toml", std::process::id()));
    std::fs::write(&path, format!("[[rules]]\nid = \"r\"\nsql = '{sql}'\n{outputs}")).unwrap();
    Command::new(binary()).args(["check", "--config", path.to_str().unwrap()]).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SQL: &str = r#"SELECT payload.t AS t, clientid FROM "a/#""#;

#[test]
fn a_rule_may_have_outputs_of_all_kinds_and_check_tells_where_its_rows_go() {
    let outputs = r#"
[[rules.outputs]]
topic = "readings"
key = "${clientid}"

[[rules.outputs]]
kind = "republish"
topic = "hot/${clientid}"
payload = "${t}"
qos = 1
retain = true
message_expiry = "1 h"
user_properties = { by = "tidegate" }

[[rules.outputs]]
kind = "console"

[[rules.outputs]]
kind = "discard"
"#;
    let output = check("all", SQL, outputs);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for wanted in ["r -> embedded:readings", "r -> republish:hot/${clientid}", "r -> console", "r -> discard"]
    {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
}

#[test]
fn a_template_of_any_output_that_names_a_column_which_the_rule_does_not_make_is_refused_at_its_place() {
    for (name, outputs, place) in [
        ("topic", "topic = \"x-${cliend}\"", "rules.r.outputs.topic:1:3"),
        ("key", "topic = \"x\"\nkey = \"${cliend}\"", "rules.r.outputs.key:1:1"),
        ("value", "topic = \"x\"\nvalue = \"a\\n ${cliend}\"", "rules.r.outputs.value:2:2"),
        ("header", "topic = \"x\"\nheaders = { h = \"${cliend}\" }", "rules.r.outputs.headers.h:1:1"),
        ("mqtt", "kind = \"republish\"\ntopic = \"x/${cliend}\"", "rules.r.outputs.topic:1:3"),
        (
            "payload",
            "kind = \"republish\"\ntopic = \"x\"\npayload = \"${cliend}\"",
            "rules.r.outputs.payload:1:1",
        ),
        (
            "user",
            "kind = \"republish\"\ntopic = \"x\"\nuser_properties = { u = \"${cliend}\" }",
            "rules.r.outputs.user_properties.u:1:1",
        ),
        ("console", "kind = \"console\"\nvalue = \"${cliend}\"", "rules.r.outputs.value:1:1"),
    ] {
        let output = check(name, SQL, &format!("[[rules.outputs]]\n{outputs}\n"));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        for wanted in [place, "the rule makes no column `cliend`", "did you mean `clientid`?", "^^^^^^^^^"] {
            assert!(said.contains(wanted), "{name}: {wanted} in\n{said}");
        }
    }
}

#[test]
fn a_key_of_another_kind_and_a_value_that_can_never_work_are_explained() {
    for (name, outputs, wanted) in [
        ("qos", "topic = \"x\"\nqos = 1", "an output of kind kafka has no `qos`; republish has"),
        ("key", "kind = \"console\"\nkey = \"k\"", "an output of kind console has no `key`; kafka has"),
        ("none", "key = \"k\"", "say where rows go: `topic = \"...\"`"),
        ("three", "kind = \"republish\"\ntopic = \"x\"\nqos = 3", "a QoS is 0, 1 or 2, not 3"),
        ("wild", "kind = \"republish\"\ntopic = \"x/#\"", "no message can be published to `x/#`"),
        ("sys", "kind = \"republish\"\ntopic = \"$SYS/x\"", "no message can be published to `$SYS/x`"),
        ("kind", "kind = \"webhook\"", "webhook"),
    ] {
        let output = check(name, SQL, &format!("[[rules.outputs]]\n{outputs}\n"));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(wanted), "{name}: {wanted} in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_republished_counted_in_windows_and_discarded_in_a_running_broker_and_windows_survive_its_restart()
 {
    let log = free_address().unwrap();
    let toml = format!(
        r#"
[embedded_log]
bind = "{log}"

[rule_engine]
snapshot_interval = "50 ms"

[[rules]]
id = "hot"
sql = 'SELECT payload.t AS t, clientid FROM "a/#" WHERE payload.t > 20'
outputs = [{{ kind = "republish", topic = "hot/${{clientid}}", payload = "${{t}}" }}, {{ kind = "discard" }}]

[[rules]]
id = "count"
sql = 'SELECT count(*) AS n FROM "a/#" GROUP BY TUMBLING(4 s)'
outputs = [{{ kind = "republish", topic = "count", qos = 1 }}, {{ kind = "console" }}]
"#
    );
    let mut broker = Launch::new(toml).binary(binary()).start().unwrap();
    let mut device = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
    device.join("d").await.unwrap();
    device.subscribe(1, "hot/#", QoS::AtMostOnce).await.unwrap();
    device.publish(1, "a/b", br#"{"t": 21}"#).await.unwrap();
    let hot = device.expect_publish().await.unwrap();
    assert_eq!((hot.topic, hot.payload), ("hot/d", &b"21"[..]));
    assert_eq!(device.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    broker.kill().unwrap();
    broker.restart().unwrap();
    let mut reader = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
    reader.join("reader").await.unwrap();
    reader.set_patience(Duration::from_secs(20));
    reader.subscribe(1, "count", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(
        reader.expect_publish().await.unwrap().payload,
        br#"{"n":1}"#,
        "acknowledged, so it is counted"
    );
}
