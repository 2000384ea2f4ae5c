//! What does a rule cost for each message, and what part of that is reading its payload?
//!
//! The peers are `serde_json` reading the payload into a tree, and reading only the wanted field into a struct, which
//! is the least that any program that uses it can do; the limit is a copy of the payload. All stand in one run,
//! because the machine's mood is part of every figure.
//!
//! `cargo bench -p tidegate-benches --bench rules`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use serde::Deserialize;
use tidegate_rules::{EvalScratch, Event, Rule, RuleSet, RuleState, StateLimits};

/// What a gateway sends for a machine: 1 KiB with nested objects, an array, texts and numbers, most of which no rule
/// asks for. `temperature` stands in the middle and `sequence` at the end.
const PAYLOAD: &str = r#"{"device":{"id":"press-0042","model":"HX-900","firmware":"4.2.1-rc3","serial":"A7-55120-9981","location":{"plant":"Linz","hall":"7b","cell":12,"latitude":48.30694,"longitude":14.28583}},"status":"running","mode":"automatic","operator":null,"shift":"early","order":"WO-2024-118833","recipe":"housing-lid-v12","alarms":[],"tags":["press","hydraulic","line-3","oee","critical"],"motor":{"rpm":1480,"current":[12.1,12.3,11.9],"voltage":[398.2,399.1,397.8],"power_kw":7.94,"running_hours":18233,"bearing_temp":61.5},"temperature":73.25,"pressure":{"main":182.4,"pilot":24.9,"unit":"bar"},"vibration":{"x":0.0213,"y":0.0187,"z":0.0342,"rms":0.0441,"unit":"mm/s"},"counters":{"good":118274,"scrap":312,"rework":45,"cycle_ms":[1834,1829,1841,1830,1836]},"energy":{"active_kwh":88213.7,"reactive_kvarh":12077.2,"power_factor":0.93},"note":"Filter \"B\" replaced, next service in 400 h","quality":{"ok":true,"score":0.9871,"checked_by":"vision-2"},"timestamp":"2024-06-11T08:15:42.118Z","sequence":9917722}"#;

#[derive(Deserialize)]
struct Temperature {
    temperature: f64,
}

#[derive(Deserialize)]
struct Sequence {
    sequence: i64,
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    pass_through(&mut criterion);
    one_field(&mut criterion);
    ten_rules(&mut criterion);
    window(&mut criterion);
    criterion.final_summary();
}

