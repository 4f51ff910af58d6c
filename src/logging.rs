//! The process's own log: one line per event on standard error, for people or for programs. What
//! is logged where, and how, is the business of who logs.

use tracing_subscriber::filter::LevelFilter;

use crate::config::{Log, LogFormat};

/// Starts logging. Called once, before the first thread.
pub fn start(log: Log) {
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(log.level))
        .with_writer(std::io::stderr)
        // When standard error is gone there is nobody to tell, and trying would panic.
        .log_internal_errors(false)
        .with_target(false);
    match log.format {
        // Standard error is often a file: colours would be in it.
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
