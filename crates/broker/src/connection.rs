//! One client's connection: a task that reads, lets the session decide, and writes, once each per turn.
//!
//! An idle connection owns a session and no buffers: reading and writing use buffers of the thread that runs the task.
//! Only what a turn leaves behind (half a packet, bytes that the socket did not take, a record that a full sink gave
//! back) is copied into buffers of the connection's own, and freed when it is done.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tidegate_codec::{
    DecodeError, Decoded, Decoder, Packet, QoS, ReasonCode, Subscribe, Unsubscribe, UserProperties, Version,
};
use tidegate_rules::EventKind;
use tidegate_session::{Delivered, Ended, Input, Session, Token, Violation};
use tidegate_sink::{Outcome, Settle, prefetch};
use tidegate_store::Waiting;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use crate::authentication::{AuthenticatingClient, AuthenticationMethod};
use crate::broker::{Core, OpenConnection, now};
use crate::config::ListenerOptions;
use crate::entry::{Entry, Kick, open_letter};
use crate::events::{About, Conversation, LostReason};
use crate::listener::Peer;
use crate::opening::{Opened, Unopened, open};
use crate::output::{Output, Unsent};
use crate::pipeline::{Origin, Stalled};
use crate::reauthentication::{Decision, Reauthentication};
use crate::replay::Replay;
use crate::subscribing::Client;
use crate::turn::{self, Turn, Work};

/// Reads, each with its answers, that a connection makes before it lets others run.
const READS_PER_POLL: usize = 4;

/// Bytes of a packet's beginning that are put in front of what is read next. Of a larger one, what is read is put behind it.
const KEPT_IN_FRONT_BYTES: usize = turn::READ_BUFFER_BYTES / 4;

/// The shortest time to the next look at a keep-alive.
const MIN_TIMER: Duration = Duration::from_secs(1);

/// How late a look at a keep-alive may come before it is our lateness that may have made the client look silent.
const LATE: Duration = Duration::from_millis(1500);

/// How much longer the client then has.
const GRACE: Duration = Duration::from_millis(500);

/// How long a last DISCONNECT may take to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that was told goodbye has to close as well.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What it may send meanwhile, in bytes.
const LINGER_BYTES: usize = 1024 * 1024;

/// Why a conversation ended, as the counter names it.
#[derive(Debug)]
enum Cause {
    Client,
    ConnectionLost,
    KeepAlive,
    /// The store cannot keep what an answer would promise.
    StoreFailed,
    Decode(DecodeError),
    Violation(Violation),
    /// A re-authentication failed, for this reason.
    NotAuthenticated(ReasonCode),
    Kicked(Kick),
    /// A sink could not say that a record is safe, or refused it for good and the version has no word for it.
    Unacknowledgeable,
}

impl Cause {
    fn name(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ConnectionLost => "connection_lost",
            Self::KeepAlive => "keep_alive",
            Self::StoreFailed => "store_failed",
            Self::Decode(_) => "malformed",
            Self::Violation(_) => "protocol_error",
            Self::NotAuthenticated(_) => "not_authenticated",
            Self::Kicked(Kick::TakenOver(_)) => "taken_over",
            Self::Kicked(Kick::Shutdown) => "shutdown",
            Self::Unacknowledgeable => "unacknowledgeable",
        }
    }
}

/// One connection from its first byte to its last.
///
/// A future by hand, because an async function keeps room for all that it holds at any time, and a connection is almost
/// all its life in the second of three stages: a kilobyte for each.
pub(crate) struct Serve<S> {
    stage: Stage<S>,
    _open: OpenConnection,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a connection is `Running` almost all its life: a box would cost more"
)]
enum Stage<S> {
    Opening(Pin<Box<dyn Future<Output = Option<Connection<S>>> + Send>>),
    Running(Connection<S>),
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
    Over,
}

impl<S> Serve<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(crate) fn new(
        core: Arc<Core>,
        listener: Arc<ListenerOptions>,
        stream: S,
        peer: Peer,
        open: OpenConnection,
    ) -> Self {
        Self { stage: Stage::Opening(Box::pin(begin(core, listener, stream, peer))), _open: open }
    }
}

