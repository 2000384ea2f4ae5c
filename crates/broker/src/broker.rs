//! The broker: what all connections share, and the handle that an embedder holds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tidegate_codec::{Decoder, Publish, ReasonCode};
use tidegate_rules::DuplicateRuleId;
use tidegate_session::{DueWill, Message};
use tidegate_topic::TopicName;
use tokio::sync::{Notify, watch};

use crate::config::Config;
use crate::connection;
use crate::entry::{Entry, Kick};
use crate::fanout::Fanout;
use crate::listener::{ACCEPT_PAUSE, Listener, Peer};
use crate::metrics::Metrics;
use crate::pipeline::{Origin, Pipeline, RuleBinding, Stalled};
use crate::registry::Registry;
use crate::timers::Timers;
use crate::turn::RuleWork;

/// An MQTT broker. Cheap to clone; all clones are one broker.
///
/// It builds no runtime: its methods spawn onto the tokio runtime that they are called in.
#[derive(Clone)]
pub struct Broker {
    core: Arc<Core>,
}

/// What all connections share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) registry: Registry,
    pub(crate) fanout: Fanout,
    pub(crate) timers: Timers,
    pipeline: ArcSwap<Pipeline>,
    open_connections: AtomicUsize,
    last_closed: Notify,
    stopping: watch::Sender<bool>,
}

/// What became of a message.
pub(crate) struct Routed {
    /// The answer to the publisher; `None` while records wait to be safe.
    pub(crate) answer: Option<ReasonCode>,
    /// Records that found no room: nothing more is read from the publisher until they are taken.
    pub(crate) stalled: Option<Box<Stalled>>,
}

impl Broker {
    /// A broker with these rules. Starts the task that watches over delayed wills and expiring sessions.
    ///
    /// # Errors
    /// When two rules have one id.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: Config, rules: Vec<RuleBinding>, metrics: Metrics) -> Result<Self, DuplicateRuleId> {
        let pipeline = Pipeline::new(rules, &metrics)?;
        let core = Arc::new(Core {
            config,
            metrics,
            registry: Registry::new(),
            fanout: Fanout::new(),
            timers: Timers::new(),
            pipeline: ArcSwap::from_pointee(pipeline),
            open_connections: AtomicUsize::new(0),
            last_closed: Notify::new(),
            stopping: watch::Sender::new(false),
        });
        tokio::spawn(watch_timers(Arc::clone(&core)));
        Ok(Self { core })
    }

    /// Replaces all rules at once. A message is handled by the old set or by the new one, never by a mixture.
    ///
    /// # Errors
    /// When two rules have one id; the old set stays.
    pub fn replace_rules(&self, rules: Vec<RuleBinding>) -> Result<(), DuplicateRuleId> {
        let pipeline = Pipeline::new(rules, &self.core.metrics)?;
        self.core.pipeline.store(Arc::new(pipeline));
        Ok(())
    }

    /// Serves connections from `listener` until [`Broker::shutdown`]. Each runs as a task of its own.
    pub async fn serve<L: Listener>(&self, mut listener: L) {
        loop {
            tokio::select! {
                accepted = listener.accept() => self.accepted(accepted).await,
                () = self.core.stopped() => return,
            }
        }
    }

    async fn accepted<S>(&self, accepted: io::Result<(S, Peer)>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        match accepted {
            Ok((stream, peer)) => match OpenConnection::count(&self.core) {
                Some(open) => {
                    tokio::spawn(async move {
                        connection::serve(Arc::clone(&open.core), stream, peer).await;
                        drop(open);
                    });
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
    /// clients, and returns when the last connection is closed. Sessions at rest stay in memory.
    pub async fn shutdown(&self) {
        self.core.stopping.send_replace(true);
        loop {
            let closed = self.core.last_closed.notified();
            self.core.registry.for_each(|entry| entry.kick(Kick::Shutdown));
            if self.core.open_connections.load(Ordering::Acquire) == 0 {
                return;
            }
            // A connection that had no session yet at the last look is asked again.
            let _ = tokio::time::timeout(Duration::from_millis(100), closed).await;
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
struct OpenConnection {
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

    /// The whole way of one message: rules and their destinations, the retained tree, the subscribers.
    pub(crate) fn route(
        &self,
        origin: &Origin<'_>,
        entry: Option<&Arc<Entry>>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        work: &mut RuleWork,
        now: Instant,
    ) -> Routed {
        self.metrics.received[publish.qos as usize].inc();
        let ruled = self.pipeline.load().run(origin, publish, wall_clock_ms(), work);
        let mut message = None;
        if publish.retain {
            let kept = message.insert(Arc::new(Message::from_publish(topic.as_str(), publish, now)));
            self.fanout.retain(topic, kept, &self.metrics);
        }
        let clients = self.fanout.deliver(entry, topic, publish, &mut message, now, &self.metrics);
        self.metrics.delivered.inc_by(clients as u64);
        let answer = match (ruled.waits, ruled.selected + clients) {
            (true, _) => None,
            (false, 0) => Some(ReasonCode::NoMatchingSubscribers),
            (false, _) => Some(ReasonCode::Success),
        };
        Routed { answer, stalled: ruled.stalled }
    }

    /// Publishes a will. Waits where a destination is full.
    pub(crate) async fn publish_will(&self, client_id: &str, will: DueWill) {
        let now = now();
        let message = will.into_message(now);
        let stalled = {
            let publish = message.as_publish(now);
            let Ok(topic) = TopicName::parse(publish.topic) else { return };
            let mut work = RuleWork::default();
            let origin = Origin { client_id, username: None, peer: None, settle: None };
            let routed = self.route(&origin, None, topic, &publish, &mut work, now);
            work.touched.flush();
            routed.stalled
        };
        if let Some(mut stalled) = stalled {
            std::future::poll_fn(|cx| stalled.poll(cx)).await;
        }
    }
}

/// Publishes delayed wills and ends expired sessions, each when its time comes.
async fn watch_timers(core: Arc<Core>) {
    loop {
        let entry = tokio::select! {
            entry = core.timers.next() => entry,
            () = core.stopped() => return,
        };
        let (will, expired) = entry.due(now());
        if let Some(rest) = expired {
            core.discard(&entry, &rest.session);
        }
        if let Some(will) = will {
            let core = Arc::clone(&core);
            // A full destination holds this will up, not the other timers.
            tokio::spawn(async move { core.publish_will(&entry.client_id, will).await });
        }
    }
}

/// The clock of the runtime, so that a test can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Milliseconds since the Unix epoch.
fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
