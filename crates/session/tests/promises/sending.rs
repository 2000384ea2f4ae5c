//! What the server sends to a client that is there: windows, identifiers, queue, sizes, properties.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use tidegate_codec::{
    Packet, PubAck, Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscribeFilter, UserProperties,
    Version,
};
use tidegate_session::{
    Delivered, Delivery, DropReason, Dropped, Ended, Identifiers, Limits, Message, QueuePolicy, SessionState,
    Violation,
};

use crate::harness::{Harness, Q0, Q1, Q2, VERSIONS, id, publish, resumable, small_window};

const FULL: Delivered = Delivered::Dropped(DropReason::QueueFull);

fn expiring(topic: &str, qos: QoS, seconds: u32, harness: &Harness) -> Message {
    let mut publish = Publish { qos, ..publish(Q0, 0) };
    publish.properties.message_expiry_interval = Some(seconds);
    Message::from_publish(topic, &publish, harness.now)
}

#[test]
fn mqtt5_3_8_4_8_a_message_goes_out_with_the_lower_of_published_and_granted_qos() {
    for (published, granted, sent) in [
        (Q0, Q2, "PUBLISH q0 a"),
        (Q1, Q2, "PUBLISH q1 #1 a"),
        (Q2, Q1, "PUBLISH q1 #1 a"),
        (Q2, Q2, "PUBLISH q2 #1 a"),
        (Q2, Q0, "PUBLISH q0 a"),
    ] {
        let mut harness = Harness::connected(Version::V5);
        let message = Message::new("a", b"", published, false).into();
        let delivery =
            Delivery { message, qos: granted, retain: false, subscription_identifiers: Identifiers::None };
        assert_eq!(harness.session.deliver(delivery, harness.now, &mut harness.out), Delivered::Sent);
        assert_eq!(harness.sent(), [sent]);
    }
}

#[test]
fn mqtt5_4_3_3_4_a_qos_2_message_is_published_released_and_completed() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        harness.deliver("a", Q2);
        harness.pubrec(1);
        assert_eq!(harness.sent(), ["PUBLISH q2 #1 a", "PUBREL #1"]);
        harness.pubrec(1);
        assert_eq!(harness.sent(), ["PUBREL #1"], "a repeated PUBREC is answered again");
        harness.pubcomp(1);
        assert_eq!(harness.session.in_flight(), 0);
    }
}

#[test]
fn mqtt5_4_4_0_2_an_error_in_puback_or_pubrec_ends_the_delivery() {
    let mut harness = Harness::with(&small_window(2), Limits::default());
    harness.deliver("a", Q1);
    harness.deliver("b", Q2);
    harness.packets();
    harness.handle(&Packet::PubAck(PubAck::with_reason(id(1), ReasonCode::UnspecifiedError)));
    harness.handle(&Packet::PubRec(PubAck::with_reason(id(2), ReasonCode::NotAuthorized)));
    assert_eq!(harness.sent(), [""; 0], "no PUBREL");
    assert_eq!(harness.session.in_flight(), 0);
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_settles_nothing() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q1);
    harness.deliver("b", Q2);
    harness.packets();
    harness.pubcomp(1);
    harness.pubcomp(2);
    harness.puback(2);
    harness.pubrec(1);
    assert_eq!(harness.sent(), ["PUBREL #1 0x92"]);
    assert_eq!(harness.session.in_flight(), 2);
}

#[test]
fn mqtt5_3_3_4_9_the_window_is_the_smaller_of_the_client_s_and_ours() {
    let ours = Limits { max_inflight_out: NonZeroU16::new(3).unwrap(), ..Limits::default() };
    for (connect, window) in [
        (small_window(2), 2),
        (small_window(9), 3),
        (resumable(Version::V5), 3),
        (resumable(Version::V3_1_1), 3),
        (resumable(Version::V3_1), 3),
    ] {
        let mut harness = Harness::with(&connect, ours.clone());
        for number in 0..6 {
            let expected = if number < window { Delivered::Sent } else { Delivered::Queued };
            assert_eq!(harness.deliver("a", Q1), expected);
        }
        assert_eq!(harness.deliver("a", Q0), Delivered::Sent, "QoS 0 is outside the window");
        assert_eq!(harness.packets().len(), window + 1);
        harness.puback(1);
        assert_eq!(harness.sent(), [format!("PUBLISH q1 #{} a", window + 1)], "one out, one in");
    }
}

