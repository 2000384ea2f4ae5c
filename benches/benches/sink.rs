//! What does it cost to encode a record into a Kafka record batch?
//!
//! The peer is the encoder of the kafka-protocol crate; the limit is a copy of the values with their checksum, since
//! every record has to get into the batch and CRC-32C is part of its format. Records of 1 KiB with a key, as a device
//! sends them; the figures are those of one record, with its share of sealing the batch.
//!
//! `cargo bench -p tidegate-benches --bench sink`

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::records::{
    Compression, Record as PeerRecord, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType,
};
use tidegate_kafka::BatchEncoder;
use tidegate_sink::Record;

const KEY: &[u8] = b"press-0042";
const VALUE: &[u8] = &[b'x'; 1024];
const TIMESTAMP_MS: i64 = 1_764_000_000_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    for records in [1, 100, 900] {
        let mut group = criterion.benchmark_group(format!("a batch of {records}"));
        group.throughput(Throughput::Elements(records as u64));
        limit(&mut group, records);
        tidegate(&mut group, records);
        peer(&mut group, records);
        group.finish();
    }
    criterion.final_summary();
}

fn limit(group: &mut BenchmarkGroup<'_, WallTime>, records: usize) {
    let mut out = Vec::new();
    group.bench_function("limit: copy the values", |bencher| {
        bencher.iter(|| copy(records, &mut out));
    });
    group.bench_function("limit: copy the values, CRC-32C", |bencher| {
        bencher.iter(|| {
            copy(records, &mut out);
            crc32c::crc32c(&out)
        });
    });
}

fn copy(records: usize, out: &mut Vec<u8>) {
    out.clear();
    for _ in 0..records {
        out.extend_from_slice(black_box(VALUE));
    }
    black_box(out);
}

fn tidegate(group: &mut BenchmarkGroup<'_, WallTime>, records: usize) {
    let record =
        Record { key: Some(KEY), value: Some(VALUE), timestamp_ms: TIMESTAMP_MS, ..Record::new("press") };
    let mut encoder = BatchEncoder::default();
    let mut encode = || encoder.encode(std::iter::repeat_n(black_box(&record), records)).len();
    encode();
    group.bench_function("tidegate", |bencher| bencher.iter(&mut encode));

    let bytes = encoder.encode(std::iter::repeat_n(&record, records));
    let read = RecordBatchDecoder::decode(&mut Bytes::copy_from_slice(bytes)).expect("the peer reads it");
    assert_eq!(read.records.len(), records);
    assert!(read.records.iter().all(|read| read.value.as_deref() == Some(VALUE)));
}

fn peer(group: &mut BenchmarkGroup<'_, WallTime>, records: usize) {
    let record = |number: i32| PeerRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: 0,
        producer_epoch: 0,
        timestamp_type: TimestampType::Creation,
        offset: number.into(),
        sequence: number,
        timestamp: TIMESTAMP_MS,
        key: Some(Bytes::from_static(KEY)),
        value: Some(Bytes::from_static(VALUE)),
        headers: IndexMap::new(),
    };
    let batch: Vec<_> = (0..).take(records).map(record).collect();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    let mut out = BytesMut::new();
    group.bench_function("kafka-protocol", |bencher| {
        bencher.iter(|| {
            out.clear();
            RecordBatchEncoder::encode(&mut out, black_box(&batch), &options).expect("it is a batch");
            black_box(&out);
        });
    });
}
