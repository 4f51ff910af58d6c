//! The command line: what may be typed, and what it means. It does nothing of it.
//!
//! `serve`'s flags are made from the table of configuration keys, so that a key has the same
//! meaning, range and sentence wherever it is given.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ringpost_core::ids::UserId;

use crate::config::keys::{self, KEYS, Key, Kind};
use crate::config::{Config, ConfigError, Sources};
use crate::doctor::CONNECTIONS_MAX;
use crate::repair;
use crate::token::{ExpUnit, Grant, Role, TTL_S_MAX};

/// What was asked for.
#[derive(Debug)]
pub enum Request {
    /// Run the server; its configuration can be read again. Boxed, because it is large.
    Serve { config: Box<Config>, sources: Sources },
    /// Print a token.
    Token { config: Box<Config>, grant: Grant },
    /// Look at a configuration; `json`: for programs.
    CheckConfig { sources: Sources, json: bool },
    /// Print a configuration with every key.
    ExampleConfig,
    /// Look at the machine.
    Doctor { shards: u16, connections: Option<u64>, json: bool },
    /// Examine a store, and repair it if that is said.
    Repair(repair::Request),
}

/// Why nothing was asked for.
#[derive(Debug)]
pub enum CliError {
    /// Wrong usage, or help was wanted: clap has the text and the status.
    Usage(clap::Error),
    /// The configuration is wrong.
    Config(ConfigError),
}

/// Reads a command line; the environment comes as an argument too.
///
/// # Errors
/// What to tell whoever typed it.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Request, CliError> {
    let matches = command().try_get_matches_from(args).map_err(CliError::Usage)?;
    let (name, matches) = matches.subcommand().expect("clap asks for one");
    if name == "repair" {
        // It needs no configuration.
        return Ok(Request::Repair(repair_request(matches)));
    }
    let given = |key: &'static Key| {
        let text = matches.try_get_one::<String>(key.name).ok().flatten();
        text.map(|text| (key, text.clone()))
    };
    let sources = Sources {
        file: matches.get_one::<PathBuf>("config").cloned(),
        variables: variables.into_iter().collect(),
        flags: KEYS.iter().filter_map(given).collect(),
    };
    let json = matches.try_get_one::<bool>("json").ok().flatten().is_some_and(|json| *json);
    if name == "check-config" {
        return Ok(match matches.get_flag("example") {
            true => Request::ExampleConfig,
            false => Request::CheckConfig { sources, json },
        });
    }
    let config = Box::new(sources.load().map_err(CliError::Config)?);
    Ok(match name {
        "serve" => Request::Serve { config, sources },
        "token" => Request::Token { config, grant: grant(matches) },
        "doctor" => {
            let connections = matches.get_one("connections").copied();
            Request::Doctor { shards: config.shards, connections, json }
        }
        _ => unreachable!("clap knows these commands only"),
    })
}

/// All commands.
pub fn command() -> Command {
    Command::new("ringpost")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve_command())
        .subcommand(token_command())
        .subcommand(check_config_command())
        .subcommand(doctor_command())
        .subcommand(repair_command())
        .after_help("Exit status: 0 done, 1 failed, 2 wrong usage or configuration.")
}

fn serve_command() -> Command {
    Command::new("serve")
        .about("Run the server")
        .arg(config_arg())
        .args(KEYS.iter().map(key_arg))
        .after_help(
            "Without any of these it serves on 127.0.0.1:7070 from ./data, with a generated \
             secret, and prints how to get a token and connect.\n\n\
             A key is set by its flag, else by its variable, else in the file of --config, where \
             its name has a dot for the table: --api-listen is RINGPOST_API_LISTEN is\n\
             \x20 [api]\n\
             \x20 listen = \"127.0.0.1:7080\"\n\
             In the file alone: [[listener]], [[route]], [[auth]], [[api.key]].\n\n\
             Examples:\n\
             \x20 ringpost serve\n\
             \x20 ringpost serve --config /etc/ringpost.toml\n\
             \x20 RINGPOST_SHARDS=3 ringpost serve --data /srv/ringpost --listen 0.0.0.0:7070\n\n\
             SIGTERM and SIGINT drain and exit with 0; a second one ends at once. SIGHUP reads the \
             configuration and the key files again: token keys, API keys, address.*, \
             rate_limit*, metrics.public and log.level change without disturbing a connection.",
        )
}

