//! What clients that nobody here wrote see of a broker.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS};
use tidegate_broker::{Broker, Config, Metrics, Tcp};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    broker: Broker,
    port: u16,
}

async fn serve() -> Served {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let broker = Broker::start(Config::default(), Vec::new(), metrics).unwrap();
    let listener = Tcp::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    Served { broker, port }
}

struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    async fn connect(served: &Served, id: &str, clean: bool) -> (Self, bool) {
        Self::connect_with(served, id, clean, |_| {}).await
    }

    async fn connect_with(
        served: &Served,
        id: &str,
        clean: bool,
        more: impl FnOnce(&mut MqttOptions),
    ) -> (Self, bool) {
        let mut options = MqttOptions::new(id, "127.0.0.1", served.port);
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_clean_session(clean)
            .set_max_packet_size(1 << 20, 1 << 20);
        more(&mut options);
        let (client, events) = AsyncClient::new(options, 100);
        let mut this = Self { client, events };
        let present = this
            .wait(|event| match event {
                Event::Incoming(Packet::ConnAck(ack)) => Some(ack.session_present),
                _ => None,
            })
            .await;
        (this, present)
    }

    async fn wait<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(found) = wanted(self.events.poll().await.unwrap()) {
                    return found;
                }
            }
        })
        .await
        .expect("what the test waits for comes in time")
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).await.unwrap();
        self.wait(|event| matches!(event, Event::Incoming(Packet::SubAck(_))).then_some(())).await;
    }

    async fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) {
        self.client.publish(topic, qos, retain, payload).await.unwrap();
        self.wait(|event| match (qos, event) {
            (QoS::AtMostOnce, Event::Outgoing(rumqttc::Outgoing::Publish(_)))
            | (QoS::AtLeastOnce, Event::Incoming(Packet::PubAck(_)))
            | (QoS::ExactlyOnce, Event::Incoming(Packet::PubComp(_))) => Some(()),
            _ => None,
        })
        .await;
    }

    async fn receive(&mut self) -> Publish {
        self.wait(|event| match event {
            Event::Incoming(Packet::Publish(publish)) => Some(publish),
            _ => None,
        })
        .await
    }

    /// Goes away without DISCONNECT.
    fn vanish(self) {
        drop(self.events);
    }
}

#[tokio::test]
async fn a_message_of_each_qos_reaches_a_subscriber_at_the_lower_of_both() {
    let served = serve().await;
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    for granted in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut subscriber, _) = Client::connect(&served, "subscriber", true).await;
        subscriber.subscribe("a/+", granted).await;
        for published in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish("a/b", published, false, "x").await;
            let received = subscriber.receive().await;
            assert_eq!(received.topic, "a/b");
            assert_eq!(received.qos as u8, (granted as u8).min(published as u8));
            assert!(!received.retain && !received.dup);
        }
    }
}

#[tokio::test]
async fn overlapping_subscriptions_make_one_copy_at_the_highest_qos() {
    let served = serve().await;
    let (mut subscriber, _) = Client::connect(&served, "subscriber", true).await;
    subscriber.subscribe("a/#", QoS::AtMostOnce).await;
    subscriber.subscribe("a/b", QoS::AtLeastOnce).await;
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    publisher.publish("a/b", QoS::ExactlyOnce, false, "first").await;
    publisher.publish("a/b", QoS::ExactlyOnce, false, "second").await;
    let first = subscriber.receive().await;
    assert_eq!((&first.payload[..], first.qos), (&b"first"[..], QoS::AtLeastOnce));
    assert_eq!(&subscriber.receive().await.payload[..], b"second");
}

#[tokio::test]
async fn a_retained_message_waits_for_its_subscriber_until_it_is_removed() {
    let served = serve().await;
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    publisher.publish("state/door", QoS::AtLeastOnce, true, "closed").await;
    publisher.publish("state/door", QoS::AtLeastOnce, true, "open").await;
    let (mut subscriber, _) = Client::connect(&served, "subscriber", true).await;
    subscriber.subscribe("state/#", QoS::AtLeastOnce).await;
    let received = subscriber.receive().await;
    assert!(received.retain);
    assert_eq!(&received.payload[..], b"open");

    publisher.publish("state/door", QoS::AtLeastOnce, true, "").await;
    assert!(!subscriber.receive().await.retain, "an established subscription gets it as a live message");
    subscriber.subscribe("state/+", QoS::AtLeastOnce).await;
    publisher.publish("state/end", QoS::AtLeastOnce, false, "end").await;
    assert_eq!(subscriber.receive().await.topic, "state/end", "nothing retained comes before it");
}

