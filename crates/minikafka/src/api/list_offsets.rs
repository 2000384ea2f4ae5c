//! ListOffsets: the first, the last, or by time.

use super::Call;
use crate::ErrorCode;
use crate::cluster::Cluster;
use crate::wire::{Malformed, Reader, Writer};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

struct Wanted {
    index: i32,
    leader_epoch: i32,
    timestamp: i64,
}

type Topics = Vec<(String, Vec<Wanted>)>;

fn read(r: &mut Reader, version: i16) -> Result<Topics, Malformed> {
    r.i32()?; // replica id
    if version >= 2 {
        r.i8()?; // isolation level
    }
    let topics = r.array(|r| {
        let name = r.string()?;
        let partitions = r.array(|r| {
            let index = r.i32()?;
            let leader_epoch = if version >= 4 { r.i32()? } else { -1 };
            let timestamp = r.i64()?;
            r.tags()?;
            Ok(Wanted { index, leader_epoch, timestamp })
        })?;
        r.tags()?;
        Ok((name, partitions))
    })?;
    r.tags()?;
    Ok(topics)
}

pub(super) fn partitions(r: &mut Reader, version: i16) -> Result<Vec<(String, i32)>, Malformed> {
    let topics = read(r, version)?;
    Ok(topics
        .into_iter()
        .flat_map(|(topic, partitions)| partitions.into_iter().map(move |one| (topic.clone(), one.index)))
        .collect())
}

/// (offset, timestamp, leader epoch)
type Found = (i64, i64, i32);

type FoundTopics = Vec<(String, Vec<(i32, Result<Found, ErrorCode>)>)>;

const NOTHING: Found = (-1, -1, -1);

pub(super) async fn work(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let topics = read(r, call.version)?;
    let node = call.node;
    let look = move |cluster: &Cluster| -> FoundTopics {
        let find = |topic: &str, one: &Wanted| (one.index, find(cluster, node, topic, one));
        topics
            .into_iter()
            .map(|(topic, wanted)| {
                let found = wanted.iter().map(|one| find(&topic, one)).collect();
                (topic, found)
            })
            .collect()
    };
    let found = call.cluster.on_storage(look).await.ok_or(Malformed("the server is stopping"))?;
    let mut w = call.writer();
    if call.version >= 2 {
        w.i32(call.plan.throttle_ms());
    }
    w.array(found.iter(), |w, (topic, partitions)| {
        w.string(topic);
        w.array(partitions.iter(), |w, (index, found)| {
            let plan = &call.plan;
            let injected = plan.error_at(topic, *index).or_else(|| plan.error_after_work_at(topic, *index));
            let (error, (offset, timestamp, epoch)) = match (injected, found) {
                (Some(code), _) => (code, NOTHING),
                (None, Err(code)) => (*code, NOTHING),
                (None, Ok(found)) => (ErrorCode::NONE, *found),
            };
            w.i32(*index);
            w.error(error);
            w.i64(timestamp);
            w.i64(offset);
            if call.version >= 4 {
                w.i32(epoch);
            }
            w.tags();
        });
        w.tags();
    });
    w.tags();
    Ok(w)
}

fn find(cluster: &Cluster, node: i32, topic: &str, wanted: &Wanted) -> Result<Found, ErrorCode> {
    cluster.injections.check_topic(topic)?;
    let partition = cluster.topics.partition(topic, wanted.index)?;
    let epoch = partition.check_leader(node, wanted.leader_epoch)?.epoch;
    let high_watermark = partition.high_watermark();
    let visible = |found: &(i64, i64)| found.0 < high_watermark;
    let found = match wanted.timestamp {
        LATEST => return Ok((high_watermark, -1, epoch)),
        EARLIEST => return Ok((partition.with_log(|log| log.start_offset()), -1, epoch)),
        MAX_TIMESTAMP => partition.with_log(|log| log.newest())?.filter(visible),
        timestamp => partition.with_log(|log| log.offset_for(timestamp))?.filter(visible),
    };
    let (offset, timestamp) = found.unwrap_or((-1, -1));
    Ok((offset, timestamp, epoch))
}
