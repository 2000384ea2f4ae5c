//! Fetch: reads batches, and waits for them when there are not enough yet.
//!
//! There are no fetch sessions (KIP-227): session id 0 tells every client to name all its partitions each time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Answer, Call};
use crate::ErrorCode;
use crate::cluster::Cluster;
use crate::wire::{Malformed, Reader, Writer};

/// Bytes of records in one answer, whatever the client asks for (but for a first batch that is larger).
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long an answer may wait, whatever the client asks for.
const MAX_WAIT: Duration = Duration::from_mins(5);

struct Request {
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
    session_id: i32,
    topics: Vec<(String, Vec<Wanted>)>,
}

struct Wanted {
    index: i32,
    leader_epoch: i32,
    offset: i64,
    max_bytes: usize,
}

fn read(r: &mut Reader, version: i16) -> Result<Request, Malformed> {
    r.i32()?; // replica id: there are no replicas
    let max_wait = Duration::from_millis(u64::try_from(r.i32()?).unwrap_or(0)).min(MAX_WAIT);
    let min_bytes = usize::try_from(r.i32()?).unwrap_or(0);
    let max_bytes = usize::try_from(r.i32()?).unwrap_or(0).min(MAX_ANSWER_BYTES);
    r.i8()?; // isolation level: there are no transactions
    let mut session_id = 0;
    if version >= 7 {
        session_id = r.i32()?;
        r.i32()?; // session epoch
    }
    let topics = r.array(|r| {
        let name = r.string()?;
        let partitions = r.array(|r| {
            let index = r.i32()?;
            let leader_epoch = if version >= 9 { r.i32()? } else { -1 };
            let offset = r.i64()?;
            if version >= 12 {
                r.i32()?; // last fetched epoch: logs here never diverge
            }
            if version >= 5 {
                r.i64()?; // a follower's first offset
            }
            let max_bytes = usize::try_from(r.i32()?).unwrap_or(0);
            r.tags()?;
            Ok(Wanted { index, leader_epoch, offset, max_bytes })
        })?;
        r.tags()?;
        Ok((name, partitions))
    })?;
    if version >= 7 {
        r.array(|r| {
            r.string()?;
            r.array(Reader::i32)?;
            r.tags()
        })?;
    }
    if version >= 11 {
        r.string()?; // rack
    }
    r.tags()?;
    Ok(Request { max_wait, min_bytes, max_bytes, session_id, topics })
}

pub(super) fn partitions(r: &mut Reader, version: i16) -> Result<Vec<(String, i32)>, Malformed> {
    let topics = read(r, version)?.topics;
    Ok(topics
        .into_iter()
        .flat_map(|(topic, partitions)| partitions.into_iter().map(move |one| (topic.clone(), one.index)))
        .collect())
}

/// What a partition has to say.
struct Found {
    index: i32,
    error: ErrorCode,
    high_watermark: i64,
    log_start: i64,
    records: Bytes,
}

#[derive(Default)]
struct Collected {
    topics: Vec<(String, Vec<Found>)>,
    bytes: usize,
    errors: bool,
}

pub(super) fn work(call: Call, r: &mut Reader) -> Result<Answer, Malformed> {
    let request = read(r, call.version)?;
    if request.session_id != 0 {
        let unknown = ErrorCode::FETCH_SESSION_ID_NOT_FOUND;
        return Ok(Answer::Now(write(&call, unknown, &Collected::default())));
    }
    Ok(Answer::later(answer(call, request)))
}

async fn answer(call: Call, request: Request) -> Writer {
    let deadline = Instant::now() + request.max_wait;
    let mut changes = call.cluster.changes.subscribe();
    let call = Arc::new(call);
    let request = Arc::new(request);
    loop {
        changes.borrow_and_update();
        let (worker, wanted) = (Arc::clone(&call), Arc::clone(&request));
        let collected = call.cluster.on_storage(move |cluster| collect(cluster, &worker, &wanted)).await;
        let collected = collected.unwrap_or_default();
        if collected.errors || collected.bytes >= request.min_bytes || Instant::now() >= deadline {
            return write(&call, ErrorCode::NONE, &collected);
        }
        // Timed out or stopping: the next round answers with what there is. A change: it looks again.
        if let Ok(Err(_)) = tokio::time::timeout_at(deadline, changes.changed()).await {
            return write(&call, ErrorCode::NONE, &collected);
        }
    }
}

fn collect(cluster: &Cluster, call: &Call, request: &Request) -> Collected {
    let mut collected = Collected::default();
    for (topic, partitions) in &request.topics {
        let mut found = Vec::new();
        for wanted in partitions {
            let room = request.max_bytes.saturating_sub(collected.bytes);
            let first = collected.bytes == 0;
            let injected = call
                .plan
                .error_at(topic, wanted.index)
                .or_else(|| call.plan.error_after_work_at(topic, wanted.index));
            let one = match injected {
                Some(code) => Err((code, -1, -1)),
                None => look(cluster, call.node, topic, wanted, room, first),
            };
            let one = one.unwrap_or_else(|(error, high_watermark, log_start)| Found {
                index: wanted.index,
                error,
                high_watermark,
                log_start,
                records: Bytes::new(),
            });
            collected.bytes += one.records.len();
            collected.errors |= one.error != ErrorCode::NONE;
            found.push(one);
        }
        collected.topics.push((topic.clone(), found));
    }
    collected
}

/// Looks into one partition; an error comes with the high watermark and the first offset, as far as they are known.
fn look(
    cluster: &Cluster,
    node: i32,
    topic: &str,
    wanted: &Wanted,
    room: usize,
    first: bool,
) -> Result<Found, (ErrorCode, i64, i64)> {
    let unknown = |code| (code, -1, -1);
    cluster.injections.check_topic(topic).map_err(unknown)?;
    let partition = cluster.topics.partition(topic, wanted.index).map_err(unknown)?;
    partition.check_leader(node, wanted.leader_epoch).map_err(unknown)?;
    let high_watermark = partition.high_watermark();
    partition.with_log(|log| {
        let log_start = log.start_offset();
        let known = |code| (code, high_watermark, log_start);
        if wanted.offset < log_start || wanted.offset > log.next_offset() {
            return Err(known(ErrorCode::OFFSET_OUT_OF_RANGE));
        }
        let max_bytes = wanted.max_bytes.min(room);
        let records = log.read(wanted.offset, high_watermark, max_bytes, first).map_err(known)?;
        Ok(Found { index: wanted.index, error: ErrorCode::NONE, high_watermark, log_start, records })
    })
}

fn write(call: &Call, error: ErrorCode, collected: &Collected) -> Writer {
    let mut w = call.writer();
    w.i32(call.plan.throttle_ms());
    if call.version >= 7 {
        w.error(error);
        w.i32(0); // no session
    }
    w.array(collected.topics.iter(), |w, (topic, partitions)| {
        w.string(topic);
        w.array(partitions.iter(), |w, found| {
            w.i32(found.index);
            w.error(found.error);
            w.i64(found.high_watermark);
            w.i64(found.high_watermark); // the last stable offset: there are no transactions
            if call.version >= 5 {
                w.i64(found.log_start);
            }
            w.null_array(); // aborted transactions
            if call.version >= 11 {
                w.i32(-1); // no replica to prefer
            }
            w.bytes(&found.records);
            w.tags();
        });
        w.tags();
    });
    w.tags();
    w
}
