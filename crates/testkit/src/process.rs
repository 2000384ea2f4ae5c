//! The broker as its users run it: the `tidegate` binary with a configuration file, on free ports, in its own folder.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use parking_lot::Mutex;

/// How long a start may take before it counts as failed.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a child that should change its state is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Lines of output that an error or a panicking test shows.
const SHOWN_LINES: usize = 60;

/// Why the binary could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// There is no binary at the place where the build puts it.
    #[error("{} is missing: `cargo build -p tidegate` first, or name it in TIDEGATE_BIN", .0.display())]
    NoBinary(PathBuf),
    /// It ended before it was ready.
    #[error("tidegate ended before it was ready ({status}); it printed:\n{output}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it printed.
        output: String,
    },
    /// It neither became ready nor ended, or did not end when it should.
    #[error("tidegate took longer than {limit:?}; it printed:\n{output}")]
    TimedOut {
        /// How long was waited.
        limit: Duration,
        /// The last lines that it printed.
        output: String,
    },
    /// The process could not be started, or its folder not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What to run: filled in, then [`start`](Self::start)ed.
#[derive(Debug)]
pub struct Launch {
    binary: Option<PathBuf>,
    config: String,
    under: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Launch {
    /// Returns a launch whose configuration file has the listeners' addresses and then the given TOML.
    pub fn new(config: impl Into<String>) -> Self {
        Self { binary: None, config: config.into(), under: Vec::new(), args: Vec::new(), env: Vec::new() }
    }

    /// Runs this binary and not the one that lies beside the test, as a test within the binary's own package knows it.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Runs it under another program, which gets the binary and its arguments behind its own and has to become it (`exec`).
    #[must_use]
    pub fn under<A: Into<OsString>>(mut self, program: impl IntoIterator<Item = A>) -> Self {
        self.under = program.into_iter().map(Into::into).collect();
        self
    }

    /// Adds arguments behind `run --config FILE`.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the process and returns when it says that it is ready. Blocks meanwhile.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] when there is no binary, or it ends, or it is not ready within 30 seconds.
    pub fn start(self) -> Result<Tidegate, ProcessError> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let binary = self.binary.unwrap_or_else(built_binary);
        if !binary.is_file() {
            return Err(ProcessError::NoBinary(binary));
        }
        let dir = env::temp_dir().join(format!("tidegate-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let (mqtt, http) = (free_address()?, free_address()?);
        let config =
            format!("[listeners.tcp]\nbind = \"{mqtt}\"\n\n[http]\nbind = \"{http}\"\n\n{}", self.config);
        fs::write(dir.join("tidegate.toml"), config)?;

        let mut tidegate = Tidegate {
            command: self.under.into_iter().chain([binary.into()]).collect(),
            args: self.args,
            env: self.env,
            dir,
            mqtt,
            http,
            child: None,
            output: Arc::default(),
        };
        tidegate.spawn()?;
        Ok(tidegate)
    }
}

/// A running broker. Dropping it ends the process and deletes its folder; after a failed test its output is shown.
#[derive(Debug)]
pub struct Tidegate {
    /// The binary, behind what it runs under.
    command: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    mqtt: SocketAddr,
    http: SocketAddr,
    child: Option<Child>,
    output: Arc<Mutex<Vec<String>>>,
}

impl Tidegate {
    /// The address of the MQTT listener. It stays over restarts.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// The address of the HTTP listener. It stays over restarts.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The folder that it runs in: its configuration is `tidegate.toml`, its data where the defaults put it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The lines that it has printed so far, over all its starts, both streams in the order of arrival.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().clone()
    }

    /// How the process ended, if it did by itself.
    ///
    /// # Errors
    ///
    /// When the kernel does not know the process.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// Resident memory in bytes, while it runs.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it has had since its start, in bytes; while it runs.
    pub fn peak_bytes(&self) -> Option<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, label: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let kilobytes = status.lines().find_map(|line| line.strip_prefix(label))?;
        kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
    }

