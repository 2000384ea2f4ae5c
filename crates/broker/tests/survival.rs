//! What a restart leaves of sessions and retained messages: everything that anybody was promised.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_broker::{Broker, Config, Injection, InjectorOptions, Metrics, Tcp, UserProperties};
use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketId, PacketType, PubAck, Publish, QoS, ReasonCode, Version,
};
use tidegate_session::Limits;
use tidegate_store::{Journal, Options};
use tidegate_testkit::mqtt::Peer;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// A broker on a runtime of its own, which ends as a process does: with nobody told.
struct Process {
    runtime: Runtime,
    broker: Broker,
    address: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let (broker, address) = runtime.block_on(async {
            let (journal, recovered) = Journal::open(Options::new(directory)).unwrap();
            let limits = Limits { record_changes: true, ..Limits::default() };
            let config = Config { limits: Arc::new(limits), ..Config::default() };
            let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
            let broker =
                Broker::start_with_store(config, Vec::new(), metrics, Arc::new(journal), recovered).unwrap();
            let listener = Tcp::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let address = listener.local_addr().unwrap();
            let serving = broker.clone();
            tokio::spawn(async move { serving.serve(listener).await });
            (broker, address)
        });
        Self { runtime, broker, address }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    async fn client(&self, id: &str) -> (Peer<TcpStream>, bool) {
        let mut peer = Peer::dial(self.address, Version::V5).await.unwrap();
        let properties =
            ConnectProperties { session_expiry_interval: Some(3600), ..ConnectProperties::default() };
        let connect = Connect { clean_start: false, properties, ..Connect::new(Version::V5, id) };
        let answer = peer.connect(connect).await.unwrap();
        assert_eq!(answer.reason, ReasonCode::Success);
        let present = answer.session_present;
        (peer, present)
    }

    /// Ends without a word to clients or sessions.
    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-survival-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn publish(qos: QoS, id: u16, payload: &[u8]) -> Packet<'_> {
    Packet::Publish(Publish {
        qos,
        topic: "a/b",
        packet_id: PacketId::new(id),
        payload,
        ..Publish::default()
    })
}