#[tokio::test]
async fn a_will_is_published_when_its_client_vanishes_and_not_when_it_says_goodbye() {
    let served = serve().await;
    let (mut subscriber, _) = Client::connect(&served, "subscriber", true).await;
    subscriber.subscribe("wills/#", QoS::AtLeastOnce).await;
    let will = |topic: &str| LastWill::new(topic, "gone", QoS::AtLeastOnce, false);
    let (polite, _) = Client::connect_with(&served, "polite", true, |options| {
        options.set_last_will(will("wills/polite"));
    })
    .await;
    let mut polite = polite;
    polite.client.disconnect().await.unwrap();
    polite.wait(|event| matches!(event, Event::Outgoing(rumqttc::Outgoing::Disconnect)).then_some(())).await;
    let (rude, _) = Client::connect_with(&served, "rude", true, |options| {
        options.set_last_will(will("wills/rude"));
    })
    .await;
    rude.vanish();
    assert_eq!(subscriber.receive().await.topic, "wills/rude");
}

#[tokio::test]
async fn a_session_without_clean_start_keeps_its_subscriptions_and_what_came_meanwhile() {
    let served = serve().await;
    let (mut subscriber, present) = Client::connect(&served, "subscriber", false).await;
    assert!(!present);
    subscriber.subscribe("a/#", QoS::ExactlyOnce).await;
    subscriber.vanish();
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    for number in 0..10 {
        publisher.publish("a/b", QoS::ExactlyOnce, false, &number.to_string()).await;
    }
    let (mut subscriber, present) = Client::connect(&served, "subscriber", false).await;
    assert!(present);
    for number in 0..10 {
        assert_eq!(subscriber.receive().await.payload, number.to_string());
    }
    let (_, present) = Client::connect(&served, "subscriber", true).await;
    assert!(!present, "a clean start begins anew");
    assert_eq!(served.broker.sessions(), 2);
}

#[tokio::test]
async fn the_second_connection_of_a_client_id_takes_the_session_from_the_first() {
    let served = serve().await;
    let (mut first, _) = Client::connect(&served, "same", false).await;
    first.subscribe("a", QoS::AtLeastOnce).await;
    let (mut second, present) = Client::connect(&served, "same", false).await;
    assert!(present);
    let ended = tokio::time::timeout(PATIENCE, async { while first.events.poll().await.is_ok() {} }).await;
    assert!(ended.is_ok(), "the first connection is closed");
    drop(first);
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    publisher.publish("a", QoS::AtLeastOnce, false, "x").await;
    assert_eq!(second.receive().await.topic, "a");
}

#[tokio::test]
async fn a_storm_of_one_client_id_ends_with_one_session_and_one_connection() {
    let served = serve().await;
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let port = served.port;
        storm.spawn(async move {
            let mut options = MqttOptions::new("same", "127.0.0.1", port);
            options.set_clean_session(false);
            let (_client, mut events) = AsyncClient::new(options, 10);
            // Until the next one takes over, or for the last one until the test is over.
            let mut connected = false;
            while let Ok(event) = events.poll().await {
                connected |= matches!(event, Event::Incoming(Packet::ConnAck(_)));
            }
            connected
        });
    }
    let mut ended = 0;
    while ended < 49 {
        let connected =
            tokio::time::timeout(PATIENCE, storm.join_next()).await.expect("49 of 50 are taken over");
        assert!(connected.unwrap().unwrap(), "each was connected before the next took over");
        ended += 1;
    }
    let begin = Instant::now();
    while served.broker.connections() > 1 && begin.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((served.broker.sessions(), served.broker.connections()), (1, 1));
}

#[tokio::test]
async fn a_slow_subscriber_does_not_hold_up_a_publisher() {
    let served = serve().await;
    let (mut slow, _) = Client::connect(&served, "slow", true).await;
    slow.subscribe("a", QoS::AtMostOnce).await;
    // From here on nobody reads the slow client's socket.
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    let payload = "x".repeat(64 * 1024);
    for _ in 0..400 {
        publisher.publish("a", QoS::AtLeastOnce, false, &payload).await;
    }
    drop(slow);
}

#[tokio::test]
async fn members_of_a_shared_subscription_divide_the_messages() {
    let served = serve().await;
    let (mut first, _) = Client::connect(&served, "first", true).await;
    first.subscribe("$share/group/t/#", QoS::AtLeastOnce).await;
    let (mut second, _) = Client::connect(&served, "second", true).await;
    second.subscribe("$share/group/t/#", QoS::AtLeastOnce).await;
    let (mut publisher, _) = Client::connect(&served, "publisher", true).await;
    for number in 0..10 {
        publisher.publish("t/1", QoS::AtLeastOnce, false, &number.to_string()).await;
    }
    for turn in 0..5 {
        assert_eq!(first.receive().await.payload, (2 * turn).to_string());
        assert_eq!(second.receive().await.payload, (2 * turn + 1).to_string());
    }
}

#[tokio::test]
async fn shutdown_closes_every_connection() {
    let served = serve().await;
    let (mut client, _) = Client::connect(&served, "client", true).await;
    tokio::time::timeout(PATIENCE, served.broker.shutdown()).await.expect("shutdown ends");
    assert_eq!(served.broker.connections(), 0);
    assert!(
        tokio::time::timeout(PATIENCE, async { while client.events.poll().await.is_ok() {} }).await.is_ok()
    );
}
