//! Expiry across a restart, and clocks that are stepped.

use std::sync::Arc;
use std::time::Duration;

use tidegate_codec::{Publish, PublishProperties, QoS};
use tidegate_session::{Change, DueWill, Expiry, Message};
use tidegate_store::{Clock, Journal, Recovered, Store};

use crate::disk::SimulatedDisk;
use crate::world::{SetClock, begun, committed, options};

const HOUR: u64 = 3600;
/// Some day in 2026.
const TODAY: u64 = 1_790_000_000;

fn expiring(topic: &str, seconds: u32, clock: &SetClock) -> Arc<Message> {
    let properties =
        PublishProperties { message_expiry_interval: Some(seconds), ..PublishProperties::default() };
    let publish = Publish { qos: QoS::AtLeastOnce, payload: b"1", properties, ..Publish::default() };
    Arc::new(Message::from_publish(topic, &publish, clock.now()))
}

/// A session that ends in an hour, with a will in half an hour and a message that expires in 100 seconds, and a
/// retained message that expires then too.
fn fill(store: &Journal, clock: &SetClock) {
    let message = expiring("t", 100, clock);
    let will = Message::new("gone", b"1", QoS::AtLeastOnce, false);
    let will = DueWill::from_parts(will, Some(5), Duration::from_secs(HOUR / 2));
    let mut changes = begun("pump-7", Expiry::After(Duration::from_secs(HOUR)));
    changes.pop();
    let expiry = Expiry::After(Duration::from_secs(HOUR));
    changes.push(Change::Disconnected { expiry, will: Some(Box::new(will)) });
    let number = store.next_posting();
    changes.push(Change::Posted { number, delivery: crate::world::delivery(&message) });
    store.append(store.new_session(), &mut changes);
    let commit = store.retain(&message);
    committed(store, commit).unwrap();
}

fn restart(disk: &SimulatedDisk, clock: &SetClock) -> Recovered {
    let files = disk.files();
    let (store, recovered) =
        Journal::open_on(SimulatedDisk::with_files(files), clock.clone(), options()).unwrap();
    drop(store);
    recovered
}

fn left(recovered: &Recovered, clock: &SetClock) -> (u64, u64, u64) {
    let [(_, session)] = &recovered.sessions[..] else { panic!("one session") };
    let Expiry::After(expiry) = session.expiry else { panic!("{:?}", session.expiry) };
    let will = session.will.as_ref().unwrap();
    assert_eq!(will.expiry_interval(), Some(5));
    let message = &session.queue[0].1.message;
    let message = message.expires_at().unwrap().saturating_duration_since(clock.now());
    (expiry.as_secs(), will.delay().as_secs(), message.as_secs())
}

#[test]
fn fault_86_time_goes_on_while_the_process_is_down() {
    let (disk, clock) = (SimulatedDisk::default(), SetClock::new(TODAY * 1000));
    let (store, _) = Journal::open_on(disk.clone(), clock.clone(), options()).unwrap();
    fill(&store, &clock);
    clock.pass(30);
    let recovered = restart(&disk, &clock);
    assert_eq!(left(&recovered, &clock), (HOUR - 30, HOUR / 2 - 30, 70));
    assert_eq!(recovered.retained.len(), 1);
    clock.pass(70);
    let recovered = restart(&disk, &clock);
    assert_eq!(left(&recovered, &clock), (HOUR - 100, HOUR / 2 - 100, 0));
    assert!(recovered.sessions[0].1.queue[0].1.message.is_expired(clock.now()));
    assert!(recovered.retained.is_empty(), "what has expired is not retained");
    clock.pass(HOUR);
    let recovered = restart(&disk, &clock);
    let session = &recovered.sessions[0].1;
    assert_eq!(session.expiry, Expiry::Now);
    assert_eq!(session.will.as_ref().map(DueWill::delay), Some(Duration::ZERO), "[MQTT5-3.1.2-8]");
}

#[test]
fn fault_86_a_clock_that_is_set_while_the_process_runs_moves_no_deadline() {
    for clock_is_set_to in [TODAY + 50 * 365 * 24 * HOUR, 0] {
        // A device that boots in 1970, and is set right; or the other way round.
        let (disk, clock) = (SimulatedDisk::default(), SetClock::new(TODAY * 1000));
        let (store, _) = Journal::open_on(disk.clone(), clock.clone(), options()).unwrap();
        fill(&store, &clock);
        clock.pass(10);
        clock.set_wall(clock_is_set_to);
        store.close().unwrap();
        clock.pass(20);
        assert_eq!(left(&restart(&disk, &clock), &clock), (HOUR - 30, HOUR / 2 - 30, 70));
    }
}

#[test]
fn fault_86_a_clock_that_is_set_back_while_the_process_is_down_gives_nothing_more_time_than_it_had() {
    let (disk, clock) = (SimulatedDisk::default(), SetClock::new(TODAY * 1000));
    let (store, _) = Journal::open_on(disk.clone(), clock.clone(), options()).unwrap();
    fill(&store, &clock);
    clock.pass(10);
    store.close().unwrap();
    clock.set_wall(5);
    assert_eq!(left(&restart(&disk, &clock), &clock), (HOUR - 10, HOUR / 2 - 10, 90));
}

#[test]
fn a_session_whose_conversation_nobody_ended_has_its_time_from_the_first_restart_and_not_from_each() {
    let (disk, clock) = (SimulatedDisk::default(), SetClock::new(TODAY * 1000));
    let (store, _) = Journal::open_on(disk.clone(), clock.clone(), options()).unwrap();
    let mut changes = begun("pump-7", Expiry::After(Duration::from_secs(HOUR)));
    changes.pop();
    let commit = store.append(store.new_session(), &mut changes);
    committed(&store, commit).unwrap();
    clock.pass(2 * HOUR);
    let disk = SimulatedDisk::with_files(disk.files());
    let expiry = |left: u64| Expiry::After(Duration::from_secs(left));
    for passed in [0, 100, 200] {
        let (store, recovered) = Journal::open_on(disk.clone(), clock.clone(), options()).unwrap();
        drop(store);
        assert_eq!(recovered.sessions[0].1.expiry, expiry(HOUR - passed));
        clock.pass(100);
    }
}
