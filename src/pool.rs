//! Buffers that are used again. Only a shard's own thread uses one of these.

/// Empty buffers that are not in use.
///
/// *Bound:* a number of bytes; a buffer that comes back beyond it is freed. What was not needed
/// for a while is freed too, see [`Pool::trim`].
#[derive(Debug)]
pub struct Pool {
    free: Vec<Vec<u8>>,
    /// Capacities of `free`.
    bytes: usize,
    /// The shortest that `free` has been since the last [`Pool::trim`].
    free_min: usize,
    smallest: usize,
    largest: usize,
    most: usize,
}

impl Pool {
    /// Buffers of `smallest` bytes, or more if they grew; those over `largest` are not kept, and
    /// no more than `most` bytes of all.
    pub fn new(smallest: usize, largest: usize, most: usize) -> Pool {
        assert!(0 < smallest && smallest <= largest && largest <= most);
        Pool { free: Vec::new(), bytes: 0, free_min: 0, smallest, largest, most }
    }

    /// An empty buffer.
    #[inline]
    pub fn take(&mut self) -> Vec<u8> {
        let Some(buffer) = self.free.pop() else { return Vec::with_capacity(self.smallest) };
        self.bytes -= buffer.capacity();
        self.free_min = self.free_min.min(self.free.len());
        buffer
    }

    /// Takes a buffer back.
    #[inline]
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        // What grew for one large frame would be wasted on the small ones.
        let fits = (self.smallest..=self.largest).contains(&capacity);
        if fits && self.bytes + capacity <= self.most {
            buffer.clear();
            self.bytes += capacity;
            self.free.push(buffer);
        }
    }

    /// Frees half of what was not needed since the last call.
    pub fn trim(&mut self) {
        for buffer in self.free.drain(..self.free_min.div_ceil(2)) {
            self.bytes -= buffer.capacity();
        }
        self.free_min = self.free.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_fits_and_no_more() {
        let mut pool = Pool::new(10, 100, 1_000);
        pool.give(Vec::with_capacity(101));
        pool.give(Vec::new());
        assert_eq!(pool.bytes, 0, "too large, too small");
        for _ in 0..20 {
            pool.give(Vec::with_capacity(100));
        }
        assert_eq!(pool.bytes, 1_000);
        assert_eq!(pool.take().capacity(), 100);
        assert_eq!(pool.bytes, 900);
        assert_eq!(Pool::new(10, 100, 1_000).take().capacity(), 10);
    }

    #[test]
    fn what_is_not_needed_is_freed_in_time() {
        let mut pool = Pool::new(10, 100, 1_000);
        for _ in 0..10 {
            pool.give(Vec::with_capacity(100));
        }
        pool.trim();
        assert_eq!(pool.free.len(), 10, "nothing is known yet");
        let used: Vec<_> = (0..6).map(|_| pool.take()).collect();
        used.into_iter().for_each(|buffer| pool.give(buffer));
        pool.trim();
        assert_eq!(pool.free.len(), 8, "four were never needed");
        for _ in 0..4 {
            pool.trim();
        }
        assert_eq!((pool.free.len(), pool.bytes), (0, 0));
    }
}
