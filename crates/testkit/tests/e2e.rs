//! The promise of the product, kept by the real binary against a real Apache Kafka: what was acknowledged to a device
//! is in Kafka once, whole, in order, under one partition for each device.
//!
//! Needs Java 17 and, the first time, Maven; and the binary: `cargo build -p tidegate`. Run one test at a time:
//!
//! ```text
//! cargo test -p tidegate-testkit --features e2e --test e2e -- --test-threads=1 --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test's devices have nobody else to tell")]
#![expect(clippy::print_stderr, reason = "what was measured stays in the gate's log")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tidegate_testkit::blocking;
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::kafka::RealKafka;
use tidegate_testkit::ledger::{Ledger, Payload, Report, Verifier};
use tidegate_testkit::process::{Launch, Tidegate};
use tokio::time::{sleep, timeout};

const DEVICES: u32 = 1_000;
const MESSAGES: u64 = 100;
const PARTITIONS: u32 = 16;
const TOPIC: &str = "telemetry";

/// One message in ten is followed by one at QoS 0, which the rule filters out.
const FILTERED_EVERY: u64 = 10;

/// How long all devices together may take, on two cores and in a debug build.
const RUN_LIMIT: Duration = Duration::from_mins(4);

/// How long what was acknowledged may take to arrive in Kafka after the last acknowledgement.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);

