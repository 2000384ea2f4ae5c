//! f10: when there is no room left, publishers are held back, or records are dropped as the feed's policy says; what was
//! dropped is counted exactly, by reason, and nothing else is missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use support::{PATIENCE, Told, check_counts, config, until};
use tidegate_kafka::{AckPolicy, Config, Droppable, FeedPolicy, Producer, SpillConfig, WhenFull};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::{DropReason, Feed, Offer, Outcome, Record};
use tidegate_spill::sim::SimDisk;
use tokio::runtime::Handle;

const RECORDS: u64 = 2000;

fn policy(when_full: WhenFull) -> FeedPolicy {
    FeedPolicy { ack: AckPolicy::Durable, when_full }
}

/// Offers numbered records, each with an ack if `told` is there. Says how many were given back.
fn offer(feed: &impl Feed, numbers: impl Iterator<Item = u64>, told: Option<&Arc<Told>>) -> u64 {
    let mut given_back = 0;
    for number in numbers {
        let value = format!("{number} {}", "x".repeat(100));
        let key = format!("key-{}", number % 7);
        let record = Record { key: Some(key.as_bytes()), value: Some(value.as_bytes()), ..Record::new("t") };
        if let Offer::Full(ack) = feed.offer(&record, told.map(|told| told.ack(number))) {
            // Its publisher would wait: here it is gone, which is told.
            drop(ack);
            given_back += 1;
        }
    }
    feed.flush();
    given_back
}

/// Everything that can be full is: Kafka is away, memory is small, and the disk, if there is one, has a small quota.
async fn full(spill: bool) -> (MiniKafka, Producer) {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 3).unwrap();
    let config = Config { budget_bytes: 60_000, batch_bytes: 2000, ..config(&kafka.bootstrap()) };
    let producer = if spill {
        let disk = SimDisk::new();
        let spill =
            SpillConfig { quota_bytes: 20_000, segment_bytes: 4000, ..SpillConfig::new(Arc::new(disk)) };
        Producer::start_spilling(config, spill, &Handle::current()).unwrap()
    } else {
        Producer::start(config, &Handle::current())
    };
    until("the topic is known", || {
        let _ = offer(&producer, std::iter::once(RECORDS), None);
        producer.status().records.delivered > 0
    })
    .await;
    kafka.faults().down(1).await;
    (kafka, producer)
}

/// Brings Kafka back and compares: what is missing is what was counted as dropped.
async fn check(kafka: MiniKafka, producer: Producer, reason: DropReason, oldest_are_missing: bool) {
    kafka.faults().up(1).await.unwrap();
    until("all is sent", || producer.status().records.held == 0).await;
    let found = found_of(&kafka);
    let missing: Vec<u64> = (0..RECORDS).filter(|number| !found.contains(number)).collect();
    let status = producer.status();
    let dropped = status.records.dropped[&reason];
    assert_eq!(missing.len() as u64, dropped, "{status:#?}");
    assert_eq!(status.records.dropped.values().sum::<u64>(), dropped, "for that reason only: {status:#?}");
    assert!(dropped > RECORDS / 2, "there was no room for most of them: {dropped}");
    assert_eq!(found.contains(&(RECORDS - 1)), oldest_are_missing);
    check_counts(&status);
}

/// The numbers that are in Kafka, partition after partition, each once.
fn numbers(kafka: &MiniKafka) -> Vec<u64> {
    let ledger = kafka.ledger("t").unwrap();
    let values =
        ledger.iter().map(|record| String::from_utf8(record.value.as_ref().unwrap().to_vec()).unwrap());
    values
        .map(|value| value.split(' ').next().unwrap().parse().unwrap())
        .filter(|number| *number < RECORDS)
        .collect()
}

fn found_of(kafka: &MiniKafka) -> BTreeSet<u64> {
    let all = numbers(kafka);
    let once: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(once.len(), all.len(), "each once");
    once
}

