//! The beginning of a connection: reads CONNECT, decides, and takes the session over.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_codec::{Answer, DecodeError, Decoded, Decoder, Packet, Version};
use tidegate_session::{Session, Start, Welcome};
use tokio::io::{AsyncRead, ReadBuf};

use crate::broker::{Core, now};
use crate::config::ListenerOptions;
use crate::entry::Entry;
use crate::listener::Peer;
use crate::output::Output;
use crate::replay::Replay;
use crate::subscribing::Client;
use crate::takeover::Owned;
use crate::turn;

/// What a CONNECT that was accepted leads to.
pub(crate) struct Opened {
    pub(crate) entry: Arc<Entry>,
    pub(crate) session: Session,
    pub(crate) decoder: Decoder,
    pub(crate) username: Option<Box<str>>,
    pub(crate) version: Version,
    pub(crate) is_bridge: bool,
    /// Retained messages for what the client is subscribed to from the start.
    pub(crate) replay: Option<Box<Replay>>,
    /// CONNACK and whatever the session had waiting.
    pub(crate) output: Output,
    /// Bytes that came behind CONNECT.
    pub(crate) backlog: Vec<u8>,
}

/// Why no session began.
pub(crate) enum Unopened {
    Closed,
    Timeout,
    Stopping,
    /// With the CONNACK that says why, where the version has one.
    Malformed(Vec<u8>),
    /// The same.
    Refused(Vec<u8>),
}

/// Why there is no CONNECT.
enum Unread {
    Closed,
    Malformed(DecodeError),
}

impl Unopened {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Stopping => "stopping",
            Self::Malformed(_) => "malformed",
            Self::Refused(_) => "refused",
        }
    }
}

/// Reads CONNECT, decides, and takes the session over.
pub(crate) async fn open<S>(
    core: &Arc<Core>,
    listener: &ListenerOptions,
    stream: &mut S,
    peer: Peer,
) -> Result<Opened, Unopened>
where
    S: AsyncRead + Unpin,
{
    let mut decoder = core.decoder();
    let mut bytes = Vec::new();
    // One deadline from accept to the last byte of CONNECT, so that a trickle does not renew it.
    let read = read_connect(stream, &decoder, &mut bytes);
    let consumed = match tokio::time::timeout(core.config.connect_timeout, read).await {
        Ok(Ok(consumed)) => consumed,
        Ok(Err(Unread::Malformed(error))) => {
            tracing::debug!(peer = ?peer.address, %error, "not a CONNECT that can be answered");
            let mut answer = Vec::new();
            if let Answer::ConnAck { version, reason } = error.answer() {
                tidegate_session::refuse(version, reason, &mut answer);
            }
            return Err(Unopened::Malformed(answer));
        }
        Ok(Err(Unread::Closed)) => return Err(Unopened::Closed),
        Err(_elapsed) => return Err(Unopened::Timeout),
    };
    let Ok(Decoded::Packet { packet: Packet::Connect(connect), .. }) = decoder.decode(&bytes) else {
        return Err(Unopened::Closed);
    };
    decoder.set_version(connect.version);
    if let Err(refusal) = tidegate_session::check_connect(&connect, core.limits(listener)) {
        tracing::debug!(peer = ?peer.address, client_id = ?connect.client_id, %refusal, "CONNECT refused");
        let mut answer = Vec::new();
        tidegate_session::refuse(connect.version, refusal.reason_code(), &mut answer);
        // A client that has no room for the answer gets the close alone ([MQTT5-3.1.2-24]).
        if connect.properties.maximum_packet_size.is_some_and(|maximum| answer.len() > maximum.get() as usize)
        {
            answer.clear();
        }
        return Err(Unopened::Refused(answer));
    }
    let assigned = connect.client_id.is_empty().then(assign_client_id);
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let start = if connect.clean_start { Start::Clean } else { Start::Resume };
    let mount = listener.mountpoint.as_ref();
    let Owned { entry, mut session, state, will, commit } =
        core.own(client_id, mount, start, core.limits(listener)).await;
    if let Some(will) = will {
        let (core, entry) = (Arc::clone(core), Arc::clone(&entry));
        tokio::spawn(async move { core.publish_will(&entry, will).await });
    }
    let mut unsent = Vec::new();
    let welcome = Welcome { state, assigned_client_id: assigned.as_deref() };
    session.connect(&connect, welcome, now(), &mut unsent);
    core.count_online();
    let mut replay = Replay::default();
    let client = Client { entry: &entry, username: connect.username, is_bridge: connect.bridge };
    core.auto_subscribe(&client, &mut session, &mut replay);
    let output = Output::new(unsent, commit.max(entry.record(&mut session)));
    tracing::debug!(peer = ?peer.address, client_id, version = ?connect.version, ?state, "connected");
    Ok(Opened {
        entry,
        session,
        decoder,
        username: connect.username.map(Into::into),
        version: connect.version,
        is_bridge: connect.bridge,
        replay: (!replay.is_done()).then(|| Box::new(replay)),
        output,
        backlog: bytes[consumed..].to_vec(),
    })
}

/// A client id for a client that brought none. Random, so that nobody can guess it and take the session over.
fn assign_client_id() -> String {
    format!("tidegate-{}", uuid::Uuid::new_v4().simple())
}

/// Reads until `bytes` begins with a whole CONNECT and returns its length.
async fn read_connect<S>(stream: &mut S, decoder: &Decoder, bytes: &mut Vec<u8>) -> Result<usize, Unread>
where
    S: AsyncRead + Unpin,
{
    loop {
        match decoder.decode(bytes) {
            Ok(Decoded::Packet { len, .. }) => return Ok(len),
            Ok(Decoded::Incomplete { .. }) => {}
            Err(error) => return Err(Unread::Malformed(error)),
        }
        let read = poll_fn(|cx| {
            turn::with(|turn| {
                let mut buffer = ReadBuf::new(&mut turn.read);
                Pin::new(&mut *stream).poll_read(cx, &mut buffer).map_ok(|()| {
                    bytes.extend_from_slice(buffer.filled());
                    buffer.filled().len()
                })
            })
        });
        match read.await {
            Ok(0) | Err(_) => return Err(Unread::Closed),
            Ok(_) => {}
        }
    }
}
