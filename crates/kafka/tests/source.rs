//! What a source promises, against a Kafka-compatible server in this process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::{PATIENCE, config, until};
use tidegate_kafka::{
    Batch, Config, Producer, Source, SourceConfig, SourceError, SourceState, SourceStatus, Start,
};
use tidegate_minikafka::{ApiKey, Effect, ErrorCode, MiniKafka, On};
use tidegate_sink::{Feed, Offer, Record};
use tokio::runtime::Handle;
use tokio::time::Instant;

const TOPIC: &str = "commands";

async fn kafka(partitions: i32) -> MiniKafka {
    let kafka = MiniKafka::builder().nodes(2).auto_create(false).start().await.unwrap();
    kafka.create_topic(TOPIC, partitions).unwrap();
    kafka
}

/// Quick to notice everything, so that no test waits for a default.
fn source_config() -> SourceConfig {
    SourceConfig {
        commit_interval: Duration::from_millis(20),
        session_timeout: Duration::from_secs(2),
        heartbeat_interval: Duration::from_millis(50),
        rebalance_timeout: Duration::from_secs(5),
        fetch_wait: Duration::from_millis(50),
        metadata_interval: Duration::from_millis(200),
        ..SourceConfig::new(vec![TOPIC.to_owned()], "group")
    }
}

fn start(kafka: &MiniKafka, source: SourceConfig) -> Source {
    Source::start(config(&kafka.bootstrap()), source, &Handle::current())
}

/// Writes numbered records, each for partition `number % partitions`.
async fn produce(kafka: &MiniKafka, numbers: std::ops::Range<u64>, partitions: u64) {
    // Small batches, as Kafka gives them out whole.
    let producer = support::start(Config { batch_bytes: 512, ..config_of(kafka) });
    for number in numbers {
        write(&producer, number, u32::try_from(number % partitions).unwrap());
    }
    producer.flush();
    until("the records are delivered", || producer.status().records.held == 0).await;
    producer.close(Instant::now() + PATIENCE).await;
}

fn write(producer: &Producer, number: u64, partition: u32) {
    let value = number.to_string();
    let headers: [(&str, Option<&[u8]>); 3] = [("h", Some(b"1")), ("h", Some(b"2")), ("null", None)];
    let record = Record {
        key: number.is_multiple_of(2).then_some(b"even"),
        value: (number % 5 != 4).then_some(value.as_bytes()),
        headers: &headers,
        timestamp_ms: i64::try_from(number).unwrap() * 1000,
        partition: Some(partition),
        ..Record::new(TOPIC)
    };
    assert!(matches!(producer.offer(&record, None), Offer::Taken));
}

async fn next(source: &mut Source) -> Batch {
    let status = source.watch();
    let next = tokio::time::timeout(PATIENCE, source.next()).await;
    next.unwrap_or_else(|_| panic!("a batch comes: {:#?}", status.status())).unwrap()
}

/// Takes batches until there were so many records, and finishes all of them: partition and offset of each.
async fn drain(source: &mut Source, count: usize) -> Vec<(i32, i64)> {
    let mut found = Vec::new();
    while found.len() < count {
        let batch = next(source).await;
        found.extend(batch.records().iter().map(|record| (batch.partition(), record.offset)));
        batch.finish();
    }
    found
}

async fn close(source: Source) {
    source.close(Instant::now() + PATIENCE).await;
}

fn committed(status: &SourceStatus) -> BTreeMap<i32, i64> {
    status.partitions.iter().filter_map(|p| Some((p.partition, p.committed?))).collect()
}

