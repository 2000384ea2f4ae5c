//! Which partition a record goes to.

use std::fmt;

use tidegate_sink::Record;

use crate::murmur2::{murmur2, to_positive};

/// Chooses the partition of a record that names none.
pub trait Partitioner: fmt::Debug + Send + Sync + 'static {
    /// The partition, counted from zero. `partitions` is not zero; a result beyond them is taken modulo. `sticky` is the
    /// partition whose batch is being filled now: the choice for records that may go anywhere, because full batches are
    /// cheaper than many small ones.
    fn partition(&self, record: &Record<'_>, partitions: u32, sticky: u32) -> u32;
}

/// What Kafka's Java clients do: murmur2 of the key, and the sticky partition where there is no key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JavaPartitioner;

impl Partitioner for JavaPartitioner {
    fn partition(&self, record: &Record<'_>, partitions: u32, sticky: u32) -> u32 {
        record.key.map_or(sticky, |key| to_positive(murmur2(key)) % partitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_partition_and_no_key_sticks() {
        let of = |key| JavaPartitioner.partition(&Record { key, ..Record::new("t") }, 10, 7);
        assert_eq!(of(Some(b"21")), 0, "1173551340 % 10");
        assert_eq!(of(None), 7);
        assert_eq!(of(Some(b"")), to_positive(murmur2(b"")) % 10, "an empty key is a key");
    }
}
