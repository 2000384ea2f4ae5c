//! What becomes of messages that Kafka does not take, or never will, and what the broker says about it.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_codec::{PacketType, ReasonCode, Version};
use tidegate_minikafka::MiniKafka;
use tidegate_testkit::mqtt::Peer;
use tidegate_testkit::process::{Launch, Tidegate, free_address};

const RULE: &str = r#"
[[rules]]
id = "by-site"
sql = 'SELECT payload.site AS site, payload FROM "plant/#"'
[[rules.outputs]]
topic = "plant-${site}"
"#;

fn launch(kafka: &str) -> Tidegate {
    let toml = format!("[store]\nenabled = false\n{kafka}\n{RULE}");
    Launch::new(toml).binary(PathBuf::from(env!("CARGO_BIN_EXE_tidegate"))).start().unwrap()
}

fn ready(broker: &Tidegate) -> (u16, Value) {
    let (status, body) = broker.http_get("/readyz").unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

async fn publish(broker: &Tidegate, payload: &str) -> ReasonCode {
    let mut peer = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
    peer.join("device-1").await.unwrap();
    peer.publish(1, "plant/7", payload.as_bytes()).await.unwrap();
    peer.expect_ack(PacketType::PubAck, 1).await.unwrap()
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tidegate-nothing-lost-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_topic_is_a_dead_letter_with_its_rule_and_client_and_is_acknowledged() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("plant-north", 1).unwrap();
    let folder = folder("file");
    let file = folder.join("dead.jsonl");
    let broker = launch(&format!(
        "[kafka.main]\nbootstrap = [\"{}\"]\nspill = {{ directory = {:?} }}\ndead_letter = {{ file = {file:?} }}",
        kafka.bootstrap(),
        folder.join("spill"),
    ));
    assert_eq!(publish(&broker, r#"{"site": "north"}"#).await, ReasonCode::Success);
    assert_eq!(publish(&broker, r#"{"sight": "typo"}"#).await, ReasonCode::Success);
    assert_eq!(kafka.ledger("plant-north").unwrap().iter().count(), 1);
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(line["reason"], "illegal_topic");
    assert_eq!((&line["rule"], &line["topic"]), (&"by-site".into(), &"plant-${site}".into()));
    assert_eq!((&line["key"], &line["value"]), (&"device-1".into(), &r#"{"sight": "typo"}"#.into()));
    let headers = line["headers"].as_array().unwrap();
    assert!(headers.contains(&serde_json::json!(["mqtt.client_id", "device-1"])), "{headers:?}");
    let (_, metrics) = broker.http_get("/metrics").unwrap();
    for wanted in [
        "tidegate_sink_records_dead_lettered_total{sink=\"main\",reason=\"illegal_topic\"} 1",
        "tidegate_rule_records_offered_total{sink=\"main\",rule=\"by-site\"} 2",
        "tidegate_rule_records_ended_total{sink=\"main\",rule=\"by-site\",end=\"delivered\"} 1",
        "tidegate_rule_records_ended_total{sink=\"main\",rule=\"by-site\",end=\"dead_lettered\"} 1",
        "tidegate_rule_records_held{sink=\"main\",rule=\"by-site\"} 0",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in\n{metrics}");
    }
    drop(broker);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dead_letters_a_message_without_a_topic_is_refused_and_not_acknowledged() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    let broker = launch(&format!(
        "[kafka.main]\nbootstrap = [\"{}\"]\nspill = {{ enabled = false }}",
        kafka.bootstrap()
    ));
    assert_eq!(publish(&broker, r#"{"sight": "typo"}"#).await, ReasonCode::ImplementationSpecificError);
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_tells_whether_messages_are_safe_here_and_why_not() {
    let nobody = free_address().unwrap();
    let folder = folder("ready");
    let kafka = format!("[kafka.main]\nbootstrap = [\"{nobody}\"]\n");
    // Without a disk to keep them on, nothing can be acknowledged while Kafka is away.
    let broker = launch(&format!("{kafka}spill = {{ enabled = false }}"));
    let begun = Instant::now();
    let reason = loop {
        let (status, answer) = ready(&broker);
        assert_eq!((status, &answer["ready"]), (503, &false.into()));
        let reason = answer["reasons"][0].as_str().unwrap().to_owned();
        if reason.contains(&nobody.to_string()) {
            break reason;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(reason.starts_with("sink main: "), "{reason}");
    drop(broker);
    // With one, everything is as it should be from the first second on, and what waits is named.
    let broker = launch(&format!("{kafka}spill = {{ directory = {:?} }}", folder.join("spill")));
    assert_eq!(publish(&broker, r#"{"site": "north"}"#).await, ReasonCode::Success);
    let (status, answer) = ready(&broker);
    assert_eq!((status, &answer["reasons"]), (200, &Value::Array(Vec::new())), "{answer}");
    assert!(answer["waiting"][0].as_str().unwrap().contains("sink main"), "{answer}");
    assert_eq!(broker.http_get("/healthz").unwrap().0, 200);
    drop(broker);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_drops_when_full_acknowledges_or_holds_back_as_it_says_and_counts() {
    let kafka = format!(
        "[kafka.main]\nbootstrap = [\"{}\"]\nbuffer = \"8 KiB\"\nspill = {{ enabled = false }}\n",
        free_address().unwrap()
    );
    let rule = RULE.replace("[[rules.outputs]]", "when_full = \"drop_newest\"\n[[rules.outputs]]");
    let launch = |rule: &str| {
        let toml = format!("[store]\nenabled = false\n{kafka}{rule}");
        Launch::new(toml).binary(PathBuf::from(env!("CARGO_BIN_EXE_tidegate"))).start()
    };
    // Kafka never comes: what fits into memory waits there, and the rest is gone, and said to be.
    let broker = launch(&rule.replace("when_full", "drop_acknowledged = true\nwhen_full")).unwrap();
    let mut peer = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
    peer.join("device-1").await.unwrap();
    let payload = format!("{{\"site\": \"north\", \"x\": \"{}\"}}", "x".repeat(1000));
    for id in 1..=50 {
        peer.publish(id, "plant/7", payload.as_bytes()).await.unwrap();
    }
    let begun = Instant::now();
    let value = |name: &str| -> f64 {
        let (_, body) = broker.http_get("/metrics").unwrap();
        let line = body.lines().find(|line| line.starts_with(name)).unwrap_or("0");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let mut acknowledged = 0.0;
    while value("tidegate_rule_records_offered_total{") < 50.0 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (held, dropped) = (
        value("tidegate_rule_records_held{"),
        value("tidegate_sink_records_dropped_total{sink=\"main\",reason=\"full_newest\"}"),
    );
    assert!(held > 0.0 && held < 20.0, "{held}");
    assert!((held + dropped - 50.0).abs() < 0.5, "{held} held, {dropped} dropped");
    while acknowledged < dropped {
        let PacketType::PubAck = peer.receive().await.unwrap().packet_type() else { panic!("not a PUBACK") };
        acknowledged += 1.0;
    }
    drop(broker);
    let error = launch(&RULE.replace("[[rules.outputs]]", "drop_acknowledged = true\n[[rules.outputs]]"));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("rules.by-site.drop_acknowledged"), "{text}");
}
