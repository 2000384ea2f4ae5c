//! Messages of the embedding program: what becomes of them, and whom they wait for.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::{DenyList, Injected, Injection, Injector, InjectorOptions, NotPublished};
use tidegate_codec::{Connect, Packet, PacketId, QoS, UserProperties, Version};
use tidegate_session::{Limits, QueuePolicy};

use crate::served::{A_WHILE, Client, Served, drain};

const PATIENCE: Duration = Duration::from_secs(3);

fn message<'a>(topic: &'a str, payload: &'a [u8], qos: QoS) -> Injection<'a> {
    Injection { topic, payload, qos, retain: false, user_properties: UserProperties::default() }
}

fn injector(served: &Served) -> Injector {
    served.broker.injector("source", InjectorOptions { patience: PATIENCE, ..InjectorOptions::default() })
}

/// A broker whose sessions queue 20 messages and have one on its way.
fn small() -> Served {
    Served::start(|config| {
        config.limits = Arc::new(Limits {
            max_queued_messages: 20,
            max_inflight_out: NonZeroU16::new(1).unwrap(),
            queue_policy: QueuePolicy::DropNewest,
            ..Limits::default()
        });
    })
}

async fn subscriber(served: &Served, id: &str, filter: &str, qos: QoS) -> Client {
    let mut client = served.join(Version::V5, id).await;
    client.subscribe(1, filter, qos).await.unwrap();
    client
}

