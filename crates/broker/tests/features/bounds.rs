//! Clients that ask for too much, take too little, or are looked at too late.

use std::time::Duration;

use tidegate_codec::{Connect, Packet, PacketId, Publish, QoS, ReasonCode, Version};
use tidegate_session::Limits;

use crate::served::{Served, drain, publish, shared};

#[tokio::test(start_paused = true)]
async fn a_filter_with_too_many_wildcards_or_levels_is_refused() {
    let served = Served::start(|config| config.max_plus_levels = 4);
    let mut client = served.join(Version::V5, "client").await;
    for (filter, expected) in [
        ("+/+/+/+", ReasonCode::GRANTED_QOS_0),
        ("+/+/+/+/#", ReasonCode::GRANTED_QOS_0),
        ("+/+/+/+/+", ReasonCode::TopicFilterInvalid),
        ("$share/g/+/+/+/+/+", ReasonCode::TopicFilterInvalid),
    ] {
        assert_eq!(client.subscribe(1, filter, QoS::AtMostOnce).await.unwrap(), expected, "{filter}");
    }
    for (levels, expected) in [(128, ReasonCode::GRANTED_QOS_0), (129, ReasonCode::TopicFilterInvalid)] {
        let filter = vec!["a"; levels].join("/");
        assert_eq!(client.subscribe(1, &filter, QoS::AtMostOnce).await.unwrap(), expected, "{levels}");
        let unsubscribed = client.unsubscribe(2, &filter).await;
        unsubscribed.unwrap();
    }
    let slashes = "/".repeat(60_000);
    let answer = client.subscribe(1, &slashes, QoS::AtMostOnce).await.unwrap();
    assert_eq!(answer, ReasonCode::TopicFilterInvalid);
    client.unsubscribe(2, &slashes).await.unwrap();
    assert_eq!(served.count("tidegate_subscriptions_refused_total", Some("invalid")), 4);
}

/// A mailbox, a socket and a queue, all full: the publisher is never held up, memory is bounded, and every message is
/// either delivered or counted.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_reads_nothing_costs_bounded_memory_and_every_drop_is_counted() {
    const MESSAGES: usize = 3000;
    let limits = Limits { max_queued_messages: 100, max_queued_bytes: 200_000, ..Limits::default() };
    let served = Served::start(|config| {
        config.limits = shared(limits);
        config.mailbox_bytes = 1 << 20;
    });
    let mut slow = served.join(Version::V5, "slow").await;
    slow.subscribe(1, "t", QoS::AtMostOnce).await.unwrap();
    let mut publisher = served.join(Version::V5, "publisher").await;
    let payload = [7; 4096];
    for _ in 0..MESSAGES {
        publisher.publish(0, "t", &payload).await.unwrap();
    }
    publisher.ping().await.unwrap();
    let received = drain(&mut slow).await.len();
    let dropped = served.count("tidegate_messages_dropped_total", None);
    assert!(received < MESSAGES, "the test fills every buffer");
    assert_eq!(received + dropped, MESSAGES);
    // The stream holds a megabyte; beyond it there is no more than the buffers that are configured.
    assert!(received * payload.len() < (1 << 20) + 150_000, "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_subscriptions_holds_up_nobody_and_leaves_nothing() {
    let limits = Limits { max_subscriptions: 2000, ..Limits::default() };
    let served = Served::start(|config| config.limits = shared(limits));
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut stormy = served.join(Version::V5, "stormy").await;
    for number in 0..2000 {
        let filter = format!("{}/{number}/+/#", ["+", "a", "$share/g/x", "$exclusive/y"][number % 4]);
        let granted = stormy.subscribe(1, &filter, QoS::AtMostOnce).await.unwrap();
        assert!(!granted.is_error(), "{filter}");
        if number % 100 == 0 {
            publish(&mut publisher, "other", b"x", false).await;
        }
    }
    let answer = stormy.subscribe(1, "one/more", QoS::AtMostOnce).await.unwrap();
    assert_eq!(answer, ReasonCode::QuotaExceeded);
    assert_eq!(served.count("tidegate_subscriptions", None), 2000);
    drop(stormy);
    served.settled(1).await;
    assert_eq!(served.count("tidegate_subscriptions", None), 0);
}

/// The clock leaps over the deadline, as it does for a process that was stopped: what the client sent in time comes
/// to us after the timer.
#[tokio::test(start_paused = true)]
async fn a_client_is_not_judged_by_a_clock_that_we_looked_at_too_late() {
    let served = Served::start(|_| {});
    let mut client =
        served.connect(Connect { keep_alive: 2, ..Connect::new(Version::V3_1_1, "client") }).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    client.ping().await.unwrap();
    // Whoever is silent in time is judged in time.
    let silent_since = tokio::time::Instant::now();
    client.expect_close().await.unwrap();
    let silent = silent_since.elapsed();
    assert!(silent >= Duration::from_secs(3) && silent < Duration::from_millis(4100), "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_beyond_the_grace_is_closed() {
    let served = Served::start(|_| {});
    let mut client =
        served.connect(Connect { keep_alive: 2, ..Connect::new(Version::V3_1_1, "client") }).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    client.expect_close().await.unwrap();
}

/// A message of each QoS to very many subscribers: all get it, and the tree is free meanwhile.
#[tokio::test(start_paused = true)]
async fn a_message_for_many_reaches_each_of_them() {
    let served = Served::start(|_| {});
    let mut subscribers = Vec::new();
    for number in 0..200 {
        let mut subscriber = served.join(Version::V5, &format!("subscriber{number}")).await;
        subscriber.subscribe(1, "t", QoS::AtLeastOnce).await.unwrap();
        subscribers.push(subscriber);
    }
    let mut publisher = served.join(Version::V5, "publisher").await;
    let packet = Publish {
        qos: QoS::AtLeastOnce,
        topic: "t",
        payload: b"x",
        packet_id: PacketId::new(1),
        ..Publish::default()
    };
    publisher.send(&Packet::Publish(packet)).await.unwrap();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.expect_publish().await.unwrap().payload, b"x");
    }
}
