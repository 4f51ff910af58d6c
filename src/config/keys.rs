//! The table of single values: name, kind with its range, default, and a sentence.
//!
//! A row is all there is to a key: the file, the environment, the flags and `--help` are made
//! from it. Lists of tables are not here.

use std::net::SocketAddr;
use std::path::PathBuf;

use ringpost_core::relations::PrivatePolicy;

use super::{Config, Durability, Listener, LogFormat};

/// What the names of variables start with.
pub const PREFIX: &str = "RINGPOST_";
/// Shard threads of a process: more cores than any machine this runs on for years.
pub const SHARDS_MAX: u16 = 256;
/// Longest interval between two fsyncs that still deserves the name.
const DURABILITY_INTERVAL_MS_MAX: u32 = 60_000;

/// More than any connection or user can need, or a shard can serve.
const RATE_MAX: u64 = 1_000_000;

/// One value that can be set.
#[derive(Debug)]
pub struct Key {
    /// Dotted name, as in the file.
    pub name: &'static str,
    /// As it would be written in a variable; `None`: the sentence says what happens without it.
    pub default: Option<&'static str>,
    /// One sentence for `--help` and the example file.
    pub about: &'static str,
    /// What may be given.
    pub kind: Kind,
}

/// What may be given for a key, and where it goes.
#[derive(Debug)]
pub enum Kind {
    /// A whole number, `min..=max`.
    Integer { min: u64, max: u64, set: fn(&mut Config, u64) },
    /// `true` or `false`.
    Flag { set: fn(&mut Config, bool) },
    /// One of some words.
    Choice { of: &'static [&'static str], set: fn(&mut Config, &str) },
    /// IP address and port.
    Address { set: fn(&mut Config, SocketAddr) },
    /// A path, relative to the working directory of the process.
    Path { set: fn(&mut Config, PathBuf) },
    /// See [`Durability`].
    Durability { set: fn(&mut Config, Durability) },
    /// Seconds in ascending order, at most `count_max`, each `0.001..=max`; set as milliseconds.
    Seconds { count_max: usize, max: u32, set: fn(&mut Config, Vec<u64>) },
}

