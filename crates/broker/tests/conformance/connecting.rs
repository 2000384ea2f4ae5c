//! CONNECT and CONNACK: chapters 3.1 and 3.2.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::{Redirect, ResponseInformation};
use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketType, Publish, QoS, ReasonCode, Version, Will,
};
use tidegate_session::Limits;
use tidegate_testkit::mqtt::Peer;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::world::{BOTH, Client, KEPT, Script, World, id, kept, publish, reason_of, until, will};

/// Bytes of a CONNECT with this level, these flags, and what stands behind the keep-alive; in 5.0 without properties.
pub(crate) fn connect_bytes(level: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([level, flags, 0, 60]);
    if level == 5 {
        body.push(0);
    }
    body.extend(payload);
    let mut bytes = vec![0x10, u8::try_from(body.len()).unwrap()];
    bytes.extend(body);
    bytes
}

fn connack_5(reason: ReasonCode) -> Vec<u8> {
    vec![0x20, 3, 0, reason.as_u8(), 0]
}

async fn refusal(world: &World, connect: Connect<'_>) -> Option<ReasonCode> {
    let mut client = world.dial(connect.version).await;
    client.send(&Packet::Connect(Box::new(connect))).await.unwrap();
    let reason = match client.receive().await {
        Ok(Packet::ConnAck(connack)) => {
            let (reason, present) = reason_of(&connack);
            assert!(reason.is_error() && !present, "{connack:?}");
            Some(reason)
        }
        Ok(packet) => panic!("{packet:?}"),
        Err(_) => return None,
    };
    client.expect_end().await;
    reason
}

/// [MQTT5-3.1.0-1] [MQTT311-3.1.0-1] [MQTT5-3.14.0-1]: and nothing is said to a client that did not introduce itself.
#[tokio::test(start_paused = true)]
async fn a_first_packet_other_than_connect_closes_without_an_answer() {
    let world = World::new();
    let first: [&[u8]; 9] = [
        b"\x30\x05\0\x01ahi",
        b"\x40\x02\0\x01",
        b"\x62\x02\0\x01",
        b"\x82\x06\0\x01\0\x01a\0",
        b"\xa2\x05\0\x01\0\x01a",
        b"\xc0\0",
        b"\xe0\0",
        b"\xf0\0",
        b"\x20\x02\0\0",
    ];
    for bytes in first {
        assert_eq!(world.answer_to(bytes).await, b"", "{bytes:02x?}");
    }
}

/// [MQTT5-3.1.0-2] [MQTT311-3.1.0-2] [MQTT5-3.2.0-2]: and no second CONNACK.
#[tokio::test(start_paused = true)]
async fn attack_09_a_second_connect_is_a_protocol_error() {
    let world = World::new();
    assert_eq!(world.answer_of(Version::V5, &connect_bytes(5, 2, b"\0\x01c")).await, b"\xe0\x01\x82");
    assert_eq!(world.answer_of(Version::V3_1_1, &connect_bytes(4, 2, b"\0\x01c")).await, b"");
}

/// [MQTT5-3.1.2-1] [MQTT311-3.1.2-1] [MQTT5-3.1.2-2] [MQTT311-3.1.2-2] [MQTT5-3.1.4-6] [MQTT311-3.1.4-5]: what comes
/// behind a CONNECT that was refused is not handled.
#[tokio::test(start_paused = true)]
async fn attack_13_another_protocol_or_version_is_refused_and_nothing_behind_it_is_processed() {
    let world = World::new();
    let mut subscriber = world.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    let cases: [(&[u8], &[u8]); 6] = [
        (b"\0\x04MQTT\x06", b"\x20\x03\0\x84\0"),
        (b"\0\x04MQTT\x09", b"\x20\x03\0\x84\0"),
        (b"\0\x04MQTT\x03", b"\x20\x02\0\x01"),
        (b"\0\x06MQIsdp\x04", b"\x20\x02\0\x01"),
        (b"\0\x04mqtt\x05", b""),
        (b"\0\x04HTTP\x04", b""),
    ];
    for (name_and_level, answer) in cases {
        let mut bytes = vec![0x10, u8::try_from(name_and_level.len() + 7).unwrap()];
        bytes.extend(name_and_level);
        bytes.extend(b"\x02\0\x3c\0\0\0\0");
        bytes.extend(b"\x30\x05\0\x01ahi");
        assert_eq!(world.answer_to(&bytes).await, answer, "{name_and_level:02x?}");
    }
    assert_eq!(subscriber.all().await, []);
}

