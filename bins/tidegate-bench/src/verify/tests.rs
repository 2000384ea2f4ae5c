//! Against a small Kafka in this process, whose records a real producer wrote.

use std::path::Path;
use std::sync::Arc;

use tidegate_kafka::{Producer, TopicLayout};
use tidegate_ledger::file::{Notes, Writer};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::{Ack, Feed, Offer, Record, Settle, Settled};
use tokio::runtime::{Handle, Runtime};

use super::*;
use crate::load::{Payload, PayloadFormat};

/// Where a kind of defect is counted.
type Defect = fn(&mut Verification) -> &mut u64;

const STARTED_NS: u64 = 1_000_000_000;

/// A Kafka and a ledger in which publishers 1 and 2 sent the numbers 0 to 4, and 0 to 3 were acknowledged.
struct Scene {
    runtime: Runtime,
    kafka: MiniKafka,
    ledger: PathBuf,
}

impl Scene {
    fn new(name: &str, finish: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let kafka = runtime.block_on(MiniKafka::builder().partitions(2).start()).unwrap();
        let ledger = std::env::temp_dir().join(format!("tidegate-bench-{name}-{}", std::process::id()));
        write_ledger(&ledger, &[1, 2], finish);
        Self { runtime, kafka, ledger }
    }

    /// Writes messages in this order: publisher, number, when it was sent.
    fn write(&self, messages: &[(u32, u64, u64)]) {
        let values = messages.iter().map(|&(publisher, sequence, sent_ns)| {
            let key = publisher.to_string();
            let mut payload = Payload::new(PayloadFormat::Json, 200).unwrap();
            (key, payload.stamp(Stamp { publisher, sequence, sent_ns }).to_vec())
        });
        self.write_values(&values.collect::<Vec<_>>());
    }

    fn write_values(&self, values: &[(String, Vec<u8>)]) {
        self.runtime.block_on(async {
            let config = Config {
                bootstrap: vec![self.kafka.bootstrap()],
                create_topics: Some(TopicLayout::default()),
                ..Config::default()
            };
            let producer = Producer::start(config, &Handle::current());
            let (told, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
            let told: Arc<dyn Settle> = Arc::new(Told(told));
            for (key, value) in values {
                let ack = Ack::new(Arc::clone(&told), 0);
                let record =
                    Record { key: Some(key.as_bytes()), value: Some(value), ..Record::new("devices") };
                assert!(matches!(producer.offer(&record, Some(ack)), Offer::Taken), "there is room");
            }
            producer.flush();
            for _ in values {
                outcomes.recv().await.unwrap();
            }
        });
    }

    fn verify(&self, wait: Duration, ledgers: &[&Path]) -> Result<Verification, VerifyError> {
        verify(&Question {
            bootstrap: vec![self.kafka.bootstrap()],
            topic: "devices".to_owned(),
            ledgers: ledgers.iter().map(|path| path.to_path_buf()).collect(),
            wait,
            duplicates: Duplicates::Wrong,
        })
    }

    fn look(&self) -> Verification {
        self.verify(Duration::ZERO, &[&self.ledger]).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.ledger);
    }
}

/// Bounded by the records of a test.
struct Told(tokio::sync::mpsc::UnboundedSender<Settled>);

impl Settle for Told {
    fn settle(&self, settled: &[Settled]) {
        for settled in settled {
            // The test may be over.
            let _ = self.0.send(*settled);
        }
    }
}

fn write_ledger(path: &Path, publishers: &[u32], finish: bool) {
    let _ = std::fs::remove_file(path);
    let writer = Writer::create(path, STARTED_NS).unwrap();
    let mut notes = Notes::default();
    for publisher in publishers {
        notes.sent(*publisher, 4);
        (0..4).for_each(|seq| notes.acknowledged(*publisher, seq));
    }
    writer.append(&mut notes).unwrap();
    if finish {
        writer.finish().unwrap();
    }
}

/// Number `seq` of both publishers, sent in this run.
fn both(seqs: &[u64]) -> Vec<(u32, u64, u64)> {
    seqs.iter().flat_map(|&seq| [(1, seq, STARTED_NS + seq), (2, seq, STARTED_NS + seq)]).collect()
}

