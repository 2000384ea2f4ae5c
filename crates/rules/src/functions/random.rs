//! Functions that give something else each time.

use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

use super::Call;
use crate::error::EvalErrorKind as Error;
use crate::event::Event;
use crate::meter::Meter;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// SHA-256 over a seed and a counter: what comes out says nothing of what comes next to whoever lacks the seed.
pub(super) struct Generator {
    seed: [u8; 32],
    drawn: u64,
}

impl Generator {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(super) fn of_event(event: &Event<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(event.id.to_le_bytes());
        hash.update(event.timestamp_ms.to_le_bytes());
        hash.update(event.client_id);
        hash.update([0]);
        hash.update(event.topic);
        Self::new(hash.finalize().into())
    }

    /// Costs a few hundred nanoseconds.
    fn next(&mut self, meter: &mut Meter) -> std::result::Result<u128, Error> {
        const STEPS: usize = 32;
        meter.steps(STEPS)?;
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.drawn.to_le_bytes());
        self.drawn = self.drawn.wrapping_add(1);
        let block: [u8; 32] = hash.finalize().into();
        Ok(block.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }
}

impl fmt::Debug for Generator {
    /// Without the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("drawn", &self.drawn).finish_non_exhaustive()
    }
}

/// A float from 0 up to but not including 1.
pub(super) fn random<'r>(call: &mut Call<'_, 'r>, _: &mut [Value<'r>]) -> Result<'r> {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    let drawn = (call.state.generator(call.event).next(call.meter)? >> (128 - BITS)) as u64;
    #[expect(clippy::cast_precision_loss, reason = "a float holds that many bits")]
    let scaled = drawn as f64 / (1_u64 << BITS) as f64;
    Ok(Value::Float(scaled))
}

/// A UUID of version 4 [RFC 9562, 5.4].
pub(super) fn uuid_v4<'r>(call: &mut Call<'_, 'r>, _: &mut [Value<'r>]) -> Result<'r> {
    let digits = uuid_digits(call)?;
    let mut text = String::with_capacity(36);
    for (at, digit) in digits.char_indices() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(text.into())
}

pub(super) fn uuid_v4_no_hyphen<'r>(call: &mut Call<'_, 'r>, _: &mut [Value<'r>]) -> Result<'r> {
    uuid_digits(call).map(Value::from)
}

fn uuid_digits(call: &mut Call<'_, '_>) -> std::result::Result<String, Error> {
    const VERSION: u128 = 0xF << 76;
    const VARIANT: u128 = 0b11 << 62;
    let drawn = call.state.generator(call.event).next(call.meter)?;
    let uuid = drawn & !VERSION & !VARIANT | 4 << 76 | 0b10 << 62;
    call.meter.bytes(36)?;
    let mut digits = String::with_capacity(32);
    let _ = write!(digits, "{uuid:032x}");
    Ok(digits)
}
