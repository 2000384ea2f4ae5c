//! The network between the broker and Kafka: slow, silent, broken, or leading elsewhere.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_testkit::devices::Fleet;
use tidegate_testkit::process::free_address;
use tidegate_testkit::proxy::{Proxy, Weather};
use tokio::time::sleep;

use crate::scene::{Duplicates, NOTICE, Prepare, Random, Scene, Stage};

fn behind_proxy() -> Stage {
    Stage { through_proxy: true, ..Stage::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_kafka_slow() {
    let mut scene = Scene::new(behind_proxy()).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    // Half a second until an answer, and a megabit a second.
    let slow =
        Weather { delay: Duration::from_millis(250), bytes_per_second: Some(125_000), ..Weather::default() };
    scene.proxy().set(slow);
    let acknowledged = scene.acknowledged_in(Duration::from_secs(30)).await;
    assert!(acknowledged > 5000, "{acknowledged} acknowledged over a slow line");
    let sent_again = scene.metric("tidegate_sink_retries_total");
    assert!(sent_again < 100.0, "no storm of repetitions: {sent_again}");
    scene.proxy().set(Weather::default());
    scene.end("F3 Kafka slow (500 ms, 1 Mbit/s; 30 s)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_half_open_connection_to_kafka() {
    let mut scene = Scene::new(behind_proxy()).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    scene.proxy().set(Weather { held: true, ..Weather::default() });
    // The request timeout of this suite is 10 s.
    scene.noticed("no answer", Duration::from_secs(30)).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(10)).await;
    assert!(acknowledged > 1000, "{acknowledged} acknowledged over a dead line");
    // The peer never learned of it: what was on its way is gone, and the connections with it.
    scene.proxy().cut();
    scene.proxy().set(Weather::default());
    scene.end("F16 half-open connections to Kafka (20 s)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_connections_reset_at_random_moments() {
    let mut random = Random::new();
    let mut scene = Scene::new(behind_proxy()).await;
    let devices = scene.devices(Fleet { interval: Duration::from_millis(20), ..Fleet::default() });
    sleep(Duration::from_secs(2)).await;
    let begun = Instant::now();
    let mut cuts = 0;
    while begun.elapsed() < Duration::from_secs(15) {
        scene.proxy().cut();
        cuts += 1;
        sleep(random.millis(20, 700)).await;
    }
    scene.end(&format!("F17 {cuts} resets in 15 s"), devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_delay_and_jitter() {
    let mut scene = Scene::new(behind_proxy()).await;
    let delayed = Weather {
        delay: Duration::from_millis(50),
        jitter: Duration::from_millis(100),
        ..Weather::default()
    };
    scene.proxy().set(delayed);
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(20)).await;
    scene.end("F19 delay of 50 to 150 ms each way (20 s)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_flapping_leaves_no_files_open() {
    let mut random = Random::new();
    let mut scene = Scene::new(behind_proxy()).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    let before = scene.broker.lock().open_files().unwrap();
    for _ in 0..15 {
        // Silence, refusals, or both.
        let (held, closed) = [(true, false), (false, true), (true, true)][random.below(3) as usize];
        scene.proxy().set(Weather { held, closed, ..Weather::default() });
        if closed {
            scene.proxy().cut();
        }
        sleep(Duration::from_secs(2)).await;
        scene.proxy().set(Weather::default());
        sleep(Duration::from_secs(2)).await;
    }
    scene
        .until("as many files as before", Duration::from_secs(30), |scene| {
            let idle = scene.metric("tidegate_sink_spill_records") < 0.5;
            idle && scene.broker.lock().open_files().unwrap() <= before + 2
        })
        .await;
    scene.end("F20 flapping, 2 s and 2 s (60 s)", devices, Duplicates::None).await;
}

/// The broker has a file of host names of its own, which needs root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_the_name_of_kafka_leads_elsewhere_or_nowhere() {
    let folder = std::env::temp_dir().join(format!("tidegate-names-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (hosts, resolver) = (folder.join("hosts"), folder.join("resolv.conf"));
    // Nobody answers there, so what is not in the file does not exist.
    fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    // In place: it is this file that the broker sees, and not one of its name.
    let lead_to = |ip: &str| fs::write(&hosts, format!("{ip} kafka.test\n")).unwrap();
    lead_to("127.0.0.2");
    let old = Proxy::listen([127, 0, 0, 2].into(), 0).await.unwrap();
    let port = old.address().port();
    let new = Arc::new(Proxy::listen([127, 0, 0, 3].into(), port).await.unwrap());
    let name = format!("kafka.test:{port}");
    let mounts =
        "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";
    let paths = [hosts.display().to_string(), resolver.display().to_string()];
    let under =
        ["unshare", "-m", "sh", "-c", mounts, "sh"].map(str::to_owned).into_iter().chain(paths).collect();
    let (to_new, told) = (Arc::clone(&new), name.clone());
    let (send, target) = std::sync::mpsc::channel();
    let prepare: Prepare = Box::new(move |kafka| {
        let address = kafka.listener("OUT").unwrap().parse().unwrap();
        to_new.lead_to(address);
        old.lead_to(address);
        send.send(old).unwrap();
        Some(told)
    });
    let kafka =
        ["--listener", "OUT=PLAINTEXT", "--advertise", &format!("OUT={name}")].map(str::to_owned).to_vec();
    let mut scene = Scene::new(Stage { kafka, under, prepare: Some(prepare), ..Stage::default() }).await;
    let old = target.recv().unwrap();
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(3)).await;
    assert!(scene.metric("tidegate_sink_records_delivered_total") > 0.0, "by the old address");

    lead_to("127.0.0.3");
    drop(old);
    let delivered = scene.metric("tidegate_sink_records_delivered_total");
    let delivers =
        move |scene: &Scene| scene.metric("tidegate_sink_records_delivered_total") > delivered + 2000.0;
    scene.until("it finds the new address", Duration::from_secs(30), delivers).await;

    fs::write(&hosts, "").unwrap();
    new.set(Weather { closed: true, ..Weather::default() });
    new.cut();
    scene.noticed("kafka.test", NOTICE).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(5)).await;
    assert!(acknowledged > 1000, "{acknowledged} acknowledged while the name is unknown");
    lead_to("127.0.0.3");
    new.set(Weather::default());
    scene.end("F21 Kafka's name moves, and is unknown for 5 s", devices, Duplicates::None).await;
    let _ = fs::remove_dir_all(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_kafka_tells_an_address_that_nobody_reaches() {
    let nowhere = free_address().unwrap().to_string();
    let kafka = ["--listener", "OUT=PLAINTEXT", "--advertise", &format!("OUT={nowhere}")];
    let kafka = kafka.map(str::to_owned).to_vec();
    let prepare: Prepare = Box::new(|kafka| Some(kafka.listener("OUT").unwrap()));
    let mut scene = Scene::new(Stage { kafka, prepare: Some(prepare), ..Stage::default() }).await;
    let devices = scene.devices(Fleet::default());
    scene.noticed(&nowhere, NOTICE).await;
    let names_the_remedy = scene
        .broker
        .lock()
        .output()
        .iter()
        .any(|line| line.contains(&nowhere) && line.contains("advertised.listeners"));
    assert!(names_the_remedy, "who reads of {nowhere} learns which setting of Kafka is wrong");
    let acknowledged = scene.acknowledged_in(Duration::from_secs(10)).await;
    assert!(acknowledged > 1000, "{acknowledged} acknowledged without a way to Kafka");
    assert!(scene.metric("tidegate_sink_records_delivered_total") < 0.5, "there was no way to Kafka");
    scene
        .kafka(|kafka| {
            kafka.advertise("OUT", &kafka.listener("OUT").unwrap()).unwrap();
            kafka.kill().unwrap();
            kafka.restart().unwrap();
        })
        .await;
    scene.end("F22 an advertised address that leads nowhere (15 s)", devices, Duplicates::None).await;
}

/// A network of its own whose loopback loses packets, which needs root, and nft of Debian's package nftables.
#[test]
fn f18_packets_lost() {
    let own = std::env::current_exe().unwrap();
    let run = "ip link set lo up && nft list ruleset && exec \"$@\"";
    let inner = ["--ignored", "--exact", "--nocapture", "network::in_a_network_that_loses_packets"];
    let status = Command::new("unshare").args(["-n", "sh", "-c", run, "sh"]).arg(own).args(inner).status();
    match status.unwrap().code() {
        Some(0) => {}
        // A test that fails ends with 101.
        Some(101) => panic!("the row failed"),
        other => eprintln!("not run: F18, there is no network of its own with nft here ({other:?})"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "f18_packets_lost runs it in a network of its own"]
async fn in_a_network_that_loses_packets() {
    fn nft(rules: &str) {
        let status = Command::new("nft").arg(rules).status().unwrap();
        assert!(status.success(), "{rules}");
    }
    let mut scene = Scene::new(Stage::default()).await;
    let port = scene.kafka(|kafka| kafka.bootstrap().rsplit(':').next().unwrap().to_owned()).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    nft("add table inet loss; add chain inet loss input { type filter hook input priority 0; }");
    for percent in [1, 5, 20] {
        let lose = format!("numgen random mod 100 < {percent} drop");
        nft(&format!(
            "flush chain inet loss input; \
             add rule inet loss input tcp dport {port} {lose}; add rule inet loss input tcp sport {port} {lose}"
        ));
        sleep(Duration::from_secs(10)).await;
    }
    nft("delete table inet loss");
    scene
        .end("F18 1 %, 5 % and 20 % of packets to and from Kafka lost (30 s)", devices, Duplicates::None)
        .await;
}
