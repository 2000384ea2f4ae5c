//! TLS: whom we trust, who we are, and files that change while records flow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use support::{Stream, config, start, until};
use tidegate_kafka::{Config, Connect, Connecting, Producer, State, Tls, TlsConfig, TlsIdentity};
use tidegate_minikafka::MiniKafka;
use tidegate_sink::Outcome;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Another one each time.
fn number() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// An authority, and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Signed {
    certificate: String,
    key: String,
}

#[derive(PartialEq, Eq)]
enum Time {
    Good,
    Over,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Two authorities of one name would be taken for each other.
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", number()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, time: &Time) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if *time == Time::Over {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 2, 3);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// What speaks TLS before a server that does not.
struct Front {
    port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Front {
    async fn new(kafka: &MiniKafka, identity: &Signed, clients: Option<&Authority>) -> Self {
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
    fn change(&self, identity: &Signed, clients: Option<&Authority>) {
        *self.config.lock() = server(identity, clients);
        self.connections.lock().abort_all();
    }
}

fn server(identity: &Signed, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let roots = Arc::new(authority.roots());
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

/// The files of a test, and its producer.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-tls-{}-{}", std::process::id(), number()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).unwrap();
    }

    fn write_identity(&self, identity: &Signed) {
        self.write("own.pem", &identity.certificate);
        self.write("own.key", &identity.key);
    }

    fn tls(&self) -> TlsConfig {
        let identity = TlsIdentity { certificate_file: self.path("own.pem"), key_file: self.path("own.key") };
        let identity = Path::exists(&identity.key_file).then_some(identity);
        TlsConfig { ca_file: Some(self.path("ca.pem")), identity, server_name: None }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
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
    let (kafka, ours, others) = (kafka().await, Authority::new(), Authority::new());
    let front = Front::new(&kafka, &ours.sign("127.0.0.1", &Time::Good), None).await;
    let folder = Folder::new();
    folder.write("ca.pem", &ours.pem);
    let producer = start_producer(&kafka, &front, folder.tls());
    let mut stream = Stream::new("t");
    delivers(&producer, &mut stream, &kafka).await;

    folder.write("other.pem", &others.pem);
    let tls = TlsConfig { ca_file: Some(folder.path("other.pem")), ..folder.tls() };
    waits_because(&start_producer(&kafka, &front, tls), "certificate is refused").await;
    let tls = TlsConfig { server_name: Some("kafka.example".to_owned()), ..folder.tls() };
    waits_because(&start_producer(&kafka, &front, tls.clone()), "kafka.example").await;

    front.change(&ours.sign("kafka.example", &Time::Good), None);
    delivers(&start_producer(&kafka, &front, tls), &mut stream, &kafka).await;
}

#[tokio::test]
async fn a_port_without_tls_is_named_as_what_it_is() {
    let (kafka, ours, folder) = (kafka().await, Authority::new(), Folder::new());
    folder.write("ca.pem", &ours.pem);
    let tls = Tls::new(folder.tls()).unwrap();
    let producer = start(Config { connect: Arc::new(tls), ..config(&kafka.bootstrap()) });
    waits_because(&producer, "does this port speak TLS").await;
}

#[tokio::test]
async fn f23_an_authority_that_changes_is_taken_from_the_file_and_nothing_is_lost() {
    let (kafka, old, new) = (kafka().await, Authority::new(), Authority::new());
    let front = Front::new(&kafka, &old.sign("127.0.0.1", &Time::Good), None).await;
    let folder = Folder::new();
    folder.write("ca.pem", &old.pem);
    let producer = start_producer(&kafka, &front, folder.tls());
    let mut stream = Stream::new("t");
    delivers(&producer, &mut stream, &kafka).await;

    front.change(&new.sign("127.0.0.1", &Time::Good), None);
    stream.offer(&producer, 100).await;
    waits_because(&producer, "certificate is refused").await;
    // Half a change: the file is not what it should be, and the old one stays.
    folder.write("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA");
    until("a file that can't be used is named", || {
        producer.status().warnings.iter().any(|(_, what)| what.contains("ca_file") && what.contains("ca.pem"))
    })
    .await;
    folder.write("ca.pem", &new.pem);
    delivers(&producer, &mut stream, &kafka).await;
    assert_eq!(producer.status().warnings.iter().find(|(part, _)| part == "connections"), None);
}

#[tokio::test]
async fn f23_a_client_certificate_is_renewed_by_replacing_its_files() {
    let (kafka, servers, clients) = (kafka().await, Authority::new(), Authority::new());
    let node = servers.sign("127.0.0.1", &Time::Good);
    let front = Front::new(&kafka, &node, Some(&clients)).await;
    let folder = Folder::new();
    folder.write("ca.pem", &servers.pem);
    folder.write_identity(&clients.sign("tidegate", &Time::Good));
    let producer = start_producer(&kafka, &front, folder.tls());
    let mut stream = Stream::new("t");
    delivers(&producer, &mut stream, &kafka).await;

    // The authority of clients changes; the certificate before the key, so that they do not fit for a moment.
    let renewed = Authority::new();
    front.change(&node, Some(&renewed));
    stream.offer(&producer, 100).await;
    waits_because(&producer, "does it want a client certificate, or another one?").await;
    let identity = renewed.sign("tidegate", &Time::Good);
    folder.write("own.pem", &identity.certificate);
    until("a key that does not fit is named", || {
        producer.status().warnings.iter().any(|(_, what)| what.contains("key_file"))
    })
    .await;
    folder.write("own.key", &identity.key);
    delivers(&producer, &mut stream, &kafka).await;
}

#[tokio::test]
async fn f23_an_expired_certificate_is_named_with_its_date_on_either_side() {
    let (kafka, authority) = (kafka().await, Authority::new());
    let node = authority.sign("127.0.0.1", &Time::Good);
    let front = Front::new(&kafka, &node, Some(&authority)).await;
    let folder = Folder::new();
    folder.write("ca.pem", &authority.pem);
    folder.write_identity(&authority.sign("tidegate", &Time::Over));
    let producer = start_producer(&kafka, &front, folder.tls());
    let mut stream = Stream::new("t");
    stream.offer(&producer, 100).await;
    waits_because(&producer, "own.pem: the certificate expired on 2021-02-03").await;
    folder.write_identity(&authority.sign("tidegate", &Time::Good));
    delivers(&producer, &mut stream, &kafka).await;

    front.change(&authority.sign("127.0.0.1", &Time::Over), Some(&authority));
    stream.offer(&producer, 100).await;
    waits_because(&producer, "the certificate expired on 2021-02-03T00:00:00Z (that of the node)").await;
    front.change(&node, Some(&authority));
    delivers(&producer, &mut stream, &kafka).await;
}
