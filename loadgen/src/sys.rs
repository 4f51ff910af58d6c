//! What the standard library does not give of the system: the limit of open files, a timer that is
//! finer than a millisecond, options of sockets. All unsafe code of this crate is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

use monoio::net::TcpStream;
use socket2::Socket;

/// Raises the soft limit of open files as far as it goes; gives it.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, which `limit` is.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the kernel reads one rlimit, which `raised` is.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } {
        0 => raised.rlim_cur,
        _ => limit.rlim_cur,
    }
}

/// A timer as a file: a read of eight bytes waits until the moment set last.
#[derive(Debug)]
pub struct Timer(File);

impl Timer {
    /// Not set.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn new() -> io::Result<Timer> {
        // SAFETY: takes no pointer; the descriptor it gives is ours alone.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, and nobody else closes it.
        Ok(Timer(unsafe { File::from_raw_fd(fd) }))
    }

    /// The file to read from, and a handle to set the timer with.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Wakes the reader once, `ns` from now (at once for 0).
    ///
    /// # Errors
    /// None that a timer of ours has; the kernel's word is taken for it.
    pub fn set(&self, ns: u64) -> io::Result<()> {
        // A value of zero would switch the timer off.
        let ns = ns.max(1);
        let value = libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: once, it_value: value };
        // SAFETY: the kernel reads one itimerspec, which `spec` is; the old value is not wanted.
        let result = unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The descriptor of a stream, for what monoio does not offer.
pub fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: `stream` keeps the descriptor open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// A bind chooses the address alone; connect chooses the port.
///
/// # Errors
/// When the kernel does not know the option (before Linux 4.2).
pub fn bind_without_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one int, which `on` is, from a socket that `socket` keeps open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
