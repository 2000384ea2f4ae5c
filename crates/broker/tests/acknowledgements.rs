//! What a PUBACK and a PUBREC promise: they are sent when every sink that the message goes to says that it is safe, and
//! never otherwise.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_broker::{
    AckMode, Broker, Config, Injection, InjectorOptions, Listener, Metrics, NotSafe, Output,
    Peer as PeerAddress, RuleBinding, UserProperties,
};
use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketId, PacketType, PubAck, Publish, QoS, ReasonCode, Version,
};
use tidegate_rules::{Rule, Template};
use tidegate_sink::{Ack, Feed, Offer, Outcome, OwnedRecord, Record, Rejection};
use tidegate_testkit::mqtt::Peer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Long enough for an answer that must not come to have come.
const A_WHILE: Duration = Duration::from_millis(100);

/// A destination that the test holds in its hand.
#[derive(Default)]
struct Hand {
    state: Mutex<HandState>,
}

#[derive(Default)]
struct HandState {
    held: VecDeque<(OwnedRecord, Option<Ack>)>,
    is_full: bool,
    waiting: Vec<Waker>,
    changed: Vec<Waker>,
}

impl Hand {
    fn set_full(&self, is_full: bool) {
        let mut state = self.state.lock();
        state.is_full = is_full;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// The next record that the broker hands over.
    async fn next(&self) -> (OwnedRecord, Option<Ack>) {
        let taken = std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            if let Some(record) = state.held.pop_front() {
                return Poll::Ready(record);
            }
            state.changed.push(cx.waker().clone());
            Poll::Pending
        });
        tokio::time::timeout(Duration::from_secs(10), taken).await.expect("a record comes")
    }

    fn held(&self) -> usize {
        self.state.lock().held.len()
    }
}

impl Feed for Hand {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        let mut state = self.state.lock();
        if state.is_full {
            return Offer::Full(ack);
        }
        state.held.push_back((OwnedRecord::from(record), ack));
        state.changed.drain(..).for_each(Waker::wake);
        Offer::Taken
    }

    fn flush(&self) {}

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if !state.is_full {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

/// A listener of connections without sockets.
struct InMemory(mpsc::Receiver<DuplexStream>);

impl Listener for InMemory {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddress)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, PeerAddress { address: None, local: None })),
            None => std::future::pending().await,
        }
    }
}

struct Served {
    dial: mpsc::Sender<DuplexStream>,
    broker: Broker,
}

impl Served {
    /// A broker whose rules, each with its ack mode, carry `t/#` to these destinations.
    fn start(rules: &[(AckMode, &[&Arc<Hand>])]) -> Self {
        let bindings = rules.iter().enumerate().map(|(index, (ack, hands))| RuleBinding {
            rule: Rule::compile(&format!("rule{index}"), r#"SELECT * FROM "t/#""#).unwrap(),
            ack: *ack,
            outputs: hands
                .iter()
                .map(|hand| Output {
                    feed: Arc::clone(hand) as Arc<dyn Feed>,
                    topic: Template::compile("out").unwrap(),
                    key: None,
                    value: None,
                    headers: Vec::new(),
                    default_headers: true,
                })
                .collect(),
            republishes: Vec::new(),
        });
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let broker = Broker::start(Config::default(), bindings.collect(), metrics).unwrap();
        let (dial, dialled) = mpsc::channel(10);
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(InMemory(dialled)).await });
        Self { dial, broker }
    }

    async fn client(&self, id: &str, version: Version, clean_start: bool) -> Peer<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.dial.send(theirs).await.unwrap();
        let mut peer = Peer::new(ours, version);
        let properties =
            ConnectProperties { session_expiry_interval: Some(60), ..ConnectProperties::default() };
        let connect = Connect {
            version,
            bridge: false,
            clean_start,
            keep_alive: 0,
            client_id: id,
            will: None,
            username: None,
            password: None,
            properties,
        };
        let answer = peer.connect(connect).await.unwrap();
        assert_eq!(answer.reason, ReasonCode::Success);
        peer
    }
}

