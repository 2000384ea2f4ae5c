//! PUBACK to PUBCOMP, the delivery protocols and flow control: chapters 3.4 to 3.7, 4.3, 4.4 and 4.9.

use std::num::NonZeroU16;
use std::time::Duration;

use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketType, PubAck, Publish, QoS, ReasonCode, Version,
};

use crate::world::{BOTH, Client, Got, KEPT, Script, World, id, publish};

/// [MQTT5-2.2.1-5] [MQTT311-2.3.1-6] [MQTT5-4.3.2-4] [MQTT5-4.3.3-8] [MQTT5-4.3.3-11] [MQTT5-3.4.2-1] [MQTT5-3.5.2-1]
/// [MQTT5-3.7.2-1]
#[tokio::test(start_paused = true)]
async fn answers_repeat_the_identifier_of_their_publish() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        client.subscribe(1, "seen", QoS::AtMostOnce).await.unwrap();
        for number in [1, 2, 255, 256, 65_535] {
            client.send(&Packet::Publish(publish(QoS::AtLeastOnce, number, "a", b"x"))).await.unwrap();
            let reason = client.expect_ack(PacketType::PubAck, number).await.unwrap();
            let nobody = match version {
                Version::V5 => ReasonCode::NoMatchingSubscribers,
                _ => ReasonCode::Success,
            };
            assert_eq!(reason, nobody);
            client.send(&Packet::Publish(publish(QoS::ExactlyOnce, number, "seen", b"x"))).await.unwrap();
            // The message comes to ourselves, behind or before the answer.
            let mut acknowledged = false;
            for _ in 0..2 {
                match client.receive().await.unwrap() {
                    Packet::PubRec(ack) => {
                        assert_eq!((ack.packet_id, ack.reason), (id(number), ReasonCode::Success));
                        acknowledged = true;
                    }
                    Packet::Publish(_) => {}
                    packet => panic!("{packet:?}"),
                }
            }
            assert!(acknowledged);
            client.pubrel(id(number)).await;
            client.expect_ack(PacketType::PubComp, number).await.unwrap();
        }
    }
}

/// [MQTT5-4.3.2-5] [MQTT311-4.3.2-2]: after PUBACK the identifier means a new message, whatever DUP says.
#[tokio::test(start_paused = true)]
async fn a_qos_1_identifier_means_a_new_message_after_its_puback() {
    for version in BOTH {
        let world = World::new();
        let mut watcher = watcher(&world, version).await;
        let mut client = world.join(version, "client").await;
        for (dup, payload) in [(false, "one"), (true, "two"), (false, "three")] {
            let message = Publish { dup, ..publish(QoS::AtLeastOnce, 7, "a", payload.as_bytes()) };
            client.send(&Packet::Publish(message)).await.unwrap();
            client.expect_ack(PacketType::PubAck, 7).await.unwrap();
        }
        assert_eq!(watcher.payloads().await, ["one", "two", "three"]);
    }
}

/// [MQTT5-4.3.3-10] [MQTT5-4.3.3-12] [MQTT5-4.3.3-8] [MQTT311-4.3.3-2]
#[tokio::test(start_paused = true)]
async fn attack_73_a_qos_2_message_repeated_before_pubrel_is_delivered_once() {
    for version in BOTH {
        let world = World::new();
        let mut watcher = watcher(&world, version).await;
        let mut client = world.join(version, "client").await;
        for dup in [false, true, true, false] {
            let message = Publish { dup, ..publish(QoS::ExactlyOnce, 7, "a", b"one") };
            client.send(&Packet::Publish(message)).await.unwrap();
            client.expect_ack(PacketType::PubRec, 7).await.unwrap();
        }
        client.pubrel(id(7)).await;
        client.expect_ack(PacketType::PubComp, 7).await.unwrap();
        assert_eq!(watcher.payloads().await, ["one"]);
        // A repeated PUBREL is completed again, and a new message may have the identifier.
        client.pubrel(id(7)).await;
        client.expect_ack(PacketType::PubComp, 7).await.unwrap();
        client.send(&Packet::Publish(publish(QoS::ExactlyOnce, 7, "a", b"two"))).await.unwrap();
        client.expect_ack(PacketType::PubRec, 7).await.unwrap();
        assert_eq!(watcher.payloads().await, ["two"]);
    }
}

