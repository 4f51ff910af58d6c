//! The `ringpost` binary: reads what was asked for, and has it done. Exit status 0: done; 1: failed;
//! 2: wrong usage or configuration; others: see [`fatal::Cause`].

mod accept;
mod address;
mod bounds;
mod check_config;
mod cli;
mod config;
mod conn;
mod control;
mod doctor;
mod engine;
mod example;
mod fatal;
mod flush;
mod health;
mod log;
mod logging;
mod mesh;
mod out;
mod pool;
mod processor;
mod reload;
mod repair;
mod secrets;
mod serve;
mod settings;
mod shard_thread;
mod space;
mod stats;
mod sys;
mod table;
#[cfg(test)]
mod testing;
mod token;
mod turn;
mod watch;
mod welcome;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use cli::{CliError, Request};
use config::{Config, Sources};
use doctor::Verdict;
use fatal::Cause;
use reload::Reloader;
use serve::Bound;
use token::{Grant, KeyError};

/// Per-thread heaps: what a shard allocates it also frees, and no shard waits for another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something failed that is not the usage's fault.
const FAILED: u8 = 1;
/// The command line, a variable or the configuration file is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // A variable that is not Unicode cannot be one of ours: all our values are.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match cli::parse(std::env::args_os(), variables) {
        Ok(Request::Serve { config, sources }) => serve(*config, &sources),
        Ok(Request::Token { config, grant }) => print_token(&config, &grant),
        Ok(Request::CheckConfig { sources, json }) => {
            let (text, good) = check_config::check(&sources, json);
            print(&text, good)
        }
        Ok(Request::ExampleConfig) => print(&example::text(), true),
        Ok(Request::Doctor { shards, connections, json }) => {
            let findings = doctor::examine(shards, connections);
            let fit = findings.iter().all(|finding| finding.verdict != Verdict::Fatal);
            print(&doctor::report(&findings, json), fit)
        }
        Ok(Request::Repair(request)) => repair(&request),
        Err(CliError::Usage(error)) => {
            // Nothing can be told to a terminal that has gone away.
            let _unheard = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
        }
        Err(CliError::Config(error)) => {
            eprintln!("ringpost: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Checks the machine, fetches or makes the secrets, and runs the server to its end.
fn serve(config: Config, sources: &Sources) -> ExitCode {
    let level = logging::start(config.log);
    if !machine_is_fit(config.shards) {
        return Cause::Environment.into();
    }
    let live = match reload::prepare(&config) {
        Ok(live) => live,
        Err(error) => {
            tracing::error!("{error}");
            return Cause::Config.into();
        }
    };
    let announce = |bound: &Bound| {
        let generated = config.auth.is_empty().then_some(config.data.as_path());
        let listen = bound.listen.first().expect("at least one listener is configured");
        let text = welcome::text(*listen, bound.api, &config.routes, generated);
        // The server does not need anybody to read it.
        let _unheard = io::stderr().write_all(text.as_bytes());
    };
    let mut reloader = Reloader::new(sources, config.clone(), level);
    serve::serve(&config, live, announce, || reloader.reload())
}

/// Logs what the machine lacks; `false` when the server cannot work on it.
fn machine_is_fit(shards: u16) -> bool {
    let mut fit = true;
    for finding in doctor::start_up(shards) {
        match finding.verdict {
            Verdict::Good => tracing::debug!("{finding}"),
            Verdict::Advice => tracing::warn!("{finding}"),
            Verdict::Fatal => {
                tracing::error!("{finding}");
                fit = false;
            }
        }
    }
    fit
}

/// Prints what was asked for; the exit status says whether all is well.
fn print(text: &str, good: bool) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) if good => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("ringpost: standard output: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Prints a token alone, so that `$(ringpost token …)` is one.
fn print_token(config: &Config, grant: &Grant) -> ExitCode {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let secret = || load_secret(&config.data.join(secrets::TOKEN_SECRET));
    let token = match token::keys(&config.auth, secret) {
        Ok((_, Some(signer))) => signer.mint(wall_ms, grant),
        Ok((_, None)) => {
            eprintln!(
                "ringpost: auth: tokens are minted with a secret, and there are public keys only"
            );
            return ExitCode::from(FAILED);
        }
        Err(error) => {
            eprintln!("ringpost: {error}");
            if error.problem.kind() == io::ErrorKind::NotFound {
                eprintln!("start the server once, which makes it, or give its directory by --data");
            }
            return ExitCode::from(FAILED);
        }
    };
    match token {
        Ok(token) => print(&format!("{token}\n"), true),
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Tells what a repair has found or done.
fn repair(request: &repair::Request) -> ExitCode {
    match repair::run(request, &mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn load_secret(path: &Path) -> Result<String, KeyError> {
    secrets::load(path).map_err(|problem| KeyError::new(secrets::TOKEN_SECRET, path, problem))
}