impl<S> Future for Serve<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Among so many connections, what belongs to one of them is in no cache when its turn comes.
        prefetch(&*self);
        loop {
            match &mut self.stage {
                Stage::Opening(opening) => {
                    self.stage = ready!(opening.as_mut().poll(cx)).map_or(Stage::Over, Stage::Running);
                }
                Stage::Running(connection) => {
                    let cause = ready!(connection.poll(cx));
                    if let Stage::Running(connection) = std::mem::replace(&mut self.stage, Stage::Over) {
                        self.stage = Stage::Ending(Box::pin(connection.finish(cause)));
                    }
                }
                Stage::Ending(ending) => {
                    ready!(ending.as_mut().poll(cx));
                    self.stage = Stage::Over;
                }
                Stage::Over => return Poll::Ready(()),
            }
        }
    }
}

/// Opens the conversation, or says why there is none.
async fn begin<S>(
    core: Arc<Core>,
    listener: Arc<ListenerOptions>,
    mut stream: S,
    peer: Peer,
) -> Option<Connection<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let opened = tokio::select! {
        opened = open(&core, &listener, &mut stream, peer) => opened,
        () = core.stopped() => Err(Unopened::Stopping),
    };
    match opened {
        Ok(opened) => Some(Connection::new(core, stream, peer, opened)),
        Err(unopened) => {
            core.metrics.connections_refused.with_label_values(&[unopened.name()]).inc();
            if let Unopened::Malformed(answer) | Unopened::Refused(answer) | Unopened::Redirected(answer) =
                unopened
            {
                say_goodbye(&mut stream, &answer).await;
            }
            None
        }
    }
}

/// Writes a last packet and closes; a peer that does not read it does not hold us up.
///
/// A socket that is closed while bytes wait in it is reset, and with it goes what was on its way to the client. So what a
/// client goes on sending, in the belief that all is well, is read and forgotten until it has closed as well.
async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    let farewell = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await
    };
    let said = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    if matches!(said, Ok(Ok(()))) && !bytes.is_empty() {
        // Nobody waits for the outcome: the peer may be gone already, which is what we want anyway.
        let _ = tokio::time::timeout(LINGER_TIMEOUT, linger(stream)).await;
    }
}

