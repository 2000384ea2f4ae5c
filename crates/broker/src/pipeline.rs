//! From a message to the records of the rules that select it. The one place where the vocabularies of MQTT, of rules
//! and of sinks are converted into each other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use smallvec::SmallVec;
use tidegate_codec::{Publish, PublishProperties};
use tidegate_rules::{
    CompileError, Event, EventKind, Missing, Outcome, Properties, Property, Rendered, Row, Rule, RuleSet,
    Template,
};
use tidegate_session::{Message, Token};
use tidegate_sink::{Ack, Feed, Offer, OwnedRecord, Record, Rejection, Settle};
use tidegate_topic::TopicName;

use crate::engine::{Engine, RulesError};
use crate::entry::Entry;
use crate::joint::Joint;
use crate::metrics::{Metrics, RuleMetrics};
use crate::mount::Mountpoint;
use crate::remembered::Remembered;
use crate::republish::{MAX_HOPS, MAX_REPUBLISHED, Republish};
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
    /// Messages that each of its rows becomes.
    pub republishes: Vec<Republish>,
}

/// A destination of a rule's rows, and how a row becomes a record.
pub struct Output {
    /// The destination.
    pub feed: Arc<dyn Feed>,
    /// The destination's topic. A row that lacks a column which it names fails.
    pub topic: Template,
    /// The record's key; `None` is the client id of the event, where it has one.
    pub key: Option<Template>,
    /// The record's value; `None` is the payload where every row has it, and otherwise the whole row as JSON.
    pub value: Option<Template>,
    /// Further headers.
    pub headers: Vec<(String, Template)>,
    /// Whether the MQTT topic, client id, QoS and the user properties become headers, and the name of the event where
    /// the rule reads others than messages.
    pub default_headers: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("topic", &self.topic).field("key", &self.key).finish_non_exhaustive()
    }
}

/// All rules of a broker. Immutable, but for what rules remember: a reload replaces it whole.
pub(crate) struct Pipeline {
    rules: RuleSet,
    bindings: Vec<Bound>,
    engine: Arc<Engine>,
}

struct Bound {
    ack: AckMode,
    outputs: Vec<Output>,
    republishes: Vec<Republish>,
    metrics: RuleMetrics,
    /// Of a rule that remembers. The others take no lock.
    remembered: Option<Arc<Remembered>>,
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

/// What the rules made of a message, and of what it was republished as.
pub(crate) struct Ruled<'a> {
    /// Rules that selected it.
    pub(crate) selected: usize,
    /// Whether the publisher's acknowledgement waits for records.
    pub(crate) waits: bool,
    /// Records that found no room.
    pub(crate) stalled: Option<Box<Stalled>>,
    /// Messages that rules made and nobody has published yet.
    republished: VecDeque<Republished>,
    /// How many there were.
    republished_ever: usize,
    acks: Acks<'a>,
}

/// A message that a rule made.
pub(crate) struct Republished {
    pub(crate) message: Arc<Message>,
    pub(crate) lineage: Lineage,
}

/// How a message came to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// Rules that republished it, one after the other.
    pub(crate) hops: u8,
    /// It began with an event that was no message: it causes no further events, so that none can cause itself.
    pub(crate) is_quiet: bool,
}

impl<'a> Ruled<'a> {
    /// Nothing yet. Whoever `settle` names waits for what the rules make.
    pub(crate) fn new(settle: Option<(&'a Arc<dyn Settle>, Token)>) -> Self {
        Self {
            selected: 0,
            waits: false,
            stalled: None,
            republished: VecDeque::new(),
            republished_ever: 0,
            acks: Acks { settle, joint: None, only: true },
        }
    }

    /// The next message to publish.
    pub(crate) fn next_republished(&mut self) -> Option<Republished> {
        self.republished.pop_front()
    }

    /// Nothing more is made of the message.
    pub(crate) fn complete(&mut self) {
        if let Some(joint) = self.acks.joint.take() {
            joint.complete();
        }
    }
}

impl Pipeline {
    /// The rules with their destinations. What rules of `before` remember goes on in those that have the same id and
    /// text.
    pub(crate) fn new(
        bindings: Vec<RuleBinding>,
        metrics: &Metrics,
        engine: &Arc<Engine>,
        before: Option<&Self>,
    ) -> Result<Self, RulesError> {
        let mut rules = Vec::with_capacity(bindings.len());
        let mut bound = Vec::with_capacity(bindings.len());
        for RuleBinding { rule, ack, mut outputs, mut republishes } in bindings {
            for output in &mut outputs {
                output.value.get_or_insert_with(|| default_value(&rule));
            }
            for republish in &mut republishes {
                republish.payload.get_or_insert_with(|| default_value(&rule));
            }
            let remembered = match before.and_then(|before| before.remembered_by(&rule)) {
                Some(remembered) => Some(remembered),
                None if rule.is_stateful() => Some(Arc::new(Remembered::open(&rule, engine)?)),
                None => None,
            };
            let metrics = metrics.rule(rule.id());
            bound.push(Bound { ack, outputs, republishes, metrics, remembered });
            rules.push(rule);
        }
        Ok(Self { rules: RuleSet::new(rules)?, bindings: bound, engine: Arc::clone(engine) })
    }

