//! Where clients connect, and how they show who they are: `[listeners.NAME]` and `[authentication]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_broker::Mountpoint;

use super::Settings;
use super::error::ConfigErrors;

/// `[listeners.NAME]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListenerSettings {
    pub(crate) bind: SocketAddr,
    /// The word that it takes to let everyone in: beyond loopback, or beside an `[authentication]`.
    pub(crate) allow_anonymous: bool,
    /// What stands in front of every topic of its clients, without their knowing: `plant-7/`.
    pub(crate) mountpoint: Option<String>,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self { bind: (Ipv4Addr::LOCALHOST, 1883).into(), allow_anonymous: false, mountpoint: None }
    }
}

impl ListenerSettings {
    /// The mountpoint. A loaded one was checked, so it is not left out.
    pub(crate) fn mountpoint(&self) -> Option<Mountpoint> {
        self.mountpoint.as_deref().and_then(|text| Mountpoint::parse(text).ok())
    }
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
        let lets_everyone_in = settings.authentication.is_empty();
        if lets_everyone_in && !listener.bind.ip().is_loopback() && !listener.allow_anonymous {
            errors.push(
                format!("listeners.{name}.bind"),
                format!(
                    "{} can be reached from other machines, and everyone may connect: say `allow_anonymous = true` \
                     if you mean it, bind to 127.0.0.1, or ask who they are with [authentication.scram]",
                    listener.bind
                ),
            );
        }
        if let Some(Err(error)) = listener.mountpoint.as_deref().map(Mountpoint::parse) {
            errors.push(format!("listeners.{name}.mountpoint"), error);
        }
    }
}
