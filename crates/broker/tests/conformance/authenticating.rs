//! Enhanced authentication (5.0, 4.12), with SCRAM-SHA-256 and with a method of a test's own.

use std::future::ready;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tidegate_broker::{
    Accepted, AuthenticatingClient, AuthenticationMethod, AuthenticationMethods, AutoSubscription, Config,
    Exchange, ListenerOptions, ScramSha256, Step, Stepping, SubscribeOptions,
};
use tidegate_codec::{Auth, Connect, ConnectProperties, Packet, QoS, ReasonCode, Version};
use tidegate_scram::{Credential, Credentials, NewCredential};
use tidegate_testkit::scram::ScramClient;

use crate::world::{Client, Script, World, kept, publish, will};

const SCRAM: &str = "SCRAM-SHA-256";

/// Two users with the same password. Made once, because it takes a while.
static FILE: LazyLock<String> = LazyLock::new(|| {
    let new = NewCredential { password: "pencil", salt: &[7; 16], iterations: 4096 };
    let credential = Credential::derive(&new).unwrap();
    format!("{}\nalice:{credential}\nbob:{credential}\n", Credentials::secret_line(&[1; 32]))
});

fn scram() -> Arc<dyn AuthenticationMethod> {
    Arc::new(ScramSha256::new(Credentials::parse(&FILE).unwrap()))
}

/// Everybody is subscribed to the messages for the user that they are.
fn world(authentication: AuthenticationMethods) -> World {
    let own = AutoSubscription::new("users/%u", SubscribeOptions::default()).unwrap();
    let config = Config { auto_subscriptions: vec![own], ..Config::default() };
    World::serve(config, Vec::new(), ListenerOptions { authentication, ..ListenerOptions::default() })
}

fn strict() -> World {
    world(AuthenticationMethods::required(vec![scram(), Arc::new(Riddle)]))
}

fn asking<'a>(id: &'a str, method: &'a str, data: Option<&'a [u8]>) -> Connect<'a> {
    let properties = ConnectProperties {
        authentication_method: Some(method),
        authentication_data: data,
        ..ConnectProperties::default()
    };
    Connect { properties, ..Connect::new(Version::V5, id) }
}

fn auth<'a>(reason: ReasonCode, method: &'a str, data: &'a [u8]) -> Packet<'a> {
    let auth =
        Auth { authentication_method: Some(method), authentication_data: Some(data), ..Auth::new(reason) };
    Packet::Auth(Box::new(auth))
}

/// What an AUTH of the server says. It always names the method, and has nothing for humans [MQTT5-4.12.0-5].
async fn asked(client: &mut Client, method: &str) -> (ReasonCode, Vec<u8>) {
    match client.receive().await.unwrap() {
        Packet::Auth(auth) => {
            assert_eq!(auth.authentication_method, Some(method));
            assert!(auth.reason_string.is_none() && auth.user_properties.is_empty());
            (auth.reason, auth.authentication_data.unwrap_or_default().to_vec())
        }
        packet => panic!("{packet:?}"),
    }
}

/// The CONNACK that ends an exchange with success; returns its data.
async fn welcomed(client: &mut Client, method: &str) -> Vec<u8> {
    match client.receive().await.unwrap() {
        Packet::ConnAck(connack) => {
            assert_eq!(connack.reason, ReasonCode::Success);
            assert_eq!(connack.properties.authentication_method, Some(method));
            connack.properties.authentication_data.unwrap_or_default().to_vec()
        }
        packet => panic!("{packet:?}"),
    }
}

/// The CONNACK that ends it otherwise, and the close.
async fn refused(client: &mut Client, reason: ReasonCode) {
    match client.receive().await.unwrap() {
        Packet::ConnAck(connack) => assert_eq!((connack.reason, connack.session_present), (reason, false)),
        packet => panic!("{packet:?}"),
    }
    client.expect_end().await;
}

async fn say(client: &mut Client, packet: Packet<'_>) {
    client.send(&packet).await.unwrap();
}

/// A client that has shown that it is `user`.
async fn logged_in(world: &World, user: &str) -> Client {
    let (mut scram, first) = ScramClient::new(user, "pencil");
    let mut client = world.dial(Version::V5).await;
    say(&mut client, Packet::Connect(Box::new(asking(user, SCRAM, Some(first.as_bytes()))))).await;
    let (reason, challenge) = asked(&mut client, SCRAM).await;
    assert_eq!(reason, ReasonCode::ContinueAuthentication);
    let proof = scram.prove(std::str::from_utf8(&challenge).unwrap());
    say(&mut client, auth(ReasonCode::ContinueAuthentication, SCRAM, proof.as_bytes())).await;
    let last = welcomed(&mut client, SCRAM).await;
    assert!(scram.believes(std::str::from_utf8(&last).unwrap()));
    client
}