    fn remembered_by(&self, rule: &Rule) -> Option<Arc<Remembered>> {
        let known = self.rules.iter().position(|known| known.id() == rule.id() && known.sql() == rule.sql());
        self.bindings.get(known?)?.remembered.clone()
    }

    /// The positions of the rules that remember, with what they do.
    pub(crate) fn remembering(&self) -> impl Iterator<Item = (usize, &Arc<Remembered>)> {
        self.bindings.iter().enumerate().filter_map(|(at, bound)| Some((at, bound.remembered.as_ref()?)))
    }

    pub(crate) fn rule(&self, position: usize) -> Option<&Rule> {
        self.rules.get(position)
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Which kinds of events some rule listens to: bit by bit, in the order of [`EventKind`].
    pub(crate) fn listening(&self) -> u32 {
        let listened = EventKind::ALL.into_iter().filter(|kind| self.rules.listens(*kind));
        listened.fold(0, |mask, kind| mask | 1 << kind as u32)
    }

    /// Runs every rule that the topic selects and offers what they make to their destinations.
    pub(crate) fn run(
        &self,
        origin: &Origin<'_>,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        lineage: Lineage,
        work: &mut RuleWork,
        ruled: &mut Ruled<'_>,
    ) {
        let mut matched = std::mem::take(&mut work.matched);
        matched.clear();
        self.rules.for_each_match(topic, |position, _| matched.push(position));
        if !matched.is_empty() {
            let properties = MessageProperties(&publish.properties);
            let mut event = Event::publish(topic.as_str(), origin.client_id, publish.payload);
            event.username = origin.username;
            event.qos = publish.qos as u8;
            event.retain = publish.retain;
            event.dup = publish.dup;
            event.timestamp_ms = work.timestamp_ms();
            event.id = work.message_id();
            event.peer = origin.peer;
            event.node = self.engine.node();
            event.properties = Some(&properties);
            self.evaluate(&matched, &event, lineage, work, ruled);
        }
        work.matched = matched;
    }

    /// Runs every rule that listens to events of that kind. Nobody waits for what they make.
    pub(crate) fn run_event(&self, event: &Event<'_>, work: &mut RuleWork, ruled: &mut Ruled<'_>) {
        let mut matched = std::mem::take(&mut work.matched);
        matched.clear();
        let mut event = *event;
        event.node = self.engine.node();
        self.rules.for_each_reader(&event, |position, _| matched.push(position));
        self.evaluate(&matched, &event, Lineage { hops: 0, is_quiet: true }, work, ruled);
        work.matched = matched;
    }

    fn evaluate(
        &self,
        matched: &[usize],
        event: &Event<'_>,
        lineage: Lineage,
        work: &mut RuleWork,
        ruled: &mut Ruled<'_>,
    ) {
        ruled.acks.only &= matched.len() == 1;
        let mut scratch = work.take_scratch(&self.engine);
        let mut evaluator = scratch.start(event);
        for &position in matched {
            let Some((rule, bound)) = self.rules.get(position).zip(self.bindings.get(position)) else {
                continue;
            };
            bound.metrics.matched.inc();
            let started = work.is_measured().then(Instant::now);
            let outcome = match &bound.remembered {
                None => rule.evaluate(&mut evaluator),
                Some(remembered) => {
                    ruled.acks.only &= !rule.has_window();
                    let wait = || (bound.ack == AckMode::Delivered).then(|| ruled.ack()).flatten();
                    remembered.evaluate(rule, &mut evaluator, wait)
                }
            };
            if let Some(started) = started {
                bound.metrics.evaluation.observe(started.elapsed().as_secs_f64());
            }
            match outcome {
                Err(error) => bound.metrics.count_failure(error.kind.reason()),
                Ok(Outcome::Filtered) => bound.metrics.no_match.inc(),
                Ok(Outcome::Rows(rows)) => {
                    bound.metrics.passed.inc();
                    ruled.selected += 1;
                    let records = rows.len() * bound.outputs.len();
                    ruled.acks.only &= records == 1 && bound.republishes.is_empty();
                    for row in rows.iter() {
                        bound.emit(row, lineage, work, ruled);
                    }
                }
            }
        }
        work.put_scratch(scratch);
    }

    /// Offers a row that the rule at `position` made without a message: of a window that closed.
    pub(crate) fn emit(&self, position: usize, row: &Row<'_>, work: &mut RuleWork, ruled: &mut Ruled<'_>) {
        if let Some(bound) = self.bindings.get(position) {
            ruled.acks.only = false;
            bound.emit(row, Lineage::default(), work, ruled);
        }
    }

    /// Counts a failure of the rule at `position`.
    pub(crate) fn count_failure(&self, position: usize, reason: &str) {
        if let Some(bound) = self.bindings.get(position) {
            bound.metrics.count_failure(reason);
        }
    }
}

impl Bound {
    fn emit(&self, row: &Row<'_>, lineage: Lineage, work: &mut RuleWork, ruled: &mut Ruled<'_>) {
        for output in &self.outputs {
            self.offer(output, row, work, ruled);
        }
        for republish in &self.republishes {
            if let Err(reason) = make_message(republish, row, lineage, work, ruled) {
                self.metrics.count_failure(reason);
            }
        }
    }

