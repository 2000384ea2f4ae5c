//! SIGKILL of a real process over a real directory: whatever it said to be committed is there.

use std::fs;
use std::future::{Future, poll_fn};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;

use tidegate_codec::{PacketId, QoS};
use tidegate_session::{Change, Delivery, Expiry, Identifiers, Message};
use tidegate_store::{Journal, Options, Store, Waiting};

const DIRECTORY: &str = "TIDEGATE_STORE_SIGKILL_DIRECTORY";
const KILLS: usize = 6;
/// Identifiers of QoS 2 messages that one session may have received.
const IDENTIFIERS: u16 = 100;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn options(directory: PathBuf) -> Options {
    let mut options = Options::new(directory);
    // So that files are begun and removed all the time.
    options.segment_bytes = 20_000;
    options
}

/// The process that is killed: queues messages and receives QoS 2 identifiers, and says the number of each step when it
/// is committed. Run as a test of its own it has nothing to do.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let (store, recovered) = Journal::open(options(directory.into())).unwrap();
    assert!(!recovered.repair.is_loss(), "{:?}", recovered.repair);
    let (key, mut step) = if let Some((key, session)) = recovered.sessions.into_iter().next() {
        (key, last_step(&session))
    } else {
        let key = store.new_session();
        let connected = Change::Connected { expiry: Expiry::Never, will: None };
        store.append(key, &mut vec![Change::Began { client_id: "pump-7".into() }, connected]);
        (key, 0)
    };
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        step += 1;
        let mut payload = step.to_be_bytes().to_vec();
        payload.resize(500, 0);
        let message = Arc::new(Message::new("plant/7", &payload, QoS::ExactlyOnce, false));
        let delivery = Delivery {
            message,
            qos: QoS::ExactlyOnce,
            retain: false,
            subscription_identifiers: Identifiers::None,
        };
        let packet_id = |step: u64| PacketId::new((step % u64::from(IDENTIFIERS)) as u16 + 1).unwrap();
        // One message waits at a time, and one identifier is known.
        let mut changes = vec![
            Change::Completed { packet_id: packet_id(step - 1) },
            Change::Sent { number: None, packet_id: packet_id(step), delivery },
            Change::Forgotten { packet_id: packet_id(step - 1) },
            Change::Received { packet_id: packet_id(step) },
        ];
        let commit = store.append(key, &mut changes);
        let mut waiting = Waiting::default();
        let mut committed = pin!(poll_fn(|cx| store.poll_committed(commit, &mut waiting, cx)));
        while committed.as_mut().poll(&mut cx).is_pending() {
            std::thread::park();
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "\ncommitted {step}").unwrap();
        out.flush().unwrap();
    }
}

fn last_step(session: &tidegate_session::StoredSession) -> u64 {
    let Some(last) = session.in_flight.last() else { return 0 };
    let delivery = last.delivery.as_ref().expect("none was released");
    let number = delivery.message.payload().first_chunk().expect("it begins with a number");
    u64::from_be_bytes(*number)
}

#[test]
fn fault_85_what_a_killed_process_said_to_be_committed_is_there() {
    let directory = std::env::temp_dir().join(format!("tidegate-sigkill-{}", std::process::id()));
    let mut promised = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // After 60, 120 and so on steps, and however far it gets until the signal is there.
        let enough = promised + 60 * (kill as u64 + 1);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(step) = line.unwrap().strip_prefix("committed ") {
                promised = step.parse().unwrap();
                if promised == enough {
                    child.kill().unwrap();
                }
            }
        }
        assert!(promised >= enough, "the child ended by itself after {promised}");
        child.wait().unwrap();

        let (store, recovered) = Journal::open(options(directory.clone())).unwrap();
        assert!(!recovered.repair.is_loss(), "{:?}", recovered.repair);
        let [(_, session)] = &recovered.sessions[..] else { panic!("{recovered:?}") };
        let found = last_step(session);
        assert!(found == promised || found == promised + 1, "promised {promised}, found {found}");
        let identifier = PacketId::new((found % u64::from(IDENTIFIERS)) as u16 + 1).unwrap();
        assert_eq!((session.in_flight.len(), &session.received[..]), (1, &[identifier][..]));
        drop(store);
    }
    assert!(fs::read_dir(&directory).unwrap().count() < 20, "old files are removed");
    fs::remove_dir_all(directory).unwrap();
}
