//! Records: borrowed on the way in, owned where they have to wait.

/// A header of a borrowed record: its name, and its value or null.
type Header<'a> = (&'a str, Option<&'a [u8]>);

/// One record on its way to a destination, borrowed from whoever makes it. The feed copies what it keeps, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Destination topic, table, stream: whatever the sink calls it.
    pub topic: &'a str,
    /// Orders records: those with one key keep their order. `None` is no key, which differs from an empty one.
    pub key: Option<&'a [u8]>,
    /// `None` is null (a tombstone in Kafka), which differs from an empty value.
    pub value: Option<&'a [u8]>,
    /// In order; a name may repeat; a value may be null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// An explicit partition instead of the sink's partitioner.
    pub partition: Option<u32>,
}

impl<'a> Record<'a> {
    /// A record for `topic` without key, value and headers, at the Unix epoch: a start for struct update syntax.
    pub fn new(topic: &'a str) -> Self {
        Self { topic, key: None, value: None, headers: &[], timestamp_ms: 0, partition: None }
    }

    /// Bytes of topic, key, value and headers together.
    pub fn payload_bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
        self.topic.len() + self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers
    }
}

/// A record that owns its bytes, in one allocation beside its list of headers (none where there are no headers).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Topic, key, value, then name and value of each header, without separators.
    bytes: Box<[u8]>,
    topic_len: usize,
    key_len: Option<usize>,
    value_len: Option<usize>,
    header_lens: Box<[(usize, Option<usize>)]>,
    timestamp_ms: i64,
    partition: Option<u32>,
}

impl From<&Record<'_>> for OwnedRecord {
    fn from(record: &Record<'_>) -> Self {
        let mut bytes = Vec::with_capacity(record.payload_bytes());
        bytes.extend_from_slice(record.topic.as_bytes());
        bytes.extend_from_slice(record.key.unwrap_or_default());
        bytes.extend_from_slice(record.value.unwrap_or_default());
        for (name, value) in record.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(value.unwrap_or_default());
        }
        Self {
            bytes: bytes.into_boxed_slice(),
            topic_len: record.topic.len(),
            key_len: record.key.map(<[u8]>::len),
            value_len: record.value.map(<[u8]>::len),
            header_lens: record
                .headers
                .iter()
                .map(|(name, value)| (name.len(), value.map(<[u8]>::len)))
                .collect(),
            timestamp_ms: record.timestamp_ms,
            partition: record.partition,
        }
    }
}

impl OwnedRecord {
    /// Destination topic.
    pub fn topic(&self) -> &str {
        text(&self.bytes[..self.topic_len])
    }

    /// The key; `None` is no key, which differs from an empty one.
    pub fn key(&self) -> Option<&[u8]> {
        let start = self.topic_len;
        self.key_len.map(|len| &self.bytes[start..start + len])
    }

    /// The value; `None` is null, which differs from an empty one.
    pub fn value(&self) -> Option<&[u8]> {
        let start = self.topic_len + self.key_len.unwrap_or(0);
        self.value_len.map(|len| &self.bytes[start..start + len])
    }

    /// The headers in order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        let mut at = self.topic_len + self.key_len.unwrap_or(0) + self.value_len.unwrap_or(0);
        self.header_lens.iter().map(move |&(name_len, value_len)| {
            let name = &self.bytes[at..at + name_len];
            at += name_len;
            let value = value_len.map(|len| &self.bytes[at..at + len]);
            at += value_len.unwrap_or(0);
            (text(name), value)
        })
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// The explicit partition, if any.
    pub fn partition(&self) -> Option<u32> {
        self.partition
    }

    /// Runs `use_it` with this record in its borrowed form.
    pub fn with_borrowed<R>(&self, use_it: impl FnOnce(&Record<'_>) -> R) -> R {
        let headers: Vec<Header<'_>> = self.headers().collect();
        use_it(&Record {
            topic: self.topic(),
            key: self.key(),
            value: self.value(),
            headers: &headers,
            timestamp_ms: self.timestamp_ms,
            partition: self.partition,
        })
    }

    /// Bytes that this record holds in memory, its own struct included.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + size_of_val(&*self.header_lens)
    }
}

/// What was copied from a `str`, as one again; the fallback is never taken and costs less words than a panic.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_record_keeps_null_apart_from_empty() {
        let headers: [Header<'_>; 3] = [("a", None), ("a", Some(b"")), ("b", Some(b"xyz"))];
        for (key, value) in
            [(None, None), (Some(&b""[..]), None), (None, Some(&b""[..])), (Some(b"k"), Some(b"value"))]
        {
            let record = Record {
                topic: "t\u{f6}pic",
                key,
                value,
                headers: &headers,
                timestamp_ms: -5,
                partition: Some(3),
            };
            let owned = OwnedRecord::from(&record);
            owned.with_borrowed(|again| assert_eq!(*again, record));
        }
    }
}
