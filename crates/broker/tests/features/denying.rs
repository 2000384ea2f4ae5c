//! Topics that nobody may use.

use tidegate_broker::DenyList;
use tidegate_codec::{Connect, Packet, PacketId, PacketType, Publish, QoS, ReasonCode, Version, Will};

use crate::served::{A_WHILE, Served, drain, publish};

fn start() -> Served {
    Served::start(|config| {
        config.denied =
            DenyList::new(&["secret/#", "test/nosubscribe"], &["secret/#", "+/readonly"]).unwrap();
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_is_refused_in_every_form_of_a_subscription() {
    let served = start();
    for (version, refused) in
        [(Version::V5, ReasonCode::NotAuthorized), (Version::V3_1_1, ReasonCode::UnspecifiedError)]
    {
        let mut client = served.join(version, "client").await;
        for filter in [
            "secret/#",
            "secret",
            "secret/a/+",
            "$share/g/secret/a",
            "$queue/secret",
            "$exclusive/test/nosubscribe",
        ] {
            assert_eq!(client.subscribe(1, filter, QoS::AtLeastOnce).await.unwrap(), refused, "{filter}");
        }
        for filter in ["secrets", "test/+", "#"] {
            let granted = client.subscribe(1, filter, QoS::AtLeastOnce).await.unwrap();
            assert_eq!(granted, ReasonCode::GrantedQos1, "{filter}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_message_is_handed_to_nobody_and_5_0_says_so() {
    let served = start();
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
    let mut new = served.join(Version::V5, "new").await;
    assert_eq!(publish(&mut new, "secret/a", b"x", true).await, ReasonCode::NotAuthorized);
    assert_eq!(publish(&mut new, "$delayed/0/secret", b"x", false).await, ReasonCode::NotAuthorized);
    let id = PacketId::new(2);
    let qos2 = Publish { qos: QoS::ExactlyOnce, topic: "a/readonly", packet_id: id, ..Publish::default() };
    new.send(&Packet::Publish(qos2)).await.unwrap();
    assert_eq!(new.expect_ack(PacketType::PubRec, 2).await.unwrap(), ReasonCode::NotAuthorized);
    // [MQTT311-3.3.5-2]: acknowledge, or close. A device that repeats for ever helps nobody.
    let mut old = served.join(Version::V3_1_1, "old").await;
    assert_eq!(publish(&mut old, "secret/a", b"x", false).await, ReasonCode::Success);
    old.publish(0, "secret/a", b"x").await.unwrap();
    old.ping().await.unwrap();
    assert_eq!(publish(&mut new, "allowed", b"y", false).await, ReasonCode::Success);
    assert_eq!(drain(&mut subscriber).await, [b"y"]);
    assert_eq!(served.count("tidegate_messages_refused_total", Some("denied")), 5);
}

#[tokio::test(start_paused = true)]
async fn a_will_on_a_denied_topic_is_not_published() {
    let served = start();
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
    for topic in ["secret/will", "will"] {
        let will = Will {
            topic,
            payload: topic.as_bytes(),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval: 0,
            properties: tidegate_codec::PublishProperties::default(),
        };
        let connect = Connect { will: Some(will), ..Connect::new(Version::V5, topic) };
        drop(served.connect(connect).await);
    }
    assert_eq!(drain(&mut subscriber).await, [b"will"]);
}

#[tokio::test(start_paused = true)]
async fn the_reason_can_be_kept_to_oneself() {
    let served = Served::start(|config| {
        config.denied = DenyList::new(&["a"], &["b"]).unwrap().without_reason();
    });
    let mut client = served.join(Version::V5, "client").await;
    assert_eq!(client.subscribe(1, "a", QoS::AtMostOnce).await.unwrap(), ReasonCode::UnspecifiedError);
    assert_eq!(publish(&mut client, "b", b"x", false).await, ReasonCode::UnspecifiedError);
}

#[tokio::test(start_paused = true)]
async fn an_alias_does_not_hide_the_topic() {
    let served = start();
    let mut client = served.join(Version::V5, "client").await;
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    for topic in ["secret/a", ""] {
        let mut packet = Publish { topic, payload: b"x", ..Publish::default() };
        packet.properties.topic_alias = std::num::NonZeroU16::new(1);
        client.send(&Packet::Publish(packet)).await.unwrap();
    }
    client.ping().await.unwrap();
    subscriber.expect_silence(A_WHILE).await.unwrap();
    assert_eq!(served.count("tidegate_messages_refused_total", Some("denied")), 2);
}
