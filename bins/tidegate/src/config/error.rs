//! What is wrong with a configuration, all of it at once, each with its place and the way out.

use std::fmt;

use figment::error::Kind;

/// One or more errors of a configuration.
#[derive(Debug, Default)]
pub(crate) struct ConfigErrors {
    errors: Vec<(String, String)>,
}

impl ConfigErrors {
    pub(crate) fn one(place: impl fmt::Display, message: impl fmt::Display) -> Self {
        let mut errors = Self::default();
        errors.push(place, message);
        errors
    }

    pub(crate) fn push(&mut self, place: impl fmt::Display, message: impl fmt::Display) {
        self.errors.push((place.to_string(), message.to_string()));
    }

    pub(crate) fn into_result(self) -> Result<(), Self> {
        if self.errors.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<figment::Error> for ConfigErrors {
    fn from(all: figment::Error) -> Self {
        let mut errors = Self::default();
        for error in all {
            let source = error.metadata.as_ref().map(|metadata| match &metadata.source {
                Some(source) => source.to_string(),
                None => metadata.name.to_string(),
            });
            let path = error.path.join(".");
            let place = match (source, path.is_empty()) {
                (Some(source), true) => source,
                (Some(source), false) => format!("{source}: {path}"),
                (None, _) => path,
            };
            let message = match &error.kind {
                Kind::UnknownField(field, known) => {
                    format!("there is no key `{field}` here{}", did_you_mean(field, known))
                }
                Kind::UnknownVariant(value, known) => {
                    format!("`{value}` is none of {}{}", known.join(", "), did_you_mean(value, known))
                }
                Kind::MissingField(field) => format!("the key `{field}` is missing"),
                Kind::InvalidType(found, wanted) => format!("found {found}, expected {wanted}"),
                other => other.to_string(),
            };
            errors.push(place, message);
        }
        errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (place, message)) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {place}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A suggestion for a misspelt name, as the end of a sentence; or the known names where nothing is near.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3));
    match nearest {
        Some((_, candidate)) => format!("; did you mean `{candidate}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; there are {}", known.join(", ")),
    }
}
