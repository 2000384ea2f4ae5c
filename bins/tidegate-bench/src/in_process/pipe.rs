//! Connections without sockets, as lean as they can be: what a device sends waits in a buffer that goes back to the tool
//! when it is read, and what the broker answers goes into one list for all devices.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tidegate_broker::{Listener, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// What the broker has answered, and buffers that it has read.
#[derive(Debug, Default)]
pub(super) struct Answers {
    list: Mutex<List>,
    closed: AtomicUsize,
}

#[derive(Debug, Default)]
struct List {
    bytes: Vec<u8>,
    spares: Vec<Vec<u8>>,
}

impl Answers {
    /// Moves what there is into these, which are empty.
    pub(super) fn take(&self, bytes: &mut Vec<u8>, spares: &mut Vec<Vec<u8>>) {
        let mut list = lock(&self.list);
        std::mem::swap(&mut list.bytes, bytes);
        std::mem::swap(&mut list.spares, spares);
    }

    /// Returns how many connections the broker has closed.
    pub(super) fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}

/// The tool's end of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    answers: Arc<Answers>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the device has sent, and how much of it the broker has read.
    sent: Vec<u8>,
    read: usize,
    /// Who waits for more.
    reader: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(answers: &Arc<Answers>) -> Self {
        Self { answers: Arc::clone(answers), state: Mutex::default() }
    }

    /// Lets the broker have these bytes. What was sent before has been answered.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        (state.sent, state.read) = (bytes, 0);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// The broker's end of a connection.
#[derive(Debug)]
pub(super) struct Stream(Arc<Pipe>);

impl Stream {
    pub(super) fn new(pipe: Arc<Pipe>) -> Self {
        Self(pipe)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.answers.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.state);
        let State { sent, read, reader } = &mut *state;
        let rest = &sent[*read..];
        if rest.is_empty() {
            if reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
                *reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let taken = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..taken]);
        *read += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0.state);
        let spare = if state.read == state.sent.len() {
            state.read = 0;
            std::mem::take(&mut state.sent)
        } else {
            Vec::new()
        };
        drop(state);
        let mut list = lock(&self.0.answers.list);
        list.bytes.extend_from_slice(bytes);
        if spare.capacity() > 0 {
            list.spares.push(spare);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Where the broker's connections come from.
#[derive(Debug)]
pub(super) struct InMemory(mpsc::Receiver<Stream>);

impl InMemory {
    pub(super) fn new(connections: mpsc::Receiver<Stream>) -> Self {
        Self(connections)
    }
}

impl Listener for InMemory {
    type Stream = Stream;

    async fn accept(&mut self) -> io::Result<(Stream, Peer)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, Peer { address: None, local: None })),
            // The tool is at its end, and so is the broker.
            None => std::future::pending().await,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