/// Every key. The order is that of `--help`.
pub const KEYS: &[Key] = &[
    Key {
        name: "data",
        default: Some("./data"),
        about: "Directory of the store; made when missing.",
        kind: Kind::Path { set: |config, path| config.data = path },
    },
    Key {
        name: "listen",
        default: Some("127.0.0.1:7070"),
        about: "Where WebSocket clients connect; in place of any [[listener]] of the file.",
        kind: Kind::Address {
            set: |config, address| config.listeners = vec![Listener::at(address)],
        },
    },
    Key {
        name: "api.listen",
        default: Some("127.0.0.1:7080"),
        about: "Where the HTTP API, health checks and metrics answer.",
        kind: Kind::Address { set: |config, address| config.api.listen = address },
    },
    Key {
        name: "shards",
        default: None,
        about: "Shard threads; without it, the cores less one, at least 1. \
                May change at any restart.",
        kind: Kind::Integer {
            min: 1,
            max: SHARDS_MAX as u64,
            set: |config, shards| config.shards = u16::try_from(shards).expect("in its range"),
        },
    },
    Key {
        name: "ready_file",
        default: None,
        about: "Written atomically once all listeners are open: JSON with listen, api and pid.",
        kind: Kind::Path { set: |config, path| config.ready_file = Some(path) },
    },
    Key {
        name: "durability",
        default: Some("fsync"),
        about: "What a message waits for before it is acknowledged and delivered: its fsync, \
                or only the write, with an fsync every so many milliseconds or left to the \
                kernel. Only fsync survives a power loss.",
        kind: Kind::Durability { set: |config, durability| config.durability = durability },
    },
    Key {
        name: "reserve_percent",
        default: Some("5"),
        about: "Percent of the store's disk that are kept free, up to reserve_bytes: below, new \
                messages are answered `try again` and the server is not ready; reading and \
                acknowledging go on. 0 keeps nothing.",
        kind: Kind::Integer {
            min: 0,
            max: 50,
            set: |config, percent| {
                config.reserve.percent = u8::try_from(percent).expect("in its range");
            },
        },
    },
    Key {
        name: "reserve_bytes",
        default: Some("1073741824"),
        about: "The most that is kept free of the store's disk, however large it is. 0 keeps \
                nothing.",
        kind: Kind::Integer {
            min: 0,
            max: 1 << 50,
            set: |config, bytes| config.reserve.bytes = bytes,
        },
    },
    Key {
        name: "drain_s",
        default: Some("10"),
        about: "Seconds over which the connections are closed after SIGTERM or SIGINT.",
        kind: Kind::Integer {
            min: 0,
            max: 3600,
            set: |config, seconds| config.drain_s = u32::try_from(seconds).expect("in its range"),
        },
    },
    Key {
        name: "auto_create_users",
        default: Some("true"),
        about: "Create an unknown user when it connects with a valid token.",
        kind: Kind::Flag { set: |config, on| config.auto_create_users = on },
    },
    Key {
        name: "private_policy",
        default: Some("anyone"),
        about: "Who may write to whom: anyone; contacts (friends, users of the same org, services); \
                or friends. Blocks count always.",
        kind: Kind::Choice {
            of: &["anyone", "contacts", "friends"],
            set: |config, word| {
                config.private_policy = match word {
                    "contacts" => PrivatePolicy::Contacts,
                    "friends" => PrivatePolicy::Friends,
                    _ => PrivatePolicy::Anyone,
                };
            },
        },
    },
    Key {
        name: "strangers_over_groups",
        default: Some("false"),
        about: "Members of a common group may write to each other, too, under a private_policy other \
                than anyone.",
        kind: Kind::Flag { set: |config, on| config.strangers_over_groups = on },
    },
    Key {
        name: "presence_quiet_s",
        default: Some("60"),
        about: "Seconds after a start, on a store that was there before, for which friends are not \
                told who comes and goes; then they are.",
        kind: Kind::Integer {
            min: 0,
            max: 3600,
            set: |config, seconds| {
                config.presence_quiet_s = u32::try_from(seconds).expect("in its range");
            },
        },
    },
    Key {
        name: "address.upgrades_per_s",
        default: Some("100"),
        about: "Upgrade requests per second that one client address may make in the long run; \
                0: any number. Loopback addresses are free.",
        kind: Kind::Integer {
            min: 0,
            max: 100_000,
            set: |config, rate| config.address.upgrades_per_s = whole(rate),
        },
    },
    Key {
        name: "address.upgrade_burst",
        default: Some("1000"),
        about: "Upgrade requests that one client address may make at once after a pause.",
        kind: Kind::Integer {
            min: 1,
            max: 1_000_000,
            set: |config, burst| config.address.upgrade_burst = whole(burst),
        },
    },
    Key {
        name: "address.handshakes_max",
        default: Some("1024"),
        about: "Upgrade requests of one client address that are not whole, at any time; 0: any \
                number. Loopback addresses are free.",
        kind: Kind::Integer {
            min: 0,
            max: 1_000_000,
            set: |config, most| config.address.handshakes_max = whole(most),
        },
    },
    Key {
        name: "revoke_within_s",
        default: Some("120"),
        about: "Seconds in which an author may take a message back; 0: always. A group's owner and \
                admins may at any time.",
        kind: Kind::Integer {
            min: 0,
            max: 10 * 365 * 86_400,
            set: |config, seconds| config.revoke_within_s = seconds,
        },
    },
    Key {
        name: "deflate",
        default: Some("true"),
        about: "Compress messages of clients that offer permessage-deflate (RFC 7692).",
        kind: Kind::Flag { set: |config, on| config.deflate = on },
    },
    Key {
        name: "deflate_level",
        default: Some("1"),
        about: "How hard messages are compressed: 1 costs least, 6 saves up to a quarter more bytes \
                for twice to three times the processor time, 9 hardly any more.",
        kind: Kind::Integer {
            min: 1,
            max: 9,
            set: |config, level| config.deflate_level = u8::try_from(level).expect("in its range"),
        },
    },
    Key {
        name: "metrics.public",
        default: Some("false"),
        about: "Answer /metrics without an API key.",
        kind: Kind::Flag { set: |config, on| config.metrics.public = on },
    },
    Key {
        name: "log.format",
        default: Some("text"),
        about: "Log lines for people or for programs.",
        kind: Kind::Choice {
            of: &["text", "json"],
            set: |config, word| {
                config.log.format = if word == "json" { LogFormat::Json } else { LogFormat::Text };
            },
        },
    },
    Key {
        name: "log.level",
        default: Some("info"),
        about: "The least level that is logged.",
        kind: Kind::Choice {
            of: &["error", "warn", "info", "debug", "trace"],
            set: |config, word| config.log.level = word.parse().expect("one of tracing's levels"),
        },
    },
    Key {
        name: "rate_limit.requests_per_s",
        default: Some("0"),
        about: "Requests of one connection in a second, acknowledgements not counted; 0: no limit.",
        kind: Kind::Integer {
            min: 0,
            max: RATE_MAX,
            set: |config, number| config.rates.requests.per_s = in_range(number),
        },
    },
    Key {
        name: "rate_limit.requests_burst",
        default: Some("100"),
        about: "Requests of one connection that may come at once.",
        kind: Kind::Integer {
            min: 1,
            max: RATE_MAX,
            set: |config, number| config.rates.requests.burst = in_range(number),
        },
    },
    Key {
        name: "rate_limit.messages_per_s",
        default: Some("0"),
        about: "Messages of one user in a second, over all connections; 0: no limit.",
        kind: Kind::Integer {
            min: 0,
            max: RATE_MAX,
            set: |config, number| config.rates.messages.per_s = in_range(number),
        },
    },
    Key {
        name: "rate_limit.messages_burst",
        default: Some("100"),
        about: "Messages of one user that may come at once.",
        kind: Kind::Integer {
            min: 1,
            max: RATE_MAX,
            set: |config, number| config.rates.messages.burst = in_range(number),
        },
    },
    Key {
        name: "rate_limit_strikes",
        default: Some("100"),
        about: "Refusals over these rates before a connection is closed.",
        kind: Kind::Integer {
            min: 1,
            max: RATE_MAX,
            set: |config, number| config.rates.strikes = in_range(number),
        },
    },
    Key {
        name: "imboy.catchup_gap_ms",
        default: Some("100"),
        about: "imboy: pause between two messages pushed at connect, unless the first is \
                acknowledged earlier.",
        kind: Kind::Integer {
            min: 0,
            max: 60_000,
            set: |config, gap_ms| config.dialects.imboy.catchup_gap_ms = gap_ms,
        },
    },
    Key {
        name: "imboy.ack_is_read",
        default: Some("false"),
        about: "imboy: a CLIENT_ACK says that the message was read, not only that it came.",
        kind: Kind::Flag { set: |config, is_read| config.dialects.imboy.ack_is_read = is_read },
    },
    Key {
        name: "imboy.c2c_retry_s",
        default: Some("5,12,23"),
        about: "imboy: when an unacknowledged private message is sent again, in seconds after \
                the first time; after the last it waits for the next connect.",
        kind: Kind::Seconds {
            count_max: 16,
            max: 86_400,
            set: |config, times_ms| config.dialects.imboy.retries.private = times_ms,
        },
    },
    Key {
        name: "imboy.c2g_retry_s",
        default: Some("3.5,7,10,15"),
        about: "imboy: the same for a group message.",
        kind: Kind::Seconds {
            count_max: 16,
            max: 86_400,
            set: |config, times_ms| config.dialects.imboy.retries.group = times_ms,
        },
    },
    Key {
        name: "imboy.apply_friend_retry_s",
        default: Some("1.5,3,6,11,18"),
        about: "imboy: the same for a friend request and its confirmation.",
        kind: Kind::Seconds {
            count_max: 16,
            max: 86_400,
            set: |config, times_ms| config.dialects.imboy.retries.friend_request = times_ms,
        },
    },
    Key {
        name: "imboy.logged_another_device_retry_s",
        default: Some("5,15"),
        about: "imboy: the same for the news that another device has connected; after the last \
                it is not told again.",
        kind: Kind::Seconds {
            count_max: 16,
            max: 86_400,
            set: |config, times_ms| config.dialects.imboy.retries.another_device = times_ms,
        },
    },
    Key {
        name: "imboy.s2c_retry_s",
        default: Some("1000,2000"),
        about: "imboy: the same for any other stored message of the server.",
        kind: Kind::Seconds {
            count_max: 16,
            max: 86_400,
            set: |config, times_ms| config.dialects.imboy.retries.notice = times_ms,
        },
    },
];

