//! Hands out producer ids, none twice, also across restarts.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Ids reserved by one write to the disk, as in Kafka; a restart wastes at most these.
const BLOCK: i64 = 1000;

/// The source of producer ids.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    file: Option<PathBuf>,
    next: Mutex<Next>,
}

#[derive(Debug)]
struct Next {
    id: i64,
    reserved_below: i64,
}

impl ProducerIds {
    /// Goes on behind what the file says and behind `highest_used`.
    pub(crate) fn open(data_dir: Option<&Path>, highest_used: i64) -> io::Result<Self> {
        let file = data_dir.map(|dir| dir.join("producer_ids"));
        let reserved = match file.as_ref().map(fs::read_to_string) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Some(Ok(text)) => text.trim().parse().unwrap_or(0),
            _ => 0,
        };
        let id = reserved.max(highest_used + 1).max(0);
        Ok(Self { file, next: Mutex::new(Next { id, reserved_below: id }) })
    }

    /// A new id; may use the disk.
    pub(crate) fn take(&self) -> io::Result<i64> {
        let mut next = self.next.lock();
        if let Some(path) = self.file.as_ref().filter(|_| next.id >= next.reserved_below) {
            write_whole(path, format!("{}\n", next.id + BLOCK).as_bytes())?;
            next.reserved_below = next.id + BLOCK;
        }
        next.id += 1;
        Ok(next.id - 1)
    }

    /// The id that will be handed out next.
    pub(crate) fn next(&self) -> i64 {
        self.next.lock().id
    }
}

/// Replaces a file so that a crash leaves the old or the new content, never a mixture.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
