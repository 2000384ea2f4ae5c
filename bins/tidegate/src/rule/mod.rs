//! `tidegate rule`: trying rules on events and holding them to files of cases, without a broker.

mod case;
mod compare;
mod eval;
mod event;
mod file;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Evaluate one rule over one event and print each row that it makes as one line of JSON.
    ///
    /// Exits with 0 when there is a row, 1 when the evaluation fails, 2 when the rule or the event is not understood,
    /// and 3 when there is no row: the topic is not in FROM, or WHERE is false.
    Eval(EvalArgs),
    /// Run files of cases: events with the rows that rules have to make of them.
    ///
    /// Files whose names end in .toml are TOML, others JSON lines. Each case that does not hold is told in one line;
    /// the totals come last. Exits with 1 when a case does not hold, unless it is marked as specific to Erlang, and
    /// with 2 when a file can't be read or understood.
    Test(TestArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The rule, or @FILE to read it from a file.
    #[arg(long, value_name = "SQL")]
    sql: String,
    /// The event as a JSON object, or @FILE: `topic`, `payload` (a text, or JSON that is meant as one), `clientid`,
    /// `username`, `qos`, `timestamp` (ms), `event` (its kind) and any other column by its name.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    event: String,
    /// Print this template, filled in from each row, instead of the row; or @FILE.
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,
    /// Tell each part of WHERE with the values that it read, and what it came to.
    #[arg(long)]
    explain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Files of cases.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the command and says how it went.
pub(crate) fn run(command: &RuleCommand) -> ExitCode {
    match command {
        RuleCommand::Eval(args) => eval::run(args),
        RuleCommand::Test(args) => test::run(args),
    }
}
