//! Kafka is there and refuses: the topic, the record, the right, or the rate.

use std::sync::Arc;
use std::time::Duration;

use tidegate_testkit::devices::Fleet;
use tidegate_testkit::kafka::RealKafka;
use tidegate_testkit::ledger::Ledger;
use tidegate_testkit::proxy::Weather;
use tokio::time::sleep;

use crate::scene::{DRAIN_LIMIT, Duplicates, NOTICE, Prepare, Scene, Stage, TOPIC, verify};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_topic_made_again_with_fewer_partitions() {
    let mut scene = Scene::new(Stage { through_proxy: true, ..Stage::default() }).await;
    // The broker knows the topic as it was. What it wrote goes with that topic.
    let before = Arc::new(Ledger::new());
    let address = scene.broker.lock().mqtt();
    let known = Fleet { name: "before", messages: Some(20), ..Fleet::default() };
    known.start(address, &before).finish(DRAIN_LIMIT).await;
    scene.drained("F6").await;
    scene.other_messages = before.sent_count();

    let unreachable = Weather { closed: true, ..Weather::default() };
    scene.proxy().set(unreachable);
    scene.proxy().cut();
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(5)).await;
    scene.kafka(|kafka| kafka.delete_topic(TOPIC).unwrap()).await;
    scene.proxy().set(Weather::default());
    scene.noticed("it does not exist", Duration::from_secs(10)).await;
    sleep(Duration::from_secs(3)).await;
    scene.proxy().set(unreachable);
    scene.proxy().cut();
    scene.kafka(|kafka| kafka.create_topic(TOPIC, 3, &[]).unwrap()).await;
    scene.proxy().set(Weather::default());
    scene.end("F6 topic of 8 partitions made again with 3", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f7_records_too_large_become_dead_letters() {
    let prepare: Prepare = Box::new(|kafka| {
        kafka.create_topic("letters", 1, &[]).unwrap();
        None
    });
    let mut stage = Stage { topic: &["max.message.bytes=1000"], prepare: Some(prepare), ..Stage::default() };
    stage.config.kafka.push_str("\ndead_letter = { topic = \"letters\" }");
    let mut scene = Scene::new(stage).await;
    let large = Arc::new(Ledger::new());
    let address = scene.broker.lock().mqtt();
    let some = Fleet { devices: 10, interval: Duration::from_millis(100), ..Fleet::default() };
    let giants = Fleet { name: "giant", devices: 2, messages: Some(50), payload_bytes: 2000, ..some.clone() };
    let devices = scene.devices(Fleet { payload_bytes: 300, ..some });
    giants.start(address, &large).finish(DRAIN_LIMIT).await;
    scene.other_messages = large.sent_count();
    scene.end("F7 100 records of 2000 bytes where 1000 are allowed", devices, Duplicates::None).await;
    let letters = scene.kafka(move |kafka| verify(kafka, "letters", &large)).await;
    // Each once; a batch that is alone sooner overtakes one that has to be halved more often.
    let wrong = [letters.loss, letters.phantom, letters.duplicates, letters.corrupt];
    assert_eq!((wrong, letters.found), ([0; 4], 100), "{letters}");
    assert!((scene.metric("tidegate_sink_records_dead_lettered_total") - 100.0).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f8_a_right_is_taken_away_and_given_back() {
    // Whoever comes without a name is the administrator; the broker has one.
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_tide=\"gate\";";
    let kafka = [
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        "super.users=User:ANONYMOUS".to_owned(),
        "listener.name.sasl.sasl.enabled.mechanisms=PLAIN".to_owned(),
        format!("listener.name.sasl.plain.sasl.jaas.config={login}"),
    ];
    let kafka = kafka.into_iter().flat_map(|setting| ["--set".to_owned(), setting]);
    let kafka = ["--listener", "SASL=SASL_PLAINTEXT"].map(str::to_owned).into_iter().chain(kafka).collect();
    let prepare: Prepare = Box::new(|kafka| {
        allow(kafka, "--add", "Write");
        allow(kafka, "--add", "Describe");
        Some(kafka.listener("SASL").unwrap())
    });
    let mut stage = Stage { kafka, prepare: Some(prepare), ..Stage::default() };
    let password = std::env::temp_dir().join(format!("tidegate-password-{}", std::process::id()));
    std::fs::write(&password, "gate").unwrap();
    stage.config.sections = format!(
        "[kafka.main.sasl]\nmechanism = \"plain\"\nusername = \"tide\"\npassword_file = \"{}\"\n",
        password.display()
    );
    let mut scene = Scene::new(stage).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    assert!(scene.metric("tidegate_sink_records_delivered_total") > 0.0);
    scene.kafka(|kafka| allow(kafka, "--remove", "Write")).await;
    scene.noticed("TopicAuthorizationFailed", NOTICE).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(10)).await;
    assert!(acknowledged > 1000, "{acknowledged} acknowledged without the right to write");
    scene.kafka(|kafka| allow(kafka, "--add", "Write")).await;
    scene.end("F8 the right to write taken away (10 s)", devices, Duplicates::None).await;
    let _ = std::fs::remove_file(&password);
}

/// Changes what the user `tide` may do with the topic.
fn allow(kafka: &RealKafka, change: &str, operation: &str) {
    let mut args = vec![change, "--allow-principal", "User:tide", "--operation", operation, "--topic", TOPIC];
    if change == "--remove" {
        args.push("--force");
    }
    kafka.tool("org.apache.kafka.tools.AclCommand", &args).unwrap();
}

/// What Kafka 4 still does to an idempotent producer: one that it has forgotten is taken on at any sequence number, so there
/// is no UNKNOWN_PRODUCER_ID, but an epoch that is not the newest is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_kafka_fences_the_producer() {
    const FENCED: [u32; 3] = [0, 1, 0];
    let mut scene = Scene::new(Stage::default()).await;
    let devices = scene.devices(Fleet { interval: Duration::from_millis(20), ..Fleet::default() });
    sleep(Duration::from_secs(2)).await;
    for partition in FENCED {
        scene.kafka(move |kafka| kafka.fence_producer(TOPIC, partition).unwrap()).await;
    }
    scene
        .until("each time another producer id is taken", NOTICE, |scene| {
            let taken = |line: &&String| line.contains("new producer id");
            scene.broker.lock().output().iter().filter(taken).count() >= FENCED.len()
        })
        .await;
    let counted = scene.count("tidegate_sink_possible_duplicates_total");
    assert!(counted > 0, "something was on its way, and is counted");
    let fault = format!(
        "F34 Kafka fences the producer {} times ({counted} possible duplicates counted)",
        FENCED.len()
    );
    scene.end(&fault, devices, Duplicates::AtMost(counted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f35_a_quota_throttles() {
    fn quota(kafka: &RealKafka, change: [&str; 2]) {
        let args = ["--alter", change[0], change[1], "--entity-type", "clients", "--entity-default"];
        kafka.tool("kafka.admin.ConfigCommand", &args).unwrap();
    }
    let mut scene = Scene::new(Stage::default()).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    scene.kafka(|kafka| quota(kafka, ["--add-config", "producer_byte_rate=200000"])).await;
    sleep(Duration::from_secs(15)).await;
    assert!(scene.metric("tidegate_sink_throttled_total") > 0.0, "{:?}", scene.sink_metrics());
    scene.kafka(|kafka| quota(kafka, ["--delete-config", "producer_byte_rate"])).await;
    scene.end("F35 a quota of 200 kB/s (15 s)", devices, Duplicates::None).await;
}
