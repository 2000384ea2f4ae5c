//! What the server promises byte by byte, asked by a client of a few lines.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test's helpers: a failure is the test's, and the numbers are small"
)]

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidegate_minikafka::{ApiKey, Builder, Effect, Error, ErrorCode, MiniKafka, On};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection that asks and waits.
struct Client(TcpStream);

impl Client {
    async fn connect(kafka: &MiniKafka) -> Self {
        Self(TcpStream::connect(kafka.addr(1).unwrap()).await.unwrap())
    }

    async fn send(&mut self, api: i16, version: i16, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_i32(body.len() as i32 + 10);
        frame.put_i16(api);
        frame.put_i16(version);
        frame.put_i32(77);
        frame.put_i16(-1);
        frame.put_slice(body);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The body of the next answer; `None` when the connection ends before it is whole.
    async fn answer(&mut self) -> Option<Bytes> {
        let len = self.0.read_i32().await.ok()?;
        let mut body = vec![0; len as usize];
        self.0.read_exact(&mut body).await.ok()?;
        let mut body = Bytes::from(body);
        assert_eq!(body.get_i32(), 77);
        Some(body)
    }

    /// Produces one batch in version 7; the error and the base offset of its partition.
    async fn produce(&mut self, topic: &str, batch: &[u8]) -> Option<(ErrorCode, i64)> {
        self.send(0, 7, &produce_body(topic, batch)).await;
        let mut answer = self.answer().await?;
        answer.advance(4 + 2 + topic.len() + 4 + 4);
        Some((ErrorCode(answer.get_i16()), answer.get_i64()))
    }

    async fn new_producer_id(&mut self) -> i64 {
        self.send(22, 1, &[0xff, 0xff, 0, 0, 0, 0]).await;
        let mut answer = self.answer().await.unwrap();
        answer.advance(6);
        answer.get_i64()
    }
}

fn produce_body(topic: &str, batch: &[u8]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i16(-1); // no transaction
    body.put_i16(-1); // acks: all
    body.put_i32(10_000);
    body.put_i32(1);
    body.put_i16(topic.len() as i16);
    body.put_slice(topic.as_bytes());
    body.put_i32(1);
    body.put_i32(0);
    body.put_i32(batch.len() as i32);
    body.put_slice(batch);
    body
}

/// A batch of one record.
fn batch(value: &str, producer: i64, sequence: i32) -> Bytes {
    assert!(value.len() < 50, "the lengths below fit one byte");
    let mut tail = BytesMut::new();
    tail.put_i16(0);
    tail.put_i32(0);
    tail.put_i64(1_000);
    tail.put_i64(1_000);
    tail.put_i64(producer);
    tail.put_i16(if producer < 0 { -1 } else { 0 });
    tail.put_i32(sequence);
    tail.put_i32(1);
    tail.put_slice(&[(value.len() as u8 + 6) << 1, 0, 0, 0, 1, (value.len() as u8) << 1]);
    tail.put_slice(value.as_bytes());
    tail.put_u8(0);
    let mut batch = BytesMut::new();
    batch.put_i64(0);
    batch.put_i32(tail.len() as i32 + 9);
    batch.put_i32(-1);
    batch.put_i8(2);
    batch.put_u32(crc32c::crc32c(&tail));
    batch.put_slice(&tail);
    batch.freeze()
}

fn values(kafka: &MiniKafka, topic: &str) -> Vec<String> {
    let ledger = kafka.ledger(topic).unwrap();
    ledger.iter().map(|one| String::from_utf8(one.value.clone().unwrap().to_vec()).unwrap()).collect()
}

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("minikafka-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn start(builder: Builder) -> (MiniKafka, Client) {
    let kafka = builder.start().await.unwrap();
    let client = Client::connect(&kafka).await;
    (kafka, client)
}

#[tokio::test]
async fn a_batch_repeated_after_a_lost_answer_is_in_the_log_once() {
    let (kafka, mut client) = start(MiniKafka::builder()).await;
    let id = client.new_producer_id().await;
    assert_eq!(client.produce("t", &batch("a", id, 0)).await, Some((ErrorCode::NONE, 0)));
    kafka.faults().inject(On::api(ApiKey::Produce).times(1), Effect::DropAfter);
    assert_eq!(client.produce("t", &batch("b", id, 1)).await, None);
    let mut client = Client::connect(&kafka).await;
    assert_eq!(client.produce("t", &batch("b", id, 1)).await, Some((ErrorCode::NONE, 1)));
    let gap = client.produce("t", &batch("d", id, 3)).await;
    assert_eq!(gap, Some((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1)));
    assert_eq!(values(&kafka, "t"), ["a", "b"]);
    assert_eq!(kafka.ledger("t").unwrap().partition(0)[1].producer.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_request_dropped_before_the_work_leaves_no_record() {
    let (kafka, mut client) = start(MiniKafka::builder()).await;
    kafka.create_topic("t", 1).unwrap();
    kafka.faults().inject(On::api(ApiKey::Produce).times(1), Effect::DropBefore);
    assert_eq!(client.produce("t", &batch("a", -1, -1)).await, None);
    assert!(kafka.ledger("t").unwrap().is_empty());
}

#[tokio::test]
async fn half_an_answer_is_half_an_answer() {
    let (kafka, mut client) = start(MiniKafka::builder()).await;
    kafka.faults().inject(On::any().times(1), Effect::HalfAnswer);
    client.send(0, 7, &produce_body("t", &batch("a", -1, -1))).await;
    let mut bytes = Vec::new();
    client.0.read_to_end(&mut bytes).await.unwrap();
    let announced = i32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize + 4;
    assert_eq!(bytes.len(), announced / 2);
    assert_eq!(values(&kafka, "t"), ["a"]);
}

#[tokio::test]
async fn a_held_request_waits_for_its_release_and_is_then_done() {
    let (kafka, mut client) = start(MiniKafka::builder()).await;
    kafka.create_topic("t", 1).unwrap();
    let hold = kafka.faults().inject(On::api(ApiKey::Produce), Effect::Hold);
    client.send(0, 7, &produce_body("t", &batch("a", -1, -1))).await;
    hold.wait_fired(1).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), client.answer()).await.is_err());
    assert!(kafka.ledger("t").unwrap().is_empty());
    hold.release();
    assert!(client.answer().await.is_some());
    assert_eq!(values(&kafka, "t"), ["a"]);
}

