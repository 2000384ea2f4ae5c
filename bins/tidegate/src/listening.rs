//! Ports on which clients connect: plain or with TLS, and MQTT as it is or in WebSocket.

use std::io;
use std::net::SocketAddr;

use tidegate_broker::{Broker, Listener, ListenerOptions, Tcp, Tls, WebSocket};

use crate::config::{ListenerSettings, ProtocolSetting};

/// A port that is ours.
pub(crate) enum Bound {
    Plain(Tcp),
    Tls(Tls<Tcp>),
}

impl Bound {
    /// Takes the port, and reads the files for TLS.
    ///
    /// # Errors
    /// A text for the operator.
    pub(crate) async fn open(name: &str, settings: &ListenerSettings) -> Result<Self, String> {
        let tcp = Tcp::bind(settings.bind).await.map_err(|error| {
            format!(
                "error: listeners.{name}.bind: cannot listen on {}: {error}; choose another with \
                 TIDEGATE_LISTENERS__{}__BIND",
                settings.bind,
                name.to_uppercase()
            )
        })?;
        let Some(tls) = &settings.tls else { return Ok(Self::Plain(tcp)) };
        let tls = Tls::over(tcp, tls.options());
        tls.map(Self::Tls).map_err(|error| format!("error: listeners.{name}.tls.{error}"))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(tcp) => tcp.local_addr(),
            Self::Tls(tls) => tls.inner().local_addr(),
        }
    }

    /// Where clients find it, as a user may paste it.
    pub(crate) fn address(&self, settings: &ListenerSettings) -> io::Result<String> {
        let address = self.local_addr()?;
        Ok(match (self, settings.protocol) {
            (Self::Plain(_), ProtocolSetting::Tcp) => address.to_string(),
            (Self::Tls(_), ProtocolSetting::Tcp) => format!("mqtts://{address}"),
            (Self::Plain(_), ProtocolSetting::WebSocket) => format!("ws://{address}{}", settings.path),
            (Self::Tls(_), ProtocolSetting::WebSocket) => format!("wss://{address}{}", settings.path),
        })
    }

    /// Lets the broker serve it until it shuts down; the largest packet of a client has so many bytes.
    pub(crate) fn serve(
        self,
        broker: Broker,
        settings: &ListenerSettings,
        options: ListenerOptions,
        max_packet_bytes: usize,
    ) {
        match self {
            Self::Plain(tcp) => serve(tcp, broker, settings, options, max_packet_bytes),
            Self::Tls(tls) => serve(tls, broker, settings, options, max_packet_bytes),
        }
    }
}

fn serve<L: Listener>(
    listener: L,
    broker: Broker,
    settings: &ListenerSettings,
    options: ListenerOptions,
    max_packet_bytes: usize,
) {
    match settings.protocol {
        ProtocolSetting::Tcp => {
            tokio::spawn(async move { broker.serve_with(listener, options).await });
        }
        ProtocolSetting::WebSocket => {
            let listener = WebSocket::over(listener, settings.websocket(max_packet_bytes));
            tokio::spawn(async move { broker.serve_with(listener, options).await });
        }
    }
}
