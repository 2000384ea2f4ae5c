//! `[kafka.NAME.tls]` and `[kafka.NAME.sasl]`: how a connection to Kafka is encrypted, and who we are to it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_kafka::{
    Connect, Login, PlainTcp, Sasl, Secret, SecretError, Tls, TlsConfig, TlsIdentity, TokenEndpoint,
    TokenSource,
};

use super::ConfigErrors;

/// `[kafka.NAME.tls]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsSettings {
    /// Whom to trust; without it, whom the system trusts.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    /// The name in the brokers' certificates, where it is not the host that is dialled.
    pub(crate) server_name: Option<String>,
}

/// `[kafka.NAME.sasl]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaslSettings {
    pub(crate) mechanism: MechanismSetting,
    #[serde(default)]
    pub(crate) username: Option<String>,
    #[serde(default)]
    pub(crate) password_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) token_endpoint: Option<String>,
    #[serde(default)]
    pub(crate) client_id: Option<String>,
    #[serde(default)]
    pub(crate) client_secret_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) scope: Option<String>,
    /// Whom to trust for an endpoint with https; without it, whom the system trusts.
    #[serde(default)]
    pub(crate) token_ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MechanismSetting {
    Plain,
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    #[serde(rename = "oauthbearer")]
    OauthBearer,
}

impl TlsSettings {
    /// What can be said without looking at the files.
    pub(super) fn check(&self, place: &str, errors: &mut ConfigErrors) {
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => {
                errors.push(format!("{place}.key_file"), "name the key of `certificate_file` too");
            }
            (None, Some(_)) => {
                errors.push(format!("{place}.certificate_file"), "name the certificate of `key_file` too");
            }
            _ => {}
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with one of them, with its key below `place`.
    pub(crate) fn open(&self, place: &str) -> Result<Tls, String> {
        let identity = self.certificate_file.clone().zip(self.key_file.clone());
        let config = TlsConfig {
            ca_file: self.ca_file.clone(),
            identity: identity.map(|(certificate_file, key_file)| TlsIdentity { certificate_file, key_file }),
            server_name: self.server_name.clone(),
        };
        Tls::new(config).map_err(|error| format!("error: {place}.{error}"))
    }
}

impl SaslSettings {
    /// What can be said without looking at the files: each mechanism has its own keys.
    pub(super) fn check(&self, place: &str, errors: &mut ConfigErrors) {
        let is_bearer = self.mechanism == MechanismSetting::OauthBearer;
        let by_endpoint = is_bearer && self.token_endpoint.is_some();
        for (key, is_given, is_allowed, is_needed) in [
            ("username", self.username.is_some(), !is_bearer, !is_bearer),
            ("password_file", self.password_file.is_some(), !is_bearer, !is_bearer),
            ("token_file", self.token_file.is_some(), is_bearer && !by_endpoint, false),
            ("token_endpoint", self.token_endpoint.is_some(), is_bearer, false),
            ("client_id", self.client_id.is_some(), by_endpoint, by_endpoint),
            ("client_secret_file", self.client_secret_file.is_some(), by_endpoint, by_endpoint),
            ("scope", self.scope.is_some(), by_endpoint, false),
            ("token_ca_file", self.token_ca_file.is_some(), by_endpoint, false),
        ] {
            if is_given && !is_allowed {
                errors.push(
                    format!("{place}.{key}"),
                    "does not go with the other keys of this section: remove it",
                );
            }
            if is_needed && !is_given {
                errors.push(format!("{place}.{key}"), "is missing, and this mechanism needs it");
            }
        }
        if is_bearer && self.token_file.is_none() && self.token_endpoint.is_none() {
            errors.push(format!("{place}.token_file"), "name a `token_file`, or a `token_endpoint` to ask");
        }
    }

    /// Reads the secrets once, so that a missing file is told at the start.
    ///
    /// # Errors
    /// What is wrong with one of them, with its key below `place`.
    pub(crate) fn open(&self, place: &str) -> Result<Sasl, String> {
        let readable = |key: &str, path: &Option<PathBuf>| {
            let secret = Secret::File(path.clone().unwrap_or_default());
            let read = secret.read().map(drop);
            read.map_err(|error: SecretError| format!("error: {place}.{key}: {error}"))?;
            Ok::<_, String>(secret)
        };
        let login = || {
            let username = self.username.clone().unwrap_or_default();
            Ok::<_, String>(Login { username, password: readable("password_file", &self.password_file)? })
        };
        Ok(match self.mechanism {
            MechanismSetting::Plain => Sasl::Plain(login()?),
            MechanismSetting::ScramSha256 => Sasl::ScramSha256(login()?),
            MechanismSetting::ScramSha512 => Sasl::ScramSha512(login()?),
            MechanismSetting::OauthBearer => Sasl::OauthBearer(match &self.token_endpoint {
                None => {
                    readable("token_file", &self.token_file)?;
                    TokenSource::File(self.token_file.clone().unwrap_or_default())
                }
                Some(url) => {
                    let secret = readable("client_secret_file", &self.client_secret_file)?;
                    let connect: Arc<dyn Connect> = if url.starts_with("https:") {
                        let tls = TlsConfig { ca_file: self.token_ca_file.clone(), ..TlsConfig::default() };
                        Arc::new(Tls::new(tls).map_err(|error| format!("error: {place}.token_{error}"))?)
                    } else {
                        Arc::new(PlainTcp)
                    };
                    let client_id = self.client_id.clone().unwrap_or_default();
                    let endpoint = TokenEndpoint::new(url, client_id, secret, self.scope.clone(), connect);
                    let endpoint =
                        endpoint.map_err(|error| format!("error: {place}.token_endpoint: {error}"))?;
                    TokenSource::Endpoint(Arc::new(endpoint))
                }
            }),
        })
    }

    /// Whether the password travels as it is.
    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.mechanism, MechanismSetting::Plain | MechanismSetting::OauthBearer)
    }
}
