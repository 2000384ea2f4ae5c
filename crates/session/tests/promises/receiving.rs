//! What a client publishes: QoS 1 and 2 towards the broker, aliases, and what is a violation.

use std::num::{NonZeroU16, NonZeroU32};

use tidegate_codec::{
    Auth, ConnAck, Connect, Packet, PubAck, Publish, ReasonCode, SubAck, SubscriptionIdentifiers, Version,
};
use tidegate_session::{Ended, Input, Limits, Token, Violation};

use crate::harness::{Harness, Q0, Q1, Q2, VERSIONS, id, publish, repeated, resumable};

fn window_of(maximum: u16) -> Limits {
    Limits { receive_maximum: NonZeroU16::new(maximum).unwrap(), ..Limits::default() }
}

#[test]
fn mqtt5_4_3_2_4_puback_waits_for_the_broker() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        assert_eq!(harness.publish(publish(Q0, 0)), None);
        let token = harness.publish(publish(Q1, 7)).unwrap();
        assert_eq!(harness.sent(), [""; 0]);
        assert!(harness.acknowledge(token, ReasonCode::Success));
        assert_eq!(harness.sent(), ["PUBACK #7"]);
        assert!(!harness.acknowledge(token, ReasonCode::Success), "it is owed once");
        assert_eq!(harness.sent(), [""; 0]);
    }
}

#[test]
fn mqtt5_4_3_3_11_a_qos_2_message_is_received_released_and_completed() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        let token = harness.publish(publish(Q2, 7)).unwrap();
        assert_eq!(harness.sent(), [""; 0]);
        harness.acknowledge(token, ReasonCode::Success);
        harness.pubrel(7);
        assert_eq!(harness.sent(), ["PUBREC #7", "PUBCOMP #7"]);
        let next = harness.publish(publish(Q2, 7));
        assert!(next.is_some_and(|next| next != token), "[MQTT5-4.3.3-12]");
    }
}

#[test]
fn attack_73_mqtt5_4_3_3_10_a_repeat_before_pubrel_is_delivered_once_and_answered_again() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        let token = harness.publish(publish(Q2, 7)).unwrap();
        harness.handle(&Packet::Publish(repeated(Q2, 7)));
        assert_eq!(harness.sent(), [""; 0], "PUBREC follows the broker's answer");
        harness.acknowledge(token, ReasonCode::Success);
        assert_eq!(harness.sent(), ["PUBREC #7"]);
        for repeat in [repeated(Q2, 7), publish(Q2, 7)] {
            harness.handle(&Packet::Publish(repeat));
            assert_eq!(harness.sent(), ["PUBREC #7"]);
        }
    }
}

#[test]
fn a_qos_2_message_stays_known_across_connections_whenever_the_broker_answers() {
    for version in VERSIONS {
        // Answered while the client is away: the repeat is answered at once.
        let mut harness = Harness::connected(version);
        let token = harness.publish(publish(Q2, 7)).unwrap();
        harness.end(Ended::ConnectionLost);
        assert!(harness.acknowledge(token, ReasonCode::Success));
        assert_eq!(harness.reconnect(&resumable(version)), [""; 0]);
        harness.handle(&Packet::Publish(repeated(Q2, 7)));
        assert_eq!(harness.sent(), ["PUBREC #7"], "{version:?}");

        // Answered after the client came back, before it repeated.
        let mut harness = Harness::connected(version);
        let token = harness.publish(publish(Q2, 7)).unwrap();
        assert_eq!(harness.reconnect(&resumable(version)), [""; 0]);
        assert!(harness.acknowledge(token, ReasonCode::Success));
        assert_eq!(harness.sent(), [""; 0], "nobody asked on this connection");
        harness.handle(&Packet::Publish(repeated(Q2, 7)));
        assert_eq!(harness.sent(), ["PUBREC #7"]);

        // Answered after the repeat.
        let mut harness = Harness::connected(version);
        let token = harness.publish(publish(Q2, 7)).unwrap();
        harness.reconnect(&resumable(version));
        harness.handle(&Packet::Publish(repeated(Q2, 7)));
        assert_eq!(harness.sent(), [""; 0]);
        assert!(harness.acknowledge(token, ReasonCode::Success));
        assert_eq!(harness.sent(), ["PUBREC #7"]);

        // Received before, released after.
        harness.reconnect(&resumable(version));
        harness.pubrel(7);
        assert_eq!(harness.sent(), ["PUBCOMP #7"]);
    }
}

