//! What is acknowledged while Kafka is away is in Kafka when it is back: once, in order, over restarts and failing disks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use support::{Stream, Told, check_counts, config, until};
use tidegate_kafka::{AckPolicy, Config, Producer, SpillConfig, SpillStatus};
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};
use tidegate_sink::{Feed, Offer, Outcome, Record};
use tidegate_spill::sim::{Faults, SimDisk};
use tidegate_spill::{Disk, DiskFile};
use tokio::runtime::Handle;
use tokio::time::Instant;

const AFTER: Duration = Duration::from_millis(100);

fn spilling(config: Config, disk: &SimDisk) -> Producer {
    let spill = SpillConfig { after: AFTER, ..SpillConfig::new(Arc::new(disk.clone())) };
    Producer::start_spilling(config, spill, &Handle::current()).unwrap()
}

fn spill(producer: &Producer) -> SpillStatus {
    producer.status().spill.unwrap()
}

/// Waits until Kafka has all that was acknowledged, and the disk is empty again.
async fn drained(producer: &Producer) {
    let deadline = Instant::now() + support::PATIENCE;
    while producer.status().records.held > 0 || spill(producer).disk_bytes > 0 {
        assert!(Instant::now() < deadline, "{:#?}", producer.status());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let status = producer.status();
    assert_eq!((status.held_bytes, spill(producer).records), (0, 0), "{status:#?}");
    check_counts(&status);
}

async fn kafka() -> MiniKafka {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 4).unwrap();
    kafka
}

#[tokio::test]
async fn a_healthy_kafka_leaves_the_disk_alone() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    let mut stream = Stream::new("t");
    for _ in 0..50 {
        stream.offer(&producer, 100).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
    assert_eq!(disk.counts(), (0, 0));
}

