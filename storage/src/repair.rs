//! Gives up what a hole in the write-ahead log has damaged, when an operator says so: cuts the log
//! at the hole, keeps what it cuts off, and lets the store go on from what is left (FORMAT.md,
//! *Repair*).
//!
//! It touches nothing that opens. What it has begun it must finish: until then a note in the
//! directory keeps the store from being opened, because cut and not yet mended it would look whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::directory::{Directory, read_failed, write_failed};
use crate::error::LogError;
use crate::rocks::mend;
use crate::wal::{self, Damage, Scan};

/// The note of a repair that has begun.
pub(crate) const NOTE: &str = "repairing";
/// Where it puts what it cuts off.
const LOST: &str = "lost";

/// What an examination has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// It opens.
    Whole {
        /// Number of the last batch.
        batch: u64,
        /// Its epoch.
        epoch: u64,
    },
    /// It opens: the last write was torn, was never acknowledged, and is cut off by the opening.
    Torn {
        /// Number of the last batch in front of it.
        batch: u64,
    },
    /// It does not open, and a repair would give this up.
    Hole(Loss),
}

/// What a repair gives up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The damaged file of the write-ahead log.
    pub file: PathBuf,
    /// Where it is cut.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// The last batch in front of the damage; 0 when there is none in the write-ahead log.
    pub before: u64,
    /// The last intact batch behind it, which is given up too; 0: there is none.
    pub last: u64,
    /// How many intact batches are behind it.
    pub intact: u64,
    /// Bytes that are cut off, in all files.
    pub bytes: u64,
    /// The largest id lease in the intact batches behind it.
    pub leased: u32,
    /// Where what is cut off is put.
    pub kept: PathBuf,
    /// An earlier repair was interrupted.
    pub begun: bool,
}

impl Loss {
    /// The numbers of the lost batches, as far as they are known: the first, and the last.
    pub fn batches(&self) -> (u64, u64) {
        (self.before + 1, self.last.max(self.before + 1))
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Loss { file, offset, what, before, last, intact, bytes, .. } = self;
        let (first, _) = self.batches();
        let file = file.display();
        write!(f, "{file} is damaged at byte {offset} ({what}). ")?;
        match (before, last) {
            (0, 0) => write!(f, "Lost: all batches in the write-ahead log")?,
            (0, last) => write!(f, "Lost: the batches up to {last} that are not in table files")?,
            (_, 0) => write!(f, "Lost: batch {first}, and any that followed it")?,
            (_, last) => write!(f, "Lost: the batches {first} to {last}")?,
        }
        write!(f, " ({intact} of them intact, but behind the damage; {bytes} bytes)")
    }
}

/// What a repair has done beside cutting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mended {
    /// The store's new epoch.
    pub epoch: u64,
    /// Number of the batch that ended the repair, far behind the lost ones.
    pub batch: u64,
    /// Ids up to this second are skipped.
    pub leased: u32,
    /// Messages that went because the name of their conversation is lost.
    pub nameless: u64,
    /// Ids that messages lacked.
    pub ids_made: u64,
    /// Ids of lost messages.
    pub ids_gone: u64,
    /// Dedup keys that messages lacked.
    pub dedup_made: u64,
    /// Dedup keys of lost messages.
    pub dedup_gone: u64,
    /// Cursors, and other positions, that were ahead of their conversation.
    pub cursors_cut: u64,
    /// Marks and mentions that were ahead of their conversation.
    pub marks_gone: u64,
    /// Marks that members lacked who have something to get.
    pub marks_made: u64,
}

impl std::fmt::Display for Mended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Mended { epoch, batch, nameless, ids_made, ids_gone, dedup_made, dedup_gone, .. } =
            self;
        let Mended { cursors_cut, marks_gone, marks_made, .. } = self;
        write!(
            f,
            "the store goes on with batch {batch} and the new epoch {epoch:016x}. Made to agree \
             with the messages that are left: {ids_made} ids, {dedup_made} dedup keys and \
             {marks_made} marks made, {ids_gone} ids, {dedup_gone} dedup keys and {marks_gone} \
             marks removed, {cursors_cut} cursors cut, {nameless} messages removed whose \
             conversation's name is lost"
        )
    }
}

