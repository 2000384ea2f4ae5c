//! What is not MQTT, or not allowed here: chapters 1.5, 2 and 4.13.

use tidegate_codec::{QoS, ReasonCode, Version};
use tokio::io::AsyncWriteExt;

use crate::world::{BOTH, Script, World};

/// [MQTT5-4.13.1-1] [MQTT5-4.13.2-1] [MQTT311-4.8.0-1] [MQTT5-2.1.3-1] [MQTT311-2.2.2-1] [MQTT311-2.2.2-2]
/// [MQTT5-1.5.4-1] [MQTT311-1.5.3-1] [MQTT5-1.5.4-2] [MQTT311-1.5.3-2] [MQTT5-1.5.5-1] [MQTT5-1.5.7-1] [MQTT5-3.15.1-1]
/// [MQTT5-3.15.2-1] [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.6.2-1] [MQTT5-3.7.2-1] [MQTT5-3.14.2-1]
#[tokio::test(start_paused = true)]
async fn attack_02_18_20_24_a_malformed_packet_ends_its_connection_with_its_reason_and_no_other() {
    use ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError};

    let world = World::new();
    let mut bystander = world.join(Version::V5, "bystander").await;
    let five: &[(&str, &[u8], ReasonCode)] = &[
        ("packet type 0", b"\x00\0", MalformedPacket),
        ("reserved flags", b"\xc1\0", MalformedPacket),
        ("PUBACK with flags", b"\x41\x02\0\x01", MalformedPacket),
        ("AUTH with flags", b"\xf1\0", MalformedPacket),
        ("a reason code that AUTH does not have", b"\xf0\x02\x87\0", ProtocolError),
        ("a reason code that PUBACK does not have", b"\x40\x03\0\x01\x92", ProtocolError),
        ("a reason code that PUBREC does not have", b"\x50\x03\0\x01\x92", ProtocolError),
        ("a reason code that PUBREL does not have", b"\x62\x03\0\x01\x10", ProtocolError),
        ("a reason code that PUBCOMP does not have", b"\x70\x03\0\x01\x10", ProtocolError),
        ("a reason code that DISCONNECT does not have", b"\xe0\x01\x01", ProtocolError),
        ("a length longer than needed", b"\xc0\x80\0", MalformedPacket),
        ("a property length longer than needed", b"\x30\x05\0\x01a\x80\0", MalformedPacket),
        ("a topic longer than its packet", b"\x30\x04\0\x09ab", MalformedPacket),
        ("no property length", b"\x30\x03\0\x01a", MalformedPacket),
        ("a topic that is not UTF-8", b"\x30\x05\0\x02\xc3\x28\0", MalformedPacket),
        ("a surrogate", b"\x30\x06\0\x03\xed\xa0\x80\0", MalformedPacket),
        ("half a user property", b"\x30\x08\0\x01a\x04\x26\0\x01k", MalformedPacket),
        (
            "a user property whose value is not UTF-8",
            b"\x30\x0b\0\x01a\x07\x26\0\x01k\0\x01\xff",
            MalformedPacket,
        ),
        ("a user property whose name has U+0000", b"\x30\x0b\0\x01a\x07\x26\0\x01\0\0\x01v", MalformedPacket),
        ("an unknown property", b"\x30\x06\0\x01a\x02\x7f\x01", MalformedPacket),
        ("a property twice", b"\x30\x08\0\x01a\x04\x01\0\x01\0", ProtocolError),
        ("a packet cut short", b"\x62\x01\0", MalformedPacket),
        ("more than a gigabyte", b"\x30\xff\xff\xff\x7f", PacketTooLarge),
    ];
    for (what, bytes, reason) in five {
        assert_eq!(world.answer_of(Version::V5, bytes).await, [0xe0, 1, reason.as_u8()], "{what}");
    }
    let three: &[(&str, &[u8])] = &[
        ("packet type 0", b"\x00\0"),
        ("AUTH", b"\xf0\0"),
        ("reserved flags", b"\xc1\0"),
        ("PUBACK with flags", b"\x41\x02\0\x01"),
        ("PUBACK with a reason code", b"\x40\x03\0\x01\0"),
        ("a topic that is not UTF-8", b"\x30\x04\0\x02\xc3\x28"),
        ("U+0000 in a topic", b"\x30\x03\0\x01\0"),
        ("a packet cut short", b"\x62\x01\0"),
        ("more than a gigabyte", b"\x30\xff\xff\xff\x7f"),
    ];
    for (what, bytes) in three {
        assert_eq!(world.answer_of(Version::V3_1_1, bytes).await, b"", "{what}");
    }
    bystander.ping().await.unwrap();
}

