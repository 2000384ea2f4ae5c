//! The broker: what all connections share, and the handle that an embedder holds.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tidegate_codec::{Decoder, Publish, ReasonCode};
use tidegate_rules::{Event, EventKind};
use tidegate_session::{Change, DueWill, Limits, Publisher};
use tidegate_store::{Recovered, Store, Volatile};
use tidegate_topic::TopicName;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::config::{Config, ListenerOptions};
use crate::connection::Serve;
use crate::delayed::DelayedMessages;
use crate::engine::{Engine, RulesError};
use crate::entry::{Entry, Kick};
use crate::fanout::{Fanout, Outgoing};
use crate::listener::{ACCEPT_PAUSE, Listener, Peer};
use crate::metrics::Metrics;
use crate::pipeline::{Lineage, Origin, Pipeline, Republished, RuleBinding, Ruled, Stalled};
use crate::receive::{Refused, Resolve};
use crate::registry::Registry;
use crate::remembered;
use crate::retained::Retained;
use crate::timers::Timers;
use crate::turn::RuleWork;

/// An MQTT broker. Cheap to clone; all clones are one broker.
///
/// It builds no runtime: its methods spawn onto the tokio runtime that they are called in.
#[derive(Clone)]
pub struct Broker {
    pub(crate) core: Arc<Core>,
}

/// What all connections share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// What survives the process.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) fanout: Fanout,
    pub(crate) retained: Retained,
    pub(crate) delayed: DelayedMessages,
    /// Sessions at rest to look at. An entry decides itself what is due, so a stale time is harmless. Bounded by the
    /// sessions: each puts at most two times in when it comes to rest.
    pub(crate) timers: Timers<Weak<Entry>>,
    /// Neither rewrites nor a deny list look at what is published.
    pub(crate) takes_topics_as_they_are: bool,
    /// The most sessions that were online at one time.
    pub(crate) most_online: AtomicI64,
    pipeline: ArcSwap<Pipeline>,
    /// The kinds of events that some rule listens to, as [`Pipeline::listening`].
    listening: AtomicU32,
    /// One task for each rule that remembers.
    keepers: Mutex<Keepers>,
    open_connections: AtomicUsize,
    last_closed: Notify,
    stopping: watch::Sender<bool>,
}

struct Keepers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What became of a message.
pub(crate) struct Routed {
    /// The answer to the publisher; `None` while records wait to be safe.
    pub(crate) answer: Option<ReasonCode>,
    /// Clients, and groups, that were handed the message.
    pub(crate) receivers: usize,
    /// Records that found no room: nothing more is read from the publisher until they are taken.
    pub(crate) stalled: Option<Box<Stalled>>,
}

