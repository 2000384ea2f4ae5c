//! How a connection to a node is made: plain TCP here, TLS in [`Tls`](crate::Tls), anything else by whoever embeds this
//! crate.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a connection runs over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// A connection that is being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Makes connections to nodes.
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// A new connection to `host` (a name or an address, resolved anew each time) and `port`. Implementations set
    /// TCP_NODELAY: requests leave in one write, and waiting for an acknowledgement of the last one only costs time.
    /// A time limit is put around it by the caller.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;

    /// What an operator should know of it whether it connects or not, such as a certificate that has expired.
    fn problem(&self) -> Option<String> {
        None
    }
}

/// TCP without encryption.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlainTcp;

impl PlainTcp {
    pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Connect for PlainTcp {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(Self::dial(host, port).await?) as Box<dyn Stream>) })
    }
}
