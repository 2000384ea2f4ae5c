//! Our own request types over rskafka's protocol traits, for what carries data and for what rskafka can't say:
//! InitProducerId, CreateTopics with configuration, DescribeConfigs, ListOffsets, Fetch with undecoded batches, ApiVersions 0.
//! Produce is not here: the lane writes it around batches that are never copied.

use std::io::Cursor;

use rskafka::protocol::api_key::ApiKey;
use rskafka::protocol::api_version::{ApiVersion, ApiVersionRange};
use rskafka::protocol::messages::{
    ReadVersionedError, ReadVersionedType, RequestBody, WriteVersionedError, WriteVersionedType,
};
use rskafka::protocol::primitives::{
    Boolean, Int8, Int16, Int32, Int64, NullableBytes, NullableString, String_,
};
use rskafka::protocol::traits::{ReadType, WriteType};

use crate::record_batch::ProducerIdentity;

pub(crate) type Answer = Cursor<Vec<u8>>;

pub(crate) const fn versions(min: i16, max: i16) -> ApiVersionRange {
    ApiVersionRange::new(ApiVersion(Int16(min)), ApiVersion(Int16(max)))
}

/// None of the versions used here has tagged fields.
pub(crate) const NEVER_TAGGED: ApiVersion = ApiVersion(Int16(i16::MAX));

macro_rules! request {
    ($request:ident -> $answer:ty, $key:ident, $min:literal..=$max:literal) => {
        impl RequestBody for $request {
            type ResponseBody = $answer;
            const API_KEY: ApiKey = ApiKey::$key;
            const API_VERSION_RANGE: ApiVersionRange = versions($min, $max);
            const FIRST_TAGGED_FIELD_IN_REQUEST_VERSION: ApiVersion = NEVER_TAGGED;
        }
    };
}

pub(crate) use request;

/// Reads an array of what `read` reads; null is empty.
pub(crate) fn read_array<T>(
    from: &mut Answer,
    mut read: impl FnMut(&mut Answer) -> Result<T, ReadVersionedError>,
) -> Result<Vec<T>, ReadVersionedError> {
    let length = Int32::read(from)?.0;
    // Grows as items arrive: the length is the peer's word.
    let mut items = Vec::new();
    for _ in 0..length {
        items.push(read(from)?);
    }
    Ok(items)
}

/// Which versions of which request a node speaks. Version 0, which every node answers and which has no flexible header.
#[derive(Debug)]
pub(crate) struct ApiVersionsRequest;

#[derive(Debug)]
pub(crate) struct ApiVersionsAnswer {
    pub(crate) error: i16,
    /// Key, oldest, newest.
    pub(crate) versions: Vec<(i16, i16, i16)>,
}

request!(ApiVersionsRequest -> ApiVersionsAnswer, ApiVersions, 0..=0);

impl WriteVersionedType<Vec<u8>> for ApiVersionsRequest {
    fn write_versioned(&self, _: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        Ok(())
    }
}

impl ReadVersionedType<Answer> for ApiVersionsAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Ok(Self {
            error: Int16::read(from)?.0,
            versions: read_array(from, |from| {
                Ok((Int16::read(from)?.0, Int16::read(from)?.0, Int16::read(from)?.0))
            })?,
        })
    }
}

/// A new producer id, without a transaction.
#[derive(Debug)]
pub(crate) struct InitProducerIdRequest;

#[derive(Debug)]
pub(crate) struct InitProducerIdAnswer {
    pub(crate) error: i16,
    pub(crate) identity: ProducerIdentity,
}

request!(InitProducerIdRequest -> InitProducerIdAnswer, InitProducerId, 0..=1);

impl WriteVersionedType<Vec<u8>> for InitProducerIdRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        NullableString(None).write(to)?;
        Int32(i32::MAX).write(to)?; // transaction timeout: not used without a transaction
        Ok(())
    }
}

