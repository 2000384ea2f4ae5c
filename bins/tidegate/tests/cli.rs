//! What somebody at a terminal gets: a first run that works, and errors that say what to do.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tidegate_codec::{Auth, Connect, Packet, PacketType, ReasonCode, Version};
use tidegate_testkit::mqtt::Peer;
use tidegate_testkit::process::{Launch, Tidegate, free_address};
use tidegate_testkit::scram::ScramClient;
use tokio::net::TcpStream;

fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_tidegate").into()
}

/// Runs it to its end, or for as long as nothing here should take.
fn tidegate(args: &[&str]) -> Output {
    Command::new("timeout").arg("30").arg(binary()).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder for one test, which the system's cleaner takes if the test does not.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tidegate-cli-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn config(folder: &Path, toml: &str) -> String {
    let path = folder.join("tidegate.toml");
    std::fs::write(&path, toml).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A broker with the embedded log, as a first run has it but for the ports.
fn first_run() -> (Tidegate, String) {
    let log = free_address().unwrap().to_string();
    let toml = format!("[embedded_log]\nbind = \"{log}\"\n");
    (Launch::new(toml).binary(binary()).start().unwrap(), log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_run_carries_a_message_to_its_own_log_and_tail_shows_it() {
    let (mut broker, log) = first_run();
    let mut peer = Peer::dial(broker.mqtt(), Version::V3_1_1).await.unwrap();
    peer.join("device").await.unwrap();
    peer.publish(1, "sensors/room1", br#"{"temperature": 21.5}"#).await.unwrap();
    assert_eq!(peer.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
    let shown = tidegate(&["tail", "mqtt", "--kafka", &log, "--from-beginning", "-n", "1"]);
    let line = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(line.contains(r#" device {"temperature": 21.5}"#), "{line}");

    let (status, metrics) = broker.http_get("/metrics").unwrap();
    assert_eq!(status, 200);
    for wanted in [
        "tidegate_messages_received_total{qos=\"1\"} 1",
        "tidegate_messages_acknowledged_total 1",
        "tidegate_rule_passed_total{rule=\"everything\"} 1",
        "tidegate_sink_records_delivered_total{sink=\"embedded\"} 1",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in\n{metrics}");
    }
    assert_eq!(broker.http_get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    let ended = broker.terminate(Duration::from_secs(20)).unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_sigkill_of_a_first_run() {
    let (mut broker, log) = first_run();
    let mut peer = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
    peer.join("device").await.unwrap();
    for id in 1..=20 {
        peer.publish(id, "a", format!("message {id}").as_bytes()).await.unwrap();
        assert_eq!(peer.expect_ack(PacketType::PubAck, id).await.unwrap(), ReasonCode::Success);
    }
    broker.kill().unwrap();
    broker.restart().unwrap();
    let shown = tidegate(&["tail", "mqtt", "--kafka", &log, "--from-beginning", "-n", "20"]);
    let lines = String::from_utf8_lossy(&shown.stdout).into_owned();
    let values: Vec<_> = lines.lines().map(|line| line.split_once("message ").unwrap().1).collect();
    let expected: Vec<_> = (1..=20).map(|id| id.to_string()).collect();
    assert_eq!(values, expected);
}

#[test]
fn check_compiles_every_rule_and_opens_no_port() {
    let folder = folder("check");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = config(
        &folder,
        &format!(
            "[listeners.tcp]\nbind = \"{}\"\n[kafka.main]\nbootstrap = [\"nowhere:9092\"]\n",
            taken.local_addr().unwrap()
        ),
    );
    let output = tidegate(&["check", "--config", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("everything -> main:mqtt"));
}

#[test]
fn a_wrong_rule_is_explained_at_its_place_with_exit_code_2() {
    let folder = folder("rule");
    let path = config(
        &folder,
        "[[rules]]\nid = \"warm\"\nsql = 'SELECT uper(topic) FROM \"a\"'\noutputs = [{ topic = \"x\", kafka = \"mian\" }]\n",
    );
    let output = tidegate(&["check", "--config", &path]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for wanted in ["rules.warm.sql:1:8", "^^^^", "`upper`", "[kafka.mian]", "embedded"] {
        assert!(said.contains(wanted), "{wanted} in\n{said}");
    }
}

#[test]
fn an_unknown_key_and_a_missing_file_end_with_exit_code_2() {
    let folder = folder("key");
    let path = config(&folder, "[htp]\nbind = \"127.0.0.1:1\"\n");
    let output = tidegate(&["run", "--config", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean `http`?"), "{}", stderr(&output));
    let output = tidegate(&["--config", "no-such-file.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no-such-file.toml"), "{}", stderr(&output));
}

#[test]
fn durable_is_the_default_and_an_unknown_ack_is_answered_with_those_that_there_are() {
    let folder = folder("durable");
    let rule = |ack: &str| {
        format!("[[rules]]\nid = \"r\"\nsql = 'SELECT * FROM \"a\"'\n{ack}outputs = [{{ topic = \"x\" }}]\n")
    };
    for ack in ["", "ack = \"durable\"\n", "ack = \"kafka\"\n", "ack = \"received\"\n"] {
        let path = config(&folder, &rule(ack));
        let output = tidegate(&["check", "--config", &path]);
        assert_eq!(output.status.code(), Some(0), "{ack}: {}", stderr(&output));
    }
    let path = config(&folder, &rule("ack = \"sometimes\"\n"));
    let output = tidegate(&["check", "--config", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("durable, kafka, received"), "{}", stderr(&output));
}

#[test]
fn a_spill_log_that_another_process_uses_is_named() {
    let folder = folder("spill-in-use");
    let spill = folder.join("spill");
    std::fs::create_dir_all(&spill).unwrap();
    let lock = std::fs::File::create(spill.join("lock")).unwrap();
    lock.try_lock().unwrap();
    let [mqtt, http] = [free_address().unwrap(), free_address().unwrap()].map(|address| address.to_string());
    let path = config(
        &folder,
        &format!(
            "[listeners.tcp]\nbind = \"{mqtt}\"\n[http]\nbind = \"{http}\"\n\
             [kafka.main]\nbootstrap = [\"127.0.0.1:1\"]\nspill = {{ directory = {spill:?} }}\n"
        ),
    );
    let output = Command::new(binary()).current_dir(&folder).args(["--config", &path]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("kafka.main.spill.directory") && said.contains("another process"), "{said}");
}

#[test]
fn a_taken_port_ends_with_exit_code_1_and_says_which() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let [free, other] = [free_address().unwrap(), free_address().unwrap()].map(|address| address.to_string());
    let run = |mqtt: &str, http: &str, log: &str| {
        Command::new(binary())
            .current_dir(folder("taken"))
            .env("TIDEGATE_LISTENERS__TCP__BIND", mqtt)
            .env("TIDEGATE_HTTP__BIND", http)
            .env("TIDEGATE_EMBEDDED_LOG__BIND", log)
            .output()
            .unwrap()
    };
    for (output, key) in [
        (run(&address, &free, &other), "listeners.tcp.bind"),
        (run(&free, &address, &other), "http.bind"),
        (run(&free, &other, &address), "embedded_log.bind"),
    ] {
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(key) && said.contains(&address), "{said}");
    }
    let said = stderr(&run(&free, &other, &address));
    assert!(said.contains(&format!("tidegate --kafka {address}")), "the line that uses it: {said}");
}

/// Runs it with a password on its standard input.
fn passwd(file: &str, args: &[&str], password: &str) -> Output {
    let mut child = Command::new("timeout")
        .args(["60", binary().to_str().unwrap(), "passwd", "--scram", file])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_made_by_passwd_lets_its_users_in_and_nobody_else() {
    let folder = folder("passwd");
    let path = folder.join("scram");
    let file = path.to_str().unwrap();
    for (user, password, said) in
        [("alice", "wrong\n", "added"), ("bob", "secret\n", "added"), ("alice", "pencil\n", "changed")]
    {
        let output = passwd(file, &[user], password);
        assert!(String::from_utf8_lossy(&output.stdout).contains(said), "{}", stderr(&output));
    }
    assert!(passwd(file, &["--delete", "bob"], "").status.success());
    assert_eq!(passwd(file, &["--delete", "bob"], "").status.code(), Some(2));
    assert!(stderr(&passwd(file, &["carol"], "")).contains("the password is empty"));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("secret=") && !text.contains("bob") && !text.contains("pencil"), "{text}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let log = free_address().unwrap();
    let toml = format!("[authentication.scram]\nfile = \"{file}\"\n[embedded_log]\nbind = \"{log}\"\n");
    let broker = Launch::new(toml).binary(binary()).start().unwrap();
    for (user, expected) in
        [("alice", ReasonCode::Success), ("bob", ReasonCode::NotAuthorized), ("", ReasonCode::NotAuthorized)]
    {
        let mut peer = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
        assert_eq!(log_in(&mut peer, user, "pencil").await, expected, "{user}");
    }
}

/// Connects with SCRAM-SHA-256, or without if there is no user, and returns what CONNACK says.
async fn log_in(peer: &mut Peer<TcpStream>, user: &str, password: &str) -> ReasonCode {
    let (mut scram, first) = ScramClient::new(user, password);
    let mut connect = Connect::new(Version::V5, "device");
    if !user.is_empty() {
        connect.properties.authentication_method = Some("SCRAM-SHA-256");
        connect.properties.authentication_data = Some(first.as_bytes());
    }
    peer.send(&Packet::Connect(Box::new(connect))).await.unwrap();
    loop {
        let proof = match peer.receive().await.unwrap() {
            Packet::ConnAck(connack) => return connack.reason,
            Packet::Auth(auth) => {
                scram.prove(std::str::from_utf8(auth.authentication_data.unwrap()).unwrap())
            }
            packet => panic!("{packet:?}"),
        };
        let mut auth = Auth::new(ReasonCode::ContinueAuthentication);
        auth.authentication_method = Some("SCRAM-SHA-256");
        auth.authentication_data = Some(proof.as_bytes());
        peer.send(&Packet::Auth(Box::new(auth))).await.unwrap();
    }
}

#[test]
fn a_file_of_credentials_that_is_wrong_is_told_before_a_port_is_opened() {
    let folder = folder("scram");
    let path = folder.join("scram");
    let toml = config(&folder, &format!("[authentication.scram]\nfile = \"{}\"\n", path.display()));
    let output = tidegate(&["check", "--config", &toml]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("authentication.scram.file") && stderr(&output).contains("tidegate passwd")
    );
    std::fs::write(&path, "secret=AAAA\n").unwrap();
    let output = tidegate(&["check", "--config", &toml]);
    assert!(stderr(&output).contains("line 1: the secret"), "{}", stderr(&output));
}

#[test]
fn check_names_what_is_wrong_with_a_source_and_the_way_out() {
    let folder = folder("sources");
    let source = |extra: &str| {
        format!(
            "[[sources]]\nid = \"in\"\ntopics = [\"t\"]\ngroup = \"g\"\nmqtt_topic = \"in/${{key}}\"\n{extra}"
        )
    };
    for (toml, place, remedy) in [
        (
            source("kafka = \"mian\"\n[kafka.main]\nbootstrap = [\"a:9092\"]\n"),
            "sources.in.kafka",
            "did you mean `main`?",
        ),
        (source("").replace("[\"t\"]", "[]"), "sources.in.topics", "at least one Kafka topic"),
        (source("").replace("\"g\"", "\"\""), "sources.in.group", "consumer group"),
        (source("").replace("${key}", "${kye}"), "sources.in.mqtt_topic", "did you mean `key`?"),
        (source("").replace("in/", "in/#/"), "sources.in.mqtt_topic", "without `+`, `#`"),
        (source("payload = \"${\"\n"), "sources.in.payload", "without a `}`"),
        (source("qos = 3\n"), "sources.0.qos", "0, 1 or 2"),
        (source("start = \"newest\"\n"), "sources.0.start", "\\\"latest\\\""),
        (source("") + &source(""), "sources.in.id", "name of its own"),
        (
            source("rules = true\n")
                + "[[rules]]\nid = \"out\"\nsql = 'SELECT * FROM \"in/#\"'\n[[rules.outputs]]\ntopic = \"t\"\n\
                   default_headers = false\n",
            "sources.in.rules",
            "rule `out` writes",
        ),
    ] {
        let output = tidegate(&["check", "--config", &config(&folder, &toml)]);
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{toml}\n{errors}");
        assert!(errors.contains(place) && errors.replace('"', "\\\"").contains(remedy), "{place}: {errors}");
    }
    let output =
        tidegate(&["check", "--config", &config(&folder, &source("start = \"2026-11-28T08:00:00Z\"\n"))]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("1 source(s)") && told.contains("embedded:t (group g) -> in/${key}"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_publishes_what_a_rule_has_written_and_goes_on_there_after_a_restart() {
    let log = free_address().unwrap().to_string();
    let toml = format!(
        "[embedded_log]\nbind = \"{log}\"\n[[rules]]\nid = \"up\"\nsql = 'SELECT * FROM \"up/#\"'\n\
         [[rules.outputs]]\ntopic = \"up\"\n[[sources]]\nid = \"down\"\ntopics = [\"up\"]\ngroup = \"down\"\n\
         mqtt_topic = \"down/${{key}}\"\n"
    );
    let mut broker = Launch::new(toml).binary(binary()).start().unwrap();
    for round in 0..2_u16 {
        let mut listener = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
        listener.set_patience(Duration::from_secs(30));
        listener.join("listener").await.unwrap();
        listener.subscribe(1, "down/#", tidegate_codec::QoS::AtLeastOnce).await.unwrap();
        let mut device = Peer::dial(broker.mqtt(), Version::V5).await.unwrap();
        device.join("device").await.unwrap();
        let payload = round.to_string();
        device.publish(1, "up/x", payload.as_bytes()).await.unwrap();
        device.expect_ack(PacketType::PubAck, 1).await.unwrap();
        let publish = listener.expect_publish().await.unwrap();
        assert_eq!((publish.topic, publish.payload), ("down/device", payload.as_bytes()));
        let properties: Vec<_> = publish.properties.user_properties.iter().collect();
        assert_eq!(properties[..2], [("kafka.key", "device"), ("mqtt.topic", "up/x")]);
        let (_, metrics) = broker.http_get("/metrics").unwrap();
        for wanted in [
            "tidegate_source_records_total{source=\"down\"} 1",
            "tidegate_source_published_total{source=\"down\"} 1",
            "tidegate_source_state{source=\"down\",state=\"reading\"} 1",
        ] {
            assert!(metrics.contains(wanted), "{wanted}: {metrics}");
        }
        // Offsets are committed when it ends, so the next life begins behind them.
        assert!(broker.terminate(Duration::from_secs(30)).unwrap().unwrap().success());
        broker.restart().unwrap();
    }
}