fn token_command() -> Command {
    let text = |name: &'static str, value: &'static str, about: &'static str| {
        Arg::new(name).long(name).value_name(value).help(about)
    };
    Command::new("token")
        .about("Print a token with which a client can connect")
        .arg(text("user", "ID", "Whose token it is").required(true).value_parser(user))
        .arg(config_arg())
        .arg(key_arg(keys::find("data").expect("a key")))
        .arg(text("device", "DEVICE", "The only device (did) that may use it"))
        .arg(text("platform", "PLATFORM", "Device platform, e.g. ios"))
        .arg(text("app", "APP", "App key"))
        .arg(text("role", "ROLE", "What the user is").value_parser(value_parser!(Role)))
        .arg(
            text("ttl", "TIME", "How long it is valid: a number and s, m, h or d")
                .default_value("24h")
                .value_parser(ttl_s),
        )
        .arg(
            text("exp-unit", "UNIT", "Unit of the times in it")
                .default_value("s")
                .value_parser(value_parser!(ExpUnit)),
        )
        .after_help(
            "It is signed with the first [[auth]] secret of the configuration, or with the secret \
             that the server generated in its data directory; public keys sign nothing. The token \
             alone goes to standard output.\n\n\
             Examples:\n\
             \x20 ringpost token --user alice\n\
             \x20 ringpost token --user alice --data /srv/ringpost --device phone-1 --ttl 30d",
        )
}

fn check_config_command() -> Command {
    Command::new("check-config")
        .about("Look at a configuration, or print one with every key")
        .arg(config_arg())
        .arg(
            Arg::new("example")
                .long("example")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["config", "json"])
                .help("Print a configuration file with every key, its range and its default"),
        )
        .arg(json_arg())
        .after_help(
            "The file, the variables and the key files that they name are read as `serve` reads \
             them; every key is shown with its value and where that was given. Nothing is made \
             or changed. Exit status 1: `serve` would refuse it.\n\n\
             Examples:\n\
             \x20 ringpost check-config --example > ringpost.toml\n\
             \x20 ringpost check-config --config ringpost.toml\n\
             \x20 ringpost check-config --config ringpost.toml && systemctl reload ringpost",
        )
}

fn doctor_command() -> Command {
    Command::new("doctor")
        .about("Look at the machine: what is wanted, what was found, and the command that fixes it")
        .arg(
            Arg::new("connections")
                .long("connections")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=CONNECTIONS_MAX))
                .help("Whether it can hold so many connections"),
        )
        .arg(config_arg())
        .arg(key_arg(keys::find("shards").expect("a key")))
        .arg(json_arg())
        .after_help(
            "Limits are those of this shell and user; run it as the server is run. Nothing is \
             changed. Exit status 1: the server cannot work here, or not with so many \
             connections.\n\n\
             Examples:\n\
             \x20 ringpost doctor\n\
             \x20 ringpost doctor --connections 1000000 --json",
        )
}

fn json_arg() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, for programs")
}

fn repair_command() -> Command {
    let flag = |name: &'static str, about: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(about)
    };
    Command::new("repair")
        .about("Give up what a hole in a store's write-ahead log has damaged, so that it opens")
        .arg(
            Arg::new("store")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The store's directory (data); no server may have it open"),
        )
        .arg(flag("yes", "Do it; without this it only says what would be lost"))
        .arg(flag("json", "Print one JSON object"))
        .after_help(
            "A server that finds acknowledged messages damaged does not start (status 65) and \
             names this command. A backup that has them is better. Otherwise a repair cuts the log \
             at the damage, moves what is behind it to DIR/lost, makes what is left agree with \
             itself, leaves out 1,000,000 batch numbers and the ids that may have been given, and \
             gives the store a new epoch. A store that opens is never changed.\n\n\
             Exit status: 0 the store opens, now or anyway; 1 it does not: a repair would mend it \
             and --yes was not given, or it is damaged in another way.\n\n\
             Examples:\n\
             \x20 ringpost repair /srv/ringpost\n\
             \x20 ringpost repair --yes /srv/ringpost",
        )
}

