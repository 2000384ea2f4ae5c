//! InitProducerId: a fresh id for an idempotent producer. There are no transactions.

use super::Call;
use crate::ErrorCode;
use crate::wire::{Malformed, Reader, Writer};

pub(super) async fn work(call: &Call, r: &mut Reader) -> Result<Writer, Malformed> {
    let transactional = r.nullable_string()?.is_some();
    r.i32()?; // transaction timeout
    if call.version >= 3 {
        // An id that the producer wants to go on with. As in Kafka, without a transaction it gets a new one.
        r.i64()?;
        r.i16()?;
    }
    r.tags()?;
    let result = match call.plan.error() {
        Some(code) => Err(code),
        None if transactional => Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        None => {
            let taken = call.cluster.on_storage(|cluster| cluster.producer_ids.take()).await;
            taken.ok_or(Malformed("the server is stopping"))?.map_err(|error| {
                tracing::error!(%error, "can't reserve producer ids");
                ErrorCode::KAFKA_STORAGE_ERROR
            })
        }
    };
    let result = result.and_then(|id| call.plan.error_after_work().map_or(Ok(id), Err));
    let mut w = call.writer();
    w.i32(call.plan.throttle_ms());
    w.error(result.err().unwrap_or(ErrorCode::NONE));
    w.i64(result.unwrap_or(-1));
    w.i16(if result.is_ok() { 0 } else { -1 });
    w.tags();
    Ok(w)
}