impl Broker {
    /// A broker with these rules. Starts the tasks that wait for what is to happen later: delayed wills, expiring
    /// sessions, delayed messages, expired retained messages, and `$SYS`.
    ///
    /// # Errors
    /// When two rules have one id, or what rules remember can't be kept.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: Config, rules: Vec<RuleBinding>, metrics: Metrics) -> Result<Self, RulesError> {
        Self::start_with_store(config, rules, metrics, Arc::new(Volatile::default()), Recovered::default())
    }

    /// Does as [`Broker::start`], and keeps in `store` what must survive the process: sessions with an expiry, what
    /// waits for them, and retained messages. `recovered` is what it held; all of it is there before the first
    /// connection is served.
    ///
    /// Sessions tell their changes only where [`Limits::record_changes`] is set, in [`Config::limits`] and in the
    /// limits of each listener.
    ///
    /// # Errors
    /// When two rules have one id, or what rules remember can't be kept.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_with_store(
        config: Config,
        rules: Vec<RuleBinding>,
        metrics: Metrics,
        store: Arc<dyn Store>,
        recovered: Recovered,
    ) -> Result<Self, RulesError> {
        let engine = Arc::new(Engine::open(&config.node_name, config.rules.clone())?);
        let pipeline = Pipeline::new(rules, &metrics, &engine, None)?;
        let core = Arc::new(Core {
            metrics,
            store,
            registry: Registry::new(),
            fanout: Fanout::new(config.shared),
            retained: Retained::new(config.retained.clone()),
            delayed: DelayedMessages::new(config.delayed.clone()),
            takes_topics_as_they_are: config.rewrites.is_empty() && config.denied.denies_no_publish(),
            most_online: AtomicI64::new(0),
            config,
            timers: Timers::new(),
            listening: AtomicU32::new(pipeline.listening()),
            pipeline: ArcSwap::from_pointee(pipeline),
            keepers: Mutex::new(Keepers { stop: watch::Sender::new(false), tasks: JoinSet::new() }),
            open_connections: AtomicUsize::new(0),
            last_closed: Notify::new(),
            stopping: watch::Sender::new(false),
        });
        core.restore(recovered);
        core.keep_states();
        spawn_until_stopped(&core, watch_timers(Arc::clone(&core)));
        spawn_until_stopped(&core, Arc::clone(&core).publish_delayed());
        spawn_until_stopped(&core, Arc::clone(&core).sweep_retained());
        if let Some(interval) = core.config.sys_interval {
            spawn_until_stopped(&core, Arc::clone(&core).publish_sys(interval));
        }
        Ok(Self { core })
    }

    /// Replaces all rules at once. A message is handled by the old set or by the new one, never by a mixture. A rule
    /// with the id and text of an old one goes on with what that remembers.
    ///
    /// # Errors
    /// When two rules have one id, or what a rule remembered can't be read; the old set stays.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn replace_rules(&self, rules: Vec<RuleBinding>) -> Result<(), RulesError> {
        let core = &self.core;
        let before = core.pipeline.load_full();
        let pipeline = Pipeline::new(rules, &core.metrics, before.engine(), Some(&before))?;
        core.listening.store(pipeline.listening(), Ordering::Relaxed);
        core.pipeline.store(Arc::new(pipeline));
        core.keep_states();
        Ok(())
    }

    /// Tells rules of something that happened outside the broker, such as an alarm. Nobody waits for what they make of
    /// it: a record that finds no room is dropped and counted.
    pub fn raise(&self, event: &Event<'_>) {
        if self.core.wants(event.kind) {
            self.core.raise(event, &mut RuleWork::default());
        }
    }

    /// Serves connections from `listener` until [`Broker::shutdown`]. Each runs as a task of its own.
    pub async fn serve<L: Listener>(&self, listener: L) {
        self.serve_with(listener, ListenerOptions::default()).await;
    }

    /// Does as [`Broker::serve`], with options for the clients of this listener.
    pub async fn serve_with<L: Listener>(&self, mut listener: L, options: ListenerOptions) {
        let options = Arc::new(options);
        loop {
            tokio::select! {
                accepted = listener.accept() => self.accepted(accepted, &options).await,
                () = self.core.stopped() => return,
            }
        }
    }

    async fn accepted<S>(&self, accepted: io::Result<(S, Peer)>, options: &Arc<ListenerOptions>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        match accepted {
            Ok((stream, peer)) => match OpenConnection::count(&self.core) {
                Some(open) => {
                    let (core, options) = (Arc::clone(&self.core), Arc::clone(options));
                    tokio::spawn(Serve::new(core, options, stream, peer, open));
                }
                None => self.core.metrics.connections_refused.with_label_values(&["max_connections"]).inc(),
            },
            Err(error) => {
                self.core.metrics.accept_errors.inc();
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Stops accepting, lets each conversation settle what is in flight (at most [`Config::drain_timeout`]), tells 5.0
    /// clients, and returns when the last connection is closed and what rules remember is saved. Sessions at rest stay
    /// in memory.
    pub async fn shutdown(&self) {
        self.core.stopping.send_replace(true);
        loop {
            let closed = self.core.last_closed.notified();
            self.core.registry.for_each(|entry| entry.kick(Kick::Shutdown));
            if self.core.open_connections.load(Ordering::Acquire) == 0 {
                break;
            }
            // A connection that had no session yet at the last look is asked again.
            let _ = tokio::time::timeout(Duration::from_millis(100), closed).await;
        }
        let mut tasks = {
            let mut keepers = self.core.keepers.lock();
            keepers.stop.send_replace(true);
            std::mem::take(&mut keepers.tasks)
        };
        while tasks.join_next().await.is_some() {}
        if let Some(files) = self.core.pipeline.load().engine().files() {
            files.release();
        }
    }

    /// How many network connections are open.
    pub fn connections(&self) -> usize {
        self.core.open_connections.load(Ordering::Relaxed)
    }

    /// How many sessions there are, online or at rest.
    pub fn sessions(&self) -> usize {
        self.core.registry.len()
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

/// Counts a connection for as long as it lives.
pub(crate) struct OpenConnection {
    core: Arc<Core>,
}

impl OpenConnection {
    fn count(core: &Arc<Core>) -> Option<Self> {
        let max = core.config.max_connections;
        core.open_connections
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < max).then_some(open + 1))
            .ok()?;
        core.metrics.connections.inc();
        core.metrics.connections_total.inc();
        Some(Self { core: Arc::clone(core) })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.core.metrics.connections.dec();
        if self.core.open_connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.core.last_closed.notify_waiters();
        }
    }
}

impl Core {
    /// A decoder for the first packet of a connection.
    pub(crate) fn decoder(&self) -> Decoder {
        let max_packet_bytes = self.config.limits.max_packet_size.get();
        Decoder::new(tidegate_codec::Limits { max_packet_bytes, ..self.config.decoder_limits })
    }

    pub(crate) async fn stopped(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// The limits of sessions that begin at a listener.
    pub(crate) fn limits<'a>(&'a self, listener: &'a ListenerOptions) -> &'a Arc<Limits> {
        listener.limits.as_ref().unwrap_or(&self.config.limits)
    }

    /// The whole way of one message, and of those that rules make of it: the retained tree, rules and their
    /// destinations, the subscribers.
    pub(crate) fn route(
        &self,
        origin: &Origin<'_>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        work: &mut RuleWork,
        now: Instant,
    ) -> Routed {
        let mut ruled = Ruled::new(origin.settle);
        let clients = self.route_one(origin, topic, publish, Lineage::default(), work, now, &mut ruled);
        self.publish_republished(origin, &mut ruled, work);
        ruled.complete();
        let receivers = match clients {
            Err(refused) => return self.refuse(refused),
            Ok(receivers) => receivers,
        };
        let answer = match (ruled.waits, ruled.selected + receivers) {
            (true, _) => None,
            (false, 0) => Some(ReasonCode::NoMatchingSubscribers),
            (false, _) => Some(ReasonCode::Success),
        };
        Routed { answer, receivers, stalled: ruled.stalled }
    }

    /// Publishes what rules made, and what rules make of that. Ends, because each message has one hop more than the one
    /// that it was made of, and because their number is bounded.
    pub(crate) fn publish_republished(
        &self,
        origin: &Origin<'_>,
        ruled: &mut Ruled<'_>,
        work: &mut RuleWork,
    ) {
        while let Some(Republished { message, lineage }) = ruled.next_republished() {
            // It is no message of the session that published the first one: No Local does not concern it.
            let origin = Origin { entry: None, can_be_refused: false, mount: None, ..*origin };
            let now = now();
            let publish = message.as_publish(now);
            let Ok(topic) = TopicName::parse(publish.topic) else { continue };
            // It can't be refused: what can't be retained is counted.
            let _ = self.route_one(&origin, topic, &publish, lineage, work, now, ruled);
        }
    }

    /// Whether some rule listens to events of that kind: one look at a flag.
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        self.listening.load(Ordering::Relaxed) & 1 << kind as u32 != 0
    }

    /// Whether some rule listens to something else than messages.
    pub(crate) fn wants_any_event(&self) -> bool {
        self.listening.load(Ordering::Relaxed) & !(1 << EventKind::MessagePublish as u32) != 0
    }

    /// Runs the rules that listen to an event. Waits for nothing.
    pub(crate) fn raise(&self, event: &Event<'_>, work: &mut RuleWork) {
        let mut ruled = Ruled::new(None);
        let mut event = *event;
        event.timestamp_ms = wall_clock_ms();
        self.pipeline.load().run_event(&event, work, &mut ruled);
        let origin =
            Origin { username: event.username, peer: event.peer, ..Origin::unattended(event.client_id) };
        self.publish_republished(&origin, &mut ruled, work);
        work.touched.flush();
        if let Some(stalled) = ruled.stalled {
            self.metrics.event_records_dropped.inc_by(stalled.len() as u64);
        }
    }

    /// Hands a message to all who want it and returns how many clients do.
    #[expect(
        clippy::too_many_arguments,
        reason = "a message, where it comes from, and the buffers of the turn"
    )]
    fn route_one(
        &self,
        origin: &Origin<'_>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        lineage: Lineage,
        work: &mut RuleWork,
        now: Instant,
        ruled: &mut Ruled<'_>,
    ) -> Result<usize, Refused> {
        let mut message = None;
        // What an event was republished as is told of no more: no event may cause itself.
        let publisher = (!lineage.is_quiet && self.wants_deliveries()).then(|| {
            let id = work.message_id();
            let username = origin.username.map(Into::into);
            Arc::new(Publisher { client_id: origin.client_id.into(), username, id })
        });
        let outgoing =
            Outgoing { entry: origin.entry, client_id: origin.client_id, topic, publish, publisher };
        if publish.retain {
            let kept = message.insert(outgoing.message(now));
            match self.retained.keep(topic, kept, &*self.store) {
                Ok(commit) => work.commit = work.commit.max(commit),
                Err(not_kept) => {
                    self.metrics.not_retained.with_label_values(&[not_kept.name()]).inc();
                    if origin.can_be_refused && publish.packet_id.is_some() {
                        return Err(Refused::RetainedFull);
                    }
                }
            }
            self.count_retained();
        }
        if origin.is_for_rules {
            self.pipeline.load().run(origin, topic, publish, lineage, work, ruled);
        }
        let taken = self.fanout.deliver(&outgoing, &mut message, now, &self.metrics);
        work.commit = work.commit.max(taken.commit);
        self.metrics.delivered.inc_by(taken.clients as u64);
        self.tell_all_lost(origin, taken.lost, work);
        if taken.clients == 0 && !lineage.is_quiet && self.wants(EventKind::MessageDropped) {
            self.tell_dropped(origin, topic, publish, work);
        }
        Ok(taken.clients)
    }

    /// Starts a task for each rule that remembers, in place of those of the rules before.
    fn keep_states(self: &Arc<Self>) {
        let mut keepers = self.keepers.lock();
        let pipeline = self.pipeline.load_full();
        let old = std::mem::replace(&mut keepers.stop, watch::Sender::new(false));
        old.send_replace(true);
        let mut old_tasks = std::mem::take(&mut keepers.tasks);
        for (position, remembered) in pipeline.remembering() {
            let (core, pipeline, remembered) =
                (Arc::clone(self), Arc::clone(&pipeline), Arc::clone(remembered));
            let stop = keepers.stop.subscribe();
            keepers.tasks.spawn(remembered::keep(core, pipeline, position, remembered, stop));
        }
        // Each ends when it has saved what it left, beside the one that takes over.
        old_tasks.detach_all();
    }

    /// Publishes the will of the client of `entry`. Waits where a destination is full.
    pub(crate) async fn publish_will(&self, entry: &Entry, will: DueWill) {
        let now = now();
        let message = will.into_message(now);
        let origin = Origin::unattended(&entry.client_id).inside(entry.mount.as_ref());
        self.publish(&origin, &message.as_publish(now), now, Resolve::Yes).await;
        // Only now: a restart before it publishes the will again rather than not at all.
        entry.record_own(Change::WillDone);
    }
}

/// Runs a task of the broker's own until it is shut down.
fn spawn_until_stopped(core: &Arc<Core>, task: impl Future<Output = ()> + Send + 'static) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        tokio::select! {
            () = task => {}
            () = core.stopped() => {}
        }
    });
}

/// Publishes delayed wills and ends expired sessions, each when its time comes. Never returns.
async fn watch_timers(core: Arc<Core>) {
    loop {
        let Some(entry) = core.timers.next().await.upgrade() else { continue };
        let (will, expired) = entry.due(now());
        if let Some(rest) = expired {
            core.discard(&entry, &rest.session);
        }
        if let Some(will) = will {
            let core = Arc::clone(&core);
            // A full destination holds this will up, not the other timers.
            tokio::spawn(async move { core.publish_will(&entry, will).await });
        }
    }
}

/// The clock of the runtime, so that a test can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
