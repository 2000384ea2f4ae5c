//! What a broker tells of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_codec::{QoS, ReasonCode, Version};

use crate::served::{A_WHILE, Client, Served, publish, receive};

async fn told(client: &mut Client) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    while let Ok(packet) = tokio::time::timeout(A_WHILE, client.receive()).await {
        let tidegate_codec::Packet::Publish(publish) = packet.unwrap() else { panic!("only PUBLISH comes") };
        told.insert(publish.topic.to_owned(), String::from_utf8(publish.payload.to_vec()).unwrap());
    }
    told
}

#[tokio::test(start_paused = true)]
async fn sys_topics_are_retained_and_told_again_when_they_change() {
    let served = Served::start(|config| config.sys_interval = Some(Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut watcher = served.join(Version::V5, "watcher").await;
    watcher.subscribe(1, "$SYS/#", QoS::AtMostOnce).await.unwrap();
    let first = told(&mut watcher).await;
    assert!(first["$SYS/broker/version"].starts_with("tidegate version "));
    assert_eq!(first["$SYS/broker/uptime"], "0 seconds");
    for name in [
        "clients/total",
        "clients/connected",
        "clients/disconnected",
        "clients/maximum",
        "subscriptions/count",
        "messages/received",
        "messages/sent",
        "messages/stored",
        "publish/messages/dropped",
        "bytes/received",
        "retained messages/count",
        "load/messages/received/1min",
        "load/bytes/sent/15min",
    ] {
        assert!(first.contains_key(&format!("$SYS/broker/{name}")), "{name}");
    }
    let mut publisher = served.join(Version::V3_1_1, "publisher").await;
    publish(&mut publisher, "a", b"x", true).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let second = told(&mut watcher).await;
    assert_eq!(second["$SYS/broker/uptime"], "10 seconds");
    assert_eq!(second["$SYS/broker/clients/connected"], "2");
    assert_eq!(second["$SYS/broker/clients/maximum"], "2");
    assert_eq!(second["$SYS/broker/publish/messages/received"], "1");
    assert_eq!(second["$SYS/broker/subscriptions/count"], "1");
    assert!(!second.contains_key("$SYS/broker/version"), "it has not changed");
}

/// [MQTT5-4.7.2-1]
#[tokio::test(start_paused = true)]
async fn mqtt5_4_7_2_1_a_wildcard_in_front_matches_nothing_of_it_and_nobody_may_pretend() {
    let served = Served::start(|config| config.sys_interval = Some(Duration::from_secs(1)));
    let mut watcher = served.join(Version::V5, "watcher").await;
    for (id, filter) in [(1, "#"), (2, "+/broker/uptime"), (3, "+/#")] {
        watcher.subscribe(id, filter, QoS::AtMostOnce).await.unwrap();
    }
    watcher.expect_silence(Duration::from_secs(3)).await.unwrap();
    let answer = publish(&mut watcher, "$SYS/broker/uptime", b"x", true).await;
    assert_eq!(answer, ReasonCode::NotAuthorized);
    watcher.subscribe(4, "$SYS/broker/uptime", QoS::AtMostOnce).await.unwrap();
    assert!(receive(&mut watcher).await.1.ends_with(b" seconds"));
}
