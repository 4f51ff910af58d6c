//! Memory of a process, and of the kernel, as `/proc` tells it; and what one connection adds.

use serde::Serialize;
use std::fs;
use std::io;

/// What was in use at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Connections at that moment.
    pub connections: u32,
    /// The process's own pages in memory (`RssAnon`), bytes. Files that it has mapped, which the
    /// kernel may drop at any time, are not in it.
    pub user: u64,
    /// The kernel's slabs (`Slab`: sockets, files, polls), bytes. Of the whole machine, so both ends
    /// of a loopback connection are in it, and whatever else happens.
    pub kernel: u64,
    /// Pages of TCP's queues (`mem` in sockstat), bytes. Of the whole machine too.
    pub tcp: u64,
}

/// Reads it.
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub fn sample(pid: u32, connections: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let user = kib(&status, "RssAnon:").ok_or(io::ErrorKind::InvalidData)?;
    let slab = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "Slab:"));
    let tcp = fs::read_to_string("/proc/net/sockstat").ok().and_then(|text| tcp_pages(&text));
    Ok(Memory { connections, user, kernel: slab.unwrap_or(0), tcp: tcp.unwrap_or(0) * 4096 })
}

/// Bytes for each connection, between two moments.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slope {
    from: u32,
    to: u32,
    /// Of the server's process.
    pub user_bytes: f64,
    /// Of the kernel, for both ends.
    pub kernel_bytes: f64,
}

impl Slope {
    /// What each connection between `from` and `to` has added.
    pub fn new(from: &Memory, to: &Memory) -> Slope {
        let count = f64::from(to.connections) - f64::from(from.connections);
        let per = |from: u64, to: u64| (to as f64 - from as f64) / count;
        Slope {
            from: from.connections,
            to: to.connections,
            user_bytes: per(from.user, to.user),
            kernel_bytes: per(from.kernel + from.tcp, to.kernel + to.tcp),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{:>6} to {:>6}: {:>6.0} B user, {:>6.0} B kernel (both ends)",
            self.from, self.to, self.user_bytes, self.kernel_bytes
        )
    }
}

/// The number behind `name` at the start of a line, in bytes where the kernel says kB.
fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let value: u64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(value << 10)
}

fn tcp_pages(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_takes_is_seen() {
        let before = sample(std::process::id(), 0).expect("we exist");
        let block = vec![1u8; 32 << 20];
        let after = sample(std::process::id(), 1024).expect("we exist");
        assert!(std::hint::black_box(&block).len() == 32 << 20);
        let slope = Slope::new(&before, &after);
        // 32 KiB for each of 1,024, and what other tests do meanwhile.
        assert!((16_384.0..131_072.0).contains(&slope.user_bytes), "{slope:?}");
        assert!(after.kernel > 0, "{after:?}");
        assert!(sample(u32::MAX, 0).is_err());
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        assert_eq!(kib("VmRSS:\t 12 kB\nRssAnon:\t     345 kB\n", "RssAnon:"), Some(345 << 10));
        assert_eq!(kib("VmRSS:\t 12 kB\n", "RssAnon:"), None);
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 8 mem 17\nUDP: inuse 1\n";
        assert_eq!(tcp_pages(sockstat), Some(17));
    }
}
