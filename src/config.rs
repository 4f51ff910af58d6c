//! What the operator can set: a TOML file, then `RINGPOST_…` variables, then flags; the later wins.
//!
//! It reads no secret and touches no file but the configuration itself: what a value *means* is
//! the business of whoever uses it. Every single value is one row of [`keys::KEYS`]; the lists of
//! tables are in [`tables`].

pub mod keys;
pub mod network;
pub mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ringpost_core::admit::Route;
use ringpost_core::dialect::Settings;
use ringpost_core::ids::Dialect;
use ringpost_core::rate::RateLimits;
use ringpost_core::relations::PrivatePolicy;

use crate::address::Rules;
use crate::space::Reserve;
use keys::{Given, KEYS, Key};
pub use tables::{ApiKey, Auth, Listener, Scope};

/// The whole configuration, every value within its range.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The store's directory.
    pub data: PathBuf,
    /// Where WebSocket clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Shard threads, 1 to [`keys::SHARDS_MAX`].
    pub shards: u16,
    /// Written once all listeners are open.
    pub ready_file: Option<PathBuf>,
    /// When a message counts as stored.
    pub durability: Durability,
    /// How much of the store's disk is kept free.
    pub reserve: Reserve,
    /// Seconds over which a drain spreads its closes.
    pub drain_s: u32,
    /// Whether a valid token of an unknown user creates the user.
    pub auto_create_users: bool,
    /// Who may write to whom.
    pub private_policy: PrivatePolicy,
    /// Members of a common group may, too.
    pub strangers_over_groups: bool,
    /// Seconds after a start for which nobody is told who comes and goes.
    pub presence_quiet_s: u32,
    /// Seconds in which an author may take a message back; 0: always.
    pub revoke_within_s: u64,
    /// Whether messages of clients that offer permessage-deflate are compressed.
    pub deflate: bool,
    /// How hard, 1 to 9.
    pub deflate_level: u8,
    /// The HTTP API.
    pub api: Api,
    /// What one client address may.
    pub address: Rules,
    /// `/metrics`.
    pub metrics: Metrics,
    /// The process's own log.
    pub log: Log,
    /// Which dialect is spoken at which path; paths are distinct.
    pub routes: Vec<Route>,
    /// What the dialects let an operator set.
    pub dialects: Settings,
    /// How fast connections and users may ask.
    pub rates: RateLimits,
    /// Who may sign tokens; empty: the secret generated in the data directory.
    pub auth: Vec<Auth>,
    /// What was given, by dotted name; everything else has its default.
    pub given: BTreeMap<&'static str, Origin>,
}

/// How a key was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Where, the last time.
    pub source: Source,
    /// The value as text; of a list of tables, how many: secrets may be in them.
    pub shown: String,
    /// Differs when the value does.
    fingerprint: u64,
}

/// The HTTP API's settings.
#[derive(Clone, PartialEq, Debug)]
pub struct Api {
    /// Its own listener.
    pub listen: SocketAddr,
    /// Who may use it; empty: the key generated in the data directory.
    pub keys: Vec<ApiKey>,
}

/// Settings of `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// Whether it is answered without an API key.
    pub public: bool,
}

/// Settings of the process's own log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// The least level that is written.
    pub level: tracing::Level,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// When a message counts as stored, so that it may be acknowledged and delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// After fsync: survives a power loss.
    Fsync,
    /// After the write; fsync every so many milliseconds: survives a crash of the process.
    Interval(u32),
    /// After the write; the kernel writes back when it likes: survives a crash of the process.
    Os,
}

impl Default for Config {
    fn default() -> Config {
        let mut config = Config {
            data: PathBuf::new(),
            listeners: Vec::new(),
            shards: default_shards(),
            ready_file: None,
            durability: Durability::Fsync,
            reserve: Reserve { percent: 0, bytes: 0 },
            drain_s: 0,
            auto_create_users: false,
            private_policy: PrivatePolicy::Anyone,
            strangers_over_groups: false,
            presence_quiet_s: 0,
            revoke_within_s: 0,
            deflate: false,
            deflate_level: 0,
            api: Api { listen: SocketAddr::from(([127, 0, 0, 1], 0)), keys: Vec::new() },
            address: Rules::default(),
            metrics: Metrics { public: false },
            log: Log { format: LogFormat::Text, level: tracing::Level::INFO },
            routes: ["/imboy/ws", "/ws", "/ws/"]
                .map(|path| Route { path: path.to_owned(), dialect: Dialect::Imboy })
                .to_vec(),
            dialects: Settings::default(),
            rates: RateLimits::default(),
            auth: Vec::new(),
            given: BTreeMap::new(),
        };
        // The table is the one place that says what the default of a key is.
        for key in KEYS {
            if let Some(default) = key.default {
                key.apply(&mut config, Given::Text(default)).expect("a default is in its range");
            }
        }
        config
    }
}