/// [MQTT5-3.1.4-1] [MQTT5-3.1.2-3] [MQTT5-3.1.2-9] [MQTT5-3.1.2-11] [MQTT5-3.1.2-12] [MQTT5-3.1.2-13]
/// [MQTT5-3.1.2-16] [MQTT5-3.1.2-17] [MQTT5-3.1.2-18] [MQTT5-3.1.2-19] [MQTT5-3.1.3-1] [MQTT5-3.1.3-3] [MQTT5-3.1.3-4]
/// [MQTT5-3.1.3-11] [MQTT5-3.1.3-12] [MQTT5-3.2.2-6] [MQTT5-3.2.2-7]
#[tokio::test(start_paused = true)]
async fn attack_12_a_connect_that_contradicts_itself_is_answered_with_connack_in_5_0() {
    let world = World::new();
    let cases: &[(&str, u8, &[u8])] = &[
        ("the reserved flag", 0x03, b"\0\x01c"),
        ("a will flag without a will", 0x06, b"\0\x01c"),
        ("a will without payload", 0x06, b"\0\x01c\0\0\x01w"),
        ("will QoS without a will", 0x0a, b"\0\x01c"),
        ("will QoS 3", 0x1e, b"\0\x01c\0\0\x01w\0\0"),
        ("will retain without a will", 0x22, b"\0\x01c"),
        ("a user name without its flag", 0x02, b"\0\x01c\0\x01u"),
        ("a user name flag without a user name", 0x82, b"\0\x01c"),
        ("a password without its flag", 0x82, b"\0\x01c\0\x01u\0\x01p"),
        ("a password flag without a password", 0xc2, b"\0\x01c\0\x01u"),
        ("the user name in front of the will", 0x86, b"\0\x01c\0\x01u\0\0\x01w\0\0"),
        ("no client identifier", 0x02, b""),
        ("a client identifier that is not UTF-8", 0x02, b"\0\x01\xff"),
        ("a will topic that is not UTF-8", 0x06, b"\0\x01c\0\0\x01\xff\0\0"),
        ("a user name that is not UTF-8", 0x82, b"\0\x01c\0\x01\xff"),
    ];
    for (what, flags, payload) in cases {
        let answer = world.answer_to(&connect_bytes(5, *flags, payload)).await;
        assert_eq!(answer, connack_5(ReasonCode::MalformedPacket), "{what}");
    }
    assert_eq!(world.broker.sessions(), 0);
}

/// [MQTT311-3.1.4-1] [MQTT311-3.1.2-3] [MQTT311-3.1.2-9] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] [MQTT311-3.1.2-14]
/// [MQTT311-3.1.2-15] [MQTT311-3.1.2-18] [MQTT311-3.1.2-19] [MQTT311-3.1.2-20] [MQTT311-3.1.2-21] [MQTT311-3.1.2-22]
/// [MQTT311-3.1.3-1] [MQTT311-3.1.3-3] [MQTT311-3.1.3-4] [MQTT311-3.1.3-10] [MQTT311-3.1.3-11] [MQTT311-3.2.2-6]
#[tokio::test(start_paused = true)]
async fn attack_12_a_connect_that_contradicts_itself_is_not_answered_in_3_1_1() {
    let world = World::new();
    let cases: &[(&str, u8, &[u8])] = &[
        ("the reserved flag", 0x03, b"\0\x01c"),
        ("a will flag without a will", 0x06, b"\0\x01c"),
        ("will QoS without a will", 0x0a, b"\0\x01c"),
        ("will QoS 3", 0x1e, b"\0\x01c\0\x01w\0\0"),
        ("will retain without a will", 0x22, b"\0\x01c"),
        ("a will without its flag", 0x02, b"\0\x01c\0\x01w\0\0"),
        ("a user name without its flag", 0x02, b"\0\x01c\0\x01u"),
        ("a user name flag without a user name", 0x82, b"\0\x01c"),
        ("a password without its flag", 0x82, b"\0\x01c\0\x01u\0\x01p"),
        ("a password flag without a password", 0xc2, b"\0\x01c\0\x01u"),
        ("a password without a user name", 0x42, b"\0\x01c\0\x01p"),
        ("no client identifier", 0x02, b""),
        ("a client identifier that is not UTF-8", 0x02, b"\0\x01\xff"),
        ("a will topic that is not UTF-8", 0x06, b"\0\x01c\0\x01\xff\0\0"),
        ("a user name that is not UTF-8", 0x82, b"\0\x01c\0\x01\xff"),
    ];
    for (what, flags, payload) in cases {
        assert_eq!(world.answer_to(&connect_bytes(4, *flags, payload)).await, b"", "{what}");
    }
    assert_eq!(world.broker.sessions(), 0);
}

