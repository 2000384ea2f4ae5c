//! `tidegate-bench`: load for MQTT brokers. Fleets of simulated devices, latencies, and what each message costs the
//! broker in CPU time.
//!
//! The generator must be cheaper than what it measures: a few threads, each with an event loop over thousands of
//! sockets and one timer wheel ([`mod@load`]). [`mod@null`] is the other end of the scale, the least that a server can do.

mod cli;
mod html;
#[cfg(feature = "in-process")]
mod in_process;
mod latency;
mod live;
mod load;
mod null;
mod procfs;
mod report;
mod servers;
mod units;
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use serde::Serialize;
use tidegate_ledger::file::Writer;

use crate::cli::{Cli, Command, DeviceArgs, NullArgs, ReferenceArgs, VerifyArgs};
use crate::live::Screen;
use crate::load::{LoadError, Plan, Processes, Share};
use crate::null::{Mode, NullServer, Seen};
use crate::procfs::{Group, Target};
use crate::report::Report;
use crate::servers::{Broker, Folder, Kafka, StartError};

/// The one of the product, so that a broker in this process takes what it takes there.
#[cfg(feature = "in-process")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The run took place, and something in it failed; or it could not take place.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = stop_on_signals().and_then(|stop| match &cli.command {
        Command::Null(args) => null(args, &stop),
        Command::Fleet(args) => {
            load("fleet", &args.devices, args.plan(), args.messages.ledger.as_deref(), &stop)
        }
        Command::Flood(args) => {
            load("flood", &args.devices, args.plan(), args.messages.ledger.as_deref(), &stop)
        }
        Command::Idle(args) => load("idle", &args.devices, args.plan(), None, &stop),
        Command::Fanout(args) => {
            load("fanout", &args.devices, args.plan(), args.messages.ledger.as_deref(), &stop)
        }
        Command::Pairs(args) => {
            load("pairs", &args.devices, args.plan(), args.messages.ledger.as_deref(), &stop)
        }
        Command::Storm(args) => load("storm", &args.devices, args.plan(), None, &stop),
        #[cfg(feature = "in-process")]
        Command::InProcess(args) => in_process(args, &stop),
        Command::Verify(args) => verify(args),
        Command::Reference(args) => reference(args, &stop),
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
            LoadError::Generator(_)
            | LoadError::Panicked
            | LoadError::Process { .. }
            | LoadError::NoConductor => Self::Run(error.to_string()),
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

/// Returns the ledgers of a run: one for each of its processes.
fn ledgers(path: &Path, processes: u16) -> Vec<PathBuf> {
    let numbered = |index: u16| {
        let mut path = path.as_os_str().to_owned();
        path.push(format!(".{index}"));
        path.into()
    };
    if processes == 1 { vec![path.to_owned()] } else { (0..processes).map(numbered).collect() }
}

fn create_ledger(path: &Path) -> Result<Arc<Writer>, String> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started_ns = u64::try_from(started.as_nanos()).unwrap_or(u64::MAX);
    let writer = Writer::create(path, started_ns)
        .map_err(|error| format!("cannot create the ledger {}: {error}", path.display()))?;
    Ok(Arc::new(writer))
}

/// Starts what is to be started, lets the fleet run, and looks for its every message in Kafka.
fn reference(args: &ReferenceArgs, stop: &AtomicBool) -> Result<ExitCode, Failure> {
    let plan = args.plan().map_err(Failure::Usage)?;
    if let Some(index) = args.devices.share {
        return share(plan, &args.devices, index);
    }
    let failed = |error: StartError| Failure::Run(error.to_string());
    let folder = Folder::new().map_err(|error| failed(error.into()))?;
    // Dropped in the opposite order: the brokers end before their Kafka.
    let kafka = args.start_kafka.as_ref().map(|script| Kafka::start(script, folder.path()));
    let kafka = kafka.transpose().map_err(failed)?;
    let bootstrap = kafka.as_ref().map_or_else(|| args.kafka.clone(), |kafka| vec![kafka.bootstrap.clone()]);
    let mut brokers = Vec::new();
    if let Some(binary) = &args.start {
        for (place, address) in plan.targets.iter().enumerate() {
            let folder = folder.path().join(format!("broker-{place}"));
            let broker = Broker::start(binary, &folder, *address, &bootstrap, &args.topic);
            brokers.push(broker.map_err(failed)?);
        }
    }
    let mut devices = args.devices.clone();
    let named = |name: &str, pid| Target { name: Some(name.to_owned()), pid };
    devices.pid.extend(brokers.iter().map(|broker| named("broker", broker.pid())));
    devices.pid.extend(kafka.as_ref().map(|kafka| named("kafka", kafka.pid)));

    let ledger = args.ledger.clone().unwrap_or_else(|| folder.path().join("ledger"));
    let ledgers = ledgers(&ledger, plan.processes);
    let mut report = run("reference", &devices, plan, &ledgers, stop)?;
    match verify::verify(&args.question(bootstrap, ledgers)) {
        Ok(found) => report.verification = Some(found),
        Err(error) => {
            // What was measured stands, whether Kafka can be asked or not.
            publish(&devices, &report)?;
            return Err(Failure::Run(error.to_string()));
        }
    }
    publish(&devices, &report)
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
    write_file(path, &(text + "\n"))
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::Run(format!("cannot write {}: {error}", path.display())))
}

