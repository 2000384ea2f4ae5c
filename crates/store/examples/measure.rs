//! What group commit costs and gives on this disk, and how long a start takes.
//!
//! `cargo run --release -p tidegate-store --example measure [directory]`

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tidegate_codec::{PacketId, QoS, SubscribeFilter};
use tidegate_session::{Change, Delivery, Expiry, Identifiers, Message, Subscription};
use tidegate_store::{Commit, Durability, Journal, OpenError, Options, Store, Waiting};

/// How long each run of messages takes.
const RUN: Duration = Duration::from_secs(3);

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = parent.join(format!("tidegate-measure-{}", std::process::id()));
    println!("1 KiB messages, each sent to a session and acknowledged by it (two changes):");
    println!("durability  at a time  messages/s  batches/s  longest sync  CPU/change  disk/payload");
    for durability in [Durability::Fsync, Durability::Os] {
        for at_a_time in [1, 10, 100, 1000, 10_000] {
            println!("{}", deliver(&directory, durability, at_a_time)?);
        }
    }
    println!("\nstart:");
    for (sessions, messages) in [(100_000, 0), (100_000, 1_000_000)] {
        println!("{}", start(&directory, sessions, messages)?);
    }
    Ok(())
}

/// Messages to as many sessions in turn, the next round when the last is safe.
#[expect(clippy::cast_precision_loss, reason = "rates are rounded anyway")]
fn deliver(directory: &Path, durability: Durability, at_a_time: u64) -> Result<String, OpenError> {
    let mut options = Options::new(directory);
    options.durability = durability;
    let (store, _) = Journal::open(options)?;
    let keys: Vec<_> = (0..at_a_time)
        .map(|index| {
            let key = store.new_session();
            store.append(key, &mut begun(index));
            key
        })
        .collect();
    let payload = [7; 1024];
    let packet_id = PacketId::new(1).expect("1 is not zero");
    let mut changes = Vec::new();
    let mut round = |keys: &[_]| {
        let mut commit = Commit::NONE;
        for key in keys {
            let message = Arc::new(Message::new("plant/7/temperature", &payload, QoS::AtLeastOnce, false));
            let delivery = Delivery {
                message,
                qos: QoS::AtLeastOnce,
                retain: false,
                subscription_identifiers: Identifiers::None,
            };
            changes.push(Change::Sent { number: None, packet_id, delivery });
            changes.push(Change::Completed { packet_id });
            commit = store.append(*key, &mut changes);
        }
        committed(&store, commit);
    };
    round(&keys);
    let before = store.status();
    let (started, cpu_before) = (Instant::now(), cpu_time());
    let mut messages = 0;
    while started.elapsed() < RUN {
        round(&keys);
        messages += at_a_time;
    }
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu_before));
    let status = store.status();
    drop(store);
    remove(directory);
    Ok(format!(
        "{:<11} {at_a_time:>9} {:>11.0} {:>10.0} {:>10} us {:>8.2} us {:>13.2}",
        format!("{durability:?}"),
        messages as f64 / took,
        (status.batches - before.batches) as f64 / took,
        status.longest_sync_us,
        cpu.as_secs_f64() * 1e6 / (2 * messages) as f64,
        (status.written_bytes - before.written_bytes) as f64 / (messages * 1024) as f64,
    ))
}

/// Sessions with two subscriptions each, and messages of 200 bytes that wait for them in turn.
fn start(directory: &Path, sessions: u64, messages: u64) -> Result<String, OpenError> {
    let mut options = Options::new(directory);
    options.durability = Durability::Os;
    let (store, _) = Journal::open(options.clone())?;
    let mut commit = Commit::NONE;
    let keys: Vec<_> = (0..sessions)
        .map(|index| {
            let key = store.new_session();
            commit = store.append(key, &mut begun(index));
            key
        })
        .collect();
    for (index, key) in (0..messages).zip(keys.iter().cycle()) {
        let message = Message::new("plant/7/temperature", &[index as u8; 200], QoS::AtLeastOnce, false);
        let delivery = Delivery {
            message: Arc::new(message),
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_identifiers: Identifiers::None,
        };
        commit = store.append(*key, &mut vec![Change::Posted { number: store.next_posting(), delivery }]);
        if index % 10_000 == 0 {
            committed(&store, commit);
        }
    }
    committed(&store, commit);
    let bytes = store.status().disk_bytes;
    drop(store);
    let (started, before) = (Instant::now(), resident_bytes());
    let (store, recovered) = Journal::open(options)?;
    let took = started.elapsed();
    let report = format!(
        "{} sessions, {} messages, {} MB on disk: {:.2} s, {} MB resident (with what the broker holds as well)",
        recovered.sessions.len(),
        store.status().messages,
        bytes >> 20,
        took.as_secs_f64(),
        resident_bytes().saturating_sub(before) >> 20,
    );
    drop(store);
    remove(directory);
    Ok(report)
}

fn begun(index: u64) -> Vec<Change> {
    let expiry = Expiry::After(Duration::from_hours(1));
    let options = SubscribeFilter::new("", QoS::AtLeastOnce).options;
    let subscription = Subscription { options, identifier: None };
    let subscribed = |filter: String| Change::Subscribed { filter: filter.into(), subscription };
    vec![
        Change::Began { client_id: format!("pump-{index}").into() },
        Change::Connected { expiry, will: None },
        subscribed(format!("commands/pump-{index}/+")),
        subscribed("commands/all/#".into()),
        Change::Disconnected { expiry, will: None },
    ]
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn committed(store: &Journal, commit: Commit) {
    let mut waiting = Waiting::default();
    let mut future = pin!(poll_fn(|cx| store.poll_committed(commit, &mut waiting, cx)));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result.expect("the disk works"),
            Poll::Pending => std::thread::park(),
        }
    }
}

fn remove(directory: &Path) {
    // What is left in a temporary directory is nobody's loss.
    let _ = std::fs::remove_dir_all(directory);
}

/// Of this process, in ticks of 10 ms; zero where there is no `/proc`.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Of this process, in pages of 4 KiB; zero where there is no `/proc`.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096)
}