#[tokio::test]
async fn f10_without_a_policy_everything_that_does_not_fit_is_given_back() {
    let (kafka, producer) = full(false).await;
    let feed = producer.feed_for("r", AckPolicy::Durable.into());
    let given_back = offer(&feed, 0..RECORDS, None);
    assert!(given_back > RECORDS / 2);
    kafka.faults().up(1).await.unwrap();
    until("all is sent", || producer.status().records.held == 0).await;
    let status = producer.status();
    assert_eq!(status.records.refused, given_back);
    assert_eq!(status.records.dropped.values().sum::<u64>(), 0);
    let arrived = found_of(&kafka).len() as u64;
    assert_eq!(arrived, RECORDS - given_back);
    check_counts(&status);
}

#[tokio::test]
async fn f10_the_newest_are_dropped_and_counted_exactly() {
    for spill in [false, true] {
        let (kafka, producer) = full(spill).await;
        let feed = producer.feed_for("r", policy(WhenFull::DropNewest(Droppable::Unacknowledged)));
        assert_eq!(offer(&feed, 0..RECORDS, None), 0);
        check(kafka, producer, DropReason::FullNewest, false).await;
    }
}

#[tokio::test]
async fn f10_the_oldest_are_dropped_and_counted_exactly() {
    for spill in [false, true] {
        let (kafka, producer) = full(spill).await;
        let feed = producer.feed_for("r", policy(WhenFull::DropOldest(Droppable::Unacknowledged)));
        assert_eq!(offer(&feed, 0..RECORDS, None), 0);
        check(kafka, producer, DropReason::FullOldest, true).await;
    }
}

#[tokio::test]
async fn f10_what_somebody_waits_for_is_never_dropped_unless_the_policy_says_so() {
    let (kafka, producer) = full(false).await;
    let careful = producer.feed_for("careful", policy(WhenFull::DropOldest(Droppable::Unacknowledged)));
    let told = Arc::new(Told::default());
    let given_back = offer(&careful, 0..RECORDS / 2, Some(&told));
    assert!(given_back > 0);
    // Another source may not throw away what is not its own, however full it is.
    let eager = producer.feed_for("eager", policy(WhenFull::DropOldest(Droppable::All)));
    assert_eq!(offer(&eager, RECORDS / 2..RECORDS, Some(&told)), 0);
    assert_eq!(told.ended(Outcome::Delivered) as u64, RECORDS / 2, "all of them, and acknowledged");
    kafka.faults().up(1).await.unwrap();
    told.wait(usize::try_from(RECORDS).unwrap(), &producer).await;
    let found = found_of(&kafka);
    let arrived = (0..RECORDS / 2).filter(|number| found.contains(number)).count() as u64;
    assert_eq!(arrived, RECORDS / 2 - given_back, "nothing of the careful one is gone");
    let status = producer.status();
    let dropped = |name: &str| {
        let (_, records) = status.sources.iter().find(|(source, _)| source == name).unwrap();
        records.dropped.values().sum::<u64>()
    };
    assert_eq!((dropped("careful"), dropped("eager")), (0, RECORDS / 2));
    check_counts(&status);
}

#[tokio::test]
async fn f10_the_order_of_what_is_left_is_kept() {
    let (kafka, producer) = full(false).await;
    let feed = producer.feed_for("r", policy(WhenFull::DropOldest(Droppable::All)));
    let told = Arc::new(Told::default());
    for from in (0..RECORDS).step_by(100) {
        assert_eq!(offer(&feed, from..from + 100, Some(&told)), 0);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    kafka.faults().up(1).await.unwrap();
    tokio::time::timeout(PATIENCE, told.wait(usize::try_from(RECORDS).unwrap(), &producer)).await.unwrap();
    let all = numbers(&kafka);
    for key in 0..7 {
        let numbers: Vec<u64> = all.iter().copied().filter(|number| number % 7 == key).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "key {key}: {numbers:?}");
    }
    check_counts(&producer.status());
}