#[test]
fn a_qos_1_message_is_new_on_a_new_connection_and_its_late_answer_is_recognised() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        let old = harness.publish(publish(Q1, 7)).unwrap();
        harness.reconnect(&resumable(version));
        let new = harness.publish(repeated(Q1, 7)).expect("at least once: it may have been lost");
        assert_ne!(old, new);
        assert!(!harness.acknowledge(old, ReasonCode::Success));
        assert_eq!(harness.sent(), [""; 0], "an answer to the first must not acknowledge the second");
        assert!(harness.acknowledge(new, ReasonCode::Success));
        assert_eq!(harness.sent(), ["PUBACK #7"]);
    }
}

#[test]
fn a_repeat_of_a_qos_1_message_that_is_with_the_broker_is_answered_with_it() {
    let mut harness = Harness::connected(Version::V3_1_1);
    let token = harness.publish(publish(Q1, 7)).unwrap();
    harness.handle(&Packet::Publish(repeated(Q1, 7)));
    harness.acknowledge(token, ReasonCode::Success);
    assert_eq!(harness.sent(), ["PUBACK #7"]);
    assert!(
        harness.publish(repeated(Q1, 7)).is_some(),
        "[MQTT5-4.3.2-5]: new after PUBACK, whatever DUP says"
    );
}

#[test]
fn mqtt5_2_2_1_3_a_new_message_under_an_identifier_in_use_is_not_lost_silently() {
    let mut harness = Harness::connected(Version::V5);
    harness.publish(publish(Q1, 7));
    harness.publish(publish(Q2, 8));
    assert_eq!(harness.violation(&Packet::Publish(publish(Q1, 7))), Violation::PacketIdInUse(id(7)));
    assert_eq!(harness.violation(&Packet::Publish(publish(Q2, 7))), Violation::PacketIdInUse(id(7)));
    assert_eq!(harness.violation(&Packet::Publish(publish(Q1, 8))), Violation::PacketIdInUse(id(8)));
}

#[test]
fn a_client_that_lost_its_state_may_use_the_identifier_of_an_old_qos_2_message() {
    let mut harness = Harness::connected(Version::V5);
    let token = harness.publish(publish(Q2, 1)).unwrap();
    harness.acknowledge(token, ReasonCode::Success);
    harness.reconnect(&resumable(Version::V5));
    assert!(harness.publish(publish(Q1, 1)).is_some());
}

#[test]
fn a_refusal_names_its_reason_in_v5_and_is_an_acknowledgement_in_3_x() {
    for (version, puback, pubrec) in [
        (Version::V5, "PUBACK #1 0x87", "PUBREC #2 0x87"),
        (Version::V3_1_1, "PUBACK #1", "PUBREC #2"), // [MQTT311-3.3.5-2]
        (Version::V3_1, "PUBACK #1", "PUBREC #2"),
    ] {
        let mut harness = Harness::connected(version);
        let first = harness.publish(publish(Q1, 1)).unwrap();
        let second = harness.publish(publish(Q2, 2)).unwrap();
        harness.acknowledge(first, ReasonCode::NotAuthorized);
        harness.acknowledge(second, ReasonCode::NotAuthorized);
        assert_eq!(harness.sent(), [puback, pubrec]);
        if version == Version::V5 {
            assert!(harness.publish(publish(Q2, 2)).is_some(), "[MQTT5-4.3.3-9]");
        } else {
            harness.handle(&Packet::Publish(repeated(Q2, 2)));
            assert_eq!(harness.sent(), ["PUBREC #2"], "it is known until PUBREL");
        }
    }
}

#[test]
fn mqtt5_3_4_2_1_a_reason_that_puback_can_not_carry_becomes_one_that_it_can() {
    for (given, sent) in [
        (ReasonCode::NoMatchingSubscribers, "PUBACK #1 0x10"),
        (ReasonCode::QuotaExceeded, "PUBACK #1 0x97"),
        (ReasonCode::ServerBusy, "PUBACK #1 0x80"),
        (ReasonCode::GrantedQos1, "PUBACK #1"),
    ] {
        let mut harness = Harness::connected(Version::V5);
        let token = harness.publish(publish(Q1, 1)).unwrap();
        harness.acknowledge(token, given);
        assert_eq!(harness.sent(), [sent]);
    }
}

