//! Rewriting of topics: a client says one topic and means another.

use regex::{Captures, Regex, RegexBuilder};
use tidegate_topic::TopicFilter;

use crate::access::covers;
use crate::setting::InvalidSetting;

/// Memory that a compiled pattern may take, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// What a rewrite is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RewriteScope {
    /// Topics of messages, wills among them.
    Publish,
    /// Filters of SUBSCRIBE and UNSUBSCRIBE.
    Subscribe,
    /// Both.
    All,
}

/// One rewrite: topics that a filter covers and a regular expression matches become another topic.
///
/// Of several, the first that fits is applied, once. Matching takes time linear in the topic, whatever the pattern.
///
/// ```
/// use tidegate_broker::{Rewrite, RewriteScope};
///
/// let rewrite = Rewrite::new(RewriteScope::All, "x/#", "^x/y/(.+)$", "z/%c/$1")?;
/// # Ok::<(), tidegate_broker::InvalidSetting>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rewrite {
    scope: RewriteScope,
    source: Box<str>,
    pattern: Regex,
    destination: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Group(usize),
    ClientId,
}

/// What rewriting made of a topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rewritten {
    /// No rewrite fits.
    Same,
    To(String),
    /// The client's id has characters that would change the meaning of a filter.
    Impossible,
}

impl Rewrite {
    /// Returns a rewrite of what `source` covers and `pattern` matches to `destination`, in which `$1` to `$9` stand
    /// for the groups of the pattern and `%c` for the client id.
    ///
    /// # Errors
    /// When `source` is no topic filter, `pattern` no regular expression of a megabyte at most, or `destination`
    /// names a group that `pattern` does not have.
    pub fn new(
        scope: RewriteScope,
        source: &str,
        pattern: &str,
        destination: &str,
    ) -> Result<Self, InvalidSetting> {
        TopicFilter::parse(source)
            .map_err(|reason| InvalidSetting::Filter { filter: source.to_owned(), reason })?;
        let regex = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build();
        let pattern = regex.map_err(|reason| InvalidSetting::Pattern {
            pattern: pattern.to_owned(),
            reason: Box::new(reason),
        })?;
        let parts = parts(destination);
        let groups = pattern.captures_len() - 1;
        for part in &parts {
            if let Part::Group(group) = *part
                && group > groups
            {
                return Err(InvalidSetting::Group { destination: destination.to_owned(), group, groups });
            }
        }
        Ok(Self { scope, source: source.into(), pattern, destination: parts.into() })
    }

    fn apply(&self, captures: &Captures<'_>, client_id: &str) -> Rewritten {
        let mut made = String::new();
        for part in &self.destination {
            match part {
                Part::Text(text) => made.push_str(text),
                Part::Group(group) => made.push_str(captures.get(*group).map_or("", |found| found.as_str())),
                Part::ClientId if client_id.contains(['+', '#', '/']) => return Rewritten::Impossible,
                Part::ClientId => made.push_str(client_id),
            }
        }
        Rewritten::To(made)
    }
}

/// Takes a destination apart.
fn parts(destination: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = destination.chars().peekable();
    while let Some(c) = rest.next() {
        let part = match (c, rest.peek()) {
            ('%', Some('c')) => Part::ClientId,
            ('$', Some(digit @ '1'..='9')) => Part::Group(*digit as usize - '0' as usize),
            _ => {
                text.push(c);
                continue;
            }
        };
        rest.next();
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text).into()));
        }
        parts.push(part);
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    parts
}

/// Applies the first of `rewrites` that is for `scope` and fits.
pub(crate) fn rewrite(
    rewrites: &[Rewrite],
    scope: RewriteScope,
    topic: TopicFilter<'_>,
    client_id: &str,
) -> Rewritten {
    for rewrite in rewrites {
        let is_meant = (rewrite.scope == RewriteScope::All || rewrite.scope == scope)
            && TopicFilter::parse(&rewrite.source).is_ok_and(|source| covers(source, topic));
        if is_meant && let Some(captures) = rewrite.pattern.captures(topic.as_str()) {
            return rewrite.apply(&captures, client_id);
        }
    }
    Rewritten::Same
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rewrites: &[Rewrite], scope: RewriteScope, topic: &str, client_id: &str) -> Rewritten {
        rewrite(rewrites, scope, TopicFilter::parse(topic).unwrap(), client_id)
    }

    #[test]
    fn the_first_rewrite_that_fits_is_applied() {
        let rewrites = [
            Rewrite::new(RewriteScope::Publish, "a/#", "^a/(.+)/(.+)$", "b/$2/%c/$1/%u$").unwrap(),
            Rewrite::new(RewriteScope::All, "a/#", "^a/(.+)$", "c/$1").unwrap(),
        ];
        let to = |text: &str| Rewritten::To(text.to_owned());
        assert_eq!(run(&rewrites, RewriteScope::Publish, "a/1/2", "id"), to("b/2/id/1/%u$"));
        assert_eq!(run(&rewrites, RewriteScope::Publish, "a/1", "id"), to("c/1"));
        assert_eq!(run(&rewrites, RewriteScope::Subscribe, "a/+/#", "id"), to("c/+/#"));
        assert_eq!(run(&rewrites, RewriteScope::Subscribe, "+/1", "id"), Rewritten::Same);
        assert_eq!(run(&rewrites, RewriteScope::Publish, "a/1/2", "x/#"), Rewritten::Impossible);
    }

    #[test]
    fn what_cannot_work_is_refused_when_it_is_set() {
        let new =
            |source, pattern, destination| Rewrite::new(RewriteScope::All, source, pattern, destination);
        assert!(matches!(new("a/#/b", "a", "b"), Err(InvalidSetting::Filter { .. })));
        assert!(matches!(new("a", "(", "b"), Err(InvalidSetting::Pattern { .. })));
        assert!(matches!(new("a", "(.{1000}){1000}", "b"), Err(InvalidSetting::Pattern { .. })));
        assert!(matches!(new("a", "a", "$1"), Err(InvalidSetting::Group { group: 1, groups: 0, .. })));
    }
}
