//! Texts with `${...}` in them, filled in from a Kafka record.

use std::borrow::Cow;

use tidegate_kafka::FetchedRecord;

use crate::config::did_you_mean;

/// What a text may name, but for `headers.NAME`.
const NAMES: [(&str, Variable); 6] = [
    ("topic", Variable::Topic),
    ("partition", Variable::Partition),
    ("offset", Variable::Offset),
    ("key", Variable::Key),
    ("value", Variable::Value),
    ("timestamp", Variable::Timestamp),
];

const HEADERS: &str = "headers.";

/// A compiled text.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(Variable),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    /// Milliseconds since the Unix epoch.
    Timestamp,
    /// The first header of that name.
    Header(String),
}

/// A record and where it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) record: &'a FetchedRecord,
}

impl<'a> Read<'a> {
    /// The value of the first header of that name; `None` also where it is null.
    pub(crate) fn header(&self, name: &str) -> Option<&'a [u8]> {
        let header = self.record.headers.iter().find(|(known, _)| known == name)?;
        header.1.as_deref()
    }
}

impl Template {
    /// Compiles a text. `${$}` is a dollar sign.
    ///
    /// # Errors
    /// What stands in brackets and is nothing, in words.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            literal.push_str(before);
            let (name, behind) = behind.split_once('}').ok_or_else(|| {
                format!("`${{` without a `}}` behind it in `{text}`; write `${{$}}` for a dollar sign")
            })?;
            rest = behind;
            if name == "$" {
                literal.push('$');
                continue;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Variable(variable(name.trim())?));
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// The parts of the text that are the same for every record.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Variable(_) => None,
        })
    }

    /// The text for a record, with `made_safe` applied to everything that the record brings in; `None` where the record
    /// has no such key, value or header.
    pub(crate) fn render_strict(&self, read: &Read<'_>, made_safe: impl Fn(u8) -> u8) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    out.extend(variable.of(read)?.iter().map(|byte| made_safe(*byte)));
                }
            }
        }
        Some(out)
    }

    /// The text for a record, with nothing for what it does not have; no copy where the text is one part of the record.
    pub(crate) fn render<'a>(&self, read: &Read<'a>) -> Cow<'a, [u8]> {
        if let [Part::Variable(variable)] = &*self.0 {
            return variable.of(read).unwrap_or_default();
        }
        let mut out = Vec::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => out.extend_from_slice(&variable.of(read).unwrap_or_default()),
            }
        }
        Cow::Owned(out)
    }
}

impl Variable {
    fn of<'a>(&self, read: &Read<'a>) -> Option<Cow<'a, [u8]>> {
        let number = |number: i64| Some(Cow::Owned(number.to_string().into_bytes()));
        match self {
            Self::Topic => Some(Cow::Borrowed(read.topic.as_bytes())),
            Self::Partition => number(read.partition.into()),
            Self::Offset => number(read.record.offset),
            Self::Timestamp => number(read.record.timestamp_ms),
            Self::Key => read.record.key.as_deref().map(Cow::Borrowed),
            Self::Value => read.record.value.as_deref().map(Cow::Borrowed),
            Self::Header(name) => read.header(name).map(Cow::Borrowed),
        }
    }
}

fn variable(name: &str) -> Result<Variable, String> {
    if let Some(header) = name.strip_prefix(HEADERS).filter(|header| !header.is_empty()) {
        return Ok(Variable::Header(header.to_owned()));
    }
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.map(|(_, variable)| variable.clone()).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(["headers.NAME"]).collect();
        format!("a record has no `{name}`{}", did_you_mean(name, &names))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> FetchedRecord {
        FetchedRecord {
            offset: 7,
            timestamp_ms: 1500,
            key: Some("k+1".into()),
            value: None,
            headers: vec![
                ("a.b".to_owned(), Some("first".into())),
                ("a.b".to_owned(), Some("second".into())),
                ("null".to_owned(), None),
            ],
        }
    }

    #[test]
    fn a_text_is_filled_in_from_the_record() {
        let record = record();
        let read = Read { topic: "t", partition: 3, record: &record };
        let template =
            Template::compile("${topic}/${partition}/${offset}/${ timestamp }/${headers.a.b}${$}{x}")
                .unwrap();
        assert_eq!(template.render_strict(&read, |byte| byte).unwrap(), b"t/3/7/1500/first${x}");
        let safe = |byte| if byte == b'+' { b'_' } else { byte };
        let keyed = Template::compile("+${key}").unwrap();
        assert_eq!(keyed.render_strict(&read, safe).unwrap(), b"+k_1", "what is written is as it is");
        for missing in ["a/${value}", "${headers.null}", "${headers.c}"] {
            let template = Template::compile(missing).unwrap();
            assert_eq!(template.render_strict(&read, |byte| byte), None, "{missing}");
        }
        assert_eq!(*Template::compile("a/${value}").unwrap().render(&read), *b"a/");
        assert!(matches!(Template::compile("${key}").unwrap().render(&read), Cow::Borrowed(b"k+1")));
    }

    #[test]
    fn a_wrong_name_is_told_with_the_likely_one() {
        assert!(Template::compile("${ofset}").unwrap_err().contains("did you mean `offset`?"));
        assert!(Template::compile("a${topic").unwrap_err().contains("without a `}`"));
        assert!(Template::compile("${headers.}").is_err());
    }
}
