//! One output of a rule: named columns over the event that they came from.

use std::borrow::Cow;
use std::fmt;

use crate::event::Event;
use crate::path::{Path, PathStep};
use crate::program::Program;
use crate::value::{Value, write_members};

/// The columns that a rule made of one event.
///
/// `SELECT *` copies nothing: the row then stands for the event itself, and only columns that the rule computed
/// have a place of their own.
#[derive(Clone)]
pub struct Row<'r> {
    event: &'r Event<'r>,
    program: &'r Program,
    /// In the order of the program's visible slots.
    slots: Vec<Value<'r>>,
}

impl<'r> Row<'r> {
    pub(crate) fn new(event: &'r Event<'r>, program: &'r Program, slots: Vec<Value<'r>>) -> Self {
        Self { event, program, slots }
    }

    /// The event that the row was made of.
    pub fn event(&self) -> &'r Event<'r> {
        self.event
    }

    /// Whether the row is the event as it came: `SELECT *` and nothing else.
    pub fn is_whole_event(&self) -> bool {
        self.program.star && self.slots.is_empty()
    }

    /// The value of a column; undefined where the row has none of that name.
    pub fn get(&self, column: &str) -> Value<'r> {
        match self.computed(column) {
            Some(value) => value.clone(),
            None if self.program.star => self.event.column(column),
            None => Value::Undefined,
        }
    }

    /// The value at a path: a column, and fields and elements in it. A text that holds JSON is looked into.
    pub fn lookup(&self, path: &Path) -> Value<'r> {
        let mut value = self.get(path.root());
        for step in path.steps() {
            if let Value::Str(text) = value {
                value = decode(text);
            }
            value = match step {
                PathStep::Key(key) => value.get(key),
                PathStep::Index(index) => value.element(*index),
            };
        }
        value
    }

    /// Every column with its value: those of the event first, in a fixed order and without the missing ones, then
    /// those that the rule computed, in the order of the rule.
    pub fn columns(&self) -> impl Iterator<Item = (&'r str, Value<'r>)> {
        let program = self.program;
        let computed = program.visible().iter().zip(&self.slots);
        let computed = computed.map(|(name, value)| (&**name, value.clone()));
        let event = program.star.then(|| self.event.columns()).into_iter().flatten();
        event.filter(|(name, _)| program.position(name).is_none()).chain(computed)
    }

    /// Appends the row as a JSON object. Columns that are undefined are left out.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        if self.program.star {
            let columns: Vec<_> = self.columns().collect();
            write_members(columns.iter().map(|(name, value)| (*name, value)), out);
        } else {
            let names = self.program.visible().iter().map(|name| &**name);
            write_members(names.zip(&self.slots), out);
        }
    }

    /// The value of a column without a copy, where the row itself holds it.
    pub(crate) fn computed(&self, column: &str) -> Option<&Value<'r>> {
        self.program.position(column).and_then(|at| self.slots.get(at))
    }

    pub(crate) fn has_star(&self) -> bool {
        self.program.star
    }
}

impl fmt::Debug for Row<'_> {
    /// Names and kinds, not what a device wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.program.visible().iter().zip(&self.slots).map(|(name, value)| (name, value.kind()));
        f.debug_struct("Row").field("star", &self.program.star).field("columns", &KindMap(kinds)).finish()
    }
}

struct KindMap<I>(I);

impl<'n, I: Iterator<Item = (&'n Box<str>, &'static str)> + Clone> fmt::Debug for KindMap<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.clone()).finish()
    }
}

fn decode(text: Cow<'_, str>) -> Value<'_> {
    match text {
        Cow::Borrowed(text) => Value::from_json(text).unwrap_or_default(),
        Cow::Owned(text) => Value::from_json(&text).map(Value::into_owned).unwrap_or_default(),
    }
}
