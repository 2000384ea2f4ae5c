//! Which requests exist here, in which versions, and from which version on they use the flexible encoding.

/// A kind of request that this server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ApiKey {
    /// Appends record batches.
    Produce,
    /// Reads record batches, waiting for them if asked to.
    Fetch,
    /// Finds offsets: the first, the last, or by time.
    ListOffsets,
    /// Nodes, topics and who leads which partition.
    Metadata,
    /// Stores how far a group has read.
    OffsetCommit,
    /// Tells how far a group has read.
    OffsetFetch,
    /// Which node coordinates a group.
    FindCoordinator,
    /// Enters a group.
    JoinGroup,
    /// Stays in a group.
    Heartbeat,
    /// Leaves a group.
    LeaveGroup,
    /// Distributes a group's assignment.
    SyncGroup,
    /// Looks at groups closely.
    DescribeGroups,
    /// Names the groups.
    ListGroups,
    /// The versions that this server speaks.
    ApiVersions,
    /// Creates topics.
    CreateTopics,
    /// Deletes topics.
    DeleteTopics,
    /// Hands out a producer id for idempotent produce.
    InitProducerId,
    /// Reads the configuration of topics.
    DescribeConfigs,
    /// Describes the nodes.
    DescribeCluster,
}

/// (API, key on the wire, oldest version, newest version, first flexible version)
///
/// Everything that the clients of 2018 (Kafka 2.1, the oldest server that today's Java clients accept) to today ask for.
/// Newer versions than these bring topic ids and server-side group protocols, which clients do without when a server
/// doesn't offer them.
const TABLE: [(ApiKey, i16, i16, i16, i16); 19] = [
    // Produce is offered from 0 as Kafka 4 does: librdkafka refuses to compress for a server that doesn't. Batches older
    // than version 2 are refused when they come.
    (ApiKey::Produce, 0, 0, 9, 9),
    (ApiKey::Fetch, 1, 4, 12, 12),
    (ApiKey::ListOffsets, 2, 1, 7, 6),
    (ApiKey::Metadata, 3, 0, 9, 9),
    (ApiKey::OffsetCommit, 8, 2, 8, 8),
    (ApiKey::OffsetFetch, 9, 1, 7, 6),
    (ApiKey::FindCoordinator, 10, 0, 3, 3),
    (ApiKey::JoinGroup, 11, 0, 7, 6),
    (ApiKey::Heartbeat, 12, 0, 4, 4),
    (ApiKey::LeaveGroup, 13, 0, 4, 4),
    (ApiKey::SyncGroup, 14, 0, 5, 4),
    (ApiKey::DescribeGroups, 15, 0, 5, 5),
    (ApiKey::ListGroups, 16, 0, 4, 3),
    (ApiKey::ApiVersions, 18, 0, 3, 3),
    (ApiKey::CreateTopics, 19, 0, 5, 5),
    (ApiKey::DeleteTopics, 20, 0, 5, 4),
    (ApiKey::InitProducerId, 22, 0, 4, 2),
    (ApiKey::DescribeConfigs, 32, 1, 4, 4),
    (ApiKey::DescribeCluster, 60, 0, 0, 0),
];

impl ApiKey {
    fn row(self) -> &'static (Self, i16, i16, i16, i16) {
        TABLE.iter().find(|row| row.0 == self).expect("the table has a row for every variant, a test says")
    }

    /// The key on the wire.
    pub fn code(self) -> i16 {
        self.row().1
    }

    /// The API with this key on the wire, if this server knows it.
    pub fn from_code(code: i16) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    pub(crate) fn supports(self, version: i16) -> bool {
        let row = self.row();
        (row.2..=row.3).contains(&version)
    }

    pub(crate) fn flexible(self, version: i16) -> bool {
        version >= self.row().4
    }

    /// (key, oldest, newest) of every API.
    pub(crate) fn versions() -> impl ExactSizeIterator<Item = (i16, i16, i16)> {
        TABLE.iter().map(|row| (row.1, row.2, row.3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_has_a_row_and_its_key_leads_back() {
        for (api, code, oldest, newest, _) in TABLE {
            assert_eq!(api.code(), code);
            assert_eq!(ApiKey::from_code(code), Some(api));
            assert!(api.supports(oldest) && api.supports(newest) && !api.supports(newest + 1));
        }
        // The last variant: a new one without a row changes this count.
        assert_eq!(ApiKey::DescribeCluster as usize + 1, TABLE.len());
    }
}
