//! A broker without sockets, and clients that say what a test tells them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tidegate_broker::{Broker, Config, Listener, ListenerOptions, Metrics, Peer as PeerAddress};
use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketId, PacketType, Publish, QoS, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeOptions, UserProperties, Version,
};
use tidegate_testkit::mqtt::Peer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Long enough for what must not come to have come. The clock is the tests' own, so this takes no time.
pub(crate) const A_WHILE: Duration = Duration::from_millis(200);

pub(crate) type Client = Peer<DuplexStream>;

pub(crate) struct Served {
    dial: mpsc::Sender<DuplexStream>,
    pub(crate) broker: Broker,
    registry: Registry,
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

/// Another listener of the same broker.
pub(crate) struct Door(mpsc::Sender<DuplexStream>);

impl Door {
    pub(crate) async fn join(&self, version: Version, id: &str) -> Client {
        self.connect(Connect::new(version, id)).await
    }

    pub(crate) async fn connect(&self, connect: Connect<'_>) -> Client {
        join(&self.0, connect).await
    }

    /// Connects and returns the Server Keep Alive as well.
    pub(crate) async fn knock(&self, connect: Connect<'_>) -> (Option<u16>, Client) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.0.send(theirs).await.unwrap();
        let mut client = Peer::new(ours, connect.version);
        let keep_alive = client.connect(connect).await.unwrap().properties.server_keep_alive;
        (keep_alive, client)
    }
}

impl Served {
    /// A broker that tells nothing of itself, otherwise as by default.
    pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { sys_interval: None, ..Config::default() };
        change(&mut config);
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let broker = Broker::start(config, Vec::new(), metrics).unwrap();
        let Door(dial) = door(&broker, ListenerOptions::default());
        Self { dial, broker, registry }
    }

    pub(crate) fn door(&self, options: ListenerOptions) -> Door {
        door(&self.broker, options)
    }

    pub(crate) async fn connect(&self, connect: Connect<'_>) -> Client {
        join(&self.dial, connect).await
    }

    /// A client with a session that ends with its connection.
    pub(crate) async fn join(&self, version: Version, id: &str) -> Client {
        self.connect(Connect::new(version, id)).await
    }

    /// A 5.0 client with a session that is kept for so many seconds.
    pub(crate) async fn stay(&self, id: &str, seconds: u32) -> Client {
        let properties =
            ConnectProperties { session_expiry_interval: Some(seconds), ..ConnectProperties::default() };
        let connect = Connect { clean_start: false, properties, ..Connect::new(Version::V5, id) };
        self.connect(connect).await
    }

    /// Waits until so many connections are left.
    pub(crate) async fn settled(&self, connections: usize) {
        for _ in 0..5000 {
            if self.broker.connections() == connections {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{} connections are left", self.broker.connections());
    }

    /// The value of a counter or gauge, which are never negative here, of one label's value if it has one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
    pub(crate) fn count(&self, name: &str, label: Option<&str>) -> usize {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        metrics
            .iter()
            .filter(|metric| {
                label.is_none_or(|label| metric.get_label().iter().any(|pair| pair.value() == label))
            })
            .map(|metric| (metric.get_counter().get_value() + metric.get_gauge().get_value()) as usize)
            .sum()
    }
}

fn door(broker: &Broker, options: ListenerOptions) -> Door {
    let (dial, listener) = in_memory();
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve_with(listener, options).await });
    Door(dial)
}

/// A listener of streams in memory, and where they are put in.
pub(crate) fn in_memory() -> (mpsc::Sender<DuplexStream>, InMemory) {
    let (dial, dialled) = mpsc::channel(16);
    (dial, InMemory(dialled))
}

async fn join(dial: &mpsc::Sender<DuplexStream>, connect: Connect<'_>) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    dial.send(theirs).await.unwrap();
    let mut client = Peer::new(ours, connect.version);
    assert_eq!(client.connect(connect).await.unwrap().reason, ReasonCode::Success);
    client
}

/// Subscribes with these options and returns what SUBACK says.
pub(crate) async fn subscribe_with(
    client: &mut Client,
    filter: &str,
    options: SubscribeOptions,
) -> ReasonCode {
    let request = Subscribe {
        packet_id: PacketId::new(1000).unwrap(),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: vec![SubscribeFilter { filter, options }],
    };
    client.send(&Packet::Subscribe(Box::new(request))).await.unwrap();
    match client.receive().await.unwrap() {
        Packet::SubAck(suback) => suback.reasons[0],
        packet => panic!("{packet:?} instead of SUBACK"),
    }
}

/// Publishes with QoS 1 and returns what PUBACK says.
pub(crate) async fn publish(client: &mut Client, topic: &str, payload: &[u8], retain: bool) -> ReasonCode {
    let packet = Packet::Publish(Publish {
        qos: QoS::AtLeastOnce,
        retain,
        topic,
        payload,
        packet_id: PacketId::new(7),
        ..Publish::default()
    });
    client.send(&packet).await.unwrap();
    client.expect_ack(PacketType::PubAck, 7).await.unwrap()
}

/// The next PUBLISH: its topic, payload and retain flag. It is not acknowledged.
pub(crate) async fn receive(client: &mut Client) -> (String, Vec<u8>, bool) {
    let publish = client.expect_publish().await.unwrap();
    (publish.topic.to_owned(), publish.payload.to_vec(), publish.retain)
}

/// The payloads of the PUBLISHes that come until there is silence, each acknowledged if it wants to be.
pub(crate) async fn drain(client: &mut Client) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    loop {
        let next = tokio::time::timeout(A_WHILE, client.receive()).await;
        let Ok(packet) = next else { return payloads };
        let Packet::Publish(publish) = packet.unwrap() else { panic!("only PUBLISH is expected") };
        payloads.push(publish.payload.to_vec());
        if let Some(id) = publish.packet_id {
            assert_eq!(publish.qos, QoS::AtLeastOnce);
            client.puback(id).await.unwrap();
        }
    }
}

pub(crate) fn shared<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