/// A store that has been examined, locked until this is dropped.
#[derive(Debug)]
pub struct Repair {
    directory: Directory,
    finding: Finding,
    scan: Scan,
}

impl Repair {
    /// Examines the store in `path`; nothing is changed.
    ///
    /// # Errors
    /// There is no store, it is in use, or what is wrong with it is nothing that a repair mends.
    pub fn examine(path: &Path) -> Result<Repair, LogError> {
        if !path.join("store").exists() {
            let why = "there is none to repair";
            return Err(LogError::NotAStore { path: path.to_owned(), why });
        }
        let directory = Directory::claim(path)?;
        let rocks = directory.rocks();
        if !rocks.exists() {
            let why = "its creation was interrupted; opening it goes on";
            return Err(LogError::NotAStore { path: path.to_owned(), why });
        }
        let scan = directory.scan()?;
        let begun = read_note(&path.join(NOTE)).map_err(|e| read_failed(path, &e))?;
        let finding = match (&scan.damage, begun) {
            (Some(damage), None) if !directory.is_hole(&scan, damage) => {
                Finding::Torn { batch: scan.last }
            }
            (Some(damage), begun) => {
                if directory.is_empty_before(&scan)? {
                    let file = Some(scan.files[damage.file].0.clone());
                    let what = "nothing is left in front of the damage".to_owned();
                    return Err(LogError::Corrupt { file, what });
                }
                Finding::Hole(loss(&directory, &scan, damage, begun)?)
            }
            (None, Some(begun)) => Finding::Hole(begun),
            (None, None) => {
                let opening = mend::look(&directory)?;
                directory.compare(&scan, opening.batch)?;
                Finding::Whole { batch: opening.batch, epoch: opening.epoch }
            }
        };
        Ok(Repair { directory, finding, scan })
    }

    /// What was found.
    pub fn finding(&self) -> &Finding {
        &self.finding
    }

    /// Repairs, if there is a hole.
    ///
    /// # Errors
    /// It could not be finished: the store does not open until a later repair finishes it.
    pub fn perform(self) -> Result<Option<Mended>, LogError> {
        let Finding::Hole(loss) = &self.finding else { return Ok(None) };
        let store = self.directory.path();
        let note = store.join(NOTE);
        write_note(&note, loss).map_err(|e| write_failed(&note, &e))?;
        if let Some(damage) = &self.scan.damage {
            self.cut(damage, &loss.kept).map_err(|e| write_failed(&loss.file, &e))?;
        }
        let mended = mend::mend(&self.directory, loss)?;
        fs::remove_file(&note)
            .and_then(|()| sync_directory(store))
            .map_err(|e| write_failed(&note, &e))?;
        Ok(Some(mended))
    }

    /// Moves later files away, newest first, and cuts the damaged one, whose end is copied before.
    fn cut(&self, damage: &Damage, kept: &Path) -> io::Result<()> {
        fs::create_dir_all(kept)?;
        sync_directory(self.directory.path())?;
        sync_directory(&self.directory.path().join(LOST))?;
        let rocks = self.directory.rocks();
        for (later, _) in self.scan.files[damage.file + 1..].iter().rev() {
            fs::rename(later, kept.join(later.file_name().expect("a file has a name")))?;
            sync_directory(&rocks)?;
        }
        let (path, _) = &self.scan.files[damage.file];
        let name = path.file_name().expect("a file has a name").to_string_lossy();
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::Start(damage.offset))?;
        let mut copy = File::create(kept.join(format!("{name}-{}", damage.offset)))?;
        io::copy(&mut file, &mut copy)?;
        copy.sync_all()?;
        sync_directory(kept)?;
        file.set_len(damage.offset)?;
        file.sync_all()
    }
}

