//! SQL-like rules over MQTT events: compiled once into a program, evaluated without I/O. The language is the one
//! that EMQX's users know, with its mistakes found when a rule is loaded instead of when a message comes.
//!
//! It does not subscribe, send or store anything, and knows no packets: whoever has an event fills in an [`Event`]
//! and does something with the [`Row`]s. There is no clock here; the time is the event's.
//!
//! ```
//! use tidegate_rules::{Event, EvalScratch, Missing, Rule, RuleSet, Template};
//!
//! let sql = r#"SELECT payload.temp AS t, clientid FROM "plant/+/up" WHERE payload.temp > 20"#;
//! let rules = RuleSet::new(vec![Rule::compile("hot", sql)?])?;
//! let key = Template::compile("${clientid}/${t}")?;
//!
//! let mut scratch = EvalScratch::default(); // one for each thread
//! let event = Event::publish("plant/7/up", "sensor-7", br#"{"temp": 21.5}"#);
//! let mut evaluator = scratch.start(&event);
//! let mut made = Vec::new();
//! rules.for_each_reader(&event, |_, rule| match rule.evaluate(&mut evaluator) {
//!     Ok(outcome) => {
//!         for row in outcome.rows() {
//!             key.render(row, Missing::Empty, &mut made).expect("nothing is refused");
//!             row.write_json(&mut made);
//!         }
//!     }
//!     Err(error) => panic!("{error}"),
//! });
//! assert_eq!(made, br#"sensor-7/21.5{"t":21.5,"clientid":"sensor-7"}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The main types:
//!
//! - [`Rule`] is a compiled statement, [`RuleSet`] all of them with an index by topic;
//! - [`Event`] is what comes in, [`Row`] what comes out, [`Template`] turns a row into text;
//! - [`RuleState`] is what a rule with a window, DEDUP or lag() remembers, [`Explanation`] why an event was not selected;
//! - [`EvalScratch`] is the memory that evaluations reuse, [`Evaluator`] one message among all rules;
//! - [`CompileError`] carries every [`Diagnostic`] of a text, with places and hints.
//!
//! There are no cargo features.

mod compile;
mod diagnostic;
mod error;
mod eval;
mod event;
mod explain;
mod functions;
mod json;
mod meter;
mod operators;
mod path;
mod program;
mod row;
mod rule;
mod ruleset;
mod state;
mod syntax;
mod template;
mod value;
mod write_path;

pub use compile::{MAX_OUTPUTS, MAX_PATH_STEPS};
pub use diagnostic::{CompileError, Diagnostic, MAX_DIAGNOSTICS, Severity, Span};
pub use error::{EvalError, EvalErrorKind};
pub use eval::{EvalScratch, Evaluator};
pub use event::{Connection, Details, Event, EventKind, Properties, Property};
pub use explain::{ConditionPart, Explanation, Verdict};
pub use functions::{KeyValues, MemoryStore};
pub use json::{JsonError, JsonProblem, MAX_JSON_BYTES, MAX_JSON_DEPTH, RawJson};
pub use meter::{EvalLimits, MAX_VALUE_DEPTH};
pub use path::{Path, PathStep};
pub use row::Row;
pub use rule::{Outcome, Rows, Rule, functions};
pub use ruleset::{DuplicateRuleId, RuleSet};
pub use state::{ClosedRow, RuleState, StateError, StateLimits};
pub use syntax::parser::{MAX_EXPRESSION_DEPTH, MAX_SQL_BYTES};
pub use template::{MAX_TEMPLATE_BYTES, Missing, RenderError, Rendered, Template, check_template};
pub use value::{Map, Value};