/// [MQTT5-3.1.4-5] [MQTT311-3.1.4-4] [MQTT5-3.2.2-1] [MQTT5-3.2.2-2] [MQTT311-3.2.2-1] [MQTT5-3.2.2-3]
/// [MQTT311-3.2.2-2] [MQTT311-3.2.2-3] [MQTT5-3.1.2-5] [MQTT5-3.1.2-6] [MQTT5-3.1.4-4] [MQTT311-3.1.4-3]
#[tokio::test(start_paused = true)]
async fn session_present_is_the_only_flag_and_tells_whether_state_existed() {
    for version in BOTH {
        let world = World::new();
        // Whether a clean start is asked for, and whether a session is there then.
        for (clean_start, flag) in [(false, 0), (false, 1), (true, 0), (false, 1), (true, 0)] {
            let mut stream = world.stream().await;
            let mut bytes = Vec::new();
            let connect = Connect {
                clean_start,
                // In 3.1.1 a clean session would take its state with it.
                ..kept(version, "device")
            };
            Packet::Connect(Box::new(connect)).encode(version, &mut bytes).unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
            let mut connack = [0; 4];
            stream.read_exact(&mut connack).await.unwrap();
            assert_eq!((connack[0], connack[2], connack[3]), (0x20, flag, 0), "{version:?} {clean_start}");
            drop(stream);
            world.settled(0).await;
            if clean_start && version == Version::V3_1_1 {
                assert_eq!(world.broker.sessions(), 0);
                let (client, present) = world.resume(version, "device").await;
                assert!(!present);
                drop(client);
                world.settled(0).await;
            }
        }
    }
}

/// [MQTT5-3.1.2-4] [MQTT311-3.1.2-6] [MQTT5-3.1.2-23] [MQTT311-3.1.2-4] [MQTT311-3.1.2-5] [MQTT5-4.1.0-1]
/// [MQTT311-4.1.0-1] [MQTT311-4.1.0-2] [MQTT5-3.1.3-2] [MQTT311-3.1.3-2] [MQTT5-4.5.0-1] [MQTT311-4.5.0-1]
#[tokio::test(start_paused = true)]
async fn a_session_keeps_its_subscriptions_and_messages_until_a_clean_start_discards_them() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let (mut client, _) = world.resume(version, "device").await;
        client.subscribe(1, "a/+", QoS::ExactlyOnce).await.unwrap();
        drop(client);
        world.settled(1).await;
        publisher.say(QoS::AtLeastOnce, "a/1", "one").await;
        publisher.say(QoS::ExactlyOnce, "a/2", "two").await;

        let other = world.resume(version, "other").await;
        assert!(!other.1, "another client identifier is another session");
        let (mut client, present) = world.resume(version, "device").await;
        assert!(present);
        assert_eq!(client.payloads().await, ["one", "two"]);
        publisher.say(QoS::AtLeastOnce, "a/3", "three").await;
        assert_eq!(client.payloads().await, ["three"], "the subscription still holds");
        drop(client);

        let (mut client, present) =
            world.connect(Connect { clean_start: true, ..kept(version, "device") }).await;
        assert!(!present);
        publisher.say(QoS::AtLeastOnce, "a/4", "four").await;
        assert_eq!(client.payloads().await, [""; 0], "neither messages nor subscriptions are left");
    }
}

/// [MQTT5-4.1.0-2] [MQTT5-3.1.2-23]
#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_expiry_interval_has_passed_and_not_before() {
    let world = World::new();
    for (away, expected) in [(KEPT - 1, true), (KEPT + 1, false)] {
        drop(world.resume(Version::V5, "device").await);
        world.settled(0).await;
        tokio::time::sleep(Duration::from_secs(away.into())).await;
        let (_, present) = world.resume(Version::V5, "device").await;
        assert_eq!(present, expected, "after {away} s");
    }
    // Without an interval it ends with its connection.
    world.settled(0).await;
    drop(world.connect(Connect { clean_start: true, ..Connect::new(Version::V5, "device") }).await);
    world.settled(0).await;
    assert_eq!(world.broker.sessions(), 0);
}

