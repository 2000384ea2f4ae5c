//! Kafka is not there, or is there and says nothing.

use std::time::Duration;

use tidegate_testkit::devices::Fleet;
use tokio::time::sleep;

use crate::scene::{Duplicates, NOTICE, Prepare, Scene, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_kafka_down_at_start() {
    let prepare: Prepare = Box::new(|kafka| {
        kafka.kill().unwrap();
        None
    });
    let mut scene = Scene::new(Stage { prepare: Some(prepare), ..Stage::default() }).await;
    // Nothing to do, and nobody there: the retries cost next to nothing.
    let before = scene.broker.lock().cpu_time().unwrap();
    sleep(Duration::from_secs(5)).await;
    let idle = scene.broker.lock().cpu_time().unwrap().saturating_sub(before);
    assert!(idle < Duration::from_millis(250), "{idle:?} of CPU in 5 s");
    let devices = scene.devices(Fleet::default());
    let acknowledged = scene.acknowledged_in(Duration::from_secs(10)).await;
    assert!(acknowledged > 1000, "{acknowledged} acknowledged without Kafka");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    scene.end("F1 Kafka down at start (15 s)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_kafka_killed_under_load() {
    let mut scene = Scene::new(Stage::default()).await;
    let devices = scene.devices(Fleet { interval: Duration::from_millis(20), ..Fleet::default() });
    sleep(Duration::from_secs(5)).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    scene.noticed("Connection refused", NOTICE).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(20)).await;
    assert!(acknowledged > 10_000, "{acknowledged} acknowledged while Kafka was away");
    let (health, _) = scene.broker.lock().http_get("/healthz").unwrap();
    let (ready, why) = scene.broker.lock().http_get("/readyz").unwrap();
    assert_eq!((health, ready), (200, 200), "messages are safe here: {why}");
    assert!(why.contains("main"), "it names what waits: {why}");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    scene.end("F2 Kafka killed under load (20 s)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_kafka_frozen() {
    let mut scene = Scene::new(Stage::default()).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(3)).await;
    scene.kafka(|kafka| kafka.freeze().unwrap()).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(40)).await;
    assert!(acknowledged > 5000, "{acknowledged} acknowledged while Kafka was frozen");
    scene.kafka(|kafka| kafka.thaw().unwrap()).await;
    scene.end("F15 Kafka frozen (40 s)", devices, Duplicates::None).await;
}
