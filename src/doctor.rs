//! What the machine must offer, and what it had better: looked at when the server starts, and in
//! full by `ringpost doctor`. One line for each thing that is missing, with the command that fixes
//! it.
//!
//! It changes nothing: the command is for the operator to run.

mod sysctl;

use std::fmt;
use std::fs;
use std::io;

use serde_json::json;

use crate::bounds::DESCRIPTORS_RESERVED;

/// The ring's set-up flags that the shards use are in Linux from here on (`SINGLE_ISSUER`, 6.0);
/// the first long-term kernel with them is 6.1.
const KERNEL_WANTED: (u32, u32) = (6, 1);
const KERNEL_NEEDED: (u32, u32) = (6, 0);
/// A shard's ring of 4,096 entries, rounded up. Kernels before 5.12 and recent ones (6.18 does)
/// charge it as locked memory to the user, for all of the user's processes together.
const MEMLOCK_PER_SHARD: u64 = 512 << 10;
/// Whoever has CAP_IPC_LOCK is not charged (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;
/// 512 are reserved for the store and the listeners; as many again would be hardly a server.
const FILES_NEEDED: u64 = 1024;
/// One for each connection. What systemd gives services as their hard limit.
const FILES_WANTED: u64 = 524_288;

/// More sockets than a Linux process can have (fs.nr_open ends at 2^30).
pub const CONNECTIONS_MAX: u64 = 1 << 30;
/// What the process has of an idle connection, and the kernel (socket, inode, file).
const CONNECTION_BYTES: u64 = (2 + 5) << 10;
/// What everything else needs: memtables, caches, pools, the system itself.
const BASE_BYTES: u64 = 1 << 30;
/// Descriptors of other processes.
const FILES_OF_OTHERS: u64 = 8_192;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it is.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// What there is.
    pub found: String,
    /// What there should be.
    pub wanted: String,
    /// The command that makes it so; empty when nothing is missing.
    pub fix: String,
}

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// As wanted.
    Good,
    /// The server works, but not as well or not as much as it could.
    Advice,
    /// The server cannot work.
    Fatal,
}

impl Verdict {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Advice => "advice",
            Verdict::Fatal => "fatal",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.found)?;
        if self.verdict != Verdict::Good {
            write!(f, "; wanted: {}; to fix it: {}", self.wanted, self.fix)?;
        }
        Ok(())
    }
}

/// Looks at everything that a server with so many shards needs before it starts.
pub fn start_up(shards: u16) -> Vec<Finding> {
    // Without these files there is no /proc, and then nothing is known: that is a finding too.
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let limits = read("/proc/self/limits");
    let locks_freely = has_capability(&read("/proc/self/status"), CAP_IPC_LOCK);
    let locked =
        if locks_freely { Some(u64::MAX) } else { hard_limit(&limits, "Max locked memory") };
    vec![
        kernel(release.trim()),
        io_uring(probe_io_uring()),
        files(hard_limit(&limits, "Max open files")),
        memlock(locked, shards),
    ]
}

/// Looks at everything: what [`start_up`] does, the kernel's settings, and whether there is room
/// for so many connections.
pub fn examine(shards: u16, connections: Option<u64>) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let mut findings = start_up(shards);
    findings.extend(sysctl::examine(&read));
    if let Some(connections) = connections {
        findings.extend(room(connections, &read));
    }
    findings
}

/// The findings as they are printed: a line each, or JSON.
pub fn report(findings: &[Finding], as_json: bool) -> String {
    if !as_json {
        let line = |finding: &Finding| format!("{:<6}  {finding}\n", finding.verdict.word());
        return findings.iter().map(line).collect();
    }
    let object = |finding: &Finding| {
        json!({
            "what": finding.what,
            "verdict": finding.verdict.word(),
            "found": finding.found,
            "wanted": finding.wanted,
            "fix": (finding.verdict != Verdict::Good).then_some(&finding.fix),
        })
    };
    let fit = findings.iter().all(|finding| finding.verdict != Verdict::Fatal);
    let findings: Vec<_> = findings.iter().map(object).collect();
    format!("{:#}\n", json!({"ok": fit, "findings": findings}))
}