fn publish(qos: QoS, id: u16, payload: &[u8]) -> Packet<'_> {
    Packet::Publish(Publish {
        qos,
        topic: "t/1",
        packet_id: PacketId::new(id),
        payload,
        ..Publish::default()
    })
}

#[tokio::test]
async fn a_record_carries_the_message_with_its_client_as_key() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let mut client = served.client("device", Version::V5, true).await;
    client.send(&publish(QoS::AtLeastOnce, 1, b"payload")).await.unwrap();
    let (record, _ack) = hand.next().await;
    assert_eq!(
        (record.topic(), record.key(), record.value()),
        ("out", Some(&b"device"[..]), Some(&b"payload"[..]))
    );
    let headers: Vec<_> =
        record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
    assert_eq!(headers[0], ("mqtt.topic".to_owned(), Some(b"t/1".to_vec())));
    assert_eq!(headers[2], ("mqtt.qos".to_owned(), Some(b"1".to_vec())));
}

#[tokio::test]
async fn puback_waits_for_the_sink() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    for version in [Version::V3_1_1, Version::V5] {
        let mut client = served.client("device", version, true).await;
        client.send(&publish(QoS::AtLeastOnce, 1, b"x")).await.unwrap();
        let (_, ack) = hand.next().await;
        client.expect_silence(A_WHILE).await.unwrap();
        ack.unwrap().settle(Outcome::Delivered);
        assert_eq!(client.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    }
}

#[tokio::test]
async fn puback_waits_for_every_selected_sink() {
    let (first, second) = (Arc::new(Hand::default()), Arc::new(Hand::default()));
    let served = Served::start(&[(AckMode::Delivered, &[&first, &second]), (AckMode::Delivered, &[&first])]);
    let mut client = served.client("device", Version::V3_1_1, true).await;
    client.send(&publish(QoS::AtLeastOnce, 1, b"x")).await.unwrap();
    let acks = [first.next().await.1, first.next().await.1, second.next().await.1];
    for ack in acks {
        client.expect_silence(A_WHILE).await.unwrap();
        ack.unwrap().settle(Outcome::Delivered);
    }
    client.expect_ack(PacketType::PubAck, 1).await.unwrap();
}

#[tokio::test]
async fn ack_received_does_not_wait() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Received, &[&hand])]);
    let mut client = served.client("device", Version::V3_1_1, true).await;
    client.send(&publish(QoS::AtLeastOnce, 1, b"x")).await.unwrap();
    client.expect_ack(PacketType::PubAck, 1).await.unwrap();
    assert!(hand.next().await.1.is_none(), "nobody waits for the record");
}

#[tokio::test]
async fn a_lost_record_is_never_acknowledged_and_its_repeat_is_carried_again() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    for (qos, acknowledged) in
        [(QoS::AtLeastOnce, PacketType::PubAck), (QoS::ExactlyOnce, PacketType::PubRec)]
    {
        let mut client = served.client("device", Version::V3_1_1, true).await;
        client.send(&publish(qos, 1, b"x")).await.unwrap();
        drop(hand.next().await);
        client.expect_close().await.unwrap();
        let mut client = served.client("device", Version::V3_1_1, false).await;
        client.send(&publish(qos, 1, b"x")).await.unwrap();
        hand.next().await.1.unwrap().settle(Outcome::Delivered);
        client.expect_ack(acknowledged, 1).await.unwrap();
    }
}

#[tokio::test]
async fn a_record_that_the_sink_refuses_is_answered_with_an_error_and_never_with_success() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let mut client = served.client("five", Version::V5, true).await;
    client.send(&publish(QoS::AtLeastOnce, 1, b"x")).await.unwrap();
    hand.next().await.1.unwrap().settle(Outcome::Rejected(Rejection::TooLarge));
    let reason = client.expect_ack(PacketType::PubAck, 1).await.unwrap();
    assert_eq!(reason, ReasonCode::ImplementationSpecificError);
    client.ping().await.unwrap();

    let mut client = served.client("three", Version::V3_1_1, true).await;
    client.send(&publish(QoS::AtLeastOnce, 1, b"x")).await.unwrap();
    hand.next().await.1.unwrap().settle(Outcome::Rejected(Rejection::TooLarge));
    client.expect_close().await.unwrap();
}

