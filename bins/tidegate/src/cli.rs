//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::passwd::PasswdArgs;
use crate::rule::RuleCommand;

/// An MQTT broker that carries what devices publish through SQL-like rules into Kafka, with nothing lost.
///
/// Without a command it runs the broker; without a configuration it listens on 127.0.0.1:1883 and keeps what is
/// published in a log that Kafka clients can read on 127.0.0.1:9092.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: ConfigArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the broker (the default).
    Run(ConfigArgs),
    /// Read the configuration and compile every rule, without opening a port.
    Check(ConfigArgs),
    /// Print the records of a Kafka topic as they arrive.
    Tail(TailArgs),
    /// Try rules on events, and hold them to files of cases.
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Set the password of a user in a file of credentials, or remove the user.
    Passwd(PasswdArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file (TOML). The environment comes over it: TIDEGATE_HTTP__BIND is `bind` of `[http]`.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Use this Kafka instead of the embedded log: short for `[kafka.main] bootstrap = [...]`.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) kafka: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The topic.
    pub(crate) topic: String,
    /// Where to ask first.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:9092")]
    pub(crate) kafka: Vec<String>,
    /// Begin with the oldest record instead of with the next.
    #[arg(long)]
    pub(crate) from_beginning: bool,
    /// Stop after this many records.
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
}
