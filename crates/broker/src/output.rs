//! Bytes on their way to a client: what waits for the socket, and what waits for the disk.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tidegate_store::{Commit, Failed, Store, Waiting};
use tokio::io::AsyncWrite;

/// The output of one connection.
///
/// A turn's bytes are sent when the changes that it made, or waited for, are safe in the store; and as the order of the
/// bytes is the order in which the client gets them, whatever is behind them waits as well. That is all that it takes
/// for no answer to promise what a restart would forget.
#[derive(Default)]
pub(crate) struct Output {
    /// Bytes that were not sent with the turn that made them, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// From which place in `unsent` on which commit must be safe. Two at the most, because the store writes one batch
    /// while it gathers the next.
    held: SmallVec<[(usize, Commit); 2]>,
    /// What everything that is still to come waits for.
    barrier: Commit,
    waiting: Waiting,
    /// The stream took bytes into a buffer of its own that its socket has not taken yet: TLS and WebSocket do so, and
    /// would keep them for ever if nobody asked again.
    unflushed: bool,
}

/// Why output cannot be sent.
pub(crate) enum Unsent {
    Socket,
    Store(Failed),
}

impl Output {
    /// The output of a connection that begins with `unsent`, for which `commit` must be safe.
    pub(crate) fn new(unsent: Vec<u8>, commit: Commit) -> Self {
        let held = if commit == Commit::NONE { SmallVec::new() } else { [(0, commit)].into_iter().collect() };
        Self { unsent, held, barrier: commit, ..Self::default() }
    }

    /// What is made from here on waits for `commit`.
    pub(crate) fn wait_for(&mut self, commit: Commit) {
        self.barrier = self.barrier.max(commit);
    }

    /// Bytes that neither socket nor store has let go.
    pub(crate) fn len(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Writes what may be written of what is left and of `out`, which is empty afterwards. Returns how many bytes.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        store: &dyn Store,
        out: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<usize, Unsent> {
        // Usually there is no store, or nothing that waits for it.
        let is_held = self.barrier > Commit::NONE && self.barrier > store.committed();
        if is_held || !self.unsent.is_empty() {
            if is_held && !out.is_empty() && self.held.last().is_none_or(|(_, last)| *last < self.barrier) {
                self.held.push((self.unsent.len(), self.barrier));
            }
            self.unsent.extend_from_slice(out);
            out.clear();
        }
        if self.unsent.is_empty() {
            let written = self.write(stream, out, cx).map_err(|_| Unsent::Socket)?;
            self.unsent.extend_from_slice(&out[written..]);
            out.clear();
            return Ok(written);
        }
        let free = self.poll_free(store, cx).map_err(Unsent::Store)?;
        let unsent = std::mem::take(&mut self.unsent);
        let written = self.write(stream, &unsent[self.sent..free.max(self.sent)], cx);
        self.unsent = unsent;
        let written = written.map_err(|_| Unsent::Socket)?;
        self.sent += written;
        if self.sent == self.unsent.len() {
            self.unsent = Vec::new();
            self.sent = 0;
        } else if self.sent > self.unsent.len() / 2 {
            self.unsent.drain(..self.sent);
            for (start, _) in &mut self.held {
                *start -= self.sent;
            }
            self.sent = 0;
        }
        Ok(written)
    }

    /// Up to which place in `unsent` the store lets go.
    fn poll_free(&mut self, store: &dyn Store, cx: &mut Context<'_>) -> Result<usize, Failed> {
        while let Some((start, commit)) = self.held.first().copied() {
            match store.poll_committed(commit, &mut self.waiting, cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(start),
            }
            self.held.remove(0);
        }
        Ok(self.unsent.len())
    }

    /// Waits until everything that is left may be sent, and returns it with `last` behind it.
    pub(crate) async fn finish(mut self, store: &dyn Store, last: &[u8]) -> Result<Vec<u8>, Failed> {
        let barrier = self.barrier;
        std::future::poll_fn(|cx| store.poll_committed(barrier, &mut self.waiting, cx)).await?;
        let mut bytes = self.unsent.split_off(self.sent);
        bytes.extend_from_slice(last);
        Ok(bytes)
    }

    /// Writes until the socket takes no more, and pushes out what the stream itself holds back.
    fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if written > 0 || self.unflushed {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => self.unflushed = true,
            }
        }
        Ok(written)
    }
}
