//! The lists of tables in the configuration file: listeners, routes, API keys, token keys; and
//! the tables whose keys are not known beforehand or stand or fall together.
//!
//! They can be given in the file alone. Unknown fields are errors with their name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ringpost_core::admit::Route;
use ringpost_core::dialect::imboy::hashids::Hashids;
use ringpost_core::dialect::imboy::sign::SignKeys;
use ringpost_core::ids::Dialect;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Config;
use super::network::Network;

/// Listeners of a process: each has a socket on each shard.
const LISTENERS_MAX: usize = 16;
/// Networks of trusted proxies are compared one by one for each connection.
const NETWORKS_MAX: usize = 64;
/// Routes are compared one by one for each upgrade.
const ROUTES_MAX: usize = 64;
/// API keys are compared one by one for each request.
const API_KEYS_MAX: usize = 256;
/// A token without a `kid` may be checked with each key of its algorithm.
const AUTH_MAX: usize = 16;
/// Major versions of an app that may still connect.
const SIGN_KEYS_MAX: usize = 64;
/// Shorter secrets can be guessed; RFC 7518 section 3.2 asks for 32.
const SECRET_BYTES_MIN: usize = 16;
/// No key is longer; keeps a wrong file from being read as a secret.
pub const SECRET_BYTES_MAX: usize = 4096;

/// `[[listener]]`: where WebSocket clients connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// IP address and port; 0: the system chooses.
    pub address: SocketAddr,
    /// What is spoken at every path without a route; without one they are refused.
    pub default_dialect: Option<Dialect>,
    /// Who must say by a PROXY header for whom it speaks, and is believed.
    pub proxy_from: Vec<Network>,
}

impl Listener {
    /// One without more than an address.
    pub fn at(address: SocketAddr) -> Listener {
        Listener { address, default_dialect: None, proxy_from: Vec::new() }
    }
}

/// `[[api.key]]`: who may use the HTTP API.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// For logs; 1 to 64 bytes.
    pub name: String,
    /// SHA-256 of the key; in the file `sha256:` and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub hash: [u8; 32],
    /// What it may do; at least one.
    pub scopes: Vec<Scope>,
}

/// What an API key may do. None contains another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at everything, metrics included.
    Read,
    /// Change users and what follows.
    Write,
    /// Mint tokens: become any user.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 3] = [Scope::Read, Scope::Write, Scope::Admin];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        }
    }
}

/// `[[auth]]`: a key, or a set of keys, that tokens may be signed with, and what they must say.
#[derive(Clone, PartialEq, Debug)]
pub struct Auth {
    /// The `kid` of its tokens; without one, tokens with any `kid` or none. The keys of a set have
    /// their own.
    pub kid: Option<String>,
    /// The key, which also says by which algorithm.
    pub key: TokenKey,
    /// The claim that holds the user id.
    pub user_claim: String,
    /// Claims that must have these very values.
    pub require: BTreeMap<String, serde_json::Value>,
}

/// Where a token key is.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenKey {
    /// An HS256 secret, in the configuration itself.
    Secret(String),
    /// An HS256 secret in this file; white space at its end does not count.
    SecretFile(PathBuf),
    /// A public key in this PEM file: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA.
    PublicKeyFile(PathBuf),
    /// Public keys of these kinds in this file, a JWK set (RFC 7517).
    JwksFile(PathBuf),
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TokenKey::Secret(_) => f.write_str("Secret(…)"),
            TokenKey::SecretFile(path) => f.debug_tuple("SecretFile").field(path).finish(),
            TokenKey::PublicKeyFile(path) => f.debug_tuple("PublicKeyFile").field(path).finish(),
            TokenKey::JwksFile(path) => f.debug_tuple("JwksFile").field(path).finish(),
        }
    }
}

/// Checks a list and puts it into the configuration. The error says what is wrong.
pub type Put = fn(&mut Config, &toml::Value) -> Result<(), String>;

