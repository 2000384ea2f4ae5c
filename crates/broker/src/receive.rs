//! What happens to a message of a client before it is routed: delays, rewrites, denials, mountpoints.
//!
//! The usual message passes [`Core::receive`] with a few comparisons; everything else is out of its way.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_codec::{Publish, ReasonCode};
use tidegate_session::Message;
use tidegate_topic::TopicName;

use crate::broker::{Core, Routed};
use crate::delayed::{self, Delayed};
use crate::mount::Mountpoint;
use crate::pipeline::Origin;
use crate::rewrite::{RewriteScope, Rewritten, rewrite};
use crate::turn::RuleWork;

/// Why a message is handed to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The deny list has it.
    Denied,
    /// Its topic is for the broker alone.
    Reserved,
    /// A delay that is none, or a topic that is none behind it, after rewriting, or in its mountpoint.
    TopicInvalid,
    /// As many messages as may wait do so, or it would wait for too long.
    DelayedFull,
    /// It can't be retained, and its publisher can be told.
    RetainedFull,
}

impl Refused {
    /// The label of the counter.
    fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Reserved => "reserved",
            Self::TopicInvalid => "topic_invalid",
            Self::DelayedFull => "delayed_full",
            Self::RetainedFull => "retained_full",
        }
    }
}

/// A message's topic after everything that changes it.
struct Resolved<'t> {
    topic: Cow<'t, str>,
    delay: Option<Duration>,
}

impl Core {
    /// Takes a message as its client published it: the whole way to rules and subscribers, or to wait for its time,
    /// or back to its publisher.
    pub(crate) fn receive(
        &self,
        origin: &Origin<'_>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        work: &mut RuleWork,
        now: Instant,
    ) -> Routed {
        if self.takes_topics_as_they_are && origin.mount.is_none() && !topic.is_reserved() {
            return self.route(origin, topic, publish, work, now);
        }
        let resolved = match self.resolve(origin, topic) {
            Ok(resolved) => resolved,
            Err(refused) => return self.refuse(refused),
        };
        let Ok(topic) = TopicName::parse(&resolved.topic) else { return self.refuse(Refused::TopicInvalid) };
        let publish = Publish { topic: topic.as_str(), ..publish.clone() };
        match resolved.delay {
            None => self.route(origin, topic, &publish, work, now),
            Some(delay) => self.delay(origin, topic, &publish, delay, now),
        }
    }

    /// The answer to a message that is handed to nobody.
    pub(crate) fn refuse(&self, refused: Refused) -> Routed {
        self.metrics.refused.with_label_values(&[refused.name()]).inc();
        let reason = match refused {
            Refused::Denied => self.config.denied.reason(),
            Refused::Reserved => ReasonCode::NotAuthorized,
            Refused::TopicInvalid => ReasonCode::TopicNameInvalid,
            Refused::DelayedFull | Refused::RetainedFull => ReasonCode::QuotaExceeded,
        };
        Routed { answer: Some(reason), receivers: 0, stalled: None }
    }

    fn resolve<'t>(&self, origin: &Origin<'_>, topic: TopicName<'t>) -> Result<Resolved<'t>, Refused> {
        let mut text = topic.as_str();
        let mut delay = None;
        if text.starts_with(delayed::PREFIX) {
            let (after, rest) = delayed::split(text).ok_or(Refused::TopicInvalid)?;
            delay = Some(after);
            text = rest;
        }
        let mut text = Cow::Borrowed(text);
        let inside = TopicName::parse(&text).map_err(|_| Refused::TopicInvalid)?;
        match rewrite(&self.config.rewrites, RewriteScope::Publish, inside.into(), origin.client_id) {
            Rewritten::Same => {}
            Rewritten::To(rewritten) => text = Cow::Owned(rewritten),
            Rewritten::Impossible => return Err(Refused::TopicInvalid),
        }
        let inside = TopicName::parse(&text).map_err(|_| Refused::TopicInvalid)?;
        if text == "$SYS" || text.starts_with("$SYS/") {
            return Err(Refused::Reserved);
        }
        if self.config.denied.denies_publish(inside) {
            return Err(Refused::Denied);
        }
        if let Some(mount) = origin.mount {
            // In front of a mountpoint `$` would hide the topic no more ([MQTT5-4.7.2-1]).
            if inside.is_reserved() {
                return Err(Refused::Reserved);
            }
            text = Cow::Owned(mount.outside(&text));
        }
        Ok(Resolved { topic: text, delay })
    }

    fn delay(
        &self,
        origin: &Origin<'_>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        delay: Duration,
        now: Instant,
    ) -> Routed {
        let delayed = Delayed {
            message: Arc::new(Message::from_publish(topic.as_str(), publish, now)),
            client_id: origin.client_id.into(),
            username: origin.username.map(Into::into),
        };
        if self.delayed.add(delayed, delay, now).is_err() {
            return self.refuse(Refused::DelayedFull);
        }
        self.metrics.delayed.inc();
        Routed { answer: Some(ReasonCode::Success), receivers: 0, stalled: None }
    }

    /// Publishes delayed messages, each when its time comes. Never returns.
    pub(crate) async fn publish_delayed(self: Arc<Self>) {
        loop {
            let Delayed { message, client_id, username } = self.delayed.next().await;
            self.metrics.delayed.dec();
            let now = crate::broker::now();
            if message.is_expired(now) {
                self.metrics.dropped.with_label_values(&["expired"]).inc();
                continue;
            }
            // Behind its mountpoint already.
            let origin = Origin { username: username.as_deref(), ..Origin::unattended(&client_id) };
            self.publish(&origin, &message.as_publish(now), now, Resolve::No).await;
        }
    }

    /// Publishes a message that no connection waits for. Waits where a destination is full.
    pub(crate) async fn publish(
        &self,
        origin: &Origin<'_>,
        publish: &Publish<'_>,
        now: Instant,
        resolve: Resolve,
    ) {
        let stalled = {
            let Ok(topic) = TopicName::parse(publish.topic) else { return };
            let mut work = RuleWork::default();
            let routed = match resolve {
                Resolve::Yes => self.receive(origin, topic, publish, &mut work, now),
                Resolve::No => self.route(origin, topic, publish, &mut work, now),
            };
            work.touched.flush();
            routed.stalled
        };
        if let Some(mut stalled) = stalled {
            std::future::poll_fn(|cx| stalled.poll(cx)).await;
        }
    }
}

/// Whether a message's topic is as a client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolve {
    Yes,
    No,
}

impl<'a> Origin<'a> {
    /// A client that waits for no answer: it is gone, or got one before.
    pub(crate) fn unattended(client_id: &'a str) -> Self {
        Self {
            client_id,
            username: None,
            peer: None,
            settle: None,
            entry: None,
            mount: None,
            can_be_refused: false,
            is_for_rules: true,
        }
    }

    /// The same in a mountpoint.
    pub(crate) fn inside(self, mount: Option<&'a Mountpoint>) -> Self {
        Self { mount, ..self }
    }
}
