//! Produces records of 1 KiB as fast as Kafka takes them, or at a rate, and says what each cost:
//! `cargo run --release -p tidegate-kafka --example produce -- 127.0.0.1:9092 topic 1000000 [records a second]`

#![expect(clippy::print_stdout, reason = "a program that talks to the terminal")]
#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_kafka::{Config, Producer, TopicLayout};
use tidegate_sink::{Ack, Feed, Offer, Outcome, Record, Settle, Settled};

/// Records offered between two flushes, as a connection would with what one read brings.
const RECORDS_PER_TURN: u64 = 10;
const RECORD_BYTES: usize = 1024;

#[derive(Default)]
struct Delivered(AtomicU64);

impl Settle for Delivered {
    fn settle(&self, settled: &[Settled]) {
        let delivered = settled.iter().filter(|one| one.outcome == Outcome::Delivered).count();
        self.0.fetch_add(delivered as u64, Ordering::Relaxed);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // A task as a connection of a broker is one: to wake the future that a runtime blocks on takes a system call.
    tokio::spawn(produce()).await.expect("it does not panic");
}

async fn produce() {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>().into_iter();
    let bootstrap = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "produce".to_owned());
    let count: u64 = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let rate: Option<u64> = arguments.next().and_then(|n| n.parse().ok());

    let config = Config {
        bootstrap: vec![bootstrap],
        create_topics: Some(TopicLayout { partitions: 4, ..TopicLayout::default() }),
        budget_bytes: 64 * 1024 * 1024,
        ..Config::default()
    };
    let producer = Producer::start(config, &tokio::runtime::Handle::current());
    let delivered = Arc::new(Delivered::default());
    let payload = vec![b'x'; RECORD_BYTES];

    // What connecting costs is not what a record costs.
    offer(&producer, &delivered, &topic, &payload, 0).await;
    producer.flush();
    while delivered.0.load(Ordering::Relaxed) < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    // At a rate, records come one by one from many devices.
    let records_per_turn = if rate.is_some() { 1 } else { RECORDS_PER_TURN };
    let (start, cpu_before) = (Instant::now(), cpu());
    for number in 1..=count {
        offer(&producer, &delivered, &topic, &payload, number).await;
        if number % records_per_turn == 0 {
            producer.flush();
            match rate {
                Some(rate) => {
                    let due = Duration::from_secs_f64(number as f64 / rate as f64);
                    let ahead = due.saturating_sub(start.elapsed());
                    if ahead > Duration::from_millis(1) {
                        tokio::time::sleep(ahead).await;
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                None if number % (20 * RECORDS_PER_TURN) == 0 => tokio::task::yield_now().await,
                None => {}
            }
        }
    }
    producer.flush();
    while delivered.0.load(Ordering::Relaxed) <= count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (took, cpu_after) = (start.elapsed(), cpu());
    let each = |seconds: f64| seconds * 1e6 / count as f64;
    let status = producer.status();
    println!(
        "{count} records in {took:.2?}: {:.0}/s; CPU {:.2} us a record ({:.2} user, {:.2} system); {} records a batch, {} batches a request, {:.2?} a batch",
        count as f64 / took.as_secs_f64(),
        each(cpu_after.0 + cpu_after.1 - cpu_before.0 - cpu_before.1),
        each(cpu_after.0 - cpu_before.0),
        each(cpu_after.1 - cpu_before.1),
        count / status.batches.max(1),
        status.batches / status.requests.max(1),
        status.latency_sum / u32::try_from(status.batches).unwrap_or(1).max(1),
    );
}

async fn offer(producer: &Producer, delivered: &Arc<Delivered>, topic: &str, payload: &[u8], number: u64) {
    let key = (number % 1000).to_be_bytes();
    let record = Record { key: Some(&key), value: Some(payload), ..Record::new(topic) };
    let target: Arc<dyn Settle> = Arc::<Delivered>::clone(delivered);
    let mut ack = Some(Ack::new(target, number));
    while let Offer::Full(again) = producer.offer(&record, ack.take()) {
        ack = again;
        producer.flush();
        std::future::poll_fn(|cx| producer.poll_room(cx)).await;
    }
}

/// Seconds of CPU that this process has used: user, system.
fn cpu() -> (f64, f64) {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_PER_SECOND;
    (ticks(11), ticks(12))
}
