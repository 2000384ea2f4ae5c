//! A scripted MQTT client: says exactly what the test tells it, well formed or not, and hands over what comes back.
//!
//! It keeps no session, answers nothing by itself and numbers nothing: a test that wants a PUBACK sends one.
//!
//! ```
//! use tidegate_codec::{Packet, Version};
//! use tidegate_testkit::mqtt::Peer;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let (client, mut server) = tokio::io::duplex(1024);
//! let mut peer = Peer::new(client, Version::V5);
//!
//! tokio::io::AsyncWriteExt::write_all(&mut server, &[0xd0, 0x00]).await.unwrap();
//! assert_eq!(peer.receive().await.unwrap(), Packet::PingResp);
//! # });
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tidegate_codec::{
    ConnAck, Connect, DecodeError, Decoded, Decoder, EncodeError, Limits, Packet, PacketId, PacketType,
    PubAck, Publish, QoS, ReasonCode, Subscribe, SubscribeFilter, Unsubscribe, Version,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a peer waits for a packet unless [`Peer::set_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that one read takes at most.
const READ_BYTES: usize = 16 * 1024;

/// Why the conversation did not go as scripted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The other side closed the connection; so many bytes of an unfinished packet had come.
    #[error("the connection was closed{}", if *.unfinished > 0 { " within a packet" } else { "" })]
    Closed {
        /// Bytes of the unfinished packet.
        unfinished: usize,
    },
    /// Nothing came in time.
    #[error("nothing came within {0:?}")]
    TimedOut(Duration),
    /// Another packet came.
    #[error("expected {expected}, got {got}")]
    Unexpected {
        /// What the script expected.
        expected: String,
        /// What came.
        got: String,
    },
    /// What came is not MQTT.
    #[error("the other side sent what is not MQTT")]
    Decode(#[from] DecodeError),
    /// What the script says cannot be written.
    #[error("the script's packet cannot be written")]
    Encode(#[from] EncodeError),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A client at the end of any byte stream. Every method that waits gives up after the peer's patience.
#[derive(Debug)]
pub struct Peer<S> {
    stream: S,
    version: Version,
    decoder: Decoder,
    /// What was read; the first `used` bytes are the packet handed out last.
    received: Vec<u8>,
    used: usize,
    patience: Duration,
}

impl Peer<TcpStream> {
    /// Opens a TCP connection and sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`] when nobody listens, [`PeerError::TimedOut`] when nobody answers.
    pub async fn dial(address: SocketAddr, version: Version) -> Result<Self, PeerError> {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .map_err(|_| PeerError::TimedOut(PATIENCE))??;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream, version))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Returns a peer that speaks this version over an open stream.
    pub fn new(stream: S, version: Version) -> Self {
        let decoder = Decoder::client(version, Limits::UNLIMITED);
        Self { stream, version, decoder, received: Vec::new(), used: 0, patience: PATIENCE }
    }

    /// Sets how long a receive waits.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Returns the stream; bytes that were read and not handed over are lost.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Sends one packet.
    ///
    /// # Errors
    ///
    /// [`PeerError::Encode`] or [`PeerError::Io`].
    pub async fn send(&mut self, packet: &Packet<'_>) -> Result<(), PeerError> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes)?;
        self.send_raw(&bytes).await
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`], or [`PeerError::TimedOut`] when the other side does not read them.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(self.patience, written).await.map_err(|_| PeerError::TimedOut(self.patience))??)
    }

    /// Returns the next packet.
    ///
    /// # Errors
    ///
    /// [`PeerError::Closed`] when the other side closed the connection, [`PeerError::TimedOut`] when nothing came.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: bytes that were read stay with the peer.
    pub async fn receive(&mut self) -> Result<Packet<'_>, PeerError> {
        self.received.drain(..self.used);
        self.used = 0;
        timeout(self.patience, self.read_packet())
            .await
            .map_err(|_| PeerError::TimedOut(self.patience))??;
        match self.decoder.decode(&self.received)? {
            Decoded::Packet { packet, len } => {
                self.used = len;
                Ok(packet)
            }
            Decoded::Incomplete { .. } => unreachable!("read_packet returned, so a whole packet is there"),
        }
    }

    /// Reads until a whole packet is there.
    async fn read_packet(&mut self) -> Result<(), PeerError> {
        while let Decoded::Incomplete { .. } = self.decoder.decode(&self.received)? {
            self.received.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(PeerError::Closed { unfinished: self.received.len() });
            }
        }
        Ok(())
    }

    /// Returns when the other side closed the connection; a DISCONNECT before that is read over.
    ///
    /// # Errors
    ///
    /// [`PeerError::Unexpected`] when another packet comes, [`PeerError::TimedOut`] when it stays open.
    pub async fn expect_close(&mut self) -> Result<(), PeerError> {
        loop {
            match self.receive().await {
                Ok(Packet::Disconnect(_)) => {}
                Ok(packet) => return Err(unexpected("the end", &packet)),
                Err(PeerError::Closed { unfinished: 0 }) => return Ok(()),
                Err(PeerError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns when nothing came for that long.
    ///
    /// # Errors
    ///
    /// [`PeerError::Unexpected`] when something comes, [`PeerError::Closed`] when the connection ends.
    pub async fn expect_silence(&mut self, duration: Duration) -> Result<(), PeerError> {
        match timeout(duration, self.receive()).await {
            Err(_) | Ok(Err(PeerError::TimedOut(_))) => Ok(()),
            Ok(Ok(packet)) => Err(unexpected("silence", &packet)),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Sends CONNECT and returns the CONNACK, whatever it says.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when no CONNACK comes.
    pub async fn connect(&mut self, connect: Connect<'_>) -> Result<ConnAck<'_>, PeerError> {
        self.send(&Packet::Connect(Box::new(connect))).await?;
        match self.receive().await? {
            Packet::ConnAck(connack) => Ok(*connack),
            packet => Err(unexpected("CONNACK", &packet)),
        }
    }

    /// Connects with a clean start and returns when the server said yes.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when it does not.
    pub async fn join(&mut self, client_id: &str) -> Result<(), PeerError> {
        let connack = self.connect(Connect::new(self.version, client_id)).await?;
        match connack.reason {
            ReasonCode::Success => Ok(()),
            reason => Err(expected("CONNACK with success", &reason)),
        }
    }

    /// Subscribes to one filter and returns the code of the SUBACK.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when the next packet is not that SUBACK.
    pub async fn subscribe(&mut self, id: u16, filter: &str, qos: QoS) -> Result<ReasonCode, PeerError> {
        let packet_id = packet_id(id);
        let subscribe = Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: tidegate_codec::UserProperties::default(),
            filters: vec![SubscribeFilter::new(filter, qos)],
        };
        self.send(&Packet::Subscribe(Box::new(subscribe))).await?;
        match self.receive().await? {
            Packet::SubAck(suback) if suback.packet_id == packet_id && suback.reasons.len() == 1 => {
                Ok(suback.reasons[0])
            }
            packet => Err(unexpected("SUBACK with one code", &packet)),
        }
    }

    /// Unsubscribes from one filter and returns when the UNSUBACK came.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when the next packet is not that UNSUBACK.
    pub async fn unsubscribe(&mut self, id: u16, filter: &str) -> Result<(), PeerError> {
        let packet_id = packet_id(id);
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: tidegate_codec::UserProperties::default(),
            filters: vec![filter],
        };
        self.send(&Packet::Unsubscribe(Box::new(unsubscribe))).await?;
        match self.receive().await? {
            Packet::UnsubAck(unsuback) if unsuback.packet_id == packet_id => Ok(()),
            packet => Err(unexpected("UNSUBACK", &packet)),
        }
    }

    /// Sends a PUBLISH without properties, at QoS 0 when `id` is 0 and at QoS 1 otherwise, and waits for nothing.
    ///
    /// # Errors
    ///
    /// [`PeerError::Encode`] or [`PeerError::Io`].
    pub async fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) -> Result<(), PeerError> {
        let qos = if id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        self.send(&Packet::Publish(Publish {
            qos,
            topic,
            payload,
            packet_id: PacketId::new(id),
            ..Publish::default()
        }))
        .await
    }

    /// Returns the next packet, which is a PUBLISH.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when it is not.
    pub async fn expect_publish(&mut self) -> Result<Publish<'_>, PeerError> {
        match self.receive().await? {
            Packet::Publish(publish) => Ok(publish),
            packet => Err(unexpected("PUBLISH", &packet)),
        }
    }

    /// Returns the reason of the next packet, which is a PUBACK, PUBREC, PUBREL or PUBCOMP of that type and number.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when it is not.
    pub async fn expect_ack(&mut self, kind: PacketType, id: u16) -> Result<ReasonCode, PeerError> {
        let packet = self.receive().await?;
        match &packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack)
                if packet.packet_type() == kind && ack.packet_id == packet_id(id) =>
            {
                Ok(ack.reason)
            }
            packet => Err(unexpected(&format!("{kind:?} {id}"), packet)),
        }
    }

    /// Sends PUBACK with success.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`].
    pub async fn puback(&mut self, id: PacketId) -> Result<(), PeerError> {
        self.send(&Packet::PubAck(PubAck::new(id))).await
    }

    /// Sends PINGREQ and returns when PINGRESP came: the other side has handled everything before it.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when the next packet is another.
    pub async fn ping(&mut self) -> Result<(), PeerError> {
        self.send(&Packet::PingReq).await?;
        match self.receive().await? {
            Packet::PingResp => Ok(()),
            packet => Err(unexpected("PINGRESP", &packet)),
        }
    }
}

fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).expect("a script's packet identifier is not 0")
}

fn unexpected(what: &str, packet: &Packet<'_>) -> PeerError {
    expected(what, packet)
}

fn expected(what: &str, got: &dyn std::fmt::Debug) -> PeerError {
    PeerError::Unexpected { expected: what.into(), got: format!("{got:?}") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn pair(version: Version) -> (Peer<DuplexStream>, DuplexStream) {
        let (client, server) = duplex(4096);
        (Peer::new(client, version), server)
    }

    #[tokio::test]
    async fn packets_that_come_in_one_read_or_in_single_bytes_are_handed_over_one_by_one() {
        let (mut peer, mut server) = pair(Version::V3_1_1);
        server.write_all(b"\x40\x02\0\x01\x40\x02\0\x02").await.unwrap();
        assert_eq!(peer.expect_ack(PacketType::PubAck, 1).await.unwrap(), ReasonCode::Success);
        assert_eq!(peer.expect_ack(PacketType::PubAck, 2).await.unwrap(), ReasonCode::Success);

        let feed = tokio::spawn(async move {
            for byte in b"\x30\x05\0\x01ahi" {
                server.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            server
        });
        let publish = peer.expect_publish().await.unwrap();
        assert_eq!((publish.topic, publish.payload), ("a", &b"hi"[..]));
        feed.await.unwrap();
    }

    #[tokio::test]
    async fn the_script_is_written_in_the_version_of_the_peer() {
        for (version, expected) in [
            (Version::V3_1_1, &b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c"[..]),
            (Version::V5, &b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c"[..]),
        ] {
            let (mut peer, mut server) = pair(version);
            let connack = if version == Version::V5 { &b"\x20\x03\0\0\0"[..] } else { &b"\x20\x02\0\0"[..] };
            server.write_all(connack).await.unwrap();
            peer.join("c").await.unwrap();
            let mut sent = vec![0; expected.len()];
            server.read_exact(&mut sent).await.unwrap();
            assert_eq!(sent, expected);
        }
    }

    #[tokio::test]
    async fn what_was_not_scripted_is_an_error_that_names_both() {
        let (mut peer, mut server) = pair(Version::V5);
        server.write_all(b"\xd0\0").await.unwrap();
        let error = peer.expect_publish().await.unwrap_err().to_string();
        assert!(error.contains("PUBLISH") && error.contains("PingResp"), "{error}");

        server.write_all(b"\xd0\0").await.unwrap();
        assert!(matches!(
            peer.expect_silence(Duration::from_millis(50)).await,
            Err(PeerError::Unexpected { .. })
        ));
        peer.expect_silence(Duration::from_millis(50)).await.unwrap();
    }

    #[tokio::test]
    async fn an_end_within_a_packet_is_not_a_clean_end() {
        let (mut peer, mut server) = pair(Version::V5);
        server.write_all(b"\xe0\x01\x8e\x30").await.unwrap();
        drop(server);
        assert!(matches!(peer.expect_close().await, Err(PeerError::Closed { unfinished: 1 })));

        let (mut peer, server) = pair(Version::V5);
        drop(server);
        peer.expect_close().await.unwrap();
    }

    #[tokio::test]
    async fn patience_ends() {
        let (mut peer, _server) = pair(Version::V5);
        peer.set_patience(Duration::from_millis(20));
        assert!(matches!(peer.receive().await, Err(PeerError::TimedOut(_))));
        assert!(matches!(peer.expect_close().await, Err(PeerError::TimedOut(_))));
        // The stream's buffer takes 4 KiB and nobody reads.
        assert!(matches!(peer.send_raw(&[0; 8192]).await, Err(PeerError::TimedOut(_))));
    }
}