/// [MQTT5-4.3.3-10] [MQTT5-4.3.3-11]: also when connections break between every two packets.
#[tokio::test(start_paused = true)]
async fn attack_73_a_qos_2_message_survives_a_break_after_every_packet() {
    for version in BOTH {
        let world = World::new();
        let mut watcher = watcher(&world, version).await;
        for receive_before_the_break in [true, false] {
            let (mut client, _) = world.resume(version, "client").await;
            for dup in [false, true, true] {
                let message = Publish { dup, ..publish(QoS::ExactlyOnce, 7, "a", b"one") };
                client.send(&Packet::Publish(message)).await.unwrap();
                if receive_before_the_break {
                    client.expect_ack(PacketType::PubRec, 7).await.unwrap();
                }
                drop(client);
                (client, _) = world.resume(version, "client").await;
            }
            for _ in 0..2 {
                client.pubrel(id(7)).await;
                if receive_before_the_break {
                    client.expect_ack(PacketType::PubComp, 7).await.unwrap();
                }
                drop(client);
                (client, _) = world.resume(version, "client").await;
            }
            client.ping().await.unwrap();
            assert_eq!(watcher.payloads().await, ["one"], "{version:?}");
            drop(client);
            world.settled(1).await;
        }
    }
}

/// [MQTT5-4.3.2-1] [MQTT5-4.3.2-2] [MQTT5-4.3.2-3] [MQTT5-4.3.3-1] [MQTT5-4.3.3-2] [MQTT5-4.3.3-3] [MQTT5-4.3.3-4]
/// [MQTT5-4.3.3-5] [MQTT5-4.3.3-6] [MQTT5-2.2.1-4] [MQTT311-2.3.1-4] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1]
/// [MQTT5-3.6.2-1]
#[tokio::test(start_paused = true)]
async fn a_qos_2_delivery_goes_on_where_it_stood_after_every_packet() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let (mut client, _) = world.resume(version, "device").await;
        client.subscribe(1, "a", QoS::ExactlyOnce).await.unwrap();
        publisher.say(QoS::ExactlyOnce, "a", "one").await;
        publisher.say(QoS::AtLeastOnce, "a", "two").await;
        let first = client.got().await;
        let second = client.got().await;
        assert!(!first.dup && first.qos == QoS::ExactlyOnce);
        assert!(!second.dup && second.qos == QoS::AtLeastOnce);
        assert_ne!(first.packet_id, second.packet_id);
        let number = first.packet_id.unwrap();
        drop(client);
        // Unacknowledged: both PUBLISHes come again.
        let (mut client, _) = world.resume(version, "device").await;
        assert_eq!(client.payloads().await, ["one", "two"]);
        client.pubrec(number, ReasonCode::Success).await;
        assert_eq!(client.expect_ack(PacketType::PubRel, number.get()).await.unwrap(), ReasonCode::Success);
        drop(client);
        // Received: its PUBREL comes again, and its PUBLISH no more.
        let (mut client, _) = world.resume(version, "device").await;
        client.expect_ack(PacketType::PubRel, number.get()).await.unwrap();
        assert_eq!(client.got().await.text(), "two");
        // New messages avoid both identifiers.
        publisher.say(QoS::AtLeastOnce, "a", "three").await;
        let third = client.got().await;
        assert!(third.packet_id != first.packet_id && third.packet_id != second.packet_id);
        client.pubcomp(number).await;
        client.puback(second.packet_id.unwrap()).await.unwrap();
        client.puback(third.packet_id.unwrap()).await.unwrap();
        client.ping().await.unwrap();
        drop(client);
        let (mut client, _) = world.resume(version, "device").await;
        client.ping().await.unwrap();
    }
}

