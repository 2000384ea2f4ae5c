//! Records reach Kafka as they were offered, and acknowledgements say what happened.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Stream, Told, check_counts, config, start, until};
use tidegate_kafka::{Config, Reader, State, TopicLayout, murmur2};
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};
use tidegate_sink::{Feed, Offer, Outcome, Record, Rejection};
use tokio::time::Instant;

#[tokio::test]
async fn a_record_arrives_as_it_was_offered_on_the_partition_that_java_would_choose() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 7).unwrap();
    let producer = start(config(&kafka.bootstrap()));
    let told = Arc::new(Told::default());
    let headers: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("a", None), ("\u{f6}", Some(b""))];
    let big = vec![7_u8; 300_000];
    let records = [
        Record {
            key: Some(b"foobar"),
            value: Some(b"v"),
            headers: &headers,
            timestamp_ms: 12,
            ..Record::new("t")
        },
        Record { key: Some(b""), value: None, timestamp_ms: 10, ..Record::new("t") },
        Record { key: None, value: Some(b""), timestamp_ms: 900_000_000_000, ..Record::new("t") },
        Record { key: Some(b"foobar"), value: Some(&big), partition: Some(3), ..Record::new("t") },
    ];
    for (token, record) in records.iter().enumerate() {
        assert!(matches!(producer.offer(record, Some(told.ack(token as u64))), Offer::Taken));
    }
    producer.flush();
    told.wait(4, &producer).await;
    assert_eq!(told.ended(Outcome::Delivered), 4);

    let ledger = kafka.ledger("t").unwrap();
    assert_eq!(ledger.len(), 4);
    let java = |key: &[u8]| (murmur2(key) & 0x7fff_ffff) % 7;
    for record in &records {
        let found =
            ledger.iter().find(|f| f.value.as_deref() == record.value && f.key.as_deref() == record.key);
        let found = found.unwrap_or_else(|| panic!("{record:?}"));
        assert_eq!(found.timestamp_ms, record.timestamp_ms);
        let found_headers: Vec<_> =
            found.headers.iter().map(|(n, v)| (std::str::from_utf8(n).unwrap(), v.as_deref())).collect();
        assert_eq!(found_headers, record.headers);
        match (record.partition, record.key) {
            (Some(explicit), _) => assert_eq!(found.partition, explicit.cast_signed()),
            (None, Some(key)) => assert_eq!(found.partition, java(key)),
            (None, None) => {}
        }
    }

    let mut reader = Reader::connect(&config(&kafka.bootstrap()), "t").await.unwrap();
    assert_eq!(reader.partitions(), [0, 1, 2, 3, 4, 5, 6]);
    let fetched = reader.fetch(java(b"foobar"), 0, Duration::from_secs(1)).await.unwrap();
    let first = &fetched.records[0];
    assert_eq!((first.offset, first.timestamp_ms, first.value.as_deref()), (0, 12, Some(&b"v"[..])));
    let found: Vec<_> = first.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
    assert_eq!(found, headers, "a header with a null value can be read back");
    assert_eq!(reader.offsets(3).await.unwrap(), (0, 1));
}

#[tokio::test]
async fn thousands_of_records_arrive_once_in_the_order_of_their_keys() {
    let kafka = MiniKafka::builder().nodes(3).start().await.unwrap();
    kafka.create_topic("t", 8).unwrap();
    let producer = start(Config { batch_bytes: 4096, ..config(&kafka.bootstrap()) });
    let mut stream = Stream::new("t");
    stream.keys = 50;
    for _ in 0..200 {
        stream.offer(&producer, 50).await;
        tokio::task::yield_now().await;
    }
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
    let status = producer.status();
    assert_eq!((status.records.delivered, status.held_bytes, status.records.in_flight), (10_000, 0, 0));
    assert_eq!(status.latency_buckets.iter().sum::<u64>(), status.batches);
    assert!(status.requests < status.batches, "several partitions share a request: {status:?}");
    assert_eq!(status.state, State::Up);
    check_counts(&status);
}

