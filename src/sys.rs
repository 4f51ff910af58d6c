//! The few calls that neither std nor socket2 nor monoio offer safely: all of the server's
//! `unsafe` is here. Nothing here decides anything.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use monoio::buf::{IoBuf, IoBufMut, SliceMut};
use monoio::io::{AsyncWriteRent, CancelHandle, CancelableAsyncReadRent};
use monoio::net::TcpStream;

/// A connection's socket on its shard's ring, shared by the task that reads and the one that
/// writes. The descriptor is closed through the ring when the last clone is dropped.
#[derive(Clone)]
pub struct Socket {
    stream: Rc<UnsafeCell<TcpStream>>,
}

impl Socket {
    /// Takes a connected socket in blocking mode: the ring waits by itself, and answers a socket
    /// in non-blocking mode with EAGAIN.
    pub fn new(fd: OwnedFd) -> io::Result<Socket> {
        let stream = TcpStream::from_std(fd.into())?;
        Ok(Socket { stream: Rc::new(UnsafeCell::new(stream)) })
    }

    fn fd(&self) -> RawFd {
        // SAFETY: the cell is only borrowed within one call, never while a future waits; this
        // reads a number that never changes.
        unsafe { &*self.stream.get() }.as_raw_fd()
    }

    /// Ends when there is something to read, or when either side has shut the socket down. No
    /// buffer is held meanwhile.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> {
        // SAFETY: `readable` clones the descriptor's counter into its operation when it is first
        // polled and uses the stream for nothing else; the future borrows `self`, which keeps the
        // cell alive.
        unsafe { &*self.stream.get() }.readable(false)
    }

    /// recv(2) that never waits, into the room behind `buffer`'s bytes; `WouldBlock` when there is
    /// nothing, 0 at the end of the stream (or without room).
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let room = buffer.spare_capacity_mut();
        let (ptr, len) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: `ptr` and `len` are the vector's own spare room, writable for the whole call.
        let count = check(unsafe { libc::recv(self.fd(), ptr, len, libc::MSG_DONTWAIT) })?;
        // SAFETY: the kernel has written the first `count <= len` bytes of the room.
        unsafe { buffer.set_len(buffer.len() + count) };
        Ok(count)
    }

    /// send(2) that never waits: how many of the bytes the kernel took.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: pointer and length are those of a slice that is borrowed for the whole call.
        check(unsafe { libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
    }

    /// A read on the ring, behind what is in `buffer`. It must be awaited to its end: `cancel` ends
    /// it with ECANCELED, or with the bytes that came first.
    pub fn read(
        &self,
        buffer: Vec<u8>,
        cancel: CancelHandle,
    ) -> impl Future<Output = (io::Result<usize>, SliceMut<Vec<u8>>)> {
        let begin = buffer.len();
        let room = buffer.slice_mut(begin..);
        // SAFETY: `cancelable_read` uses the stream only when it is first polled, to clone the
        // descriptor's counter into the operation, which owns the buffer from then on. Nothing
        // else borrows the cell at that time: all other borrows end within one call of this file.
        unsafe { &mut *self.stream.get() }.cancelable_read(room, cancel)
    }

    /// A write on the ring of `buffer`'s bytes; may take only a part of them.
    pub fn write<B: IoBuf>(&self, buffer: B) -> impl Future<Output = (io::Result<usize>, B)> {
        // SAFETY: `write` clones the descriptor's counter into the operation within this call, and
        // nothing else borrows the cell during it.
        unsafe { &mut *self.stream.get() }.write(buffer)
    }

    /// shutdown(2): ends the waits on the socket. An error means that the peer was faster.
    pub fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // SAFETY: a call on a descriptor that `self` keeps open, without memory.
        let _gone_already = unsafe { libc::shutdown(self.fd(), how) };
    }

    /// Makes the close drop what the peer has not taken, and tell it so by a reset.
    pub fn reset_on_close(&self) {
        // SAFETY: `self` keeps the descriptor open for as long as it is borrowed.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd()) };
        let _gone_already = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
    }

    /// Gives the descriptor up, to live on another ring.
    ///
    /// # Panics
    /// When another clone exists or an operation is in flight: a bug.
    pub fn into_fd(self) -> OwnedFd {
        let cell = Rc::try_unwrap(self.stream).unwrap_or_else(|_| panic!("the socket is in use"));
        let fd = cell.into_inner().into_raw_fd();
        // SAFETY: `into_raw_fd` has just given up the ownership of this open descriptor.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}

/// A new eventfd with count 0. Reading it waits for a count above 0 and takes all of it.
pub fn eventfd() -> io::Result<File> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) } as isize)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
}

/// Raises the limit of open files to the hard limit; returns what it is then.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } as isize)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is initialised and only read.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } as isize)?;
    }
    Ok(limit.rlim_cur)
}

/// The processors that this thread may run on, in order; none when the kernel does not say.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid place of the given size for the answer; 0 is the calling thread.
    let answer = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    if answer != 0 {
        return Vec::new();
    }
    let cpus = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: reads one bit of an initialised set, within its size.
    cpus.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// The size of a file system, and what of it a process without privileges may still take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk {
    /// All of it.
    pub bytes: u64,
    /// What is left.
    pub free: u64,
}

/// The file system that `path` lies in.
pub fn disk(path: &Path) -> io::Result<Disk> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte, and `stat` is a valid place for the answer.
    check(unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } as isize)?;
    // SAFETY: the call has succeeded, so it has filled all of it.
    let stat = unsafe { stat.assume_init() };
    let blocks = |count: u64| count.saturating_mul(stat.f_frsize);
    Ok(Disk { bytes: blocks(stat.f_blocks), free: blocks(stat.f_bavail) })
}

/// What a signal asks the process for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM or SIGINT: to end.
    End,
    /// SIGHUP: to read its configuration again.
    Reload,
}

/// The signals that [`next_signal`] waits for.
fn signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, which sigaddset then changes.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Keeps these signals for [`next_signal`], in this thread and those it starts from now on.
pub fn hold_signals() -> io::Result<()> {
    let set = signal_set();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits for a signal, at most so long.
pub fn next_signal(timeout: Duration) -> Option<Signal> {
    let set = signal_set();
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: both are initialised and only read; the signal's details are not asked for. Errors
    // are EAGAIN and EINTR: none came.
    match unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &timeout) } {
        libc::SIGHUP => Some(Signal::Reload),
        signal => (signal > 0).then_some(Signal::End),
    }
}

/// Memory that the allocator holds from the kernel, written to or not: now, and at most so far.
pub fn allocated_bytes() -> (u64, u64) {
    // SAFETY: the declaration is that of mimalloc.h.
    unsafe extern "C" {
        /// mimalloc's, which is linked in as the process's allocator (`mimalloc.h`).
        fn mi_process_info(
            elapsed_ms: *mut usize,
            user_ms: *mut usize,
            system_ms: *mut usize,
            resident: *mut usize,
            resident_peak: *mut usize,
            committed: *mut usize,
            committed_peak: *mut usize,
            page_faults: *mut usize,
        );
    }
    let none = std::ptr::null_mut();
    let (mut now, mut peak) = (0, 0);
    // SAFETY: every argument may be null, and the two that are not are places for a size_t.
    unsafe { mi_process_info(none, none, none, none, none, &mut now, &mut peak, none) };
    (now as u64, peak as u64)
}

/// Ends the process without running anything else: no destructor of another language's library
/// may block or crash it on its way out.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: it does not return, and no memory is passed.
    unsafe { libc::_exit(status) }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}
