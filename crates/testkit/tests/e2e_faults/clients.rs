//! The last hop: a device whose connection breaks between its message and the answer.

use std::time::{Duration, Instant};

use tidegate_testkit::devices::{Fleet, QoS};
use tidegate_testkit::proxy::Proxy;
use tokio::time::sleep;

use crate::scene::{Duplicates, Random, Scene, Stage};

/// A row in which all connections of devices break again and again.
async fn break_connections(
    scene: &mut Scene,
    fleet: Fleet,
    fault: &str,
    allowed: impl Fn(u64) -> Duplicates,
) {
    let mut random = Random::new();
    let proxy = Proxy::start().await.unwrap();
    proxy.lead_to(scene.broker.lock().mqtt());
    let devices = Fleet { reconnects: true, ..fleet }.start(proxy.address(), &scene.ledger);
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
    // One message of a device at a time: rumqttc sends those of QoS 2 again by their identifiers, and not in their order.
    let fleet = Fleet { qos: QoS::ExactlyOnce, window: 1, devices: 200, ..Fleet::default() };
    break_connections(&mut scene, fleet, fault, |_| Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_devices_lose_their_connections_at_qos_1() {
    let mut scene = Scene::new(Stage::default()).await;
    let fault = "F36 devices lose their connections, QoS 1 (15 s)";
    let fleet = Fleet::default();
    let window = u64::from(fleet.devices) * u64::from(fleet.window);
    // What a device sends again for want of an answer, marked as such, nobody can tell from another message.
    break_connections(&mut scene, fleet, fault, |cuts| Duplicates::AtMost(cuts * window)).await;
}
