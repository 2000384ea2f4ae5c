//! `tidegate-bench`: load for MQTT brokers. Fleets of simulated devices, latencies, and what each message costs the
//! broker in CPU time.
//!
//! The generator must be cheaper than what it measures: a few threads, each with an event loop over thousands of
//! sockets and one timer wheel ([`mod@load`]). [`mod@null`] is the other end of the scale, the least that a server can do.

mod cli;
mod latency;
mod load;
mod null;
mod procfs;
mod report;
mod units;
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use serde::Serialize;
use tidegate_ledger::file::Writer;

use crate::cli::{Cli, Command, DeviceArgs, MessageArgs, NullArgs, VerifyArgs};
use crate::load::{LoadError, Plan, Second};
use crate::null::{Mode, NullServer, Seen};
use crate::report::Report;

/// The run took place, and something in it failed; or it could not take place.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = stop_on_signals().and_then(|stop| match &cli.command {
        Command::Null(args) => null(args, &stop),
        Command::Fleet(args) => load("fleet", &args.devices, with_ledger(args.plan(), &args.messages), &stop),
        Command::Flood(args) => load("flood", &args.devices, with_ledger(args.plan(), &args.messages), &stop),
        Command::Idle(args) => load("idle", &args.devices, args.plan(), &stop),
        Command::Fanout(args) => {
            load("fanout", &args.devices, with_ledger(args.plan(), &args.messages), &stop)
        }
        Command::Pairs(args) => load("pairs", &args.devices, with_ledger(args.plan(), &args.messages), &stop),
        Command::Storm(args) => load("storm", &args.devices, args.plan(), &stop),
        Command::Verify(args) => verify(args),
    });
    match result {
        Ok(code) => code,
        Err(failure) => {
            let (text, code) = match failure {
                Failure::Usage(text) => (text, EXIT_USAGE),
                Failure::Run(text) => (text, EXIT_FAILED),
            };
            print_err(&format!("tidegate-bench: {text}"));
            ExitCode::from(code)
        }
    }
}

/// Why there is no report, in words for the user.
enum Failure {
    Usage(String),
    Run(String),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::FileLimit { .. } => Self::Usage(error.to_string()),
            LoadError::Generator(_) | LoadError::Panicked => Self::Run(error.to_string()),
        }
    }
}

/// Returns a flag that the first Ctrl-C or SIGTERM sets; the second ends the process at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal the flag is not set yet when the shutdown looks at it.
        flag::register_conditional_shutdown(signal, i32::from(EXIT_FAILED), Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::Run(format!("cannot wait for signals: {error}")))?;
    }
    Ok(stop)
}

/// Creates the ledger's file where one is asked for.
fn with_ledger(plan: Result<Plan, String>, messages: &MessageArgs) -> Result<Plan, String> {
    let mut plan = plan?;
    let Some(path) = &messages.ledger else { return Ok(plan) };
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started_ns = u64::try_from(started.as_nanos()).unwrap_or(u64::MAX);
    let writer = Writer::create(path, started_ns)
        .map_err(|error| format!("cannot create the ledger {}: {error}", path.display()))?;
    plan.ledger = Some(Arc::new(writer));
    Ok(plan)
}

fn verify(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let found = verify::verify(&args.question()).map_err(|error| Failure::Run(error.to_string()))?;
    print_out(&found.to_string());
    write_json(args.json.as_deref(), &found)?;
    Ok(if found.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn write_json(path: Option<&Path>, value: &impl Serialize) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(value).expect("reports have only text and numbers for keys");
    std::fs::write(path, text + "\n")
        .map_err(|error| Failure::Run(format!("cannot write {}: {error}", path.display())))
}

/// Runs a load, and prints and writes its report.
fn load(
    command: &'static str,
    args: &DeviceArgs,
    plan: Result<Plan, String>,
    stop: &AtomicBool,
) -> Result<ExitCode, Failure> {
    let plan = plan.map_err(Failure::Usage)?;
    let mut pids = vec![std::process::id()];
    pids.extend(&args.pid);
    for pid in &pids {
        procfs::usage(*pid).map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let show = args.progress || std::io::stderr().is_terminal();
    let outcome = load::run(&plan, &pids, stop, |second| {
        if show {
            print_err(&second_line(second));
        }
    })?;
    let report = Report::new(command, &plan, &pids, outcome);
    print_out(&report.to_string());
    write_json(args.json.as_deref(), &report)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn second_line(second: &Second) -> String {
    let Second {
        at,
        online,
        in_flight,
        connected,
        sent,
        acked,
        delivered,
        troubles,
        p50_us,
        p99_us,
        max_us,
        ..
    } = second;
    format!(
        "{at:>5} s  online {online} (+{connected})  sent {sent}/s  acked {acked}/s  delivered {delivered}/s  in flight {in_flight}  \
         p50 {p50_us} us  p99 {p99_us} us  max {max_us} us  troubles {troubles}"
    )
}

/// How often the null server looks whether it was stopped.
const NULL_STEP: Duration = Duration::from_millis(50);

fn null(args: &NullArgs, stop: &AtomicBool) -> Result<ExitCode, Failure> {
    // As many sockets as this process may have.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let refused =
        |address: SocketAddr| move |error| Failure::Run(format!("cannot listen on {address}: {error}"));
    let mode = if args.router { Mode::Route } else { Mode::Discard };
    let server = NullServer::start(args.bind, usize::from(args.threads), mode).map_err(refused(args.bind))?;
    print_err(&format!("listening on {}, process {}", server.address(), std::process::id()));
    let deadline = args.duration.map(|duration| Instant::now() + duration);
    let show = std::io::stderr().is_terminal();
    let (mut before, mut shown_at) = (Seen::default(), Instant::now());
    while !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        std::thread::sleep(NULL_STEP);
        if show && shown_at.elapsed() >= Duration::from_secs(1) {
            let seen = server.seen();
            let publishes = seen.received.publishes - before.received.publishes;
            print_err(&format!("open {}  received {publishes}/s", seen.open));
            (before, shown_at) = (seen, Instant::now());
        }
    }
    let seen = server.stop().map_err(|error| Failure::Run(error.to_string()))?;
    print_out(&format!(
        "connections {}\nmessages    {}\nbytes       {}\n",
        seen.accepted, seen.received.publishes, seen.received.bytes
    ));
    if seen.failed_accepts > 0 {
        return Err(Failure::Run(format!("{} connections could not be accepted", seen.failed_accepts)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A closed pipe is not our failure.
fn print_out(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn print_err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
