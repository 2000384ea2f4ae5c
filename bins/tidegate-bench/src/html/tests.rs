//! A page is looked at by people; what can be checked without eyes is here.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};
use crate::load::{Moments, Outcome, Sample, Tally};
use crate::procfs::{Group, Usage};

const HOSTILE: &str = "</style><script>alert('\"&\u{1b}')</script>";

/// The report of a run of so many seconds, in which every name that others choose is hostile.
fn report(seconds: u64) -> Report {
    let cli = Cli::try_parse_from(["tidegate-bench", "fleet", "--target", "127.0.0.1:1883"]).unwrap();
    let Command::Fleet(args) = cli.command else { panic!("a fleet was asked for") };
    let mut tally = Tally::new();
    tally.counters.connected = 3;
    tally.troubles.insert(HOSTILE.to_owned(), 1);
    tally.acknowledge.record(Duration::from_millis(3));
    let usage = Usage { name: HOSTILE.to_owned(), ..Usage::default() };
    let usages = || vec![Some(usage.clone()), Some(usage.clone())];
    let second = |at: u64| Second {
        at,
        online: 3,
        sent: 1000 + at,
        p50_us: 300,
        p99_us: 90_000 * (at % 3),
        processes: vec![Sample { cpu_percent: 12.5, resident_bytes: 7 << 20 }; 2],
        ..Second::default()
    };
    let outcome = Outcome {
        tally,
        seconds: (1..=seconds).map(second).collect(),
        connecting: Duration::from_secs(1),
        publishing: Duration::from_secs(1),
        total: Duration::from_secs(1),
        usages: Moments { before: usages(), connected: usages(), done: usages() },
        interrupted: false,
    };
    let groups = ["generator", HOSTILE].map(|name| Group { name: name.to_owned(), pids: vec![1] });
    Report::new("fleet", &args.plan().unwrap(), &groups, outcome)
}

#[test]
fn no_name_that_others_choose_can_leave_its_place() {
    let page = page(&report(5));
    let escaped = "&lt;/style&gt;&lt;script&gt;alert(&#39;&quot;&amp;\u{fffd}&#39;)&lt;/script&gt;";
    assert!(page.contains(escaped), "{page}");
    assert!(!page.contains("<script") && !page.contains('\u{1b}'));
    assert_eq!(page.matches("</style>").count(), 1);
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let page = page(&report(5));
    for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn every_element_is_closed_by_its_own_kind() {
    let page = page(&report(5));
    let mut open = Vec::new();
    for tag in page.split('<').skip(1).map(|rest| rest.split_once('>').unwrap().0) {
        let name = tag.split_whitespace().next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') && !["!doctype", "meta"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_long_run_is_drawn_from_few_points_that_stay_within_the_chart() {
    let page = page(&report(5000));
    let lines: Vec<&str> =
        page.split("points=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
    assert!(lines.len() >= 5, "{}", lines.len());
    for line in lines {
        let points: Vec<(f64, f64)> = line
            .split_whitespace()
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert!((2..=POINTS).contains(&points.len()), "{}", points.len());
        for (x, y) in points {
            assert!((LEFT..=RIGHT + 0.1).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x},{y}");
        }
    }
}

#[test]
fn a_run_of_no_seconds_is_a_page_without_charts() {
    let page = page(&report(0));
    assert!(!page.contains("<svg") && page.contains("Parameters"));
}

#[test]
fn a_scale_begins_at_nothing_and_ends_just_above_the_highest_value() {
    for highest in [0.004, 1.0, 3.0, 99.0, 101.0, 12_345.0, 9e9] {
        let line = ("x".to_owned(), vec![highest]);
        let chart =
            Chart { title: "", from: 0, to: 1, scale: Scale::Linear, label: thousands, lines: vec![line] };
        let ticks = chart.ticks();
        let top = *ticks.last().unwrap();
        assert!(
            ticks[0].abs() < f64::EPSILON && (highest..highest * 2.1).contains(&top),
            "{highest}: {ticks:?}"
        );
        let labels: BTreeSet<String> = ticks.iter().map(|tick| thousands(*tick)).collect();
        assert!(highest < 0.01 || labels.len() == ticks.len(), "{labels:?}");
        assert!(labels.iter().all(|label| label.len() <= 6), "{labels:?}");
    }
}
