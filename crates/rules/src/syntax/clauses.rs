//! What may follow WHERE: DEDUP BY, SAMPLE and GROUP BY with its window.

use super::ast::{Dedup, Expr, Group, Sample, SampleRate, Statement, Window};
use super::lexer::{Symbol, Token};
use super::parser::{Parsed, Parser};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};

/// The longest time that a window, DEDUP or SAMPLE can span: ten days.
pub(super) const MAX_DURATION_MS: i64 = 10 * 24 * 60 * 60 * 1000;

/// Windows of one key that can be open at once, which is a hopping window's size by its hop.
pub(super) const MAX_OVERLAPPING_WINDOWS: i64 = 64;

/// A session that never pauses is closed after this many gaps.
const SESSION_GAPS: i64 = 60;

const WINDOWS: [&str; 3] = ["TUMBLING", "HOPPING", "SESSION"];

const UNITS: [(&[&str], i64); 5] = [
    (&["ms", "millisecond", "milliseconds"], 1),
    (&["s", "sec", "second", "seconds"], 1000),
    (&["m", "min", "minute", "minutes"], 60 * 1000),
    (&["h", "hour", "hours"], 60 * 60 * 1000),
    (&["d", "day", "days"], 24 * 60 * 60 * 1000),
];

impl Parser<'_, '_> {
    /// Reads one clause into the statement; false where none follows.
    pub(super) fn further_clause(&mut self, statement: &mut Statement) -> Parsed<bool> {
        let span = self.span();
        let twice = if self.is_keyword("DEDUP") {
            self.advance();
            statement.dedup.replace(self.dedup()?).is_some()
        } else if self.is_keyword("SAMPLE") {
            self.advance();
            statement.sample.replace(self.sample()?).is_some()
        } else if self.is_keyword("GROUP") {
            self.advance();
            statement.group.replace(self.group(span)?).is_some()
        } else {
            return Ok(false);
        };
        if twice { self.fail(Diagnostic::error(span, "this clause stands twice")) } else { Ok(true) }
    }

    fn dedup(&mut self) -> Parsed<Dedup> {
        self.expect_keyword("BY")?;
        let keys = self.keys()?;
        self.expect_keyword("WITHIN")?;
        Ok(Dedup { keys, within_ms: self.duration()? })
    }

    fn sample(&mut self) -> Parsed<Sample> {
        let rate = if self.is_keyword("EVERY") {
            self.advance();
            SampleRate::EveryMs(self.duration()?)
        } else {
            let span = self.span();
            let one = self.positive()?;
            self.expect_keyword("IN")?;
            let count = self.positive()?;
            if one != 1 {
                let error = Diagnostic::error(span, "a sample is one message in so many");
                return self.fail(error.hint("write SAMPLE 1 IN 100, or SAMPLE EVERY 10 s"));
            }
            SampleRate::OneIn(count)
        };
        let keys = if self.is_keyword("BY") {
            self.advance();
            self.keys()?
        } else {
            Vec::new()
        };
        Ok(Sample { rate, keys })
    }

    fn keys(&mut self) -> Parsed<Vec<Expr>> {
        let mut keys = vec![self.expression(0)?];
        while self.take(Symbol::Comma) {
            keys.push(self.expression(0)?);
        }
        Ok(keys)
    }

    fn group(&mut self, start: Span) -> Parsed<Group> {
        self.expect_keyword("BY")?;
        let mut keys = Vec::new();
        let mut window = None;
        loop {
            let span = self.span();
            match self.window()? {
                Some(found) if window.is_none() => window = Some(found),
                Some(_) => return self.fail(Diagnostic::error(span, "a rule has one window")),
                None => keys.push(self.group_key()?),
            }
            if !self.take(Symbol::Comma) {
                break;
            }
        }
        let Some(window) = window else {
            let error = Diagnostic::error(start.to(self.last_span()), "GROUP BY needs a window of time");
            return self.fail(error.hint("write GROUP BY clientid, TUMBLING(10 s)"));
        };
        Ok(Group { keys, window, having: self.clause("HAVING")? })
    }

    fn group_key(&mut self) -> Parsed<Expr> {
        if let Token::Word(name) = *self.token()
            && self.is_duration_at(self.at + 2)
            && let Some(hint) = did_you_mean(name, WINDOWS)
        {
            let error = Diagnostic::error(self.span(), format!("unknown window `{name}`"));
            return self.fail(error.hint(hint));
        }
        self.expression(0)
    }

    /// `TUMBLING(size)`, `HOPPING(size, hop)` or `SESSION(gap)` or `SESSION(gap, longest)`, where one stands next.
    fn window(&mut self) -> Parsed<Option<Window>> {
        let Some(name) = WINDOWS.into_iter().find(|name| self.is_keyword(name)) else { return Ok(None) };
        let start = self.span();
        self.advance();
        self.expect(Symbol::OpenParen)?;
        let first = self.duration()?;
        let second = if self.take(Symbol::Comma) { Some(self.duration()?) } else { None };
        self.expect(Symbol::CloseParen)?;
        let span = start.to(self.last_span());
        let window = match (name, second) {
            ("TUMBLING", None) => Window::Tumbling { size: first },
            ("HOPPING", Some(hop)) => Window::Hopping { size: first, hop },
            ("SESSION", longest) => {
                Window::Session { gap: first, longest: longest.unwrap_or(first.saturating_mul(SESSION_GAPS)) }
            }
            _ => {
                let error = Diagnostic::error(span, format!("{name} has another number of durations"));
                return self
                    .fail(error.hint("write TUMBLING(size), HOPPING(size, hop) or SESSION(gap, longest)"));
            }
        };
        match window {
            Window::Hopping { size, hop } if hop > size || size % hop != 0 => {
                let error = Diagnostic::error(span, "a window's size must be a multiple of its hop");
                self.fail(error.hint("write HOPPING(60 s, 10 s)"))
            }
            Window::Hopping { size, hop } if size / hop > MAX_OVERLAPPING_WINDOWS => {
                let message =
                    format!("{} windows overlap; {MAX_OVERLAPPING_WINDOWS} are allowed", size / hop);
                self.fail(Diagnostic::error(span, message))
            }
            Window::Session { gap, longest } if longest < gap => self
                .fail(Diagnostic::error(span, "the longest session is shorter than the gap that ends one")),
            _ => Ok(Some(window)),
        }
    }

    /// A number and a unit: `10 s`, `500ms`, `1 hour`. In milliseconds.
    fn duration(&mut self) -> Parsed<i64> {
        let start = self.span();
        let count = self.positive()?;
        let Token::Word(unit) = *self.token() else {
            return self.fail_expected("a unit: ms, s, min, h or d");
        };
        let is = |name: &&str| unit.eq_ignore_ascii_case(name);
        let Some((_, millis)) = UNITS.iter().find(|(names, _)| names.iter().any(is)) else {
            return self.fail_expected("a unit: ms, s, min, h or d");
        };
        self.advance();
        if let Some(total) = count.checked_mul(*millis).filter(|total| *total <= MAX_DURATION_MS) {
            return Ok(total);
        }
        let span = start.to(self.last_span());
        self.fail(Diagnostic::error(span, "the longest duration is 10 d"))
    }

    fn positive(&mut self) -> Parsed<i64> {
        if let Token::Integer(digits) = *self.token()
            && let Some(count) = digits.parse().ok().filter(|count: &i64| *count > 0)
        {
            self.advance();
            return Ok(count);
        }
        self.fail_expected("a whole number above 0")
    }
}
