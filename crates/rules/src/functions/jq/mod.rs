//! `jq(program, json)`: the language of jq, of which the part is here that reads and makes values.
//!
//! It is not a library's because none of them can be stopped: a program that goes on for ever, calls itself without
//! end or doubles a text sixty times has to fail like any other rule, after the same steps and bytes.

mod builtin;
mod path;
mod run;
mod syntax;
mod value;

use std::sync::Arc;

use self::run::{Item, Machine, Stop};
pub(super) use self::syntax::{Definition, Term};
use super::{Call, text};
use crate::error::EvalErrorKind as Error;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

const NAME: &str = "jq()";

/// Every value that a program makes of JSON text or of any other value, as an array. A third argument, which is a
/// time limit in EMQX, is taken and means nothing: steps are bounded here.
pub(super) fn jq<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    if let Some(limit) = args.get(2) {
        crate::operators::integer(limit, NAME)?;
    }
    let program = text(&mut args[0], NAME)?;
    call.meter.scan(program.len())?;
    let program = call.state.program(&program)?;
    let input = match std::mem::take(&mut args[1]) {
        Value::Str(json) => call.decode(json)?.map_err(Error::NotJson)?,
        other => other,
    };
    let prelude = call.state.prelude();
    let mut made = Vec::new();
    let mut machine = Machine::new(call.meter, call.state, &prelude);
    let flow = machine.eval(&program, &run::Env::empty(), Item::of(input), &mut |machine, item| {
        machine.meter.elements(1)?;
        made.push(item.value);
        Ok(())
    });
    match flow {
        Ok(()) => Ok(Value::array(made)),
        Err(Stop::Fail(kind)) => Err(kind),
        Err(Stop::Error(_) | Stop::Break(_)) => Err(Error::Jq),
    }
}

/// A program, or why it is none: bad syntax, or a name that nothing has.
pub(super) fn compile(program: &str) -> std::result::Result<Term, String> {
    let term = syntax::parse(program).map_err(|error| {
        let (before, after) = program.split_at(error.at.min(program.len()));
        let after: String = after.chars().take(12).collect();
        let place = if after.is_empty() { "at its end".to_owned() } else { format!("before `{after}`") };
        let line = before.matches('\n').count() + 1;
        format!("{} is expected {place} in line {line}", error.expected)
    })?;
    let mut known: Vec<(&str, usize)> = Vec::new();
    term.visit(&mut |term| {
        if let Term::Define(definition, _) = term {
            known.push((&definition.name, definition.parameters.len()));
            known.extend(definition.parameters.iter().map(|name| (&**name, 0)));
        }
    });
    let prelude = prelude();
    let mut unknown = None;
    term.visit(&mut |term| {
        if let Term::Call(name, arguments) = term {
            let is = |(known, count): (&str, usize)| known == &**name && count == arguments.len();
            let found = known.iter().any(|known| is(*known))
                || prelude.iter().any(|d| is((&d.name, d.parameters.len())))
                || builtin::exists(name, arguments.len());
            if !found && unknown.is_none() {
                unknown = Some(format!("jq has no function {name}/{} here", arguments.len()));
            }
        }
    });
    match unknown {
        Some(unknown) => Err(unknown),
        None => Ok(term),
    }
}

/// The functions that are written in the language.
pub(super) fn prelude() -> Arc<[Definition]> {
    let definition = |line: &str| match syntax::parse(&format!("{line} .")) {
        Ok(Term::Define(definition, _)) => Some(*definition),
        _ => None,
    };
    include_str!("prelude.jq").lines().filter_map(definition).collect()
}
