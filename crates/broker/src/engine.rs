//! What all rules of a broker share: what they may use, what they remember across rules, and where it is kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_rules::{DuplicateRuleId, EvalLimits, EvalScratch, KeyValues, MemoryStore, StateLimits, Value};

use crate::state_files::{StateFileError, StateFiles};

/// What rules may use, and where they keep what they remember.
#[derive(Debug, Clone)]
pub struct RuleOptions {
    /// Of one evaluation of one rule; what needs more fails and is counted.
    pub evaluation: EvalLimits,
    /// Of what one rule remembers.
    pub state: StateLimits,
    /// The directory in which what rules remember survives a restart; `None` keeps it in memory only.
    ///
    /// With it, a QoS 1 or 2 message that a window took, under [`AckMode::Delivered`](crate::AckMode::Delivered), is
    /// acknowledged when a snapshot that holds it is synced to disk; without it, when the window has it.
    pub directory: Option<PathBuf>,
    /// From one snapshot of a rule to the next, while it changes.
    pub snapshot_interval: Duration,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            evaluation: EvalLimits::default(),
            state: StateLimits::default(),
            directory: None,
            snapshot_interval: Duration::from_secs(1),
        }
    }
}

/// Why a set of rules can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// Two rules have one id.
    #[error(transparent)]
    DuplicateId(#[from] DuplicateRuleId),
    /// What a rule remembered can't be read, and must not be written over.
    #[error(transparent)]
    State(#[from] StateFileError),
}

/// What all rules of one broker share.
pub(crate) struct Engine {
    node: Box<str>,
    options: RuleOptions,
    files: Option<StateFiles>,
    values: Values,
}

impl Engine {
    pub(crate) fn open(node: &str, options: RuleOptions) -> Result<Self, RulesError> {
        let files = options.directory.clone().map(StateFiles::open).transpose()?;
        Ok(Self { node: node.into(), options, files, values: Values::default() })
    }

    /// The broker's name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn options(&self) -> &RuleOptions {
        &self.options
    }

    /// Where states survive a restart.
    pub(crate) fn files(&self) -> Option<&StateFiles> {
        self.files.as_ref()
    }

    /// Memory for evaluations of this broker's rules.
    pub(crate) fn scratch(&self) -> EvalScratch {
        let mut scratch = EvalScratch::with_limits(self.options.evaluation);
        scratch.set_store(Box::new(self.values.clone()));
        let mut seed = [0; 32];
        for half in seed.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        scratch.seed(seed);
        scratch
    }
}

/// What `kv_store_put()` keeps: one for all rules and threads, bounded by [`MemoryStore::MAX_BYTES`].
#[derive(Debug, Clone, Default)]
struct Values(Arc<Mutex<MemoryStore>>);

impl KeyValues for Values {
    fn get(&mut self, name: &str) -> Option<Value<'static>> {
        self.0.lock().get(name)
    }

    fn put(&mut self, name: &str, value: Value<'static>) -> bool {
        self.0.lock().put(name, value)
    }

    fn delete(&mut self, name: &str) {
        self.0.lock().delete(name);
    }
}