#[test]
fn a_forgotten_message_is_never_acknowledged_and_its_repeat_is_new() {
    for qos in [Q1, Q2] {
        let mut harness = Harness::connected(Version::V5);
        let token = harness.publish(publish(qos, 7)).unwrap();
        harness.session.forget(token);
        assert!(!harness.acknowledge(token, ReasonCode::Success));
        assert_eq!(harness.sent(), [""; 0]);
        assert!(harness.publish(repeated(qos, 7)).is_some());
    }
}

#[test]
fn a_message_that_was_received_can_no_longer_be_forgotten() {
    let mut harness = Harness::connected(Version::V5);
    let token = harness.publish(publish(Q2, 7)).unwrap();
    harness.acknowledge(token, ReasonCode::Success);
    harness.session.forget(token);
    harness.handle(&Packet::Publish(repeated(Q2, 7)));
    assert_eq!(harness.sent(), ["PUBREC #7", "PUBREC #7"]);
}

#[test]
fn a_number_that_was_never_a_token_settles_nothing() {
    let mut harness = Harness::connected(Version::V5);
    let token = harness.publish(publish(Q1, 7)).unwrap();
    for number in [0, 7, u64::MAX, u64::from(token) + (1 << 16)] {
        assert!(!harness.acknowledge(Token::from(number), ReasonCode::Success), "{number}");
        harness.session.forget(Token::from(number));
    }
    assert!(
        harness.acknowledge(Token::from(u64::from(token)), ReasonCode::Success),
        "a token survives its number"
    );
}

#[test]
fn attack_74_mqtt5_3_3_4_7_a_v5_client_beyond_the_receive_maximum_is_stopped() {
    let mut harness = Harness::with(&resumable(Version::V5), window_of(3));
    let first = harness.publish(publish(Q1, 1)).unwrap();
    let second = harness.publish(publish(Q2, 2)).unwrap();
    harness.publish(publish(Q2, 3));
    assert!(!harness.session.window_is_full(), "a v5 client is never read slower");
    let too_many = Violation::ReceiveMaximumExceeded { maximum: 3 };
    assert_eq!(harness.violation(&Packet::Publish(publish(Q1, 4))), too_many);
    assert_eq!(harness.publish(publish(Q0, 0)), None, "QoS 0 is outside the window");
    harness.handle(&Packet::PingReq); // [MQTT5-4.9.0-3]

    harness.acknowledge(second, ReasonCode::Success);
    assert_eq!(
        harness.violation(&Packet::Publish(publish(Q1, 4))),
        too_many,
        "PUBREC does not open the window"
    );
    harness.pubrel(2);
    assert!(harness.publish(publish(Q1, 4)).is_some(), "PUBCOMP does");
    harness.acknowledge(first, ReasonCode::Success);
    assert!(harness.publish(publish(Q1, 5)).is_some(), "PUBACK does");
}

#[test]
fn a_3_x_client_with_a_full_window_is_not_read_and_pubrel_gets_through() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut harness = Harness::with(&resumable(version), window_of(2));
        let first = harness.publish(publish(Q2, 1)).unwrap();
        assert!(!harness.session.window_is_full());
        let second = harness.publish(publish(Q1, 2)).unwrap();
        assert!(harness.session.window_is_full());
        harness.acknowledge(first, ReasonCode::Success);
        assert!(!harness.session.window_is_full(), "what waits for PUBREL must not stop reading");
        harness.acknowledge(second, ReasonCode::Success);
        for number in 10..50 {
            let token = harness.publish(publish(Q2, number)).unwrap();
            harness.acknowledge(token, ReasonCode::Success);
        }
        assert!(!harness.session.window_is_full());
    }
}

#[test]
fn attack_74_a_3_x_client_that_never_sends_pubrel_is_stopped_at_the_bound() {
    let limits = Limits { max_unreleased: 4, ..window_of(2) };
    let mut harness = Harness::with(&resumable(Version::V3_1_1), limits);
    for number in 1..=4 {
        let token = harness.publish(publish(Q2, number)).unwrap();
        harness.acknowledge(token, ReasonCode::Success);
    }
    let stopped = Violation::ReceiveMaximumExceeded { maximum: 4 };
    assert_eq!(harness.violation(&Packet::Publish(publish(Q2, 5))), stopped);
}

