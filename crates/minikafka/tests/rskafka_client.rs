//! A stranger's client: what rskafka writes comes back, through topics, offsets and long polls.

#![expect(clippy::unwrap_used, reason = "a test's helpers: a failure is the test's")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rskafka::chrono::{TimeZone as _, Utc};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};

fn record(value: &str) -> Record {
    Record {
        key: Some(b"k".to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: BTreeMap::from([("h".to_owned(), b"1".to_vec())]),
        timestamp: Utc.timestamp_millis_opt(1_700_000_000_000).unwrap(),
    }
}

async fn client(kafka: &MiniKafka, topic: &str, partition: i32) -> Arc<PartitionClient> {
    let brokers = kafka.bootstrap().split(',').map(str::to_owned).collect();
    let client = ClientBuilder::new(brokers).build().await.unwrap();
    Arc::new(client.partition_client(topic, partition, UnknownTopicHandling::Retry).await.unwrap())
}

#[tokio::test]
async fn records_written_by_rskafka_come_back_and_stand_in_the_ledger() {
    let kafka = MiniKafka::builder().nodes(2).start().await.unwrap();
    kafka.create_topic("t", 2).unwrap();
    let client = client(&kafka, "t", 1).await;
    let written = client.produce(vec![record("a"), record("b")], Compression::NoCompression).await.unwrap();
    assert_eq!(written, [0, 1]);
    let (records, high_watermark) = client.fetch_records(0, 1..1_000_000, 100).await.unwrap();
    assert_eq!(high_watermark, 2);
    assert_eq!(records.iter().map(|one| one.record.clone()).collect::<Vec<_>>(), [record("a"), record("b")]);
    assert_eq!(client.get_offset(OffsetAt::Latest).await.unwrap(), 2);
    assert_eq!(client.get_offset(OffsetAt::Earliest).await.unwrap(), 0);

    let ledger = kafka.ledger("t").unwrap();
    assert_eq!((ledger.partitions(), ledger.len()), (2, 2));
    let second = &ledger.partition(1)[1];
    assert_eq!((second.offset, second.timestamp_ms), (1, 1_700_000_000_000));
    assert_eq!((second.key.as_deref(), second.value.as_deref()), (Some(&b"k"[..]), Some(&b"b"[..])));
    assert_eq!(second.headers, [("h".into(), Some("1".into()))]);
    assert_eq!(second.producer, None);
    kafka.stop().await.unwrap();
}

#[tokio::test]
async fn a_long_poll_ends_when_a_record_arrives() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let (reader, writer) = (client(&kafka, "t", 0).await, client(&kafka, "t", 0).await);
    let poll = tokio::spawn(async move { reader.fetch_records(0, 1..1_000_000, 60_000).await });
    while kafka.requests(ApiKey::Fetch).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.produce(vec![record("a")], Compression::NoCompression).await.unwrap();
    let polled = tokio::time::timeout(Duration::from_secs(10), poll).await.expect("woken by the record");
    assert_eq!(polled.unwrap().unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_client_follows_the_leader_to_another_node_and_back_after_it_was_down() {
    let kafka = MiniKafka::builder().nodes(3).start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let faults = kafka.faults();
    let client = client(&kafka, "t", 0).await;
    client.produce(vec![record("a")], Compression::NoCompression).await.unwrap();
    faults.move_leader("t", 0, 3).unwrap();
    client.produce(vec![record("b")], Compression::NoCompression).await.unwrap();
    faults.move_leader("t", 0, 2).unwrap();
    faults.down(3).await;
    client.produce(vec![record("c")], Compression::NoCompression).await.unwrap();
    faults.up(3).await.unwrap();
    faults.move_leader("t", 0, 3).unwrap();
    client.produce(vec![record("d")], Compression::NoCompression).await.unwrap();
    let ledger = kafka.ledger("t").unwrap();
    let values: Vec<_> = ledger.iter().map(|one| one.value.clone().unwrap()).collect();
    assert_eq!(values, ["a", "b", "c", "d"]);
    let refused = kafka.requests(ApiKey::Produce).len();
    assert!(refused > 4, "the old leaders were asked too: {refused}");
}

#[tokio::test]
async fn an_injected_error_reaches_the_client_and_nothing_is_appended() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let client = client(&kafka, "t", 0).await;
    let on = On::api(ApiKey::Produce).partition("t", 0).times(1);
    let hit = kafka.faults().inject(on, Effect::Error(ErrorCode::INVALID_RECORD));
    assert!(client.produce(vec![record("a")], Compression::NoCompression).await.is_err());
    assert_eq!((hit.fired(), kafka.ledger("t").unwrap().len()), (1, 0));
    client.produce(vec![record("a")], Compression::NoCompression).await.unwrap();
    assert_eq!(kafka.ledger("t").unwrap().len(), 1);
}
