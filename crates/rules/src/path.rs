//! A path to a value in a row, as templates write it.

use std::fmt;

/// `column.field[1]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    text: Box<str>,
    root: Box<str>,
    steps: Box<[PathStep]>,
}

/// One step into a value.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// The member of an object.
    Key(Box<str>),
    /// The element of an array, from 1 or negative from the end.
    Index(i64),
}

impl Path {
    /// Reads names separated by dots, each with any number of indexes in brackets; `None` where the text is not
    /// that. The text `.` is the path to the whole row, whose root is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut root = "";
        if text != "." {
            for (position, part) in text.split('.').enumerate() {
                let (name, mut indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
                if name.is_empty() || steps.len() > crate::MAX_PATH_STEPS {
                    return None;
                }
                if position == 0 {
                    root = name;
                } else {
                    steps.push(PathStep::Key(name.into()));
                }
                while let Some((index, rest)) =
                    indexes.strip_prefix('[').and_then(|rest| rest.split_once(']'))
                {
                    steps.push(PathStep::Index(index.parse().ok()?));
                    indexes = rest;
                }
                if !indexes.is_empty() {
                    return None;
                }
            }
        }
        Some(Self { text: text.into(), root: root.into(), steps: steps.into() })
    }

    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The column's name; empty where the path is the whole row.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The steps below the column.
    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// Whether it is `.`, the whole row.
    pub fn is_whole_row(&self) -> bool {
        self.root.is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
