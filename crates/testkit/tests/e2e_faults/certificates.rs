//! What the broker and Kafka, or the broker and its clients, show each other runs out or is replaced.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tidegate_codec::{PacketType, Version};
use tidegate_testkit::certificates::{Authority, Identity};
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::folder::Folder;
use tidegate_testkit::kafka_tls::KafkaTls;
use tidegate_testkit::ledger::{Ledger, Payload};
use tidegate_testkit::mqtt::Peer;
use tidegate_testkit::process::free_address;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::scene::{Duplicates, NOTICE, Prepare, Scene, Stage, setting};

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

    async fn says(&self, what: &str) {
        let says = |scene: &Self| scene.broker.lock().output().iter().any(|line| line.contains(what));
        self.until(what, NOTICE, says).await;
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

/// `TIDEGATE_TLS_CLIENTS` says how many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_listeners_certificate_changes_under_its_clients() {
    let count = setting("TIDEGATE_TLS_CLIENTS").unwrap_or(2000);
    let [old, new] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let files = Folder::new().unwrap();
    let show = |identity: &Identity| {
        files.write("own.pem", &identity.certificate).unwrap();
        files.write("own.key", &identity.key).unwrap();
    };
    show(&old.sign("127.0.0.1").unwrap());
    let address = free_address().unwrap();
    let mut stage = Stage::default();
    stage.config.sections = format!(
        "[listeners.tls]\nbind = \"{address}\"\ntls = {{ certificate_file = \"{}\", key_file = \"{}\" }}\n",
        files.path("own.pem").display(),
        files.path("own.key").display()
    );
    let mut scene = Scene::new(stage).await;
    // These are not encrypted.
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    let [trusts_old, trusts_new] = [&old, &new].map(|authority| authority.client(None).unwrap());
    let mut clients = JoinSet::new();
    let mut inside = Vec::new();
    for number in 0..count {
        clients.spawn(Client::connect(address, trusts_old.clone(), format!("tls-{number:05}")));
        if clients.len() == AT_ONCE {
            inside.extend(clients.join_next().await.map(|client| client.unwrap().unwrap()));
        }
    }
    inside.extend(clients.join_all().await.into_iter().map(Result::unwrap));
    publish(&mut inside, &scene.ledger).await;
    show(&new.sign("127.0.0.1").unwrap());
    scene.says("new TLS files are used").await;
    let old_is_shown = Client::connect(address, trusts_old, "late".to_owned()).await;
    assert!(old_is_shown.is_err(), "the old certificate is not shown any more");
    inside.push(Client::connect(address, trusts_new.clone(), "tls-new".to_owned()).await.unwrap());
    publish(&mut inside, &scene.ledger).await;
    files.write("own.pem", "no certificate").unwrap();
    scene.says("the new TLS files can't be used; the old ones stay").await;
    inside.push(Client::connect(address, trusts_new, "tls-newer".to_owned()).await.unwrap());
    publish(&mut inside, &scene.ledger).await;
    let fault = format!("F24 a listener's certificate changes under {count} clients with TLS");
    scene.end(&fault, devices, Duplicates::None).await;
}

/// Handshakes at once.
const AT_ONCE: usize = 50;

/// A client inside TLS.
struct Client {
    peer: Peer<TlsStream<TcpStream>>,
    name: String,
    published: u64,
}

impl Client {
    async fn connect(broker: SocketAddr, tls: TlsConnector, name: String) -> io::Result<Self> {
        let server = ServerName::IpAddress(broker.ip().into());
        let stream = tls.connect(server, TcpStream::connect(broker).await?).await?;
        let mut peer = Peer::new(stream, Version::V3_1_1);
        peer.join(&name).await.map_err(io::Error::other)?;
        Ok(Self { peer, name, published: 0 })
    }
}

/// Each sends a message and waits for its acknowledgement: who has lost its connection fails the test.
async fn publish(clients: &mut [Client], ledger: &Arc<Ledger>) {
    for Client { peer, name, published } in &mut *clients {
        ledger.sent(name, *published);
        let payload = Payload { publisher: name.clone(), seq: *published, sent_ns: 0 }.encode(1024);
        peer.publish(1, &format!("t/{name}"), &payload).await.unwrap();
    }
    for Client { peer, name, published } in clients {
        peer.expect_ack(PacketType::PubAck, 1).await.unwrap();
        ledger.acknowledged(name, *published);
        *published += 1;
    }
}
