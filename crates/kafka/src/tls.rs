//! TLS to Kafka's nodes, from PEM files that are looked at again for each new connection: a certificate is renewed by
//! replacing its file.

use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use thiserror::Error;
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use crate::connect::{Connect, Connecting, PlainTcp, Stream};

/// A file with certificates or a key is read up to this size.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Whom to trust and who to be. All files are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The authorities that may have signed a node's certificate. `None`: those of the system, or Mozilla's on a system
    /// that has none.
    pub ca_file: Option<PathBuf>,
    /// Who to be, where nodes ask for a certificate.
    pub identity: Option<TlsIdentity>,
    /// The name that a node's certificate has to carry. `None`: the host that is dialled.
    pub server_name: Option<String>,
}

/// A client's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate, and behind it those that lead to its authority.
    pub certificate_file: PathBuf,
    /// The key: PKCS#8, PKCS#1 or SEC1, without a password.
    pub key_file: PathBuf,
}

/// Why a file, or a name, can't be used for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting}: {reason}")]
#[non_exhaustive]
pub struct TlsError {
    /// The field of [`TlsConfig`] or [`TlsIdentity`].
    pub setting: &'static str,
    /// What is wrong with it, with the name of its file.
    pub reason: String,
}

/// TCP with TLS 1.2 or 1.3.
///
/// Files are read again for each new connection. New contents that can't be used change nothing: the old ones stay, and
/// [`Connect::problem`] says why.
pub struct Tls {
    config: TlsConfig,
    server_name: Option<ServerName<'static>>,
    loaded: Arc<Mutex<Loaded>>,
}

struct Loaded {
    connector: TlsConnector,
    own: Option<OwnCertificate>,
    /// Of the contents that were looked at last, whether they could be used or not.
    fingerprint: u64,
    hasher: RandomState,
    /// Why the newest contents are not used.
    refused: Option<TlsError>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Says which setting is wrong, and why.
    pub fn new(config: TlsConfig) -> Result<Self, TlsError> {
        let server_name = config.server_name.clone().map(|name| {
            let parsed = ServerName::try_from(name);
            parsed.map_err(|error| TlsError { setting: "server_name", reason: error.to_string() })
        });
        let server_name = server_name.transpose()?;
        let contents = Contents::read(&config)?;
        let hasher = RandomState::new();
        let fingerprint = hasher.hash_one(&contents);
        let (connector, own) = contents.load(&config)?;
        let loaded = Loaded { connector, own, fingerprint, hasher, refused: None };
        Ok(Self { config, server_name, loaded: Arc::new(Mutex::new(loaded)) })
    }

    /// The newest contents that can be used.
    async fn connector(&self) -> io::Result<TlsConnector> {
        let (config, loaded) = (self.config.clone(), Arc::clone(&self.loaded));
        tokio::task::spawn_blocking(move || {
            let mut loaded = loaded.lock();
            loaded.refresh(&config);
            loaded.connector.clone()
        })
        .await
        .map_err(io::Error::other)
    }
}

impl Loaded {
    fn refresh(&mut self, config: &TlsConfig) {
        let contents = match Contents::read(config) {
            Ok(contents) => contents,
            Err(error) => {
                // Contents that come back as they were are new again.
                self.fingerprint = 0;
                return self.refuse(error);
            }
        };
        let fingerprint = self.hasher.hash_one(&contents);
        if fingerprint == self.fingerprint {
            return;
        }
        match contents.load(config) {
            Ok((connector, own)) => {
                info!("new TLS files are used from now on");
                (self.connector, self.own, self.refused) = (connector, own, None);
            }
            Err(error) => self.refuse(error),
        }
        self.fingerprint = fingerprint;
    }

    fn refuse(&mut self, error: TlsError) {
        if self.refused.as_ref() != Some(&error) {
            warn!(%error, "the new TLS files can't be used; the old ones stay");
            self.refused = Some(error);
        }
    }
}

impl Connect for Tls {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let connector = self.connector().await?;
            let name = match &self.server_name {
                Some(name) => name.clone(),
                None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
            };
            let stream = PlainTcp::dial(host, port).await?;
            let stream = connector.connect(name, stream).await.map_err(in_handshake)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn problem(&self) -> Option<String> {
        let loaded = self.loaded.lock();
        let refused = loaded.refused.as_ref().map(|error| format!("{error}; the files from before are used"));
        refused.or_else(|| loaded.own.as_ref()?.problem())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.config).finish()
    }
}

