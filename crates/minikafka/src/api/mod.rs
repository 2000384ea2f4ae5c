//! The requests, one file for each group of them: read, done, answered.

mod api_versions;
mod configs;
mod fetch;
mod group;
mod group_offsets;
mod list_offsets;
mod metadata;
mod produce;
mod producer_id;
mod topic_admin;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::faults::Plan;
use crate::wire::{Malformed, Reader, Writer};
use crate::{ApiKey, ErrorCode};

/// One request, without its body.
pub(crate) struct Call {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) node: i32,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) plan: Plan,
}

impl Call {
    fn writer(&self) -> Writer {
        Writer::new(self.api.flexible(self.version))
    }

    /// The error of a request that has one for all: what a fault says, or what the work came to.
    fn verdict<T>(&self, work: impl FnOnce() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
        if let Some(injected) = self.plan.error() {
            return Err(injected);
        }
        let done = work()?;
        self.plan.error_after_work().map_or(Ok(done), Err)
    }
}

/// The answer to a request: its body.
pub(crate) enum Answer {
    /// Nothing is answered (Produce with acks=0).
    Silence,
    Now(Writer),
    /// The work that orders requests is done; the answer comes when something has happened. Requests behind it on the
    /// connection are worked on meanwhile, and answered after it.
    Later(Pin<Box<dyn Future<Output = Writer> + Send>>),
}

impl Answer {
    fn later(answer: impl Future<Output = Writer> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// Works on a request whose version is supported.
pub(crate) async fn work(call: Call, mut body: Reader) -> Result<Answer, Malformed> {
    let r = &mut body;
    Ok(match call.api {
        ApiKey::Produce => produce::work(call, r).await?,
        ApiKey::Fetch => fetch::work(call, r)?,
        ApiKey::ListOffsets => Answer::Now(list_offsets::work(&call, r).await?),
        ApiKey::Metadata => Answer::Now(metadata::work(&call, r).await?),
        ApiKey::DescribeCluster => Answer::Now(metadata::describe_cluster(&call, r)?),
        ApiKey::ApiVersions => Answer::Now(api_versions::work(&call)),
        ApiKey::CreateTopics => Answer::Now(topic_admin::create(&call, r).await?),
        ApiKey::DeleteTopics => Answer::Now(topic_admin::delete(&call, r).await?),
        ApiKey::InitProducerId => Answer::Now(producer_id::work(&call, r).await?),
        ApiKey::DescribeConfigs => Answer::Now(configs::work(&call, r)?),
        ApiKey::FindCoordinator => Answer::Now(group::find_coordinator(&call, r)?),
        ApiKey::JoinGroup => group::join(call, r)?,
        ApiKey::SyncGroup => group::sync(call, r)?,
        ApiKey::Heartbeat => Answer::Now(group::heartbeat(&call, r)?),
        ApiKey::LeaveGroup => Answer::Now(group::leave(&call, r)?),
        ApiKey::DescribeGroups => Answer::Now(group::describe(&call, r)?),
        ApiKey::ListGroups => Answer::Now(group::list(&call, r)?),
        ApiKey::OffsetCommit => Answer::Now(group_offsets::commit(&call, r).await?),
        ApiKey::OffsetFetch => Answer::Now(group_offsets::fetch(&call, r)?),
    })
}

/// The answer to a request in a version that is not spoken here. Only ApiVersions has one: in its oldest form, so that
/// any client can read it and ask again.
pub(crate) fn unsupported_version() -> Writer {
    api_versions::unsupported()
}

/// The partitions that a request carries, for the faults that ask; none for a request that has none or is malformed.
pub(crate) fn partitions_of(api: ApiKey, version: i16, body: &Reader) -> Vec<(String, i32)> {
    let mut r = body.clone();
    let read = match api {
        ApiKey::Produce => produce::partitions(&mut r, version),
        ApiKey::Fetch => fetch::partitions(&mut r, version),
        ApiKey::ListOffsets => list_offsets::partitions(&mut r, version),
        _ => Ok(Vec::new()),
    };
    read.unwrap_or_default()
}
