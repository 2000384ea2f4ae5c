//! A listener of a real Kafka that wants certificates of both sides, and the broker's half of it.

use std::io;

use crate::certificates::{Authority, Identity};
use crate::folder::Folder;

/// The files of both sides in a folder, which a test replaces while both run. The broker takes new ones by itself; Kafka
/// reads its own when it starts.
#[derive(Debug, Clone)]
pub struct KafkaTls(Folder);

impl KafkaTls {
    /// Files in this folder, all from one authority: what each side shows, and whom it trusts.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn new(folder: Folder, authority: &Authority) -> io::Result<Self> {
        let files = Self(folder);
        files.kafka_moves_to(authority)?;
        files.broker_moves_to(authority)?;
        Ok(files)
    }

    /// Replaces what Kafka shows and whom it trusts.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn kafka_moves_to(&self, authority: &Authority) -> io::Result<()> {
        self.kafka_shows(&authority.sign("127.0.0.1").map_err(io::Error::other)?)?;
        self.kafka_trusts(authority)
    }

    /// Replaces what the broker shows and whom it trusts.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn broker_moves_to(&self, authority: &Authority) -> io::Result<()> {
        self.broker_shows(&authority.sign("tidegate").map_err(io::Error::other)?)?;
        self.broker_trusts(authority)
    }

    /// The options of [`RealKafka::start_with`](crate::kafka::RealKafka::start_with) for its listener, which is `TLS`.
    pub fn listener(&self) -> Vec<String> {
        let file = |name: &str| self.0.path(name).display().to_string();
        let settings = [
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", file("server.pem")),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", file("server-ca.pem")),
            "ssl.client.auth=required".to_owned(),
        ];
        let set = |setting| ["--set".to_owned(), format!("listener.name.tls.{setting}")];
        let listener = ["--listener", "TLS=SSL"].map(str::to_owned);
        listener.into_iter().chain(settings.into_iter().flat_map(set)).collect()
    }

    /// The section of the broker's configuration for its Kafka of this name.
    pub fn section(&self, kafka: &str) -> String {
        let file = |name: &str| self.0.path(name).display().to_string();
        let (ca, certificate, key) = (file("ca.pem"), file("own.pem"), file("own.key"));
        format!(
            "[kafka.{kafka}.tls]\nca_file = \"{ca}\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n"
        )
    }

    /// Replaces what Kafka shows.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn kafka_shows(&self, identity: &Identity) -> io::Result<()> {
        self.0.write("server.pem", identity.key.clone() + &identity.certificate)
    }

    /// Replaces whom Kafka trusts.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn kafka_trusts(&self, authority: &Authority) -> io::Result<()> {
        self.0.write("server-ca.pem", authority.pem())
    }

    /// Replaces what the broker shows.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn broker_shows(&self, identity: &Identity) -> io::Result<()> {
        self.0.write("own.pem", &identity.certificate)?;
        self.0.write("own.key", &identity.key)
    }

    /// Replaces whom the broker trusts.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn broker_trusts(&self, authority: &Authority) -> io::Result<()> {
        self.0.write("ca.pem", authority.pem())
    }
}