/// Whether there is room for so many connections.
fn room(connections: u64, read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let number = |path: &str| read(path)?.split_whitespace().next()?.parse::<u64>().ok();
    let limits = read("/proc/self/limits").unwrap_or_default();
    let files = connections + DESCRIPTORS_RESERVED;
    let least = |what: &str, found: Option<u64>, wanted: u64, fix: &str| {
        let verdict = match found {
            Some(found) if found >= wanted => Verdict::Good,
            Some(_) => Verdict::Fatal,
            None => Verdict::Advice,
        };
        let found = match found {
            Some(u64::MAX) => "unlimited".to_owned(),
            Some(found) => found.to_string(),
            None => "unknown: /proc does not say".to_owned(),
        };
        finding(what, verdict, found, format!("at least {wanted}"), fix)
    };
    let memory = read("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let mut findings = vec![
        least(
            &format!("open files for {connections} connections"),
            hard_limit(&limits, "Max open files"),
            files,
            &format!("ulimit -Hn {files}, or LimitNOFILE={files} in the unit (tuning/)"),
        ),
        least(
            "fs.nr_open",
            number("/proc/sys/fs/nr_open"),
            files,
            &format!("sysctl -w fs.nr_open={files}"),
        ),
        least(
            "fs.file-max",
            number("/proc/sys/fs/file-max"),
            files + FILES_OF_OTHERS,
            &format!("sysctl -w fs.file-max={}", files + FILES_OF_OTHERS),
        ),
        least(
            "memory in bytes",
            memory.map(|kib| kib << 10),
            BASE_BYTES + connections * CONNECTION_BYTES,
            "a machine with more of it",
        ),
    ];
    // Only where connections are tracked.
    let tracked = "/proc/sys/net/netfilter/nf_conntrack_max";
    if let Some(found) = number(tracked) {
        let fix = format!("sysctl -w net.netfilter.nf_conntrack_max={}", 2 * connections);
        findings.push(least("net.netfilter.nf_conntrack_max", Some(found), 2 * connections, &fix));
    }
    findings
}

fn kernel(release: &str) -> Finding {
    let version = kernel_version(release);
    let verdict = match version {
        Some(version) if version >= KERNEL_WANTED => Verdict::Good,
        Some(version) if version >= KERNEL_NEEDED => Verdict::Advice,
        Some(_) => Verdict::Fatal,
        // The probe of io_uring decides.
        None => Verdict::Advice,
    };
    let found = if release.is_empty() { "unknown: /proc is not readable" } else { release };
    finding(
        "kernel",
        verdict,
        found.to_owned(),
        "Linux 6.1 or later".to_owned(),
        "apt-get install -y linux-image-amd64 (Debian 12 and later) && reboot",
    )
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes a small ring with the flags that the shards use, and drops it.
fn probe_io_uring() -> io::Result<()> {
    use io_uring::{IoUring, cqueue, squeue};
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    builder.setup_single_issuer().setup_coop_taskrun();
    builder.build(8).map(drop)
}

fn io_uring(probed: io::Result<()>) -> Finding {
    let error = match probed {
        Ok(()) => {
            let (found, wanted) = ("usable".to_owned(), "usable".to_owned());
            return finding("io_uring", Verdict::Good, found, wanted, "");
        }
        Err(error) => error,
    };
    let fix = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "sysctl -w kernel.io_uring_disabled=0; in a container also allow io_uring_setup, \
             io_uring_enter and io_uring_register (docker run --security-opt seccomp=unconfined)"
        }
        Some(libc::ENOSYS) => "install a kernel with CONFIG_IO_URING=y, or leave the sandbox",
        Some(libc::EINVAL) => "install Linux 6.1 or later",
        Some(libc::ENOMEM) => "ulimit -Hl unlimited, or LimitMEMLOCK=64M in the unit (tuning/)",
        Some(libc::EMFILE | libc::ENFILE) => "ulimit -n 524288",
        _ => "see man io_uring_setup for this error",
    };
    finding("io_uring", Verdict::Fatal, format!("refused: {error}"), "usable".to_owned(), fix)
}

