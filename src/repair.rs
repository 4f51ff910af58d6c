//! `ringpost repair DIR`: what is wrong with a store, what mending it would give up, and, with
//! `--yes`, doing it. The store's own crate does the work; here it is told.

use std::io::{self, Write};
use std::path::Path;

use ringpost_storage::{Finding, LogError, Loss, Mended, Repair};
use serde_json::{Value, json};

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The store's directory.
    pub store: std::path::PathBuf,
    /// Repair, instead of saying what would be given up.
    pub yes: bool,
    /// For programs.
    pub json: bool,
}

/// Examines, repairs if that is wanted, and prints what was found; `true`: the store opens now.
///
/// # Errors
/// It cannot be examined, or what is wrong is nothing that a repair mends.
pub fn run(request: &Request, out: &mut impl Write) -> Result<bool, Failed> {
    let Request { store, yes, json } = request;
    let repair = Repair::examine(store)?;
    let finding = repair.finding().clone();
    let mended = if *yes { repair.perform()? } else { None };
    if *json {
        writeln!(out, "{}", as_json(&finding, mended.as_ref()))?;
    } else {
        writeln!(out, "{}", as_text(store, &finding, mended.as_ref()))?;
    }
    Ok(mended.is_some() || !matches!(finding, Finding::Hole(_)))
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// The store says so.
    Store(LogError),
    /// Nobody can be told.
    Output(io::Error),
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Failed {
        Failed::Store(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Output(error)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failed::Store(error @ LogError::Corrupt { .. }) => write!(
                f,
                "{error}. A repair mends holes in the write-ahead log and nothing else: restore a \
                 backup"
            ),
            Failed::Store(error) => write!(f, "{error}"),
            Failed::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

fn as_text(store: &Path, finding: &Finding, mended: Option<&Mended>) -> String {
    let store = store.display();
    match (finding, mended) {
        (Finding::Whole { batch, epoch }, _) => format!(
            "{store} opens: its last batch is {batch}, its epoch {epoch:016x}. There is nothing to \
             repair, and nothing was changed."
        ),
        (Finding::Torn { batch }, _) => format!(
            "{store} opens: behind batch {batch} its last write was torn by a crash, before it was \
             acknowledged, and the next start cuts it off. There is nothing to repair, and nothing \
             was changed."
        ),
        (Finding::Hole(loss), None) => format!(
            "{}{loss}.\nA repair would move what is behind byte {} of it to {}, and go on from what \
             is in front, with a new epoch. Nothing was changed.\nRestore a backup that has these \
             batches, or give them up: ringpost repair --yes {store}",
            begun(loss),
            loss.offset,
            loss.kept.display()
        ),
        (Finding::Hole(loss), Some(mended)) => format!(
            "{}{loss}.\nWhat was cut off is in {}.\nRepaired: {mended}.",
            begun(loss),
            loss.kept.display()
        ),
    }
}

fn begun(loss: &Loss) -> &'static str {
    if loss.begun { "An earlier repair was interrupted.\n" } else { "" }
}

fn as_json(finding: &Finding, mended: Option<&Mended>) -> Value {
    let loss = match finding {
        Finding::Whole { batch, epoch } => {
            return json!({"state": "whole", "batch": batch, "epoch": format!("{epoch:016x}")});
        }
        Finding::Torn { batch } => return json!({"state": "torn", "batch": batch}),
        Finding::Hole(loss) => loss,
    };
    let (first, last) = loss.batches();
    let mut shown = json!({
        "state": "hole",
        "file": loss.file.display().to_string(),
        "offset": loss.offset,
        "what": loss.what,
        "lost": {"first": first, "last": last, "intact": loss.intact},
        "bytes": loss.bytes,
        "kept": loss.kept.display().to_string(),
        "begun": loss.begun,
    });
    if let Some(mended) = mended {
        shown["state"] = json!("repaired");
        shown["epoch"] = json!(format!("{:016x}", mended.epoch));
        shown["batch"] = json!(mended.batch);
        shown["leased_s"] = json!(mended.leased);
        shown["mended"] = json!({
            "ids_made": mended.ids_made,
            "ids_gone": mended.ids_gone,
            "dedup_made": mended.dedup_made,
            "dedup_gone": mended.dedup_gone,
            "cursors_cut": mended.cursors_cut,
            "marks_made": mended.marks_made,
            "marks_gone": mended.marks_gone,
            "nameless": mended.nameless,
        });
    }
    shown
}