#[test]
fn mqtt5_4_9_0_2_the_window_opens_with_pubcomp_and_not_with_pubrec() {
    let mut harness = Harness::with(&small_window(1), Limits::default());
    harness.deliver("a", Q2);
    harness.deliver("b", Q1);
    harness.pubrec(1);
    assert_eq!(harness.sent(), ["PUBLISH q2 #1 a", "PUBREL #1"]);
    harness.pubcomp(1);
    assert_eq!(harness.sent(), ["PUBLISH q1 #2 b"]);
}

#[test]
fn mqtt5_4_6_0_5_messages_keep_their_order_through_window_and_queue() {
    let mut harness = Harness::with(&small_window(2), Limits::default());
    let mut received: Vec<u16> = Vec::new();
    for number in 0..20 {
        harness.deliver(&number.to_string(), Q1);
        if number % 3 == 0 {
            harness.puback(number / 3 + 1);
        }
    }
    for number in 1..=20 {
        for packet in harness.packets() {
            if let Packet::Publish(publish) = packet {
                received.push(publish.topic.parse().unwrap());
            }
        }
        harness.puback(number);
    }
    assert_eq!(received, (0..20).collect::<Vec<u16>>());
}

#[test]
fn attack_78_mqtt5_2_2_1_4_an_identifier_in_flight_is_never_used_again_also_when_they_wrap() {
    let mut harness = Harness::connected(Version::V3_1_1);
    harness.deliver("stuck", Q1);
    harness.deliver("released", Q2);
    harness.pubrec(2);
    let mut expected = 2_u16;
    for _ in 0..66_000 {
        expected = expected.checked_add(1).unwrap_or(3); // 0 is none, 1 and 2 are in flight
        harness.out.clear();
        harness.deliver("a", Q1);
        assert_eq!(harness.out[5..7], expected.to_be_bytes());
        harness.puback(expected);
    }
    assert_eq!(harness.session.in_flight(), 2);
}

#[test]
fn attack_78_a_wide_window_wraps_over_the_end_of_the_identifiers() {
    let limits = Limits { max_inflight_out: NonZeroU16::MAX, ..Limits::default() };
    let mut harness = Harness::with(&resumable(Version::V3_1_1), limits);
    for number in 1..=65_435 {
        harness.deliver("a", Q1);
        harness.puback(number);
    }
    for _ in 0..200 {
        assert_eq!(harness.deliver("a", Q1), Delivered::Sent);
    }
    harness.out.clear();
    for number in (65_436..=65_535).chain(1..=100) {
        harness.puback(number);
    }
    assert_eq!(harness.session.in_flight(), 0);
}

#[test]
fn attack_76_a_full_queue_drops_by_its_policy_and_counts() {
    for (policy, last, kept) in [
        (QueuePolicy::DropOldest, Delivered::Queued, ["c", "d"]),
        (QueuePolicy::DropNewest, FULL, ["b", "c"]),
    ] {
        let limits = Limits { max_queued_messages: 2, queue_policy: policy, ..Limits::default() };
        let mut harness = Harness::with(&small_window(1), limits);
        for topic in ["a", "b", "c"] {
            harness.deliver(topic, Q1);
        }
        assert_eq!(harness.deliver("d", Q1), last);
        assert_eq!(harness.session.take_dropped(), Dropped { queue_full: 1, ..Dropped::default() });
        assert_eq!(harness.session.take_dropped().total(), 0);
        harness.puback(1);
        harness.puback(2);
        let expected =
            ["PUBLISH q1 #1 a", &format!("PUBLISH q1 #2 {}", kept[0]), &format!("PUBLISH q1 #3 {}", kept[1])];
        assert_eq!(harness.sent(), expected);
    }
}

#[test]
fn attack_76_the_queue_is_bounded_in_bytes() {
    let message = |size| Message::new("a", &vec![0; size], Q1, false);
    let limits = Limits { max_queued_bytes: 4000, ..Limits::default() };
    let mut harness = Harness::offline(limits);
    for _ in 0..50 {
        assert_eq!(harness.deliver_message(message(1000)), Delivered::Queued);
    }
    assert_eq!(harness.session.queued(), 3);
    assert_eq!(harness.session.take_dropped().queue_full, 47);
    assert_eq!(harness.deliver_message(message(5000)), FULL, "it can never fit");
    assert_eq!(harness.session.queued(), 3, "and nothing makes way for it");
    assert_eq!(harness.deliver_message(message(3000)), Delivered::Queued, "it makes way for itself");
    assert_eq!(harness.session.queued(), 1);
}

