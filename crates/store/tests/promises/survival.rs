//! What is there after a restart, on a real directory.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_codec::{Publish, PublishProperties, QoS, UserProperties};
use tidegate_session::{Change, Delivery, Expiry, Identifiers, Message};
use tidegate_store::{Commit, Durability, Journal, OpenError, Options, Store, Volatile};

use crate::disk::SimulatedDisk;
use crate::world::{begun, committed, delivery, id, message, open};

/// A directory of its own, removed in the end.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidegate-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(&self.0)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rich_message() -> Arc<Message> {
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        response_topic: Some("answers/here"),
        correlation_data: Some(&[0, 255]),
        content_type: Some("text/plain"),
        user_properties: UserProperties::from_pairs([("site", "lyon"), ("site", "é")]).unwrap(),
        ..PublishProperties::default()
    };
    let publish =
        Publish { qos: QoS::ExactlyOnce, retain: true, payload: b"21.5", properties, ..Publish::default() };
    Arc::new(Message::from_publish("plant/7", &publish, std::time::Instant::now()))
}

#[test]
fn a_message_comes_back_with_all_that_travels_with_it() {
    let directory = TempDir::new();
    let (store, recovered) = Journal::open(directory.options()).unwrap();
    assert!(recovered.sessions.is_empty() && recovered.retained.is_empty());
    let message = rich_message();
    let sent = Delivery {
        message: Arc::clone(&message),
        qos: QoS::AtLeastOnce,
        retain: true,
        subscription_identifiers: [1, 268_435_455, 3].map(|it| it.try_into().unwrap()).into_iter().collect(),
    };
    let queued = Delivery {
        subscription_identifiers: Identifiers::One(5.try_into().unwrap()),
        retain: false,
        ..sent.clone()
    };
    let key = store.new_session();
    let mut changes = begun("pump-7", Expiry::Never);
    changes.push(Change::Sent { number: None, packet_id: id(65_535), delivery: sent.clone() });
    let number = store.next_posting();
    changes.push(Change::Posted { number, delivery: queued.clone() });
    store.append(key, &mut changes);
    let commit = store.retain(&message);
    committed(&store, commit).unwrap();
    assert_eq!(store.status().messages, 1, "one message, however many refer to it");
    store.close().unwrap();

    let (store, recovered) = Journal::open(directory.options()).unwrap();
    let [(found, session)] = &recovered.sessions[..] else { panic!("{recovered:?}") };
    assert_eq!((*found, &*session.client_id, session.expiry), (key, "pump-7", Expiry::Never));
    assert_eq!(session.in_flight[0].delivery.as_ref(), Some(&sent));
    assert_eq!(session.queue, [(number, queued)]);
    assert_eq!(recovered.retained, [message]);
    let shared = [&session.queue[0].1.message, &recovered.retained[0]];
    assert!(Arc::ptr_eq(shared[0], shared[1]), "shared as before");
    assert_ne!(store.new_session(), key, "no key twice");
    assert_ne!(store.next_posting(), number, "no number twice");
}

#[test]
fn a_second_process_on_one_directory_is_refused() {
    let directory = TempDir::new();
    let (store, _) = Journal::open(directory.options()).unwrap();
    let second = Journal::open(directory.options()).map(drop).unwrap_err();
    assert!(matches!(&second, OpenError::InUse { directory: found } if *found == directory.0), "{second}");
    drop(store);
    Journal::open(directory.options()).unwrap();
}

#[test]
fn without_fsync_a_write_is_enough_and_survives_the_process() {
    let directory = TempDir::new();
    let mut options = directory.options();
    options.durability = Durability::Os;
    let (store, _) = Journal::open(options.clone()).unwrap();
    let commit = store.append(store.new_session(), &mut begun("pump-7", Expiry::Never));
    committed(&store, commit).unwrap();
    // What another process would find, while this one has not ended in good order.
    let copy = TempDir::new();
    fs::create_dir(&copy.0).unwrap();
    for file in fs::read_dir(&directory.0).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.0.join(file.file_name())).unwrap();
    }
    let (_store, recovered) = Journal::open(copy.options()).unwrap();
    assert_eq!(recovered.sessions.len(), 1);
}

