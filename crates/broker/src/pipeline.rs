//! From a message to the records of the rules that select it. The one place where the vocabularies of MQTT, of rules
//! and of sinks are converted into each other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tidegate_codec::{Publish, PublishProperties};
use tidegate_rules::{
    CompileError, DuplicateRuleId, Event, Missing, Outcome, Properties, Property, Rendered, Row, Rule,
    RuleSet, Template,
};
use tidegate_session::Token;
use tidegate_sink::{Ack, Feed, Offer, OwnedRecord, Record, Settle};

use crate::entry::Entry;
use crate::joint::Joint;
use crate::metrics::{Metrics, RuleMetrics};
use crate::mount::Mountpoint;
use crate::turn::RuleWork;

/// When a QoS 1 or 2 message that a rule selects is acknowledged to its publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckMode {
    /// When every output of the rule says that its record is safe: for Kafka, in the in-sync replicas.
    Delivered,
    /// As soon as it is decoded: a record that is lost afterwards is lost.
    Received,
}

/// A rule and where its rows go.
#[derive(Debug)]
pub struct RuleBinding {
    /// The compiled rule.
    pub rule: Rule,
    /// When its messages are acknowledged.
    pub ack: AckMode,
    /// Where each of its rows goes.
    pub outputs: Vec<Output>,
}

/// A destination of a rule's rows, and how a row becomes a record.
pub struct Output {
    /// The destination.
    pub feed: Arc<dyn Feed>,
    /// The destination's topic. A row that lacks a column which it names fails.
    pub topic: Template,
    /// The record's key; `None` is the publisher's client id.
    pub key: Option<Template>,
    /// The record's value; `None` is the payload where the row has it, and otherwise the whole row as JSON.
    pub value: Option<Template>,
    /// Further headers.
    pub headers: Vec<(String, Template)>,
    /// Whether the MQTT topic, client id, QoS and the user properties become headers.
    pub default_headers: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("topic", &self.topic).field("key", &self.key).finish_non_exhaustive()
    }
}

/// All rules of a broker. Immutable: a reload replaces it whole.
pub(crate) struct Pipeline {
    rules: RuleSet,
    bindings: Vec<Bound>,
}

struct Bound {
    ack: AckMode,
    outputs: Vec<Output>,
    metrics: RuleMetrics,
}

/// Where a message comes from.
pub(crate) struct Origin<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) username: Option<&'a str>,
    pub(crate) peer: Option<SocketAddr>,
    /// Whom to tell when its records are settled; `None` where nobody waits.
    pub(crate) settle: Option<(&'a Arc<dyn Settle>, Token)>,
    /// The session that published it, if there still is one.
    pub(crate) entry: Option<&'a Arc<Entry>>,
    /// The name space of the topic; `None` where it is the one of all.
    pub(crate) mount: Option<&'a Mountpoint>,
    /// Whether the publisher's version has a word for a message that is not accepted.
    pub(crate) can_be_refused: bool,
    /// Whether rules see the message.
    pub(crate) is_for_rules: bool,
}

/// What the rules made of a message.
#[derive(Default)]
pub(crate) struct Ruled {
    /// Rules that selected it.
    pub(crate) selected: usize,
    /// Whether the publisher's acknowledgement waits for records.
    pub(crate) waits: bool,
    /// Records that found no room.
    pub(crate) stalled: Option<Box<Stalled>>,
}

impl Pipeline {
    pub(crate) fn new(bindings: Vec<RuleBinding>, metrics: &Metrics) -> Result<Self, DuplicateRuleId> {
        let mut rules = Vec::with_capacity(bindings.len());
        let mut bound = Vec::with_capacity(bindings.len());
        for RuleBinding { rule, ack, mut outputs } in bindings {
            for output in &mut outputs {
                output.value.get_or_insert_with(|| default_value(&rule));
            }
            bound.push(Bound { ack, outputs, metrics: metrics.rule(rule.id()) });
            rules.push(rule);
        }
        Ok(Self { rules: RuleSet::new(rules)?, bindings: bound })
    }

