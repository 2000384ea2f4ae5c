//! TLS: whom we trust, who we are, and files that change while records flow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use support::{Stream, config, start, until};
use tidegate_kafka::{Config, Connect, Connecting, Producer, State, Tls, TlsConfig, TlsIdentity};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::Outcome;
use tidegate_testkit::certificates::{Authority, Identity};
use tidegate_testkit::folder::Folder;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    roots
}

/// What speaks TLS before a server that does not.
struct Front {
    port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Front {
    async fn new(kafka: &MiniKafka, identity: &Identity, clients: Option<&Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(Mutex::new(server(identity, clients)));
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let (current, running) = (Arc::clone(&config), Arc::clone(&connections));
        let behind = kafka.addr(1).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(Arc::clone(&current.lock()));
                running.lock().spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Ok(mut behind) = TcpStream::connect(behind).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { port, config, connections }
    }

    /// Shows another certificate from now on, and ends all connections.
    fn change(&self, identity: &Identity, clients: Option<&Authority>) {
        *self.config.lock() = server(identity, clients);
        self.connections.lock().abort_all();
    }
}

fn server(identity: &Identity, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let roots = Arc::new(roots(authority));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// Every node is behind the same front, whatever port it advertises.
#[derive(Debug)]
struct Via {
    tls: Tls,
    port: u16,
}

impl Connect for Via {
    fn connect<'a>(&'a self, host: &'a str, _: u16) -> Connecting<'a> {
        self.tls.connect(host, self.port)
    }

    fn problem(&self) -> Option<String> {
        self.tls.problem()
    }
}

fn write_identity(folder: &Folder, identity: &Identity) {
    folder.write("own.pem", &identity.certificate).unwrap();
    folder.write("own.key", &identity.key).unwrap();
}

/// What the files in the folder say.
fn settings(folder: &Folder) -> TlsConfig {
    let identity = TlsIdentity { certificate_file: folder.path("own.pem"), key_file: folder.path("own.key") };
    let identity = Path::exists(&identity.key_file).then_some(identity);
    TlsConfig { ca_file: Some(folder.path("ca.pem")), identity, server_name: None }
}

fn start_producer(kafka: &MiniKafka, front: &Front, tls: TlsConfig) -> Producer {
    let connect = Via { tls: Tls::new(tls).unwrap(), port: front.port };
    start(Config { connect: Arc::new(connect), ..config(&kafka.bootstrap()) })
}

async fn kafka() -> MiniKafka {
    let kafka = MiniKafka::builder().start().await.unwrap();
    kafka.create_topic("t", 2).unwrap();
    kafka
}

/// Waits until the state gives this reason; it stays the same from attempt to attempt.
async fn waits_because(producer: &Producer, reason: &str) {
    let holds = || matches!(producer.status().state, State::Waiting(why) if why.contains(reason));
    until(&format!("{reason}: {:?}", producer.status().problems), holds).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(holds(), "{:?}", producer.status());
}

async fn delivers(producer: &Producer, stream: &mut Stream, kafka: &MiniKafka) {
    stream.offer(producer, 100).await;
    stream.settled(producer).await;
    assert_eq!((stream.told.ended(Outcome::Delivered) as u64, stream.check(kafka)), (stream.offered, 0));
}

#[tokio::test]
async fn records_reach_a_node_whose_certificate_our_authority_signed_and_no_other() {
    let (kafka, ours, others) = (kafka().await, Authority::new().unwrap(), Authority::new().unwrap());
    let front = Front::new(&kafka, &ours.sign("127.0.0.1").unwrap(), None).await;
    let folder = Folder::new().unwrap();
    folder.write("ca.pem", ours.pem()).unwrap();
    let producer = start_producer(&kafka, &front, settings(&folder));
    let mut stream = Stream::new("t");
    delivers(&producer, &mut stream, &kafka).await;

    folder.write("other.pem", others.pem()).unwrap();
    let tls = TlsConfig { ca_file: Some(folder.path("other.pem")), ..settings(&folder) };
    waits_because(&start_producer(&kafka, &front, tls), "certificate is refused").await;
    let tls = TlsConfig { server_name: Some("kafka.example".to_owned()), ..settings(&folder) };
    waits_because(&start_producer(&kafka, &front, tls.clone()), "kafka.example").await;

    front.change(&ours.sign("kafka.example").unwrap(), None);
    delivers(&start_producer(&kafka, &front, tls), &mut stream, &kafka).await;
}

#[tokio::test]
async fn a_port_without_tls_is_named_as_what_it_is() {
    let (kafka, ours, folder) = (kafka().await, Authority::new().unwrap(), Folder::new().unwrap());
    folder.write("ca.pem", ours.pem()).unwrap();
    let tls = Tls::new(settings(&folder)).unwrap();
    let producer = start(Config { connect: Arc::new(tls), ..config(&kafka.bootstrap()) });
    waits_because(&producer, "does this port speak TLS").await;
}

#[tokio::test]
async fn f23_an_authority_that_changes_is_taken_from_the_file_and_nothing_is_lost() {
    let (kafka, old, new) = (kafka().await, Authority::new().unwrap(), Authority::new().unwrap());
    let front = Front::new(&kafka, &old.sign("127.0.0.1").unwrap(), None).await;
    let folder = Folder::new().unwrap();
    folder.write("ca.pem", old.pem()).unwrap();
    let producer = start_producer(&kafka, &front, settings(&folder));
    let mut stream = Stream::new("t");
    delivers(&producer, &mut stream, &kafka).await;

    front.change(&new.sign("127.0.0.1").unwrap(), None);
    stream.offer(&producer, 100).await;
    waits_because(&producer, "certificate is refused").await;
    // Half a change: the file is not what it should be, and the old one stays.
    folder.write("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    until("a file that can't be used is named", || {
        producer.status().warnings.iter().any(|(_, what)| what.contains("ca_file") && what.contains("ca.pem"))
    })
    .await;
    folder.write("ca.pem", new.pem()).unwrap();
    delivers(&producer, &mut stream, &kafka).await;
    assert_eq!(producer.status().warnings.iter().find(|(part, _)| part == "connections"), None);
}

#[tokio::test]
async fn f23_a_client_certificate_is_renewed_by_replacing_its_files() {
    let (kafka, servers, clients) = (kafka().await, Authority::new().unwrap(), Authority::new().unwrap());
    let node = servers.sign("127.0.0.1").unwrap();
    let front = Front::new(&kafka, &node, Some(&clients)).await;
    let folder = Folder::new().unwrap();
    folder.write("ca.pem", servers.pem()).unwrap();
    write_identity(&folder, &clients.sign("tidegate").unwrap());
    let producer = start_producer(&kafka, &front, settings(&folder));
    let mut stream = Stream::new("t");
    delivers(&producer, &mut stream, &kafka).await;

    // The authority of clients changes; the certificate before the key, so that they do not fit for a moment.
    let renewed = Authority::new().unwrap();
    front.change(&node, Some(&renewed));
    stream.offer(&producer, 100).await;
    waits_because(&producer, "does it want a client certificate, or another one?").await;
    let identity = renewed.sign("tidegate").unwrap();
    folder.write("own.pem", &identity.certificate).unwrap();
    until("a key that does not fit is named", || {
        producer.status().warnings.iter().any(|(_, what)| what.contains("key_file"))
    })
    .await;
    folder.write("own.key", &identity.key).unwrap();
    delivers(&producer, &mut stream, &kafka).await;
}

#[tokio::test]
async fn f23_an_expired_certificate_is_named_with_its_date_on_either_side() {
    let (kafka, authority) = (kafka().await, Authority::new().unwrap());
    let node = authority.sign("127.0.0.1").unwrap();
    let front = Front::new(&kafka, &node, Some(&authority)).await;
    let folder = Folder::new().unwrap();
    folder.write("ca.pem", authority.pem()).unwrap();
    write_identity(&folder, &authority.sign_expired("tidegate").unwrap());
    let producer = start_producer(&kafka, &front, settings(&folder));
    let mut stream = Stream::new("t");
    stream.offer(&producer, 100).await;
    waits_because(&producer, "own.pem: the certificate expired on 2021-02-03").await;
    write_identity(&folder, &authority.sign("tidegate").unwrap());
    delivers(&producer, &mut stream, &kafka).await;

    front.change(&authority.sign_expired("127.0.0.1").unwrap(), Some(&authority));
    stream.offer(&producer, 100).await;
    waits_because(&producer, "the certificate expired on 2021-02-03T00:00:00Z (that of the node)").await;
    front.change(&node, Some(&authority));
    delivers(&producer, &mut stream, &kafka).await;
}
