//! A node that the server pretends to be: its listener, and how it goes down and comes back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::connection;

/// A node.
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) addr: SocketAddr,
    up: AtomicBool,
    /// Bumped to close all the node's connections.
    kick: watch::Sender<u64>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    pub(crate) fn new(id: i32, host: String, addr: SocketAddr) -> Self {
        let kick = watch::Sender::new(0);
        Self { id, host, addr, up: AtomicBool::new(true), kick, accepting: Mutex::default() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Changes when the connections that have it are to close.
    pub(crate) fn kicks(&self) -> watch::Receiver<u64> {
        self.kick.subscribe()
    }

    pub(crate) fn drop_connections(&self) {
        self.kick.send_modify(|n| *n += 1);
    }

    /// Accepts connections from now on.
    pub(crate) async fn serve(&self, cluster: &Arc<Cluster>, listener: TcpListener) {
        let task = tokio::spawn(connection::accept(Arc::clone(cluster), self.id, listener));
        if let Some(old) = self.accepting.lock().await.replace(task) {
            old.abort();
        }
        self.up.store(true, Ordering::Release);
    }

    /// Refuses connections and drops those that exist.
    pub(crate) async fn down(&self) {
        self.up.store(false, Ordering::Release);
        if let Some(task) = self.accepting.lock().await.take() {
            task.abort();
            // The listener is closed when the task is gone, which is what the caller waits for.
            let _ = task.await;
        }
        self.drop_connections();
    }

    /// The same without waiting, for a server that is dropped.
    pub(crate) fn abandon(&self) {
        self.up.store(false, Ordering::Release);
        if let Ok(mut accepting) = self.accepting.try_lock()
            && let Some(task) = accepting.take()
        {
            task.abort();
        }
        self.drop_connections();
    }

    /// Listens again where it did before.
    pub(crate) async fn up(&self, cluster: &Arc<Cluster>) -> io::Result<()> {
        if self.is_up() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.addr).await?;
        self.serve(cluster, listener).await;
        Ok(())
    }
}
