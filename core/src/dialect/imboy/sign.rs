//! The signature with which an app proves to be one of the operator's (protocols/imboy.md,
//! *Connect*): base64 of an HMAC over `did`, `|` and the major version, with that version's key.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};

/// Keys by major version; with none, nothing is checked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SignKeys(BTreeMap<String, String>);

impl fmt::Debug for SignKeys {
    /// The keys are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl SignKeys {
    /// Keys by major version, in decimal.
    pub fn new(keys: BTreeMap<String, String>) -> SignKeys {
        SignKeys(keys)
    }

    /// Whether the app may connect. `method` is the hash's name, SHA-512 when it is empty.
    pub fn accept(&self, did: &str, version: &str, method: &str, sign: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let major = version.split('.').next().unwrap_or_default();
        let (Some(key), Ok(sign)) = (self.0.get(major), STANDARD.decode(sign)) else {
            return false;
        };
        let parts = [did, "|", major];
        match method {
            "" | "sha512" => verify::<Hmac<Sha512>>(key, parts, &sign),
            "sha256" => verify::<Hmac<Sha256>>(key, parts, &sign),
            _ => false,
        }
    }
}

/// In constant time.
fn verify<M: Mac + KeyInit>(key: &str, parts: [&str; 3], sign: &[u8]) -> bool {
    let mut mac = <M as KeyInit>::new_from_slice(key.as_bytes()).expect("any length is a key");
    parts.iter().for_each(|part| mac.update(part.as_bytes()));
    mac.verify_slice(sign).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf 'phone-1|0' | openssl dgst -sha512 -hmac 'key of 0' -binary | base64 -w0
    const SHA512: &str =
        "NgswzdlOAkebe+sC+BKZPNkoEPgyEw3E9Qny2RNnsJ2bT92Vjykh5hyqwV65QF9STkJDomxWRCpGVLrMggvGtw==";
    const SHA256: &str = "lbfC0ug5XpeJb5AQRUBH4PVb7RHicgmCChx+4c9+8bc=";

    #[test]
    fn only_the_signature_of_this_device_version_and_key_is_accepted() {
        let keys = [("0", "key of 0"), ("1", "key of 1")];
        let keys = keys.map(|(major, key)| (major.to_owned(), key.to_owned()));
        let keys = SignKeys::new(keys.into());
        assert!(keys.accept("phone-1", "0.3.3", "", SHA512));
        assert!(keys.accept("phone-1", "0.9", "sha512", SHA512));
        assert!(keys.accept("phone-1", "0", "sha256", SHA256));
        for (did, version, method, sign) in [
            ("phone-2", "0.3.3", "", SHA512),
            ("phone-1", "1.0.0", "", SHA512),
            ("phone-1", "2.0.0", "", SHA512),
            ("phone-1", "", "", SHA512),
            ("phone-1", "0.3.3", "sha256", SHA512),
            ("phone-1", "0.3.3", "", SHA256),
            ("phone-1", "0.3.3", "md5", SHA512),
            ("phone-1", "0.3.3", "", &SHA512[1..]),
            ("phone-1", "0.3.3", "", ""),
        ] {
            assert!(!keys.accept(did, version, method, sign), "{did} {version} {method} {sign}");
        }
        assert!(SignKeys::default().accept("phone-1", "", "", ""), "nothing is configured");
    }
}
