//! Reads RocksDB's write-ahead log before RocksDB does, and finds every damage in it.
//!
//! RocksDB 11.8 itself does not, in any of its recovery modes: within the last 32 KiB of a file a
//! damaged length ends the log silently, everything behind a damaged record is dropped with it,
//! and a flipped bit in a record's kind may drop a whole file or hang the opening. So this reader
//! decides whether the log is whole, torn at its end, or has a hole; RocksDB has to agree
//! (FORMAT.md, *Opening*). Nothing here writes.
//!
//! The format: blocks of 32 KiB; in them fragments of a masked CRC-32C over kind and payload (4),
//! the payload's length (2), a kind (1), the payload. A fragment never crosses a block; a block's
//! last 6 bytes may be unused. A record is a whole fragment, or a first, middle ones and a last.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::batch;
use crate::crc32c::{crc32c, masked};
use crate::keys::{Family, meta};
use crate::value;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 4 + 2 + 1;

/// What the files hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scan {
    /// The files, oldest first, with their lengths.
    pub files: Vec<(PathBuf, u64)>,
    /// Intact batches in front of any damage.
    pub batches: u64,
    /// Number of the last of them; 0 when there is none.
    pub last: u64,
    /// The first damage.
    pub damage: Option<Damage>,
    /// File and offset of an intact record, in front of any damage, that this store did not
    /// write. Nothing behind it was read.
    pub foreign: Option<(usize, u64)>,
}

impl Scan {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// A place where the log is not what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    /// Which of [`Scan::files`].
    pub file: usize,
    /// Where the first damaged record begins: up to here everything is intact.
    pub offset: u64,
    /// What is wrong.
    pub what: &'static str,
    /// The first intact batch behind it. `None`: the damage is the end of the log.
    pub after: Option<u64>,
}

/// Reads all files of the log in `directory`. `seal` is the mark of this store's batches: bytes in
/// a message that look like a record are not one.
pub(crate) fn scan(directory: &Path, seal: [u8; 8]) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for path in files(directory)? {
        let index = scan.files.len();
        let bytes = scan_file(&mut scan, &path, index, seal)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        scan.files.push((path, bytes));
    }
    Ok(scan)
}

