//! Messages that rules make: where they go, what their publisher's acknowledgement waits for, and where it ends.

use std::sync::Arc;

use tidegate_broker::{MAX_HOPS, MAX_REPUBLISHED, Republish, RepublishProperties, RuleBinding};
use tidegate_codec::{PacketType, Publish, PublishProperties, QoS, ReasonCode, UserProperties};
use tidegate_sink::Outcome;

use crate::bench::{Hand, Served, into, is_silent, publish, rule, template};

fn republish(mut rule: RuleBinding, republish: Republish) -> RuleBinding {
    rule.republishes.push(republish);
    rule
}

#[tokio::test]
async fn a_row_becomes_a_message_with_what_the_output_says_and_the_rest_from_the_message_that_it_was_made_of()
{
    let loud = Republish {
        payload: Some(template("t=${t}")),
        qos: Some(QoS::AtLeastOnce),
        retain: Some(true),
        properties: RepublishProperties {
            content_type: Some(template("text/${kind}")),
            response_topic: Some(template("reply/${clientid}")),
            correlation_data: Some(template("${t}")),
            message_expiry_interval: Some(60),
            pass_user_properties: true,
            user_properties: vec![
                ("by".to_owned(), template("rule")),
                ("no".to_owned(), template("${nope}")),
            ],
            ..RepublishProperties::default()
        },
        ..Republish::to(template("alarm/${clientid}"))
    };
    let sql = r#"SELECT payload.t AS t, clientid, 'plain' AS kind FROM "t/#" WHERE payload.t > 20"#;
    let served = Served::start(vec![
        republish(rule("loud", sql), loud),
        republish(rule("copy", r#"SELECT * FROM "t/#""#), Republish::to(template("copy/${topic}"))),
    ]);
    let mut listener = served.join("listener").await;
    listener.subscribe(1, "alarm/+", QoS::AtLeastOnce).await.unwrap();
    listener.subscribe(2, "copy/#", QoS::AtLeastOnce).await.unwrap();
    let mut device = served.join("d7").await;
    let properties = PublishProperties {
        user_properties: UserProperties::from_pairs([("trace", "1")]).unwrap(),
        ..PublishProperties::default()
    };
    let message = Publish { topic: "t/a", payload: br#"{"t": 21}"#, properties, ..Publish::default() };
    device.send(&tidegate_codec::Packet::Publish(message)).await.unwrap();

    let alarm = listener.expect_publish().await.unwrap();
    assert_eq!((alarm.topic, alarm.payload, alarm.qos), ("alarm/d7", &b"t=21"[..], QoS::AtLeastOnce));
    let said = &alarm.properties;
    assert_eq!((said.content_type, said.response_topic), (Some("text/plain"), Some("reply/d7")));
    assert_eq!((said.correlation_data, said.message_expiry_interval), (Some(&b"21"[..]), Some(60)));
    assert_eq!(said.user_properties.iter().collect::<Vec<_>>(), [("trace", "1"), ("by", "rule")]);
    let copy = listener.expect_publish().await.unwrap();
    assert_eq!((copy.topic, copy.payload, copy.qos), ("copy/t/a", &br#"{"t": 21}"#[..], QoS::AtMostOnce));
    assert!(copy.properties.user_properties.is_empty());

    let mut late = served.join("late").await;
    late.subscribe(1, "alarm/d7", QoS::AtMostOnce).await.unwrap();
    assert!(late.expect_publish().await.unwrap().retain, "it is retained as any other");
}

#[tokio::test]
async fn puback_waits_for_the_records_of_what_was_republished() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![
        republish(rule("first", r#"SELECT * FROM "a""#), Republish::to(template("b"))),
        into(&hand, rule("second", r#"SELECT * FROM "b""#)),
    ]);
    let mut device = served.join("d").await;
    device.publish(1, "a", b"x").await.unwrap();
    let (_, ack) = hand.next().await;
    assert!(is_silent(&mut device).await, "the record is not safe yet");
    ack.unwrap().settle(Outcome::Delivered);
    assert_eq!(device.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
}

#[tokio::test]
async fn a_rule_that_feeds_itself_is_stopped_after_so_many_hops_and_counted() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![
        into(&hand, republish(rule("loop", r#"SELECT * FROM "a""#), Republish::to(template("a")))),
        into(&hand, rule("other", r#"SELECT 'other' AS x FROM "b""#)),
    ]);
    let mut device = served.join("d").await;
    device.publish(0, "a", b"x").await.unwrap();
    for _ in 0..=MAX_HOPS {
        assert_eq!(hand.value().await, "x");
    }
    device.publish(0, "b", b"x").await.unwrap();
    assert_eq!(hand.value().await, "{\"x\":\"other\"}", "nothing more of the loop");
    assert_eq!(served.count("tidegate_rule_failed_total", &["loop", "republish_loop"]), 1);
}

#[tokio::test]
async fn rules_that_multiply_what_they_republish_meet_a_bound() {
    let many = r#"FOREACH json_decode('[1,2,3,4,5,6,7,8,9,10]') AS n DO n FROM "a""#;
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![
        republish(rule("many", many), Republish::to(template("a"))),
        into(&hand, rule("end", r#"SELECT 'end' AS x FROM "end""#)),
    ]);
    let mut device = served.join("d").await;
    device.publish(0, "a", b"x").await.unwrap();
    device.publish(0, "end", b"x").await.unwrap();
    assert_eq!(hand.value().await, "{\"x\":\"end\"}");
    assert_eq!(served.count("tidegate_rule_matched_total", &["many"]), 1 + MAX_REPUBLISHED as u64);
    assert!(served.count("tidegate_rule_failed_total", &["many", "republish_limit"]) > 0);
}

#[tokio::test]
async fn a_topic_that_is_none_or_the_brokers_own_fails_the_row_and_not_the_message() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![into(
        &hand,
        republish(rule("r", r#"SELECT payload.to AS to FROM "t""#), Republish::to(template("${to}"))),
    )]);
    let mut device = served.join("d").await;
    for to in ["a/#", "$SYS/broker/version", ""] {
        device.publish(1, "t", format!(r#"{{"to": "{to}"}}"#).as_bytes()).await.unwrap();
        hand.value().await;
        assert_eq!(device.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    }
    assert_eq!(publish_and_take(&served, &hand, b"{}").await, ReasonCode::Success);
    assert_eq!(served.count("tidegate_rule_failed_total", &["r", "invalid_topic"]), 3);
    assert_eq!(served.count("tidegate_rule_failed_total", &["r", "no_topic"]), 1);
}

async fn publish_and_take(served: &Served, hand: &Hand, payload: &[u8]) -> ReasonCode {
    let mut device = served.join("e").await;
    let (reason, _) = tokio::join!(publish(&mut device, 1, "t", payload), hand.value());
    reason
}
