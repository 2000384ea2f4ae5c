//! The dependency graph between the crates of the workspace is a decision, and this table is where it is written down.
//!
//! A new edge, or a new crate, is added here in the commit that explains it.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Which crates of the workspace each crate may depend on. Development dependencies are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("tidegate-codec", &[]),
    ("tidegate-topic", &[]),
    ("tidegate-session", &["tidegate-codec", "tidegate-topic"]),
    ("tidegate-store", &["tidegate-codec", "tidegate-session"]),
    ("tidegate-rules", &["tidegate-topic"]),
    ("tidegate-scram", &[]),
    ("tidegate-sink", &[]),
    ("tidegate-spill", &[]),
    ("tidegate-kafka", &["tidegate-sink", "tidegate-spill"]),
    (
        "tidegate-broker",
        &[
            "tidegate-codec",
            "tidegate-topic",
            "tidegate-session",
            "tidegate-rules",
            "tidegate-scram",
            "tidegate-sink",
            "tidegate-store",
        ],
    ),
    ("tidegate-ledger", &[]),
    ("tidegate-minikafka", &[]),
    (
        "tidegate",
        &[
            "tidegate-broker",
            "tidegate-codec",
            "tidegate-kafka",
            "tidegate-minikafka",
            "tidegate-rules",
            "tidegate-scram",
            "tidegate-session",
            "tidegate-sink",
            "tidegate-store",
            "tidegate-topic",
        ],
    ),
    // It reads what Kafka holds through the reader that users get, and counts it as the tests do.
    // The broker, with a rule and a sink that discards, is what it lets grow inside itself (feature `in-process`): more
    // sessions than a process may have sockets can be had in no other way.
    (
        "tidegate-bench",
        &[
            "tidegate-broker",
            "tidegate-codec",
            "tidegate-kafka",
            "tidegate-ledger",
            "tidegate-rules",
            "tidegate-sink",
        ],
    ),
    ("tidegate-testkit", ANY),
    ("tidegate-examples", ANY),
    ("tidegate-benches", ANY),
];

const ANY: &[&str] = &["*"];

/// Crates below the sans-I/O line: bytes in, bytes out, `now` in, next deadline out.
const SANS_IO: &[&str] =
    &["tidegate-codec", "tidegate-topic", "tidegate-session", "tidegate-rules", "tidegate-scram"];

/// What has no place below that line, directly: runtimes, sockets, threads, locks, clocks, loggers.
const IO: &[&str] = &[
    "async-std",
    "async-trait",
    "chrono",
    "crossbeam",
    "crossbeam-channel",
    "dashmap",
    "futures",
    "futures-util",
    "log",
    "mio",
    "parking_lot",
    "rayon",
    "rskafka",
    "rumqttc",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tokio-util",
    "tracing",
];

/// The crates of the workspace that are published, and must not need one that is not.
const UNPUBLISHED: &[&str] = &["tidegate-testkit", "tidegate-examples", "tidegate-benches"];

#[test]
fn no_crate_knows_another_that_it_should_not() {
    let packages = workspace();
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let Some(&(_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name.as_str()) else {
            wrong.push(format!("{} has no row in the table of {}", package.name, file!()));
            continue;
        };
        for dependency in dependencies(package).filter(|name| names.contains(name)) {
            if allowed != ANY && !allowed.contains(&dependency) {
                wrong.push(format!("{} must not depend on {dependency}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

#[test]
fn no_published_crate_needs_an_unpublished_one() {
    for package in workspace().iter().filter(|package| !UNPUBLISHED.contains(&package.name.as_str())) {
        let unpublished = dependencies(package).find(|name| UNPUBLISHED.contains(name));
        assert_eq!(unpublished, None, "{} is published and needs it", package.name);
    }
}

#[test]
fn no_crate_below_the_line_does_io() {
    let packages = workspace();
    for name in SANS_IO {
        let package = packages.iter().find(|package| package.name.as_str() == *name);
        let package = package.unwrap_or_else(|| panic!("{name} is not in the workspace"));
        let io: Vec<_> = dependencies(package).filter(|name| IO.contains(name)).collect();
        assert!(io.is_empty(), "{name} does no I/O, takes no lock and reads no clock, but depends on {io:?}");
    }
}

#[test]
fn the_crates_of_the_workspace_have_no_cycle() {
    let packages = workspace();
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &packages {
        edges.insert(package.name.as_str(), dependencies(package).collect());
    }
    // Taking away what nothing left needs, again and again, leaves the cycles.
    while let Some(leaf) = edges
        .iter()
        .find(|(_, needs)| !needs.iter().any(|name| edges.contains_key(name)))
        .map(|(name, _)| *name)
    {
        edges.remove(leaf);
    }
    assert!(edges.is_empty(), "a cycle among {:?}", edges.keys());
}

fn workspace() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata reads the workspace");
    metadata.packages
}

/// Normal and build dependencies, optional ones included.
fn dependencies(package: &Package) -> impl Iterator<Item = &str> {
    let needed =
        package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    needed.map(|dependency| dependency.name.as_str())
}
