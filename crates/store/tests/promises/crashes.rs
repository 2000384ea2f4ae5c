//! SIGKILL, or the loss of power, at any moment: what was committed is there, and nothing that was never said.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tidegate_codec::QoS;
use tidegate_session::{Change, Ended, Expiry, Start};
use tidegate_store::Store;

use crate::disk::SimulatedDisk;
use crate::model::Model;
use crate::world::{Step, World, begun, committed, open};

fn step() -> impl Strategy<Value = Step> {
    let qos =
        || prop_oneof![1 => Just(QoS::AtMostOnce), 3 => Just(QoS::AtLeastOnce), 4 => Just(QoS::ExactlyOnce)];
    let cause = prop_oneof![
        Just(Ended::ByClient),
        Just(Ended::ConnectionLost),
        Just(Ended::TakenOver(Start::Resume)),
    ];
    prop_oneof![
        6 => (prop::bool::weighted(0.2), any::<bool>()).prop_map(|(clean, with_will)| Step::Connect { clean, with_will }),
        2 => cause.prop_map(Step::Disconnect),
        2 => (0..4_u8).prop_map(Step::Subscribe),
        1 => (0..4_u8).prop_map(Step::Unsubscribe),
        6 => (qos(), 0..400_usize).prop_map(|(qos, bytes)| Step::Deliver { qos, bytes }),
        6 => (qos(), 0..400_usize).prop_map(|(qos, bytes)| Step::Post { qos, bytes }),
        4 => Just(Step::TakePosted),
        16 => any::<usize>().prop_map(|which| Step::Acknowledge { which }),
        4 => (1..9_u16).prop_map(|number| Step::Publish { number }),
        3 => (1..9_u16).prop_map(|number| Step::Release { number }),
        3 => (0..4_u8, 0..300_usize).prop_map(|(topic, bytes)| Step::Retain { topic, bytes }),
        1 => Just(Step::WillDone),
        1 => Just(Step::Discard),
    ]
}

/// What happens beside the steps.
#[derive(Debug, Clone)]
enum Event {
    Step(usize, Step),
    Settle,
    /// The process is killed; the system goes on.
    Kill,
    /// The power goes after that many writes, wherever the writer is then.
    LosePower {
        writes: usize,
        luck: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        60 => (0..3_usize, step()).prop_map(|(who, step)| Event::Step(who, step)),
        8 => Just(Event::Settle),
        1 => Just(Event::Kill),
        6 => (0..40_usize, any::<u64>()).prop_map(|(writes, luck)| Event::LosePower { writes, luck }),
    ]
}