/// All cores but one, which the log writer, the kernel and the control plane share.
fn default_shards() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = cores.saturating_sub(1).clamp(1, usize::from(keys::SHARDS_MAX));
    u16::try_from(shards).expect("clamped to a u16")
}

/// Where a value was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// In the configuration file.
    File(PathBuf),
    /// As this environment variable.
    Variable(String),
    /// As this flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Variable(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// What is wrong with a configuration: the operator's to fix, always with its place.
#[derive(Debug)]
pub struct ConfigError {
    /// Where it was given.
    pub source: Source,
    /// The key by its dotted name, or empty when the file as a whole is wrong.
    pub key: String,
    /// What is wrong, in words.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.key.as_str()) {
            (source, "") => write!(f, "{source}: {}", self.problem),
            (Source::File(path), key) => write!(f, "{}: {key}: {}", path.display(), self.problem),
            (source, _) => write!(f, "{source}: {}", self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The three sources, so that they can be read again.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The process's environment when it began.
    pub variables: Vec<(String, String)>,
    /// Keys given as flags.
    pub flags: Vec<(&'static Key, String)>,
}

impl Sources {
    /// What they say now.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), self.variables.clone(), self.flags.clone())
    }
}

impl Config {
    /// Puts the three sources over the defaults.
    ///
    /// `variables` are all of the process's environment (others than `RINGPOST_…` are ignored);
    /// `flags` are keys by their dotted names.
    ///
    /// # Errors
    /// The first value that is unknown, of the wrong kind or out of its range.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (&'static Key, String)>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(path) = file {
            let source = || Source::File(path.to_owned());
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
                source: source(),
                key: String::new(),
                problem: format!("cannot read it: {error}"),
            })?;
            config.put_file(&text, &source()).map_err(|(key, problem)| ConfigError {
                source: source(),
                key,
                problem,
            })?;
        }
        config.put_variables(variables)?;
        for (key, text) in flags {
            let source = Source::Flag(format!("--{}", key.flag()));
            config.put(key, Given::Text(&text), &source).map_err(|problem| ConfigError {
                source: source.clone(),
                key: key.name.to_owned(),
                problem,
            })?;
        }
        Ok(config)
    }

    /// The names of what is given differently here, in order.
    pub fn changed_from(&self, old: &Config) -> Vec<&'static str> {
        let fingerprint =
            |config: &Config, name: &str| config.given.get(name).map(|origin| origin.fingerprint);
        let names = self.given.keys().chain(old.given.keys()).copied();
        let mut changed: Vec<_> =
            names.filter(|name| fingerprint(self, name) != fingerprint(old, name)).collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    fn put(&mut self, key: &'static Key, given: Given<'_>, source: &Source) -> Result<(), String> {
        key.apply(self, given)?;
        let shown = match given {
            Given::Text(text) => text.to_owned(),
            Given::Toml(toml::Value::String(text)) => text.clone(),
            Given::Toml(value) => value.to_string(),
        };
        self.note(key.name, shown.clone(), &shown, source);
        Ok(())
    }

    fn note(&mut self, name: &'static str, shown: String, value: &str, source: &Source) {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        let origin = Origin { source: source.clone(), shown, fingerprint: hasher.finish() };
        self.given.insert(name, origin);
    }

    /// Puts a file's text over this. The error is the key's dotted name and what is wrong.
    fn put_file(&mut self, text: &str, source: &Source) -> Result<(), (String, String)> {
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| (String::new(), e.to_string()))?;
        if table.contains_key("listen") && table.contains_key("listener") {
            let problem = "give either this or [[listener]] tables, not both";
            return Err(("listen".to_owned(), problem.to_owned()));
        }
        self.put_table("", &table, source)
    }

    fn put_table(
        &mut self,
        prefix: &str,
        table: &toml::Table,
        source: &Source,
    ) -> Result<(), (String, String)> {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            let put = if let Some(key) = keys::find(&name) {
                self.put(key, Given::Toml(value), source)
            } else if let Some((list, put)) = tables::find(&name) {
                put(self, value).map(|()| {
                    let shown = match value {
                        toml::Value::Array(tables) => format!("{} of [[{list}]]", tables.len()),
                        _ => format!("[{list}]"),
                    };
                    self.note(list, shown, &value.to_string(), source);
                })
            } else {
                match value {
                    toml::Value::Table(inner) if keys::has_section(&name) => {
                        self.put_table(&format!("{name}."), inner, source)?;
                        Ok(())
                    }
                    _ => Err("unknown key".to_owned()),
                }
            };
            put.map_err(|problem| (name, problem))?;
        }
        Ok(())
    }

    fn put_variables(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let mut ours: Vec<(String, String)> =
            variables.into_iter().filter(|(name, _)| name.starts_with(keys::PREFIX)).collect();
        // The environment has no order of its own; which error comes first must not vary.
        ours.sort();
        for (name, text) in ours {
            let key = KEYS.iter().find(|key| key.variable() == name);
            let source = Source::Variable(name);
            let result = match key {
                Some(key) => self.put(key, Given::Text(&text), &source),
                None => Err("unknown key".to_owned()),
            };
            result.map_err(|problem| ConfigError {
                key: key.map_or("", |key| key.name).to_owned(),
                source: source.clone(),
                problem,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ringpost_core::dialect::imboy::hashids::Hashids;

    fn from_file(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        let source = Source::File(PathBuf::from("ringpost.toml"));
        config.put_file(text, &source).map_err(|(key, problem)| format!("{key}: {problem}"))?;
        Ok(config)
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(from_file("").expect("nothing is wrong"), Config::default());
        let config = Config::default();
        assert_eq!(config.listeners[0].address, SocketAddr::from(([127, 0, 0, 1], 7070)));
        assert_eq!(config.api.listen, SocketAddr::from(([127, 0, 0, 1], 7080)));
        assert_eq!(config.data, Path::new("./data"));
        assert_eq!(config.durability, Durability::Fsync);
        assert!(config.auto_create_users);
        assert!(!config.metrics.public);
        assert!(config.shards >= 1);
        assert_eq!(config.dialects, Settings::default());
    }

    #[test]
    fn every_kind_of_value_is_read_from_a_file() {
        let config = from_file(
            r#"
            data = "/srv/ringpost"
            shards = 3
            durability = "interval:50"
            drain_s = 0
            auto_create_users = false
            [[listener]]
            address = "0.0.0.0:1"
            [[listener]]
            address = "[::1]:2"
            proxy_from = ["10.0.0.0/8", "::1"]
            default_dialect = "imboy"
            [api]
            listen = "127.0.0.1:3"
            [[api.key]]
            name = "backend"
            hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
            scopes = ["read", "write"]
            [metrics]
            public = true
            [log]
            format = "json"
            level = "debug"
            [address]
            upgrades_per_s = 7
            [imboy]
            catchup_gap_ms = 7
            c2c_retry_s = [1, 2.5]
            sign_keys = { "0" = "key of 0" }
            [imboy.hashids]
            salt = "salt"
            [[route]]
            path = "/chat"
            dialect = "imboy"
            [[auth]]
            kid = "k1"
            secret = "0123456789abcdef0123456789abcdef"
            user_claim = "uid"
            require = { sub = "tk" }
            [[auth]]
            kid = "k2"
            public_key_file = "k2.pem"
            [[auth]]
            jwks_file = "keys.json"
            "#,
        )
        .expect("all of it is allowed");
        assert_eq!(config.data, Path::new("/srv/ringpost"));
        assert_eq!(config.shards, 3);
        assert_eq!(config.durability, Durability::Interval(50));
        assert_eq!(config.drain_s, 0);
        assert!(!config.auto_create_users);
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.listeners[0], tables::Listener::at("0.0.0.0:1".parse().expect("valid")));
        let Listener { address, default_dialect, proxy_from } = &config.listeners[1];
        assert_eq!((address.port(), *default_dialect), (2, Some(Dialect::Imboy)));
        assert!(proxy_from[0].contains("10.1.2.3".parse().expect("valid")));
        assert_eq!(config.address.upgrades_per_s, 7);
        assert_eq!(config.api.listen.port(), 3);
        assert_eq!(config.api.keys[0].name, "backend");
        assert_eq!(config.api.keys[0].scopes, [Scope::Read, Scope::Write]);
        assert!(config.metrics.public);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.log.level, tracing::Level::DEBUG);
        assert_eq!(config.dialects.imboy.catchup_gap_ms, 7);
        assert_eq!(config.dialects.imboy.retries.private, [1_000, 2_500]);
        assert!(!config.dialects.imboy.sign_keys.accept("did", "0.3.3", "", ""));
        let hashids = Hashids::new("salt", 6, Hashids::ALPHABET).expect("valid");
        assert_eq!(config.dialects.imboy.hashids, Some(hashids));
        assert_eq!(config.routes.len(), 1);
        assert_eq!(config.routes[0].path, "/chat");
        assert_eq!(config.auth[0].user_claim, "uid");
        assert_eq!(config.auth[0].require["sub"], "tk");
        assert_eq!(config.auth[1].key, tables::TokenKey::PublicKeyFile("k2.pem".into()));
        assert_eq!(config.auth[2].key, tables::TokenKey::JwksFile("keys.json".into()));
    }

    #[test]
    fn unknown_keys_are_errors_with_their_name() {
        for (text, name) in [
            ("colour = 1", "colour: unknown key"),
            ("[colours]", "colours: unknown key"),
            ("[imboy]\ncatchup_gap = 1", "imboy.catchup_gap: unknown key"),
            ("[api]\nkeys = []", "api.keys: unknown key"),
            ("[[listener]]\naddress = \"1.2.3.4:5\"\nport = 1", "listener: "),
        ] {
            let error = from_file(text).expect_err(text);
            assert!(error.starts_with(name), "{text}: {error}");
        }
        let error = from_file("[[listener]]\naddress = \"1.2.3.4:5\"\nport = 1").expect_err("port");
        assert!(error.contains("`port`"), "{error}");
    }

    #[test]
    fn values_out_of_their_range_are_errors_with_the_range() {
        for (text, words) in [
            ("shards = 0", "shards: must be 1 to 256"),
            ("drain_s = -1", "drain_s: must be 0 to 3600"),
            ("drain_s = \"10\"", "drain_s: must be a whole number"),
            ("durability = \"interval:0\"", "durability: must be"),
            ("durability = \"never\"", "durability: must be"),
            ("auto_create_users = 1", "auto_create_users: must be true or false"),
            ("listen = \"localhost\"", "listen: must be an address"),
            ("[log]\nlevel = \"loud\"", "log.level: must be one of"),
            ("[imboy]\nc2c_retry_s = [5, 5]", "imboy.c2c_retry_s: must ascend"),
            ("[imboy]\nc2c_retry_s = [0]", "imboy.c2c_retry_s: "),
            ("listener = []", "listener: "),
            ("[[listener]]\naddress = \"[::]:1\"\nproxy_from = [\"x\"]", "listener: proxy_from: "),
            ("[[listener]]\naddress = \"[::]:1\"\ndefault_dialect = \"x\"", "listener: dialect "),
            (
                "listen = \"1.2.3.4:5\"\n[[listener]]\naddress = \"1.2.3.4:6\"",
                "listen: give either",
            ),
            ("[[route]]\npath = \"x\"\ndialect = \"imboy\"", "route: "),
            ("[[route]]\npath = \"/x\"\ndialect = \"smtp\"", "route: "),
            ("[imboy]\nsign_keys = { v1 = \"k\" }", "imboy.sign_keys: \"v1\" must be a major"),
            ("[imboy.sign_keys]\n0 = \"\"", "imboy.sign_keys: the key of 0"),
            ("[imboy.sign_keys]\n0 = 7", "imboy.sign_keys: "),
            ("[imboy.hashids]\nmin_length = 3", "imboy.hashids: missing field `salt`"),
            ("[imboy.hashids]\nsalt = \"s\"\nalphabet = \"abc\"", "imboy.hashids: alphabet: "),
            ("[imboy.hashids]\nsalt = \"s\"\nmin_length = 99", "imboy.hashids: min_length: "),
            ("[[auth]]\nuser_claim = \"sub\"", "auth: "),
            ("[[auth]]\nsecret = \"short\"", "auth: "),
            ("[[auth]]\npublic_key_file = \"a\"\njwks_file = \"b\"", "auth: exactly one"),
            ("[[auth]]\nkid = \"k\"\njwks_file = \"b\"", "auth: kid: "),
            ("[[api.key]]\nname = \"a\"\nhash = \"md5:00\"\nscopes = [\"read\"]", "api.key: "),
        ] {
            let error = from_file(text).expect_err(text);
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }

    #[test]
    fn variables_win_over_the_file_and_flags_over_both() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ringpost.toml");
        std::fs::write(&file, "shards = 2\ndrain_s = 2\n[api]\nlisten = \"127.0.0.1:2\"\n")
            .expect("written");
        let flag = |name, text: &str| (keys::find(name).expect("a key"), text.to_owned());
        let config = Config::load(
            Some(&file),
            variables(&[
                ("RINGPOST_DRAIN_S", "3"),
                ("RINGPOST_API_LISTEN", "127.0.0.1:3"),
                ("RINGPOST_IMBOY_C2C_RETRY_S", "1, 4"),
                ("PATH", "/bin"),
            ]),
            [flag("api.listen", "127.0.0.1:4")],
        )
        .expect("all of it is allowed");
        assert_eq!(config.shards, 2);
        assert_eq!(config.drain_s, 3);
        assert_eq!(config.api.listen.port(), 4);
        assert_eq!(config.dialects.imboy.retries.private, [1_000, 4_000]);
    }

    #[test]
    fn what_was_given_is_known_and_compared() {
        let old = from_file("shards = 2\ndrain_s = 5\n[log]\nlevel = \"warn\"").expect("allowed");
        let new = from_file(
            "shards = 2\ndrain_s = 6\n[[auth]]\nsecret = \"0123456789abcdef0123456789abcdef\"",
        )
        .expect("allowed");
        assert_eq!(new.changed_from(&old), ["auth", "drain_s", "log.level"]);
        assert!(new.changed_from(&new.clone()).is_empty());
        assert_eq!(new.given["drain_s"].shown, "6");
        assert_eq!(new.given["auth"].shown, "1 of [[auth]]");
        assert!(!format!("{new:?}").contains("0123456789abcdef"), "a secret is shown");
        let flag = (keys::find("shards").expect("a key"), "3".to_owned());
        let config = Config::load(None, variables(&[("RINGPOST_SHARDS", "2")]), [flag]);
        let origin = config.expect("allowed").given["shards"].clone();
        assert_eq!((origin.source.to_string().as_str(), &*origin.shown), ("flag --shards", "3"));
    }

    #[test]
    fn errors_name_their_place() {
        let load = |vars: &[(&str, &str)]| Config::load(None, variables(vars), []);
        let error = load(&[("RINGPOST_COLOUR", "1")]).expect_err("unknown").to_string();
        assert_eq!(error, "environment variable RINGPOST_COLOUR: unknown key");
        let error = load(&[("RINGPOST_SHARDS", "x")]).expect_err("not a number").to_string();
        assert!(error.starts_with("environment variable RINGPOST_SHARDS: must be"), "{error}");
        let flag = (keys::find("shards").expect("a key"), "0".to_owned());
        let error = Config::load(None, [], [flag]).expect_err("out of range").to_string();
        assert!(error.starts_with("flag --shards: must be 1 to 256"), "{error}");
        let missing = Path::new("/nonexistent/ringpost.toml");
        let error = Config::load(Some(missing), [], []).expect_err("no file").to_string();
        assert!(error.starts_with("/nonexistent/ringpost.toml: cannot read it"), "{error}");
    }

    #[test]
    fn names_of_variables_and_flags_are_distinct() {
        let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        let mut flags: Vec<String> = KEYS.iter().map(Key::flag).collect();
        variables.sort();
        variables.dedup();
        flags.sort();
        flags.dedup();
        assert_eq!(variables.len(), KEYS.len());
        assert_eq!(flags.len(), KEYS.len());
    }
}