/// [MQTT5-3.1.2-22] [MQTT311-3.1.2-24] [MQTT5-3.2.2-22]
#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    for version in BOTH {
        let world = World::new();
        let (mut client, _) =
            world.connect(Connect { keep_alive: 10, ..Connect::new(version, "device") }).await;
        client.set_patience(Duration::from_mins(10));
        // Whatever is sent counts, not only PINGREQ.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(14_500)).await;
            client.send(&Packet::Publish(publish(QoS::AtMostOnce, 0, "a", b"x"))).await.unwrap();
        }
        let heard = Instant::now();
        match version {
            Version::V5 => client.expect_disconnect(ReasonCode::KeepAliveTimeout).await,
            _ => client.expect_end().await,
        }
        let silent = heard.elapsed();
        assert!((15.0..17.0).contains(&silent.as_secs_f64()), "{version:?}: {silent:?}");

        let (mut patient, _) =
            world.connect(Connect { keep_alive: 0, ..Connect::new(version, "device") }).await;
        tokio::time::sleep(Duration::from_hours(20)).await;
        patient.ping().await.unwrap();
    }
}

/// [MQTT5-3.1.2-24] [MQTT5-3.1.2-25]
#[tokio::test(start_paused = true)]
async fn attack_90_no_packet_above_the_client_s_maximum_is_sent_and_the_message_counts_as_delivered() {
    let world = World::new();
    let mut publisher = world.join(Version::V5, "publisher").await;
    let properties = ConnectProperties {
        maximum_packet_size: NonZeroU32::new(64),
        session_expiry_interval: Some(KEPT),
        ..ConnectProperties::default()
    };
    let connect = Connect { properties, ..Connect::new(Version::V5, "small") };
    let (mut client, _) = world.connect(connect.clone()).await;
    client.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
    publisher.say(QoS::AtLeastOnce, "a", &"x".repeat(64)).await;
    publisher.say(QoS::AtLeastOnce, "a", "fits").await;
    let got = client.all().await;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].text(), "fits");
    drop(client);
    let (mut client, present) = world.connect(Connect { clean_start: false, ..connect }).await;
    assert!(present);
    assert_eq!(client.payloads().await, ["fits"], "what was too large is not tried again");
}

/// [MQTT5-3.1.2-24]: a client that has no room even for the refusal gets a close.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_larger_than_the_client_accepts_either() {
    let world = World::new();
    for maximum in 1..=24 {
        let properties = ConnectProperties {
            maximum_packet_size: NonZeroU32::new(maximum),
            ..ConnectProperties::default()
        };
        let connect = Connect { properties, ..Connect::new(Version::V5, "") };
        let mut bytes = Vec::new();
        Packet::Connect(Box::new(connect)).encode(Version::V5, &mut bytes).unwrap();
        let answer = world.answer_to(&bytes).await;
        assert!(answer.len() <= maximum as usize, "{} bytes for {maximum}", answer.len());
    }
}

/// [MQTT5-3.1.2-28] [MQTT5-3.2.2-19] [MQTT5-3.2.2-20]: a CONNACK explains nothing, so it can't be too long.
#[tokio::test(start_paused = true)]
async fn connack_has_neither_response_information_nor_reason_string_nor_user_properties() {
    let world = World::new();
    for wanted in [None, Some(false), Some(true)] {
        let mut client = world.dial(Version::V5).await;
        let properties =
            ConnectProperties { request_response_information: wanted, ..ConnectProperties::default() };
        let connack = client.connect(Connect { properties, ..Connect::new(Version::V5, "c") }).await.unwrap();
        let given = &connack.properties;
        assert_eq!((given.response_information, given.reason_string), (None, None));
        assert!(given.user_properties.is_empty());
    }
}

/// [MQTT5-3.1.2-29]
#[tokio::test(start_paused = true)]
async fn without_request_problem_information_only_connack_publish_and_disconnect_may_explain() {
    let world = World::new();
    let properties =
        ConnectProperties { request_problem_information: Some(false), ..ConnectProperties::default() };
    let (mut client, _) = world.connect(Connect { properties, ..Connect::new(Version::V5, "c") }).await;
    assert_no_explanations(&mut client).await;
}

