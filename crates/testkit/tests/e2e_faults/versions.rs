//! A data directory that another version of this software wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_testkit::blocking;
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::process::ProcessError;

use crate::scene::{DRAIN_LIMIT, Duplicates, Scene, Stage};

/// Turns a file of ours into one of the next format.
type MakeNewer = fn(&mut [u8]);

/// There is no older format yet that this version would have to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f33_what_a_newer_version_wrote_is_refused_and_left_alone() {
    let mut scene = Scene::new(Stage::default()).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    // Sessions that last, and messages that wait for Kafka.
    let fleet = Fleet { messages: Some(200), reconnects: true, ..Fleet::default() };
    scene.devices(fleet).finish(DRAIN_LIMIT).await;
    let (broker, data) = (Arc::clone(&scene.broker), scene.broker.lock().dir().join("tidegate-data"));
    blocking(move || {
        let mut broker = broker.lock();
        broker.terminate(Duration::from_secs(30)).unwrap();
        let formats: [(&[u8], MakeNewer, &str); 2] = [
            (b"TGSPILL", make_newer_log, "has format 2, which is newer than this program reads"),
            (b"TIDESTOR", |bytes| bytes[8] = 2, "written by a newer version; this one knows format 1"),
        ];
        for (magic, make_newer, reason) in formats {
            let found = files(&data).into_iter().find(|(_, bytes)| bytes.starts_with(magic));
            let (name, ours) = found.expect("it is on disk");
            let folder = name.parent().unwrap();
            let mut theirs = files(folder);
            make_newer(theirs.get_mut(&name).unwrap());
            fs::write(&name, &theirs[&name]).unwrap();
            let error = broker.restart().expect_err("what could be misread is not read");
            assert!(
                matches!(&error, ProcessError::Ended { status, .. } if status.code() == Some(1)),
                "{error}"
            );
            assert!(error.to_string().contains(reason), "{error}");
            assert!(files(folder) == theirs, "nothing of it was touched");
            fs::write(&name, &ours).unwrap();
        }
    })
    .await;
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    scene.restart_broker().await;
    let nobody = scene.devices(Fleet { devices: 0, ..Fleet::default() });
    scene.end("F33 a log and a store of a newer version, then of this one", nobody, Duplicates::None).await;
}

/// Makes a segment of the spill log one of the next version, whose header is whole.
fn make_newer_log(segment: &mut [u8]) {
    for copy in segment.chunks_exact_mut(32).take(2) {
        copy[7] += 1;
        let crc = crc32c::crc32c(&copy[..24]);
        copy[24..28].copy_from_slice(&crc.to_le_bytes());
    }
}

/// All files below a folder, with what is in them.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}
