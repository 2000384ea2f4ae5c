//! `docs/CONFORMANCE.md` says of each statement of the specifications which test shows it: this holds it to that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The numbers of all statements and the sides that they bind.
const STATEMENTS: &str = include_str!("statements.txt");
const LIST: &str = include_str!("../../../docs/CONFORMANCE.md");

/// The suite whose tests say themselves which statements they show.
const SUITE: &str = "broker::conformance::";

struct Row<'a> {
    statement: &'a str,
    side: &'a str,
    shown_by: &'a str,
}

fn statements() -> impl Iterator<Item = (&'static str, &'static str)> {
    STATEMENTS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').expect("a number and a side"))
}

fn rows() -> Vec<Row<'static>> {
    LIST.lines()
        .filter(|line| line.starts_with("| MQTT"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [statement, side, _in_short, shown_by] = cells[..] else { panic!("not four cells: {line}") };
            Row { statement, side, shown_by: shown_by.trim_end_matches('|').trim() }
        })
        .collect()
}

/// The tests that a row names, each between backticks.
fn named(row: &Row<'static>) -> impl Iterator<Item = &'static str> {
    row.shown_by.split('`').skip(1).step_by(2)
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file in which `krate::target::module` may be.
fn files_of(krate: &str, modules: &[&str]) -> Vec<PathBuf> {
    let folder = crates().join(krate);
    let joined = modules.join("/");
    let in_source = modules.strip_suffix(&["tests"]).unwrap_or(modules).join("/");
    vec![
        folder.join("tests").join(format!("{joined}.rs")),
        folder.join("tests").join(&joined).join("main.rs"),
        folder.join("tests").join(&joined).join("mod.rs"),
        folder.join("src").join(format!("{in_source}.rs")),
        folder.join("src").join(&in_source).join("mod.rs"),
        folder.join("src").join(&in_source).join("lib.rs"),
    ]
}

/// The documentation of a test that is there: `crate::target::module::name`.
fn documentation(reference: &str) -> Result<String, String> {
    let path: Vec<_> = reference.split("::").collect();
    let [krate, modules @ .., name] = &path[..] else { return Err("no path".into()) };
    let signature = format!("fn {name}(");
    for file in files_of(krate, modules) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let Some(at) =
            lines.iter().position(|line| line.strip_prefix("async ").unwrap_or(line).starts_with(&signature))
        else {
            continue;
        };
        let above = lines[..at].iter().rev();
        let attributes: Vec<_> = above.clone().take_while(|line| line.starts_with("#[")).collect();
        if !attributes.iter().any(|line| line.contains("test]") || line.contains("test(")) {
            return Err("it is no test".into());
        }
        if attributes.iter().any(|line| line.contains("ignore")) {
            return Err("it is not run".into());
        }
        let above = above.skip(attributes.len()).take_while(|line| line.starts_with("///"));
        return Ok(above.copied().collect::<Vec<_>>().join("\n"));
    }
    Err("no such test".into())
}

/// `codec::vectors::file[statement]`: a row of that file is about that statement.
fn has_vector(file: &str, statement: &str) -> bool {
    let path = crates().join("codec/tests/vectors").join(format!("{file}.txt"));
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).any(|line| {
        line.match_indices(statement).any(|(at, _)| {
            let next = line[at + statement.len()..].chars().next();
            !next.is_some_and(|next| next.is_ascii_digit())
        })
    })
}

fn check(row: &Row<'static>, reference: &str) -> Result<(), String> {
    if let Some((file, statement)) =
        reference.strip_prefix("codec::vectors::").and_then(|rest| rest.strip_suffix(']')?.split_once('['))
    {
        return if statement == row.statement && has_vector(file, statement) {
            Ok(())
        } else {
            Err("no such row".into())
        };
    }
    let documentation = documentation(reference)?;
    if reference.starts_with(SUITE) && !documentation.contains(&format!("[{}]", row.statement)) {
        return Err("it does not say that it shows this".into());
    }
    Ok(())
}

#[test]
fn each_statement_of_the_specifications_has_its_row() {
    let rows = rows();
    let listed: Vec<_> = rows.iter().map(|row| (row.statement, row.side)).collect();
    let expected: Vec<_> = statements().collect();
    for statement in &expected {
        assert!(listed.contains(statement), "{statement:?} has no row");
    }
    assert_eq!(listed, expected, "and no other, in this order");
    let five = expected.iter().filter(|(number, _)| number.starts_with("MQTT5-")).count();
    // As many as the specifications have.
    assert_eq!((five, expected.len() - five), (251, 141));
}

#[test]
fn each_row_names_tests_or_says_why_there_are_none() {
    let mut debts = Vec::new();
    for row in rows() {
        let reason = row.shown_by;
        let is_explained = match row.side {
            "C" => reason == "client side",
            _ => reason.strip_prefix("does not apply: ").is_some_and(|why| !why.is_empty()),
        };
        if reason == "not shown yet" {
            debts.push(row.statement);
        } else {
            assert!(is_explained || named(&row).next().is_some(), "{}: {reason}", row.statement);
        }
    }
    assert!(debts.len() < 10, "too many debts: {debts:?}");
}

#[test]
fn each_named_test_is_there_and_says_what_it_shows() {
    let mut faults = BTreeMap::new();
    for row in rows() {
        for reference in named(&row) {
            if let Err(fault) = check(&row, reference) {
                faults.insert((row.statement, reference), fault);
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A number that is mistyped in a test would be shown by nobody and missed by nobody.
#[test]
fn each_statement_that_a_test_claims_to_show_exists() {
    let known: BTreeSet<_> = statements().map(|(number, _)| number).collect();
    let folder = crates().join("broker/tests/conformance");
    let mut citations = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some(documentation) = line.strip_prefix("///") else { continue };
            let claimed = documentation.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
            for (claimed, _) in claimed.filter(|(claimed, _)| claimed.starts_with("MQTT")) {
                assert!(known.contains(claimed), "{claimed} in {}", path.display());
                citations += 1;
            }
        }
    }
    assert!(citations > 300, "only {citations} citations were found");
}
