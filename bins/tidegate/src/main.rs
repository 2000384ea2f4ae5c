//! The `tidegate` broker: configuration, command line, runtime, signals and logging around the library crates.

mod alarms;
mod authentication;
mod cli;
mod config;
mod console;
mod http;
mod listening;
mod logging;
mod passwd;
mod ready;
mod reload;
mod rule;
mod rules;
mod run;
mod sinks;
mod sources;
mod store;
mod tail;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::config::Settings;
use crate::rules::CompiledRules;
use crate::sources::CompiledSources;

/// A broker's memory is many small, long-lived pieces of many threads: mimalloc keeps them dense.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something went wrong while running.
const EXIT_RUNTIME: u8 = 1;
/// The command line or the configuration is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check(&args),
        Command::Tail(args) => tail::tail(&args),
        Command::Passwd(args) => passwd::passwd(&args),
        Command::Rule(command) => return rule::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (text, code) = match failure {
                Failure::Usage(text) => (text, EXIT_USAGE),
                Failure::Runtime(text) => (text, EXIT_RUNTIME),
            };
            print_error(&text);
            ExitCode::from(code)
        }
    }
}

/// Why a command failed, in words for its user.
enum Failure {
    Usage(String),
    Runtime(String),
}

impl Failure {
    fn usage(error: &impl ToString) -> Self {
        Self::Usage(error.to_string())
    }

    fn runtime(error: &impl ToString) -> Self {
        Self::Runtime(error.to_string())
    }

    fn into_text(self) -> String {
        match self {
            Self::Usage(text) | Self::Runtime(text) => text,
        }
    }
}

/// Reads the configuration and compiles the rules: all that can be known to be wrong before a port is opened.
fn prepare(args: &cli::ConfigArgs) -> Result<(Settings, CompiledRules, CompiledSources), Failure> {
    let settings =
        Settings::load(args.config.as_deref(), &args.kafka).map_err(|errors| Failure::usage(&errors))?;
    let (rules, sources) = match (CompiledRules::compile(&settings), CompiledSources::compile(&settings)) {
        (Ok(rules), Ok(sources)) => (rules, sources),
        (rules, sources) => {
            let problems: Vec<_> = [rules.err(), sources.err()].into_iter().flatten().collect();
            return Err(Failure::Usage(problems.join("\n")));
        }
    };
    Ok((settings, rules, sources))
}

fn check(args: &cli::ConfigArgs) -> Result<(), Failure> {
    let (settings, rules, sources) = prepare(args)?;
    authentication::Methods::load(&settings).map_err(Failure::Usage)?;
    let sources_too =
        if sources.len() == 0 { String::new() } else { format!(", {} source(s)", sources.len()) };
    print_line(&format!(
        "ok: {} listener(s), {} rule(s){sources_too}",
        settings.listeners.len(),
        rules.len()
    ));
    for warning in rules.warnings() {
        print_error(&warning);
    }
    for (id, _, destination) in rules.routes() {
        print_line(&format!("  {id} -> {destination}"));
    }
    for (id, origin, topic) in sources.routes() {
        print_line(&format!("  {id}: {origin} -> {topic}"));
    }
    Ok(())
}

/// One line for whoever reads the terminal or the pipe. A closed pipe is not our failure.
fn print_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn print_error(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
