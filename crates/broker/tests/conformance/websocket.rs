//! MQTT over WebSocket: section 6 of both specifications.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tidegate_broker::{Config, WebSocket, WebSocketOptions};
use tidegate_codec::{Connect, Disconnect, Packet, QoS, ReasonCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::world::{BOTH, Script, World, in_memory, publish};

type Socket = tokio_tungstenite::WebSocketStream<DuplexStream>;

/// A broker with a WebSocket listener over streams in memory.
struct Served {
    world: World,
    dial: mpsc::Sender<DuplexStream>,
}

impl Served {
    fn new(options: WebSocketOptions) -> Self {
        let world = World::start(Config::default(), Vec::new());
        let (dial, listener) = in_memory();
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.serve(WebSocket::over(listener, options)).await });
        Self { world, dial }
    }

    async fn stream(&self, bytes: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(bytes);
        self.dial.send(theirs).await.unwrap();
        ours
    }

    /// Shakes hands and returns the subprotocol that was chosen.
    async fn shake(&self, path: &str, offered: &str, origin: &str) -> Result<(Socket, String), StatusCode> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        for (name, value) in [("sec-websocket-protocol", offered), ("origin", origin)] {
            if !value.is_empty() {
                request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        match tokio_tungstenite::client_async(request, self.stream(64 * 1024).await).await {
            Ok((socket, response)) => {
                let chosen = response.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned();
                Ok((socket, chosen))
            }
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn open(&self) -> Socket {
        self.shake("/mqtt", "mqtt", "").await.unwrap().0
    }
}

fn bytes_of(version: Version, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for packet in packets {
        packet.encode(version, &mut bytes).unwrap();
    }
    bytes
}

/// So many bytes out of binary frames, however they are cut.
async fn received(socket: &mut Socket, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(payload) => bytes.extend_from_slice(&payload),
            message => panic!("{message:?}"),
        }
    }
    bytes
}

/// [MQTT5-6.0.0-4] [MQTT311-6.0.0-4]
#[tokio::test(start_paused = true)]
async fn the_subprotocol_is_mqtt_and_who_wants_something_else_is_refused() {
    let served = Served::new(WebSocketOptions {
        origins: vec!["https://a.example".to_owned()],
        ..WebSocketOptions::default()
    });
    for (path, offered, origin, expected) in [
        ("/mqtt", "mqtt", "", Ok("mqtt")),
        ("/mqtt?token=1", "mqttv3.1, mqtt", "https://a.example", Ok("mqtt")),
        ("/mqtt", "mqttv3.1", "", Ok("mqttv3.1")),
        ("/mqtt", "chat", "", Err(StatusCode::BAD_REQUEST)),
        ("/mqtt", "", "", Err(StatusCode::BAD_REQUEST)),
        ("/other", "mqtt", "", Err(StatusCode::NOT_FOUND)),
        ("/mqtt", "mqtt", "https://b.example", Err(StatusCode::FORBIDDEN)),
    ] {
        let outcome = served.shake(path, offered, origin).await.map(|(_, chosen)| chosen);
        assert_eq!(outcome.as_deref().map_err(|status| *status), expected, "{path} {offered} {origin}");
    }
    served.world.settled(0).await;
}

/// [MQTT5-6.0.0-2] [MQTT311-6.0.0-2]
#[tokio::test(start_paused = true)]
async fn frames_may_hold_several_packets_and_parts_of_packets() {
    let served = Served::new(WebSocketOptions::default());
    for version in BOTH {
        let packets = bytes_of(
            version,
            &[
                Packet::Connect(Box::new(Connect::new(version, "c"))),
                Packet::Publish(publish(QoS::AtLeastOnce, 1, "a", b"x")),
                Packet::PingReq,
                Packet::Disconnect(Disconnect::new(ReasonCode::Success)),
            ],
        );
        let mut answers = Vec::new();
        for size in [packets.len(), 1, 3] {
            let mut socket = served.open().await;
            for part in packets.chunks(size) {
                // Pings and frames without payload are not part of the conversation.
                socket.feed(Message::Ping(b"between".to_vec().into())).await.unwrap();
                socket.feed(Message::Binary(Vec::new().into())).await.unwrap();
                socket.send(Message::Binary(part.to_vec().into())).await.unwrap();
            }
            let mut answer = Vec::new();
            let mut pongs = 0;
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(payload) => answer.extend_from_slice(&payload),
                    Message::Pong(payload) if payload == "between" => pongs += 1,
                    Message::Close(_) => {}
                    message => panic!("{message:?}"),
                }
            }
            assert!(pongs > 0);
            answers.push(answer);
        }
        assert!(answers[0].ends_with(&[0xd0, 0]), "{answers:?}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        served.world.settled(0).await;
    }
}