#[test]
fn f12_what_was_committed_survives_and_nothing_comes_back_that_was_not_said() {
    /// Each ends with a loss of power, and has some on its way.
    const RUNS: u32 = 1000;
    let (moments, committed) = (Cell::new(0), Cell::new(0));
    let survived = |world: &World| {
        moments.update(|count| count + 1);
        committed.update(|count| count + world.committed());
    };
    let result = seeded(RUNS).run(&prop::collection::vec(event(), 1..130), |events| {
        let mut world = World::new();
        for event in &events {
            match event {
                Event::Step(who, step) => world.take(*who, step),
                Event::Settle => world.settle(),
                Event::Kill => {
                    let files = world.disk.files();
                    world = world.restart(files);
                }
                Event::LosePower { writes, luck } => world.disk.power_goes_after(*writes, *luck),
            }
            if let Some(files) = world.disk.after_power_went() {
                survived(&world);
                world = world.restart(files);
            }
        }
        world.settle();
        let files = world.disk.lose_power(events.len() as u64);
        survived(&world);
        world.restart(files);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let (moments, committed) = (moments.get(), committed.get());
    eprintln!(
        "| F12 power lost at {moments} moments: sessions and retained messages | {committed} | 0 | 0 | 0 | - | - |"
    );
}

/// Random runs from `TIDEGATE_SEED`, or a seed that is printed.
fn seeded(cases: u32) -> TestRunner {
    let given = std::env::var("TIDEGATE_SEED").ok();
    let seed = given.map_or_else(|| RandomState::new().hash_one(0), |text| text.parse().expect("a number"));
    eprintln!("TIDEGATE_SEED={seed}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, rng)
}

/// A run with a bit of everything; returns the disk and the states in order, the last one safe.
fn a_small_run() -> (SimulatedDisk, Vec<Model>) {
    let mut world = World::new();
    let mut states = vec![world.model().after_restart()];
    let (qos, bytes) = (QoS::ExactlyOnce, 20);
    let steps = [
        (0, Step::Connect { clean: true, with_will: true }),
        (1, Step::Connect { clean: true, with_will: false }),
        (0, Step::Subscribe(1)),
        (0, Step::Publish { number: 7 }),
        (0, Step::Deliver { qos, bytes }),
        (0, Step::Acknowledge { which: 0 }),
        (1, Step::Disconnect(Ended::ConnectionLost)),
        (0, Step::Post { qos, bytes }),
        (1, Step::Deliver { qos, bytes }),
        (0, Step::TakePosted),
        (2, Step::Retain { topic: 1, bytes }),
        (0, Step::Publish { number: 8 }),
        (0, Step::Release { number: 7 }),
        (0, Step::Disconnect(Ended::ByClient)),
    ];
    for (who, step) in &steps {
        world.take(*who, step);
        world.settle();
        states.push(world.model().after_restart());
    }
    (world.disk.clone(), states)
}

#[test]
fn a_log_that_is_cut_at_any_byte_holds_all_batches_before_the_cut() {
    let (disk, states) = a_small_run();
    let files = disk.files();
    let name = files.keys().next_back().unwrap().clone();
    let whole = files[&name].len();
    let mut reached = 0;
    for cut in 0..=whole {
        let mut files = files.clone();
        files.get_mut(&name).unwrap().truncate(cut);
        let (store, recovered) = open(&SimulatedDisk::with_files(files));
        drop(store);
        assert!(!recovered.repair.is_loss(), "a torn tail is no loss: {:?}", recovered.repair);
        let model = Model::of(&recovered);
        // One step may be several appends, so not each state is one of these; but none goes back.
        if let Some(at) = states.iter().rposition(|state| *state == model) {
            assert!(at >= reached, "cut at {cut}");
            reached = at;
        }
    }
    assert_eq!(reached, states.len() - 1);
    assert_eq!(states.last().unwrap().sessions(), 2);
}

#[test]
fn fault_126_a_bit_that_flips_is_found_and_costs_no_more_than_its_batch() {
    static SEED: AtomicU64 = AtomicU64::new(88_172_645_463_325_252);
    let random = || {
        let mut x = SEED.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        SEED.store(x, Ordering::Relaxed);
        x as usize
    };
    let (disk, states) = a_small_run();
    let files = disk.files();
    let name = files.keys().next_back().unwrap().clone();
    let bits = files[&name].len() * 8;
    for _ in 0..200 {
        let mut files = files.clone();
        let bit = random() % bits;
        files.get_mut(&name).unwrap()[bit / 8] ^= 1 << (bit % 8);
        // The format is what says whether the rest can be read.
        if (64..96).contains(&bit) {
            continue;
        }
        let disk = SimulatedDisk::with_files(files);
        let (store, recovered) = open(&disk);
        let repair = &recovered.repair;
        assert!(
            repair.is_loss() || repair.torn_bytes > 0 || Model::of(&recovered) == states[states.len() - 1]
        );
        assert!(recovered.sessions.len() <= 3);
        drop(store);
        let (_, again) = open(&disk);
        assert!(!again.repair.is_loss(), "bit {bit}: damage is told once: {:?}", again.repair);
        assert_eq!(Model::of(&again), Model::of(&recovered), "bit {bit}");
    }
}

#[test]
fn files_whose_removal_was_not_durable_bring_nothing_back() {
    // Many short files, each with the end of a session that began in the one before.
    let disk = SimulatedDisk::default();
    let mut last = None;
    for index in 0..30 {
        let (store, _) = open(&disk);
        let key = store.new_session();
        let commit = store.append(key, &mut begun(&format!("client-{index}"), Expiry::Never));
        if let Some(last) = last.replace(key) {
            store.append(last, &mut vec![Change::Ended]);
        }
        committed(&store, commit).unwrap();
    }
    let files = disk.files();
    for writes in 0..60 {
        for luck in
            [0, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 0x0F0F_3C5A_9669_C3A5_u64.rotate_left(writes)]
        {
            let disk = SimulatedDisk::with_files(files.clone());
            let (store, recovered) = open(&disk);
            let key = recovered.sessions[0].0;
            disk.power_goes_after(writes as usize, luck);
            for _ in 0..30 {
                committed(&store, store.append(key, &mut vec![Change::WillDone])).unwrap();
            }
            drop(store);
            let left = disk.after_power_went().unwrap_or_else(|| disk.lose_power(luck));
            let (_store, recovered) = open(&SimulatedDisk::with_files(left));
            assert!(!recovered.repair.is_loss(), "{writes} {luck:x}: {:?}", recovered.repair);
            assert_eq!(recovered.sessions.len(), 1, "{writes} {luck:x}");
        }
    }
}
