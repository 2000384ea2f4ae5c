//! The last hop: a device whose connection breaks between its message and the answer.

use std::time::{Duration, Instant};

use tidegate_testkit::devices::{Fleet, QoS};
use tidegate_testkit::proxy::Proxy;
use tokio::time::sleep;

use crate::scene::{Duplicates, Random, Scene, Stage};

/// Breaks all connections of devices again and again, and returns how often.
async fn break_connections(scene: &mut Scene, qos: QoS, fault: &str, allowed: impl Fn(u64) -> Duplicates) {
    let mut random = Random::new();
    let proxy = Proxy::start().await.unwrap();
    proxy.lead_to(scene.broker.lock().mqtt());
    let fleet = Fleet { qos, reconnects: true, ..Fleet::default() };
    let devices = fleet.start(proxy.address(), &scene.ledger);
    sleep(Duration::from_secs(2)).await;
    let begun = Instant::now();
    let mut cuts = 0;
    while begun.elapsed() < Duration::from_secs(15) {
        proxy.cut();
        cuts += 1;
        sleep(random.millis(200, 1500)).await;
    }
    scene.end(fault, devices, allowed(cuts)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_devices_lose_their_connections_at_qos_2() {
    let mut scene = Scene::new(Stage::default()).await;
    let fault = "F36 devices lose their connections, QoS 2 (15 s)";
    break_connections(&mut scene, QoS::ExactlyOnce, fault, |_| Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_devices_lose_their_connections_at_qos_1() {
    let mut scene = Scene::new(Stage::default()).await;
    let fault = "F36 devices lose their connections, QoS 1 (15 s)";
    let fleet = Fleet::default();
    let window = u64::from(fleet.devices) * u64::from(fleet.window);
    // What a device sends again for want of an answer, marked as such, nobody can tell from another message.
    break_connections(&mut scene, QoS::AtLeastOnce, fault, |cuts| Duplicates::AtMost(cuts * window)).await;
}
