//! PINGREQ and DISCONNECT: chapters 3.12 and 3.14.

use std::time::Duration;

use tidegate_codec::{Disconnect, Packet, QoS, ReasonCode, Version};
use tidegate_testkit::mqtt::Peer;

use crate::world::{BOTH, Script, World, kept, publish};

/// [MQTT5-3.12.4-1] [MQTT311-3.12.4-1]
#[tokio::test(start_paused = true)]
async fn attack_105_every_pingreq_is_answered() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        client.send_raw(&b"\xc0\0".repeat(5000)).await.unwrap();
        for _ in 0..5000 {
            assert_eq!(client.receive().await.unwrap(), Packet::PingResp);
        }
    }
}

/// [MQTT5-3.14.4-1] [MQTT5-3.14.4-2] [MQTT5-3.14.2-1] [MQTT5-3.14.2-2] [MQTT5-3.14.2-3] [MQTT5-3.14.2-4]: whatever the
/// server's reason is, a DISCONNECT with one of its codes and without Session Expiry Interval, and then the end.
#[tokio::test(start_paused = true)]
async fn after_its_disconnect_the_server_sends_nothing_and_closes() {
    let world = World::new();
    // Small enough to leave no room for an explanation.
    for maximum in [None, std::num::NonZeroU32::new(24)] {
        for offence in
            [&b"\xd0\0"[..], b"\x20\0", b"\x62\x02\0\0", b"\x30\x03\0\0\0", b"\x30\x06\0\0\x03\x23\0\x05"]
        {
            let mut connect = kept(Version::V5, "c");
            connect.properties.maximum_packet_size = maximum;
            let (mut client, _) = world.connect(connect).await;
            // What follows the offence is not handled.
            client.send_raw(&[offence, b"\xc0\0"].concat()).await.unwrap();
            match client.receive().await.unwrap() {
                Packet::Disconnect(disconnect) => {
                    assert!(disconnect.reason.is_error());
                    assert_eq!(disconnect.session_expiry_interval, None);
                    assert!(disconnect.user_properties.is_empty());
                    let packet = Packet::Disconnect(disconnect);
                    let bytes = packet.encoded_len(Version::V5).unwrap();
                    assert!(maximum.is_none_or(|maximum| bytes <= maximum.get() as usize));
                }
                packet => panic!("{packet:?}"),
            }
            client.expect_end().await;
        }
    }
}

/// [MQTT5-3.14.4-2] [MQTT311-3.14.4-1]: and what the client sends behind its DISCONNECT is not handled
/// [MQTT311-3.14.4-2].
#[tokio::test(start_paused = true)]
async fn a_disconnect_of_the_client_closes_without_an_answer() {
    for version in BOTH {
        let world = World::new();
        let mut watcher = world.join(version, "watcher").await;
        watcher.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
        let mut client = world.join(version, "client").await;
        let mut bytes = b"\xe0\0".to_vec();
        Packet::Publish(publish(QoS::AtMostOnce, 0, "a", b"late")).encode(version, &mut bytes).unwrap();
        client.send_raw(&bytes).await.unwrap();
        client.expect_end().await;
        assert_eq!(watcher.all().await, []);
    }
}

/// [MQTT5-3.14.1-1] [MQTT311-3.14.1-1]
#[tokio::test(start_paused = true)]
async fn a_disconnect_with_reserved_bits_is_malformed() {
    let world = World::new();
    for flags in 1..16 {
        assert_eq!(world.answer_of(Version::V5, &[0xe0 | flags, 0]).await, b"\xe0\x01\x81");
        assert_eq!(world.answer_of(Version::V3_1_1, &[0xe0 | flags, 0]).await, b"");
    }
}

/// [MQTT5-3.1.2-23] and section 3.14.2.2.2: the last word on the session is DISCONNECT's, except that it can't bring one
/// to life.
#[tokio::test(start_paused = true)]
async fn disconnect_may_change_when_the_session_ends() {
    let world = World::new();
    let leave = |seconds| {
        let mut disconnect = Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
        disconnect.session_expiry_interval = Some(seconds);
        Packet::Disconnect(disconnect)
    };
    let (mut client, _) = world.resume(Version::V5, "c").await;
    client.send(&leave(10)).await.unwrap();
    client.expect_end().await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let (mut client, present) = world.resume(Version::V5, "c").await;
    assert!(!present);
    client.send(&leave(0)).await.unwrap();
    client.expect_end().await;
    world.settled(0).await;
    assert_eq!(world.broker.sessions(), 0);
    let mut client = world.join(Version::V5, "c").await;
    client.send(&leave(10)).await.unwrap();
    client.expect_disconnect(ReasonCode::ProtocolError).await;
}

/// A socket that is closed with bytes unread is reset, and the client would lose what was on its way to it.
#[tokio::test]
async fn a_client_that_goes_on_sending_still_reads_why_its_connection_ends() {
    let world = World::new();
    let listener = tidegate_broker::Tcp::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = world.broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let mut client = Peer::dial(address, Version::V5).await.unwrap();
    client.join("busy").await.unwrap();
    // A reserved packet type, and what the client had to say besides.
    let mut bytes = vec![0, 0];
    bytes.extend([0xc0, 0].repeat(100 * 1024));
    client.send_raw(&bytes).await.unwrap();
    for _ in 0..20 {
        let _ = client.send(&Packet::PingReq).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match client.receive().await.unwrap() {
        Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, ReasonCode::MalformedPacket),
        packet => panic!("{packet:?}"),
    }
}
