//! What a rule remembers.
/// limits
#[derive(Clone, Copy, Debug)]
pub struct StateLimits;
/// state
#[derive(Debug)]
pub struct RuleState;
