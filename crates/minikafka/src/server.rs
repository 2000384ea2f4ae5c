//! The server as its owner holds it, and the handle on what it does wrong.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::builder::Builder;
use crate::cluster::{Cluster, SeenRequest};
use crate::error::Error;
use crate::faults::{Effect, Injected, On};
use crate::groups::Groups;
use crate::node::Node;
use crate::{ApiKey, ErrorCode};

/// A running server. Dropping it closes everything; [`MiniKafka::stop`] also waits for that, and syncs.
pub struct MiniKafka {
    cluster: Arc<Cluster>,
    groups: JoinHandle<()>,
}

impl std::fmt::Debug for MiniKafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MiniKafka").field("bootstrap", &self.bootstrap()).finish_non_exhaustive()
    }
}

impl MiniKafka {
    /// A server to be configured and started: one node on a free port of 127.0.0.1, in memory, unless told.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(builder: Builder) -> Result<Self, Error> {
        // The ports first: they are what most often fails, and nothing has been touched then.
        let listeners = bind(&builder).await?;
        let mut nodes = Vec::new();
        for (listener, id) in listeners.iter().zip(1..) {
            let addr =
                listener.local_addr().map_err(|source| Error::Bind { addr: builder.bind.clone(), source })?;
            let host = builder.advertised_host.clone().unwrap_or_else(|| reachable(addr.ip()));
            nodes.push(Node::new(id, host, addr));
        }
        let opening = builder.clone();
        let opened = tokio::task::spawn_blocking(move || Cluster::open(&opening, nodes)).await;
        let cluster = Arc::new(opened.map_err(|_| Error::Config("the runtime is shutting down"))??);
        for (node, listener) in cluster.nodes.iter().zip(listeners) {
            node.serve(&cluster, listener).await;
        }
        let groups = tokio::spawn(Groups::run(Arc::clone(&cluster)));
        let server = Self { cluster, groups };
        tracing::warn!(
            bootstrap = server.bootstrap(),
            data_dir = ?builder.data_dir,
            durable = builder.data_dir.is_some() && builder.durable,
            retention_bytes = builder.total_retention_bytes,
            "embedded log: a SINGLE COPY for trying out, not a Kafka cluster; the oldest records are deleted beyond the retention"
        );
        Ok(server)
    }

    /// Where clients find the server: "host:port", one for each node, with commas between.
    pub fn bootstrap(&self) -> String {
        let one = |node: &Node| SocketAddr::new(local(node.addr.ip()), node.addr.port()).to_string();
        self.cluster.nodes.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// Where a node (1..) listens; `None` if there is no such node.
    pub fn addr(&self, node: i32) -> Option<SocketAddr> {
        self.cluster.node(node).map(|node| node.addr)
    }

    /// The handle with which a test makes the server do wrong.
    pub fn faults(&self) -> Faults {
        Faults { cluster: Arc::clone(&self.cluster) }
    }

    /// Creates a topic without a client. With a data directory it waits for the disk.
    ///
    /// # Errors
    ///
    /// The code that a client would be answered with.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), ErrorCode> {
        self.cluster.topics.create(topic, partitions, BTreeMap::new()).map(drop)
    }

    /// Deletes a topic with all its records, without a client.
    ///
    /// # Errors
    ///
    /// The code that a client would be answered with.
    pub fn delete_topic(&self, topic: &str) -> Result<(), ErrorCode> {
        self.cluster.topics.delete(topic)
    }

    /// The requests of this API that were seen last (4096 of all APIs are remembered), in the order in which they came.
    pub fn requests(&self, api: ApiKey) -> Vec<SeenRequest> {
        self.cluster.seen(api)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.cluster.max_connections - self.cluster.connections.available_permits()
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Closes the listeners and the connections, and syncs what is in the data directory.
    ///
    /// # Errors
    ///
    /// The sync's; what was acknowledged with acks=all by a durable server is safe all the same.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the server is dropped, which closes everything without the sync.
    pub async fn stop(self) -> io::Result<()> {
        for node in &self.cluster.nodes {
            node.down().await;
        }
        // A connection that was closed lets go of the log a moment later; its permit says when.
        let all = self.cluster.max_connections as u32;
        let _ = self.cluster.connections.acquire_many(all).await;
        let synced =
            self.cluster.on_storage(|cluster| cluster.partitions().try_for_each(|one| one.sync())).await;
        self.cluster.release_directory();
        synced.unwrap_or(Ok(()))
    }
}

impl Drop for MiniKafka {
    fn drop(&mut self) {
        self.groups.abort();
        self.cluster.injections.clear();
        self.cluster.nodes.iter().for_each(Node::abandon);
    }
}

