//! Group commit: who waits, who is woken, and how much may gather.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tidegate_codec::QoS;
use tidegate_session::{Change, Expiry};
use tidegate_store::{Commit, Journal, Store, Waiting};

use crate::disk::SimulatedDisk;
use crate::survival::TempDir;
use crate::world::{SetClock, begun, committed, delivery, message, open, options, wait};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A store whose writer is held up by a full disk.
fn held_up() -> (SimulatedDisk, Journal) {
    let disk = SimulatedDisk::default();
    let mut options = options();
    options.max_pending_bytes = 10_000;
    let (store, _) = Journal::open_on(disk.clone(), SetClock::new(0), options).unwrap();
    disk.set_room(Some(0));
    (disk, store)
}

#[test]
fn what_gathers_while_a_batch_is_written_is_one_batch() {
    let (disk, store) = held_up();
    let key = store.new_session();
    let first = store.append(key, &mut begun("pump-7", Expiry::Never));
    while store.status().failure.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let batches = store.status().batches;
    let commits: Vec<_> = (0..100).map(|_| store.append(key, &mut vec![Change::WillDone])).collect();
    assert!(commits.iter().all(|commit| *commit == commits[0] && *commit > first), "{commits:?}");
    disk.set_room(None);
    committed(&store, commits[0]).unwrap();
    assert_eq!(store.status().batches, batches + 2);
}

#[test]
fn a_task_that_waits_is_woken_once_however_often_it_looked() {
    let (disk, store) = held_up();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let commit = store.append(store.new_session(), &mut begun("pump-7", Expiry::Never));
    let mut waiting = Waiting::default();
    for _ in 0..50 {
        assert_eq!(store.poll_committed(commit, &mut waiting, &mut cx), Poll::Pending);
    }
    disk.set_room(None);
    committed(&store, commit).unwrap();
    while count.0.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(store.poll_committed(commit, &mut waiting, &mut cx), Poll::Ready(Ok(())));
    drop(store);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[test]
fn too_much_that_waits_for_the_disk_says_so_until_there_is_room() {
    let (disk, store) = held_up();
    let key = store.new_session();
    let mut waiting = Waiting::default();
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(store.poll_room(&mut waiting, &mut cx), Poll::Ready(()));
    store.append(key, &mut begun("pump-7", Expiry::Never));
    let mut commit = Commit::NONE;
    for index in 0..30 {
        let message = message("t", &[index; 1000], QoS::AtLeastOnce);
        let number = store.next_posting();
        commit = store.append(key, &mut vec![Change::Posted { number, delivery: delivery(&message) }]);
    }
    assert_eq!(store.poll_room(&mut waiting, &mut cx), Poll::Pending);
    assert!(store.status().pending_bytes > 10_000);
    // As a connection does it: again and again, with one waker.
    let fill_and_wait = async {
        for round in 0..3_u8 {
            disk.set_room(Some(0));
            for _ in 0..30 {
                let message = message("t", &[round; 1000], QoS::AtLeastOnce);
                let number = store.next_posting();
                commit =
                    store.append(key, &mut vec![Change::Posted { number, delivery: delivery(&message) }]);
            }
            let mut is_first = true;
            poll_fn(|cx| {
                let room = store.poll_room(&mut waiting, cx);
                if std::mem::take(&mut is_first) {
                    assert_eq!(room, Poll::Pending);
                    disk.set_room(None);
                }
                room
            })
            .await;
        }
    };
    assert_eq!(wait(fill_and_wait), Some(()));
    committed(&store, commit).unwrap();
    assert_eq!(store.status().pending_bytes, 0);
}

#[test]
fn nothing_is_nothing_to_wait_for() {
    let (store, _) = open(&SimulatedDisk::default());
    assert_eq!(store.append(store.new_session(), &mut Vec::new()), Commit::NONE);
    assert_eq!(committed(&store, Commit::NONE), Ok(()));
}

#[test]
fn a_lingering_store_commits_all_the_same() {
    let directory = TempDir::new();
    let mut options = directory.options();
    options.linger = Duration::from_millis(20);
    let (store, _) = Journal::open(options).unwrap();
    for index in 0..5 {
        let commit = store.append(store.new_session(), &mut begun(&index.to_string(), Expiry::Never));
        committed(&store, commit).unwrap();
    }
    store.append(store.new_session(), &mut begun("last", Expiry::Never));
    store.close().unwrap();
    let (_store, recovered) = Journal::open(directory.options()).unwrap();
    assert_eq!(recovered.sessions.len(), 6);
}

#[test]
fn many_threads_append_and_each_finds_its_own_when_it_waited() {
    let directory = TempDir::new();
    let (store, _) = Journal::open(directory.options()).unwrap();
    let store = Arc::new(store);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for index in 0..50 {
                    let key = store.new_session();
                    let client_id = format!("{thread}-{index}");
                    let commit = store.append(key, &mut begun(&client_id, Expiry::Never));
                    committed(&*store, commit).unwrap();
                    assert!(store.committed() >= commit);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(store);
    let (_store, recovered) = Journal::open(directory.options()).unwrap();
    assert_eq!(recovered.sessions.len(), 200);
}

#[test]
fn what_is_appended_together_has_one_commit_however_long_it_takes() {
    let (store, _) = open(&SimulatedDisk::default());
    let (publisher, subscriber) = (store.new_session(), store.new_session());
    let together = store.together();
    let first = store.append(subscriber, &mut begun("subscriber", Expiry::Never));
    // Long enough for the writer to end its batch, if it could.
    std::thread::sleep(Duration::from_millis(50));
    let second = store.append(publisher, &mut begun("publisher", Expiry::Never));
    assert_eq!(first, second);
    assert!(store.committed() < first);
    drop(together);
    committed(&store, second).unwrap();
}