#[test]
fn a_queue_of_no_length_drops_everything() {
    let mut harness = Harness::offline(Limits { max_queued_messages: 0, ..Limits::default() });
    assert_eq!(harness.deliver("a", Q1), FULL);
}

#[test]
fn qos_0_does_not_wait_for_a_client_that_is_away_unless_asked_to() {
    let mut harness = Harness::offline(Limits::default());
    assert_eq!(harness.deliver("a", Q0), Delivered::Dropped(DropReason::Offline));
    assert_eq!(harness.session.take_dropped().offline, 1);

    let mut harness = Harness::offline(Limits { queue_qos0: true, ..Limits::default() });
    assert_eq!(harness.deliver("a", Q0), Delivered::Queued);
    assert_eq!(harness.reconnect(&resumable(Version::V3_1_1)), ["PUBLISH q0 a"]);
}

#[test]
fn attack_76_a_congested_socket_holds_messages_back_and_not_answers() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q2);
    harness.packets();
    harness.session.set_congested(true);
    assert_eq!(harness.deliver("b", Q1), Delivered::Queued);
    assert_eq!(harness.deliver("c", Q0), Delivered::Dropped(DropReason::Congested));
    harness.handle(&Packet::PingReq);
    harness.pubrec(1);
    assert_eq!(harness.sent(), ["PINGRESP", "PUBREL #1"]);
    harness.pubcomp(1);
    assert_eq!(harness.sent(), [""; 0]);

    harness.session.set_congested(false);
    harness.session.resume_sending(harness.now, &mut harness.out);
    assert_eq!(harness.sent(), ["PUBLISH q1 #2 b"]);
    assert_eq!(harness.session.take_dropped(), Dropped { congested: 1, ..Dropped::default() });
}

#[test]
fn mqtt5_4_6_0_5_nothing_overtakes_what_a_congested_socket_held_back() {
    let mut harness = Harness::connected(Version::V5);
    harness.session.set_congested(true);
    harness.deliver("a", Q1);
    harness.session.set_congested(false);
    assert_eq!(harness.deliver("b", Q1), Delivered::Queued);
    harness.session.resume_sending(harness.now, &mut harness.out);
    assert_eq!(harness.sent(), ["PUBLISH q1 #1 a", "PUBLISH q1 #2 b"]);
}

#[test]
fn queued_qos_0_keeps_its_order() {
    let mut harness =
        Harness::with(&resumable(Version::V5), Limits { queue_qos0: true, ..Limits::default() });
    harness.session.set_congested(true);
    harness.deliver("a", Q0);
    harness.session.set_congested(false);
    assert_eq!(harness.deliver("b", Q0), Delivered::Queued, "behind the one that waits");
    harness.session.resume_sending(harness.now, &mut harness.out);
    assert_eq!(harness.deliver("c", Q0), Delivered::Sent);
    assert_eq!(harness.sent(), ["PUBLISH q0 a", "PUBLISH q0 b", "PUBLISH q0 c"]);
}

#[test]
fn attack_90_mqtt5_3_1_2_25_a_message_too_large_for_the_client_counts_as_sent_and_is_not() {
    let mut connect = small_window(1);
    connect.properties.maximum_packet_size = NonZeroU32::new(30);
    let mut harness = Harness::with(&connect, Limits::default());
    // Fixed header 2, topic 3, identifier 2, properties 1: 22 bytes of payload fit.
    let message = |size, qos| Message::new("a", &vec![0; size], qos, false);
    assert_eq!(harness.deliver_message(message(23, Q1)), Delivered::Dropped(DropReason::TooLarge));
    assert_eq!(harness.deliver_message(message(25, Q0)), Delivered::Dropped(DropReason::TooLarge));
    assert_eq!(harness.deliver_message(message(24, Q0)), Delivered::Sent);
    assert_eq!(harness.deliver_message(message(22, Q1)), Delivered::Sent);
    assert_eq!(harness.deliver_message(message(23, Q1)), Delivered::Queued);
    assert_eq!(harness.deliver_message(message(22, Q1)), Delivered::Queued);
    harness.puback(1);
    assert_eq!(harness.sent(), ["PUBLISH q0 a", "PUBLISH q1 #1 a", "PUBLISH q1 #2 a"]);
    assert_eq!(harness.session.take_dropped(), Dropped { too_large: 3, ..Dropped::default() });
}

