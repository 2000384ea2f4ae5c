//! The same promises against Apache Kafka itself, which `scripts/kafka` runs: it needs Java and, the first time, the
//! network. `cargo test -p tidegate-kafka --test real_kafka -- --ignored`

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Stream, check_counts, config, start, until, values};
use tidegate_kafka::{Config, Login, Sasl, Secret, State, TopicLayout};
use tidegate_sink::Outcome;
use tidegate_testkit::kafka::RealKafka;
use tokio::task::spawn_blocking;

fn config_for(kafka: &RealKafka) -> Config {
    let layout = TopicLayout { partitions: 4, replication: 1, config: Vec::new() };
    Config { create_topics: Some(layout), batch_bytes: 8 * 1024, ..config(kafka.bootstrap()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs Apache Kafka"]
async fn apache_kafka_killed_and_restarted_under_load_loses_and_duplicates_nothing() {
    let kafka = Arc::new(spawn_blocking(|| RealKafka::start().unwrap()).await.unwrap());
    let producer = start(config_for(&kafka));
    let mut stream = Stream::new("killed");
    (stream.keys, stream.padding) = (31, 200);
    for _ in 0..3 {
        let same = Arc::clone(&kafka);
        let murder = spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(700));
            same.kill().unwrap();
            same.restart().unwrap();
        });
        while !murder.is_finished() {
            stream.offer(&producer, 20).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        murder.await.unwrap();
    }
    stream.settled(&producer).await;
    let status = producer.status();
    let found = values(&config(kafka.bootstrap()), "killed").await;
    let duplicates = stream.check_values(found.into_iter());
    assert_eq!(stream.told.ended(Outcome::Delivered) as u64, stream.offered);
    // A SIGKILL may take what a single node had not yet written to its log with it, but not what it had answered for:
    // it lies in the system's cache.
    assert_eq!((duplicates, status.possible_duplicates), (0, 0), "{status:#?}");
    assert!(status.connection_losses > 0, "the kill hit requests in flight");
    assert_eq!(status.state, State::Up, "{:?}", status.problems);
    check_counts(&status);
}

#[tokio::test]
#[ignore = "runs Apache Kafka"]
async fn apache_kafka_refuses_a_record_that_is_too_large_and_takes_its_neighbours() {
    let options = ["--set", "message.max.bytes=5000"];
    let kafka = spawn_blocking(move || RealKafka::start_with(&options).unwrap()).await.unwrap();
    let producer = start(config_for(&kafka));
    let mut stream = Stream::new("large");
    stream.offer(&producer, 50).await;
    stream.padding = 6000;
    stream.offer(&producer, 2).await;
    stream.padding = 0;
    stream.offer(&producer, 50).await;
    stream.settled(&producer).await;
    let found = values(&config(kafka.bootstrap()), "large").await;
    assert_eq!((stream.told.ended(Outcome::Delivered), found.len()), (100, 100));
    assert_eq!(stream.check_values(found.into_iter()), 0);
    assert_eq!(producer.status().possible_duplicates, 0, "{:?}", producer.status());
}

#[tokio::test]
#[ignore = "runs Apache Kafka"]
async fn apache_kafka_lets_in_who_has_the_password_and_the_state_says_who_has_not() {
    let login = "listener.name.plaintext.plain.sasl.jaas.config=\
        org.apache.kafka.common.security.plain.PlainLoginModule required \
        username=\"admin\" password=\"admin\" user_admin=\"admin\" user_tide=\"gate\";";
    let options = [
        "--set",
        "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "--set",
        "inter.broker.listener.name=PLAINTEXT",
        "--set",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        "--set",
        "sasl.enabled.mechanisms=PLAIN",
        "--set",
        login,
    ];
    let kafka = spawn_blocking(move || RealKafka::start_with(&options).unwrap()).await.unwrap();
    let with = |password: &str| {
        let login = Login { username: "tide".to_owned(), password: Secret::Text(password.to_owned()) };
        Config { sasl: Some(Sasl::Plain(login)), ..config_for(&kafka) }
    };
    let refused = start(with("wrong"));
    until(
        "the state says that authentication failed",
        || matches!(refused.status().state, State::Waiting(why) if why.contains("authentication failed")),
    )
    .await;
    let producer = start(with("gate"));
    let mut stream = Stream::new("secret");
    stream.offer(&producer, 100).await;
    stream.settled(&producer).await;
    assert_eq!(stream.told.ended(Outcome::Delivered), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs Apache Kafka"]
async fn apache_kafka_frozen_for_longer_than_the_timeouts_stores_nothing_twice() {
    let kafka = Arc::new(spawn_blocking(|| RealKafka::start().unwrap()).await.unwrap());
    let short = Duration::from_millis(700);
    let producer = start(Config { request_timeout: short, connect_timeout: short, ..config_for(&kafka) });
    let mut stream = Stream::new("frozen");
    (stream.keys, stream.padding) = (31, 200);
    stream.offer(&producer, 500).await;
    stream.settled(&producer).await;
    for _ in 0..2 {
        let same = Arc::clone(&kafka);
        let frost = spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(300));
            same.freeze().unwrap();
            std::thread::sleep(Duration::from_secs(4));
            same.thaw().unwrap();
        });
        while !frost.is_finished() {
            stream.offer(&producer, 20).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        frost.await.unwrap();
    }
    stream.settled(&producer).await;
    let status = producer.status();
    let found = values(&config(kafka.bootstrap()), "frozen").await;
    assert_eq!(stream.told.ended(Outcome::Delivered) as u64, stream.offered);
    assert_eq!((stream.check_values(found.into_iter()), status.possible_duplicates), (0, 0), "{status:#?}");
    assert!(status.connection_losses > 0, "requests were in flight");
}
