//! Will messages: chapters 3.1.2.5 and 3.1.3.2, and what DISCONNECT does to them.

use std::time::Duration;

use tidegate_codec::{
    Connect, ConnectProperties, Disconnect, Packet, QoS, ReasonCode, UserProperties, Version, Will,
};
use tokio::time::Instant;

use crate::world::{BOTH, Client, KEPT, Script, World, kept, will};

/// Seconds.
const DELAY: u32 = 30;

async fn watcher(world: &World, version: Version) -> Client {
    let mut watcher = world.join(version, "watcher").await;
    watcher.set_patience(Duration::from_secs(2 * u64::from(KEPT)));
    watcher.subscribe(1, "wills/#", QoS::ExactlyOnce).await.unwrap();
    watcher
}

fn with_will<'a>(connect: Connect<'a>, will: Will<'a>) -> Connect<'a> {
    Connect { will: Some(will), ..connect }
}

/// How a connection can end without DISCONNECT.
#[derive(Debug, Clone, Copy)]
enum End {
    Lost,
    Silent,
    Malformed,
    Violation,
    TakenOver,
}

/// [MQTT5-3.1.2-7] [MQTT5-3.1.2-8] [MQTT311-3.1.2-8] [MQTT5-3.1.2-10] [MQTT311-3.1.2-10]: once, and not again when the
/// client comes back without a will.
#[tokio::test(start_paused = true)]
async fn the_will_is_published_however_the_connection_ends_without_disconnect() {
    for version in BOTH {
        for end in [End::Lost, End::Silent, End::Malformed, End::Violation, End::TakenOver] {
            let world = World::new();
            let mut watcher = watcher(&world, version).await;
            let connect = Connect { keep_alive: 10, ..Connect::new(version, "device") };
            let (mut device, _) = world.connect(with_will(connect, will("wills/1", b"gone"))).await;
            match end {
                End::Lost => drop(device),
                End::Silent => tokio::time::sleep(Duration::from_secs(17)).await,
                End::Malformed => device.send_raw(b"\x36\x05\0\x01a\0\x01").await.unwrap(),
                End::Violation => device.send_raw(b"\xd0\0").await.unwrap(),
                End::TakenOver => drop(world.join(version, "device").await),
            }
            let got = watcher.got().await;
            assert_eq!((&*got.topic, got.text(), got.qos), ("wills/1", "gone", QoS::AtLeastOnce), "{end:?}");
            world.settled(1).await;
            drop(world.join(version, "device").await);
            world.settled(1).await;
            assert_eq!(watcher.all().await, [], "{version:?} {end:?}");
        }
    }
}

/// [MQTT5-3.14.4-3] [MQTT5-3.1.2-10] [MQTT311-3.14.4-3] [MQTT311-3.1.2-10] [MQTT311-3.1.2-12]
#[tokio::test(start_paused = true)]
async fn a_normal_disconnect_discards_the_will_and_one_with_a_reason_does_not() {
    for (version, reason, is_published) in [
        (Version::V3_1_1, ReasonCode::NORMAL_DISCONNECTION, false),
        (Version::V5, ReasonCode::NORMAL_DISCONNECTION, false),
        (Version::V5, ReasonCode::DisconnectWithWill, true),
        (Version::V5, ReasonCode::UnspecifiedError, true),
    ] {
        let world = World::new();
        let mut watcher = watcher(&world, version).await;
        let connect = with_will(Connect::new(version, "device"), will("wills/1", b"gone"));
        let (mut device, _) = world.connect(connect).await;
        device.send(&Packet::Disconnect(Disconnect::new(reason))).await.unwrap();
        device.expect_end().await;
        // A client without a will never has one published.
        drop(world.join(version, "other").await);
        world.settled(1).await;
        assert_eq!(watcher.all().await.len(), usize::from(is_published), "{version:?} {reason:?}");
    }
}

/// [MQTT5-3.1.2-14] [MQTT311-3.1.2-16] [MQTT5-3.1.2-15] [MQTT311-3.1.2-17]
#[tokio::test(start_paused = true)]
async fn a_will_is_retained_exactly_if_its_connect_says_so() {
    for version in BOTH {
        let world = World::new();
        for (id, retain) in [("kept", true), ("gone", false)] {
            let topic = format!("wills/{id}");
            let will = Will { retain, ..will(&topic, b"x") };
            drop(world.connect(with_will(Connect::new(version, id), will)).await);
        }
        world.settled(0).await;
        let mut late = watcher(&world, version).await;
        let got = late.all().await;
        assert_eq!(got.len(), 1, "{version:?}");
        assert!(got[0].retain && got[0].topic == "wills/kept");
    }
}