/// Runs a load, and prints and writes its report.
fn load(
    command: &'static str,
    args: &DeviceArgs,
    plan: Result<Plan, String>,
    ledger: Option<&Path>,
    stop: &AtomicBool,
) -> Result<ExitCode, Failure> {
    let plan = plan.map_err(Failure::Usage)?;
    if let Some(index) = args.share {
        return share(plan, args, index);
    }
    let ledgers = ledger.map_or_else(Vec::new, |path| ledgers(path, plan.processes));
    let report = run(command, args, plan, &ledgers, stop)?;
    publish(args, &report)
}

/// Carries a share of a load that another process conducts.
fn share(mut plan: Plan, args: &DeviceArgs, index: u16) -> Result<ExitCode, Failure> {
    if let Some(path) = &args.share_ledger {
        plan.ledger = Some(create_ledger(path).map_err(Failure::Usage)?);
    }
    load::follow(&plan, Share { index, of: plan.processes })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a load and returns its report.
fn run(
    command: &'static str,
    args: &DeviceArgs,
    mut plan: Plan,
    ledgers: &[PathBuf],
    stop: &AtomicBool,
) -> Result<Report, Failure> {
    let processes = if plan.processes > 1 {
        // Where each process says so of its own, the words come several times.
        if let Some(path) = ledgers.iter().find(|path| path.exists()) {
            return Err(Failure::Usage(format!("cannot create the ledger {}: it exists", path.display())));
        }
        Some(Processes::start(&plan, ledgers)?)
    } else {
        plan.ledger = ledgers.first().map(|path| create_ledger(path)).transpose().map_err(Failure::Usage)?;
        None
    };
    let generators = match &processes {
        Some(processes) => processes.pids().chain([std::process::id()]).collect(),
        None => vec![std::process::id()],
    };
    let mut groups = vec![Group { name: "generator".to_owned(), pids: generators }];
    groups.extend(Group::gather(&args.pid).map_err(|error| Failure::Usage(error.to_string()))?);
    let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let mut screen = Screen::new(args.live, command, &plan, &names);
    let on_second = |second: &_| screen.show(second);
    let outcome = match processes {
        Some(processes) => load::run_in(processes, &plan, &groups, stop, on_second),
        None => load::run(&plan, &groups, stop, on_second),
    };
    Ok(Report::new(command, &plan, &groups, outcome?))
}

/// Prints a report, writes its files, and returns how the process ends.
fn publish(args: &DeviceArgs, report: &Report) -> Result<ExitCode, Failure> {
    print_out(&report.to_string());
    write_json(args.json.as_deref(), report)?;
    if let Some(path) = &args.html {
        write_file(path, &html::page(report))?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// Lets a broker grow inside this process, and prints and writes what it took.
#[cfg(feature = "in-process")]
fn in_process(args: &cli::InProcessArgs, stop: &AtomicBool) -> Result<ExitCode, Failure> {
    let growth = args.growth().map_err(Failure::Usage)?;
    let on_step = |step: &in_process::Step| {
        print_err(&format!(
            "{} sessions: {:.0} bytes each, {:.2} us a message",
            step.sessions,
            step.session_bytes,
            step.user_us + step.system_us
        ));
    };
    let grown = in_process::run(&growth, stop, on_step).map_err(|error| Failure::Run(error.to_string()))?;
    print_out(&grown.to_string());
    write_json(args.json.as_deref(), &grown)?;
    Ok(ExitCode::SUCCESS)
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
