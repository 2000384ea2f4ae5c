//! One connection to one node: framing, version negotiation, and requests that wait for their answer.
//!
//! Kafka answers a connection's requests in their order, so correlation is a comparison. SASL is rskafka's: its messenger
//! borrows the stream for as long as the conversation takes.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use rskafka::messenger::{Messenger, SaslError, SyncVersionsError};
use rskafka::protocol::api_version::ApiVersion;
use rskafka::protocol::messages::{ReadVersionedType, RequestBody, RequestHeader, WriteVersionedType};
use rskafka::protocol::primitives::{Int16, Int32, NullableString};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connect::{Connect, Stream};
use crate::sasl::{CredentialError, Sasl};
use crate::tls;
use crate::token::TokenError;
use crate::wire::{ApiVersionsRequest, PRODUCE_VERSIONS};

/// The largest answer that is read: a fetch's bytes and then some.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
const READ_CHUNK_BYTES: usize = 8 * 1024;

/// Why a node could not be asked, or did not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The network, or the node closed the connection.
    #[error("{address}: {source}")]
    Io {
        /// Host and port as they were dialled.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address}: no answer within {after:?} to {what}")]
    Timeout {
        /// Host and port as they were dialled.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The node's bytes are not what the protocol says.
    #[error("{address}: malformed answer: {what}")]
    Malformed {
        /// Host and port as they were dialled.
        address: String,
        /// What was wrong.
        what: String,
    },
    /// The node and this crate have no version of a request in common.
    #[error("{address}: no common version of {api}")]
    Version {
        /// Host and port as they were dialled.
        address: String,
        /// The request.
        api: String,
    },
    /// SASL failed.
    #[error("{address}: authentication failed: {reason}")]
    Authentication {
        /// Host and port as they were dialled.
        address: String,
        /// What the mechanism or the server says.
        reason: String,
    },
}

impl ConnectionError {
    /// Whether trying again helps only once somebody has done something.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Authentication { .. })
    }
}

/// What is needed to open a connection to any node.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) sasl: Option<Sasl>,
    pub(crate) client_id: Arc<str>,
    pub(crate) timeout: Duration,
}

impl Dialer {
    /// Opens a connection, authenticates and learns the node's versions, all within the timeout.
    pub(crate) async fn open(&self, host: &str, port: u16) -> Result<Connection, ConnectionError> {
        let address = format!("{host}:{port}");
        let opening = self.open_untimed(host, port, &address);
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(Err(ConnectionError::Io { address, source })) => {
                // A node that does not like our certificate says so in its first answer, and not why.
                let mut source = tls::explain(source);
                if let Some(problem) = self.connect.problem() {
                    source = io::Error::new(source.kind(), format!("{source} ({problem})"));
                }
                Err(ConnectionError::Io { address, source })
            }
            Ok(result) => result,
            Err(_) => Err(ConnectionError::Timeout { address, what: "connecting", after: self.timeout }),
        }
    }

    async fn open_untimed(
        &self,
        host: &str,
        port: u16,
        address: &str,
    ) -> Result<Connection, ConnectionError> {
        let io_error = |source| ConnectionError::Io { address: address.to_owned(), source };
        let mut stream = self.connect.connect(host, port).await.map_err(io_error)?;
        if let Some(sasl) = &self.sasl {
            stream = authenticate(stream, sasl, Arc::clone(&self.client_id), address).await?;
        }
        let mut connection = Connection {
            stream,
            address: address.to_owned(),
            client_id: Arc::clone(&self.client_id),
            versions: HashMap::from([(18, (0, 0))]),
            next_correlation: 0,
            input: Vec::new(),
            consumed: 0,
            filled: 0,
        };
        let answer = connection.call(&ApiVersionsRequest).await?;
        if answer.error != 0 {
            return Err(connection.malformed(format!("ApiVersions answered error {}", answer.error)));
        }
        connection.versions = answer.versions.into_iter().map(|(key, min, max)| (key, (min, max))).collect();
        Ok(connection)
    }
}

/// An open connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    address: String,
    client_id: Arc<str>,
    /// Oldest and newest version by API key.
    versions: HashMap<i16, (i16, i16)>,
    next_correlation: i32,
    /// `consumed..filled` are bytes read and not yet taken; what follows is room.
    input: Vec<u8>,
    consumed: usize,
    filled: usize,
}