/// [MQTT5-4.12.0-2] [MQTT5-4.12.0-5]
#[tokio::test(start_paused = true)]
async fn a_client_that_knows_its_password_gets_in_as_the_user_that_it_has_shown_to_be() {
    let world = strict();
    let [mut alice, mut bob] = [logged_in(&world, "alice").await, logged_in(&world, "bob").await];
    alice.say(QoS::AtMostOnce, "users/nobody", "to nobody").await;
    alice.say(QoS::AtMostOnce, "users/bob", "to bob").await;
    assert_eq!(bob.payloads().await, ["to bob"]);
}

/// [MQTT5-4.12.0-4]
#[tokio::test(start_paused = true)]
async fn who_does_not_know_the_password_is_refused_and_does_not_learn_who_exists() {
    let world = strict();
    let mut challenges = Vec::new();
    for user in ["alice", "nobody"] {
        let (mut scram, first) = ScramClient::new(user, "wrong");
        let mut client = world.dial(Version::V5).await;
        say(&mut client, Packet::Connect(Box::new(asking("c", SCRAM, Some(first.as_bytes()))))).await;
        let (_, challenge) = asked(&mut client, SCRAM).await;
        let challenge = String::from_utf8(challenge).unwrap();
        let proof = scram.prove(&challenge);
        say(&mut client, auth(ReasonCode::ContinueAuthentication, SCRAM, proof.as_bytes())).await;
        refused(&mut client, ReasonCode::NotAuthorized).await;
        challenges.push((challenge.len(), challenge.rsplit(',').next().unwrap().to_owned()));
    }
    assert_eq!(challenges[0], challenges[1]);
    for first in [Some(&b"n,,n=alice"[..]), Some(b""), None] {
        let mut client = world.dial(Version::V5).await;
        say(&mut client, Packet::Connect(Box::new(asking("c", SCRAM, first)))).await;
        refused(&mut client, ReasonCode::NotAuthorized).await;
    }
    assert_eq!(world.broker.sessions(), 0, "nobody has left anything behind");
}

/// [MQTT5-4.12.0-1] [MQTT5-4.12.0-4] [MQTT5-4.12.0-6]
#[tokio::test(start_paused = true)]
async fn attack_33_nobody_gets_around_a_method_that_is_required() {
    let world = strict();
    let mut client = world.dial(Version::V5).await;
    say(&mut client, Packet::Connect(Box::new(asking("c", "GS2-KRB5", None)))).await;
    refused(&mut client, ReasonCode::BadAuthenticationMethod).await;
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let mut client = world.dial(version).await;
        let connect =
            Connect { username: Some("alice"), password: Some(b"pencil"), ..Connect::new(version, "c") };
        say(&mut client, Packet::Connect(Box::new(connect))).await;
        refused(&mut client, ReasonCode::NotAuthorized).await;
    }
    // Where it is offered only, others get in, and are asked for nothing.
    let world = self::world(AuthenticationMethods::offered(vec![scram()]));
    let mut client = world.join(Version::V5, "c").await;
    say(&mut client, auth(ReasonCode::ReAuthenticate, SCRAM, b"")).await;
    client.expect_disconnect(ReasonCode::ProtocolError).await;
}

