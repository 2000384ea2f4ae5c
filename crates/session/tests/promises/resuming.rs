//! What a client gets when it comes back.

use tidegate_codec::Version;
use tidegate_session::{Delivered, Ended, Limits, SessionState};

use crate::harness::{Harness, Q0, Q1, Q2, VERSIONS, publish, repeated, resumable, small_window};

#[test]
fn mqtt5_4_4_0_1_what_was_in_flight_is_repeated_in_its_order_with_its_identifiers() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        for (topic, qos) in [("a", Q1), ("b", Q2), ("c", Q2), ("d", Q1), ("e", Q2)] {
            assert_eq!(harness.deliver(topic, qos), Delivered::Sent);
        }
        harness.pubrec(3);
        harness.puback(1);
        let repeated = ["PUBLISH q2 #2 DUP b", "PUBREL #3", "PUBLISH q1 #4 DUP d", "PUBLISH q2 #5 DUP e"];
        assert_eq!(harness.reconnect(&resumable(version)), repeated);
        assert_eq!(harness.reconnect(&resumable(version)), repeated, "as often as it takes");

        harness.pubrec(2);
        harness.pubcomp(3);
        harness.puback(4);
        assert_eq!(harness.sent(), ["PUBREL #2"]);
        assert_eq!(harness.reconnect(&resumable(version)), ["PUBREL #2", "PUBLISH q2 #5 DUP e"]);
    }
}

#[test]
fn mqtt5_4_4_0_1_nothing_is_repeated_on_the_same_connection() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q1);
    harness.packets();
    harness.wait(std::time::Duration::from_hours(1));
    harness.session.resume_sending(harness.now, &mut harness.out);
    harness.handle(&tidegate_codec::Packet::PingReq);
    assert_eq!(harness.sent(), ["PINGRESP"]);
}

#[test]
fn mqtt311_3_1_2_5_messages_for_a_client_that_is_away_follow_those_in_flight() {
    for version in VERSIONS {
        let mut harness = Harness::connected(version);
        harness.deliver("a", Q1);
        harness.end(Ended::ConnectionLost);
        assert_eq!(harness.deliver("b", Q2), Delivered::Queued);
        assert_eq!(harness.deliver("c", Q1), Delivered::Queued);
        harness.deliver("zero", Q0);
        let sent = harness.reconnect(&resumable(version));
        assert_eq!(sent, ["PUBLISH q1 #1 DUP a", "PUBLISH q2 #2 b", "PUBLISH q1 #3 c"]);
    }
}

#[test]
fn mqtt5_3_3_4_9_a_client_that_comes_back_with_a_smaller_window_gets_the_rest_as_it_opens() {
    let mut harness = Harness::connected(Version::V5);
    for (topic, qos) in [("a", Q1), ("b", Q1), ("c", Q2), ("d", Q1)] {
        harness.deliver(topic, qos);
    }
    harness.pubrec(3);
    // c, whose PUBCOMP is missing, takes one of the two places.
    assert_eq!(harness.reconnect(&small_window(2)), ["PUBLISH q1 #1 DUP a", "PUBREL #3"]);
    assert_eq!(harness.deliver("e", Q1), Delivered::Queued, "nothing new before the repeats");
    harness.puback(1);
    assert_eq!(harness.sent(), ["PUBLISH q1 #2 DUP b"]);
    harness.pubcomp(3);
    assert_eq!(harness.sent(), ["PUBLISH q1 #4 DUP d"]);
    harness.puback(2);
    assert_eq!(harness.sent(), ["PUBLISH q1 #5 e"]);
}

#[test]
fn an_acknowledgement_may_come_before_the_repeat() {
    let mut harness = Harness::connected(Version::V5);
    for topic in ["a", "b", "c"] {
        harness.deliver(topic, Q1);
    }
    assert_eq!(harness.reconnect(&small_window(1)), ["PUBLISH q1 #1 DUP a"]);
    harness.puback(2);
    harness.puback(1);
    assert_eq!(harness.sent(), ["PUBLISH q1 #3 DUP c"]);
    harness.puback(3);
    harness.deliver("d", Q1);
    assert_eq!(harness.sent(), ["PUBLISH q1 #4 d"]);
}

#[test]
fn nothing_new_overtakes_a_repeat_that_a_congested_socket_held_back() {
    let mut harness = Harness::connected(Version::V5);
    for topic in ["a", "b", "c", "d"] {
        harness.deliver(topic, Q1);
    }
    assert_eq!(harness.reconnect(&small_window(2)), ["PUBLISH q1 #1 DUP a", "PUBLISH q1 #2 DUP b"]);
    harness.session.set_congested(true);
    for number in 1..=3 {
        harness.puback(number);
    }
    harness.session.set_congested(false);
    assert_eq!(harness.deliver("e", Q1), Delivered::Queued);
    harness.session.resume_sending(harness.now, &mut harness.out);
    assert_eq!(harness.sent(), ["PUBLISH q1 #4 DUP d", "PUBLISH q1 #5 e"]);
}

#[test]
fn mqtt5_3_1_2_25_a_repeat_that_became_too_large_is_dropped_and_the_next_follows() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a/rather/long/topic/name", Q1);
    harness.deliver("b", Q2);
    harness.packets();
    let mut connect = small_window(1);
    connect.properties.maximum_packet_size = std::num::NonZeroU32::new(24);
    assert_eq!(harness.reconnect(&connect)[0], "PUBLISH q2 #2 DUP b");
    assert_eq!(harness.session.take_dropped().too_large, 1);
    assert_eq!(harness.session.in_flight(), 1);
}

#[test]
fn a_session_may_be_resumed_with_another_version() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q1);
    harness.deliver("b", Q2);
    assert_eq!(
        harness.reconnect(&resumable(Version::V3_1_1)),
        ["PUBLISH q1 #1 DUP a", "PUBLISH q2 #2 DUP b"]
    );
    harness.pubrec(2);
    assert_eq!(harness.reconnect(&small_window(9)), ["PUBLISH q1 #1 DUP a", "PUBREL #2"]);
}

#[test]
fn an_old_connection_that_was_never_ended_gives_way() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q1);
    harness.publish(publish(Q1, 7));
    harness.packets();
    harness.connect(&resumable(Version::V5), SessionState::Resumed);
    assert_eq!(harness.sent(), ["CONNACK present", "PUBLISH q1 #1 DUP a"]);
    assert!(harness.publish(repeated(Q1, 7)).is_some());
}

#[test]
fn congestion_ends_with_its_connection() {
    let mut harness = Harness::with(&resumable(Version::V5), Limits::default());
    harness.session.set_congested(true);
    harness.deliver("a", Q1);
    assert_eq!(harness.reconnect(&resumable(Version::V5)), ["PUBLISH q1 #1 a"]);
}

#[test]
fn shrinking_loses_nothing() {
    let mut harness = Harness::connected(Version::V5);
    harness.deliver("a", Q1);
    harness.end(Ended::ConnectionLost);
    harness.deliver("b", Q1);
    harness.session.shrink();
    assert_eq!(harness.reconnect(&resumable(Version::V5)), ["PUBLISH q1 #1 DUP a", "PUBLISH q1 #2 b"]);
}
