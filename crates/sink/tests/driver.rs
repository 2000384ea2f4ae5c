//! The promises of the driver, against sinks that misbehave.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_sink::conformance::{self, Breach, Destination};
use tidegate_sink::{
    Ack, BatchLimits, Driver, DriverConfig, Feed, Offer, Outcome, OwnedRecord, Record, Rejection, Settle,
    Settled, Sink, WriteError, WriteReport,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: VecDeque<Result<WriteReport, WriteError>>,
    batches: Vec<Vec<String>>,
    written: Vec<String>,
}

impl Sink for Scripted {
    async fn write(&mut self, batch: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
        let names = || batch.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap());
        let mut script = self.0.lock();
        script.batches.push(names().collect());
        let answer = script.answers.pop_front().unwrap_or_else(|| Ok(WriteReport::default()));
        if answer.is_ok() {
            script.written.extend(names());
        }
        answer
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<Settled>>);

impl Settle for Told {
    fn settle(&self, settled: &[Settled]) {
        self.0.lock().extend_from_slice(settled);
    }
}

impl Told {
    fn ack(self: &Arc<Self>, token: u64) -> Ack {
        let target: Arc<dyn Settle> = Arc::<Self>::clone(self);
        Ack::new(target, token)
    }

    async fn wait(&self, count: usize) -> Vec<(u64, Outcome)> {
        while self.0.lock().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.0.lock().iter().map(|s| (s.token, s.outcome)).collect()
    }
}

fn offer(feed: &impl Feed, told: &Arc<Told>, token: u64) -> Offer {
    let value = format!("r{token}");
    feed.offer(&Record { value: Some(value.as_bytes()), ..Record::new("t") }, Some(told.ack(token)))
}

