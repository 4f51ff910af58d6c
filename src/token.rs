//! Tokens: checks them for the core and mints them for the operator (protocols/README.md,
//! *Authentication*).
//!
//! Signatures are the library's business (jsonwebtoken; HMACs are compared in constant time), and
//! nothing of a token is believed before its signature is right. Time comes in as an argument; the
//! library's own clock is not asked. What a key may be is in [`check_key`].

mod check_key;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ringpost_core::admit::{Claims, TokenCheck, TokenFault};
use ringpost_core::ids::UserId;
use ringpost_core::limits::DEVICE_ID_BYTES_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::tables::{Auth, TokenKey, check_secret};
use crate::secrets;
use check_key::CheckKey;

/// Clocks of those who mint tokens may differ from ours by this much.
const LEEWAY_MS: u64 = 30_000;
/// Times above are in milliseconds, others in seconds: as seconds it is the year 5138.
const SECONDS_MAX: u64 = 100_000_000_000;
/// A token may be valid for ten years; longer is a mistake.
pub const TTL_S_MAX: u64 = 10 * 366 * 86_400;
/// A PEM file: a key of 4,096 bits and remarks around it.
const PEM_BYTES_MAX: usize = 16 << 10;
/// A JWK set with certificates beside its keys, as identity providers publish them.
const JWKS_BYTES_MAX: usize = 256 << 10;

/// The keys that tokens are checked with. At least one.
#[derive(Debug)]
pub struct Tokens {
    keys: Vec<Key>,
}

/// One key, and what the tokens signed with it must say.
#[derive(Debug)]
struct Key {
    /// Only tokens with this `kid`; `None`: any, and those without.
    kid: Option<String>,
    check: CheckKey,
    rules: Rules,
}

#[derive(Clone, Debug)]
struct Rules {
    user_claim: String,
    require: BTreeMap<String, Value>,
}

/// A key of the configuration, or a generated one, cannot be used.
#[derive(Debug)]
pub struct KeyError {
    /// Which setting names it.
    pub setting: &'static str,
    /// The file that it should have come from.
    pub path: PathBuf,
    /// Why it did not.
    pub problem: io::Error,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.setting, self.path.display(), self.problem)
    }
}

impl std::error::Error for KeyError {}

/// The checking and the minting side of the configured keys; with none configured, of the
/// generated secret that the closure fetches. Tokens are minted with the first secret; public keys
/// alone mint none.
///
/// # Errors
/// A key's file cannot be read, or holds none.
pub fn keys(
    auth: &[Auth],
    generated: impl FnOnce() -> Result<String, KeyError>,
) -> Result<(Tokens, Option<Signer>), KeyError> {
    let mut tokens = Tokens { keys: Vec::new() };
    let mut signer = None;
    if auth.is_empty() {
        let rules = Rules { user_claim: "sub".to_owned(), require: BTreeMap::new() };
        signer = Some(tokens.add_secret(None, &generated()?, rules));
    }
    for Auth { kid, key, user_claim, require } in auth {
        let rules = Rules { user_claim: user_claim.clone(), require: require.clone() };
        match key {
            TokenKey::Secret(secret) => {
                let new = tokens.add_secret(kid.clone(), secret, rules);
                signer = signer.or(Some(new));
            }
            TokenKey::SecretFile(path) => {
                let wrong = |problem| KeyError::new("auth.secret_file", path, problem);
                let secret = secrets::load(path).map_err(wrong)?;
                check_secret(&secret).map_err(|problem| wrong(io::Error::other(problem)))?;
                let new = tokens.add_secret(kid.clone(), &secret, rules);
                signer = signer.or(Some(new));
            }
            TokenKey::PublicKeyFile(path) => {
                let wrong = |problem| KeyError::new("auth.public_key_file", path, problem);
                let text = secrets::read(path, PEM_BYTES_MAX).map_err(wrong)?;
                let check =
                    check_key::from_pem(&text).map_err(|what| wrong(io::Error::other(what)))?;
                tokens.keys.push(Key { kid: kid.clone(), check, rules });
            }
            TokenKey::JwksFile(path) => {
                let wrong = |problem| KeyError::new("auth.jwks_file", path, problem);
                let text = secrets::read(path, JWKS_BYTES_MAX).map_err(wrong)?;
                let set =
                    check_key::from_jwks(&text).map_err(|what| wrong(io::Error::other(what)))?;
                let key = |(kid, check)| Key { kid, check, rules: rules.clone() };
                tokens.keys.extend(set.into_iter().map(key));
            }
        }
    }
    Ok((tokens, signer))
}

