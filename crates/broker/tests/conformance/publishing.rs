//! PUBLISH as it is forwarded: chapter 3.3.

use std::time::Duration;

use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketType, Publish, PublishProperties, QoS, ReasonCode,
    RetainHandling, SubscribeFilter, SubscribeOptions, UserProperties, Version,
};

use crate::world::{ALL_QOS, BOTH, KEPT, Script, World, kept, publish};

/// [MQTT5-3.3.2-4] [MQTT5-3.3.2-13] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18]
/// [MQTT5-3.3.2-19] [MQTT5-3.3.2-20] [MQTT5-1.5.4-3] [MQTT311-1.5.3-3]
#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_message_is_forwarded_unaltered() {
    let world = World::new();
    let mut client = world.join(Version::V5, "client").await;
    client.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    let pairs = [("z", "1"), ("a", "\u{feff}2"), ("z", "0"), ("", ""), ("a", "\u{feff}2")];
    for payload_is_utf8 in [None, Some(false), Some(true)] {
        let properties = PublishProperties {
            payload_is_utf8,
            content_type: Some("application/x-\u{feff}thing"),
            response_topic: Some("answers/to/me"),
            correlation_data: Some(b"\0\xff\0"),
            user_properties: UserProperties::from_pairs(pairs).unwrap(),
            ..PublishProperties::default()
        };
        let sent = Publish { properties, ..publish(QoS::AtMostOnce, 0, "\u{feff}a/b", b"\0\xff") };
        client.send(&Packet::Publish(sent.clone())).await.unwrap();
        assert_eq!(client.expect_publish().await.unwrap(), sent);
    }
    // To a client of 3.1.1 goes what it has room for.
    let mut old = world.join(Version::V3_1_1, "old").await;
    old.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    old.say(QoS::AtLeastOnce, "\u{feff}", "x").await;
    assert_eq!(old.got().await.topic, "\u{feff}");
}

/// [MQTT5-3.3.1-3] [MQTT311-3.3.1-3] [MQTT5-3.3.1-2] [MQTT311-3.3.1-2] [MQTT5-4.3.1-1] [MQTT311-4.3.1-1]
/// [MQTT5-4.3.2-2] [MQTT5-4.3.3-2] [MQTT5-2.2.1-2] [MQTT311-2.3.1-5]
#[tokio::test(start_paused = true)]
async fn dup_of_the_publisher_is_not_passed_on() {
    for version in BOTH {
        let world = World::new();
        for granted in ALL_QOS {
            let mut subscriber = world.join(version, "subscriber").await;
            subscriber.subscribe(1, "a", granted).await.unwrap();
            let mut publisher = world.join(version, "publisher").await;
            for (number, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
                let repeated = Publish { dup: true, ..publish(qos, number, "a", b"x") };
                publisher.send(&Packet::Publish(repeated)).await.unwrap();
                let got = subscriber.got().await;
                assert!(!got.dup);
                assert_eq!(got.qos, qos.min(granted));
                assert_eq!(got.packet_id.is_some(), got.qos > QoS::AtMostOnce);
            }
        }
    }
}

