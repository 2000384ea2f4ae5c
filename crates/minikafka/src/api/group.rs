//! The requests of a consumer group's members, and of those who look at groups.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Answer, Call};
use crate::ErrorCode;
use crate::groups::{Assigned, Join, JoinResult, Joined, Soon, SyncResult};
use crate::wire::{Malformed, Reader, Writer};

/// The key of FindCoordinator that asks for a group.
const GROUP: i8 = 0;
/// "Not asked for" among the authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

pub(super) fn find_coordinator(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    r.string()?;
    let kind = if call.version >= 1 { r.i8()? } else { GROUP };
    r.tags()?;
    // All groups live at the first node that is up.
    let found = call.verdict(|| match kind {
        GROUP => {
            call.cluster.nodes.iter().find(|node| node.is_up()).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)
        }
        _ => Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
    });
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.error(found.as_ref().err().map_or(ErrorCode::NONE, |code| *code));
    if call.version >= 1 {
        w.nullable_string(None);
    }
    if let Ok(node) = found {
        w.i32(node.id);
        w.string(&node.host);
        w.i32(i32::from(node.addr.port()));
    } else {
        w.i32(-1);
        w.string("");
        w.i32(-1);
    }
    w.tags();
    Ok(w)
}

fn millis(r: &mut Reader) -> Result<Duration, Malformed> {
    Ok(Duration::from_millis(u64::try_from(r.i32()?).unwrap_or(0)))
}

pub(super) fn join(call: Call, r: &mut Reader) -> Result<Answer, Malformed> {
    let group = r.string()?;
    let session_timeout = millis(r)?;
    let rebalance_timeout = if call.version >= 1 { millis(r)? } else { session_timeout };
    let member = r.string()?;
    let instance = if call.version >= 5 { r.nullable_string()? } else { None };
    let protocol_type = r.string()?;
    let protocols = r.array(|r| {
        let protocol = (r.string()?, r.bytes()?);
        r.tags()?;
        Ok(protocol)
    })?;
    r.tags()?;
    if let Some(code) = call.plan.error() {
        return Ok(Answer::Now(write_join(&call, Err((code, member)))));
    }
    let request = Join {
        group,
        member,
        instance,
        client_id: call.client_id.clone(),
        client_host: call.client_host.clone(),
        session_timeout,
        rebalance_timeout,
        protocol_type,
        protocols,
        asks_twice: call.version >= 4,
    };
    Ok(match call.cluster.groups.join(request, Instant::now()) {
        Soon::Now(result) => Answer::Now(write_join(&call, result)),
        Soon::Later(later) => Answer::later(async move {
            let gone = |_| Err((ErrorCode::UNKNOWN_MEMBER_ID, String::new()));
            write_join(&call, later.await.unwrap_or_else(gone))
        }),
    })
}

fn write_join(call: &Call, result: JoinResult) -> Writer {
    let result = match (result, call.plan.error_after_work()) {
        (Ok(joined), Some(code)) => Err((code, joined.member)),
        (result, _) => result,
    };
    let (error, joined) = match result {
        Ok(joined) => (ErrorCode::NONE, joined),
        Err((code, member)) => {
            let (protocol_type, protocol, leader) = (String::new(), String::new(), String::new());
            (code, Joined { generation: -1, protocol_type, protocol, leader, member, members: Vec::new() })
        }
    };
    let mut w = call.writer();
    if call.version >= 2 {
        w.i32(call.plan.throttle_ms());
    }
    w.error(error);
    w.i32(joined.generation);
    if call.version >= 7 {
        w.nullable_string(Some(&joined.protocol_type));
    }
    w.string(&joined.protocol);
    w.string(&joined.leader);
    w.string(&joined.member);
    w.array(joined.members.iter(), |w, (id, instance, metadata)| {
        w.string(id);
        if call.version >= 5 {
            w.nullable_string(instance.as_deref());
        }
        w.bytes(metadata);
        w.tags();
    });
    w.tags();
    w
}

