//! Kafka, in, with the real binary and a real Apache Kafka: records of Kafka's own producer reach MQTT subscribers that
//! nobody here wrote, Kafka's own tools see how far the group is, nothing is lost when the broker is killed, and nothing
//! goes in circles.
//!
//! Needs what `e2e` needs, and mosquitto_sub:
//!
//! ```text
//! cargo test -p tidegate-testkit --features e2e --test e2e_source -- --test-threads=1 --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stderr, reason = "what was measured stays in the gate's log")]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tidegate_testkit::kafka::RealKafka;
use tidegate_testkit::process::{Launch, Tidegate};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until it holds; the last look says why it does not.
fn until<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> (bool, T)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (holds, seen) = look();
        if holds {
            return;
        }
        assert!(Instant::now() < deadline, "never: {what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The value of a metric with these labels, as `/metrics` shows it.
fn metric(broker: &Tidegate, name_and_labels: &str) -> Option<f64> {
    let (_, text) = broker.http_get("/metrics").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn mosquitto_sub(broker: &Tidegate, filter: &str, count: usize) -> Child {
    let (port, count) = (broker.mqtt().port().to_string(), count.to_string());
    Command::new("timeout")
        .args(["60", "mosquitto_sub", "-V", "5", "-p", &port, "-q", "1", "-t", filter, "-C", &count])
        .args(["-F", "%t %p %P"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn records_of_kafkas_own_producer_reach_mosquitto_sub_and_kafkas_own_tools_see_the_group() {
    const RECORDS: usize = 1_000;
    let kafka = RealKafka::start().expect("a real Kafka starts");
    kafka.create_topic("commands", 4, &[]).unwrap();
    kafka.create_topic("echo", 1, &[]).unwrap();
    let config = format!(
        r#"
[kafka.main]
bootstrap = ["{}"]

[[rules]]
id = "up"
sql = 'SELECT * FROM "echo/#"'
[[rules.outputs]]
topic = "echo"

[[sources]]
id = "commands"
topics = ["commands"]
group = "plant"
mqtt_topic = "devices/${{key}}/command"
commit_interval = "200 ms"

[[sources]]
id = "echo"
topics = ["echo"]
group = "echo"
mqtt_topic = "echo/${{value}}"
rules = true
commit_interval = "200 ms"
"#,
        kafka.bootstrap()
    );
    let mut broker = Launch::new(config).start().expect("the broker starts");
    let subscriber = mosquitto_sub(&broker, "devices/+/command", RECORDS);
    until("mosquitto_sub has subscribed", || {
        let count = metric(&broker, "tidegate_subscriptions");
        (count == Some(1.0), count)
    });
    let records = (0..RECORDS).map(|number| (format!("d{}", number % 7), number.to_string()));
    kafka.append("commands", records).unwrap();
    let output = subscriber.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        // devices/d3/command 17 kafka.key:d3
        let [topic, number, properties] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (number, key) =
            (number.parse::<usize>().unwrap(), format!("d{}", number.parse::<usize>().unwrap() % 7));
        assert_eq!((topic, properties), (&*format!("devices/{key}/command"), &*format!("kafka.key:{key}")));
        if let Some(before) = last.insert(key, number) {
            assert!(before < number, "{line}: records of one key keep their order");
        }
        count += 1;
    }
    assert_eq!(count, RECORDS);

    // Kafka's own tool: four partitions, all of them ours, no lag.
    until("all is committed", || {
        let group = kafka.group("plant").unwrap();
        let all = group.values().map(|place| place.committed).sum::<i64>();
        let ours = group.values().all(|place| place.client_id == "tidegate" && place.committed == place.end);
        (group.len() == 4 && ours && all == i64::try_from(RECORDS).unwrap(), group)
    });
    until("our own metric says the same", || {
        let lags = [0, 1, 2, 3].map(|partition| {
            let labels = format!(
                "tidegate_source_lag{{partition=\"{partition}\",source=\"commands\",topic=\"commands\"}}"
            );
            metric(&broker, &labels)
        });
        (lags == [Some(0.0); 4], lags)
    });

    // What a device publishes goes to Kafka and is not published again; what Kafka's producer wrote is, goes to Kafka by
    // the rule, and ends there.
    let port = broker.mqtt().port().to_string();
    let published = Command::new("mosquitto_pub")
        .args(["-p", &port, "-q", "1", "-t", "echo/device", "-m", "device"])
        .status()
        .unwrap();
    assert!(published.success());
    kafka.append("echo", [("k".to_owned(), "foreign".to_owned())]).unwrap();
    let skipped = || metric(&broker, "tidegate_source_skipped_total{reason=\"loop\",source=\"echo\"}");
    until("both of ours are known", || (skipped() == Some(2.0), skipped()));
    std::thread::sleep(Duration::from_secs(1));
    let values: Vec<_> = kafka.records("echo").unwrap().into_iter().map(|record| record.value).collect();
    assert_eq!(values, [&b"device"[..], b"foreign", b"foreign"]);
    assert_eq!(skipped(), Some(2.0));

    // It says goodbye, so that nobody waits for it.
    assert!(broker.terminate(PATIENCE).unwrap().is_some_and(|status| status.success()));
    let group = kafka.group("plant").unwrap();
    assert!(group.values().all(|place| place.client_id == "-"), "{group:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_pauses_the_source_and_a_killed_broker_loses_nothing() {
    const RECORDS: usize = 3_000;
    const KILLED_AT: usize = 1_000;
    let (kafka, broker) = tokio::task::spawn_blocking(|| {
        let kafka = RealKafka::start().expect("a real Kafka starts");
        kafka.create_topic("commands", 2, &["max.message.bytes=4096"]).unwrap();
        let config = format!(
            r#"
[kafka.main]
bootstrap = ["{}"]

[[rules]]
id = "none"
sql = 'SELECT * FROM "unused"'
[[rules.outputs]]
topic = "unused"

[[sources]]
id = "commands"
topics = ["commands"]
group = "plant"
mqtt_topic = "commands/${{partition}}"
commit_interval = "200 ms"
session_timeout = "6 s"
buffer = "64 KiB"
"#,
            kafka.bootstrap()
        );
        let broker = Launch::new(config).start().expect("the broker starts");
        (Arc::new(kafka), broker)
    })
    .await
    .unwrap();
    let mut broker = Some(broker);
    let port = broker.as_ref().unwrap().mqtt().port();
    let mut options = MqttOptions::new("slow", "127.0.0.1", port);
    options.set_clean_session(false).set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("commands/+", QoS::AtLeastOnce).await.unwrap();
    let mut seen = vec![0_u32; RECORDS];
    let (mut received, mut missing) = (0, RECORDS);
    let mut restarting = None;
    let receive = async {
        while missing > 0 {
            match events.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    let kafka = Arc::clone(&kafka);
                    let padding = "x".repeat(200);
                    let records = (0..RECORDS).map(move |n| (n.to_string(), format!("{n} {padding}")));
                    tokio::task::spawn_blocking(move || kafka.append("commands", records).unwrap());
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let text = std::str::from_utf8(&publish.payload).unwrap();
                    let number: usize = text.split(' ').next().unwrap().parse().unwrap();
                    missing -= usize::from(seen[number] == 0);
                    seen[number] += 1;
                    received += 1;
                    // Slower than the broker: it has to wait for us.
                    sleep(Duration::from_millis(1)).await;
                    if received == KILLED_AT {
                        let running = broker.take().unwrap();
                        let fetched = metric(&running, "tidegate_source_records_total{source=\"commands\"}");
                        assert!(
                            fetched.is_some_and(|count| count < 3_000.0),
                            "the fetch is paused: {fetched:?}"
                        );
                        restarting = Some(tokio::task::spawn_blocking(move || {
                            let mut broker = running;
                            broker.kill().unwrap();
                            broker.restart().unwrap();
                            broker
                        }));
                    }
                }
                Ok(_) => {}
                // The broker is away.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(2 * PATIENCE, receive).await.unwrap_or_else(|_| panic!("{received} received"));
    let duplicates = received - RECORDS;
    eprintln!("{RECORDS} records, broker killed at {KILLED_AT}: none lost, {duplicates} came twice");
    assert!(duplicates < RECORDS / 2, "{duplicates} came twice: that is not only what was on its way");
    let broker = restarting.unwrap().await.unwrap();
    tokio::task::spawn_blocking(move || {
        until("all is committed", || {
            let group = kafka.group("plant").unwrap();
            let all = group.values().map(|place| place.committed).sum::<i64>();
            (all == i64::try_from(RECORDS).unwrap(), group)
        });
        drop(broker);
    })
    .await
    .unwrap();
}