    fn offer(&self, output: &Output, row: &Row<'_>, work: &mut RuleWork, ruled: &mut Ruled<'_>) {
        let event = row.event();
        let RuleWork { topic, key, value, headers: rendered, touched, .. } = work;
        topic.clear();
        let (destination, unmade) = if let Some(literal) = output.topic.literal() {
            (literal, None)
        } else if let Ok(Ok(name)) =
            output.topic.render(row, Missing::Refuse, topic).map(|()| std::str::from_utf8(topic))
        {
            (name, None)
        } else {
            // It has nowhere to go, which its publisher and the destination's dead letters hear.
            self.metrics.count_failure("no_topic");
            (output.topic.text(), Some(Rejection::IllegalTopic))
        };
        let key = match &output.key {
            None => Some(event.client_id.as_bytes()).filter(|client_id| !client_id.is_empty()),
            Some(template) => bytes_of(template.render_value(row, cleared(key))),
        };
        let value =
            output.value.as_ref().and_then(|template| bytes_of(template.render_value(row, cleared(value))));
        rendered.resize_with(output.headers.len(), Vec::new);
        let mut headers: SmallVec<[Header<'_>; INLINE_HEADERS]> = SmallVec::new();
        if output.default_headers {
            add_default_headers(event, &mut headers);
        }
        for ((name, template), buffer) in output.headers.iter().zip(rendered.iter_mut()) {
            headers.push((name, bytes_of(template.render_value(row, cleared(buffer)))));
        }
        let record = Record {
            topic: destination,
            key,
            value,
            headers: &headers,
            timestamp_ms: event.timestamp_ms,
            partition: None,
        };
        let ack = match self.ack {
            AckMode::Delivered => ruled.ack(),
            AckMode::Received => None,
        };
        // Behind a record that found no room nothing overtakes.
        if let Some(stalled) = &mut ruled.stalled {
            stalled.push(&output.feed, &record, ack, unmade);
            return;
        }
        match hand_over(&*output.feed, &record, ack, unmade) {
            Offer::Taken => touched.add(&output.feed),
            Offer::Full(ack) => {
                ruled.stalled.get_or_insert_default().push(&output.feed, &record, ack, unmade);
            }
        }
    }
}

/// Adds the message that a row becomes to those that are to be published.
///
/// # Errors
/// Why there is none, as it is counted.
fn make_message(
    republish: &Republish,
    row: &Row<'_>,
    lineage: Lineage,
    work: &mut RuleWork,
    ruled: &mut Ruled<'_>,
) -> Result<(), &'static str> {
    let lineage = Lineage { hops: lineage.hops + 1, ..lineage };
    if lineage.hops > MAX_HOPS {
        return Err("republish_loop");
    }
    if ruled.republished_ever >= MAX_REPUBLISHED {
        return Err("republish_limit");
    }
    let message = republish.message(row, &mut work.topic, &mut work.value)?;
    ruled.republished_ever += 1;
    ruled.republished.push_back(Republished { message: Arc::new(message), lineage });
    Ok(())
}

/// What every record says of where it comes from.
fn add_default_headers<'e>(event: &'e Event<'e>, headers: &mut SmallVec<[Header<'e>; INLINE_HEADERS]>) {
    if event.kind != EventKind::MessagePublish {
        headers.push(("mqtt.event", Some(event.kind.name().as_bytes())));
    }
    if !event.topic.is_empty() {
        headers.push(("mqtt.topic", Some(event.topic.as_bytes())));
    }
    if !event.client_id.is_empty() {
        headers.push(("mqtt.client_id", Some(event.client_id.as_bytes())));
    }
    if !event.topic.is_empty() {
        headers.push(("mqtt.qos", QOS_DIGITS.get(usize::from(event.qos)).copied()));
    }
    if let Some(properties) = event.properties {
        properties.visit(&mut |property| {
            if let Property::User(name, value) = property {
                headers.push((name, Some(value.as_bytes())));
            }
        });
    }
}