#[test]
fn what_old_connections_left_behind_never_locks_a_client_out_nor_grows() {
    for version in [Version::V3_1_1, Version::V5] {
        let limits = Limits { max_unreleased: 4, ..window_of(4) };
        let mut harness = Harness::with(&resumable(version), limits);
        for connection in 0..50 {
            for number in 1..=4 {
                let token = harness.publish(publish(Q2, connection * 4 + number)).unwrap();
                harness.acknowledge(token, ReasonCode::Success);
            }
            harness.reconnect(&resumable(version));
        }
        let stored = 197..=200;
        for number in 1..=200 {
            harness.packets();
            harness.pubrel(number);
            let known = stored.contains(&number) || version != Version::V5;
            let expected =
                if known { format!("PUBCOMP #{number}") } else { format!("PUBCOMP #{number} 0x92") };
            assert_eq!(harness.sent(), [expected]);
        }
    }
}

#[test]
fn a_repeated_message_counts_against_the_window_of_its_new_connection() {
    let mut harness = Harness::with(&resumable(Version::V5), window_of(2));
    let token = harness.publish(publish(Q2, 1)).unwrap();
    harness.acknowledge(token, ReasonCode::Success);
    harness.reconnect(&resumable(Version::V5));
    harness.handle(&Packet::Publish(repeated(Q2, 1)));
    harness.publish(publish(Q1, 2));
    let too_many = Violation::ReceiveMaximumExceeded { maximum: 2 };
    assert_eq!(harness.violation(&Packet::Publish(publish(Q1, 3))), too_many);
}

#[test]
fn attack_77_acknowledgements_for_unknown_identifiers_are_answered_or_ignored() {
    for (version, pubrel, pubcomp) in [
        (Version::V5, "PUBREL #9 0x92", "PUBCOMP #9 0x92"),
        (Version::V3_1_1, "PUBREL #9", "PUBCOMP #9"),
        (Version::V3_1, "PUBREL #9", "PUBCOMP #9"),
    ] {
        let mut harness = Harness::connected(version);
        harness.puback(9);
        harness.pubcomp(9);
        assert_eq!(harness.sent(), [""; 0]);
        harness.pubrec(9);
        harness.pubrel(9);
        assert_eq!(harness.sent(), [pubrel, pubcomp]);
    }
}

#[test]
fn a_pubrel_before_pubrec_does_not_release_what_is_with_the_broker() {
    let mut harness = Harness::connected(Version::V5);
    let token = harness.publish(publish(Q2, 7)).unwrap();
    harness.pubrel(7);
    assert_eq!(harness.sent(), ["PUBCOMP #7 0x92"]);
    assert!(harness.acknowledge(token, ReasonCode::Success));
}

