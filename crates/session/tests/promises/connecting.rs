//! CONNECT and CONNACK.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use tidegate_codec::{ConnAckProperties, Connect, Packet, PublishProperties, QoS, ReasonCode, Version, Will};
use tidegate_session::{Limits, Message, Refusal, Session, SessionState, Welcome, check_connect, refuse};

use crate::harness::{Harness, Q0, Q1, Q2, VERSIONS, publish, resumable, some_moment};

fn will(topic: &str, qos: QoS, retain: bool) -> Will<'_> {
    Will { topic, payload: b"gone", qos, retain, delay_interval: 0, properties: PublishProperties::default() }
}

fn connack(
    connect: &Connect<'_>,
    welcome: Welcome<'_>,
    limits: Limits,
) -> (bool, ConnAckProperties<'static>) {
    let mut harness = Harness::offline(limits);
    harness.connect(connect, SessionState::New); // learns the version
    harness.packets();
    harness.session.connect(connect, welcome, harness.now, &mut harness.out);
    match harness.packets().remove(0) {
        Packet::ConnAck(connack) => {
            assert_eq!(connack.reason, ReasonCode::Success, "[MQTT5-3.1.4-5]");
            (connack.session_present, connack.properties)
        }
        other => panic!("[MQTT5-3.2.0-1]: {other:?}"),
    }
}

const NEW: Welcome<'static> = Welcome::new(SessionState::New);
const RESUMED: Welcome<'static> = Welcome::new(SessionState::Resumed);

#[test]
fn an_idle_session_is_small() {
    let bytes = size_of::<Session>();
    assert!(bytes <= 384, "a session without queue takes {bytes} bytes");
}

#[test]
fn a_session_moves_to_whoever_owns_it() {
    fn is_movable<T: Send + 'static>() {}
    is_movable::<Session>();
}

#[test]
fn connects_that_no_server_setting_can_allow_are_refused() {
    use Version::{V3_1, V3_1_1, V5};
    let limits = || Limits { max_client_id_bytes: 8, ..Limits::default() };
    let frugal = || Limits { max_qos: Q1, retain_available: false, ..limits() };
    let clean = |version, client_id| Connect::new(version, client_id);
    let unclean = |version, client_id| Connect { clean_start: false, ..clean(version, client_id) };
    let leaving = |topic, qos, retain| Connect { will: Some(will(topic, qos, retain)), ..clean(V5, "a") };
    let mut asking_method = clean(V5, "a");
    asking_method.properties.authentication_method = Some("SCRAM-SHA-1");
    let mut will_response = leaving("t", Q0, false);
    will_response.will.as_mut().unwrap().properties.response_topic = Some("re/#");

    let accepting = |client_id, maximum| {
        let mut connect = clean(V5, client_id);
        connect.properties.maximum_packet_size = NonZeroU32::new(maximum);
        connect
    };
    let no_room = |maximum| Some(Refusal::NoRoomForConnAck { maximum });

    let rows: Vec<(&str, Connect<'_>, Limits, Option<Refusal>)> = vec![
        ("[MQTT5-3.1.3-6]", unclean(V5, ""), limits(), None),
        ("[MQTT311-3.1.3-7]", clean(V3_1_1, ""), limits(), None),
        ("[MQTT311-3.1.3-8]", unclean(V3_1_1, ""), limits(), Some(Refusal::ClientIdMissing)),
        ("3.1 has no empty identifier", clean(V3_1, ""), limits(), Some(Refusal::ClientIdMissing)),
        ("eight bytes", clean(V5, "12345678"), limits(), None),
        (
            "[MQTT5-3.1.3-8]",
            clean(V5, "123456789"),
            limits(),
            Some(Refusal::ClientIdTooLong { bytes: 9, maximum: 8 }),
        ),
        ("control character", clean(V5, "a\nb"), limits(), Some(Refusal::ClientIdInvalid)),
        ("[MQTT5-4.12.0-1]", asking_method, limits(), Some(Refusal::AuthenticationMethod)),
        ("[MQTT5-4.7.0-1]", leaving("a/+", Q0, false), limits(), Some(Refusal::WillTopicInvalid)),
        ("[MQTT5-4.7.3-1]", leaving("", Q0, false), limits(), Some(Refusal::WillTopicInvalid)),
        ("[MQTT5-3.3.2-14]", will_response, limits(), Some(Refusal::WillResponseTopicInvalid)),
        ("CONNACK has 16 bytes", accepting("a", 16), limits(), None),
        ("[MQTT5-3.1.2-24]", accepting("a", 15), limits(), no_room(15)),
        ("with an assigned identifier", accepting("", 80), limits(), None),
        ("[MQTT5-3.1.2-24]", accepting("", 79), limits(), no_room(79)),
        ("any will", leaving("t", Q2, true), limits(), None),
        ("[MQTT5-3.2.2-12]", leaving("t", Q2, false), frugal(), Some(Refusal::WillQosNotSupported)),
        ("[MQTT5-3.2.2-13]", leaving("t", Q1, true), frugal(), Some(Refusal::WillRetainNotSupported)),
    ];
    for (statement, connect, limits, refusal) in rows {
        assert_eq!(check_connect(&connect, &limits, |_| false).err(), refusal, "{statement}: {connect:?}");
    }
}