#[tokio::test(start_paused = true)]
async fn a_message_of_the_program_reaches_subscribers_and_is_retained() {
    let served = Served::start(|_| {});
    let mut early = subscriber(&served, "early", "a/+", QoS::AtLeastOnce).await;
    let mut injector = injector(&served);
    let injection = Injection {
        retain: true,
        user_properties: UserProperties::from_pairs([("k", "1"), ("k", "2")]).unwrap(),
        ..message("a/b", b"x", QoS::ExactlyOnce)
    };
    let done = injector.publish(&injection).await.unwrap();
    assert_eq!(done, Injected { receivers: 1, waited: Duration::ZERO, given_up: 0 });
    injector.safe().await.unwrap();
    let mut late = subscriber(&served, "late", "a/#", QoS::AtMostOnce).await;
    for (client, qos, retain) in [(&mut early, QoS::AtLeastOnce, false), (&mut late, QoS::AtMostOnce, true)] {
        let publish = client.expect_publish().await.unwrap();
        assert_eq!(
            (publish.topic, publish.payload, publish.qos, publish.retain),
            ("a/b", &b"x"[..], qos, retain)
        );
        let properties: Vec<_> = publish.properties.user_properties.iter().collect();
        assert_eq!(properties, [("k", "1"), ("k", "2")]);
    }
    injector.publish(&Injection { retain: true, ..message("a/b", b"", QoS::AtMostOnce) }).await.unwrap();
    assert_eq!(served.count("tidegate_retained_messages", None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_no_client_could_publish_is_refused() {
    let served = Served::start(|config| config.denied = DenyList::new(&[], &["secret/#"]).unwrap());
    let mut all = subscriber(&served, "all", "#", QoS::AtLeastOnce).await;
    let mut injector = injector(&served);
    let large = vec![0; 2 << 20];
    for (topic, payload) in
        [("", &b""[..]), ("a/#", b""), ("a\0", b""), ("$SYS/x", b""), ("secret/x", b""), ("a", &large)]
    {
        let refused = injector.publish(&message(topic, payload, QoS::AtLeastOnce)).await.unwrap_err();
        let expected = match topic {
            "$SYS/x" => matches!(refused, NotPublished::Reserved),
            "secret/x" => matches!(refused, NotPublished::Denied),
            "a" => matches!(refused, NotPublished::TooLarge { .. }),
            _ => matches!(refused, NotPublished::InvalidTopic(_)),
        };
        assert!(expected, "{topic:?}: {refused}");
    }
    all.expect_silence(A_WHILE).await.unwrap();
}

/// Publishes so many and tells when it was done.
fn publish_many(mut injector: Injector, count: u32, qos: QoS) -> tokio::task::JoinHandle<(Injector, usize)> {
    tokio::spawn(async move {
        let mut given_up = 0;
        for number in 0..count {
            let payload = format!("{number} {}", "x".repeat(1000));
            given_up += injector.publish(&message("t", payload.as_bytes(), qos)).await.unwrap().given_up;
        }
        (injector, given_up)
    })
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_acknowledge_pauses_the_program_and_loses_nothing() {
    let served = small();
    let mut slow = subscriber(&served, "slow", "t", QoS::AtLeastOnce).await;
    let publishing = publish_many(injector(&served), 200, QoS::AtLeastOnce);
    tokio::time::sleep(PATIENCE / 2).await;
    assert!(!publishing.is_finished(), "it waits for the subscriber");
    let mut numbers = Vec::new();
    for _ in 0..200 {
        let publish = slow.expect_publish().await.unwrap();
        let (number, id) = (publish.payload.to_vec(), publish.packet_id.unwrap());
        numbers.push(String::from_utf8(number).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap());
        slow.puback(id).await.unwrap();
    }
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert_eq!(publishing.await.unwrap().1, 0);
    assert_eq!(served.count("tidegate_messages_dropped_total", None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_no_more_pauses_the_program_also_at_qos_0() {
    let served = small();
    let mut slow = subscriber(&served, "slow", "t", QoS::AtMostOnce).await;
    // More than the stream of a megabyte takes.
    let publishing = publish_many(injector(&served), 3000, QoS::AtMostOnce);
    tokio::time::sleep(PATIENCE / 2).await;
    assert!(!publishing.is_finished(), "it waits for the socket");
    for number in 0..3000 {
        let publish = slow.expect_publish().await.unwrap();
        assert!(publish.payload.starts_with(format!("{number} ").as_bytes()), "{number}");
    }
    assert_eq!(publishing.await.unwrap().1, 0);
    assert_eq!(served.count("tidegate_messages_dropped_total", None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_stays_behind_is_given_up_and_waited_for_again_when_it_has_caught_up() {
    let served = small();
    let mut stuck = subscriber(&served, "stuck", "t", QoS::AtLeastOnce).await;
    let mut good = subscriber(&served, "good", "t", QoS::AtLeastOnce).await;
    let begun = tokio::time::Instant::now();
    let publishing = publish_many(injector(&served), 100, QoS::AtLeastOnce);
    let received = drain_for(&mut good, 100).await;
    assert_eq!(received, 100, "the others get everything");
    let (injector, given_up) = publishing.await.unwrap();
    assert_eq!(given_up, 1);
    assert!(begun.elapsed() < 2 * PATIENCE, "it was waited for once, not for every message");
    // Its queue of 20, and the one on its way: the rest was dropped and counted.
    assert_eq!(served.count("tidegate_messages_dropped_total", Some("queue_full")), 100 - 21);
    assert_eq!(drain(&mut stuck).await.len(), 21);
    let publishing = publish_many(injector, 40, QoS::AtLeastOnce);
    tokio::time::sleep(PATIENCE / 2).await;
    assert!(!publishing.is_finished(), "it is waited for again");
}

/// Acknowledges so many messages, however long they take.
async fn drain_for(client: &mut Client, count: usize) -> usize {
    client.set_patience(4 * PATIENCE);
    for received in 0..count {
        let Ok(publish) = client.expect_publish().await else { return received };
        let id: PacketId = publish.packet_id.unwrap();
        client.puback(id).await.unwrap();
    }
    count
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_away_is_not_waited_for_and_gets_what_its_queue_holds() {
    let served = small();
    let mut away = served.stay("away", 60).await;
    away.subscribe(1, "t", QoS::AtLeastOnce).await.unwrap();
    drop(away);
    served.settled(0).await;
    let begun = tokio::time::Instant::now();
    let (_, given_up) = publish_many(injector(&served), 30, QoS::AtLeastOnce).await.unwrap();
    assert_eq!((given_up, begun.elapsed().as_millis()), (0, 0));
    let mut back = served.stay("away", 60).await;
    assert_eq!(drain(&mut back).await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_member_is_behind_is_waited_for() {
    let served = small();
    let mut member = subscriber(&served, "member", "$share/g/t", QoS::AtLeastOnce).await;
    let publishing = publish_many(injector(&served), 60, QoS::AtLeastOnce);
    tokio::time::sleep(PATIENCE / 2).await;
    assert!(!publishing.is_finished());
    assert_eq!(drain_for(&mut member, 60).await, 60);
    publishing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publishing_client_is_not_held_up_by_what_holds_up_the_program() {
    let served = small();
    let _slow = subscriber(&served, "slow", "t", QoS::AtLeastOnce).await;
    let _publishing = publish_many(injector(&served), 100, QoS::AtLeastOnce);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut device = served.connect(Connect::new(Version::V5, "device")).await;
    let begun = tokio::time::Instant::now();
    device.publish(9, "t", b"x").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100));
    device.send(&Packet::PingReq).await.unwrap();
}
