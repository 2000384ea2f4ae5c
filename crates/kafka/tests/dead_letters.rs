//! A record that Kafka will never take becomes a dead letter: its publisher is told that it is safe when it is, it says
//! what happened to it, and its neighbours know nothing of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Told, check_counts, config, start, until};
use tidegate_kafka::{AckPolicy, Config, DeadLetter, DeadLetterFile, Producer, SpillConfig, State};
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, LedgerRecord, MiniKafka, On};
use tidegate_sink::{Feed, Offer, Outcome, Record, Rejection};
use tidegate_spill::sim::SimDisk;
use tokio::runtime::Handle;

const HEADERS: [(&str, Option<&[u8]>); 2] = [("mqtt.client_id", Some(b"c7")), ("nothing", None)];

fn to_topic(kafka: &MiniKafka) -> Config {
    Config { dead_letter: Some(DeadLetter::Topic("dead".to_owned())), ..config(&kafka.bootstrap()) }
}

/// A server with a topic that takes batches of 20,000 bytes, and one for dead letters.
async fn kafka() -> MiniKafka {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    kafka.create_topic("dead", 1).unwrap();
    kafka.faults().max_message_bytes("t", 20_000).unwrap();
    kafka
}

fn offer(feed: &impl Feed, told: &Arc<Told>, token: u64, topic: &str, value: &[u8]) {
    let record = Record {
        key: Some(b"k"),
        value: Some(value),
        headers: &HEADERS,
        timestamp_ms: 1_700_000_000_000,
        ..Record::new(topic)
    };
    assert!(matches!(feed.offer(&record, Some(told.ack(token))), Offer::Taken));
}

fn header<'a>(record: &'a LedgerRecord, name: &str) -> Option<&'a str> {
    let found = record.headers.iter().find(|(n, _)| &**n == name.as_bytes())?;
    found.1.as_deref().map(|value| std::str::from_utf8(value).unwrap())
}

fn letters(kafka: &MiniKafka) -> Vec<LedgerRecord> {
    kafka.ledger("dead").unwrap().iter().cloned().collect()
}

#[tokio::test]
async fn a_record_too_large_for_its_topic_is_taken_out_of_its_batch_into_the_dead_letters() {
    let kafka = kafka().await;
    let producer = start(to_topic(&kafka));
    let feed = producer.feed_for("big-ones", AckPolicy::Durable.into());
    let told = Arc::new(Told::default());
    let large = [3_u64, 57, 58, 99];
    for token in 0..100 {
        let size = if large.contains(&token) { 30_000 } else { 300 };
        offer(&feed, &told, token, "t", &vec![u8::try_from(token).unwrap(); size]);
    }
    feed.flush();
    told.wait(100, &producer).await;
    assert_eq!(told.ended(Outcome::Delivered), 100, "a dead letter is as safe as any other record");
    let found: Vec<u64> =
        kafka.ledger("t").unwrap().iter().map(|r| r.value.as_ref().unwrap()[0].into()).collect();
    assert_eq!(found, (0..100).filter(|n| !large.contains(n)).collect::<Vec<_>>(), "once and in order");
    let letters = letters(&kafka);
    assert_eq!(letters.len(), 4);
    for (letter, token) in letters.iter().zip(large) {
        assert_eq!(letter.value.as_ref().unwrap()[..], vec![u8::try_from(token).unwrap(); 30_000]);
        assert_eq!((&letter.key.as_ref().unwrap()[..], letter.timestamp_ms), (&b"k"[..], 1_700_000_000_000));
        assert_eq!(header(letter, "dead_letter.reason"), Some("too_large"));
        assert_eq!(header(letter, "dead_letter.rule"), Some("big-ones"));
        assert_eq!(header(letter, "dead_letter.topic"), Some("t"));
        assert!(header(letter, "dead_letter.time").unwrap().parse::<u64>().unwrap() > 1_700_000_000_000);
        assert_eq!(header(letter, "mqtt.client_id"), Some("c7"), "its own headers stay");
        assert_eq!(header(letter, "dead_letter.value_bytes"), None, "nothing was cut off");
    }
    let status = producer.status();
    let (_, rule) = status.sources.iter().find(|(name, _)| name == "big-ones").unwrap();
    assert_eq!((rule.offered, rule.delivered, rule.dead_lettered[&Rejection::TooLarge]), (100, 96, 4));
    check_counts(&status);
}

