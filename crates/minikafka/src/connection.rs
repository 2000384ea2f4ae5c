//! One client's connection: requests are taken in order, and answered in order.
//!
//! Two halves share it. The reader does what orders requests (a batch gets its place in the log); the writer waits for
//! what takes time (the sync, the next record for a Fetch) and writes. So a producer with five requests in flight gets
//! one sync for all of them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::ApiKey;
use crate::api::{self, Answer, Call};
use crate::cluster::{Cluster, SeenRequest};
use crate::faults::{Candidate, Plan};
use crate::wire::{Malformed, Reader, length};

/// Requests of one connection that are worked on or wait for their answer; more stay in the socket.
const MAX_IN_FLIGHT: usize = 16;
/// Bytes that a connection's buffer grows by; never by what a request announces.
const READ_BYTES: usize = 64 << 10;
/// A connection that says nothing for this long is closed, as in Kafka.
const IDLE: Duration = Duration::from_mins(10);
/// A client that takes none of its answer for this long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts a node's connections until it is aborted.
pub(crate) async fn accept(cluster: Arc<Cluster>, node: i32, listener: TcpListener) {
    let mut next = 0_u64;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, node, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&cluster.connections).try_acquire_owned() else {
            tracing::warn!(node, max = cluster.max_connections, "too many connections: one more is closed");
            continue;
        };
        next += 1;
        // Node 2's third connection is not node 1's third.
        let number = (u64::from(node.cast_unsigned()) << 48) | next;
        tokio::spawn(serve(Arc::clone(&cluster), node, number, stream, permit));
    }
}

async fn serve(
    cluster: Arc<Cluster>,
    node: i32,
    number: u64,
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
) {
    let Some(mut kicks) = cluster.node(node).map(crate::node::Node::kicks) else { return };
    // An answer waits for nothing that could be sent along with it.
    let _ = stream.set_nodelay(true);
    let host = stream.peer_addr().map_or_else(|_| String::new(), |peer| format!("/{}", peer.ip()));
    let (read, write) = stream.into_split();
    let (queue, answers) = mpsc::channel(MAX_IN_FLIGHT);
    let reader = Requests { cluster, node, number, host, stream: read, buffer: BytesMut::new(), queue };
    tokio::select! {
        () = talk(reader, write_answers(write, answers)) => {}
        _ = kicks.changed() => {}
    }
}

