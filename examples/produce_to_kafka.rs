//! Sends records to Kafka and hears when they are safe. A small Kafka-compatible server stands in for a cluster.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::sync::Arc;
use std::time::Duration;

use tidegate_kafka::{Config, Producer, Reader, TopicLayout};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::{Ack, Feed, Offer, Record, Settle, Settled};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Told of each record how it ended. The channel is bounded by the records that this example sends.
struct Told(UnboundedSender<Settled>);

impl Settle for Told {
    fn settle(&self, settled: &[Settled]) {
        for settled in settled {
            // The example may be over.
            let _ = self.0.send(*settled);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kafka = MiniKafka::builder().partitions(4).start().await?;
    let config = Config { bootstrap: vec![kafka.bootstrap()], ..Config::default() };
    let producer = Producer::start(
        Config { create_topics: Some(TopicLayout::default()), ..config.clone() },
        &Handle::current(),
    );

    let (told, mut outcomes) = unbounded_channel();
    let told: Arc<dyn Settle> = Arc::new(Told(told));
    for number in 0..3_u64 {
        let value = format!("reading {number}");
        let record =
            Record { key: Some(b"thermometer-7"), value: Some(value.as_bytes()), ..Record::new("readings") };
        let mut ack = Some(Ack::new(Arc::clone(&told), number));
        while let Offer::Full(returned) = producer.offer(&record, ack.take()) {
            ack = returned;
            std::future::poll_fn(|cx| producer.poll_room(cx)).await;
        }
    }
    producer.flush();
    for _ in 0..3 {
        let settled = outcomes.recv().await.ok_or("every record is settled")?;
        println!("record {}: {:?}", settled.token, settled.outcome);
    }

    let mut reader = Reader::connect(&config, "readings").await?;
    for partition in reader.partitions() {
        for record in reader.fetch(partition, 0, Duration::from_millis(100)).await?.records {
            println!(
                "{partition}:{} {}",
                record.offset,
                String::from_utf8_lossy(&record.value.unwrap_or_default())
            );
        }
    }
    producer.close(Instant::now() + Duration::from_secs(5)).await;
    kafka.stop().await?;
    Ok(())
}
