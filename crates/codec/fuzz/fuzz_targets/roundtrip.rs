//! Whatever decodes can be encoded, decodes to the same packet again, and has the length that was announced.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_codec::{Decoded, Decoder, Limits, Packet, Version};

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let version = [Version::V3_1, Version::V3_1_1, Version::V5][usize::from(first % 3)];
    let decoder = match first / 3 % 3 {
        0 => Decoder::new(Limits::UNLIMITED),
        1 => Decoder::client(version, Limits::UNLIMITED),
        _ => {
            let mut decoder = Decoder::new(Limits::UNLIMITED);
            decoder.set_version(version);
            decoder
        }
    };
    let Ok(Decoded::Packet { packet, .. }) = decoder.decode(bytes) else { return };
    let version = match &packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    };
    let mut written = Vec::new();
    packet.encode(version, &mut written).expect("what was decoded can be encoded");
    assert_eq!(packet.encoded_len(version), Ok(written.len()));
    let len = written.len();
    assert_eq!(decoder.decode(&written), Ok(Decoded::Packet { packet, len }));
});
