//! The fault table against a real Apache Kafka and the real binary: what was acknowledged is in Kafka when it is back,
//! once where the broker lives, in order, and every count adds up. `docs/DELIVERY.md` has the table of results.
//!
//! Needs Java 17 and, the first time, Maven; and the binary: `cargo build -p tidegate`. `TIDEGATE_KILLS` and
//! `TIDEGATE_SEED` change the number of SIGKILLs and their moments.
//!
//! ```text
//! cargo test -p tidegate-testkit --features e2e --test e2e_faults -- --test-threads=1 --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test's devices have nobody else to tell")]
#![expect(clippy::print_stderr, reason = "the rows of the table are what this suite is for")]

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use tidegate_testkit::kafka::RealKafka;
use tidegate_testkit::ledger::{Ledger, Payload, Report, Verifier};
use tidegate_testkit::process::{Launch, Tidegate};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const TOPIC: &str = "telemetry";
const PARTITIONS: u32 = 8;
const DEVICES: u32 = 50;
const PAYLOAD_BYTES: usize = 1024;
/// Unacknowledged messages of one device.
const WINDOW: u16 = 20;
const DRAIN_LIMIT: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_kafka_down_at_start() {
    let mut scene = Scene::new("", |kafka| kafka.kill().unwrap()).await;
    let run = scene.devices(Duration::from_millis(50));
    sleep(Duration::from_secs(10)).await;
    let acknowledged = scene.ledger.acknowledged_count();
    assert!(acknowledged > 1000, "{acknowledged} acknowledged without Kafka");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    sleep(Duration::from_secs(5)).await;
    run.finish().await;
    scene.report("F1 Kafka down at start (10 s)", Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_kafka_killed_under_load() {
    let mut scene = Scene::new("", |_| {}).await;
    let run = scene.devices(Duration::from_millis(20));
    sleep(Duration::from_secs(5)).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    let before = scene.ledger.acknowledged_count();
    sleep(Duration::from_secs(20)).await;
    let during = scene.ledger.acknowledged_count() - before;
    assert!(during > 10_000, "{during} acknowledged while Kafka was away");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    sleep(Duration::from_secs(5)).await;
    run.finish().await;
    scene.report("F2 Kafka killed under load (20 s away)", Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_quota_reached() {
    let mut scene = Scene::new("quota = \"4 MiB\"", |_| {}).await;
    let run = scene.devices(Duration::from_millis(10));
    sleep(Duration::from_secs(3)).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    sleep(Duration::from_secs(12)).await;
    let held = scene.ledger.acknowledged_count();
    assert!(scene.metric("tidegate_sink_spill_failing") > 0.0, "the quota is used up");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.ledger.acknowledged_count(), held, "nothing is acknowledged beyond the quota");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    sleep(Duration::from_secs(5)).await;
    run.finish().await;
    scene.report("F10 quota of 4 MiB reached", Duplicates::None).await;
}

/// A file system of 64 MiB in a file, which needs root and a loop device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_disk_full() {
    let Some(volume) = Volume::mount() else {
        eprintln!("| F9 disk full (64 MiB ext4) | not run: no loop device here |");
        return;
    };
    let spill = format!("directory = \"{}/spill\"", volume.path);
    let mut scene = Scene::new(&spill, |_| {}).await;
    let run = scene.devices(Duration::from_millis(5));
    sleep(Duration::from_secs(3)).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    let begun = Instant::now();
    while scene.metric("tidegate_sink_spill_failing") == 0.0 {
        assert!(begun.elapsed() < Duration::from_mins(1), "the disk never filled");
        sleep(Duration::from_millis(500)).await;
    }
    sleep(Duration::from_secs(3)).await;
    let held = scene.ledger.acknowledged_count();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.ledger.acknowledged_count(), held, "nothing is acknowledged without the disk");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    sleep(Duration::from_secs(5)).await;
    run.finish().await;
    scene.report("F9 disk full (64 MiB ext4)", Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_kafka_frozen() {
    let mut scene = Scene::new("", |_| {}).await;
    let run = scene.devices(Duration::from_millis(50));
    sleep(Duration::from_secs(3)).await;
    scene.kafka(|kafka| kafka.freeze().unwrap()).await;
    let before = scene.ledger.acknowledged_count();
    sleep(Duration::from_secs(40)).await;
    let during = scene.ledger.acknowledged_count() - before;
    assert!(during > 5000, "{during} acknowledged while Kafka was frozen");
    scene.kafka(|kafka| kafka.thaw().unwrap()).await;
    sleep(Duration::from_secs(5)).await;
    run.finish().await;
    scene.report("F15 Kafka frozen (40 s)", Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_broker_killed_at_random_moments() {
    let kills = setting("TIDEGATE_KILLS", 10);
    let mut random = setting("TIDEGATE_SEED", 1) | 1;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut scene = Scene::new("", |_| {}).await;
    let run = scene.devices(Duration::from_millis(20));
    let mut slowest = Duration::ZERO;
    let mut kafka_is_up = true;
    for _ in 0..kills {
        // A third of the time without Kafka.
        let wanted = next(3) > 0;
        if wanted != kafka_is_up {
            scene
                .kafka(move |kafka| if wanted { kafka.restart().unwrap() } else { kafka.kill().unwrap() })
                .await;
            kafka_is_up = wanted;
        }
        sleep(Duration::from_millis(100 + next(4900))).await;
        let begun = Instant::now();
        scene.restart_broker().await;
        slowest = slowest.max(begun.elapsed());
    }
    if !kafka_is_up {
        scene.kafka(|kafka| kafka.restart().unwrap()).await;
    }
    sleep(Duration::from_secs(3)).await;
    run.finish().await;
    // What a device sends again because its PUBACK did not come is its own repetition, and within its window.
    let window = kills * u64::from(DEVICES) * u64::from(WINDOW) * 2;
    eprintln!("slowest restart to ready: {slowest:.1?}");
    scene.report(&format!("F11 broker killed {kills} times"), Duplicates::AtMost(window)).await;
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

enum Duplicates {
    None,
    AtMost(u64),
}

/// A Kafka with a topic, a broker with a rule into it, and what the devices were promised.
struct Scene {
    broker: Arc<Mutex<Tidegate>>,
    kafka: Arc<RealKafka>,
    ledger: Arc<Ledger>,
    latencies: Arc<Mutex<Vec<Duration>>>,
    peak_bytes: u64,
}

impl Scene {
    /// `prepare` may end Kafka before the broker starts.
    async fn new(spill: &str, prepare: impl FnOnce(&RealKafka) + Send + 'static) -> Self {
        let spill = spill.to_owned();
        blocking(move || {
            let kafka = RealKafka::start().expect("a real Kafka starts");
            kafka.create_topic(TOPIC, PARTITIONS, &[]).expect("the topic is created");
            prepare(&kafka);
            let broker = Launch::new(configuration(kafka.bootstrap(), &spill)).start();
            Self {
                broker: Arc::new(Mutex::new(broker.expect("the broker starts"))),
                kafka: Arc::new(kafka),
                ledger: Arc::default(),
                latencies: Arc::default(),
                peak_bytes: 0,
            }
        })
        .await
    }

    async fn kafka(&mut self, work: impl FnOnce(&RealKafka) + Send + 'static) {
        let kafka = Arc::clone(&self.kafka);
        blocking(move || work(&kafka)).await;
        self.look_at_memory();
    }

    async fn restart_broker(&mut self) {
        self.look_at_memory();
        let broker = Arc::clone(&self.broker);
        blocking(move || broker.lock().restart().expect("the broker starts again")).await;
    }

    fn look_at_memory(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.broker.lock().resident_bytes().unwrap_or(0));
    }

    fn metric(&self, name: &str) -> f64 {
        let (_, body) = self.broker.lock().http_get("/metrics").unwrap();
        let values = body.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Devices that publish, one message after the other, until they are told to stop.
    fn devices(&self, interval: Duration) -> Run {
        let stop = Arc::new(AtomicBool::new(false));
        let mut devices = JoinSet::new();
        for number in 0..DEVICES {
            let device = Device {
                name: format!("device-{number:05}"),
                ledger: Arc::clone(&self.ledger),
                latencies: Arc::clone(&self.latencies),
                stop: Arc::clone(&stop),
                begun: Instant::now(),
                in_flight: AtomicU64::new(0),
                ended: AtomicBool::new(false),
            };
            let port = self.broker.lock().mqtt().port();
            devices.spawn(async move { device.run(port, interval).await });
        }
        Run { stop, devices }
    }

    /// Waits until Kafka has it all, compares, checks the law, and prints the row.
    async fn report(&mut self, fault: &str, allowed: Duplicates) {
        self.look_at_memory();
        let begun = Instant::now();
        while self.metric("tidegate_sink_records_held") > 0.0
            || self.metric("tidegate_sink_spill_records") > 0.0
        {
            assert!(begun.elapsed() < DRAIN_LIMIT, "{fault}: not drained: {:?}", self.sink_metrics());
            sleep(Duration::from_millis(200)).await;
        }
        let drained = begun.elapsed();
        let metric = |name: &str| self.metric(&format!("tidegate_sink_{name}"));
        // received = delivered + rejected + lost + held, all of it.
        let ended = metric("records_delivered_total")
            + metric("records_rejected_total")
            + metric("records_lost_total");
        assert!((metric("records_offered_total") - ended).abs() < 0.5, "{:?}", self.sink_metrics());
        assert!(
            metric("records_lost_total") < 0.5 && metric("spill_disk_bytes") < 0.5,
            "{:?}",
            self.sink_metrics()
        );
        let spilled = metric("spilled_records_total");
        let (kafka, ledger) = (Arc::clone(&self.kafka), Arc::clone(&self.ledger));
        let report: Report = blocking(move || {
            let mut verifier = Verifier::new(&ledger);
            kafka.records(TOPIC).unwrap().iter().for_each(|record| verifier.record(record.found()));
            verifier.finish()
        })
        .await;
        let mut latencies = self.latencies.lock();
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        let max = latencies.last().copied().unwrap_or_default();
        eprintln!(
            "| {fault} | {report} | spilled {spilled} | PUBACK p99 {p99:.0?} max {max:.0?} | peak {} MiB | drained {drained:.1?} |",
            self.peak_bytes >> 20
        );
        match allowed {
            Duplicates::None => assert!(report.is_exact(), "{fault}: {report}"),
            Duplicates::AtMost(limit) => {
                assert!(report.is_without_loss() && report.duplicates <= limit, "{fault}: {report}");
            }
        }
    }

    fn sink_metrics(&self) -> BTreeMap<String, String> {
        let (_, body) = self.broker.lock().http_get("/metrics").unwrap();
        let lines =
            body.lines().filter(|line| line.starts_with("tidegate_sink_") && !line.contains("bucket"));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }
}

struct Run {
    stop: Arc<AtomicBool>,
    devices: JoinSet<()>,
}

impl Run {
    /// Has every device end when all it sent is acknowledged.
    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        timeout(Duration::from_mins(2), self.devices.join_all())
            .await
            .expect("every message is acknowledged");
    }
}

struct Device {
    name: String,
    ledger: Arc<Ledger>,
    latencies: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
    begun: Instant,
    in_flight: AtomicU64,
    ended: AtomicBool,
}

impl Device {
    async fn run(self, port: u16, interval: Duration) {
        let mut options = MqttOptions::new(&self.name, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_mins(1)).set_inflight(WINDOW).set_clean_session(false);
        let (client, mut events) = AsyncClient::new(options, 10);
        let sent = Mutex::new(HashMap::new());
        let sending = async {
            let mut seq = 0;
            while !self.stop.load(Ordering::Relaxed) {
                self.ledger.sent(&self.name, seq);
                self.in_flight.fetch_add(1, Ordering::SeqCst);
                let sent_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap();
                let payload = Payload { publisher: self.name.clone(), seq, sent_ns }.encode(PAYLOAD_BYTES);
                client.publish(format!("t/{}", self.name), QoS::AtLeastOnce, false, payload).await.unwrap();
                seq += 1;
                sleep(interval).await;
            }
            self.ended.store(true, Ordering::SeqCst);
        };
        let listening = async {
            let mut numbers = 0..;
            while !(self.ended.load(Ordering::SeqCst) && self.in_flight.load(Ordering::SeqCst) == 0) {
                // It ends although nothing more happens on the connection.
                let Ok(event) = timeout(Duration::from_millis(200), events.poll()).await else { continue };
                match event {
                    Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                        // A repetition after a reconnection keeps its identifier and its message.
                        sent.lock().entry(id).or_insert_with(|| (numbers.next().unwrap(), Instant::now()));
                    }
                    Ok(Event::Incoming(Packet::PubAck(ack))) => {
                        if let Some((seq, at)) = sent.lock().remove(&ack.pkid) {
                            self.ledger.acknowledged(&self.name, seq);
                            self.latencies.lock().push(at.elapsed());
                            self.in_flight.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::join!(sending, listening);
    }
}

/// A small file system of its own; unmounted when dropped.
struct Volume {
    path: String,
    image: String,
}

impl Volume {
    fn mount() -> Option<Self> {
        let base = std::env::temp_dir().join(format!("tidegate-volume-{}", std::process::id()));
        let (path, image) = (base.display().to_string(), format!("{}.img", base.display()));
        std::fs::create_dir_all(&path).ok()?;
        let volume = Self { path, image };
        let run = |program: &str, args: &[&str]| {
            Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
        };
        let ready = run("truncate", &["-s", "64M", &volume.image])
            && run("mkfs.ext4", &["-q", "-F", &volume.image])
            && run("mount", &["-o", "loop", &volume.image, &volume.path]);
        ready.then_some(volume)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The broker is gone by now, as far as the test got; nobody can be told otherwise.
        let _ = Command::new("umount").arg(&self.path).output();
        let _ = std::fs::remove_file(&self.image);
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn configuration(bootstrap: &str, spill: &str) -> String {
    format!(
        r#"
[kafka.main]
bootstrap = ["{bootstrap}"]
buffer = "16 MiB"
request_timeout = "10 s"

[kafka.main.spill]
{spill}

[[rules]]
id = "telemetry"
sql = 'SELECT * FROM "t/#" WHERE qos > 0'

[[rules.outputs]]
kafka = "main"
topic = "{TOPIC}"
"#
    )
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
