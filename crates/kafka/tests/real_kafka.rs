//! The same promises against Apache Kafka itself, which `scripts/kafka` runs: it needs Java and, the first time, the
//! network. `cargo test -p tidegate-kafka --test real_kafka -- --ignored`

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use support::{PATIENCE, Stream, check_counts, config, start};
use tidegate_kafka::{Config, Reader, State, TopicLayout};
use tidegate_sink::Outcome;

/// An instance of Apache Kafka in a folder of its own, removed at the end.
struct Kafka {
    folder: PathBuf,
    bootstrap: String,
}

impl Kafka {
    fn start(name: &str, settings: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-kafka-test-{name}-{}", std::process::id()));
        let mut arguments = vec!["start"];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        let said = run(&folder, &arguments);
        let bootstrap = said.lines().find_map(|line| line.strip_prefix("bootstrap=")).unwrap().to_owned();
        Self { folder, bootstrap }
    }

    fn run(&self, command: &str) {
        run(&self.folder, &[command]);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.run("remove");
    }
}

fn run(folder: &Path, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka");
    let output = Command::new(script)
        .arg(arguments[0])
        .arg("--dir")
        .arg(folder)
        .args(&arguments[1..])
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn config_for(kafka: &Kafka) -> Config {
    let layout = TopicLayout { partitions: 4, replication: 1, config: Vec::new() };
    Config { create_topics: Some(layout), batch_bytes: 8 * 1024, ..config(&kafka.bootstrap) }
}

/// All values of the stream's topic, by partition, in the order of their offsets.
async fn values(kafka: &Kafka, topic: &str) -> Vec<(i32, Vec<u8>)> {
    let mut reader = Reader::connect(&config(&kafka.bootstrap), topic).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs Apache Kafka"]
async fn apache_kafka_killed_and_restarted_under_load_loses_and_duplicates_nothing() {
    let kafka = Kafka::start("kill", &[]);
    let producer = Arc::new(start(config_for(&kafka)));
    let mut stream = Stream::new("killed");
    (stream.keys, stream.padding) = (31, 200);
    for round in 0..3 {
        for _ in 0..100 {
            stream.offer(&producer, 50).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if round == 2 {
            break;
        }
        kafka.run("kill");
        stream.offer(&producer, 500).await;
        kafka.run("restart");
    }
    stream.settled(&producer).await;
    let status = producer.status();
    let found = values(&kafka, "killed").await;
    let duplicates = stream.check_values(found.into_iter());
    println!("{} records, {duplicates} duplicates, {status:?}", stream.offered);
    assert_eq!(stream.told.ended(Outcome::Delivered) as u64, stream.offered);
    // A SIGKILL may take what a single node had not yet written to its log with it, but not what it had answered for:
    // it lies in the system's cache.
    assert_eq!((duplicates, status.possible_duplicates), (0, 0));
    assert!(status.connection_losses > 0, "the kill hit requests in flight");
    assert_eq!(status.state, State::Up, "{:?}", status.problems);
    check_counts(&status);
}

#[tokio::test]
#[ignore = "runs Apache Kafka"]
async fn apache_kafka_refuses_a_record_that_is_too_large_and_takes_its_neighbours() {
    let kafka = Kafka::start("large", &["message.max.bytes=5000"]);
    let producer = start(config_for(&kafka));
    let mut stream = Stream::new("large");
    stream.offer(&producer, 50).await;
    stream.padding = 6000;
    stream.offer(&producer, 2).await;
    stream.padding = 0;
    stream.offer(&producer, 50).await;
    stream.settled(&producer).await;
    let found = values(&kafka, "large").await;
    assert_eq!((stream.told.ended(Outcome::Delivered), found.len()), (100, 100));
    assert_eq!(stream.check_values(found.into_iter()), 0);
    assert_eq!(producer.status().possible_duplicates, 0, "{:?}", producer.status());
}
