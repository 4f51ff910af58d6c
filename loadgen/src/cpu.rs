//! CPU time of processes and threads, as the kernel tells it in `/proc`.
//!
//! Reads only; works for any process of the same user on this machine.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a process had used at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    at: Instant,
    /// User and system time of the process in the kernel's ticks, threads that ended included.
    ticks: [u64; 2],
    /// By thread id.
    threads: BTreeMap<u32, Thread>,
}

#[derive(Clone, Debug)]
struct Thread {
    name: String,
    /// Time on a CPU.
    run_ns: u64,
    /// Time ready to run while something else was on the CPU.
    wait_ns: u64,
}

/// What a process used between two moments.
#[derive(Clone, Debug, Serialize)]
pub struct Used {
    /// Seconds between them.
    pub wall_s: f64,
    /// CPU seconds, user and system, of all threads.
    pub cpu_s: f64,
    /// The part of it that the kernel calls user time, 0 to 1.
    pub user_share: f64,
    /// By thread name, the busiest first; threads of the same name are one.
    pub threads: Vec<ThreadUsed>,
}

/// What the threads of one name used.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadUsed {
    /// Their name.
    pub name: String,
    /// How many they are.
    pub count: u32,
    /// CPU seconds of all of them.
    pub cpu_s: f64,
    /// The busiest one's CPU time as a share of the time that passed, 0 to 1.
    pub busiest: f64,
    /// That share, and the time that it waited for a CPU: near 1, it had no time left.
    pub busiest_or_waiting: f64,
}

/// Reads what `pid` has used so far.
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub fn sample(pid: u32) -> io::Result<Sample> {
    let root = PathBuf::from(format!("/proc/{pid}"));
    let at = Instant::now();
    let ticks = ticks(&root)?;
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(root.join("task"))? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // A thread that ends while we read is not there; its ticks are in the process's.
        if let (Some(id), Ok(thread)) = (id, thread(&path)) {
            threads.insert(id, thread);
        }
    }
    Ok(Sample { at, ticks, threads })
}

/// What was used from `before` to `after`, two samples of one process.
pub fn used(before: &Sample, after: &Sample) -> Used {
    let wall_s = (after.at - before.at).as_secs_f64();
    let mut by_name: BTreeMap<&str, ThreadUsed> = BTreeMap::new();
    for (id, thread) in &after.threads {
        let start = before.threads.get(id);
        let run_ns = thread.run_ns.saturating_sub(start.map_or(0, |start| start.run_ns));
        let wait_ns = thread.wait_ns.saturating_sub(start.map_or(0, |start| start.wait_ns));
        let (run_s, wait_s) = (run_ns as f64 / 1e9, wait_ns as f64 / 1e9);
        let sum = by_name.entry(&thread.name).or_insert_with(|| ThreadUsed {
            name: thread.name.clone(),
            count: 0,
            cpu_s: 0.0,
            busiest: 0.0,
            busiest_or_waiting: 0.0,
        });
        sum.count += 1;
        sum.cpu_s += run_s;
        sum.busiest = sum.busiest.max(run_s / wall_s);
        sum.busiest_or_waiting = sum.busiest_or_waiting.max((run_s + wait_s) / wall_s);
    }
    let mut threads: Vec<ThreadUsed> = by_name.into_values().collect();
    threads.sort_by(|one, other| other.cpu_s.total_cmp(&one.cpu_s));
    let [user, system] = [0, 1].map(|i| after.ticks[i].saturating_sub(before.ticks[i]) as f64);
    let user_share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
    let cpu_s = threads.iter().map(|thread| thread.cpu_s).sum();
    Used { wall_s, cpu_s, user_share, threads }
}

/// Fields 14 and 15 of `stat` (proc_pid_stat(5)).
fn ticks(root: &Path) -> io::Result<[u64; 2]> {
    let stat = fs::read_to_string(root.join("stat"))?;
    // The second field, the name, may contain anything, blanks and brackets included.
    let (_, rest) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let mut fields = rest.split_ascii_whitespace().skip(11).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok([user, system]),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn thread(root: &Path) -> io::Result<Thread> {
    let name = fs::read_to_string(root.join("comm"))?.trim_end().to_owned();
    let stat = fs::read_to_string(root.join("schedstat"))?;
    let mut fields = stat.split_ascii_whitespace().map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(run_ns)), Some(Ok(wait_ns))) => Ok(Thread { name, run_ns, wait_ns }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_under_its_name() {
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::Builder::new().name("busy one) 7".to_owned()).spawn(move || {
            begin.send(()).expect("the test listens");
            let mut x = 1u64;
            while ended.try_recv().is_err() {
                x = std::hint::black_box(crate::payload::mix(x));
            }
        });
        let busy = busy.expect("a thread can be made");
        begun.recv().expect("it runs");
        let before = sample(std::process::id()).expect("we exist");
        // Until the kernel has charged it 20 ms, however busy the machine is.
        let used = loop {
            let used = used(&before, &sample(std::process::id()).expect("we exist"));
            let thread = used.threads.iter().find(|thread| thread.name == "busy one) 7");
            if thread.is_some_and(|thread| thread.cpu_s > 0.02) {
                break used;
            }
            std::thread::yield_now();
        };
        end.send(()).expect("it waits");
        busy.join().expect("it ended well");
        let thread = used.threads.iter().find(|thread| thread.name == "busy one) 7");
        let thread = thread.expect("just seen");
        assert_eq!(thread.count, 1);
        assert!(thread.busiest_or_waiting >= thread.busiest && thread.busiest > 0.0);
        assert!(used.cpu_s >= thread.cpu_s && used.wall_s > 0.0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(sample(u32::MAX).is_err());
    }
}
