//! OffsetCommit and OffsetFetch: how far a group has read.

use super::Call;
use crate::ErrorCode;
use crate::cluster::Cluster;
use crate::offsets::{Committed, MAX_METADATA_BYTES, MAX_OFFSETS, Offsets};
use crate::wire::{Malformed, Reader, Writer};

struct Commit {
    group: String,
    generation: i32,
    member: String,
    topics: Vec<(String, Vec<(i32, Committed)>)>,
}

fn read_commit(r: &mut Reader, version: i16) -> Result<Commit, Malformed> {
    let (group, generation, member) = (r.string()?, r.i32()?, r.string()?);
    if version >= 7 {
        r.nullable_string()?; // instance
    }
    if version <= 4 {
        r.i64()?; // retention: offsets stay here
    }
    let topics = r.array(|r| {
        let name = r.string()?;
        let partitions = r.array(|r| {
            let (index, offset) = (r.i32()?, r.i64()?);
            let leader_epoch = if version >= 6 { r.i32()? } else { -1 };
            let metadata = r.nullable_string()?;
            r.tags()?;
            Ok((index, Committed { offset, leader_epoch, metadata }))
        })?;
        r.tags()?;
        Ok((name, partitions))
    })?;
    r.tags()?;
    Ok(Commit { group, generation, member, topics })
}

type Committing = Vec<(String, Vec<(i32, Result<(), ErrorCode>)>)>;

pub(super) async fn commit(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let request = read_commit(r, call.version)?;
    let injected = call.plan.error();
    let work = move |cluster: &Cluster| commit_all(cluster, request, injected);
    let committed = call.cluster.on_storage(work).await.ok_or(Malformed("the server is stopping"))?;
    let mut w = call.writer();
    if call.version >= 3 {
        w.i32(call.plan.throttle_ms());
    }
    w.array(committed.iter(), |w, (topic, partitions)| {
        w.string(topic);
        w.array(partitions.iter(), |w, (index, result)| {
            w.i32(*index);
            w.error(result.err().or(call.plan.error_after_work()).unwrap_or(ErrorCode::NONE));
            w.tags();
        });
        w.tags();
    });
    w.tags();
    Ok(w)
}

fn commit_all(cluster: &Cluster, request: Commit, injected: Option<ErrorCode>) -> Committing {
    let groups = &cluster.groups;
    let allowed = match injected {
        Some(code) => Err(code),
        None => groups.check_commit(&request.group, request.generation, &request.member),
    };
    let one = |topic: &str, index: i32, committed: Committed| {
        allowed?;
        cluster.injections.check_topic(topic)?;
        cluster.topics.partition(topic, index)?;
        if committed.metadata.as_ref().is_some_and(|text| text.len() > MAX_METADATA_BYTES) {
            return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
        }
        let store = |offsets: &mut Offsets| {
            let place = (topic.to_owned(), index);
            if offsets.len() >= MAX_OFFSETS && !offsets.contains_key(&place) {
                return Err(ErrorCode::INVALID_COMMIT_OFFSET_SIZE);
            }
            offsets.insert(place, committed);
            Ok(())
        };
        groups.with_offsets(&request.group, store).unwrap_or(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
    };
    let mut results: Committing = Vec::new();
    for (topic, partitions) in request.topics {
        let stored = partitions.into_iter().map(|(index, committed)| (index, one(&topic, index, committed)));
        results.push((topic.clone(), stored.collect()));
    }
    if let Err(error) = groups.save() {
        tracing::error!(%error, group = request.group, "can't keep the group's offsets");
        let stored = results.iter_mut().flat_map(|(_, partitions)| partitions);
        stored.for_each(|(_, result)| *result = Err(ErrorCode::KAFKA_STORAGE_ERROR));
    }
    results
}

pub(super) fn fetch(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let group = r.string()?;
    let wanted = r.nullable_array(|r| {
        let topic = (r.string()?, r.array(Reader::i32)?);
        r.tags()?;
        Ok(topic)
    })?;
    if call.version >= 7 {
        r.bool()?; // only stable offsets: there are no transactions, all are
    }
    r.tags()?;
    let error = call.verdict(|| Ok(())).err();
    let found = call.cluster.groups.with_offsets(&group, |offsets| offsets.clone()).unwrap_or_default();
    let topics = wanted.unwrap_or_else(|| all_of(&found));
    let mut w = call.writer();
    if call.version >= 3 {
        w.i32(call.plan.throttle_ms());
    }
    w.array(topics.into_iter(), |w, (topic, partitions)| {
        w.string(&topic);
        w.array(partitions.into_iter(), |w, index| {
            let committed = found.get(&(topic.clone(), index)).filter(|_| error.is_none());
            w.i32(index);
            w.i64(committed.map_or(-1, |committed| committed.offset));
            if call.version >= 5 {
                w.i32(committed.map_or(-1, |committed| committed.leader_epoch));
            }
            w.nullable_string(Some(committed.and_then(|one| one.metadata.as_deref()).unwrap_or_default()));
            w.error(error.unwrap_or(ErrorCode::NONE));
            w.tags();
        });
        w.tags();
    });
    if call.version >= 2 {
        w.error(error.unwrap_or(ErrorCode::NONE));
    }
    w.tags();
    Ok(w)
}

fn all_of(offsets: &Offsets) -> Vec<(String, Vec<i32>)> {
    let mut topics: Vec<(String, Vec<i32>)> = Vec::new();
    for (topic, index) in offsets.keys() {
        match topics.last_mut() {
            Some((last, indexes)) if last == topic => indexes.push(*index),
            _ => topics.push((topic.clone(), vec![*index])),
        }
    }
    topics
}
