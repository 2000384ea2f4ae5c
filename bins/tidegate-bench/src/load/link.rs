//! A device's socket: what it does not take waits, and nothing blocks.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::device::Trouble;

/// A device's socket.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) stream: Option<TcpStream>,
    /// Bytes that the socket did not take. While there are any, nothing is published.
    pub(super) unsent: Vec<u8>,
    /// The broker has closed its side: what is left must be read to its end, for no further event will come.
    pub(super) ended: bool,
    /// It stands in the queue of those who get a turn without an event.
    pub(super) queued: bool,
    /// Its device waits for deliveries to come before it publishes again.
    pub(super) pauses: bool,
    /// A timer for the device's next PINGREQ runs. It outlives the connection.
    pub(super) ping_set: bool,
}

impl Link {
    /// Writes, behind what waits already; what the socket doesn't take waits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return self.flush();
        }
        match stream.write(bytes) {
            Ok(written) => self.unsent.extend_from_slice(&bytes[written..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.unsent.extend_from_slice(bytes),
            Err(error) => return Err(Trouble::Socket(error.kind())),
        }
        Ok(())
    }

    /// Ends the connection as a cut network does: the broker gets a reset, not an orderly end, and the port is free at
    /// once.
    pub(super) fn cut(&mut self) {
        if let Some(stream) = &self.stream {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        self.close();
    }

    pub(super) fn close(&mut self) {
        *self = Self { ping_set: self.ping_set, ..Self::default() };
    }

    pub(super) fn flush(&mut self) -> Result<(), Trouble> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        match stream.write(&self.unsent) {
            Ok(written) => {
                self.unsent.drain(..written);
                if self.unsent.is_empty() {
                    self.unsent = Vec::new();
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(Trouble::Socket(error.kind())),
        }
    }

    /// Returns how many bytes were read; `None` if there are none now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Trouble> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            return match stream.read(buffer) {
                Ok(0) => Err(Trouble::Closed),
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(Trouble::Socket(error.kind())),
            };
        }
    }
}

/// Begins a connection, from `source` if one is given.
pub(super) fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