/// Waits until the directory is free: the threads of a broker that was killed end a moment later.
fn restart(directory: &Path) -> Process {
    for _ in 0..500 {
        match Journal::open(Options::new(directory)) {
            Ok((journal, _)) => {
                journal.close().unwrap();
                return Process::start(directory);
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    panic!("the directory stays in use");
}

#[test]
fn what_the_program_was_told_is_safe_reaches_a_subscriber_that_was_away() {
    let folder = Folder::new("injected");
    let before = Process::start(&folder.0);
    before.run(async {
        let (mut subscriber, _) = before.client("subscriber").await;
        subscriber.subscribe(1, "a/+", QoS::AtLeastOnce).await.unwrap();
        drop(subscriber);
        while before.broker.connections() > 0 {
            tokio::task::yield_now().await;
        }
        let mut injector = before.broker.injector("source", InjectorOptions::default());
        for payload in [&b"1"[..], b"2"] {
            let injection = Injection {
                topic: "a/b",
                payload,
                qos: QoS::AtLeastOnce,
                retain: payload == b"2",
                user_properties: UserProperties::default(),
            };
            injector.publish(&injection).await.unwrap();
        }
        injector.safe().await.unwrap();
    });
    before.kill();
    let after = restart(&folder.0);
    after.run(async {
        let (mut subscriber, present) = after.client("subscriber").await;
        assert!(present);
        for payload in [b"1", b"2"] {
            let publish = subscriber.expect_publish().await.unwrap();
            assert_eq!((publish.payload, publish.qos), (&payload[..], QoS::AtLeastOnce));
        }
        let (mut other, _) = after.client("other").await;
        other.subscribe(1, "a/b", QoS::AtMostOnce).await.unwrap();
        assert_eq!(other.expect_publish().await.unwrap().payload, b"2", "the retained one");
    });
}

#[test]
fn what_was_acknowledged_reaches_a_subscriber_that_was_away_and_one_that_had_not_read_it() {
    for subscriber_is_online in [false, true] {
        let folder = Folder::new(&format!("queue-{subscriber_is_online}"));
        let before = Process::start(&folder.0);
        let held = before.run(async {
            let (mut subscriber, present) = before.client("subscriber").await;
            assert!(!present);
            subscriber.subscribe(1, "a/#", QoS::ExactlyOnce).await.unwrap();
            // Dropped, it is away; held, its messages are sent and never answered.
            let held = subscriber_is_online.then_some(subscriber);
            let (mut publisher, _) = before.client("publisher").await;
            for id in 1..=20 {
                publisher.send(&publish(QoS::AtLeastOnce, id, &[id as u8])).await.unwrap();
                assert_eq!(publisher.expect_ack(PacketType::PubAck, id).await.unwrap(), ReasonCode::Success);
            }
            held
        });
        before.kill();
        drop(held);
        let after = restart(&folder.0);
        after.run(async {
            let (mut subscriber, present) = after.client("subscriber").await;
            assert!(present, "the session is there again");
            for number in 1..=20_u8 {
                let received = subscriber.expect_publish().await.unwrap();
                assert_eq!((received.payload, received.qos), (&[number][..], QoS::AtLeastOnce));
                let id = received.packet_id.unwrap();
                subscriber.puback(id).await.unwrap();
            }
        });
        after.kill();
    }
}

/// [MQTT5-4.3.3-10], across a restart.
#[test]
fn a_qos_2_message_whose_pubrec_was_sent_is_not_published_again_when_it_is_repeated() {
    let folder = Folder::new("qos2");
    let before = Process::start(&folder.0);
    before.run(async {
        let (mut subscriber, _) = before.client("subscriber").await;
        subscriber.subscribe(1, "a/#", QoS::AtLeastOnce).await.unwrap();
        let (mut publisher, _) = before.client("publisher").await;
        publisher.send(&publish(QoS::ExactlyOnce, 7, b"once")).await.unwrap();
        publisher.expect_ack(PacketType::PubRec, 7).await.unwrap();
        let id = subscriber.expect_publish().await.unwrap().packet_id.unwrap();
        subscriber.puback(id).await.unwrap();
        subscriber.ping().await.unwrap();
    });
    before.kill();
    let after = restart(&folder.0);
    after.run(async {
        let (mut subscriber, _) = after.client("subscriber").await;
        let (mut publisher, present) = after.client("publisher").await;
        assert!(present);
        let Packet::Publish(mut repeat) = publish(QoS::ExactlyOnce, 7, b"once") else { unreachable!() };
        repeat.dup = true;
        publisher.send(&Packet::Publish(repeat)).await.unwrap();
        publisher.expect_ack(PacketType::PubRec, 7).await.unwrap();
        publisher.send(&Packet::PubRel(PubAck::new(PacketId::new(7).unwrap()))).await.unwrap();
        publisher.expect_ack(PacketType::PubComp, 7).await.unwrap();
        publisher.send(&publish(QoS::AtLeastOnce, 8, b"next")).await.unwrap();
        assert_eq!(subscriber.expect_publish().await.unwrap().payload, b"next", "and not the repeat");
    });
    after.kill();
}

#[test]
fn retained_messages_and_subscriptions_are_there_after_a_restart() {
    let folder = Folder::new("retained");
    let before = Process::start(&folder.0);
    before.run(async {
        let (mut client, _) = before.client("client").await;
        client.subscribe(1, "live/#", QoS::AtLeastOnce).await.unwrap();
        for (id, topic, payload) in
            [(1, "kept", "old"), (2, "kept", "new"), (3, "gone", "x"), (4, "gone", "")]
        {
            let message = Publish {
                qos: QoS::AtLeastOnce,
                retain: true,
                topic,
                packet_id: PacketId::new(id),
                payload: payload.as_bytes(),
                ..Publish::default()
            };
            client.send(&Packet::Publish(message)).await.unwrap();
            client.expect_ack(PacketType::PubAck, id).await.unwrap();
        }
    });
    before.kill();
    let after = restart(&folder.0);
    after.run(async {
        let (mut client, present) = after.client("client").await;
        assert!(present);
        client.subscribe(1, "+", QoS::AtLeastOnce).await.unwrap();
        let retained = client.expect_publish().await.unwrap();
        assert_eq!((retained.topic, retained.payload, retained.retain), ("kept", &b"new"[..], true));
        let (mut publisher, _) = after.client("publisher").await;
        publisher.publish(1, "live/1", b"x").await.unwrap();
        assert_eq!(client.expect_publish().await.unwrap().topic, "live/1");
    });
    after.kill();
}
