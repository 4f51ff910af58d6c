//! Key pairs for tests, made there: tokens signed with them, and their public halves as an
//! operator would have them, PEM and JWK. Nobody else may ever trust them.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use jsonwebtoken::{Algorithm, EncodingKey};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::{EncodePublicKey, LineEnding};
use rsa::RsaPrivateKey;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};

/// What is in front of an Ed25519 key in its DER form (RFC 8410 section 4).
const ED25519_HEAD: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key pair.
pub enum Pair {
    Rs256(&'static RsaPrivateKey),
    Es256(p256::SecretKey),
    EdDsa(SigningKey),
}

impl Pair {
    /// The RSA pair of this process: making one takes a while.
    pub fn rs256() -> Pair {
        static PAIR: OnceLock<RsaPrivateKey> = OnceLock::new();
        Pair::Rs256(PAIR.get_or_init(|| rsa_of(2048)))
    }

    /// The P-256 pair of this number.
    pub fn es256(number: u8) -> Pair {
        Pair::Es256(p256::SecretKey::from_slice(&[number; 32]).expect("below the order"))
    }

    /// The Ed25519 pair of this number.
    pub fn eddsa(number: u8) -> Pair {
        Pair::EdDsa(SigningKey::from_bytes(&[number; 32]))
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Pair::Rs256(_) => Algorithm::RS256,
            Pair::Es256(_) => Algorithm::ES256,
            Pair::EdDsa(_) => Algorithm::EdDSA,
        }
    }

    /// The public half, as `openssl pkey -pubout` prints it.
    pub fn pem(&self) -> String {
        match self {
            Pair::Rs256(key) => key.to_public_key().to_public_key_pem(LineEnding::LF),
            Pair::Es256(key) => key.public_key().to_public_key_pem(LineEnding::LF),
            Pair::EdDsa(key) => {
                let der = [&ED25519_HEAD[..], key.verifying_key().as_bytes()].concat();
                let text = STANDARD.encode(der);
                return format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
            }
        }
        .expect("a public key has a PEM form")
    }

    /// The private half in PEM form; not for Ed25519.
    pub fn private_pem(&self) -> String {
        let pem = match self {
            Pair::Rs256(key) => key.to_pkcs8_pem(LineEnding::LF),
            Pair::Es256(key) => key.to_pkcs8_pem(LineEnding::LF),
            Pair::EdDsa(_) => panic!("not needed"),
        };
        pem.expect("a private key has a PEM form").to_string()
    }

    /// The public half as a member of a JWK set.
    pub fn jwk(&self, kid: Option<&str>) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Pair::Rs256(key) => json!({
                "kty": "RSA", "n": text(&key.n().to_bytes_be()), "e": text(&key.e().to_bytes_be()),
            }),
            Pair::Es256(key) => {
                let point = key.public_key().to_encoded_point(false);
                let (x, y) = point.as_bytes()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y)})
            }
            Pair::EdDsa(key) => json!({
                "kty": "OKP", "crv": "Ed25519", "x": text(key.verifying_key().as_bytes()),
            }),
        };
        if let Some(kid) = kid {
            jwk["kid"] = json!(kid);
        }
        jwk
    }

    /// A token with these claims and the header that its algorithm has.
    pub fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"alg": format!("{:?}", self.algorithm()), "typ": "JWT"});
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        self.sign(&header, claims)
    }

    /// A token with exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let key = match self {
            Pair::Rs256(key) => {
                EncodingKey::from_rsa_der(key.to_pkcs1_der().expect("a DER form").as_bytes())
            }
            Pair::Es256(key) => {
                EncodingKey::from_ec_der(key.to_pkcs8_der().expect("a DER form").as_bytes())
            }
            Pair::EdDsa(key) => {
                EncodingKey::from_ed_der(key.to_pkcs8_der().expect("a DER form").as_bytes())
            }
        };
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, self.algorithm());
        format!("{message}.{}", signature.expect("the key is of this algorithm"))
    }
}

/// An RSA key of this size.
pub fn rsa_of(bits: usize) -> RsaPrivateKey {
    RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).expect("a key of a usual size")
}