fn files(limit: Option<u64>) -> Finding {
    let verdict = match limit {
        Some(limit) if limit < FILES_NEEDED => Verdict::Fatal,
        Some(limit) if limit < FILES_WANTED => Verdict::Advice,
        Some(_) => Verdict::Good,
        None => Verdict::Advice,
    };
    finding(
        "open files",
        verdict,
        shown(limit),
        format!("{FILES_WANTED}, one for each connection and 512 for the store"),
        "ulimit -Hn 524288, or LimitNOFILE=524288 in the unit (tuning/)",
    )
}

fn memlock(limit: Option<u64>, shards: u16) -> Finding {
    let wanted = u64::from(shards) * MEMLOCK_PER_SHARD;
    let enough = limit.is_some_and(|limit| limit >= wanted);
    finding(
        "locked memory",
        // Not every kernel charges the rings to it; one that does refuses them, and that is fatal.
        if enough { Verdict::Good } else { Verdict::Advice },
        shown(limit),
        format!("{wanted} bytes for the rings of {shards} shards"),
        &format!("ulimit -Hl {}, or LimitMEMLOCK=64M in the unit (tuning/)", wanted >> 10),
    )
}

/// Whether the process has this capability, by its number, as `/proc/self/status` tells.
fn has_capability(status: &str, number: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 == 1)
}

/// The hard limit of this line of `/proc/self/limits`; `u64::MAX` when there is none.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn shown(limit: Option<u64>) -> String {
    match limit {
        Some(u64::MAX) => "unlimited".to_owned(),
        Some(limit) => format!("{limit} allowed"),
        None => "unknown: /proc/self/limits is not readable".to_owned(),
    }
}