/// [MQTT5-4.3.3-7] [MQTT5-4.3.3-13]
#[tokio::test(start_paused = true)]
async fn a_delivery_that_began_is_finished_although_its_message_expired() {
    let world = World::new();
    let mut publisher = world.join(Version::V5, "publisher").await;
    let (mut client, _) = world.resume(Version::V5, "device").await;
    client.subscribe(1, "a", QoS::ExactlyOnce).await.unwrap();
    let mut expiring = publish(QoS::ExactlyOnce, 7, "a", b"one");
    expiring.properties.message_expiry_interval = Some(10);
    publisher.send(&Packet::Publish(expiring)).await.unwrap();
    publisher.expect_ack(PacketType::PubRec, 7).await.unwrap();
    let got = client.got().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    publisher.pubrel(id(7)).await;
    publisher.expect_ack(PacketType::PubComp, 7).await.unwrap();
    drop(client);
    let (mut client, _) = world.resume(Version::V5, "device").await;
    let again = client.got().await;
    assert_eq!((again.packet_id, again.text()), (got.packet_id, "one"));
    client.finish(&again).await;
    client.ping().await.unwrap();
}

/// [MQTT5-4.4.0-2] [MQTT5-4.3.3-4]
#[tokio::test(start_paused = true)]
async fn an_error_in_puback_or_pubrec_ends_the_delivery() {
    let world = World::new();
    let mut publisher = world.join(Version::V5, "publisher").await;
    let (mut client, _) = world.resume(Version::V5, "device").await;
    client.subscribe(1, "a", QoS::ExactlyOnce).await.unwrap();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.say(qos, "a", "x").await;
        let number = client.got().await.packet_id.unwrap();
        let ack = PubAck::with_reason(number, ReasonCode::QuotaExceeded);
        let ack = if qos == QoS::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
        client.send(&ack).await.unwrap();
        client.ping().await.unwrap();
    }
    drop(client);
    let (mut client, present) = world.resume(Version::V5, "device").await;
    assert!(present);
    client.ping().await.unwrap();
}

/// [MQTT5-3.3.4-9] [MQTT5-3.3.4-10] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2] [MQTT5-4.9.0-3]
#[tokio::test(start_paused = true)]
async fn attack_76_a_client_that_never_acknowledges_gets_its_receive_maximum_and_everything_else() {
    let world = World::new();
    let mut publisher = world.join(Version::V5, "publisher").await;
    let properties =
        ConnectProperties { receive_maximum: NonZeroU16::new(2), ..ConnectProperties::default() };
    let (mut client, _) = world.connect(Connect { properties, ..Connect::new(Version::V5, "device") }).await;
    client.subscribe(1, "a", QoS::ExactlyOnce).await.unwrap();
    for payload in ["1", "2", "3", "4", "5"] {
        publisher.say(QoS::ExactlyOnce, "a", payload).await;
    }
    let got = client.all().await;
    assert_eq!(got.iter().map(Got::text).collect::<Vec<_>>(), ["1", "2"]);
    // QoS 0, answers and the handshakes of both directions go on.
    publisher.say(QoS::AtMostOnce, "a", "zero").await;
    assert_eq!(client.payloads().await, ["zero"]);
    client.say(QoS::ExactlyOnce, "elsewhere", "x").await;
    client.subscribe(2, "b", QoS::AtMostOnce).await.unwrap();
    // PUBREC frees nothing, PUBCOMP does.
    let number = got[0].packet_id.unwrap();
    client.pubrec(number, ReasonCode::Success).await;
    client.expect_ack(PacketType::PubRel, number.get()).await.unwrap();
    client.ping().await.unwrap();
    client.pubcomp(number).await;
    assert_eq!(client.payloads().await, ["3"]);
    // So does PUBREC with an error.
    client.pubrec(got[1].packet_id.unwrap(), ReasonCode::QuotaExceeded).await;
    assert_eq!(client.payloads().await, ["4"]);
}