/// Reads until the client is gone, or says what can't be understood. Answers that are still due then are given up,
/// unless the end is a fault that a test injected: what came before the fault is answered.
async fn talk(reader: Requests, writer: impl Future<Output = io::Result<()>>) {
    let (node, mut writer) = (reader.node, std::pin::pin!(writer));
    let ended = tokio::select! {
        read = reader.run() => read,
        wrote = &mut writer => wrote.map_err(Ended::Io),
    };
    match ended {
        Err(Ended::Fault) => drop(writer.await),
        Err(error) => tracing::debug!(%error, node, "connection closed"),
        Ok(()) => {}
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client closed it")]
    Closed,
    #[error("idle")]
    Idle,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a request of {0} bytes")]
    TooLarge(i32),
    #[error("API {0} is not known in version {1}")]
    Unsupported(i16, i16),
    #[error("a fault was injected")]
    Fault,
}

/// What the writer does next.
struct Queued {
    correlation_id: i32,
    /// The header of the answer ends in tagged fields.
    tagged_header: bool,
    plan: Plan,
    answer: Answer,
}

struct Requests {
    cluster: Arc<Cluster>,
    node: i32,
    number: u64,
    host: String,
    stream: OwnedReadHalf,
    buffer: BytesMut,
    queue: mpsc::Sender<Queued>,
}

impl Requests {
    async fn run(mut self) -> Result<(), Ended> {
        loop {
            let request = tokio::time::timeout(IDLE, self.next()).await.map_err(|_| Ended::Idle)??;
            self.work(request).await?;
        }
    }

    /// The next whole request, without its length.
    async fn next(&mut self) -> Result<Bytes, Ended> {
        self.fill(4).await?;
        let announced = self.buffer.get_i32();
        let len = usize::try_from(announced).ok().filter(|&len| len <= self.cluster.max_request_bytes);
        let len = len.ok_or(Ended::TooLarge(announced))?;
        self.fill(len).await?;
        Ok(self.buffer.split_to(len).freeze())
    }

    async fn fill(&mut self, len: usize) -> Result<(), Ended> {
        while self.buffer.len() < len {
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Ended::Closed);
            }
        }
        Ok(())
    }

    async fn work(&mut self, request: Bytes) -> Result<(), Ended> {
        let mut r = Reader::new(request, false);
        let (code, version, correlation_id) = (r.i16()?, r.i16()?, r.i32()?);
        let api = ApiKey::from_code(code).ok_or(Ended::Unsupported(code, version))?;
        let (node, connection, at) = (self.node, self.number, Instant::now());
        self.cluster.saw(SeenRequest { api, version, node, at, correlation_id, connection });
        if !api.supports(version) {
            if api != ApiKey::ApiVersions {
                return Err(Ended::Unsupported(code, version));
            }
            let answer = Answer::Now(api::unsupported_version());
            return self
                .queue(Queued { correlation_id, tagged_header: false, plan: Plan::default(), answer })
                .await;
        }
        let client_id = r.nullable_string()?.unwrap_or_default();
        // The client id keeps its old form in every header; what follows it changes.
        let mut body = r.with_flexible(api.flexible(version));
        body.tags()?;
        let partitions = || api::partitions_of(api, version, &body);
        let mut plan = self.cluster.injections.plan(&Candidate { api, node, partitions: &partitions });
        plan.before_work().await;
        if plan.drop_before {
            return Err(Ended::Fault);
        }
        let ends = plan.drop_after || plan.half_answer;
        let queued_plan = plan.for_answer();
        let cluster = Arc::clone(&self.cluster);
        let call = Call { cluster, node, api, version, client_id, client_host: self.host.clone(), plan };
        let answer = api::work(call, body).await?;
        // ApiVersions is answered with the old header, so that a client of any age can read it.
        let tagged_header = api.flexible(version) && api != ApiKey::ApiVersions;
        self.queue(Queued { correlation_id, tagged_header, plan: queued_plan, answer }).await?;
        if ends { Err(Ended::Fault) } else { Ok(()) }
    }

    async fn queue(&self, queued: Queued) -> Result<(), Ended> {
        self.queue.send(queued).await.map_err(|_| Ended::Closed)
    }
}

/// Writes the answers in the order of the requests, until there are no more requests or the client is gone.
async fn write_answers(mut stream: OwnedWriteHalf, mut answers: mpsc::Receiver<Queued>) -> io::Result<()> {
    while let Some(mut queued) = answers.recv().await {
        let body = match queued.answer {
            Answer::Silence => None,
            Answer::Now(body) => Some(body),
            Answer::Later(body) => Some(body.await),
        };
        queued.plan.before_answer().await;
        if queued.plan.drop_after {
            return Ok(());
        }
        let Some(body) = body else { continue };
        let mut correlation_id = queued.correlation_id;
        if queued.plan.wrong_correlation {
            correlation_id = correlation_id.wrapping_add(1_000_000);
        }
        let body = body.into_bytes();
        let mut frame = BytesMut::with_capacity(body.len() + 9);
        frame.put_i32(length(body.len() + 4 + usize::from(queued.tagged_header)));
        frame.put_i32(correlation_id);
        if queued.tagged_header {
            frame.put_u8(0);
        }
        frame.put_slice(&body);
        let mut frame = queued.plan.raw.unwrap_or_else(|| frame.freeze());
        if queued.plan.half_answer {
            frame.truncate(frame.len() / 2);
        }
        let written = tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(&frame)).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if queued.plan.half_answer {
            return Ok(());
        }
    }
    Ok(())
}
