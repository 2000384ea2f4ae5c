//! A broker without sockets, and clients that say what a test tells them.

use std::io;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::{Broker, Config, Listener, ListenerOptions, Metrics, Peer as PeerAddress, RuleBinding};
use tidegate_codec::{
    ConnAck, Connect, ConnectProperties, Packet, PacketId, PacketType, PubAck, Publish, QoS, ReasonCode,
    SubAck, Subscribe, SubscribeFilter, UserProperties, Version, Will,
};
use tidegate_session::Limits;
use tidegate_testkit::mqtt::Peer;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

/// Bytes that each direction of a connection holds.
const PIPE_BYTES: usize = 256 * 1024;

/// Seconds: longer than any session here is away.
pub(crate) const KEPT: u32 = 3600;

pub(crate) type Client = Peer<DuplexStream>;

/// Both versions that tests speak where a statement is the same in both.
pub(crate) const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

pub(crate) const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A broker that listens to streams in memory.
pub(crate) struct World {
    dial: mpsc::Sender<DuplexStream>,
    pub(crate) broker: Broker,
}

/// A listener to streams in memory, and what sends it its ends of them.
pub(crate) fn in_memory() -> (mpsc::Sender<DuplexStream>, InMemory) {
    let (dial, dialled) = mpsc::channel(16);
    (dial, InMemory(dialled))
}

#[derive(Debug)]
pub(crate) struct InMemory(mpsc::Receiver<DuplexStream>);

impl Listener for InMemory {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddress)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, PeerAddress { address: None, local: None })),
            None => std::future::pending().await,
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with_limits(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::with(|config| config.limits = Arc::new(limits))
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        Self::start(config, Vec::new())
    }

    pub(crate) fn start(config: Config, rules: Vec<RuleBinding>) -> Self {
        Self::serve(config, rules, ListenerOptions::default())
    }

    pub(crate) fn serve(config: Config, rules: Vec<RuleBinding>, options: ListenerOptions) -> Self {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let broker = Broker::start(config, rules, metrics).unwrap();
        let (dial, listener) = in_memory();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve_with(listener, options).await });
        Self { dial, broker }
    }

    /// The client's end of a new connection, on which nothing was said yet.
    pub(crate) async fn stream(&self) -> DuplexStream {
        self.stream_of(PIPE_BYTES).await
    }

    /// The same, with so little room in each direction.
    pub(crate) async fn stream_of(&self, bytes: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(bytes);
        self.dial.send(theirs).await.unwrap();
        ours
    }

    pub(crate) async fn dial(&self, version: Version) -> Client {
        Peer::new(self.stream().await, version)
    }

    /// A client whose CONNECT was accepted, and whether its session existed.
    pub(crate) async fn connect(&self, connect: Connect<'_>) -> (Client, bool) {
        let mut client = self.dial(connect.version).await;
        let answer = client.connect(connect).await.unwrap();
        assert_eq!(answer.reason, ReasonCode::Success);
        let present = answer.session_present;
        (client, present)
    }

    /// A client with a session that ends with its connection.
    pub(crate) async fn join(&self, version: Version, id: &str) -> Client {
        let (client, present) = self.connect(Connect::new(version, id)).await;
        assert!(!present);
        client
    }

    /// A client with a session that outlives its connection.
    pub(crate) async fn resume(&self, version: Version, id: &str) -> (Client, bool) {
        self.connect(kept(version, id)).await
    }

    /// Sends these bytes as the first ones and returns what comes back until the connection is closed.
    pub(crate) async fn answer_to(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.stream().await;
        stream.write_all(bytes).await.unwrap();
        read_to_the_end(&mut stream).await
    }

    /// The same on a connection whose CONNECT was accepted.
    pub(crate) async fn answer_of(&self, version: Version, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.join(version, "offender").await.into_stream();
        stream.write_all(bytes).await.unwrap();
        read_to_the_end(&mut stream).await
    }

    /// Waits until so many connections are left.
    pub(crate) async fn settled(&self, connections: usize) {
        until(|| self.broker.connections() == connections).await;
    }
}

async fn read_to_the_end(stream: &mut DuplexStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(stream, &mut answer);
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the connection is closed").unwrap();
    answer
}

pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        // On a clock that stands still this takes no time, and lets time pass when nothing else is left to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not become true");
}

