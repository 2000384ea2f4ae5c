//! Durations and sizes with their units, as people write them: `"90 s"`, `"256 KiB"`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period(Duration);

impl Period {
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(crate) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(crate) const fn get(self) -> Duration {
        self.0
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text {
            wanted: "a duration with its unit, such as \"250 ms\", \"10 s\" or \"2 h\"",
            parse: |text| humantime::parse_duration(text).ok().map(Self),
        })
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    pub(crate) const fn kibibytes(count: u64) -> Self {
        Self(count * 1024)
    }

    pub(crate) const fn mebibytes(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    #[cfg(test)]
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }

    /// As an amount of disk.
    pub(crate) const fn as_u64(self) -> u64 {
        self.0
    }

    /// As an amount of memory; more than can be addressed is all of it.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// As a Maximum Packet Size, which has 32 bits and is not 0.
    pub(crate) fn packet_size(self) -> NonZeroU32 {
        NonZeroU32::new(u32::try_from(self.0).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&ByteSize(self.0))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text {
            wanted: "a size with its unit, such as \"64 KiB\" or \"1 MiB\"",
            parse: |text| ByteSize::from_str(text).ok().map(|size| Self(size.as_u64())),
        })
    }
}

/// Reads a text that means something; a bare number lacks its unit and is refused.
struct Text<T> {
    wanted: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