/// [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2] [MQTT5-3.5.2-3] [MQTT5-3.7.2-2] [MQTT5-3.7.2-3] [MQTT5-3.9.2-1]
/// [MQTT5-3.9.2-2] [MQTT5-3.11.2-1] [MQTT5-3.11.2-2] [MQTT5-3.6.2-2] [MQTT5-3.6.2-3]: they are never sent, so they push
/// nothing over anybody's maximum.
#[tokio::test(start_paused = true)]
async fn acknowledgements_have_no_reason_string_and_no_user_properties() {
    let world = World::new();
    assert_no_explanations(&mut world.join(Version::V5, "c").await).await;
}

/// Makes the broker refuse and acknowledge everything that it can, and looks at each answer.
async fn assert_no_explanations(client: &mut Client) {
    let unwanted =
        |ack: &tidegate_codec::PubAck<'_>| ack.reason_string.is_some() || !ack.user_properties.is_empty();
    // SUBACK and UNSUBACK, for what is granted and for what is not.
    for filter in ["a", "a/#/b"] {
        let subscribe = tidegate_codec::Subscribe {
            packet_id: id(1),
            subscription_identifier: None,
            user_properties: tidegate_codec::UserProperties::default(),
            filters: vec![tidegate_codec::SubscribeFilter::new(filter, QoS::ExactlyOnce)],
        };
        client.send(&Packet::Subscribe(Box::new(subscribe))).await.unwrap();
        let Packet::SubAck(suback) = client.receive().await.unwrap() else { panic!("SUBACK") };
        crate::world::codes_of(&suback);
    }
    // PUBREC and PUBREL, PUBCOMP both ways, PUBACK with and without success.
    for (packet, number) in [
        (Packet::Publish(publish(QoS::AtLeastOnce, 1, "nobody", b"x")), 1),
        (Packet::Publish(publish(QoS::ExactlyOnce, 2, "nobody", b"x")), 2),
        (Packet::PubRel(tidegate_codec::PubAck::new(id(2))), 2),
        (Packet::PubRel(tidegate_codec::PubAck::new(id(3))), 3),
        (Packet::PubRec(tidegate_codec::PubAck::new(id(4))), 4),
    ] {
        client.send(&packet).await.unwrap();
        match client.receive().await.unwrap() {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                assert_eq!(ack.packet_id, id(number));
                assert!(!unwanted(&ack), "{ack:?}");
            }
            packet => panic!("{packet:?}"),
        }
    }
    for filter in ["a", "never"] {
        let unsubscribe = tidegate_codec::Unsubscribe {
            packet_id: id(1),
            user_properties: tidegate_codec::UserProperties::default(),
            filters: vec![filter],
        };
        client.send(&Packet::Unsubscribe(Box::new(unsubscribe))).await.unwrap();
        let Packet::UnsubAck(unsuback) = client.receive().await.unwrap() else { panic!("UNSUBACK") };
        crate::world::codes_of(&unsuback);
    }
}

/// [MQTT5-3.1.3-5] [MQTT311-3.1.3-5]
#[tokio::test(start_paused = true)]
async fn every_client_identifier_of_up_to_23_letters_and_digits_is_accepted() {
    let world = World::new();
    let alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in BOTH {
        for length in 1..=23 {
            world.join(version, &alphabet[length..2 * length]).await;
        }
        for start in (0..=39).step_by(13) {
            world.join(version, &alphabet[start..start + 23]).await;
        }
    }
}

/// [MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16] [MQTT311-3.1.3-6] [MQTT311-3.1.3-7]
#[tokio::test(start_paused = true)]
async fn a_client_without_identifier_gets_one_that_nobody_has() {
    let world = World::new();
    let mut assigned = Vec::new();
    for _ in 0..3 {
        let mut client = world.dial(Version::V5).await;
        let connack = client.connect(Connect { clean_start: false, ..kept(Version::V5, "") }).await.unwrap();
        assert!(!connack.session_present);
        assigned.push(connack.properties.assigned_client_id.unwrap().to_owned());
    }
    assigned.dedup();
    assert_eq!(assigned.len(), 3);
    world.settled(0).await;
    let (_, present) = world.resume(Version::V5, &assigned[1]).await;
    assert!(present, "the client comes back under its name");

    let mut first = world.join(Version::V3_1_1, "").await;
    let mut second = world.join(Version::V3_1_1, "").await;
    first.ping().await.unwrap();
    second.ping().await.unwrap();
}

