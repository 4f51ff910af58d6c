//! Keys that tokens are checked with: what a secret, a PEM file or a JWK set holds, and for which
//! one algorithm it is. It reads no file, and checks no token.
//!
//! A key is looked at once, here, so that a bad one is told when it is configured and not by
//! tokens that are refused: the library would find out at the first token, or panic (an Ed25519
//! key that is too short).

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Bits of an RSA modulus: RFC 7518 section 3.3 asks for 2048 at least; the library takes 4096 at
/// most, and each check costs the cube of it.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// RSA exponents that the library takes. They are odd; 65537 in practice.
const RSA_EXPONENTS: std::ops::Range<u64> = 3..1 << 33;
/// An Ed25519 key.
const ED25519_BYTES: usize = 32;
/// Keys of one set: those of the last rotations. A token without a `kid` may be checked with each.
const JWKS_KEYS_MAX: usize = 64;

/// A key and the one algorithm that it is for.
#[derive(Clone, Debug)]
pub struct CheckKey {
    /// A token with another one is refused, whatever its header says (RFC 8725 section 3.1).
    pub algorithm: Algorithm,
    /// The key.
    pub key: DecodingKey,
}

/// The HS256 key of this secret.
pub fn from_secret(secret: &str) -> CheckKey {
    let key = DecodingKey::from_secret(secret.as_bytes());
    CheckKey { algorithm: Algorithm::HS256, key }
}

/// The public key in this PEM text.
///
/// # Errors
/// What is wrong with it, in words.
pub fn from_pem(text: &str) -> Result<CheckKey, String> {
    let has = |label: &str| text.contains(&format!("-----BEGIN {label}"));
    if ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"]
        .map(has)
        .contains(&true)
    {
        let fix = "openssl pkey -in FILE -pubout";
        return Err(format!("holds a private key, which checks nothing: give the output of {fix}"));
    }
    if has("CERTIFICATE") {
        let fix = "openssl x509 -in FILE -noout -pubkey";
        return Err(format!("holds a certificate, not a key: give the output of {fix}"));
    }
    let pem = text.as_bytes();
    let keys = [
        (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
        (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
        (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
    ];
    let key = keys.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
    let key = key.map(|(algorithm, key)| CheckKey { algorithm, key });
    let key = key.ok_or("holds no public key in PEM form of RSA, P-256 or Ed25519")?;
    key.check()?;
    Ok(key)
}

/// A member of a JWK set (RFC 7517), as far as it matters here.
#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Only in private keys.
    d: Option<Value>,
}

/// The public keys for signatures in this JWK set, each with its `kid`. Members of other kinds are
/// passed over, as RFC 7517 section 5 has it; one of a kind that we take must be good.
///
/// # Errors
/// What is wrong with it, in words.
pub fn from_jwks(text: &str) -> Result<Vec<(Option<String>, CheckKey)>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_str(text).map_err(|error| format!("is no JWK set: {error}"))?;
    let mut keys = Vec::new();
    for (index, member) in set.keys.into_iter().enumerate() {
        let name = match member.get("kid").and_then(Value::as_str) {
            Some(kid) => format!("key {kid:?}"),
            None => format!("key number {}", index + 1),
        };
        let wrong = |problem: String| format!("{name}: {problem}");
        let member: Member =
            serde_json::from_value(member).map_err(|error| wrong(error.to_string()))?;
        if let Some(key) = member.key().map_err(wrong)? {
            keys.push((member.kid, key));
        }
    }
    match keys.len() {
        0 => Err("holds no key for RS256, ES256 or EdDSA signatures".to_owned()),
        1..=JWKS_KEYS_MAX => Ok(keys),
        count => Err(format!("holds {count} keys, at most {JWKS_KEYS_MAX} are taken")),
    }
}

impl Member {
    /// `None`: it is of a kind, or for a use, that is not ours.
    fn key(&self) -> Result<Option<CheckKey>, String> {
        if self.kty == "oct" {
            let fix = "a secret belongs into a file of its own, given as secret_file";
            return Err(format!("is a secret among public keys: {fix}"));
        }
        let for_signatures = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let (algorithm, names) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, &["RS256"][..]),
            ("EC", Some("P-256")) => (Algorithm::ES256, &["ES256"][..]),
            // RFC 9864 has a second name for the same.
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, &["EdDSA", "Ed25519"][..]),
            _ => return Ok(None),
        };
        if !for_signatures || self.alg.as_deref().is_some_and(|alg| !names.contains(&alg)) {
            return Ok(None);
        }
        if self.d.is_some() {
            return Err("is a private key, which does not belong here: leave d out".to_owned());
        }
        let part = |name: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| format!("{name} is missing"))
        };
        let key = match algorithm {
            Algorithm::RS256 => {
                DecodingKey::from_rsa_components(&part("n", &self.n)?, &part("e", &self.e)?)
            }
            Algorithm::ES256 => {
                DecodingKey::from_ec_components(&part("x", &self.x)?, &part("y", &self.y)?)
            }
            _ => DecodingKey::from_ed_components(&part("x", &self.x)?),
        };
        let key = key.map_err(|error| format!("is not base64url: {error}"))?;
        let key = CheckKey { algorithm, key };
        key.check()?;
        Ok(Some(key))
    }
}

impl CheckKey {
    /// Whether the library can check with it at all, and whether that would be worth anything.
    fn check(&self) -> Result<(), String> {
        if self.algorithm == Algorithm::RS256 {
            return check_rsa(&self.key);
        }
        if self.algorithm == Algorithm::EdDSA {
            let bytes = self.key.try_get_as_bytes().map_or(0, <[u8]>::len);
            if bytes != ED25519_BYTES {
                return Err(format!("an Ed25519 key has {ED25519_BYTES} bytes, not {bytes}"));
            }
        }
        // A signature of no bytes is never right; a key that is no point of its curve is an error.
        let checked = jsonwebtoken::crypto::verify("", b"", &self.key, self.algorithm);
        checked.map(drop).map_err(|_| format!("is no point of the curve of {:?}", self.algorithm))
    }
}

/// The library takes an RSA key as it comes and finds out at each token.
fn check_rsa(key: &DecodingKey) -> Result<(), String> {
    let unreadable = || "holds no RSA key that can be read".to_owned();
    let jwk = Jwk::from_decoding_key(key, None).map_err(|_| unreadable())?;
    let AlgorithmParameters::RSA(parts) = jwk.algorithm else { return Err(unreadable()) };
    let number = |text: &str| {
        let bytes = super::base64url(text).ok_or_else(unreadable)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, String>(bytes[zeros..].to_vec())
    };
    let (modulus, exponent) = (number(&parts.n)?, number(&parts.e)?);
    let bits =
        modulus.first().map_or(0, |first| 8 * modulus.len() - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!("an RSA key must have {least} to {most} bits, this one has {bits}"));
    }
    let exponent = exponent
        .iter()
        .try_fold(0u64, |sum, byte| sum.checked_mul(256).map(|sum| sum | u64::from(*byte)));
    if !exponent.is_some_and(|e| RSA_EXPONENTS.contains(&e) && e % 2 == 1) {
        return Err("an RSA key's exponent must be odd and 3 to 2^33".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
