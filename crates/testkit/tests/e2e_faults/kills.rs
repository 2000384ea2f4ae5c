//! The broker ends: by SIGKILL at any moment, or in order with much that Kafka has not got.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_testkit::blocking;
use tidegate_testkit::devices::Fleet;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::scene::{DRAIN_LIMIT, Duplicates, Random, Scene, Stage, setting};

/// `TIDEGATE_KILLS` says how often, 10 unless told; one kill in five is of Kafka beside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_broker_and_kafka_killed_at_random_moments() {
    let kills = setting("TIDEGATE_KILLS").unwrap_or(10);
    let mut random = Random::new();
    let mut scene = Scene::new(Stage::default()).await;
    let fleet = Fleet { interval: Duration::from_millis(20), reconnects: true, ..Fleet::default() };
    let window = u64::from(fleet.devices) * u64::from(fleet.window);
    let devices = scene.devices(fleet);
    let mut slowest = Duration::ZERO;
    let mut kafka_kills = 0;
    let mut absence: Option<JoinHandle<Duration>> = None;
    let (begun, mut away) = (Instant::now(), Duration::ZERO);
    for kill in 0..kills {
        if kill % 5 == 1 {
            away += back(absence.take()).await;
            let (nodes, pause) = (Arc::clone(&scene.nodes), random.millis(0, 2000));
            kafka_kills += 1;
            // The broker is killed on while Kafka is away and while it starts: about a third of the time.
            absence = Some(tokio::spawn(blocking(move || {
                let since = Instant::now();
                nodes[0].kill().unwrap();
                std::thread::sleep(pause);
                nodes[0].restart().unwrap();
                since.elapsed()
            })));
        }
        sleep(random.millis(100, 10_000)).await;
        let begun = Instant::now();
        scene.restart_broker().await;
        slowest = slowest.max(begun.elapsed());
    }
    away += back(absence).await;
    let share = 100.0 * away.as_secs_f64() / begun.elapsed().as_secs_f64();
    eprintln!("Kafka was away for {share:.0} % of the time; slowest start of the broker: {slowest:.1?}");
    // What was on its way to Kafka is sent again by the next process or, if it was not acknowledged, by its device.
    let allowed = Duplicates::AtMost(kills * 2 * window);
    let fault = format!("F11 broker killed {kills} times, Kafka {kafka_kills} times");
    scene.end(&fault, devices, allowed).await;
}

/// Waits until Kafka is there again; says how long it was not.
async fn back(absence: Option<JoinHandle<Duration>>) -> Duration {
    match absence {
        Some(absence) => absence.await.expect("Kafka starts again"),
        None => Duration::ZERO,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f32_told_to_end_with_much_that_waits() {
    let mut scene = Scene::new(Stage::default()).await;
    let fleet = Fleet { interval: Duration::from_millis(10), reconnects: true, ..Fleet::default() };
    let window = u64::from(fleet.devices) * u64::from(fleet.window);
    let devices = scene.devices(fleet);
    sleep(Duration::from_secs(2)).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    sleep(Duration::from_secs(15)).await;
    let waiting = scene.metric("tidegate_sink_records_held");
    assert!(waiting > 10_000.0, "{waiting}");
    scene.look_at_memory();
    let broker = Arc::clone(&scene.broker);
    let ended = blocking(move || {
        let begun = Instant::now();
        let status = broker.lock().terminate(Duration::from_secs(30)).unwrap().unwrap();
        assert!(status.success(), "{status}");
        begun.elapsed()
    })
    .await;
    eprintln!("ended in order after {ended:.1?} with {waiting} records for Kafka");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    scene.restart_broker().await;
    // What had no acknowledgement is sent again by its device.
    let fault = format!("F32 SIGTERM with {waiting} records for Kafka");
    scene.end(&fault, devices, Duplicates::AtMost(window)).await;
    assert!(ended < DRAIN_LIMIT);
}