/// A number that its key's range keeps within a `u32`.
fn in_range(number: u64) -> u32 {
    u32::try_from(number).expect("in its range")
}

/// The key with this dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether there is a key, or a list of tables, inside this table.
pub fn has_section(name: &str) -> bool {
    let names = KEYS.iter().map(|key| key.name).chain(super::tables::NAMES);
    names.into_iter().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// A value as it came.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// In a variable or flag.
    Text(&'a str),
    /// In the file.
    Toml(&'a toml::Value),
}

impl Key {
    /// Its environment variable: upper case, dots to underscores.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }

    /// Its flag without the dashes: dots and underscores to dashes.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// How it is written in a file: its default, else a value that may be given.
    pub fn example(&self) -> String {
        let given = self.default;
        match &self.kind {
            Kind::Integer { min, .. } => given.map_or_else(|| min.to_string(), str::to_owned),
            Kind::Flag { .. } => given.unwrap_or("false").to_owned(),
            Kind::Choice { of, .. } => format!("{:?}", given.unwrap_or(of[0])),
            Kind::Address { .. } => format!("{:?}", given.unwrap_or("127.0.0.1:0")),
            Kind::Path { .. } => format!("{:?}", given.unwrap_or("./path")),
            Kind::Durability { .. } => format!("{:?}", given.unwrap_or("fsync")),
            Kind::Seconds { .. } => format!("[{}]", given.unwrap_or_default().replace(',', ", ")),
        }
    }

    /// What may be given, in words.
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Integer { min, max, .. } => format!("{min} to {max}"),
            Kind::Flag { .. } => "true or false".to_owned(),
            Kind::Choice { of, .. } => format!("one of {}", of.join(", ")),
            Kind::Address { .. } => "an address like 127.0.0.1:7070 or [::1]:7070".to_owned(),
            Kind::Path { .. } => "a path".to_owned(),
            Kind::Durability { .. } => format!(
                "\"fsync\", \"os\", or \"interval:<ms>\" with 1 to {DURABILITY_INTERVAL_MS_MAX} ms"
            ),
            Kind::Seconds { count_max, max, .. } => {
                format!("at most {count_max} ascending numbers of seconds, 0.001 to {max}")
            }
        }
    }

    /// Checks the value and puts it into the configuration. The error says what it must be.
    pub fn apply(&self, config: &mut Config, given: Given<'_>) -> Result<(), String> {
        let wrong = || format!("must be {}", self.range());
        match &self.kind {
            Kind::Integer { min, max, set } => {
                let range = *min..=*max;
                let value = given
                    .integer()
                    .ok_or_else(|| format!("must be a whole number, {}", self.range()))?;
                let value = u64::try_from(value).ok().filter(|value| range.contains(value));
                set(config, value.ok_or_else(wrong)?);
            }
            Kind::Flag { set } => set(config, given.flag().ok_or_else(wrong)?),
            Kind::Choice { of, set } => {
                let word = given.text().filter(|word| of.contains(word));
                set(config, word.ok_or_else(wrong)?);
            }
            Kind::Address { set } => {
                let address = given.text().and_then(|text| text.parse().ok());
                set(config, address.ok_or_else(wrong)?);
            }
            Kind::Path { set } => {
                let path = given.text().filter(|text| !text.is_empty() && !text.contains('\0'));
                set(config, PathBuf::from(path.ok_or_else(wrong)?));
            }
            Kind::Durability { set } => {
                set(config, given.text().and_then(durability).ok_or_else(wrong)?);
            }
            Kind::Seconds { count_max, max, set } => {
                let seconds = given.numbers().ok_or_else(wrong)?;
                let fits = |s: &f64| (0.001..=f64::from(*max)).contains(s);
                if seconds.len() > *count_max || !seconds.iter().all(fits) {
                    return Err(wrong());
                }
                // In the range, so that the product is a small positive number.
                let times: Vec<u64> = seconds.iter().map(|s| (s * 1000.0).round() as u64).collect();
                if !times.is_sorted_by(|one, next| one < next) {
                    return Err("must ascend".to_owned());
                }
                set(config, times);
            }
        }
        Ok(())
    }
}