#[tokio::test]
async fn every_reason_for_which_a_record_is_refused_is_told() {
    let kafka = kafka().await;
    let producer = start(Config { max_request_bytes: 100_000, ..to_topic(&kafka) });
    let told = Arc::new(Told::default());
    offer(&producer, &told, 0, "no topic", b"illegal");
    offer(&producer, &told, 1, "t", &vec![b'x'; 150_000]);
    offer(&producer, &told, 2, "dead", b"by the front door");
    let record = Record { partition: Some(7), ..Record::new("t") };
    assert!(matches!(producer.offer(&record, Some(told.ack(3))), Offer::Taken));
    let unmade = Record { value: Some(b"unmade"), ..Record::new("plant-${site}") };
    let refused = producer.refuse(&unmade, Some(told.ack(4)), Rejection::IllegalTopic);
    assert!(matches!(refused, Offer::Taken));
    producer.flush();
    told.wait(5, &producer).await;
    kafka.faults().inject(On::api(ApiKey::Produce).partition("t", 0).times(1), Effect::Error(ErrorCode(87)));
    offer(&producer, &told, 5, "t", b"invalid");
    producer.flush();
    told.wait(6, &producer).await;
    assert_eq!(told.ended(Outcome::Delivered), 6);
    let mut found: Vec<_> = letters(&kafka)
        .iter()
        .map(|letter| {
            let name = |name| header(letter, name).unwrap_or("-").to_owned();
            (name("dead_letter.reason"), name("dead_letter.topic"), name("dead_letter.value_bytes"))
        })
        .collect();
    found.sort();
    let expected = [
        ("illegal_topic", "no topic", "-"),
        ("illegal_topic", "plant-${site}", "-"),
        ("invalid", "t", "-"),
        ("invalid", "t", "-"),
        ("not_allowed", "dead", "-"),
        ("too_large", "t", "150000"),
    ];
    assert_eq!(found, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    check_counts(&producer.status());
}

#[tokio::test]
async fn a_dead_letter_that_is_too_large_itself_is_cut_off_once_and_then_rejected() {
    let kafka = kafka().await;
    kafka.faults().max_message_bytes("dead", 25_000).unwrap();
    let producer = start(to_topic(&kafka));
    let told = Arc::new(Told::default());
    offer(&producer, &told, 0, "t", &vec![b'x'; 30_000]);
    producer.flush();
    told.wait(1, &producer).await;
    let letter = &letters(&kafka)[0];
    assert_eq!(letter.value.as_ref().unwrap().len(), 16 * 1024);
    assert_eq!(header(letter, "dead_letter.value_bytes"), Some("30000"));
    assert_eq!(
        (header(letter, "dead_letter.reason"), header(letter, "mqtt.client_id")),
        (Some("too_large"), Some("c7"))
    );
    // Now not even that fits: it ends, and does not go in a circle.
    kafka.faults().max_message_bytes("dead", 1000).unwrap();
    let before = kafka.requests(ApiKey::Produce).len();
    offer(&producer, &told, 1, "t", &vec![b'x'; 30_000]);
    producer.flush();
    told.wait(2, &producer).await;
    assert_eq!(told.of(1), Some(Outcome::Rejected(Rejection::TooLarge)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(kafka.requests(ApiKey::Produce).len(), before + 3, "the record, the letter, the cut letter");
    let records = producer.status().records;
    assert_eq!((records.rejected, records.dead_lettered[&Rejection::TooLarge], records.held), (1, 1, 0));
}

#[tokio::test]
async fn a_topic_of_dead_letters_that_is_missing_holds_them_and_nobody_else() {
    let kafka = kafka().await;
    let producer = start(Config {
        dead_letter: Some(DeadLetter::Topic("later".to_owned())),
        ..config(&kafka.bootstrap())
    });
    let told = Arc::new(Told::default());
    for token in 0..50 {
        offer(&producer, &told, token, "t", &vec![1; if token % 10 == 0 { 30_000 } else { 10 }]);
    }
    producer.flush();
    told.wait(45, &producer).await;
    until("the state says so", || producer.status().problems.iter().any(|(part, _)| part == "topic later"))
        .await;
    assert_eq!((told.count(), producer.status().records.held), (45, 5));
    kafka.create_topic("later", 1).unwrap();
    told.wait(50, &producer).await;
    assert_eq!(kafka.ledger("later").unwrap().iter().count(), 5);
    check_counts(&producer.status());
}

#[tokio::test]
async fn a_record_refused_when_it_comes_back_from_disk_becomes_a_dead_letter_of_its_rule() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let spilling = |disk: &SimDisk| {
        let after = Duration::from_millis(30);
        let spill = SpillConfig { after, ..SpillConfig::new(Arc::new(disk.clone())) };
        Producer::start_spilling(to_topic(&kafka), spill, &Handle::current()).unwrap()
    };
    let told = Arc::new(Told::default());
    let first = spilling(&disk);
    let feed = first.feed_for("r1", AckPolicy::Durable.into());
    for token in 0..20 {
        offer(&feed, &told, token, "t", &vec![1; if token == 11 { 30_000 } else { 10 }]);
    }
    first.flush();
    told.wait(20, &first).await;
    assert_eq!(told.ended(Outcome::Delivered), 20, "all of them are on disk");
    drop((feed, first));
    kafka.faults().up(1).await.unwrap();
    let second = spilling(&disk.after_kill());
    until("all are sent", || second.status().records.held == 0).await;
    assert_eq!(kafka.ledger("t").unwrap().iter().count(), 19);
    let letters = letters(&kafka);
    assert_eq!(letters.len(), 1);
    assert_eq!(header(&letters[0], "dead_letter.rule"), Some("r1"), "the name of the rule was on disk");
    let status = second.status();
    let (_, rule) = status.sources.iter().find(|(name, _)| name == "r1").unwrap();
    assert_eq!((rule.offered, rule.delivered, rule.dead_lettered[&Rejection::TooLarge]), (20, 19, 1));
    check_counts(&status);
}

#[tokio::test]
async fn records_on_disk_whose_topic_turns_out_to_be_none_become_dead_letters() {
    let (kafka, disk) = (kafka().await, SimDisk::new());
    kafka.faults().down(1).await;
    let after = Duration::from_millis(30);
    let spill = SpillConfig { after, ..SpillConfig::new(Arc::new(disk.clone())) };
    let producer = Producer::start_spilling(to_topic(&kafka), spill, &Handle::current()).unwrap();
    let told = Arc::new(Told::default());
    for token in 0..7 {
        offer(&producer, &told, token, "taken.name", b"x");
    }
    producer.flush();
    told.wait(7, &producer).await;
    // As Kafka answers for a name that differs from another topic's by a dot and an underscore only.
    kafka.faults().inject(On::api(ApiKey::Metadata).times(1), Effect::Error(ErrorCode(17)));
    kafka.faults().up(1).await.unwrap();
    until("they are dead letters", || kafka.ledger("dead").unwrap().iter().count() == 7).await;
    until("the disk is empty", || producer.status().spill.unwrap().disk_bytes == 0).await;
    let records = producer.status().records;
    assert_eq!((records.held, records.dead_lettered[&Rejection::IllegalTopic]), (0, 7));
}

/// A folder of the test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-dead-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self(folder)
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.join("dead.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn dead_letters_in_a_file_are_there_whole_when_they_are_acknowledged() {
    let (kafka, folder) = (kafka().await, Folder::new("file"));
    let file = DeadLetterFile::new(folder.0.join("dead.jsonl"));
    let producer = start(Config { dead_letter: Some(DeadLetter::File(file)), ..config(&kafka.bootstrap()) });
    let feed = producer.feed_for("r2", AckPolicy::Kafka.into());
    let told = Arc::new(Told::default());
    offer(&feed, &told, 0, "t", &vec![0xff; 30_000]);
    offer(&feed, &told, 1, "t", b"small");
    offer(&feed, &told, 2, "a b", b"text");
    feed.flush();
    told.wait(3, &producer).await;
    assert_eq!(told.ended(Outcome::Delivered), 3);
    let mut lines = folder.lines();
    lines.sort_by_key(|line| line["reason"].to_string());
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[0]["topic"], &lines[0]["value"], &lines[0]["rule"]),
        (&json!("a b"), &json!("text"), &json!("r2"))
    );
    assert_eq!(lines[1]["value"]["base64"].as_str().unwrap().len(), 40_000);
    assert_eq!(lines[1]["headers"], json!([["mqtt.client_id", "c7"], ["nothing", null]]));
    check_counts(&producer.status());
}