/// [MQTT5-3.3.1-1] [MQTT311-3.3.1-1] [MQTT5-4.4.0-1] [MQTT311-4.4.0-1] [MQTT311-2.3.1-3] [MQTT5-4.6.0-1]
/// [MQTT311-4.6.0-1]
#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again_with_dup_and_its_identifier_after_a_reconnect() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let world = World::new();
            let mut publisher = world.join(version, "publisher").await;
            let (mut client, _) = world.resume(version, "device").await;
            client.subscribe(1, "a", qos).await.unwrap();
            for payload in ["one", "two", "three"] {
                publisher.say(QoS::ExactlyOnce, "a", payload).await;
            }
            let first = client.all().await;
            assert!(first.iter().all(|got| !got.dup));
            client.finish(&first[1]).await;
            client.ping().await.unwrap();
            // Never otherwise: not even after hours on the same connection.
            tokio::time::sleep(Duration::from_hours(5)).await;
            assert_eq!(client.all().await, []);
            drop(client);
            let (mut client, _) = world.resume(version, "device").await;
            let again = client.all().await;
            assert!(again.iter().all(|got| got.dup));
            let names = |got: &[crate::world::Got]| -> Vec<_> {
                got.iter().map(|got| (got.packet_id, got.text().to_owned())).collect()
            };
            assert_eq!(names(&again), names(&[first[0].clone(), first[2].clone()]), "{version:?} {qos:?}");
        }
    }
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]
#[tokio::test(start_paused = true)]
async fn a_message_expires_for_each_subscriber_on_its_own_and_says_what_is_left() {
    let world = World::new();
    let mut publisher = world.join(Version::V5, "publisher").await;
    let mut online = world.join(Version::V5, "online").await;
    online.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
    for id in ["early", "late"] {
        let (mut client, _) = world.resume(Version::V5, id).await;
        client.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
    }
    world.settled(2).await;
    let mut expiring = publish(QoS::AtLeastOnce, 1, "a", b"news");
    expiring.properties.message_expiry_interval = Some(100);
    publisher.say_this(expiring).await;
    assert_eq!(online.got().await.expiry, Some(100));
    tokio::time::sleep(Duration::from_secs(40)).await;
    let (mut early, _) = world.resume(Version::V5, "early").await;
    assert_eq!(early.got().await.expiry, Some(60));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let (mut late, present) = world.resume(Version::V5, "late").await;
    assert!(present);
    assert_eq!(late.all().await, []);
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]: of a retained message as well.
#[tokio::test(start_paused = true)]
async fn a_retained_message_expires() {
    let world = World::new();
    let mut client = world.join(Version::V5, "client").await;
    let mut expiring = Publish { retain: true, ..publish(QoS::AtLeastOnce, 1, "a", b"news") };
    expiring.properties.message_expiry_interval = Some(100);
    client.say_this(expiring).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    client.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(client.got().await.expiry, Some(30));
    tokio::time::sleep(Duration::from_secs(30)).await;
    client.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(client.all().await, []);
}

/// [MQTT5-3.3.2-7] [MQTT5-3.3.2-8]: an alias of the last connection means nothing, and 0 never does.
#[tokio::test(start_paused = true)]
async fn attack_89_an_alias_does_not_outlive_its_connection() {
    let world = World::new();
    let aliased = |topic: &'static str| {
        let mut publish = publish(QoS::AtMostOnce, 0, topic, b"x");
        publish.properties.topic_alias = std::num::NonZeroU16::new(1);
        Packet::Publish(publish)
    };
    let (mut client, _) = world.resume(Version::V5, "device").await;
    client.send(&aliased("a")).await.unwrap();
    client.send(&aliased("")).await.unwrap();
    client.ping().await.unwrap();
    drop(client);
    let (mut client, present) = world.resume(Version::V5, "device").await;
    assert!(present);
    client.send(&aliased("")).await.unwrap();
    client.expect_disconnect(ReasonCode::ProtocolError).await;

    let mut client = world.join(Version::V5, "device").await;
    client.send_raw(b"\x30\x07\0\x01a\x03\x23\0\0").await.unwrap();
    client.expect_disconnect(ReasonCode::TopicAliasInvalid).await;
}

/// [MQTT5-3.1.2-26] [MQTT5-3.1.2-27] [MQTT5-3.3.2-11] [MQTT5-3.3.2-8]
#[tokio::test(start_paused = true)]
async fn attack_90_the_server_sends_no_alias_above_the_client_s_maximum() {
    for maximum in [None, Some(0), Some(2)] {
        let world = World::new();
        let mut publisher = world.join(Version::V5, "publisher").await;
        let properties = ConnectProperties { topic_alias_maximum: maximum, ..ConnectProperties::default() };
        let (mut client, _) =
            world.connect(Connect { properties, ..Connect::new(Version::V5, "device") }).await;
        client.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
        let mut topics = std::collections::HashMap::new();
        for number in 0..40 {
            let topic = format!("t/{}", number % 4);
            publisher.say(QoS::AtMostOnce, &topic, "x").await;
            let got = client.got().await;
            let meant = match got.alias {
                None => got.topic,
                Some(alias) => {
                    assert!(alias >= 1 && alias <= maximum.unwrap_or(0), "{alias} of {maximum:?}");
                    if !got.topic.is_empty() {
                        topics.insert(alias, got.topic);
                    }
                    topics[&alias].clone()
                }
            };
            assert_eq!(meant, topic);
        }
    }
}