pub(super) fn sync(call: Call, r: &mut Reader) -> Result<Answer, Malformed> {
    let (group, generation, member) = (r.string()?, r.i32()?, r.string()?);
    if call.version >= 3 {
        r.nullable_string()?;
    }
    if call.version >= 5 {
        r.nullable_string()?;
        r.nullable_string()?;
    }
    let assignments = r.array(|r| {
        let assignment = (r.string()?, r.bytes()?);
        r.tags()?;
        Ok(assignment)
    })?;
    r.tags()?;
    if let Some(code) = call.plan.error() {
        return Ok(Answer::Now(write_sync(&call, Err(code))));
    }
    Ok(match call.cluster.groups.sync(&group, generation, &member, assignments, Instant::now()) {
        Soon::Now(result) => Answer::Now(write_sync(&call, result)),
        Soon::Later(later) => Answer::later(async move {
            write_sync(&call, later.await.unwrap_or(Err(ErrorCode::UNKNOWN_MEMBER_ID)))
        }),
    })
}

fn write_sync(call: &Call, result: SyncResult) -> Writer {
    let result = result.and_then(|assigned| call.plan.error_after_work().map_or(Ok(assigned), Err));
    let error = result.as_ref().err().map_or(ErrorCode::NONE, |code| *code);
    let assigned = result.unwrap_or_else(|_| Assigned {
        protocol_type: String::new(),
        protocol: String::new(),
        assignment: Bytes::new(),
    });
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.error(error);
    if call.version >= 5 {
        w.nullable_string(Some(&assigned.protocol_type));
        w.nullable_string(Some(&assigned.protocol));
    }
    w.bytes(&assigned.assignment);
    w.tags();
    w
}

pub(super) fn heartbeat(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let (group, generation, member) = (r.string()?, r.i32()?, r.string()?);
    if call.version >= 3 {
        r.nullable_string()?;
    }
    r.tags()?;
    let alive = call.verdict(|| call.cluster.groups.heartbeat(&group, generation, &member, Instant::now()));
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.error(alive.err().unwrap_or(ErrorCode::NONE));
    w.tags();
    Ok(w)
}

pub(super) fn leave(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let group = r.string()?;
    let members = if call.version >= 3 {
        r.array(|r| {
            let member = (r.string()?, r.nullable_string()?);
            r.tags()?;
            Ok(member)
        })?
    } else {
        vec![(r.string()?, None)]
    };
    r.tags()?;
    let now = Instant::now();
    let left: Vec<_> = members
        .iter()
        .map(|(id, instance)| {
            call.verdict(|| call.cluster.groups.leave(&group, id, instance.as_deref(), now))
        })
        .map(|left| left.err().unwrap_or(ErrorCode::NONE))
        .collect();
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    if call.version < 3 {
        w.error(left.first().copied().unwrap_or(ErrorCode::NONE));
        return Ok(w);
    }
    w.error(call.plan.error().unwrap_or(ErrorCode::NONE));
    w.array(members.iter().zip(left), |w, ((id, instance), error)| {
        w.string(id);
        w.nullable_string(instance.as_deref());
        w.error(error);
        w.tags();
    });
    w.tags();
    Ok(w)
}

pub(super) fn describe(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let names = r.array(Reader::string)?;
    if call.version >= 3 {
        r.bool()?;
    }
    r.tags()?;
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.array(names.iter(), |w, name| {
        let group = call.cluster.groups.describe(name);
        w.error(call.verdict(|| Ok(())).err().unwrap_or(ErrorCode::NONE));
        w.string(name);
        w.string(group.state);
        w.string(&group.protocol_type);
        w.string(&group.protocol);
        w.array(group.members.iter(), |w, member| {
            w.string(&member.id);
            if call.version >= 4 {
                w.nullable_string(member.instance.as_deref());
            }
            w.string(&member.client_id);
            w.string(&member.client_host);
            w.bytes(&member.metadata);
            w.bytes(&member.assignment);
            w.tags();
        });
        if call.version >= 3 {
            w.i32(NO_OPERATIONS);
        }
        w.tags();
    });
    w.tags();
    Ok(w)
}

pub(super) fn list(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let states = if call.version >= 4 { r.array(Reader::string)? } else { Vec::new() };
    r.tags()?;
    let mut groups = call.cluster.groups.list();
    groups.retain(|(_, _, state)| states.is_empty() || states.iter().any(|wanted| wanted == state));
    let mut w = call.writer();
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.error(call.verdict(|| Ok(())).err().unwrap_or(ErrorCode::NONE));
    w.array(groups.iter(), |w, (name, protocol_type, state)| {
        w.string(name);
        w.string(protocol_type);
        if call.version >= 4 {
            w.string(state);
        }
        w.tags();
    });
    w.tags();
    Ok(w)
}
