//! The requests of a consumer group's member, in the newest versions without flexible fields.

use rskafka::protocol::api_key::ApiKey;
use rskafka::protocol::api_version::{ApiVersion, ApiVersionRange};
use rskafka::protocol::messages::{
    ReadVersionedError, ReadVersionedType, RequestBody, WriteVersionedError, WriteVersionedType,
};
use rskafka::protocol::primitives::{Int8, Int16, Int32, Int64, NullableBytes, NullableString, String_};
use rskafka::protocol::traits::{ReadType, WriteType};

use crate::wire::{Answer, NEVER_TAGGED, read_array, request, versions};

/// "For ever": how long the group's offsets are kept is the server's business.
const NO_RETENTION: i64 = -1;
/// "Unknown": this crate does not follow leader epochs.
const NO_EPOCH: i32 = -1;

/// Who is in which life of the group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat {
    pub(crate) group: String,
    pub(crate) generation: i32,
    pub(crate) member: String,
}

impl Seat {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), WriteVersionedError> {
        String_(self.group.clone()).write(to)?;
        Int32(self.generation).write(to)?;
        String_(self.member.clone()).write(to)?;
        Ok(())
    }
}

/// Members here have no name of their own that would outlive them.
fn no_instance(to: &mut Vec<u8>) -> Result<(), WriteVersionedError> {
    Ok(NullableString(None).write(to)?)
}

/// Which node coordinates a group.
#[derive(Debug)]
pub(crate) struct FindCoordinatorRequest {
    pub(crate) group: String,
}

#[derive(Debug)]
pub(crate) struct FindCoordinatorAnswer {
    pub(crate) error: i16,
    pub(crate) host: String,
    pub(crate) port: i32,
}

request!(FindCoordinatorRequest -> FindCoordinatorAnswer, FindCoordinator, 1..=2);

impl WriteVersionedType<Vec<u8>> for FindCoordinatorRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        String_(self.group.clone()).write(to)?;
        Int8(0).write(to)?; // of a group, not of a transaction
        Ok(())
    }
}

impl ReadVersionedType<Answer> for FindCoordinatorAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        let error = Int16::read(from)?.0;
        NullableString::read(from)?; // the error in words
        Int32::read(from)?; // node id
        Ok(Self { error, host: String_::read(from)?.0, port: Int32::read(from)?.0 })
    }
}

/// Enters a group, or a new generation of it. The answer comes when everybody has.
#[derive(Debug)]
pub(crate) struct JoinGroupRequest {
    pub(crate) group: String,
    pub(crate) member: String,
    pub(crate) session_timeout_ms: i32,
    pub(crate) rebalance_timeout_ms: i32,
    /// What this member wants to read, as the protocol below encodes it.
    pub(crate) subscription: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct JoinGroupAnswer {
    pub(crate) error: i16,
    pub(crate) generation: i32,
    pub(crate) leader: String,
    pub(crate) member: String,
    /// For the leader: everyone's id and subscription.
    pub(crate) members: Vec<(String, Vec<u8>)>,
}

request!(JoinGroupRequest -> JoinGroupAnswer, JoinGroup, 2..=5);

impl WriteVersionedType<Vec<u8>> for JoinGroupRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, version: ApiVersion) -> Result<(), WriteVersionedError> {
        String_(self.group.clone()).write(to)?;
        Int32(self.session_timeout_ms).write(to)?;
        Int32(self.rebalance_timeout_ms).write(to)?;
        String_(self.member.clone()).write(to)?;
        if version.0.0 >= 5 {
            no_instance(to)?;
        }
        String_("consumer".to_owned()).write(to)?;
        Int32(1).write(to)?;
        String_("range".to_owned()).write(to)?;
        NullableBytes(Some(self.subscription.clone())).write(to)?;
        Ok(())
    }
}

impl ReadVersionedType<Answer> for JoinGroupAnswer {
    fn read_versioned(from: &mut Answer, version: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        let error = Int16::read(from)?.0;
        let generation = Int32::read(from)?.0;
        String_::read(from)?; // the protocol: we offer one
        let leader = String_::read(from)?.0;
        let member = String_::read(from)?.0;
        let members = read_array(from, |from| {
            let id = String_::read(from)?.0;
            if version.0.0 >= 5 {
                NullableString::read(from)?; // instance
            }
            Ok((id, NullableBytes::read(from)?.0.unwrap_or_default()))
        })?;
        Ok(Self { error, generation, leader, member, members })
    }
}

/// Hands out the leader's assignment, or asks for one's own part of it.
#[derive(Debug)]
pub(crate) struct SyncGroupRequest {
    pub(crate) seat: Seat,
    pub(crate) assignments: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) struct SyncGroupAnswer {
    pub(crate) error: i16,
    pub(crate) assignment: Vec<u8>,
}

request!(SyncGroupRequest -> SyncGroupAnswer, SyncGroup, 1..=3);

impl WriteVersionedType<Vec<u8>> for SyncGroupRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, version: ApiVersion) -> Result<(), WriteVersionedError> {
        self.seat.write(to)?;
        if version.0.0 >= 3 {
            no_instance(to)?;
        }
        Int32(self.assignments.len() as i32).write(to)?;
        for (member, assignment) in &self.assignments {
            String_(member.clone()).write(to)?;
            NullableBytes(Some(assignment.clone())).write(to)?;
        }
        Ok(())
    }
}