/// What cutting at `damage` gives up. What an interrupted repair knew counts too.
fn loss(
    directory: &Directory,
    scan: &Scan,
    damage: &Damage,
    begun: Option<Loss>,
) -> Result<Loss, LogError> {
    let behind = wal::behind(scan, damage, directory.seal)
        .map_err(|error| read_failed(&directory.rocks(), &error))?;
    let (file, length) = &scan.files[damage.file];
    let later = scan.files[damage.file + 1..].iter().map(|(_, bytes)| bytes).sum::<u64>();
    let kept = directory.path().join(LOST).join(format!("behind-batch-{}", scan.last));
    let loss = Loss {
        file: file.clone(),
        offset: damage.offset,
        what: damage.what.to_owned(),
        before: scan.last,
        last: behind.last,
        intact: behind.batches,
        bytes: length - damage.offset + later,
        leased: behind.leased,
        kept,
        begun: begun.is_some(),
    };
    Ok(match begun {
        Some(begun) => Loss {
            last: loss.last.max(begun.last),
            intact: loss.intact.max(begun.intact),
            bytes: loss.bytes.max(begun.bytes),
            leased: loss.leased.max(begun.leased),
            ..loss
        },
        None => loss,
    })
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// One value a line; the paths, which may hold anything, come last.
fn write_note(path: &Path, loss: &Loss) -> io::Result<()> {
    let Loss { file, offset, what, before, last, intact, bytes, leased, kept, .. } = loss;
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("a path is not UTF-8"))
    };
    let note = format!(
        "{offset}\n{before}\n{last}\n{intact}\n{bytes}\n{leased}\n{what}\n{}\n{}\n",
        text(file)?,
        text(kept)?
    );
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(path.parent().expect("it is in the store's directory"))
}

/// What [`write_note`] has written; `None`: there is no note.
fn read_note(path: &Path) -> io::Result<Option<Loss>> {
    let note = match fs::read_to_string(path) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = note.lines();
    let broken = || io::Error::other(format!("{} is not a note of a repair", path.display()));
    let mut number = || lines.next().and_then(|line| line.parse::<u64>().ok()).ok_or_else(broken);
    let (offset, before, last) = (number()?, number()?, number()?);
    let (intact, bytes, leased) = (number()?, number()?, number()?);
    let mut line = || lines.next().ok_or_else(broken);
    Ok(Some(Loss {
        offset,
        before,
        last,
        intact,
        bytes,
        leased: u32::try_from(leased).map_err(|_| broken())?,
        what: line()?.to_owned(),
        file: line()?.into(),
        kept: line()?.into(),
        begun: true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NOTE);
        assert_eq!(read_note(&path).expect("none"), None);
        let loss = Loss {
            file: "/data/rocks/000007.log".into(),
            offset: 512,
            what: "a wrong checksum".into(),
            before: 3,
            last: 9,
            intact: 4,
            bytes: 1_000,
            leased: u32::MAX,
            kept: "/data/lost/behind-batch-3".into(),
            begun: true,
        };
        write_note(&path, &loss).expect("written");
        assert_eq!(read_note(&path).expect("read"), Some(loss));
        fs::write(&path, "512\n3\n").expect("written");
        assert!(read_note(&path).is_err());
    }

    #[test]
    fn a_loss_says_which_batches() {
        let loss = |before, last| Loss {
            file: "7.log".into(),
            offset: 5,
            what: "a wrong checksum".into(),
            before,
            last,
            intact: 2,
            bytes: 10,
            leased: 0,
            kept: "kept".into(),
            begun: false,
        };
        for (before, last, words) in [
            (3, 9, "Lost: the batches 4 to 9 (2 of them intact"),
            (3, 0, "Lost: batch 4, and any that followed it"),
            (0, 9, "Lost: the batches up to 9 that are not in table files"),
            (0, 0, "Lost: all batches in the write-ahead log"),
        ] {
            let text = loss(before, last).to_string();
            assert!(text.contains(words), "{text}");
            assert!(text.contains("7.log is damaged at byte 5 (a wrong checksum)"), "{text}");
        }
        assert_eq!(loss(3, 9).batches(), (4, 9));
        assert_eq!(loss(3, 0).batches(), (4, 4));
    }
}
