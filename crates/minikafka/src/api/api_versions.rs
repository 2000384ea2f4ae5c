//! ApiVersions: which requests are spoken here.

use super::Call;
use crate::wire::Writer;
use crate::{ApiKey, ErrorCode};

pub(super) fn work(call: &Call) -> Writer {
    let mut w = call.writer();
    w.error(call.verdict(|| Ok(())).err().unwrap_or(ErrorCode::NONE));
    table(&mut w);
    if call.version >= 1 {
        w.i32(call.plan.throttle_ms());
    }
    w.tags();
    w
}

/// KIP-511: an ApiVersions request that is too new is answered in version 0, with what is spoken.
pub(super) fn unsupported() -> Writer {
    let mut w = Writer::new(false);
    w.error(ErrorCode::UNSUPPORTED_VERSION);
    table(&mut w);
    w
}

fn table(w: &mut Writer) {
    w.array(ApiKey::versions(), |w, (code, oldest, newest)| {
        w.i16(code);
        w.i16(oldest);
        w.i16(newest);
        w.tags();
    });
}