impl ReadVersionedType<Answer> for InitProducerIdAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time: this is asked once, there is nothing to slow down
        Ok(Self {
            error: Int16::read(from)?.0,
            identity: ProducerIdentity { id: Int64::read(from)?.0, epoch: Int16::read(from)?.0 },
        })
    }
}

/// Topics to create, each with the same layout and configuration.
#[derive(Debug)]
pub(crate) struct CreateTopicsRequest {
    pub(crate) topics: Vec<String>,
    /// -1 is the server's default.
    pub(crate) partitions: i32,
    /// -1 is the server's default.
    pub(crate) replication: i16,
    pub(crate) config: Vec<(String, String)>,
    pub(crate) timeout_ms: i32,
}

#[derive(Debug)]
pub(crate) struct CreateTopicsAnswer {
    /// Topic, error code, message.
    pub(crate) topics: Vec<(String, i16, Option<String>)>,
}

// From version 4 on, -1 asks for the server's default partitions and replication.
request!(CreateTopicsRequest -> CreateTopicsAnswer, CreateTopics, 4..=4);

impl WriteVersionedType<Vec<u8>> for CreateTopicsRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        Int32(self.topics.len() as i32).write(to)?;
        for topic in &self.topics {
            String_(topic.clone()).write(to)?;
            Int32(self.partitions).write(to)?;
            Int16(self.replication).write(to)?;
            Int32(0).write(to)?; // manual assignments
            Int32(self.config.len() as i32).write(to)?;
            for (name, value) in &self.config {
                String_(name.clone()).write(to)?;
                NullableString(Some(value.clone())).write(to)?;
            }
        }
        Int32(self.timeout_ms).write(to)?;
        Boolean(false).write(to)?; // validate only
        Ok(())
    }
}

impl ReadVersionedType<Answer> for CreateTopicsAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        Ok(Self {
            topics: read_array(from, |from| {
                Ok((String_::read(from)?.0, Int16::read(from)?.0, NullableString::read(from)?.0))
            })?,
        })
    }
}

/// One setting of several topics.
#[derive(Debug)]
pub(crate) struct DescribeConfigsRequest {
    pub(crate) topics: Vec<String>,
    pub(crate) key: String,
}

#[derive(Debug)]
pub(crate) struct DescribeConfigsAnswer {
    pub(crate) topics: Vec<DescribedTopic>,
}

#[derive(Debug)]
pub(crate) struct DescribedTopic {
    pub(crate) name: String,
    pub(crate) error: i16,
    pub(crate) settings: Vec<(String, Option<String>)>,
}

// The oldest that Kafka 4 speaks, and all that is needed.
request!(DescribeConfigsRequest -> DescribeConfigsAnswer, DescribeConfigs, 1..=1);

impl WriteVersionedType<Vec<u8>> for DescribeConfigsRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        const TOPIC: i8 = 2;
        Int32(self.topics.len() as i32).write(to)?;
        for topic in &self.topics {
            Int8(TOPIC).write(to)?;
            String_(topic.clone()).write(to)?;
            Int32(1).write(to)?;
            String_(self.key.clone()).write(to)?;
        }
        Boolean(false).write(to)?; // synonyms
        Ok(())
    }
}

impl ReadVersionedType<Answer> for DescribeConfigsAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        Ok(Self {
            topics: read_array(from, |from| {
                let error = Int16::read(from)?.0;
                NullableString::read(from)?; // message
                Int8::read(from)?; // kind of resource
                let name = String_::read(from)?.0;
                let settings = read_array(from, |from| {
                    let setting = (String_::read(from)?.0, NullableString::read(from)?.0);
                    Boolean::read(from)?; // read only
                    Int8::read(from)?; // where the value comes from
                    Boolean::read(from)?; // sensitive
                    read_array(from, |from| {
                        String_::read(from)?;
                        NullableString::read(from)?;
                        Ok(Int8::read(from)?)
                    })?; // synonyms
                    Ok(setting)
                })?;
                Ok(DescribedTopic { name, error, settings })
            })?,
        })
    }
}

