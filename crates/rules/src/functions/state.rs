//! What functions keep from one call to the next: compiled patterns, a generator, and the store.

use std::collections::HashMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::jq::{self, Definition, Term};
use super::random::Generator;
use super::store::{KeyValues, MemoryStore};
use crate::error::EvalErrorKind as Error;
use crate::eval::EvalScratch;
use crate::event::Event;

/// Compiled patterns kept. A rule's own patterns are constants, so more than this comes only from patterns that
/// messages bring; then all are forgotten, which costs a compilation each and nothing else.
const MAX_PATTERNS: usize = 64;

/// Programs of jq() kept, likewise.
const MAX_PROGRAMS: usize = 64;

/// Bytes that a compiled pattern may take, and as many again for the automaton that it is run with.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub(crate) struct State {
    patterns: HashMap<Box<str>, Regex>,
    programs: HashMap<Box<str>, Arc<Term>>,
    prelude: Option<Arc<[Definition]>>,
    generator: Option<Generator>,
    store: Option<Box<dyn KeyValues>>,
}

impl State {
    /// The compiled form of a pattern.
    pub(super) fn pattern(&mut self, pattern: &str, operation: &'static str) -> Result<&Regex, Error> {
        if !self.patterns.contains_key(pattern) {
            let compiled = compile_pattern(pattern)
                .map_err(|_| Error::InvalidArgument { operation, expected: "a regular expression" })?;
            if self.patterns.len() >= MAX_PATTERNS {
                self.patterns.clear();
            }
            self.patterns.insert(pattern.into(), compiled);
        }
        Ok(&self.patterns[pattern])
    }

    /// The tree of a jq program.
    pub(super) fn program(&mut self, program: &str) -> Result<Arc<Term>, Error> {
        if let Some(compiled) = self.programs.get(program) {
            return Ok(Arc::clone(compiled));
        }
        let compiled = jq::compile(program)
            .map_err(|_| Error::InvalidArgument { operation: "jq()", expected: "a program of jq" })?;
        let compiled = Arc::new(compiled);
        if self.programs.len() >= MAX_PROGRAMS {
            self.programs.clear();
        }
        self.programs.insert(program.into(), Arc::clone(&compiled));
        Ok(compiled)
    }

    /// What every jq program knows.
    pub(super) fn prelude(&mut self) -> Arc<[Definition]> {
        Arc::clone(self.prelude.get_or_insert_with(jq::prelude))
    }

    /// The generator; seeded from the event when the program that embeds the engine has not done it.
    pub(super) fn generator(&mut self, event: &Event<'_>) -> &mut Generator {
        self.generator.get_or_insert_with(|| Generator::of_event(event))
    }

    /// The store; one of this scratch alone when the program that embeds the engine has given none.
    pub(super) fn store(&mut self) -> &mut dyn KeyValues {
        self.store.get_or_insert_with(|| Box::new(MemoryStore::default())).as_mut()
    }
}

/// A pattern as rules may use it: matched in time linear in the text, and of bounded size.
pub(super) fn compile_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES).build()
}

impl EvalScratch {
    /// Seeds what `random()` and `uuid_v4()` draw from.
    ///
    /// This crate asks no operating system for randomness. Without a seed the generator begins with the id and the
    /// time of the first event that needs it, which is good enough for names that do not collide and no good for
    /// anything that nobody may guess. Give 32 bytes of the system's randomness to each scratch for that.
    pub fn seed(&mut self, seed: [u8; 32]) {
        self.functions.generator = Some(Generator::new(seed));
    }

    /// Gives the functions `kv_store_get`, `kv_store_put` and `kv_store_del` a store to work on, as one that all
    /// scratches of a node share. Without one each scratch has a [`MemoryStore`] of its own.
    pub fn set_store(&mut self, store: Box<dyn KeyValues>) {
        self.functions.store = Some(store);
    }
}
