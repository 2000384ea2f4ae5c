//! What processes cost: CPU time and resident memory, from `/proc`.

use std::path::Path;
use std::time::Duration;

use thiserror::Error;

/// The unit of CPU times in `/proc/<pid>/stat`: USER_HZ, which is 100 on every Linux that this runs on (the kernel
/// scales whatever it counts in to it).
const TICKS_PER_SECOND: u64 = 100;

/// A process that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What the user calls it; `None` leaves it the name that it has.
    pub(crate) name: Option<String>,
    pub(crate) pid: u32,
}

impl Target {
    /// Reads `123` or `broker=123`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, pid) = match text.split_once('=') {
            Some((name, pid)) if !name.is_empty() => (Some(name.to_owned()), pid),
            _ => (None, text),
        };
        let pid = pid.parse().map_err(|_| format!("{text:?} is not a process id, nor NAME=ID"))?;
        Ok(Self { name, pid })
    }
}

/// What a process has used until now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// The name of its executable, cut off at 15 bytes by the kernel.
    pub(crate) name: String,
    /// CPU time in user mode, of all its threads, in steps of 10 ms.
    pub(crate) user: Duration,
    /// CPU time in the kernel, of all its threads, in steps of 10 ms.
    pub(crate) system: Duration,
    /// Resident memory in bytes, without the kernel's own (socket buffers).
    pub(crate) resident: u64,
    /// The highest resident memory so far, in bytes.
    pub(crate) peak: u64,
}

/// Processes that are measured as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) pids: Vec<u32>,
}

impl Group {
    /// Returns the groups of these processes, in their order: those that were given one name are one, the others are
    /// alone.
    pub(crate) fn gather(targets: &[Target]) -> Result<Vec<Self>, UsageError> {
        let mut groups: Vec<Self> = Vec::with_capacity(targets.len());
        for Target { name, pid } in targets {
            let own = usage(*pid)?.name;
            match groups.iter_mut().find(|group| name.as_ref() == Some(&group.name)) {
                Some(group) => group.pids.push(*pid),
                None => groups.push(Self { name: name.clone().unwrap_or(own), pids: vec![*pid] }),
            }
        }
        Ok(groups)
    }

    /// Returns what they have used until now, together; `None` where one of them is gone. The name is that of the group.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let mut sum = Usage { name: self.name.clone(), ..Usage::default() };
        for pid in &self.pids {
            let own = usage(*pid).ok()?;
            sum.user += own.user;
            sum.system += own.system;
            sum.resident += own.resident;
            sum.peak += own.peak;
        }
        Some(sum)
    }
}

/// Why a process can't be measured.
#[derive(Debug, Error)]
pub(crate) enum UsageError {
    #[error("cannot read {path} (is process {pid} running, and is this Linux?): {source}")]
    Read { pid: u32, path: String, source: std::io::Error },
    #[error("{path} has no {field}")]
    Missing { path: String, field: &'static str },
}

/// Returns what the process has used until now.
pub(crate) fn usage(pid: u32) -> Result<Usage, UsageError> {
    let read = |file: &str| {
        let path = Path::new("/proc").join(pid.to_string()).join(file);
        std::fs::read_to_string(&path).map_err(|source| UsageError::Read {
            pid,
            path: path.display().to_string(),
            source,
        })
    };
    parse(&read("stat")?, &read("status")?)
        .map_err(|field| UsageError::Missing { path: format!("/proc/{pid}"), field })
}

/// Returns the CPU time that threads of this process have used whose names begin with `prefix`; memory has no threads.
#[cfg(feature = "in-process")]
pub(crate) fn threads(prefix: &str) -> Result<Usage, UsageError> {
    let pid = std::process::id();
    let folder = "/proc/self/task";
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| UsageError::Read { pid, path, source }
    };
    let mut sum = Usage { name: prefix.to_owned(), ..Usage::default() };
    for thread in std::fs::read_dir(folder).map_err(failed(Path::new(folder)))? {
        let path = thread.map_err(failed(Path::new(folder)))?.path().join("stat");
        let stat = match std::fs::read_to_string(&path) {
            // It ended after it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(failed(&path))?,
        };
        let (name, user, system) = parse_stat(&stat)
            .map_err(|field| UsageError::Missing { path: path.display().to_string(), field })?;
        if name.starts_with(prefix) {
            sum.user += user;
            sum.system += system;
        }
    }
    Ok(sum)
}

/// Reads both texts, or names the field that isn't there.
fn parse(stat: &str, status: &str) -> Result<Usage, &'static str> {
    let (name, user, system) = parse_stat(stat)?;
    // A kernel thread has no memory of its own, and no such lines.
    let resident = kibibytes(status, "VmRSS:").ok_or("VmRSS")?;
    let peak = kibibytes(status, "VmHWM:").ok_or("VmHWM")?;
    Ok(Usage { name: name.to_owned(), user, system, resident, peak })
}

