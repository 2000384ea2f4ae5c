//! The tool as its users run it: exit codes, the table, the report, Ctrl-C.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A null server in its own process, which ends with the test.
struct Null {
    child: Child,
    address: String,
}

impl Null {
    fn start() -> Self {
        let mut child = bench(&["null", "--bind", "127.0.0.1:0", "--threads", "2"]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_once(',')).unwrap().0;
        Self { address: address.to_owned(), child }
    }

    /// As Ctrl-C does.
    fn interrupt(mut self) -> Output {
        interrupt(&self.child);
        let status = self.child.wait().unwrap();
        let mut stdout = Vec::new();
        std::io::Read::read_to_end(&mut self.child.stdout.take().unwrap(), &mut stdout).unwrap();
        Output { status, stdout, stderr: Vec::new() }
    }
}

impl Drop for Null {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_report_and_the_server_agree_and_success_exits_with_0() {
    let server = Null::start();
    let report = std::env::temp_dir().join(format!("tidegate-bench-{}.json", std::process::id()));
    let page = report.with_extension("html");
    let pid = server.child.id().to_string();
    let output = bench(&[
        "flood",
        "--clients",
        "5",
        "--count",
        "200",
        "--v5",
        "--live",
        "lines",
        "--target",
        &server.address,
    ])
    .args(["--pid", &format!("null={pid}"), "--json"])
    .arg(&report)
    .arg("--html")
    .arg(&page)
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("flood of 5 clients") && table.contains(&format!("null {pid}")), "{table}");

    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    std::fs::remove_file(&report).unwrap();
    assert_eq!((&value["counters"]["sent"], &value["counters"]["acked"]), (&1000.into(), &1000.into()));
    assert_eq!(value["acknowledge"]["count"], 1000);
    assert_eq!(value["setup"]["protocol"], "MQTT 5");
    assert_eq!(value["processes"][1]["name"], "null");
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("flood of 5 clients"), "{html}");
    assert_eq!(value["processes"][1]["pids"][0].to_string(), pid);
    assert!(value["processes"][1]["resident_done_bytes"].as_u64().unwrap() > 0);

    let output = server.interrupt();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("messages    1000\n"), "{}", text(&output.stdout));
}

#[test]
fn a_run_in_which_something_failed_exits_with_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = bench(&["idle", "--clients", "2", "--target", &nobody]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("connect: connection refused"), "{}", text(&output.stdout));
}

#[test]
fn a_command_line_that_is_wrong_exits_with_2_and_says_why() {
    for (arguments, reason) in [
        (&["fleet", "--payload", "3"][..], "--payload-format"),
        (&["fleet", "--clients", "many"], "--clients"),
        (&["idle", "--pid", "4294967295"], "/proc/4294967295"),
        (&["idle", "--pid", "kafka=x"], "NAME=ID"),
        (&["idle", "--clients", "4000000000"], "--processes"),
        (&["fleet", "--clients", "9", "--share-ledger", "x"], "--share"),
        (&["sing"], "sing"),
    ] {
        let output = bench(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(reason), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_port_that_is_taken_is_said_and_exits_with_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let output = bench(&["null", "--bind", &taken]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&taken), "{}", text(&output.stderr));
}

#[test]
fn ctrl_c_prints_the_report_so_far() {
    let server = Null::start();
    let arguments = ["fleet", "--clients", "3", "--interval", "50ms", "--duration", "1h", "--live", "lines"];
    let mut child = bench(&arguments).args(["--target", &server.address]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("online 3"), "{line}");
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("stopped before its end"), "{}", text(&output.stdout));
}

/// An address at which nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_ledger_is_never_overwritten_and_a_kafka_that_is_not_there_is_named() {
    let server = Null::start();
    let ledger = std::env::temp_dir().join(format!("tidegate-bench-{}.ledger", std::process::id()));
    let _ = std::fs::remove_file(&ledger);
    let flood = || {
        let arguments = ["flood", "--clients", "2", "--count", "10", "--target", &server.address, "--ledger"];
        bench(&arguments).arg(&ledger).output().unwrap()
    };
    assert_eq!(flood().status.code(), Some(0));
    let written = std::fs::read(&ledger).unwrap();
    let again = flood();
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("cannot create the ledger"), "{}", text(&again.stderr));
    assert_eq!(std::fs::read(&ledger).unwrap(), written);

    let nobody = nobody();
    let arguments = ["verify", "--topic", "t", "--kafka", &nobody, "--ledger"];
    let output = bench(&arguments).arg(&ledger).output().unwrap();
    std::fs::remove_file(&ledger).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&nobody), "{}", text(&output.stderr));
}