    /// Runs every rule that the topic selects and offers what they make to their destinations.
    pub(crate) fn run(
        &self,
        origin: &Origin<'_>,
        publish: &Publish<'_>,
        timestamp_ms: i64,
        work: &mut RuleWork,
    ) -> Ruled {
        let mut ruled = Ruled::default();
        let mut matched = std::mem::take(&mut work.matched);
        matched.clear();
        self.rules.for_each_match(publish.topic, |position, _| matched.push(position));
        if !matched.is_empty() {
            self.run_matched(&matched, origin, publish, timestamp_ms, work, &mut ruled);
        }
        work.matched = matched;
        ruled
    }

    fn run_matched(
        &self,
        matched: &[usize],
        origin: &Origin<'_>,
        publish: &Publish<'_>,
        timestamp_ms: i64,
        work: &mut RuleWork,
        ruled: &mut Ruled,
    ) {
        let properties = MessageProperties(&publish.properties);
        let mut event = Event::publish(publish.topic, origin.client_id, publish.payload);
        event.username = origin.username;
        event.qos = publish.qos as u8;
        event.retain = publish.retain;
        event.dup = publish.dup;
        event.timestamp_ms = timestamp_ms;
        event.id = work.message_id(timestamp_ms);
        event.peer = origin.peer;
        event.properties = Some(&properties);
        let mut acks = Acks { settle: origin.settle, joint: None, only: matched.len() == 1 };
        let mut scratch = std::mem::take(&mut work.scratch);
        let mut evaluator = scratch.start(&event);
        for &position in matched {
            let Some((rule, bound)) = self.rules.get(position).zip(self.bindings.get(position)) else {
                continue;
            };
            match rule.evaluate(&mut evaluator) {
                Err(_) => bound.metrics.failed.inc(),
                Ok(Outcome::Filtered) => bound.metrics.no_match.inc(),
                Ok(Outcome::Rows(rows)) => {
                    bound.metrics.passed.inc();
                    ruled.selected += 1;
                    acks.only &= rows.len() * bound.outputs.len() == 1;
                    for row in rows.iter() {
                        for output in &bound.outputs {
                            bound.offer(output, row, publish, origin, timestamp_ms, &mut acks, work, ruled);
                        }
                    }
                }
            }
        }
        if let Some(joint) = acks.joint {
            joint.complete();
        }
        work.scratch = scratch;
    }
}

impl Bound {
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct for it would be a context by another name"
    )]
    fn offer(
        &self,
        output: &Output,
        row: &Row<'_>,
        publish: &Publish<'_>,
        origin: &Origin<'_>,
        timestamp_ms: i64,
        acks: &mut Acks<'_>,
        work: &mut RuleWork,
        ruled: &mut Ruled,
    ) {
        let RuleWork { topic, key, value, headers: rendered, touched, .. } = work;
        topic.clear();
        let destination = match output.topic.literal() {
            Some(literal) => literal,
            None => {
                match output.topic.render(row, Missing::Refuse, topic).map(|()| std::str::from_utf8(topic)) {
                    Ok(Ok(name)) => name,
                    _ => return self.metrics.failed.inc(),
                }
            }
        };
        let key = match &output.key {
            None => Some(origin.client_id.as_bytes()),
            Some(template) => bytes_of(template.render_value(row, cleared(key))),
        };
        let value =
            output.value.as_ref().and_then(|template| bytes_of(template.render_value(row, cleared(value))));
        rendered.resize_with(output.headers.len(), Vec::new);
        let mut headers: SmallVec<[Header<'_>; INLINE_HEADERS]> = SmallVec::new();
        if output.default_headers {
            headers.push(("mqtt.topic", Some(publish.topic.as_bytes())));
            headers.push(("mqtt.client_id", Some(origin.client_id.as_bytes())));
            headers.push(("mqtt.qos", Some(QOS_DIGITS[publish.qos as usize])));
            for (name, value) in &publish.properties.user_properties {
                headers.push((name, Some(value.as_bytes())));
            }
        }
        for ((name, template), buffer) in output.headers.iter().zip(rendered.iter_mut()) {
            headers.push((name, bytes_of(template.render_value(row, cleared(buffer)))));
        }
        let record =
            Record { topic: destination, key, value, headers: &headers, timestamp_ms, partition: None };
        let ack = match self.ack {
            AckMode::Delivered => acks.next(),
            AckMode::Received => None,
        };
        ruled.waits |= ack.is_some();
        // Behind a record that found no room nothing overtakes.
        if let Some(stalled) = &mut ruled.stalled {
            stalled.push(&output.feed, &record, ack);
            return;
        }
        match output.feed.offer(&record, ack) {
            Offer::Taken => touched.add(&output.feed),
            Offer::Full(ack) => {
                ruled.stalled.get_or_insert_default().push(&output.feed, &record, ack);
            }
        }
    }
}

