//! Why the server can't start.

use std::io;
use std::path::PathBuf;

/// Why [`Builder::start`](crate::Builder::start) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Someone else listens there, perhaps a Kafka of the user's own.
    #[error("{addr} is taken by another process")]
    AddrInUse {
        /// The address as it was to be bound.
        addr: String,
    },
    /// The address can't be bound for another reason.
    #[error("can't listen on {addr}")]
    Bind {
        /// The address as it was given.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory can't be read or written.
    #[error("can't use {}", path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment is damaged in a place that no interrupted write explains. Nothing was changed.
    #[error("{} is damaged at byte {position}: move it away to start without it", path.display())]
    Corrupt {
        /// The segment file.
        path: PathBuf,
        /// Bytes before the damage.
        position: u64,
    },
    /// Another process uses the data directory.
    #[error("{} is in use by another process", path.display())]
    DirectoryInUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The builder was given values that can't be.
    #[error("{0}")]
    Config(&'static str),
}