#[test]
fn everything_acknowledged_once_and_in_order_is_as_promised() {
    let scene = Scene::new("exact", true);
    // Of an earlier run on the same topic, and a message that was not acknowledged, which may be there or not.
    scene.write(&[(1, 3, STARTED_NS - 1), (7, 0, 5)]);
    scene.write(&both(&[0, 1, 2, 3]));
    scene.write(&[(2, 4, STARTED_NS + 9)]);
    let found = scene.look();
    assert!(found.is_clean(), "{found}");
    assert_eq!((found.sent, found.acknowledged, found.found, found.earlier), (10, 8, 9, 2));
    assert_eq!((found.partitions, found.publishers), (2, 2));
    assert!(found.to_string().ends_with("\nas promised\n"), "{found}");
}

#[test]
fn every_defect_is_counted_for_what_it_is() {
    let scene = Scene::new("defects", true);
    scene.write(&both(&[0, 2]));
    scene.write(&[(1, 1, STARTED_NS), (1, 1, STARTED_NS), (1, 9, STARTED_NS), (3, 0, STARTED_NS)]);
    scene.write_values(&[("1".to_owned(), b"not ours".to_vec())]);
    let found = scene.look();
    // Of publisher 1 number 3 is lost, of publisher 2 also number 1; number 1 came behind 2.
    assert_eq!((found.loss, found.phantom, found.duplicates), (3, 2, 1), "{found}");
    assert_eq!((found.reordered, found.corrupt, found.split_keys), (1, 1, 0), "{found}");
    assert!(found.examples.contains(&"lost: 2 1".to_owned()), "{found}");
    assert!(!found.is_clean() && found.to_string().ends_with("\nNOT as promised\n"));
}

#[test]
fn one_defect_of_any_kind_is_not_as_promised_unless_it_is_allowed() {
    let scene = Scene::new("one", true);
    scene.write(&both(&[0, 1, 2, 3]));
    scene.write(&[(1, 1, STARTED_NS)]);
    let mut found = scene.look();
    assert_eq!((found.duplicates, found.is_clean()), (1, false));
    found.duplicates_allowed = true;
    assert!(found.is_clean());
    let defects: [Defect; 5] = [
        |found| &mut found.loss,
        |found| &mut found.phantom,
        |found| &mut found.reordered,
        |found| &mut found.corrupt,
        |found| &mut found.split_keys,
    ];
    for defect in defects {
        *defect(&mut found) = 1;
        assert!(!found.is_clean(), "{found}");
        *defect(&mut found) = 0;
    }
}

#[test]
fn what_is_on_its_way_is_waited_for() {
    let scene = Scene::new("wait", true);
    scene.write(&both(&[0, 1, 2]));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            scene.write(&both(&[3]));
        });
        let found = scene.verify(Duration::from_mins(1), &[&scene.ledger]).unwrap();
        assert!(found.is_clean() && found.seconds < 50.0, "{found}");
    });
}

#[test]
fn a_ledger_without_its_end_accuses_nobody_of_a_phantom() {
    let scene = Scene::new("killed", false);
    scene.write(&both(&[0, 1, 2, 3, 4, 5]));
    let found = scene.look();
    assert_eq!((found.phantom, found.loss, found.is_clean()), (2, 0, true), "{found}");
    assert!(found.to_string().contains("has no end"), "{found}");
}

#[test]
fn ledgers_side_by_side_are_one_unless_they_name_the_same_publishers() {
    let scene = Scene::new("several", true);
    let other = scene.ledger.with_extension("other");
    write_ledger(&other, &[3], true);
    scene.write(&both(&[0, 1, 2, 3]));
    let found = scene.verify(Duration::ZERO, &[&scene.ledger, &other]).unwrap();
    assert_eq!((found.publishers, found.acknowledged, found.loss), (3, 12, 4));
    let same = scene.verify(Duration::ZERO, &[&scene.ledger, &scene.ledger]).unwrap_err();
    assert!(same.to_string().contains("--first-id"), "{same}");
    std::fs::remove_file(other).unwrap();
}

#[test]
fn a_topic_that_is_not_there_is_an_error_and_not_an_empty_one() {
    let scene = Scene::new("nowhere", true);
    let error = scene.verify(Duration::ZERO, &[&scene.ledger]).unwrap_err();
    assert!(error.to_string().contains("UnknownTopicOrPartition"), "{error}");
}
