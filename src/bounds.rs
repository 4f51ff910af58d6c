//! Every maximum of the process around the core, with its reason. What a client may cause within
//! the core is in the core's limits.

use ringpost_core::limits;

/// Descriptors that connections never get: RocksDB's files (256), listeners, doorbells, the
/// control plane's sockets, and refusals on their way out.
pub const DESCRIPTORS_RESERVED: u64 = 512;
/// Of these, what upgrade requests may still use to be refused in proper HTTP. With fewer left, a
/// new socket is closed at once.
pub const DESCRIPTORS_FOR_REFUSALS: u64 = 128;
/// Pause of accepting after an error: the reason, descriptors or memory, takes its time to pass.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Connections accepted before the ring is served again.
pub const ACCEPT_BUDGET: usize = 64;
/// Sockets that wait for accept(2), per listener and shard: a reconnect storm fits.
pub const BACKLOG: i32 = 4_096;
/// The kernel's send buffer (it takes twice as much for its bookkeeping). What a slow reader does
/// not take waits here first, then in the out queue, then in the log.
pub const SEND_BUFFER_BYTES: usize = 64 << 10;

/// One read from a socket: some thirty messages of the usual size.
pub const READ_BYTES: usize = 8 << 10;
/// Reads in flight per shard that hold a buffer; beyond, connections are read without one.
pub const READS_MAX: usize = 2_048;
/// A connection that had no data for so long holds no read buffer.
pub const ACTIVE_MS: u64 = 100;
/// Messages of one connection before the others, and the turn, have theirs.
pub const MESSAGES_BUDGET: usize = 32;
/// What a shard holds of messages and frames that are not whole, or may not be taken yet; over it
/// the connection that adds to it is closed with 1009.
pub const UNFINISHED_BYTES_MAX: usize = 256 << 20;

/// Bytes that one write to a socket takes at most; what comes later gets a chance to go ahead.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that wait for a connection to take them; over it no data message of it is taken, so that
/// it cannot ask for answers without taking them, and it gets no signals. The core's window bounds
/// deliveries below this.
pub const OUT_BYTES_MAX: usize = 512 << 10;
/// A connection for which more than this waits gets no message a second time: it has not taken the
/// first. So what waits for one that does not read is its window, however often messages are sent
/// again.
pub const REPEATS_BYTES_MAX: usize = CHUNK_BYTES;
/// A connection whose bytes have waited so long without one being taken is closed with 1008.
pub const STALL_MS_MAX: u64 = 60_000;
/// What the shard keeps of out buffers that are not in use.
pub const OUT_POOL_BYTES_MAX: usize = 8 << 20;
/// A connection from which nothing was heard for so long is closed; after half of that it is asked
/// for a sign of life.
pub const IDLE_MS_MAX: u64 = 128_000;
/// How long a close may take: the close frame, the peer's own, the end of the stream.
pub const CLOSE_MS_MAX: u64 = 5_000;
/// The table of connections is looked over once in this time, for stalls and silence.
pub const SWEEP_MS: u64 = 4_000;

/// Parcels taken from the inbox before the ring is served again.
pub const PARCELS_BUDGET: usize = 1_024;
/// Turns of a shard that are handed to the log and not durable.
pub const TURNS_HANDED_MAX: usize = 2;
/// What an entry counts for beside its bytes, against the core's limit of an open turn.
pub const ENTRY_BYTES: usize = 128;
/// Reader threads of the log.
pub const READERS: usize = 2;

/// How long the end waits for what is in progress before it goes on without.
pub const QUIET_MS_MAX: u64 = 10_000;

/// The bounds that tests make smaller. A server has the defaults.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// [`limits::HANDSHAKE_MS_MAX`].
    pub handshake_ms: u64,
    /// [`CLOSE_MS_MAX`].
    pub close_ms: u64,
    /// [`STALL_MS_MAX`].
    pub stall_ms: u64,
    /// [`IDLE_MS_MAX`].
    pub idle_ms: u64,
    /// [`UNFINISHED_BYTES_MAX`].
    pub unfinished_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            handshake_ms: limits::HANDSHAKE_MS_MAX,
            close_ms: CLOSE_MS_MAX,
            stall_ms: STALL_MS_MAX,
            idle_ms: IDLE_MS_MAX,
            unfinished_bytes: UNFINISHED_BYTES_MAX,
        }
    }
}

const _: () = {
    // What a receiver leaves in the read buffer never fills it.
    assert!(ringpost_core::ws::message::BUFFER_BYTES_MIN < READ_BYTES);
    // A new upgrade request finds a descriptor to be refused on.
    assert!(DESCRIPTORS_FOR_REFUSALS < DESCRIPTORS_RESERVED);
    // One read of messages yields at most a few times.
    assert!(READ_BYTES / MESSAGES_BUDGET >= 128);
    // A silent peer is asked in time, and has time to answer.
    assert!(4 * SWEEP_MS < IDLE_MS_MAX);
    // A window full of deliveries alone never keeps acknowledgements from being read.
    assert!(limits::WINDOW_BYTES as usize + limits::PAGE_BYTES as usize <= OUT_BYTES_MAX / 4 * 3);
};
