//! Metadata and DescribeCluster: the nodes, the topics, and who leads which partition.

use std::sync::Arc;

use super::Call;
use crate::ErrorCode;
use crate::cluster::{CLUSTER_ID, Cluster};
use crate::topics::Topic;
use crate::wire::{Malformed, Reader, Writer};

/// "Not asked for" among the authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

pub(super) async fn work(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let names = r.nullable_array(|r| {
        let name = r.string()?;
        r.tags()?;
        Ok(name)
    })?;
    // In version 0 no names meant all topics.
    let names = names.filter(|names| call.version > 0 || !names.is_empty());
    let may_create = call.version < 4 || r.bool()?;
    if call.version >= 8 {
        r.bool()?;
        r.bool()?;
    }
    r.tags()?;
    let injected = call.plan.error();
    let look = move |cluster: &Cluster| look(cluster, names, may_create, injected);
    let topics = call.cluster.on_storage(look).await.ok_or(Malformed("the server is stopping"))?;
    Ok(write(call, &topics))
}

type Found = (String, Result<Arc<Topic>, ErrorCode>);

fn look(
    cluster: &Cluster,
    names: Option<Vec<String>>,
    may_create: bool,
    injected: Option<ErrorCode>,
) -> Vec<Found> {
    let Some(names) = names else {
        let mut all = cluster.topics.all();
        all.retain(|(name, _)| cluster.injections.check_topic(name).is_ok());
        return all.into_iter().map(|(name, topic)| (name, injected.map_or(Ok(topic), Err))).collect();
    };
    let one = |name: &str| {
        if let Some(code) = injected {
            return Err(code);
        }
        if may_create {
            return cluster.topic_for_writing(name);
        }
        cluster.injections.check_topic(name)?;
        cluster.topics.get(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    };
    names
        .into_iter()
        .map(|name| {
            let found = one(&name);
            (name, found)
        })
        .collect()
}

fn write(call: &Call, topics: &[Found]) -> Writer {
    let version = call.version;
    let mut w = call.writer();
    if version >= 3 {
        w.i32(call.plan.throttle_ms());
    }
    nodes(&mut w, &call.cluster, version >= 1);
    if version >= 2 {
        w.nullable_string(Some(CLUSTER_ID));
    }
    if version >= 1 {
        w.i32(controller(&call.cluster));
    }
    w.array(topics.iter(), |w, (name, found)| {
        w.error(
            found
                .as_ref()
                .err()
                .or(call.plan.error_after_work().as_ref())
                .map_or(ErrorCode::NONE, |code| *code),
        );
        w.string(name);
        if version >= 1 {
            w.bool(false); // not internal
        }
        let partitions = found.as_ref().map_or(&[][..], |topic| &topic.partitions[..]);
        w.array(partitions.iter(), |w, partition| {
            let leadership = partition.leadership();
            w.error(if leadership.node.is_some() {
                ErrorCode::NONE
            } else {
                ErrorCode::LEADER_NOT_AVAILABLE
            });
            w.i32(partition.index);
            w.i32(leadership.node.unwrap_or(-1));
            if version >= 7 {
                w.i32(leadership.epoch);
            }
            let copies: Vec<i32> = leadership.node.into_iter().collect();
            w.array(copies.iter().copied(), Writer::i32);
            w.array(copies.iter().copied(), Writer::i32);
            if version >= 5 {
                w.array_len(0); // offline replicas
            }
            w.tags();
        });
        if version >= 8 {
            w.i32(NO_OPERATIONS);
        }
        w.tags();
    });
    if version >= 8 {
        w.i32(NO_OPERATIONS);
    }
    w.tags();
    w
}

fn nodes(w: &mut Writer, cluster: &Cluster, racks: bool) {
    let up: Vec<_> = cluster.nodes.iter().filter(|node| node.is_up()).collect();
    w.array(up.into_iter(), |w, node| {
        w.i32(node.id);
        w.string(&node.host);
        w.i32(i32::from(node.addr.port()));
        if racks {
            w.nullable_string(None);
        }
        w.tags();
    });
}

/// The first node that is up answers for topics.
fn controller(cluster: &Cluster) -> i32 {
    cluster.nodes.iter().find(|node| node.is_up()).map_or(-1, |node| node.id)
}

pub(super) fn describe_cluster(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    r.bool()?; // include authorized operations: there are none
    r.tags()?;
    let mut w = call.writer();
    w.i32(call.plan.throttle_ms());
    w.error(call.verdict(|| Ok(())).err().unwrap_or(ErrorCode::NONE));
    w.nullable_string(None);
    w.string(CLUSTER_ID);
    w.i32(controller(&call.cluster));
    nodes(&mut w, &call.cluster, true);
    w.i32(NO_OPERATIONS);
    w.tags();
    Ok(w)
}