fn repair_request(matches: &ArgMatches) -> repair::Request {
    repair::Request {
        store: matches.get_one::<PathBuf>("store").expect("it is required").clone(),
        yes: matches.get_flag("yes"),
        json: matches.get_flag("json"),
    }
}

fn config_arg() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file (TOML)")
}

/// A key as a flag. Its value stays text here: the table checks it, as it does for variables.
fn key_arg(key: &'static Key) -> Arg {
    let (value, range) = match &key.kind {
        Kind::Integer { min, max, .. } => ("N", Some(format!("{min} to {max}"))),
        Kind::Flag { .. } => ("BOOL", Some("true or false".to_owned())),
        Kind::Choice { of, .. } => ("WORD", Some(of.join(", "))),
        Kind::Address { .. } => ("ADDR", None),
        Kind::Path { .. } => ("PATH", None),
        Kind::Durability { .. } => ("WHEN", Some(key.range())),
        Kind::Seconds { .. } => ("LIST", Some(key.range())),
    };
    let mut help = key.about.to_owned();
    let notes: Vec<String> = [
        range.map(|range| format!("range: {range}")),
        key.default.map(|default| format!("default: {default}")),
        Some(format!("variable: {}", key.variable())),
    ]
    .into_iter()
    .flatten()
    .collect();
    help += &format!(" [{}]", notes.join("; "));
    // Names of flags live as long as the process; a dozen of them are made, once.
    let flag: &'static str = key.flag().leak();
    let arg = Arg::new(key.name).long(flag).value_name(value).help(help);
    match &key.kind {
        // `--metrics-public` alone means true.
        Kind::Flag { .. } => arg.num_args(0..=1).default_missing_value("true"),
        Kind::Choice { of, .. } => {
            arg.value_parser(PossibleValuesParser::new(*of)).hide_possible_values(true)
        }
        _ => arg.action(ArgAction::Set),
    }
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).ok_or_else(|| {
        "a user id is 1 to 64 of A-Z a-z 0-9 _ . @ : - and none of the reserved words".to_owned()
    })
}

/// A time like `90s`, `15m`, `24h`, `30d`, in seconds.
fn ttl_s(text: &str) -> Result<u64, String> {
    let wrong = || "a number and s, m, h or d, up to ten years, e.g. 24h".to_owned();
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=TTL_S_MAX).contains(seconds));
    seconds.ok_or_else(wrong)
}