/// [MQTT311-4.8.0-2] [MQTT5-4.13.2-1]: what is well formed and beyond what this server takes ends the connection too.
#[tokio::test(start_paused = true)]
async fn attack_21_more_user_properties_or_filters_than_allowed_end_the_connection() {
    let world = World::with(|config| {
        config.decoder_limits.max_user_properties = 3;
        config.decoder_limits.max_filters = 3;
    });
    let mut properties = b"\x30".to_vec();
    properties.extend([4 + 4 * 7, 0, 1, b'a', 4 * 7]);
    properties.extend(b"\x26\0\x01k\0\x01v".repeat(4));
    assert_eq!(world.answer_of(Version::V5, &properties).await, b"\xe0\x01\x97");
    for version in BOTH {
        let head: &[u8] = if version == Version::V5 { b"\0\x01\0" } else { b"\0\x01" };
        let body = [head, &b"\0\x01a\0".repeat(4)].concat();
        let packet = [&[0x82, u8::try_from(body.len()).unwrap()][..], &body].concat();
        let expected: &[u8] = if version == Version::V5 { b"\xe0\x01\x97" } else { b"" };
        assert_eq!(world.answer_of(version, &packet).await, expected);
    }
}

/// [MQTT5-4.13.1-1]: what a fault is does not depend on how its bytes come.
#[tokio::test(start_paused = true)]
async fn attack_30_a_conversation_in_single_bytes_is_the_same_as_in_one_piece() {
    for version in BOTH {
        let mut script = Vec::new();
        let connect = tidegate_codec::Connect::new(version, "device");
        tidegate_codec::Packet::Connect(Box::new(connect)).encode(version, &mut script).unwrap();
        let subscribe: &[u8] = if version == Version::V5 {
            b"\x82\x07\0\x01\0\0\x01a\x01"
        } else {
            b"\x82\x06\0\x01\0\x01a\x01"
        };
        script.extend(subscribe);
        for number in 0..30 {
            let publish = crate::world::publish(QoS::ExactlyOnce, number + 1, "b", b"x");
            tidegate_codec::Packet::Publish(publish).encode(version, &mut script).unwrap();
            script.extend([0x62, 2, 0, u8::try_from(number).unwrap() + 1, 0xc0, 0]);
        }
        script.extend(b"\xe0\0");
        let mut answers = Vec::new();
        for piece in [script.len(), 1, 2, 3, 7, 64] {
            let world = World::new();
            let mut stream = world.stream().await;
            for bytes in script.chunks(piece) {
                stream.write_all(bytes).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap();
            answers.push(answer);
        }
        assert!(answers[0].len() > 30 * 10);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{version:?}");
    }
}

/// [MQTT5-4.13.1-1] [MQTT311-4.8.0-1]: a connection that ends takes nothing else with it.
#[tokio::test(start_paused = true)]
async fn attack_10_packets_of_a_server_end_only_the_connection_that_they_come_on() {
    let world = World::new();
    let mut bystander = world.join(Version::V5, "bystander").await;
    for first in [0x20_u8, 0x90, 0xb0, 0xd0] {
        for version in BOTH {
            let bytes: &[u8] = match first {
                0xd0 => b"\xd0\0",
                _ => &[first, 3, 0, 1, 0],
            };
            let expected: &[u8] = if version == Version::V5 { b"\xe0\x01\x82" } else { b"" };
            assert_eq!(world.answer_of(version, bytes).await, expected, "{first:02x} {version:?}");
            assert_eq!(world.answer_to(bytes).await, b"");
        }
    }
    bystander.say(QoS::AtLeastOnce, "a", "x").await;
}
