//! What does it cost to find the subscribers of a topic among a million, and how much memory do they take?
//!
//! The limit beside which the trees stand is one lookup in a `HashMap<&str, _>` with the same hasher: whoever finds
//! a topic among a million has to touch that much memory. Topics are asked for in random order, so that the cache
//! does not help, and lie in memory in the order in which they are asked for, as in a receive buffer.
//!
//! `cargo bench -p tidegate-benches --bench topic`; the memory is printed first. It is resident memory as the kernel
//! counts it, allocator's overhead and all.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use tidegate_topic::{Cursor, RetainedTree, SubscriptionTree, TopicFilter, TopicName};

const MILLION: usize = 1_000_000;

/// A subscriber's key and what a subscription carries: 16 bytes with padding.
type Tree = SubscriptionTree<u64, u32>;

fn main() {
    report_memory();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    exact(&mut criterion);
    mixed(&mut criterion);
    crossing(&mut criterion);
    fan_out(&mut criterion);
    retained(&mut criterion);
    criterion.final_summary();
}

fn exact(criterion: &mut Criterion) {
    let topics = shuffled(|id| format!("device/{id:07}/cmd"));
    let mut group = criterion.benchmark_group("a million filters device/<id>/cmd");
    group.throughput(Throughput::Elements(1));

    let mut limit: HashMap<&str, u64, ahash::RandomState> = HashMap::default();
    // Inserted in another order than they are asked for.
    let ordered: Vec<String> = (0..MILLION).map(|id| format!("device/{id:07}/cmd")).collect();
    limit.extend(ordered.iter().map(String::as_str).zip(0..));
    let mut next = topics.iter().cycle();
    group.bench_function("limit: HashMap<&str, _>", |bencher| {
        bencher.iter(|| limit.get(next.next().map_or("", |topic| topic)));
    });
    drop(limit);

    let mut tree = Tree::new();
    for (text, key) in ordered.iter().zip(0..) {
        tree.insert(filter(text), key, 0);
    }
    match_each(&mut group, "match", &tree, &topics);
    match_each(&mut group, "match of the same topic again", &tree, &topics[..1]);
    let strangers = shuffled(|id| format!("device/{id:07}/state"));
    match_each(&mut group, "match of a topic that nobody wants", &tree, &strangers);
    for text in ["device/+/alarm", "fleet/#", "#"] {
        tree.insert(filter(text), u64::MAX, 0);
    }
    match_each(&mut group, "match with three wildcard filters beside", &tree, &topics);
}

fn mixed(criterion: &mut Criterion) {
    let mut tree = Tree::new();
    for id in 0..MILLION as u64 {
        let text = match id % 3 {
            0 => format!("device/{id:07}/cmd"),
            1 => format!("device/{id:07}/+/state"),
            _ => format!("device/{id:07}/#"),
        };
        tree.insert(filter(&text), id, 0);
    }
    let topics = shuffled(|id| match id % 3 {
        0 => format!("device/{id:07}/cmd"),
        _ => format!("device/{id:07}/door/state"),
    });
    let mut group = criterion.benchmark_group("a million filters, two thirds with wildcards");
    group.throughput(Throughput::Elements(1));
    match_each(&mut group, "match", &tree, &topics);
}

/// Filters of which each differs from each in where it has `+`, and a topic that runs through all of their nodes and
/// matches none.
fn crossing(criterion: &mut Criterion) {
    const DEPTH: usize = 16;
    let mut tree = Tree::new();
    for crossing in 0..1_u64 << DEPTH {
        let levels: Vec<&str> =
            (0..DEPTH).map(|bit| if crossing >> bit & 1 == 0 { "+" } else { "a" }).collect();
        tree.insert(filter(&(levels.join("/") + "/z")), crossing, 0);
    }
    let topic = ["a"; DEPTH].join("/") + "/y";
    let mut group = criterion.benchmark_group("65536 filters {a,+} x 16 levels, all nodes visited");
    // The nodes of the last level are not reached.
    group.throughput(Throughput::Elements((tree.nodes() - (1 << DEPTH)) as u64));
    match_each(&mut group, "match", &tree, &[topic]);
}

fn fan_out(criterion: &mut Criterion) {
    const SUBSCRIBERS: u64 = 100_000;
    let mut tree = Tree::new();
    for key in 0..SUBSCRIBERS {
        tree.insert(filter("all/#"), key, 0);
    }
    let mut group = criterion.benchmark_group("one filter with 100000 subscribers");
    group.throughput(Throughput::Elements(SUBSCRIBERS));
    match_each(&mut group, "match", &tree, &["all/at/once".to_string()]);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one more subscribes and goes", |bencher| {
        bencher.iter(|| {
            tree.insert(filter("all/#"), u64::MAX, 0);
            tree.remove(filter("all/#"), &u64::MAX)
        });
    });
}