/// Binds a listener for each node.
async fn bind(builder: &Builder) -> Result<Vec<TcpListener>, Error> {
    let failed = |addr: &str, source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::AddrInUse { addr: addr.to_owned() },
        _ => Error::Bind { addr: addr.to_owned(), source },
    };
    let first = TcpListener::bind(&builder.bind).await.map_err(|source| failed(&builder.bind, source))?;
    let addr = first.local_addr().map_err(|source| failed(&builder.bind, source))?;
    let any_port = builder.bind.ends_with(":0");
    let mut listeners = vec![first];
    for offset in 1..builder.nodes as u16 {
        let port = if any_port { Some(0) } else { addr.port().checked_add(offset) };
        let port = port.ok_or(Error::Config("the nodes' ports end at 65535"))?;
        let next = SocketAddr::new(addr.ip(), port);
        listeners.push(TcpListener::bind(next).await.map_err(|source| failed(&next.to_string(), source))?);
    }
    Ok(listeners)
}

/// The address under which a listener on `ip` is reached from this machine.
fn local(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

fn reachable(ip: IpAddr) -> String {
    local(ip).to_string()
}

/// Makes the server do wrong. Cheap to clone; everything it sets stays until it is undone.
#[derive(Clone)]
pub struct Faults {
    cluster: Arc<Cluster>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// Makes `effect` happen to the requests that `on` names, from now on.
    pub fn inject(&self, on: On, effect: Effect) -> Injected {
        self.cluster.injections.inject(on, effect)
    }

    /// Ends all injected effects and lets held requests go. Topics, leaders and nodes stay as they are.
    pub fn clear(&self) {
        self.cluster.injections.clear();
    }

    /// Makes `node` the leader of the partition, in a new epoch; the old leader answers NOT_LEADER_OR_FOLLOWER.
    ///
    /// # Errors
    ///
    /// UNKNOWN_TOPIC_OR_PARTITION or BROKER_NOT_AVAILABLE if the partition or the node doesn't exist.
    pub fn move_leader(&self, topic: &str, partition: i32, node: i32) -> Result<(), ErrorCode> {
        self.cluster.node(node).ok_or(ErrorCode::BROKER_NOT_AVAILABLE)?;
        self.cluster.topics.partition(topic, partition)?.lead(Some(node));
        Ok(())
    }

    /// Leaves the partition without a leader (LEADER_NOT_AVAILABLE) until [`Faults::move_leader`].
    ///
    /// # Errors
    ///
    /// UNKNOWN_TOPIC_OR_PARTITION.
    pub fn take_offline(&self, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        self.cluster.topics.partition(topic, partition)?.lead(None);
        Ok(())
    }

    /// Which node leads the partition.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        self.cluster.topics.partition(topic, partition).ok()?.leadership().node
    }

    /// Answers as if the topic did not exist (UNKNOWN_TOPIC_OR_PARTITION) and could not be created.
    pub fn hide_topic(&self, topic: &str) {
        self.cluster.injections.hide_topic(topic);
    }

    /// Answers TOPIC_AUTHORIZATION_FAILED for the topic.
    pub fn forbid_topic(&self, topic: &str) {
        self.cluster.injections.forbid_topic(topic);
    }

    /// Undoes [`Faults::hide_topic`] and [`Faults::forbid_topic`].
    pub fn restore_topic(&self, topic: &str) {
        self.cluster.injections.restore_topic(topic);
    }

    /// Makes the topic refuse batches of more than `bytes` with MESSAGE_TOO_LARGE.
    ///
    /// # Errors
    ///
    /// UNKNOWN_TOPIC_OR_PARTITION.
    pub fn max_message_bytes(&self, topic: &str, bytes: usize) -> Result<(), ErrorCode> {
        let topic = self.cluster.topics.get(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        topic.max_message_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets every producer: batches with a sequence above 0 of an id that was handed out before are answered with
    /// UNKNOWN_PRODUCER_ID. Topics that are created later don't know of it.
    pub fn expire_producer_ids(&self) {
        let next = self.cluster.producer_ids.next();
        self.cluster.partitions().for_each(|one| one.with_log(|log| log.producers.expire(next)));
    }

    /// Closes all connections, now. Clients may connect again.
    pub fn drop_connections(&self) {
        self.cluster.nodes.iter().for_each(Node::drop_connections);
    }

    /// Takes a node away: its port refuses, its connections close. The data is kept, and it leads what it led.
    pub async fn down(&self, node: i32) {
        if let Some(node) = self.cluster.node(node) {
            node.down().await;
        }
    }

    /// Brings a node back on its port.
    ///
    /// # Errors
    ///
    /// Someone else has taken the port meanwhile.
    pub async fn up(&self, node: i32) -> io::Result<()> {
        match self.cluster.node(node) {
            Some(node) => node.up(&self.cluster).await,
            None => Ok(()),
        }
    }
}
