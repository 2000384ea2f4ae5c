//! Regular expressions. They run in time linear in the text, whatever the pattern, so there is no looking around
//! and no referring back inside one.

use regex::Captures;

use super::{Call, subject, text};
use crate::error::EvalErrorKind as Error;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// How many times longer a byte takes to match than to look at.
const COST: usize = 8;

/// Whether a pattern matches anywhere in a text.
pub(super) fn regex_match<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let pattern = text(&mut args[1], "regex_match()")?;
    let text = subject(&mut args[0], "regex_match()")?;
    call.meter.scan(text.len().saturating_mul(COST))?;
    Ok(Value::Bool(call.state.pattern(&pattern, "regex_match()")?.is_match(&text)))
}

/// The groups of the first match; nothing in the array where there is no match or no group. Groups at the end that
/// took no part in the match are left out, others are empty.
pub(super) fn regex_extract<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let pattern = text(&mut args[1], "regex_extract()")?;
    let text = subject(&mut args[0], "regex_extract()")?;
    call.meter.scan(text.len().saturating_mul(COST))?;
    let Some(found) = call.state.pattern(&pattern, "regex_extract()")?.captures(&text) else {
        return Ok(Value::array(Vec::new()));
    };
    let mut groups: Vec<_> = found.iter().skip(1).collect();
    let last = groups.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    groups.truncate(last);
    call.meter.elements(groups.len())?;
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        let group = group.map_or("", |group| group.as_str());
        call.meter.bytes(group.len())?;
        parts.push(Value::from(group.to_owned()));
    }
    Ok(Value::array(parts))
}

/// A text with every match replaced. In the replacement `&` is the match, `\1` or `\g1` or `\g{1}` a group of it,
/// and `\&` and `\\` are those characters.
pub(super) fn regex_replace<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let by = text(&mut args[2], "regex_replace()")?;
    let by = Replacement::parse(&by);
    let pattern = text(&mut args[1], "regex_replace()")?;
    let text = subject(&mut args[0], "regex_replace()")?;
    let pattern = call.state.pattern(&pattern, "regex_replace()")?;
    let mut out = String::new();
    let (mut done, mut from) = (0, 0);
    while from <= text.len() {
        // A pattern may look to the end of the text for each match, so that much is charged for each.
        call.meter.scan(text.len() - from)?;
        let Some(found) = pattern.captures_at(&text, from) else { break };
        let whole = found.get_match();
        call.meter.scan((whole.end() - from).saturating_mul(COST))?;
        call.meter.steps(1 + by.parts.len())?;
        let before = out.len();
        out.push_str(&text[done..whole.start()]);
        by.write(&found, &mut out);
        call.meter.bytes(out.len() - before)?;
        done = whole.end();
        // After an empty match the next one begins a character later.
        let next = text[done..].chars().next().map_or(1, char::len_utf8);
        from = if whole.is_empty() { done + next } else { done };
    }
    if done == 0 && out.is_empty() {
        return Ok(Value::Str(text));
    }
    call.meter.bytes(text.len() - done)?;
    out.push_str(&text[done..]);
    Ok(out.into())
}

struct Replacement<'t> {
    parts: Vec<Part<'t>>,
}

enum Part<'t> {
    Literal(&'t str),
    Group(usize),
}

impl<'t> Replacement<'t> {
    fn parse(text: &'t str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['&', '\\']) {
            parts.push(Part::Literal(&rest[..at]));
            let special = &rest[at..];
            let (part, taken) = if special.starts_with('&') {
                (Part::Group(0), 1)
            } else if let Some((group, taken)) = group(&special[1..]) {
                (Part::Group(group), 1 + taken)
            } else {
                // The backslash goes, and what it stands before stays.
                let taken = 1 + special[1..].chars().next().map_or(0, char::len_utf8);
                (Part::Literal(if taken > 1 { &special[1..taken] } else { special }), taken)
            };
            parts.push(part);
            rest = &special[taken..];
        }
        parts.push(Part::Literal(rest));
        Self { parts }
    }

    fn write(&self, found: &Captures<'_>, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Group(group) => out.push_str(found.get(*group).map_or("", |group| group.as_str())),
            }
        }
    }
}

/// `1`, `g1` or `g{1}`: the number of a group and the bytes that it took.
fn group(text: &str) -> Option<(usize, usize)> {
    let number = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        Some((text[..digits].parse().ok()?, digits))
    };
    if let Some(braced) = text.strip_prefix("g{") {
        let (group, digits) = number(braced)?;
        return braced[digits..].starts_with('}').then_some((group, digits + 3));
    }
    let skipped = usize::from(text.starts_with('g'));
    let (group, digits) = number(&text[skipped..])?;
    Some((group, digits + skipped))
}
