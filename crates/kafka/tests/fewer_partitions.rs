//! A topic that is deleted and made again with fewer partitions gets every record that waited for it: once, in the order of
//! its key, in the partition of its key, from memory and from disk.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Stream, check_counts, config, until};
use tidegate_kafka::{Config, Producer, SpillConfig, State};
use tidegate_minikafka::{ApiKey, Effect, MiniKafka, On};
use tidegate_sink::Outcome;
use tidegate_spill::sim::SimDisk;
use tokio::runtime::Handle;

const KEYS: u64 = 31;

/// A topic of seven partitions that a producer with small batches knows, and that is gone.
async fn setup(disk: Option<&SimDisk>) -> (MiniKafka, Producer) {
    let kafka = MiniKafka::builder().auto_create(false).start().await.unwrap();
    kafka.create_topic("t", 7).unwrap();
    let config = Config {
        batch_bytes: 600,
        linger: Duration::from_millis(1),
        request_timeout: Duration::from_secs(1),
        ..config(&kafka.bootstrap())
    };
    let producer = match disk {
        Some(disk) => {
            let disk = SpillConfig::new(Arc::new(disk.clone()));
            let spill = SpillConfig { after: Duration::from_millis(100), ..disk };
            Producer::start_spilling(config, spill, &Handle::current()).unwrap()
        }
        None => Producer::start(config, &Handle::current()),
    };
    let mut before = Stream::new("t");
    before.keys = KEYS;
    before.offer(&producer, 100).await;
    before.settled(&producer).await;
    kafka.delete_topic("t").unwrap();
    (kafka, producer)
}

async fn check(kafka: &MiniKafka, producer: &Producer, stream: &Stream) {
    stream.settled(producer).await;
    until("all is delivered", || producer.status().records.held == 0).await;
    assert_eq!(stream.told.ended(Outcome::Delivered) as u64, stream.offered);
    assert_eq!(stream.check(kafka), 0, "once, and each key in order in one partition");
    assert_eq!(kafka.ledger("t").unwrap().len() as u64, stream.offered);
    until("all is well", || producer.status().state == State::Up).await;
    until("nothing is held", || producer.status().held_bytes == 0).await;
    check_counts(&producer.status());
}

#[tokio::test]
async fn records_in_memory_are_given_out_anew() {
    for partitions in [1, 3, 6] {
        let (kafka, producer) = setup(None).await;
        let mut stream = Stream::new("t");
        stream.keys = KEYS;
        stream.offer(&producer, 300).await;
        until("the state says so", || matches!(producer.status().state, State::Waiting(_))).await;
        kafka.create_topic("t", partitions).unwrap();
        for _ in 0..10 {
            stream.offer(&producer, 30).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        check(&kafka, &producer, &stream).await;
        // It goes on as before.
        stream.offer(&producer, 300).await;
        check(&kafka, &producer, &stream).await;
    }
}

#[tokio::test]
async fn records_on_disk_and_behind_them_in_memory_are_given_out_anew() {
    for partitions in [1, 3, 6] {
        let disk = SimDisk::new();
        let (kafka, producer) = setup(Some(&disk)).await;
        let mut stream = Stream::new("t");
        (stream.keys, stream.padding) = (KEYS, 40);
        for _ in 0..20 {
            stream.offer(&producer, 50).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stream.settled(&producer).await;
        assert!(producer.status().spill.unwrap().records > 500, "it is on disk");
        kafka.create_topic("t", partitions).unwrap();
        for _ in 0..20 {
            stream.offer(&producer, 50).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        check(&kafka, &producer, &stream).await;
        until("the disk is empty", || producer.status().spill.unwrap().disk_bytes == 0).await;
        stream.offer(&producer, 300).await;
        check(&kafka, &producer, &stream).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_due_is_waited_for() {
    let (kafka, producer) = setup(None).await;
    kafka.create_topic("t", 7).unwrap();
    let mut stream = Stream::new("t");
    stream.keys = KEYS;
    // What is on its way when the topic goes is answered late, and stored nowhere.
    let held = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    stream.offer(&producer, 200).await;
    held.wait_fired(1).await;
    kafka.delete_topic("t").unwrap();
    kafka.create_topic("t", 2).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stream.offer(&producer, 200).await;
    held.remove();
    check(&kafka, &producer, &stream).await;
}
