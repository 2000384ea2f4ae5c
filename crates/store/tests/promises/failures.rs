//! A disk that fails or fills up: nothing is promised that is not there.

use std::time::{Duration, Instant};

use tidegate_codec::QoS;
use tidegate_session::{Change, Expiry};
use tidegate_store::{Failed, Journal, Store};

use crate::disk::{Fails, SimulatedDisk};
use crate::world::{begun, committed, delivery, message, open, wait};

fn eventually(is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < until, "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn append(store: &Journal, client_id: &str) -> tidegate_store::Commit {
    store.append(store.new_session(), &mut begun(client_id, Expiry::Never))
}

#[test]
fn fault_128_after_a_failed_write_or_sync_nothing_is_committed_any_more_and_the_status_says_why() {
    for fails in [Fails::Writes, Fails::Syncs] {
        let disk = SimulatedDisk::default();
        let (store, _) = open(&disk);
        committed(&store, append(&store, "before")).unwrap();
        disk.fail(Some(fails));
        assert_eq!(committed(&store, append(&store, "lost")), Err(Failed));
        disk.fail(None);
        let after = append(&store, "after");
        assert_eq!(committed(&store, after), Err(Failed));
        assert!(store.committed() < after);
        let status = store.status();
        assert_eq!(status.failure.as_deref(), Some("the device does not answer"));
        assert_eq!(status.pending_bytes, 0, "what never will be written takes no memory");
        let mut waiting = tidegate_store::Waiting::default();
        assert_eq!(wait(std::future::poll_fn(|cx| store.poll_room(&mut waiting, cx))), Some(()));
        assert_eq!(store.close(), Err(Failed));
        let (_store, recovered) = open(&SimulatedDisk::with_files(disk.lose_power(1)));
        assert_eq!(&*recovered.sessions[0].1.client_id, "before");
        assert!(recovered.sessions.iter().all(|(_, session)| &*session.client_id != "after"));
    }
}

#[test]
fn fault_128_a_failed_sync_is_not_asked_again() {
    // The second one would say that all is well, although the pages are gone.
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk);
    let syncs = disk.syncs();
    disk.fail(Some(Fails::OneSync));
    assert_eq!(committed(&store, append(&store, "lost")), Err(Failed));
    assert_eq!(committed(&store, append(&store, "after")), Err(Failed));
    drop(store);
    assert_eq!(disk.syncs(), syncs + 1);
}

#[test]
fn fault_9_a_full_disk_holds_everything_up_and_goes_on_when_there_is_room() {
    for room in [0, 10, 40] {
        let disk = SimulatedDisk::default();
        let (store, _) = open(&disk);
        committed(&store, append(&store, "before")).unwrap();
        disk.set_room(Some(room));
        let commit = append(&store, "waits");
        eventually(|| store.status().failure.is_some_and(|failure| failure.contains("full")));
        assert!(store.committed() < commit);
        disk.set_room(None);
        committed(&store, commit).unwrap();
        assert_eq!(store.status().failure, None);
        drop(store);
        let (_store, recovered) = open(&SimulatedDisk::with_files(disk.lose_power(0)));
        assert_eq!(recovered.sessions.len(), 2, "what was half written is not in the way");
        assert!(!recovered.repair.is_loss());
    }
}

#[test]
fn fault_9_a_new_file_waits_for_room_as_well() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk);
    disk.fail(Some(Fails::Creation));
    let key = store.new_session();
    store.append(key, &mut begun("pump-7", Expiry::Never));
    let mut commit = None;
    for index in 0..4 {
        let message = message("t", &[index; 1500], QoS::AtLeastOnce);
        let number = store.next_posting();
        let mut changes = vec![Change::Posted { number, delivery: delivery(&message) }];
        commit = Some(store.append(key, &mut changes));
        std::thread::sleep(Duration::from_millis(5));
    }
    eventually(|| store.status().failure.is_some());
    disk.fail(None);
    committed(&store, commit.unwrap()).unwrap();
    drop(store);
    let (_store, recovered) = open(&SimulatedDisk::with_files(disk.lose_power(0)));
    assert_eq!(recovered.sessions[0].1.queue.len(), 4);
}

#[test]
fn closing_on_a_full_disk_ends_and_says_that_not_all_is_kept() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk);
    disk.set_room(Some(0));
    append(&store, "waits");
    eventually(|| store.status().failure.is_some());
    assert_eq!(store.close(), Err(Failed));
}

#[test]
fn those_who_wait_do_not_wait_for_a_writer_that_panicked() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk);
    disk.fail(Some(Fails::Panics));
    assert_eq!(committed(&store, append(&store, "lost")), Err(Failed));
    assert_eq!(store.status().failure.as_deref(), Some("the writer panicked"));
    assert_eq!(store.close(), Err(Failed));
}
