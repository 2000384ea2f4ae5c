//! Compressed batches carry the same promises as others: what arrives, what is spilled, and what has to be split.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Stream, Told, check_counts, config, start, values};
use tidegate_kafka::{Compression, Config, Producer, SpillConfig};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::{Feed, Offer, Outcome, Record, Rejection};
use tidegate_spill::sim::SimDisk;
use tokio::runtime::Handle;

const ALL: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

#[tokio::test]
async fn compressed_records_arrive_once_in_order_and_smaller() {
    for compression in ALL {
        let kafka = MiniKafka::builder().start().await.unwrap();
        kafka.create_topic("t", 4).unwrap();
        let producer = start(Config { compression, ..config(&kafka.bootstrap()) });
        let mut stream = Stream::new("t");
        stream.padding = 100;
        for _ in 0..20 {
            stream.offer(&producer, 100).await;
        }
        stream.settled(&producer).await;
        let found = values(&config(&kafka.bootstrap()), "t").await;
        let sent: usize = found.iter().map(|(_, value)| value.len()).sum();
        assert_eq!((found.len(), stream.check_values(found.into_iter())), (2000, 0), "{compression:?}");
        let status = producer.status();
        assert!(status.batch_bytes < sent as u64 / 2, "{compression:?}: {} of {sent}", status.batch_bytes);
        check_counts(&status);
    }
}

#[tokio::test]
async fn an_outage_spills_compressed_batches_and_replays_them_once_in_order() {
    for compression in ALL {
        let kafka = MiniKafka::builder().start().await.unwrap();
        kafka.create_topic("t", 4).unwrap();
        let config = Config { compression, batch_bytes: 4000, ..config(&kafka.bootstrap()) };
        let disk = SimDisk::new();
        let spill =
            SpillConfig { after: Duration::from_millis(50), ..SpillConfig::new(Arc::new(disk.clone())) };
        let producer = Producer::start_spilling(config.clone(), spill, &Handle::current()).unwrap();
        let mut stream = Stream::new("t");
        stream.padding = 400;
        stream.offer(&producer, 50).await;
        stream.settled(&producer).await;
        kafka.faults().down(1).await;
        stream.offer(&producer, 1000).await;
        stream.settled(&producer).await;
        let spilled = producer.status().spill.unwrap();
        assert!(spilled.records >= 900, "{spilled:?}");
        assert!(spilled.spilled_bytes < 200_000, "the disk has the compressed batches: {spilled:?}");
        kafka.faults().up(1).await.unwrap();
        stream.offer(&producer, 50).await;
        stream.settled(&producer).await;
        support::until("the disk is empty", || producer.status().spill.unwrap().disk_bytes == 0).await;
        let found = values(&config, "t").await;
        assert_eq!((found.len(), stream.check_values(found.into_iter())), (1100, 0), "{compression:?}");
        check_counts(&producer.status());
    }
}

/// Kafka's limit counts compressed bytes: noise among what becomes small.
#[tokio::test]
async fn a_compressed_batch_that_is_too_large_is_halved_until_the_record_is_alone() {
    for compression in ALL {
        let kafka = MiniKafka::builder().start().await.unwrap();
        kafka.create_topic("t", 1).unwrap();
        kafka.faults().max_message_bytes("t", 20_000).unwrap();
        let producer = start(Config { compression, ..config(&kafka.bootstrap()) });
        let told = Arc::new(Told::default());
        let large = [13, 57, 58, 99];
        let mut random = 1_u64;
        let mut noise = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        };
        for token in 0..100_u64 {
            let mut value = vec![u8::try_from(token).unwrap(); 1000];
            if large.contains(&token) {
                value.extend(std::iter::repeat_with(&mut noise).take(30_000));
            }
            let record = Record { value: Some(&value), ..Record::new("t") };
            assert!(matches!(producer.offer(&record, Some(told.ack(token))), Offer::Taken));
        }
        producer.flush();
        told.wait(100, &producer).await;
        for token in 0..100 {
            let refused = large.contains(&token);
            let outcome = if refused { Outcome::Rejected(Rejection::TooLarge) } else { Outcome::Delivered };
            assert_eq!(told.of(token), Some(outcome), "{compression:?}: record {token}");
        }
        let found: Vec<u64> =
            values(&config(&kafka.bootstrap()), "t").await.iter().map(|(_, value)| value[0].into()).collect();
        let expected: Vec<u64> = (0..100).filter(|n| !large.contains(n)).collect();
        assert_eq!(found, expected, "{compression:?}: the neighbours are there once, in order");
        assert_eq!(producer.status().possible_duplicates, 0);
    }
}
