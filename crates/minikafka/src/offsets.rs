//! How far groups have read, and the file that remembers it: a checksum, then one structure of the protocol.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::producer_ids::write_whole;
use crate::wire::{Malformed, Reader, Writer};

/// Partitions whose offset one group may commit.
pub(crate) const MAX_OFFSETS: usize = 16_384;
/// Bytes of the text that a client may leave with an offset, as in Kafka.
pub(crate) const MAX_METADATA_BYTES: usize = 4096;

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: Option<String>,
}

/// A group's offsets, by topic and partition.
pub(crate) type Offsets = BTreeMap<(String, i32), Committed>;

/// Replaces the file by these groups' offsets.
pub(crate) fn save(path: &Path, groups: &BTreeMap<String, Offsets>) -> io::Result<()> {
    let mut w = Writer::new(true);
    w.array(groups.iter(), |w, (group, offsets)| {
        w.string(group);
        w.array(offsets.iter(), |w, ((topic, partition), committed)| {
            w.string(topic);
            w.i32(*partition);
            w.i64(committed.offset);
            w.i32(committed.leader_epoch);
            w.nullable_string(committed.metadata.as_deref());
        });
    });
    let content = w.into_bytes();
    let mut file = BytesMut::with_capacity(content.len() + 4);
    file.put_u32(crc32c::crc32c(&content));
    file.put_slice(&content);
    write_whole(path, &file)
}

/// Reads what [`save`] wrote; nothing if it never did.
pub(crate) fn load(path: &Path) -> io::Result<Vec<(String, Offsets)>> {
    let mut file = match std::fs::read(path) {
        Ok(file) => Bytes::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the groups' offsets are damaged");
    if file.len() < 4 || file.get_u32() != crc32c::crc32c(&file) {
        return Err(damaged());
    }
    read(file).map_err(|_| damaged())
}

fn read(content: Bytes) -> Result<Vec<(String, Offsets)>, Malformed> {
    Reader::new(content, true).array(|r| {
        let group = r.string()?;
        let offsets = r.array(|r| {
            let place = (r.string()?, r.i32()?);
            let (offset, leader_epoch, metadata) = (r.i64()?, r.i32()?, r.nullable_string()?);
            Ok((place, Committed { offset, leader_epoch, metadata }))
        })?;
        Ok((group, offsets.into_iter().collect()))
    })
}
