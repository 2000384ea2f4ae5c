//! Shared subscriptions: chapter 4.8.2. What groups do beyond the statements stands in the tests of features.

use tidegate_codec::{PacketType, QoS, ReasonCode, SubscribeFilter, Version};

use crate::world::{ALL_QOS, BOTH, Script, World};

/// [MQTT5-4.8.2-1] [MQTT5-4.8.2-2] [MQTT5-4.7.1-1]
#[tokio::test(start_paused = true)]
async fn a_shared_filter_needs_a_name_and_a_filter() {
    let world = World::new();
    let mut client = world.join(Version::V5, "client").await;
    for filter in
        ["$share/", "$share//a", "$share/g", "$share/g/", "$share/g+/a", "$share/#/a", "$share/g/a#"]
    {
        let code = client.subscribe(1, filter, QoS::AtMostOnce).await.unwrap();
        assert_eq!(code, ReasonCode::TopicFilterInvalid, "{filter}");
    }
    for filter in ["$share/g/a", "$share/$g/#", "$share/g//", "$share/g/+/#"] {
        let code = client.subscribe(1, filter, QoS::AtMostOnce).await.unwrap();
        assert_eq!(code, ReasonCode::GRANTED_QOS_0, "{filter}");
    }
}

/// [MQTT5-4.8.2-3]
#[tokio::test(start_paused = true)]
async fn each_member_gets_its_messages_at_the_qos_that_was_granted_to_it() {
    for version in BOTH {
        let world = World::new();
        let mut members = Vec::new();
        for granted in ALL_QOS {
            let mut member = world.join(version, &format!("member {}", granted.as_u8())).await;
            member.ask(&[SubscribeFilter::new("$share/g/a", granted)], None).await;
            members.push((granted, member));
        }
        let mut publisher = world.join(version, "publisher").await;
        for number in 0..30 {
            publisher.say(QoS::ExactlyOnce, "a", &number.to_string()).await;
        }
        let mut total = 0;
        for (granted, member) in &mut members {
            let got = member.all().await;
            assert!(!got.is_empty() && got.iter().all(|got| got.qos == *granted), "{version:?} {granted:?}");
            total += got.len();
        }
        assert_eq!(total, 30);
    }
}

/// [MQTT5-4.8.2-4]
#[tokio::test(start_paused = true)]
async fn a_qos_2_delivery_that_began_with_a_member_is_completed_with_that_member() {
    for version in BOTH {
        let world = World::new();
        let (mut first, _) = world.resume(version, "first").await;
        first.subscribe(1, "$share/g/a", QoS::ExactlyOnce).await.unwrap();
        let mut publisher = world.join(version, "publisher").await;
        for payload in ["one", "two"] {
            publisher.say(QoS::ExactlyOnce, "a", payload).await;
        }
        let one = first.got().await;
        let two = first.got().await;
        first.pubrec(one.packet_id.unwrap(), ReasonCode::Success).await;
        first.expect_ack(PacketType::PubRel, one.packet_id.unwrap().get()).await.unwrap();
        drop(first);
        world.settled(1).await;
        let mut second = world.join(version, "second").await;
        second.subscribe(1, "$share/g/a", QoS::ExactlyOnce).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_mins(1)).await;
        assert_eq!(second.all().await, []);
        let (mut first, present) = world.resume(version, "first").await;
        assert!(present);
        first.expect_ack(PacketType::PubRel, one.packet_id.unwrap().get()).await.unwrap();
        let again = first.got().await;
        assert_eq!((again.packet_id, again.text(), again.dup), (two.packet_id, "two", true));
        first.pubcomp(one.packet_id.unwrap()).await;
        first.finish(&again).await;
        first.ping().await.unwrap();
        assert_eq!(second.all().await, []);
    }
}

/// What a member has not acknowledged when its session ends is for the others; QoS 2 only if it can't have seen it.
#[tokio::test(start_paused = true)]
async fn attack_92_what_a_member_that_dies_has_not_acknowledged_goes_to_another() {
    for version in BOTH {
        let world = World::new();
        let mut dying = world.join(version, "dying").await;
        dying.subscribe(1, "$share/g/a", QoS::AtLeastOnce).await.unwrap();
        let mut publisher = world.join(version, "publisher").await;
        for payload in ["one", "two", "three"] {
            publisher.say(QoS::AtLeastOnce, "a", payload).await;
        }
        let one = dying.got().await;
        dying.finish(&one).await;
        dying.got().await;
        dying.got().await;
        dying.ping().await.unwrap();
        let mut other = world.join(version, "other").await;
        other.subscribe(1, "$share/g/a", QoS::AtLeastOnce).await.unwrap();
        drop(dying);
        world.settled(2).await;
        assert_eq!(other.payloads().await, ["two", "three"], "{version:?}");
    }
}