#[test]
fn a_refusal_is_a_connack_where_the_version_has_a_code_for_it() {
    let rows: [(Version, ReasonCode, &[u8]); 7] = [
        (Version::V5, ReasonCode::ClientIdentifierNotValid, &[0x20, 3, 0, 0x85, 0]),
        (Version::V5, ReasonCode::QosNotSupported, &[0x20, 3, 0, 0x9B, 0]),
        (Version::V3_1_1, ReasonCode::ClientIdentifierNotValid, &[0x20, 2, 0, 2]), // [MQTT311-3.1.3-9]
        (Version::V3_1_1, ReasonCode::BadUserNameOrPassword, &[0x20, 2, 0, 4]),
        (Version::V3_1, ReasonCode::NotAuthorized, &[0x20, 2, 0, 5]),
        (Version::V3_1_1, ReasonCode::TopicNameInvalid, &[]), // [MQTT311-3.2.2-6]
        (Version::V3_1_1, ReasonCode::QosNotSupported, &[]),
    ];
    for (version, reason, expected) in rows {
        let mut out = Vec::new();
        refuse(version, reason, &mut out);
        assert_eq!(out, expected, "{version:?} {reason:?}");
    }
}

#[test]
fn session_present_says_whether_the_session_existed_where_the_version_can() {
    for version in VERSIONS {
        let connect = resumable(version);
        assert!(!connack(&connect, NEW, Limits::default()).0, "[MQTT5-3.2.2-2] {version:?}");
        let present = connack(&connect, RESUMED, Limits::default()).0;
        assert_eq!(present, version != Version::V3_1, "[MQTT5-3.2.2-3] {version:?}");
    }
}

#[test]
fn connack_of_v5_announces_what_the_server_does_not_do_by_default() {
    let connect = resumable(Version::V5);
    let (_, properties) = connack(&connect, NEW, Limits::default());
    let expected = ConnAckProperties {
        receive_maximum: NonZeroU16::new(128),
        maximum_packet_size: NonZeroU32::new(1 << 20),
        topic_alias_maximum: Some(64),
        ..ConnAckProperties::default()
    };
    assert_eq!(properties, expected);

    let limits = Limits {
        receive_maximum: NonZeroU16::MAX,
        topic_alias_maximum: 0,
        max_qos: Q1,
        retain_available: false,
        max_keep_alive: NonZeroU16::new(60),
        max_session_expiry: Some(Duration::from_mins(1)),
        ..Limits::default()
    };
    let welcome = Welcome { assigned_client_id: Some("auto-1"), ..NEW };
    let (_, properties) = connack(&connect, welcome, limits);
    let expected = ConnAckProperties {
        maximum_qos: Some(Q1), // [MQTT5-3.2.2-9]
        retain_available: Some(false),
        assigned_client_id: Some("auto-1"), // [MQTT5-3.2.2-16]
        server_keep_alive: Some(60),        // [MQTT5-3.2.2-21]
        session_expiry_interval: Some(60),
        maximum_packet_size: NonZeroU32::new(1 << 20),
        ..ConnAckProperties::default()
    };
    assert_eq!(properties, expected);
}