#[tokio::test]
async fn what_the_program_publishes_reaches_rules_only_if_asked_and_is_safe_when_their_records_are() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let injection = Injection {
        topic: "t/1",
        payload: b"x",
        qos: QoS::AtLeastOnce,
        retain: false,
        user_properties: UserProperties::default(),
    };
    let mut silent = served.broker.injector("silent", InjectorOptions::default());
    silent.publish(&injection).await.unwrap();
    silent.safe().await.unwrap();
    assert_eq!(hand.held(), 0);

    let options = InjectorOptions { rules: true, ..InjectorOptions::default() };
    let mut injector = served.broker.injector("source", options);
    injector.publish(&injection).await.unwrap();
    injector.publish(&Injection { topic: "elsewhere", ..injection.clone() }).await.unwrap();
    injector.publish(&injection).await.unwrap();
    for _ in 0..2 {
        assert!(tokio::time::timeout(A_WHILE, injector.safe()).await.is_err(), "a record is on its way");
        let (record, ack) = hand.next().await;
        assert_eq!((record.key(), record.value()), (Some(&b"source"[..]), Some(&b"x"[..])));
        ack.unwrap().settle(Outcome::Delivered);
    }
    injector.safe().await.unwrap();
    injector.publish(&injection).await.unwrap();
    drop(hand.next().await);
    assert_eq!(injector.safe().await, Err(NotSafe::Lost));
}

/// [MQTT5-4.3.3-10]: the receiver treats a repeat as the same message until PUBREL.
#[tokio::test]
async fn a_qos_2_message_that_is_repeated_after_a_reconnect_is_carried_once() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    // Settled while the client is away, and after it is back.
    for settle_while_away in [true, false] {
        let mut client = served.client("device", Version::V5, true).await;
        client.send(&publish(QoS::ExactlyOnce, 7, b"x")).await.unwrap();
        let (_, ack) = hand.next().await;
        drop(client);
        let mut ack = ack;
        if settle_while_away {
            wait_until(|| served.broker.connections() == 0).await;
            ack.take().unwrap().settle(Outcome::Delivered);
        }
        let mut client = served.client("device", Version::V5, false).await;
        let Packet::Publish(mut repeat) = publish(QoS::ExactlyOnce, 7, b"x") else { unreachable!() };
        repeat.dup = true;
        client.send(&Packet::Publish(repeat)).await.unwrap();
        if let Some(ack) = ack {
            client.expect_silence(A_WHILE).await.unwrap();
            ack.settle(Outcome::Delivered);
        }
        client.expect_ack(PacketType::PubRec, 7).await.unwrap();
        client.send(&Packet::PubRel(PubAck::new(PacketId::new(7).unwrap()))).await.unwrap();
        client.expect_ack(PacketType::PubComp, 7).await.unwrap();
        assert_eq!(hand.held(), 0, "the repeat made no second record");
    }
}

#[tokio::test]
async fn a_qos_2_message_that_is_lost_while_its_client_is_away_is_carried_again() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let mut client = served.client("device", Version::V5, true).await;
    client.send(&publish(QoS::ExactlyOnce, 7, b"x")).await.unwrap();
    let lost = hand.next().await;
    drop(client);
    wait_until(|| served.broker.connections() == 0).await;
    drop(lost);
    let mut client = served.client("device", Version::V5, false).await;
    client.send(&publish(QoS::ExactlyOnce, 7, b"x")).await.unwrap();
    hand.next().await.1.unwrap().settle(Outcome::Delivered);
    client.expect_ack(PacketType::PubRec, 7).await.unwrap();
}