/// Names of the lists.
pub const NAMES: [&str; 6] =
    ["listener", "route", "api.key", "auth", "imboy.sign_keys", "imboy.hashids"];

/// The list of this name, and what takes it.
pub fn find(name: &str) -> Option<(&'static str, Put)> {
    let list = NAMES.into_iter().find(|list| *list == name)?;
    let put: Put = match list {
        "listener" => put_listeners,
        "route" => put_routes,
        "api.key" => put_api_keys,
        "imboy.sign_keys" => put_sign_keys,
        "imboy.hashids" => put_hashids,
        _ => put_auth,
    };
    Some((list, put))
}

/// Why a secret cannot be one, if so.
pub fn check_secret(secret: &str) -> Result<(), String> {
    if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
        return Ok(());
    }
    Err(format!("a secret must have {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    address: SocketAddr,
    default_dialect: Option<String>,
    #[serde(default)]
    proxy_from: Vec<String>,
}

fn put_listeners(config: &mut Config, value: &toml::Value) -> Result<(), String> {
    let listener = |table: ListenerTable| {
        let ListenerTable { address, default_dialect, proxy_from } = table;
        if proxy_from.len() > NETWORKS_MAX {
            return Err(format!("proxy_from: at most {NETWORKS_MAX} networks"));
        }
        let networks = proxy_from.iter().map(|text| text.parse());
        let proxy_from: Result<_, String> = networks.collect();
        Ok(Listener {
            address,
            default_dialect: default_dialect.map(|name| dialect(&name)).transpose()?,
            proxy_from: proxy_from.map_err(|problem| format!("proxy_from: {problem}"))?,
        })
    };
    let tables: Vec<ListenerTable> = list(value, LISTENERS_MAX)?;
    config.listeners = tables.into_iter().map(listener).collect::<Result<_, String>>()?;
    Ok(())
}

/// The dialect of this name.
fn dialect(name: &str) -> Result<Dialect, String> {
    let known = (0..=u8::MAX).filter_map(Dialect::from_number).find(|d| d.name() == name);
    known.ok_or_else(|| format!("dialect {name:?} is not known"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTable {
    path: String,
    dialect: String,
}

fn put_routes(config: &mut Config, value: &toml::Value) -> Result<(), String> {
    config.routes.clear();
    for RouteTable { path, dialect: name } in list(value, ROUTES_MAX)? {
        let plain = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
        if !path.starts_with('/') || !plain || path.len() > 1024 {
            return Err(format!("path {path:?}: must start with / and have no query"));
        }
        let dialect = dialect(&name)?;
        if config.routes.iter().any(|route| route.path == path) {
            return Err(format!("path {path:?} is given twice"));
        }
        config.routes.push(Route { path, dialect });
    }
    Ok(())
}

fn put_api_keys(config: &mut Config, value: &toml::Value) -> Result<(), String> {
    let keys: Vec<ApiKey> = list(value, API_KEYS_MAX)?;
    for (index, key) in keys.iter().enumerate() {
        if !(1..=64).contains(&key.name.len()) {
            return Err("name: must have 1 to 64 bytes".to_owned());
        }
        if key.scopes.is_empty() {
            return Err(format!("scopes of {:?}: at least one of read, write, admin", key.name));
        }
        if keys[..index].iter().any(|other| other.name == key.name) {
            return Err(format!("name {:?} is given twice", key.name));
        }
    }
    config.api.keys = keys;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthTable {
    kid: Option<String>,
    secret: Option<String>,
    secret_file: Option<PathBuf>,
    public_key_file: Option<PathBuf>,
    jwks_file: Option<PathBuf>,
    #[serde(default = "default_user_claim")]
    user_claim: String,
    #[serde(default)]
    require: BTreeMap<String, serde_json::Value>,
}

fn default_user_claim() -> String {
    "sub".to_owned()
}

fn put_auth(config: &mut Config, value: &toml::Value) -> Result<(), String> {
    config.auth.clear();
    for table in list::<AuthTable>(value, AUTH_MAX)? {
        let AuthTable { kid, user_claim, require, secret, .. } = &table;
        let files = [
            (&table.secret_file, TokenKey::SecretFile as fn(PathBuf) -> TokenKey),
            (&table.public_key_file, TokenKey::PublicKeyFile),
            (&table.jwks_file, TokenKey::JwksFile),
        ];
        let secret = secret.iter().cloned().map(TokenKey::Secret);
        let files = files.into_iter().filter_map(|(path, key)| path.clone().map(key));
        let mut given: Vec<TokenKey> = secret.chain(files).collect();
        let (Some(key), None) = (given.pop(), given.pop()) else {
            let names = "secret, secret_file, public_key_file, jwks_file";
            return Err(format!("exactly one of these must be given: {names}"));
        };
        if let TokenKey::Secret(secret) = &key {
            check_secret(secret).map_err(|problem| format!("secret: {problem}"))?;
        }
        if kid.is_some() && matches!(key, TokenKey::JwksFile(_)) {
            return Err("kid: the keys of a jwks_file have their own".to_owned());
        }
        if !(1..=64).contains(&user_claim.len()) {
            return Err("user_claim: must have 1 to 64 bytes".to_owned());
        }
        if require.contains_key(user_claim) {
            return Err(format!("require: {user_claim} is the user's id, different in each token"));
        }
        if let Some(claim) = require.keys().find(|claim| matches!(claim.as_str(), "exp" | "nbf")) {
            return Err(format!("require: {claim} is checked against the clock"));
        }
        let AuthTable { kid, user_claim, require, .. } = table;
        config.auth.push(Auth { kid, key, user_claim, require });
    }
    Ok(())
}

fn put_sign_keys(config: &mut Config, value: &toml::Value) -> Result<(), String> {
    let keys: BTreeMap<String, String> = value.clone().try_into().map_err(message)?;
    if keys.len() > SIGN_KEYS_MAX {
        return Err(format!("must have at most {SIGN_KEYS_MAX} keys"));
    }
    for (major, key) in &keys {
        if major.is_empty() || !major.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{major:?} must be a major version, e.g. \"0\""));
        }
        if !(1..=SECRET_BYTES_MAX).contains(&key.len()) {
            return Err(format!("the key of {major}: must have 1 to {SECRET_BYTES_MAX} bytes"));
        }
    }
    config.dialects.imboy.sign_keys = SignKeys::new(keys);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashidsTable {
    salt: String,
    #[serde(default = "default_min_length")]
    min_length: usize,
    #[serde(default = "default_alphabet")]
    alphabet: String,
}

fn default_min_length() -> usize {
    Hashids::MIN_LENGTH
}

fn default_alphabet() -> String {
    Hashids::ALPHABET.to_owned()
}

fn put_hashids(config: &mut Config, value: &toml::Value) -> Result<(), String> {
    let table: HashidsTable = value.clone().try_into().map_err(message)?;
    let HashidsTable { salt, min_length, alphabet } = table;
    if salt.len() > SECRET_BYTES_MAX {
        return Err(format!("salt: must have at most {SECRET_BYTES_MAX} bytes"));
    }
    config.dialects.imboy.hashids = Some(Hashids::new(&salt, min_length, &alphabet)?);
    Ok(())
}

/// The library's text may span lines and end with one.
fn message(error: toml::de::Error) -> String {
    error.message().trim().to_owned()
}

fn list<T: DeserializeOwned>(value: &toml::Value, count_max: usize) -> Result<Vec<T>, String> {
    let items: Vec<T> = value.clone().try_into().map_err(message)?;
    if items.is_empty() || items.len() > count_max {
        return Err(format!("must have 1 to {count_max} tables"));
    }
    Ok(items)
}

fn hash<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || serde::de::Error::custom("hash: must be sha256: and 64 hexadecimal digits");
    let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        let pair = &digits[2 * index..2 * index + 2];
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}
