//! Alarms that a running broker raises of what it depends on, and lowers again.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tidegate_codec::{QoS, Version};
use tidegate_minikafka::MiniKafka;
use tidegate_testkit::mqtt::Peer;
use tidegate_testkit::process::{Launch, free_address};

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_is_not_reached_is_an_alarm_until_it_is() {
    let address = free_address().unwrap();
    let toml = format!(
        r#"
[store]
enabled = false

[kafka.main]
bootstrap = ["{address}"]
spill = {{ enabled = false }}

[[rules]]
id = "alarms"
sql = 'SELECT event, name, details.sink AS sink, details.part AS part, deactivated_at >= activated_at AS in_order FROM "$events/sys/+"'
outputs = [{{ kind = "republish", topic = "alarms", payload = "${{.}}", retain = true }}]

[[rules]]
id = "readings"
sql = 'SELECT * FROM "plant/#"'
outputs = [{{ topic = "readings" }}]
"#
    );
    let broker = Launch::new(toml).binary(PathBuf::from(env!("CARGO_BIN_EXE_tidegate"))).start().unwrap();
    let mut reader = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
    reader.join("reader").await.unwrap();
    reader.set_patience(Duration::from_secs(20));
    reader.subscribe(1, "alarms", QoS::AtMostOnce).await.unwrap();
    let raised: Value = serde_json::from_slice(reader.expect_publish().await.unwrap().payload).unwrap();
    assert_eq!(raised["event"], "alarm.activated", "{raised}");
    assert_eq!((&raised["sink"], &raised["part"]), (&"main".into(), &"cluster".into()), "{raised}");
    assert_eq!(raised["name"], "sink main: cluster");
    let kafka = MiniKafka::builder().bind(address.to_string()).start().await.unwrap();
    kafka.create_topic("readings", 1).unwrap();
    let lowered: Value = serde_json::from_slice(reader.expect_publish().await.unwrap().payload).unwrap();
    assert_eq!(lowered["event"], "alarm.deactivated", "{lowered}");
    assert_eq!((&lowered["name"], &lowered["in_order"]), (&raised["name"], &true.into()));
}