fn errors(status: &SourceStatus, error: SourceError) -> u64 {
    status.errors.iter().find(|(known, _)| *known == error).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_over_is_committed_and_the_next_life_goes_on_behind_it() {
    let kafka = kafka(4).await;
    produce(&kafka, 0..40, 4).await;
    let mut source = start(&kafka, source_config());
    let mut found = drain(&mut source, 40).await;
    found.sort_unstable();
    let all: Vec<_> = (0..4).flat_map(|partition| (0..10).map(move |offset| (partition, offset))).collect();
    assert_eq!(found, all);
    let whole: BTreeMap<_, _> = (0..4).map(|partition| (partition, 10)).collect();
    until("all is committed", || committed(&source.status()) == whole).await;
    let status = source.status();
    assert_eq!((status.fetched_records, status.handed_over, status.state), (40, 40, SourceState::Reading));
    assert_eq!(status.partitions.iter().map(|p| p.lag().unwrap()).sum::<u64>(), 0);
    close(source).await;

    produce(&kafka, 40..44, 4).await;
    let mut source = start(&kafka, source_config());
    let mut found = drain(&mut source, 4).await;
    found.sort_unstable();
    assert_eq!(found, [(0, 10), (1, 10), (2, 10), (3, 10)], "what was committed is not read again");
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_keep_their_nulls_and_their_repeated_headers() {
    let kafka = kafka(1).await;
    produce(&kafka, 3..5, 1).await;
    let mut source = start(&kafka, source_config());
    let batch = next(&mut source).await;
    let [odd, even] = batch.records() else { panic!("{batch:?}") };
    assert_eq!((odd.key.as_deref(), odd.value.as_deref()), (None, Some(&b"3"[..])));
    assert_eq!((even.key.as_deref(), even.value.as_deref()), (Some(&b"even"[..]), None));
    assert_eq!((even.timestamp_ms, batch.topic()), (4000, TOPIC));
    let headers: Vec<_> = odd.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
    assert_eq!(headers, [("h", Some(&b"1"[..])), ("h", Some(&b"2"[..])), ("null", None)]);
    batch.finish();
    close(source).await;
}

/// As after SIGKILL: nobody says goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_handed_over_comes_again() {
    let kafka = kafka(1).await;
    produce(&kafka, 0..20, 1).await;
    let mut source = start(&kafka, source_config());
    let mut batch = next(&mut source).await;
    batch.handed_over(7);
    until("seven are committed", || committed(&source.status()).get(&0) == Some(&7)).await;
    // The batch is dropped unfinished, and held back is all that comes behind it.
    drop(batch);
    produce(&kafka, 20..30, 1).await;
    drain(&mut source, 10).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(committed(&source.status()).get(&0), Some(&7));
    close(source).await;

    let mut source = start(&kafka, source_config());
    let found = drain(&mut source, 23).await;
    assert_eq!(found, (7..30).map(|offset| (0, offset)).collect::<Vec<_>>());
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_one_group_share_the_partitions_and_read_each_record_once() {
    let kafka = kafka(4).await;
    let mut first = start(&kafka, source_config());
    until("the first reads all", || first.status().partitions.len() == 4).await;
    let mut second = start(&kafka, source_config());
    let halves = || (first.status().partitions.len(), second.status().partitions.len());
    until("they share", || halves() == (2, 2)).await;
    produce(&kafka, 0..40, 4).await;
    let (a, b) = tokio::join!(drain(&mut first, 20), drain(&mut second, 20));
    let mut all = [a, b].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40, "no record was read twice");
    close(second).await;
    until("the first has all again", || first.status().partitions.len() == 4).await;
    produce(&kafka, 40..44, 4).await;
    let mut found = drain(&mut first, 4).await;
    found.sort_unstable();
    assert_eq!(found, [(0, 10), (1, 10), (2, 10), (3, 10)]);
    close(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_in_hand_is_told_that_its_partition_goes_and_what_it_handed_over_is_committed() {
    let kafka = kafka(2).await;
    produce(&kafka, 0..20, 2).await;
    let mut first = start(&kafka, source_config());
    let mut batch = next(&mut first).await;
    let second = start(&kafka, source_config());
    assert!(!batch.is_revoked());
    tokio::time::timeout(PATIENCE, batch.revoked()).await.expect("the partition goes");
    batch.handed_over(3);
    let partition = batch.partition();
    drop(batch);
    let place = || {
        let both = [first.status(), second.status()].map(|status| committed(&status));
        both.iter().find_map(|committed| committed.get(&partition).copied())
    };
    until("three are committed", || place() == Some(3)).await;
    close(first).await;
    close(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_begins_where_it_was_told_and_only_where_nothing_is_committed() {
    let kafka = kafka(1).await;
    produce(&kafka, 0..10, 1).await;
    for (group, start_at, expected) in [
        ("earliest", Start::Earliest, 0),
        ("latest", Start::Latest, 10),
        ("time", Start::At { unix_ms: 6000 }, 6),
        ("future", Start::At { unix_ms: 600_000 }, 10),
    ] {
        let config = SourceConfig { group: group.to_owned(), start: start_at, ..source_config() };
        let source = start(&kafka, config.clone());
        // Committed before anything is read.
        until(group, || committed(&source.status()).get(&0) == Some(&expected)).await;
        close(source).await;
    }
    // Between, while nobody reads: a source that began at the latest record goes on where it began.
    produce(&kafka, 10..12, 1).await;
    for (group, expected) in [("earliest", 0), ("latest", 10), ("time", 6), ("future", 10)] {
        let config = SourceConfig { group: group.to_owned(), start: Start::Latest, ..source_config() };
        let mut source = start(&kafka, config);
        assert_eq!(next(&mut source).await.records()[0].offset, expected, "{group}");
        close(source).await;
    }
    let config = SourceConfig { group: "none".to_owned(), start: Start::Committed, ..source_config() };
    let source = start(&kafka, config);
    let problem = || source.status().problem.unwrap_or_default();
    until("it says that nothing is committed", || problem().contains("committed no offset")).await;
    assert_eq!(source.status().fetched_records, 0);
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_take_batches_pauses_the_fetch_and_keeps_its_partitions() {
    const BUFFER_BYTES: usize = 8 * 1024;
    let kafka = kafka(2).await;
    produce(&kafka, 0..2_000, 2).await;
    let config = SourceConfig { buffer_bytes: BUFFER_BYTES, fetch_bytes: 2048, ..source_config() };
    let mut source = start(&kafka, config);
    until("the buffer is full", || source.status().buffered_bytes > BUFFER_BYTES / 2).await;
    // Longer than its session.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = source.status();
    assert!(status.fetched_records < 1_000 && status.buffered_bytes <= BUFFER_BYTES, "{status:#?}");
    assert_eq!((status.partitions.len(), status.generations), (2, 1), "{status:#?}");
    let mut found = drain(&mut source, 2_000).await;
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 2_000);
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_and_topics_that_are_added_are_read() {
    let kafka = kafka(1).await;
    let config = SourceConfig {
        topics: vec![TOPIC.to_owned(), "later".to_owned()],
        metadata_interval: Duration::from_millis(100),
        ..source_config()
    };
    let mut source = start(&kafka, config);
    until("it reads what there is", || source.status().partitions.len() == 1).await;
    assert!(source.status().problem.is_none_or(|problem| problem.contains("later")));
    kafka.create_topic("later", 3).unwrap();
    until("it reads the new topic", || source.status().partitions.len() == 4).await;
    let producer = support::start(config_of(&kafka));
    let record = Record { value: Some(b"x"), partition: Some(2), ..Record::new("later") };
    assert!(matches!(producer.offer(&record, None), Offer::Taken));
    producer.flush();
    let batch = next(&mut source).await;
    assert_eq!((batch.topic(), batch.partition()), ("later", 2));
    close(source).await;
}

fn config_of(kafka: &MiniKafka) -> Config {
    config(&kafka.bootstrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_when_leaders_move_and_connections_break() {
    let kafka = kafka(4).await;
    let mut source = start(&kafka, source_config());
    let faults = kafka.faults();
    let mut found = Vec::new();
    for round in 0..6_u64 {
        produce(&kafka, round * 40..(round + 1) * 40, 4).await;
        match round {
            1 => faults.move_leader(TOPIC, 0, 2).unwrap(),
            2 => faults.drop_connections(),
            3 => {
                faults.inject(On::api(ApiKey::Fetch).times(3), Effect::HalfAnswer);
            }
            4 => {
                faults.inject(On::api(ApiKey::Fetch).times(2), Effect::WrongCorrelation);
                faults.inject(On::api(ApiKey::Heartbeat).times(1), Effect::DropAfter);
            }
            5 => {
                faults.inject(
                    On::api(ApiKey::OffsetCommit).times(3),
                    Effect::Error(ErrorCode::NOT_COORDINATOR),
                );
            }
            _ => {}
        }
        found.extend(drain(&mut source, 40).await);
    }
    found.sort_unstable();
    let all: Vec<_> = (0..4).flat_map(|partition| (0..60).map(move |offset| (partition, offset))).collect();
    assert_eq!(found, all);
    let whole: BTreeMap<_, _> = (0..4).map(|partition| (partition, 60)).collect();
    until("all is committed", || committed(&source.status()) == whole).await;
    let status = source.status();
    assert!(errors(&status, SourceError::Connection) > 0 && errors(&status, SourceError::Leadership) > 0);
    assert!(errors(&status, SourceError::Coordinator) > 0, "{status:#?}");
    until("what was solved is not shown any more", || source.status().problem.is_none()).await;
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_group_has_forgotten_joins_anew_and_goes_on_where_it_had_committed() {
    let kafka = kafka(2).await;
    produce(&kafka, 0..20, 2).await;
    let mut source = start(&kafka, source_config());
    drain(&mut source, 20).await;
    until("all is committed", || committed(&source.status()).values().sum::<i64>() == 20).await;
    let faults = kafka.faults();
    for code in [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::ILLEGAL_GENERATION] {
        let generations = source.status().generations;
        faults.inject(On::api(ApiKey::Heartbeat).times(1), Effect::Error(code));
        until("it is in again", || source.status().generations > generations).await;
    }
    assert!(errors(&source.status(), SourceError::Membership) >= 2);
    produce(&kafka, 20..22, 2).await;
    let mut found = drain(&mut source, 2).await;
    found.sort_unstable();
    assert_eq!(found, [(0, 10), (1, 10)]);
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_that_does_not_exist_any_more_is_replaced_by_what_start_says() {
    let kafka = kafka(1).await;
    produce(&kafka, 0..10, 1).await;
    let mut source = start(&kafka, source_config());
    drain(&mut source, 10).await;
    let out_of_range = Effect::Error(ErrorCode::OFFSET_OUT_OF_RANGE);
    kafka.faults().inject(On::api(ApiKey::Fetch).partition(TOPIC, 0).times(1), out_of_range.clone());
    let found = drain(&mut source, 10).await;
    assert_eq!(found, (0..10).map(|offset| (0, offset)).collect::<Vec<_>>(), "from the earliest again");
    assert_eq!(errors(&source.status(), SourceError::OffsetOutOfRange), 1);
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_kafka_forbids_is_told_and_read_when_it_is_allowed() {
    let kafka = kafka(1).await;
    produce(&kafka, 0..3, 1).await;
    kafka.faults().forbid_topic(TOPIC);
    let mut source = start(&kafka, source_config());
    until("the operator is told", || {
        source.status().problem.is_some_and(|p| p.contains("TopicAuthorization"))
    })
    .await;
    kafka.faults().restore_topic(TOPIC);
    drain(&mut source, 3).await;
    close(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_finds_a_kafka_that_comes_later() {
    let kafka = kafka(1).await;
    produce(&kafka, 0..3, 1).await;
    kafka.faults().down(1).await;
    kafka.faults().down(2).await;
    let mut source = start(&kafka, source_config());
    until("it says that nobody answers", || source.status().problem.is_some()).await;
    assert_eq!(source.status().state, SourceState::Connecting);
    kafka.faults().up(1).await.unwrap();
    kafka.faults().up(2).await.unwrap();
    drain(&mut source, 3).await;
    close(source).await;
}

#[tokio::test]
async fn closing_a_source_that_never_found_kafka_does_not_wait_for_it() {
    let config = Config { bootstrap: vec!["127.0.0.1:1".to_owned()], ..Config::default() };
    let source = Source::start(config, source_config(), &Handle::current());
    let begun = Instant::now();
    close(source).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}
