//! Who gets a message, and in which order: chapters 4.5 and 4.6.

use tidegate_codec::{Packet, QoS, SubscribeFilter, SubscribeOptions, Version};

use crate::world::{ALL_QOS, BOTH, Script, World, publish};

/// [MQTT5-4.5.0-1] [MQTT311-4.5.0-1]: online or away, whatever the others do.
#[tokio::test(start_paused = true)]
async fn every_matching_session_gets_a_message() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut online = world.join(version, "online").await;
        online.subscribe(1, "a/#", QoS::AtLeastOnce).await.unwrap();
        for id in ["away 1", "away 2"] {
            let (mut away, _) = world.resume(version, id).await;
            away.subscribe(1, "+/b", QoS::AtLeastOnce).await.unwrap();
        }
        let mut elsewhere = world.join(version, "elsewhere").await;
        elsewhere.subscribe(1, "a/c", QoS::AtLeastOnce).await.unwrap();
        world.settled(3).await;
        for payload in ["one", "two"] {
            publisher.say(QoS::AtLeastOnce, "a/b", payload).await;
        }
        assert_eq!(online.payloads().await, ["one", "two"]);
        for id in ["away 1", "away 2"] {
            let (mut away, present) = world.resume(version, id).await;
            assert!(present);
            assert_eq!(away.payloads().await, ["one", "two"]);
        }
        assert_eq!(elsewhere.all().await, []);
    }
}

/// [MQTT5-4.6.0-5] [MQTT5-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]: for each client, topic and QoS, whatever window
/// and queue the messages pass through.
#[tokio::test(start_paused = true)]
async fn messages_of_a_topic_and_qos_keep_their_order() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut subscriber = world.join(version, "subscriber").await;
        subscriber.subscribe(1, "t/+", QoS::ExactlyOnce).await.unwrap();
        let mut expected: Vec<Vec<u32>> = vec![Vec::new(); 6];
        for number in 0..300_u32 {
            let (qos, topic) = (ALL_QOS[number as usize % 3], number as usize / 3 % 2);
            publisher.say(qos, &format!("t/{topic}"), &number.to_string()).await;
            expected[topic * 3 + usize::from(qos.as_u8())].push(number);
        }
        let mut received: Vec<Vec<u32>> = vec![Vec::new(); 6];
        for got in subscriber.take(300).await {
            let topic: usize = got.topic[2..].parse().unwrap();
            received[topic * 3 + usize::from(got.qos.as_u8())].push(got.text().parse().unwrap());
        }
        assert_eq!(received, expected, "{version:?}");
    }
}

/// [MQTT5-3.8.4-8] [MQTT311-3.8.4-6]
#[tokio::test(start_paused = true)]
async fn a_message_is_delivered_at_the_lower_of_published_and_granted_qos() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        for granted in ALL_QOS {
            let mut subscriber = world.join(version, "subscriber").await;
            subscriber.subscribe(1, "a", granted).await.unwrap();
            for published in ALL_QOS {
                publisher.say(published, "a", "x").await;
                assert_eq!(subscriber.got().await.qos, published.min(granted));
            }
        }
    }
}

/// [MQTT5-3.8.3-3]: also of a message that was published over another connection of the same client.
#[tokio::test(start_paused = true)]
async fn with_no_local_a_client_does_not_get_its_own_messages() {
    let world = World::new();
    let options = SubscribeOptions { no_local: true, ..SubscribeOptions::default() };
    let (mut client, _) = world.resume(Version::V5, "client").await;
    client.ask(&[SubscribeFilter { filter: "a", options }], None).await;
    client.subscribe(2, "b", QoS::AtMostOnce).await.unwrap();
    let mut other = world.join(Version::V5, "other").await;
    client.say(QoS::AtLeastOnce, "a", "own").await;
    other.say(QoS::AtLeastOnce, "a", "other's").await;
    assert_eq!(client.payloads().await, ["other's"]);
    client.send(&Packet::Publish(publish(QoS::AtMostOnce, 0, "b", b"own"))).await.unwrap();
    assert_eq!(client.payloads().await, ["own"]);
    drop(client);
    let (mut client, _) = world.resume(Version::V5, "client").await;
    client.say(QoS::AtLeastOnce, "a", "own").await;
    assert_eq!(client.all().await, []);
}