/// Returns the name and the CPU times, or names the field that isn't there.
fn parse_stat(stat: &str) -> Result<(&str, Duration, Duration), &'static str> {
    // The name stands in parentheses and may hold spaces and parentheses of its own: only the last one ends it.
    let (before, fields) = stat.rsplit_once(')').ok_or("name")?;
    let (_, name) = before.split_once('(').ok_or("name")?;
    // proc(5) counts utime as field 14 and stime as 15; what is left here begins with field 3.
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = |field| -> Result<Duration, &'static str> {
        let ticks: u64 = fields.next().and_then(|text| text.parse().ok()).ok_or(field)?;
        Ok(Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND)))
    };
    Ok((name, ticks("utime")?, ticks("stime")?))
}

/// Returns the bytes that the line of `status` with that label gives in kB (which are KiB).
fn kibibytes(status: &str, label: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(label))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Captured from a broker under load (Linux 6.18), its name changed to the worst that prctl allows.
    const STAT: &str = "4711 (mq) broker (x) S 1 4711 4711 0 -1 4194560 9021 0 3 0 1234 5678 7 8 20 0 4 0 188343 \
        3133440 383 18446744073709551615 94778457968640 94778457988521 140730366313696 0 0 0 0 4096 17642 0 0 0 17 1 0 \
        0 0 0 0 94778458004528 94778458006144 94779081527296 140730366319282 140730366319320 140730366319320 \
        140730366320619 0\n";
    const STATUS: &str = "Name:\tmq) broker (x\nUmask:\t0022\nState:\tS (sleeping)\nVmPeak:\t    3060 kB\n\
        VmHWM:\t    1712 kB\nVmRSS:\t    1700 kB\nRssAnon:\t     116 kB\nThreads:\t4\n";

    #[test]
    fn cpu_and_memory_are_read_past_a_name_with_parentheses() {
        let usage = parse(STAT, STATUS).unwrap();
        let expected = Usage {
            name: "mq) broker (x".to_owned(),
            user: Duration::from_millis(12_340),
            system: Duration::from_millis(56_780),
            resident: 1700 * 1024,
            peak: 1712 * 1024,
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn a_text_without_its_field_is_named_and_not_zero() {
        assert_eq!(parse("4711 (x) S 1 2", STATUS), Err("utime"));
        assert_eq!(parse("4711", STATUS), Err("name"));
        assert_eq!(parse(STAT, "VmHWM:\t 1 kB\n"), Err("VmRSS"));
        assert_eq!(parse(STAT, "VmRSS:\t many kB\nVmHWM:\t 1 kB\n"), Err("VmRSS"));
    }

    #[test]
    fn a_process_may_be_given_a_name() {
        assert_eq!(Target::parse("17"), Ok(Target { name: None, pid: 17 }));
        assert_eq!(Target::parse("kafka=17"), Ok(Target { name: Some("kafka".to_owned()), pid: 17 }));
        for wrong in ["", "=17", "kafka=", "kafka", "-1"] {
            assert!(Target::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[cfg(feature = "in-process")]
    #[test]
    fn threads_are_told_apart_by_their_names() {
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let busy = std::sync::Arc::clone(&seen);
        let work = move || while !busy.load(std::sync::atomic::Ordering::Relaxed) {};
        let thread = std::thread::Builder::new().name("busy-1".to_owned()).spawn(work).unwrap();
        let cpu = |usage: Usage| usage.user + usage.system;
        while cpu(threads("busy").unwrap()) == Duration::ZERO {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(cpu(threads("nobody").unwrap()), Duration::ZERO);
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn processes_with_one_name_are_measured_as_one() {
        let own = std::process::id();
        let targets = ["a", "b", "a"].map(|name| Target { name: Some(name.to_owned()), pid: own });
        let groups = Group::gather(&[&targets[..], &[Target { name: None, pid: own }]].concat()).unwrap();
        let sizes: Vec<usize> = groups.iter().map(|group| group.pids.len()).collect();
        assert_eq!(sizes, [2, 1, 1]);
        // A peak only grows, whatever other tests do meanwhile.
        let (one, two) = (groups[1].usage().unwrap(), groups[0].usage().unwrap());
        assert!(two.peak >= 2 * one.peak, "{two:?} {one:?}");
        assert_eq!((&two.name[..], groups[2].name.is_empty()), ("a", false));
        assert_eq!(Group { name: String::new(), pids: vec![own, u32::MAX] }.usage(), None);
        assert!(Group::gather(&[Target { name: None, pid: u32::MAX }]).is_err());
    }

    #[test]
    fn this_process_can_be_measured() {
        let before = usage(std::process::id()).unwrap();
        assert!(before.resident > 0 && before.peak >= before.resident / 2);
        assert!(usage(u32::MAX).is_err());
    }
}
