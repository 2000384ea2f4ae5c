//! The objects and arrays inside a payload that rules have looked into: each is read once for all rules of a message.

use crate::error::EvalErrorKind;
use crate::json::{JsonError, Level};
use crate::meter::Meter;

/// Those that are remembered of one message. What more of them are looked into takes the place of the last.
const MAX_NESTED: usize = 8;

/// Their memory is used again for the next message.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// Each with the byte of the payload at which it begins, which no two share.
    levels: Vec<(usize, Level)>,
    /// Those that belong to this message.
    used: usize,
}

impl Nested {
    /// Begins with another message.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// The level that begins at byte `start` of the payload and has this text.
    pub(super) fn level(
        &mut self,
        start: usize,
        text: &str,
        meter: &mut Meter,
    ) -> Result<&Level, EvalErrorKind> {
        let known = self.levels[..self.used].iter().position(|(begin, _)| *begin == start);
        let at = if let Some(at) = known {
            at
        } else {
            meter.scan(text.len())?;
            self.read(start, text).map_err(|error| EvalErrorKind::NotJson(error.after(start)))?
        };
        Ok(&self.levels[at].1)
    }

    /// Where the level is now. One that can't be read is not remembered.
    fn read(&mut self, start: usize, text: &str) -> Result<usize, JsonError> {
        let at = self.used.min(MAX_NESTED - 1);
        self.used = at;
        if self.levels.len() == at {
            self.levels.push(Default::default());
        }
        let (begin, level) = &mut self.levels[at];
        level.read(text)?;
        *begin = start;
        self.used = at + 1;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EvalLimits;

    #[test]
    fn what_was_read_of_a_message_is_not_read_again() {
        let mut meter = Meter::new(EvalLimits::default());
        let mut nested = Nested::default();
        let one = r#"{"a": 1}"#;
        nested.level(7, one, &mut meter).unwrap();
        // Were it read again, this would be found out.
        assert!(nested.level(7, "{", &mut meter).unwrap().member("a", one).is_some());
        assert!(nested.level(8, "{", &mut meter).is_err());
        assert!(nested.level(7, "{", &mut meter).is_ok(), "the one before it is still there");
        nested.clear();
        assert!(nested.level(7, "{", &mut meter).is_err(), "another message");
        for start in 0..3 * MAX_NESTED {
            nested.level(start, one, &mut meter).unwrap();
        }
        assert_eq!(nested.levels.len(), MAX_NESTED);
        assert!(nested.level(3 * MAX_NESTED - 1, "{", &mut meter).is_ok());
        assert!(nested.level(MAX_NESTED, "{", &mut meter).is_err());
    }
}