/// A CONNECT for a session that outlives its connection.
pub(crate) fn kept(version: Version, id: &str) -> Connect<'_> {
    let session_expiry_interval = (version == Version::V5).then_some(KEPT);
    Connect {
        clean_start: false,
        properties: ConnectProperties { session_expiry_interval, ..ConnectProperties::default() },
        ..Connect::new(version, id)
    }
}

/// A will of QoS 1 that says nothing special.
pub(crate) fn will<'a>(topic: &'a str, payload: &'a [u8]) -> Will<'a> {
    Will {
        topic,
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval: 0,
        properties: tidegate_codec::PublishProperties::default(),
    }
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// What a PUBLISH to a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) identifiers: Vec<u32>,
    pub(crate) alias: Option<u16>,
    pub(crate) expiry: Option<u32>,
}

impl From<Publish<'_>> for Got {
    fn from(publish: Publish<'_>) -> Self {
        Self {
            topic: publish.topic.into(),
            payload: publish.payload.into(),
            qos: publish.qos,
            dup: publish.dup,
            retain: publish.retain,
            packet_id: publish.packet_id,
            identifiers: publish.properties.subscription_identifiers.iter().map(NonZeroU32::get).collect(),
            alias: publish.properties.topic_alias.map(NonZeroU16::get),
            expiry: publish.properties.message_expiry_interval,
        }
    }
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// What tests say again and again.
pub(crate) trait Script {
    /// The next packet is a PUBLISH.
    async fn got(&mut self) -> Got;
    /// All that comes before the answer to the second of two PINGREQs: PUBLISH packets only. Nothing that was published
    /// before is missing, because a connection takes its mail before it reads; one PINGREQ could be read together with
    /// what this client itself published.
    async fn all(&mut self) -> Vec<Got>;
    /// So many messages, each answered as its QoS demands.
    async fn take(&mut self, count: usize) -> Vec<Got>;
    /// The payloads of [`Script::all`].
    async fn payloads(&mut self) -> Vec<String>;
    /// Sends a PUBLISH and does the whole exchange that its QoS asks for.
    async fn say(&mut self, qos: QoS, topic: &str, payload: &str);
    /// The same with the retain flag.
    async fn say_retained(&mut self, qos: QoS, topic: &str, payload: &str);
    /// Sends any PUBLISH of QoS 0 or 1 and waits until it is handled.
    async fn say_this(&mut self, publish: Publish<'_>);
    /// Sends SUBSCRIBE and returns the codes.
    async fn ask(&mut self, filters: &[SubscribeFilter<'_>], identifier: Option<u32>) -> Vec<ReasonCode>;
    /// Finishes the delivery of a message that was received.
    async fn finish(&mut self, got: &Got);
    async fn pubrec(&mut self, id: PacketId, reason: ReasonCode);
    async fn pubrel(&mut self, id: PacketId);
    async fn pubcomp(&mut self, id: PacketId);
    /// The next packet is a DISCONNECT with that reason, and then the connection is closed.
    async fn expect_disconnect(&mut self, reason: ReasonCode);
    /// Nothing more comes, and the connection is closed.
    async fn expect_end(&mut self);
}

impl Script for Client {
    async fn got(&mut self) -> Got {
        self.expect_publish().await.unwrap().into()
    }

    async fn all(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        for _ in 0..2 {
            self.send(&Packet::PingReq).await.unwrap();
            loop {
                match self.receive().await.unwrap() {
                    Packet::PingResp => break,
                    Packet::Publish(publish) => all.push(publish.into()),
                    packet => panic!("{packet:?}"),
                }
            }
        }
        all
    }

    async fn take(&mut self, count: usize) -> Vec<Got> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let answer = match self.receive().await.unwrap() {
                Packet::Publish(publish) => {
                    let got = Got::from(publish);
                    let qos = got.qos;
                    let packet_id = got.packet_id;
                    taken.push(got);
                    match (qos, packet_id) {
                        (QoS::AtLeastOnce, Some(id)) => Packet::PubAck(PubAck::new(id)),
                        (QoS::ExactlyOnce, Some(id)) => Packet::PubRec(PubAck::new(id)),
                        _ => continue,
                    }
                }
                Packet::PubRel(release) => Packet::PubComp(PubAck::new(release.packet_id)),
                packet => panic!("{packet:?}"),
            };
            self.send(&answer).await.unwrap();
        }
        taken
    }

    async fn payloads(&mut self) -> Vec<String> {
        self.all().await.iter().map(|got| got.text().to_owned()).collect()
    }

    async fn say(&mut self, qos: QoS, topic: &str, payload: &str) {
        publish_whole(self, qos, false, topic, payload).await;
    }

    async fn say_retained(&mut self, qos: QoS, topic: &str, payload: &str) {
        publish_whole(self, qos, true, topic, payload).await;
    }

    async fn say_this(&mut self, publish: Publish<'_>) {
        let packet_id = publish.packet_id;
        self.send(&Packet::Publish(publish)).await.unwrap();
        match packet_id {
            Some(id) => {
                self.expect_ack(PacketType::PubAck, id.get()).await.unwrap();
            }
            None => self.ping().await.unwrap(),
        }
    }

    async fn ask(&mut self, filters: &[SubscribeFilter<'_>], identifier: Option<u32>) -> Vec<ReasonCode> {
        let subscribe = Subscribe {
            packet_id: id(77),
            subscription_identifier: identifier.and_then(NonZeroU32::new),
            user_properties: UserProperties::default(),
            filters: filters.to_vec(),
        };
        self.send(&Packet::Subscribe(Box::new(subscribe))).await.unwrap();
        match self.receive().await.unwrap() {
            Packet::SubAck(suback) => {
                assert_eq!(suback.packet_id, id(77));
                suback.reasons
            }
            packet => panic!("{packet:?}"),
        }
    }

    async fn finish(&mut self, got: &Got) {
        match got.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.puback(got.packet_id.unwrap()).await.unwrap(),
            QoS::ExactlyOnce => {
                let packet_id = got.packet_id.unwrap();
                self.pubrec(packet_id, ReasonCode::Success).await;
                self.expect_ack(PacketType::PubRel, packet_id.get()).await.unwrap();
                self.pubcomp(packet_id).await;
            }
        }
    }

    async fn pubrec(&mut self, id: PacketId, reason: ReasonCode) {
        self.send(&Packet::PubRec(PubAck::with_reason(id, reason))).await.unwrap();
    }

    async fn pubrel(&mut self, id: PacketId) {
        self.send(&Packet::PubRel(PubAck::new(id))).await.unwrap();
    }

    async fn pubcomp(&mut self, id: PacketId) {
        self.send(&Packet::PubComp(PubAck::new(id))).await.unwrap();
    }

    async fn expect_disconnect(&mut self, reason: ReasonCode) {
        match self.receive().await.unwrap() {
            Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, reason),
            packet => panic!("{packet:?}"),
        }
        self.expect_end().await;
    }