/// [MQTT5-3.1.2-8] [MQTT5-3.1.3-9]
#[tokio::test(start_paused = true)]
async fn attack_81_a_delayed_will_waits_for_its_delay_or_for_the_end_of_the_session() {
    // Seconds of session expiry, and after how many the will is due.
    for (expiry, due) in [(KEPT, DELAY), (10, 10), (0, 0)] {
        let world = World::new();
        let mut watcher = watcher(&world, Version::V5).await;
        let delayed = Will { delay_interval: DELAY, ..will("wills/1", b"gone") };
        let properties =
            ConnectProperties { session_expiry_interval: Some(expiry), ..ConnectProperties::default() };
        let connect = Connect { properties, ..Connect::new(Version::V5, "device") };
        drop(world.connect(with_will(connect, delayed)).await);
        let lost = Instant::now();
        watcher.got().await;
        let waited = lost.elapsed().as_secs_f64();
        assert!((f64::from(due)..f64::from(due) + 1.0).contains(&waited), "{expiry}: {waited}");
        tokio::time::sleep(Duration::from_secs(u64::from(KEPT) * 2)).await;
        assert_eq!(watcher.all().await, [], "once");
    }
}

/// [MQTT5-3.1.3-9] [MQTT5-3.1.2-8]
#[tokio::test(start_paused = true)]
async fn attack_81_a_client_that_comes_back_before_the_delay_cancels_its_will() {
    let world = World::new();
    let mut watcher = watcher(&world, Version::V5).await;
    let delayed = Will { delay_interval: DELAY, ..will("wills/1", b"gone") };
    drop(world.connect(with_will(kept(Version::V5, "device"), delayed.clone())).await);
    tokio::time::sleep(Duration::from_secs(u64::from(DELAY) - 1)).await;
    let back = world.resume(Version::V5, "device").await;
    tokio::time::sleep(Duration::from_secs(u64::from(DELAY) * 2)).await;
    assert_eq!(watcher.all().await, []);
    drop(back);

    // A clean start ends the session, and with it the waiting.
    drop(world.connect(with_will(kept(Version::V5, "device"), delayed)).await);
    world.settled(1).await;
    let _new = world.join(Version::V5, "device").await;
    assert_eq!(watcher.got().await.text(), "gone");
}

/// [MQTT5-3.1.2-8]: the session ends with its connection, so nothing is left to wait for.
#[tokio::test(start_paused = true)]
async fn attack_80_a_takeover_publishes_the_will_of_a_session_that_ends() {
    for version in BOTH {
        let world = World::new();
        let mut watcher = watcher(&world, version).await;
        let (mut old, _) =
            world.connect(with_will(Connect::new(version, "device"), will("wills/1", b"old"))).await;
        let _new = world.join(version, "device").await;
        assert_eq!(watcher.got().await.text(), "old");
        old.expect_close().await.unwrap();
    }
}

/// [MQTT5-3.1.3-10] [MQTT5-3.3.2-17]: and the other properties of the will, unaltered.
#[tokio::test(start_paused = true)]
async fn a_will_is_published_with_its_properties_in_their_order() {
    let world = World::new();
    let mut watcher = watcher(&world, Version::V5).await;
    let pairs = [("b", "1"), ("a", "2"), ("b", "0"), ("", "")];
    let mut full = will("wills/1", b"gone");
    full.properties.user_properties = UserProperties::from_pairs(pairs).unwrap();
    full.properties.payload_is_utf8 = Some(true);
    full.properties.content_type = Some("text/plain");
    full.properties.response_topic = Some("answers");
    full.properties.correlation_data = Some(b"\0\xff");
    drop(world.connect(with_will(Connect::new(Version::V5, "device"), full.clone())).await);
    let publish = watcher.expect_publish().await.unwrap();
    assert_eq!(publish.properties, full.properties);
    assert!(publish.properties.user_properties.iter().eq(pairs));
}
