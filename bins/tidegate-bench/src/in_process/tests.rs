//! What needs no process of its own; a broker that grows is in `tests/cli.rs`, where no other test takes memory.

use super::*;

#[test]
fn a_stopped_growth_has_no_result() {
    let growth =
        Growth { sessions: vec![10], messages: 1, window: NonZeroU32::MIN, payload_bytes: 1, threads: 1 };
    let error = run(&growth, &AtomicBool::new(true), |_| {}).unwrap_err();
    assert!(matches!(error, GrowthError::Stopped), "{error}");
}

#[test]
fn each_device_has_its_turn_once_before_any_has_it_again() {
    for all in [1_u64, 2, 3, 10, 997, 10_000] {
        for round in 0..2 {
            let mut turns: Vec<u64> = (0..all).map(|turn| spread(round * all + turn, all)).collect();
            turns.sort_unstable();
            assert_eq!(turns, (0..all).collect::<Vec<_>>());
        }
    }
    assert!(spread(0, 10_000).abs_diff(spread(1, 10_000)) > 1000);
}

#[test]
fn what_strays_by_more_than_a_fifth_from_the_first_step_is_not_level() {
    let step = |sessions, session_bytes, user_us| Step {
        sessions,
        session_bytes,
        tool_bytes: 90.0,
        connect_us: 9.0,
        user_us,
        system_us: 1.0,
        messages_per_second: 1.0,
    };
    let steps = vec![step(10, 1000.0, 4.0), step(100, 1190.0, 2.9), step(1000, 900.0, 4.1)];
    let grown =
        Grown { messages: 1, payload_bytes: 1, window: 1, threads: 1, resident_before_bytes: 0, steps };
    let table = grown.to_string();
    assert!(table.contains("bytes for each session: level, 1.19 times"), "{table}");
    assert!(table.contains("CPU time for each message: NOT level, 0.78 times"), "{table}");
}