#[tokio::test]
async fn records_wait_in_order_for_a_kafka_that_is_down_at_start() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 4).unwrap();
    kafka.faults().down(1).await;
    let producer = start(config(&kafka.bootstrap()));
    let mut stream = Stream::new("t");
    stream.offer(&producer, 500).await;
    until("it says why it waits", || matches!(producer.status().state, State::Waiting(_))).await;
    assert_eq!(stream.told.count(), 0, "nothing is acknowledged before it is safe");
    kafka.faults().up(1).await.unwrap();
    stream.offer(&producer, 500).await;
    stream.settled(&producer).await;
    assert_eq!((stream.told.ended(Outcome::Delivered), stream.check(&kafka)), (1000, 0));
    until("it says that it flows", || producer.status().state == State::Up).await;
}

#[tokio::test]
async fn a_missing_topic_waits_visibly_until_someone_creates_it() {
    let kafka = MiniKafka::builder().auto_create(false).start().await.unwrap();
    let producer = start(config(&kafka.bootstrap()));
    let mut stream = Stream::new("later");
    stream.offer(&producer, 100).await;
    until("the state names the topic", || {
        producer.status().problems.contains(&("topic later".to_owned(), "it does not exist".to_owned()))
    })
    .await;
    assert_eq!(stream.told.count(), 0);
    kafka.create_topic("later", 3).unwrap();
    stream.offer(&producer, 100).await;
    stream.settled(&producer).await;
    assert_eq!(stream.check(&kafka), 0);
}

#[tokio::test]
async fn a_missing_topic_is_created_as_configured() {
    let kafka = MiniKafka::builder().auto_create(false).start().await.unwrap();
    let layout = TopicLayout { partitions: 6, ..TopicLayout::default() };
    let producer = start(Config { create_topics: Some(layout), ..config(&kafka.bootstrap()) });
    let mut stream = Stream::new("made");
    stream.offer(&producer, 100).await;
    stream.settled(&producer).await;
    assert_eq!((stream.check(&kafka), kafka.ledger("made").unwrap().partitions()), (0, 6));
}

#[tokio::test]
async fn a_topic_name_that_kafka_does_not_take_is_rejected() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    let producer =
        start(Config { create_topics: Some(TopicLayout::default()), ..config(&kafka.bootstrap()) });
    let told = Arc::new(Told::default());
    let long = "x".repeat(250);
    for (token, name) in ["no spaces", "", &long].into_iter().enumerate() {
        assert!(matches!(producer.offer(&Record::new(name), Some(told.ack(token as u64))), Offer::Taken));
    }
    producer.flush();
    told.wait(3, &producer).await;
    assert_eq!(told.ended(Outcome::Rejected(Rejection::IllegalTopic)), 3);
    check_counts(&producer.status());
}

#[tokio::test]
async fn a_full_budget_gives_records_back_until_there_is_room() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 2).unwrap();
    let producer = start(Config { budget_bytes: 100_000, ..config(&kafka.bootstrap()) });
    let told = Arc::new(Told::default());
    assert!(matches!(producer.offer(&Record::new("t"), Some(told.ack(0))), Offer::Taken));
    producer.flush();
    told.wait(1, &producer).await;
    let held = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    let mut taken = 1;
    let back = loop {
        let value = [1_u8; 500];
        match producer.offer(&Record { value: Some(&value), ..Record::new("t") }, Some(told.ack(taken))) {
            Offer::Taken => taken += 1,
            Offer::Full(ack) => break ack.unwrap(),
        }
    };
    assert!((100..200).contains(&taken), "{taken}");
    assert_eq!(back.token(), taken);
    producer.flush();
    let room = std::future::poll_fn(|cx| producer.poll_room(cx));
    assert!(tokio::time::timeout(Duration::from_millis(50), room).await.is_err());
    held.release();
    std::future::poll_fn(|cx| producer.poll_room(cx)).await;
    assert!(matches!(producer.offer(&Record::new("t"), Some(back)), Offer::Taken));
    producer.flush();
    told.wait(usize::try_from(taken).unwrap() + 1, &producer).await;
    assert_eq!(producer.status().records.refused, 1);
}

