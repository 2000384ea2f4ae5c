//! Any bytes, as a stream from a client that may open with a CONNECT, in pieces: no panic, no verdict that depends on
//! the split, and no request for more than a packet has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_codec::{Decoded, Decoder, Limits, Packet, Version};

fuzz_target!(|data: &[u8]| {
    let Some((&first, mut stream)) = data.split_first() else { return };
    let mut decoder = match first % 5 {
        0 => Decoder::new(Limits::default()),
        1 => Decoder::client(Version::V3_1_1, Limits::default()),
        2 => Decoder::client(Version::V5, Limits::default()),
        3 => server(Version::V3_1_1),
        _ => server(Version::V5),
    };
    while let Ok(Decoded::Packet { packet, len }) = decoder.decode(stream) {
        assert!(len <= stream.len());
        // Where libFuzzer's bytes decide as well as any other.
        let split = usize::from(first) % len;
        match decoder.decode(&stream[..split]) {
            Ok(Decoded::Incomplete { at_least }) => assert!(split + at_least <= len),
            other => panic!("{other:?} from {split} of {len} bytes"),
        }
        if let Packet::Connect(connect) = &packet {
            decoder.set_version(connect.version);
        }
        stream = &stream[len..];
    }
});

fn server(version: Version) -> Decoder {
    let mut decoder = Decoder::new(Limits::default());
    decoder.set_version(version);
    decoder
}
