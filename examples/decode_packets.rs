//! Reads MQTT packets from bytes that arrive in pieces, and shows how wrong bytes are explained.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use tidegate_codec::{Decoded, Decoder, Limits, Packet, Publish, Version};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A PUBLISH, encoded and cut in two, as a socket might deliver it.
    let mut bytes = Vec::new();
    let publish = Publish { topic: "sensors/room1", payload: b"21.5", ..Publish::default() };
    publish.encode(Version::V3_1_1, &mut bytes)?;

    let decoder = Decoder::client(Version::V3_1_1, Limits::default());
    for end in [5, bytes.len()] {
        match decoder.decode(&bytes[..end])? {
            Decoded::Incomplete { at_least } => println!("{end} bytes: at least {at_least} more are needed"),
            Decoded::Packet { packet: Packet::Publish(publish), len } => {
                println!("{len} bytes: {} bytes on {}", publish.payload.len(), publish.topic);
            }
            Decoded::Packet { packet, .. } => println!("{packet:?}"),
        }
    }

    // A server answers the bytes of another protocol by closing, and says why.
    let server = Decoder::new(Limits::default());
    if let Err(error) = server.decode(b"GET / HTTP/1.1\r\n") {
        println!("refused: {error}; answer with {:?}", error.answer());
    }
    Ok(())
}
