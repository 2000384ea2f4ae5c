//! The table of errors in the crate's documentation, code by code: whatever Kafka answers, and to whichever request, each
//! record ends once and as its row says, and the order of the keys stands. Then what changes about topics and rights.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::time::Duration;

use support::{Stream, config, start, until};
use tidegate_kafka::{Config, ErrorClass, Producer, State, TopicLayout, classify, error_name};
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};
use tidegate_sink::{Outcome, Rejection};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Every code that a Kafka of today may answer, and some that none does. 0 is success, which is everywhere else.
fn codes() -> impl Iterator<Item = i16> {
    (1..=133).chain([-1, 999, i16::MAX, i16::MIN])
}

/// How a row ends after its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Delivered once, under the same producer id.
    Same,
    /// Delivered once, under a new producer id, and announced as perhaps twice.
    NewId,
    /// A record that is alone in its batch may be rejected for this reason; all others are delivered once.
    Split(Rejection),
}

fn row(code: i16) -> Row {
    match code {
        10 | 18 => Row::Split(Rejection::TooLarge),
        32 | 87 => Row::Split(Rejection::Invalid),
        45 | 47 | 49 | 59 | 90 => Row::NewId,
        _ => Row::Same,
    }
}

async fn setup(config_of: impl FnOnce(Config) -> Config) -> (MiniKafka, Producer, Stream) {
    let kafka = MiniKafka::builder().auto_create(false).start().await.unwrap();
    kafka.create_topic("t", 2).unwrap();
    let small = Config { batch_bytes: 600, linger: Duration::from_millis(1), ..config(&kafka.bootstrap()) };
    let producer = start(config_of(small));
    (kafka, producer, Stream::new("t"))
}

/// Sends records while the `nth` answer from here on, and the one behind it, is `code`.
async fn check_row(code: i16, nth: u32) {
    let name = format!("code {code} ({}) at answer {nth}", error_name(code));
    let (kafka, producer, mut stream) = setup(|config| config).await;
    stream.offer(&producer, 10).await;
    stream.settled(&producer).await;
    // A repeated sequence means that the batch is there.
    let error = ErrorCode(code);
    let effect = if code == 46 { Effect::ErrorAfterWork(error) } else { Effect::Error(error) };
    let times = if matches!(row(code), Row::Same) { 2 } else { 1 };
    let injected = kafka.faults().inject(On::api(ApiKey::Produce).skip(nth).times(times), effect);
    for _ in 0..8 {
        stream.offer(&producer, 10).await;
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    stream.settled(&producer).await;
    // What was refused again and again is small by now, so the requests may be fewer than were asked to fail.
    assert!(injected.fired() > 0, "{name}");
    let status = producer.status();
    assert_eq!(stream.check(&kafka), 0, "{name}: nothing is there twice");
    stream.check_told(&status);
    assert_eq!(status.state, State::Up, "{name}: {:?}", status.problems);
    let rejected = stream.offered - stream.told.ended(Outcome::Delivered) as u64;
    let class = classify(code);
    match row(code) {
        Row::Same => assert_eq!((rejected, status.possible_duplicates), (0, 0), "{name}"),
        Row::NewId => {
            assert_eq!((class, rejected), (ErrorClass::NewProducerId, 0), "{name}");
            assert!(status.possible_duplicates > 0, "{name}");
        }
        Row::Split(reason) => {
            assert_eq!((class, status.possible_duplicates), (ErrorClass::Split(reason), 0), "{name}");
            assert_eq!(stream.told.ended(Outcome::Rejected(reason)) as u64, rejected, "{name}");
            assert!(rejected <= 1, "{name}");
        }
    }
    if class != ErrorClass::Delivered {
        let counted = status.retries.iter().find(|(counted, _)| counted.name() == class.name()).unwrap();
        assert!(counted.1 > 0, "{name}: counted by its class: {:?}", status.retries);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_at_any_answer_ends_each_record_once_as_its_row_says() {
    for nth in [0, 3] {
        let mut rows = JoinSet::new();
        for code in codes() {
            rows.spawn(check_row(code, nth));
            if rows.len() >= 16 {
                rows.join_next().await.unwrap().unwrap();
            }
        }
        while let Some(ended) = rows.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test]
async fn a_missing_right_to_create_a_topic_is_told_within_five_seconds_and_a_grant_is_noticed() {
    let (kafka, producer, _) =
        setup(|config| Config { create_topics: Some(TopicLayout::default()), ..config }).await;
    // TOPIC_AUTHORIZATION_FAILED
    let forbidden = kafka.faults().inject(On::api(ApiKey::CreateTopics), Effect::Error(ErrorCode(29)));
    let mut stream = Stream::new("new");
    let begun = Instant::now();
    stream.offer(&producer, 20).await;
    until(
        "the state says so",
        || matches!(producer.status().state, State::Waiting(why) if why.contains("TopicAuthorizationFailed")),
    )
    .await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(stream.told.count(), 0);
    forbidden.remove();
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
    until("all is well", || producer.status().state == State::Up).await;
    stream.check_told(&producer.status());
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_again_gets_the_records_that_waited() {
    for partitions in [2, 5] {
        let (kafka, producer, mut stream) = setup(|config| config).await;
        stream.offer(&producer, 50).await;
        stream.settled(&producer).await;
        kafka.delete_topic("t").unwrap();
        let begun = Instant::now();
        let mut again = Stream::new("t");
        again.offer(&producer, 50).await;
        until("the state says so", || matches!(producer.status().state, State::Waiting(_))).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(again.told.count(), 0);
        kafka.create_topic("t", partitions).unwrap();
        again.settled(&producer).await;
        let announced = producer.status().possible_duplicates;
        assert!(again.check(&kafka) as u64 <= announced, "{partitions} partitions");
        assert_eq!(again.told.ended(Outcome::Delivered), 50);
        until("all is well", || producer.status().state == State::Up).await;
        support::check_counts(&producer.status());
    }
}
