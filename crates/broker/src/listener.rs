//! Where connections come from. TCP is in the box; anything that yields byte streams can stand in its place.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Who is at the other end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The address of the peer, where there is one (an in-memory stream has none).
    pub address: Option<SocketAddr>,
    /// The address that it connected to.
    pub local: Option<SocketAddr>,
}

/// A source of connections.
pub trait Listener: Send + 'static {
    /// A byte stream to one client.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe: a connection is either returned or still waiting to be accepted.
    ///
    /// # Errors
    /// Whatever the source says. The broker counts it, waits [`ACCEPT_PAUSE`] and asks again, so that running out of
    /// file descriptors neither ends the broker nor spins.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

/// Connections that the kernel completes before they are accepted: most of a second of a reconnect storm of 5,000 a
/// second. The kernel takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// The pause after a failed accept.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Plain TCP with `TCP_NODELAY`: acknowledgements are grouped by us, not by Nagle.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
}

impl Tcp {
    /// A listener over a bound socket.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener }
    }

    /// A listener on `address`; port 0 chooses a free one.
    ///
    /// # Errors
    /// As bind(2): the address is taken, not ours, or not allowed.
    #[expect(clippy::unused_async, reason = "as tokio's own, so that it is not called outside a runtime")]
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG).map(Self::new)
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Listener for Tcp {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.listener.accept().await?;
        // A peer that is already gone fails here; its connection task finds out by itself.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().ok();
        Ok((stream, Peer { address: Some(address), local }))
    }
}
