//! Where clients connect, and how they show who they are: `[listeners.NAME]` and `[authentication]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_broker::{Mountpoint, TlsOptions, WebSocketOptions};

use super::Settings;
use super::error::ConfigErrors;

/// `[listeners.NAME]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListenerSettings {
    pub(crate) bind: SocketAddr,
    /// The word that it takes to let everyone in: beyond loopback, or beside an `[authentication]`.
    pub(crate) allow_anonymous: bool,
    /// What is spoken: MQTT over TCP, or MQTT in the frames of WebSocket.
    pub(crate) protocol: ProtocolSetting,
    /// The certificate with which clients are met; without it, nothing is encrypted.
    pub(crate) tls: Option<ListenerTlsSettings>,
    /// The path of a WebSocket.
    pub(crate) path: String,
    /// The web sites whose pages may connect to a WebSocket, as browsers name them: `https://example.org`. Empty for
    /// all.
    pub(crate) origins: Vec<String>,
    /// What stands in front of every topic of its clients, without their knowing: `plant-7/`.
    pub(crate) mountpoint: Option<String>,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        let WebSocketOptions { path, origins, .. } = WebSocketOptions::default();
        Self {
            bind: (Ipv4Addr::LOCALHOST, 1883).into(),
            allow_anonymous: false,
            protocol: ProtocolSetting::Tcp,
            tls: None,
            path,
            origins,
            mountpoint: None,
        }
    }
}

impl ListenerSettings {
    /// What a WebSocket expects; a message may be as large as a packet, with room for others beside it.
    pub(crate) fn websocket(&self, max_packet_bytes: usize) -> WebSocketOptions {
        /// Bytes of other packets in the message of the largest one.
        const ROOM_BYTES: usize = 64 * 1024;
        WebSocketOptions {
            path: self.path.clone(),
            origins: self.origins.clone(),
            max_message_bytes: max_packet_bytes.saturating_add(ROOM_BYTES),
            ..WebSocketOptions::default()
        }
    }

    /// The mountpoint. A loaded one was checked, so it is not left out.
    pub(crate) fn mountpoint(&self) -> Option<Mountpoint> {
        self.mountpoint.as_deref().and_then(|text| Mountpoint::parse(text).ok())
    }
}

/// `[listeners.NAME.tls]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "named as in `[kafka.NAME.tls]`")]
pub(crate) struct ListenerTlsSettings {
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
    /// The authorities of clients: with it, nobody gets in without a certificate that one of them has signed.
    #[serde(default)]
    pub(crate) client_ca_file: Option<PathBuf>,
}

impl ListenerTlsSettings {
    pub(crate) fn options(&self) -> TlsOptions {
        let options = TlsOptions::new(&self.certificate_file, &self.key_file);
        TlsOptions { client_ca_file: self.client_ca_file.clone(), ..options }
    }
}

/// What clients speak below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolSetting {
    Tcp,
    WebSocket,
}

/// `[authentication]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AuthenticationSettings {
    /// Enhanced authentication of MQTT 5.0 with SCRAM-SHA-256.
    pub(crate) scram: Option<ScramSettings>,
}

impl AuthenticationSettings {
    fn is_empty(&self) -> bool {
        self.scram.is_none()
    }
}

/// `[authentication.scram]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScramSettings {
    /// The file that `tidegate passwd --scram` makes.
    pub(crate) file: PathBuf,
}

/// What is wrong with them.
pub(super) fn check(settings: &Settings, errors: &mut ConfigErrors) {
    for (name, listener) in &settings.listeners {
        let asks_for_certificates = listener.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        let lets_everyone_in = settings.authentication.is_empty() && !asks_for_certificates;
        if lets_everyone_in && !listener.bind.ip().is_loopback() && !listener.allow_anonymous {
            errors.push(
                format!("listeners.{name}.bind"),
                format!(
                    "{} can be reached from other machines, and everyone may connect: say `allow_anonymous = true` \
                     if you mean it, bind to 127.0.0.1, or ask who they are with [authentication.scram] or `tls.client_ca_file`",
                    listener.bind
                ),
            );
        }
        let default = ListenerSettings::default();
        if listener.protocol == ProtocolSetting::Tcp {
            let keys =
                [("path", listener.path != default.path), ("origins", listener.origins != default.origins)];
            for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
                errors.push(
                    format!("listeners.{name}.{key}"),
                    "only a WebSocket has one: say `protocol = \"websocket\"`, or leave it out",
                );
            }
        } else if !listener.path.starts_with('/') {
            errors.push(
                format!("listeners.{name}.path"),
                format!("`{}` does not begin with `/`", listener.path),
            );
        }
        if let Some(Err(error)) = listener.mountpoint.as_deref().map(Mountpoint::parse) {
            errors.push(format!("listeners.{name}.mountpoint"), error);
        }
    }
}