#[tokio::test]
async fn what_is_offered_before_kafka_was_ever_there_is_acknowledged_and_arrives_once_in_order() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    let mut stream = Stream::new("t");
    for _ in 0..20 {
        stream.offer(&producer, 50).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream.settled(&producer).await;
    assert_eq!(stream.told.ended(Outcome::Delivered), 1000);
    assert_eq!((spill(&producer).records, producer.status().held_bytes), (1000, 0));
    kafka.faults().up(1).await.unwrap();
    stream.offer(&producer, 500).await;
    drained(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
    // It goes on without the disk, at once or, on a machine that keeps answers waiting, after a few rounds.
    let mut rounds = 0..20;
    loop {
        let before = spill(&producer).spilled;
        stream.offer(&producer, 100).await;
        stream.settled(&producer).await;
        drained(&producer).await;
        assert_eq!(stream.check(&kafka), 0);
        if spill(&producer).spilled == before {
            break;
        }
        rounds.next().expect("with Kafka back nothing more is spilled");
    }
}

#[tokio::test]
async fn an_outage_under_load_loses_repeats_and_reorders_nothing() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    let producer = spilling(Config { batch_bytes: 2000, ..config(&kafka.bootstrap()) }, &disk);
    let mut stream = Stream::new("t");
    stream.padding = 100;
    for round in 0..60 {
        stream.offer(&producer, 50).await;
        match round {
            10 => kafka.faults().down(1).await,
            40 => kafka.faults().up(1).await.unwrap(),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        if round == 39 {
            stream.settled(&producer).await;
        }
    }
    stream.settled(&producer).await;
    assert_eq!(stream.told.ended(Outcome::Delivered), 3000);
    drained(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
    assert!(spill(&producer).spilled >= 1000);
}

#[tokio::test]
async fn a_silent_kafka_delays_acknowledgements_by_no_more_than_the_limit_and_gets_nothing_twice() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    let mut stream = Stream::new("t");
    stream.offer(&producer, 100).await;
    stream.settled(&producer).await;
    kafka.faults().inject(On::api(ApiKey::Produce), Effect::Stall(Duration::from_secs(2)));
    let begun = Instant::now();
    for _ in 0..10 {
        stream.offer(&producer, 100).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.settled(&producer).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drained(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_restart_takes_up_what_was_left_behind_before_anything_newer() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    let mut stream = Stream::new("t");
    {
        let producer = spilling(config(&kafka.bootstrap()), &disk);
        stream.offer(&producer, 100).await;
        stream.settled(&producer).await;
        kafka.faults().down(1).await;
        stream.offer(&producer, 500).await;
        stream.settled(&producer).await;
    }
    let disk = disk.after_kill();
    {
        // Not yet there: what comes now is unpartitioned, and newer.
        let producer = spilling(config(&kafka.bootstrap()), &disk);
        assert_eq!(spill(&producer).recovered, 500);
        stream.offer(&producer, 300).await;
        stream.settled(&producer).await;
    }
    let disk = disk.after_kill();
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    kafka.faults().up(1).await.unwrap();
    stream.offer(&producer, 300).await;
    stream.settled(&producer).await;
    drained(&producer).await;
    assert_eq!(stream.told.ended(Outcome::Delivered), 1200);
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn whoever_asked_for_kafka_is_told_when_kafka_has_it() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    let feed = producer.feed(AckPolicy::Kafka);
    let told = Arc::new(Told::default());
    for token in 0..100 {
        let value = token.to_string();
        let record = Record { key: Some(b"k"), value: Some(value.as_bytes()), ..Record::new("t") };
        let ack = Some(told.ack(token));
        let offer = if token % 2 == 0 { producer.offer(&record, ack) } else { feed.offer(&record, ack) };
        assert!(matches!(offer, Offer::Taken));
    }
    producer.flush();
    told.wait(50, &producer).await;
    tokio::time::sleep(2 * AFTER).await;
    assert_eq!(told.count(), 50, "those of the log only");
    assert!((0..100).all(|token| (told.of(token) == Some(Outcome::Delivered)) == (token % 2 == 0)));
    assert_eq!(spill(&producer).records, 100, "and yet all are in order on disk");
    kafka.faults().up(1).await.unwrap();
    told.wait(100, &producer).await;
    drained(&producer).await;
    let values: Vec<_> =
        kafka.ledger("t").unwrap().iter().map(|r| r.value.clone().unwrap().to_vec()).collect();
    assert_eq!(values, (0..100).map(|n: u64| n.to_string().into_bytes()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_log_holds_publishers_back_and_acknowledges_nothing_more() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let spill_config =
        SpillConfig { after: AFTER, quota_bytes: 50_000, ..SpillConfig::new(Arc::new(disk.clone())) };
    let config = Config { budget_bytes: 100_000, batch_bytes: 4000, ..config(&kafka.bootstrap()) };
    let producer = Producer::start_spilling(config, spill_config, &Handle::current()).unwrap();
    let told = Arc::new(Told::default());
    let value = [7; 500];
    let record = |key| Record { key: Some(key), value: Some(&value), ..Record::new("t") };
    let mut taken = 0;
    let full_since = loop {
        match producer.offer(&record(b"k"), Some(told.ack(taken))) {
            Offer::Taken => taken += 1,
            Offer::Full(ack) => {
                // Not told: it is still the caller's.
                ack.unwrap().settle(Outcome::Rejected(tidegate_sink::Rejection::Invalid));
                break taken;
            }
        }
        if taken % 10 == 0 {
            producer.flush();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::sleep(3 * AFTER).await;
    let acknowledged = told.ended(Outcome::Delivered);
    assert!(acknowledged > 0 && acknowledged * 500 < 50_000, "{acknowledged}");
    assert!(full_since > acknowledged as u64);
    assert!(spill(&producer).problem.unwrap().contains("quota"));
    kafka.faults().up(1).await.unwrap();
    until("all is delivered", || told.ended(Outcome::Delivered) as u64 == full_since).await;
    drained(&producer).await;
    assert_eq!(kafka.ledger("t").unwrap().len() as u64, full_since);
}

#[tokio::test]
async fn a_failing_disk_acknowledges_nothing_falsely() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    let mut stream = Stream::new("t");
    disk.set_faults(Faults { broken: true, ..Faults::default() });
    stream.offer(&producer, 200).await;
    tokio::time::sleep(4 * AFTER).await;
    assert_eq!(stream.told.count(), 0);
    assert!(spill(&producer).problem.is_some());
    // One sync fails, then the disk works again.
    disk.set_faults(Faults { fail_sync_in: Some(1), ..Faults::default() });
    stream.settled(&producer).await;
    // What was acknowledged survives the power that goes now.
    let after = disk.after_power_loss(|| false);
    drop(producer);
    kafka.faults().up(1).await.unwrap();
    let producer = spilling(config(&kafka.bootstrap()), &after);
    drained(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn closing_leaves_on_disk_what_kafka_does_not_take() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    let mut stream = Stream::new("t");
    stream.offer(&producer, 100).await;
    stream.settled(&producer).await;
    kafka.faults().down(1).await;
    stream.offer(&producer, 400).await;
    let begun = Instant::now();
    producer.close(begun + Duration::from_secs(4)).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(stream.told.ended(Outcome::Delivered), 500);
    drop(producer);
    kafka.faults().up(1).await.unwrap();
    let producer = spilling(config(&kafka.bootstrap()), &disk.after_kill());
    drained(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

/// A disk whose reads wait while somebody holds it.
#[derive(Debug)]
struct SlowReads(SimDisk, Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    stopped: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
}

struct SlowFile(Arc<dyn DiskFile>, Arc<Held>);

impl Held {
    fn set(&self, stopped: bool) {
        *self.stopped.lock() = stopped;
        self.changed.notify_all();
    }

    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.changed.wait_while(&mut self.stopped.lock(), |stopped| *stopped);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Disk for SlowReads {
    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.0.create(name)?, Arc::clone(&self.1))))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.0.open(name)?, Arc::clone(&self.1))))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()
    }
}

impl DiskFile for SlowFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.wait();
        self.0.read_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_read_back_when_the_producer_closes_stays_on_disk_and_holds_no_memory() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let mut stream = Stream::new("t");
    {
        let producer = spilling(config(&kafka.bootstrap()), &disk);
        stream.offer(&producer, 300).await;
        stream.settled(&producer).await;
    }
    let disk = disk.after_kill();
    let held = Arc::new(Held::default());
    let slow: Arc<dyn Disk> = Arc::new(SlowReads(disk.clone(), Arc::clone(&held)));
    let settings = SpillConfig { after: AFTER, ..SpillConfig::new(slow) };
    let producer =
        Producer::start_spilling(config(&kafka.bootstrap()), settings, &Handle::current()).unwrap();
    held.set(true);
    kafka.faults().up(1).await.unwrap();
    until("somebody reads", || held.waiting.load(Ordering::SeqCst) > 0).await;
    producer.close(Instant::now() + Duration::from_millis(100)).await;
    held.set(false);
    until("nothing is held in memory", || {
        held.waiting.load(Ordering::SeqCst) == 0 && producer.status().held_bytes == 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = producer.status();
    assert_eq!((status.held_bytes, status.records.lost, status.records.held), (0, 0, 300), "{status:#?}");
    check_counts(&status);
    drop(producer);
    let producer = spilling(config(&kafka.bootstrap()), &disk.after_kill());
    drained(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_back_and_refused_stays_in_front_of_the_rest_of_the_log_over_a_kill() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let mut stream = Stream::new("t");
    stream.padding = 200;
    let small = || Config { batch_bytes: 2000, budget_bytes: 200_000, ..config(&kafka.bootstrap()) };
    {
        let producer = spilling(small(), &disk);
        stream.offer(&producer, 10_000).await;
        stream.settled(&producer).await;
    }
    let disk = disk.after_kill();
    kafka.faults().up(1).await.unwrap();
    // It finds its partitions and reads a part of the log back, and Kafka takes none of it.
    let refused =
        kafka.faults().inject(On::api(ApiKey::Produce), Effect::Error(ErrorCode::NOT_ENOUGH_REPLICAS));
    let producer = spilling(small(), &disk);
    refused.wait_fired(5).await;
    let mut kills = Vec::new();
    for _ in 0..50 {
        kills.push(disk.after_kill());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(spill(&producer).spilled, 0, "what comes from the log is there already");
    drop(producer);
    refused.remove();
    // At whichever of these moments it is killed.
    for disk in kills.iter().step_by(5) {
        kafka.delete_topic("t").unwrap();
        kafka.create_topic("t", 4).unwrap();
        let producer = spilling(small(), disk);
        drained(&producer).await;
        assert_eq!(stream.check(&kafka), 0);
    }
}

/// Kafka comes and goes, the disk fails now and then, and the process is killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_twenty_kills() {
    let kafka = kafka().await;
    let mut disk = SimDisk::new();
    let mut stream = Stream::new("t");
    stream.padding = 50;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut in_flight = 0;
    for kill in 0..20 {
        if kill % 3 == 1 {
            kafka.faults().down(1).await;
        } else {
            let _ = kafka.faults().up(1).await;
        }
        let config = Config { batch_bytes: 3000, ..config(&kafka.bootstrap()) };
        let producer = spilling(config, &disk);
        for _ in 0..next(30) {
            stream.offer(&producer, next(40)).await;
            if next(20) == 0 {
                disk.set_faults(Faults { fail_sync_in: Some(next(3)), ..Faults::default() });
            }
            tokio::time::sleep(Duration::from_millis(next(15))).await;
        }
        // What the killed process had in memory is gone, and its acknowledgements are never sent.
        in_flight += producer.status().records.held;
        disk.set_faults(Faults { broken: true, ..Faults::default() });
        disk = disk.after_kill();
        drop(producer);
    }
    let _ = kafka.faults().up(1).await;
    let producer = spilling(config(&kafka.bootstrap()), &disk);
    drained(&producer).await;
    let duplicates = stream.check(&kafka) as u64;
    assert!(duplicates <= in_flight, "{duplicates} duplicates of {in_flight} in flight");
}
