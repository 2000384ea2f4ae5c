//! What a server is made of, and its bounds.

use std::path::PathBuf;

use crate::{Error, MiniKafka};

/// Nodes that one server may pretend to be.
const MAX_NODES: usize = 16;

/// A server to be started; made by [`MiniKafka::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) nodes: usize,
    pub(crate) partitions: i32,
    pub(crate) auto_create: bool,
    pub(crate) bind: String,
    pub(crate) advertised_host: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) durable: bool,
    pub(crate) retention_bytes: u64,
    pub(crate) total_retention_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_request_bytes: usize,
    pub(crate) max_connections: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 1,
            partitions: 1,
            auto_create: true,
            bind: "127.0.0.1:0".to_owned(),
            advertised_host: None,
            data_dir: None,
            durable: true,
            retention_bytes: 256 << 20,
            total_retention_bytes: 1 << 30,
            segment_bytes: 16 << 20,
            max_message_bytes: 1_048_588,
            max_request_bytes: 16 << 20,
            max_connections: 1024,
        }
    }
}

impl Builder {
    /// How many nodes to be, 1 to 16, each with a port of its own; 1 unless told. Partitions are spread over them.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Partitions of a topic that comes into being because a client names it; 1 unless told.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Whether naming a topic in Metadata or Produce creates it; true unless told.
    #[must_use]
    pub fn auto_create(mut self, yes: bool) -> Self {
        self.auto_create = yes;
        self
    }

    /// Where to listen; "127.0.0.1:0", a free port for each node, unless told. With a fixed port, node k takes the
    /// port + k - 1. Nothing asks for a password here: an address that others reach is open to them.
    #[must_use]
    pub fn bind(mut self, addr: impl Into<String>) -> Self {
        self.bind = addr.into();
        self
    }

    /// The host that clients are told to connect to; the bound address unless told.
    #[must_use]
    pub fn advertised_host(mut self, host: impl Into<String>) -> Self {
        self.advertised_host = Some(host.into());
        self
    }

    /// Keeps the log in this directory, which is created; in memory unless told.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Whether records in a data directory are synced (fsync, one for all that wait) before acks=all is answered and
    /// before consumers see them; true unless told. Without it a power loss can take what was acknowledged.
    #[must_use]
    pub fn durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self
    }

    /// Bytes that a partition keeps at most, then its oldest segment is deleted; 256 MiB unless told.
    #[must_use]
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.retention_bytes = bytes;
        self
    }

    /// Bytes that all partitions together keep at most, then the largest loses its oldest segment; 1 GiB unless told.
    #[must_use]
    pub fn total_retention_bytes(mut self, bytes: u64) -> Self {
        self.total_retention_bytes = bytes;
        self
    }

    /// Bytes after which a segment is closed and a new one begun; 16 MiB unless told.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Bytes of the largest batch that a topic takes unless it has its own limit; 1,048,588 as in Kafka unless told.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Bytes of the largest request; a connection that announces more is closed at once. 16 MiB unless told.
    #[must_use]
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Connections at the same time, on all nodes together; one more is closed at once. 1024 unless told.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Starts the server on the current tokio runtime, which must have its I/O and time drivers.
    ///
    /// # Errors
    ///
    /// [`Error`]: the address is taken, the data directory can't be used or is damaged, or a value can't be.
    pub async fn start(self) -> Result<MiniKafka, Error> {
        if !(1..=MAX_NODES).contains(&self.nodes) {
            return Err(Error::Config("a server has 1 to 16 nodes"));
        }
        let partitions = usize::try_from(self.partitions).unwrap_or(0);
        if !(1..=crate::topics::MAX_PARTITIONS).contains(&partitions) {
            return Err(Error::Config("a topic has 1 to 1024 partitions"));
        }
        if self.segment_bytes == 0
            || self.max_connections == 0
            || i32::try_from(self.max_request_bytes).is_err()
        {
            return Err(Error::Config("sizes are above 0, and a request below 2 GiB"));
        }
        MiniKafka::start(self).await
    }
}
