//! Files that are not what was written.

use std::collections::BTreeMap;

use tidegate_codec::QoS;
use tidegate_session::{Change, Expiry};
use tidegate_store::{Damage, Journal, OnDamage, OpenError, Recovered, Store};

use crate::disk::SimulatedDisk;
use crate::world::{SetClock, begun, committed, delivery, message, open, options};

/// Ten sessions with a message each, each a batch, over several files.
fn ten_batches() -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk);
    for index in 0..10 {
        let mut changes = begun(&format!("client-{index}"), Expiry::Never);
        let message = message("t", &[index; 900], QoS::AtLeastOnce);
        changes.push(Change::Posted { number: store.next_posting(), delivery: delivery(&message) });
        let commit = store.append(store.new_session(), &mut changes);
        committed(&store, commit).unwrap();
    }
    drop(store);
    let files = disk.files();
    assert!(files.len() >= 4, "{:?}", files.keys());
    files
}

fn clients(recovered: &Recovered) -> Vec<&str> {
    recovered.sessions.iter().map(|(_, session)| &*session.client_id).collect()
}

#[test]
fn fault_126_a_damaged_batch_is_told_set_aside_and_costs_no_other() {
    let mut files = ten_batches();
    let name = files.keys().nth(1).unwrap().clone();
    files.get_mut(&name).unwrap()[300] ^= 1;
    let disk = SimulatedDisk::with_files(files.clone());
    let (store, recovered) = open(&disk);
    assert_eq!(clients(&recovered).len(), 9);
    let [Damage { file, at, bytes }] = &recovered.repair.damage[..] else { panic!("{:?}", recovered.repair) };
    assert_eq!((file, *at), (&name, 40));
    assert!(*bytes > 900 && recovered.repair.is_loss());
    drop(store);
    let left = disk.files();
    assert_eq!(left[&format!("{name}.damaged")], files[&name], "set aside as it was");
    let (_store, again) = open(&disk);
    assert!(!again.repair.is_loss());
    assert_eq!(clients(&again), clients(&recovered));
}

#[test]
fn damage_refuses_the_start_where_that_is_wanted_and_changes_nothing() {
    let mut files = ten_batches();
    let name = files.keys().nth(1).unwrap().clone();
    files.get_mut(&name).unwrap()[300] ^= 1;
    let disk = SimulatedDisk::with_files(files.clone());
    let mut options = options();
    options.on_damage = OnDamage::Refuse;
    let error = Journal::open_on(disk.clone(), SetClock::new(0), options).map(drop).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Damaged(_)) && text.contains(&name), "{text}");
    assert_eq!(disk.files(), files);
}

#[test]
fn a_file_that_is_missing_is_told() {
    let mut files = ten_batches();
    let name = files.keys().nth(1).unwrap().clone();
    files.remove(&name);
    let (_store, recovered) = open(&SimulatedDisk::with_files(files));
    assert!(recovered.repair.lost_batches > 0 && recovered.repair.is_loss(), "{:?}", recovered.repair);
}

#[test]
fn a_header_that_is_damaged_costs_nothing_else() {
    let mut files = ten_batches();
    let name = files.keys().nth(1).unwrap().clone();
    files.get_mut(&name).unwrap()[20] ^= 1;
    let (_store, recovered) = open(&SimulatedDisk::with_files(files));
    assert_eq!(clients(&recovered).len(), 10);
    assert_eq!(recovered.repair.damage.len(), 1);
}

#[test]
fn a_newer_format_is_refused_in_any_file_and_nothing_is_touched() {
    for index in 0..4 {
        let mut files = ten_batches();
        let name = files.keys().nth(index).unwrap().clone();
        files.get_mut(&name).unwrap()[8] = 2;
        let disk = SimulatedDisk::with_files(files.clone());
        let error = Journal::open_on(disk.clone(), SetClock::new(0), options()).map(drop).unwrap_err();
        assert!(
            matches!(&error, OpenError::NewerFormat { file, found: 2, known: 1 } if *file == name),
            "{error}"
        );
        assert_eq!(disk.files(), files);
    }
}

#[test]
fn a_file_of_zeros_at_the_end_is_one_that_was_never_begun() {
    let mut files = ten_batches();
    files.insert("00000000000000ff.log".into(), vec![0; 4096]);
    files.insert("notes.txt".into(), b"not ours".to_vec());
    let disk = SimulatedDisk::with_files(files);
    let (_store, recovered) = open(&disk);
    assert_eq!(clients(&recovered).len(), 10);
    assert!(!recovered.repair.is_loss(), "{:?}", recovered.repair);
    assert_eq!(disk.files()["notes.txt"], b"not ours");
}

#[test]
fn no_bytes_whatever_panic() {
    // Bytes that a checksum vouches for, and that are no records: a bug of another version, or malice.
    let whole = ten_batches();
    for seed in 0..200_u64 {
        let mut files = whole.clone();
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for bytes in files.values_mut() {
            for _ in 0..8 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let at = x as usize % bytes.len();
                match x >> 60 {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.extend_from_within(..at),
                    _ if !(8..12).contains(&at) => bytes[at] = (x >> 32) as u8,
                    _ => {}
                }
            }
        }
        let disk = SimulatedDisk::with_files(files);
        let (store, recovered) = open(&disk);
        drop(store);
        let (_store, again) = open(&disk);
        assert_eq!(clients(&again), clients(&recovered), "seed {seed}");
    }
}