/// Reads one file, and says how long it is.
fn scan_file(scan: &mut Scan, path: &Path, index: usize, seal: [u8; 8]) -> io::Result<u64> {
    let mut reader = Reader::open(path)?;
    if scan.damage.is_none() && scan.foreign.is_none() {
        scan_intact(scan, &mut reader, index, seal)?;
    }
    if let Some(damage) = &mut scan.damage
        && damage.after.is_none()
    {
        let last = scan.last;
        search(&mut reader, seal, |number, _| {
            damage.after = (number > last).then_some(number);
            if damage.after.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    Ok(reader.file.metadata()?.len())
}

/// The intact batches behind a damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Behind {
    /// How many.
    pub batches: u64,
    /// The largest number; 0 when there is none.
    pub last: u64,
    /// The largest id lease in them.
    pub leased: u32,
}

/// Reads on behind `damage`, to the end of the log.
pub(crate) fn behind(scan: &Scan, damage: &Damage, seal: [u8; 8]) -> io::Result<Behind> {
    let mut behind = Behind::default();
    for (index, (path, _)) in scan.files.iter().enumerate().skip(damage.file) {
        let mut reader = Reader::open(path)?;
        if index == damage.file {
            reader.go_to(damage.offset)?;
        }
        search(&mut reader, seal, |number, record| {
            if number > scan.last {
                behind.batches += 1;
                behind.last = behind.last.max(number);
                behind.leased = behind.leased.max(lease_in(record));
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(behind)
}

/// The largest id lease that a batch writes.
fn lease_in(record: &[u8]) -> u32 {
    let leases = batch::ops(record).map_while(Result::ok).filter_map(|op| {
        let lease = op.family == Family::Meta && op.key.starts_with(meta::LEASES);
        value::fixed(op.value.filter(|_| lease)?).ok().map(u32::from_be_bytes)
    });
    leases.max().unwrap_or(0)
}

/// The files of the log, oldest first.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut numbered = vec![];
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), Some(true)) = (number, path.extension().map(|e| e == "log")) {
            numbered.push((number, path));
        }
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// Reads one file up to its end or to the first damage.
fn scan_intact(scan: &mut Scan, reader: &mut Reader, file: usize, seal: [u8; 8]) -> io::Result<()> {
    let mut record = vec![];
    let mut previous = None;
    loop {
        let (offset, what) = match reader.record(&mut record)? {
            Step::End => return Ok(()),
            Step::Damaged { offset, what } => (offset, what),
            Step::Record { offset } => match batch::sealed(&record, seal) {
                // Numbers within a file follow each other. Between files there may be a gap: of
                // files that are not needed any more, RocksDB may delete a newer one first.
                Some(number)
                    if number > scan.last && previous.is_none_or(|last| number == last + 1) =>
                {
                    scan.last = number;
                    scan.batches += 1;
                    previous = Some(number);
                    continue;
                }
                Some(number) if number > scan.last => {
                    let what = "batches are missing before this one";
                    scan.damage = Some(Damage { file, offset, what, after: Some(number) });
                    return Ok(());
                }
                Some(_) => (offset, "an old batch in the place of a new one"),
                // RocksDB writes empty batches of its own when it recovers.
                None if batch::count(&record) == Some(0) => continue,
                None => {
                    scan.foreign = Some((file, offset));
                    return Ok(());
                }
            },
        };
        scan.damage = Some(Damage { file, offset, what, after: None });
        return Ok(());
    }
}

/// Goes on behind a damage, and visits the intact batches with their numbers until that breaks. A
/// length may be damaged too, so nothing says where the next fragment begins: every byte may be
/// its first.
fn search(
    reader: &mut Reader,
    seal: [u8; 8],
    mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut record = vec![];
    let mut open = false;
    loop {
        let (kind, payload) = match reader.fragment()? {
            Fragment::End => return Ok(()),
            Fragment::Damaged { .. } => {
                open = false;
                reader.step_over();
                continue;
            }
            Fragment::Intact { kind, payload, .. } => (kind, &reader.block[payload]),
        };
        let begins = matches!(kind, Kind::Whole | Kind::First);
        if begins {
            record.clear();
        }
        if begins || open {
            record.extend_from_slice(payload);
        }
        let ends = kind == Kind::Whole || kind == Kind::Last && open;
        open = kind == Kind::First || kind == Kind::Middle && open;
        if ends
            && let Some(number) = batch::sealed(&record, seal)
            && visit(number, &record).is_break()
        {
            return Ok(());
        }
    }
}

/// What the next record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// An intact record, which began at `offset`.
    Record { offset: u64 },
    /// What began at `offset` is not one. The reader stands where a search has to begin.
    Damaged { offset: u64, what: &'static str },
    /// The file ended behind a record.
    End,
}

/// What a fragment is for its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Whole,
    First,
    Middle,
    Last,
    /// RocksDB's notes to itself (compression, timestamp sizes, the file before).
    Note,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Whole),
            2 => Some(Kind::First),
            3 => Some(Kind::Middle),
            4 => Some(Kind::Last),
            9 | 10 | 130 => Some(Kind::Note),
            _ => None,
        }
    }
}

/// The next fragment of a file.
enum Fragment {
    /// An intact one at `start`; its payload is this part of the block.
    Intact {
        kind: Kind,
        start: u64,
        payload: Range<usize>,
    },
    Damaged {
        start: u64,
        what: &'static str,
    },
    End,
}

/// A file of the log, a block at a time.
struct Reader {
    file: File,
    block: Box<[u8; BLOCK]>,
    /// Where the block lies in the file.
    base: u64,
    /// Bytes of it that the file has.
    filled: usize,
    /// Invariant: `at <= filled`.
    at: usize,
}

impl Reader {
    fn open(path: &Path) -> io::Result<Reader> {
        let block = vec![0; BLOCK].into_boxed_slice().try_into().expect("it has this length");
        Ok(Reader { file: File::open(path)?, block, base: 0, filled: 0, at: 0 })
    }