#[test]
fn what_is_over_is_forgotten() {
    let directory = TempDir::new();
    let (store, _) = Journal::open(directory.options()).unwrap();
    let [first, second] = [store.new_session(), store.new_session()];
    store.append(first, &mut begun("a", Expiry::Never));
    store.append(second, &mut begun("b", Expiry::Never));
    let shared = message("t", b"1", QoS::AtLeastOnce);
    for key in [first, second] {
        let number = store.next_posting();
        store.append(key, &mut vec![Change::Posted { number, delivery: delivery(&shared) }]);
    }
    store.retain(&message("kept", b"1", QoS::AtMostOnce));
    store.retain(&message("taken", b"1", QoS::AtMostOnce));
    store.retain(&message("taken", b"", QoS::AtMostOnce));
    let commit = store.append(first, &mut vec![Change::Ended]);
    committed(&store, commit).unwrap();
    assert_eq!(store.status().messages, 2, "the second still needs the message");
    // Nothing counts after the end.
    store.append(first, &mut vec![Change::Subscribed { filter: "x".into(), subscription: subscription() }]);
    let commit = store.append(second, &mut vec![Change::Ended]);
    committed(&store, commit).unwrap();
    assert_eq!(store.status().messages, 1);
    store.close().unwrap();
    let (_store, recovered) = Journal::open(directory.options()).unwrap();
    assert!(recovered.sessions.is_empty());
    assert_eq!(recovered.retained.iter().map(|message| message.topic()).collect::<Vec<_>>(), ["kept"]);
}

pub(crate) fn subscription() -> tidegate_session::Subscription {
    let options = tidegate_codec::SubscribeFilter::new("x", QoS::AtLeastOnce).options;
    tidegate_session::Subscription { options, identifier: None }
}

#[test]
fn a_clean_start_that_was_under_way_leaves_the_new_session_alone() {
    let directory = TempDir::new();
    let (store, _) = Journal::open(directory.options()).unwrap();
    let [old, new] = [store.new_session(), store.new_session()];
    store.append(old, &mut begun("pump-7", Expiry::Never));
    store.append(new, &mut begun("pump-7", Expiry::Never));
    store.close().unwrap();
    let (store, recovered) = Journal::open(directory.options()).unwrap();
    assert_eq!(recovered.sessions.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [new]);
    store.append(new, &mut vec![Change::Ended]);
    store.close().unwrap();
    let (_store, recovered) = Journal::open(directory.options()).unwrap();
    assert!(recovered.sessions.is_empty(), "the old one does not come back");
}

#[test]
fn the_files_stay_in_proportion_to_what_is_needed() {
    let directory = TempDir::new();
    let mut options = directory.options();
    options.durability = Durability::Os;
    options.segment_bytes = 100_000;
    let (store, _) = Journal::open(options.clone()).unwrap();
    let [busy, quiet] = [store.new_session(), store.new_session()];
    store.append(busy, &mut begun("busy", Expiry::Never));
    store.append(quiet, &mut begun("quiet", Expiry::Never));
    let waiting = message("quiet", &[7; 5000], QoS::ExactlyOnce);
    let number = store.next_posting();
    store.append(quiet, &mut vec![Change::Posted { number, delivery: delivery(&waiting) }]);
    store.retain(&message("retained", &[8; 5000], QoS::AtLeastOnce));
    for count in 0..20_000_u64 {
        let message = message("busy", &[count as u8; 1000], QoS::AtLeastOnce);
        let packet_id = id(1);
        let delivery = delivery(&message);
        let mut changes =
            vec![Change::Sent { number: None, packet_id, delivery }, Change::Completed { packet_id }];
        let commit = store.append(busy, &mut changes);
        if count % 50 == 0 {
            committed(&store, commit).unwrap();
        }
    }
    committed(&store, store.append(busy, &mut vec![Change::WillDone])).unwrap();
    let status = store.status();
    assert!(status.disk_bytes < 400_000, "{status:?}");
    assert!(
        status.written_bytes > 20_000_000 && status.moved_bytes < status.written_bytes / 10,
        "{status:?}"
    );
    assert!(status.live_bytes < 20_000, "{status:?}");
    store.close().unwrap();
    let (_store, recovered) = Journal::open(options).unwrap();
    assert!(!recovered.repair.is_loss(), "{:?}", recovered.repair);
    let [(_, busy), (_, quiet)] = &recovered.sessions[..] else { panic!("two sessions") };
    assert!(busy.queue.is_empty() && busy.in_flight.is_empty());
    assert_eq!(quiet.queue, [(number, delivery(&waiting))]);
    assert_eq!(recovered.retained[0].payload(), [8; 5000]);
}

#[test]
fn many_restarts_do_not_leave_many_files() {
    let disk = SimulatedDisk::default();
    for _ in 0..60 {
        let (store, _) = open(&disk);
        let commit = store.append(store.new_session(), &mut begun("pump-7", Expiry::Never));
        committed(&store, commit).unwrap();
    }
    assert!(disk.files().len() < 30, "{}", disk.files().len());
    assert_eq!(open(&disk).1.sessions.len(), 1);
}

#[test]
fn without_a_data_directory_everything_is_committed_at_once() {
    let store = Volatile::default();
    let key = store.new_session();
    assert_ne!(key, store.new_session());
    let mut changes = begun("pump-7", Expiry::Never);
    assert_eq!(store.append(key, &mut changes), Commit::NONE);
    assert!(changes.is_empty() && store.committed() >= Commit::NONE);
    assert_ne!(store.next_posting(), store.next_posting());
}
