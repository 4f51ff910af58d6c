//! The process's own log: one line per event on standard error, for people or for programs. What
//! is logged where, and how, is the business of who logs.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{Log, LogFormat};

/// Changes the level while the process runs.
pub struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// From now on this is the least level that is written.
    pub fn set(&self, level: tracing::Level) {
        let changed = self.0.reload(LevelFilter::from_level(level));
        // The subscriber lives as long as the process, and a panic under its lock has ended it.
        changed.expect("the subscriber is there");
    }
}

/// Starts logging. Called once, before the first thread.
pub fn start(log: Log) -> Level {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(log.level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // When standard error is gone there is nobody to tell, and trying would panic.
        .log_internal_errors(false)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        // Standard error is often a file: colours would be in it.
        LogFormat::Text => registry.with(lines.with_ansi(false)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Level(handle)
}