impl KeyError {
    /// See the fields.
    pub fn new(setting: &'static str, path: &Path, problem: io::Error) -> KeyError {
        KeyError { setting, path: path.to_owned(), problem }
    }
}

impl Tokens {
    /// Adds an HS256 key; its signing side.
    fn add_secret(&mut self, kid: Option<String>, secret: &str, rules: Rules) -> Signer {
        let mut header = Header::new(Algorithm::HS256);
        header.kid.clone_from(&kid);
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signer = Signer { header, key, rules: rules.clone() };
        self.keys.push(Key { kid, check: check_key::from_secret(secret), rules });
        signer
    }
}

/// The parts of a header that decide. Others are informative.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    /// Names of extensions that must be understood; there are none that we do
    /// (RFC 7515 section 4.1.11).
    crit: Option<Value>,
}

impl TokenCheck for Tokens {
    fn check(&self, wall_ms: u64, token: &str) -> Result<Claims, TokenFault> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Invalid)?;
        let (header, claims) = message.split_once('.').ok_or(TokenFault::Invalid)?;
        let header: TokenHeader = part(header)?;
        if header.crit.is_some() {
            return Err(TokenFault::Invalid);
        }
        let algorithm: Algorithm = header.alg.parse().map_err(|_| TokenFault::Invalid)?;
        let mut fault = TokenFault::Invalid;
        for key in &self.keys {
            let Key { kid, check, .. } = key;
            if check.algorithm != algorithm || (kid.is_some() && *kid != header.kid) {
                continue;
            }
            let message = message.as_bytes();
            let verified = jsonwebtoken::crypto::verify(signature, message, &check.key, algorithm);
            if !matches!(verified, Ok(true)) {
                continue;
            }
            match key.rules.read(&part(claims)?, wall_ms) {
                Ok(claims) => return Ok(claims),
                // Another key's rules may still be content.
                Err(TokenFault::Expired) => fault = TokenFault::Expired,
                Err(TokenFault::Invalid) => {}
            }
        }
        Err(fault)
    }
}

/// A base64url part of a token as JSON.
fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, TokenFault> {
    let bytes = base64url(text).ok_or(TokenFault::Invalid)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenFault::Invalid)
}

/// Undoes base64url without padding (RFC 7515 section 2).
fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

impl Rules {
    /// `Expired` only when everything else is right.
    fn read(&self, claims: &Map<String, Value>, wall_ms: u64) -> Result<Claims, TokenFault> {
        let user = claims.get(&self.user_claim).and_then(Value::as_str);
        let user = user.and_then(UserId::parse).ok_or(TokenFault::Invalid)?;
        if self.require.iter().any(|(name, value)| claims.get(name) != Some(value)) {
            return Err(TokenFault::Invalid);
        }
        let device = match claims.get("did") {
            None | Some(Value::Null) => None,
            Some(Value::String(did)) if (1..=DEVICE_ID_BYTES_MAX).contains(&did.len()) => {
                Some(did.as_str().into())
            }
            Some(_) => return Err(TokenFault::Invalid),
        };
        if let Some(not_before) = claims.get("nbf") {
            let not_before_ms = time_ms(not_before).ok_or(TokenFault::Invalid)?;
            if not_before_ms > wall_ms.saturating_add(LEEWAY_MS) {
                return Err(TokenFault::Invalid);
            }
        }
        let expires_ms = claims.get("exp").and_then(time_ms).ok_or(TokenFault::Invalid)?;
        // RFC 7519 section 4.1.4: not accepted on or after that time.
        if wall_ms >= expires_ms.saturating_add(LEEWAY_MS) {
            return Err(TokenFault::Expired);
        }
        Ok(Claims { user, expires_ms, device })
    }
}

