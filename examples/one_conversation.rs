//! Plays both sides of an MQTT conversation without a socket: the bytes of a client go into a session, and the bytes
//! that the session answers with are decoded as the client would.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::sync::Arc;
use std::time::Instant;

use tidegate_codec::{
    Connect, ConnectProperties, Decoded, Decoder, Limits as DecoderLimits, Packet, PacketId, Publish, QoS,
    ReasonCode, Version,
};
use tidegate_session::{Input, Limits, Session, SessionState, Welcome, check_connect};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let now = Instant::now();
    let limits = Arc::new(Limits::default());
    let connect = Connect {
        version: Version::V5,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: "thermometer-7",
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    check_connect(&connect, &limits, |_| false)?;
    let mut to_client = Vec::new();
    let mut session = Session::new(connect.client_id, Arc::clone(&limits));
    session.connect(&connect, Welcome::new(SessionState::New), now, &mut to_client);

    let publish = Packet::Publish(Publish {
        qos: QoS::AtLeastOnce,
        topic: "sensors/room1",
        packet_id: PacketId::new(1),
        payload: b"21.5",
        ..Publish::default()
    });
    let token = match session.handle_packet(&publish, now, &mut to_client)? {
        Input::Publish(inbound) => {
            println!("to route: {:?} on {}", inbound.publish.payload, inbound.topic.as_str());
            inbound.token
        }
        other => return Err(format!("a PUBLISH became {other:?}").into()),
    };
    // Once the message is safe, and not before, the client hears of it.
    if let Some(token) = token {
        session.acknowledge(token, ReasonCode::Success, &mut to_client);
    }

    let decoder = Decoder::client(Version::V5, DecoderLimits::default());
    let mut rest = &to_client[..];
    while let Decoded::Packet { packet, len } = decoder.decode(rest)? {
        println!("to the client: {packet:?}");
        rest = &rest[len..];
    }
    Ok(())
}
