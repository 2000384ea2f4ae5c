//! A broker with rules, clients without sockets, and a destination that the test holds in its hand.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Registry;
use tidegate_broker::{AckMode, Broker, Config, Listener, Metrics, Output, Peer as PeerAddress, RuleBinding};
use tidegate_codec::{Connect, PacketType, ReasonCode, Version};
use tidegate_rules::{Rule, Template};
use tidegate_sink::{Ack, Feed, Offer, Outcome, OwnedRecord, Record};
use tidegate_testkit::mqtt::Peer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Long enough for an answer that must not come to have come.
pub(crate) const A_WHILE: Duration = Duration::from_millis(100);

pub(crate) type Client = Peer<DuplexStream>;

/// A destination whose records the test takes one by one, and settles.
#[derive(Default)]
pub(crate) struct Hand(Mutex<Held>);

#[derive(Default)]
struct Held {
    records: VecDeque<(OwnedRecord, Option<Ack>)>,
    is_full: bool,
    waiting: Vec<Waker>,
}

impl Hand {
    pub(crate) fn set_full(&self, is_full: bool) {
        let mut held = self.0.lock();
        held.is_full = is_full;
        held.waiting.drain(..).for_each(Waker::wake);
    }

    /// The next record, with its ack where somebody waits.
    pub(crate) async fn next(&self) -> (OwnedRecord, Option<Ack>) {
        let taken = std::future::poll_fn(|cx| {
            let mut held = self.0.lock();
            if let Some(record) = held.records.pop_front() {
                return Poll::Ready(record);
            }
            held.waiting.push(cx.waker().clone());
            Poll::Pending
        });
        tokio::time::timeout(Duration::from_secs(10), taken).await.expect("a record comes")
    }

    /// The value of the next record, which is safe from then on.
    pub(crate) async fn value(&self) -> String {
        let (record, ack) = self.next().await;
        if let Some(ack) = ack {
            ack.settle(Outcome::Delivered);
        }
        value_of(&record)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().records.len()
    }
}

pub(crate) fn value_of(record: &OwnedRecord) -> String {
    record.with_borrowed(|record| String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap())
}

/// The value of a record's header.
pub(crate) fn header_of(record: &OwnedRecord, name: &str) -> Option<String> {
    record.with_borrowed(|record| {
        let found = record.headers.iter().find(|(known, _)| *known == name)?;
        Some(String::from_utf8(found.1.unwrap_or_default().to_vec()).unwrap())
    })
}

impl Feed for Hand {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        let mut held = self.0.lock();
        if held.is_full {
            return Offer::Full(ack);
        }
        held.records.push_back((OwnedRecord::from(record), ack));
        held.waiting.drain(..).for_each(Waker::wake);
        Offer::Taken
    }

    fn flush(&self) {}

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = self.0.lock();
        if !held.is_full {
            return Poll::Ready(());
        }
        held.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

/// A rule without outputs.
pub(crate) fn rule(id: &str, sql: &str) -> RuleBinding {
    let rule = Rule::compile(id, sql).unwrap();
    RuleBinding { rule, ack: AckMode::Delivered, outputs: Vec::new(), republishes: Vec::new() }
}

pub(crate) fn template(text: &str) -> Template {
    Template::compile(text).unwrap()
}

/// The rule with its rows in that hand.
pub(crate) fn into(hand: &Arc<Hand>, mut rule: RuleBinding) -> RuleBinding {
    rule.outputs.push(Output {
        feed: Arc::clone(hand) as Arc<dyn Feed>,
        topic: template("out"),
        key: None,
        value: None,
        headers: Vec::new(),
        default_headers: true,
    });
    rule
}

struct InMemory(mpsc::Receiver<DuplexStream>);

impl Listener for InMemory {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddress)> {
        match self.0.recv().await {
            Some(stream) => Ok((
                stream,
                PeerAddress {
                    address: Some(([192, 0, 2, 7], 1234).into()),
                    local: Some(([198, 51, 100, 1], 1883).into()),
                },
            )),
            None => std::future::pending().await,
        }
    }
}

pub(crate) struct Served {
    dial: mpsc::Sender<DuplexStream>,
    pub(crate) broker: Broker,
    registry: Registry,
}

impl Served {
    pub(crate) fn start(rules: Vec<RuleBinding>) -> Self {
        Self::with(|_| {}, rules)
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config), rules: Vec<RuleBinding>) -> Self {
        let mut config = Config { sys_interval: None, ..Config::default() };
        change(&mut config);
        let registry = Registry::new();
        let broker = Broker::start(config, rules, Metrics::register(&registry).unwrap()).unwrap();
        let (dial, dialled) = mpsc::channel(16);
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(InMemory(dialled)).await });
        Self { dial, broker, registry }
    }

    pub(crate) async fn join(&self, id: &str) -> Client {
        self.connect(Connect::new(Version::V5, id)).await
    }

    pub(crate) async fn connect(&self, connect: Connect<'_>) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.dial.send(theirs).await.unwrap();
        let mut client = Peer::new(ours, connect.version);
        assert_eq!(client.connect(connect).await.unwrap().reason, ReasonCode::Success);
        client
    }

    /// Returns when that many clients are online.
    pub(crate) async fn online(&self, clients: i64) {
        #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
        let online = || {
            let families = self.registry.gather();
            let family = families.iter().find(|family| family.name() == "tidegate_sessions_online").unwrap();
            family.get_metric()[0].get_gauge().get_value() as i64
        };
        while online() != clients {
            tokio::task::yield_now().await;
        }
    }

    /// The sum of a counter over those of its labels that have all these values.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
    pub(crate) fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        let has = |metric: &&prometheus::proto::Metric| {
            labels.iter().all(|label| metric.get_label().iter().any(|pair| pair.value() == *label))
        };
        let sum = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() as u64 + metric.get_histogram().get_sample_count()
        };
        metrics.iter().filter(has).map(sum).sum()
    }
}

/// Publishes with QoS 1 and returns what PUBACK says.
pub(crate) async fn publish(client: &mut Client, id: u16, topic: &str, payload: &[u8]) -> ReasonCode {
    client.publish(id, topic, payload).await.unwrap();
    client.expect_ack(PacketType::PubAck, id).await.unwrap()
}

/// Whether nothing comes to the client for a while.
pub(crate) async fn is_silent(client: &mut Client) -> bool {
    tokio::time::timeout(A_WHILE, client.receive()).await.is_err()
}
