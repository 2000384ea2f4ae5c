//! What Kafka and the network do wrong, and what holds all the same: nothing that was reported as delivered is lost, no
//! record is there twice while the producer id lives, and each key keeps its order. One test, or one row of a test, for
//! each row of the table in the crate's documentation.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use support::{Stream, Told, check_counts, config, start, until};
use tidegate_kafka::{Config, ErrorClass, Producer, State, classify};
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};
use tidegate_sink::{Ack, Feed, Offer, Outcome, Record, Rejection, Settle, Settled};
use tokio::time::Instant;

/// A server with one topic, a producer with small batches so that many are in flight, and a stream of records.
async fn setup(nodes: usize, partitions: i32) -> (MiniKafka, Producer, Stream) {
    let kafka = MiniKafka::builder().nodes(nodes).start().await.unwrap();
    kafka.create_topic("t", partitions).unwrap();
    let producer = start(Config {
        batch_bytes: 600,
        linger: Duration::from_millis(1),
        request_timeout: Duration::from_secs(1),
        ..config(&kafka.bootstrap())
    });
    (kafka, producer, Stream::new("t"))
}

/// Offers records with small pauses, so that the fault hits requests that are pipelined.
async fn offer_steadily(stream: &mut Stream, producer: &Producer, turns: u64) {
    for _ in 0..turns {
        stream.offer(producer, 20).await;
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
}

/// Runs records through a server on which `effect` hits a few requests in the middle. Returns the producer's last status.
async fn run_with(effect: Effect, times: u32) -> (tidegate_kafka::Status, usize) {
    let (kafka, producer, mut stream) = setup(1, 3).await;
    offer_steadily(&mut stream, &producer, 5).await;
    let name = format!("{effect:?}");
    let injected = kafka.faults().inject(On::api(ApiKey::Produce).times(times), effect);
    offer_steadily(&mut stream, &producer, 20).await;
    stream.settled(&producer).await;
    assert_eq!(injected.fired(), times, "{name}");
    assert_eq!(stream.told.ended(Outcome::Delivered), 500, "{name}");
    let duplicates = stream.check(&kafka);
    let status = producer.status();
    check_counts(&status);
    assert_eq!(status.held_bytes, 0, "{name}");
    assert_eq!(status.state, State::Up, "{name}: every trouble is over: {:?}", status.problems);
    (status, duplicates)
}

fn retries(status: &tidegate_kafka::Status, class: ErrorClass) -> u64 {
    status.retries.iter().find(|(c, _)| *c == class).unwrap().1
}

#[tokio::test]
async fn retriable_errors_neither_lose_nor_duplicate_nor_reorder() {
    for code in [3, 5, 6, 8, 9, 13, 56, 72, 74, 75, 100, 103, 2, 7, 14, 15, 16, 19, 20, 51, 89] {
        let (status, duplicates) = run_with(Effect::Error(ErrorCode(code)), 2).await;
        assert_eq!(duplicates, 0, "code {code}");
        assert!(retries(&status, classify(code)) > 0, "code {code}: {:?}", status.retries);
        assert_eq!(status.possible_duplicates, 0, "code {code}");
    }
}

#[tokio::test]
async fn an_error_after_the_append_is_repeated_without_a_duplicate() {
    // REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, NOT_LEADER_OR_FOLLOWER
    for code in [7, 20, 6] {
        let (status, duplicates) = run_with(Effect::ErrorAfterWork(ErrorCode(code)), 3).await;
        assert_eq!((duplicates, status.possible_duplicates), (0, 0), "code {code}");
    }
}

#[tokio::test]
async fn a_repeated_sequence_counts_as_delivered() {
    let (status, duplicates) = run_with(Effect::ErrorAfterWork(ErrorCode(46)), 3).await;
    assert_eq!((duplicates, status.records.retries), (0, 0));
}

#[tokio::test]
async fn errors_that_nothing_helps_against_hold_the_records_until_they_go() {
    // UNKNOWN_SERVER_ERROR, TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED, POLICY_VIOLATION, and a new one
    for code in [-1, 29, 31, 44, 9999] {
        let (status, duplicates) = run_with(Effect::Error(ErrorCode(code)), 2).await;
        assert_eq!(duplicates, 0, "code {code}");
        assert!(retries(&status, ErrorClass::Park) > 0, "code {code}");
    }
}

#[tokio::test]
async fn a_revoked_right_is_visible_and_a_grant_is_noticed() {
    let (kafka, producer, mut stream) = setup(1, 2).await;
    stream.offer(&producer, 50).await;
    stream.settled(&producer).await;
    kafka.faults().forbid_topic("t");
    stream.offer(&producer, 50).await;
    until(
        "the state names the reason",
        || matches!(producer.status().state, State::Waiting(why) if why.contains("TopicAuthorizationFailed")),
    )
    .await;
    assert_eq!(stream.told.count(), 50);
    kafka.faults().restore_topic("t");
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_lost_sequence_takes_a_new_producer_id_and_counts_what_may_be_double() {
    // OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID,
    // PRODUCER_FENCED
    for code in [45, 47, 49, 59, 90] {
        let (status, duplicates) = run_with(Effect::Error(ErrorCode(code)), 1).await;
        assert!(retries(&status, ErrorClass::NewProducerId) > 0, "code {code}");
        assert!(status.possible_duplicates >= 1, "code {code}");
        assert_eq!(duplicates, 0, "code {code}: nothing was stored by the failed attempt");
    }
}

#[tokio::test]
async fn expired_producer_ids_lose_nothing() {
    let (kafka, producer, mut stream) = setup(1, 3).await;
    offer_steadily(&mut stream, &producer, 5).await;
    kafka.faults().expire_producer_ids();
    offer_steadily(&mut stream, &producer, 20).await;
    stream.settled(&producer).await;
    let duplicates = stream.check(&kafka);
    assert!(duplicates as u64 <= producer.status().possible_duplicates, "every duplicate was announced");
    assert_eq!(stream.told.ended(Outcome::Delivered), 500);
}

#[tokio::test]
async fn a_lost_connection_sends_the_same_bytes_again() {
    for effect in [
        Effect::DropBefore,
        Effect::DropAfter,
        Effect::HalfAnswer,
        Effect::WrongCorrelation,
        Effect::Raw(Bytes::from_static(b"\x00\x00\x00\x01x")),
        Effect::Raw(Bytes::from_static(b"\xff\xff\xff\xff")),
        Effect::Raw(Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ] {
        let name = format!("{effect:?}");
        let (status, duplicates) = run_with(effect, 2).await;
        assert_eq!((duplicates, status.possible_duplicates), (0, 0), "{name}");
        assert!(status.connection_losses > 0, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_and_asked_for_again() {
    let (status, duplicates) = run_with(Effect::StallAnswer(Duration::from_millis(1400)), 1).await;
    assert_eq!((duplicates, status.possible_duplicates), (0, 0));
    assert!(status.connection_losses > 0);
    let (status, duplicates) = run_with(Effect::Stall(Duration::from_millis(1400)), 1).await;
    assert_eq!((duplicates, status.possible_duplicates), (0, 0));
    assert!(status.connection_losses > 0);
}

#[tokio::test]
async fn a_throttle_is_honoured_and_its_batch_is_not_sent_again() {
    let (kafka, producer, mut stream) = setup(1, 1).await;
    stream.offer(&producer, 10).await;
    stream.settled(&producer).await;
    kafka.faults().inject(On::api(ApiKey::Produce).times(1), Effect::Throttle(Duration::from_millis(800)));
    stream.offer(&producer, 10).await;
    stream.settled(&producer).await;
    let throttled_at = Instant::now();
    let before = kafka.requests(ApiKey::Produce).len();
    stream.offer(&producer, 10).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(kafka.requests(ApiKey::Produce).len(), before, "nothing is sent meanwhile");
    stream.settled(&producer).await;
    assert!(throttled_at.elapsed() >= Duration::from_millis(700));
    assert_eq!((stream.check(&kafka), producer.status().throttled), (0, 1));
}

#[tokio::test]
async fn a_leader_that_moves_is_followed() {
    let (kafka, producer, mut stream) = setup(3, 6).await;
    for turn in 0..12 {
        offer_steadily(&mut stream, &producer, 5).await;
        for partition in 0..6 {
            kafka.faults().move_leader("t", partition, (turn + partition) % 3 + 1).unwrap();
        }
    }
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
    let status = producer.status();
    assert!(retries(&status, ErrorClass::RetryWithMetadata) > 0);
    assert_eq!(status.possible_duplicates, 0);
}

#[tokio::test]
async fn a_node_that_led_nothing_before_is_followed_to() {
    let (kafka, producer, mut stream) = setup(2, 1).await;
    kafka.faults().move_leader("t", 0, 1).unwrap();
    stream.offer(&producer, 10).await;
    stream.settled(&producer).await;
    // The move finds records that wait with their old owner.
    let held = kafka.faults().inject(On::api(ApiKey::Produce).node(1), Effect::Error(ErrorCode(6)));
    stream.offer(&producer, 10).await;
    held.wait_fired(1).await;
    kafka.faults().move_leader("t", 0, 2).unwrap();
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_node_that_dies_hands_its_partitions_over() {
    let (kafka, producer, mut stream) = setup(2, 4).await;
    offer_steadily(&mut stream, &producer, 5).await;
    kafka.faults().down(1).await;
    offer_steadily(&mut stream, &producer, 5).await;
    for partition in 0..4 {
        kafka.faults().move_leader("t", partition, 2).unwrap();
    }
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_partition_without_leader_holds_up_no_other() {
    let (kafka, producer, mut stream) = setup(1, 8).await;
    stream.keys = 40;
    stream.offer(&producer, 40).await;
    stream.settled(&producer).await;
    kafka.faults().take_offline("t", 0).unwrap();
    stream.offer(&producer, 400).await;
    let waiting = (40..440_u64)
        .filter(|n| (tidegate_kafka::murmur2(stream.key(*n).as_bytes()) & 0x7fff_ffff) % 8 == 0)
        .count();
    assert!(waiting > 0);
    let told = Arc::clone(&stream.told);
    until("the others are through", || told.count() == 440 - waiting).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(told.count(), 440 - waiting);
    kafka.faults().move_leader("t", 0, 1).unwrap();
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_topic_that_is_gone_for_a_while_keeps_its_records() {
    let (kafka, producer, mut stream) = setup(1, 2).await;
    stream.offer(&producer, 50).await;
    stream.settled(&producer).await;
    kafka.faults().hide_topic("t");
    stream.offer(&producer, 50).await;
    until("the state says so", || {
        producer.status().problems.contains(&("topic t".to_owned(), "it does not exist".to_owned()))
    })
    .await;
    assert_eq!(stream.told.count(), 50);
    kafka.faults().restore_topic("t");
    stream.settled(&producer).await;
    until("all is well", || producer.status().state == State::Up).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_topic_that_was_gone_is_asked_about_until_kafka_says_what_it_is() {
    let (kafka, producer, mut stream) = setup(1, 2).await;
    stream.offer(&producer, 50).await;
    stream.settled(&producer).await;
    kafka.faults().inject(On::api(ApiKey::Produce), Effect::Error(ErrorCode(3)));
    // Metadata does not say that it is missing, and nothing about its partitions.
    kafka.faults().forbid_topic("t");
    stream.offer(&producer, 50).await;
    until("it waits", || matches!(producer.status().state, State::Waiting(_))).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    kafka.faults().clear();
    kafka.faults().restore_topic("t");
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn publishers_that_interleave_in_a_batch_are_each_told_once_and_in_order() {
    #[derive(Default)]
    struct Calls(Mutex<Vec<Vec<u64>>>);
    impl Settle for Calls {
        fn settle(&self, settled: &[Settled]) {
            self.0.lock().push(settled.iter().map(|one| one.token).collect());
        }
    }
    let (kafka, producer, mut stream) = setup(1, 1).await;
    stream.offer(&producer, 1).await;
    stream.settled(&producer).await;
    let held = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    stream.offer(&producer, 1).await;
    held.wait_fired(1).await;
    let publishers: Vec<Arc<Calls>> = (0..3).map(|_| Arc::default()).collect();
    for token in 0..9 {
        let target: Arc<dyn Settle> = Arc::<Calls>::clone(&publishers[token as usize % 3]);
        assert!(matches!(producer.offer(&Record::new("t"), Some(Ack::new(target, token))), Offer::Taken));
    }
    held.release();
    until("all are told", || publishers.iter().all(|p| !p.0.lock().is_empty())).await;
    let calls: Vec<_> = publishers.iter().map(|p| p.0.lock().clone()).collect();
    assert_eq!(calls, [vec![vec![0, 3, 6]], vec![vec![1, 4, 7]], vec![vec![2, 5, 8]]]);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_isolated_and_rejected() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    kafka.faults().max_message_bytes("t", 20_000).unwrap();
    let producer = start(Config { max_request_bytes: 500_000, ..config(&kafka.bootstrap()) });
    let told = Arc::new(Told::default());
    let large = [13, 57, 58, 199];
    let huge = 120;
    for token in 0..200_u64 {
        let size = if token == huge {
            600_000
        } else if large.contains(&token) {
            30_000
        } else {
            400
        };
        let value = vec![u8::try_from(token).unwrap(); size];
        let record = Record { key: Some(b"k"), value: Some(&value), ..Record::new("t") };
        assert!(matches!(producer.offer(&record, Some(told.ack(token))), Offer::Taken));
    }
    producer.flush();
    told.wait(200, &producer).await;
    for token in 0..200 {
        let refused = large.contains(&token) || token == huge;
        let outcome = if refused { Outcome::Rejected(Rejection::TooLarge) } else { Outcome::Delivered };
        assert_eq!(told.of(token), Some(outcome), "record {token}");
    }
    let ledger = kafka.ledger("t").unwrap();
    let found: Vec<u64> = ledger.iter().map(|r| r.value.as_ref().unwrap()[0].into()).collect();
    let expected: Vec<u64> = (0..200).filter(|n| !large.contains(n) && *n != huge).collect();
    assert_eq!(found, expected, "the neighbours are there once, in order");
    let status = producer.status();
    assert_eq!((status.possible_duplicates, status.held_bytes), (0, 0), "{status:#?}");
    check_counts(&status);
}

#[tokio::test]
async fn batches_that_failed_behind_one_that_was_too_large_are_no_trouble_of_their_own() {
    let (kafka, producer, mut stream) = setup(1, 1).await;
    offer_steadily(&mut stream, &producer, 5).await;
    stream.settled(&producer).await;
    kafka.faults().max_message_bytes("t", 300).unwrap();
    // More at once than one request takes, so that several are in flight.
    for _ in 0..5 {
        stream.offer(&producer, 400).await;
        stream.settled(&producer).await;
    }
    stream.settled(&producer).await;
    let status = producer.status();
    assert!(retries(&status, ErrorClass::RetryInPlace) > 0, "several were in flight: {status:#?}");
    assert_eq!((stream.check(&kafka), status.state), (0, State::Up), "{:?}", status.problems);
}

#[tokio::test]
async fn an_invalid_record_is_isolated_and_rejected() {
    for code in [87, 32] {
        let kafka = MiniKafka::builder().start().await.unwrap();
        kafka.create_topic("t", 1).unwrap();
        let producer = start(config(&kafka.bootstrap()));
        let mut stream = Stream::new("t");
        stream.offer(&producer, 1).await;
        stream.settled(&producer).await;
        // Four records, then the first two, then the first alone: which is the culprit.
        kafka.faults().inject(On::api(ApiKey::Produce).times(3), Effect::Error(ErrorCode(code)));
        stream.offer(&producer, 4).await;
        stream.settled(&producer).await;
        assert_eq!(stream.told.of(1), Some(Outcome::Rejected(Rejection::Invalid)), "code {code}");
        assert_eq!(stream.told.ended(Outcome::Delivered), 4);
        assert_eq!(stream.check(&kafka), 0);
        assert_eq!(producer.status().possible_duplicates, 0, "the gap in the sequence closed");
    }
}

/// A small generator of its own: the run is repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// `TIDEGATE_SEEDS=100` runs as many; one that fails is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_all_kinds_together_lose_duplicate_and_reorder_nothing() {
    let seeds = std::env::var("TIDEGATE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15) | 1);
        let (kafka, producer, mut stream) = setup(3, 5).await;
        stream.keys = 17;
        for _ in 0..60 {
            let on = On::api(ApiKey::Produce).times(1 + u32::try_from(random.below(2)).unwrap());
            let effect = match random.below(10) {
                0 => Effect::DropBefore,
                1 => Effect::DropAfter,
                2 => Effect::HalfAnswer,
                3 => Effect::Error(ErrorCode(19)),
                4 => Effect::ErrorAfterWork(ErrorCode(20)),
                5 => Effect::Error(ErrorCode(6)),
                6 => Effect::ErrorAfterWork(ErrorCode(7)),
                7 => Effect::Throttle(Duration::from_millis(3)),
                8 => Effect::Stall(Duration::from_millis(5)),
                _ => Effect::Error(ErrorCode(10)),
            };
            // A split down to a lone record would rightly reject it, so that fault stays away from small batches.
            if !matches!(effect, Effect::Error(ErrorCode(10))) {
                kafka.faults().inject(on, effect);
            }
            if random.below(4) == 0 {
                let partition = i32::try_from(random.below(5)).unwrap();
                let node = i32::try_from(random.below(3)).unwrap() + 1;
                kafka.faults().move_leader("t", partition, node).unwrap();
            }
            if random.below(12) == 0 {
                kafka.faults().drop_connections();
            }
            let count = random.below(30);
            stream.offer(&producer, count).await;
            if random.below(2) == 0 {
                tokio::time::sleep(Duration::from_micros(random.below(4000))).await;
            }
        }
        stream.settled(&producer).await;
        let status = producer.status();
        assert_eq!(stream.told.ended(Outcome::Delivered) as u64, stream.offered, "seed {seed}");
        assert_eq!((stream.check(&kafka), status.possible_duplicates), (0, 0), "seed {seed}: {status:#?}");
        check_counts(&status);
    }
}
