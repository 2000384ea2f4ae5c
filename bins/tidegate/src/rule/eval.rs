//! `tidegate rule eval`: one rule, one event, the rows.

use std::process::ExitCode;

use tidegate_rules::{Missing, Rule, Template, Value};

use super::EvalArgs;
use super::event::{Made, Sample};
use crate::{EXIT_RUNTIME, EXIT_USAGE, print_error, print_line};

/// There is no row.
const EXIT_NO_ROW: u8 = 3;

pub(super) fn run(args: &EvalArgs) -> ExitCode {
    match evaluate(args) {
        Ok(code) => code,
        Err(problem) => {
            print_error(problem.trim_end());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn evaluate(args: &EvalArgs) -> Result<ExitCode, String> {
    let sql = text_or_file(&args.sql)?;
    let rule = Rule::compile("sql", &sql).map_err(|error| error.render("sql", &sql))?;
    for warning in rule.warnings() {
        print_error(warning.render("sql", &sql).trim_end());
    }
    let template = args.template.as_deref().map(text_or_file).transpose()?;
    let template = template
        .map(|text| Template::compile(&text).map_err(|error| error.render("template", &text)))
        .transpose()?;
    let event = text_or_file(&args.event)?;
    let columns =
        Value::from_json(&event).map_err(|error| format!("error: the event is not JSON: {error}"))?;
    let sample = Sample::of(&columns).map_err(|problem| format!("error: the event: {problem}"))?;
    if args.explain {
        print_error(sample.explain(&rule).trim_end());
    }
    let mut refused = None;
    let made = sample.evaluate(rule, |row| {
        let mut line = Vec::new();
        match &template {
            Some(template) => refused = template.render(row, Missing::Empty, &mut line).err(),
            None => row.write_json(&mut line),
        }
        print_line(&String::from_utf8_lossy(&line));
    });
    if let Some(error) = refused {
        print_error(&format!("error: {error}"));
        return Ok(ExitCode::from(EXIT_RUNTIME));
    }
    Ok(match made {
        Made::Rows => ExitCode::SUCCESS,
        Made::Failed(why) => {
            print_error(&format!("error: {why}"));
            ExitCode::from(EXIT_RUNTIME)
        }
        Made::Nothing => {
            print_error("no row: WHERE is false, or FOREACH or a window gave none");
            ExitCode::from(EXIT_NO_ROW)
        }
        Made::NoMatch => {
            print_error("no row: FROM does not ask for this topic or event");
            ExitCode::from(EXIT_NO_ROW)
        }
    })
}

fn text_or_file(argument: &str) -> Result<String, String> {
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("error: {path}: {error}")),
        None => Ok(argument.to_owned()),
    }
}
