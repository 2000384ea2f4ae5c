//! Windows and what rules remember, in a running broker and over its restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::{Broker, Config, Metrics, RulesError};
use tidegate_codec::{PacketType, ReasonCode};
use tidegate_sink::Outcome;

use crate::bench::{Hand, Served, header_of, into, is_silent, publish, rule, value_of};

const COUNT: &str = r#"SELECT clientid, count(*) AS n FROM "t" GROUP BY clientid, TUMBLING(300 ms)"#;

/// A window that no test sees the end of.
const LONG: &str = r#"SELECT clientid, count(*) AS n FROM "t" GROUP BY clientid, SESSION(1 h)"#;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tidegate-remembering-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn kept_in(folder: &std::path::Path, interval: Duration) -> impl FnOnce(&mut Config) {
    let folder = folder.to_owned();
    move |config| {
        config.rules.directory = Some(folder);
        config.rules.snapshot_interval = interval;
    }
}

#[tokio::test]
async fn a_window_closes_on_time_although_no_further_message_comes() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![into(&hand, rule("count", COUNT))]);
    let (mut one, mut two) = (served.join("one").await, served.join("two").await);
    // In one window, as long as nothing takes 300 ms: otherwise the sum below still holds.
    for (client, id) in [(&mut one, 1), (&mut two, 1)] {
        assert_eq!(
            publish(client, id, "t", b"").await,
            ReasonCode::Success,
            "a window in memory promises no more"
        );
    }
    assert_eq!(publish(&mut one, 2, "t", b"").await, ReasonCode::Success);
    let mut counted = 0;
    while counted < 3 {
        let (record, ack) = hand.next().await;
        assert!(header_of(&record, "mqtt.event").is_some_and(|event| event == "window.closed"));
        ack.unwrap().settle(Outcome::Delivered);
        let value = value_of(&record);
        counted += if value.ends_with("\"n\":2}") { 2 } else { 1 };
    }
    assert_eq!((counted, hand.len()), (3, 0));
}