fn retained(criterion: &mut Criterion) {
    let mut tree = RetainedTree::new();
    for id in 0..MILLION as u64 {
        tree.insert(name(&retained_topic(id)), id);
    }
    let topics = shuffled(retained_topic);
    let mut group = criterion.benchmark_group("a million retained topics, ten for each device");
    let mut next = topics.iter().cycle();
    group.bench_function("get", |bencher| {
        bencher.iter(|| next.next().and_then(|topic| tree.get(name(topic))));
    });
    group.bench_function("replace", |bencher| {
        bencher.iter(|| next.next().and_then(|topic| tree.insert(name(topic), 0)));
    });
    group.bench_function("device/<id>/# of ten", |bencher| {
        let mut id = 0;
        bencher.iter(|| {
            id = (id + 7919) % 100_000;
            let text = format!("device/{id:06}/#");
            visit_all(&tree, &text)
        });
    });
    group.bench_function("page of 100 steps of device/+/3", |bencher| {
        let mut cursor = Cursor::new();
        bencher.iter(|| {
            let progress = tree.page(filter("device/+/3"), &mut cursor, 100, |topic, value| {
                black_box((topic, value));
                ControlFlow::Continue(())
            });
            if progress == tidegate_topic::Progress::Done {
                cursor = Cursor::new();
            }
        });
    });
    group.sample_size(10);
    group.throughput(Throughput::Elements(MILLION as u64));
    group.bench_function("#", |bencher| bencher.iter(|| visit_all(&tree, "#")));
    group.throughput(Throughput::Elements(MILLION as u64 / 10));
    group.bench_function("device/+/3, one in ten", |bencher| bencher.iter(|| visit_all(&tree, "device/+/3")));
    group.bench_function("+/+/x, none", |bencher| bencher.iter(|| visit_all(&tree, "+/+/x")));
}

fn retained_topic(id: u64) -> String {
    format!("device/{:06}/{}", id / 10, id % 10)
}

fn visit_all(tree: &RetainedTree<u64>, text: &str) -> ControlFlow<()> {
    tree.for_each_match(filter(text), |topic, value| {
        black_box((topic, value));
        ControlFlow::Continue(())
    })
}

fn match_each(group: &mut BenchmarkGroup<'_, WallTime>, question: &str, tree: &Tree, topics: &[String]) {
    let mut next = topics.iter().cycle();
    group.bench_function(question, |bencher| {
        bencher.iter(|| {
            let topic = next.next().map_or("-", |topic| topic);
            tree.for_each_match(name(topic), |key, value| {
                black_box((key, value));
            });
        });
    });
}

#[expect(clippy::print_stdout, reason = "a bench talks to who runs it")]
fn report_memory() {
    // All stay alive to the end, so that none is built from the memory of another.
    let trees = [
        ("device/<id>/cmd, one subscriber each", subscribed(|id| format!("device/{id:07}/cmd"))),
        (
            "device/<id>/telemetry/configuration",
            subscribed(|id| format!("device/{id:07}/telemetry/configuration")),
        ),
        ("device/<id>/+/state", subscribed(|id| format!("device/{id:07}/+/state"))),
        ("device/<id>/#", subscribed(|id| format!("device/{id:07}/#"))),
        ("ten filters, 100000 subscribers each", subscribed(|id| format!("group/{}/#", id % 10))),
    ];
    for (question, Subscribed { bytes, slowest, tree }) in &trees {
        let each = bytes / MILLION;
        println!(
            "{each:4} bytes a subscription, slowest insertion {slowest:?}: a million {question} ({tree:?})"
        );
    }
    let before = resident();
    let mut tree = RetainedTree::new();
    for id in 0..MILLION as u64 {
        tree.insert(name(&retained_topic(id)), id);
    }
    let in_order = (resident() - before) / MILLION;
    let topics = shuffled(retained_topic);
    let before = resident();
    let mut random = RetainedTree::new();
    for (topic, id) in topics.iter().zip(0_u64..) {
        random.insert(name(topic), id);
    }
    let at_random = (resident() - before) / MILLION;
    println!(
        "{in_order:4} bytes a retained topic (8 of them the value), inserted in order; {at_random} at random"
    );
}

struct Subscribed {
    bytes: usize,
    /// For so long others may wait for a lock.
    slowest: Duration,
    tree: Tree,
}

fn subscribed(text: impl Fn(u64) -> String) -> Subscribed {
    let before = resident();
    let mut slowest = Duration::ZERO;
    let mut tree = Tree::new();
    for id in 0..MILLION as u64 {
        let text = text(id);
        let start = Instant::now();
        tree.insert(filter(&text), id, 0);
        slowest = slowest.max(start.elapsed());
    }
    Subscribed { bytes: resident() - before, slowest, tree }
}

/// Resident memory of this process in bytes; 0 where there is no `/proc`.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024
}

/// A million topics in an order without pattern, each of the ids once.
fn shuffled(text: impl Fn(u64) -> String) -> Vec<String> {
    // A step that has no factor in common with a million comes by every id.
    (0..MILLION as u64).map(|at| text(at * 618_033_989 % MILLION as u64)).collect()
}

fn name(text: &str) -> TopicName<'_> {
    TopicName::parse(text).expect("the bench writes names")
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text).expect("the bench writes filters")
}