fn config() -> DriverConfig {
    DriverConfig {
        batch: BatchLimits { bytes: 1 << 20, count: 3, linger: Duration::from_millis(5) },
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_written_again_before_anything_newer() {
    let sink = Scripted::default();
    sink.0.lock().answers.extend([Err(WriteError::retry("down")), Err(WriteError::retry("still down"))]);
    let driver = Driver::spawn(sink.clone(), config(), &Handle::current());
    let told = Arc::new(Told::default());
    for token in 0..5 {
        assert!(matches!(offer(&driver, &told, token), Offer::Taken));
    }
    driver.flush();
    let settled = told.wait(5).await;
    assert_eq!(settled, (0..5).map(|t| (t, Outcome::Delivered)).collect::<Vec<_>>());
    assert_eq!(sink.0.lock().written, ["r0", "r1", "r2", "r3", "r4"]);
    let counts = driver.counters().snapshot();
    assert_eq!((counts.retries, counts.delivered, counts.held, counts.in_flight), (2, 5, 0, 0));
    assert_eq!(counts.last_error.unwrap().text, "still down");
    assert_eq!(driver.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_does_not_hold_up_its_neighbours() {
    let sink = Scripted::default();
    let refused = vec![(1, Rejection::TooLarge), (77, Rejection::Invalid)];
    sink.0.lock().answers.push_back(Err(WriteError::Reject { records: refused, reason: "too large".into() }));
    let report = WriteReport { rejected: vec![(1, Rejection::Invalid)] };
    sink.0.lock().answers.push_back(Ok(report));
    let driver = Driver::spawn(sink.clone(), config(), &Handle::current());
    let told = Arc::new(Told::default());
    for token in 0..3 {
        assert!(matches!(offer(&driver, &told, token), Offer::Taken));
    }
    driver.flush();
    let mut settled = told.wait(3).await;
    settled.sort_by_key(|(token, _)| *token);
    assert_eq!(
        settled,
        [
            (0, Outcome::Delivered),
            (1, Outcome::Rejected(Rejection::TooLarge)),
            (2, Outcome::Rejected(Rejection::Invalid))
        ]
    );
    assert_eq!(sink.0.lock().batches, [vec!["r0", "r1", "r2"], vec!["r0", "r2"]]);
    assert_eq!(driver.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn close_delivers_until_the_deadline_and_settles_the_rest_as_lost() {
    let sink = Scripted::default();
    sink.0.lock().answers.push_back(Ok(WriteReport::default()));
    sink.0.lock().answers.extend((0..1000).map(|_| Err(WriteError::retry("down"))));
    let driver = Driver::spawn(sink, config(), &Handle::current());
    let told = Arc::new(Told::default());
    for token in 0..7 {
        assert!(matches!(offer(&driver, &told, token), Offer::Taken));
    }
    let start = Instant::now();
    driver.close(start + Duration::from_secs(3)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    let settled = told.wait(7).await;
    let lost = settled.iter().filter(|(_, outcome)| *outcome == Outcome::Lost).count();
    assert_eq!((settled.len(), lost), (7, 4));
    assert!(matches!(offer(&driver, &told, 9), Offer::Taken));
    assert_eq!(
        told.wait(8).await[7],
        (9, Outcome::Lost),
        "what comes after the close is lost, not forgotten"
    );
    assert_eq!(driver.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_driver_loses_what_waits_and_says_so() {
    let sink = Scripted::default();
    sink.0.lock().answers.extend((0..100).map(|_| Err(WriteError::retry("down"))));
    let driver = Driver::spawn(sink, config(), &Handle::current());
    let told = Arc::new(Told::default());
    for token in 0..4 {
        assert!(matches!(offer(&driver, &told, token), Offer::Taken));
    }
    driver.flush();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(driver);
    assert_eq!(told.wait(4).await, (0..4).map(|t| (t, Outcome::Lost)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn fatal_settles_everything_as_lost() {
    let sink = Scripted::default();
    sink.0.lock().answers.push_back(Err(WriteError::Fatal { reason: "licence expired".into() }));
    let driver = Driver::spawn(sink, config(), &Handle::current());
    let told = Arc::new(Told::default());
    for token in 0..5 {
        assert!(matches!(offer(&driver, &told, token), Offer::Taken));
    }
    driver.flush();
    let settled = told.wait(5).await;
    assert!(settled.iter().all(|(_, outcome)| *outcome == Outcome::Lost), "{settled:?}");
}

struct Panics;

impl Sink for Panics {
    async fn write(&mut self, _: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
        panic!("a bug of a third party")
    }
}

#[tokio::test]
async fn a_sink_that_panics_loses_its_records_and_says_so() {
    let driver = Driver::spawn(Panics, config(), &Handle::current());
    let told = Arc::new(Told::default());
    for token in 0..7 {
        assert!(matches!(offer(&driver, &told, token), Offer::Taken));
    }
    driver.flush();
    let settled = told.wait(7).await;
    assert!(settled.iter().all(|(_, outcome)| *outcome == Outcome::Lost), "{settled:?}");
}

/// Writes only when the test lets it.
struct Gated(Arc<Semaphore>);

impl Sink for Gated {
    async fn write(&mut self, _: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
        self.0.acquire().await.unwrap().forget();
        Ok(WriteReport::default())
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_gives_records_back_and_says_when_there_is_room() {
    let gate = Arc::new(Semaphore::new(0));
    let config = DriverConfig { budget_bytes: 4096, attempt_timeout: Duration::from_secs(9999), ..config() };
    let driver = Driver::spawn(Gated(Arc::clone(&gate)), config, &Handle::current());
    let told = Arc::new(Told::default());
    let mut taken = 0;
    let ack = loop {
        match offer(&driver, &told, taken) {
            Offer::Taken => taken += 1,
            Offer::Full(ack) => break ack.unwrap(),
        }
    };
    driver.flush();
    assert_eq!(ack.token(), taken, "the ack comes back untouched");
    assert!(driver.held_bytes() < 4096 + 512);
    let room = std::future::poll_fn(|cx| driver.poll_room(cx));
    assert!(tokio::time::timeout(Duration::from_mins(1), room).await.is_err());
    gate.add_permits(1000);
    std::future::poll_fn(|cx| driver.poll_room(cx)).await;
    assert!(matches!(offer(&driver, &told, taken), Offer::Taken));
    drop(ack);
    driver.close(Instant::now() + Duration::from_secs(1)).await;
    assert_eq!(driver.held_bytes(), 0);
}

/// A destination with faults of its own, for the conformance check.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<MemoryState>>);

#[derive(Default)]
struct MemoryState {
    records: Vec<OwnedRecord>,
    down: bool,
    lies_when_down: bool,
    reverses: bool,
    keeps_half_of_a_failed_batch: bool,
}

impl Sink for Memory {
    async fn write(&mut self, batch: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
        let mut state = self.0.lock();
        if state.down && !state.lies_when_down {
            if state.keeps_half_of_a_failed_batch {
                state.records.extend_from_slice(&batch[..batch.len() / 2]);
            }
            return Err(WriteError::retry("unplugged"));
        }
        if state.down {
            return Ok(WriteReport::default());
        }
        if state.reverses {
            state.records.extend(batch.iter().rev().cloned());
        } else {
            state.records.extend_from_slice(batch);
        }
        Ok(WriteReport::default())
    }
}

impl Destination for Memory {
    async fn break_down(&mut self) {
        self.0.lock().down = true;
    }
    async fn recover(&mut self) {
        self.0.lock().down = false;
    }
    async fn contents(&mut self) -> Vec<OwnedRecord> {
        self.0.lock().records.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn conformance_passes_an_honest_sink_and_counts_its_duplicates() {
    let honest = Memory::default();
    let report = conformance::check(honest.clone(), honest, "t").await.unwrap();
    assert_eq!((report.delivered, report.duplicates, report.rejected), (600, 0, 0));
    let repeats = Memory::default();
    repeats.0.lock().keeps_half_of_a_failed_batch = true;
    assert!(conformance::check(repeats.clone(), repeats, "t").await.unwrap().duplicates > 0);
}

#[tokio::test(start_paused = true)]
async fn conformance_finds_a_sink_that_lies_or_reorders() {
    let lies = Memory::default();
    lies.0.lock().lies_when_down = true;
    let breach = conformance::check(lies.clone(), lies, "t").await.unwrap_err();
    assert_eq!(breach, Breach::SucceededWhileDown);
    let reverses = Memory::default();
    reverses.0.lock().reverses = true;
    let breach = conformance::check(reverses.clone(), reverses, "t").await.unwrap_err();
    assert!(matches!(breach, Breach::Reordered { .. }), "{breach:?}");
}