/// A time in a claim, which may have a fraction; before 1970 is 1970.
fn time_ms(value: &Value) -> Option<u64> {
    if let Some(whole) = value.as_u64() {
        // At most 10^14 after the multiplication.
        return Some(if whole > SECONDS_MAX { whole } else { whole * 1000 });
    }
    let number = value.as_f64()?;
    let ms = if number > SECONDS_MAX as f64 { number } else { number * 1000.0 };
    // The cast saturates at both ends, and parsed JSON has no NaN.
    Some(ms as u64)
}

/// Mints tokens.
#[derive(Clone)]
pub struct Signer {
    header: Header,
    key: EncodingKey,
    rules: Rules,
}

/// What a token shall say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Whose it is.
    pub user: UserId,
    /// The only device that may use it, 1 to 128 bytes.
    pub device: Option<String>,
    /// Device platform.
    pub platform: Option<String>,
    /// App key.
    pub app: Option<String>,
    /// `user` (the same as none) or `service`.
    pub role: Option<Role>,
    /// Seconds that it is valid for, 1 to [`TTL_S_MAX`].
    pub ttl_s: u64,
    /// Unit of its `exp`.
    pub exp_unit: ExpUnit,
}

/// What a token's user is.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person.
    User,
    /// A program.
    Service,
}

/// Unit of the times in a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExpUnit {
    /// As RFC 7519 has it.
    #[default]
    S,
    /// As some clients have it.
    Ms,
}

/// Why a token cannot be minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantError {
    /// The field of [`Grant`].
    pub field: &'static str,
    /// What it must be.
    pub problem: &'static str,
}

impl std::fmt::Display for GrantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for GrantError {}

impl Signer {
    /// A token that [`Tokens`] of the same keys takes from `wall_ms` on.
    ///
    /// # Errors
    /// A field of the grant is out of its range.
    pub fn mint(&self, wall_ms: u64, grant: &Grant) -> Result<String, GrantError> {
        let text = |field, value: &Option<String>, bytes_max| match value {
            Some(value) if !(1..=bytes_max).contains(&value.len()) => {
                Err(GrantError { field, problem: "must have 1 to 128 bytes" })
            }
            _ => Ok(()),
        };
        text("device", &grant.device, DEVICE_ID_BYTES_MAX)?;
        text("platform", &grant.platform, DEVICE_ID_BYTES_MAX)?;
        text("app", &grant.app, DEVICE_ID_BYTES_MAX)?;
        if !(1..=TTL_S_MAX).contains(&grant.ttl_s) {
            return Err(GrantError { field: "ttl_s", problem: "must be 1 second to ten years" });
        }
        let from_s = wall_ms / 1000;
        let unit = if grant.exp_unit == ExpUnit::Ms { 1000 } else { 1 };
        let mut claims: Map<String, Value> = self.rules.require.clone().into_iter().collect();
        claims.insert(self.rules.user_claim.clone(), json!(grant.user.as_str()));
        claims.insert("iat".to_owned(), json!(from_s * unit));
        claims.insert("exp".to_owned(), json!((from_s + grant.ttl_s) * unit));
        let role = grant.role.map(|role| match role {
            Role::User => "user",
            Role::Service => "service",
        });
        let optional = [
            ("did", grant.device.as_deref()),
            ("platform", grant.platform.as_deref()),
            ("app", grant.app.as_deref()),
            ("role", role),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                claims.insert(name.to_owned(), json!(value));
            }
        }
        let token = jsonwebtoken::encode(&self.header, &claims, &self.key);
        Ok(token.expect("a map of strings and numbers, and an HMAC key"))
    }
}

#[cfg(test)]
mod tests;