/// Is a rule that takes every message free?
fn pass_through(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pass-through");
    evaluate(&mut group, "SELECT *", r##"SELECT * FROM "#""##, true);
    evaluate(&mut group, "SELECT * WHERE qos = 0", r##"SELECT * FROM "#" WHERE qos = 0"##, true);
    let set = RuleSet::new(vec![rule(r#"SELECT * FROM "plant/+/up""#)]).expect("there is one rule");
    let event = event();
    let mut scratch = EvalScratch::default();
    group.bench_function("find the rule of the topic, SELECT *", |bencher| {
        bencher.iter(|| {
            let mut rows = 0;
            let mut evaluator = scratch.start(black_box(&event));
            set.for_each_reader(&event, |_, rule| {
                rows += rule.evaluate(&mut evaluator).map_or(0, |outcome| outcome.rows().len());
            });
            assert_eq!(rows, 1);
        });
    });
    group.finish();
}

/// What does it cost to look at one field of a payload of 1 KiB, and not to select it?
fn one_field(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one field of 1 KiB of JSON");
    group.throughput(Throughput::Bytes(PAYLOAD.len() as u64));
    let mut copy = vec![0; PAYLOAD.len()];
    group.bench_function("limit: copy the payload", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(PAYLOAD.as_bytes())));
    });
    group.bench_function("limit: is it UTF-8", |bencher| {
        bencher.iter(|| std::str::from_utf8(black_box(PAYLOAD.as_bytes())).is_ok());
    });
    group.bench_function("serde_json: a tree", |bencher| {
        bencher.iter(|| {
            let tree: serde_json::Value =
                serde_json::from_slice(black_box(PAYLOAD.as_bytes())).expect("it is JSON");
            tree["temperature"].as_f64() > Some(80.0)
        });
    });
    group.bench_function("serde_json: a struct of the field in the middle", |bencher| {
        bencher.iter(|| {
            let read: Temperature =
                serde_json::from_slice(black_box(PAYLOAD.as_bytes())).expect("it is JSON");
            read.temperature > 80.0
        });
    });
    group.bench_function("serde_json: a struct of the field at the end", |bencher| {
        bencher.iter(|| {
            let read: Sequence = serde_json::from_slice(black_box(PAYLOAD.as_bytes())).expect("it is JSON");
            read.sequence < 0
        });
    });
    let where_ = |condition: &str| format!(r##"SELECT * FROM "#" WHERE {condition}"##);
    evaluate(&mut group, "WHERE on the field in the middle", &where_("payload.temperature > 80"), false);
    evaluate(&mut group, "WHERE on the field at the end", &where_("payload.sequence < 0"), false);
    evaluate(&mut group, "WHERE on the first field of an object", &where_("payload.device.id = 'x'"), false);
    evaluate(
        &mut group,
        "SELECT three fields WHERE on one",
        r##"SELECT payload.temperature AS t, payload.device.id AS d, payload.counters.good AS n
            FROM "#" WHERE payload.temperature > 20"##,
        true,
    );
    group.finish();
}

/// Do ten rules that look into one message share the work?
fn ten_rules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ten rules on one topic");
    let fields = [
        "temperature",
        "sequence",
        "motor.rpm",
        "motor.power_kw",
        "pressure.main",
        "vibration.rms",
        "counters.good",
        "energy.power_factor",
        "quality.score",
        "device.location.cell",
    ];
    let rules = fields.iter().enumerate().map(|(number, field)| {
        let sql = format!(r#"SELECT * FROM "plant/+/up" WHERE payload.{field} < -1"#);
        Rule::compile(&number.to_string(), &sql).expect("it is a rule")
    });
    let set = RuleSet::new(rules.collect()).expect("the ids differ");
    let event = event();
    let mut scratch = EvalScratch::default();
    group.bench_function("each reads another field", |bencher| {
        bencher.iter(|| {
            let mut rows = 0;
            let mut evaluator = scratch.start(black_box(&event));
            set.for_each_reader(&event, |_, rule| {
                rows += rule.evaluate(&mut evaluator).map_or(9, |outcome| outcome.rows().len());
            });
            assert_eq!(rows, 0);
        });
    });
    group.finish();
}

/// What does a message cost that only changes a window?
fn window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a message into a window");
    let rule = rule(
        r##"SELECT clientid, count(*) AS n, avg(payload.temperature) AS t, max(payload.pressure.main) AS p
            FROM "#" GROUP BY clientid, TUMBLING(10 s)"##,
    );
    let event = event();
    let mut scratch = EvalScratch::default();
    let mut state = RuleState::new(&rule, StateLimits::default());
    group.bench_function("count, avg and max of a client", |bencher| {
        bencher.iter(|| {
            let outcome = rule.evaluate_with(&mut state, &mut scratch.start(black_box(&event)));
            assert!(outcome.is_ok());
        });
    });
    group.finish();
}

fn evaluate(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, sql: &str, selected: bool) {
    let rule = rule(sql);
    let event = event();
    let mut scratch = EvalScratch::default();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let outcome = rule.evaluate(&mut scratch.start(black_box(&event))).expect("the payload is JSON");
            assert_eq!(outcome.rows().len(), usize::from(selected));
        });
    });
}

fn rule(sql: &str) -> Rule {
    Rule::compile("rule", sql).unwrap_or_else(|error| panic!("{}", error.render("rule", sql)))
}

fn event() -> Event<'static> {
    Event::publish("plant/7/up", "press-0042", PAYLOAD.as_bytes())
}