    /// Stands at a place of the file.
    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        let within = offset % BLOCK as u64;
        self.base = self.file.seek(SeekFrom::Start(offset - within))?;
        self.filled = 0;
        self.read_block()?;
        self.at = (within as usize).min(self.filled);
        Ok(())
    }

    /// Puts the next whole record into `record`.
    fn record(&mut self, record: &mut Vec<u8>) -> io::Result<Step> {
        // Where the record began whose end is missing.
        let mut open = None;
        loop {
            let (kind, start, payload) = match self.fragment()? {
                Fragment::Intact { kind, start, payload } => (kind, start, &self.block[payload]),
                Fragment::Damaged { start, what } => {
                    return Ok(Step::Damaged { offset: open.unwrap_or(start), what });
                }
                Fragment::End => {
                    let what = "the file ends within a record";
                    return Ok(open.map_or(Step::End, |offset| Step::Damaged { offset, what }));
                }
            };
            match (kind, open) {
                (Kind::Note, _) => {}
                (Kind::Whole, None) => {
                    record.clear();
                    record.extend_from_slice(payload);
                    return Ok(Step::Record { offset: start });
                }
                (Kind::First, None) => {
                    record.clear();
                    record.extend_from_slice(payload);
                    open = Some(start);
                }
                (Kind::Middle, Some(_)) => record.extend_from_slice(payload),
                (Kind::Last, Some(offset)) => {
                    record.extend_from_slice(payload);
                    return Ok(Step::Record { offset });
                }
                (Kind::Whole | Kind::First, Some(offset)) => {
                    // This fragment is intact, and a search shall find it.
                    self.at = (start - self.base) as usize;
                    return Ok(Step::Damaged { offset, what: "a record has no end" });
                }
                (Kind::Middle | Kind::Last, None) => {
                    return Ok(Step::Damaged { offset: start, what: "a record has no beginning" });
                }
            }
        }
    }

    /// Takes the next fragment; does not move when it is damaged.
    fn fragment(&mut self) -> io::Result<Fragment> {
        if self.filled == BLOCK && BLOCK - self.at < HEADER || self.filled == self.at {
            self.read_block()?;
        }
        let start = self.base + self.at as u64;
        let rest = &self.block[self.at..self.filled];
        if rest.is_empty() {
            return Ok(Fragment::End);
        }
        let damaged = |what| Ok(Fragment::Damaged { start, what });
        let Some((&[a, b, c, d, low, high, kind], body)) = rest.split_first_chunk::<HEADER>()
        else {
            return damaged("the file ends within a fragment's head");
        };
        let len = usize::from(u16::from_le_bytes([low, high]));
        if len > body.len() {
            return damaged("a length beyond the end");
        }
        // The checksum covers the kind and the payload, which lie side by side.
        if masked(crc32c(&rest[HEADER - 1..HEADER + len])) != u32::from_le_bytes([a, b, c, d]) {
            return damaged("a wrong checksum");
        }
        let Some(kind) = Kind::of(kind) else {
            return damaged("a kind of record that this program does not know");
        };
        let payload = self.at + HEADER..self.at + HEADER + len;
        if matches!(kind, Kind::First | Kind::Middle) && payload.end < BLOCK {
            return damaged("a record goes on before the end of its block");
        }
        self.at = payload.end;
        Ok(Fragment::Intact { kind, start, payload })
    }

    fn read_block(&mut self) -> io::Result<()> {
        // A block that the file does not fill is its last one.
        if self.filled > 0 && self.filled < BLOCK {
            return Ok(());
        }
        self.base += self.filled as u64;
        (self.filled, self.at) = (0, 0);
        while self.filled < BLOCK {
            match self.file.read(&mut self.block[self.filled..]) {
                Ok(0) => break,
                Ok(bytes) => self.filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// After a damage: the next byte.
    fn step_over(&mut self) {
        self.at = (self.at + 1).min(self.filled);
    }
}
