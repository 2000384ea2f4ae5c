//! Files of cases: JSON lines, or TOML.

use std::path::Path;
use std::sync::Arc;

use tidegate_rules::{Map, Value};

use super::case::Case;

/// Reads all cases of a file, each with its place in the file.
///
/// # Errors
///
/// The file, the place and what can't be read there.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Case)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.display();
    let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let cases = if is_toml { toml_cases(&text) } else { json_cases(&text) };
    cases
        .into_iter()
        .map(|(place, case)| {
            let place = format!("{name}:{place}");
            case.map(|case| (place.clone(), case)).map_err(|problem| format!("{place}: {problem}"))
        })
        .collect()
}

/// A case, or what is wrong with it, after the number of its line, or of its place among the cases.
type Read = Vec<(String, Result<Case, String>)>;

fn json_cases(text: &str) -> Read {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(line, text)| {
            let case = Value::from_json(text).map_err(|error| format!("not JSON: {error}"));
            ((line + 1).to_string(), case.and_then(|fields| Case::of(&fields)))
        })
        .collect()
}

/// An array of tables `case`. What stands above the first of them is the default of each.
fn toml_cases(text: &str) -> Read {
    let whole = |problem: String| vec![("1".to_owned(), Err(problem))];
    let mut table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return whole(error.to_string()),
    };
    let Some(toml::Value::Array(cases)) = table.remove("case") else {
        return whole("there is no [[case]] in it".to_owned());
    };
    let read = |(position, case): (usize, toml::Value)| {
        let place = format!("case {}", position + 1);
        let toml::Value::Table(fields) = case else { return (place, Err("a case is a table".to_owned())) };
        let mut all = table.clone();
        all.extend(fields);
        let members = all.into_iter().map(|(name, value)| Ok((name.into(), to_value(value)?)));
        let members: Result<Map<'static>, String> = members.collect();
        (place, members.and_then(|members| Case::of(&Value::Map(Arc::new(members)))))
    };
    cases.into_iter().enumerate().map(read).collect()
}

fn to_value(value: toml::Value) -> Result<Value<'static>, String> {
    Ok(match value {
        toml::Value::String(text) => Value::from(text),
        toml::Value::Integer(number) => Value::Int(number),
        toml::Value::Float(number) if number.is_finite() => Value::Float(number),
        toml::Value::Float(_) => return Err("JSON has no number that is not finite".to_owned()),
        toml::Value::Boolean(value) => Value::Bool(value),
        toml::Value::Datetime(time) => Value::from(time.to_string()),
        toml::Value::Array(items) => {
            Value::Array(Arc::new(items.into_iter().map(to_value).collect::<Result<_, _>>()?))
        }
        toml::Value::Table(table) => {
            let members = table.into_iter().map(|(name, value)| Ok((name.into(), to_value(value)?)));
            Value::Map(Arc::new(members.collect::<Result<_, String>>()?))
        }
    })
}