#[tokio::test]
async fn a_full_sink_stops_the_publisher_and_nothing_is_lost_or_reordered() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let mut client = served.client("device", Version::V3_1_1, true).await;
    hand.set_full(true);
    for id in 1..=20 {
        client.send(&publish(QoS::AtLeastOnce, id, &[id as u8])).await.unwrap();
    }
    client.expect_silence(A_WHILE).await.unwrap();
    assert_eq!(hand.held(), 0);
    // A client that is not read is not silent: others go on meanwhile.
    let mut other = served.client("other", Version::V3_1_1, true).await;
    other.ping().await.unwrap();
    hand.set_full(false);
    for id in 1..=20 {
        let (record, ack) = hand.next().await;
        assert_eq!(record.value(), Some(&[id as u8][..]));
        ack.unwrap().settle(Outcome::Delivered);
        client.expect_ack(PacketType::PubAck, id).await.unwrap();
    }
}

/// 3.1.1 has no Receive Maximum: what is beyond the window waits in the client's socket.
#[tokio::test]
async fn a_3_1_1_client_beyond_the_window_waits_and_loses_nothing() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let window = usize::from(Config::default().limits.receive_maximum.get());
    let mut client = served.client("device", Version::V3_1_1, true).await;
    let total = window + 50;
    for id in 1..=total {
        client.send(&publish(QoS::AtLeastOnce, id as u16, b"x")).await.unwrap();
    }
    client.expect_silence(A_WHILE).await.unwrap();
    assert_eq!(hand.held(), window);
    for id in 1..=total {
        hand.next().await.1.unwrap().settle(Outcome::Delivered);
        client.expect_ack(PacketType::PubAck, id as u16).await.unwrap();
    }
}

#[tokio::test]
async fn shutdown_waits_for_what_is_in_flight_and_acknowledges_it() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let mut client = served.client("device", Version::V5, true).await;
    client.send(&publish(QoS::AtLeastOnce, 1, b"x")).await.unwrap();
    let (_, ack) = hand.next().await;
    let broker = served.broker.clone();
    let stopping = tokio::spawn(async move { broker.shutdown().await });
    client.expect_silence(A_WHILE).await.unwrap();
    ack.unwrap().settle(Outcome::Delivered);
    client.expect_ack(PacketType::PubAck, 1).await.unwrap();
    let Packet::Disconnect(disconnect) = client.receive().await.unwrap() else {
        panic!("DISCONNECT comes next")
    };
    assert_eq!(disconnect.reason, ReasonCode::ServerShuttingDown);
    client.expect_close().await.unwrap();
    stopping.await.unwrap();
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it becomes true");
}

/// A turn that ends the conversation with messages in hand keeps them for their client, and for nobody else.
#[tokio::test]
async fn what_waits_for_a_client_whose_record_is_lost_stays_with_that_client() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(&[(AckMode::Delivered, &[&hand])]);
    let mut device = served.client("device", Version::V5, true).await;
    device.subscribe(1, "for/device", QoS::AtLeastOnce).await.unwrap();
    let mut other = served.client("other", Version::V5, true).await;
    for id in [2, 3] {
        device.send(&publish(QoS::ExactlyOnce, id, b"x")).await.unwrap();
    }
    let (lost, delivered) = (hand.next().await.1.unwrap(), hand.next().await.1.unwrap());
    // All of it before the device's task runs again: a message for it, a record that is lost, and one that is safe.
    other.publish(1, "for/device", b"mine").await.unwrap();
    lost.settle(Outcome::Lost);
    delivered.settle(Outcome::Delivered);
    assert_eq!(other.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    other.expect_silence(A_WHILE).await.unwrap();

    let mut device = served.client("device", Version::V5, false).await;
    assert_eq!(device.expect_publish().await.unwrap().payload, b"mine");
    // The one that is safe is answered now, and the lost one is carried again.
    for id in [3, 2] {
        device.send(&publish(QoS::ExactlyOnce, id, b"x")).await.unwrap();
    }
    device.expect_ack(PacketType::PubRec, 3).await.unwrap();
    hand.next().await.1.unwrap().settle(Outcome::Delivered);
    device.expect_ack(PacketType::PubRec, 2).await.unwrap();
    assert_eq!(hand.held(), 0);
}
