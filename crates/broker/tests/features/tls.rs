//! Listeners with certificates.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use tidegate_broker::{Config, Listener, Tls, TlsError, TlsOptions, WebSocket, WebSocketOptions};
use tidegate_codec::{Connect, Packet, QoS, Version};
use tidegate_testkit::certificates::{Authority, Identity};
use tidegate_testkit::folder::Folder;
use tidegate_testkit::mqtt::Peer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::served::{A_WHILE, InMemory, Served, in_memory, publish, receive};

/// Long enough for new files to be seen.
const SEEN: Duration = Duration::from_secs(3);

type Client = Peer<TlsStream<DuplexStream>>;

/// A broker with a TLS listener over streams in memory.
struct Secure {
    served: Served,
    dial: mpsc::Sender<DuplexStream>,
    files: Folder,
}

impl Secure {
    fn start(authority: &Authority, change: impl FnOnce(&Folder, &mut TlsOptions)) -> Self {
        Self::below(authority, change, |tls| tls)
    }

    /// With another listener around it.
    fn below<L: Listener>(
        authority: &Authority,
        change: impl FnOnce(&Folder, &mut TlsOptions),
        around: impl FnOnce(Tls<InMemory>) -> L,
    ) -> Self {
        let files = Folder::new().unwrap();
        show(&files, &authority.sign("broker.test").unwrap());
        let mut options = TlsOptions::new(files.path("own.pem"), files.path("own.key"));
        change(&files, &mut options);
        let served = Served::start(|_| {});
        let (dial, listener) = in_memory();
        let (broker, listener) = (served.broker.clone(), around(Tls::over(listener, options).unwrap()));
        tokio::spawn(async move { broker.serve(listener).await });
        Self { served, dial, files }
    }

    async fn dial(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.dial.send(theirs).await.unwrap();
        ours
    }

    /// Shakes hands as a client that trusts this authority and shows this certificate.
    async fn shake(&self, trusted: &Authority, own: Option<&Identity>) -> io::Result<Client> {
        let name = ServerName::try_from("broker.test").unwrap();
        let stream = trusted.client(own).unwrap().connect(name, self.dial().await).await?;
        Ok(Peer::new(stream, Version::V5))
    }
}

fn show(files: &Folder, identity: &Identity) {
    files.write("own.pem", &identity.certificate).unwrap();
    files.write("own.key", &identity.key).unwrap();
}