fn aliased(topic: &'static str, alias: u16) -> Publish<'static> {
    let mut publish = Publish { topic, ..publish(Q0, 0) };
    publish.properties.topic_alias = NonZeroU16::new(alias);
    publish
}

#[track_caller]
fn resolves(harness: &mut Harness, publish: Publish<'_>, topic: &str) {
    match harness.session.handle_packet(&Packet::Publish(publish), harness.now, &mut harness.out) {
        Ok(Input::Publish(inbound)) => assert_eq!(inbound.topic.as_str(), topic),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt5_3_3_2_12_every_alias_up_to_the_maximum_is_taken_and_can_change() {
    let mut harness = Harness::connected(Version::V5);
    for alias in 1..=64 {
        resolves(&mut harness, aliased("a", alias), "a");
    }
    resolves(&mut harness, aliased("b/c", 64), "b/c");
    resolves(&mut harness, aliased("", 64), "b/c");
    resolves(&mut harness, aliased("", 1), "a");
}

#[test]
fn attack_89_aliases_above_the_maximum_or_never_set_are_violations() {
    let mut harness = Harness::connected(Version::V5);
    let too_high = Violation::TopicAliasTooHigh { alias: 65, maximum: 64 };
    assert_eq!(too_high.reason_code(), ReasonCode::TopicAliasInvalid);
    assert_eq!(harness.violation(&Packet::Publish(aliased("a", 65))), too_high, "[MQTT5-3.3.2-9]");
    assert_eq!(harness.violation(&Packet::Publish(aliased("", 65))), too_high);
    assert_eq!(harness.violation(&Packet::Publish(aliased("", 3))), Violation::TopicAliasUnknown(3));

    resolves(&mut harness, aliased("a", 3), "a");
    harness.reconnect(&resumable(Version::V5));
    let after = harness.violation(&Packet::Publish(aliased("", 3)));
    assert_eq!(after, Violation::TopicAliasUnknown(3), "[MQTT5-3.3.2-7]");
}

#[test]
fn attack_89_the_memory_behind_aliases_is_bounded() {
    let limits = Limits { max_alias_bytes: 10, ..Limits::default() };
    let mut harness = Harness::with(&resumable(Version::V5), limits);
    resolves(&mut harness, aliased("123456", 1), "123456");
    resolves(&mut harness, aliased("1234", 2), "1234");
    resolves(&mut harness, aliased("12345678", 0), "12345678");
    let full = Violation::TopicAliasesTooLong { maximum: 10 };
    assert_eq!(harness.violation(&Packet::Publish(aliased("1", 3))), full);
    resolves(&mut harness, aliased("1", 1), "1");
    resolves(&mut harness, aliased("12345", 3), "12345");
}

#[test]
fn a_publish_that_must_not_be_is_a_violation_with_its_reason() {
    let limits = || Limits { max_qos: Q1, retain_available: false, max_topic_levels: 3, ..Limits::default() };
    let with = |change: fn(&mut Publish<'static>)| {
        let mut publish = publish(Q0, 0);
        change(&mut publish);
        publish
    };
    let rows: [(Publish<'static>, Violation, u8); 8] = [
        (with(|publish| publish.topic = "a/+"), Violation::TopicNameInvalid, 0x90),
        (with(|publish| publish.topic = "a/#"), Violation::TopicNameInvalid, 0x90),
        (with(|publish| publish.topic = "a/b/c/d"), Violation::TopicNameInvalid, 0x90),
        (with(|publish| publish.topic = ""), Violation::TopicMissing, 0x82),
        (publish(Q2, 1), Violation::QosNotSupported, 0x9B), // [MQTT5-3.2.2-11]
        (with(|publish| publish.retain = true), Violation::RetainNotSupported, 0x9A), // [MQTT5-3.2.2-14]
        (
            with(|publish| publish.properties.response_topic = Some("a/+")),
            Violation::ResponseTopicInvalid, // [MQTT5-3.3.2-14]
            0x82,
        ),
        (
            with(|publish| {
                publish.properties.subscription_identifiers = SubscriptionIdentifiers::One(NonZeroU32::MIN);
            }),
            Violation::SubscriptionIdentifier, // [MQTT5-3.3.4-6]
            0x82,
        ),
    ];
    for (publish, violation, reason) in rows {
        let mut harness = Harness::with(&resumable(Version::V5), limits());
        assert_eq!(harness.violation(&Packet::Publish(publish)), violation);
        harness.end(Ended::Violation(violation));
        assert_eq!(harness.sent(), [format!("DISCONNECT {reason:#04x}")]);
    }
}

#[test]
fn packets_that_a_client_must_not_send_end_the_conversation() {
    let rows: [(Packet<'_>, Violation); 6] = [
        (Packet::Connect(Box::new(Connect::new(Version::V5, "pump-7"))), Violation::SecondConnect), // [MQTT5-3.1.0-2]
        (Packet::Auth(Box::new(Auth::new(ReasonCode::ReAuthenticate))), Violation::UnexpectedAuth), // [MQTT5-4.12.0-7]
        (
            Packet::ConnAck(Box::new(ConnAck::new(ReasonCode::Success))),
            Violation::ServerPacket(tidegate_codec::PacketType::ConnAck),
        ),
        (
            Packet::SubAck(Box::new(SubAck::new(id(1), vec![ReasonCode::Success]))),
            Violation::ServerPacket(tidegate_codec::PacketType::SubAck),
        ),
        (
            Packet::UnsubAck(Box::new(SubAck::new(id(1), vec![ReasonCode::Success]))),
            Violation::ServerPacket(tidegate_codec::PacketType::UnsubAck),
        ),
        (Packet::PingResp, Violation::ServerPacket(tidegate_codec::PacketType::PingResp)),
    ];
    for (packet, violation) in rows {
        let mut harness = Harness::connected(Version::V5);
        assert_eq!(harness.violation(&packet), violation);
        harness.end(Ended::Violation(violation));
        assert_eq!(harness.sent(), ["DISCONNECT 0x82"]);
    }
}

#[test]
fn mqtt5_3_12_4_1_pingreq_is_answered() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        harness.handle(&Packet::PingReq);
        assert_eq!(harness.sent(), ["PINGRESP"]);
    }
}

#[test]
fn an_error_in_pubrec_for_an_unknown_identifier_asks_for_no_pubrel() {
    let mut harness = Harness::connected(Version::V5);
    harness.handle(&Packet::PubRec(PubAck::with_reason(id(9), ReasonCode::UnspecifiedError)));
    assert_eq!(harness.sent(), [""; 0]);
}
