//! What both sides show each other runs out or is replaced.

use std::time::Duration;

use tidegate_testkit::certificates::Authority;
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::folder::Folder;
use tidegate_testkit::kafka_tls::KafkaTls;
use tokio::time::sleep;

use crate::scene::{Duplicates, NOTICE, Prepare, Scene, Stage};

/// How long the broker may take to come back by itself once its files are right: it looks at them every second, and waits
/// as long between two attempts.
const RETURN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_certificates_of_both_sides_run_out_and_change() {
    let [old, new] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let tls = KafkaTls::new(Folder::new().unwrap(), &old).unwrap();
    let prepare: Prepare = Box::new(|kafka| Some(kafka.listener("TLS").unwrap()));
    let mut stage = Stage { kafka: tls.listener(), prepare: Some(prepare), ..Stage::default() };
    stage.config.sections = tls.section("main");
    let mut scene = Scene::new(stage).await;
    let process = scene.broker.lock().pid();
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    assert!(scene.metric("tidegate_sink_records_delivered_total") > 0.0);

    // Kafka's own runs out.
    tls.kafka_shows(&old.sign_expired("127.0.0.1").unwrap()).unwrap();
    scene.kafka_reads_its_files().await;
    scene.noticed("the certificate expired on 2021-02-03", NOTICE).await;
    // Its new one is of another authority, which the broker is told to trust.
    tls.kafka_shows(&new.sign("127.0.0.1").unwrap()).unwrap();
    scene.kafka_reads_its_files().await;
    scene.noticed("the node's certificate is refused", NOTICE).await;
    tls.broker_trusts(&new).unwrap();
    scene.delivers_again().await;
    // Kafka trusts this authority alone, which has to sign the broker's too.
    tls.kafka_trusts(&new).unwrap();
    scene.kafka_reads_its_files().await;
    scene.noticed("does it want a client certificate, or another one?", NOTICE).await;
    tls.broker_shows(&new.sign("tidegate").unwrap()).unwrap();
    scene.delivers_again().await;
    assert_eq!(scene.broker.lock().pid(), process, "without a restart");
    scene
        .end(
            "F23 Kafka's certificate runs out, both sides change theirs and whom they trust",
            devices,
            Duplicates::None,
        )
        .await;
}

impl Scene {
    async fn kafka_reads_its_files(&self) {
        self.kafka(|kafka| {
            kafka.kill().unwrap();
            kafka.restart().unwrap();
        })
        .await;
    }

    async fn delivers_again(&self) {
        let before = self.count("tidegate_sink_records_delivered_total");
        self.until("it delivers again", RETURN, |scene| {
            scene.metric("tidegate_sink_up") > 0.5
                && scene.count("tidegate_sink_records_delivered_total") > before
        })
        .await;
    }
}
