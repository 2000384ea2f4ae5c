//! SASL: who we are to Kafka, and the secrets that prove it, which are read anew for each new connection.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rskafka::client::{Credentials, OauthBearerCredentials, SaslConfig};
use thiserror::Error;

use crate::token::{TokenEndpoint, TokenError};

/// A file with a secret is read up to this size.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// How to authenticate.
#[derive(Debug, Clone)]
pub enum Sasl {
    /// PLAIN (RFC 4616): the password travels as it is, so only over TLS or a network that is trusted.
    Plain(Login),
    /// SCRAM-SHA-256 (RFC 7677).
    ScramSha256(Login),
    /// SCRAM-SHA-512.
    ScramSha512(Login),
    /// OAUTHBEARER (RFC 7628).
    OauthBearer(TokenSource),
}

/// A user and what proves it.
#[derive(Debug, Clone)]
pub struct Login {
    /// The name, as Kafka knows it.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// Where a bearer token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// A file that somebody else keeps fresh, such as a projected service account token.
    File(PathBuf),
    /// A token endpoint.
    Endpoint(Arc<TokenEndpoint>),
}

/// A secret, which `Debug` does not show.
#[derive(Clone)]
pub enum Secret {
    /// The secret itself.
    Text(String),
    /// A file that holds it; one line break at its end is not part of it. Read whenever the secret is needed, so that it
    /// can change.
    File(PathBuf),
}

/// Why a secret can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {reason}", path.display())]
#[non_exhaustive]
pub struct SecretError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(***)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Secret {
    /// The secret as it is now. Blocks for as long as a small file takes.
    ///
    /// # Errors
    /// When the file can't be read, is empty, or is no text.
    pub fn read(&self) -> Result<String, SecretError> {
        let path = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text));
        let wrong = |reason: String| Err(SecretError { path: path.clone(), reason });
        match read {
            Err(error) => return wrong(error.to_string()),
            Ok(bytes) if bytes as u64 > MAX_SECRET_BYTES => {
                return wrong(format!("larger than {MAX_SECRET_BYTES} bytes"));
            }
            Ok(_) => {}
        }
        let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
        if secret.is_empty() { wrong("it is empty".to_owned()) } else { Ok(secret.to_owned()) }
    }

    /// [`Self::read`], away from the runtime's threads.
    pub(crate) async fn fetch(&self) -> Result<String, SecretError> {
        let secret = self.clone();
        tokio::task::spawn_blocking(move || secret.read()).await.unwrap_or_else(|_| {
            // The runtime ends, and this connection with it.
            Err(SecretError { path: PathBuf::new(), reason: "not read".to_owned() })
        })
    }
}

/// Why there is nothing to authenticate with.
#[derive(Debug, Error)]
pub(crate) enum CredentialError {
    #[error("password_file: {0}")]
    Password(SecretError),
    #[error("token_file: {0}")]
    TokenFile(SecretError),
    #[error("token_endpoint: {0}")]
    Endpoint(#[from] TokenError),
}

impl Sasl {
    /// The mechanism's name.
    pub(crate) fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain(_) => "PLAIN",
            Self::ScramSha256(_) => "SCRAM-SHA-256",
            Self::ScramSha512(_) => "SCRAM-SHA-512",
            Self::OauthBearer(_) => "OAUTHBEARER",
        }
    }

    /// What to do when Kafka refuses, for an operator.
    pub(crate) fn remedy(&self) -> String {
        let login = |login: &Login| match &login.password {
            Secret::Text(_) => format!("is the password of `{}` right?", login.username),
            Secret::File(path) => {
                format!("is the password of `{}` in {} right?", login.username, path.display())
            }
        };
        match self {
            Self::Plain(user) | Self::ScramSha256(user) | Self::ScramSha512(user) => login(user),
            Self::OauthBearer(TokenSource::File(path)) => {
                format!("is the token in {} still valid?", path.display())
            }
            Self::OauthBearer(TokenSource::Endpoint(endpoint)) => {
                format!("does Kafka accept tokens of {}?", endpoint.url())
            }
        }
    }

    /// Everything that a conversation needs, with the secrets of this moment.
    pub(crate) async fn credentials(&self) -> Result<SaslConfig, CredentialError> {
        let (login, config): (_, fn(Credentials) -> SaslConfig) = match self {
            Self::Plain(login) => (login, SaslConfig::Plain),
            Self::ScramSha256(login) => (login, SaslConfig::ScramSha256),
            Self::ScramSha512(login) => (login, SaslConfig::ScramSha512),
            Self::OauthBearer(source) => return Ok(bearer(source.token().await?)),
        };
        let password = login.password.fetch().await.map_err(CredentialError::Password)?;
        Ok(config(Credentials::new(login.username.clone(), password)))
    }

    /// Kafka did not take what [`Self::credentials`] gave: a token that was kept is of no use.
    pub(crate) async fn refused(&self) {
        if let Self::OauthBearer(TokenSource::Endpoint(endpoint)) = self {
            endpoint.forget().await;
        }
    }
}

impl TokenSource {
    async fn token(&self) -> Result<String, CredentialError> {
        match self {
            Self::File(path) => Secret::File(path.clone()).fetch().await.map_err(CredentialError::TokenFile),
            Self::Endpoint(endpoint) => Ok(endpoint.token().await?),
        }
    }
}

fn bearer(token: String) -> SaslConfig {
    SaslConfig::Oauthbearer(OauthBearerCredentials {
        callback: Arc::new(move || {
            let token = token.clone();
            Box::pin(async move { Ok(token) })
        }),
        authz_id: None,
        bearer_kvs: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let login = Login { username: "tide".to_owned(), password: Secret::Text("hunter2".to_owned()) };
        let shown = format!("{:?}", Sasl::Plain(login));
        assert!(shown.contains("tide") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_secret_is_read_anew_and_its_line_break_is_no_part_of_it() {
        let path = std::env::temp_dir().join(format!("tidegate-secret-{}", std::process::id()));
        let secret = Secret::File(path.clone());
        for (contents, expected) in [("one\n", "one"), ("two\r\n", "two"), (" three \n\n", " three \n")] {
            std::fs::write(&path, contents).unwrap();
            assert_eq!(secret.read().as_deref(), Ok(expected));
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(secret.read().unwrap_err().to_string().contains("it is empty"));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(secret.read().unwrap_err().to_string().contains("larger"));
        std::fs::remove_file(&path).unwrap();
        let error = secret.read().unwrap_err().to_string();
        assert!(error.contains("tidegate-secret"), "{error}");
    }
}
