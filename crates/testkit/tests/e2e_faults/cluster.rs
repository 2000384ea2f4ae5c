//! A cluster of three nodes of which some are away.

use std::sync::Arc;
use std::time::Duration;

use tidegate_testkit::blocking;
use tidegate_testkit::devices::Fleet;
use tokio::time::sleep;

use crate::scene::{Duplicates, Scene, Stage};

impl Scene {
    async fn node(
        &self,
        place: usize,
        work: impl FnOnce(&tidegate_testkit::kafka::RealKafka) + Send + 'static,
    ) {
        let nodes = Arc::clone(&self.nodes);
        blocking(move || work(&nodes[place])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_leaders_change() {
    let stage = Stage {
        more_nodes: vec![2, 3],
        placed: Some("2:3:1,3:2:1,1:2:3,2:1:3,3:1:2,1:3:2"),
        topic: &["min.insync.replicas=2"],
        ..Stage::default()
    };
    let mut scene = Scene::new(stage).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(3)).await;
    for round in 0..4 {
        // Its partitions are led by others when it is away, and by itself again afterwards.
        scene.node(1 + round % 2, |node| node.kill().unwrap()).await;
        sleep(Duration::from_secs(4)).await;
        scene.node(1 + round % 2, |node| node.restart().unwrap()).await;
        sleep(Duration::from_secs(2)).await;
        scene
            .kafka(|kafka| {
                let election = "org.apache.kafka.tools.LeaderElectionCommand";
                // A replica that is not in sync yet is not elected, and the next time it is.
                drop(kafka.tool(election, &["--election-type", "preferred", "--all-topic-partitions"]));
            })
            .await;
    }
    scene.end("F4 leaders change (4 nodes killed)", devices, Duplicates::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_one_partition_below_its_minimum_of_replicas() {
    let stage = Stage {
        more_nodes: vec![2, 3],
        placed: Some("2:3,1:2,2:1,1:2"),
        topic: &["min.insync.replicas=2"],
        ..Stage::default()
    };
    let mut scene = Scene::new(stage).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(3)).await;
    scene.node(2, |node| node.kill().unwrap()).await;
    scene
        .until("partition 0 waits", Duration::from_secs(20), |scene| {
            scene.broker.lock().output().iter().any(|line| line.contains("NotEnoughReplicas"))
        })
        .await;
    let (sent, delivered) = (scene.ledger.sent_count(), scene.count("tidegate_sink_records_delivered_total"));
    sleep(Duration::from_secs(10)).await;
    let sent = scene.ledger.sent_count() - sent;
    let delivered = scene.count("tidegate_sink_records_delivered_total") - delivered;
    // Of the four partitions three are served; the keys are not spread evenly.
    assert!(delivered > sent / 2 && delivered < sent, "{delivered} of {sent} delivered meanwhile");
    scene.node(2, |node| node.restart().unwrap()).await;
    scene
        .end("F5 one partition of four below its minimum of replicas (10 s)", devices, Duplicates::None)
        .await;
}