#[tokio::test(start_paused = true)]
async fn mqtt_goes_both_ways_inside_tls_with_a_broker_that_the_client_trusts() {
    let [ours, others] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let secure = Secure::start(&ours, |_, _| {});
    assert!(secure.shake(&others, None).await.is_err());
    let mut client = secure.shake(&ours, None).await.unwrap();
    client.join("c").await.unwrap();
    client.subscribe(1, "t", QoS::AtMostOnce).await.unwrap();
    // More than a record of TLS and the stream below hold.
    let payload = vec![7; 300_000];
    let mut plain = secure.served.join(Version::V5, "p").await;
    publish(&mut plain, "t", &payload, false).await;
    assert_eq!(client.expect_publish().await.unwrap().payload, payload);
    plain.subscribe(1, "back", QoS::AtMostOnce).await.unwrap();
    client.publish(0, "back", &payload).await.unwrap();
    assert_eq!(receive(&mut plain).await.1, payload);
    drop((client, plain));
    secure.served.settled(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_websocket_goes_through_tls() {
    let ours = Authority::new().unwrap();
    let secure = Secure::below(&ours, |_, _| {}, |tls| WebSocket::over(tls, WebSocketOptions::default()));
    let stream = secure.shake(&ours, None).await.unwrap().into_stream();
    let mut request = "ws://broker.test/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let mut connect = Vec::new();
    Packet::Connect(Box::new(Connect::new(Version::V3_1_1, "c")))
        .encode(Version::V3_1_1, &mut connect)
        .unwrap();
    socket.send(Message::Binary(connect.into())).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert_eq!(answer, Message::Binary(vec![0x20, 2, 0, 0].into()));
}

#[tokio::test(start_paused = true)]
async fn where_clients_need_a_certificate_nobody_gets_in_without_one_of_that_authority() {
    let [ours, clients, others] = std::array::from_fn(|_| Authority::new().unwrap());
    let secure = Secure::start(&ours, |files, options| {
        files.write("clients.pem", clients.pem()).unwrap();
        options.client_ca_file = Some(files.path("clients.pem"));
    });
    let right = clients.sign("device").unwrap();
    secure.shake(&ours, Some(&right)).await.unwrap().join("c").await.unwrap();
    for own in [None, Some(others.sign("device").unwrap()), Some(clients.sign_expired("device").unwrap())] {
        // In TLS 1.3 a client is through before the server has looked at its certificate.
        let refused = match secure.shake(&ours, own.as_ref()).await {
            Ok(mut client) => client.join("c").await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{own:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn f24_new_files_hold_for_new_handshakes_and_leave_connections_alone() {
    let [old, new] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let secure = Secure::start(&old, |_, _| {});
    let mut before = secure.shake(&old, None).await.unwrap();
    before.join("before").await.unwrap();

    // Half a change: the certificate does not go with the key, and the old ones stay.
    let identity = new.sign("broker.test").unwrap();
    secure.files.write("own.pem", &identity.certificate).unwrap();
    tokio::time::sleep(SEEN).await;
    secure.shake(&old, None).await.unwrap().join("between").await.unwrap();
    show(&secure.files, &identity);
    tokio::time::sleep(SEEN).await;
    assert!(secure.shake(&old, None).await.is_err());
    let mut after = secure.shake(&new, None).await.unwrap();
    after.join("after").await.unwrap();

    for contents in ["", "-----BEGIN CERTIFICATE-----\nAAAA"] {
        secure.files.write("own.pem", contents).unwrap();
        tokio::time::sleep(SEEN).await;
        secure.shake(&new, None).await.unwrap().join("later").await.unwrap();
    }
    before.ping().await.unwrap();
    after.ping().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_shake_hands_takes_a_place_for_a_while_and_no_more() {
    let ours = Authority::new().unwrap();
    let secure = Secure::start(&ours, |_, options| options.max_handshakes = 2);
    let silent = [secure.dial().await, secure.dial().await];
    let waiting = secure.shake(&ours, None);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(A_WHILE, &mut waiting).await.is_err(), "both places are taken");
    tokio::time::sleep(Config::default().connect_timeout).await;
    waiting.await.unwrap().join("c").await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let [ours, others] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let files = Folder::new().unwrap();
    let identity = ours.sign("broker.test").unwrap();
    let other = others.sign("broker.test").unwrap();
    let cases = [
        ("own.pem", None, "certificate_file", "No such file"),
        ("own.pem", Some("text"), "certificate_file", "no certificate in PEM"),
        ("own.key", Some("text"), "key_file", "no private key in PEM"),
        ("own.key", Some(other.key.as_str()), "key_file", "does not go with"),
        ("clients.pem", Some(""), "client_ca_file", "no certificate in PEM"),
    ];
    for (file, contents, setting, reason) in cases {
        show(&files, &identity);
        files.write("clients.pem", ours.pem()).unwrap();
        let mut options = TlsOptions::new(files.path("own.pem"), files.path("own.key"));
        options.client_ca_file = Some(files.path("clients.pem"));
        match contents {
            Some(contents) => files.write(file, contents).unwrap(),
            None => std::fs::remove_file(files.path(file)).unwrap(),
        }
        let (_, listener) = in_memory();
        let error: TlsError = Tls::over(listener, options).unwrap_err();
        assert_eq!((error.setting, &error.path), (setting, &files.path(file)));
        assert!(error.to_string().contains(reason), "{error}");
    }
}
