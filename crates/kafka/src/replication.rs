//! Whether topics carry the promise that is made for them: a record that is acknowledged outlives the loss of a node only
//! where there is a second copy of it before it is acknowledged.

use std::collections::HashMap;
use std::sync::Arc;

use rskafka::protocol::messages::MetadataResponseTopic;
use tokio::time::Instant;
use tracing::debug;

use crate::connection::{Connection, ConnectionError};
use crate::error_class::error_name;
use crate::producer::Shared;
use crate::status::Part;
use crate::wire::DescribeConfigsRequest;

/// Topics asked about with one request.
const TOPICS_AT_ONCE: usize = 200;
const MIN_INSYNC: &str = "min.insync.replicas";

/// Looks at the replication of topics, each when it is new, when it changed, and now and then.
#[derive(Debug, Default)]
pub(crate) struct ReplicationWatch {
    looked_at: HashMap<Arc<str>, Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    replicas: usize,
}

impl ReplicationWatch {
    /// Looks at what is due of the topics that were `found`, and reports what it sees.
    pub(crate) async fn look(
        &mut self,
        connection: &mut Connection,
        shared: &Shared,
        found: &[MetadataResponseTopic],
    ) -> Result<(), ConnectionError> {
        if !shared.config.warn_of_single_copies {
            return Ok(());
        }
        let now = Instant::now();
        let due: Vec<(Arc<str>, usize)> = found
            .iter()
            .filter_map(|topic| Some((topic.name.0.as_str().into(), fewest_replicas(topic)?)))
            .filter(|(name, replicas)| {
                self.looked_at.get(name).is_none_or(|look| {
                    look.replicas != *replicas || look.at + shared.config.metadata_interval <= now
                })
            })
            .collect();
        for topics in due.chunks(TOPICS_AT_ONCE) {
            let minimums = minimums(connection, topics).await?;
            for (name, replicas) in topics {
                let minimum = minimums.get(&**name).copied();
                shared.meter.warn(Part::Topic(Arc::clone(name)), verdict(*replicas, minimum));
                self.looked_at.insert(Arc::clone(name), Look { at: now, replicas: *replicas });
            }
        }
        Ok(())
    }
}

/// Copies of the partition that has the fewest.
fn fewest_replicas(topic: &MetadataResponseTopic) -> Option<usize> {
    let replicas =
        topic.partitions.iter().map(|partition| partition.replica_nodes.0.as_deref().map_or(0, <[_]>::len));
    replicas.min().filter(|&fewest| fewest > 0)
}

/// `min.insync.replicas` of topics, as far as Kafka tells.
async fn minimums(
    connection: &mut Connection,
    topics: &[(Arc<str>, usize)],
) -> Result<HashMap<String, i32>, ConnectionError> {
    let request = DescribeConfigsRequest {
        topics: topics.iter().map(|(name, _)| name.to_string()).collect(),
        key: MIN_INSYNC.to_owned(),
    };
    let answer = match connection.call(&request).await {
        Ok(answer) => answer,
        // Something that speaks a part of the protocol: what metadata says has to do.
        Err(ConnectionError::Version { .. }) => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    let told = answer.topics.into_iter().filter_map(|topic| {
        if topic.error != 0 {
            // Often a right that we do not have, and do not need.
            debug!(topic = topic.name, reason = error_name(topic.error), "min.insync.replicas is not told");
        }
        let value = topic.settings.into_iter().find(|(key, _)| key == MIN_INSYNC)?.1?;
        Some((topic.name, value.parse().ok()?))
    });
    Ok(told.collect())
}

/// Why a topic does not carry the promise, with what to do about it.
fn verdict(replicas: usize, minimum: Option<i32>) -> Option<String> {
    match (replicas, minimum) {
        (1, _) => Some(
            "it has a single replica: what is acknowledged is lost with that node's disk; give it more replicas \
             (kafka-reassign-partitions.sh)"
                .to_owned(),
        ),
        (2.., Some(..=1)) => Some(
            "min.insync.replicas is 1: what is acknowledged may be on one node only, and is lost with its disk; set \
             it to 2 (kafka-configs.sh --alter --add-config min.insync.replicas=2)"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_warned_of_unless_two_nodes_have_a_record_before_it_is_acknowledged() {
        for (replicas, minimum, warned) in [
            (1, None, Some("single replica")),
            (1, Some(1), Some("single replica")),
            (3, Some(1), Some("min.insync.replicas is 1")),
            (3, Some(2), None),
            (2, None, None),
        ] {
            let verdict = verdict(replicas, minimum);
            let fits = match (&verdict, warned) {
                (Some(verdict), Some(warned)) => verdict.contains(warned),
                (verdict, warned) => verdict.is_none() && warned.is_none(),
            };
            assert!(fits, "{replicas} replicas, minimum {minimum:?}: {verdict:?}");
        }
    }
}