/// [MQTT5-3.1.2-30] [MQTT5-4.12.0-3]
#[tokio::test(start_paused = true)]
async fn attack_33_between_connect_and_connack_only_the_answer_is_taken() {
    let world = strict();
    let large = vec![0; 65_535];
    for (packet, reason) in [
        (Packet::PingReq, ReasonCode::ProtocolError),
        (Packet::Publish(publish(QoS::AtMostOnce, 0, "a", b"")), ReasonCode::ProtocolError),
        (auth(ReasonCode::ContinueAuthentication, "riddle2", b"42"), ReasonCode::BadAuthenticationMethod),
        (auth(ReasonCode::ReAuthenticate, "riddle", b"42"), ReasonCode::ProtocolError),
        (Packet::Auth(Box::new(Auth::new(ReasonCode::Success))), ReasonCode::ProtocolError),
        (Packet::Auth(Box::new(Auth::new(ReasonCode::ContinueAuthentication))), ReasonCode::ProtocolError),
        (auth(ReasonCode::ContinueAuthentication, "riddle", &large), ReasonCode::PacketTooLarge),
        (auth(ReasonCode::ContinueAuthentication, "riddle", b"41"), ReasonCode::NotAuthorized),
        (auth(ReasonCode::ContinueAuthentication, "riddle", b"busy"), ReasonCode::ServerBusy),
    ] {
        let mut client = world.dial(Version::V5).await;
        say(&mut client, Packet::Connect(Box::new(asking("c", "riddle", None)))).await;
        asked(&mut client, "riddle").await;
        say(&mut client, packet).await;
        refused(&mut client, reason).await;
    }
    let mut client = world.dial(Version::V5).await;
    say(&mut client, Packet::Connect(Box::new(asking("c", "riddle", None)))).await;
    asked(&mut client, "riddle").await;
    say(&mut client, Packet::Disconnect(tidegate_codec::Disconnect::new(ReasonCode::Success))).await;
    client.expect_end().await;
    // What comes right behind the last AUTH belongs to the conversation.
    let mut client = world.dial(Version::V5).await;
    say(&mut client, Packet::Connect(Box::new(asking("c", "riddle", None)))).await;
    let mut bytes = Vec::new();
    auth(ReasonCode::ContinueAuthentication, "riddle", b"42").encode(Version::V5, &mut bytes).unwrap();
    Packet::PingReq.encode(Version::V5, &mut bytes).unwrap();
    client.send_raw(&bytes).await.unwrap();
    asked(&mut client, "riddle").await;
    welcomed(&mut client, "riddle").await;
    assert!(matches!(client.receive().await.unwrap(), Packet::PingResp));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_has_an_end_in_time_and_in_rounds() {
    let world = strict();
    let begin = tokio::time::Instant::now();
    for data in [&b"sleep"[..], b""] {
        let mut client = world.dial(Version::V5).await;
        client.set_patience(Duration::from_mins(1));
        say(&mut client, Packet::Connect(Box::new(asking("c", "riddle", Some(data))))).await;
        if data.is_empty() {
            asked(&mut client, "riddle").await;
        }
        client.expect_end().await;
    }
    assert_eq!(begin.elapsed().as_secs(), 20, "twice the time for CONNECT");
    let mut client = world.dial(Version::V5).await;
    say(&mut client, Packet::Connect(Box::new(asking("c", "riddle", None)))).await;
    for _ in 0..8 {
        asked(&mut client, "riddle").await;
        say(&mut client, auth(ReasonCode::ContinueAuthentication, "riddle", b"again")).await;
    }
    refused(&mut client, ReasonCode::NotAuthorized).await;
}

/// [MQTT5-3.15.2-2] [MQTT5-3.15.2-3]: nothing for humans is in an AUTH, so a client gets one that just fits; one that
/// does not fit ends the exchange, as does such a CONNACK.
#[tokio::test(start_paused = true)]
async fn no_auth_is_larger_than_the_client_accepts() {
    let world = strict();
    // AUTH with the riddle: 2 bytes of fixed header, reason, length of properties, 3 + 6 and 3 + 13.
    for (maximum, fits) in [(29, true), (28, false)] {
        let mut connect = asking("c", "riddle", None);
        connect.properties.maximum_packet_size = NonZeroU32::new(maximum);
        let mut client = world.dial(Version::V5).await;
        say(&mut client, Packet::Connect(Box::new(connect))).await;
        if fits {
            asked(&mut client, "riddle").await;
            say(&mut client, auth(ReasonCode::ContinueAuthentication, "riddle", b"loud")).await;
        }
        refused(&mut client, ReasonCode::PacketTooLarge).await;
    }
}

/// [MQTT5-4.12.1-1] [MQTT5-4.12.0-2] [MQTT5-4.12.0-5]
#[tokio::test(start_paused = true)]
async fn a_client_shows_again_who_it_is_while_messages_flow() {
    let world = strict();
    let mut client = logged_in(&world, "alice").await;
    for _ in 0..2 {
        let (mut scram, first) = ScramClient::new("alice", "pencil");
        say(&mut client, auth(ReasonCode::ReAuthenticate, SCRAM, first.as_bytes())).await;
        let (reason, challenge) = asked(&mut client, SCRAM).await;
        assert_eq!(reason, ReasonCode::ContinueAuthentication);
        client.say(QoS::AtLeastOnce, "a", "meanwhile").await;
        let proof = scram.prove(std::str::from_utf8(&challenge).unwrap());
        say(&mut client, auth(ReasonCode::ContinueAuthentication, SCRAM, proof.as_bytes())).await;
        let (reason, last) = asked(&mut client, SCRAM).await;
        assert_eq!(reason, ReasonCode::Success);
        assert!(scram.believes(std::str::from_utf8(&last).unwrap()));
        client.ping().await.unwrap();
    }
}

/// [MQTT5-4.12.1-2] [MQTT5-4.12.1-1] [MQTT5-4.12.0-3]
#[tokio::test(start_paused = true)]
async fn attack_33_a_re_authentication_that_fails_ends_the_connection() {
    let world = strict();
    let (_, bob) = ScramClient::new("bob", "pencil");
    for (packets, reason) in [
        (vec![auth(ReasonCode::ReAuthenticate, SCRAM, b"nonsense")], ReasonCode::NotAuthorized),
        (vec![auth(ReasonCode::ReAuthenticate, "riddle", b"42")], ReasonCode::BadAuthenticationMethod),
        (vec![auth(ReasonCode::ContinueAuthentication, SCRAM, b"")], ReasonCode::ProtocolError),
        (vec![Packet::Auth(Box::new(Auth::new(ReasonCode::ReAuthenticate)))], ReasonCode::ProtocolError),
        (vec![Packet::Auth(Box::new(Auth::new(ReasonCode::Success)))], ReasonCode::ProtocolError),
        (
            vec![
                auth(ReasonCode::ReAuthenticate, SCRAM, bob.as_bytes()),
                auth(ReasonCode::ReAuthenticate, SCRAM, bob.as_bytes()),
            ],
            ReasonCode::ProtocolError,
        ),
    ] {
        let mut client = logged_in(&world, "alice").await;
        let count = packets.len();
        for packet in packets {
            say(&mut client, packet).await;
        }
        if count == 2 {
            asked(&mut client, SCRAM).await;
        }
        client.expect_disconnect(reason).await;
    }
    // Bob's password does not make Alice's connection Bob's.
    let mut client = logged_in(&world, "alice").await;
    let (mut scram, first) = ScramClient::new("bob", "pencil");
    say(&mut client, auth(ReasonCode::ReAuthenticate, SCRAM, first.as_bytes())).await;
    let (_, challenge) = asked(&mut client, SCRAM).await;
    let proof = scram.prove(std::str::from_utf8(&challenge).unwrap());
    say(&mut client, auth(ReasonCode::ContinueAuthentication, SCRAM, proof.as_bytes())).await;
    client.expect_disconnect(ReasonCode::NotAuthorized).await;
}

/// [MQTT5-4.12.1-2]
#[tokio::test(start_paused = true)]
async fn a_re_authentication_has_an_end_in_time_and_the_will_is_published() {
    let world = strict();
    let mut watcher = logged_in(&world, "bob").await;
    watcher.subscribe(1, "gone", QoS::AtMostOnce).await.unwrap();
    watcher.set_patience(Duration::from_mins(1));
    // A method that never decides, and a client that never answers.
    for first in [&b"sleep"[..], b""] {
        let mut connect = asking("c", "riddle", Some(b"42"));
        connect.will = Some(will("gone", b""));
        let mut client = world.dial(Version::V5).await;
        client.set_patience(Duration::from_mins(1));
        say(&mut client, Packet::Connect(Box::new(connect))).await;
        welcomed(&mut client, "riddle").await;
        let begin = tokio::time::Instant::now();
        say(&mut client, auth(ReasonCode::ReAuthenticate, "riddle", first)).await;
        if first.is_empty() {
            asked(&mut client, "riddle").await;
            client.ping().await.unwrap();
        }
        client.expect_disconnect(ReasonCode::NotAuthorized).await;
        assert_eq!(begin.elapsed().as_secs(), 10);
        assert_eq!(watcher.got().await.topic, "gone");
    }
}

/// A session goes on whoever opened it before, with the method of the new connection.
#[tokio::test(start_paused = true)]
async fn the_method_belongs_to_the_connection_and_not_to_the_session() {
    let world = world(AuthenticationMethods::offered(vec![Arc::new(Riddle)]));
    let (client, _) = world.connect(kept(Version::V5, "c")).await;
    drop(client);
    let mut connect = kept(Version::V5, "c");
    connect.properties.authentication_method = Some("riddle");
    connect.properties.authentication_data = Some(b"42");
    let mut client = world.dial(Version::V5).await;
    let connack = client.connect(connect).await.unwrap();
    assert!(connack.session_present);
    assert_eq!(connack.properties.authentication_method, Some("riddle"));
    say(&mut client, auth(ReasonCode::ReAuthenticate, "riddle", b"42")).await;
    assert_eq!(asked(&mut client, "riddle").await, (ReasonCode::Success, Vec::new()));
}

/// A method that asks a question.
struct Riddle;

impl AuthenticationMethod for Riddle {
    fn name(&self) -> &'static str {
        "riddle"
    }

    fn begin(&self, client: &AuthenticatingClient<'_>) -> Box<dyn Exchange> {
        assert!(client.peer.is_none());
        Box::new(Question)
    }
}

struct Question;

impl Exchange for Question {
    fn step(self: Box<Self>, data: Vec<u8>) -> Stepping {
        let accept = |data| Step::Accept(Accepted { identity: "solver".into(), data });
        Box::pin(ready(match &data[..] {
            b"" | b"again" => Step::Ask { data: b"six by nine?!".to_vec(), next: self },
            b"42" => accept(Vec::new()),
            b"loud" => accept(vec![b'!'; 100]),
            b"busy" => Step::Unavailable,
            b"sleep" => return Box::pin(std::future::pending()),
            _ => Step::Reject,
        }))
    }
}
