//! Any text, as a rule and as a template: no panic, every mistake with a place that can be shown, and the same rule
//! from the same text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_rules::{Rule, Template, check_template};

fuzz_target!(|text: &str| {
    match Rule::compile("rule", text) {
        Ok(rule) => {
            assert_eq!(rule.sql(), text);
            assert!(rule.filters().count() > 0 && !rule.kinds().is_empty());
            for warning in rule.warnings() {
                warning.render("rule", text);
            }
            if let Ok(template) = Template::compile(text) {
                check_template(&rule, &template);
            }
        }
        Err(error) => {
            assert!(!error.diagnostics().is_empty());
            for diagnostic in error.diagnostics() {
                assert!(diagnostic.span.start <= diagnostic.span.end);
            }
            error.render("rule", text);
        }
    }
    if let Err(error) = Template::compile(text) {
        error.render("template", text);
    }
});
