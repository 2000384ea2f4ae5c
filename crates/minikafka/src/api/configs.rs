//! DescribeConfigs: what topics were created with. Brokers have nothing to tell.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::Call;
use crate::ErrorCode;
use crate::wire::{Malformed, Reader, Writer};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from: given for this topic.
const DYNAMIC_TOPIC: i8 = 1;
/// The type "string" (KIP-569).
const STRING: i8 = 2;

struct Wanted {
    kind: i8,
    name: String,
    keys: Option<Vec<String>>,
}

pub(super) fn work(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let wanted = r.array(|r| {
        let (kind, name) = (r.i8()?, r.string()?);
        let keys = r.nullable_array(Reader::string)?;
        r.tags()?;
        Ok(Wanted { kind, name, keys })
    })?;
    r.bool()?; // synonyms: none
    if call.version >= 3 {
        r.bool()?; // documentation: none
    }
    r.tags()?;
    let mut w = call.writer();
    w.i32(call.plan.throttle_ms());
    w.array(wanted.iter(), |w, wanted| {
        let settings = call.verdict(|| settings(call, wanted));
        w.error(settings.as_ref().err().map_or(ErrorCode::NONE, |code| *code));
        w.nullable_string(None);
        w.i8(wanted.kind);
        w.string(&wanted.name);
        w.array(settings.unwrap_or_default().iter(), |w, (key, value)| {
            w.string(key);
            w.nullable_string(Some(value));
            w.bool(true); // read only: there is no AlterConfigs here
            w.i8(DYNAMIC_TOPIC);
            w.bool(false); // not sensitive
            w.array_len(0);
            if call.version >= 3 {
                w.i8(STRING);
                w.nullable_string(None);
            }
            w.tags();
        });
        w.tags();
    });
    w.tags();
    Ok(w)
}

fn settings(call: &Call, wanted: &Wanted) -> Result<BTreeMap<String, String>, ErrorCode> {
    let mut settings = match wanted.kind {
        TOPIC => {
            call.cluster.injections.check_topic(&wanted.name)?;
            let topic = call.cluster.topics.get(&wanted.name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
            let mut settings = topic.settings.clone();
            let limit = topic.max_message_bytes.load(Ordering::Relaxed);
            settings.insert("max.message.bytes".to_owned(), limit.to_string());
            settings
        }
        BROKER => BTreeMap::new(),
        _ => return Err(ErrorCode::INVALID_REQUEST),
    };
    if let Some(keys) = &wanted.keys {
        settings.retain(|key, _| keys.contains(key));
    }
    Ok(settings)
}