#[tokio::test]
async fn a_file_that_cannot_be_written_acknowledges_nothing_says_so_and_holds_up_no_neighbour() {
    let (kafka, folder) = (kafka().await, Folder::new("broken"));
    // A directory stands where the file should be.
    let path = folder.0.join("dead.jsonl");
    std::fs::create_dir_all(&path).unwrap();
    let producer = start(Config {
        dead_letter: Some(DeadLetter::File(DeadLetterFile::new(&path))),
        budget_bytes: 1 << 20,
        ..config(&kafka.bootstrap())
    });
    let told = Arc::new(Told::default());
    // A quarter of the budget waits for the file; what exceeds it is rejected, as without dead letters.
    for token in 0..20 {
        offer(&producer, &told, token, "a b", &vec![1; 30_000]);
    }
    for token in 20..120 {
        offer(&producer, &told, token, "t", b"small");
    }
    producer.flush();
    told.wait(112, &producer).await;
    let rejected = told.ended(Outcome::Rejected(Rejection::IllegalTopic));
    assert_eq!((told.ended(Outcome::Delivered), rejected), (100, 12));
    until(
        "the state says so",
        || matches!(producer.status().state, State::Waiting(why) if why.contains("dead.jsonl")),
    )
    .await;
    std::fs::remove_dir(&path).unwrap();
    told.wait(120, &producer).await;
    assert_eq!(folder.lines().len(), 8);
    until("all is well", || producer.status().state == State::Up).await;
    check_counts(&producer.status());
}
