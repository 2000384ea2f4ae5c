//! MQTT over WebSocket (section 6 of both specifications): a listener around another, and the byte stream in its frames.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::listener::{Listener, Peer};

/// The subprotocols that a client may offer, the best one first: the name of the standard [MQTT5-6.0.0-4], and the one
/// that clients of MQTT 3.1 have.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What is read from the socket at once, and all that a connection keeps for it while nothing comes, in bytes.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Payload of the frames that we send, in bytes.
const FRAME_BYTES: usize = 16 * 1024;

/// Room for one frame of ours and for answers to pings, in bytes.
const WRITE_BUFFER_BYTES: usize = 2 * FRAME_BYTES;

/// Frames without payload, one after the other, after which others get their turn.
const EMPTY_FRAMES_PER_POLL: usize = 32;

/// What a WebSocket listener expects.
#[derive(Debug, Clone)]
pub struct WebSocketOptions {
    /// The path of the request; any other is answered with 404.
    pub path: String,
    /// The largest message of a client, and so the largest frame, in bytes. A message may hold several packets, or part
    /// of one; one that is larger ends the connection.
    pub max_message_bytes: usize,
    /// Handshakes that may be going on. While there are more, nothing more is accepted; each has
    /// [`Config::connect_timeout`](crate::Config::connect_timeout), together with CONNECT.
    pub max_handshakes: usize,
    /// The web sites whose pages may connect, as browsers name them in `Origin`: `https://example.org`. Empty for all;
    /// who sends no `Origin` is no browser, and may connect.
    pub origins: Vec<String>,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            max_message_bytes: 2 << 20,
            max_handshakes: 1000,
            origins: Vec::new(),
        }
    }
}

/// A listener whose clients speak MQTT in WebSocket frames, over the streams of another listener.
#[derive(Debug)]
pub struct WebSocket<L> {
    inner: L,
    options: Arc<WebSocketOptions>,
    handshakes: Arc<Semaphore>,
}

impl<L: Listener> WebSocket<L> {
    /// WebSocket over what `inner` accepts.
    pub fn over(inner: L, options: WebSocketOptions) -> Self {
        let handshakes = Arc::new(Semaphore::new(options.max_handshakes.clamp(1, Semaphore::MAX_PERMITS)));
        Self { inner, options: Arc::new(options), handshakes }
    }

    /// The listener below.
    pub fn inner(&self) -> &L {
        &self.inner
    }
}

impl<L: Listener> Listener for WebSocket<L> {
    type Stream = WebSocketStream<L::Stream>;

    /// Returns streams that have not shaken hands yet: the first read does it, in the task of the connection, so that
    /// nobody waits for somebody else's handshake.
    async fn accept(&mut self) -> io::Result<(Self::Stream, Peer)> {
        let place = Arc::clone(&self.handshakes).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.inner.accept().await?;
        let options = Arc::clone(&self.options);
        let shaking = Box::pin(async move {
            let opened = shake_hands(stream, &options).await;
            drop(place);
            opened
        });
        Ok((WebSocketStream { state: State::Shaking(shaking) }, peer))
    }
}

type Socket<S> = tokio_tungstenite::WebSocketStream<S>;

/// The bytes in the binary frames of a WebSocket. What is written becomes a frame at once; where frames begin and end
/// means nothing [MQTT5-6.0.0-2].
pub struct WebSocketStream<S> {
    state: State<S>,
}

enum State<S> {
    Shaking(Pin<Box<dyn Future<Output = Result<Socket<S>, Error>> + Send>>),
    Open {
        socket: Box<Socket<S>>,
        /// What is left of the last frame.
        unread: Bytes,
    },
    /// The handshake failed, or a frame was none of ours.
    Failed,
}

impl<S> std::fmt::Debug for WebSocketStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Shaking(_) => "WebSocketStream(shaking hands)",
            State::Open { .. } => "WebSocketStream(open)",
            State::Failed => "WebSocketStream(failed)",
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketStream<S> {
    /// The open socket and what is left of its last frame, after the handshake.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(&mut Socket<S>, &mut Bytes)>> {
        if let State::Shaking(shaking) = &mut self.state {
            self.state = match ready!(shaking.as_mut().poll(cx)) {
                Ok(socket) => State::Open { socket: Box::new(socket), unread: Bytes::new() },
                Err(error) => {
                    self.state = State::Failed;
                    return Poll::Ready(Err(into_io(error)));
                }
            };
        }
        Poll::Ready(match &mut self.state {
            State::Open { socket, unread } => Ok((socket, unread)),
            State::Shaking(_) | State::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (socket, unread) = ready!(self.poll_open(cx))?;
        for _ in 0..EMPTY_FRAMES_PER_POLL {
            if !unread.is_empty() {
                let taken = unread.split_to(unread.len().min(buffer.remaining()));
                buffer.put_slice(&taken);
                // An empty slice would keep the whole frame.
                if unread.is_empty() {
                    *unread = Bytes::new();
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut *socket).poll_next(cx)) {
                Some(Ok(Message::Binary(payload))) => *unread = payload,
                // tungstenite answers pings itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    // [MQTT5-6.0.0-1]: said as far as the socket takes it, and then the connection is closed.
                    let close = CloseFrame {
                        code: CloseCode::Unsupported,
                        reason: "MQTT is in binary frames".into(),
                    };
                    if Pin::new(&mut *socket).start_send(Message::Close(Some(close))).is_ok() {
                        let _ = Pin::new(&mut *socket).poll_flush(cx);
                    }
                    self.state = State::Failed;
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (socket, _) = ready!(self.poll_open(cx))?;
        let mut socket = Pin::new(socket);
        // One frame at a time: the next when the socket has taken the one before.
        ready!(socket.as_mut().poll_ready(cx)).map_err(into_io)?;
        let frame = &bytes[..bytes.len().min(FRAME_BYTES)];
        socket.start_send(Message::Binary(Bytes::copy_from_slice(frame))).map_err(into_io)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (socket, _) = ready!(self.poll_open(cx))?;
        Pin::new(socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (socket, _) = ready!(self.poll_open(cx))?;
        ready!(Pin::new(&mut *socket).poll_close(cx)).map_err(into_io)?;
        Pin::new(socket.get_mut()).poll_shutdown(cx)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

async fn shake_hands<S>(stream: S, options: &WebSocketOptions) -> Result<Socket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(options.max_message_bytes))
        .max_frame_size(Some(options.max_message_bytes));
    #[expect(clippy::result_large_err, reason = "tungstenite asks for it")]
    let answer = |request: &Request, response| answer(options, request, response);
    tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(config)).await
}

#[expect(clippy::result_large_err, reason = "tungstenite asks for it")]
fn answer(
    options: &WebSocketOptions,
    request: &Request,
    mut response: Response,
) -> Result<Response, ErrorResponse> {
    let refuse = |status, text: &str| {
        let mut refusal = ErrorResponse::new(Some(text.to_owned()));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if request.uri().path() != options.path {
        return refuse(StatusCode::NOT_FOUND, "MQTT is elsewhere\n");
    }
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !options.origins.is_empty()
        && !options.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    {
        return refuse(StatusCode::FORBIDDEN, "pages of this site may not connect\n");
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let Some(chosen) = SUBPROTOCOLS.into_iter().find(|ours| offered.contains(ours)) else {
        return refuse(StatusCode::BAD_REQUEST, "offer the subprotocol mqtt\n");
    };
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    Ok(response)
}
