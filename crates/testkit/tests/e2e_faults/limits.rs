//! The machine has too little of something: files, memory, processor time.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_codec::{QoS, Version};
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::mqtt::Peer;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::scene::{DRAIN_LIMIT, Duplicates, NOTICE, Scene, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_out_of_files() {
    let under = ["prlimit", "--nofile=256:256"].map(str::to_owned).to_vec();
    let mut scene = Scene::new(Stage { under, ..Stage::default() }).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    let address = scene.broker.lock().mqtt();
    // Silent ones, more than there is room for.
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(TcpStream::connect(address).await);
    }
    sleep(Duration::from_secs(1)).await;
    assert!(scene.broker.lock().open_files().unwrap() <= 256);
    // The log and the connections to Kafka find theirs all the same.
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(8)).await;
    assert!(acknowledged > 2000, "{acknowledged} acknowledged while files are short");
    assert_eq!(scene.broker.lock().http_get("/healthz").unwrap().0, 200);
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    scene.end("F25 256 files, 400 more clients, Kafka away (10 s)", devices, Duplicates::None).await;
    drop(crowd);
}

/// A control group of version 1 for one broker, which needs root.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, limits: &[(&str, &str)]) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/{controller}/tidegate-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        limits.iter().all(|(name, value)| fs::write(group.0.join(name), value).is_ok()).then_some(group)
    }

    /// What a broker has to run under to be in it.
    fn under(&self) -> Vec<String> {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only an empty group can be removed: whoever was in it is killed by now, but for a failed test.
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_out_of_memory() {
    let Some(group) = Group::new("memory", &[("memory.limit_in_bytes", "268435456")]) else {
        eprintln!("not run: F26, there is no control group of version 1 for memory here");
        return;
    };
    // The default profile, which would take 256 MiB for Kafka's records alone.
    let mut stage = Stage { under: group.under(), ..Stage::default() };
    stage.config.kafka.clear();
    let mut scene = Scene::new(stage).await;
    let silent = silent_subscribers(&scene, 10).await;
    let devices =
        scene.devices(Fleet { interval: Duration::from_millis(5), window: 100, ..Fleet::default() });
    sleep(Duration::from_secs(2)).await;
    scene.kafka(|kafka| kafka.freeze().unwrap()).await;
    let acknowledged = scene.acknowledged_in(Duration::from_secs(20)).await;
    assert!(acknowledged > 2000, "{acknowledged} acknowledged");
    scene.kafka(|kafka| kafka.thaw().unwrap()).await;
    assert_eq!(scene.broker.lock().ended().unwrap(), None, "it was killed: {}", group.read("memory.failcnt"));
    scene.end("F26 256 MiB, Kafka frozen, 10 stuck subscribers (20 s)", devices, Duplicates::None).await;
    drop(silent);
}

/// Clients that subscribe to everything and read nothing.
async fn silent_subscribers(scene: &Scene, count: u16) -> Vec<Peer<TcpStream>> {
    let address = scene.broker.lock().mqtt();
    let mut peers = Vec::new();
    for number in 0..count {
        let mut peer = Peer::dial(address, Version::V3_1_1).await.unwrap();
        peer.join(&format!("stuck-{number}")).await.unwrap();
        peer.subscribe(1, "t/#", QoS::AtLeastOnce).await.unwrap();
        peers.push(peer);
    }
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_too_little_processor_time() {
    let quota = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "10000")];
    let Some(group) = Group::new("cpu", &quota) else {
        eprintln!("not run: F27, there is no control group of version 1 for the processor here");
        return;
    };
    let mut scene = Scene::new(Stage { under: group.under(), ..Stage::default() }).await;
    let keep_alive = Duration::from_secs(5);
    // Those that have to send a ping now and then, and more load than a tenth of a processor can take.
    let quiet = Fleet { name: "quiet", interval: Duration::from_secs(12), keep_alive, ..Fleet::default() };
    let loud = Fleet { interval: Duration::from_millis(5), keep_alive, reconnects: true, ..Fleet::default() };
    let quiet = scene.devices(Fleet { reconnects: true, ..quiet });
    let devices = scene.devices(loud);
    sleep(Duration::from_secs(30)).await;
    assert_eq!((quiet.broken(), devices.broken()), (0, 0), "nobody was taken for dead");
    quiet.finish(DRAIN_LIMIT).await;
    scene.end("F27 a tenth of a processor (30 s)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_a_rule_that_is_a_thousand_times_slower() {
    let mut stage = Stage::default();
    // Of its own it would end after a million steps; the other rule has about twenty.
    stage.config.sections = r#"
[rule_engine]
max_steps = 20000

[[rules]]
id = "poison"
sql = """SELECT jq('[range(10000000)] | length', payload) AS n FROM "t/poison/#" """

[[rules.outputs]]
kafka = "main"
topic = "telemetry"
"#
    .to_owned();
    let mut scene = Scene::new(stage).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(3)).await;
    let without = scene.acknowledged_in(Duration::from_secs(8)).await;
    let address = scene.broker.lock().mqtt();
    let poison =
        Fleet { name: "poison/x", devices: 2, interval: Duration::from_millis(200), ..Fleet::default() };
    let poison = poison.start(address, &scene.ledger);
    sleep(Duration::from_secs(1)).await;
    let with = scene.acknowledged_in(Duration::from_secs(8)).await;
    assert!(with * 10 >= without * 9, "{with} with the slow rule, {without} without");
    poison.finish(DRAIN_LIMIT).await;
    assert!(scene.metric("tidegate_rule_failed_total") > 0.0, "the rule ends at its limit of steps");
    scene.end("F30 a rule of 20,000 steps beside one of twenty", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_rules_that_change_every_second() {
    const RELOADS: usize = 20;
    let mut scene = Scene::new(Stage::default()).await;
    let devices = scene.devices(Fleet { interval: Duration::from_millis(10), ..Fleet::default() });
    let says = |scene: &Scene, text: &str| {
        scene.broker.lock().output().iter().filter(|line| line.contains(text)).count()
    };
    let (with, without) = ("WHERE qos > 0 AND qos < 3'", "WHERE qos > 0'");
    for reload in 0..RELOADS {
        let (old, new) = if reload % 2 == 0 { (without, with) } else { (with, without) };
        scene.broker.lock().reload(|text| text.replace(old, new)).unwrap();
        scene
            .until("the rules are read again", NOTICE, |scene| {
                says(scene, "the rules were read again") > reload
            })
            .await;
        sleep(Duration::from_secs(1)).await;
    }
    // One that is wrong changes nothing.
    scene.broker.lock().reload(|text| text.replace("WHERE", "WHRE")).unwrap();
    scene.until("it is refused", NOTICE, |scene| says(scene, "the configuration was not taken") == 1).await;
    scene.end(&format!("F31 rules changed {RELOADS} times in {RELOADS} s"), devices, Duplicates::None).await;
}