    /// How many files and sockets it has open, while it runs.
    pub fn open_files(&self) -> Option<usize> {
        fs::read_dir(format!("/proc/{}/fd", self.pid()?)).ok().map(Iterator::count)
    }

    /// CPU time that it has used, in user and in system mode together, in the kernel's ticks of 10 ms; while it runs.
    pub fn cpu_time(&self) -> Option<Duration> {
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields behind it.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().ok());
        Some(TICK * ticks.sum::<Option<u32>>()?)
    }

    /// Changes the configuration file and sends SIGHUP. What comes of it is in the [output](Self::output).
    ///
    /// # Errors
    ///
    /// When the file or the signal does not get there.
    pub fn reload(&mut self, change: impl FnOnce(String) -> String) -> io::Result<()> {
        let file = self.dir.join("tidegate.toml");
        fs::write(&file, change(fs::read_to_string(&file)?))?;
        let pid = self.pid().ok_or(io::ErrorKind::NotFound)?;
        Command::new("kill").args(["-HUP", &pid.to_string()]).status().map(drop)
    }

    /// Ends it with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    ///
    /// When the signal cannot be sent.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Sends SIGTERM and returns how it ended, `None` when it did not run.
    ///
    /// # Errors
    ///
    /// [`ProcessError::TimedOut`] when it is still there after `limit`; it is killed then.
    pub fn terminate(&mut self, limit: Duration) -> Result<Option<ExitStatus>, ProcessError> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                return Err(ProcessError::TimedOut { limit, output: self.last_lines() });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Starts it again in the same folder and on the same ports; kills it first where it still runs.
    ///
    /// # Errors
    ///
    /// As [`Launch::start`].
    pub fn restart(&mut self) -> Result<(), ProcessError> {
        self.kill()?;
        self.spawn()
    }

    /// Sends one `GET` to the HTTP listener and returns the status code and the body.
    ///
    /// # Errors
    ///
    /// When nobody answers within five seconds or the answer is not HTTP.
    pub fn http_get(&self, path: &str) -> io::Result<(u16, String)> {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&self.http, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        io::Write::write_all(&mut stream, request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        status.zip(body).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, answer))
    }

    /// The sum of a metric over all its labels, as `/metrics` shows it; zero where there is none of this name.
    ///
    /// # Errors
    ///
    /// As [`http_get`](Self::http_get).
    pub fn metric(&self, name: &str) -> io::Result<f64> {
        let (_, text) = self.http_get("/metrics")?;
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(['{', ' ']));
        Ok(values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn spawn(&mut self) -> Result<(), ProcessError> {
        let first_line = self.output.lock().len();
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(["run", "--config", "tidegate.toml"])
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let readers = [
            child.stdout.take().map(|stream| self.collect(stream)),
            child.stderr.take().map(|stream| self.collect(stream)),
        ];
        // Held from here on, so that whatever fails below the process ends with this value.
        let child = self.child.insert(child);

        let deadline = Instant::now() + START_TIMEOUT;
        while !self.output.lock()[first_line..].iter().any(|line| line.contains("ready")) {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                // What it printed last says why: wait until it is all here.
                readers.into_iter().flatten().for_each(|reader| drop(reader.join()));
                return Err(ProcessError::Ended { status, output: self.last_lines() });
            }
            if Instant::now() >= deadline {
                return Err(ProcessError::TimedOut { limit: START_TIMEOUT, output: self.last_lines() });
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn collect(&self, stream: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let output = Arc::clone(&self.output);
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                output.lock().push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }

    fn last_lines(&self) -> String {
        let output = self.output.lock();
        output[output.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Tidegate {
    fn drop(&mut self) {
        let _ = self.kill();
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows what the broker said")]
            {
                eprintln!("--- the last lines of tidegate ({}):\n{}", self.dir.display(), self.last_lines());
            }
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn built_binary() -> PathBuf {
    env::var_os("TIDEGATE_BIN").map_or_else(|| built("tidegate"), PathBuf::from)
}

/// Returns where Cargo puts a binary for a test of this workspace: beside the folder of the test's own.
///
/// # Panics
///
/// When the system does not tell the path of the running test.
pub fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of a running test is known");
    test.ancestors().nth(2).unwrap_or(Path::new(".")).join(name)
}

/// Returns an address of 127.0.0.1 on which nobody listens, with a port below those that the kernel gives to outgoing
/// connections: a client that reconnects while the broker is away must not take its port.
///
/// # Errors
///
/// When no port in the range is free.
pub fn free_address() -> io::Result<SocketAddr> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let start = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
    let mut last_error = io::ErrorKind::AddrNotAvailable.into();
    for step in 0..COUNT {
        let port = FIRST + (start as u16 + step) % COUNT;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr()) {
            Ok(address) => return Ok(address),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Starts a shell script in place of the binary.
    fn launch(script: &str) -> Result<Tidegate, ProcessError> {
        static WRITTEN: AtomicU32 = AtomicU32::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tidegate-script-{}-{number}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let result = Launch::new("[extra]\n").binary(&path).args(["--flag"]).env("COLOUR", "red").start();
        fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn a_process_gets_its_configuration_arguments_and_environment() {
        let tidegate =
            launch("cat tidegate.toml; echo \"$@ $COLOUR\"; echo is ready >&2; exec sleep 60").unwrap();
        let deadline = Instant::now() + START_TIMEOUT;
        // The two streams are read by two threads: one may be behind.
        while tidegate.output().len() < 9 && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        let output = tidegate.output();
        assert!(output.contains(&format!("bind = \"{}\"", tidegate.mqtt())), "{output:?}");
        assert!(output.contains(&"[extra]".to_owned()), "{output:?}");
        assert!(output.contains(&"run --config tidegate.toml --flag red".to_owned()), "{output:?}");
        let (now, peak) = (tidegate.resident_bytes().unwrap(), tidegate.peak_bytes().unwrap());
        assert!(0 < now && now <= peak, "{now} of {peak}");
        assert!(tidegate.open_files().is_some_and(|files| files >= 3));
    }

    #[test]
    fn a_process_runs_under_another_program() {
        let tidegate = Launch::new("").binary("/bin/echo").under([
            "/bin/sh",
            "-c",
            "\"$@\"; echo ready; exec sleep 60",
            "x",
        ]);
        let tidegate = tidegate.start().unwrap();
        assert_eq!(tidegate.output()[0], "run --config tidegate.toml");
    }

    #[test]
    fn a_process_that_ends_before_it_is_ready_is_an_error_with_its_output() {
        let error = launch("echo the reason; exit 3").unwrap_err();
        assert!(matches!(&error, ProcessError::Ended { status, .. } if status.code() == Some(3)), "{error}");
        assert!(error.to_string().contains("the reason"), "{error}");
    }

    #[test]
    fn termination_returns_the_exit_status_and_has_a_limit() {
        let mut orderly = launch("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done").unwrap();
        let status = orderly.terminate(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(orderly.terminate(Duration::ZERO).unwrap().is_none(), "it does not run any more");

        let mut stubborn = launch("trap '' TERM; echo ready; while :; do sleep 0.05; done").unwrap();
        let error = stubborn.terminate(Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn the_folder_outlives_a_kill_and_goes_with_the_value() {
        let mut tidegate = launch("touch made; echo ready; exec sleep 60").unwrap();
        let dir = tidegate.dir().to_owned();
        tidegate.kill().unwrap();
        assert!(dir.join("made").exists());
        assert_eq!(tidegate.pid(), None);
        drop(tidegate);
        assert!(!dir.exists());
    }

    #[test]
    fn a_free_address_can_be_listened_on() {
        assert!(TcpListener::bind(free_address().unwrap()).is_ok());
    }
}