/// Offers a record, or has it refused for the reason that it could not be made.
fn hand_over(feed: &dyn Feed, record: &Record<'_>, ack: Option<Ack>, unmade: Option<Rejection>) -> Offer {
    match unmade {
        None => feed.offer(record, ack),
        Some(reason) => feed.refuse(record, ack, reason),
    }
}

/// Name and value of a record's header.
type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Headers of one record that are collected without memory of their own.
const INLINE_HEADERS: usize = 8;

const QOS_DIGITS: [&[u8]; 3] = [b"0", b"1", b"2"];

pub(crate) fn cleared(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
    buffer.clear();
    buffer
}

pub(crate) fn bytes_of(rendered: Rendered<'_>) -> Option<&[u8]> {
    match rendered {
        Rendered::Bytes(bytes) => Some(bytes),
        Rendered::Undefined | Rendered::Null => None,
    }
}

/// What a record carries where nobody said: the payload as it came if the rule passes it through, else the row.
fn default_value(rule: &Rule) -> Template {
    let has_payload = match rule.columns() {
        Some(mut columns) => columns.any(|column| column == "payload"),
        None => rule.kinds().iter().all(|kind| kind.columns().any(|column| column == "payload")),
    };
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

impl Ruled<'_> {
    /// One more acknowledgement that the publisher's waits for, if anybody waits.
    fn ack(&mut self) -> Option<Ack> {
        let ack = self.acks.next();
        self.waits |= ack.is_some();
        ack
    }
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

struct Returned {
    feed: Arc<dyn Feed>,
    record: OwnedRecord,
    ack: Option<Ack>,
    /// Why it could not be made whole, if that is so.
    unmade: Option<Rejection>,
}

/// Records that a full destination gave back, in order, until it has room.
#[derive(Default)]
pub(crate) struct Stalled {
    returned: VecDeque<Returned>,
}

impl Stalled {
    /// How many records wait.
    pub(crate) fn len(&self) -> usize {
        self.returned.len()
    }

    fn push(
        &mut self,
        feed: &Arc<dyn Feed>,
        record: &Record<'_>,
        ack: Option<Ack>,
        unmade: Option<Rejection>,
    ) {
        let record = OwnedRecord::from(record);
        self.returned.push_back(Returned { feed: Arc::clone(feed), record, ack, unmade });
    }

    /// Offers the records again as room returns. Ready when all are taken.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Returned { feed, record, ack, unmade }) = self.returned.front_mut() {
            let ack_again = ack.take();
            match record.with_borrowed(|record| hand_over(&**feed, record, ack_again, *unmade)) {
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
pub(crate) struct MessageProperties<'a>(pub(crate) &'a PublishProperties<'a>);

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
