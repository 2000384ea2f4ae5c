//! The store that rules put values into by name, for themselves and each other.

use std::collections::HashMap;
use std::fmt;

use super::{Call, text};
use crate::error::EvalErrorKind as Error;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// Values by name: what `kv_store_put()` writes to and `kv_store_get()` reads from.
///
/// The engine has no locks of its own. A store that several threads share is a handle whose methods lock inside.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tidegate_rules::{EvalScratch, KeyValues, MemoryStore, Value};
///
/// #[derive(Clone, Debug, Default)]
/// struct Shared(Arc<Mutex<MemoryStore>>);
///
/// impl KeyValues for Shared {
///     fn get(&mut self, name: &str) -> Option<Value<'static>> {
///         self.0.lock().ok()?.get(name)
///     }
///     fn put(&mut self, name: &str, value: Value<'static>) -> bool {
///         self.0.lock().is_ok_and(|mut store| store.put(name, value))
///     }
///     fn delete(&mut self, name: &str) {
///         if let Ok(mut store) = self.0.lock() {
///             store.delete(name);
///         }
///     }
/// }
///
/// let of_the_node = Shared::default();
/// let mut scratch = EvalScratch::default();
/// scratch.set_store(Box::new(of_the_node.clone()));
/// ```
pub trait KeyValues: fmt::Debug + Send + Sync {
    /// The value of that name, if there is one.
    fn get(&mut self, name: &str) -> Option<Value<'static>>;

    /// Keeps a value under a name in place of the one before. False where there is no room for it: the rule then
    /// fails for this message.
    fn put(&mut self, name: &str, value: Value<'static>) -> bool;

    /// Forgets a name.
    fn delete(&mut self, name: &str);
}

/// A store in memory with a bound.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: HashMap<Box<str>, (Value<'static>, usize)>,
    bytes: usize,
}

impl MemoryStore {
    /// Bytes of names and values that a store takes, roughly.
    pub const MAX_BYTES: usize = 16 * 1024 * 1024;
}

impl KeyValues for MemoryStore {
    fn get(&mut self, name: &str) -> Option<Value<'static>> {
        self.values.get(name).map(|(value, _)| value.clone())
    }

    fn put(&mut self, name: &str, value: Value<'static>) -> bool {
        let size = name.len() + size(&value);
        let before = self.values.get(name).map_or(0, |(_, size)| *size);
        let bytes = self.bytes - before + size;
        if bytes > Self::MAX_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.values.insert(name.into(), (value, size));
        true
    }

    fn delete(&mut self, name: &str) {
        if let Some((_, size)) = self.values.remove(name) {
            self.bytes -= size;
        }
    }
}

/// Roughly the bytes that a value takes. Values of rules are at most `MAX_VALUE_DEPTH` deep.
fn size(value: &Value<'_>) -> usize {
    let own = size_of::<Value<'_>>();
    own + match value {
        Value::Str(text) | Value::BigNumber(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Json(json) => json.text().len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Map(map) => map.iter().map(|(name, value)| own + name.len() + size(value)).sum(),
        _ => 0,
    }
}

/// The value of a name; the default, or nothing, where there is none.
pub(super) fn get<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let name = text(&mut args[0], "kv_store_get()")?;
    match call.state.store().get(&name) {
        Some(value) => {
            call.meter.make(&value)?;
            Ok(value)
        }
        None => Ok(args.get_mut(1).map(std::mem::take).unwrap_or_default()),
    }
}

pub(super) fn put<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let name = text(&mut args[0], "kv_store_put()")?;
    let value = std::mem::take(&mut args[1]);
    call.meter.make(&value)?;
    if call.state.store().put(&name, value.into_owned()) {
        return Ok(Value::Bool(true));
    }
    Err(Error::InvalidArgument { operation: "kv_store_put()", expected: "room in the store, which is full" })
}

pub(super) fn delete<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let name = text(&mut args[0], "kv_store_del()")?;
    call.state.store().delete(&name);
    Ok(Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_refuses_and_has_room_again_after_a_deletion() {
        let mut store = MemoryStore::default();
        let big = || Value::from("x".repeat(MemoryStore::MAX_BYTES / 2));
        assert!(store.put("a", big()));
        assert!(store.put("a", big()), "what takes the place of another needs no more room");
        assert!(!store.put("b", big()));
        assert!(store.get("b").is_none());
        store.delete("a");
        assert!(store.put("b", big()));
        store.delete("b");
        assert_eq!(store.bytes, 0);
    }
}
