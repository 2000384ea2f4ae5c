//! The disk under the spill log: full, used up, or failing.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tidegate_testkit::devices::Fleet;
use tokio::time::sleep;

use crate::scene::{Duplicates, Keys, Scene, Stage};

/// A stage whose spill log has these keys.
fn spilling(spill: &str) -> Stage {
    let stage = Stage::default();
    Stage { config: Keys { spill: spill.to_owned(), ..stage.config }, ..stage }
}

impl Scene {
    /// Kafka goes away, and the disk takes no more at some time: then nothing is acknowledged any more.
    async fn fill(&self) {
        self.kafka(|kafka| kafka.kill().unwrap()).await;
        self.until("the disk takes no more", Duration::from_mins(1), |scene| {
            scene.metric("tidegate_sink_spill_failing") > 0.0
        })
        .await;
        sleep(Duration::from_secs(5)).await;
        let more = self.acknowledged_in(Duration::from_secs(3)).await;
        assert_eq!(more, 0, "nothing is acknowledged that is on no disk");
        let (ready, why) = self.broker.lock().http_get("/readyz").unwrap();
        assert_eq!(ready, 503, "{why}");
        self.check_the_law("a full disk");
        self.kafka(|kafka| kafka.restart().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_quota_reached() {
    let mut scene = Scene::new(spilling("quota = \"4 MiB\"")).await;
    let devices = scene.devices(Fleet { interval: Duration::from_millis(10), ..Fleet::default() });
    sleep(Duration::from_secs(3)).await;
    scene.fill().await;
    scene.end("F10 quota of 4 MiB reached", devices, Duplicates::None).await;
}

/// A file system of 64 MiB in a file, which needs root and a loop device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_disk_full() {
    let Some(volume) = Volume::mount() else {
        eprintln!("not run: F9, there is no loop device here");
        return;
    };
    let mut scene = Scene::new(spilling(&format!("directory = \"{}/spill\"", volume.path))).await;
    let devices = scene.devices(Fleet { interval: Duration::from_millis(5), ..Fleet::default() });
    sleep(Duration::from_secs(3)).await;
    scene.fill().await;
    scene.end("F9 disk full (64 MiB ext4)", devices, Duplicates::None).await;
}

/// The broker's system calls are made to fail by strace, which needs the right to trace it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_syncs_and_writes_fail() {
    let mut stage = spilling("");
    // Sessions have a disk of their own promises: here it is the log's that fails.
    "[store]\nenabled = false\n".clone_into(&mut stage.config.sections);
    let mut scene = Scene::new(stage).await;
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    scene.kafka(|kafka| kafka.kill().unwrap()).await;
    sleep(Duration::from_secs(2)).await;
    let pid = scene.broker.lock().pid().unwrap();
    let Some(strace) =
        Strace::fail(pid, &["fdatasync:error=EIO:when=5..200+25", "pwrite64:error=EIO:when=40..400+60"])
    else {
        eprintln!("not run: F13, strace can't trace here");
        return;
    };
    scene
        .until("a sync has failed", Duration::from_secs(30), |scene| {
            let failed = |line: &String| line.contains("Input/output error");
            scene.broker.lock().output().iter().any(failed)
        })
        .await;
    sleep(Duration::from_secs(8)).await;
    let injected = strace.end();
    assert!(injected > 0);
    let acknowledged = scene.acknowledged_in(Duration::from_secs(5)).await;
    assert!(acknowledged > 1000, "{acknowledged}: it goes on in other files");
    scene.kafka(|kafka| kafka.restart().unwrap()).await;
    let fault = format!("F13 {injected} syncs and writes fail (EIO)");
    scene.end(&fault, devices, Duplicates::None).await;
}

/// Makes system calls of a process fail for as long as it lives.
struct Strace {
    child: Child,
    log: std::path::PathBuf,
}

impl Strace {
    fn fail(pid: u32, injections: &[&str]) -> Option<Self> {
        let log = std::env::temp_dir().join(format!("tidegate-strace-{pid}"));
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-e", "trace=fdatasync,pwrite64", "-p", &pid.to_string(), "-o"]).arg(&log);
        for injection in injections {
            strace.args(["-e", &format!("inject={injection}")]);
        }
        let child = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let mut strace = Self { child, log };
        std::thread::sleep(Duration::from_secs(1));
        strace.child.try_wait().unwrap().is_none().then_some(strace)
    }

    /// Lets the process go. Returns how many calls failed.
    fn end(mut self) -> usize {
        // At a SIGTERM it detaches; the process goes on.
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
        std::fs::read_to_string(&self.log).unwrap().matches("(INJECTED)").count()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

/// A small file system of its own; unmounted when dropped.
struct Volume {
    path: String,
    image: String,
}

impl Volume {
    fn mount() -> Option<Self> {
        let base = std::env::temp_dir().join(format!("tidegate-volume-{}", std::process::id()));
        let (path, image) = (base.display().to_string(), format!("{}.img", base.display()));
        std::fs::create_dir_all(&path).ok()?;
        let volume = Self { path, image };
        let run = |program: &str, args: &[&str]| {
            Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
        };
        let ready = run("truncate", &["-s", "64M", &volume.image])
            && run("mkfs.ext4", &["-q", "-F", &volume.image])
            && run("mount", &["-o", "loop", &volume.image, &volume.path]);
        ready.then_some(volume)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The broker is gone by now, as far as the test got; nobody can be told otherwise.
        let _ = Command::new("umount").arg(&self.path).output();
        let _ = std::fs::remove_file(&self.image);
        let _ = std::fs::remove_dir(&self.path);
    }
}
