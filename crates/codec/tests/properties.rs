//! What holds for every packet and for all bytes.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as it does")]

mod strategies;

use proptest::prelude::*;
use strategies::{packet, version};
use tidegate_codec::*;

fn decoder(role: Role, version: Version, packet: &Packet<'_>) -> Decoder {
    match (role, packet) {
        (Role::Server, Packet::Connect(_)) => Decoder::new(Limits::UNLIMITED),
        (Role::Server, _) => {
            let mut decoder = Decoder::new(Limits::UNLIMITED);
            decoder.set_version(version);
            decoder
        }
        (Role::Client, _) => Decoder::client(version, Limits::UNLIMITED),
    }
}

/// Bytes of the fixed header.
fn header_bytes(packet: &[u8]) -> usize {
    2 + packet[1..].iter().take_while(|&&byte| byte >= 0x80).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Also that the length is known beforehand, that nothing in front of it is touched, that it is not decoded from
    /// fewer bytes, and that more bytes behind it change nothing.
    #[test]
    fn what_is_written_is_read_as_it_was(
        (version, (role, packet)) in version().prop_flat_map(|version| (Just(version), packet(version))),
        behind in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut written = b"before".to_vec();
        packet.encode(version, &mut written).unwrap();
        let bytes = written.strip_prefix(b"before").unwrap();
        prop_assert_eq!(packet.encoded_len(version).unwrap(), bytes.len());

        let decoder = decoder(role, version, &packet);
        prop_assert_eq!(
            decoder.decode(bytes),
            Ok(Decoded::Packet { packet: packet.clone(), len: bytes.len() })
        );
        // Of a long payload only the ends.
        let ends = (0..bytes.len()).filter(|&end| end < 200 || end + 20 > bytes.len());
        for end in ends {
            let Decoded::Incomplete { at_least } = decoder.decode(&bytes[..end]).unwrap() else {
                panic!("a packet from {end} of {} bytes", bytes.len());
            };
            let missing = bytes.len() - end;
            prop_assert!(at_least >= 1 && at_least <= missing, "{} of {} missing", at_least, missing);
            if end >= header_bytes(bytes) {
                prop_assert_eq!(at_least, missing);
            }
        }
        let followed = [bytes, &behind].concat();
        prop_assert_eq!(decoder.decode(&followed), Ok(Decoded::Packet { packet, len: bytes.len() }));
    }

    /// A server that composes one packet for clients of all versions relies on it.
    #[test]
    fn what_a_version_does_not_have_is_left_out(
        (role, packet) in packet(Version::V5),
        version in version(),
    ) {
        prop_assume!(!matches!(packet, Packet::Connect(_)));
        let mut bytes = Vec::new();
        if let Err(error) = packet.encode(version, &mut bytes) {
            let expected = matches!(
                error,
                EncodeError::NotRepresentable { .. } | EncodeError::ReasonCodeNotAllowed { .. }
            );
            prop_assert!(expected, "{}", error);
            prop_assert!(bytes.is_empty());
        } else if !(role == Role::Client && matches!(packet, Packet::Disconnect(_))) {
            let decoded = decoder(role, version, &packet).decode(&bytes);
            let whole = matches!(decoded, Ok(Decoded::Packet { len, .. }) if len == bytes.len());
            prop_assert!(whole, "{:?}", decoded);
        }
    }

    /// One wrong byte, one lost, one too many: whatever comes of it is a packet that can be written again.
    #[test]
    fn no_damaged_packet_panics_and_what_is_accepted_can_be_written(
        (version, (role, packet)) in version().prop_flat_map(|version| (Just(version), packet(version))),
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![
            any::<u8>().prop_map(Damage::Replace),
            any::<u8>().prop_map(Damage::Insert),
            Just(Damage::Remove),
        ],
    ) {
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();
        let at = at.index(bytes.len().min(300));
        match damage {
            Damage::Replace(byte) => bytes[at] = byte,
            Damage::Insert(byte) => bytes.insert(at, byte),
            Damage::Remove => drop(bytes.remove(at)),
        }
        is_judged_consistently(&decoder(role, version, &packet), &bytes)?;
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), version in version()) {
        let mut server = Decoder::new(Limits::default());
        is_judged_consistently(&server, &bytes)?;
        server.set_version(version);
        is_judged_consistently(&server, &bytes)?;
        is_judged_consistently(&Decoder::client(version, Limits::default()), &bytes)?;
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Replace(u8),
    Insert(u8),
    Remove,
}

/// A verdict about some bytes stands when more come; a packet that is accepted means the same when written again.
fn is_judged_consistently(decoder: &Decoder, bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = decoder.decode(bytes);
    for end in 0..bytes.len().min(100) {
        match decoder.decode(&bytes[..end]) {
            Ok(Decoded::Incomplete { at_least }) => {
                if let Ok(Decoded::Packet { len, .. }) = &whole {
                    prop_assert!(end + at_least <= *len);
                }
            }
            verdict => prop_assert_eq!(&verdict, &whole),
        }
    }
    if let Ok(Decoded::Packet { packet, .. }) = whole {
        let version = match &packet {
            Packet::Connect(connect) => connect.version,
            _ => decoder.version().unwrap(),
        };
        let mut written = Vec::new();
        packet.encode(version, &mut written).unwrap();
        let len = written.len();
        prop_assert_eq!(decoder.decode(&written), Ok(Decoded::Packet { packet, len }));
    }
    Ok(())
}

#[test]
fn a_packet_is_small_enough_to_be_moved_about() {
    assert!(size_of::<Packet<'_>>() <= 208, "{} bytes", size_of::<Packet<'_>>());
    assert!(size_of::<Decoded<'_>>() <= 208, "{} bytes", size_of::<Decoded<'_>>());
    assert!(size_of::<DecodeError>() <= 16, "{} bytes", size_of::<DecodeError>());
}
