//! The language as its users know it: every row of `tests/cases/*.jsonl` is a promise.
//!
//! A row has a statement (`sql`), one expression (`expr`) or a `template`; a `context`, which is the event; and what
//! is to `expect`: a result, no result because WHERE is false, no match of FROM, or an error. `differs.jsonl` holds
//! the rows where EMQX says something else, each with the reason.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod runner;

fn all_hold(file: &str, rows: &str) {
    let mut broken = Vec::new();
    for (line, row) in rows.lines().enumerate() {
        let fact = serde_json::from_str(row).unwrap_or_else(|e| panic!("{file}:{}: {e}", line + 1));
        if let Err(why) = runner::check(&fact) {
            broken.push(format!("{file}:{}: {why}\n  {row}", line + 1));
        }
    }
    assert!(broken.is_empty(), "{} rows do not hold:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn statements_give_what_emqx_gives() {
    all_hold("statements.jsonl", include_str!("../cases/statements.jsonl"));
}

#[test]
fn comparisons_and_conditions_give_what_emqx_gives() {
    all_hold("conditions.jsonl", include_str!("../cases/conditions.jsonl"));
}

#[test]
fn paths_and_aliases_give_what_emqx_gives() {
    all_hold("paths.jsonl", include_str!("../cases/paths.jsonl"));
}

#[test]
fn functions_give_what_emqx_gives() {
    all_hold("functions.jsonl", include_str!("../cases/functions.jsonl"));
}

#[test]
fn templates_give_what_emqx_gives() {
    all_hold("templates.jsonl", include_str!("../cases/templates.jsonl"));
}

#[test]
fn differences_from_emqx_are_the_documented_ones() {
    all_hold("differs.jsonl", include_str!("../cases/differs.jsonl"));
}
