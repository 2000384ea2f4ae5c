//! A TCP proxy that delays, slows down, holds and breaks what goes through it: the network between two parts, as a test
//! wants it.
//!
//! It carries a stream, so what a network loses, repeats or puts out of order is for it a delay: TCP makes it one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bytes that travel as one.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks under way in one direction of one connection.
const CHUNKS: usize = 64;

/// What the network does, from now on, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// How long everything takes.
    pub delay: Duration,
    /// Up to so much longer, each chunk by itself; none overtakes another.
    pub jitter: Duration,
    /// Bytes a second of one direction of one connection; without it, as fast as it goes.
    pub bytes_per_second: Option<u32>,
    /// Nothing arrives while this is so, and nobody is told: a peer that is gone without a word.
    pub held: bool,
    /// New connections are reset as soon as they are made.
    pub closed: bool,
}

/// A listener on 127.0.0.1 whose connections go on to a target. Dropping it breaks them all.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    path: Arc<Path>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Path {
    target: Mutex<Option<SocketAddr>>,
    weather: watch::Sender<Weather>,
    /// Bumped to break all connections.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Returns a proxy on a free port, without a target yet: until there is one, connections are reset.
    ///
    /// # Errors
    ///
    /// When there is no port.
    pub async fn start() -> io::Result<Self> {
        Self::listen(Ipv4Addr::LOCALHOST.into(), 0).await
    }

    /// The same on another address of this machine, such as 127.0.0.2, and a port.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub async fn listen(ip: std::net::IpAddr, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, port)).await?;
        let address = listener.local_addr()?;
        let path = Arc::new(Path {
            target: Mutex::default(),
            weather: watch::Sender::default(),
            cuts: watch::Sender::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&path)));
        Ok(Self { address, path, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections on to `target`.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.path.target.lock() = Some(target);
    }

    /// Changes what the network does, for the connections that there are too.
    pub fn set(&self, weather: Weather) {
        self.path.weather.send_replace(weather);
    }

    /// Breaks all connections with a reset on both sides.
    pub fn cut(&self) {
        self.path.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, path: Arc<Path>) {
    while let Ok((stream, _)) = listener.accept().await {
        let closed = path.weather.borrow().closed;
        match *path.target.lock() {
            Some(target) if !closed => drop(tokio::spawn(carry(stream, target, Arc::clone(&path)))),
            // Dropped without a linger it is reset.
            _ => drop(stream.set_zero_linger()),
        }
    }
}

/// Carries one connection until both sides have ended it or it is cut.
async fn carry(mut near: TcpStream, target: SocketAddr, path: Arc<Path>) {
    let mut cuts = path.cuts.subscribe();
    let Ok(mut far) = TcpStream::connect(target).await else {
        drop(near.set_zero_linger());
        return;
    };
    for stream in [&near, &far] {
        // A delay that is not asked for would be measured too.
        drop(stream.set_nodelay(true));
    }
    let seed = near.peer_addr().map_or(0, |peer| u64::from(peer.port()));
    let cut = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let there = one_way(near_read, far_write, path.weather.subscribe(), seed << 1 | 1);
        let back = one_way(far_read, near_write, path.weather.subscribe(), seed << 9 | 1);
        tokio::select! {
            _ = async { tokio::join!(there, back) } => false,
            _ = cuts.changed() => true,
        }
    };
    if cut {
        // Dropped without a linger they are reset.
        drop(near.set_zero_linger());
        drop(far.set_zero_linger());
    }
}

/// Carries one direction until its reader ends, and ends its writer then.
async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    mut random: u64,
) {
    let (arrived, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let take = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            // A full channel stops the reading: the sender's own window fills, as over a slow line.
            if arrived.send((Instant::now(), chunk[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let give = async {
        let mut free_at = Instant::now();
        while let Some((at, chunk)) = under_way.recv().await {
            let now = *weather.borrow_and_update();
            sleep_until(at + now.delay + now.jitter * thousandths(&mut random) / 1000).await;
            if let Some(rate) = now.bytes_per_second {
                let takes = Duration::from_secs(chunk.len() as u64) / rate.max(1);
                free_at = free_at.max(Instant::now()) + takes;
                sleep_until(free_at).await;
            }
            let calm = weather.wait_for(|weather| !weather.held).await.is_ok();
            if !calm || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    };
    tokio::join!(take, give);
}

/// A number from 0 to 1000 (xorshift64).
fn thousandths(random: &mut u64) -> u32 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random % 1001) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy before a server that sends everything back.
    async fn echo() -> (Proxy, TcpStream) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start().await.unwrap();
        proxy.lead_to(server.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                });
            }
        });
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, client)
    }

    async fn round(client: &mut TcpStream, bytes: usize) -> io::Result<Duration> {
        let begun = Instant::now();
        let mut answer = vec![0; bytes];
        let (mut read, mut write) = client.split();
        let sent = vec![7; bytes];
        let (written, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut answer));
        written?;
        read?;
        assert_eq!(answer, sent);
        Ok(begun.elapsed())
    }

    #[tokio::test]
    async fn everything_arrives_as_late_and_as_slowly_as_the_weather_says() {
        let (proxy, mut client) = echo().await;
        round(&mut client, 1_000_000).await.unwrap();
        proxy.set(Weather { delay: Duration::from_millis(100), ..Weather::default() });
        let took = round(&mut client, 10).await.unwrap();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        proxy.set(Weather { bytes_per_second: Some(100_000), ..Weather::default() });
        let took = round(&mut client, 50_000).await.unwrap();
        assert!(took >= Duration::from_millis(500), "{took:?}");
    }

    #[tokio::test]
    async fn what_is_held_arrives_later_and_a_cut_is_a_reset() {
        let (proxy, mut client) = echo().await;
        round(&mut client, 10).await.unwrap();
        proxy.set(Weather { held: true, ..Weather::default() });
        let held = tokio::time::timeout(Duration::from_millis(300), round(&mut client, 10)).await;
        assert!(held.is_err(), "nothing comes through");
        proxy.set(Weather::default());
        let mut answer = [0; 10];
        client.read_exact(&mut answer).await.unwrap();
        proxy.cut();
        let error = client.read_exact(&mut answer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        proxy.set(Weather { closed: true, ..Weather::default() });
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(round(&mut refused, 10).await.is_err());
    }
}
