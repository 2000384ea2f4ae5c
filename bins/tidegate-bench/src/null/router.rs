//! The least that a server can do which delivers messages: exact topics and `#`, QoS 0 and 1, one thread, no sessions, no
//! windows. What a broker costs for a delivery more than this is the broker's own.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tidegate_codec::{
    Decoded, Decoder, Limits, Packet, PacketId, PubAck, Publish, QoS, ReasonCode, SubAck, Version,
};

use super::scan::{Violation, answer, granted};
use super::{Counters, EVENTS, LISTENER, READ_BUFFER_BYTES, WAKER, accept};

/// What may wait for a subscriber that does not read; messages beyond it are not delivered to it.
const UNSENT_BYTES: usize = 16 << 20;

/// The thread of a router.
pub(super) struct Router {
    pub(super) poll: Poll,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    /// Who hears a topic, by its name; `#` is every topic.
    hearers: HashMap<String, Vec<Hearer>>,
    /// Peers that have something to be written once all events are handled.
    unwritten: Vec<usize>,
    /// Peers that filled the read buffer and so may have more: events come only at edges.
    again: Vec<usize>,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    /// The start of a packet whose end was not read yet.
    partial: Vec<u8>,
    unsent: Vec<u8>,
    /// It is among those with something to be written.
    listed: bool,
    last_packet_id: u16,
    filters: Vec<String>,
}

#[derive(Clone, Copy)]
struct Hearer {
    peer: usize,
    qos: QoS,
}

const EVERYTHING: &str = "#";

