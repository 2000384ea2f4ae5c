//! What the tests of the producer share: a ledger of acknowledgements, and its comparison with what lies in Kafka.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use tidegate_kafka::{Config, Producer, Reader, Status};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::{Ack, BackoffPolicy, Feed, Offer, Outcome, Record, Settle, Settled};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Who was told what.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<u64, Outcome>>);

impl Settle for Told {
    fn settle(&self, settled: &[Settled]) {
        let mut told = self.0.lock();
        for one in settled {
            let before = told.insert(one.token, one.outcome);
            assert_eq!(before, None, "record {} was settled twice", one.token);
        }
    }
}

impl Told {
    pub(crate) fn ack(self: &Arc<Self>, token: u64) -> Ack {
        let target: Arc<dyn Settle> = Arc::<Self>::clone(self);
        Ack::new(target, token)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn of(&self, token: u64) -> Option<Outcome> {
        self.0.lock().get(&token).copied()
    }

    pub(crate) async fn wait(&self, count: usize, producer: &Producer) {
        let deadline = Instant::now() + PATIENCE;
        while self.count() < count {
            let status = || producer.status();
            assert!(Instant::now() < deadline, "{} of {count} settled; {:#?}", self.count(), status());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many ended as `outcome`.
    pub(crate) fn ended(&self, outcome: Outcome) -> usize {
        self.0.lock().values().filter(|&&o| o == outcome).count()
    }
}

/// A configuration for a server of the test's own, quick to retry.
pub(crate) fn config(bootstrap: &str) -> Config {
    Config {
        bootstrap: bootstrap.split(',').map(str::to_owned).collect(),
        backoff: BackoffPolicy { first: Duration::from_millis(2), cap: Duration::from_millis(50) },
        request_timeout: Duration::from_secs(5),
        ..Config::default()
    }
}

pub(crate) fn start(config: Config) -> Producer {
    Producer::start(config, &Handle::current())
}

/// A stream of numbered records of a few keys: what was offered, and what was said about it.
pub(crate) struct Stream {
    pub(crate) told: Arc<Told>,
    pub(crate) topic: String,
    pub(crate) offered: u64,
    pub(crate) keys: u64,
    pub(crate) padding: usize,
}

impl Stream {
    pub(crate) fn new(topic: &str) -> Self {
        Self { told: Arc::default(), topic: topic.to_owned(), offered: 0, keys: 5, padding: 0 }
    }

    pub(crate) fn key(&self, number: u64) -> String {
        format!("key-{}", number % self.keys)
    }

    /// Offers the next `count` records, waiting for room where there is none.
    pub(crate) async fn offer(&mut self, producer: &Producer, count: u64) {
        for _ in 0..count {
            let (key, value) =
                (self.key(self.offered), format!("{} {}", self.offered, "x".repeat(self.padding)));
            let record = Record {
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                // Of today: Kafka forgets a producer by the age of its records' timestamps.
                timestamp_ms: i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap(),
                ..Record::new(&self.topic)
            };
            let mut ack = Some(self.told.ack(self.offered));
            while let Offer::Full(again) = producer.offer(&record, ack.take()) {
                ack = again;
                producer.flush();
                tokio::time::timeout(PATIENCE, std::future::poll_fn(|cx| producer.poll_room(cx)))
                    .await
                    .unwrap();
            }
            self.offered += 1;
        }
        producer.flush();
    }

    /// The law of a feed that only this stream used and that does not spill: what it counts is what it told.
    pub(crate) fn check_told(&self, status: &Status) {
        check_counts(status);
        let records = &status.records;
        let told = |outcome: fn(Outcome) -> bool| {
            self.told.0.lock().values().filter(|&&told| outcome(told)).count() as u64
        };
        let safe = records.delivered
            + records.dead_lettered.values().sum::<u64>()
            + records.dropped.values().sum::<u64>();
        assert_eq!(records.offered, self.offered, "{status:#?}");
        assert_eq!(told(|o| o == Outcome::Delivered), safe, "{status:#?}");
        assert_eq!(told(|o| matches!(o, Outcome::Rejected(_))), records.rejected, "{status:#?}");
        assert_eq!(told(|o| o == Outcome::Lost), records.lost, "{status:#?}");
    }

    /// Waits until all that was offered is settled.
    pub(crate) async fn settled(&self, producer: &Producer) {
        self.told.wait(usize::try_from(self.offered).unwrap(), producer).await;
    }

    /// Compares the acknowledgements with what lies in `kafka`: nothing that was reported as delivered is missing, each
    /// key is in order by first occurrence. Says how many records are there more than once.
    pub(crate) fn check(&self, kafka: &MiniKafka) -> usize {
        let ledger = kafka.ledger(&self.topic).unwrap();
        let values = ledger.iter().map(|r| (r.partition, r.value.clone().unwrap().to_vec()));
        self.check_values(values)
    }

    pub(crate) fn check_values(&self, values: impl Iterator<Item = (i32, Vec<u8>)>) -> usize {
        let mut seen: HashMap<u64, usize> = HashMap::new();
        let mut last: HashMap<u64, u64> = HashMap::new();
        let mut partition_of: HashMap<u64, i32> = HashMap::new();
        for (partition, value) in values {
            let text = String::from_utf8(value).unwrap();
            let number: u64 = text.split(' ').next().unwrap().parse().unwrap();
            assert!(number < self.offered, "{number} was never offered");
            let times = seen.entry(number).or_default();
            *times += 1;
            let key = number % self.keys;
            assert_eq!(
                *partition_of.entry(key).or_insert(partition),
                partition,
                "a key changed its partition"
            );
            if *times == 1
                && let Some(before) = last.insert(key, number)
            {
                assert!(before < number, "key {key}: {number} came after {before}");
            }
        }
        for number in 0..self.offered {
            let outcome = self.told.of(number);
            if outcome == Some(Outcome::Delivered) {
                assert!(seen.contains_key(&number), "{number} was reported as delivered and is missing");
            }
            if matches!(outcome, Some(Outcome::Rejected(_))) {
                assert!(!seen.contains_key(&number), "{number} was reported as rejected and is there");
            }
        }
        seen.values().map(|times| times - 1).sum()
    }
}

/// All values of `topic`, by partition, in the order of their offsets.
pub(crate) async fn values(config: &Config, topic: &str) -> Vec<(i32, Vec<u8>)> {
    let mut reader = Reader::connect(config, topic).await.unwrap();
    let mut values = Vec::new();
    for partition in reader.partitions() {
        let (mut offset, end) = reader.offsets(partition).await.unwrap();
        while offset < end {
            let fetched = reader.fetch(partition, offset, PATIENCE).await.unwrap();
            offset = fetched.next_offset;
            values.extend(
                fetched.records.into_iter().map(|record| (partition, record.value.unwrap().to_vec())),
            );
        }
    }
    values
}

/// The law of a feed, for each source and for all of them: everything that was taken is accounted for, and what is said to
/// be held lies somewhere.
pub(crate) fn check_counts(status: &Status) {
    for records in status.sources.iter().map(|(_, records)| records).chain([&status.records]) {
        let dead_lettered: u64 = records.dead_lettered.values().sum();
        let dropped: u64 = records.dropped.values().sum();
        let ended = records.delivered + records.rejected + dead_lettered + dropped + records.lost;
        assert_eq!(records.offered, ended + records.held, "{status:#?}");
    }
    let lies_somewhere =
        status.held_bytes > 0 || status.spill.as_ref().is_some_and(|spill| spill.records > 0);
    assert_eq!(status.records.held > 0, lies_somewhere, "{status:#?}");
    assert!(status.records.in_flight <= status.records.held, "{status:#?}");
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
