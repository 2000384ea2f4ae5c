//! The beginning of a connection: reads CONNECT, decides, and takes the session over.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_codec::{Answer, Connect, DecodeError, Decoded, Decoder, Packet, ReasonCode};
use tidegate_session::{Authentication, Session, SessionState, Start, Welcome};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::authentication::{
    Accepted, AuthenticatingClient, AuthenticationMethod, Unauthenticated, authenticate,
};
use crate::broker::{Core, now};
use crate::config::{ListenerOptions, Redirect};
use crate::entry::Entry;
use crate::events::{About, Conversation};
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
    /// The enhanced authentication that it has passed.
    pub(crate) method: Option<Arc<dyn AuthenticationMethod>>,
    pub(crate) conversation: Conversation,
    /// Retained messages for what the client is subscribed to from the start.
    pub(crate) replay: Option<Box<Replay>>,
    /// CONNACK and whatever the session had waiting.
    pub(crate) output: Output,
    /// Bytes that came behind CONNECT, or behind the last AUTH.
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
    /// The same.
    Redirected(Vec<u8>),
}

/// Why there is no packet.
pub(crate) enum Unread {
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
            Self::Redirected(_) => "redirected",
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
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut decoder = core.decoder();
    let mut bytes = Vec::new();
    // One deadline from accept to the last byte of CONNECT, or of the last AUTH, so that a trickle does not renew it.
    let deadline = tokio::time::Instant::now() + core.config.connect_timeout;
    let read = read_packet(stream, &decoder, &mut bytes);
    let consumed = match tokio::time::timeout_at(deadline, read).await {
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
    let limits = core.limits(listener);
    let mut backlog = bytes[consumed..].to_vec();
    if let Some(redirect) = core.config.redirect {
        let mut answer = Vec::new();
        tidegate_session::redirect(&connect, redirect == Redirect::ForGood, limits, &mut answer);
        return Err(Unopened::Redirected(answer));
    }
    let methods = &listener.authentication;
    let checked = tidegate_session::check_connect(&connect, limits, |name| methods.find(name).is_some());
    if let Err(refusal) = checked {
        tracing::debug!(peer = ?peer.address, client_id = ?connect.client_id, %refusal, "CONNECT refused");
        let about = about(connect.client_id, connect.username, listener, peer);
        core.tell_connack(&about, &connect, refusal.reason_code());
        return Err(refuse(&connect, refusal.reason_code()));
    }
    let proving = prove(stream, &connect, listener, decoder.limits(), peer, &mut backlog);
    let proven = match tokio::time::timeout_at(deadline, proving).await {
        Ok(Ok(proven)) => proven,
        Ok(Err(Unauthenticated::Closed)) => return Err(Unopened::Closed),
        Ok(Err(Unauthenticated::Refused(reason))) => {
            tracing::debug!(peer = ?peer.address, client_id = ?connect.client_id, ?reason, "not authenticated");
            let about = about(connect.client_id, connect.username, listener, peer);
            core.tell_checked(&about, reason, false);
            core.tell_connack(&about, &connect, reason);
            return Err(refuse(&connect, reason));
        }
        Err(_elapsed) => return Err(Unopened::Timeout),
    };
    let assigned = connect.client_id.is_empty().then(assign_client_id);
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let response_information =
        core.config.response_information.as_ref().and_then(|information| information.for_client(client_id));
    let mut welcome = Welcome {
        assigned_client_id: assigned.as_deref(),
        response_information: response_information.as_deref(),
        authentication_data: proven.last_word(),
        ..Welcome::new(SessionState::New)
    };
    if let Err(refusal) = tidegate_session::check_welcome(&connect, &welcome, limits) {
        let about = about(client_id, connect.username, listener, peer);
        core.tell_connack(&about, &connect, refusal.reason_code());
        return Err(refuse(&connect, refusal.reason_code()));
    }
    let start = if connect.clean_start { Start::Clean } else { Start::Resume };
    let mount = listener.mountpoint.as_ref();
    let Ok(owned) = core.own(client_id, mount, start, limits).await else {
        let reason = ReasonCode::QuotaExceeded;
        tracing::debug!(peer = ?peer.address, client_id, "CONNECT refused: no room for another session");
        core.tell_connack(&about(client_id, connect.username, listener, peer), &connect, reason);
        return Err(refuse(&connect, reason));
    };
    let Owned { entry, mut session, state, will, commit } = owned;
    if let Some(will) = will {
        let (core, entry) = (Arc::clone(core), Arc::clone(&entry));
        tokio::spawn(async move { core.publish_will(&entry, will).await });
    }
    let mut unsent = Vec::new();
    welcome.state = state;
    session.connect(&connect, welcome, now(), &mut unsent);
    core.count_online();
    let mut replay = Replay::default();
    let username = proven.identity().or(connect.username);
    let client = Client { entry: &entry, username, peer, is_bridge: connect.bridge };
    core.tell_connected(&about(client_id, username, listener, peer), &connect, proven.method().is_some());
    core.auto_subscribe(&client, &mut session, &mut replay);
    let output = Output::new(unsent, commit.max(entry.record(&mut session)));
    tracing::debug!(peer = ?peer.address, client_id, version = ?connect.version, ?state, "connected");
    Ok(Opened {
        entry,
        session,
        decoder,
        username: username.map(Into::into),
        method: proven.method(),
        conversation: Conversation::of(&connect),
        replay: (!replay.is_done()).then(|| Box::new(replay)),
        output,
        backlog,
    })
}

/// How a client has shown who it is: with an enhanced authentication, or not at all.
struct Proven(Option<(Arc<dyn AuthenticationMethod>, Accepted)>);

impl Proven {
    fn identity(&self) -> Option<&str> {
        self.0.as_ref().map(|(_, accepted)| &*accepted.identity)
    }

