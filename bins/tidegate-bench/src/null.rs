//! The least that an MQTT server can do: it accepts, acknowledges and discards. What a broker costs more than this is
//! the broker's own.
//!
//! Each thread has its own listener on the same port and its own sockets; nothing is shared but the counters.

mod router;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};

use self::router::Router;
pub(crate) use self::scan::Received;
use self::scan::{Next, Scanner};

/// One read, shared by all connections of a thread.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 1024;
/// Connections that wait to be accepted; the kernel's own limit (somaxconn) holds as well.
const BACKLOG: i32 = 4096;
const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// What a null server does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They are acknowledged and discarded.
    Discard,
    /// They are delivered to who subscribed.
    Route,
}

/// A null server that runs.
#[derive(Debug)]
pub(crate) struct NullServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<(JoinHandle<io::Result<()>>, Waker)>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    failed_accepts: AtomicU64,
    publishes: AtomicU64,
    bytes: AtomicU64,
}

/// What a null server has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Connections since the start.
    pub(crate) accepted: u64,
    /// Connections now.
    pub(crate) open: u64,
    /// Connections that could not be accepted, which means that file descriptors ran out.
    pub(crate) failed_accepts: u64,
    /// What they sent.
    pub(crate) received: Received,
}

impl NullServer {
    /// Listens and starts the threads. Port 0 takes a free one.
    ///
    /// What routes does so on its first thread alone: threads would have to share who hears what.
    pub(crate) fn start(bind: SocketAddr, threads: usize, mode: Mode) -> io::Result<Self> {
        let threads = if mode == Mode::Route { 1 } else { threads };
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let share = threads > 1;
        let first = listen(bind, share)?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..threads {
            listeners.push(listen(address, share)?);
        }
        let mut running = Vec::with_capacity(threads);
        for listener in listeners {
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            let builder = std::thread::Builder::new().name("null".to_owned());
            running.push(match mode {
                Mode::Discard => {
                    let mut acceptor = Acceptor::new(listener, stop, counters)?;
                    let waker = Waker::new(acceptor.poll.registry(), WAKER)?;
                    (builder.spawn(move || acceptor.run())?, waker)
                }
                Mode::Route => {
                    let mut router = Router::new(listener, stop, counters)?;
                    let waker = Waker::new(router.poll.registry(), WAKER)?;
                    (builder.spawn(move || router.run())?, waker)
                }
            });
        }
        Ok(Self { address, stop, threads: running, counters })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn seen(&self) -> Seen {
        self.counters.seen()
    }

    /// Closes all connections and returns what was seen.
    pub(crate) fn stop(self) -> io::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        for (thread, waker) in self.threads {
            waker.wake()?;
            thread.join().map_err(|_| io::Error::other("a thread of the null server panicked"))??;
        }
        Ok(self.counters.seen())
    }
}

impl Counters {
    fn seen(&self) -> Seen {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen {
            accepted: load(&self.accepted),
            open: load(&self.open),
            failed_accepts: load(&self.failed_accepts),
            received: Received { publishes: load(&self.publishes), bytes: load(&self.bytes) },
        }
    }
}

/// Listens; `share` lets other sockets listen on the same port, which then share its connections.
fn listen(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Accepts all that wait, and counts them.
fn accept(
    listener: &TcpListener,
    counters: &Counters,
    mut take: impl FnMut(TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The client is gone again, or a signal came.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                continue;
            }
            Err(_) => {
                counters.failed_accepts.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        take(stream)?;
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
    }
}

/// One client.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    scanner: Scanner,
    /// Answers that the socket did not take. While there are any, nothing is read.
    unsent: Vec<u8>,
    /// The client has closed its side: what is left must be read to its end, for no further event will come.
    ended: bool,
}

/// How a turn of reading ended.
enum Turn {
    /// Nothing is left to read, or the client doesn't take our answers: an event will tell.
    Wait,
    /// There may be more: it is somebody else's turn.
    Again,
    Close,
}

/// One thread.
struct Acceptor {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that filled the read buffer and so may have more: events come only at edges.
    again: VecDeque<usize>,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Acceptor {
    fn new(mut listener: TcpListener, stop: Arc<AtomicBool>, counters: Arc<Counters>) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (connections, free, again) = (Vec::new(), Vec::new(), VecDeque::new());
        Ok(Self { poll, listener, connections, free, again, stop, counters })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut out = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let timeout = (!self.again.is_empty()).then_some(std::time::Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let mut received = Received::default();
            for _ in 0..self.again.len() {
                if let Some(index) = self.again.pop_front() {
                    self.read(index, &mut buffer, &mut out, &mut received);
                }
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKER => {}
                    Token(index) => self.ready(index, event, &mut buffer, &mut out, &mut received),
                }
            }
            self.counters.publishes.fetch_add(received.publishes, Ordering::Relaxed);
            self.counters.bytes.fetch_add(received.bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let (registry, connections, free) = (self.poll.registry(), &mut self.connections, &mut self.free);
        accept(&self.listener, &self.counters, |mut stream| {
            let index = free.pop().unwrap_or_else(|| {
                connections.push(None);
                connections.len() - 1
            });
            registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            connections[index] =
                Some(Connection { stream, scanner: Scanner::new(), unsent: Vec::new(), ended: false });
            Ok(())
        })
    }

    fn ready(
        &mut self,
        index: usize,
        event: &Event,
        buffer: &mut [u8],
        out: &mut Vec<u8>,
        received: &mut Received,
    ) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        connection.ended |= event.is_read_closed();
        let had_unsent = !connection.unsent.is_empty();
        if had_unsent && connection.flush().is_err() {
            self.close(index);
            return;
        }
        // Reading stopped while answers were waiting. (epoll names all that is ready in every event; mio does not
        // promise it.)
        if event.is_readable() || event.is_read_closed() || had_unsent {
            self.read(index, buffer, out, received);
        }
    }

    fn read(&mut self, index: usize, buffer: &mut [u8], out: &mut Vec<u8>, received: &mut Received) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        match connection.read(buffer, out, received) {
            Turn::Wait => {}
            Turn::Again => self.again.push_back(index),
            Turn::Close => self.close(index),
        }
    }

    fn close(&mut self, index: usize) {
        if self.connections[index].take().is_some() {
            self.free.push(index);
            self.counters.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Connection {
    /// Reads once, and answers all of it in one write.
    fn read(&mut self, buffer: &mut [u8], out: &mut Vec<u8>, received: &mut Received) -> Turn {
        if !self.unsent.is_empty() {
            return Turn::Wait;
        }
        let bytes = match self.stream.read(buffer) {
            Ok(0) => return Turn::Close,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Wait,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Turn::Again,
            Err(_) => return Turn::Close,
        };
        out.clear();
        let next = self.scanner.receive(&buffer[..bytes], out, received);
        if !out.is_empty() {
            match self.stream.write(out) {
                Ok(written) => self.unsent.extend_from_slice(&out[written..]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.unsent.extend_from_slice(out),
                Err(_) => return Turn::Close,
            }
        }
        match next {
            // A read that did not fill the buffer took all there was; a second one, only to be told so, is half of
            // the server's system calls.
            Ok(Next::Read) if bytes < buffer.len() && !self.ended => Turn::Wait,
            Ok(Next::Read) => Turn::Again,
            Ok(Next::Close) | Err(_) => Turn::Close,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.stream.write(&self.unsent) {
            Ok(written) => {
                self.unsent.drain(..written);
                if self.unsent.is_empty() {
                    self.unsent = Vec::new();
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}
