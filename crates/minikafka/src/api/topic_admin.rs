//! CreateTopics and DeleteTopics.

use std::collections::BTreeMap;

use super::Call;
use crate::ErrorCode;
use crate::cluster::Cluster;
use crate::wire::{Malformed, Reader, Writer};

struct New {
    name: String,
    partitions: i32,
    replication: i16,
    /// Partitions by number, when the client says itself where they are to lie.
    assigned: Vec<i32>,
    settings: BTreeMap<String, String>,
}

fn read_new(r: &mut Reader) -> Result<New, Malformed> {
    let name = r.string()?;
    let partitions = r.i32()?;
    let replication = r.i16()?;
    let assigned = r.array(|r| {
        let index = r.i32()?;
        r.array(Reader::i32)?;
        r.tags()?;
        Ok(index)
    })?;
    let settings = r.array(|r| {
        let setting = (r.string()?, r.nullable_string()?);
        r.tags()?;
        Ok(setting)
    })?;
    r.tags()?;
    let settings = settings.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    Ok(New { name, partitions, replication, assigned, settings })
}

pub(super) async fn create(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let topics = r.array(read_new)?;
    r.i32()?; // timeout: creating a topic here takes no agreement
    let only_check = call.version >= 1 && r.bool()?;
    r.tags()?;
    let injected = call.plan.error();
    let make = move |cluster: &Cluster| -> Vec<(String, Result<i32, ErrorCode>)> {
        let one = |new: New| {
            let name = new.name.clone();
            (name, injected.map_or_else(|| create_one(cluster, new, only_check), Err))
        };
        topics.into_iter().map(one).collect()
    };
    let made = call.cluster.on_storage(make).await.ok_or(Malformed("the server is stopping"))?;
    let mut w = call.writer();
    if call.version >= 2 {
        w.i32(call.plan.throttle_ms());
    }
    w.array(made.iter(), |w, (name, result)| {
        let result = result.and_then(|partitions| call.plan.error_after_work().map_or(Ok(partitions), Err));
        let error = result.err();
        w.string(name);
        w.error(error.unwrap_or(ErrorCode::NONE));
        if call.version >= 1 {
            w.nullable_string(error.map(explain));
        }
        if call.version >= 5 {
            w.i32(result.unwrap_or(-1));
            w.i16(if error.is_some() { -1 } else { 1 });
            w.array_len(0); // what was configured, DescribeConfigs tells
        }
        w.tags();
    });
    w.tags();
    Ok(w)
}

fn create_one(cluster: &Cluster, new: New, only_check: bool) -> Result<i32, ErrorCode> {
    cluster.injections.check_topic(&new.name)?;
    let nodes = i16::try_from(cluster.nodes.len()).unwrap_or(i16::MAX);
    if new.assigned.is_empty() && !(new.replication == -1 || (1..=nodes).contains(&new.replication)) {
        return Err(ErrorCode::INVALID_REPLICATION_FACTOR);
    }
    let partitions = match (new.assigned.len(), new.partitions) {
        (0, -1) => cluster.default_partitions(),
        (0, partitions) => partitions,
        (assigned, _) => i32::try_from(assigned).map_err(|_| ErrorCode::INVALID_PARTITIONS)?,
    };
    if only_check {
        cluster.topics.check_new(&new.name, partitions, &new.settings)?;
    } else {
        cluster.topics.create(&new.name, partitions, new.settings)?;
    }
    Ok(partitions)
}

/// A sentence for the person who reads the client's exception.
fn explain(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TOPIC_ALREADY_EXISTS => "the topic exists",
        ErrorCode::INVALID_TOPIC_EXCEPTION => "a name has 1 to 249 of the characters a-z A-Z 0-9 . _ -",
        ErrorCode::INVALID_PARTITIONS => "a topic has at least one partition",
        ErrorCode::INVALID_REPLICATION_FACTOR => {
            "there are not so many nodes (and this server keeps one copy)"
        }
        ErrorCode::INVALID_CONFIG => "a setting is not one that can be kept",
        ErrorCode::POLICY_VIOLATION => "this small server has as many partitions as it takes",
        ErrorCode::KAFKA_STORAGE_ERROR => "the data directory can't be written",
        _ => "refused",
    }
}

pub(super) async fn delete(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let names = r.array(Reader::string)?;
    r.i32()?; // timeout
    r.tags()?;
    let injected = call.plan.error();
    let remove = move |cluster: &Cluster| -> Vec<(String, Result<(), ErrorCode>)> {
        let one = |name: &str| {
            if let Some(code) = injected {
                return Err(code);
            }
            cluster.injections.check_topic(name)?;
            cluster.topics.delete(name)
        };
        names
            .into_iter()
            .map(|name| {
                let result = one(&name);
                (name, result)
            })
            .collect()
    };
    let removed = call.cluster.on_storage(remove).await.ok_or(Malformed("the server is stopping"))?;
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.array(removed.iter(), |w, (name, result)| {
        w.string(name);
        w.error(result.err().or(call.plan.error_after_work()).unwrap_or(ErrorCode::NONE));
        if call.version >= 5 {
            w.nullable_string(None);
        }
        w.tags();
    });
    w.tags();
    Ok(w)
}
