//! The end of a conversation: DISCONNECT, the will, and how long the session stays.

use std::num::NonZeroU32;
use std::time::Duration;

use tidegate_codec::{Connect, Disconnect, Packet, PublishProperties, ReasonCode, Version, Will};
use tidegate_session::{Ended, Expiry, Limits, SessionState, Start, Violation};

use crate::harness::{Harness, Q1, VERSIONS, resumable};

fn with_will(version: Version, delay_interval: u32) -> Connect<'static> {
    let will = Will {
        topic: "status/pump-7",
        payload: b"gone",
        qos: Q1,
        retain: true,
        delay_interval,
        properties: PublishProperties { message_expiry_interval: Some(60), ..PublishProperties::default() },
    };
    Connect { will: Some(will), ..resumable(version) }
}

fn seconds(seconds: u64) -> Expiry {
    Expiry::After(Duration::from_secs(seconds))
}

#[test]
fn mqtt5_3_1_2_8_the_will_is_due_whenever_the_conversation_ends_without_disconnect() {
    for version in VERSIONS {
        for cause in [
            Ended::ConnectionLost,
            Ended::KeepAliveTimeout,
            Ended::Violation(Violation::SecondConnect),
            Ended::TakenOver(Start::Clean),
            Ended::TakenOver(Start::Resume),
            Ended::ServerShutdown,
            Ended::ByServer(ReasonCode::AdministrativeAction),
        ] {
            let mut harness = Harness::with(&with_will(version, 0), Limits::default());
            let will = harness.end(cause).will.unwrap_or_else(|| panic!("a will after {cause:?}"));
            assert_eq!((will.delay(), will.topic()), (Duration::ZERO, "status/pump-7"));
            assert_eq!(harness.end(cause).will, None, "it is due once");
        }
    }
}

#[test]
fn the_expiry_of_a_will_starts_when_it_is_published() {
    let mut harness = Harness::with(&with_will(Version::V5, 30), Limits::default());
    let will = harness.end(Ended::ConnectionLost).will.unwrap();
    harness.wait(Duration::from_secs(30));
    let message = will.into_message(harness.now);
    assert_eq!((message.topic(), message.payload(), message.qos()), ("status/pump-7", &b"gone"[..], Q1));
    assert!(message.retain(), "[MQTT5-3.1.2-15]");
    assert_eq!(message.expires_at(), Some(harness.now + Duration::from_mins(1)));
}

#[test]
fn mqtt5_3_14_4_3_a_normal_disconnect_discards_the_will_and_another_does_not() {
    for (version, reason, is_due) in [
        (Version::V5, ReasonCode::NORMAL_DISCONNECTION, false),
        (Version::V5, ReasonCode::DisconnectWithWill, true),
        (Version::V5, ReasonCode::UnspecifiedError, true),
        (Version::V3_1_1, ReasonCode::NORMAL_DISCONNECTION, false), // [MQTT311-3.14.4-3]
        (Version::V3_1, ReasonCode::NORMAL_DISCONNECTION, false),
    ] {
        let mut harness = Harness::with(&with_will(version, 0), Limits::default());
        let farewell = harness.disconnect(Disconnect::new(reason));
        assert_eq!(farewell.will.is_some(), is_due, "{version:?} {reason:?}");
        assert_eq!(harness.sent(), [""; 0], "[MQTT5-3.14.4-1]: no answer");
    }
}

#[test]
fn attack_81_mqtt5_3_1_2_8_the_will_is_due_after_its_delay_or_with_the_session() {
    for (expiry, delay, due) in [(3600, 10, 10), (5, 10, 5), (0, 10, 0), (u32::MAX, u32::MAX, u32::MAX)] {
        let mut connect = with_will(Version::V5, delay);
        connect.properties.session_expiry_interval = Some(expiry);
        let mut harness = Harness::with(&connect, Limits::default());
        let will = harness.end(Ended::ConnectionLost).will.unwrap();
        assert_eq!(will.delay(), Duration::from_secs(due.into()), "expiry {expiry}, delay {delay}");
    }
}

#[test]
fn attack_80_a_takeover_cancels_the_will_only_if_the_session_goes_on_before_it_is_due() {
    for (expiry, delay, start, due) in [
        (3600, 10, Start::Resume, None), // [MQTT5-3.1.3-9]
        (3600, 0, Start::Resume, Some(0)),
        (3600, 10, Start::Clean, Some(0)), // the session ends here
        (0, 10, Start::Resume, Some(0)),   // and here
    ] {
        let mut connect = with_will(Version::V5, delay);
        connect.properties.session_expiry_interval = Some(expiry);
        let mut harness = Harness::with(&connect, Limits::default());
        let will = harness.end(Ended::TakenOver(start)).will;
        let due = due.map(Duration::from_secs);
        assert_eq!(will.map(|will| will.delay()), due, "expiry {expiry}, delay {delay}, {start:?}");
        assert_eq!(harness.sent(), ["DISCONNECT 0x8e"], "[MQTT5-3.1.4-3]");
    }
}