/// [MQTT5-6.0.0-1] [MQTT311-6.0.0-1]
#[tokio::test(start_paused = true)]
async fn a_frame_that_is_not_binary_closes_the_connection_as_does_one_that_is_too_large() {
    let served = Served::new(WebSocketOptions { max_message_bytes: 1000, ..WebSocketOptions::default() });
    for version in BOTH {
        for message in [Message::Text("hello".into()), Message::Binary(vec![0; 1001].into())] {
            let mut socket = served.open().await;
            let connect = bytes_of(version, &[Packet::Connect(Box::new(Connect::new(version, "c")))]);
            socket.send(Message::Binary(connect.into())).await.unwrap();
            received(&mut socket, 4).await;
            let is_text = message.is_text();
            socket.send(message).await.unwrap();
            let rest: Vec<_> = socket.by_ref().collect().await;
            let closed_for = rest.iter().find_map(|message| match message {
                Ok(Message::Close(Some(close))) => Some(u16::from(close.code)),
                _ => None,
            });
            assert_eq!(closed_for, is_text.then_some(1003), "{rest:?}");
            served.world.settled(0).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_holds_nobody_up_and_ends_with_the_time_for_connect() {
    let options = WebSocketOptions { max_handshakes: 3, ..WebSocketOptions::default() };
    let served = Served::new(options);
    let mut slow = served.stream(1024).await;
    slow.write_all(b"GET /mqtt HTTP/1.1\r\nHost: l").await.unwrap();
    let mut silent = served.stream(1024).await;
    // There is room for one more, again and again.
    for _ in 0..5 {
        served.open().await.close(None).await.unwrap();
    }
    // Whoever comes when there is none waits until the time of the others is up.
    let mut last = served.stream(1024).await;
    let begin = tokio::time::Instant::now();
    served.open().await;
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    for stream in [&mut slow, &mut silent, &mut last] {
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
    }
}

/// What a stream of frames holds back is pushed out when its socket has room again, though nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_message_larger_than_every_buffer_arrives_whole_at_a_slow_client() {
    let served = Served::new(WebSocketOptions::default());
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
    let stream = served.stream(512).await;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let version = Version::V3_1_1;
    let connect = bytes_of(version, &[Packet::Connect(Box::new(Connect::new(version, "slow")))]);
    socket.send(Message::Binary(connect.into())).await.unwrap();
    received(&mut socket, 4).await;
    let subscribe = [0x82, 6, 0, 1, 0, 1, b'a', 1];
    socket.send(Message::Binary(subscribe.to_vec().into())).await.unwrap();
    received(&mut socket, 5).await;
    let payload = vec![7; 300 * 1024];
    let mut publisher = served.world.join(Version::V5, "p").await;
    publisher.say(QoS::AtLeastOnce, "a", "first").await;
    publisher.send(&Packet::Publish(publish(QoS::AtLeastOnce, 1, "a", &payload))).await.unwrap();
    let acknowledged = publisher.expect_ack(tidegate_codec::PacketType::PubAck, 1).await.unwrap();
    assert_eq!(acknowledged, ReasonCode::Success);
    let expected = bytes_of(
        version,
        &[
            Packet::Publish(publish(QoS::AtLeastOnce, 1, "a", b"first")),
            Packet::Publish(publish(QoS::AtLeastOnce, 2, "a", &payload)),
        ],
    );
    let reading = received(&mut socket, expected.len());
    let got = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("it arrives");
    assert!(got == expected);
}