#[tokio::test]
async fn a_topic_that_is_forbidden_hidden_or_too_small_says_so() {
    let (kafka, mut client) = start(MiniKafka::builder()).await;
    let (faults, one) = (kafka.faults(), batch("a", -1, -1));
    kafka.create_topic("t", 1).unwrap();
    faults.forbid_topic("t");
    assert_eq!(client.produce("t", &one).await.unwrap().0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    faults.restore_topic("t");
    faults.hide_topic("t");
    assert_eq!(client.produce("t", &one).await.unwrap().0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    faults.restore_topic("t");
    faults.max_message_bytes("t", one.len() - 1).unwrap();
    assert_eq!(client.produce("t", &one).await.unwrap().0, ErrorCode::MESSAGE_TOO_LARGE);
    faults.max_message_bytes("t", one.len()).unwrap();
    assert_eq!(client.produce("t", &one).await.unwrap().0, ErrorCode::NONE);
    faults.take_offline("t", 0).unwrap();
    assert_eq!(client.produce("t", &one).await.unwrap().0, ErrorCode::LEADER_NOT_AVAILABLE);
}

#[tokio::test]
async fn an_expired_producer_id_is_unknown() {
    let (kafka, mut client) = start(MiniKafka::builder()).await;
    let id = client.new_producer_id().await;
    assert_eq!(client.produce("t", &batch("a", id, 0)).await.unwrap().0, ErrorCode::NONE);
    kafka.faults().expire_producer_ids();
    assert_eq!(client.produce("t", &batch("b", id, 1)).await.unwrap().0, ErrorCode::UNKNOWN_PRODUCER_ID);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_no_id_is_handed_out_twice() {
    let dir = TempDir::new("restart");
    let builder = MiniKafka::builder().data_dir(&dir.0);
    let (kafka, mut client) = start(builder.clone()).await;
    let id = client.new_producer_id().await;
    for n in 0..20 {
        let answer = client.produce("t", &batch(&format!("v{n}"), id, n)).await;
        assert_eq!(answer, Some((ErrorCode::NONE, i64::from(n))));
    }
    let before = values(&kafka, "t");
    let twice = builder.clone().start().await;
    assert!(matches!(twice, Err(Error::DirectoryInUse { .. })));
    kafka.stop().await.unwrap();

    let (kafka, mut client) = start(builder).await;
    assert_eq!(values(&kafka, "t"), before);
    assert_eq!(client.produce("t", &batch("v19", id, 19)).await, Some((ErrorCode::NONE, 19)));
    assert!(client.new_producer_id().await > id);
    kafka.stop().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_told_from_other_failures() {
    let kafka = MiniKafka::builder().start().await.unwrap();
    let taken = MiniKafka::builder().bind(kafka.bootstrap()).start().await;
    assert!(matches!(taken, Err(Error::AddrInUse { addr }) if addr == kafka.bootstrap()));
    let wrong = MiniKafka::builder().bind("no address").start().await;
    assert!(matches!(wrong, Err(Error::Bind { .. })));
}

#[tokio::test]
async fn a_request_that_announces_more_than_the_limit_ends_its_connection_at_once() {
    let (kafka, mut client) = start(MiniKafka::builder().max_request_bytes(1000)).await;
    for announced in [1001, i32::MAX, -1, i32::MIN] {
        client.0.write_i32(announced).await.unwrap();
        assert_eq!(client.0.read(&mut [0; 1]).await.unwrap_or(0), 0, "{announced}");
        client = Client::connect(&kafka).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_room_comes_back() {
    let (kafka, first) = start(MiniKafka::builder().max_connections(1)).await;
    while kafka.connections() == 0 {
        tokio::task::yield_now().await;
    }
    let mut second = Client::connect(&kafka).await;
    assert_eq!(second.0.read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(first);
    while kafka.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(Client::connect(&kafka).await.new_producer_id().await >= 0);
}

/// Every API in every version, with bodies that are noise: the connection may end, the server may not.
#[tokio::test]
async fn noise_in_any_request_ends_at_most_its_own_connection() {
    let (kafka, mut healthy) = start(MiniKafka::builder()).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for api in (0..=33).chain([60, 61, i16::MAX, -1]) {
        for version in -1..14 {
            let mut client = Client::connect(&kafka).await;
            let mut noise = Vec::new();
            for _ in 0..48 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                // Small numbers are the ones that pass for lengths.
                noise.push(if seed & 0x300 == 0 { seed as u8 } else { (seed & 1) as u8 });
            }
            client.send(api, version, &noise).await;
            client.0.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(5), client.0.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "API {api} version {version} hangs");
        }
    }
    assert_eq!(healthy.produce("t", &batch("a", -1, -1)).await, Some((ErrorCode::NONE, 0)));
}

#[tokio::test]
async fn a_version_from_the_future_is_answered_with_what_is_spoken() {
    let (_kafka, mut client) = start(MiniKafka::builder()).await;
    client.send(18, 9, &[]).await;
    let mut answer = client.answer().await.unwrap();
    assert_eq!(ErrorCode(answer.get_i16()), ErrorCode::UNSUPPORTED_VERSION);
    assert!(answer.get_i32() > 10, "the table follows");
}