/// A number whose range is far below the type's.
fn whole(number: u64) -> u32 {
    u32::try_from(number).expect("in its range")
}

fn durability(text: &str) -> Option<Durability> {
    match text {
        "fsync" => Some(Durability::Fsync),
        "os" => Some(Durability::Os),
        _ => {
            let interval_ms = text.strip_prefix("interval:")?.parse().ok()?;
            let fits = (1..=DURABILITY_INTERVAL_MS_MAX).contains(&interval_ms);
            fits.then_some(Durability::Interval(interval_ms))
        }
    }
}

impl<'a> Given<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Given::Text(text) => Some(text),
            Given::Toml(value) => value.as_str(),
        }
    }

    fn integer(self) -> Option<i64> {
        match self {
            Given::Text(text) => text.trim().parse().ok(),
            Given::Toml(value) => value.as_integer(),
        }
    }

    fn flag(self) -> Option<bool> {
        match self {
            Given::Text(text) => text.trim().parse().ok(),
            Given::Toml(value) => value.as_bool(),
        }
    }

    /// A list of numbers; in text, between commas. Empty text is an empty list.
    fn numbers(self) -> Option<Vec<f64>> {
        match self {
            Given::Text(text) if text.trim().is_empty() => Some(Vec::new()),
            Given::Text(text) => text.split(',').map(|part| part.trim().parse().ok()).collect(),
            Given::Toml(value) => {
                let numbers = value.as_array()?.iter();
                numbers.map(|n| n.as_float().or_else(|| n.as_integer().map(|n| n as f64))).collect()
            }
        }
    }
}