#[test]
fn a_reference_run_is_reported_even_where_kafka_cannot_be_asked() {
    let (server, nobody) = (Null::start(), nobody());
    let arguments = ["reference", "--clients", "2", "--rate", "20", "--duration", "1s", "--kafka", &nobody];
    let output = bench(&arguments).args(["--target", &server.address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("reference of 2 clients"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains(&nobody), "{}", text(&output.stderr));
}

/// A file of this test's own, which is not there yet.
fn path(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("tidegate-bench-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn processes_carry_one_load_to_several_brokers_and_nothing_is_counted_twice_or_not_at_all() {
    let (servers, report, ledger) =
        ([Null::start(), Null::start()], path("shares.json"), path("shares.ledger"));
    let ledgers: Vec<_> = (0..3).map(|index| path(&format!("shares.ledger.{index}"))).collect();
    let addresses = servers.each_ref().map(|server| server.address.clone());
    let fleet = || {
        let mut command =
            bench(&["fleet", "--clients", "300", "--processes", "3", "--threads", "2", "--count", "5"]);
        command.args(["--interval", "100ms", "--broker", &addresses[0], "--broker", &addresses[1]]);
        command.arg("--ledger").arg(&ledger).arg("--json").arg(&report).output().unwrap()
    };
    let output = fleet();
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("from 3 processes"), "{}", text(&output.stdout));

    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    std::fs::remove_file(&report).unwrap();
    let counters = &value["counters"];
    assert_eq!((&counters["connected"], &counters["attempted"]), (&300.into(), &300.into()));
    let sent = counters["sent"].as_u64().unwrap();
    assert_eq!((sent, counters["acked"].as_u64().unwrap()), (1500, 1500));
    assert_eq!((&value["connect"]["count"], &value["acknowledge"]["count"]), (&300.into(), &1500.into()));
    assert_eq!((&value["behind"]["count"], &counters["in_flight"]), (&1500.into(), &0.into()));
    assert_eq!(value["processes"][0]["pids"].as_array().unwrap().len(), 4);

    for server in servers {
        let said = server.interrupt();
        let said = text(&said.stdout);
        assert!(said.contains("connections 150\n") && said.contains("messages    750\n"), "{said}");
    }
    let mut noted = tidegate_ledger::Ledger::new();
    for path in &ledgers {
        let mut own = tidegate_ledger::Ledger::new();
        assert!(tidegate_ledger::file::read(path, &mut own).unwrap().complete);
        assert_eq!(own.publishers(), 100);
        assert!(noted.join(own), "two processes had one device");
    }
    assert_eq!((noted.sent_count(), noted.acknowledged_count()), (1500, 1500));

    // The ledgers are there now.
    let again = fleet();
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("cannot create the ledger"), "{}", text(&again.stderr));
    for path in &ledgers {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_storm_of_several_processes_is_one_storm() {
    let server = Null::start();
    let arguments = ["storm", "--clients", "60", "--processes", "2", "--target", &server.address];
    let output = bench(&arguments).output().unwrap();
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}{}", text(&output.stderr));
    assert!(
        table.contains("cut                  60\n") && table.contains("back                 60, "),
        "{table}"
    );
    let said = server.interrupt();
    assert!(text(&said.stdout).contains("connections 120\n"), "{}", text(&said.stdout));
}

/// The processes that another one started.
fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_process_that_dies_ends_the_run_with_an_error_and_all_others() {
    let server = Null::start();
    let arguments = ["fleet", "--clients", "30", "--processes", "3", "--duration", "1h", "--live", "lines"];
    let mut conductor = bench(&arguments).args(["--target", &server.address]).spawn().unwrap();
    let mut stderr = BufReader::new(conductor.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("online 30"), "{line}");
    let children = children(conductor.id());
    assert_eq!(children.len(), 3);
    let killed = Command::new("kill").args(["-KILL", &children[1].to_string()]).status().unwrap();
    assert!(killed.success());

    let output = conductor.wait_with_output().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""), "{said}");
    assert!(said.contains(&format!("generator process 2 ({})", children[1])), "{said}");
    assert!(said.contains("signal: 9"), "{said}");
    for pid in children {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
    }
}

#[test]
fn processes_end_when_their_conductor_is_killed() {
    let server = Null::start();
    let arguments = ["idle", "--clients", "4", "--processes", "2", "--duration", "1h", "--live", "lines"];
    let mut conductor = bench(&arguments).args(["--target", &server.address]).spawn().unwrap();
    let mut stderr = BufReader::new(conductor.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("online 4"), "{line}");
    conductor.kill().unwrap();
    conductor.wait().unwrap();
    // They share its stderr: it ends when they have.
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
    assert!(said.contains("nobody says what this share"), "{said}");
}

#[cfg(feature = "in-process")]
#[test]
fn a_broker_grows_inside_the_tool_and_every_step_says_what_it_took() {
    let report = path("grown.json");
    let arguments = ["in-process", "--sessions", "500,5000", "--messages", "3000", "--window", "50"];
    let output = bench(&arguments).arg("--json").arg(&report).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("\n        500 ") && table.contains("\n       5000 "), "{table}");
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    std::fs::remove_file(&report).unwrap();
    let steps = value["steps"].as_array().unwrap();
    assert_eq!(steps.iter().map(|step| step["sessions"].as_u64().unwrap()).collect::<Vec<_>>(), [500, 5000]);
    for step in steps {
        let number = |name: &str| step[name].as_f64().unwrap();
        assert!(
            number("user_us") + number("system_us") > 0.0 && number("messages_per_second") > 0.0,
            "{step}"
        );
        // A connection of the broker is a task and a session, and no buffer.
        assert!((400.0..20_000.0).contains(&number("session_bytes")), "{step}");
    }
}