    fn last_word(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|(_, accepted)| &accepted.data[..]).filter(|data| !data.is_empty())
    }

    fn method(&self) -> Option<Arc<dyn AuthenticationMethod>> {
        self.0.as_ref().map(|(method, _)| Arc::clone(method))
    }
}

/// Lets a client show who it is, if it wants to or has to.
async fn prove<S>(
    stream: &mut S,
    connect: &Connect<'_>,
    listener: &ListenerOptions,
    limits: &tidegate_codec::Limits,
    peer: Peer,
    backlog: &mut Vec<u8>,
) -> Result<Proven, Unauthenticated>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let methods = &listener.authentication;
    let Some(mut order) = Authentication::of(connect) else {
        return if methods.are_required() {
            Err(Unauthenticated::Refused(ReasonCode::NotAuthorized))
        } else {
            Ok(Proven(None))
        };
    };
    let Some(method) = methods.find(order.method()) else {
        return Err(Unauthenticated::Refused(ReasonCode::BadAuthenticationMethod));
    };
    let client =
        AuthenticatingClient { client_id: connect.client_id, username: connect.username, peer: peer.address };
    let accepted = authenticate(stream, &**method, &client, connect, &mut order, limits, backlog).await?;
    Ok(Proven(Some((Arc::clone(method), accepted))))
}

fn about<'a>(
    client_id: &'a str,
    username: Option<&'a str>,
    listener: &'a ListenerOptions,
    peer: Peer,
) -> About<'a> {
    About { client_id, username, peer, mount: listener.mountpoint.as_ref() }
}

fn refuse(connect: &Connect<'_>, reason: ReasonCode) -> Unopened {
    let mut answer = Vec::new();
    tidegate_session::refuse(connect.version, reason, &mut answer);
    // A client that has no room for the answer gets the close alone ([MQTT5-3.1.2-24]).
    if connect.properties.maximum_packet_size.is_some_and(|maximum| answer.len() > maximum.get() as usize) {
        answer.clear();
    }
    Unopened::Refused(answer)
}

/// A client id for a client that brought none. Random, so that nobody can guess it and take the session over.
fn assign_client_id() -> String {
    format!("tidegate-{}", uuid::Uuid::new_v4().simple())
}

/// Reads until `bytes` begins with a whole packet and returns its length.
pub(crate) async fn read_packet<S>(
    stream: &mut S,
    decoder: &Decoder,
    bytes: &mut Vec<u8>,
) -> Result<usize, Unread>
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