#[test]
fn mqtt5_3_1_2_24_no_answer_is_larger_than_the_client_s_maximum() {
    let mut connect = resumable(Version::V5);
    connect.properties.maximum_packet_size = NonZeroU32::new(20);
    let mut harness = Harness::with(&connect, Limits::default());
    let mut subscribe = |filters| {
        let request = Subscribe {
            packet_id: id(1),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: vec![SubscribeFilter::new("a", Q0); filters],
        };
        harness.session.subscribed(&request, &vec![Ok(Q0); filters], &mut harness.out);
        harness.packets().len()
    };
    assert_eq!((subscribe(15), subscribe(16)), (1, 0));
    harness.handle(&Packet::PingReq);
    harness.end(Ended::Violation(Violation::SecondConnect));
    assert_eq!(harness.sent(), ["PINGRESP", "DISCONNECT 0x82"]);
}

#[test]
fn mqtt5_3_3_2_5_a_message_that_expired_before_its_delivery_began_is_not_sent() {
    let mut harness = Harness::with(&small_window(1), Limits::default());
    let dead_on_arrival = expiring("x", Q0, 0, &harness);
    assert_eq!(harness.deliver_message(dead_on_arrival), Delivered::Dropped(DropReason::Expired));
    harness.deliver("a", Q1);
    let (short, long) = (expiring("short", Q1, 10, &harness), expiring("long", Q1, 20, &harness));
    harness.deliver_message(short);
    harness.deliver_message(long);
    harness.wait(Duration::from_secs(10));
    harness.puback(1);
    assert_eq!(harness.sent(), ["PUBLISH q1 #1 a", "PUBLISH q1 #2 long"]);
    assert_eq!(harness.session.take_dropped(), Dropped { expired: 2, ..Dropped::default() });
}

#[test]
fn mqtt5_3_3_2_6_the_expiry_interval_is_what_is_left() {
    for (waited, left) in [(0, 10), (400, 10), (1000, 9), (1001, 9), (9999, 1)] {
        let mut harness = Harness::offline(Limits::default());
        let message = expiring("a", Q1, 10, &harness);
        harness.deliver_message(message);
        harness.wait(Duration::from_millis(waited));
        harness.connect(&resumable(Version::V5), SessionState::Resumed);
        let Packet::Publish(publish) = harness.packets().remove(1) else { panic!("a PUBLISH") };
        assert_eq!(publish.properties.message_expiry_interval, Some(left), "after {waited} ms");
    }
}

#[test]
fn mqtt5_4_3_3_7_a_delivery_that_began_is_repeated_after_its_expiry() {
    let mut harness = Harness::connected(Version::V5);
    let message = expiring("a", Q2, 1, &harness);
    harness.deliver_message(message);
    harness.wait(Duration::from_secs(5));
    assert_eq!(harness.reconnect(&resumable(Version::V5)), ["PUBLISH q2 #1 DUP a"]);
}

#[test]
fn mqtt5_3_3_2_17_all_properties_travel_unaltered_and_in_order() {
    let pairs = [("b", "1"), ("a", "2"), ("b", "3")];
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        response_topic: Some("re"),
        correlation_data: Some(b"\x00\xff"),
        content_type: Some("text/plain"),
        user_properties: UserProperties::from_pairs(pairs).unwrap(),
        ..PublishProperties::default()
    };
    let mut received = Publish { properties: properties.clone(), ..publish(Q1, 5) };
    received.properties.topic_alias = NonZeroU16::new(7);
    let mut harness = Harness::connected(Version::V5);
    harness.deliver_message(Message::from_publish("a/b", &received, harness.now));
    let expected = Publish { properties, ..publish(Q1, 1) };
    assert_eq!(harness.packets(), [Packet::Publish(expected)]);

    let mut harness = Harness::connected(Version::V3_1_1);
    harness.deliver_message(Message::from_publish("a/b", &received, harness.now));
    assert_eq!(harness.packets(), [Packet::Publish(publish(Q1, 1))], "3.1.1 has no properties");
}

#[test]
fn attack_88_mqtt5_3_3_4_4_subscription_identifiers_are_sent_once_each() {
    let identifiers = |numbers: &[u32]| -> Identifiers {
        numbers.iter().map(|&number| NonZeroU32::new(number).unwrap()).collect()
    };
    for numbers in [&[][..], &[7], &[1, 268_435_455, 3]] {
        let mut harness = Harness::with(&small_window(1), Limits::default());
        harness.deliver_as(Message::new("a", b"", Q1, false), identifiers(numbers));
        harness.deliver_as(Message::new("a", b"", Q1, false), identifiers(numbers)); // through the queue
        harness.puback(1);
        for packet in harness.packets() {
            let Packet::Publish(publish) = packet else { panic!("a PUBLISH") };
            let sent: Vec<_> =
                publish.properties.subscription_identifiers.iter().map(NonZeroU32::get).collect();
            assert_eq!(sent, numbers);
        }
    }
}