/// The first or the next offset of one partition.
#[derive(Debug)]
pub(crate) struct ListOffsetsRequest {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// -1 latest, -2 earliest, else milliseconds since the Unix epoch.
    pub(crate) timestamp: i64,
}

#[derive(Debug)]
pub(crate) struct ListOffsetsAnswer {
    /// Error code and offset of each partition that was asked for.
    pub(crate) partitions: Vec<(i16, i64)>,
}

request!(ListOffsetsRequest -> ListOffsetsAnswer, ListOffsets, 1..=1);

impl WriteVersionedType<Vec<u8>> for ListOffsetsRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        Int32(-1).write(to)?; // a client, not a replica
        Int32(1).write(to)?;
        String_(self.topic.clone()).write(to)?;
        Int32(1).write(to)?;
        Int32(self.partition).write(to)?;
        Int64(self.timestamp).write(to)?;
        Ok(())
    }
}

impl ReadVersionedType<Answer> for ListOffsetsAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        let topics = read_array(from, |from| {
            String_::read(from)?;
            read_array(from, |from| {
                Int32::read(from)?;
                let error = Int16::read(from)?.0;
                Int64::read(from)?; // timestamp
                Ok((error, Int64::read(from)?.0))
            })
        })?;
        Ok(Self { partitions: topics.concat() })
    }
}

/// Batches of partitions, each from an offset on, undecoded.
#[derive(Debug)]
pub(crate) struct FetchRequest {
    /// Topics with their partitions and offsets.
    pub(crate) topics: Vec<(String, Vec<(i32, i64)>)>,
    pub(crate) max_wait_ms: i32,
    /// A batch that is larger comes whole all the same, if it is the first of the answer.
    pub(crate) max_bytes: i32,
}

#[derive(Debug)]
pub(crate) struct FetchAnswer {
    pub(crate) partitions: Vec<FetchedPartition>,
}

#[derive(Debug)]
pub(crate) struct FetchedPartition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) error: i16,
    pub(crate) high_watermark: i64,
    pub(crate) batches: Vec<u8>,
}

// Version 4 is the first with format 2 and isolation, and the oldest that Kafka 4 speaks.
request!(FetchRequest -> FetchAnswer, Fetch, 4..=4);

impl WriteVersionedType<Vec<u8>> for FetchRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        Int32(-1).write(to)?; // a client, not a replica
        Int32(self.max_wait_ms).write(to)?;
        Int32(1).write(to)?; // min bytes
        Int32(self.max_bytes).write(to)?;
        Int8(0).write(to)?; // read uncommitted: this crate writes no transactions
        Int32(self.topics.len() as i32).write(to)?;
        for (topic, partitions) in &self.topics {
            String_(topic.clone()).write(to)?;
            Int32(partitions.len() as i32).write(to)?;
            for (partition, offset) in partitions {
                Int32(*partition).write(to)?;
                Int64(*offset).write(to)?;
                Int32(self.max_bytes).write(to)?;
            }
        }
        Ok(())
    }
}

impl ReadVersionedType<Answer> for FetchAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time: the next fetch waits in the server instead
        let topics = read_array(from, |from| {
            let topic = String_::read(from)?.0;
            read_array(from, |from| {
                let partition = Int32::read(from)?.0;
                let error = Int16::read(from)?.0;
                let high_watermark = Int64::read(from)?.0;
                Int64::read(from)?; // last stable offset
                read_array(from, |from| Ok((Int64::read(from)?, Int64::read(from)?)))?; // aborted transactions
                let batches = NullableBytes::read(from)?.0.unwrap_or_default();
                Ok(FetchedPartition { topic: topic.clone(), partition, error, high_watermark, batches })
            })
        })?;
        Ok(Self { partitions: topics.into_iter().flatten().collect() })
    }
}

/// One partition's part of the answer to a Produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducedPartition<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) error: i16,
    pub(crate) message: Option<&'a str>,
}

