//! MQTT over TLS: a listener around another, with certificates from files that are looked at again and again.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::{Accept, TlsAcceptor, server};

use crate::listener::{Listener, Peer};

/// A file with certificates or a key is read up to this size.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// From one look at the files to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a TLS listener shows, and whom it lets in. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate, and behind it those that lead to its authority.
    pub certificate_file: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1, without a password.
    pub key_file: PathBuf,
    /// The authorities of clients. With it, nobody gets in without a certificate that one of them has signed.
    pub client_ca_file: Option<PathBuf>,
    /// Handshakes that may be going on. While there are more, nothing more is accepted; each has
    /// [`Config::connect_timeout`](crate::Config::connect_timeout), together with CONNECT.
    pub max_handshakes: usize,
}

impl TlsOptions {
    /// A listener that shows this certificate and lets in everyone.
    pub fn new(certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            certificate_file: certificate_file.into(),
            key_file: key_file.into(),
            client_ca_file: None,
            max_handshakes: 1000,
        }
    }
}

/// Why a file can't be used for a TLS listener.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting}: {}: {reason}", .path.display())]
#[non_exhaustive]
pub struct TlsError {
    /// The field of [`TlsOptions`].
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A listener whose clients speak TLS 1.2 or 1.3 over the streams of another listener.
///
/// New contents of the files hold for handshakes from a second later on, and change nothing for the connections that
/// there are. Contents that can't be used are logged, and those from before stay.
#[derive(Debug)]
pub struct Tls<L> {
    inner: L,
    config: Arc<ArcSwap<ServerConfig>>,
    handshakes: Arc<Semaphore>,
    /// Looks at the files for as long as the listener lives.
    _watch: JoinSet<()>,
}

impl<L: Listener> Tls<L> {
    /// TLS over what `inner` accepts. Reads the files, which takes as long as the disk does.
    ///
    /// # Errors
    /// A file can't be read or used.
    ///
    /// # Panics
    /// Outside of a tokio runtime, on which it looks at the files.
    pub fn over(inner: L, options: TlsOptions) -> Result<Self, TlsError> {
        let handshakes = Arc::new(Semaphore::new(options.max_handshakes.clamp(1, Semaphore::MAX_PERMITS)));
        let contents = Contents::read(&options)?;
        let config = Arc::new(ArcSwap::from_pointee(contents.load(&options)?));
        let mut watch = JoinSet::new();
        watch.spawn(follow(options, contents, Arc::clone(&config)));
        Ok(Self { inner, config, handshakes, _watch: watch })
    }

    /// The listener below.
    pub fn inner(&self) -> &L {
        &self.inner
    }
}

impl<L: Listener> Listener for Tls<L> {
    type Stream = TlsStream<L::Stream>;

    /// Returns streams that have not shaken hands yet: the first read does it, in the task of the connection, so that
    /// nobody waits for somebody else's handshake.
    async fn accept(&mut self) -> io::Result<(Self::Stream, Peer)> {
        let place = Arc::clone(&self.handshakes).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.inner.accept().await?;
        let accept = Box::new(TlsAcceptor::from(self.config.load_full()).accept(stream));
        Ok((TlsStream { state: State::Shaking { accept, peer, _place: place } }, peer))
    }
}

/// The bytes inside TLS.
pub struct TlsStream<S> {
    state: State<S>,
}

enum State<S> {
    Shaking { accept: Box<Accept<S>>, peer: Peer, _place: OwnedSemaphorePermit },
    Open(Box<server::TlsStream<S>>),
    Failed,
}

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Shaking { .. } => "TlsStream(shaking hands)",
            State::Open(_) => "TlsStream(open)",
            State::Failed => "TlsStream(failed)",
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// The open stream, after the handshake.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut server::TlsStream<S>>>> {
        if let State::Shaking { accept, peer, .. } = &mut self.state {
            self.state = match ready!(Pin::new(accept).poll(cx)) {
                Ok(stream) => State::Open(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(peer = ?peer.address, %error, "TLS handshake failed");
                    self.state = State::Failed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        Poll::Ready(match &mut self.state {
            State::Open(stream) => Ok(Pin::new(stream)),
            State::Shaking { .. } | State::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_shutdown(cx)
    }
}

/// Takes new contents of the files for as long as it runs.
async fn follow(options: TlsOptions, contents: Contents, config: Arc<ArcSwap<ServerConfig>>) {
    let options = Arc::new(options);
    let mut seen = Ok(contents);
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let reading = Arc::clone(&options);
        // It does not panic: it was not run, because the runtime ends.
        let Ok(found) = tokio::task::spawn_blocking(move || Contents::read(&reading)).await else { return };
        if found == seen {
            continue;
        }
        match found.as_ref().map_err(TlsError::clone).and_then(|contents| contents.load(&options)) {
            Ok(new) => {
                config.store(Arc::new(new));
                tracing::info!(certificate = %options.certificate_file.display(), "new TLS files are used from now on");
            }
            Err(error) => tracing::warn!(%error, "the new TLS files can't be used; the old ones stay"),
        }
        seen = found;
    }
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(options: &TlsOptions) -> Result<Self, TlsError> {
        let client_ca = options.client_ca_file.as_deref().map(|path| read("client_ca_file", path));
        Ok(Self {
            certificate: read("certificate_file", &options.certificate_file)?,
            key: read("key_file", &options.key_file)?,
            client_ca: client_ca.transpose()?,
        })
    }

    fn load(&self, options: &TlsOptions) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3");
        let builder = match (&self.client_ca, &options.client_ca_file) {
            (Some(pem), Some(path)) => {
                let wrong = |error: &dyn ToString| TlsError::new("client_ca_file", path, error);
                let mut roots = RootCertStore::empty();
                for certificate in certificates_in("client_ca_file", pem, path)? {
                    roots.add(certificate).map_err(|error| wrong(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(&error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates_in("certificate_file", &self.certificate, &options.certificate_file)?;
        let wrong = |reason: &dyn ToString| TlsError::new("key_file", &options.key_file, reason);
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| wrong(&format_args!("no private key in PEM: {error}")))?;
        builder.with_single_cert(chain, key).map_err(|error| {
            wrong(&format_args!("does not go with {}: {error}", options.certificate_file.display()))
        })
    }
}

impl TlsError {
    fn new(setting: &'static str, path: &Path, reason: &dyn ToString) -> Self {
        Self { setting, path: path.to_owned(), reason: reason.to_string() }
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut contents = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut contents))
        .map_err(|error| TlsError::new(setting, path, &error))?;
    Ok(contents)
}

fn certificates_in(
    setting: &'static str,
    pem: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if found.is_empty() => Err(TlsError::new(setting, path, &"no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError::new(setting, path, &error)),
    }
}
