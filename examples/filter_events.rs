//! Compiles a rule, runs messages through it, and shows what a mistake looks like.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use tidegate_rules::{EvalScratch, Event, Rule};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sql = r#"SELECT upper(clientid) AS device, payload.temperature AS celsius
                 FROM "sensors/+" WHERE payload.temperature > 20"#;
    let rule = Rule::compile("warm", sql)?;
    let mut scratch = EvalScratch::default();
    for payload in [r#"{"temperature": 21.5}"#, r#"{"temperature": 18}"#] {
        let event = Event::publish("sensors/room1", "thermometer-7", payload.as_bytes());
        let mut evaluator = scratch.start(&event);
        let outcome = rule.evaluate(&mut evaluator)?;
        println!("{payload} makes {} row(s)", outcome.rows().len());
        for row in outcome.rows() {
            let mut json = Vec::new();
            row.write_json(&mut json);
            println!("  {}", String::from_utf8_lossy(&json));
        }
    }

    let mistaken = r#"SELECT uper(clientid) FROM "sensors/+""#;
    if let Err(error) = Rule::compile("mistaken", mistaken) {
        println!("{}", error.render("mistaken.sql", mistaken));
    }
    Ok(())
}