/// Reads until the peer closes, or has sent too much.
async fn linger<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut left = LINGER_BYTES;
    while left > 0 {
        let read = poll_fn(|cx| {
            turn::with(|turn| {
                let mut buffer = ReadBuf::new(&mut turn.read);
                Pin::new(&mut *stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
            })
        });
        match read.await {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

/// Whether a turn did something, so that it is worth to look again before the task waits.
enum Progress {
    Some,
    None,
}

/// Wakes the connection at its time. Not looked at before: what a look costs would be paid by every message.
struct Timer {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self { at, sleep: Box::pin(tokio::time::sleep_until(at.into())) }
    }

    fn set(&mut self, at: Instant) {
        self.at = at;
        self.sleep.as_mut().reset(at.into());
    }
}

struct Connection<S> {
    core: Arc<Core>,
    stream: S,
    entry: Arc<Entry>,
    /// `Entry` as what sinks settle with; kept so that an acknowledgement costs one count, not a conversion.
    settle: Arc<dyn Settle>,
    session: Session,
    decoder: Decoder,
    username: Option<Box<str>>,
    /// How it was authenticated, and can be again.
    method: Option<Arc<dyn AuthenticationMethod>>,
    reauthentication: Option<Box<Reauthentication>>,
    conversation: Conversation,
    /// The user properties of its DISCONNECT, where a rule asks for them.
    last_words: Option<Box<UserProperties<'static>>>,
    peer: Peer,
    /// Bytes read and not yet handled: the beginning of a packet, or all that a stall left.
    backlog: Vec<u8>,
    output: Output,
    /// For room in the store.
    waiting: Waiting,
    /// The session was told that the socket is slow.
    was_congested: bool,
    /// Whole packets wait in `backlog` until the window of a 3.x client has room.
    paused: bool,
    /// Records that a full sink gave back: nothing more is read until they are taken.
    stalled: Option<Box<Stalled>>,
    /// Retained messages on their way to a new subscription.
    replay: Option<Box<Replay>>,
    /// The keep-alive ran out while we were late ourselves: the client has until then.
    grace_until: Option<Instant>,
    timer: Option<Timer>,
    /// Somebody asked us to leave.
    kicked: Option<Kick>,
    /// A shutdown: nothing more is read, and the conversation ends when nothing is owed or at this time.
    drain_until: Option<Instant>,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn new(core: Arc<Core>, stream: S, peer: Peer, opened: Opened) -> Self {
        let Opened { entry, session, decoder, username, method, conversation, replay, output, backlog } =
            opened;
        Self {
            settle: Arc::clone(&entry) as Arc<dyn Settle>,
            core,
            stream,
            entry,
            session,
            decoder,
            username,
            method,
            reauthentication: None,
            conversation,
            last_words: None,
            peer,
            // Packets may have come right behind CONNECT.
            paused: !backlog.is_empty(),
            backlog,
            output,
            waiting: Waiting::default(),
            was_congested: false,
            stalled: None,
            replay,
            grace_until: None,
            timer: None,
            kicked: None,
            drain_until: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        prefetch(&*self.entry);
        turn::with(|Turn { read, work }| {
            work.out.clear();
            work.rules.begin_turn();
            self.entry.begin_turn();
            let ended = self.poll_turns(cx, read, work, now());
            self.account_for_losses(work);
            // Whatever the turns made leaves in one write, also what was made before something ended them.
            match self.poll_write(cx, work) {
                Err(cause) if ended.is_pending() => Poll::Ready(cause),
                _ => ended,
            }
        })
    }

    fn poll_turns(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut [u8],
        work: &mut Work,
        now: Instant,
    ) -> Poll<Cause> {
        for _ in 0..READS_PER_POLL {
            let turn = self.take_inbox(cx, work, now).and_then(|()| self.poll_input(cx, read, work, now));
            // Some sinks settle in this call, and we find it in the mailbox.
            work.rules.touched.flush();
            match turn {
                Err(cause) => return Poll::Ready(cause),
                Ok(Progress::Some) => {}
                Ok(Progress::None) => {
                    if let Poll::Ready(cause) = self.poll_timer(cx, now) {
                        return Poll::Ready(cause);
                    }
                    if self.entry.end_turn() {
                        return Poll::Pending;
                    }
                    self.entry.begin_turn();
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Acknowledgements from sinks, messages from publishers, and whether we are asked to leave.
    fn take_inbox(&mut self, cx: &mut Context<'_>, work: &mut Work, now: Instant) -> Result<(), Cause> {
        if self.entry.has_mail() {
            self.kicked = self.entry.collect(cx.waker(), &mut work.settled, &mut work.deliveries);
            // Both are taken whole, whatever happens: nobody else has them.
            let written = self.take_deliveries(cx, work, now);
            let settled = self.take_settled(work);
            written.and(settled)?;
        }
        self.catch_up(cx, work, now);
        match self.kicked {
            Some(Kick::TakenOver(start)) => Err(Cause::Kicked(Kick::TakenOver(start))),
            Some(Kick::Shutdown) => self.drain(now),
            None => Ok(()),
        }
    }

    /// Makes what the socket has room for again: messages that were queued, and retained ones.
    fn catch_up(&mut self, cx: &mut Context<'_>, work: &mut Work, now: Instant) {
        if !self.is_congested() {
            if self.was_congested {
                self.was_congested = false;
                self.session.set_congested(false);
                self.session.resume_sending(now, &mut work.out);
            }
            if let Some(replay) = &mut self.replay {
                let (retained, out) = (&self.core.retained, &mut work.out);
                if replay.deliver(retained, &self.entry, &mut self.session, now, out) {
                    cx.waker().wake_by_ref();
                }
                if replay.is_done() {
                    self.replay = None;
                }
            }
        }
    }

    /// Counts what the turns dropped, and tells rules of it.
    fn account_for_losses(&mut self, work: &mut Work) {
        if !self.session.has_losses() {
            return;
        }
        self.core.metrics.count_drops(self.session.take_dropped());
        for (message, reason) in self.session.take_lost() {
            let reason = LostReason::Session(reason);
            self.core.tell_lost(&self.about(), &message, reason, &mut work.rules);
        }
        work.rules.touched.flush();
    }

    /// Answers for what sinks have settled.
    fn take_settled(&mut self, work: &mut Work) -> Result<(), Cause> {
        let mut result = Ok(());
        for settled in work.settled.drain(..) {
            let token = Token::from(settled.token);
            if let Outcome::Rejected(rejection) = settled.outcome {
                self.core.metrics.count_rejection(rejection);
            }
            match settled.outcome {
                Outcome::Delivered => {
                    if self.session.acknowledge(token, ReasonCode::Success, &mut work.out) {
                        self.core.metrics.acknowledged.inc();
                    }
                }
                Outcome::Rejected(_) if self.conversation.version == Version::V5 => {
                    self.session.acknowledge(token, ReasonCode::ImplementationSpecificError, &mut work.out);
                }
                Outcome::Rejected(_) | Outcome::Lost => {
                    self.session.forget(token);
                    result = Err(Cause::Unacknowledgeable);
                }
            }
        }
        result
    }

    /// Messages from publishers. What they become is written as it grows beyond what the socket is offered at once, so
    /// that a full mailbox does not become as large an output.
    fn take_deliveries(&mut self, cx: &mut Context<'_>, work: &mut Work, now: Instant) -> Result<(), Cause> {
        let mut result = Ok(());
        let mut deliveries = std::mem::take(&mut work.deliveries);
        let is_told = self.core.wants_deliveries();
        for letter in deliveries.drain(..) {
            let message = is_told.then(|| Arc::clone(&letter.1.message));
            let delivered = open_letter(&mut self.session, letter, now, &mut work.out);
            if let Some(message) = message
                && matches!(delivered, Delivered::Sent | Delivered::Queued)
            {
                self.core.tell_delivered(&self.about(), &message, &mut work.rules);
            }
            if result.is_ok() && work.out.len() > self.core.config.write_high_water_bytes {
                result = self.poll_write(cx, work);
            }
        }
        work.deliveries = deliveries;
        result
    }

    fn drain(&mut self, now: Instant) -> Result<(), Cause> {
        let until = *self.drain_until.get_or_insert(now + self.core.config.drain_timeout);
        // A record that no sink has taken yet was not acknowledged: its device sends it again.
        if self.session.unsettled() == 0 || self.stalled.is_some() || now >= until {
            return Err(Cause::Kicked(Kick::Shutdown));
        }
        Ok(())
    }

    /// One read and all packets in it, or what an earlier turn left.
    fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut [u8],
        work: &mut Work,
        now: Instant,
    ) -> Result<Progress, Cause> {
        if let Some(stalled) = &mut self.stalled {
            if stalled.poll(cx).is_pending() {
                return Ok(Progress::None);
            }
            self.stalled = None;
            // We were not listening: the client's silence is not held against it.
            self.session.touch(now);
            return self.handle_backlog(work, now).map(|()| Progress::Some);
        }
        if self.reauthentication.is_some() {
            match self.poll_reauthentication(cx, work)? {
                Progress::Some => {
                    self.session.touch(now);
                    return self.handle_backlog(work, now).map(|()| Progress::Some);
                }
                Progress::None if self.is_deciding() => return Ok(Progress::None),
                Progress::None => {}
            }
        }
        if self.drain_until.is_some() || self.is_congested() || self.session.window_is_full() {
            return Ok(Progress::None);
        }
        if self.core.store.poll_room(&mut self.waiting, cx).is_pending() {
            return Ok(Progress::None);
        }
        if self.paused {
            self.paused = false;
            self.session.touch(now);
            self.handle_backlog(work, now)?;
            return Ok(Progress::Some);
        }
        // Room in front for the beginning of a packet that an earlier turn left, unless it is a large one.
        let kept = if self.backlog.len() <= KEPT_IN_FRONT_BYTES { self.backlog.len() } else { 0 };
        let mut buffer = ReadBuf::new(&mut read[kept..]);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(Progress::None),
            Poll::Ready(Err(_)) => return Err(Cause::ConnectionLost),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Err(Cause::ConnectionLost),
            Poll::Ready(Ok(())) => {}
        }
        let count = buffer.filled().len();
        self.core.metrics.received_bytes.inc_by(count as u64);
        self.session.touch(now);
        self.grace_until = None;
        if kept < self.backlog.len() {
            self.backlog.extend_from_slice(&read[..count]);
            self.handle_backlog(work, now)?;
        } else {
            read[..kept].copy_from_slice(&self.backlog);
            let bytes = &read[..kept + count];
            let consumed = self.handle(bytes, work, now)?;
            if consumed < bytes.len() {
                self.backlog.clear();
                self.backlog.extend_from_slice(&bytes[consumed..]);
            } else {
                self.backlog = Vec::new();
            }
        }
        Ok(Progress::Some)
    }

    fn handle_backlog(&mut self, work: &mut Work, now: Instant) -> Result<(), Cause> {
        let mut bytes = std::mem::take(&mut self.backlog);
        let consumed = self.handle(&bytes, work, now)?;
        if consumed < bytes.len() {
            bytes.drain(..consumed);
            self.backlog = bytes;
        }
        Ok(())
    }

    /// Handles the packets at the front of `bytes` until they are used up, cut off, or must wait. Returns how many
    /// bytes were handled.
    fn handle(&mut self, bytes: &[u8], work: &mut Work, now: Instant) -> Result<usize, Cause> {
        let mut at = 0;
        let mut packets = 0;
        while at < bytes.len() {
            // By reference: a packet is large, and moving it on would copy it each time.
            match &self.decoder.decode(&bytes[at..]) {
                Ok(Decoded::Packet { packet, len }) => {
                    at += len;
                    packets += 1;
                    self.handle_packet(packet, work, now)?;
                }
                Ok(Decoded::Incomplete { .. }) => break,
                Err(error) => return Err(Cause::Decode(*error)),
            }
            if self.stalled.is_some() {
                self.core.metrics.stalls.inc();
                break;
            }
            if self.is_deciding() {
                break;
            }
            if self.session.window_is_full() {
                // 3.1.1 has no Receive Maximum: the rest waits here and in the client's socket.
                self.paused = true;
                break;
            }
        }
        self.core.metrics.received_packets.inc_by(packets);
        Ok(at)
    }

    fn about(&self) -> About<'_> {
        About {
            client_id: &self.entry.client_id,
            username: self.username.as_deref(),
            peer: self.peer,
            mount: self.entry.mount.as_ref(),
        }
    }

    /// Tells rules of a packet, where the session tells nothing of it afterwards.
    fn tell_of(&mut self, packet: &Packet<'_>, work: &mut Work) {
        match packet {
            Packet::PingReq if self.core.wants(EventKind::ClientPing) => {
                self.core.tell_ping(&self.about(), self.conversation, &mut work.rules);
            }
            Packet::PubAck(ack) | Packet::PubRec(ack)
                if !ack.reason.is_error() && self.core.wants(EventKind::MessageAcked) =>
            {
                if let Some(delivery) = self.session.awaiting(ack.packet_id) {
                    let said = &ack.user_properties;
                    self.core.tell_acked(&self.about(), &delivery.message, said, &mut work.rules);
                }
            }
            Packet::Unsubscribe(request) if self.core.wants(EventKind::SessionUnsubscribed) => {
                self.core.tell_unsubscribed(&self.about(), &self.session, request, &mut work.rules);
            }
            Packet::Disconnect(said) if self.core.wants(EventKind::ClientDisconnected) => {
                self.last_words = Some(Box::new(said.user_properties.clone().into_owned()));
            }
            _ => {}
        }
    }

    fn handle_packet(&mut self, packet: &Packet<'_>, work: &mut Work, now: Instant) -> Result<(), Cause> {
        if self.core.wants_any_event() {
            self.tell_of(packet, work);
        }
        match self.session.handle_packet(packet, now, &mut work.out).map_err(Cause::Violation)? {
            Input::Handled => {}
            Input::Publish(inbound) => {
                let token = inbound.token;
                let origin = Origin {
                    client_id: &self.entry.client_id,
                    username: self.username.as_deref(),
                    peer: self.peer.address,
                    settle: token.map(|token| (&self.settle, token)),
                    entry: Some(&self.entry),
                    mount: self.entry.mount.as_ref(),
                    can_be_refused: self.conversation.version == Version::V5,
                    is_for_rules: true,
                };
                self.core.metrics.received[inbound.publish.qos as usize].inc();
                let (topic, publish) = (inbound.topic, inbound.publish);
                // That it went to its subscribers, and that it came: who knew the one after a restart without the other
                // would deliver it twice, or never.
                let is_once = publish.qos == QoS::ExactlyOnce && self.entry.is_kept();
                let together = is_once.then(|| self.core.store.together());
                let routed = self.core.receive(&origin, topic, publish, &mut work.rules, now);
                self.stalled = routed.stalled;
                if self.core.wants(EventKind::ClientCheckAuthzComplete) {
                    let about = About {
                        client_id: &self.entry.client_id,
                        username: self.username.as_deref(),
                        peer: self.peer,
                        mount: self.entry.mount.as_ref(),
                    };
                    let is_denied = matches!(
                        routed.answer,
                        Some(ReasonCode::NotAuthorized | ReasonCode::UnspecifiedError)
                    );
                    let rules = &mut work.rules;
                    self.core.tell_checked_access(&about, "publish", topic.as_str(), !is_denied, rules);
                }
                if let Some((token, reason)) = token.zip(routed.answer)
                    && self.session.acknowledge(token, reason, &mut work.out)
                    && !reason.is_error()
                {
                    self.core.metrics.acknowledged.inc();
                }
                if together.is_some() {
                    work.rules.commit = work.rules.commit.max(self.entry.record(&mut self.session));
                }
            }
            Input::Subscribe(request) => self.subscribe(request, work),
            Input::Unsubscribe(request) => self.unsubscribe(request, work),
            Input::Authenticate { is_first, data } => self.authenticate(is_first, data.unwrap_or_default()),
            Input::Disconnect => return Err(Cause::Client),
        }
        Ok(())
    }

    /// Takes what the client says in a re-authentication; the next turns look at what becomes of it.
    fn authenticate(&mut self, is_first: bool, data: &[u8]) {
        match (&mut self.reauthentication, &self.method) {
            (Some(running), _) if !is_first => running.answer(data),
            (_, Some(method)) => {
                let client = AuthenticatingClient {
                    client_id: &self.entry.client_id,
                    username: self.username.as_deref(),
                    peer: self.peer.address,
                };
                let timeout = self.core.config.connect_timeout;
                let begun = Reauthentication::new(&**method, &client, data, timeout);
                self.reauthentication = Some(Box::new(begun));
            }
            // The session refuses AUTH where CONNECT named no method.
            (_, None) => {}
        }
    }

    /// Whether a re-authentication has to decide before anything more is handled.
    fn is_deciding(&self) -> bool {
        self.reauthentication.as_ref().is_some_and(|running| running.is_deciding())
    }

    fn poll_reauthentication(&mut self, cx: &mut Context<'_>, work: &mut Work) -> Result<Progress, Cause> {
        let Some(running) = &mut self.reauthentication else { return Ok(Progress::None) };
        let Poll::Ready(decision) = running.poll(cx) else { return Ok(Progress::None) };
        let told = match decision {
            Decision::Ask(data) => self.session.ask_to_authenticate(&data, &mut work.out),
            // Nobody becomes somebody else on the way: what it may do was decided for the one that it was.
            Decision::Accept(accepted) if self.username.as_deref() == Some(&*accepted.identity) => {
                self.reauthentication = None;
                self.session.authenticated(&accepted.data, &mut work.out)
            }
            Decision::Accept(_) => return Err(Cause::NotAuthenticated(ReasonCode::NotAuthorized)),
            Decision::Refuse(reason) => return Err(Cause::NotAuthenticated(reason)),
        };
        told.map_err(|_too_large| Cause::NotAuthenticated(ReasonCode::PacketTooLarge))?;
        Ok(Progress::Some)
    }

    fn subscribe(&mut self, request: &Subscribe<'_>, work: &mut Work) {
        let client = Client {
            entry: &self.entry,
            username: self.username.as_deref(),
            peer: self.peer,
            is_bridge: self.conversation.is_bridge,
        };
        let mut replay = self.replay.take().unwrap_or_default();
        self.core.subscribe(&client, &mut self.session, request, &mut replay, &mut work.out);
        self.replay = (!replay.is_done()).then_some(replay);
    }

    fn unsubscribe(&mut self, request: &Unsubscribe<'_>, work: &mut Work) {
        let replay = self.replay.as_deref_mut();
        self.core.unsubscribe(&self.entry, &mut self.session, request, replay, &mut work.out);
    }

    /// Whether the client takes its bytes so slowly that nothing more should be made for it.
    fn is_congested(&self) -> bool {
        self.output.len() > self.core.config.write_high_water_bytes
    }

    /// Writes what the turn made, as far as the socket and the store let go. The rest is kept for the next time.
    fn poll_write(&mut self, cx: &mut Context<'_>, work: &mut Work) -> Result<(), Cause> {
        let changed = self.entry.record(&mut self.session);
        self.output.wait_for(changed.max(work.rules.commit));
        let written = self.output.poll_write(&mut self.stream, &*self.core.store, &mut work.out, cx);
        match written {
            Ok(0) => {}
            Ok(written) => self.core.metrics.sent_bytes.inc_by(written as u64),
            Err(Unsent::Socket) => return Err(Cause::ConnectionLost),
            Err(Unsent::Store(_)) => return Err(Cause::StoreFailed),
        }
        let unqueued_bytes = self.core.config.write_high_water_bytes.saturating_sub(self.output.len());
        self.entry.set_room(self.session.room_to_half(), unqueued_bytes);
        if self.is_congested() && !self.was_congested {
            self.was_congested = true;
            self.session.set_congested(true);
        } else if self.was_congested && !self.is_congested() {
            // Room again: what waited in the session is made in the next turn.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Ends a conversation whose client has been silent for too long ([MQTT5-3.1.2-22]).
    ///
    /// The timer is set once for each keep-alive period, not for each packet: when it fires early, because packets
    /// came, it is set again.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Cause> {
        let is_listening = self.stalled.is_none() && !self.paused && !self.is_deciding();
        let deadline = match (self.drain_until, self.session.deadline()) {
            (Some(until), _) => until,
            (None, Some(deadline)) => deadline,
            (None, None) => return Poll::Pending,
        };
        let mut at = deadline.max(now + MIN_TIMER);
        if self.drain_until.is_none() && is_listening && self.session.expired(now) {
            // If it is us who come late, what the client sent may still be on its way through the system to us.
            let is_late = now.saturating_duration_since(deadline) >= LATE;
            match self.grace_until {
                Some(until) if now < until => at = until,
                None if is_late => at = *self.grace_until.insert(now + GRACE),
                _ => return Poll::Ready(Cause::KeepAlive),
            }
        }
        // While we do not listen the client's silence is ours: look again a while later.
        let is_new = self.timer.is_none();
        let timer = self.timer.get_or_insert_with(|| Timer::new(at));
        if self.drain_until.is_some() || self.grace_until.is_some() {
            timer.set(at);
        } else if !is_new && now < timer.at {
            return Poll::Pending;
        }
        while timer.sleep.as_mut().poll(cx).is_ready() {
            timer.set(at);
        }
        Poll::Pending
    }

    /// Brings the session to rest, says why to the client, and publishes its will.
    async fn finish(mut self, cause: Cause) {
        let core = Arc::clone(&self.core);
        core.metrics.disconnects.with_label_values(&[cause.name()]).inc();
        let now = now();
        tracing::debug!(client_id = &*self.entry.client_id, ?cause, "disconnected");
        core.tell_disconnected(&self.about(), self.conversation, cause.name(), self.last_words.as_deref());
        // Records that no sink has taken are given up: never acknowledged, so their device sends them again.
        self.stalled = None;
        let mut last = Vec::new();
        let ended = match cause {
            Cause::Client => Ended::ByClient,
            Cause::ConnectionLost => Ended::ConnectionLost,
            Cause::KeepAlive => Ended::KeepAliveTimeout,
            Cause::Decode(error) => Ended::ByServer(error.reason_code()),
            Cause::Violation(violation) => Ended::Violation(violation),
            Cause::NotAuthenticated(reason) => Ended::ByServer(reason),
            Cause::Kicked(Kick::TakenOver(start)) => Ended::TakenOver(start),
            Cause::Kicked(Kick::Shutdown) => Ended::ServerShutdown,
            Cause::Unacknowledgeable | Cause::StoreFailed => {
                Ended::ByServer(ReasonCode::ImplementationSpecificError)
            }
        };
        let farewell = self.session.end(ended, &mut last);
        core.metrics.count_drops(self.session.take_dropped());
        let will = core.release(&self.entry, self.session, farewell, now);
        core.metrics.sessions_online.dec();
        let finishing = self.output.finish(&*core.store, &last);
        let goodbye = async {
            // What the disk does not take in time is not sent: the client asks again.
            if let Ok(Ok(bytes)) = tokio::time::timeout(FAREWELL_TIMEOUT, finishing).await {
                say_goodbye(&mut self.stream, &bytes).await;
            }
            drop(self.stream);
        };
        let last_will = async {
            if let Some(will) = will {
                core.publish_will(&self.entry, will).await;
            }
        };
        // A client that takes its time to leave holds its will up no longer.
        tokio::join!(goodbye, last_will);
    }
}