/// [MQTT5-3.3.1-4] [MQTT311-3.3.1-4] [MQTT5-3.3.2-1] [MQTT311-3.3.2-1] [MQTT5-3.3.2-2] [MQTT311-3.3.2-2]
/// [MQTT5-3.3.2-14] [MQTT5-3.3.4-6] [MQTT5-4.7.0-1] [MQTT5-4.7.3-1] [MQTT311-4.7.3-1] [MQTT5-4.7.3-2] [MQTT311-4.7.3-2]
/// [MQTT5-2.2.1-3] [MQTT311-2.3.1-1]
#[tokio::test(start_paused = true)]
async fn attack_14_17_25_a_publish_that_must_not_be_ends_the_connection_and_reaches_nobody() {
    use ReasonCode::{MalformedPacket, ProtocolError, TopicNameInvalid};

    let world = World::new();
    let mut watcher = world.join(Version::V5, "watcher").await;
    watcher.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    let five: &[(&str, &[u8], ReasonCode)] = &[
        ("QoS 3", b"\x36\x06\0\x01a\0\x01\0", MalformedPacket),
        ("DUP with QoS 0", b"\x38\x04\0\x01a\0", MalformedPacket),
        ("no topic", b"\x30\x03\0\0\0", TopicNameInvalid),
        ("a topic that is not UTF-8", b"\x30\x04\0\x01\xff\0", MalformedPacket),
        ("U+0000 in the topic", b"\x30\x04\0\x01\0\0", MalformedPacket),
        ("+ in the topic", b"\x30\x06\0\x03a/+\0", TopicNameInvalid),
        ("# in the topic", b"\x30\x04\0\x01#\0", TopicNameInvalid),
        ("identifier 0", b"\x32\x06\0\x01a\0\0\0", ProtocolError),
        ("a wildcard in the response topic", b"\x30\x08\0\x01a\x04\x08\0\x01+", TopicNameInvalid),
        ("a response topic that is not UTF-8", b"\x30\x08\0\x01a\x04\x08\0\x01\xff", MalformedPacket),
        ("a subscription identifier", b"\x30\x06\0\x01a\x02\x0b\x01", ProtocolError),
    ];
    for (what, bytes, reason) in five {
        assert_eq!(world.answer_of(Version::V5, bytes).await, [0xe0, 1, reason.as_u8()], "{what}");
    }
    let three: &[(&str, &[u8])] = &[
        ("QoS 3", b"\x36\x05\0\x01a\0\x01"),
        ("no topic", b"\x30\x02\0\0"),
        ("a topic that is not UTF-8", b"\x30\x03\0\x01\xff"),
        ("U+0000 in the topic", b"\x30\x03\0\x01\0"),
        ("+ in the topic", b"\x30\x05\0\x03a/+"),
        ("identifier 0", b"\x32\x05\0\x01a\0\0"),
    ];
    for (what, bytes) in three {
        assert_eq!(world.answer_of(Version::V3_1_1, bytes).await, b"", "{what}");
    }
    assert_eq!(watcher.all().await, []);
}

/// [MQTT5-3.3.2-3] [MQTT311-3.3.2-3]
#[tokio::test(start_paused = true)]
async fn a_forwarded_topic_is_the_published_one_and_matches() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        for filter in ["a/+", "b/#", "c"] {
            client.subscribe(1, filter, QoS::AtMostOnce).await.unwrap();
        }
        for topic in ["a/1", "a", "b", "b/2/3", "c", "c/", "d"] {
            client.say_raw(topic).await;
        }
        let topics: Vec<_> = client.all().await.into_iter().map(|got| got.topic).collect();
        assert_eq!(topics, ["a/1", "b", "b/2/3", "c"]);
    }
}

/// Sends without waiting, so that what comes back is not mistaken for an answer.
trait SayRaw {
    async fn say_raw(&mut self, topic: &str);
}

impl SayRaw for crate::world::Client {
    async fn say_raw(&mut self, topic: &str) {
        self.send(&Packet::Publish(publish(QoS::AtMostOnce, 0, topic, b"x"))).await.unwrap();
    }
}

