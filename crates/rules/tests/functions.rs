//! The functions that rules can call: what each gives for every kind of argument, and what none of them may cost.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "facts/runner.rs"]
mod runner;

#[test]
fn every_function_gives_what_its_rows_say() {
    let mut broken = Vec::new();
    for (line, row) in include_str!("cases/builtins.jsonl").lines().enumerate() {
        let fact = serde_json::from_str(row).unwrap();
        if let Err(why) = runner::check(&fact) {
            broken.push(format!("builtins.jsonl:{}: {why}\n  {row}", line + 1));
        }
    }
    assert!(broken.is_empty(), "{} rows do not hold:\n{}", broken.len(), broken.join("\n"));
}