/// [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.6.2-1] [MQTT5-3.7.2-1]: for what is not known the answer is 0x92, and the
/// conversation goes on.
#[tokio::test(start_paused = true)]
async fn attack_77_acknowledgements_of_unknown_identifiers_change_nothing() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut client = world.join(version, "client").await;
        client.subscribe(1, "a", QoS::ExactlyOnce).await.unwrap();
        publisher.say(QoS::ExactlyOnce, "a", "one").await;
        let got = client.got().await;
        let unknown = id(got.packet_id.unwrap().get() + 100);
        for _ in 0..100 {
            client.puback(unknown).await.unwrap();
            client.pubcomp(unknown).await;
            // Of the wrong kind, for a message that is in flight.
            client.puback(got.packet_id.unwrap()).await.unwrap();
            client.pubcomp(got.packet_id.unwrap()).await;
        }
        let not_found = match version {
            Version::V5 => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        };
        client.pubrel(unknown).await;
        assert_eq!(client.expect_ack(PacketType::PubComp, unknown.get()).await.unwrap(), not_found);
        client.pubrec(unknown, ReasonCode::Success).await;
        assert_eq!(client.expect_ack(PacketType::PubRel, unknown.get()).await.unwrap(), not_found);
        // The delivery is as it was; late duplicates of its answers are repeated.
        client.finish(&got).await;
        client.pubcomp(got.packet_id.unwrap()).await;
        client.ping().await.unwrap();
    }
}

/// [MQTT5-3.6.1-1] [MQTT311-3.6.1-1]
#[tokio::test(start_paused = true)]
async fn a_pubrel_with_other_flags_closes() {
    let world = World::new();
    for flags in (0..16).filter(|flags| *flags != 2) {
        let bytes = [0x60 | flags, 2, 0, 1];
        assert_eq!(world.answer_of(Version::V5, &bytes).await, b"\xe0\x01\x81");
        assert_eq!(world.answer_of(Version::V3_1_1, &bytes).await, b"");
    }
}

/// [MQTT5-4.3.3-9]: a message that was refused leaves its identifier free, before PUBREL.
#[tokio::test(start_paused = true)]
async fn after_an_error_in_pubrec_the_identifier_means_a_new_message() {
    let world = World::with(|config| {
        config.denied = tidegate_broker::DenyList::new::<&str>(&[], &["denied"]).unwrap();
    });
    let mut watcher = watcher(&world, Version::V5).await;
    let mut client = world.join(Version::V5, "client").await;
    client.send(&Packet::Publish(publish(QoS::ExactlyOnce, 7, "denied", b"no"))).await.unwrap();
    let refused = client.expect_ack(PacketType::PubRec, 7).await.unwrap();
    assert_eq!(refused, ReasonCode::NotAuthorized);
    client.send(&Packet::Publish(publish(QoS::ExactlyOnce, 7, "a", b"new"))).await.unwrap();
    client.expect_ack(PacketType::PubRec, 7).await.unwrap();
    assert_eq!(watcher.payloads().await, ["new"]);
}

/// [MQTT311-3.3.5-2]: 3.1.1 can't say no, so a message that is not allowed is acknowledged and goes to nobody.
#[tokio::test(start_paused = true)]
async fn a_publish_that_is_not_authorized_is_acknowledged_in_3_1_1() {
    let world = World::with(|config| {
        config.denied = tidegate_broker::DenyList::new::<&str>(&[], &["denied"]).unwrap();
    });
    let mut watcher = watcher(&world, Version::V3_1_1).await;
    let mut client = world.join(Version::V3_1_1, "client").await;
    client.say(QoS::AtLeastOnce, "denied", "no").await;
    client.say(QoS::ExactlyOnce, "denied", "no").await;
    assert_eq!(watcher.all().await, []);
}

/// Gets everything, at QoS 0, and lets nobody wait.
async fn watcher(world: &World, version: Version) -> Client {
    let mut watcher = world.join(version, "watcher").await;
    watcher.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    watcher
}

/// [MQTT5-3.1.2-23] with [`KEPT`]: a window that was used up on one connection does not lock out the next.
#[tokio::test(start_paused = true)]
async fn attack_74_qos_2_messages_that_are_never_completed_do_not_outgrow_the_window() {
    for version in BOTH {
        let world = World::with_limits(|limits| {
            limits.receive_maximum = NonZeroU16::new(4).unwrap();
            limits.max_unreleased = 4;
        });
        for round in 0..50_u16 {
            let (mut client, _) = world.resume(version, "device").await;
            for number in 1..=4 {
                let number = round * 4 + number;
                client.send(&Packet::Publish(publish(QoS::ExactlyOnce, number, "a", b"x"))).await.unwrap();
                client.expect_ack(PacketType::PubRec, number).await.unwrap();
            }
            drop(client);
            world.settled(0).await;
        }
        assert!(KEPT > 0 && world.broker.sessions() == 1);
    }
}