/// [MQTT5-3.3.4-2] [MQTT5-3.3.4-3] [MQTT5-3.3.4-4] [MQTT311-3.3.5-1]: Tidegate sends one copy to a client.
#[tokio::test(start_paused = true)]
async fn attack_88_overlapping_subscriptions_make_one_copy_with_the_highest_qos_and_all_identifiers() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut client = world.join(version, "client").await;
        client.ask(&[SubscribeFilter::new("a/#", QoS::AtMostOnce)], identifier(version, 7)).await;
        client.ask(&[SubscribeFilter::new("a/+", QoS::ExactlyOnce)], identifier(version, 268_435_455)).await;
        client.ask(&[SubscribeFilter::new("+/b", QoS::AtLeastOnce)], None).await;
        client.ask(&[SubscribeFilter::new("c", QoS::AtLeastOnce)], identifier(version, 9)).await;
        publisher.say(QoS::ExactlyOnce, "a/b", "x").await;
        let mut got = client.all().await;
        assert_eq!(got.len(), 1, "{version:?}");
        assert_eq!(got[0].qos, QoS::ExactlyOnce);
        got[0].identifiers.sort_unstable();
        let expected: &[u32] = if version == Version::V5 { &[7, 268_435_455] } else { &[] };
        assert_eq!(got[0].identifiers, expected);
    }
}

fn identifier(version: Version, number: u32) -> Option<u32> {
    (version == Version::V5).then_some(number)
}

/// [MQTT5-3.3.4-3]: of the retained message as well, and after a reconnect.
#[tokio::test(start_paused = true)]
async fn attack_88_a_retained_message_carries_the_identifier_of_the_subscription_that_asked_for_it() {
    let world = World::new();
    let (mut client, _) = world.resume(Version::V5, "client").await;
    client.say_retained(QoS::AtLeastOnce, "a", "kept").await;
    for (filter, identifier) in [("a", 5), ("#", 6)] {
        client.ask(&[SubscribeFilter::new(filter, QoS::AtLeastOnce)], Some(identifier)).await;
        assert_eq!(client.got().await.identifiers, [identifier]);
    }
    drop(client);
    let (mut client, _) = world.resume(Version::V5, "client").await;
    let identifiers: Vec<_> = client.all().await.into_iter().map(|got| got.identifiers).collect();
    assert_eq!(identifiers, [[5], [6]]);
}

/// [MQTT5-3.3.4-7] [MQTT5-4.9.0-1]
#[tokio::test(start_paused = true)]
async fn attack_74_a_client_beyond_the_receive_maximum_is_disconnected() {
    let world = World::with_limits(|limits| {
        limits.receive_maximum = std::num::NonZeroU16::new(3).unwrap();
    });
    let mut client = world.dial(Version::V5).await;
    let connack = client.connect(kept(Version::V5, "device")).await.unwrap();
    assert_eq!(connack.properties.receive_maximum.map(std::num::NonZeroU16::get), Some(3));
    // QoS 2 messages that are never released.
    for number in 1..=3 {
        client.send(&Packet::Publish(publish(QoS::ExactlyOnce, number, "a", b"x"))).await.unwrap();
        client.expect_ack(PacketType::PubRec, number).await.unwrap();
    }
    client.send(&Packet::Publish(publish(QoS::ExactlyOnce, 4, "a", b"x"))).await.unwrap();
    client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded).await;
}

/// [MQTT5-3.3.4-1] [MQTT311-3.3.4-1]
#[tokio::test(start_paused = true)]
async fn a_publish_is_answered_as_its_qos_demands() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        for qos in ALL_QOS {
            // Each waits for exactly the answers of its QoS.
            client.say(qos, "a", "x").await;
            client.ping().await.unwrap();
        }
    }
}

/// [MQTT5-3.3.1-9] with a session that lasts for [`KEPT`] seconds: subscription options survive a reconnect.
#[tokio::test(start_paused = true)]
async fn subscription_options_hold_after_a_reconnect() {
    let world = World::new();
    let properties =
        ConnectProperties { session_expiry_interval: Some(KEPT), ..ConnectProperties::default() };
    let connect = Connect { clean_start: false, properties, ..Connect::new(Version::V5, "device") };
    let (mut client, _) = world.connect(connect.clone()).await;
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    client.ask(&[SubscribeFilter { filter: "a", options }], Some(4)).await;
    drop(client);
    let (mut client, _) = world.connect(connect).await;
    client.say(QoS::AtLeastOnce, "a", "own").await;
    let mut other = world.join(Version::V5, "other").await;
    other.say_retained(QoS::ExactlyOnce, "a", "other's").await;
    let got = client.all().await;
    assert_eq!(got.len(), 1);
    assert!(got[0].retain && got[0].identifiers == [4] && got[0].qos == QoS::AtLeastOnce);
    assert_eq!(got[0].text(), "other's");
}