fn grant(matches: &ArgMatches) -> Grant {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    Grant {
        user: matches.get_one::<UserId>("user").expect("it is required").clone(),
        device: text("device"),
        platform: text("platform"),
        app: text("app"),
        role: matches.get_one("role").copied(),
        ttl_s: *matches.get_one("ttl").expect("it has a default"),
        exp_unit: *matches.get_one("exp-unit").expect("it has a default"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, CliError> {
        parse(line.split_whitespace().map(OsString::from), [])
    }

    fn usage(line: &str) -> clap::Error {
        match parsed(line) {
            Err(CliError::Usage(error)) => error,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_table_makes_valid_commands() {
        command().debug_assert();
    }

    #[test]
    fn serve_takes_every_key_as_a_flag() {
        let line = "ringpost serve --data d --listen 127.0.0.1:0 --api-listen 127.0.0.1:0 \
                    --shards 2 --ready-file r --durability interval:20 --drain-s 0 \
                    --address-upgrades-per-s 0 --address-upgrade-burst 1 \
                    --address-handshakes-max 0 \
                    --reserve-percent 3 --reserve-bytes 0 \
                    --auto-create-users false --private-policy friends \
                    --strangers-over-groups --presence-quiet-s 5 --revoke-within-s 60 --metrics-public \
                    --deflate false --deflate-level 6 \
                    --log-format json \
                    --log-level debug --imboy-catchup-gap-ms 0 --imboy-ack-is-read --imboy-c2c-retry-s 1,2 \
                    --imboy-c2g-retry-s 1 --imboy-apply-friend-retry-s 1 \
                    --imboy-logged-another-device-retry-s 1 --imboy-s2c-retry-s 1 \
                    --rate-limit-requests-per-s 1 --rate-limit-requests-burst 1 \
                    --rate-limit-messages-per-s 1 --rate-limit-messages-burst 1 \
                    --rate-limit-strikes 1";
        let Ok(Request::Serve { config, .. }) = parsed(line) else { panic!("a valid line") };
        assert_eq!(config.shards, 2);
        assert!(config.metrics.public);
        assert!(!config.auto_create_users);
        assert_eq!((config.deflate, config.deflate_level), (false, 6));
        assert_eq!(config.dialects.imboy.retries.private, [1_000, 2_000]);
        assert!(config.dialects.imboy.ack_is_read);
        let flags = line.split_whitespace().filter(|word| word.starts_with("--")).count();
        assert_eq!(flags, KEYS.len(), "a flag is missing in this test");
    }

    #[test]
    fn wrong_usage_has_status_2_and_help_has_0() {
        for line in [
            "ringpost",
            "ringpost fly",
            "ringpost serve --wings 2",
            "ringpost serve --log-level loud",
            "ringpost token",
            "ringpost token --user all",
            "ringpost token --user u --ttl 5",
            "ringpost token --user u --ttl 0s",
            "ringpost token --user u --ttl 99999999999999999999d",
            "ringpost token --user u --ttl 11000d",
            "ringpost token --user u --exp-unit h",
            "ringpost check-config --example --json",
            "ringpost doctor --connections 0",
        ] {
            assert_eq!(usage(line).exit_code(), 2, "{line}");
        }
        assert_eq!(usage("ringpost serve --help").exit_code(), 0);
        assert!(matches!(parsed("ringpost serve --shards 0"), Err(CliError::Config(_))));
    }

    #[test]
    fn help_shows_every_key_with_its_variable() {
        let help = usage("ringpost serve --help").to_string();
        for key in KEYS {
            assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
            assert!(help.contains(&key.variable()), "{}", key.name);
        }
    }

    #[test]
    fn a_wrong_configuration_is_not_wrong_usage_of_its_check() {
        let line = "ringpost check-config --config /nonexistent --json";
        let Ok(Request::CheckConfig { sources, json }) = parsed(line) else { panic!("valid") };
        assert_eq!((sources.file, json), (Some(PathBuf::from("/nonexistent")), true));
        let line = "ringpost check-config --example";
        assert!(matches!(parsed(line), Ok(Request::ExampleConfig)));
        let line = "ringpost doctor --connections 5 --shards 7";
        let Ok(Request::Doctor { shards, connections, json }) = parsed(line) else {
            panic!("a valid line")
        };
        assert_eq!((shards, connections, json), (7, Some(5), false));
    }

    #[test]
    fn a_token_is_granted_as_asked() {
        let line = "ringpost token --user u1 --data d --device d1 --platform ios --app a \
                    --role service --ttl 2d --exp-unit ms";
        let Ok(Request::Token { config, grant }) = parsed(line) else { panic!("a valid line") };
        assert_eq!(config.data, PathBuf::from("d"));
        assert_eq!(grant.ttl_s, 2 * 86_400);
        assert_eq!(grant.exp_unit, ExpUnit::Ms);
        assert_eq!(grant.role, Some(Role::Service));
        assert_eq!(grant.device.as_deref(), Some("d1"));
        let Ok(Request::Token { grant, .. }) = parsed("ringpost token --user u1") else {
            panic!("a valid line")
        };
        assert_eq!((grant.ttl_s, grant.exp_unit, grant.role), (86_400, ExpUnit::S, None));
    }
}