/// The measure measured: what Kafka's own producer wrote is what the harness reads, also over a SIGKILL.
#[test]
fn the_harness_reads_back_what_kafka_took() {
    let kafka = RealKafka::start().expect("a real Kafka starts");
    kafka.create_topic(TOPIC, PARTITIONS, &["max.message.bytes=2000000"]).unwrap();
    assert_eq!(kafka.records(TOPIC).unwrap(), []);
    let ledger = Ledger::new();
    let messages: Vec<_> = (0..100).map(|number| (format!("device-{}", number % 7), number / 7)).collect();
    for (publisher, seq) in &messages {
        ledger.sent(publisher, *seq);
        ledger.acknowledged(publisher, *seq);
    }
    let records = messages.into_iter().map(|(publisher, seq)| {
        let value = Payload { publisher: publisher.clone(), seq, sent_ns: 0 }.encode(1024);
        (publisher, String::from_utf8(value).unwrap())
    });
    kafka.append(TOPIC, records).unwrap();
    kafka.kill().unwrap();
    kafka.restart().unwrap();

    let mut verifier = Verifier::new(&ledger);
    for record in kafka.records(TOPIC).unwrap() {
        verifier.record(record.found());
    }
    let report = verifier.finish();
    assert!(report.is_exact() && report.found == 100, "{report}");
    assert_eq!(kafka.end_offsets(TOPIC).unwrap().len(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_message_is_in_kafka_once_and_in_order() {
    let scene = Scene::start().await;
    let begin = Instant::now();
    scene.publish(Duration::ZERO).await;
    let took = begin.elapsed();
    let cpu = scene.broker.cpu_time().expect("the broker runs");
    let report = scene.verify().await;
    eprintln!(
        "{DEVICES} devices, {MESSAGES} messages each in {took:.1?}, {cpu:.1?} of CPU in the broker: {report}"
    );
    assert!(report.is_exact(), "{report}");
    assert_eq!(report.acknowledged, u64::from(DEVICES) * MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_kafka_twice_loses_and_repeats_nothing() {
    let scene = Scene::start().await;
    let begin = Instant::now();
    // 20 seconds of messages, during which Kafka is away twice for as long as its restart takes.
    let publishing = scene.publish(Duration::from_millis(200));
    let killing = async {
        for _ in 0..2 {
            sleep(Duration::from_secs(4)).await;
            let kafka = Arc::clone(&scene.kafka);
            blocking(move || kafka.kill().and_then(|()| kafka.restart())).await.unwrap();
            eprintln!("{:.1?}: Kafka was killed and is back", begin.elapsed());
        }
    };
    tokio::join!(publishing, killing);
    let took = begin.elapsed();
    let report = scene.verify().await;
    eprintln!("{DEVICES} devices, {MESSAGES} messages each in {took:.1?}, Kafka killed twice: {report}");
    assert!(report.is_exact(), "{report}");
    assert_eq!(report.acknowledged, u64::from(DEVICES) * MESSAGES);
}

/// Each of Kafka's compressions, read by Kafka's own consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_batches_are_read_by_kafkas_own_consumer() {
    const COMPRESSIONS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];
    const COUNT: usize = 200;
    let (broker, kafka) = blocking(|| {
        let kafka = RealKafka::start().expect("a real Kafka starts");
        let section = |name: &str| {
            kafka.create_topic(name, 1, &[]).expect("the topic is created");
            let bootstrap = kafka.bootstrap();
            format!("[kafka.{name}]\nbootstrap = [\"{bootstrap}\"]\ncompression = \"{name}\"\n")
        };
        let output = |name: &str| format!("[[rules.outputs]]\nkafka = \"{name}\"\ntopic = \"{name}\"\n");
        let config = [
            COMPRESSIONS.map(section).concat(),
            "[[rules]]\nid = \"all\"\nsql = 'SELECT * FROM \"t/#\"'\n".to_owned(),
            COMPRESSIONS.map(output).concat(),
        ]
        .concat();
        (Launch::new(config).start().expect("the broker starts"), kafka)
    })
    .await;
    let mut options = MqttOptions::new("device", "127.0.0.1", broker.mqtt().port());
    options.set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, COUNT);
    let message = |number: usize| format!("{number} {}", "21.5 ".repeat(100));
    for number in 0..COUNT {
        client.publish("t/x", QoS::AtLeastOnce, false, message(number)).await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < COUNT {
        let event = timeout(Duration::from_secs(20), events.poll()).await.unwrap().unwrap();
        acknowledged += usize::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
    }
    let (_, metrics) = broker.http_get("/metrics").unwrap();
    let read = blocking(move || COMPRESSIONS.map(|topic| kafka.records(topic).unwrap())).await;
    for (compression, records) in COMPRESSIONS.into_iter().zip(read) {
        let found: Vec<_> =
            records.into_iter().map(|record| String::from_utf8(record.value).unwrap()).collect();
        let expected: Vec<_> = (0..COUNT).map(message).collect();
        assert_eq!(found, expected, "{compression}");
        let metric = format!("tidegate_sink_batch_bytes_total{{sink=\"{compression}\"}} ");
        let bytes = metrics.lines().find_map(|line| line.strip_prefix(&metric)?.parse().ok());
        let bytes: u32 = bytes.expect("the sink counts its bytes");
        eprintln!("{compression}: {bytes} bytes of {}", expected.concat().len());
        assert!((bytes as usize) < expected.concat().len() / 2, "{compression}: {bytes} bytes");
    }
}

/// Clients that nobody here wrote, on both sides: each message that mosquitto_pub and paho were promised is read by kcat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_pub_and_paho_publish_and_kcat_reads() {
    const PAHO: &str = r#"
import sys
import paho.mqtt.client as mqtt
for version in (mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"paho-{version}", protocol=version)
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_start()
    for qos in (1, 2):
        client.publish("t/paho", f"paho {version} qos {qos}", qos=qos).wait_for_publish(30)
    client.publish("t/paho", "filtered out", qos=0).wait_for_publish(30)
    client.disconnect()
"#;
    let scene = Scene::start().await;
    let (port, bootstrap) = (scene.broker.mqtt().port().to_string(), scene.kafka.bootstrap().to_owned());
    let read = blocking(move || {
        for (version, qos) in [("mqttv31", "1"), ("mqttv311", "2"), ("mqttv5", "1")] {
            let message = format!("mosquitto {version} qos {qos}");
            run(
                "mosquitto_pub",
                &["-p", &port, "-V", version, "-i", version, "-q", qos, "-t", "t/m", "-m", &message],
            );
        }
        run("python3", &["-c", PAHO, &port]);
        run("kcat", &["-C", "-q", "-e", "-b", &bootstrap, "-t", TOPIC, "-f", "%k: %s\\n"])
    })
    .await;
    let mut lines: Vec<_> = read.lines().collect();
    lines.sort_unstable();
    let expected = [
        "mqttv311: mosquitto mqttv311 qos 2",
        "mqttv31: mosquitto mqttv31 qos 1",
        "mqttv5: mosquitto mqttv5 qos 1",
        "paho-3: paho 3 qos 1",
        "paho-3: paho 3 qos 2",
        "paho-4: paho 4 qos 1",
        "paho-4: paho 4 qos 2",
        "paho-5: paho 5 qos 1",
        "paho-5: paho 5 qos 2",
    ];
    assert_eq!(lines, expected);
}

/// Runs a program to its end, for a minute at most, and returns what it printed.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg(program).args(args).output().expect("timeout runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("it prints text")
}

/// A Kafka with a topic, a broker with a rule into it, and what the devices were promised.
struct Scene {
    // The broker is dropped, and so ended, before the Kafka that it writes to.
    broker: Tidegate,
    kafka: Arc<RealKafka>,
    ledger: Arc<Ledger>,
}

impl Scene {
    async fn start() -> Self {
        blocking(|| {
            let kafka = RealKafka::start().expect("a real Kafka starts");
            kafka.create_topic(TOPIC, PARTITIONS, &[]).expect("the topic is created");
            let broker = Launch::new(configuration(kafka.bootstrap())).start().expect("the broker starts");
            Self { broker, kafka: Arc::new(kafka), ledger: Arc::default() }
        })
        .await
    }

    /// Lets every device connect, publish its messages with so much time between two, and wait for every PUBACK.
    async fn publish(&self, interval: Duration) {
        let fleet = Fleet {
            devices: DEVICES,
            messages: Some(MESSAGES),
            interval,
            unlisted_every: Some(FILTERED_EVERY),
            ..Fleet::default()
        };
        fleet.start(self.broker.mqtt(), &self.ledger).finish(RUN_LIMIT).await;
    }

    /// Waits until Kafka's end offsets say that everything is there, and compares what is there with the ledger.
    async fn verify(&self) -> Report {
        let (kafka, ledger) = (Arc::clone(&self.kafka), Arc::clone(&self.ledger));
        blocking(move || {
            let deadline = Instant::now() + DRAIN_LIMIT;
            while kafka.record_count(TOPIC).unwrap() < ledger.acknowledged_count()
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(200));
            }
            let mut verifier = Verifier::new(&ledger);
            for record in kafka.records(TOPIC).unwrap() {
                let payload = Payload::decode(&record.value).expect("a payload of this test");
                assert_eq!(
                    record.key.as_deref(),
                    Some(payload.publisher.as_bytes()),
                    "the key is the client id"
                );
                verifier.record(record.found());
            }
            verifier.finish()
        })
        .await
    }
}

fn configuration(bootstrap: &str) -> String {
    format!(
        r#"
[kafka.main]
bootstrap = ["{bootstrap}"]

[[rules]]
id = "telemetry"
sql = 'SELECT * FROM "t/#" WHERE qos > 0'

[[rules.outputs]]
kafka = "main"
topic = "{TOPIC}"
"#
    )
}
