//! Retained messages: caps that answer, pages, expiry.

use std::time::Duration;

use tidegate_broker::RetainedLimits;
use tidegate_codec::{
    Packet, PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode, SubscribeOptions, Version,
};

use crate::served::{A_WHILE, Served, drain, publish, receive, subscribe_with};

#[tokio::test(start_paused = true)]
async fn a_message_beyond_the_cap_is_refused_where_that_can_be_said_and_counted_in_any_case() {
    let limits = RetainedLimits { max_messages: 1, max_payload_bytes: 10, ..RetainedLimits::default() };
    let served = Served::start(|config| config.retained = limits);
    let mut live = served.join(Version::V5, "live").await;
    live.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
    let mut new = served.join(Version::V5, "new").await;
    let mut old = served.join(Version::V3_1_1, "old").await;

    assert_eq!(publish(&mut new, "a", b"1", true).await, ReasonCode::Success);
    assert_eq!(publish(&mut new, "b", b"2", true).await, ReasonCode::QuotaExceeded);
    assert_eq!(publish(&mut new, "a", &[b'3'; 11], true).await, ReasonCode::QuotaExceeded);
    assert_eq!(publish(&mut old, "b", b"4", true).await, ReasonCode::Success);
    assert_eq!(publish(&mut new, "a", b"5", true).await, ReasonCode::Success, "in the place of the first");
    let packet = Publish { topic: "b", payload: b"6", retain: true, ..Publish::default() };
    new.send(&Packet::Publish(packet)).await.unwrap();
    new.ping().await.unwrap();
    // What was refused is handed to nobody; what could not be refused is.
    assert_eq!(drain(&mut live).await, [b"1", b"4", b"5", b"6"]);
    let mut late = served.join(Version::V5, "late").await;
    late.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(drain(&mut late).await, [b"5"]);
    let not_retained = |reason| served.count("tidegate_messages_not_retained_total", Some(reason));
    assert_eq!(not_retained("too_many_messages"), 3);
    assert_eq!(not_retained("payload_too_large"), 1);
}

/// More than a turn, a page or a window takes, and nobody else who wakes the connection.
#[tokio::test(start_paused = true)]
async fn all_of_very_many_come_each_once_and_in_pages() {
    const TOPICS: usize = 3000;
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    for number in 0..TOPICS {
        let topic = format!("t/{number:05}/x");
        let packet = Publish { topic: &topic, payload: topic.as_bytes(), retain: true, ..Publish::default() };
        publisher.send(&Packet::Publish(packet)).await.unwrap();
    }
    publisher.ping().await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        for filter in ["t/#", "+/+/x"] {
            let mut subscriber = served.join(Version::V5, "subscriber").await;
            subscriber.subscribe(1, filter, qos).await.unwrap();
            let payloads = drain(&mut subscriber).await;
            assert!(payloads.is_sorted() && payloads.len() == TOPICS, "{filter}: {}", payloads.len());
        }
    }
    // A filter that looks at every topic and finds none leaves the connection usable.
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "+/+/y", QoS::AtMostOnce).await.unwrap();
    subscriber.ping().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_time_gets_what_is_retained_then() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    for number in 0..40 {
        publish(&mut publisher, &format!("t/{number:02}"), b"old", true).await;
    }
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
    subscribe_with(&mut subscriber, "t/#", options).await;
    subscriber.ping_after_publishes().await;
    subscriber.unsubscribe_over_publishes().await;
    // The window holds 32 and one waits; the rest was never made, and after UNSUBSCRIBE never will be.
    assert_eq!(served.count("tidegate_retained_messages", None), 40);
}

trait OverPublishes {
    async fn ping_after_publishes(&mut self);
    async fn unsubscribe_over_publishes(&mut self);
}

impl OverPublishes for crate::served::Client {
    async fn ping_after_publishes(&mut self) {
        self.send(&Packet::PingReq).await.unwrap();
        while self.receive().await.unwrap() != Packet::PingResp {}
    }

    /// Unsubscribes with the window full, acknowledges everything, and finds that no more comes than was made.
    async fn unsubscribe_over_publishes(&mut self) {
        let unsubscribe = tidegate_codec::Unsubscribe {
            packet_id: PacketId::new(9).unwrap(),
            user_properties: tidegate_codec::UserProperties::default(),
            filters: vec!["t/#"],
        };
        self.send(&Packet::Unsubscribe(Box::new(unsubscribe))).await.unwrap();
        assert!(matches!(self.receive().await.unwrap(), Packet::UnsubAck(_)));
        for id in 1..=32 {
            self.puback(PacketId::new(id).unwrap()).await.unwrap();
        }
        assert!(drain(self).await.len() <= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_is_not_delivered_and_its_memory_is_freed() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    for (topic, expiry) in [("a", Some(10)), ("b", None), ("c", Some(3600))] {
        let properties =
            PublishProperties { message_expiry_interval: expiry, ..PublishProperties::default() };
        let packet = Publish {
            topic,
            payload: topic.as_bytes(),
            retain: true,
            qos: QoS::AtLeastOnce,
            packet_id: PacketId::new(1),
            properties,
            ..Publish::default()
        };
        publisher.send(&Packet::Publish(packet)).await.unwrap();
        publisher.expect_ack(PacketType::PubAck, 1).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    assert_eq!(receive(&mut subscriber).await.1, b"b");
    assert_eq!(receive(&mut subscriber).await.1, b"c");
    subscriber.expect_silence(A_WHILE).await.unwrap();
    assert_eq!(served.count("tidegate_retained_messages", None), 3);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(served.count("tidegate_retained_messages", None), 2);
}
