//! Enhanced authentication (MQTT 5.0, 4.12): what an embedder says about it, and how the exchange before CONNACK runs.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_codec::{Connect, Decoded, Decoder, Limits, Packet, ReasonCode};
use tidegate_session::Authentication;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::opening::{Unread, read_packet};

/// Packets of a client that one exchange may take.
pub(crate) const MAX_ROUNDS: usize = 8;

/// The largest packet of a client that is not authenticated yet, after its CONNECT, in bytes.
const MAX_PACKET_BYTES: u32 = 64 * 1024;

/// A method of enhanced authentication.
///
/// SCRAM-SHA-256 is in the box, see [`ScramSha256`](crate::ScramSha256); Kerberos, or a challenge of your own, can stand
/// beside it. Nobody gets in by an error: an exchange that fails, hangs, takes too many rounds or panics ends the
/// connection.
pub trait AuthenticationMethod: Send + Sync + 'static {
    /// Returns the name by which clients ask for it, such as `SCRAM-SHA-256`.
    fn name(&self) -> &str;

    /// Begins an exchange: for a CONNECT, or for a client that is connected and authenticates itself again (4.12.1).
    fn begin(&self, client: &AuthenticatingClient<'_>) -> Box<dyn Exchange>;
}

/// An exchange that waits for what the client says next.
pub trait Exchange: Send + 'static {
    /// Takes the Authentication Data of the client's packet (empty if it had none), and decides.
    ///
    /// The future may wait for other services. From accept to CONNACK everything has to happen within
    /// [`Config::connect_timeout`](crate::Config::connect_timeout), and so has a re-authentication from its first AUTH;
    /// it is dropped otherwise. What computes for long belongs on a thread of its own.
    fn step(self: Box<Self>, data: Vec<u8>) -> Stepping;
}

/// A decision on its way.
pub type Stepping = Pin<Box<dyn Future<Output = Step> + Send>>;

/// What an exchange decides.
pub enum Step {
    /// The client is asked for more.
    Ask {
        /// Authentication Data for the client.
        data: Vec<u8>,
        /// What takes its answer.
        next: Box<dyn Exchange>,
    },
    /// The client has shown who it is.
    Accept(Accepted),
    /// It has not: Not authorized (0x87).
    Reject,
    /// Nobody can tell now, because something that has to be asked does not answer: Server busy (0x89).
    Unavailable,
}

/// Who a client has shown to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The client's user name from now on, whatever CONNECT said.
    pub identity: Box<str>,
    /// Authentication Data for the client, if the method has a last word; otherwise empty.
    pub data: Vec<u8>,
}

/// What is known of a client before it has shown who it is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuthenticatingClient<'a> {
    /// The client identifier; empty if the broker is to choose one.
    pub client_id: &'a str,
    /// The user name that CONNECT claims, or that the client has from its authentication before.
    pub username: Option<&'a str>,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
}

/// The methods of enhanced authentication that a listener offers, and whether its clients must use one.
///
/// The default offers none and asks for none: everybody may connect, and a client that names a method is refused.
#[derive(Clone, Default)]
pub struct AuthenticationMethods {
    methods: Vec<Arc<dyn AuthenticationMethod>>,
    is_required: bool,
}

impl AuthenticationMethods {
    /// Offers these methods to clients that ask for one. Others get in as before.
    pub fn offered(methods: Vec<Arc<dyn AuthenticationMethod>>) -> Self {
        Self { methods, is_required: false }
    }

    /// Lets nobody in but through one of these methods: 3.1 and 3.1.1, which have none, are refused as well.
    pub fn required(methods: Vec<Arc<dyn AuthenticationMethod>>) -> Self {
        Self { methods, is_required: true }
    }

    pub(crate) fn are_required(&self) -> bool {
        self.is_required
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<dyn AuthenticationMethod>> {
        self.methods.iter().find(|method| method.name() == name)
    }
}

impl fmt::Debug for AuthenticationMethods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.methods.iter().map(|method| method.name()).collect();
        f.debug_struct("AuthenticationMethods")
            .field("methods", &names)
            .field("is_required", &self.is_required)
            .finish()
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ask { .. } => "Ask",
            Self::Accept(_) => "Accept",
            Self::Reject => "Reject",
            Self::Unavailable => "Unavailable",
        })
    }
}

/// Why a client is not authenticated.
pub(crate) enum Unauthenticated {
    Closed,
    /// What CONNACK says of it.
    Refused(ReasonCode),
}

/// Carries out the exchange between CONNECT and CONNACK. `rest` is what came behind CONNECT, and then what came behind
/// the last AUTH.
pub(crate) async fn authenticate<S>(
    stream: &mut S,
    method: &dyn AuthenticationMethod,
    client: &AuthenticatingClient<'_>,
    connect: &Connect<'_>,
    order: &mut Authentication,
    limits: &Limits,
    rest: &mut Vec<u8>,
) -> Result<Accepted, Unauthenticated>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = Limits { max_packet_bytes: limits.max_packet_bytes.min(MAX_PACKET_BYTES), ..*limits };
    let mut decoder = Decoder::new(limits);
    decoder.set_version(connect.version);
    let mut data = connect.properties.authentication_data.unwrap_or_default().to_vec();
    let mut exchange = method.begin(client);
    for _ in 0..MAX_ROUNDS {
        let (question, next) = match exchange.step(data).await {
            Step::Accept(accepted) => return Ok(accepted),
            Step::Reject => break,
            Step::Unavailable => return Err(Unauthenticated::Refused(ReasonCode::ServerBusy)),
            Step::Ask { data, next } => (data, next),
        };
        let mut out = Vec::new();
        order.ask(&question, &mut out).map_err(|_| Unauthenticated::Refused(ReasonCode::PacketTooLarge))?;
        let sent = async {
            stream.write_all(&out).await?;
            stream.flush().await
        };
        sent.await.map_err(|_| Unauthenticated::Closed)?;
        exchange = next;
        data = read_auth(stream, &decoder, order, rest).await?;
    }
    Err(Unauthenticated::Refused(ReasonCode::NotAuthorized))
}

/// Reads the client's AUTH and returns its data. Anything else than AUTH or DISCONNECT is against [MQTT5-3.1.2-30].
async fn read_auth<S>(
    stream: &mut S,
    decoder: &Decoder,
    order: &mut Authentication,
    rest: &mut Vec<u8>,
) -> Result<Vec<u8>, Unauthenticated>
where
    S: AsyncRead + Unpin,
{
    let len = read_packet(stream, decoder, rest).await.map_err(|unread| match unread {
        Unread::Closed => Unauthenticated::Closed,
        Unread::Malformed(error) => Unauthenticated::Refused(error.reason_code()),
    })?;
    let data = match decoder.decode(rest) {
        Ok(Decoded::Packet { packet: Packet::Auth(auth), .. }) => {
            order.handle(&auth).map_err(|violation| Unauthenticated::Refused(violation.reason_code()))?;
            auth.authentication_data.unwrap_or_default().to_vec()
        }
        Ok(Decoded::Packet { packet: Packet::Disconnect(_), .. }) => return Err(Unauthenticated::Closed),
        _ => return Err(Unauthenticated::Refused(ReasonCode::ProtocolError)),
    };
    rest.drain(..len);
    Ok(data)
}
