//! Topics that mean more than they say: delayed, rewritten, exclusive, mounted, and those that nobody asked for.

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::{AutoSubscription, DelayedLimits, ListenerOptions, Mountpoint, Rewrite, RewriteScope};
use tidegate_codec::{Connect, Packet, Publish, QoS, ReasonCode, SubscribeOptions, Version, Will};
use tidegate_session::Limits;

use crate::served::{A_WHILE, Served, drain, publish, receive};

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_when_its_seconds_have_passed_even_if_its_publisher_is_gone() {
    let served = Served::start(|_| {});
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
    let mut publisher = served.join(Version::V3_1_1, "publisher").await;
    publish(&mut publisher, "$delayed/20/late/a", b"late", false).await;
    publish(&mut publisher, "$delayed/10/soon", b"soon", true).await;
    drop(publisher);
    assert_eq!(served.count("tidegate_delayed_messages", None), 2);
    subscriber.set_patience(Duration::from_secs(30));
    subscriber.expect_silence(Duration::from_secs(9)).await.unwrap();
    assert_eq!(receive(&mut subscriber).await, ("soon".to_owned(), b"soon".to_vec(), false));
    assert_eq!(receive(&mut subscriber).await, ("late/a".to_owned(), b"late".to_vec(), false));
    let mut late = served.join(Version::V5, "late").await;
    late.subscribe(1, "soon", QoS::AtMostOnce).await.unwrap();
    assert!(receive(&mut late).await.2, "it is retained from its time on");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_wait_is_refused() {
    let limits =
        DelayedLimits { max_messages: 1, max_delay: Duration::from_secs(100), ..DelayedLimits::default() };
    let served = Served::start(|config| config.delayed = limits);
    let mut client = served.join(Version::V5, "client").await;
    for (topic, expected) in [
        ("$delayed/101/a", ReasonCode::QuotaExceeded),
        ("$delayed/x/a", ReasonCode::TopicNameInvalid),
        ("$delayed/1/", ReasonCode::TopicNameInvalid),
        ("$delayed/1/$SYS/broker/uptime", ReasonCode::NotAuthorized),
        ("$delayed/100/a", ReasonCode::Success),
        ("$delayed/1/a", ReasonCode::QuotaExceeded),
    ] {
        assert_eq!(publish(&mut client, topic, b"x", false).await, expected, "{topic}");
    }
    let mut old = served.join(Version::V3_1_1, "old").await;
    assert_eq!(publish(&mut old, "$delayed/1/a", b"x", false).await, ReasonCode::Success);
    assert_eq!(served.count("tidegate_messages_refused_total", Some("delayed_full")), 3);
}

#[tokio::test(start_paused = true)]
async fn rewritten_topics_meet_each_other_and_are_left_again() {
    let served = Served::start(|config| {
        config.rewrites = vec![
            Rewrite::new(RewriteScope::Publish, "x/#", "^x/y/(.+)$", "z/$1").unwrap(),
            Rewrite::new(RewriteScope::Subscribe, "old/#", "^old/(.+)$", "z/$1").unwrap(),
        ];
    });
    let mut subscriber = served.join(Version::V5, "subscriber").await;
    subscriber.subscribe(1, "old/+", QoS::AtLeastOnce).await.unwrap();
    subscriber.subscribe(2, "$share/g/old/+", QoS::AtLeastOnce).await.unwrap();
    let mut publisher = served.join(Version::V5, "publisher").await;
    publish(&mut publisher, "x/y/1", b"x", false).await;
    for _ in 0..2 {
        assert_eq!(receive(&mut subscriber).await.0, "z/1");
    }
    subscriber.unsubscribe(3, "old/+").await.unwrap();
    subscriber.unsubscribe(4, "$share/g/old/+").await.unwrap();
    let answer = publish(&mut publisher, "x/y/1", b"x", false).await;
    assert_eq!(answer, ReasonCode::NoMatchingSubscribers);
    assert_eq!(served.count("tidegate_subscriptions", None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rewrite_into_what_is_no_topic_is_refused() {
    let served = Served::start(|config| {
        config.rewrites = vec![Rewrite::new(RewriteScope::All, "x/#", "^x/(.+)$", "%c/$1").unwrap()];
    });
    let mut client = served.join(Version::V5, "wild/#").await;
    assert_eq!(publish(&mut client, "x/1", b"x", false).await, ReasonCode::TopicNameInvalid);
    let answer = client.subscribe(1, "x/1", QoS::AtMostOnce).await.unwrap();
    assert_eq!(answer, ReasonCode::TopicFilterInvalid);
}

#[tokio::test(start_paused = true)]
async fn every_client_gets_what_is_subscribed_for_it_and_what_is_retained_there() {
    let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
    let served = Served::start(|config| {
        config.auto_subscriptions = vec![
            AutoSubscription::new("to/%c", options).unwrap(),
            AutoSubscription::new("user/%u", options).unwrap(),
        ];
    });
    let mut publisher = served.join(Version::V5, "publisher").await;
    publish(&mut publisher, "to/device", b"retained", true).await;
    let connect = Connect { username: Some("someone"), ..Connect::new(Version::V3_1_1, "device") };
    let mut device = served.connect(connect).await;
    assert_eq!(receive(&mut device).await, ("to/device".to_owned(), b"retained".to_vec(), true));
    publish(&mut publisher, "user/someone", b"hello", false).await;
    assert_eq!(receive(&mut device).await.1, b"hello");
    let mut wild = served.join(Version::V5, "#").await;
    publish(&mut publisher, "to/else", b"x", false).await;
    wild.expect_silence(A_WHILE).await.unwrap();
    drop((device, wild));
    served.settled(1).await;
    assert_eq!(served.count("tidegate_subscriptions", None), 1, "the publisher's own");
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_subscription_has_one_holder_until_it_leaves() {
    let served = Served::start(|_| {});
    let mut first = served.join(Version::V5, "first").await;
    let mut second = served.join(Version::V5, "second").await;
    for _ in 0..2 {
        let granted = first.subscribe(1, "$exclusive/t/1", QoS::AtLeastOnce).await.unwrap();
        assert_eq!(granted, ReasonCode::GrantedQos1);
    }
    let refused = second.subscribe(1, "$exclusive/t/1", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(refused, ReasonCode::QuotaExceeded);
    second.subscribe(2, "t/+", QoS::AtLeastOnce).await.unwrap();
    let mut publisher = served.join(Version::V5, "publisher").await;
    publish(&mut publisher, "t/1", b"x", false).await;
    assert_eq!(drain(&mut first).await, [b"x"]);
    assert_eq!(drain(&mut second).await, [b"x"]);
    drop(first);
    served.settled(2).await;
    let granted = second.subscribe(3, "$exclusive/t/1", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(granted, ReasonCode::GrantedQos1);
}

#[tokio::test(start_paused = true)]
async fn clients_in_a_mountpoint_live_in_a_world_of_their_own() {
    let served = Served::start(|_| {});
    let options = ListenerOptions {
        mountpoint: Some(Mountpoint::parse("plant/").unwrap()),
        ..ListenerOptions::default()
    };
    let inside = served.door(options);
    let mut outside = served.join(Version::V5, "same").await;
    outside.subscribe(1, "plant/#", QoS::AtLeastOnce).await.unwrap();
    // The same client id is another client.
    let mut a = inside.join(Version::V5, "same").await;
    let mut b = inside.join(Version::V3_1_1, "b").await;
    outside.ping().await.unwrap();
    b.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
    let mut member = inside.join(Version::V5, "member").await;
    member.subscribe(1, "$share/g/t/+", QoS::AtLeastOnce).await.unwrap();

    publish(&mut a, "t/1", b"retained", true).await;
    assert_eq!(receive(&mut b).await.0, "t/1");
    assert_eq!(receive(&mut member).await.0, "t/1");
    assert_eq!(receive(&mut outside).await.0, "plant/t/1");
    publish(&mut outside, "t/1", b"outside", false).await;
    b.expect_silence(A_WHILE).await.unwrap();
    publish(&mut outside, "plant/t/2", b"x", false).await;
    assert_eq!(receive(&mut b).await.0, "t/2");
    assert_eq!(receive(&mut member).await.0, "t/2");

    let mut late = inside.join(Version::V5, "late").await;
    late.subscribe(1, "t/#", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(receive(&mut late).await, ("t/1".to_owned(), b"retained".to_vec(), true));
    // What was shared and not acknowledged finds another member, under the same name.
    late.subscribe(2, "$share/g/t/+", QoS::AtLeastOnce).await.unwrap();
    late.unsubscribe(3, "t/#").await.unwrap();
    drop(member);
    let topics = [receive(&mut late).await.0, receive(&mut late).await.0];
    assert_eq!(topics, ["t/1", "t/2"]);
    assert_eq!(publish(&mut a, "$x", b"x", false).await, ReasonCode::NotAuthorized);
}

#[tokio::test(start_paused = true)]
async fn a_will_and_a_delayed_message_stay_in_their_mountpoint() {
    let served = Served::start(|_| {});
    let mountpoint = Some(Mountpoint::parse("plant/").unwrap());
    let inside = served.door(ListenerOptions { mountpoint, ..ListenerOptions::default() });
    let mut outside = served.join(Version::V5, "outside").await;
    outside.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    let will = Will {
        topic: "will",
        payload: b"x",
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval: 0,
        properties: tidegate_codec::PublishProperties::default(),
    };
    let mut client =
        inside.connect(Connect { will: Some(will), ..Connect::new(Version::V5, "client") }).await;
    publish(&mut client, "$delayed/1/later", b"x", false).await;
    drop(client);
    assert_eq!(receive(&mut outside).await.0, "plant/will");
    assert_eq!(receive(&mut outside).await.0, "plant/later");
}

/// Bit 7 of the level in 3.1.1: a bridge of brokers.
#[tokio::test(start_paused = true)]
async fn a_bridge_gets_no_echo_and_the_retain_flag_as_it_was_published() {
    let served = Served::start(|_| {});
    let connect = Connect { bridge: true, ..Connect::new(Version::V3_1_1, "bridge") };
    let mut bridge = served.connect(connect).await;
    bridge.subscribe(1, "#", QoS::AtMostOnce).await.unwrap();
    let packet = Publish { topic: "own", payload: b"x", ..Publish::default() };
    bridge.send(&Packet::Publish(packet)).await.unwrap();
    let mut publisher = served.join(Version::V5, "publisher").await;
    publish(&mut publisher, "a", b"x", true).await;
    publish(&mut publisher, "b", b"x", false).await;
    assert_eq!(receive(&mut bridge).await, ("a".to_owned(), b"x".to_vec(), true));
    assert_eq!(receive(&mut bridge).await, ("b".to_owned(), b"x".to_vec(), false));
}

#[tokio::test(start_paused = true)]
async fn a_listener_has_limits_of_its_own() {
    let served = Served::start(|_| {});
    let limits = Limits {
        server_keep_alive: std::num::NonZeroU16::new(17),
        max_subscriptions: 1,
        ..Limits::default()
    };
    let door = served.door(ListenerOptions { limits: Some(Arc::new(limits)), ..ListenerOptions::default() });
    let (keep_alive, mut client) = door.knock(Connect::new(Version::V5, "client")).await;
    assert_eq!(keep_alive, Some(17));
    client.subscribe(1, "a", QoS::AtMostOnce).await.unwrap();
    let answer = client.subscribe(2, "b", QoS::AtMostOnce).await.unwrap();
    assert_eq!(answer, ReasonCode::QuotaExceeded);
}