#[tokio::test]
async fn a_rule_whose_destination_is_full_does_not_hold_up_the_windows_of_others() {
    let (full, other) = (Arc::new(Hand::default()), Arc::new(Hand::default()));
    let served = Served::start(vec![into(&full, rule("full", COUNT)), into(&other, rule("other", COUNT))]);
    full.set_full(true);
    let mut device = served.join("d").await;
    for _ in 0..2 {
        device.publish(0, "t", b"").await.unwrap();
        assert_eq!(other.value().await, r#"{"clientid":"d","n":1}"#);
    }
    assert_eq!(full.len(), 0);
    full.set_full(false);
    for _ in 0..2 {
        assert_eq!(full.value().await, r#"{"clientid":"d","n":1}"#, "both come when there is room");
    }
}

#[tokio::test]
async fn repeats_are_held_back_and_lag_looks_at_the_message_before_whichever_connection_it_came_from() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![
        into(&hand, rule("once", r#"SELECT payload.n AS n FROM "d" DEDUP BY payload.n WITHIN 1 h"#)),
        into(&hand, rule("step", r#"SELECT payload.n - lag(payload.n, topic) AS by FROM "s""#)),
    ]);
    let (mut one, mut two) = (served.join("one").await, served.join("two").await);
    one.publish(0, "d", br#"{"n": 1}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"n\":1}");
    assert_eq!(publish(&mut two, 1, "d", br#"{"n": 1}"#).await, ReasonCode::NoMatchingSubscribers);
    two.publish(0, "s", br#"{"n": 5}"#).await.unwrap();
    two.publish(0, "d", br#"{"n": 2}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"n\":2}", "the first of a lag fails");
    one.publish(0, "s", br#"{"n": 7}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"by\":2}");
}

#[tokio::test(flavor = "multi_thread")]
async fn puback_of_a_message_in_a_window_waits_for_the_snapshot_that_holds_it() {
    let folder = folder("waits");
    let hand = Arc::new(Hand::default());
    let rules = || vec![into(&hand, rule("long", LONG))];
    let interval = Duration::from_millis(400);
    {
        let served = Served::with(kept_in(&folder, interval), rules());
        let mut device = served.join("d").await;
        device.publish(1, "t", b"").await.unwrap();
        assert!(is_silent(&mut device).await, "nothing holds it yet but memory");
        assert_eq!(device.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
        // Not shut down: what follows is as after a kill, but for the lock on the directory.
        std::fs::remove_file(folder.join("lock")).unwrap();
    }
    let served = Served::with(kept_in(&folder, interval), rules());
    served.broker.shutdown().await;
    let saved = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name());
    assert!(saved.into_iter().any(|name| name.to_string_lossy().starts_with("long-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_window_holds_is_there_after_a_restart_and_closes_then() {
    let folder = folder("restart");
    let hand = Arc::new(Hand::default());
    let sql = r#"SELECT count(*) AS n FROM "t" GROUP BY TUMBLING(2 s)"#;
    let rules = || vec![into(&hand, rule("n", sql))];
    let served = Served::with(kept_in(&folder, Duration::from_hours(1)), rules());
    let mut device = served.join("d").await;
    for _ in 0..3 {
        device.publish(0, "t", b"").await.unwrap();
    }
    device.subscribe(1, "x", tidegate_codec::QoS::AtMostOnce).await.unwrap();
    served.broker.shutdown().await;
    drop((device, served));
    let _served = Served::with(kept_in(&folder, Duration::from_hours(1)), rules());
    let mut counted = 0;
    while counted < 3 {
        let value = hand.value().await;
        counted += value.strip_prefix("{\"n\":").unwrap().trim_end_matches('}').parse::<i32>().unwrap();
    }
    assert_eq!(counted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_forgets_a_window_whose_rows_are_not_safe() {
    let folder = folder("unsafe");
    let hand = Arc::new(Hand::default());
    let rules = |hand: &Arc<Hand>| vec![into(hand, rule("count", COUNT))];
    let interval = Duration::from_millis(20);
    let served = Served::with(kept_in(&folder, interval), rules(&hand));
    let mut device = served.join("d").await;
    device.publish(1, "t", b"").await.unwrap();
    assert_eq!(device.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    let (record, ack) = hand.next().await;
    assert_eq!(value_of(&record), r#"{"clientid":"d","n":1}"#);
    // The window is closed, and its row is lost with the process: many intervals later the window is still on disk.
    tokio::time::sleep(interval * 10).await;
    std::fs::remove_file(folder.join("lock")).unwrap();
    let after = Arc::new(Hand::default());
    let _served = Served::with(kept_in(&folder, interval), rules(&after));
    assert_eq!(after.value().await, r#"{"clientid":"d","n":1}"#, "it closes again");
    drop(ack);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_stay_keep_what_they_remember_when_all_are_replaced() {
    let hand = Arc::new(Hand::default());
    let once =
        || into(&hand, rule("once", r#"SELECT payload.n AS n FROM "d" DEDUP BY payload.n WITHIN 1 h"#));
    let served = Served::start(vec![once()]);
    let mut device = served.join("d").await;
    device.publish(0, "d", br#"{"n": 1}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"n\":1}");
    served
        .broker
        .replace_rules(vec![into(&hand, rule("other", r#"SELECT 1 AS x FROM "x""#)), once()])
        .unwrap();
    assert_eq!(publish(&mut device, 1, "d", br#"{"n": 1}"#).await, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_put_aside_and_one_of_a_newer_version_stops_the_start() {
    let folder = folder("damaged");
    let hand = Arc::new(Hand::default());
    let rules = || vec![into(&hand, rule("long", LONG))];
    let served = Served::with(kept_in(&folder, Duration::from_millis(10)), rules());
    let mut device = served.join("d").await;
    device.publish(1, "t", b"").await.unwrap();
    assert_eq!(device.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    served.broker.shutdown().await;
    drop((device, served));
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let path = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "state")).unwrap();
    let whole = std::fs::read(&path).unwrap();

    let start = || {
        let mut config = Config::default();
        kept_in(&folder, Duration::from_secs(1))(&mut config);
        Broker::start(config, rules(), Metrics::register(&prometheus::Registry::new()).unwrap())
    };
    let mut newer = whole.clone();
    newer[4] += 1;
    std::fs::write(&path, &newer).unwrap();
    let refused = start().unwrap_err();
    assert!(matches!(refused, RulesError::State(_)) && refused.to_string().contains("newer"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), newer, "it is not touched");

    let mut damaged = whole;
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    start().unwrap().shutdown().await;
    assert!(path.with_extension("unreadable").exists());
}