/// [MQTT5-3.1.3-8] [MQTT311-3.1.3-8] [MQTT311-3.1.3-9] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5] [MQTT5-3.1.4-2]
#[tokio::test(start_paused = true)]
async fn attack_24_a_client_identifier_that_is_not_allowed_is_refused() {
    let world = World::with_limits(|limits| limits.max_client_id_bytes = 30);
    let long = "x".repeat(31);
    let refused = Some(ReasonCode::ClientIdentifierNotValid);
    for version in BOTH {
        assert_eq!(refusal(&world, Connect::new(version, &long)).await, refused);
        assert_eq!(refusal(&world, Connect::new(version, "a\u{7}")).await, refused);
    }
    let kept = Connect { clean_start: false, ..Connect::new(Version::V3_1_1, "") };
    assert_eq!(refusal(&world, kept).await, refused);
    // The return code as it stands on the wire.
    assert_eq!(world.answer_to(&connect_bytes(4, 0, b"\0\0")).await, b"\x20\x02\0\x02");
    assert_eq!(world.broker.sessions(), 0);
}

/// [MQTT5-3.1.4-3] [MQTT311-3.1.4-2]
#[tokio::test(start_paused = true)]
async fn a_client_that_connects_again_replaces_its_old_connection() {
    let world = World::new();
    for version in BOTH {
        let (mut old, _) = world.resume(version, "device").await;
        old.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
        let (mut new, present) = world.resume(version, "device").await;
        assert!(present);
        match version {
            Version::V5 => old.expect_disconnect(ReasonCode::SessionTakenOver).await,
            _ => old.expect_end().await,
        }
        new.ping().await.unwrap();
        drop(old);
        world.settled(1).await;
        assert_eq!(world.broker.sessions(), 1);
        drop(new);
        world.settled(0).await;
        drop(world.join(version, "device").await);
        world.settled(0).await;
    }
}

/// [MQTT5-3.2.0-1] [MQTT311-3.2.0-1] [MQTT5-3.2.0-2]: also when messages wait for the client.
#[tokio::test(start_paused = true)]
async fn connack_is_the_first_packet_and_comes_once() {
    use PacketType::{ConnAck, PingResp, Publish};

    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let (mut client, _) = world.resume(version, "device").await;
        client.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
        publisher.say(QoS::AtLeastOnce, "a", "in flight").await;
        client.got().await;
        drop(client);
        world.settled(1).await;
        publisher.say(QoS::AtLeastOnce, "a", "queued").await;
        // CONNECT and what follows in one write.
        let mut client = world.dial(version).await;
        let mut bytes = Vec::new();
        Packet::Connect(Box::new(kept(version, "device"))).encode(version, &mut bytes).unwrap();
        bytes.extend(b"\xc0\0");
        client.send_raw(&bytes).await.unwrap();
        let mut types = Vec::new();
        for _ in 0..4 {
            types.push(client.receive().await.unwrap().packet_type());
        }
        assert_eq!(types, [ConnAck, Publish, Publish, PingResp], "{version:?}");
    }
}

/// [MQTT5-3.2.2-9] [MQTT5-3.2.2-10] [MQTT5-3.2.2-11] [MQTT5-3.2.2-12]
#[tokio::test(start_paused = true)]
async fn a_server_with_a_maximum_qos_says_so_and_keeps_to_it() {
    for (maximum, granted) in
        [(QoS::AtMostOnce, ReasonCode::GRANTED_QOS_0), (QoS::AtLeastOnce, ReasonCode::GrantedQos1)]
    {
        let world = World::with_limits(|limits| limits.max_qos = maximum);
        let mut client = world.dial(Version::V5).await;
        let connack = client.connect(Connect::new(Version::V5, "c")).await.unwrap();
        assert_eq!(connack.properties.maximum_qos, Some(maximum));
        assert_eq!(client.subscribe(1, "a", QoS::ExactlyOnce).await.unwrap(), granted);
        client.send(&Packet::Publish(publish(QoS::ExactlyOnce, 1, "a", b"x"))).await.unwrap();
        client.expect_disconnect(ReasonCode::QosNotSupported).await;
        let demanding = Will { qos: QoS::ExactlyOnce, ..will("w", b"x") };
        let connect = Connect { will: Some(demanding), ..Connect::new(Version::V5, "c") };
        assert_eq!(refusal(&world, connect).await, Some(ReasonCode::QosNotSupported));
    }
    let mut client = World::new().dial(Version::V5).await;
    let connack = client.connect(Connect::new(Version::V5, "c")).await.unwrap();
    assert_eq!(connack.properties.maximum_qos, None);
}