    async fn expect_end(&mut self) {
        match self.receive().await {
            Err(tidegate_testkit::mqtt::PeerError::Closed { unfinished: 0 }) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn publish_whole(client: &mut Client, qos: QoS, retain: bool, topic: &str, payload: &str) {
    const ID: u16 = 999;
    let packet_id = if qos == QoS::AtMostOnce { None } else { PacketId::new(ID) };
    let publish =
        Publish { qos, retain, topic, packet_id, payload: payload.as_bytes(), ..Publish::default() };
    client.send(&Packet::Publish(publish)).await.unwrap();
    match qos {
        QoS::AtMostOnce => client.ping().await.unwrap(),
        QoS::AtLeastOnce => {
            client.expect_ack(PacketType::PubAck, ID).await.unwrap();
        }
        QoS::ExactlyOnce => {
            client.expect_ack(PacketType::PubRec, ID).await.unwrap();
            client.pubrel(id(ID)).await;
            client.expect_ack(PacketType::PubComp, ID).await.unwrap();
        }
    }
}

/// A PUBLISH of QoS 0, 1 or 2; `number` is its identifier unless the QoS is 0.
pub(crate) fn publish<'a>(qos: QoS, number: u16, topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    let packet_id = if qos == QoS::AtMostOnce { None } else { PacketId::new(number) };
    Publish { qos, topic, packet_id, payload, ..Publish::default() }
}

/// What a CONNACK says, without borrowing from it.
pub(crate) fn reason_of(connack: &ConnAck<'_>) -> (ReasonCode, bool) {
    (connack.reason, connack.session_present)
}

/// The codes of a SUBACK or UNSUBACK, and that it explains nothing.
pub(crate) fn codes_of(suback: &SubAck<'_>) -> Vec<ReasonCode> {
    assert!(suback.reason_string.is_none() && suback.user_properties.is_empty());
    suback.reasons.clone()
}