#[tokio::test]
async fn close_delivers_what_it_can_and_says_what_is_lost() {
    let kafka = MiniKafka::builder().nodes(2).start().await.unwrap();
    kafka.create_topic("t", 2).unwrap();
    kafka.faults().inject(
        On::api(ApiKey::Produce).partition("t", 0),
        Effect::Error(ErrorCode(19)), // NOT_ENOUGH_REPLICAS
    );
    let producer = start(Config { linger: Duration::from_mins(1), ..config(&kafka.bootstrap()) });
    let told = Arc::new(Told::default());
    for token in 0..100_u32 {
        let record = Record { value: Some(b"v"), partition: Some(token % 2), ..Record::new("t") };
        assert!(matches!(producer.offer(&record, Some(told.ack(token.into()))), Offer::Taken));
    }
    assert!(matches!(producer.offer(&Record::new("missing"), Some(told.ack(1000))), Offer::Taken));
    kafka.faults().hide_topic("missing");
    producer.flush();
    let start = Instant::now();
    producer.close(start + Duration::from_millis(400)).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!((told.ended(Outcome::Delivered), told.ended(Outcome::Lost)), (50, 51));
    assert!(matches!(producer.offer(&Record::new("t"), Some(told.ack(1001))), Offer::Taken));
    assert_eq!(told.of(1001), Some(Outcome::Lost));
    let status = producer.status();
    assert_eq!((status.state.clone(), status.held_bytes, status.records.held), (State::Closed, 0, 0));
    check_counts(&status);
}

#[tokio::test]
async fn what_comes_while_an_answer_is_due_waits_no_longer_than_its_linger() {
    let linger = Duration::from_millis(30);
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 2).unwrap();
    let producer = start(Config { linger, ..config(&kafka.bootstrap()) });
    let told = Arc::new(Told::default());
    let offer = |partition, token| {
        let record = Record { partition: Some(partition), ..Record::new("t") };
        assert!(matches!(producer.offer(&record, Some(told.ack(token))), Offer::Taken));
        producer.flush();
    };
    (0..2).for_each(|partition| offer(partition, partition.into()));
    told.wait(2, &producer).await;
    let held = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    offer(0, 2);
    held.wait_fired(1).await;
    // Beyond the linger of the first, and not in step with it.
    for (token, pause) in [(3, 40), (4, 75), (5, 1)] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let (requests, offered) = (producer.status().requests, Instant::now());
        offer(1, token);
        until("it is sent", || producer.status().requests > requests).await;
        assert!(offered.elapsed() >= linger / 2, "it was sent at once: nothing is proven by this");
        assert!(offered.elapsed() < 10 * linger, "{:?}", offered.elapsed());
    }
    held.release();
    told.wait(6, &producer).await;
}

#[tokio::test]
async fn records_gather_after_a_request_of_several_and_a_lone_one_does_not_wait() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let forever = Duration::from_mins(10);
    let alone = start(Config { linger: forever, request_interval: forever, ..config(&kafka.bootstrap()) });
    let mut stream = Stream::new("t");
    for _ in 0..5 {
        stream.offer(&alone, 1).await;
        stream.settled(&alone).await;
    }
    assert_eq!(alone.status().requests, 5);

    let interval = Duration::from_secs(2);
    let many = start(Config {
        linger: forever,
        request_timeout: forever, // whose timer would have it look as well
        request_interval: interval,
        ..config(&kafka.bootstrap())
    });
    let mut stream = Stream::new("t");
    let begun = Instant::now();
    let held = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    stream.offer(&many, 2).await;
    held.wait_fired(1).await;
    stream.offer(&many, 2).await;
    held.release();
    stream.told.wait(2, &many).await;
    for _ in 0..3 {
        stream.offer(&many, 1).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.settled(&many).await;
    assert!(begun.elapsed() >= interval, "they were sent at once");
    assert_eq!(many.status().requests, 2);
    // The interval is over: nothing holds up what comes after it.
    tokio::time::sleep(interval).await;
    stream.offer(&many, 1).await;
    stream.settled(&many).await;
    assert_eq!(many.status().requests, 3);
}