/// [MQTT5-3.2.2-13] [MQTT5-3.2.2-14]
#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_retain_says_so_and_refuses_wills_and_messages_that_ask_for_it() {
    let world = World::with_limits(|limits| limits.retain_available = false);
    let mut client = world.dial(Version::V5).await;
    let connack = client.connect(Connect::new(Version::V5, "c")).await.unwrap();
    assert_eq!(connack.properties.retain_available, Some(false));
    client
        .send(&Packet::Publish(Publish { retain: true, ..publish(QoS::AtMostOnce, 0, "a", b"x") }))
        .await
        .unwrap();
    client.expect_disconnect(ReasonCode::RetainNotSupported).await;
    let retained = Will { retain: true, ..will("w", b"x") };
    let connect = Connect { will: Some(retained), ..Connect::new(Version::V5, "c") };
    assert_eq!(refusal(&world, connect).await, Some(ReasonCode::RetainNotSupported));
}

/// [MQTT5-3.2.2-15]: refused from its length, before its body is there.
#[tokio::test(start_paused = true)]
async fn attack_102_a_packet_above_the_announced_maximum_is_refused() {
    let world = World::with_limits(|limits| limits.max_packet_size = NonZeroU32::new(1000).unwrap());
    let mut client = world.dial(Version::V5).await;
    let connack = client.connect(Connect::new(Version::V5, "c")).await.unwrap();
    assert_eq!(connack.properties.maximum_packet_size, NonZeroU32::new(1000));
    client.say(QoS::AtLeastOnce, "a", &"x".repeat(990)).await;
    client.send_raw(b"\x30\xe6\x07").await.unwrap();
    client.expect_disconnect(ReasonCode::PacketTooLarge).await;
}

/// [MQTT5-3.2.2-17] [MQTT5-3.2.2-18] [MQTT5-3.3.2-9] [MQTT5-3.3.2-12]
#[tokio::test(start_paused = true)]
async fn attack_89_topic_aliases_are_taken_up_to_the_announced_maximum() {
    for maximum in [0, 3] {
        let world = World::with_limits(|limits| limits.topic_alias_maximum = maximum);
        let mut client = world.dial(Version::V5).await;
        let connack = client.connect(Connect::new(Version::V5, "c")).await.unwrap();
        assert_eq!(connack.properties.topic_alias_maximum.unwrap_or(0), maximum);
        let aliased = |alias, topic: &'static str| {
            let mut publish = publish(QoS::AtMostOnce, 0, topic, b"x");
            publish.properties.topic_alias = NonZeroU16::new(alias);
            publish
        };
        client.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
        for alias in 1..=maximum {
            client.send(&Packet::Publish(aliased(alias, "t"))).await.unwrap();
            assert_eq!(client.got().await.topic, "t");
            client.send(&Packet::Publish(aliased(alias, ""))).await.unwrap();
            assert_eq!(client.got().await.topic, "t");
        }
        client.send(&Packet::Publish(aliased(maximum + 1, "t"))).await.unwrap();
        client.expect_disconnect(ReasonCode::TopicAliasInvalid).await;
    }
}

/// [MQTT5-3.2.2-8] [MQTT5-4.12.0-1] [MQTT5-4.12.0-4]: Tidegate speaks no enhanced authentication.
#[tokio::test(start_paused = true)]
async fn attack_33_an_authentication_method_is_refused() {
    let world = World::new();
    let properties =
        ConnectProperties { authentication_method: Some("SCRAM-SHA-256"), ..ConnectProperties::default() };
    let connect = Connect { properties, ..Connect::new(Version::V5, "c") };
    assert_eq!(refusal(&world, connect).await, Some(ReasonCode::BadAuthenticationMethod));
}