/// What the files hold.
#[derive(Hash)]
struct Contents {
    authorities: Option<Vec<u8>>,
    /// Certificate and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Contents {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let authorities = config.ca_file.as_deref().map(|path| read("ca_file", path)).transpose()?;
        let identity = config.identity.as_ref().map(|identity| {
            let certificate = read("certificate_file", &identity.certificate_file)?;
            Ok((certificate, read("key_file", &identity.key_file)?))
        });
        Ok(Self { authorities, identity: identity.transpose()? })
    }

    fn load(self, config: &TlsConfig) -> Result<(TlsConnector, Option<OwnCertificate>), TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = match (&self.authorities, &config.ca_file) {
            (Some(pem), Some(path)) => authorities_in(pem, path)?,
            _ => system_authorities(),
        };
        let roots = Arc::new(roots);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(Arc::clone(&roots));
        let (Some((certificate, key)), Some(files)) = (self.identity, &config.identity) else {
            return Ok((TlsConnector::from(Arc::new(builder.with_no_client_auth())), None));
        };
        let chain = certificates_in("certificate_file", &certificate, &files.certificate_file)?;
        let wrong = |setting, path: &Path, reason: &dyn fmt::Display| TlsError {
            setting,
            reason: format!("{}: {reason}", path.display()),
        };
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
            wrong("key_file", &files.key_file, &format_args!("no private key in PEM: {error}"))
        })?;
        let own = OwnCertificate::new(files.certificate_file.clone(), &chain, &roots, provider);
        let config = builder.with_client_auth_cert(chain, key).map_err(|error| {
            let reason = format_args!("does not go with {}: {error}", files.certificate_file.display());
            wrong("key_file", &files.key_file, &reason)
        })?;
        Ok((TlsConnector::from(Arc::new(config)), own))
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut contents = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut contents));
    match file {
        Ok(_) => Ok(contents),
        Err(error) => Err(TlsError { setting, reason: format!("{}: {error}", path.display()) }),
    }
}

fn certificates_in(
    setting: &'static str,
    pem: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let reason = match found {
        Ok(found) if found.is_empty() => "no certificate in PEM".to_owned(),
        Ok(found) => return Ok(found),
        Err(error) => error.to_string(),
    };
    Err(TlsError { setting, reason: format!("{}: {reason}", path.display()) })
}

fn authorities_in(pem: &[u8], path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in("ca_file", pem, path)? {
        roots.add(certificate).map_err(|error| TlsError {
            setting: "ca_file",
            reason: format!("{}: {error}", path.display()),
        })?;
    }
    Ok(roots)
}

/// Those of the system; a container often has none.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Our own certificate, to tell that it has expired: the node that refuses it says only that it does.
struct OwnCertificate {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
}

impl OwnCertificate {
    fn new(
        path: PathBuf,
        chain: &[CertificateDer<'static>],
        roots: &Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Option<Self> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider).build().ok()?;
        Some(Self { path, chain: chain.to_vec(), verifier })
    }

    /// Whether its time is over, or has not come. Who signed it is the node's to judge.
    fn problem(&self) -> Option<String> {
        let (own, others) = self.chain.split_first()?;
        match self.verifier.verify_client_cert(own, others, UnixTime::now()) {
            Err(rustls::Error::InvalidCertificate(error)) => {
                let reason = validity(&error)?;
                Some(format!("certificate_file: {}: {reason}", self.path.display()))
            }
            _ => None,
        }
    }
}

/// When a certificate's time was over, or begins, if that is what is wrong with it.
fn validity(error: &CertificateError) -> Option<String> {
    let date = |time: &UnixTime| {
        let time = UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs());
        humantime::format_rfc3339_seconds(time).to_string()
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            Some(format!("the certificate expired on {}", date(not_after)))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            Some(format!("the certificate is valid from {} on", date(not_before)))
        }
        CertificateError::Expired => Some("the certificate has expired".to_owned()),
        CertificateError::NotValidYet => Some("the certificate is not valid yet".to_owned()),
        _ => None,
    }
}

const NO_TLS: &str = "does this port speak TLS, or is it a PLAINTEXT listener?";

/// Says what a failed handshake means.
fn in_handshake(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let reason = format!("TLS: the node closed the connection in the handshake; {NO_TLS}");
        return io::Error::new(error.kind(), reason);
    }
    explain(error)
}

/// Says what an error of TLS means to an operator, in words that do not change from attempt to attempt. Others stay.
pub(crate) fn explain(error: io::Error) -> io::Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error;
    };
    let reason = match tls {
        rustls::Error::InvalidCertificate(invalid) => match validity(invalid) {
            Some(reason) => format!("TLS: {reason} (that of the node)"),
            None => format!("TLS: the node's certificate is refused: {invalid}"),
        },
        rustls::Error::InvalidMessage(_) => format!("TLS: the node's answer is not TLS; {NO_TLS}"),
        rustls::Error::AlertReceived(alert) => format!(
            "TLS: the node refuses the connection with alert {alert:?}; does it want a client certificate, or \
             another one?"
        ),
        other => format!("TLS: {other}"),
    };
    io::Error::new(error.kind(), reason)
}
