//! What the encoder refuses, and that it leaves the output alone then.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as it does")]

use std::num::NonZeroU32;

use tidegate_codec::*;

#[track_caller]
fn refused(packet: &Packet<'_>, version: Version) -> EncodeError {
    let mut out = b"before".to_vec();
    let error = packet.encode(version, &mut out).expect_err("it is refused");
    assert_eq!(out, b"before", "nothing is appended");
    assert_eq!(packet.encoded_len(version), Err(error));
    error
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

#[test]
fn a_field_beyond_65535_bytes_is_refused() {
    let long = "x".repeat(65_536);
    let too_long = EncodeError::FieldTooLong { bytes: 65_536 };
    let publish = Publish { topic: &long, ..Publish::default() };
    assert_eq!(refused(&Packet::Publish(publish), Version::V5), too_long);
    let connect = Connect::new(Version::V3_1_1, &long);
    assert_eq!(refused(&Packet::Connect(Box::new(connect)), Version::V3_1_1), too_long);
    let properties = PublishProperties { correlation_data: Some(long.as_bytes()), ..Default::default() };
    let publish = Publish { topic: "t", properties, ..Publish::default() };
    assert_eq!(refused(&Packet::Publish(publish.clone()), Version::V5), too_long);
    // 3.1.1 has no correlation data that could be too long.
    publish.encode(Version::V3_1_1, &mut Vec::new()).unwrap();
}

#[test]
fn a_packet_beyond_remaining_length_is_refused_before_it_is_copied() {
    // Zeroed pages that are never touched.
    let payload = vec![0; 268_435_456];
    let publish = Publish { topic: "t", payload: &payload, ..Publish::default() };
    let error = EncodeError::PacketTooLarge { bytes: 268_435_459 };
    assert_eq!(refused(&Packet::Publish(publish), Version::V3_1_1), error);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let base = Publish { topic: "t", ..Publish::default() };
    let inconsistent = [
        Publish { qos: QoS::AtLeastOnce, ..base.clone() },
        Publish { packet_id: Some(id(1)), ..base.clone() },
        Publish { dup: true, ..base.clone() },
        Publish { topic: "", ..base.clone() },
        Publish {
            properties: PublishProperties {
                subscription_identifiers: SubscriptionIdentifiers::One(NonZeroU32::MAX),
                ..Default::default()
            },
            ..base
        },
    ];
    for publish in inconsistent {
        let error = refused(&Packet::Publish(publish), Version::V5);
        assert!(matches!(error, EncodeError::Inconsistent { .. }), "{error}");
    }
    let suback = Packet::SubAck(Box::new(SubAck::new(id(1), vec![])));
    assert!(matches!(refused(&suback, Version::V3_1_1), EncodeError::Inconsistent { .. }));
    let connack = ConnAck { session_present: true, ..ConnAck::new(ReasonCode::Banned) };
    let connack = Packet::ConnAck(Box::new(connack));
    assert!(matches!(refused(&connack, Version::V5), EncodeError::Inconsistent { .. }));
}

#[test]
fn what_a_version_cannot_say_is_refused() {
    let auth = Packet::Auth(Box::new(Auth::new(ReasonCode::ContinueAuthentication)));
    let connack = Packet::ConnAck(Box::new(ConnAck::new(ReasonCode::MalformedPacket)));
    let password = Connect { password: Some(b"p"), ..Connect::new(Version::V3_1_1, "x") };
    for packet in [auth, connack, Packet::Connect(Box::new(password))] {
        let error = refused(&packet, Version::V3_1_1);
        assert!(matches!(error, EncodeError::NotRepresentable { .. }), "{error}");
    }
}

#[test]
fn a_reason_code_is_only_written_where_it_belongs() {
    let puback = PubAck::with_reason(id(1), ReasonCode::PacketIdentifierNotFound);
    let error = |packet| EncodeError::ReasonCodeNotAllowed { reason: puback.reason, packet };
    assert_eq!(refused(&Packet::PubAck(puback.clone()), Version::V5), error(PacketType::PubAck));
    assert_eq!(refused(&Packet::PubRec(puback.clone()), Version::V5), error(PacketType::PubRec));
    // PUBREL may carry it, and 3.1.1 does not show it.
    puback.encode_pubrel(Version::V5, &mut Vec::new()).unwrap();
    puback.encode_puback(Version::V3_1_1, &mut Vec::new()).unwrap();
}

#[test]
fn connack_return_codes_of_3_say_what_they_can() {
    use ReasonCode as R;
    for number in 0..=5 {
        let reason = R::from_connect_return_code(number).unwrap();
        assert_eq!(reason.to_connect_return_code(), Some(number));
    }
    assert_eq!(R::from_connect_return_code(6), None);
    assert_eq!(R::Banned.to_connect_return_code(), Some(5));
    assert_eq!(R::ServerBusy.to_connect_return_code(), Some(3));
    assert_eq!(R::MalformedPacket.to_connect_return_code(), None);
}

#[test]
fn every_reason_code_has_its_number_and_a_place() {
    let types = (1..=15).filter_map(PacketType::from_u8).collect::<Vec<_>>();
    assert_eq!(types.len(), 15);
    let codes = (0..=u8::MAX).filter_map(|number| {
        let code = ReasonCode::from_u8(number)?;
        assert_eq!(code.as_u8(), number);
        Some(code)
    });
    let mut count = 0;
    for code in codes {
        assert!(types.iter().any(|&packet| code.is_allowed_in(packet)), "{code:?}");
        count += 1;
    }
    assert_eq!(count, 43, "the table of section 2.4");
}

#[test]
fn a_resumed_session_is_not_said_in_3_1_whose_byte_is_reserved() {
    let connack = ConnAck { session_present: true, ..ConnAck::new(ReasonCode::Success) };
    for (version, expected) in [(Version::V3_1, [0x20, 2, 0, 0]), (Version::V3_1_1, [0x20, 2, 1, 0])] {
        let mut out = Vec::new();
        connack.encode(version, &mut out).unwrap();
        assert_eq!(out, expected);
    }
}