/// [MQTT5-4.12.0-6] [MQTT5-4.12.0-7] [MQTT5-4.12.1-1] [MQTT5-4.12.1-2]
#[tokio::test(start_paused = true)]
async fn attack_33_auth_without_an_authentication_method_is_a_protocol_error() {
    let world = World::new();
    for auth in [&b"\xf0\0"[..], b"\xf0\x02\x18\0", b"\xf0\x02\x19\0", b"\xf0\x09\x19\x07\x15\0\x04NONE"] {
        let mut client = world.dial(Version::V5).await;
        let connack = client.connect(Connect::new(Version::V5, "c")).await.unwrap();
        assert_eq!(connack.properties.authentication_method, None);
        assert_eq!(connack.properties.authentication_data, None);
        client.send_raw(auth).await.unwrap();
        client.expect_disconnect(ReasonCode::ProtocolError).await;
    }
    // What is no CONNECT does not answer a CONNECT that was never made.
    assert_eq!(world.answer_to(b"\xf0\0").await, b"");
}

/// [MQTT5-4.2-1] [MQTT311-7.1.1-1] [MQTT311-7.0.0-2]: TCP is such a transport; a client of another project speaks to
/// it in `clients.rs`.
#[tokio::test]
async fn a_conversation_runs_over_tcp() {
    let world = World::new();
    let listener = tidegate_broker::Tcp::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = world.broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    for version in BOTH {
        let mut client = Peer::dial(address, version).await.unwrap();
        client.join("device").await.unwrap();
        client.ping().await.unwrap();
    }
    let connections = || world.broker.connections() == 0;
    for _ in 0..500 {
        if connections() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until(connections).await;
}

/// [MQTT5-3.1.2-28]: who asks for response information gets what is made for it, and nobody else does.
#[tokio::test(start_paused = true)]
async fn response_information_is_for_who_asks_and_is_left_out_where_it_does_not_fit() {
    let information = ResponseInformation::new("responses/%c/").unwrap();
    let world = World::with(|config| config.response_information = Some(information));
    for (id, asks, room, expected) in [
        ("c", Some(true), None, Some("responses/c/")),
        ("c", Some(false), None, None),
        ("c", None, None, None),
        ("a/b", Some(true), None, None),
        ("c", Some(true), NonZeroU32::new(30), None),
    ] {
        let properties = ConnectProperties {
            request_response_information: asks,
            maximum_packet_size: room,
            ..ConnectProperties::default()
        };
        let mut client = world.dial(Version::V5).await;
        let connect = Connect { properties, ..Connect::new(Version::V5, id) };
        let connack = client.connect(connect).await.unwrap();
        assert_eq!(connack.reason, ReasonCode::Success);
        assert_eq!(connack.properties.response_information, expected, "{id} {asks:?}");
    }
}

/// 4.11: for now, for good, and when the server shuts down.
#[tokio::test(start_paused = true)]
async fn clients_are_sent_to_another_server_that_is_named_where_it_fits() {
    let limits = Limits { server_reference: Some("other:1883".into()), ..Limits::default() };
    let limits = Arc::new(limits);
    for (redirect, reason) in
        [(Redirect::ForNow, ReasonCode::UseAnotherServer), (Redirect::ForGood, ReasonCode::ServerMoved)]
    {
        let world = World::with(|config| {
            config.limits = Arc::clone(&limits);
            config.redirect = Some(redirect);
        });
        for (room, named) in [(None, Some("other:1883")), (NonZeroU32::new(17), None)] {
            let properties = ConnectProperties { maximum_packet_size: room, ..ConnectProperties::default() };
            let mut client = world.dial(Version::V5).await;
            let connect = Connect { properties, ..Connect::new(Version::V5, "c") };
            client.send(&Packet::Connect(Box::new(connect))).await.unwrap();
            match client.receive().await.unwrap() {
                Packet::ConnAck(connack) => {
                    assert_eq!((connack.reason, connack.properties.server_reference), (reason, named));
                }
                packet => panic!("{packet:?}"),
            }
            client.expect_end().await;
        }
        assert_eq!(
            refusal(&world, Connect::new(Version::V3_1_1, "c")).await,
            Some(ReasonCode::ServerUnavailable)
        );
    }
    let world = World::with(|config| config.limits = limits);
    let mut client = world.join(Version::V5, "c").await;
    let (broker, mut old) = (world.broker.clone(), world.join(Version::V3_1_1, "d").await);
    tokio::spawn(async move { broker.shutdown().await });
    match client.receive().await.unwrap() {
        Packet::Disconnect(disconnect) => {
            assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
            assert_eq!(disconnect.server_reference, Some("other:1883"));
        }
        packet => panic!("{packet:?}"),
    }
    old.expect_end().await;
}