#[test]
fn a_session_lives_as_long_as_its_version_and_the_limits_say() {
    let v5 = |interval| {
        let mut connect = resumable(Version::V5);
        connect.properties.session_expiry_interval = interval;
        connect
    };
    let clean = |version| Connect { clean_start: true, ..resumable(version) };
    let hour = Some(Duration::from_hours(1));
    let rows = [
        (v5(None), None, Expiry::Now),
        (v5(Some(0)), None, Expiry::Now),
        (v5(Some(10)), None, seconds(10)), // [MQTT5-3.1.2-23]
        (v5(Some(u32::MAX)), None, Expiry::Never),
        (v5(Some(u32::MAX)), hour, seconds(3600)),
        (v5(Some(7200)), hour, seconds(3600)),
        (v5(Some(10)), hour, seconds(10)),
        (v5(Some(10)), Some(Duration::ZERO), Expiry::Now),
        (clean(Version::V3_1_1), None, Expiry::Now), // [MQTT311-3.1.2-6]
        (clean(Version::V3_1), None, Expiry::Now),
        (resumable(Version::V3_1_1), None, seconds(7200)), // [MQTT311-3.1.2-4]
        (resumable(Version::V3_1), None, seconds(7200)),
        (clean(Version::V5), None, seconds(3600)), // Clean Start says nothing about the end
    ];
    for (connect, max_session_expiry, expected) in rows {
        let mut harness = Harness::with(&connect, Limits { max_session_expiry, ..Limits::default() });
        let farewell = harness.end(Ended::ConnectionLost);
        assert_eq!(farewell.session_expiry, expected, "{connect:?} within {max_session_expiry:?}");
    }
}

#[test]
fn disconnect_may_change_the_session_expiry_but_not_raise_it_from_zero() {
    for (asked, last_word, expected) in [
        (10, None, seconds(10)),
        (10, Some(99), seconds(99)),
        (10, Some(0), Expiry::Now),
        (0, Some(0), Expiry::Now),
    ] {
        let mut connect = with_will(Version::V5, 0);
        connect.properties.session_expiry_interval = Some(asked);
        let mut harness = Harness::with(&connect, Limits::default());
        let disconnect = Disconnect { session_expiry_interval: last_word, ..Disconnect::default() };
        assert_eq!(harness.disconnect(disconnect).session_expiry, expected, "{asked} {last_word:?}");
    }

    let mut connect = with_will(Version::V5, 0);
    connect.properties.session_expiry_interval = Some(0);
    let mut harness = Harness::with(&connect, Limits::default());
    let disconnect = Disconnect { session_expiry_interval: Some(5), ..Disconnect::default() };
    let violation = harness.violation(&Packet::Disconnect(disconnect));
    assert_eq!(violation, Violation::SessionExpiryRaised);
    let farewell = harness.end(Ended::Violation(violation));
    assert!(farewell.will.is_some(), "the good-bye was not valid");
    assert_eq!(farewell.session_expiry, Expiry::Now);
    assert_eq!(harness.sent(), ["DISCONNECT 0x82"]);
}

#[test]
fn the_server_says_why_it_ends_a_v5_conversation_and_is_silent_in_3_x() {
    for (cause, sent) in [
        (Ended::ByClient, None),
        (Ended::ConnectionLost, None),
        (Ended::KeepAliveTimeout, Some("DISCONNECT 0x8d")),
        (Ended::ServerShutdown, Some("DISCONNECT 0x8b")),
        (Ended::TakenOver(Start::Resume), Some("DISCONNECT 0x8e")),
        (Ended::ByServer(ReasonCode::MalformedPacket), Some("DISCONNECT 0x81")),
        (Ended::ByServer(ReasonCode::PacketIdentifierInUse), Some("DISCONNECT 0x80")), // [MQTT5-3.14.2-1]
        (Ended::Violation(Violation::TopicNameInvalid), Some("DISCONNECT 0x90")),
    ] {
        for version in VERSIONS {
            let mut harness = Harness::connected(version);
            harness.end(cause);
            let expected = sent.filter(|_| version == Version::V5);
            assert_eq!(harness.sent(), Vec::from_iter(expected), "{version:?} {cause:?}");
            assert!(!harness.session.is_connected());
            assert_eq!(harness.session.deadline(), None);
        }
    }
}

#[test]
fn the_reason_string_comes_if_it_is_wanted_and_fits() {
    let reason_string = |connect: &Connect<'_>| {
        let mut harness = Harness::with(connect, Limits::default());
        harness.end(Ended::Violation(Violation::SecondConnect));
        match harness.packets().remove(0) {
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.session_expiry_interval, None, "[MQTT5-3.14.2-2]");
                disconnect.reason_string
            }
            other => panic!("{other:?}"),
        }
    };
    let wanted = resumable(Version::V5);
    assert_eq!(reason_string(&wanted), Some("CONNECT came twice"));
    let mut unwanted = resumable(Version::V5);
    unwanted.properties.request_problem_information = Some(false);
    assert_eq!(reason_string(&unwanted), None);
    let mut small = resumable(Version::V5);
    small.properties.maximum_packet_size = NonZeroU32::new(20);
    assert_eq!(reason_string(&small), None, "[MQTT5-3.14.2-3]");
}

#[test]
fn a_new_connection_has_the_will_of_its_own_connect() {
    let mut harness = Harness::with(&with_will(Version::V5, 0), Limits::default());
    harness.end(Ended::ConnectionLost);
    harness.connect(&resumable(Version::V5), SessionState::Resumed);
    assert_eq!(harness.end(Ended::ConnectionLost).will, None, "[MQTT5-3.1.2-10]");
}
