//! What a decoder must survive, by the numbers of the list of attacks, and what a server may answer.

use tidegate_codec::{Answer, DecodeError, Decoded, Decoder, Fault, Limits, Packet, ReasonCode, Version};

fn server(version: Option<Version>) -> Decoder {
    let mut decoder = Decoder::new(Limits::default());
    if let Some(version) = version {
        decoder.set_version(version);
    }
    decoder
}

#[track_caller]
fn refused(version: Option<Version>, bytes: &[u8]) -> DecodeError {
    server(version).decode(bytes).expect_err("it is refused")
}

const V311: Option<Version> = Some(Version::V3_1_1);
const V5: Option<Version> = Some(Version::V5);

fn connect(body: &[u8]) -> Vec<u8> {
    [&[0x10, body.len() as u8], body].concat()
}

#[test]
fn attack_01_a_fifth_length_byte_is_not_waited_for() {
    for version in [None, V311, V5] {
        let first = if version.is_some() { 0x30 } else { 0x10 };
        let error = refused(version, &[first, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(error.fault(), Fault::IntegerTooLong);
        assert_eq!(error.reason_code(), ReasonCode::MalformedPacket);
    }
}

#[test]
fn attack_02_a_length_longer_than_needed_is_malformed_in_5() {
    let error = refused(V5, b"\xc0\x80\0");
    assert_eq!(error.answer(), Answer::Disconnect { reason: ReasonCode::MalformedPacket });
    assert_eq!(error.statement(), "MQTT5-1.5.5-1");
}

#[test]
fn attack_04_a_connect_above_its_own_limit_is_refused_from_its_header() {
    // 65,536 bytes are allowed, one more is not; other packets may be larger.
    assert_eq!(server(None).decode(b"\x10\xfc\xff\x03"), Ok(Decoded::Incomplete { at_least: 65_532 }));
    let error = refused(None, b"\x10\xfd\xff\x03");
    assert_eq!(error.fault(), Fault::PacketTooLarge { bytes: 65_537, limit: 65_536 });
    assert_eq!(server(V5).decode(b"\x30\xfd\xff\x03"), Ok(Decoded::Incomplete { at_least: 65_533 }));
}

#[test]
fn attack_08_what_is_not_mqtt_is_refused_at_its_first_byte_and_not_answered() {
    for bytes in [&b"G"[..], b"\x16", b"\x30", b"\xc0", b"\0", b"SSH-2.0", b"\xff"] {
        assert_eq!(refused(None, bytes).answer(), Answer::Close, "{bytes:02x?}");
    }
}

#[test]
fn attack_09_a_second_connect_is_a_protocol_error() {
    let error = refused(V5, b"\x10");
    assert_eq!(error.answer(), Answer::Disconnect { reason: ReasonCode::ProtocolError });
    assert_eq!(error.statement(), "MQTT5-3.1.0-2");
    assert_eq!(refused(V311, b"\x10").answer(), Answer::Close);
}

#[test]
fn attack_10_packets_of_a_server_are_a_protocol_error_before_and_after_connect() {
    for first in [0x20, 0x90, 0xB0, 0xD0] {
        for version in [None, V311, V5] {
            assert_eq!(refused(version, &[first]).reason_code(), ReasonCode::ProtocolError);
        }
    }
}

#[test]
fn attack_12_a_contradictory_connect_is_answered_in_its_version() {
    // Will QoS 1 without a will: 5.0 has a code to say so, 3.1.1 has not.
    assert_eq!(
        refused(None, &connect(b"\0\x04MQTT\x05\x0a\0\0\0\0\x01x")).answer(),
        Answer::ConnAck { version: Version::V5, reason: ReasonCode::MalformedPacket }
    );
    assert_eq!(refused(None, &connect(b"\0\x04MQTT\x04\x0a\0\0\0\x01x")).answer(), Answer::Close);
}

#[test]
fn attack_13_an_unknown_level_is_answered_in_the_nearest_version() {
    for (body, version, first_byte_of_refusal) in [
        (&b"\0\x06MQIsdp\x04"[..], Version::V3_1, 0x01),
        (b"\0\x04MQTT\x03", Version::V3_1_1, 0x01),
        (b"\0\x04MQTT\x09", Version::V5, 0x84),
    ] {
        let Answer::ConnAck { version: answered, reason } = refused(None, &connect(body)).answer() else {
            panic!("it is answered");
        };
        assert_eq!((answered, reason), (version, ReasonCode::UnsupportedProtocolVersion));
        let mut out = Vec::new();
        tidegate_codec::ConnAck::new(reason).encode(answered, &mut out).unwrap();
        assert_eq!(out[3], first_byte_of_refusal);
    }
    assert_eq!(refused(None, &connect(b"\0\x04HTTP\x04")).answer(), Answer::Close);
}

#[test]
fn attack_14_qos_3_is_malformed() {
    assert_eq!(refused(V5, b"\x36").reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn attack_16_a_subscribe_without_filters_or_options_is_refused() {
    assert_eq!(refused(V5, b"\x82\x03\0\x01\0").reason_code(), ReasonCode::ProtocolError);
    assert_eq!(refused(V5, b"\x82\x06\0\x01\0\0\x01a").reason_code(), ReasonCode::MalformedPacket);
    assert_eq!(refused(V5, b"\x82\x07\0\x01\0\0\x01a\xc0").reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn attack_17_packet_identifier_0_is_a_protocol_error() {
    let packets: [&[u8]; 4] =
        [b"\x32\x06\0\x01a\0\0\0", b"\x82\x07\0\0\0\0\x01a\0", b"\xa2\x06\0\0\0\0\x01a", b"\x40\x02\0\0"];
    for bytes in packets {
        assert_eq!(refused(V5, bytes).reason_code(), ReasonCode::ProtocolError, "{bytes:02x?}");
    }
}

#[test]
fn attack_18_a_topic_longer_than_its_packet_is_malformed() {
    assert_eq!(refused(V5, b"\x30\x04\xff\xffab").reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn attack_20_a_user_property_cut_short_is_malformed() {
    let error = refused(V5, b"\x30\x0a\0\x01a\x06\x26\0\x01k\0\x05");
    assert_eq!(error.reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn attack_21_user_properties_are_counted() {
    // 13,000 empty ones in a PUBLISH of 64 KiB.
    let pairs = b"\x26\0\0\0\0".repeat(13_000);
    let mut body = b"\0\x01a\xe8\xfb\x03".to_vec();
    body.extend(&pairs);
    let mut packet = b"\x30\xee\xfb\x03".to_vec();
    packet.extend(&body);
    assert_eq!(refused(V5, &packet).fault(), Fault::TooManyUserProperties { limit: 100 });
    assert_eq!(refused(V5, &packet).reason_code(), ReasonCode::QuotaExceeded);
}

#[test]
fn attack_24_u_0000_is_malformed_wherever_a_string_stands() {
    let packets: [&[u8]; 3] =
        [b"\x30\x05\0\x02a\0\0", b"\x82\x08\0\x01\0\0\x02a\0\0", b"\xa2\x07\0\x01\0\0\x02a\0"];
    for bytes in packets {
        assert_eq!(refused(V5, bytes).fault(), Fault::NulInString, "{bytes:02x?}");
    }
}

#[test]
fn attack_25_an_empty_topic_or_one_with_wildcards_is_an_invalid_name() {
    for bytes in [&b"\x30\x03\0\0\0"[..], b"\x30\x04\0\x01+\0", b"\x30\x06\0\x03a/#\0"] {
        let answer = refused(V5, bytes).answer();
        assert_eq!(answer, Answer::Disconnect { reason: ReasonCode::TopicNameInvalid });
    }
}

#[test]
fn attack_26_32_the_longest_strings_decode_in_place() {
    let topic = "/".repeat(65_535);
    let publish = tidegate_codec::Publish { topic: &topic, ..Default::default() };
    let mut bytes = Vec::new();
    publish.encode(Version::V5, &mut bytes).unwrap();
    let Ok(Decoded::Packet { packet: Packet::Publish(decoded), .. }) = server(V5).decode(&bytes) else {
        panic!("it decodes");
    };
    assert_eq!(decoded, publish);
    // Borrowed from the bytes, not copied.
    assert!(bytes.as_ptr_range().contains(&decoded.topic.as_ptr()));
}

#[test]
fn attack_30_a_thousand_packets_in_one_segment_decode_one_by_one() {
    let segment = b"\x30\x05\0\x01ahi\xc0\0".repeat(500);
    let decoder = server(V311);
    let (mut rest, mut packets) = (&segment[..], 0);
    while !rest.is_empty() {
        let Ok(Decoded::Packet { len, .. }) = decoder.decode(rest) else { panic!("it decodes") };
        rest = &rest[len..];
        packets += 1;
    }
    assert_eq!(packets, 1000);
}

#[test]
fn nothing_of_a_message_is_copied() {
    let properties = tidegate_codec::PublishProperties {
        content_type: Some("text/plain"),
        user_properties: tidegate_codec::UserProperties::from_pairs([("a", "1"), ("b", "2"), ("c", "3")])
            .expect("short strings"),
        ..Default::default()
    };
    let publish =
        tidegate_codec::Publish { topic: "t", payload: b"payload", properties, ..Default::default() };
    let mut bytes = Vec::new();
    publish.encode(Version::V5, &mut bytes).expect("it encodes");
    let Ok(Decoded::Packet { packet: Packet::Publish(decoded), .. }) = server(V5).decode(&bytes) else {
        panic!("it decodes");
    };
    let inside = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr());
    assert!(inside(decoded.topic.as_bytes()));
    assert!(inside(decoded.payload));
    assert!(inside(decoded.properties.user_properties.as_wire()));
}