/// Name and value of a record's header.
type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Headers of one record that are collected without memory of their own.
const INLINE_HEADERS: usize = 8;

const QOS_DIGITS: [&[u8]; 3] = [b"0", b"1", b"2"];

fn cleared(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
    buffer.clear();
    buffer
}

fn bytes_of(rendered: Rendered<'_>) -> Option<&[u8]> {
    match rendered {
        Rendered::Bytes(bytes) => Some(bytes),
        Rendered::Undefined | Rendered::Null => None,
    }
}

/// What a record carries where nobody said: the payload as it came if the rule passes it through, else the row.
fn default_value(rule: &Rule) -> Template {
    let has_payload = rule.columns().is_none_or(|mut columns| columns.any(|column| column == "payload"));
    compiled(Template::compile(if has_payload { "${payload}" } else { "${.}" }))
}

fn compiled(template: Result<Template, CompileError>) -> Template {
    template.expect("both defaults are templates")
}

/// Makes the acknowledgements of a message's records: a plain one where there is one record, else parts of a joint one.
struct Acks<'a> {
    settle: Option<(&'a Arc<dyn Settle>, Token)>,
    joint: Option<Arc<Joint>>,
    only: bool,
}

impl Acks<'_> {
    fn next(&mut self) -> Option<Ack> {
        let (settle, token) = self.settle?;
        if self.only {
            return Some(Ack::new(Arc::clone(settle), token.into()));
        }
        Some(self.joint.get_or_insert_with(|| Joint::new(Arc::clone(settle), token.into())).ack())
    }
}

/// Records that a full destination gave back, in order, until it has room.
#[derive(Default)]
pub(crate) struct Stalled {
    returned: VecDeque<(Arc<dyn Feed>, OwnedRecord, Option<Ack>)>,
}

impl Stalled {
    fn push(&mut self, feed: &Arc<dyn Feed>, record: &Record<'_>, ack: Option<Ack>) {
        self.returned.push_back((Arc::clone(feed), OwnedRecord::from(record), ack));
    }

    /// Offers the records again as room returns. Ready when all are taken.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((feed, record, ack)) = self.returned.front_mut() {
            let ack_again = ack.take();
            match record.with_borrowed(|record| feed.offer(record, ack_again)) {
                Offer::Taken => {
                    feed.flush();
                    self.returned.pop_front();
                }
                Offer::Full(returned) => {
                    *ack = returned;
                    if feed.poll_room(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // Others may be quicker again: come back, but let them run first.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}

/// A message's properties as rules read them.
#[derive(Debug)]
struct MessageProperties<'a>(&'a PublishProperties<'a>);

impl Properties for MessageProperties<'_> {
    fn visit<'s>(&'s self, each: &mut dyn FnMut(Property<'s>)) {
        let properties = self.0;
        if let Some(is_utf8) = properties.payload_is_utf8 {
            each(Property::PayloadFormatIndicator(is_utf8.into()));
        }
        if let Some(seconds) = properties.message_expiry_interval {
            each(Property::MessageExpiryInterval(seconds));
        }
        if let Some(content_type) = properties.content_type {
            each(Property::ContentType(content_type));
        }
        if let Some(topic) = properties.response_topic {
            each(Property::ResponseTopic(topic));
        }
        if let Some(data) = properties.correlation_data {
            each(Property::CorrelationData(data));
        }
        for (name, value) in &properties.user_properties {
            each(Property::User(name, value));
        }
    }
}