impl Router {
    pub(super) fn new(
        mut listener: TcpListener,
        stop: Arc<AtomicBool>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (peers, free, unwritten, again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let hearers = HashMap::new();
        Ok(Self { poll, listener, peers, free, hearers, unwritten, again, stop, counters })
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        while !self.stop.load(Ordering::Relaxed) {
            let timeout = (!self.again.is_empty()).then_some(std::time::Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for index in std::mem::take(&mut self.again) {
                self.read(index, false, &mut buffer);
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKER => {}
                    Token(index) => {
                        if event.is_writable() {
                            self.list(index);
                        }
                        self.read(index, event.is_read_closed(), &mut buffer);
                    }
                }
            }
            for index in std::mem::take(&mut self.unwritten) {
                self.write(index);
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let (registry, peers, free) = (self.poll.registry(), &mut self.peers, &mut self.free);
        accept(&self.listener, &self.counters, |mut stream| {
            let index = free.pop().unwrap_or_else(|| {
                peers.push(None);
                peers.len() - 1
            });
            registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            peers[index] = Some(Peer {
                stream,
                decoder: Decoder::new(Limits::default()),
                partial: Vec::new(),
                unsent: Vec::new(),
                listed: false,
                last_packet_id: 0,
                filters: Vec::new(),
            });
            Ok(())
        })
    }

    /// Reads once and handles all of it, or until its end where the peer has closed its side.
    fn read(&mut self, index: usize, ended: bool, buffer: &mut [u8]) {
        loop {
            let Some(peer) = &mut self.peers[index] else { return };
            let bytes = match peer.stream.read(buffer) {
                Ok(0) => return self.close(index),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.close(index),
            };
            self.counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            let mut joined = std::mem::take(&mut peer.partial);
            let handled = if joined.is_empty() {
                self.handle_all(index, &buffer[..bytes])
            } else {
                joined.extend_from_slice(&buffer[..bytes]);
                self.handle_all(index, &joined)
            };
            match (handled, &mut self.peers[index]) {
                (Ok(()), Some(_)) => {}
                _ => return self.close(index),
            }
            if bytes == buffer.len() && !ended {
                return self.again.push(index);
            }
            if !ended {
                return;
            }
        }
    }

    /// Handles all whole packets, and keeps the rest.
    fn handle_all(&mut self, index: usize, bytes: &[u8]) -> Result<(), Violation> {
        let mut at = 0;
        loop {
            let Some(peer) = &mut self.peers[index] else { return Ok(()) };
            match peer.decoder.decode(&bytes[at..]).map_err(|_| Violation)? {
                Decoded::Packet { packet, len } => {
                    self.handle(index, &packet)?;
                    at += len;
                }
                Decoded::Incomplete { .. } => {
                    peer.partial.extend_from_slice(&bytes[at..]);
                    return Ok(());
                }
            }
        }
    }

    fn handle(&mut self, index: usize, packet: &Packet<'_>) -> Result<(), Violation> {
        if let Packet::Publish(publish) = packet {
            self.counters.publishes.fetch_add(1, Ordering::Relaxed);
            self.deliver(EVERYTHING, publish)?;
            self.deliver(publish.topic, publish)?;
        }
        self.list(index);
        let Some(peer) = &mut self.peers[index] else { return Ok(()) };
        let version = peer.decoder.version();
        match packet {
            Packet::Connect(connect) => {
                peer.decoder.set_version(connect.version);
                answer(packet, Some(connect.version), &mut peer.unsent)
            }
            Packet::Publish(Publish { qos: QoS::AtMostOnce, .. }) => Ok(()),
            Packet::Publish(publish) => {
                let (ack, version) =
                    (PubAck::new(publish.packet_id.ok_or(Violation)?), version.ok_or(Violation)?);
                let encoded = match publish.qos {
                    QoS::ExactlyOnce => ack.encode_pubrec(version, &mut peer.unsent),
                    _ => ack.encode_puback(version, &mut peer.unsent),
                };
                encoded.map_err(|_| Violation)
            }
            Packet::Subscribe(subscribe) => {
                let mut reasons = Vec::with_capacity(subscribe.filters.len());
                for filter in &subscribe.filters {
                    let wild = filter.filter.contains(['+', '#']) && filter.filter != EVERYTHING;
                    if wild || filter.filter.starts_with("$share/") {
                        reasons.push(ReasonCode::UnspecifiedError);
                        continue;
                    }
                    let qos = filter.options.qos.min(QoS::AtLeastOnce);
                    reasons.push(granted(qos.as_u8()));
                    let hearers = self.hearers.entry(filter.filter.to_owned()).or_default();
                    hearers.retain(|hearer| hearer.peer != index);
                    hearers.push(Hearer { peer: index, qos });
                    peer.filters.push(filter.filter.to_owned());
                }
                let suback = SubAck::new(subscribe.packet_id, reasons);
                suback.encode_suback(version.ok_or(Violation)?, &mut peer.unsent).map_err(|_| Violation)
            }
            Packet::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.filters {
                    forget(&mut self.hearers, filter, index);
                }
                answer(packet, version, &mut peer.unsent)
            }
            // Ends as a violation does: nothing more is said to it.
            Packet::Disconnect(_) => Err(Violation),
            _ => answer(packet, version, &mut peer.unsent),
        }
    }

    /// Puts a message into the buffers of all who hear `topic`.
    fn deliver(&mut self, topic: &str, publish: &Publish<'_>) -> Result<(), Violation> {
        let Some(hearers) = self.hearers.get(topic) else { return Ok(()) };
        for hearer in hearers {
            let Some(peer) = &mut self.peers[hearer.peer] else { continue };
            if peer.unsent.len() >= UNSENT_BYTES {
                continue;
            }
            let qos = publish.qos.min(hearer.qos);
            let packet_id = if qos == QoS::AtMostOnce {
                None
            } else {
                peer.last_packet_id = peer.last_packet_id.checked_add(1).unwrap_or(1);
                PacketId::new(peer.last_packet_id)
            };
            let version = peer.decoder.version().unwrap_or(Version::V3_1_1);
            Publish { qos, packet_id, topic: publish.topic, payload: publish.payload, ..Publish::default() }
                .encode(version, &mut peer.unsent)
                .map_err(|_| Violation)?;
            if !std::mem::replace(&mut peer.listed, true) {
                self.unwritten.push(hearer.peer);
            }
        }
        Ok(())
    }

    /// Notes that a peer may have something to be written.
    fn list(&mut self, index: usize) {
        if let Some(peer) = &mut self.peers[index]
            && !std::mem::replace(&mut peer.listed, true)
        {
            self.unwritten.push(index);
        }
    }

    fn write(&mut self, index: usize) {
        let Some(peer) = &mut self.peers[index] else { return };
        peer.listed = false;
        if peer.unsent.is_empty() {
            return;
        }
        match peer.stream.write(&peer.unsent) {
            Ok(written) if written == peer.unsent.len() => peer.unsent.clear(),
            Ok(written) => drop(peer.unsent.drain(..written)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.close(index),
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(peer) = self.peers[index].take() {
            for filter in peer.filters {
                forget(&mut self.hearers, &filter, index);
            }
            self.free.push(index);
            self.counters.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn forget(hearers: &mut HashMap<String, Vec<Hearer>>, filter: &str, index: usize) {
    if let Some(list) = hearers.get_mut(filter) {
        list.retain(|hearer| hearer.peer != index);
        if list.is_empty() {
            hearers.remove(filter);
        }
    }
}