#[test]
fn mqtt5_3_1_2_22_a_silent_client_is_given_one_and_a_half_keep_alives() {
    for version in VERSIONS {
        let mut connect = resumable(version);
        connect.keep_alive = 10;
        let mut harness = Harness::with(&connect, Limits::default());
        let start = harness.now;
        assert_eq!(harness.session.deadline(), Some(start + Duration::from_secs(15)));
        harness.session.touch(start + Duration::from_secs(5));
        assert!(!harness.session.expired(start + Duration::from_millis(19_999)));
        assert!(harness.session.expired(start + Duration::from_secs(20)));
    }
    let harness = Harness::connected(Version::V5);
    assert_eq!(harness.session.deadline(), None, "keep-alive 0 never runs out");
}

#[test]
fn mqtt5_3_2_2_22_the_server_keep_alive_holds_where_it_could_be_announced() {
    let limits = || Limits { max_keep_alive: NonZeroU16::new(60), ..Limits::default() };
    for (version, asked, seconds) in [
        (Version::V5, 0, Some(90)),
        (Version::V5, 100, Some(90)),
        (Version::V5, 20, Some(30)),
        (Version::V3_1_1, 100, Some(150)),
        (Version::V3_1_1, 0, None),
    ] {
        let mut connect = resumable(version);
        connect.keep_alive = asked;
        let harness = Harness::with(&connect, limits());
        let deadline = seconds.map(|seconds| harness.now + Duration::from_secs(seconds));
        assert_eq!(harness.session.deadline(), deadline, "{version:?} {asked}");
    }
}

#[test]
fn mqtt5_3_1_2_4_a_new_session_has_nothing_of_the_old_one() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q1);
    let token = harness.publish(publish(Q2, 9)).unwrap();
    harness.end(tidegate_session::Ended::ConnectionLost);
    harness.deliver("b", Q1);
    harness.packets();

    harness.connect(&resumable(Version::V5), SessionState::New);
    assert_eq!(harness.sent(), ["CONNACK"]);
    assert!(!harness.acknowledge(token, ReasonCode::Success), "the token belongs to the old session");
    assert!(harness.publish(publish(Q2, 9)).is_some());
    assert_eq!((harness.session.queued(), harness.session.in_flight()), (0, 0));
}

#[test]
fn a_packet_before_connect_is_a_violation_and_no_panic() {
    let mut session = Session::new("pump-7", std::sync::Arc::default());
    let mut out = Vec::new();
    let result = session.handle_packet(&Packet::PingReq, some_moment(), &mut out);
    assert_eq!(result.unwrap_err().statement(), Some("MQTT5-3.1.0-1"));
    assert!(out.is_empty());
    assert_eq!(Message::new("a", b"", Q0, false).size(), size_of::<Message>() + 1);
}

#[test]
fn mqtt5_3_2_2_21_a_server_keep_alive_is_told_to_everybody_and_holds() {
    let limits = || Limits {
        server_keep_alive: NonZeroU16::new(60),
        max_keep_alive: NonZeroU16::new(30),
        ..Limits::default()
    };
    for asked in [0, 10, 60, 120] {
        let mut connect = resumable(Version::V5);
        connect.keep_alive = asked;
        let (_, properties) = connack(&connect, NEW, limits());
        assert_eq!(properties.server_keep_alive, Some(60));
        let harness = Harness::with(&connect, limits());
        assert_eq!(harness.session.deadline(), Some(harness.now + Duration::from_secs(90)));
    }
    let mut connect = resumable(Version::V3_1_1);
    connect.keep_alive = 10;
    let harness = Harness::with(&connect, limits());
    assert_eq!(harness.session.deadline(), Some(harness.now + Duration::from_secs(15)), "nothing told it");
}