impl ReadVersionedType<Answer> for SyncGroupAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        let error = Int16::read(from)?.0;
        Ok(Self { error, assignment: NullableBytes::read(from)?.0.unwrap_or_default() })
    }
}

/// An answer that is an error code and nothing else.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) error: i16,
}

impl ReadVersionedType<Answer> for Verdict {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        Ok(Self { error: Int16::read(from)?.0 })
    }
}

/// Stays in the group.
#[derive(Debug)]
pub(crate) struct HeartbeatRequest {
    pub(crate) seat: Seat,
}

request!(HeartbeatRequest -> Verdict, Heartbeat, 1..=3);

impl WriteVersionedType<Vec<u8>> for HeartbeatRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, version: ApiVersion) -> Result<(), WriteVersionedError> {
        self.seat.write(to)?;
        if version.0.0 >= 3 {
            no_instance(to)?;
        }
        Ok(())
    }
}

/// Leaves the group, so that others need not wait until the session is over.
#[derive(Debug)]
pub(crate) struct LeaveGroupRequest {
    pub(crate) group: String,
    pub(crate) member: String,
}

request!(LeaveGroupRequest -> Verdict, LeaveGroup, 1..=2);

impl WriteVersionedType<Vec<u8>> for LeaveGroupRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        String_(self.group.clone()).write(to)?;
        String_(self.member.clone()).write(to)?;
        Ok(())
    }
}

/// Topics with their partitions.
pub(crate) type Partitions = Vec<(String, Vec<i32>)>;

/// How far the group has come.
#[derive(Debug)]
pub(crate) struct OffsetFetchRequest {
    pub(crate) group: String,
    pub(crate) topics: Partitions,
}

#[derive(Debug)]
pub(crate) struct OffsetFetchAnswer {
    pub(crate) error: i16,
    /// Topic, partition, offset (-1 is none), error.
    pub(crate) offsets: Vec<(String, i32, i64, i16)>,
}

request!(OffsetFetchRequest -> OffsetFetchAnswer, OffsetFetch, 3..=5);

impl WriteVersionedType<Vec<u8>> for OffsetFetchRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, _: ApiVersion) -> Result<(), WriteVersionedError> {
        String_(self.group.clone()).write(to)?;
        Int32(self.topics.len() as i32).write(to)?;
        for (topic, partitions) in &self.topics {
            String_(topic.clone()).write(to)?;
            Int32(partitions.len() as i32).write(to)?;
            for partition in partitions {
                Int32(*partition).write(to)?;
            }
        }
        Ok(())
    }
}

impl ReadVersionedType<Answer> for OffsetFetchAnswer {
    fn read_versioned(from: &mut Answer, version: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        let topics = read_array(from, |from| {
            let topic = String_::read(from)?.0;
            read_array(from, |from| {
                let (partition, offset) = (Int32::read(from)?.0, Int64::read(from)?.0);
                if version.0.0 >= 5 {
                    Int32::read(from)?; // leader epoch
                }
                NullableString::read(from)?; // metadata
                Ok((topic.clone(), partition, offset, Int16::read(from)?.0))
            })
        })?;
        Ok(Self { offsets: topics.concat(), error: Int16::read(from)?.0 })
    }
}

/// Stores how far the group has come.
#[derive(Debug)]
pub(crate) struct OffsetCommitRequest {
    pub(crate) seat: Seat,
    /// Topics with their partitions and offsets.
    pub(crate) topics: Vec<(String, Vec<(i32, i64)>)>,
}

#[derive(Debug)]
pub(crate) struct OffsetCommitAnswer {
    /// Topic, partition, error.
    pub(crate) results: Vec<(String, i32, i16)>,
}

request!(OffsetCommitRequest -> OffsetCommitAnswer, OffsetCommit, 3..=7);

impl WriteVersionedType<Vec<u8>> for OffsetCommitRequest {
    fn write_versioned(&self, to: &mut Vec<u8>, version: ApiVersion) -> Result<(), WriteVersionedError> {
        self.seat.write(to)?;
        if version.0.0 >= 7 {
            no_instance(to)?;
        }
        if version.0.0 <= 4 {
            Int64(NO_RETENTION).write(to)?;
        }
        Int32(self.topics.len() as i32).write(to)?;
        for (topic, partitions) in &self.topics {
            String_(topic.clone()).write(to)?;
            Int32(partitions.len() as i32).write(to)?;
            for (partition, offset) in partitions {
                Int32(*partition).write(to)?;
                Int64(*offset).write(to)?;
                if version.0.0 >= 6 {
                    Int32(NO_EPOCH).write(to)?;
                }
                NullableString(Some(String::new())).write(to)?;
            }
        }
        Ok(())
    }
}

impl ReadVersionedType<Answer> for OffsetCommitAnswer {
    fn read_versioned(from: &mut Answer, _: ApiVersion) -> Result<Self, ReadVersionedError> {
        Int32::read(from)?; // throttle time
        let topics = read_array(from, |from| {
            let topic = String_::read(from)?.0;
            read_array(from, |from| Ok((topic.clone(), Int32::read(from)?.0, Int16::read(from)?.0)))
        })?;
        Ok(Self { results: topics.concat() })
    }
}
