//! Who may write to Kafka, against a real Apache Kafka and the real binary: every way to log in, a password and
//! certificates that change under load, and nothing lost by any of it.
//!
//! Needs Java 17 and, the first time, Maven; and the binary: `cargo build -p tidegate`.
//!
//! ```text
//! cargo test -p tidegate-testkit --features e2e --test e2e_security -- --test-threads=1 --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test's devices have nobody else to tell")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tidegate_testkit::blocking;
use tidegate_testkit::certificates::Authority;
use tidegate_testkit::folder::Folder;
use tidegate_testkit::kafka::RealKafka;
use tidegate_testkit::kafka_tls::KafkaTls;
use tidegate_testkit::process::{Launch, Tidegate};
use tokio::time::{sleep, timeout};

const TOPIC: &str = "main";
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a refused login may go unnoticed.
const NOTICE: Duration = Duration::from_secs(5);
/// Unsigned, for `tide`, until the year 2100: what a Kafka that is only tried out accepts.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ0aWRlIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjQxMDI0NDQ4MDB9.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_log_in_reaches_kafka_and_a_single_replica_is_warned_of() {
    const COUNT: u32 = 100;
    let files = Folder::new().unwrap();
    let tls = KafkaTls::new(files.clone(), &Authority::new().unwrap()).unwrap();
    files.write("password", "gate\n").unwrap();
    files.write("token", TOKEN).unwrap();
    files.write("secret", "client-secret\n").unwrap();
    let endpoint = token_endpoint();
    let own = tls.clone();
    let (kafka, sinks) = blocking(move || {
        let kafka = start_kafka(&own);
        let sasl = kafka.listener("SASL").unwrap();
        let password =
            format!("username = \"tide\"\npassword_file = \"{}\"", files.path("password").display());
        let login = |mechanism: &str, keys: &str| {
            (sasl.clone(), format!("[kafka.NAME.sasl]\nmechanism = \"{mechanism}\"\n{keys}"))
        };
        let oauth = format!(
            "token_endpoint = \"{endpoint}\"\nclient_id = \"tide\"\nclient_secret_file = \"{}\"",
            files.path("secret").display()
        );
        let sinks = [
            ("plain", login("plain", &password)),
            ("scram256", login("scram-sha-256", &password)),
            ("scram512", login("scram-sha-512", &password)),
            ("token", login("oauthbearer", &format!("token_file = \"{}\"", files.path("token").display()))),
            ("oauth", login("oauthbearer", &oauth)),
            ("mtls", (kafka.listener("TLS").unwrap(), own.section("NAME"))),
        ];
        let sinks = sinks.map(|(name, (bootstrap, keys))| (name, bootstrap, keys.replace("NAME", name)));
        (kafka, sinks)
    })
    .await;
    let broker = start_broker(&sinks).await;
    let mut device = Device::connect(&broker);
    device.publish(COUNT).await;
    drained(&broker).await;
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for value in blocking(move || values(&kafka)).await {
        *found.entry(value).or_default() += 1;
    }
    let expected = device.sent.iter().map(|message| (message.clone(), sinks.len())).collect();
    assert_eq!(found, expected, "each message once through each of them");
    let warned = broker.output().iter().filter(|line| line.contains("it has a single replica")).count();
    assert_eq!(warned, sinks.len(), "once by each of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f8_a_changed_password_holds_records_and_says_so_until_its_file_changes() {
    let files = Folder::new().unwrap();
    let tls = KafkaTls::new(files.clone(), &Authority::new().unwrap()).unwrap();
    files.write("password", "gate\n").unwrap();
    let keys = format!(
        "[kafka.main.sasl]\nmechanism = \"scram-sha-512\"\nusername = \"tide\"\npassword_file = \"{}\"",
        files.path("password").display()
    );
    let kafka = blocking(move || start_kafka(&tls)).await;
    let broker = start_broker(&[("main", kafka.listener("SASL").unwrap(), keys)]).await;
    let mut device = Device::connect(&broker);
    device.publish(200).await;

    let kafka = blocking(move || {
        kafka.set_password("tide", "new-password").unwrap();
        // Kafka asks for the password when a connection begins.
        kafka.kill().unwrap();
        kafka.restart().unwrap();
        kafka
    })
    .await;
    let begun = Instant::now();
    // The disk acknowledges what Kafka does not take.
    device.publish(200).await;
    said(&broker, "authentication failed", NOTICE).await;
    assert!(begun.elapsed() < NOTICE, "{:?}", begun.elapsed());
    assert!(metric(&broker, "tidegate_sink_up") < 0.5);
    assert!(metric(&broker, "tidegate_sink_spill_records") > 0.5);

    files.write("password", "new-password\n").unwrap();
    drained(&broker).await;
    device.publish(200).await;
    drained(&broker).await;
    let begun = Instant::now();
    while metric(&broker, "tidegate_sink_up") < 0.5 {
        assert!(begun.elapsed() < NOTICE, "it flows, and says so");
        sleep(Duration::from_millis(100)).await;
    }
    let secrets = ["new-password", "gate\""];
    assert!(broker.output().iter().all(|line| !secrets.iter().any(|secret| line.contains(secret))));
    let found = blocking(move || values(&kafka)).await;
    assert_eq!(found, device.sent, "once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_reads_over_tls_and_takes_new_certificates_without_a_restart() {
    let tls = KafkaTls::new(Folder::new().unwrap(), &Authority::new().unwrap()).unwrap();
    let own = tls.clone();
    let (kafka, broker) = blocking(move || {
        let kafka = start_kafka(&own);
        kafka.create_topic("commands", 1, &[]).unwrap();
        let (bootstrap, keys) = (kafka.listener("TLS").unwrap(), own.section("main"));
        let config = format!(
            "[kafka.main]\nbootstrap = [\"{bootstrap}\"]\n{keys}\n\
             [[rules]]\nid = \"none\"\nsql = 'SELECT * FROM \"unused\"'\noutputs = [{{ topic = \"{TOPIC}\" }}]\n\
             [[sources]]\nid = \"commands\"\ntopics = [\"commands\"]\ngroup = \"plant\"\n\
             mqtt_topic = \"commands/${{key}}\"\n"
        );
        (kafka, Launch::new(config).start().expect("the broker starts"))
    })
    .await;
    let options = MqttOptions::new("subscriber", "127.0.0.1", broker.mqtt().port());
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("commands/#", QoS::AtLeastOnce).await.unwrap();
    wait_for(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;
    let kafka = append(kafka, 0..100).await;
    for number in 0..100 {
        assert_eq!(next_command(&mut events).await, number.to_string());
    }

    let new = Authority::new().unwrap();
    tls.kafka_moves_to(&new).unwrap();
    let kafka = restart(kafka).await;
    said(&broker, "the node's certificate is refused", 2 * NOTICE).await;
    let _kafka = append(kafka, 100..200).await;
    tls.broker_moves_to(&new).unwrap();
    // What was not committed may come again.
    let mut expected = 100;
    while expected < 200 {
        let number: u32 = next_command(&mut events).await.parse().unwrap();
        assert!(number <= expected, "{number} came before {expected}");
        expected = expected.max(number + 1);
    }
}

/// Kills Kafka and starts it again, which reads its certificates anew.
async fn restart(kafka: RealKafka) -> RealKafka {
    blocking(move || {
        kafka.kill().unwrap();
        kafka.restart().unwrap();
        kafka
    })
    .await
}

/// Appends numbers as Kafka's own producer does.
async fn append(kafka: RealKafka, numbers: std::ops::Range<u32>) -> RealKafka {
    blocking(move || {
        kafka.append("commands", numbers.map(|number| ("k".to_owned(), number.to_string()))).unwrap();
        kafka
    })
    .await
}

/// The next payload that a subscriber gets.
async fn next_command(events: &mut EventLoop) -> String {
    let packet = wait_for(events, |packet| matches!(packet, Packet::Publish(_))).await;
    let Packet::Publish(publish) = packet else { unreachable!("it was looked for") };
    assert_eq!(publish.topic, "commands/k");
    String::from_utf8(publish.payload.to_vec()).unwrap()
}

async fn wait_for(events: &mut EventLoop, is: impl Fn(&Packet) -> bool) -> Packet {
    loop {
        match timeout(PATIENCE, events.poll()).await.expect("it comes in time").unwrap() {
            Event::Incoming(packet) if is(&packet) => return packet,
            _ => {}
        }
    }
}

/// A Kafka with a listener for passwords and tokens, and one for certificates.
fn start_kafka(tls: &KafkaTls) -> RealKafka {
    const SASL: &str = "listener.name.sasl";
    const MODULES: &str = "org.apache.kafka.common.security";
    let settings = [
        format!("{SASL}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"),
        format!(
            "{SASL}.plain.sasl.jaas.config={MODULES}.plain.PlainLoginModule required user_tide=\"gate\";"
        ),
        format!("{SASL}.scram-sha-256.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;"),
        format!("{SASL}.scram-sha-512.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;"),
        format!(
            "{SASL}.oauthbearer.sasl.jaas.config={MODULES}.oauthbearer.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"kafka\";"
        ),
    ];
    let listener = tls.listener();
    let mut options = vec!["--listener", "SASL=SASL_PLAINTEXT", "--scram", "tide=gate"];
    options.extend(listener.iter().map(String::as_str));
    options.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let kafka = RealKafka::start_with(&options).expect("a real Kafka starts");
    kafka.create_topic(TOPIC, 1, &[]).expect("the topic is created");
    kafka
}

/// A broker that writes each message to the topic through all of these.
async fn start_broker(sinks: &[(&'static str, String, String)]) -> Tidegate {
    let sections = sinks.iter().map(|(name, bootstrap, keys)| {
        format!("[kafka.{name}]\nbootstrap = [\"{bootstrap}\"]\nbuffer = \"16 MiB\"\n{keys}\n")
    });
    let outputs = sinks
        .iter()
        .map(|(name, ..)| format!("[[rules.outputs]]\nkafka = \"{name}\"\ntopic = \"{TOPIC}\"\n"));
    let rule = "[[rules]]\nid = \"all\"\nsql = 'SELECT * FROM \"t/#\"'\n".to_owned();
    let config: String = sections.chain([rule]).chain(outputs).collect();
    blocking(move || Launch::new(config).start().expect("the broker starts")).await
}

/// All values of the topic, in order, as Kafka's own consumer reads them.
fn values(kafka: &RealKafka) -> Vec<String> {
    let records = kafka.records(TOPIC).unwrap();
    records.into_iter().map(|record| String::from_utf8(record.value).unwrap()).collect()
}

fn metric(broker: &Tidegate, name: &str) -> f64 {
    broker.metric(name).unwrap()
}

/// Waits until Kafka has all that the broker holds.
async fn drained(broker: &Tidegate) {
    let begun = Instant::now();
    while metric(broker, "tidegate_sink_records_held") + metric(broker, "tidegate_sink_spill_records") > 0.5 {
        assert!(begun.elapsed() < PATIENCE, "not drained");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn said(broker: &Tidegate, what: &str, limit: Duration) {
    let begun = Instant::now();
    while !broker.output().iter().any(|line| line.contains(what)) {
        assert!(begun.elapsed() < limit, "the log does not say: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// One client, and what it has published.
struct Device {
    client: AsyncClient,
    events: EventLoop,
    sent: Vec<String>,
}

impl Device {
    fn connect(broker: &Tidegate) -> Self {
        let mut options = MqttOptions::new("device", "127.0.0.1", broker.mqtt().port());
        options.set_inflight(100);
        let (client, events) = AsyncClient::new(options, 1000);
        Self { client, events, sent: Vec::new() }
    }

    /// Publishes so many messages and waits until all are acknowledged.
    async fn publish(&mut self, count: u32) {
        for _ in 0..count {
            let message = format!("message {}", self.sent.len());
            self.client.publish("t/x", QoS::AtLeastOnce, false, message.clone()).await.unwrap();
            self.sent.push(message);
        }
        let mut acknowledged = 0;
        while acknowledged < count {
            let event = timeout(PATIENCE, self.events.poll()).await.unwrap().unwrap();
            acknowledged += u32::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
        }
    }
}

/// Gives the same token to whoever asks, from a thread of its own that ends with the process.
fn token_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.windows(10).any(|window| window == b"grant_type") {
                let mut chunk = [0; 1024];
                let count = stream.read(&mut chunk).unwrap();
                request.extend_from_slice(&chunk[..count]);
            }
            let body = format!("{{\"access_token\": \"{TOKEN}\", \"expires_in\": 300}}");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    url
}