impl Connection {
    /// Sends `request` and waits for its answer. Not for a connection with other requests outstanding.
    pub(crate) async fn call<R>(&mut self, request: &R) -> Result<R::ResponseBody, ConnectionError>
    where
        R: RequestBody + WriteVersionedType<Vec<u8>>,
        R::ResponseBody: ReadVersionedType<Cursor<Vec<u8>>>,
    {
        let key = Int16::from(R::API_KEY).0;
        let ours = (R::API_VERSION_RANGE.min().0.0, R::API_VERSION_RANGE.max().0.0);
        let version = self.common_version(key, ours).ok_or_else(|| ConnectionError::Version {
            address: self.address.clone(),
            api: format!("{:?}", R::API_KEY),
        })?;
        let correlation = self.next_correlation();
        let mut frame = vec![0; 4];
        let header = RequestHeader {
            request_api_key: R::API_KEY,
            request_api_version: ApiVersion(Int16(version)),
            correlation_id: Int32(correlation),
            client_id: Some(NullableString(Some(self.client_id.to_string()))),
            tagged_fields: None,
        };
        let malformed = |what: String| ConnectionError::Malformed { address: self.address.clone(), what };
        header.write_versioned(&mut frame, ApiVersion(Int16(1))).map_err(|e| malformed(e.to_string()))?;
        request
            .write_versioned(&mut frame, ApiVersion(Int16(version)))
            .map_err(|e| malformed(e.to_string()))?;
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let mut written = 0;
        while written < frame.len() {
            written += poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(&frame[written..])])).await?;
        }
        poll_fn(|cx| self.poll_flush(cx)).await?;
        let answer = poll_fn(|cx| self.poll_answer(cx)).await?;
        self.check_correlation(&answer, correlation)?;
        self.decode(answer, version)
    }

    /// The newest version that both sides speak.
    fn common_version(&self, key: i16, (oldest, newest): (i16, i16)) -> Option<i16> {
        let &(min, max) = self.versions.get(&key)?;
        let version = max.min(newest);
        (version >= min.max(oldest)).then_some(version)
    }

    /// The version of Produce to use here.
    pub(crate) fn produce_version(&self) -> Result<i16, ConnectionError> {
        self.common_version(0, PRODUCE_VERSIONS).ok_or_else(|| ConnectionError::Version {
            address: self.address.clone(),
            api: "Produce".to_owned(),
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn next_correlation(&mut self) -> i32 {
        let correlation = self.next_correlation;
        self.next_correlation = correlation.wrapping_add(1);
        correlation
    }

    /// Whether `answer` answers the request with `correlation`: Kafka answers in order, so another one is a broken peer.
    pub(crate) fn check_correlation(&self, answer: &[u8], correlation: i32) -> Result<(), ConnectionError> {
        match answer.first_chunk::<4>().map(|id| i32::from_be_bytes(*id)) {
            Some(id) if id == correlation => Ok(()),
            Some(id) => Err(self.malformed(format!("answer {id} where {correlation} was due"))),
            None => Err(self.malformed("an answer without a correlation id".to_owned())),
        }
    }

    /// Decodes an answer whose correlation id was checked.
    pub(crate) fn decode<T: ReadVersionedType<Cursor<Vec<u8>>>>(
        &self,
        answer: Vec<u8>,
        version: i16,
    ) -> Result<T, ConnectionError> {
        let mut body = Cursor::new(answer);
        body.set_position(4);
        T::read_versioned(&mut body, ApiVersion(Int16(version))).map_err(|e| self.malformed(e.to_string()))
    }

    /// Writes some of `slices`.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, ConnectionError>> {
        let written = match ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices)) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            other => other,
        };
        Poll::Ready(written.map_err(|source| self.io_error(source)))
    }

    /// Hands what was written to the network, where the stream has a buffer of its own.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(flushed.map_err(|source| self.io_error(source)))
    }

    /// The next answer, from its correlation id on.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, ConnectionError>> {
        loop {
            if let Some(answer) = self.take_answer()? {
                return Poll::Ready(Ok(answer));
            }
            if self.consumed > 0 {
                self.input.copy_within(self.consumed..self.filled, 0);
                self.filled -= self.consumed;
                self.consumed = 0;
            }
            if self.filled == self.input.len() {
                // Grows with what arrives, not with what the answer's length promises.
                self.input.resize(READ_CHUNK_BYTES.max(2 * self.filled), 0);
            }
            let mut room = ReadBuf::new(&mut self.input[self.filled..]);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut room);
            let count = room.filled().len();
            self.filled += count;
            match ready!(read) {
                Ok(()) if count == 0 => {
                    let source = io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the node");
                    return Poll::Ready(Err(self.io_error(source)));
                }
                Ok(()) => {}
                Err(source) => return Poll::Ready(Err(self.io_error(source))),
            }
        }
    }

    fn take_answer(&mut self) -> Result<Option<Vec<u8>>, ConnectionError> {
        let waiting = &self.input[self.consumed..self.filled];
        let Some(length) = waiting.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        let length = usize::try_from(length).ok().filter(|&length| length <= MAX_ANSWER_BYTES);
        let Some(length) = length else {
            return Err(self.malformed("an answer of impossible length".to_owned()));
        };
        let Some(answer) = waiting.get(4..4 + length) else { return Ok(None) };
        let answer = answer.to_vec();
        self.consumed += 4 + length;
        if self.consumed == self.filled {
            self.consumed = 0;
            self.filled = 0;
            if self.input.len() > 16 * READ_CHUNK_BYTES {
                self.input = Vec::new();
            }
        }
        Ok(Some(answer))
    }

    fn io_error(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Io { address: self.address.clone(), source }
    }

    pub(crate) fn malformed(&self, what: String) -> ConnectionError {
        ConnectionError::Malformed { address: self.address.clone(), what }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Lends `stream` to rskafka's messenger for the SASL conversation and takes it back.
async fn authenticate(
    stream: Box<dyn Stream>,
    sasl: &Sasl,
    client_id: Arc<str>,
    address: &str,
) -> Result<Box<dyn Stream>, ConnectionError> {
    /// SASL answers are small.
    const MAX_SASL_ANSWER_BYTES: usize = 1024 * 1024;

    let io = |reason: String| ConnectionError::Io {
        address: address.to_owned(),
        source: io::Error::other(reason),
    };
    let failed = |reason: String| ConnectionError::Authentication {
        address: address.to_owned(),
        reason: format!("{}: {reason}", sasl.mechanism()),
    };
    let credentials = match sasl.credentials().await {
        Ok(credentials) => credentials,
        // A token endpoint that is away is no refusal.
        Err(CredentialError::Endpoint(error @ TokenError::Io { .. })) => return Err(io(error.to_string())),
        Err(error) => return Err(failed(error.to_string())),
    };
    let place = Arc::new(Mutex::new(Some(stream)));
    let mut messenger = Messenger::new(Lent(Arc::clone(&place)), MAX_SASL_ANSWER_BYTES, client_id);
    messenger.sync_versions().await.map_err(|error| match error {
        SyncVersionsError::RequestError(error) => io(format!("before authentication: {error}")),
        error => failed(error.to_string()),
    })?;
    if let Err(error) = messenger.do_sasl(credentials).await {
        return Err(match error {
            SaslError::RequestError(error) => io(format!("during authentication: {error}")),
            SaslError::UnsupportedSaslMechanism => {
                failed("Kafka does not offer it on this listener".to_owned())
            }
            error => {
                sasl.refused().await;
                failed(format!("{error}; {}", sasl.remedy()))
            }
        });
    }
    // The messenger's reader finds an empty place from here on, so it can't take a byte of ours.
    let stream = place.lock().take();
    stream.ok_or_else(|| io("the stream was lost".to_owned()))
}

/// A stream that can be taken back from under a reader that still runs. Its two writes for a frame
/// leave at once: the stream has TCP_NODELAY.
struct Lent(Arc<Mutex<Option<Box<dyn Stream>>>>);

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().as_mut() {
            Some(stream) => Pin::new(stream).poll_read(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.0.lock().as_mut() {
            Some(stream) => Pin::new(stream).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().as_mut() {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
