//! Starts what a reference run measures, where it is asked to, and ends it again.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use thiserror::Error;

/// Partitions of the topic, where this creates it.
const PARTITIONS: u16 = 16;
/// How long the broker may take until it accepts connections.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the broker may take to end after SIGTERM; then it is killed.
const END_WITHIN: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);

/// Why a server did not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("{} did not start a Kafka: {output}", script.display())]
    Kafka { script: PathBuf, output: String },
    #[error("the broker ended before it was ready ({status}): {output}")]
    Ended { status: std::process::ExitStatus, output: String },
    #[error("the broker does not listen on {address} after {READY_WITHIN:?}: {output}")]
    NotReady { address: SocketAddr, output: String },
    #[error("somebody listens on {0} already: --start needs a free --target")]
    Taken(SocketAddr),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A folder of a run's own; it goes with it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-reference-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A Kafka that `scripts/kafka` started; it ends, and its data goes, with this.
#[derive(Debug)]
pub(crate) struct Kafka {
    script: PathBuf,
    folder: PathBuf,
    pub(crate) bootstrap: String,
    pub(crate) pid: u32,
}

impl Kafka {
    pub(crate) fn start(script: &Path, folder: &Path) -> Result<Self, StartError> {
        let folder = folder.join("kafka");
        let output = Command::new(script)
            .arg("start")
            .arg("--dir")
            .arg(&folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| StartError::Run { program: script.to_owned(), source })?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let field = |name: &str| stdout.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        match (field("bootstrap="), field("pid=").and_then(|pid| pid.parse().ok())) {
            (Some(bootstrap), Some(pid)) if output.status.success() => {
                Ok(Self { script: script.to_owned(), folder, bootstrap, pid })
            }
            _ => {
                let output = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
                Err(StartError::Kafka { script: script.to_owned(), output })
            }
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = Command::new(&self.script)
            .arg("remove")
            .arg("--dir")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
    }
}

/// A Tidegate that carries `reference/#` into a topic of Kafka; it ends with this.
#[derive(Debug)]
pub(crate) struct Broker(Child);

impl Broker {
    /// Starts it in that folder, which this creates.
    pub(crate) fn start(
        binary: &Path,
        folder: &Path,
        address: SocketAddr,
        bootstrap: &[String],
        topic: &str,
    ) -> Result<Self, StartError> {
        if TcpStream::connect(address).is_ok() {
            return Err(StartError::Taken(address));
        }
        fs::create_dir_all(folder)?;
        // It runs in the folder: a path that is given in relation to ours would not be found there.
        let binary =
            if binary.components().count() > 1 { fs::canonicalize(binary) } else { Ok(binary.into()) };
        let binary = binary.map_err(|source| StartError::Run { program: folder.to_owned(), source })?;
        // Taken and given back at once: the broker takes it a moment later.
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        fs::write(folder.join("tidegate.toml"), configuration(address, http, bootstrap, topic))?;
        let log = folder.join("tidegate.log");
        let file = File::create(&log)?;
        let child = Command::new(&binary)
            .args(["run", "--config", "tidegate.toml"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|source| StartError::Run { program: binary, source })?;
        // From here on its end is ours, whatever happens.
        let mut broker = Self(child);
        let deadline = Instant::now() + READY_WITHIN;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = broker.0.try_wait()? {
                return Err(StartError::Ended { status, output: said() });
            }
            if Instant::now() >= deadline {
                return Err(StartError::NotReady { address, output: said() });
            }
            std::thread::sleep(STEP);
        }
        Ok(broker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let deadline = Instant::now() + END_WITHIN;
        while asked.is_ok() && Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(STEP);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configuration(address: SocketAddr, http: SocketAddr, bootstrap: &[String], topic: &str) -> String {
    // A string of JSON is a string of TOML.
    let (bootstrap, topic) = (Value::from(bootstrap.to_vec()), Value::from(topic));
    format!(
        r#"[listeners.tcp]
bind = "{address}"

[http]
bind = "{http}"

[kafka.reference]
bootstrap = {bootstrap}
create_topics_with_partitions = {PARTITIONS}

[[rules]]
id = "reference"
sql = 'SELECT * FROM "reference/#"'

[[rules.outputs]]
kafka = "reference"
topic = {topic}
"#
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn servers_that_do_not_start_say_why_and_leave_nothing_behind() {
        let folder = Folder::new().unwrap();
        let kafka = script(folder.path(), "kafka", "echo no Java here >&2; exit 1");
        let error = Kafka::start(&kafka, folder.path()).unwrap_err();
        assert!(error.to_string().contains("no Java here"), "{error}");

        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bootstrap = ["127.0.0.1:9092".to_owned()];
        let broker = script(folder.path(), "tidegate", "echo \"wrong key\"; exit 2");
        let error = Broker::start(&broker, folder.path(), free, &bootstrap, "t").unwrap_err();
        assert!(matches!(&error, StartError::Ended { output, .. } if output == "wrong key\n"), "{error}");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let error = Broker::start(&broker, folder.path(), taken, &bootstrap, "t").unwrap_err();
        assert!(matches!(error, StartError::Taken(address) if address == taken));
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_topic_stays_within_its_quotes() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1883));
        let text = configuration(address, address, &["k:9092".to_owned()], "a\"\n[http]");
        assert!(
            text.contains(r#"topic = "a\"\n[http]""#) && text.contains(r#"bootstrap = ["k:9092"]"#),
            "{text}"
        );
    }
}