#[test]
fn attack_90_mqtt5_3_1_2_27_no_topic_alias_is_sent_to_a_client_that_takes_none() {
    let mut harness = Harness::connected(Version::V5);
    for _ in 0..3 {
        harness.deliver("a", Q0);
    }
    assert_eq!(topics(&mut harness), [("a", 0), ("a", 0), ("a", 0)]);
}

fn with_aliases(maximum: u16, limits: Limits) -> Harness {
    let mut connect = resumable(Version::V5);
    connect.properties.topic_alias_maximum = Some(maximum);
    Harness::with(&connect, limits)
}

/// Topics and aliases, 0 for none, as they were sent.
fn topics(harness: &mut Harness) -> Vec<(&'static str, u16)> {
    let sent = harness.packets().into_iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => {
            Some((publish.topic, publish.properties.topic_alias.map_or(0, NonZeroU16::get)))
        }
        _ => None,
    });
    sent.collect()
}

#[test]
fn mqtt5_3_1_2_26_aliases_stand_for_topics_that_the_client_was_told_up_to_its_maximum() {
    let mut harness = with_aliases(2, Limits::default());
    for (topic, qos) in [("a", Q0), ("a", Q1), ("b", Q2), ("c", Q0), ("b", Q0), ("a", Q2), ("c", Q0)] {
        harness.deliver(topic, qos);
    }
    let expected = [("a", 1), ("", 1), ("b", 2), ("c", 0), ("", 2), ("", 1), ("c", 0)];
    assert_eq!(topics(&mut harness), expected);
    let mut harness = with_aliases(9, Limits { max_aliases_out: 0, ..Limits::default() });
    harness.deliver("a", Q0);
    assert_eq!(topics(&mut harness), [("a", 0)]);
}

#[test]
fn mqtt5_3_3_2_7_a_repeat_uses_no_alias_and_a_new_connection_none_of_the_last() {
    let mut harness = with_aliases(9, Limits::default());
    harness.deliver("a", Q1);
    harness.deliver("a", Q1);
    harness.end(Ended::ConnectionLost);
    harness.deliver("a", Q1);
    harness.packets();
    let mut connect = resumable(Version::V5);
    connect.properties.topic_alias_maximum = Some(9);
    harness.connect(&connect, SessionState::Resumed);
    assert_eq!(topics(&mut harness), [("a", 0), ("a", 0), ("a", 1)]);
}

#[test]
fn the_memory_behind_the_server_s_aliases_is_bounded() {
    let mut harness = with_aliases(9, Limits { max_alias_bytes: 4, ..Limits::default() });
    for topic in ["abc", "de", "f", "abc", "de", "f"] {
        harness.deliver(topic, Q0);
    }
    assert_eq!(topics(&mut harness), [("abc", 1), ("de", 0), ("f", 2), ("", 1), ("de", 0), ("", 2)]);
}

#[test]
fn mqtt5_3_1_2_25_an_alias_never_makes_a_message_too_large() {
    let mut connect = resumable(Version::V5);
    connect.properties.topic_alias_maximum = Some(9);
    // What the PUBLISH needs without alias: header, topic, no properties, payload.
    connect.properties.maximum_packet_size = NonZeroU32::new(2 + 12 + 1 + 1);
    let mut harness = Harness::with(&connect, Limits { topic_alias_maximum: 0, ..Limits::default() });
    harness.deliver("0123456789", Q0);
    harness.deliver("0123456789", Q0);
    assert_eq!(topics(&mut harness), [("0123456789", 0); 2]);
}

#[test]
fn mqtt5_3_3_1_12_the_retain_flag_is_the_delivery_s_and_not_the_message_s() {
    for retain in [false, true] {
        let mut harness = Harness::connected(Version::V5);
        let message = Message::new("a", b"", Q0, !retain).into();
        let delivery = Delivery { message, qos: Q0, retain, subscription_identifiers: Identifiers::None };
        harness.session.deliver(delivery, harness.now, &mut harness.out);
        let Packet::Publish(publish) = harness.packets().remove(0) else { panic!("a PUBLISH") };
        assert_eq!(publish.retain, retain);
    }
}