fn finding(what: &str, verdict: Verdict, found: String, wanted: String, fix: &str) -> Finding {
    let fix = if verdict == Verdict::Good { String::new() } else { fix.to_owned() };
    Finding { what: what.to_owned(), verdict, found, wanted, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, verdict) in [
            ("6.18.44-fc-v657", Verdict::Good),
            ("6.1.0-18-amd64", Verdict::Good),
            ("10.0", Verdict::Good),
            ("6.0.19", Verdict::Advice),
            ("5.15.0-91-generic", Verdict::Fatal),
            ("4.19", Verdict::Fatal),
            ("", Verdict::Advice),
            ("next", Verdict::Advice),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release:?}");
        }
    }

    #[test]
    fn limits_are_read_from_their_lines() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 20000                files     \n\
                      Max locked memory         8388608              unlimited            bytes     \n";
        assert_eq!(hard_limit(limits, "Max open files"), Some(20_000));
        assert_eq!(hard_limit(limits, "Max locked memory"), Some(u64::MAX));
        assert_eq!(hard_limit(limits, "Max stack size"), None);
        assert_eq!(hard_limit("", "Max open files"), None);
        assert_eq!(files(Some(20_000)).verdict, Verdict::Advice);
        assert_eq!(files(Some(1023)).verdict, Verdict::Fatal);
        assert_eq!(files(Some(u64::MAX)).verdict, Verdict::Good);
        let locked = memlock(Some(1 << 20), 3);
        assert_eq!(locked.verdict, Verdict::Advice);
        assert!(
            locked
                .to_string()
                .ends_with("ulimit -Hl 1536, or LimitMEMLOCK=64M in the unit (tuning/)")
        );
        assert_eq!(memlock(Some(1 << 20), 2).verdict, Verdict::Good);
        assert_eq!(memlock(None, 1).verdict, Verdict::Advice);
        assert!(has_capability("Name:\tx\nCapEff:\t0000000000004000\n", CAP_IPC_LOCK));
        assert!(!has_capability("CapEff:\t000001ffffffbfff\n", CAP_IPC_LOCK));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }

    #[test]
    fn a_refused_ring_is_fatal_and_says_what_to_do() {
        for (error, words) in [
            (libc::EPERM, "kernel.io_uring_disabled=0"),
            (libc::ENOSYS, "CONFIG_IO_URING"),
            (libc::EINVAL, "6.1"),
            (libc::ENOMEM, "LimitMEMLOCK"),
        ] {
            let finding = io_uring(Err(io::Error::from_raw_os_error(error)));
            assert_eq!(finding.verdict, Verdict::Fatal);
            assert!(finding.to_string().contains(words), "{finding}");
            assert_eq!(finding.to_string().lines().count(), 1);
        }
        assert_eq!(io_uring(Ok(())).to_string(), "io_uring: usable");
    }

    #[test]
    fn room_for_connections_is_files_and_memory() {
        let machine = |files: u64, tracked: Option<u64>, memory_kib: u64| {
            move |path: &str| match path {
                "/proc/self/limits" => Some(format!("Max open files  1  {files}  files\n")),
                "/proc/sys/fs/nr_open" => Some("1048576\n".to_owned()),
                "/proc/sys/fs/file-max" => Some("9223372036854775807\n".to_owned()),
                "/proc/meminfo" => Some(format!("MemFree: 1 kB\nMemTotal:  {memory_kib} kB\n")),
                "/proc/sys/net/netfilter/nf_conntrack_max" => Some(format!("{}\n", tracked?)),
                _ => panic!("{path}"),
            }
        };
        let fatal = |connections, read: &dyn Fn(&str) -> Option<String>| -> Vec<String> {
            let findings = room(connections, read).into_iter();
            findings.filter(|f| f.verdict == Verdict::Fatal).map(|f| f.to_string()).collect()
        };
        let large = machine(1_000_512, None, 16 << 20);
        assert_eq!(fatal(1_000_000, &large), [""; 0]);
        let [files] = &fatal(1_000_001, &large)[..] else { panic!("files alone are too few") };
        assert_eq!(
            files,
            "open files for 1000001 connections: 1000512; wanted: at least 1000513; to fix it: \
             ulimit -Hn 1000513, or LimitNOFILE=1000513 in the unit (tuning/)"
        );
        assert_eq!(fatal(1_000_000, &machine(u64::MAX, Some(1_999_999), 4 << 20)).len(), 2);
        assert!(fatal(1, &machine(1 << 20, Some(2), 2 << 20)).is_empty());
        let unknown = room(5, &|_| None);
        assert!(unknown.iter().all(|finding| finding.verdict == Verdict::Advice), "{unknown:?}");
    }

    #[test]
    fn a_report_is_a_line_each_or_json() {
        let good = finding("a", Verdict::Good, "1".to_owned(), "1".to_owned(), "do");
        let bad = finding("b", Verdict::Fatal, "0".to_owned(), "1".to_owned(), "do this");
        let text = report(&[good.clone(), bad.clone()], false);
        assert_eq!(text, "good    a: 1\nfatal   b: 0; wanted: 1; to fix it: do this\n");
        let json: serde_json::Value =
            serde_json::from_str(&report(&[good.clone(), bad], true)).expect("JSON");
        let b =
            json!({"what": "b", "verdict": "fatal", "found": "0", "wanted": "1", "fix": "do this"});
        assert_eq!((&json["ok"], &json["findings"][1]), (&json!(false), &b));
        assert_eq!(json["findings"][0]["fix"], serde_json::Value::Null);
        let json: serde_json::Value = serde_json::from_str(&report(&[good], true)).expect("JSON");
        assert_eq!(json["ok"], true);
    }

    #[test]
    fn this_machine_is_looked_at() {
        let findings = start_up(1);
        let names: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(names, ["kernel", "io_uring", "open files", "locked memory"]);
        for finding in findings {
            assert_eq!(finding.fix.is_empty(), finding.verdict == Verdict::Good, "{finding}");
            assert!(!finding.found.starts_with("unknown"), "{finding}");
        }
    }
}