/// The oldest and newest versions of Produce that the lane writes: format 2 from 3 on, no flexible fields before 9.
pub(crate) const PRODUCE_VERSIONS: (i16, i16) = (3, 8);

/// The answer to a Produce request. Under little load there is one for every few records, so it is not read by rskafka's
/// traits, which copy each text and take an allocation for each array.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProduceAnswer<'a> {
    pub(crate) partitions: Vec<ProducedPartition<'a>>,
    pub(crate) throttle_ms: i32,
}

impl<'a> ProduceAnswer<'a> {
    /// Decodes what follows the correlation id.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub(crate) fn decode(body: &'a [u8], version: i16) -> Result<Self, &'static str> {
        // Base offset, log append time, and where the log starts.
        let offsets_bytes = if version >= 5 { 24 } else { 16 };
        let mut fields = Fields(body);
        let mut partitions = Vec::new();
        for _ in 0..fields.int32()? {
            let topic = fields.string()?.ok_or("a topic without a name")?;
            for _ in 0..fields.int32()? {
                let (partition, error) = (fields.int32()?, fields.int16()?);
                fields.bytes(offsets_bytes)?;
                let mut message = None;
                if version >= 8 {
                    for _ in 0..fields.int32()? {
                        fields.int32()?; // index in the batch: bisecting finds it for every version alike
                        let of_record = fields.string()?;
                        message = message.or(of_record);
                    }
                    message = fields.string()?.or(message);
                }
                partitions.push(ProducedPartition { topic, partition, error, message });
            }
        }
        Ok(Self { partitions, throttle_ms: fields.int32()? })
    }
}

/// The fields of an answer, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("cut off")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn int16(&mut self) -> Result<i16, &'static str> {
        self.array().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> Result<i32, &'static str> {
        self.array().map(i32::from_be_bytes)
    }

    /// A text, or null.
    fn string(&mut self) -> Result<Option<&'a str>, &'static str> {
        let Ok(length) = usize::try_from(self.int16()?) else { return Ok(None) };
        std::str::from_utf8(self.bytes(length)?).map(Some).map_err(|_| "a text that is not UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_produce_is_read_in_each_version_and_never_beyond_its_end() {
        let partition = |version: i16, index: u8, error: u8, reasons: &[u8]| {
            let offsets = vec![0xff; if version >= 5 { 24 } else { 16 }];
            let reasons = if version >= 8 { reasons } else { &[] };
            [&[0, 0, 0, index, 0, error][..], &offsets, reasons].concat()
        };
        let no_reason = [0, 0, 0, 0, 0xff, 0xff];
        let of_record = [&[0, 0, 0, 1, 0, 0, 0, 3, 0, 3][..], b"why", &[0xff, 0xff]].concat();
        for version in 3..=8 {
            let body = [
                &[0, 0, 0, 2, 0, 1, b'a', 0, 0, 0, 2][..],
                &partition(version, 0, 0, &no_reason),
                &partition(version, 7, 87, &of_record),
                &[0, 2, b'b', b'b', 0, 0, 0, 1],
                &partition(version, 1, 6, &[0, 0, 0, 0, 0, 2, b'n', b'o']),
                &[0, 0, 1, 0],
            ]
            .concat();
            let told = |text| (version >= 8).then_some(text);
            let of =
                |topic, partition, error, message| ProducedPartition { topic, partition, error, message };
            let partitions =
                vec![of("a", 0, 0, None), of("a", 7, 87, told("why")), of("bb", 1, 6, told("no"))];
            assert_eq!(
                ProduceAnswer::decode(&body, version),
                Ok(ProduceAnswer { partitions, throttle_ms: 256 })
            );
            for end in 0..body.len() {
                assert_eq!(
                    ProduceAnswer::decode(&body[..end], version),
                    Err("cut off"),
                    "{end} of {version}"
                );
            }
        }
    }
}
