//! Retained messages: chapter 3.3.1.3 of both versions.

use tidegate_codec::{Packet, Publish, QoS, RetainHandling, SubscribeFilter, SubscribeOptions, Version};

use crate::world::{ALL_QOS, BOTH, Got, Script, World, publish};

/// [MQTT5-3.3.1-5] [MQTT311-3.3.1-5] [MQTT5-3.3.1-9] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8] [MQTT311-3.3.1-7]
/// [MQTT311-3.1.2-7]: the last one, at every QoS, also of a publisher whose session is over.
#[tokio::test(start_paused = true)]
async fn the_last_retained_message_of_each_topic_waits_for_subscribers() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        for qos in ALL_QOS {
            let topic = format!("s/{}", qos.as_u8());
            publisher.say_retained(QoS::ExactlyOnce, &topic, "old").await;
            publisher.say_retained(qos, &topic, "new").await;
        }
        drop(publisher);
        world.settled(0).await;
        for granted in ALL_QOS {
            let mut subscriber = world.join(version, "subscriber").await;
            subscriber.subscribe(1, "s/+", granted).await.unwrap();
            let mut got = subscriber.all().await;
            got.sort_by(|a, b| a.topic.cmp(&b.topic));
            assert_eq!(got.len(), 3);
            for (got, published) in got.iter().zip(ALL_QOS) {
                assert!(got.retain && !got.dup && got.text() == "new");
                assert_eq!(got.qos, published.min(granted), "{version:?}");
            }
        }
    }
}

/// [MQTT5-3.3.1-6] [MQTT311-3.3.1-10] [MQTT5-3.3.1-7] [MQTT311-3.3.1-11]
#[tokio::test(start_paused = true)]
async fn an_empty_retained_message_is_delivered_and_removes_what_is_retained() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut established = world.join(version, "established").await;
        established.subscribe(1, "s", QoS::AtLeastOnce).await.unwrap();
        publisher.say_retained(QoS::AtLeastOnce, "s", "old").await;
        publisher.say_retained(QoS::AtLeastOnce, "s", "").await;
        let got = established.all().await;
        assert_eq!(got.iter().map(Got::text).collect::<Vec<_>>(), ["old", ""]);
        assert!(got.iter().all(|got| !got.retain));
        let mut late = world.join(version, "late").await;
        late.subscribe(1, "s", QoS::AtLeastOnce).await.unwrap();
        assert_eq!(late.all().await, []);
    }
}

/// [MQTT5-3.3.1-8] [MQTT311-3.3.1-12]
#[tokio::test(start_paused = true)]
async fn a_message_without_the_flag_leaves_what_is_retained_as_it_is() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        publisher.say_retained(QoS::AtLeastOnce, "s", "kept").await;
        for payload in ["other", ""] {
            publisher.say(QoS::AtLeastOnce, "s", payload).await;
            publisher.say(QoS::AtLeastOnce, "never", payload).await;
        }
        let mut late = world.join(version, "late").await;
        late.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
        assert_eq!(late.payloads().await, ["kept"]);
    }
}

/// [MQTT5-3.3.1-9] [MQTT5-3.3.1-10] [MQTT5-3.3.1-11] [MQTT5-3.8.4-4]
#[tokio::test(start_paused = true)]
async fn retain_handling_decides_what_is_sent_at_subscribe() {
    use RetainHandling::{DoNotSend, Send, SendIfNew};

    // For a new subscription, and for one that existed.
    for (retain_handling, new, again) in [(Send, 1, 1), (SendIfNew, 1, 0), (DoNotSend, 0, 0)] {
        let world = World::new();
        let mut client = world.join(Version::V5, "client").await;
        client.say_retained(QoS::AtLeastOnce, "s", "kept").await;
        let options =
            SubscribeOptions { qos: QoS::AtLeastOnce, retain_handling, ..SubscribeOptions::default() };
        let filter = [SubscribeFilter { filter: "s", options }];
        for expected in [new, again, again] {
            client.ask(&filter, None).await;
            assert_eq!(client.all().await.len(), expected, "{retain_handling:?}");
        }
        client.unsubscribe(2, "s").await.unwrap();
        client.ask(&filter, None).await;
        assert_eq!(client.all().await.len(), new, "{retain_handling:?}: new again");
    }
}

/// [MQTT5-3.3.1-12] [MQTT5-3.3.1-13] [MQTT311-3.3.1-9]
#[tokio::test(start_paused = true)]
async fn the_flag_of_a_live_message_is_passed_on_only_to_those_who_ask_for_it() {
    let world = World::new();
    let mut publisher = world.join(Version::V5, "publisher").await;
    let mut old = world.join(Version::V3_1_1, "old").await;
    old.subscribe(1, "s", QoS::AtMostOnce).await.unwrap();
    let mut plain = world.join(Version::V5, "plain").await;
    plain.subscribe(1, "s", QoS::AtMostOnce).await.unwrap();
    let mut asking = world.join(Version::V5, "asking").await;
    let options = SubscribeOptions { retain_as_published: true, ..SubscribeOptions::default() };
    asking.ask(&[SubscribeFilter { filter: "s", options }], None).await;
    for retain in [true, false] {
        publisher.say_this(Publish { retain, ..publish(QoS::AtMostOnce, 0, "s", b"x") }).await;
        assert!(!old.got().await.retain);
        assert!(!plain.got().await.retain);
        assert_eq!(asking.got().await.retain, retain);
    }
}

/// [MQTT311-3.8.4-3] [MQTT5-3.8.4-4]: and nothing that is published meanwhile is lost.
#[tokio::test(start_paused = true)]
async fn subscribing_again_sends_what_is_retained_again() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        client.say_retained(QoS::AtLeastOnce, "s", "kept").await;
        for _ in 0..3 {
            client.subscribe(1, "s", QoS::AtLeastOnce).await.unwrap();
            let got = client.all().await;
            assert_eq!(got.len(), 1, "{version:?}");
            assert!(got[0].retain);
        }
    }
}

/// [MQTT5-3.3.1-5]: removing in any order with subscribing, and topics below and above each other.
#[tokio::test(start_paused = true)]
async fn attack_94_retained_messages_of_nested_topics_come_and_go_on_their_own() {
    let world = World::new();
    let mut client = world.join(Version::V5, "client").await;
    let topics = ["a", "a/b", "a/b/c", "a//c", "/"];
    for removed in &topics {
        for topic in &topics {
            let packet = Publish { retain: true, ..publish(QoS::AtMostOnce, 0, topic, b"x") };
            client.send(&Packet::Publish(packet)).await.unwrap();
        }
        let packet = Publish { retain: true, ..publish(QoS::AtMostOnce, 0, removed, b"") };
        client.send(&Packet::Publish(packet)).await.unwrap();
        client.ping().await.unwrap();
        client.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
        let mut left: Vec<_> = client.all().await.into_iter().map(|got| got.topic).collect();
        left.sort_unstable();
        let mut expected: Vec<_> = topics.iter().copied().filter(|topic| topic != removed).collect();
        expected.sort_unstable();
        assert_eq!(left, expected);
        client.unsubscribe(2, "#").await.unwrap();
    }
}
