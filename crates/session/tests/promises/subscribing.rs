//! SUBSCRIBE and UNSUBSCRIBE.

use std::num::NonZeroU32;

use tidegate_codec::{
    Packet, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions, Unsubscribe, UserProperties,
    Version,
};
use tidegate_session::{Input, Limits, Subscription, Violation};

use crate::harness::{Harness, Q0, Q1, Q2, VERSIONS, id, resumable};

fn subscribe<'a>(filters: &[(&'a str, QoS)]) -> Subscribe<'a> {
    Subscribe {
        packet_id: id(5),
        subscription_identifier: NonZeroU32::new(9),
        user_properties: UserProperties::default(),
        filters: filters.iter().map(|(filter, qos)| SubscribeFilter::new(filter, *qos)).collect(),
    }
}

fn unsubscribe<'a>(filters: &[&'a str]) -> Unsubscribe<'a> {
    Unsubscribe { packet_id: id(6), user_properties: UserProperties::default(), filters: filters.to_vec() }
}

#[test]
fn subscribe_and_unsubscribe_are_the_broker_s_to_decide() {
    let mut harness = Harness::connected(Version::V5);
    let request = subscribe(&[("a/#", Q1)]);
    let packet = Packet::Subscribe(Box::new(request.clone()));
    let input = harness.session.handle_packet(&packet, harness.now, &mut harness.out);
    let Ok(Input::Subscribe(asked)) = input else { panic!("{input:?}") };
    // The session can be asked while the request is still held.
    assert_eq!(harness.session.subscription(asked.filters[0].filter), None);
    assert_eq!(*asked, request);

    let request = unsubscribe(&["a/#"]);
    let packet = Packet::Unsubscribe(Box::new(request.clone()));
    let input = harness.session.handle_packet(&packet, harness.now, &mut harness.out);
    assert_eq!(input, Ok(Input::Unsubscribe(&request)));
    assert_eq!(harness.sent(), [""; 0]);
}

#[test]
fn mqtt5_3_8_4_6_suback_has_one_code_for_each_filter_in_order() {
    for (version, codes) in [(Version::V5, "[00, 01, 02, 87, 80]"), (Version::V3_1_1, "[00, 01, 02, 80, 80]")]
    {
        let mut harness = Harness::connected(version);
        let request = subscribe(&[("a", Q0), ("b", Q1), ("c", Q2), ("d", Q2), ("e", Q2)]);
        let results = [Ok(Q0), Ok(Q1), Ok(Q2), Err(ReasonCode::NotAuthorized)];
        harness.session.subscribed(&request, &results, &mut harness.out);
        assert_eq!(harness.sent(), [format!("SUBACK #5 {codes}")], "[MQTT5-3.8.4-2] {version:?}");
        let filters: Vec<_> = harness.session.subscriptions().map(|(filter, _)| filter).collect();
        assert_eq!(filters, ["a", "b", "c"], "what was refused, or not answered, is no subscription");
    }
}

#[test]
fn mqtt5_3_9_3_2_only_codes_of_suback_are_sent() {
    let mut harness = Harness::connected(Version::V5);
    let request = subscribe(&[("a", Q0), ("b", Q0)]);
    let results = [Err(ReasonCode::ServerBusy), Err(ReasonCode::GrantedQos2)];
    harness.session.subscribed(&request, &results, &mut harness.out);
    assert_eq!(harness.sent(), ["SUBACK #5 [80, 80]"]);
    assert_eq!(harness.session.subscriptions().count(), 0);
}

#[test]
fn mqtt5_3_8_4_3_the_same_filter_again_replaces_the_subscription() {
    let mut harness = Harness::connected(Version::V5);
    harness.session.subscribed(&subscribe(&[("a/+", Q2)]), &[Ok(Q1)], &mut harness.out);
    let first = Subscription {
        options: SubscribeOptions { qos: Q1, ..SubscribeOptions::default() }, // as granted
        identifier: NonZeroU32::new(9),
    };
    assert_eq!(harness.session.subscription("a/+"), Some(&first));

    let mut again = subscribe(&[("a/+", Q0)]);
    again.filters[0].options.no_local = true;
    again.subscription_identifier = None;
    harness.session.subscribed(&again, &[Err(ReasonCode::NotAuthorized)], &mut harness.out);
    assert_eq!(harness.session.subscription("a/+"), Some(&first), "a refusal changes nothing");
    harness.session.subscribed(&again, &[Ok(Q0)], &mut harness.out);
    let second = Subscription { options: again.filters[0].options, identifier: None };
    assert_eq!(harness.session.subscription("a/+"), Some(&second));
    assert_eq!(harness.session.subscriptions().count(), 1);
}

#[test]
fn mqtt5_3_10_4_1_only_exactly_the_same_filter_is_unsubscribed() {
    for (version, codes) in [(Version::V5, "[11, 00, 11]"), (Version::V3_1_1, "[]"), (Version::V3_1, "[]")] {
        let mut harness = Harness::connected(version);
        harness.session.subscribed(&subscribe(&[("a/+", Q1), ("b", Q1)]), &[Ok(Q1); 2], &mut harness.out);
        harness.packets();
        harness.session.unsubscribed(&unsubscribe(&["a/b", "a/+", "a/+"]), &mut harness.out);
        assert_eq!(harness.sent(), [format!("UNSUBACK #6 {codes}")], "[MQTT5-3.10.4-5] {version:?}");
        assert_eq!(harness.session.subscription("a/+"), None);
        assert!(harness.session.subscription("b").is_some());
    }
}

#[test]
fn subscriptions_outlive_their_connection_and_count_against_the_limit() {
    for version in VERSIONS {
        let limits = Limits { max_subscriptions: 3, ..Limits::default() };
        let mut harness = Harness::with(&resumable(version), limits);
        harness.session.subscribed(
            &subscribe(&[("$share/g/b", Q1), ("a", Q1)]),
            &[Ok(Q1); 2],
            &mut harness.out,
        );
        harness.reconnect(&resumable(version));
        let filters: Vec<_> = harness.session.subscriptions().map(|(filter, _)| filter).collect();
        assert_eq!(filters, ["$share/g/b", "a"]);
        assert_eq!(harness.session.subscriptions_left(), 1);
    }
}

#[test]
fn mqtt5_3_8_3_4_no_local_on_a_shared_subscription_is_a_violation() {
    for (filter, no_local, is_wrong) in
        [("$share/g/a", true, true), ("$share/g/a", false, false), ("a", true, false)]
    {
        let mut harness = Harness::connected(Version::V5);
        let mut request = subscribe(&[("x", Q0), (filter, Q0)]);
        request.filters[1].options.no_local = no_local;
        let packet = Packet::Subscribe(Box::new(request));
        let result = harness.session.handle_packet(&packet, harness.now, &mut harness.out);
        assert_eq!(result.err(), is_wrong.then_some(Violation::NoLocalOnShared), "{filter} {no_local}");
    }
}
