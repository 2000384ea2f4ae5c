//! Certificates that a test makes for itself: authorities, what they sign, and clients that trust them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// An authority of its own name and key.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What is shown.
    pub certificate: String,
    /// What is kept secret.
    pub key: String,
}

impl Authority {
    /// Returns a new authority, which nobody trusts yet.
    ///
    /// # Errors
    ///
    /// When there is no randomness for its key.
    pub fn new() -> Result<Self, rcgen::Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Two authorities of one name would be taken for each other.
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Its own certificate: who has it trusts what it signs.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns a certificate for a host name or an address.
    ///
    /// # Errors
    ///
    /// When the name is none.
    pub fn sign(&self, name: &str) -> Result<Identity, rcgen::Error> {
        self.issue(&CertificateParams::new(vec![name.to_owned()])?)
    }

    /// The same, but it was valid until 2021-02-03.
    ///
    /// # Errors
    ///
    /// When the name is none.
    pub fn sign_expired(&self, name: &str) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 2, 3);
        self.issue(&params)
    }

    /// Returns a client of TLS that trusts this authority alone, and shows `own`.
    ///
    /// # Errors
    ///
    /// When `own` is not what this module signed.
    pub fn client(&self, own: Option<&Identity>) -> Result<TlsConnector, rustls::Error> {
        let certificate = |pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| rustls::Error::General(error.to_string()))
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.pem)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match own {
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes());
                let key = key.map_err(|error| rustls::Error::General(error.to_string()))?;
                config.with_client_auth_cert(vec![certificate(&own.certificate)?], key)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn issue(&self, params: &CertificateParams) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}
