//! Produce: appends batches and answers when they are as safe as was asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Answer, Call};
use crate::ErrorCode;
use crate::cluster::Cluster;
use crate::partition::Partition;
use crate::record_batch;
use crate::wire::{Malformed, Reader, Writer};

/// A topic, and a batch for each of some partitions.
type TopicBatches = (String, Vec<(i32, Option<Bytes>)>);

struct Request {
    transactional: bool,
    acks: i16,
    timeout: Duration,
    topics: Vec<TopicBatches>,
}

fn read(r: &mut Reader, version: i16) -> Result<Request, Malformed> {
    let transactional = version >= 3 && r.nullable_string()?.is_some();
    let acks = r.i16()?;
    let timeout = Duration::from_millis(u64::try_from(r.i32()?).unwrap_or(0));
    let topics = r.array(|r| {
        let name = r.string()?;
        let partitions = r.array(|r| {
            let partition = (r.i32()?, r.nullable_bytes()?);
            r.tags()?;
            Ok(partition)
        })?;
        r.tags()?;
        Ok((name, partitions))
    })?;
    r.tags()?;
    Ok(Request { transactional, acks, timeout, topics })
}

pub(super) fn partitions(r: &mut Reader, version: i16) -> Result<Vec<(String, i32)>, Malformed> {
    let topics = read(r, version)?.topics;
    Ok(topics
        .into_iter()
        .flat_map(|(topic, partitions)| partitions.into_iter().map(move |(index, _)| (topic.clone(), index)))
        .collect())
}

/// What became of one partition's batch.
struct Outcome {
    topic: String,
    index: i32,
    result: Result<Placed, ErrorCode>,
}

struct Placed {
    partition: Arc<Partition>,
    base_offset: i64,
    end: i64,
}

pub(super) async fn work(call: Call, r: &mut Reader) -> Result<Answer, Malformed> {
    let request = read(r, call.version)?;
    let (acks, timeout) = (request.acks, request.timeout);
    let injected: Vec<Vec<Option<ErrorCode>>> = request
        .topics
        .iter()
        .map(|(topic, partitions)| {
            partitions.iter().map(|(index, _)| call.plan.error_at(topic, *index)).collect()
        })
        .collect();
    let node = call.node;
    let append = move |cluster: &Cluster| append_all(cluster, node, request, injected);
    let outcomes = call.cluster.on_storage(append).await.ok_or(Malformed("the server is stopping"))?;
    if acks == 0 {
        return Ok(Answer::Silence);
    }
    Ok(Answer::later(answer(call, acks, timeout, outcomes)))
}

/// Appends every batch, in the order of the request; runs where the disk may be used.
fn append_all(
    cluster: &Cluster,
    node: i32,
    request: Request,
    injected: Vec<Vec<Option<ErrorCode>>>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for ((topic, partitions), injected) in request.topics.into_iter().zip(injected) {
        for ((index, batch), injected) in partitions.into_iter().zip(injected) {
            let result = match injected {
                Some(code) => Err(code),
                None if !matches!(request.acks, -1..=1) => Err(ErrorCode::INVALID_REQUIRED_ACKS),
                None if request.transactional => Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
                None => append(cluster, node, &topic, index, batch.as_ref()),
            };
            outcomes.push(Outcome { topic: topic.clone(), index, result });
        }
    }
    cluster.topics.enforce_total();
    outcomes
}

fn append(
    cluster: &Cluster,
    node: i32,
    topic: &str,
    index: i32,
    batch: Option<&Bytes>,
) -> Result<Placed, ErrorCode> {
    let found = cluster.topic_for_writing(topic)?;
    let partition = found.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let batch = batch.ok_or(ErrorCode::CORRUPT_MESSAGE)?;
    if batch.len() > found.max_message_bytes.load(Ordering::Relaxed) {
        return Err(ErrorCode::MESSAGE_TOO_LARGE);
    }
    let header = record_batch::validate(batch)?;
    let appended = partition.with_log(|log| {
        // Under the log's lock: a leadership that moves meanwhile is seen, or comes after the append.
        let leadership = partition.check_leader(node, -1)?;
        log.append(&header, batch, leadership.epoch)
    })?;
    partition.publish();
    Ok(Placed { partition: Arc::clone(partition), base_offset: appended.base_offset, end: appended.end })
}

async fn answer(call: Call, acks: i16, timeout: Duration, mut outcomes: Vec<Outcome>) -> Writer {
    let deadline = Instant::now() + timeout;
    for outcome in &mut outcomes {
        if acks == -1
            && let Ok(placed) = &outcome.result
        {
            let safe = tokio::time::timeout_at(deadline, placed.partition.wait_safe(placed.end)).await;
            // In the log, but nobody can promise that it survives: as when Kafka's followers don't answer in time.
            if let Err(code) = safe.unwrap_or(Err(ErrorCode::REQUEST_TIMED_OUT)) {
                outcome.result = Err(code);
            }
        }
        if let Some(code) = call.plan.error_after_work_at(&outcome.topic, outcome.index) {
            outcome.result = Err(code);
        }
    }
    let mut w = call.writer();
    let topics: Vec<_> = outcomes.chunk_by(|a, b| a.topic == b.topic).collect();
    w.array(topics.into_iter(), |w, outcomes| {
        w.string(&outcomes[0].topic);
        w.array(outcomes.iter(), |w, outcome| write_outcome(w, outcome, call.version));
        w.tags();
    });
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.tags();
    w
}

fn write_outcome(w: &mut Writer, outcome: &Outcome, version: i16) {
    let (code, base_offset, log_start) = match &outcome.result {
        Ok(placed) => {
            (ErrorCode::NONE, placed.base_offset, placed.partition.with_log(|log| log.start_offset()))
        }
        Err(code) => (*code, -1, -1),
    };
    w.i32(outcome.index);
    w.error(code);
    w.i64(base_offset);
    if version >= 2 {
        w.i64(-1); // the producer's timestamps stand
    }
    if version >= 5 {
        w.i64(log_start);
    }
    if version >= 8 {
        w.array_len(0); // no record is singled out
        w.nullable_string(None);
    }
    w.tags();
}