#[tokio::test]
async fn dropping_the_producer_settles_what_is_left() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let held = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    let producer = start(config(&kafka.bootstrap()));
    let mut stream = Stream::new("t");
    stream.offer(&producer, 10).await;
    held.wait_fired(1).await;
    stream.offer(&producer, 10).await;
    let told = Arc::clone(&stream.told);
    drop(producer);
    until("all are lost", || told.ended(Outcome::Lost) == 20).await;
}

#[tokio::test]
async fn records_flow_without_a_flush_when_their_batch_is_full() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let producer = start(Config { batch_bytes: 2000, ..config(&kafka.bootstrap()) });
    let told = Arc::new(Told::default());
    for token in 0..40 {
        let value = [0_u8; 100];
        let record = Record { value: Some(&value), ..Record::new("t") };
        assert!(matches!(producer.offer(&record, Some(told.ack(token))), Offer::Taken));
    }
    told.wait(30, &producer).await;
}

#[tokio::test]
async fn a_publisher_faster_than_kafka_is_held_back_and_goes_on() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 4).unwrap();
    let producer = start(Config { budget_bytes: 2 << 20, ..config(&kafka.bootstrap()) });
    let mut stream = Stream::new("t");
    (stream.keys, stream.padding) = (100, 1000);
    stream.offer(&producer, 10_000).await;
    stream.settled(&producer).await;
    let status = producer.status();
    assert!(status.records.refused > 0);
    assert_eq!((stream.check(&kafka), status.held_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishers_on_many_threads_share_a_small_budget_and_all_get_through() {
    let kafka = MiniKafka::builder().nodes(2).partitions(3).start().await.unwrap();
    let config = Config { budget_bytes: 200_000, batch_bytes: 20_000, ..config(&kafka.bootstrap()) };
    let producer = Arc::new(start(Config {
        create_topics: Some(TopicLayout { partitions: 3, ..Default::default() }),
        ..config
    }));
    let publishers: Vec<_> = (0..8)
        .map(|publisher| {
            let producer = Arc::clone(&producer);
            tokio::spawn(async move {
                let mut stream = Stream::new(&format!("topic-{publisher}"));
                stream.padding = 300;
                for _ in 0..40 {
                    stream.offer(&producer, 25).await;
                }
                stream.settled(&producer).await;
                stream
            })
        })
        .collect();
    for publisher in publishers {
        assert_eq!(publisher.await.unwrap().check(&kafka), 0);
    }
    let status = producer.status();
    assert!(status.records.refused > 0, "the budget was the limit");
    assert_eq!((status.records.delivered, status.held_bytes), (8000, 0));
}

#[tokio::test]
async fn f22_an_advertised_address_that_cannot_be_reached_is_named_with_the_remedy() {
    let kafka = MiniKafka::builder().advertised_host("kafka.invalid").start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    let addr = kafka.addr(1).unwrap();
    let producer = start(config(&addr.to_string()));
    let mut stream = Stream::new("t");
    stream.offer(&producer, 1).await;
    until("the address and the remedy are named", || {
        producer.status().problems.iter().any(|(part, why)| {
            part == "node 1"
                && why.contains(&format!("kafka.invalid:{}", addr.port()))
                && why.contains("advertised.listeners")
        })
    })
    .await;
    assert_eq!(stream.told.count(), 0);
}

#[tokio::test]
async fn a_topic_with_a_single_replica_is_warned_of_once() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 1).unwrap();
    for (warn_of_single_copies, warnings) in [(true, 1), (false, 0)] {
        let producer = start(Config { warn_of_single_copies, ..config(&kafka.bootstrap()) });
        let told = Arc::new(Told::default());
        for token in 0..3 {
            assert!(matches!(producer.offer(&Record::new("t"), Some(told.ack(token))), Offer::Taken));
            producer.flush();
        }
        told.wait(3, &producer).await;
        let found = producer.status().warnings;
        assert_eq!(found.len(), warnings, "{found:?}");
        assert!(found.iter().all(|(part, why)| part == "topic t" && why.contains("single replica")));
    }
}
